//! Who may do what where, and that what a peer may not read does not exist for it.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use cas::digest::Digest;
use tests::layout::noise;
use tests::peers::{need_root, skip};
use tests::{Daemon, Run, file, oci, run};
use wire::Code;

/// Somebody on this machine: a uid, a gid, and another group if there is one.
#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

const BUILDER: User = User { uid: 12_345, gid: 12_345 };
const REVIEWER: User = User { uid: 12_346, gid: 23_456 };
const STRANGER: User = User { uid: 12_347, gid: 12_347 };

const POLICY: &str = r#"
[socket]
mode = "0666"
[[policy]]
uid = 0
workspaces = ["*"]
may = ["put", "read", "retire", "admin"]
[[policy]]
uid = 12345
workspaces = ["ci-*"]
may = ["put", "read"]
[[policy]]
uid = 12345
workspaces = ["drop"]
may = ["put"]
[[policy]]
gid = 23456
workspaces = ["ci-*", "shared"]
may = ["read", "retire"]
[[in_place]]
workspaces = ["ci-*"]
group = 23456
"#;

/// A daemon that others can reach, and a `bond` that they can run.
struct Town {
    daemon: Daemon,
    bond: PathBuf,
}

impl Town {
    fn new(test: &str, config: &str) -> Option<Town> {
        if !need_root(test) {
            return None;
        }
        let daemon = Daemon::with(config);
        let bond = daemon.folder().join("bond");
        // By another process: what this one had open for writing while a test beside it forked could
        // not be run.
        let copied = Command::new("cp").arg(tests::programs::own("bond")).arg(&bond).status();
        assert!(copied.unwrap().success());
        for path in [daemon.folder(), bond.as_path(), daemon.store()] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        Some(Town { daemon, bond })
    }

    /// `bond` as somebody else.
    #[track_caller]
    fn bond(&self, user: User, words: &[&str]) -> Run {
        let mut command = Command::new(&self.bond);
        command.env("BOND_SOCKET", self.daemon.home().socket()).env_remove("BOND_WORKSPACE");
        command.current_dir(self.daemon.folder()).args(words);
        run(command.uid(user.uid).gid(user.gid))
    }

    /// A file that everybody can read.
    fn file(&self, name: &str) -> (String, Digest) {
        let (path, bytes) = (self.daemon.folder().join(name), noise(name, 3_000));
        std::fs::write(&path, &bytes).unwrap();
        (file(&path), Digest::of(&bytes))
    }
}

#[test]
fn a_peer_may_do_what_its_rules_say() {
    let Some(town) = Town::new("a_peer_may_do_what_its_rules_say", POLICY) else { return };
    let (source, _) = town.file("tool");
    let put = |user, workspace| town.bond(user, &["--workspace", workspace, "put", &source]);
    let reference = put(BUILDER, "ci-1").ok().digest().to_string();
    let daemon = &town.daemon;
    daemon.bond(&["--workspace", "shared", "put", &source]).ok();
    let rows: &[(User, &str, &[&str], Option<Code>)] = &[
        (BUILDER, "ci-1", &["resolve", &reference], Some(Code::Forbidden)),
        (BUILDER, "ci-1", &["verify", &reference], None),
        (BUILDER, "ci-1", &["ls"], None),
        (BUILDER, "ci-1", &["show", &reference], None),
        (BUILDER, "ci-1", &["get", &reference, "--stdout"], None),
        (BUILDER, "ci-1", &["why", &reference], None),
        (BUILDER, "ci-1", &["retire", &reference], Some(Code::Forbidden)),
        (BUILDER, "ci-1", &["gc"], Some(Code::Forbidden)),
        (BUILDER, "ci-1", &["doctor"], Some(Code::Forbidden)),
        (BUILDER, "drop", &["put", &source], None),
        (BUILDER, "drop", &["resolve", &reference], Some(Code::NotFound)),
        (BUILDER, "shared", &["resolve", &reference], Some(Code::NotFound)),
        (REVIEWER, "ci-1", &["put", &source], Some(Code::Forbidden)),
        (REVIEWER, "ci-1", &["resolve", &reference], None),
        (REVIEWER, "shared", &["verify", &reference], None),
        (REVIEWER, "shared", &["retire", &reference], None),
        (REVIEWER, "shared", &["verify", &reference], Some(Code::NotFound)),
        (STRANGER, "ci-1", &["put", &source], Some(Code::NotFound)),
        (STRANGER, "ci-1", &["ls"], Some(Code::NotFound)),
        (STRANGER, "ci-1", &["gc", "--dry-run"], Some(Code::Forbidden)),
    ];
    for (user, workspace, words, code) in rows {
        let run = town.bond(*user, &[&["--workspace", workspace], *words].concat());
        let told = format!("uid {}: {}", user.uid, run.told());
        match code {
            None => assert_eq!(run.code, Some(0), "{told}"),
            Some(code) => assert_eq!(run.code(), Some(*code), "{told}"),
        }
    }
    // Nothing of it happened to what others hold.
    daemon.bond(&["--workspace", "ci-1", "verify", &reference]).ok();
}

