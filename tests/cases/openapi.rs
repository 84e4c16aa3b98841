//! `docs/openapi.json` says what the daemon says: held to the types of the wire, and to what a real
//! daemon answers on every route.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tests::Daemon;
use tests::layout::Layout;
use tests::raw::{Answer, Connection};
use tests::schema::Document;
use wire::api::*;
use wire::{Code, Problem};

/// A value of a type with everything that it can have, and one with nothing that it need not have.
struct Example {
    schema: &'static str,
    full: Value,
    bare: Value,
}

/// The example of a schema: the fullest and the barest; one alone always has everything.
macro_rules! example {
    ($schema:literal, $full:expr, $bare:expr $(,)?) => {
        Example { schema: $schema, full: value!($full), bare: value!($bare) }
    };
    ($schema:literal, $one:expr $(,)?) => {{
        let one = value!($one);
        Example { schema: $schema, full: one.clone(), bare: one }
    }};
}

macro_rules! value {
    ($typed:expr) => {
        serde_json::to_value($typed).expect("JSON")
    };
}

/// Every type that is an object on the wire. They are written out, so that a new field does not
/// compile until somebody has looked here.
fn examples() -> Vec<Example> {
    let text = || "text".to_owned();
    let hex = "a891ea4ba5177d0c334e850a73ed692c9be2d4cb93cddd1e0c657e987fd4cc06";
    let digest: cas::digest::Digest = format!("sha256:{hex}").parse().expect("a digest");
    let platform = json!({"architecture": "arm64", "os": "linux", "variant": "v8"});
    let few_platform = json!({"architecture": "amd64", "os": "linux"});
    let bare_root = cas::oci::Descriptor::new(text(), digest, 7);
    let root = cas::oci::Descriptor {
        media_type: text(),
        digest,
        size: 7,
        data: Some(text()),
        artifact_type: Some(text()),
        platform: serde_json::from_value(platform.clone()).expect("a platform"),
        annotations: [(text(), text())].into(),
    };
    let few_names = Problem::new(Code::Busy, text());
    let problem = Problem {
        code: Code::Corrupt,
        message: text(),
        hint: Some(text()),
        digest: Some(digest),
        files: vec![text()],
        candidates: vec![text()],
    };
    let rights = Rights { workspace: "*".to_owned(), may: vec!["admin".to_owned()] };
    let limits = DocumentLimits { manifest_size: 1, manifests_size: 2, depth: 3, entries: 4 };
    let status = Status {
        version: text(),
        store: text(),
        uid: u32::MAX,
        rights: vec![rights.clone()],
        free: u64::MAX,
        limits,
    };
    let path = OciLayoutHandle { path: text() };
    let handle = PersistenceHandle { kind: "oci_layout".to_owned(), oci_layout: path.clone() };
    let put = Put {
        handle: handle.clone(),
        digest,
        workspace: text(),
        media_type: text(),
        size: 1,
        n_blobs: 2,
        n_written: 3,
        n_healed: 4,
        existed: true,
        file_digest: Some(digest),
        absent: vec![digest],
    };
    let artifact = Artifact {
        digest,
        media_type: text(),
        artifact_type: Some(text()),
        title: Some(text()),
        size: 1,
        n_blobs: 2,
        names: vec![text()],
        sealed_at: 3,
        verified_at: Some(4),
    };
    let bare_artifact =
        Artifact { artifact_type: None, title: None, verified_at: None, ..artifact.clone() };
    let member = Member {
        descriptor: root.clone(),
        children: vec![root.clone()],
        subject: Some(digest),
        absent: true,
    };
    let bare_member = Member { children: vec![], subject: None, absent: false, ..member.clone() };
    let checked = Checked {
        digest,
        path: Some(text()),
        handle: handle.clone(),
        size: 1,
        n_blobs: 2,
        n_healed: 3,
        absent: vec![digest],
    };
    let holder = Holder { workspace: text(), artifact: digest, names: vec![text()] };
    let listed = ListedIn { repository: text(), leased_until: Some(1) };
    let finding =
        Finding { what: text(), level: "problem".to_owned(), text: text(), hint: Some(text()) };
    let seal = Seal { root: root.clone(), names: vec![text()] };
    let members = vec![member.clone(), bare_member.clone()];
    let gc = Gc {
        dry_run: true,
        n_blobs: 1,
        bytes: 2,
        n_retired: 3,
        n_leases_ended: 4,
        n_leases: 5,
        lease_bytes: 6,
    };
    vec![
        example!("Platform", &platform, &few_platform),
        example!("Descriptor", &root, &bare_root),
        example!("Problem", &problem, &few_names),
        example!("ErrorBody", &ErrorBody { error: problem.clone() }),
        example!("Health", &Health { status: "draining".to_owned(), version: text() }),
        example!("Status", &status),
        example!("DocumentLimits", &limits),
        example!("Rights", &rights),
        example!("DraftOpened", &DraftOpened { draft: text() }),
        example!("Taken", &Taken { digest, size: 1 }),
        example!("DraftProgress", &DraftProgress { bytes: 1 }),
        example!("Seal", &seal, &Seal { names: vec![], ..seal.clone() }),
        example!("OciLayoutHandle", &path),
        example!("PersistenceHandle", &handle),
        example!("Put", &put, &Put { file_digest: None, absent: vec![], ..put.clone() }),
        example!("Resolved", &Resolved { digest, workspace: text() }),
        example!("Artifact", &artifact, &bare_artifact),
        example!(
            "Artifacts",
            &Artifacts { artifacts: vec![artifact.clone()], next: Some(digest) },
            &Artifacts { artifacts: vec![bare_artifact], next: None },
        ),
        example!("Closure", &Closure { artifact, root, members }),
        example!("Member", &member, &bare_member),
        example!("Checked", &checked, &Checked { path: None, absent: vec![], ..checked.clone() }),
        example!("Retired", &Retired { digest, names: vec![text()], released: 1 }),
        example!("Gc", &gc),
        example!(
            "Holders",
            &Holders { digest, holders: vec![holder.clone()], repositories: vec![listed.clone()] },
        ),
        example!("Holder", &holder),
        example!("ListedIn", &listed, &ListedIn { leased_until: None, ..listed.clone() }),
        example!("Doctor", &Doctor { findings: vec![finding.clone()] }),
        example!("Finding", &finding, &Finding { hint: None, ..finding.clone() }),
    ]
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn texts(value: &Value) -> BTreeSet<&str> {
    value.as_array().expect("a list").iter().filter_map(Value::as_str).collect()
}

#[test]
fn every_type_of_the_wire_is_what_its_schema_says() {
    let document = Document::open();
    let examples = examples();
    for Example { schema: name, full, bare } in &examples {
        let schema = document.schema(name);
        for value in [full, bare] {
            assert_eq!(document.check(schema, value, name), Ok(()), "{value}");
        }
        assert_eq!(keys(&schema["properties"]), keys(full), "properties of {name}");
        assert_eq!(texts(&schema["required"]), keys(bare), "what {name} requires");
        // Nothing is let through: each member that must be there is missed, each odd one found.
        for key in keys(bare) {
            let mut less = full.clone();
            less.as_object_mut().expect("an object").remove(key);
            assert!(document.check(schema, &less, name).is_err(), "{name} without {key}");
        }
        for key in keys(full) {
            let mut odd = full.clone();
            odd[key] = Value::Null;
            assert!(document.check(schema, &odd, name).is_err(), "{name} with an odd {key}");
        }
        let mut more = full.clone();
        more["surprise"] = json!(1);
        assert!(document.check(schema, &more, name).is_err(), "{name} with more");
        // Who answers this is closed; what is also brought, or comes from outside, is open.
        let is_open = matches!(*name, "Platform" | "Descriptor" | "Seal");
        assert_eq!(schema["additionalProperties"] == json!(false), !is_open, "{name}");
    }
    let shown: BTreeSet<&str> = examples.iter().map(|example| example.schema).collect();
    let schemas = &document.0["components"]["schemas"];
    let objects = keys(schemas).into_iter().filter(|name| schemas[name]["type"] == "object");
    assert_eq!(shown, objects.collect(), "each schema has its example");
}

#[test]
fn the_check_refuses_what_is_wrong() {
    let document = Document::open();
    let digest = format!("sha256:{:064}", 0);
    for (schema, good, bad) in [
        (json!({"type": "integer", "minimum": 0}), json!(0), json!(-1)),
        (json!({"type": "integer"}), json!(1), json!(1.5)),
        (json!({"type": "integer", "maximum": 7}), json!(7), json!(8)),
        (json!({"type": "string", "enum": ["a"]}), json!("a"), json!("b")),
        (json!({"type": "array", "maxItems": 1}), json!([1]), json!([1, 2])),
        (json!({"type": "array", "items": {"type": "string"}}), json!(["a"]), json!(["a", 1])),
        (json!({"type": "string", "maxLength": 2}), json!("ab"), json!("abc")),
        (json!({"$ref": "#/components/schemas/Digest"}), json!(digest), json!("sha256:0")),
        (json!({"$ref": "#/components/schemas/Workspace"}), json!("ci-1"), json!("-ci")),
        (json!({"$ref": "#/components/schemas/Code"}), json!("busy"), json!("bored")),
        (json!({"allOf": [{"type": "string"}, {"enum": ["a"]}]}), json!("a"), json!("b")),
        (json!({"additionalProperties": {"type": "string"}}), json!({"a": "b"}), json!({"a": 1})),
    ] {
        assert_eq!(document.check(&schema, &good, "good"), Ok(()), "{schema}");
        assert!(document.check(&schema, &bad, "bad").is_err(), "{schema}");
    }
    assert!(document.check(&json!({"oneOf": []}), &json!(1), "unknown").is_err());
}

#[test]
fn the_query_of_a_file_is_the_one_of_the_wire() {
    let document = Document::open();
    let some = || Some("text".to_owned());
    let full = FileQuery {
        title: "text".to_owned(),
        size: Some(1),
        offset: Some(2),
        media_type: some(),
        artifact_type: some(),
        digest: format!("sha256:{:064}", 0).parse().ok(),
        names: some(),
    };
    let full = serde_json::to_value(full).expect("JSON");
    let (_, said) = document.operation("POST", "/v1/workspaces/w/files").expect("a route");
    let parameters = said["parameters"].as_array().expect("parameters").iter();
    let query: BTreeMap<&str, &Value> = parameters
        .filter(|p| p["in"] == "query")
        .map(|p| (p["name"].as_str().expect("a name"), p))
        .collect();
    assert_eq!(keys(&full), query.keys().copied().collect());
    for (name, parameter) in query {
        assert_eq!(parameter["required"], json!(name == "title"), "{name}");
    }
}

#[test]
fn the_segments_of_a_path_are_its_parameters() {
    let document = Document::open();
    for (method, path, said) in document.operations() {
        let in_path: BTreeSet<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        let parameters = said["parameters"].as_array().into_iter().flatten();
        let told: BTreeSet<&str> = parameters
            .map(|p| document.follow(p))
            .filter(|p| p["in"] == "path")
            .map(|p| p["name"].as_str().expect("a name"))
            .collect();
        assert_eq!(told, in_path, "{method} {path}");
    }
}

/// Asks, and holds every answer against what the document says of it.
struct Asker {
    document: Document,
    connection: Connection,
    asked: BTreeSet<(String, String)>,
}

impl Asker {
    #[track_caller]
    fn ask(&mut self, method: &str, path: &str, body: impl AsRef<[u8]>, status: u16) -> Answer {
        let answer = self.connection.bring(method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let (form, said) = self.document.operation(method, path).expect("a route");
        let told = &said["responses"][status.to_string()];
        assert!(told.is_object(), "{method} {form}: {status} is not told of");
        match self.document.follow(told)["content"].as_object() {
            None => assert!(answer.body.is_empty(), "{method} {form}: {answer:?}"),
            Some(content) => {
                let kind = answer.headers.get("content-type").expect("a type");
                let schema =
                    &content.get(kind).unwrap_or_else(|| panic!("{form}: {kind}"))["schema"];
                if kind == "application/json" && form != "/v1/openapi.json" {
                    let checked = self.document.check(schema, &answer.json(), form);
                    assert_eq!(checked, Ok(()), "{method} {path}");
                }
            }
        }
        self.asked.insert((method.to_lowercase(), form.to_owned()));
        answer
    }

    #[track_caller]
    fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, "", 200)
    }
}

