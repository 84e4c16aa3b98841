//! What one peer may have open, and that it keeps nobody else waiting.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cas::digest::Algorithm;
use tests::layout::noise;
use tests::v2::{Answer, Door, ask, daemon, delete, digest, get, post, push, put};

const BEGIN: &str = "/v2/w/r/blobs/uploads/";

#[test]
fn a_peer_has_so_many_uploads_open_and_others_have_theirs() {
    let daemon = daemon("[limits]\nuploads_per_uid = 8\n");
    let doors = Door::of(&daemon);
    let (greedy, polite) = (&doors[1], &doors[0]);
    let begun: Vec<String> = (0..8)
        .map(|_| {
            let answer = greedy.ask(&post(BEGIN));
            assert_eq!(answer.status, 202);
            answer.headers["location"].clone()
        })
        .collect();
    let refused = greedy.ask(&post(BEGIN));
    assert_eq!((refused.status, refused.code()), (429, "TOOMANYREQUESTS".to_owned()));
    assert!(refused.headers.contains_key("retry-after"), "{refused:?}");
    assert_eq!(polite.ask(&post(BEGIN)).status, 202, "another peer has room");

    // What is pushed at once needs none.
    let d = digest(Algorithm::Sha256, "at once");
    assert_eq!(greedy.ask(&push("w/r", &d, b"at once")).status, 201);

    // Room comes back by a cancel, by a commit and by a wrong digest.
    assert_eq!(greedy.ask(&delete(&begun[0])).status, 204);
    assert_eq!(greedy.ask(&put(format!("{}?digest={d}", begun[1]), "at once")).status, 201);
    assert_eq!(greedy.ask(&put(format!("{}?digest={d}", begun[2]), "wrong")).status, 400);
    let ends: Vec<u16> = (0..4).map(|_| greedy.ask(&post(BEGIN)).status).collect();
    assert_eq!(ends, [202, 202, 202, 429]);
}

/// Told to wait, and for how long.
#[track_caller]
fn is_told_to_wait(refused: &Answer) {
    assert_eq!((refused.status, refused.code()), (429, "TOOMANYREQUESTS".to_owned()));
    let seconds = refused.headers.get("retry-after").and_then(|n| n.parse::<u32>().ok());
    assert!(seconds.is_some_and(|n| (1..=60).contains(&n)), "{refused:?}");
}

/// A request over loopback that has begun and does not end.
fn hold(address: &str, n: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let d = digest(Algorithm::Sha256, n.to_string());
    let head = format!(
        "POST {BEGIN}?digest={d} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {}\r\n\r\n",
        1 << 30
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[0; 100_000]).unwrap();
    stream
}

