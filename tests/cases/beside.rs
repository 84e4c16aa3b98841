//! What the store keeps beside the layouts and what may be wrong with it: names, records of absent
//! layers, pools of blobs.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use cas::digest::Digest;
use serde_json::json;
use tests::layout::{blob_file, digest, noise, types};
use tests::{Daemon, Home, Layout, file, oci, scratch};
use wire::Code;

/// Puts a file of these bytes under a name.
#[track_caller]
fn put_named(daemon: &Daemon, workspace: &str, bytes: &[u8], name: &str) -> Digest {
    let folder = scratch();
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    daemon.bond(&["--workspace", workspace, "put", &file(&path), "--name", name]).ok().digest()
}

/// `verify` gives its verdict on standard output.
#[track_caller]
fn is_damaged(daemon: &Daemon, words: &[&str], says: &str) {
    let run = daemon.bond(words);
    assert_eq!(run.code(), Some(Code::Corrupt), "{}", run.told());
    assert!(run.told().contains(says), "{}", run.told());
}

#[test]
fn a_damaged_name_is_told_and_healed_by_giving_it_again() {
    let daemon = Daemon::start();
    let one = put_named(&daemon, "default", b"one", "team/app:1");
    put_named(&daemon, "default", b"two", "team/app:2");
    let tag = |n: u32| daemon.store().join(format!("names/default/team/app/_tags/{n}"));
    let good = std::fs::read(tag(1)).unwrap();
    let mut flipped = good.clone();
    flipped[20] ^= 1;
    let mut unchecked = good.clone();
    *unchecked.last_mut().unwrap() = b'0';
    let damages: [(&str, Vec<u8>); 6] = [
        ("empty", Vec::new()),
        ("a flipped bit", flipped),
        ("another check", unchecked),
        ("a lost end", good[..good.len() - 1].to_vec()),
        ("more than there was", [good.as_slice(), b"\n"].concat()),
        ("another name's file", std::fs::read(tag(2)).unwrap()),
    ];
    for (what, bytes) in damages {
        // The store's files are read-only: what rots is not written, so neither is this.
        std::fs::remove_file(tag(1)).unwrap();
        std::fs::write(tag(1), bytes).unwrap();

        let refused = daemon.bond(&["resolve", "team/app:1"]);
        assert_eq!(refused.code(), Some(Code::Corrupt), "{what}: {}", refused.told());
        refused.says(&["team/app:1", "damaged", "put"]);
        daemon.bond(&["resolve", "team/app:2"]).ok();
        daemon.bond(&["verify", &one.to_string()]).ok();
        daemon.bond(&["ls"]).ok();

        put_named(&daemon, "default", b"one", "team/app:1");
        assert_eq!(std::fs::read(tag(1)).unwrap(), good, "{what}");
        daemon.bond(&["resolve", "team/app:1"]).ok();
    }
}

#[test]
fn names_that_are_gone_leave_no_folder() {
    let daemon = Daemon::start();
    let names = |path: &str| daemon.store().join("names/default").join(path);
    let deep = vec!["d"; 100].join("/");
    put_named(&daemon, "default", b"deep", &format!("{deep}:1"));
    put_named(&daemon, "default", b"other", "d/d/other:1");
    assert!(names(&deep).join("_tags/1").exists());

    daemon.bond(&["retire", &format!("{deep}:1")]).ok();

    assert!(!names("d/d/d").exists(), "folders of nothing");
    assert!(names("d/d/other/_tags/1").exists(), "a folder in use");
    daemon.bond(&["resolve", "d/d/other:1"]).ok();
    put_named(&daemon, "default", b"deep", &format!("{deep}:1"));
    daemon.bond(&["resolve", &format!("{deep}:1")]).ok();
}

#[test]
fn names_that_look_like_something_else_are_told_apart() {
    let daemon = Daemon::start();
    let folder = scratch();
    let path = folder.path().join("file");
    std::fs::write(&path, b"bytes").unwrap();
    // It could be the beginning of a digest.
    daemon.bond(&["put", &file(&path), "--name", "sha256:dead"]).fails(Code::NameInvalid);
    // It begins like a handle, which holds no colon.
    daemon.bond(&["put", &file(&path), "--name", "artifacts/web:1"]).ok();
    daemon.bond(&["resolve", "artifacts/web:1"]).ok();
}

