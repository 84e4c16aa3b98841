//! What real tools write is taken as it is, and what is handed out is read by real tools.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cas::digest::Digest;
use serde_json::{Value, json};
use tests::archive::Tar;
use tests::layout::{digest, types};
use tests::peers::need;
use tests::{Daemon, Layout, Run, archive, oci, run, scratch, tree};

/// A place where tools run, with a home of their own.
struct Bench {
    folder: tempfile::TempDir,
    /// The layout of an image that every tool accepts, tagged `v1`.
    image: PathBuf,
    root: Value,
}

/// What a tool made, and what it said of it.
struct Made {
    /// How `bond put` is told.
    source: String,
    /// The digest that the tool itself reports.
    digest: Digest,
}

impl Bench {
    fn new() -> Bench {
        let folder = scratch();
        let mut layout = Layout::default();
        let mut tar = Tar::default();
        tar.folder("etc/").file("etc/os-release", b"ID=debian\nVERSION_ID=\"12\"\n");
        tar.folder("usr/").folder("usr/bin/").file("usr/bin/tool", b"#!/bin/sh\necho hello\n");
        // Compressed as images are: crane validates no other.
        let unpacked = folder.path().join("layer.tar");
        std::fs::write(&unpacked, tar.end()).unwrap();
        let packed = run(Command::new("gzip").args(["-n", "-c"]).arg(&unpacked)).ok().out;
        let layer = layout.blob(&format!("{}+gzip", types::LAYER), packed);
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": { "Cmd": ["/usr/bin/tool"] },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(&tar.end()).to_string()] },
            "history": [{ "created_by": "the harness" }],
        });
        let config = layout.document(types::CONFIG, &config);
        let root = layout.manifest(&config, &[layer]);
        layout.list_as(&root, "v1");
        let image = folder.path().join("image");
        layout.write(&image);
        std::fs::create_dir(folder.path().join("rootfs")).unwrap();
        std::fs::write(folder.path().join("rootfs/tool"), "a tool\n").unwrap();
        std::fs::write(folder.path().join("tool"), "a tool\n").unwrap();
        let policy = json!({ "default": [{ "type": "insecureAcceptAnything" }] });
        std::fs::write(folder.path().join("policy.json"), policy.to_string()).unwrap();
        Bench { folder, image, root }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn said(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn command(&self, program: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(words).current_dir(self.folder.path()).env("HOME", self.folder.path());
        command.env("SYFT_CHECK_FOR_APP_UPDATE", "false").env_remove("XDG_RUNTIME_DIR");
        command
    }

    #[track_caller]
    fn run(&self, program: &Path, words: &[&str]) -> Run {
        run(&mut self.command(program, words)).ok()
    }

    #[track_caller]
    fn digest_in(&self, name: &str) -> Digest {
        let text = std::fs::read_to_string(self.at(name)).unwrap();
        text.trim().parse().unwrap()
    }

    /// The digest in the only entry of a layout's index: for tools that report none.
    #[track_caller]
    fn only_entry(&self, name: &str) -> Digest {
        let index = std::fs::read(self.at(name).join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        assert_eq!(index["manifests"].as_array().map(Vec::len), Some(1));
        digest(&index["manifests"][0])
    }
}

/// The digest that stands last in what a tool printed.
#[track_caller]
fn last_digest(run: &Run) -> Digest {
    let words = run.text().split_whitespace();
    let mut digests = words.filter_map(|word| word.rsplit('@').next()?.parse().ok());
    digests.next_back().unwrap_or_else(|| panic!("no digest: {}", run.told()))
}

/// A registry on loopback that is gone with its value.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start(bench: &Bench, crane: &Path) -> Registry {
        use std::io::{BufRead as _, BufReader};
        let mut command = bench.command(crane, &["registry", "serve", "--address", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = lines
            .find_map(|line| Some(line.ok()?.split_once("serving on port ")?.1.to_owned()))
            .expect("the registry's port");
        // What it says of each request must go somewhere.
        std::thread::spawn(move || lines.count());
        Registry { child, address: format!("127.0.0.1:{}", port.trim()) }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A tool, what it makes, and how.
type Producer = (&'static str, &'static str, fn(&Bench, &Path) -> Made);

fn buildah(bench: &Bench, buildah: &Path, target: &str) -> Digest {
    let (root, run) = (bench.said("buildah"), bench.said("buildah-run"));
    let policy = bench.said("policy.json");
    let storage = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
    let buildah = |words: &[&str]| bench.run(buildah, &[&storage, words].concat());
    let container = buildah(&["from", "scratch"]).text().trim().to_owned();
    buildah(&["copy", "-q", &container, &bench.said("rootfs"), "/"]);
    buildah(&["commit", "-q", "--signature-policy", &policy, &container, "made"]);
    let digest = bench.said("digest");
    let push = ["push", "--signature-policy", &policy, "--digestfile", &digest, "made", target];
    buildah(&push);
    bench.digest_in("digest")
}

fn crane_pulled(bench: &Bench, crane: &Path, registry: &Registry, name: &str) -> Made {
    let image = format!("{}/{name}", registry.address);
    bench.run(crane, &["pull", "--format=oci", &image, &bench.said("pulled")]);
    let digest = last_digest(&bench.run(crane, &["digest", &image]));
    Made { source: oci(&bench.at("pulled")), digest }
}

const PRODUCERS: &[Producer] = &[
    ("buildah", "layout", |bench, program| {
        let made = oci(&bench.at("made"));
        let digest = buildah(bench, program, &format!("{made}:v1"));
        Made { source: made, digest }
    }),
    ("buildah", "archive", |bench, program| {
        let made = archive(&bench.at("made.tar"));
        let digest = buildah(bench, program, &format!("{made}:v1"));
        Made { source: format!("{made}:v1"), digest }
    }),
    ("umoci", "layout", |bench, program| {
        bench.run(program, &["init", "--layout", "made"]);
        bench.run(program, &["new", "--image", "made:v1"]);
        bench.run(program, &["insert", "--image", "made:v1", "rootfs", "/"]);
        Made { source: oci(&bench.at("made")), digest: bench.only_entry("made") }
    }),
    ("skopeo", "layout", |bench, program| {
        let words = ["copy", "--insecure-policy", "--digestfile", "digest", "oci:image:v1"];
        bench.run(program, &[&words[..], &["oci:made:v1"]].concat());
        Made { source: oci(&bench.at("made")), digest: bench.digest_in("digest") }
    }),
    ("skopeo", "archive of what was a docker-archive", |bench, program| {
        let docker = "docker-archive:docker.tar:example.org/tool:1";
        bench.run(program, &["copy", "--insecure-policy", "oci:image:v1", docker]);
        let words = ["copy", "--insecure-policy", "--digestfile", "digest"];
        let ends = ["docker-archive:docker.tar", "oci-archive:made.tar:v1"];
        bench.run(program, &[&words[..], &ends].concat());
        Made { source: archive(&bench.at("made.tar")), digest: bench.digest_in("digest") }
    }),
    ("crane", "layout", |bench, program| {
        let registry = Registry::start(bench, program);
        let image = format!("{}/some/tool:v1", registry.address);
        bench.run(program, &["push", &bench.said("image"), &image]);
        crane_pulled(bench, program, &registry, "some/tool:v1")
    }),
    ("crane", "layout with Docker's types", |bench, program| {
        let registry = Registry::start(bench, program);
        let mut tar = Tar::default();
        tar.file("tool", b"a tool\n");
        std::fs::write(bench.at("layer.tar"), tar.end()).unwrap();
        let image = format!("{}/some/tool:v2", registry.address);
        bench.run(program, &["append", "-f", "layer.tar", "-t", &image]);
        crane_pulled(bench, program, &registry, "some/tool:v2")
    }),
    ("regctl", "layout", |bench, program| {
        bench.run(program, &["image", "copy", "ocidir://image:v1", "ocidir://made:v1"]);
        let digest = last_digest(&bench.run(program, &["image", "digest", "ocidir://made:v1"]));
        Made { source: oci(&bench.at("made")), digest }
    }),
    ("regctl", "archive that docker loads too", |bench, program| {
        bench.run(program, &["image", "export", "ocidir://image:v1", "made.tar"]);
        let digest = last_digest(&bench.run(program, &["image", "digest", "ocidir://image:v1"]));
        Made { source: archive(&bench.at("made.tar")), digest }
    }),
    ("regctl", "artifact", |bench, program| {
        let words = ["artifact", "put", "--artifact-type", "application/vnd.example.tool"];
        let file = ["-m", "text/plain", "-f", "tool", "ocidir://made:v1"];
        bench.run(program, &[&words[..], &file].concat());
        let digest = last_digest(&bench.run(program, &["manifest", "digest", "ocidir://made:v1"]));
        Made { source: oci(&bench.at("made")), digest }
    }),
    ("oras", "artifact", |bench, program| {
        let words = ["push", "--oci-layout", "made:v1", "tool:text/plain"];
        let kind = ["--artifact-type", "application/vnd.example.tool"];
        bench.run(program, &[&words[..], &kind].concat());
        let digest = last_digest(&bench.run(program, &["resolve", "--oci-layout", "made:v1"]));
        Made { source: oci(&bench.at("made")), digest }
    }),
    ("oras", "referrer", |bench, program| {
        let kind = ["--artifact-type", "application/vnd.example.review"];
        bench.run(program, &["push", "--oci-layout", "made:v1", "tool:text/plain"]);
        let words = ["attach", "--oci-layout", "made:v1", "tool:text/plain"];
        let digest = last_digest(&bench.run(program, &[&words[..], &kind].concat()));
        Made { source: format!("{}@{digest}", oci(&bench.at("made"))), digest }
    }),
    ("oras", "copy of an image", |bench, program| {
        let words = ["cp", "--from-oci-layout", "--to-oci-layout", "image:v1", "made:v1"];
        bench.run(program, &words);
        let digest = last_digest(&bench.run(program, &["resolve", "--oci-layout", "made:v1"]));
        Made { source: format!("{}:v1", oci(&bench.at("made"))), digest }
    }),
];

#[test]
fn what_real_producers_write_is_taken_under_the_digest_that_they_report() {
    let daemon = Daemon::start();
    for (name, what, make) in PRODUCERS {
        let Some(program) = need(&format!("producers, {what}"), name) else { continue };
        let bench = Bench::new();
        let made = make(&bench, &program);

        let put = daemon.bond(&["put", &made.source]).ok();

        let reference = made.digest.to_string();
        assert_eq!(put.digest(), made.digest, "{name}, {what}");
        // And handed back as it was: every blob of the copy is one that the tool wrote.
        let copy = bench.at("copy");
        daemon.bond(&["get", &reference, &oci(&copy)]).ok();
        if let Some(layout) = made.source.strip_prefix("oci:") {
            let written = layout.split(['@', ':']).next().unwrap();
            for (blob, bytes) in tree::blobs(&copy) {
                let path = Path::new(written).join(tests::layout::blob_file(&blob));
                assert!(std::fs::read(path).unwrap() == bytes, "{name}, {what}: {blob}");
            }
        }
    }
    daemon.bond(&["verify", "--all"]).ok();
}

/// An image in the store, and where a tool finds it.
struct Kept {
    bench: Bench,
    digest: Digest,
    /// What `bond resolve` printed.
    resolved: String,
    /// A copy that `bond get` made, tagged `v1`.
    layout: String,
    /// The same as an archive.
    tar: String,
}

/// Which tool, what it does, and how; it reports the digest that it saw, where it can.
type Reader = (&'static str, &'static str, fn(&Kept, &Path) -> Option<Digest>);

/// How skopeo copies bytes as they are; without these words it compresses layers on the way.
const COPY: &[&str] =
    &["copy", "--insecure-policy", "--preserve-digests", "--digestfile", "digest"];

const READERS: &[Reader] = &[
    ("skopeo", "inspects in place", |kept, program| {
        let source = format!("oci:{}", kept.resolved);
        let seen = kept.bench.run(program, &["inspect", &source]).json();
        Some(digest(&json!({ "digest": seen["Digest"] })))
    }),
    ("skopeo", "copies out of what was resolved", |kept, program| {
        let source = format!("oci:{}", kept.resolved);
        kept.bench.run(program, &[COPY, &[&source, "oci:x:v1"]].concat());
        Some(kept.bench.digest_in("digest"))
    }),
    ("skopeo", "copies an archive", |kept, program| {
        let source = format!("oci-archive:{}:v1", kept.tar);
        kept.bench.run(program, &[COPY, &[&source, "oci:y:v1"]].concat());
        Some(kept.bench.digest_in("digest"))
    }),
    ("syft", "scans in place", |kept, program| {
        let source = format!("oci-dir:{}", kept.resolved);
        let seen = kept.bench.run(program, &["-q", &source, "-o", "json"]).json();
        assert_eq!(seen["distro"]["id"], "debian", "syft did not look inside");
        Some(seen["source"]["metadata"]["manifestDigest"].as_str()?.parse().unwrap())
    }),
    ("umoci", "unpacks a copy", |kept, program| {
        let image = format!("{}:v1", kept.layout);
        kept.bench.run(program, &["unpack", "--rootless", "--image", &image, "bundle"]);
        let tool = std::fs::read(kept.bench.at("bundle/rootfs/usr/bin/tool")).unwrap();
        assert!(tool.starts_with(b"#!/bin/sh"));
        None
    }),
    ("regctl", "copies a copy", |kept, program| {
        let source = format!("ocidir://{}:v1", kept.layout);
        kept.bench.run(program, &["image", "copy", &source, "ocidir://r:v1"]);
        Some(last_digest(&kept.bench.run(program, &["image", "digest", "ocidir://r:v1"])))
    }),
    ("regctl", "imports an archive", |kept, program| {
        kept.bench.run(program, &["image", "import", "ocidir://i:v1", &kept.tar]);
        Some(last_digest(&kept.bench.run(program, &["image", "digest", "ocidir://i:v1"])))
    }),
    ("oras", "copies a copy", |kept, program| {
        let source = format!("{}:v1", kept.layout);
        let words = ["cp", "--from-oci-layout", "--to-oci-layout", &source, "o:v1"];
        kept.bench.run(program, &words);
        Some(last_digest(&kept.bench.run(program, &["resolve", "--oci-layout", "o:v1"])))
    }),
    ("crane", "pushes what was resolved, and validates it", |kept, program| {
        let registry = Registry::start(&kept.bench, program);
        let image = format!("{}/x/y:v1", registry.address);
        kept.bench.run(program, &["push", &kept.resolved, &image]);
        kept.bench.run(program, &["validate", "--remote", &image]);
        Some(last_digest(&kept.bench.run(program, &["digest", &image])))
    }),
    ("buildah", "pulls a copy", |kept, program| {
        let (root, run) = (kept.bench.said("buildah"), kept.bench.said("buildah-run"));
        let storage = ["--root", &root, "--runroot", &run, "--storage-driver", "vfs"];
        // It makes a name of the path, and names have no capitals.
        let source = "oci:got:v1";
        let policy = kept.bench.said("policy.json");
        let words = ["pull", "-q", "--signature-policy", &policy, source];
        kept.bench.run(program, &[&storage[..], &words].concat());
        None
    }),
];

#[test]
fn what_is_handed_out_is_read_by_real_tools() {
    let mut daemon = Daemon::start();
    let bench = Bench::new();
    let put = daemon.bond(&["put", &oci(&bench.image)]).ok();
    assert_eq!(put.digest(), digest(&bench.root));
    let reference = put.digest().to_string();
    let resolved = daemon.bond(&["resolve", &reference]).ok().lines()[0].to_owned();
    let (layout, tar) = (bench.at("got"), bench.at("got.tar"));
    daemon.bond(&["get", &reference, &format!("{}:v1", oci(&layout))]).ok();
    daemon.bond(&["get", &reference, &format!("{}:v1", archive(&tar))]).ok();
    let [layout, tar] = [layout, tar].map(|path| path.display().to_string());
    let kept = Kept { bench, digest: put.digest(), resolved, layout, tar };

    // A layout stays readable with the daemon dead.
    daemon.stop();
    for (name, what, read) in READERS {
        let Some(program) = need(&format!("readers, {what}"), name) else { continue };
        let seen = read(&kept, &program);
        assert!(seen.is_none_or(|seen| seen == kept.digest), "{name} {what}: {seen:?}");
    }
    // Nobody wrote into what was read in place.
    daemon.start_again();
    daemon.bond(&["verify", "--all"]).ok();
}

#[cfg(feature = "ocidir")]
#[test]
fn ocidir_reads_what_was_resolved() {
    use ocidir::cap_std::{ambient_authority, fs::Dir};
    use ocidir::{OciDir, OciRead as _};
    let daemon = Daemon::start();
    let bench = Bench::new();
    let put = daemon.bond(&["put", &oci(&bench.image)]).ok();
    let reference = put.digest().to_string();
    let resolved = daemon.bond(&["resolve", &reference]).ok();

    let folder = Dir::open_ambient_dir(resolved.lines()[0], ambient_authority()).unwrap();
    let layout = OciDir::open(folder).unwrap();

    let index = layout.read_index().unwrap();
    let [entry] = index.manifests().as_slice() else { panic!("{index:?}") };
    assert_eq!(entry.digest().to_string(), reference);
    let manifest: ocidir::oci_spec::image::ImageManifest = layout.read_json_blob(entry).unwrap();
    assert_eq!(manifest.layers().len(), 1);
    layout.fsck().unwrap();
}

#[cfg(not(feature = "ocidir"))]
#[test]
fn ocidir_reads_what_was_resolved() {
    tests::peers::skip("ocidir_reads_what_was_resolved", "the feature ocidir");
}
