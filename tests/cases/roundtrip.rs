//! Bytes in are bytes out: every kind of artifact, by every way in and every way out.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use cas::digest::Digest;
use serde_json::{Value, json};
use tests::layout::{REF_NAME, digest, noise};
use tests::samples::{self, Sample};
use tests::{Daemon, Layout, Run, archive, file, oci, scratch, tree};
use wire::Code;

/// The path that `bond resolve` prints, alone on its line.
#[track_caller]
fn resolve(daemon: &Daemon, workspace: &str, reference: &str) -> String {
    let run = daemon.bond(&["--workspace", workspace, "resolve", reference]).ok();
    let [path] = run.lines()[..] else { panic!("not one line: {}", run.told()) };
    assert!(Path::new(path).is_absolute() && run.text() == format!("{path}\n"), "{}", run.told());
    path.to_owned()
}

/// What a layout holds and lists, for comparison: blobs, and the one entry of its index.
#[track_caller]
fn content(layout: &Path) -> (BTreeMap<Digest, Vec<u8>>, Digest) {
    let index = std::fs::read(layout.join("index.json")).expect("an index.json");
    let index: Value = serde_json::from_slice(&index).expect("JSON");
    let [entry] = index["manifests"].as_array().expect("a list").as_slice() else {
        panic!("not one entry: {index}")
    };
    assert_eq!(std::fs::read(layout.join("oci-layout")).unwrap(), cas_layout());
    (tree::blobs(layout), digest(entry))
}

fn cas_layout() -> &'static [u8] {
    br#"{"imageLayoutVersion":"1.0.0"}"#
}

/// A layout as it must come back.
fn expected(sample: &Sample) -> (BTreeMap<Digest, Vec<u8>>, Digest) {
    (sample.members.clone(), sample.digest())
}

