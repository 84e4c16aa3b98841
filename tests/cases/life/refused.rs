//! Puts that are refused: in the middle, at their end, or before they begin. Whoever puts is told,
//! and nothing is left.

use cas::digest::Digest;
use serde_json::json;
use tests::layout::{digest, noise};
use tests::raw::{head, seal};
use tests::{Daemon, Layout, file, tree};
use wire::Code;
use wire::api::MOST_NAMES;

#[test]
fn a_stream_that_is_refused_in_the_middle_ends_and_says_why() {
    let daemon = Daemon::with("[store]\nquota = \"16 MiB\"\n");
    let large = daemon.folder().join("large");
    std::fs::write(&large, noise("large", 48 << 20)).unwrap();
    // The answer may come before, while or after the client finds that nobody reads any more.
    for _ in 0..40 {
        daemon.bond_piped(&["put", "-"], &large).fails(Code::Quota).says(&["quota"]);
    }
    // A stream whose writer has stopped and holds on to its pipe.
    let (read, write) = nix::unistd::pipe().unwrap();
    let writing = std::thread::spawn(move || {
        let mut pipe = std::fs::File::from(write);
        let _ = std::io::Write::write_all(&mut pipe, &noise("stuck", 24 << 20));
        pipe
    });
    daemon.bond_fed(&["put", "-"], read).fails(Code::Quota);
    drop(writing.join().unwrap());
    assert!(tree::store(daemon.store()).is_empty(), "something is left");
}

/// What stands in the store for workspaces: folders count.
fn workspaces(daemon: &Daemon) -> Vec<String> {
    let entries = ["artifacts", "names"]
        .iter()
        .flat_map(|part| std::fs::read_dir(daemon.store().join(part)).unwrap());
    entries.map(|entry| entry.unwrap().path().display().to_string()).collect()
}

#[test]
fn a_refused_put_leaves_nothing_not_even_a_folder() {
    let daemon = Daemon::with("[store]\nquota = \"1 MiB\"\n");
    let mut connection = daemon.connect();
    let bytes = noise("refused", 10_000);
    let files = "/v1/workspaces/team/files?title=x";
    let other = Digest::of(b"other");
    let many = vec!["a:1"; MOST_NAMES + 1].join(",");
    let rows = [
        (format!("{files}&digest={other}"), bytes.clone(), "mismatch"),
        (format!("{files}&size=9999"), bytes.clone(), "wrong_size"),
        (format!("{files}&names=A:1"), bytes.clone(), "name_invalid"),
        (format!("{files}&names={many}"), bytes.clone(), "usage"),
        (files.to_owned(), noise("over", 2 << 20), "quota"),
    ];
    for (path, body, code) in &rows {
        let answer = connection.bring("POST", path, body);
        assert_eq!(answer.code(), *code, "{path}: {answer:?}");
        connection = daemon.connect();
    }
    let mut layout = Layout::default();
    let config = layout.config("refused");
    let root = layout.manifest(&config, &[]);
    for (is_whole, n_names, code) in [(false, 1, "missing"), (true, MOST_NAMES + 1, "usage")] {
        let draft = connection.draft("team");
        for blob in [&root, &config].into_iter().take(1 + usize::from(is_whole)) {
            let path = format!("/v1/drafts/{draft}/blobs/{}?size={}", digest(blob), blob["size"]);
            assert_eq!(connection.bring("PUT", &path, layout.bytes(blob)).status, 200);
        }
        let names: Vec<String> = (0..n_names).map(|n| format!("a:{n}")).collect();
        let body = json!({ "root": root, "names": names }).to_string();
        let answer = connection.bring("POST", &format!("/v1/drafts/{draft}/seal"), body);
        assert_eq!(answer.code(), code, "{answer:?}");
        let _ = connection.ask("DELETE", &format!("/v1/drafts/{draft}"));
    }
    // One that was opened and never ended.
    let draft = connection.draft("team");
    assert_eq!(connection.ask("DELETE", &format!("/v1/drafts/{draft}")).status, 204);

    assert_eq!(workspaces(&daemon), Vec::<String>::new());
    assert!(tree::store(daemon.store()).is_empty(), "{:?}", tree::store(daemon.store()));
    // The twin that is good leaves a workspace.
    let draft = connection.draft("team");
    for blob in [&config, &root] {
        let path = format!("/v1/drafts/{draft}/blobs/{}?size={}", digest(blob), blob["size"]);
        assert_eq!(connection.bring("PUT", &path, layout.bytes(blob)).status, 200);
    }
    let sealed = connection.bring("POST", &format!("/v1/drafts/{draft}/seal"), seal(&root));
    assert_eq!(sealed.status, 201, "{sealed:?}");
    assert!(!workspaces(&daemon).is_empty());
}

#[test]
fn a_put_gives_as_many_names_as_it_may_and_no_more() {
    let daemon = Daemon::start();
    let path = daemon.folder().join("tool");
    std::fs::write(&path, "named").unwrap();
    let mut layout = Layout::default();
    let root = layout.image("named");
    layout.list(&root);
    layout.write(&daemon.folder().join("layout"));
    let oci = tests::oci(&daemon.folder().join("layout"));
    for (source, repository) in [(file(&path), "file"), (oci, "layout")] {
        let names: Vec<String> = (0..=MOST_NAMES).map(|n| format!("{repository}:{n}")).collect();
        let put = |n: usize| {
            let mut words = vec!["put", &source];
            for name in &names[..n] {
                words.extend(["--name", name]);
            }
            daemon.bond(&words)
        };
        put(MOST_NAMES + 1).fails(Code::Usage).says(&["64"]);
        daemon.bond(&["resolve", &names[0]]).fails(Code::NotFound);
        let digest = put(MOST_NAMES).ok().digest().to_string();
        for name in &names[..MOST_NAMES] {
            assert!(daemon.bond(&["resolve", name]).ok().text().contains(&digest[7..]));
        }
    }
    // A stream takes several names as well.
    daemon.bond_piped(&["put", "-", "--name", "a:1", "--name", "a:2"], &path).ok();
    daemon.bond(&["resolve", "a:1"]).ok();
    daemon.bond(&["resolve", "a:2"]).ok();
}

/// A refusal that needs no body still takes it, so that the connection can be used again.
#[test]
fn a_refused_request_ends_with_its_body_on_both_planes() {
    let daemon = Daemon::start();
    let mut connection = daemon.connect();
    for (method, path, status) in [
        ("POST", "/v1/workspaces/w/files", 400),
        ("POST", "/v1/drafts/none/seal", 400),
        ("PUT", "/v2/alone/manifests/1", 400),
        ("POST", "/v2/w/r/blobs/uploads/?digest=none", 400),
    ] {
        connection.send(head(method, path, 10)).unwrap();
        // Long enough for the daemon to have made up its mind.
        std::thread::sleep(std::time::Duration::from_millis(100));
        connection.send("some notes").unwrap();
        assert_eq!(connection.answer().status, status, "{method} {path}");
        assert_eq!(connection.get("/v1/health").status, 200, "after {method} {path}");
    }
}
