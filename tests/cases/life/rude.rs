//! Stalled, rude and too many clients: each costs nothing but its own connection.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use cas::digest::Digest;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::layout::noise;
use tests::raw::head;
use tests::{Daemon, file, tree};
use wire::api::DESCRIPTORS;

const IMPATIENT: &str = "[timeouts]\nheader = \"1s\"\nstall = \"1s\"\nkeep_alive = \"2s\"\n\
                         draft_abandoned = \"200ms\"\n";

/// What rudeness must not change: the daemon serves, holds nothing of it, and has no more open
/// than before.
struct Calm {
    n_descriptors: usize,
    stored: Vec<String>,
}

impl Calm {
    fn of(daemon: &Daemon) -> Calm {
        daemon.bond(&["ls"]).ok();
        Calm { n_descriptors: daemon.n_descriptors(), stored: tree::store(daemon.store()) }
    }

    #[track_caller]
    fn is_back(&self, daemon: &Daemon, what: &str) {
        tests::wait_at_most(Duration::from_secs(30), &format!("{what}: all is as before"), || {
            daemon.n_descriptors() <= self.n_descriptors + 1
                && tree::store(daemon.store()) == self.stored
        });
        daemon.bond(&["ls"]).ok();
    }
}

/// Puts something and takes it out again, the way a good client does, in good time.
#[track_caller]
fn good_client(daemon: &Daemon) {
    let bytes = noise("good client", 200_000);
    let path = daemon.folder().join("good");
    std::fs::write(&path, &bytes).unwrap();
    let begun = Instant::now();
    let put = daemon.bond(&["--workspace", "good", "put", &file(&path)]).ok().digest().to_string();
    let got = daemon.bond(&["--workspace", "good", "get", &put, "--stdout"]).ok();
    assert!(got.out == bytes);
    assert!(begun.elapsed() < Duration::from_secs(10), "it took {:?}", begun.elapsed());
}