#[test]
fn every_kind_of_artifact_comes_back_as_it_was_by_every_way() {
    let daemon = Daemon::start();
    let samples = samples::all();
    for (number, sample) in samples.iter().enumerate() {
        let folder = daemon.folder().join(format!("sample-{number}"));
        let name = sample.name;
        let layout = folder.join("layout");
        sample.layout.write(&layout);
        let tar = folder.join("archive.tar");
        std::fs::write(&tar, sample.layout.tar().end()).unwrap();
        let reference = sample.digest().to_string();

        // Four ways in, each into a workspace where nothing else is.
        let ways: [(&str, String, Option<&Path>); 4] = [
            ("from-layout", oci(&layout), None),
            ("from-archive", archive(&tar), None),
            ("from-file-on-stdin", "oci-archive:-".to_owned(), Some(&tar)),
            ("from-pipe", "oci-archive:-".to_owned(), None),
        ];
        for (workspace, source, input) in ways {
            let words = ["--workspace", workspace, "put", &source];
            let put = match input {
                Some(path) => daemon.bond_fed(&words, File::open(path).unwrap()),
                None if source.ends_with('-') => daemon.bond_piped(&words, &tar),
                None => daemon.bond(&words),
            };
            assert_eq!(put.ok().digest(), sample.digest(), "{name}, {workspace}");
            let path = resolve(&daemon, workspace, &reference);
            assert_eq!(content(Path::new(&path)), expected(sample), "{name}, {workspace}");
        }

        // Three ways out, and from two of them in again.
        let copy = folder.join("copy");
        daemon.bond(&["--workspace", "from-pipe", "get", &reference, &oci(&copy)]).ok();
        assert_eq!(content(&copy), expected(sample), "{name}");
        let copied = folder.join("copy.tar");
        daemon.bond(&["--workspace", "from-pipe", "get", &reference, &archive(&copied)]).ok();
        let piped = daemon.bond(&["--workspace", "from-pipe", "get", &reference, "oci-archive:-"]);
        assert!(piped.ok().out == std::fs::read(&copied).unwrap(), "{name}: archives differ");
        for (workspace, source) in [("again-1", oci(&copy)), ("again-2", archive(&copied))] {
            let put = daemon.bond(&["--workspace", workspace, "put", &source]).ok();
            assert_eq!(put.digest(), sample.digest(), "{name}, {workspace}");
            let path = resolve(&daemon, workspace, &reference);
            assert_eq!(content(Path::new(&path)), expected(sample), "{name}, {workspace}");
        }

        // Every member alone, and what is absent is said to be.
        for (member, bytes) in &sample.members {
            let member = member.to_string();
            let words =
                ["--workspace", "again-1", "get", &reference, "--blob", &member, "--stdout"];
            assert!(daemon.bond(&words).ok().out == *bytes, "{name}: {member}");
        }
        let words = ["--workspace", "again-1", "show", &reference, "--format", "json"];
        let shown = daemon.bond(&words).ok();
        for absent in &sample.absent {
            assert!(shown.text().contains(&absent.to_string()), "{name}: {}", shown.told());
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
    daemon.bond(&["verify", "--all", "--workspace", "from-layout"]).ok();
}

#[test]
fn a_file_comes_back_as_it_was() {
    let daemon = Daemon::start();
    // Sizes around the borders between ways: bodies and descriptors, buffers, threads, empty.
    for n in [0, 1, 511, 65_535, 65_536, 65_537, 1_048_576, 1_048_577, 9_000_001] {
        let (bytes, name) = (noise("file", n), format!("tool-{n}"));
        let path = daemon.folder().join(&name);
        std::fs::write(&path, &bytes).unwrap();
        let octets = "application/octet-stream";
        let manifest =
            cas::oci::file_manifest(&name, octets, octets, Digest::of(&bytes), n as u64).unwrap();

        let put = daemon.bond(&["put", &file(&path)]).ok();
        assert_eq!(put.digest(), Digest::of(&manifest), "{n}: the wrapping is not what it was");
        let again = daemon.bond_fed(&["put", "-", "--title", &name], File::open(&path).unwrap());
        assert_eq!(again.ok().digest(), put.digest(), "{n}");
        let piped = daemon.bond_piped(&["put", "-", "--title", &name], &path);
        assert_eq!(piped.ok().digest(), put.digest(), "{n}");

        let copy = daemon.folder().join("copy");
        // By the artifact's digest and by the file's own.
        for reference in [put.digest().to_string(), Digest::of(&bytes).to_string()] {
            daemon.bond(&["get", &reference, &file(&copy)]).ok();
            assert!(std::fs::read(&copy).unwrap() == bytes, "{n}: the copy differs");
            std::fs::remove_file(&copy).unwrap();
            assert!(daemon.bond(&["get", &reference, "--stdout"]).ok().out == bytes, "{n}");
            assert!(daemon.bond(&["get", &reference, "-"]).ok().out == bytes, "{n}");
        }
    }
    daemon.bond(&["verify", "--all"]).ok();
}

#[test]
fn a_client_receives_a_checked_descriptor_that_it_cannot_write_to() {
    use std::io::Read as _;
    let daemon = Daemon::start();
    let bytes = noise("descriptor", 300_000);
    let path = daemon.folder().join("tool");
    std::fs::write(&path, &bytes).unwrap();
    let artifact = daemon.bond(&["put", &file(&path)]).ok().digest();

    let received = daemon.connect().receive("default", &artifact, &Digest::of(&bytes));
    let mut received = File::from(received.expect("a descriptor"));

    let mut read = Vec::new();
    received.read_to_end(&mut read).unwrap();
    assert!(read == bytes, "other bytes");
    let flags = nix::fcntl::fcntl(&received, nix::fcntl::FcntlArg::F_GETFL).unwrap();
    let mode = nix::fcntl::OFlag::from_bits_truncate(flags) & nix::fcntl::OFlag::O_ACCMODE;
    assert_eq!(mode, nix::fcntl::OFlag::O_RDONLY);
    std::io::Write::write(&mut received, b"x").expect_err("it can be written to");
}

#[test]
fn what_scripts_read_is_what_was_promised() {
    let daemon = Daemon::start();
    let mut layout = Layout::default();
    let root = layout.image("promised");
    layout.list(&root);
    let folder = daemon.folder().join("layout");
    layout.write(&folder);
    let digest = digest(&root);

    // The digest alone on the first line, whatever else may follow.
    let put = daemon.bond(&["put", &oci(&folder)]).ok();
    assert_eq!(put.lines()[0], digest.to_string());

    // The handle.
    let put = daemon.bond(&["put", &oci(&folder), "--format", "json"]).ok().json();
    let relative = format!("artifacts/default/sha256/{}", digest.hex());
    assert_eq!(put["kind"], "oci_layout");
    assert_eq!(put["oci_layout"]["path"], relative);
    assert_eq!(put["digest"], digest.to_string());

    // The absolute path alone, which is the handle's below the store.
    let path = resolve(&daemon, "default", &digest.to_string());
    let store = daemon.store().canonicalize().unwrap();
    assert_eq!(Path::new(&path).canonicalize().unwrap(), store.join(relative));

    // The environment names the workspace as the flag does, and the flag wins.
    let mut put = daemon.command(&["put", &oci(&folder), "--format", "json"]);
    let put = tests::run(put.env("BOND_WORKSPACE", "by-environment")).ok().json();
    assert_eq!(put["workspace"], "by-environment");
    let words = ["--workspace", "by-flag", "put", &oci(&folder), "--format", "json"];
    let put = tests::run(daemon.command(&words).env("BOND_WORKSPACE", "by-environment"));
    assert_eq!(put.ok().json()["workspace"], "by-flag");
}

#[test]
fn a_reference_finds_one_artifact_in_every_spelling() {
    let daemon = Daemon::start();
    let put = |workspace: &str, seed: &str, names: &[&str]| {
        let mut layout = Layout::default();
        let root = layout.image(seed);
        layout.list(&root);
        let folder = daemon.folder().join(seed);
        layout.write(&folder);
        let source = oci(&folder);
        let mut words = vec!["--workspace", workspace, "put", &source];
        names.iter().for_each(|name| words.extend(["--name", name]));
        daemon.bond(&words).ok().digest()
    };
    let first = put("default", "first", &["app:1", "team/app.x:latest"]);
    let second = put("default", "second", &["app:2"]);
    let elsewhere = put("other", "elsewhere", &["app:3"]);

    let whole = first.to_string();
    let handle = format!("artifacts/default/sha256/{}", first.hex());
    for reference in
        [&whole, &whole[..19], &first.hex()[..12], "app:1", "team/app.x:latest", &handle]
    {
        let path = resolve(&daemon, "default", reference);
        assert!(path.ends_with(&first.hex()), "{reference} is {path}");
    }
    assert!(resolve(&daemon, "default", "app:2").ends_with(&second.hex()));

    let absent = Digest::of(b"absent").to_string();
    let elsewhere_handle = format!("artifacts/other/sha256/{}", elsewhere.hex());
    let unknown = [
        absent.as_str(),
        &absent[..19],
        "app:3",
        "app:none",
        "none:1",
        &elsewhere.to_string(),
        &elsewhere_handle,
        &format!("artifacts/default/sha256/{}", Digest::of(b"absent").hex()),
    ];
    for reference in unknown {
        daemon.bond(&["resolve", reference]).fails(Code::NotFound).says(&[reference]);
    }
    for reference in ["sha256:zz", "sha256:", "../etc/passwd", "artifacts/../../x", "", "a:b:c:d"] {
        let run = daemon.bond(&["resolve", reference]);
        let refused = [Code::NotFound, Code::NameInvalid, Code::DigestInvalid, Code::Usage];
        assert!(run.code().is_some_and(|code| refused.contains(&code)), "{}", run.told());
    }

    // A name moves with the next put under it.
    let third = put("default", "third", &["app:1"]);
    assert!(resolve(&daemon, "default", "app:1").ends_with(&third.hex()));
    assert!(resolve(&daemon, "default", "team/app.x:latest").ends_with(&first.hex()));
}

#[test]
fn an_ambiguous_reference_lists_what_could_be_meant() {
    let daemon = Daemon::start();
    // One file under two titles: two artifacts with the same file digest.
    let path = daemon.folder().join("same");
    std::fs::write(&path, "the same bytes").unwrap();
    let put = |title| daemon.bond(&["put", &file(&path), "--title", title]).ok().digest();
    let artifacts = [put("one"), put("two")].map(|digest| digest.to_string());
    let same = Digest::of(b"the same bytes").to_string();

    let run = daemon.bond(&["resolve", &same]).fails(Code::Ambiguous).says(&artifacts);

    for candidate in &artifacts {
        daemon.bond(&["resolve", candidate]).ok();
        assert!(run.err.contains(candidate));
    }
    // A prefix that fits several: two of seventeen begin with the same digit, of many more with
    // the same four.
    let mut by_prefix: BTreeMap<String, Vec<Digest>> = BTreeMap::new();
    for number in 0.. {
        let bytes = format!("prefix {number}");
        let octets = "application/octet-stream";
        let size = bytes.len() as u64;
        let title = format!("p{number}");
        let of = Digest::of(bytes.as_bytes());
        let manifest = cas::oci::file_manifest(&title, octets, octets, of, size);
        let digest = Digest::of(&manifest.unwrap());
        let alike = by_prefix.entry(digest.hex()[..4].to_owned()).or_default();
        alike.push(digest);
        if let [one, two] = alike[..] {
            let known = [one, two].map(|digest| digest.to_string());
            for number in 0..=number {
                let title = format!("p{number}");
                let path = daemon.folder().join(&title);
                let bytes = format!("prefix {number}");
                let octets = "application/octet-stream";
                let (of, size) = (Digest::of(bytes.as_bytes()), bytes.len() as u64);
                let manifest = cas::oci::file_manifest(&title, octets, octets, of, size);
                if known.contains(&Digest::of(&manifest.unwrap()).to_string()) {
                    std::fs::write(&path, &bytes).unwrap();
                    daemon.bond(&["put", &file(&path)]).ok();
                }
            }
            let prefix = &one.hex()[..4];
            daemon.bond(&["resolve", prefix]).fails(Code::Ambiguous).says(&known);
            let longer = &one.hex()[..32];
            assert!(resolve(&daemon, "default", longer).ends_with(&one.hex()));
            break;
        }
    }
}

#[test]
fn which_image_of_a_layout_is_meant_is_never_guessed() {
    let daemon = Daemon::start();
    let mut layout = Layout::default();
    let (one, two, three) = (layout.image("one"), layout.image("two"), layout.image("three"));
    layout.list_as(&one, "v1").list_as(&two, "v2").list(&three);
    let mut with_image_name = layout.image("four");
    with_image_name["annotations"] =
        json!({ "io.containerd.image.name": "docker.io/library/four:latest", REF_NAME: "latest" });
    layout.list(&with_image_name);
    let folder = daemon.folder().join("layout");
    layout.write(&folder);
    let tar = daemon.folder().join("layout.tar");
    std::fs::write(&tar, layout.tar().end()).unwrap();
    let roots = [&one, &two, &three, &with_image_name];

    for source in [oci(&folder), archive(&tar)] {
        let refused = daemon.bond(&["put", &source]).fails(Code::Ambiguous);
        // Every candidate is typed as it stands there, and each means another one.
        let candidates: Vec<&str> =
            refused.err.split_whitespace().filter(|word| word.starts_with(&source)).collect();
        let typed: Vec<Digest> = candidates
            .iter()
            .filter(|candidate| **candidate != source)
            .map(|candidate| daemon.bond(&["put", candidate]).ok().digest())
            .collect();
        assert_eq!(typed, roots.map(digest), "{}", refused.told());

        let put = |of: &str| daemon.bond(&["put", &format!("{source}{of}")]);
        assert_eq!(put(":v1").ok().digest(), digest(&one));
        assert_eq!(put(&format!("@{}", digest(&three))).ok().digest(), digest(&three));
        put(":v3").fails(Code::NotFound).says(&["v1", "v2"]);
        put(&format!("@{}", Digest::of(b"absent"))).fails(Code::NotFound);
        // A tag and a digest that contradict each other.
        put(&format!(":v1@{}", digest(&two))).fails(Code::NotFound);
    }
}

#[test]
fn the_metadata_file_of_buildx_says_which_image_is_meant() {
    let daemon = Daemon::start();
    let mut layout = Layout::default();
    let (one, two) = (layout.image("one"), layout.image("two"));
    let index = layout.index(&[two.clone()]);
    layout.list(&one).list(&index);
    let folder = daemon.folder().join("layout");
    layout.write(&folder);
    let metadata = daemon.folder().join("metadata.json");
    let put = |content: Value| {
        std::fs::write(&metadata, content.to_string()).unwrap();
        let metadata = metadata.display().to_string();
        daemon.bond(&["put", &oci(&folder), "--metadata-file", &metadata])
    };
    // What `docker buildx build --metadata-file` writes: the digest, and more.
    let written = |digest: Digest| {
        json!({
            "buildx.build.ref": "builder/builder0/abc",
            "containerimage.config.digest": Digest::of(b"a config").to_string(),
            "containerimage.descriptor": { "digest": digest.to_string(), "size": 1 },
            "containerimage.digest": digest.to_string(),
            "image.name": "example.org/app:1",
        })
    };

    for root in [&one, &index, &two] {
        assert_eq!(put(written(digest(root))).ok().digest(), digest(root));
    }
    put(written(Digest::of(b"absent"))).fails(Code::NotFound);
    for (content, says) in [
        (json!({ "image.name": "x" }), "containerimage.digest"),
        (json!({ "containerimage.digest": "sha256:short" }), "sha256:short"),
        (json!([]), "metadata.json"),
    ] {
        let run = put(content).says(&[says]);
        assert!(run.code.is_some_and(|code| code > 1), "{}", run.told());
    }
    let missing = daemon.folder().join("no such file").display().to_string();
    let run = daemon.bond(&["put", &oci(&folder), "--metadata-file", &missing]);
    run.fails(Code::LocalIo).says(&[missing]);
}

/// The archive that `docker save` writes since version 25: an OCI layout with docker's own
/// `manifest.json` and `repositories` beside it. There is no Docker engine here, so it is made up
/// after what one writes.
#[test]
fn the_archive_of_docker_save_is_read_as_the_oci_layout_that_it_is() {
    let daemon = Daemon::start();
    let mut layout = Layout::default();
    let config = layout.config("docker save");
    let layer = layout.blob(tests::layout::types::LAYER, noise("docker save", 20_000));
    let image = layout.manifest(&config, &[layer.clone()]);
    let root = layout.index(&[image]);
    let mut entry = root.clone();
    entry["annotations"] = json!({
        "containerd.io/distribution.source.docker.io": "library/app",
        "io.containerd.image.name": "docker.io/library/app:1",
        REF_NAME: "1",
    });
    layout.list(&entry);
    let path = |descriptor: &Value| tests::layout::blob_file(&digest(descriptor));
    let docker = json!([{
        "Config": path(&config), "RepoTags": ["app:1"], "Layers": [path(&layer)],
        "LayerSources": { digest(&layer).to_string(): layer },
    }]);
    let mut tar = tests::archive::Tar::default();
    tar.folder("blobs/").folder("blobs/sha256/");
    for (name, bytes) in layout.files() {
        tar.file(&name, &bytes);
    }
    tar.file("manifest.json", docker.to_string().as_bytes());
    tar.file("repositories", br#"{"app":{"1":"abc"}}"#);
    let saved = daemon.folder().join("saved.tar");
    std::fs::write(&saved, tar.end()).unwrap();

    let put = |of: &str| daemon.bond(&["put", &format!("{}{of}", archive(&saved))]);
    for of in ["", ":1", ":docker.io/library/app:1"] {
        assert_eq!(put(of).ok().digest(), digest(&root), "{of}");
    }
    put(":2").fails(Code::NotFound);
}

/// Runs the same puts at once.
fn at_once(runs: &[(&Daemon, Vec<String>)]) -> Vec<Run> {
    std::thread::scope(|scope| {
        let started: Vec<_> = runs
            .iter()
            .map(|(daemon, words)| {
                scope.spawn(move || {
                    daemon.bond(&words.iter().map(String::as_str).collect::<Vec<_>>())
                })
            })
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn the_same_put_again_and_eight_at_once_is_one_artifact() {
    let daemon = Daemon::start();
    let mut layout = Layout::default();
    let image = layout.image("eight");
    let large = layout.blob(tests::layout::types::LAYER, noise("eight", 6_000_000));
    let config = layout.config("eight and large");
    let other = layout.manifest(&config, &[large]);
    let root = layout.index(&[image, other]);
    layout.list(&root);
    let folder = daemon.folder().join("layout");
    layout.write(&folder);
    let single = daemon.folder().join("single");
    std::fs::write(&single, noise("single", 2_000_000)).unwrap();

    for (source, n_blobs) in [(oci(&folder), layout.blobs().len()), (file(&single), 3)] {
        for round in 0..4 {
            // The first round meets a workspace without it, the others one that has it.
            let words = vec!["put".to_owned(), source.clone()];
            let runs = at_once(&vec![(&daemon, words); 8]);
            let digests: Vec<Digest> = runs.into_iter().map(|run| run.ok().digest()).collect();
            assert!(digests.iter().all(|d| *d == digests[0]), "round {round}: {digests:?}");
            let path = resolve(&daemon, "default", &digests[0].to_string());
            assert_eq!(tree::blobs(Path::new(&path)).len(), n_blobs);
        }
    }
    let listed = daemon.bond(&["ls", "--format", "json"]).ok().json();
    assert_eq!(listed["artifacts"].as_array().map(Vec::len), Some(2), "{listed}");
    // Every blob is there once: in `blobs/`, with one link for each layout that has it.
    let n_stored = tree::names(&daemon.store().join("blobs")).len();
    assert_eq!(n_stored, layout.blobs().len() + 3);
    assert!(tree::names(&daemon.store().join("staging")).is_empty());
    daemon.bond(&["verify", "--all"]).ok();
    let collected = daemon.bond(&["gc", "--dry-run", "--format", "json"]).ok().json();
    assert_eq!(collected["n_blobs"], 0);
}

#[test]
fn content_that_the_store_has_is_not_written_again_and_nobody_is_believed() {
    use std::os::unix::fs::MetadataExt as _;
    let daemon = Daemon::start();
    let mut layout = Layout::default();
    let shared = layout.blob(tests::layout::types::LAYER, noise("shared", 500_000));
    let (a, b) = (layout.config("a"), layout.config("b"));
    let (a, b) = (layout.manifest(&a, &[shared.clone()]), layout.manifest(&b, &[shared.clone()]));
    layout.list_as(&a, "a").list_as(&b, "b");
    let folder = daemon.folder().join("layout");
    layout.write(&folder);
    let put = |workspace: &str, of: &str| {
        let source = format!("{}:{of}", oci(&folder));
        daemon.bond(&["--workspace", workspace, "put", &source, "--format", "json"])
    };
    let first = put("default", "a").ok().json();
    assert_eq!((&first["n_written"], &first["existed"]), (&json!(3), &json!(false)));

    // Across artifacts and workspaces the layer is one inode.
    assert_eq!(put("default", "b").ok().json()["n_written"], 2);
    // What others hold is told to nobody: all of it is new to this workspace.
    let other = put("other", "a").ok().json();
    assert_eq!((&other["n_written"], &other["existed"]), (&json!(3), &json!(false)));
    let same = put("default", "a").ok().json();
    assert_eq!((&same["n_written"], &same["existed"]), (&json!(0), &json!(true)));
    let stored = daemon.store().join(tests::layout::blob_file(&digest(&shared)));
    assert_eq!(std::fs::metadata(&stored).unwrap().nlink(), 4);

    // The caller's bytes are proved although the store has good ones.
    let mut bytes = layout.bytes(&shared).to_vec();
    bytes[100] ^= 1;
    let path = folder.join(tests::layout::blob_file(&digest(&shared)));
    std::fs::write(&path, &bytes).unwrap();
    put("third", "a").fails(Code::Mismatch).says(&[digest(&shared).to_string()]);
    std::fs::write(&path, layout.bytes(&shared)).unwrap();

    // And the store's copy is proved too: a rotten one is replaced for every layout.
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(&stored, std::fs::Permissions::from_mode(0o644)).unwrap();
    let rotten = File::options().write(true).open(&stored).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&rotten, b"rot", 777).unwrap();
    let healed = put("third", "a").ok().json();
    assert_eq!((&healed["n_written"], &healed["n_healed"]), (&json!(3), &json!(0)), "{healed}");
    let healed = put("default", "a").ok().json();
    assert_eq!((&healed["n_written"], &healed["n_healed"]), (&json!(0), &json!(1)), "{healed}");
    for (workspace, root) in [("default", &a), ("default", &b), ("other", &a), ("third", &a)] {
        let reference = digest(root).to_string();
        daemon.bond(&["--workspace", workspace, "verify", &reference]).ok();
        let path = resolve(&daemon, workspace, &reference);
        assert_eq!(tree::blobs(Path::new(&path)).len(), 3, "{workspace}");
    }
}

#[test]
fn writing_over_the_source_afterwards_changes_nothing() {
    let daemon = Daemon::start();
    let mut layout = Layout::default();
    let root = layout.image("mine");
    layout.list(&root);
    let (folder, tar) = (daemon.folder().join("layout"), daemon.folder().join("layout.tar"));
    let single = daemon.folder().join("single");
    let reference = digest(&root).to_string();
    layout.write(&folder);
    std::fs::write(&tar, layout.tar().end()).unwrap();
    std::fs::write(&single, noise("single", 200_000)).unwrap();
    daemon.bond(&["put", &oci(&folder), "--workspace", "from-layout"]).ok();
    daemon.bond(&["put", &archive(&tar), "--workspace", "from-archive"]).ok();
    let of_file = daemon.bond(&["put", &file(&single), "--workspace", "from-file"]).ok().digest();

    let mut sources = vec![tar, single];
    sources.extend(tree::names(&folder).iter().map(|name| folder.join(name)));
    for path in sources {
        // In place, so that an inode taken over instead of copied would show.
        let file = File::options().write(true).open(&path).unwrap();
        let n = file.metadata().unwrap().len();
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xff; n as usize], 0).unwrap();
    }

    for (workspace, reference) in [
        ("from-layout", reference.as_str()),
        ("from-archive", &reference),
        ("from-file", &of_file.to_string()),
    ] {
        daemon.bond(&["--workspace", workspace, "verify", reference]).ok();
        let path = resolve(&daemon, workspace, reference);
        tree::blobs(Path::new(&path));
    }
}

#[test]
fn a_copy_replaces_nothing_that_is_there() {
    let daemon = Daemon::start();
    let path = daemon.folder().join("tool");
    std::fs::write(&path, "a tool").unwrap();
    let reference = daemon.bond(&["put", &file(&path)]).ok().digest().to_string();
    let target = scratch();
    let there = target.path().join("there");
    std::fs::write(&there, "precious").unwrap();
    let folder = target.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("precious"), "precious").unwrap();

    for sink in [file(&there), archive(&there), oci(&folder)] {
        daemon.bond(&["get", &reference, &sink]).fails(Code::LocalIo);
    }
    let nowhere = target.path().join("no such folder").join("x");
    for sink in [file(&nowhere), archive(&nowhere), oci(&nowhere)] {
        daemon.bond(&["get", &reference, &sink]).fails(Code::LocalIo);
    }

    assert_eq!(std::fs::read(&there).unwrap(), b"precious");
    assert_eq!(tree::names(target.path()), ["folder/precious", "there"]);
}
