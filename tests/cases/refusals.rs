//! What is not taken: each with its code, a message that names the thing, a hint where one helps,
//! and nothing left behind. Every bad one stands beside its good twin, made by the same lines.

use std::path::Path;

use cas::digest::Digest;
use serde_json::{Value, json};
use tests::layout::{blob_file, digest, index, manifest, noise, types};
use tests::raw::{Connection, seal};
use tests::{Daemon, Layout, Run, archive, file, oci, tree};
use wire::Code;

mod archives;
mod descriptors;
mod folders;
mod room;

/// What a refusal leaves behind: nothing that was not there before.
struct Before(Vec<String>);

impl Before {
    fn of(daemon: &Daemon) -> Before {
        Before(tree::store(daemon.store()))
    }

    #[track_caller]
    fn is_all_there_is(&self, daemon: &Daemon, what: &str) {
        // The daemon may still be throwing away what a connection that broke off had begun; that
        // is a matter of moments, and not of waiting until a draft counts as abandoned.
        let moments = std::time::Duration::from_secs(10);
        tests::wait_at_most(moments, &format!("{what}: nothing is left behind"), || {
            tree::store(daemon.store()) == self.0
        });
        let unheld = daemon.bond(&["gc", "--dry-run", "--format", "json"]).ok().json();
        assert_eq!(unheld["n_blobs"], 0, "{what}: gc finds what was left behind");
    }
}

/// The bad one is refused as it must be.
#[track_caller]
fn refused(run: Run, code: Code, says: &str, hinted: bool) {
    let run = run.fails(code).says(&[says]);
    assert!(!hinted || run.err.contains("hint:"), "no hint: {}", run.told());
}

/// A layout that is made bad, or not.
struct Row {
    name: &'static str,
    code: Code,
    /// The code by which the daemon refuses it from a client that looks at nothing.
    by_wire: Option<Code>,
    hinted: bool,
    /// Makes the layout; returns what `index.json` lists and what the message must name.
    make: fn(&mut Layout, bool) -> (Value, String),
}

fn row(name: &'static str, code: Code, make: fn(&mut Layout, bool) -> (Value, String)) -> Row {
    Row { name, code, by_wire: Some(code), hinted: false, make }
}

impl Row {
    fn by_wire(self, code: Option<Code>) -> Row {
        Row { by_wire: code, ..self }
    }

    fn hinted(self) -> Row {
        Row { hinted: true, ..self }
    }
}

/// A config and a layer.
fn parts(l: &mut Layout) -> (Value, Value) {
    (l.config("refused"), l.blob(types::LAYER, noise("refused", 2_000)))
}

fn text(descriptor: &Value) -> String {
    descriptor["digest"].as_str().unwrap().to_owned()
}

/// A layout whose layer has this text for a digest.
fn with_digest(l: &mut Layout, bad: bool, text: fn(String) -> String) -> (Value, String) {
    let (config, mut layer) = parts(l);
    let mut said = layer["digest"].as_str().unwrap().to_owned();
    if bad {
        said = text(said);
        layer["digest"] = said.clone().into();
    }
    (l.manifest(&config, &[layer]), said)
}

/// A layout whose manifest was changed.
fn with_document(l: &mut Layout, bad: bool, change: fn(&mut Value)) -> (Value, String) {
    let (config, layer) = parts(l);
    let mut document = manifest(&config, &[layer]);
    if bad {
        change(&mut document);
    }
    let root = l.document(types::IMAGE_MANIFEST, &document);
    let named = text(&root);
    (root, named)
}

/// A layout whose manifest is this text.
fn with_text(l: &mut Layout, bad: bool, change: fn(String) -> String) -> (Value, String) {
    let (config, layer) = parts(l);
    let mut document = manifest(&config, &[layer]).to_string();
    if bad {
        document = change(document);
    }
    let root = l.blob(types::IMAGE_MANIFEST, document);
    let named = text(&root);
    (root, named)
}