#[test]
fn half_sentences_silence_and_nonsense() {
    let daemon = Daemon::with(IMPATIENT);
    good_client(&daemon);
    let calm = Calm::of(&daemon);
    let long = format!("GET /v1/health HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(70_000));
    let many: String = (0..200).map(|n| format!("x{n}: y\r\n")).collect();
    let many = format!("GET /v1/health HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    let rows: [(&str, &str); 8] = [
        ("half a header", "GET /v1/heal"),
        ("a header without end", "GET /v1/health HTTP/1.1\r\nhost: x\r\n"),
        ("nothing at all", ""),
        ("no HTTP", "\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03"),
        ("a header over the limit", &long),
        ("too many fields", &many),
        ("a version to come", "GET /v1/health HTTP/3.0\r\n\r\n"),
        ("two lengths", "POST /v1/gc HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx"),
    ];
    for (what, bytes) in rows {
        let mut connection = daemon.connect();
        let _ = connection.send(bytes);
        good_client(&daemon);
        // Whatever it is told, if anything, the connection ends by itself.
        let begun = Instant::now();
        let mut told = String::new();
        let _ = connection.stream.read_to_string(&mut told);
        assert!(begun.elapsed() < Duration::from_secs(15), "{what}: still open: {told}");
        assert!(!told.starts_with("HTTP/1.1 2"), "{what}: {told}");
    }
    calm.is_back(&daemon, "half sentences");
}

#[test]
fn descriptors_that_were_announced_and_not_sent_and_the_other_way_round() {
    let daemon = Daemon::with(IMPATIENT);
    good_client(&daemon);
    let calm = Calm::of(&daemon);
    let path = daemon.folder().join("bytes");
    std::fs::write(&path, "bytes").unwrap();
    let open = || std::fs::File::open(&path).unwrap();
    let files = "/v1/workspaces/default/files?title=x&size=5";
    let announced = |n: &str| {
        format!(
            "POST {files} HTTP/1.1\r\nhost: x\r\n{DESCRIPTORS}: {n}\r\ncontent-length: 0\r\n\r\n"
        )
    };
    let plain = head("POST", files, 0);

    // None comes although one was announced; one comes although none was; nonsense is announced.
    for (text, n_sent) in
        [(announced("1"), 0), (plain.clone(), 1), (announced("2"), 1), (announced("x"), 1)]
    {
        let mut connection = daemon.connect();
        match n_sent {
            0 => connection.send(&text).unwrap(),
            _ => connection.send_with(&text, &[open()]).unwrap(),
        }
        let answer = connection.answer();
        assert_eq!(answer.code(), "descriptor_refused", "{text:?} {n_sent}: {answer:?}");
        // One that was refused is not found by the next request.
        let answer = connection.ask("GET", "/v1/health");
        assert!([0, 200].contains(&answer.status), "{answer:?}");
        good_client(&daemon);
    }
    // More than one, or one in the middle of a header or body, ends the connection at most.
    for n in [2, 3, 100] {
        let mut connection = daemon.connect();
        let descriptors: Vec<_> = (0..n).map(|_| open()).collect();
        let _ = connection.send_with(&announced("1"), &descriptors);
        let answer = connection.answer();
        assert!(answer.status == 0 || !answer.code().is_empty(), "{n}: {answer:?}");
        good_client(&daemon);
    }
    let mut connection = daemon.connect();
    let whole = announced("1");
    let (first, second) = whole.split_at(20);
    connection.send_with(first, &[open()]).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let _ = connection.send_with(second, &[open()]);
    let answer = connection.answer();
    assert!(answer.status == 0 || !answer.code().is_empty(), "{answer:?}");
    drop(connection);
    calm.is_back(&daemon, "descriptors");
    // The good twin.
    assert_eq!(daemon.connect().hand("POST", files, &open()).status, 201);
}

#[test]
fn bodies_that_stop_break_off_or_drip() {
    let daemon = Daemon::with(&IMPATIENT.replace("200ms", "1h"));
    good_client(&daemon);
    let calm = Calm::of(&daemon);
    let bytes = noise("body", 1 << 20);
    let files = format!("/v1/workspaces/default/files?title=x&size={}", bytes.len());
    let draft = daemon.connect().draft("default");
    let blob = format!("/v1/drafts/{draft}/blobs/{}?size={}", Digest::of(&bytes), bytes.len());
    for (method, path) in [("POST", &files), ("PUT", &blob)] {
        for n in [0, 1, 1000, 70_000, 900_000] {
            // It stops, and is told so or closed.
            let mut connection = daemon.connect();
            connection.send(head(method, path, bytes.len() as u64)).unwrap();
            let _ = connection.send(&bytes[..n]);
            good_client(&daemon);
            let begun = Instant::now();
            let answer = connection.answer();
            assert!(begun.elapsed() < Duration::from_secs(15), "{n}: it waits for ever");
            assert!(answer.status == 0 || answer.code() == "timeout", "{n}: {answer:?}");
            // It breaks off.
            let mut connection = daemon.connect();
            connection.send(head(method, path, bytes.len() as u64)).unwrap();
            let _ = connection.send(&bytes[..n]);
            drop(connection);
        }
    }
    // It drips: a byte now and then is no progress.
    let mut connection = daemon.connect();
    connection.send(head("POST", &files, bytes.len() as u64)).unwrap();
    connection.send(&bytes[..200_000]).unwrap();
    let begun = Instant::now();
    while connection.send("x").is_ok() && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(100));
        if is_answered(&connection.stream) {
            break;
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "dripping holds a place for ever");
    drop(connection);
    let _ = daemon.connect().ask("DELETE", &format!("/v1/drafts/{draft}"));
    calm.is_back(&daemon, "bodies");
}

/// Whether there is something to read, without reading it.
fn is_answered(stream: &UnixStream) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd as _;
    let mut polled = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
    poll(&mut polled, PollTimeout::ZERO).unwrap() > 0
}

#[test]
fn those_who_ask_and_do_not_read_lose_their_place() {
    let config = format!("{IMPATIENT}[limits]\nsending_jobs = 2\n");
    let daemon = Daemon::with(&config);
    let bytes = noise("not read", 6 << 20);
    let path = daemon.folder().join("large");
    std::fs::write(&path, &bytes).unwrap();
    let artifact = daemon.bond(&["put", &file(&path)]).ok().digest();
    good_client(&daemon);
    let calm = Calm::of(&daemon);
    let get = format!("/v1/workspaces/default/artifacts/{artifact}/blobs/{}", Digest::of(&bytes));

    let mut deaf: Vec<_> = (0..8).map(|_| daemon.connect()).collect();
    for connection in &mut deaf {
        connection.send(head("GET", &get, 0)).unwrap();
    }
    // A good client that streams too gets its turn.
    let begun = Instant::now();
    let answer = daemon.connect().get(&get);
    assert!(answer.is_whole && answer.body == bytes, "{} {}", answer.status, answer.code());
    assert!(begun.elapsed() < Duration::from_secs(30), "it took {:?}", begun.elapsed());
    good_client(&daemon);
    // The deaf ones were cut off: none can have it all.
    for connection in &mut deaf {
        let answer = connection.answer();
        assert!(!answer.is_whole || answer.status != 200, "it was served after all");
    }
    drop(deaf);
    calm.is_back(&daemon, "not reading");
}

