//! The keeper's work: what is there, who holds it, ending a hold, taking back what nobody holds.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cas::digest::Digest;
use serde_json::{Value, json};
use tests::layout::{blob_file, digest, noise, types};
use tests::{Daemon, Layout, file, oci, tree};
use wire::Code;

/// Puts a file with these bytes.
#[track_caller]
fn put_bytes(daemon: &Daemon, workspace: &str, title: &str, bytes: &[u8]) -> Digest {
    let path = daemon.folder().join(format!("{workspace}-{title}"));
    std::fs::write(&path, bytes).unwrap();
    let words = ["--workspace", workspace, "put", &file(&path), "--title", title];
    let digest = daemon.bond(&words).ok().digest();
    std::fs::remove_file(path).unwrap();
    digest
}

/// Two images that share a layer, each named after what it is.
struct Pair {
    shared: Value,
    one: Value,
    two: Value,
    /// Bytes of what only the first one has.
    own: u64,
}

fn pair(daemon: &Daemon) -> (Pair, String) {
    let mut layout = Layout::default();
    let shared = layout.blob(types::LAYER, noise("shared by two", 100_000));
    let image = |layout: &mut Layout, seed: &str| {
        let parts = [layout.config(seed), layout.blob(types::LAYER, noise(seed, 30_000))];
        let [config, own] = parts.clone();
        let root = layout.manifest(&config, &[shared.clone(), own]);
        let sizes = parts.iter().chain([&root]).map(|part| part["size"].as_u64().unwrap());
        (sizes.sum(), root)
    };
    let ((own, one), (_, two)) = (image(&mut layout, "one"), image(&mut layout, "two"));
    layout.list_as(&one, "one").list_as(&two, "two");
    let folder = daemon.folder().join("pair");
    layout.write(&folder);
    (Pair { shared, one, two, own }, oci(&folder))
}

/// Damages a file of the store where it lies.
#[track_caller]
fn rot(path: &Path) {
    use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 10).unwrap();
    file.write_all_at(&[byte[0] ^ 1], 10).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o444)).unwrap();
}