fn rows() -> Vec<Row> {
    use Code::*;
    vec![
        row("missing layer", Missing, |l, bad| {
            let (config, layer) = parts(l);
            if bad {
                l.lose(&layer);
            }
            (l.manifest(&config, &[layer.clone()]), text(&layer))
        })
        .hinted(),
        row("missing config", Missing, |l, bad| {
            let (config, layer) = parts(l);
            if bad {
                l.lose(&config);
            }
            (l.manifest(&config, &[layer]), text(&config))
        })
        .hinted(),
        row("missing root", Missing, |l, bad| {
            let root = l.image("x");
            if bad {
                l.lose(&root);
            }
            (root.clone(), text(&root))
        })
        .hinted(),
        row("missing child manifest", Missing, |l, bad| {
            let (one, two) = (l.image("one"), l.image("two"));
            let inner = l.index(&[two.clone()]);
            if bad {
                l.lose(&two);
            }
            (l.index(&[one, inner]), text(&two))
        })
        .hinted(),
        row("layer with a flipped bit", Mismatch, |l, bad| {
            let (config, layer) = parts(l);
            if bad {
                let mut bytes = l.bytes(&layer).to_vec();
                bytes[1_000] ^= 4;
                l.spoil(&layer, bytes);
            }
            (l.manifest(&config, &[layer.clone()]), text(&layer))
        }),
        row("config with a flipped bit", Mismatch, |l, bad| {
            let (config, layer) = parts(l);
            if bad {
                let mut bytes = l.bytes(&config).to_vec();
                bytes[3] ^= 4;
                l.spoil(&config, bytes);
            }
            (l.manifest(&config, &[layer]), text(&config))
        }),
        row("manifest that was edited", Mismatch, |l, bad| {
            let root = l.image("x");
            if bad {
                let edited = String::from_utf8(l.bytes(&root).to_vec()).unwrap();
                l.spoil(&root, edited.replacen("layer", "lAyer", 1));
            }
            (root.clone(), text(&root))
        }),
        row("layer shorter than its descriptor", WrongSize, |l, bad| {
            let (config, mut layer) = parts(l);
            layer["size"] = (2_000 + u64::from(bad)).into();
            (l.manifest(&config, &[layer.clone()]), text(&layer))
        }),
        row("layer longer than its descriptor", WrongSize, |l, bad| {
            let (config, mut layer) = parts(l);
            layer["size"] = (2_000 - u64::from(bad)).into();
            (l.manifest(&config, &[layer.clone()]), text(&layer))
        }),
        row("manifest longer than its descriptor", WrongSize, |l, bad| {
            let mut image = l.image("x");
            let size = image["size"].as_u64().unwrap();
            image["size"] = (size - u64::from(bad)).into();
            (l.index(&[image.clone()]), text(&image))
        }),
        row("one layer with two sizes", WrongSize, |l, bad| {
            let (config, layer) = parts(l);
            let mut again = layer.clone();
            again["size"] = (2_000 + u64::from(bad)).into();
            (l.manifest(&config, &[layer, again.clone()]), text(&again))
        }),
        row("media type that contradicts the descriptor", MediaType, |l, bad| {
            let image = l.image("x");
            let mut entry = image.clone();
            if bad {
                entry["mediaType"] = types::DOCKER_MANIFEST.into();
            }
            (l.index(&[entry]), text(&image))
        }),
        row("image that is said to be an index", MediaType, |l, bad| {
            let (config, layer) = parts(l);
            let document = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
            let mut root = l.document(types::IMAGE_MANIFEST, &document);
            if bad {
                root["mediaType"] = types::IMAGE_INDEX.into();
            }
            (root.clone(), text(&root))
        }),
        row("index that is said to be an image", MediaType, |l, bad| {
            let image = l.image("x");
            let document = json!({ "schemaVersion": 2, "manifests": [image] });
            let mut root = l.document(types::IMAGE_INDEX, &document);
            if bad {
                root["mediaType"] = types::IMAGE_MANIFEST.into();
            }
            (root.clone(), text(&root))
        }),
        row("layer as the root", MediaType, |l, bad| {
            let image = l.image("x");
            let mut root = image.clone();
            if bad {
                root["mediaType"] = types::LAYER.into();
            }
            (root.clone(), text(&root))
        }),
        row("both manifests and layers", BothKinds, |l, bad| {
            with_document(l, bad, |document| document["manifests"] = json!([]))
        }),
        row("both manifests and config", BothKinds, |l, bad| {
            let (image, config) = (l.image("x"), l.config("y"));
            let mut document = index(&[image]);
            if bad {
                document["config"] = config;
            }
            let root = l.document(types::IMAGE_INDEX, &document);
            let named = text(&root);
            (root, named)
        }),
        row("manifest of Docker's schema 1", BothKinds, |l, bad| {
            with_document(l, bad, |document| document["fsLayers"] = json!([]))
        }),
        row("upper-case digest", DigestInvalid, |l, bad| {
            with_digest(l, bad, |text| text.to_uppercase().replace("SHA256", "sha256"))
        }),
        row("short digest", DigestInvalid, |l, bad| {
            with_digest(l, bad, |text| text[..text.len() - 1].to_owned())
        }),
        row("long digest", DigestInvalid, |l, bad| with_digest(l, bad, |text| text + "0")),
        row("digest that leads out of the store", DigestInvalid, |l, bad| {
            with_digest(l, bad, |_| "sha256:../../../../etc/passwd".to_owned())
        }),
        row("digest of the length of a path", DigestInvalid, |l, bad| {
            with_digest(l, bad, |text| format!("sha256:../../../{}", &text[16..]))
        }),
        row("digest without algorithm", DigestInvalid, |l, bad| {
            with_digest(l, bad, |text| text["sha256:".len()..].to_owned())
        }),
        row("algorithm that nobody knows", DigestUnsupported, |l, bad| {
            with_digest(l, bad, |text| text.replace("sha256", "sha257"))
        }),
        row("algorithm that is broken", DigestUnsupported, |l, bad| {
            with_digest(l, bad, |_| "md5:d41d8cd98f00b204e9800998ecf8427e".to_owned())
        }),
        row("subject with a bad digest", DigestInvalid, |l, bad| {
            let (config, layer) = parts(l);
            let mut subject = layer.clone();
            if bad {
                subject["digest"] = "sha256:../x".into();
            }
            let mut document = manifest(&config, &[layer]);
            document["subject"] = subject.clone();
            (l.document(types::IMAGE_MANIFEST, &document), text(&subject))
        }),
        row("inline data of other bytes", Mismatch, |l, bad| {
            let (config, _) = parts(l);
            let mut layer = l.blob("text/plain", "abc");
            layer["data"] = if bad { "YWJk" } else { "YWJj" }.into();
            (l.manifest(&config, &[layer.clone()]), text(&layer))
        }),
        row("inline data that is no base64", ManifestInvalid, |l, bad| {
            let (config, _) = parts(l);
            let mut layer = l.blob("text/plain", "abc");
            layer["data"] = if bad { "YW Jj" } else { "YWJj" }.into();
            let root = l.manifest(&config, &[layer]);
            let named = text(&root);
            (root, named)
        }),
        row("manifest over the limit", ManifestTooLarge, |l, bad| {
            let (config, layer) = parts(l);
            let mut document = manifest(&config, &[layer]).to_string();
            let room = (4 << 20) - document.len() + usize::from(bad);
            document.push_str(&" ".repeat(room));
            let root = l.blob(types::IMAGE_MANIFEST, document);
            let named = text(&root);
            (root, named)
        }),
        row("manifest inside over the limit", ManifestTooLarge, |l, bad| {
            let (config, layer) = parts(l);
            let mut document = manifest(&config, &[layer]).to_string();
            let room = (4 << 20) - document.len() + usize::from(bad);
            document.push_str(&" ".repeat(room));
            let image = l.blob(types::IMAGE_MANIFEST, document);
            (l.index(&[image.clone()]), text(&image))
        }),
        row("too deep", TooDeep, |l, bad| {
            let image = l.image("deep");
            let mut root = image.clone();
            // The image and the indexes above it, together.
            for _ in 1..8 + usize::from(bad) {
                root = l.index(&[root]);
            }
            (root, if bad { text(&image) } else { String::new() })
        }),
        row("too deep where it is met again", TooDeep, |l, bad| {
            let image = l.image("deep");
            let mut chain = image.clone();
            for _ in 1..7 + usize::from(bad) {
                chain = l.index(&[chain]);
            }
            let named = if bad { text(&image) } else { String::new() };
            (l.index(&[image, chain]), named)
        }),
        row("cycle of one", Cycle, |l, bad| {
            let image = l.image("x");
            let root = l.index(&[image.clone()]);
            if bad {
                let itself = index(&[root.clone()]).to_string();
                let mut claimed = root.clone();
                claimed["size"] = itself.len().into();
                // Its own size stands in it: the same number of digits before and after.
                let itself = index(&[claimed.clone()]).to_string();
                l.spoil(&root, itself);
                return (claimed, text(&root));
            }
            (root.clone(), text(&root))
        })
        .by_wire(Some(Mismatch)),
        row("cycle of two", Cycle, |l, bad| {
            let image = l.image("x");
            let inner = l.index(&[image]);
            let outer = l.index(&[inner.clone()]);
            if bad {
                // As long as what it takes the place of.
                let mut back = outer.clone();
                back["size"] = outer["size"].clone();
                let document = index(&[back]).to_string();
                let mut inner = inner.clone();
                inner["size"] = document.len().into();
                l.spoil(&inner, document);
                let document = index(&[inner]).to_string();
                let mut outer = outer.clone();
                assert_eq!(outer["size"], document.len());
                l.spoil(&outer, document);
                outer["size"] = outer["size"].clone();
                return (outer.clone(), text(&outer));
            }
            (outer.clone(), text(&outer))
        })
        .by_wire(Some(Mismatch)),
        row("too many entries", TooManyEntries, |l, bad| {
            let config = l.config("many");
            let layer = l.blob("text/plain", "x");
            let images: Vec<Value> = (0..5)
                .map(|number| {
                    // Five times a child, a config and the layers: 100 000, or one more.
                    let n_layers = 19_998 + usize::from(bad && number == 0);
                    let mut document = manifest(&config, &vec![layer.clone(); n_layers]);
                    document["annotations"] = json!({ "number": number.to_string() });
                    l.document(types::IMAGE_MANIFEST, &document)
                })
                .collect();
            let root = l.index(&images);
            (root.clone(), text(&root))
        }),
        row("bytes after the end of the document", TrailingBytes, |l, bad| {
            with_text(l, bad, |document| document + "\n{}")
        }),
        row("text that is no JSON", ManifestInvalid, |l, bad| {
            with_text(l, bad, |document| document[..document.len() - 1].to_owned())
        }),
        row("no bytes at all", ManifestInvalid, |l, bad| with_text(l, bad, |_| String::new())),
        row("a list in place of an object", ManifestInvalid, |l, bad| {
            with_text(l, bad, |document| format!("[{document}]"))
        }),
        row("another schema version", ManifestInvalid, |l, bad| {
            with_document(l, bad, |document| document["schemaVersion"] = 1.into())
        }),
        row("neither manifests nor config", ManifestInvalid, |l, bad| {
            with_document(l, bad, |document| {
                document.as_object_mut().unwrap().remove("config");
            })
        }),
        row("a key that only differs by its case", ManifestInvalid, |l, bad| {
            with_document(l, bad, |document| document["Layers"] = json!([]))
        }),
        row("a key that Go's JSON folds to another", ManifestInvalid, |l, bad| {
            with_document(l, bad, |document| document["layer\u{17f}"] = json!([]))
        }),
        row("a key of a descriptor that Go's JSON folds to another", ManifestInvalid, |l, bad| {
            with_document(l, bad, |document| document["config"]["\u{17f}ize"] = json!(1))
        }),
        row("a text that is not UTF-8 where nobody looks", ManifestInvalid, |l, bad| {
            let (config, layer) = parts(l);
            let mut document = manifest(&config, &[layer]);
            document["unknown"] = json!("a");
            let mut bytes = document.to_string().into_bytes();
            if bad {
                let at = bytes.windows(3).rposition(|three| three == b"\"a\"").unwrap() + 1;
                bytes[at] = 0xf3;
            }
            let root = l.blob(types::IMAGE_MANIFEST, bytes);
            (root.clone(), text(&root))
        }),
        row("the same key twice", ManifestInvalid, |l, bad| {
            with_text(l, bad, |document| document.replacen('{', "{\"layers\":[],", 1))
        }),
        row("a size below nothing", ManifestInvalid, |l, bad| {
            with_text(l, bad, |document| document.replace(":2000}", ":-2000}"))
        }),
        row("a size beyond all sizes", ManifestInvalid, |l, bad| {
            with_text(l, bad, |document| document.replace(":2000}", ":20000000000000000000}"))
        }),
        row("a Docker image that does not say so", ManifestInvalid, |l, bad| {
            let (config, layer) = parts(l);
            let mut document = manifest(&config, &[layer]);
            document["mediaType"] = types::DOCKER_MANIFEST.into();
            if bad {
                document.as_object_mut().unwrap().remove("mediaType");
            }
            let root = l.document(types::DOCKER_MANIFEST, &document);
            let named = text(&root);
            (root, named)
        }),
    ]
}

