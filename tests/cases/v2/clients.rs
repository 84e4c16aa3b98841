//! Stock clients, unmodified, over the loopback listener: what they push is what the store has, and
//! what they pull is what was pushed, byte by byte.

use std::path::{Path, PathBuf};
use std::process::Command;

use cas::digest::Digest;
use tests::archive::Tar;
use tests::layout::{noise, types};
use tests::peers::need;
use tests::v2::{Door, daemon, loopback};
use tests::{Daemon, Layout, oci, run, scratch};

/// A client at work: a daemon, a folder of its own, an image to push.
pub(super) struct Bench {
    pub(super) daemon: Daemon,
    folder: tempfile::TempDir,
    pub(super) registry: String,
    pub(super) image: PathBuf,
    pub(super) digest: Digest,
}

impl Bench {
    fn new() -> Bench {
        Bench::at(daemon(""))
    }

    /// A client of this daemon's TCP listener.
    pub(super) fn at(daemon: Daemon) -> Bench {
        let folder = scratch();
        let mut layout = Layout::default();
        let mut tar = Tar::default();
        tar.folder("etc/").file("etc/os-release", b"ID=debian\nVERSION_ID=\"12\"\n");
        tar.folder("usr/").file("usr/noise", &noise("a layer", 200_000));
        let unpacked = folder.path().join("layer.tar");
        std::fs::write(&unpacked, tar.end()).unwrap();
        let packed = run(Command::new("gzip").args(["-n", "-c"]).arg(&unpacked)).ok().out;
        let layer = layout.blob(&format!("{}+gzip", types::LAYER), packed);
        let config = serde_json::json!({
            "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/bin/true"] },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&tar.end()).to_string()] },
            "history": [{ "created_by": "the harness" }],
        });
        let config = layout.document(types::CONFIG, &config);
        let root = layout.manifest(&config, &[layer]);
        layout.list_as(&root, "v1");
        let image = folder.path().join("image");
        layout.write(&image);
        let policy = serde_json::json!({ "default": [{ "type": "insecureAcceptAnything" }] });
        std::fs::write(folder.path().join("policy.json"), policy.to_string()).unwrap();
        let registry = loopback(&daemon).expect("a loopback listener");
        Bench { daemon, folder, registry, image, digest: tests::layout::digest(&root) }
    }

    /// Runs a client with a home of its own.
    #[track_caller]
    fn run(&self, program: &Path, words: &[&str]) -> tests::Run {
        run(&mut self.command(program, words)).ok()
    }

    /// A client with a home of its own, not started yet.
    pub(super) fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.folder.path()).env("HOME", self.folder.path());
        for name in ["XDG_RUNTIME_DIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"] {
            command.env_remove(name);
        }
        command
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// What a client pushed is the artifact that the store has, and verifies.
    #[track_caller]
    pub(super) fn is_stored(&self, name: &str) {
        let bond = |words: &[&str]| {
            let all: Vec<&str> = ["--workspace", "ci"].iter().chain(words).copied().collect();
            self.daemon.bond(&all).ok()
        };
        bond(&["verify", name]);
        bond(&["get", name, &oci(&self.folder.path().join("got"))]);
        self.is_pulled("got");
    }

    /// A layout that a client pulled has the image, every byte of it.
    #[track_caller]
    pub(super) fn is_pulled(&self, layout: &str) {
        let put = ["--workspace", "pulled", "put", &format!("oci:{}", self.file(layout))];
        assert_eq!(self.daemon.bond(&put).ok().digest(), self.digest);
    }
}

#[test]
fn crane_pushes_and_pulls() {
    let Some(crane) = need("crane_pushes_and_pulls", "crane") else { return };
    let bench = Bench::new();
    let image = format!("{}/ci/team/app:crane", bench.registry);
    let said = bench.run(&crane, &["push", &bench.image.display().to_string(), &image]);
    assert!(said.text().contains(&bench.digest.to_string()), "{}", said.told());
    bench.is_stored("team/app:crane");
    assert_eq!(bench.run(&crane, &["digest", &image]).digest(), bench.digest);
    bench.run(&crane, &["pull", "--format", "oci", &image, &bench.file("pulled")]);
    bench.is_pulled("pulled");
    bench.run(&crane, &["validate", "--remote", &image]);
    bench.run(&crane, &["copy", &image, &format!("{}/ci/other:copied", bench.registry)]);
    bench.run(&crane, &["tag", &image, "again"]);
    let repository = format!("{}/ci/team/app", bench.registry);
    assert_eq!(bench.run(&crane, &["ls", &repository]).lines(), ["again", "crane"]);
    bench.run(&crane, &["delete", &format!("{repository}:again")]);
    assert_eq!(bench.run(&crane, &["ls", &repository]).lines(), ["crane"]);
}

