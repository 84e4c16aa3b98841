//! Who is let in by the door of a command, what of a request is carried on, and how.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cas::digest::{Algorithm, Digest};
use serde_json::json;
use tests::peers::{need, need_root};
use tests::v2::{Step, ask, case, delete, digest, get, head, patch, post, push, put};
use tests::{run, scratch};

use super::{Bench, Open};

fn all(open: &Open, steps: impl IntoIterator<Item = Step>) -> Vec<Step> {
    steps.into_iter().map(|step| open.by_command(step)).collect()
}

#[test]
fn without_the_credential_nothing_is_told() {
    let bench = Bench::new("");
    let open = bench.open();
    let door = open.door();
    let own = open.authorization();
    door.run(&[case("let in", all(&open, [get("/v2/"), get("/v2"), head("/v2/")]))]);
    let refused = |step: Step| {
        step.fails(401, "UNAUTHORIZED").eq("www-authenticate", "Basic realm=\"bonded\"")
    };
    let mut steps = Vec::new();
    for path in ["/v2/", "/v2/app/tags/list", "/v1/health", "/", "/nowhere"] {
        steps.push(refused(get(path)));
    }
    let other = bench.open();
    for wrong in [
        "Basic".to_owned(),
        own[..own.len() - 4].to_owned(),
        own.replace("Basic", "Bearer"),
        format!("Basic {}", STANDARD.encode("bond:")),
        format!("Basic {}", STANDARD.encode("bond:password")),
        // The credential of another command.
        other.authorization(),
    ] {
        steps.push(refused(get("/v2/").with("authorization", wrong)));
    }
    // Two are one too many.
    steps.push(refused(open.by_command(open.by_command(get("/v2/")))));
    steps.push(refused(post("/v2/app/blobs/uploads/")));
    steps.push(refused(put("/v2/app/manifests/1", vec![b'x'; 1 << 20])));
    door.run(&[case("not let in", steps)]);
    // The scheme's name may be written in any way.
    door.run(&[case(
        "any case",
        [get("/v2/").with("authorization", own.replace("Basic", "bAsIc"))],
    )]);
}

#[test]
fn a_wrong_password_costs_time_and_no_password_costs_none() {
    let bench = Bench::new("");
    let open = bench.open();
    let took = |step: &Step| {
        let begun = std::time::Instant::now();
        assert_eq!(open.door().ask(step).status, 401);
        begun.elapsed().as_millis()
    };
    let wrong = took(&get("/v2/").with("authorization", "Basic Ym9uZDp4"));
    let none = took(&get("/v2/"));
    assert!(wrong >= 500 && none < wrong, "{none} ms without, {wrong} ms with a wrong one");
}

#[test]
fn pages_and_foreign_names_are_not_heard() {
    let bench = Bench::new("");
    let open = bench.open();
    let host = |host: &str| open.by_command(get("/v2/")).with("host", host);
    open.door().run(&[case(
        "hosts",
        [
            host(open.address()),
            host("127.0.0.1"),
            host("127.5.6.7:1"),
            host("[::1]:5000"),
            host("localhost").fails(403, "DENIED"),
            host("evil.example").fails(403, "DENIED"),
            host("127.0.0.1.evil.example").fails(403, "DENIED"),
            host("10.0.0.1").fails(403, "DENIED"),
            host("").fails(403, "DENIED"),
            open.by_command(get("/v2/")).with("origin", "http://evil.example").fails(403, "DENIED"),
            open.by_command(get("/v2/")).with("origin", "null").fails(403, "DENIED"),
            open.by_command(get("http://127.0.0.1/v2/")),
            open.by_command(get("http://evil.example/v2/")).fails(403, "DENIED"),
        ],
    )]);
}

#[test]
fn another_user_of_the_machine_gets_nothing() {
    const TEST: &str = "exec, another_user_of_the_machine";
    if !need_root(TEST) {
        return;
    }
    let bench = Bench::new("");
    let open = bench.open();
    let nobody = |words: &[&str]| {
        let mut command = Command::new(words[0]);
        run(command.args(&words[1..]).current_dir("/").uid(65534).gid(65534))
    };
    let config = format!("{}/config.json", open.variable("DOCKER_CONFIG"));
    for name in [&config, open.variable("REGISTRY_AUTH_FILE"), open.variable("REGCTL_CONFIG")] {
        run(Command::new("cat").arg(name)).ok();
        assert_eq!(nobody(&["cat", name]).code, Some(1), "{name}");
    }
    let folder = std::path::Path::new(open.variable("DOCKER_CONFIG")).parent().unwrap();
    assert_ne!(nobody(&["ls", folder.to_str().unwrap()]).code, Some(0));
    let Some(curl) = need(TEST, "curl") else { return };
    let url = format!("http://{}/v2/", open.address());
    let asked = nobody(&[curl.to_str().unwrap(), "--noproxy", "*", "-si", &url]).ok();
    assert!(asked.text().starts_with("HTTP/1.1 401"), "{}", asked.told());
}

