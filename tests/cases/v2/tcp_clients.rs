//! Stock clients, unmodified and without a flag, over TLS with a password: who may push and pull
//! does, byte by byte, and who may not is told so.

use std::path::Path;

use tests::engine::{Engine, pushed};
use tests::peers::need;
use tests::tls::Certificate;
use tests::v2::{Door, get, loopback};
use tests::{Run, run};

use super::clients::Bench;
use super::tcp::{ADA, BOB, Front, certificate, front};

/// Ada may do everything in `ci`, bob and everybody else only read there.
const RULES: &str = "[[policy]]\nregistry_user = \"ada\"\nworkspaces = [\"ci\"]\n\
                     may = [\"put\", \"read\", \"retire\"]\n\
                     [[policy]]\nregistry_user = \"bob\"\nworkspaces = [\"ci\"]\nmay = [\"read\"]\n\
                     [[policy]]\nanonymous = true\nworkspaces = [\"ci\"]\nmay = [\"read\"]\n";

/// A client's command lines.
struct Client {
    name: &'static str,
    /// From a layout, whose image is `v1`, to a registry.
    push: fn(&str, &str) -> Vec<String>,
    /// From a registry to a layout.
    pull: fn(&str, &str) -> Vec<String>,
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

const CRANE: Client = Client {
    name: "crane",
    push: |layout, image| words(&["push", layout, image]),
    pull: |image, layout| words(&["pull", "--format", "oci", image, layout]),
};

const REGCTL: Client = Client {
    name: "regctl",
    push: |layout, image| words(&["image", "copy", &format!("ocidir://{layout}:v1"), image]),
    pull: |image, layout| words(&["image", "copy", image, &format!("ocidir://{layout}:v1")]),
};

const ORAS: Client = Client {
    name: "oras",
    push: |layout, image| words(&["cp", "--from-oci-layout", &format!("{layout}:v1"), image]),
    pull: |image, layout| words(&["cp", "--to-oci-layout", image, &format!("{layout}:v1")]),
};

const SKOPEO: Client = Client {
    name: "skopeo",
    push: |layout, image| {
        let (layout, image) = (format!("oci:{layout}:v1"), format!("docker://{image}"));
        words(&["--insecure-policy", "copy", &layout, &image])
    },
    pull: |image, layout| {
        let (image, layout) = (format!("docker://{image}"), format!("oci:{layout}:v1"));
        words(&["--insecure-policy", "copy", &image, &layout])
    },
};

struct Story {
    client: Client,
    program: std::path::PathBuf,
    bench: Bench,
    certificate: Certificate,
}

impl Story {
    fn begin(client: Client, anonymous: &str) -> Option<Story> {
        let program = need(&format!("{}_over_tls", client.name), client.name)?;
        let Front { daemon, certificate } = front(anonymous, RULES);
        Some(Story { client, program, bench: Bench::at(daemon), certificate })
    }

    /// Keeps a password where every client looks for it, or none.
    fn log_in(&self, user: Option<(&str, &str)>) {
        let auths = match user {
            Some(user) => {
                let said = super::tcp::basic(user);
                let auth = said.trim_start_matches("Basic ");
                serde_json::json!({ self.bench.registry.clone(): { "auth": auth } })
            }
            None => serde_json::json!({}),
        };
        let folder = self.bench.file(".docker");
        std::fs::create_dir_all(&folder).unwrap();
        let config = serde_json::json!({ "auths": auths }).to_string();
        std::fs::write(Path::new(&folder).join("config.json"), config).unwrap();
    }

    fn run(&self, words: &[String]) -> Run {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = self.bench.command(&self.program, &words);
        run(command.env("SSL_CERT_FILE", &self.certificate.certificate))
    }

    fn push(&self, tag: &str) -> Run {
        let image = format!("{}/ci/app:{tag}", self.bench.registry);
        self.run(&(self.client.push)(&self.bench.image.display().to_string(), &image))
    }

    fn pull(&self, tag: &str, layout: &str) -> Run {
        let image = format!("{}/ci/app:{tag}", self.bench.registry);
        self.run(&(self.client.pull)(&image, &self.bench.file(layout)))
    }