#[test]
fn a_real_daemon_answers_every_route_as_it_is_described() {
    let daemon = Daemon::start();
    let document = Document::open();
    let mut asker = Asker { document, connection: daemon.connect(), asked: BTreeSet::new() };

    assert_eq!(asker.get("/v1/openapi.json").json(), asker.document.0);
    for path in ["/v1/health", "/v1/status", "/v1/doctor", "/v1/metrics"] {
        asker.get(path);
        asker.ask("GET", &format!("{path}?odd=1"), "", 400);
    }

    // An image by way of a draft, and a file in one request.
    let draft = |asker: &mut Asker| {
        let answer = asker.ask("POST", "/v1/workspaces/w/drafts", "", 201);
        answer.json()["draft"].as_str().expect("a draft").to_owned()
    };
    let mut layout = Layout::default();
    let root = layout.image("openapi");
    let id = draft(&mut asker);
    for (digest, bytes) in layout.blobs() {
        let path = format!("/v1/drafts/{id}/blobs/{digest}?size={}", bytes.len());
        asker.ask("PUT", &path, " ".repeat(bytes.len()), 422);
        asker.ask("PUT", &path, bytes, 200);
    }
    asker.get(&format!("/v1/drafts/{id}"));
    let seal = json!({"root": root, "names": ["app:1"]}).to_string();
    asker.ask("POST", &format!("/v1/drafts/{id}/seal"), &seal, 201);
    asker.ask("POST", &format!("/v1/drafts/{id}/seal"), &seal, 404);
    let dropped = draft(&mut asker);
    asker.ask("DELETE", &format!("/v1/drafts/{dropped}"), "", 204);
    asker.ask("GET", &format!("/v1/drafts/{dropped}"), "", 404);
    let unmet = draft(&mut asker);
    asker.ask("POST", &format!("/v1/drafts/{unmet}/seal"), &seal, 422);
    let file = "/v1/workspaces/w/files?title=notes&names=notes:1";
    let put = asker.ask("POST", file, "some notes", 201).json();
    asker.ask("POST", "/v1/workspaces/w/files", "some notes", 400);

    // Out again, looked at and ended.
    let (digest, member) = (root["digest"].as_str().expect("a digest"), &put["file_digest"]);
    let (file, member) = (put["digest"].as_str().expect("one"), member.as_str().expect("one"));
    let w = "/v1/workspaces/w";
    asker.get(&format!("{w}/refs?ref=app:1"));
    asker.ask("GET", &format!("{w}/refs?ref=app:2"), "", 404);
    asker.get(&format!("{w}/artifacts"));
    asker.get(&format!("{w}/artifacts?limit=1"));
    asker.ask("GET", &format!("{w}/artifacts?limit=some"), "", 400);
    for artifact in [digest, file] {
        asker.get(&format!("{w}/artifacts/{artifact}"));
        asker.ask("POST", &format!("{w}/artifacts/{artifact}/check"), "", 200);
        asker.get(&format!("{w}/holders/{artifact}"));
    }
    asker.ask("GET", &format!("{w}/artifacts/sha256:odd"), "", 400);
    let blob = asker.get(&format!("{w}/artifacts/{file}/blobs/{member}"));
    assert_eq!(blob.body, b"some notes");
    asker.ask("GET", &format!("{w}/artifacts/{file}/blobs/{digest}"), "", 404);
    asker.ask("DELETE", &format!("{w}/artifacts/{digest}"), "", 200);
    asker.ask("DELETE", &format!("{w}/artifacts/{digest}"), "", 404);
    for query in ["?dry_run=true", ""] {
        asker.ask("POST", &format!("/v1/gc{query}"), "", 200);
    }

    let all = asker.document.operations();
    let all: BTreeSet<_> = all.map(|(m, path, _)| (m.to_owned(), path.to_owned())).collect();
    assert_eq!(asker.asked, all, "every route was asked");
}
