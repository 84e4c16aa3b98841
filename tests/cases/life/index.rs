//! The index is derived: deleted, damaged or stale, it is built again and nobody notices.

use std::path::Path;

use cas::digest::Digest;
use tests::layout::noise;
use tests::{Daemon, file, tree};
use wire::Code;

/// Puts a file and returns its bytes' digest and the artifact's.
#[track_caller]
fn put(daemon: &Daemon, title: &str) -> (Digest, Digest) {
    let (path, bytes) = (daemon.folder().join(title), noise(title, 2_000));
    std::fs::write(&path, &bytes).unwrap();
    (Digest::of(&bytes), daemon.bond(&["put", &file(&path)]).ok().digest())
}

/// Every look-up that the index answers gives what the layouts say.
#[track_caller]
fn answers(daemon: &Daemon, there: &[(Digest, Digest)], gone: &[(Digest, Digest)], what: &str) {
    for (of_file, artifact) in there {
        let path = daemon.bond(&["resolve", &of_file.to_string()]);
        let found = path.text().trim().ends_with(&artifact.hex());
        assert!(found, "an index that was {what}: {}", path.told());
    }
    for (of_file, artifact) in gone {
        for reference in [of_file, artifact] {
            let run = daemon.bond(&["resolve", &reference.to_string()]);
            assert_eq!(run.code(), Some(Code::NotFound), "{what}: {}", run.told());
        }
    }
    let listed = daemon.bond(&["ls", "--format", "json"]).ok().json();
    let mut expected: Vec<String> =
        there.iter().map(|(_, artifact)| artifact.to_string()).collect();
    expected.sort();
    let digests: Vec<&str> = listed["artifacts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|artifact| artifact["digest"].as_str().unwrap())
        .collect();
    assert_eq!(digests, expected, "{what}");
    for artifact in listed["artifacts"].as_array().unwrap() {
        let title = artifact["title"].as_str();
        assert!(title.is_some_and(|t| t.starts_with('t')), "{what}: {artifact}");
    }
    daemon.bond(&["verify", "--all"]).ok();
    let doctor = daemon.bond(&["doctor", "--format", "json"]).ok().json();
    let index = doctor["findings"].as_array().unwrap().iter().find(|f| f["what"] == "index");
    assert_eq!(index.unwrap()["level"], "ok", "{what}: {doctor}");
}

#[test]
fn a_deleted_damaged_or_stale_index_builds_itself_again() {
    let mut daemon = Daemon::start();
    let mut there: Vec<(Digest, Digest)> = (0..5).map(|n| put(&daemon, &format!("t{n}"))).collect();
    let mut gone = Vec::new();
    let index = daemon.store().join("index");
    daemon.stop();
    let old = daemon.folder().join("old-index");
    tree::copy(&index, &old);
    let replace_by_old = || {
        std::fs::remove_dir_all(&index).unwrap();
        tree::copy(&old, &index);
    };
    let overwrite = |with: &[u8]| {
        let names = tree::names(&index);
        assert!(!names.is_empty());
        names.iter().for_each(|name| std::fs::write(index.join(name), with).unwrap());
    };
    type Damage<'a> = (&'a str, bool, Box<dyn Fn(&Path) + 'a>);
    let damages: [Damage<'_>; 9] = [
        ("untouched", true, Box::new(|_| {})),
        ("deleted", true, Box::new(|index| std::fs::remove_dir_all(index).unwrap())),
        ("deleted after a kill", false, Box::new(|index| std::fs::remove_dir_all(index).unwrap())),
        ("overwritten", true, Box::new(|_| overwrite(b"not an index"))),
        ("emptied", true, Box::new(|_| overwrite(b""))),
        ("overwritten after a kill", false, Box::new(|_| overwrite(&noise("rot", 100_000)))),
        ("stale after a kill", false, Box::new(|_| replace_by_old())),
        ("stale after a clean stop", true, Box::new(|_| replace_by_old())),
        (
            "a file in place of its folder",
            true,
            Box::new(|index| {
                std::fs::remove_dir_all(index).unwrap();
                std::fs::write(index, "in the way").unwrap();
            }),
        ),
    ];
    for (n, (what, is_clean, damage)) in damages.iter().enumerate() {
        daemon.start_again();
        there.push(put(&daemon, &format!("t-more-{n}")));
        let last = there.remove(0);
        daemon.bond(&["retire", &last.1.to_string()]).ok();
        gone.push(last);
        if *is_clean {
            daemon.stop()
        } else {
            daemon.kill()
        }

        damage(&index);

        daemon.start_again();
        answers(&daemon, &there, &gone, what);
        daemon.stop();
    }
}