#[test]
fn a_listing_shows_everything_once_page_by_page() {
    let daemon = Daemon::start();
    assert_eq!(daemon.bond(&["ls", "--format", "json"]).ok().json(), json!({ "artifacts": [] }));
    let put = |n: usize| put_bytes(&daemon, "default", &format!("t{n}"), &noise("ls", n));
    let all: BTreeSet<Digest> = (0..30).map(put).collect();
    put_bytes(&daemon, "other", "elsewhere", b"elsewhere");

    let listed = daemon.bond(&["ls", "--format", "json"]).ok().json();
    let digests = |list: &Value| -> Vec<Digest> {
        list["artifacts"].as_array().unwrap().iter().map(digest).collect()
    };
    assert_eq!(digests(&listed), Vec::from_iter(all.iter().copied()));
    let [first, ..] = &listed["artifacts"].as_array().unwrap()[..] else { panic!("empty") };
    assert!(first["title"].as_str().unwrap().starts_with('t'), "{first}");
    assert!(first["sealed_at"].as_u64().unwrap() > 1_700_000_000, "{first}");

    for limit in [1, 7, 29, 30, 31] {
        let mut connection = daemon.connect();
        let (mut paged, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/workspaces/default/artifacts?limit={limit}{after}");
            let page = connection.get(&path).json();
            assert!(digests(&page).len() <= limit);
            paged.extend(digests(&page));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        assert_eq!(paged, Vec::from_iter(all.iter().copied()), "{limit} a page");
    }
    let table = daemon.bond(&["ls", "--no-trunc"]).ok();
    assert!(all.iter().all(|digest| table.text().contains(&digest.to_string())));
    assert!(!table.text().contains("elsewhere"));
}

#[test]
fn what_it_is_what_hangs_on_it_and_who_holds_it() {
    let daemon = Daemon::start();
    let (Pair { shared, one, two, .. }, source) = pair(&daemon);
    let put = |workspace: &str, of: &str| {
        let (source, name) = (format!("{source}:{of}"), format!("app/{of}:v1"));
        daemon.bond(&["--workspace", workspace, "put", &source, "--name", &name]).ok();
    };
    put("default", "one");
    put("default", "two");
    put("other", "one");

    let shown = daemon.bond(&["show", "app/one:v1", "--format", "json"]).ok().json();
    let members: Vec<Digest> = shown["members"]
        .as_array()
        .unwrap()
        .iter()
        .map(|member| digest(&member["descriptor"]))
        .collect();
    assert_eq!(members.last(), Some(&digest(&one)), "the root is last");
    assert_eq!(BTreeSet::from_iter(members).len(), 4);
    assert_eq!(shown["artifact"]["names"], json!(["app/one:v1"]));
    assert_eq!(shown["artifact"]["n_blobs"], 4);
    let text = daemon.bond(&["show", "app/one:v1"]).ok();
    for expected in [one["digest"].as_str().unwrap(), types::IMAGE_MANIFEST, "app/one:v1"] {
        assert!(text.text().contains(expected), "{}", text.told());
    }
    let drawn = daemon.bond(&["tree", "app/two:v1", "--no-trunc"]).ok();
    for expected in [&shared["digest"], &two["digest"]] {
        assert!(drawn.text().contains(expected.as_str().unwrap()), "{}", drawn.told());
    }
    assert_eq!(drawn.lines().len(), 4, "{}", drawn.told());

    let holders = |workspace: &str, of: &Value| -> BTreeSet<String> {
        let of = of["digest"].as_str().unwrap();
        let words = ["--workspace", workspace, "why", of, "--format", "json"];
        let answer = daemon.bond(&words).ok().json();
        let holders = answer["holders"].as_array().unwrap().iter();
        holders.map(|holder| holder["artifact"].as_str().unwrap().to_owned()).collect()
    };
    let text = |value: &Value| value["digest"].as_str().unwrap().to_owned();
    assert_eq!(holders("default", &shared), BTreeSet::from([text(&one), text(&two)]));
    assert_eq!(holders("default", &one), BTreeSet::from([text(&one)]));
    // Another workspace's holds are not told.
    assert_eq!(holders("other", &shared), BTreeSet::from([text(&one)]));
    for unknown in [digest(&two), Digest::of(b"never seen")] {
        let words = ["--workspace", "other", "why", &unknown.to_string()];
        daemon.bond(&words).fails(Code::NotFound);
    }
}

#[test]
fn verify_gives_one_verdict_for_each_and_putting_again_heals() {
    let daemon = Daemon::start();
    let (Pair { shared, one, two, .. }, source) = pair(&daemon);
    let put = |of: &str| daemon.bond(&["put", &format!("{source}:{of}"), "--format", "json"]);
    put("one").ok();
    put("two").ok();
    let whole = put_bytes(&daemon, "default", "whole", b"whole");
    let all = daemon.bond(&["verify", "--all"]).ok();
    let n_whole = all.lines().iter().filter(|line| line.starts_with("whole  ")).count();
    assert_eq!(n_whole, 3, "{}", all.told());
    let listed = daemon.bond(&["ls", "--format", "json"]).ok().json();
    for artifact in listed["artifacts"].as_array().unwrap() {
        assert!(artifact["verified_at"].as_u64().is_some(), "{artifact}");
    }

    // One inode, two layouts: both are damaged and both are told, by the blob's name.
    rot(&daemon.store().join(blob_file(&digest(&shared))));
    let all = daemon.bond(&["verify", "--all", "--format", "json"]);
    assert_eq!(all.code(), Some(Code::Corrupt), "{}", all.told());
    let verdicts = all.json();
    for verdict in verdicts["verdicts"].as_array().unwrap() {
        let damaged = verdict["digest"] != whole.to_string();
        assert_eq!(verdict["error"]["code"] == "corrupt", damaged, "{verdict}");
        if damaged {
            assert_eq!(verdict["error"]["files"], json!([blob_file(&digest(&shared))]));
        }
    }
    let reference = one["digest"].as_str().unwrap();
    let hex = digest(&shared).hex();
    for words in [
        &["resolve", reference][..],
        &["get", reference, &oci(&daemon.folder().join("never"))],
        &["get", reference, "--blob", shared["digest"].as_str().unwrap(), "--stdout"],
    ] {
        let run = daemon.bond(words);
        assert_eq!(run.code(), Some(Code::Corrupt), "{}", run.told());
        assert!(run.err.contains(&hex), "{}", run.told());
        // A stream may have begun; it must not be whole.
        assert!(run.out.len() < 100_000, "it was delivered: {}", run.told());
    }
    assert!(!daemon.folder().join("never").exists());

    // The same bytes once more, and every layout that shared the rotten file is whole again.
    let healed = put("one").ok().json();
    assert!(healed["n_healed"].as_u64().unwrap() > 0, "{healed}");
    daemon.bond(&["verify", "--all"]).ok();
    for root in [&one, &two] {
        let path = daemon.bond(&["resolve", root["digest"].as_str().unwrap()]).ok();
        tree::blobs(Path::new(path.lines()[0]));
    }
}

#[test]
fn retire_ends_one_workspaces_hold_and_nothing_else() {
    let daemon = Daemon::start();
    let (Pair { one, two, own, .. }, source) = pair(&daemon);
    let put = |workspace: &str, of: &str| {
        let source = format!("{source}:{of}");
        let words = ["--workspace", workspace, "put", &source, "--name", "app:1", "--name", "b:2"];
        daemon.bond(&words).ok()
    };
    put("default", "two");
    put("default", "one");
    put("other", "one");
    let reference = one["digest"].as_str().unwrap();
    let path = daemon.bond(&["resolve", "app:1"]).ok().lines()[0].to_owned();

    let retired = daemon.bond(&["retire", "app:1", "--format", "json"]).ok().json();

    assert_eq!(retired["digest"], reference);
    assert_eq!(retired["names"], json!(["app:1", "b:2"]));
    // What another workspace holds is not told.
    assert_eq!(retired["released"], own);
    assert!(!Path::new(&path).exists());
    for gone in [reference, "app:1", "b:2"] {
        for verb in ["resolve", "verify", "show", "tree", "retire"] {
            let run = daemon.bond(&[verb, gone]);
            assert_eq!(run.code(), Some(Code::NotFound), "{}", run.told());
        }
    }
    assert_eq!(daemon.bond(&["gc", "--format", "json"]).ok().json()["n_blobs"], 0);
    daemon.bond(&["--workspace", "other", "verify", reference, "app:1"]).ok();
    daemon.bond(&["verify", two["digest"].as_str().unwrap()]).ok();

    // The last hold: what is released is what gc then frees, and not what others share.
    let words = ["--workspace", "other", "retire", reference, "--format", "json"];
    let last = daemon.bond(&words).ok().json();
    assert_eq!(last["released"], own + 100_000, "it was all that this workspace had");
    let predicted = daemon.bond(&["gc", "--dry-run", "--format", "json"]).ok().json();
    let freed = daemon.bond(&["gc", "--format", "json"]).ok().json();
    assert_eq!((&predicted["bytes"], &freed["bytes"]), (&json!(own), &json!(own)));
    daemon.bond(&["verify", "--all"]).ok();

    // And all over again.
    put("default", "one");
    daemon.bond(&["verify", "--all"]).ok();
}

#[test]
fn gc_frees_what_it_predicted() {
    let daemon = Daemon::start();
    let (_, source) = pair(&daemon);
    let kept = put_bytes(&daemon, "default", "kept", &noise("kept", 50_000));
    let mut gone: Vec<String> = (0..100)
        .map(|n| put_bytes(&daemon, "default", &format!("t{n}"), &noise("gc", 100 + n)).to_string())
        .collect();
    for of in ["one", "two"] {
        gone.push(daemon.bond(&["put", &format!("{source}:{of}")]).ok().digest().to_string());
    }
    let empty = daemon.bond(&["gc", "--dry-run", "--format", "json"]).ok().json();
    assert_eq!((&empty["n_blobs"], &empty["bytes"]), (&json!(0), &json!(0)));
    for reference in &gone {
        daemon.bond(&["retire", reference]).ok();
    }
    let stored = || {
        let blobs = tree::files(&daemon.store().join("blobs"));
        (blobs.len() as u64, blobs.values().map(|bytes| bytes.len() as u64).sum::<u64>())
    };

    let before = stored();
    let predicted = daemon.bond(&["gc", "--dry-run", "--format", "json"]).ok().json();
    assert_eq!(stored(), before, "a dry run deletes nothing");
    let freed = daemon.bond(&["gc", "--format", "json"]).ok().json();
    let after = stored();

    assert_eq!(predicted["dry_run"], true);
    assert_eq!((&predicted["n_blobs"], &predicted["bytes"]), (&freed["n_blobs"], &freed["bytes"]));
    assert_eq!(freed["n_blobs"], before.0 - after.0);
    assert_eq!(freed["bytes"], before.1 - after.1);
    assert_eq!(after.0, 3, "the file that was kept, its manifest, the empty config");
    daemon.bond(&["verify", &kept.to_string()]).ok();
}

#[test]
fn who_reads_while_it_is_retired_reads_to_the_end() {
    let daemon = Daemon::start();
    let bytes = noise("read on", 8 << 20);
    let artifact = put_bytes(&daemon, "default", "large", &bytes);
    let blob = Digest::of(&bytes);
    let descriptor = daemon.connect().receive("default", &artifact, &blob).unwrap();
    let mut connection = daemon.connect();
    let path = format!("/v1/workspaces/default/artifacts/{artifact}/blobs/{blob}");
    connection.send(tests::raw::head("GET", &path, 0)).unwrap();
    // The answer has begun when its first byte is here.
    let mut first = [0];
    connection.stream.read_exact(&mut first).unwrap();

    daemon.bond(&["retire", &artifact.to_string()]).ok();
    let freed = daemon.bond(&["gc", "--format", "json"]).ok().json();
    assert_eq!(freed["n_blobs"], 3, "{freed}");

    let mut read = Vec::new();
    std::fs::File::from(descriptor).read_to_end(&mut read).unwrap();
    assert!(read == bytes, "a descriptor outlives the hold");
    let answer = connection.answer();
    assert!(answer.is_whole && answer.body == bytes, "a stream does so too");
}

#[test]
fn gc_is_safe_while_puts_and_gets_run() {
    let daemon = Daemon::start();
    let (Pair { one, .. }, source) = pair(&daemon);
    daemon.bond(&["put", &format!("{source}:one")]).ok();
    let kept = one["digest"].as_str().unwrap();
    let until = Instant::now() + Duration::from_secs(if tests::is_long() { 120 } else { 6 });
    let over = AtomicBool::new(false);
    let counts = std::thread::scope(|scope| {
        let (daemon, source, over) = (&daemon, &source, &over);
        // What is put was retired a moment ago, so gc wants the same blobs that the put finds.
        let puts = (0..2).map(|thread| {
            scope.spawn(move || {
                let workspace = format!("w{thread}");
                let mut n = 0;
                while Instant::now() < until {
                    for of in ["one", "two"] {
                        let source = format!("{source}:{of}");
                        let words = ["--workspace", &workspace, "put", &source];
                        let reference = daemon.bond(&words).ok().digest().to_string();
                        daemon.bond(&["--workspace", &workspace, "verify", &reference]).ok();
                        daemon.bond(&["--workspace", &workspace, "retire", &reference]).ok();
                    }
                    n += 1;
                }
                n
            })
        });
        let puts: Vec<_> = puts.collect();
        let gets = scope.spawn(move || {
            let mut n = 0;
            while Instant::now() < until {
                let target = daemon.folder().join(format!("got-{n}"));
                daemon.bond(&["get", kept, &oci(&target)]).ok();
                std::fs::remove_dir_all(target).unwrap();
                n += 1;
            }
            n
        });
        let collecting = scope.spawn(move || {
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                n += daemon.bond(&["gc", "--format", "json"]).ok().json()["n_blobs"]
                    .as_u64()
                    .unwrap();
            }
            n
        });
        let mut counts: Vec<u64> = puts.into_iter().map(|thread| thread.join().unwrap()).collect();
        counts.push(gets.join().unwrap());
        over.store(true, Ordering::Relaxed);
        counts.push(collecting.join().unwrap());
        counts
    });
    assert!(counts.iter().all(|n| *n > 0), "somebody did nothing: {counts:?}");
    daemon.bond(&["verify", "--all"]).ok();
    // In the end only the kept one holds anything.
    daemon.bond(&["gc"]).ok();
    assert_eq!(tree::names(&daemon.store().join("blobs")).len(), 4);
    assert!(tree::names(&daemon.store().join("staging")).is_empty());
}