#[test]
fn the_greedy_are_told_to_wait_and_the_polite_never_are() {
    let config = "[limits]\nreceiving_jobs = 4\n[timeouts]\nqueue = \"300ms\"\nstall = \"20s\"\n";
    let daemon = daemon(config);
    let doors = Door::of(&daemon);
    let (greedy, polite) = (&doors[1], &doors[0]);
    let Door::Loopback(address) = greedy else { panic!("no loopback listener") };
    // It has every place that one peer may have, and goes on asking from six clients at once.
    let held: Vec<_> = (0..4).map(|n| hold(address, n)).collect();
    let ends = AtomicBool::new(false);
    let (n_refused, slowest) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..6)
            .map(|client| {
                let ends = &ends;
                scope.spawn(move || {
                    let bytes = noise(&format!("greedy {client}"), 200_000);
                    let step = push("w/r", &digest(Algorithm::Sha256, &bytes), &bytes);
                    let mut n_refused = 0;
                    while !ends.load(Ordering::Relaxed) {
                        let answer = greedy.ask(&step);
                        if answer.status != 201 {
                            is_told_to_wait(&answer);
                            n_refused += 1;
                        }
                    }
                    n_refused
                })
            })
            .collect();
        // The polite one does one thing after the other, and each is done at once.
        let mut slowest = Duration::ZERO;
        for n in 0..40 {
            let bytes = noise(&format!("polite {n}"), 300_000);
            let d = digest(Algorithm::Sha256, &bytes);
            let begun = Instant::now();
            let pushed = polite.ask(&push("polite/r", &d, &bytes)).status;
            let pulled = polite.ask(&get(format!("/v2/polite/r/blobs/{d}")));
            slowest = slowest.max(begun.elapsed());
            if pushed != 201 || pulled.body != bytes {
                ends.store(true, Ordering::Relaxed);
            }
            assert_eq!((n, pushed, pulled.status), (n, 201, 200));
            std::thread::sleep(Duration::from_millis(10));
        }
        ends.store(true, Ordering::Relaxed);
        let n_refused: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
        (n_refused, slowest)
    });
    assert!(n_refused > 0, "the greedy one was never told to wait");
    assert!(slowest < Duration::from_secs(2), "the polite one waited {slowest:?}");
    tests::say(&format!(
        "measured: one peer was told to wait {n_refused} times; another beside it, never, and \
         waited {slowest:?} at most"
    ));
    drop(held);
    // What it had is free again.
    let d = digest(Algorithm::Sha256, "later");
    tests::wait_until("it is served again", || {
        greedy.ask(&push("w/r", &d, b"later")).status == 201
    });
}

#[test]
fn a_peer_with_too_many_connections_is_told_so_in_the_words_of_its_plane() {
    let daemon = daemon("[limits]\nconnections_per_uid = 4\n[timeouts]\nstall = \"20s\"\n");
    let doors = Door::of(&daemon);
    let Door::Loopback(address) = &doors[1] else { panic!("no loopback listener") };
    let held: Vec<_> = (0..4).map(|n| hold(address, n)).collect();
    // One that is not busy yet would give way to whoever comes.
    std::thread::sleep(Duration::from_millis(300));
    let refused = || doors[1].ask(&get("/v2/"));
    tests::wait_until("all four are busy", || refused().status == 429);
    is_told_to_wait(&refused());
    assert_eq!(doors[0].ask(&get("/v2/")).status, 200, "another peer has its own");
    drop(held);
    tests::wait_until("it is served again", || refused().status == 200);
}

#[test]
fn an_upload_that_nobody_goes_on_with_is_given_up() {
    let daemon = daemon("[timeouts]\nupload_idle = \"200ms\"\ndraft_abandoned = \"200ms\"\n");
    let door = &Door::of(&daemon)[0];
    let begun = door.ask(&post(BEGIN));
    let location = begun.headers["location"].clone();
    assert_eq!(door.ask(&ask("PATCH", &location).body(noise("idle", 10_000))).status, 202);
    tests::wait_until("the upload is given up", || daemon.home().logged().contains("n_uploads=1"));
    assert_eq!(door.ask(&get(&location)).status, 404);
}

#[test]
fn large_blobs_take_no_more_memory_than_small_ones() {
    let daemon = daemon("");
    let bytes = noise("large", 64 << 20);
    let d = digest(Algorithm::Sha256, &bytes);
    for door in Door::of(&daemon) {
        assert_eq!(door.ask(&push("w/once", &d, &bytes)).status, 201);
        let location = door.ask(&post(BEGIN)).headers["location"].clone();
        let streamed = door.ask(&ask("PATCH", &location).body(&*bytes).chunked());
        assert_eq!(streamed.status, 202);
        assert_eq!(door.ask(&put(format!("{location}?digest={d}"), "")).status, 201);
        let pulled = door.ask(&get(format!("/v2/w/r/blobs/{d}")));
        assert!(pulled.is_whole && pulled.body == bytes, "{}", pulled.status);
    }
    let most = daemon.most_memory();
    assert!(most < 64 << 20, "{} MiB", most >> 20);
}