    /// It failed, said why, and left no tag.
    #[track_caller]
    fn is_refused(&self, said: &Run, whys: &[&str], tag: &str) {
        let told = said.told();
        assert_ne!(said.code, Some(0), "{told}");
        let lower = told.to_lowercase();
        assert!(whys.iter().any(|why| lower.contains(why)), "{told}");
        let tags = Door::of(&self.bench.daemon)[0].ask(&get("/v2/ci/app/tags/list"));
        assert!(!String::from_utf8_lossy(&tags.body).contains(&format!("\"{tag}\"")), "{tags:?}");
    }
}

const WHO: &[&str] = &["unauthorized", "401", "credential", "authentication"];
const DENIED: &[&str] = &["denied", "403", "forbidden"];

fn pushes_and_pulls_with_a_password(client: Client) {
    let Some(story) = Story::begin(client, "false") else { return };
    story.log_in(Some(ADA));
    story.push("1").ok();
    story.bench.is_stored("app:1");
    story.pull("1", "pulled").ok();
    story.bench.is_pulled("pulled");

    story.log_in(Some(BOB));
    story.pull("1", "pulled-by-bob").ok();
    story.bench.is_pulled("pulled-by-bob");
    story.is_refused(&story.push("bob"), DENIED, "bob");

    story.log_in(None);
    story.is_refused(&story.push("nobody"), WHO, "nobody");
    story.is_refused(&story.pull("1", "pulled-by-nobody"), WHO, "nobody");
    story.log_in(Some(("ada", "incorrect horse")));
    story.is_refused(&story.push("wrong"), WHO, "wrong");

    // Who believes another certificate does not so much as say its password.
    let other = certificate(story.bench.daemon.folder(), "other");
    story.log_in(Some(ADA));
    let story = Story { certificate: other, ..story };
    story.is_refused(&story.push("other"), &["certificate", "x509"], "other");
}

fn reads_without_a_password_and_writes_with_one(client: Client) {
    let Some(story) = Story::begin(client, "\"read\"") else { return };
    story.log_in(Some(ADA));
    story.push("1").ok();
    story.bench.is_stored("app:1");
    story.log_in(None);
    story.pull("1", "pulled").ok();
    story.bench.is_pulled("pulled");
    story.is_refused(&story.push("nobody"), WHO, "nobody");
}

#[test]
fn crane_pushes_and_pulls_with_a_password() {
    pushes_and_pulls_with_a_password(CRANE);
}

#[test]
fn regctl_pushes_and_pulls_with_a_password() {
    pushes_and_pulls_with_a_password(REGCTL);
}

#[test]
fn oras_pushes_and_pulls_with_a_password() {
    pushes_and_pulls_with_a_password(ORAS);
}

#[test]
fn skopeo_pushes_and_pulls_with_a_password() {
    pushes_and_pulls_with_a_password(SKOPEO);
}

#[test]
fn crane_reads_without_a_password() {
    reads_without_a_password_and_writes_with_one(CRANE);
}

#[test]
fn regctl_reads_without_a_password() {
    reads_without_a_password_and_writes_with_one(REGCTL);
}

#[test]
fn oras_reads_without_a_password() {
    reads_without_a_password_and_writes_with_one(ORAS);
}

#[test]
fn skopeo_reads_without_a_password() {
    reads_without_a_password_and_writes_with_one(SKOPEO);
}

/// docker's engine asks for no certificate at a loopback address, and takes the 401 of `/v2/` for an end
/// where it has no password, though it might read without one.
#[test]
fn docker_pushes_and_pulls_with_a_password() {
    let Some(engine) = Engine::start("docker_over_tls") else { return };
    let Front { daemon, .. } = front("\"read\"", RULES);
    let registry = loopback(&daemon).unwrap();
    let image = |tag: &str| format!("{registry}/ci/app:{tag}");
    let home = |who: &str| daemon.folder().join(who);
    let docker = |who: &str, words: &[&str]| run(&mut engine.docker(&home(who), words));
    for (name, password) in [ADA, BOB] {
        docker(name, &["login", "-u", name, "-p", password, &registry]).ok();
    }
    let wrong = docker("wrong", &["login", "-u", "ada", "-p", "incorrect horse", &registry]);
    assert_ne!(wrong.code, Some(0), "{}", wrong.told());

    docker("ada", &["build", "-q", "-t", &image("1"), &engine.context()]).ok();
    for (who, whys) in [("bob", DENIED), ("nobody", WHO), ("wrong", WHO)] {
        let refused = docker(who, &["push", &image("1")]);
        assert_ne!(refused.code, Some(0), "{}", refused.told());
        let told = refused.told().to_lowercase();
        assert!(whys.iter().any(|why| told.contains(why)), "{told}");
    }
    let tags = Door::of(&daemon)[0].ask(&get("/v2/ci/app/tags/list"));
    assert_eq!(tags.status, 404, "{tags:?}");

    let ran = docker("ada", &["push", &image("1")]).ok();
    let manifest = Door::of(&daemon)[0].ask(&get("/v2/ci/app/manifests/1"));
    assert_eq!(pushed(&ran), Some(manifest.headers["docker-content-digest"].as_str()));
    for who in ["ada", "bob"] {
        docker(who, &["rmi", &image("1")]).ok();
        docker(who, &["pull", &image("1")]).ok();
        let id = docker(who, &["image", "inspect", "--format", "{{.Id}}", &image("1")]).ok();
        assert_eq!(manifest.json()["config"]["digest"], id.text().trim());
    }
    let refused = docker("nobody", &["pull", &image("1")]);
    assert_ne!(refused.code, Some(0), "{}", refused.told());
}