/// A layer that may be absent, and an image that has it.
fn with_foreign_layer(daemon: &Daemon) -> (String, String, Digest, Digest) {
    let mut layout = Layout::default();
    let config = layout.config("foreign");
    let layer = layout.blob(types::FOREIGN_LAYER, noise("not for everybody", 5000));
    let own = layout.blob(types::LAYER, noise("for all", 5000));
    let root = layout.manifest(&config, &[layer.clone(), own]);
    layout.list(&root);
    let folder = |name: &str| daemon.folder().join(name);
    layout.write(&folder("whole"));
    layout.lose(&layer).write(&folder("torso"));
    (oci(&folder("whole")), oci(&folder("torso")), digest(&root), digest(&layer))
}

#[test]
fn a_layer_that_is_lost_is_not_one_that_was_never_there() {
    let daemon = Daemon::start();
    let (whole, torso, root, layer) = with_foreign_layer(&daemon);
    let reference = root.to_string();
    let record = daemon.store().join(format!("absent/default/sha256/{}", root.hex()));
    let layout = daemon.store().join(format!("artifacts/default/sha256/{}", root.hex()));
    let missing = || {
        is_damaged(&daemon, &["verify", &reference], &layer.hex());
        // Told once or often: it stays what it is.
        daemon.bond(&["resolve", &reference]).fails(Code::Corrupt);
    };

    // Never there: an artifact that says so, as long as the record stands.
    let put = daemon.bond(&["put", &torso, "--format", "json"]).ok().json();
    assert_eq!(put["absent"], json!([layer.to_string()]));
    daemon.bond(&["verify", &reference]).ok();
    let bytes = std::fs::read(&record).unwrap();
    // Gone, cut, empty, and another artifact's.
    for damage in [
        None,
        Some(bytes[..bytes.len() - 1].to_vec()),
        Some(Vec::new()),
        Some(String::from_utf8_lossy(&bytes).replace('a', "b").into()),
    ] {
        std::fs::remove_file(&record).unwrap();
        if let Some(damage) = damage {
            std::fs::write(&record, damage).unwrap();
        }
        is_damaged(&daemon, &["verify", &reference], &layer.hex());
        let _ = std::fs::remove_file(&record);
        std::fs::write(&record, &bytes).unwrap();
        daemon.bond(&["verify", &reference]).ok();
    }

    // Brought: from now on it belongs there, and its loss is damage.
    let put = daemon.bond(&["put", &whole, "--format", "json"]).ok().json();
    assert_eq!(put.get("absent"), None);
    assert!(!record.exists());
    daemon.bond(&["verify", &reference]).ok();
    std::fs::remove_file(layout.join(blob_file(&layer))).unwrap();
    std::fs::remove_file(daemon.store().join(blob_file(&layer))).unwrap();
    missing();
    // To put it without the layer is no permission to lose it.
    daemon.bond(&["put", &torso]).fails(Code::Corrupt).says(&[layer.hex()]);
    missing();
    daemon.bond(&["put", &whole]).ok();
    daemon.bond(&["verify", &reference]).ok();

    // Retired, it may come again without.
    daemon.bond(&["retire", &reference]).ok();
    daemon.bond(&["put", &torso]).ok();
    daemon.bond(&["verify", &reference]).ok();
    assert!(record.exists());
    daemon.bond(&["retire", &reference]).ok();
    assert!(!record.exists());
}

#[test]
fn a_layer_that_is_needed_once_may_not_be_absent_elsewhere() {
    let daemon = Daemon::start();
    for foreign_first in [true, false] {
        let mut layout = Layout::default();
        let bytes = noise("needed and not", 5000);
        let types = [types::FOREIGN_LAYER, types::LAYER];
        let images = types.map(|layer_type| {
            let config = layout.config(layer_type);
            let layer = layout.blob(layer_type, &bytes);
            layout.manifest(&config, &[layer])
        });
        let [foreign, own] = images;
        let images = if foreign_first { [foreign, own] } else { [own, foreign] };
        let root = layout.index(&images);
        layout.list(&root);
        let folder = |name: &str| daemon.folder().join(format!("{name}-{foreign_first}"));
        layout.write(&folder("whole"));
        let layer = Digest::of(&bytes);
        layout.lose(&json!({ "digest": layer.to_string() })).write(&folder("torso"));

        daemon.bond(&["put", &oci(&folder("torso"))]).fails(Code::Missing);
        daemon.bond(&["put", &oci(&folder("whole"))]).ok();
        daemon.bond(&["retire", &digest(&root).to_string()]).ok();
    }
}