#[test]
fn the_doctor_says_what_is_wrong_and_what_to_do() {
    let mut daemon = Daemon::start();
    let artifact = put_bytes(&daemon, "default", "patient", &noise("patient", 1000)).to_string();
    let healthy = daemon.bond(&["doctor", "--format", "json"]).ok().json();
    let findings = healthy["findings"].as_array().unwrap();
    assert!(findings.len() > 4 && findings.iter().all(|f| f["level"] != "problem"), "{healthy}");

    rot(&daemon.store().join(blob_file(&Digest::of(&noise("patient", 1000)))));
    daemon.bond(&["verify", &artifact]);
    let ill = daemon.bond(&["doctor", "--format", "json"]);
    let findings = ill.json()["findings"].clone();
    let kept = findings.as_array().unwrap().iter().find(|f| f["what"] == "quarantine").unwrap();
    assert!(kept["text"].as_str().unwrap().starts_with("1 "), "{kept}");

    daemon.stop();
    let dead = daemon.bond(&["doctor"]);
    assert_eq!(dead.code(), Some(Code::Unreachable), "{}", dead.told());
    assert!(dead.text().contains("hint:"), "{}", dead.told());
    daemon.bond(&["ls"]).fails(Code::Unreachable).says(&["hint:", "socket"]);
}