/// Sends everything in the layout under its own name, whatever it is, and then wants it sealed.
fn put_by_wire(connection: &mut Connection, workspace: &str, l: &Layout, root: &Value) -> String {
    let draft = connection.draft(workspace);
    for (digest, bytes) in l.blobs() {
        let path = format!("/v1/drafts/{draft}/blobs/{digest}?size={}", bytes.len());
        let answer = connection.bring("PUT", &path, bytes);
        if answer.status != 200 {
            assert_eq!(connection.ask("DELETE", &format!("/v1/drafts/{draft}")).status, 204);
            return answer.code();
        }
    }
    let answer = connection.bring("POST", &format!("/v1/drafts/{draft}/seal"), seal(root));
    match answer.status {
        201 => String::new(),
        _ => answer.code(),
    }
}

#[test]
fn documents_and_blobs_that_are_not_what_they_are_said_to_be() {
    let daemon = Daemon::start();
    daemon.bond_fed(&["put", "-", "--title", "warm"], std::process::Stdio::null()).ok();
    let mut n_refused = 0;
    for (number, row) in rows().iter().enumerate() {
        // Three ways in: a folder, an archive, and requests by a client that looks at nothing.
        let workspace = format!("row-{number}");
        for bad in [true, false] {
            let mut layout = Layout::default();
            let (root, named) = (row.make)(&mut layout, bad);
            layout.list(&root);
            let folder = daemon.folder().join(format!("{number}-{bad}"));
            layout.write(&folder);
            let tar = daemon.folder().join(format!("{number}-{bad}.tar"));
            std::fs::write(&tar, layout.tar().end()).unwrap();

            let before = Before::of(&daemon);
            for source in [oci(&folder), archive(&tar)] {
                let put = daemon.bond(&["--workspace", &workspace, "put", &source]);
                if bad {
                    refused(put, row.code, &named, row.hinted);
                    before.is_all_there_is(&daemon, row.name);
                    n_refused += 1;
                } else {
                    assert_eq!(put.ok().digest(), digest(&root), "{}", row.name);
                }
            }
            if let Some(code) = row.by_wire {
                let entry = json!({
                    "mediaType": root["mediaType"], "digest": root["digest"], "size": root["size"],
                });
                let told = put_by_wire(&mut daemon.connect(), &workspace, &layout, &entry);
                if bad {
                    assert_eq!(told, code.name(), "{}, by wire", row.name);
                    before.is_all_there_is(&daemon, row.name);
                    n_refused += 1;
                } else {
                    assert_eq!(told, "", "{}, by wire: the good one is refused", row.name);
                }
            }
            let _ = std::fs::remove_dir_all(&folder);
            let _ = std::fs::remove_file(&tar);
        }
    }
    tests::say(&format!("measured: {n_refused} bad artifacts were refused, their twins were not"));
    daemon.bond(&["verify", "--all"]).ok();
}