#[test]
fn a_command_is_within_its_workspace() {
    let bench = Bench::new("");
    let open = bench.open();
    let (bytes, blob) = ("bytes", digest(Algorithm::Sha256, "bytes"));
    for (workspace, repository) in [("ci", "app"), ("secret", "app")] {
        bench.ask(&push(&format!("{workspace}/{repository}"), &blob, bytes.as_bytes()));
    }
    let there = bench.ask(&head(format!("/v2/secret/app/blobs/{blob}")));
    assert_eq!(there.status, 200);
    let outside = |step: Step| step.with("bonded-workspace", "secret");
    let own = digest(Algorithm::Sha256, "own");
    open.door().run(&[case(
        "within",
        all(
            &open,
            [
                get(format!("/v2/app/blobs/{blob}")).gives(bytes),
                get("/v2/app/tags/list").json("/name", json!("app")),
                get(format!("/v2/ci/app/blobs/{blob}")).fails(404, "NAME_UNKNOWN"),
                get(format!("/v2/secret/app/blobs/{blob}")).fails(404, "NAME_UNKNOWN"),
                post(format!("/v2/x/blobs/uploads/?mount={blob}&from=secret/app")).is(202),
                get("/v2/../v2/secret/app/tags/list").fails(400, "NAME_INVALID"),
                // The header is bond's to write, and so is what goes with descriptors.
                outside(push("mine", &own, b"own")).eq("location", format!("/v2/mine/blobs/{own}")),
                get("/v2/").with("bonded-descriptors", "1"),
                get(format!("/v2/app/blobs/{blob}"))
                    .with("bonded-accept-descriptors", "1")
                    .lacks("bonded-descriptors")
                    .gives(bytes),
                get("/v2/").with("connection", "x-one, authorization").with("x-one", "1"),
                // The control plane is not here.
                get("/v1/health").fails(404, "UNSUPPORTED"),
                get("/v1/workspaces/ci/artifacts").fails(404, "UNSUPPORTED"),
                get("/v2x").fails(404, "UNSUPPORTED"),
                get("/v2/../v1/health").fails(404, "UNSUPPORTED"),
                ask("OPTIONS", "/v2/").fails(405, "UNSUPPORTED"),
            ],
        ),
    )]);
    for (workspace, status) in [("ci", 200), ("secret", 404)] {
        let answer = bench.ask(&head(format!("/v2/{workspace}/mine/blobs/{own}")));
        assert_eq!(answer.status, status, "{workspace}");
    }
}

#[test]
fn bodies_go_through_as_they_come() {
    let bench = Bench::new("");
    let open = bench.open();
    let bytes = tests::layout::noise("a body", 3_000_000);
    let blob = digest(Algorithm::Sha256, &bytes);
    let at = format!("/v2/app/blobs/{blob}");
    open.door().run(&[case(
        "both directions",
        all(
            &open,
            [
                push("app", &blob, &bytes),
                get(at.clone()).gives(bytes.clone()),
                head(at.clone()).eq("content-length", "3000000"),
                get(at.clone()).with("range", "bytes=10-19").is(206).gives(&bytes[10..20]),
                delete(at.clone()),
                head(at.clone()).is(404),
                post("/v2/app/blobs/uploads/"),
                patch("{loc}", bytes.clone()).chunked(),
                put(format!("{{loc}}?digest={blob}"), ""),
                get(at.clone()).gives(bytes.clone()),
                // Refused before all of it was read: the answer is heard all the same.
                put("/v2/app/manifests/1", vec![b' '; 6 << 20]).fails(413, "SIZE_INVALID"),
            ],
        ),
    )]);
    // What had come to the daemon before a client left is kept, and the upload goes on there.
    let begun = open.door().ask(&open.by_command(post("/v2/app/blobs/uploads/")));
    let location = begun.headers["location"].clone();
    open.door().ask(&open.by_command(patch(location.clone(), bytes.clone()).torn()));
    let mut last = 0;
    tests::wait_at_most(std::time::Duration::from_secs(10), "something is kept", || {
        let asked = open.door().ask(&open.by_command(get(location.clone())));
        let range = asked.headers.get("range").and_then(|range| range.strip_prefix("0-"));
        last = range.and_then(|last| last.parse().ok()).unwrap_or(0);
        last > 0
    });
    let rest = patch(location.clone(), &bytes[last + 1..])
        .with("content-range", format!("{}-2999999", last + 1));
    assert!(last == 2_999_999 || open.door().ask(&open.by_command(rest)).status == 202);
    let ended = open.door().ask(&open.by_command(put(format!("{location}?digest={blob}"), "")));
    assert_eq!(ended.status, 201, "{ended:?}");
}