/// What is told of a workspace, with the words in which every two answers must differ taken out.
fn told(run: &Run, words: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let plain = |text: &str| {
        words
            .iter()
            .fold(text.to_owned(), |text, (word, stands_for)| text.replace(word, stands_for))
    };
    (run.code, plain(run.text()), plain(&run.err))
}

#[test]
fn what_may_not_be_read_answers_exactly_as_if_it_were_not_there() {
    const TEST: &str = "what_may_not_be_read_answers_exactly_as_if_it_were_not_there";
    let Some(town) = Town::new(TEST, POLICY) else { return };
    let (source, of_file) = town.file("secret");
    let words = ["--workspace", "hidden", "put", &source, "--name", "app:1"];
    let secret = town.daemon.bond(&words).ok().digest().to_string();
    town.daemon.bond(&["--workspace", "hidden", "verify", &secret]).ok();
    let absent = Digest::of(b"never seen").to_string();
    let absent_file = Digest::of(b"never seen either").to_string();
    let of_file = of_file.to_string();
    // A source that only the asker has, so that putting tells nothing of what is there.
    let (own, _) = town.file("own");

    // The same things asked about a workspace that is hidden and about one that nobody ever used.
    let asked = |user: User, workspace: &str, artifact: &str, of_file: &str| {
        let handle = format!("artifacts/{workspace}/{}", artifact.replace(':', "/"));
        let target = oci(&town.daemon.folder().join("never"));
        let verbs: Vec<Vec<&str>> = vec![
            vec!["resolve", artifact],
            vec!["resolve", &artifact[..20]],
            vec!["resolve", &artifact[7..19]],
            vec!["resolve", "app:1"],
            vec!["resolve", "app:none"],
            vec!["resolve", of_file],
            vec!["resolve", &handle],
            vec!["verify", artifact],
            vec!["verify", "--all"],
            vec!["show", artifact],
            vec!["tree", artifact],
            vec!["why", artifact],
            vec!["why", of_file],
            vec!["ls"],
            vec!["ls", "--format", "json"],
            vec!["get", artifact, &target],
            vec!["get", artifact, "--stdout"],
            vec!["get", artifact, "--blob", of_file, "--stdout"],
            vec!["retire", artifact],
            vec!["put", &own],
            vec!["put", &own, "--name", "app:1"],
        ];
        let replaced = [
            (handle.as_str(), "HANDLE"),
            (artifact, "ARTIFACT"),
            (&artifact[..20], "PREFIX"),
            (&artifact[7..19], "PREFIX"),
            (of_file, "FILE"),
            (workspace, "WORKSPACE"),
        ];
        verbs
            .iter()
            .map(|words| {
                let run = town.bond(user, &[&["--workspace", workspace], &words[..]].concat());
                (words.join(" ").replace(artifact, "ARTIFACT"), told(&run, &replaced))
            })
            .collect::<Vec<_>>()
    };
    for user in [BUILDER, REVIEWER, STRANGER] {
        let hidden = asked(user, "hidden", &secret, &of_file);
        let nowhere = asked(user, "nowhere", &absent, &absent_file);
        for ((words, hidden), (_, nowhere)) in hidden.iter().zip(&nowhere) {
            assert_eq!(hidden, nowhere, "uid {}: {words}", user.uid);
            assert_ne!(hidden.0, Some(0), "uid {}: {words}", user.uid);
        }
        // By the digest alone, from a workspace of his own or any other.
        for workspace in ["ci-1", "default"] {
            for reference in [secret.as_str(), &of_file, &format!("artifacts/hidden/x/{secret}")] {
                let run = town.bond(user, &["--workspace", workspace, "resolve", reference]);
                assert_eq!(run.code(), Some(Code::NotFound), "{}", run.told());
            }
        }
    }
    town.daemon.bond(&["--workspace", "hidden", "verify", "app:1"]).ok();
    // Numbers tell nothing of tenants either.
    let metrics = town.daemon.connect().get("/v1/metrics");
    let metrics = String::from_utf8(metrics.body).unwrap();
    for word in ["hidden", &secret[7..], "app:1", "12345"] {
        assert!(!metrics.contains(word), "metrics tell of {word}");
    }
}