#[test]
fn limits_are_those_of_the_daemon() {
    let config = "[limits]\nmanifest_size = \"2 KiB\"\ndepth = 2\nentries = 4\n";
    let daemon = Daemon::with(config);
    type Make = fn(&mut Layout, bool) -> Value;
    let rows: [(Code, Make); 3] = [
        (Code::ManifestTooLarge, |l, bad| {
            let (config, layer) = parts(l);
            let mut document = manifest(&config, &[layer]).to_string();
            document.push_str(&" ".repeat((2 << 10) - document.len() + usize::from(bad)));
            l.blob(types::IMAGE_MANIFEST, document)
        }),
        (Code::TooDeep, |l, bad| {
            let (config, layer) = parts(l);
            let image = l.manifest(&config, &[layer]);
            let one = l.index(&[image]);
            if bad { l.index(&[one]) } else { one }
        }),
        (Code::TooManyEntries, |l, bad| {
            let (config, layer) = parts(l);
            l.manifest(&config, &vec![layer; 3 + usize::from(bad)])
        }),
    ];
    for (code, make) in rows {
        for bad in [true, false] {
            let mut layout = Layout::default();
            let root = make(&mut layout, bad);
            layout.list(&root);
            let folder = daemon.folder().join(format!("{code:?}-{bad}"));
            layout.write(&folder);
            let before = Before::of(&daemon);
            let put = daemon.bond(&["put", &oci(&folder)]);
            if bad {
                refused(put, code, "limit", true);
                before.is_all_there_is(&daemon, code.name());
            } else {
                assert_eq!(put.ok().digest(), digest(&root));
            }
        }
    }
}