#[test]
fn damage_is_no_complete_answer() {
    let bench = Bench::new("");
    let open = bench.open();
    let bytes = tests::layout::noise("rots", 2_000_000);
    let blob = digest(Algorithm::Sha256, &bytes);
    let at = format!("/v2/app/blobs/{blob}");
    open.door().run(&[case("good", all(&open, [push("app", &blob, &bytes), get(at.clone())]))]);
    let path = bench.daemon.store().join(tests::layout::blob_file(&blob));
    let mut rotten = bytes.clone();
    rotten[1_999_999] ^= 1;
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&path, rotten).unwrap();
    let answer = open.door().ask(&open.by_command(get(at)));
    assert!(!answer.is_whole || answer.status >= 500, "{} {}", answer.status, answer.body.len());
}

/// Speaks by hand.
struct Hand(BufReader<TcpStream>);

impl Hand {
    fn new(open: &Open) -> Hand {
        let stream = TcpStream::connect(open.address()).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        Hand(BufReader::new(stream))
    }

    fn say(&mut self, text: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(text.as_ref()).unwrap();
    }

    /// The first line of the next answer; its body, of which the length is told, is read.
    fn hear(&mut self) -> String {
        let (mut first, mut length) = (String::new(), 0);
        self.0.read_line(&mut first).unwrap();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            match line.trim_end().split_once(": ") {
                Some(("content-length", n)) => length = n.parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        (&mut self.0).take(length).read_to_end(&mut Vec::new()).unwrap();
        first.trim_end().to_owned()
    }
}

#[test]
fn who_asks_before_it_sends_is_answered_first() {
    let bench = Bench::new("");
    let open = bench.open();
    let blob = Digest::of(b"hello");
    let request = |path: &str, authorization: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\
             authorization: {authorization}\r\n\r\n",
            open.address()
        )
    };
    let path = format!("/v2/app/blobs/uploads/?digest={blob}");
    let mut hand = Hand::new(&open);
    hand.say(request(&path, &open.authorization()));
    assert_eq!(hand.hear(), "HTTP/1.1 100 Continue");
    hand.say("hello");
    assert_eq!(hand.hear(), "HTTP/1.1 201 Created");
    // Nobody wants these bodies, and nobody says that they are wanted.
    for (path, authorization, status) in [
        (path.as_str(), "Basic eDp5".to_owned(), "401"),
        ("/v2/APP/blobs/uploads/", open.authorization(), "400"),
        ("/v1/drafts", open.authorization(), "404"),
    ] {
        let mut hand = Hand::new(&open);
        hand.say(request(path, &authorization));
        let heard = hand.hear();
        assert!(heard.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {heard}");
    }
}