#[test]
fn what_others_hold_shows_in_no_refusal() {
    let folder = scratch();
    let disk =
        std::sync::Arc::new(cas::disk::RealDisk::open(&folder.path().join("store")).unwrap());
    let options = cas::Options { min_free: 1 << 20, quota: 10 << 20, ..cas::Options::default() };
    let store = cas::Store::open(disk, options).unwrap();
    let [one, two] = ["one", "two"].map(|name| name.parse().unwrap());
    let put = |of, bytes: &[u8]| {
        let draft = store.draft(of).unwrap();
        let taken = draft.take_file(None, None, cas::Source::Stream(&mut &*bytes))?;
        draft.seal_file("file", None, None, &taken, &[], &|_| true).map(drop)
    };
    // A stream counts once, whoever has its bytes already.
    let held = noise("held", 6 << 20);
    put(&one, &held).unwrap();
    put(&two, &held).unwrap();
    assert!(matches!(put(&two, &noise("more", 6 << 20)), Err(cas::Error::Quota { .. })));

    // Who has not the bytes learns nothing from what becomes of a wrong claim.
    let three = "three".parse().unwrap();
    let store = || {
        let disk = cas::disk::RealDisk::open(&folder.path().join("unbounded")).unwrap();
        let options = cas::Options { min_free: 1 << 20, ..cas::Options::default() };
        cas::Store::open(std::sync::Arc::new(disk), options).unwrap()
    };
    let store = store();
    let draft = store.draft(&one).unwrap();
    let taken = draft.take_file(None, None, cas::Source::Stream(&mut &*held)).unwrap();
    draft.seal_file("file", None, None, &taken, &[], &|_| true).unwrap();
    let draft = store.draft(&three).unwrap();
    for claimed in [1_u64 << 50, u64::MAX / 2, held.len() as u64, held.len() as u64 + 1] {
        let told = [Digest::of(&held), Digest::of(b"nobody has this")].map(|digest| {
            let wrong = &b"a few bytes"[..];
            let taken = draft.take(&digest, claimed, cas::Source::Stream(&mut &*wrong));
            taken.map(drop).map_err(|error| std::mem::discriminant(&error))
        });
        assert_eq!(told[0], told[1], "{claimed}");
        assert!(told[0].is_err());
    }
    // And nothing of it stays counted.
    drop(draft);
    let draft = store.draft(&three).unwrap();
    draft.take(&Digest::of(&held), held.len() as u64, cas::Source::Stream(&mut &*held)).unwrap();
}

#[test]
fn a_store_can_share_nothing_between_workspaces() {
    let home = Home::new("[store]\ndedup = \"workspace\"\n");
    let mut daemon = home.start();
    let digest = put_named(&daemon, "one", b"the same", "app:1");
    put_named(&daemon, "one", b"the same", "app:2");
    put_named(&daemon, "two", b"the same", "app:1");
    let file = Digest::of(b"the same");
    let inode = |workspace: &str| {
        let of: PathBuf = daemon.store().join(format!("artifacts/{workspace}/sha256"));
        std::fs::metadata(of.join(digest.hex()).join(blob_file(&file))).unwrap()
    };
    let (one, two) = (inode("one"), inode("two"));
    assert_ne!(one.ino(), two.ino());
    // The pool, the layout, and the repository that lists it.
    assert_eq!((one.nlink(), two.nlink()), (3, 3));

    // Damage in one is nothing to the other; healing and collecting work as ever.
    let blob = daemon.store().join("blobs/one/sha256").join(file.hex());
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, b"rotten..").unwrap();
    std::fs::remove_file(daemon.store().join(format!(
        "artifacts/one/sha256/{}/{}",
        digest.hex(),
        blob_file(&file)
    )))
    .unwrap();
    is_damaged(&daemon, &["--workspace", "one", "verify", "app:1"], &file.hex());
    daemon.bond(&["--workspace", "two", "verify", "app:1"]).ok();
    put_named(&daemon, "one", b"the same", "app:1");
    daemon.bond(&["--workspace", "one", "verify", "app:1"]).ok();
    daemon.bond(&["--workspace", "one", "retire", "app:1"]).ok();
    let freed = daemon.bond(&["gc", "--format", "json"]).ok().json();
    assert_eq!(freed["n_blobs"], 3, "{freed}");
    daemon.bond(&["--workspace", "two", "verify", "app:1"]).ok();

    // What a store shares is settled when it is made.
    daemon.stop();
    daemon.start_again();
    daemon.bond(&["--workspace", "two", "verify", "app:1"]).ok();
    daemon.stop();
    daemon.home().configure("[store]\ndedup = \"store\"\n");
    let refused = tests::run(&mut daemon.home().bonded());
    assert_eq!(refused.code(), Some(Code::Config), "{}", refused.told());
    refused.says(&["dedup", "workspace"]);
}