#[test]
fn regctl_pushes_and_pulls() {
    let Some(regctl) = need("regctl_pushes_and_pulls", "regctl") else { return };
    let bench = Bench::new();
    let host = format!("reg={},tls=disabled", bench.registry);
    let image = format!("{}/ci/app:regctl", bench.registry);
    let layout = format!("ocidir://{}:v1", bench.image.display());
    let run = |words: &[&str]| {
        let words: Vec<&str> = ["--host", &host].iter().chain(words).copied().collect();
        bench.run(&regctl, &words)
    };
    run(&["image", "copy", &layout, &image]);
    bench.is_stored("app:regctl");
    assert_eq!(run(&["image", "digest", &image]).digest(), bench.digest);
    run(&["image", "copy", &image, &format!("ocidir://{}:v1", bench.file("pulled"))]);
    bench.is_pulled("pulled");
    assert_eq!(run(&["tag", "ls", &format!("{}/ci/app", bench.registry)]).lines(), ["regctl"]);
    // An artifact that refers to the image, found again.
    std::fs::write(bench.folder.path().join("note.txt"), "looks good").unwrap();
    let note = bench.file("note.txt");
    run(&[
        "artifact",
        "put",
        "--artifact-type",
        "application/vnd.example.note",
        "--subject",
        &image,
        "--file",
        &note,
    ]);
    let listed = run(&["artifact", "list", &image]);
    assert!(listed.text().contains("application/vnd.example.note"), "{}", listed.told());
}

#[test]
fn oras_pushes_and_pulls() {
    let Some(oras) = need("oras_pushes_and_pulls", "oras") else { return };
    let bench = Bench::new();
    let image = format!("{}/ci/app:oras", bench.registry);
    let layout = format!("{}:v1", bench.image.display());
    let copy = ["cp", "--from-oci-layout", "--to-plain-http", &layout, &image];
    bench.run(&oras, &copy);
    bench.is_stored("app:oras");
    let pulled = format!("{}:v1", bench.file("pulled"));
    bench.run(&oras, &["cp", "--from-plain-http", "--to-oci-layout", &image, &pulled]);
    bench.is_pulled("pulled");
    std::fs::write(bench.folder.path().join("note.txt"), "looks good").unwrap();
    let attach = [
        "attach",
        "--plain-http",
        "--artifact-type",
        "application/vnd.example.note",
        &image,
        "note.txt",
    ];
    bench.run(&oras, &attach);
    let found = bench.run(&oras, &["discover", "--plain-http", "--format", "json", &image]);
    assert!(found.text().contains("application/vnd.example.note"), "{}", found.told());
}

#[test]
fn skopeo_pushes_and_pulls() {
    let Some(skopeo) = need("skopeo_pushes_and_pulls", "skopeo") else { return };
    let bench = Bench::new();
    let policy = bench.file("policy.json");
    let image = format!("docker://{}/ci/app:skopeo", bench.registry);
    let run = |words: &[&str]| {
        let words: Vec<&str> = ["--policy", &policy].iter().chain(words).copied().collect();
        bench.run(&skopeo, &words)
    };
    let layout = format!("oci:{}:v1", bench.image.display());
    run(&["copy", "--dest-tls-verify=false", "--digestfile", &bench.file("said"), &layout, &image]);
    let said = std::fs::read_to_string(bench.file("said")).unwrap();
    assert_eq!(said.trim(), bench.digest.to_string());
    bench.is_stored("app:skopeo");
    let pulled = format!("oci:{}:v1", bench.file("pulled"));
    run(&["copy", "--src-tls-verify=false", &image, &pulled]);
    bench.is_pulled("pulled");
    let tags = run(&["list-tags", "--tls-verify=false", &image[..image.len() - ":skopeo".len()]]);
    assert_eq!(tags.json()["Tags"], serde_json::json!(["skopeo"]));
    run(&["delete", "--tls-verify=false", &image]);
    let repository = Door::of(&bench.daemon)[0].ask(&tests::v2::get("/v2/ci/app/tags/list"));
    assert_eq!(repository.json()["tags"], serde_json::json!([]));
}