#[test]
fn names_and_words_that_make_no_sense() {
    let daemon = Daemon::start();
    let path = daemon.folder().join("tool");
    std::fs::write(&path, "a tool").unwrap();
    let source = file(&path);
    let long = "x".repeat(129);
    let before = Before::of(&daemon);
    use Code::{DigestInvalid, LocalIo, NameInvalid, NotRegular, Usage};
    let missing = file(&daemon.folder().join("missing"));
    let folder = file(daemon.folder());
    let at_digest = format!("{}@sha256:xyz", oci(daemon.folder()));
    let rows: [(&[&str], Code); 22] = [
        (&["--workspace", "Upper", "put", &source], NameInvalid),
        (&["--workspace", "a/b", "put", &source], NameInvalid),
        (&["--workspace", "..", "put", &source], NameInvalid),
        (&["--workspace", &long, "put", &source], NameInvalid),
        (&["--workspace", "..", "ls"], NameInvalid),
        (&["put", &source, "--name", "no-tag"], NameInvalid),
        (&["put", &source, "--name", "../x:1"], NameInvalid),
        (&["put", &source, "--name", "a:../b"], NameInvalid),
        (&["put", &source, "--name", "Upper:1"], NameInvalid),
        (&["put", &missing], LocalIo),
        (&["put", &folder], NotRegular),
        (&["put", &at_digest], DigestInvalid),
        (&["put", "docker://example.org/app:1"], Usage),
        (&["put", "nothing-of-a-kind"], LocalIo),
        (&["put"], Usage),
        (&["put", ""], Usage),
        (&["put", "oci:"], Usage),
        (&["get", "x"], Usage),
        (&["put", &source, "--no-such-flag"], Usage),
        (&["no-such-verb"], Usage),
        (&["put", &source, "--title", "a/b"], NameInvalid),
        (&["put", &source, "--title", ""], NameInvalid),
    ];
    for (words, code) in rows {
        daemon.bond(words).fails(code);
    }
    before.is_all_there_is(&daemon, "words");
    daemon.bond(&["--workspace", "a.b_c-d", "put", &source, "--name", "a/b:1.0_x-Y"]).ok();
}