#[test]
fn what_was_proved_at_once_and_is_not_read_holds_its_place() {
    let daemon = Daemon::with("[timeouts]\nqueue = \"300ms\"\n[limits]\nsending_jobs = 2\n");
    let bytes = noise("not read either", 1 << 20);
    let path = daemon.folder().join("at once");
    std::fs::write(&path, &bytes).unwrap();
    let artifact = daemon.bond(&["put", &file(&path)]).ok().digest();
    let get = format!("/v1/workspaces/default/artifacts/{artifact}/blobs/{}", Digest::of(&bytes));

    let mut deaf = daemon.connect();
    deaf.send(head("GET", &get, 0)).unwrap();
    let begun = Instant::now();
    while !is_answered(&deaf.stream) && begun.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(is_answered(&deaf.stream), "no answer began");
    // Half of the places is one: the bytes that wait in memory have it.
    assert_eq!(daemon.connect().get(&get).code(), "busy");
    let answer = deaf.answer();
    assert!(answer.is_whole && answer.body == bytes, "{} {}", answer.status, answer.code());
    let answer = daemon.connect().get(&get);
    assert!(answer.is_whole && answer.body == bytes, "{} {}", answer.status, answer.code());
}

#[test]
fn a_thousand_connections_do_not_keep_a_good_client_out() {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < 3_000 {
        setrlimit(Resource::RLIMIT_NOFILE, hard.min(4_000), hard).unwrap();
    }
    let daemon = Daemon::start();
    good_client(&daemon);
    let calm = Calm::of(&daemon);
    let begun = Instant::now();
    let mut crowd = Vec::new();
    for n in 0..1_000 {
        // Those that the daemon has no room for may be refused by the kernel as well.
        let Ok(mut stream) = UnixStream::connect(daemon.home().socket()) else { continue };
        match n % 3 {
            0 => {}
            1 => drop(stream.write_all(b"GET /v1/hea")),
            _ => drop(stream.write_all(head("GET", "/v1/health", 0).as_bytes())),
        }
        crowd.push(stream);
        if n % 250 == 249 {
            good_client(&daemon);
        }
    }
    good_client(&daemon);
    assert!(begun.elapsed() < Duration::from_secs(40), "it took {:?}", begun.elapsed());
    assert!(daemon.n_descriptors() < 600, "{} descriptors", daemon.n_descriptors());
    assert!(daemon.most_memory() < 64 << 20, "{} bytes", daemon.most_memory());
    drop(crowd);
    calm.is_back(&daemon, "a thousand connections");
}

#[test]
fn one_peer_has_no_more_drafts_than_it_may() {
    let daemon = Daemon::with("[limits]\ndrafts_per_uid = 4\n");
    let mut connection = daemon.connect();
    let drafts: Vec<String> = (0..4).map(|_| connection.draft("default")).collect();
    let answer = connection.ask("POST", "/v1/workspaces/default/drafts");
    assert_eq!(answer.code(), "busy", "{answer:?}");
    let drop = format!("/v1/drafts/{}", drafts[0]);
    assert_eq!(connection.ask("DELETE", &drop).status, 204);
    connection.draft("default");
}

#[test]
fn health_and_metrics_answer_and_count() {
    let daemon = Daemon::start();
    good_client(&daemon);
    let mut connection = daemon.connect();
    let health = connection.get("/v1/health").json();
    assert_eq!(health["status"], "ok");
    let status = connection.get("/v1/status").json();
    assert_eq!(status["uid"], nix::unistd::Uid::effective().as_raw());
    let metrics = connection.get("/v1/metrics");
    assert!(metrics.headers["content-type"].starts_with("text/plain"), "{:?}", metrics.headers);
    let text = String::from_utf8(metrics.body).unwrap();
    let value = |series: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().unwrap()
    };
    assert_eq!(value("bonded_requests_total{op=\"file_put\",code=\"ok\"}"), 1.0);
    // The bytes, the empty config, the manifest.
    assert_eq!(value("bonded_blobs_total{outcome=\"written\"}"), 3.0);
    assert!(value("bonded_connections_total") >= 3.0);
    assert!(value("bonded_store_free_bytes") > 0.0);
    // The log has the digest of what was put, in a form for machines when that is asked for.
    let home = tests::Home::new("[log]\nformat = \"json\"\n");
    let mut daemon = home.start();
    let path = daemon.folder().join("logged");
    std::fs::write(&path, "logged").unwrap();
    let digest = daemon.bond(&["put", &file(&path)]).ok().digest().to_string();
    daemon.stop();
    let logged = daemon.home().logged();
    let lines: Vec<serde_json::Value> =
        logged.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert!(lines.iter().any(|line| line["digest"] == digest && line["op"] == "file_put"));
}