#[test]
fn a_draft_belongs_to_the_peer_that_opened_it() {
    const TEST: &str = "a_draft_belongs_to_the_peer_that_opened_it";
    let Some(town) = Town::new(TEST, POLICY) else { return };
    let Some(curl) = tests::peers::peer("curl") else { return skip(TEST, "curl") };
    let draft = town.daemon.connect().draft("ci-1");
    let as_builder = |method: &str, path: &str, body: &str| {
        let socket = town.daemon.home().socket();
        let mut command = Command::new(&curl);
        command.args(["-s", "-X", method, "--data-binary", body, "--unix-socket"]).arg(socket);
        command.arg(format!("http://bonded{path}")).current_dir("/");
        run(command.uid(BUILDER.uid).gid(BUILDER.gid)).ok().json()
    };
    let x = Digest::of(b"x");
    let rows = [
        ("GET", format!("/v1/drafts/{draft}"), ""),
        ("PUT", format!("/v1/drafts/{draft}/blobs/{x}?size=1"), "x"),
        ("POST", format!("/v1/drafts/{draft}/seal"), "{}"),
        ("DELETE", format!("/v1/drafts/{draft}"), ""),
    ];
    for (method, path, body) in rows {
        let answer = as_builder(method, &path, body);
        assert!(
            ["not_found", "usage"].contains(&answer["error"]["code"].as_str().unwrap()),
            "{method}: {answer}"
        );
    }
    let mut connection = town.daemon.connect();
    let path = format!("/v1/drafts/{draft}/blobs/{x}?size=1");
    assert_eq!(connection.bring("PUT", &path, "x").status, 200);
}

#[test]
fn a_socket_that_is_not_for_everybody_keeps_them_out() {
    const TEST: &str = "a_socket_that_is_not_for_everybody_keeps_them_out";
    let config = POLICY.replace("mode = \"0666\"", "mode = \"0660\"\ngroup = 23456");
    let Some(town) = Town::new(TEST, &config) else { return };
    town.bond(REVIEWER, &["--workspace", "ci-1", "ls"]).ok();
    let refused = town.bond(BUILDER, &["--workspace", "ci-1", "ls"]);
    refused.fails(Code::Unreachable).says(&["hint:", "group"]);
}

#[test]
fn layouts_are_read_in_place_by_those_who_may_and_written_by_nobody() {
    const TEST: &str = "layouts_are_read_in_place_by_those_who_may_and_written_by_nobody";
    let Some(town) = Town::new(TEST, POLICY) else { return };
    let (source, of_file) = town.file("tool");
    let words = ["--workspace", "ci-1", "put", &source];
    let reference = town.bond(BUILDER, &words).ok().digest().to_string();
    let resolved = town.bond(REVIEWER, &["--workspace", "ci-1", "resolve", &reference]).ok();
    let layout = Path::new(resolved.lines()[0]).to_owned();
    let blob = layout.join(tests::layout::blob_file(&of_file));

    let reads = |user: User, path: &Path| {
        let mut cat = Command::new("cat");
        run(cat.arg(path).current_dir("/").uid(user.uid).gid(user.gid)).code == Some(0)
    };
    assert!(reads(REVIEWER, &blob) && reads(REVIEWER, &layout.join("index.json")));
    assert!(!reads(BUILDER, &blob) && !reads(STRANGER, &layout.join("index.json")));
    let stored = town.daemon.store().join(tests::layout::blob_file(&of_file));
    assert!(!reads(REVIEWER, &stored), "past the workspace's folder");
    // Nobody can write: not the file, and nothing beside it.
    let writes = |path: &Path| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo x >>\"$1\"", "sh"]).arg(path).current_dir("/");
        run(shell.uid(REVIEWER.uid).gid(REVIEWER.gid)).code == Some(0)
    };
    for path in [blob.clone(), layout.join("extra"), layout.join("index.json")] {
        assert!(!writes(&path), "{}", path.display());
    }
    let modes = [(town.daemon.store().join("artifacts/ci-1"), 0o750), (blob, 0o444)];
    for (path, mode) in modes {
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, mode, "{}", path.display());
    }
    for folder in ["blobs", "staging", "quarantine"] {
        let path = town.daemon.store().join(folder);
        assert_eq!(std::fs::metadata(path).unwrap().mode() & 0o7777, 0o700, "{folder}");
    }
    let folder = std::fs::metadata(town.daemon.store().join("artifacts/ci-1")).unwrap();
    assert_eq!(folder.gid(), 23_456);
    town.daemon.bond(&["--workspace", "ci-1", "verify", "--all"]).ok();
}