#[test]
fn a_file_that_is_changed_while_it_is_read() {
    let daemon = Daemon::start();
    daemon.bond_fed(&["put", "-", "--title", "warm"], std::process::Stdio::null()).ok();
    let path = daemon.folder().join("large");
    const N: u64 = 300 << 20;
    type Change = fn(&std::fs::File, u64);
    let changes: [(&str, Change); 3] = [
        ("written to", |file, n| {
            std::os::unix::fs::FileExt::write_all_at(file, &n.to_le_bytes(), n % N).unwrap();
        }),
        ("shrunk", |file, n| file.set_len(N - 4096 * n).unwrap()),
        ("grown", |file, n| file.set_len(N + 4096 * n).unwrap()),
    ];
    for (name, change) in changes {
        let large = std::fs::File::create(&path).unwrap();
        large.set_len(N).unwrap();
        let before = Before::of(&daemon);
        let done = std::sync::atomic::AtomicBool::new(false);
        let put = std::thread::scope(|scope| {
            scope.spawn(|| {
                for n in 1.. {
                    std::thread::sleep(std::time::Duration::from_millis(2));
                    change(&large, n);
                    if done.load(std::sync::atomic::Ordering::Relaxed) {
                        break;
                    }
                }
            });
            let put = daemon.bond(&["put", &file(&path)]);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            put
        });
        refused(put, Code::SourceChanged, "changed", true);
        before.is_all_there_is(&daemon, name);
    }
    let large = std::fs::File::create(&path).unwrap();
    large.set_len(N).unwrap();
    let put = daemon.bond(&["put", &file(&path)]).ok();
    daemon.bond(&["retire", &put.digest().to_string()]).ok();
}

/// Where a layout's blob is, in its folder.
fn place(folder: &Path, blob: &Digest) -> std::path::PathBuf {
    folder.join(blob_file(blob))
}