#[test]
fn one_connection_carries_many_requests_and_two_lengths_are_one_request() {
    let bench = Bench::new("");
    let open = bench.open();
    let mut hand = Hand::new(&open);
    let head = format!("host: {}\r\nauthorization: {}\r\n", open.address(), open.authorization());
    for _ in 0..3 {
        hand.say(format!("GET /v2/ HTTP/1.1\r\n{head}\r\n"));
        assert_eq!(hand.hear(), "HTTP/1.1 200 OK");
    }
    // What a second length would make a second request of is part of the first one's body, or
    // nothing.
    let hidden = format!("DELETE /v2/app/blobs/{} HTTP/1.1\r\n{head}\r\n", Digest::of(b"x"));
    hand.say(format!(
        "POST /v2/app/blobs/uploads/ HTTP/1.1\r\n{head}content-length: 3\r\n\
         transfer-encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n",
        hidden.len()
    ));
    let heard = hand.hear();
    assert!(heard.contains(" 202 ") || heard.contains(" 400 "), "{heard}");
    assert!(!bench.daemon.home().logged().contains("v2_blob_delete"), "it was taken for a request");
    // What the daemon would refuse is refused before it is stripped, and ends the connection.
    for coding in ["gzip, chunked", "chunked, chunked", "gzip\r\ntransfer-encoding: chunked"] {
        let mut hand = Hand::new(&open);
        hand.say(format!(
            "POST /v2/app/blobs/uploads/ HTTP/1.1\r\n{head}transfer-encoding: {coding}\r\n\r\n\
             0\r\n\r\nGET /v2/ HTTP/1.1\r\n{head}\r\n"
        ));
        assert_eq!(hand.hear(), "HTTP/1.1 400 Bad Request", "{coding}");
        assert_eq!(hand.hear(), "", "{coding}: it is over");
    }
    // A chunk that is none, in the middle of a body.
    let mut hand = Hand::new(&open);
    hand.say(format!(
        "POST /v2/app/blobs/uploads/?digest={} HTTP/1.1\r\n{head}transfer-encoding: chunked\r\n\r\n\
         5\r\nabcde\r\nx\r\n\r\nGET /v2/ HTTP/1.1\r\n{head}\r\n",
        Digest::of(b"abcde")
    ));
    assert_eq!(hand.hear(), "HTTP/1.1 400 Bad Request");
    assert_eq!(hand.hear(), "", "it is over");
    // A header that is too large.
    let mut hand = Hand::new(&open);
    hand.say(format!("GET /v2/ HTTP/1.1\r\n{head}x: {}\r\n\r\n", "x".repeat(100_000)));
    assert!(hand.hear().starts_with("HTTP/1.1 431"));
}

#[test]
fn the_silent_make_room_for_those_who_have_something_to_say() {
    let bench = Bench::new("");
    let open = bench.open();
    let mut silent: Vec<TcpStream> =
        (0..300).map(|_| TcpStream::connect(open.address()).unwrap()).collect();
    let answer = open.door().ask(&open.by_command(get("/v2/")));
    assert_eq!(answer.status, 200);
    let first = &mut silent[0];
    first.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    assert_eq!(first.read(&mut [0]).unwrap_or(0), 0, "the first of them has gone");
}

#[test]
fn a_large_blob_takes_little_memory() {
    const SIZE: usize = 192 << 20;
    const MOST: u64 = 48 << 20;
    let bench = Bench::new("");
    let open = bench.open();
    let bytes = vec![7; SIZE];
    let blob = digest(Algorithm::Sha256, &bytes);
    open.door().run(&[case(
        "large",
        all(&open, [push("app", &blob, &bytes), get(format!("/v2/app/blobs/{blob}")).gives(bytes)]),
    )]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", open.child.id())).unwrap();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let most: u64 = most.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
    assert!(most < MOST, "{most} bytes of memory for {SIZE} bytes there and back");
}

#[test]
fn tls_is_spoken_on_the_same_port_and_proved() {
    let Some(curl) = need("exec, tls_is_spoken", "curl") else { return };
    let bench = Bench::new("");
    let open = bench.open();
    let url = |scheme: &str| format!("{scheme}://{}/v2/", open.address());
    let curl =
        |words: &[&str]| run(Command::new(&curl).args(["--noproxy", "*", "-si"]).args(words));
    let header = format!("authorization: {}", open.authorization());
    let bundle = open.variable("SSL_CERT_FILE");
    for words in
        [&["--cacert", bundle, "-H", &header, &url("https")][..], &["-H", &header, &url("http")]]
    {
        let asked = curl(words).ok();
        assert!(asked.text().starts_with("HTTP/1.1 200"), "{}", asked.told());
    }
    // By another name, or to somebody who trusts others, it is not this machine.
    let name = url("https").replace("127.0.0.1", "localhost");
    assert_eq!(curl(&["-4", "--cacert", bundle, &name]).code, Some(60));
    let other = bench.open();
    let folder = scratch();
    let only = folder.path().join("only.pem");
    let all = std::fs::read_to_string(other.variable("SSL_CERT_FILE")).unwrap();
    std::fs::write(&only, &all[all.rfind("-----BEGIN").unwrap()..]).unwrap();
    let foreign = curl(&["--cacert", only.to_str().unwrap(), &url("https")]);
    assert_eq!(foreign.code, Some(60), "{}", foreign.told());
}
