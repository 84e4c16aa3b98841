//! Several clients at once, and clients that no good one is: one wins where one must, nothing is
//! half there, and nobody waits for whoever is rude.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use cas::digest::Algorithm;
use serde_json::Value;
use tests::layout::noise;
use tests::v2::{Answer, Door, Step, ask, daemon, delete, digest, get, post, push, put};

use super::Image;

/// Asks all of these at once, each on a connection of its own.
fn at_once(door: &Door, steps: &[Step]) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = steps.iter().map(|step| scope.spawn(move || door.ask(step))).collect();
        asked.into_iter().map(|answer| answer.join().unwrap()).collect()
    })
}

fn statuses(answers: &[Answer]) -> Vec<u16> {
    let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    statuses.sort_unstable();
    statuses
}

#[test]
fn the_same_at_once_is_done_once() {
    let daemon = daemon("");
    let door = &Door::of(&daemon)[0];
    let bytes = noise("the same blob", 700_000);
    let d = digest(Algorithm::Sha256, &bytes);
    let pushes: Vec<Step> = (0..8).map(|n| push(&format!("w/r{}", n % 2), &d, &bytes)).collect();
    assert_eq!(statuses(&at_once(door, &pushes)), [201; 8]);
    for repository in ["w/r0", "w/r1"] {
        assert!(door.ask(&get(format!("/v2/{repository}/blobs/{d}"))).body == bytes);
    }

    // One tag, eight manifests: the tag leads to one of them, whole.
    let images: Vec<Image> =
        (0..8).map(|n| Image::new(Algorithm::Sha256, &format!("racing {n}"))).collect();
    for image in &images {
        let blobs = image.blobs("w/r0");
        assert_eq!(statuses(&at_once(door, &blobs)), [201; 2]);
    }
    let tagged: Vec<Step> = images.iter().map(|image| image.manifest("w/r0", "latest")).collect();
    assert_eq!(statuses(&at_once(door, &tagged)), [201; 8]);
    let latest = door.ask(&get("/v2/w/r0/manifests/latest"));
    assert!(images.iter().any(|image| image.bytes() == latest.body), "{latest:?}");
    for image in &images {
        let read = door.ask(&get(format!("/v2/w/r0/manifests/{}", image.digest())));
        assert!(read.body == image.bytes(), "{read:?}");
    }

    // One subject, all that refer to it.
    let referrers: Vec<Image> = (0..32)
        .map(|n| {
            let image = Image::new(Algorithm::Sha256, "racing 0");
            image
                .with("subject", images[1].descriptor())
                .with("annotations", serde_json::json!({ "n": n.to_string() }))
        })
        .collect();
    let by_digest = |image: &Image| image.manifest("w/r0", &image.digest().to_string());
    let pushed: Vec<Step> = referrers.iter().map(by_digest).collect();
    assert_eq!(statuses(&at_once(door, &pushed)), [201; 32]);
    let listed = door.ask(&get(format!("/v2/w/r0/referrers/{}", images[1].digest()))).json();
    assert_eq!(listed["manifests"].as_array().map(Vec::len), Some(32));
}

#[test]
fn an_upload_ends_once() {
    let daemon = daemon("");
    let door = &Door::of(&daemon)[1];
    let bytes = noise("ended once", 300_000);
    let d = digest(Algorithm::Sha256, &bytes);
    for round in 0..20 {
        let location =
            door.ask(&post(format!("/v2/w/r{round}/blobs/uploads/"))).headers["location"].clone();
        let patched = door.ask(&ask("PATCH", &location).body(&*bytes));
        assert_eq!(patched.status, 202);
        let end = put(format!("{location}?digest={d}"), "");
        let ends = at_once(door, &[end.clone(), end, delete(&location)]);
        let there = door.ask(&get(format!("/v2/w/r{round}/blobs/{d}")));
        let n_made = ends.iter().filter(|answer| answer.status == 201).count();
        assert_eq!(n_made, usize::from(there.status == 200), "{round}: {ends:?}");
        for answer in &ends {
            assert!(matches!(answer.status, 201 | 204 | 404), "{round}: {ends:?}");
        }
    }
}

#[test]
fn a_delete_against_a_push_leaves_all_or_nothing() {
    let daemon = daemon("");
    let door = &Door::of(&daemon)[0];
    for round in 0..40 {
        let image = Image::new(Algorithm::Sha256, &format!("pushed and deleted {round}"));
        let layer = digest(Algorithm::Sha256, &image.layer);
        assert_eq!(statuses(&at_once(door, &image.blobs("w/r"))), [201; 2]);
        let race = [image.manifest("w/r", "1"), delete(format!("/v2/w/r/blobs/{layer}"))];
        let answers = at_once(door, &race);
        match (answers[0].status, answers[1].status) {
            // The push was first, or the delete was, and then the push found nothing.
            (201, 405) => {
                assert_eq!(door.ask(&get("/v2/w/r/manifests/1")).body, image.bytes());
                let read = door.ask(&get(format!("/v2/w/r/blobs/{layer}")));
                assert_eq!(read.body, image.layer, "{round}: a hole");
            }
            (404, 202) => assert_eq!(answers[0].code(), "MANIFEST_BLOB_UNKNOWN"),
            // The push had linked what it needs before the delete came, and lists it again.
            (201, 202) => {
                let read = door.ask(&get(format!("/v2/w/r/blobs/{layer}")));
                assert_eq!(read.body, image.layer, "{round}: a hole");
            }
            other => panic!("{round}: {other:?}: {answers:?}"),
        }
    }
}

#[test]
fn greed_and_slowness_cost_only_their_own_peer() {
    let daemon = daemon("[timeouts]\nstall = \"20s\"\n");
    let doors = Door::of(&daemon);
    let Door::Loopback(address) = &doors[1] else { panic!("no loopback listener") };
    // Every upload that it may have, and bodies of all kinds that never end.
    let mut held = Vec::new();
    for n in 0..64 {
        let location = doors[1].ask(&post("/v2/w/r/blobs/uploads/")).headers["location"].clone();
        let (method, length) = if n % 2 == 0 { ("PATCH", 1 << 30) } else { ("PUT", 1 << 20) };
        let d = digest(Algorithm::Sha256, "x");
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head = format!(
            "{method} {location}?digest={d} HTTP/1.1\r\nhost: 127.0.0.1\r\n\
             content-length: {length}\r\n\r\nsome bytes"
        );
        stream.write_all(head.as_bytes()).unwrap();
        held.push(stream);
    }
    for n in 0..16 {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let head = format!(
            "PUT /v2/w/r/manifests/{n} HTTP/1.1\r\nhost: 127.0.0.1\r\n\
             content-length: 4194304\r\n\r\n{{"
        );
        stream.write_all(head.as_bytes()).unwrap();
        held.push(stream);
    }
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    let image = Image::new(Algorithm::Sha256, "polite");
    for step in image.push("polite/r", "1") {
        assert_eq!(doors[0].ask(&step).status, 201);
    }
    let bytes = noise("polite", 3_000_000);
    let d = digest(Algorithm::Sha256, &bytes);
    assert_eq!(doors[0].ask(&push("polite/r", &d, &bytes)).status, 201);
    assert!(doors[0].ask(&get(format!("/v2/polite/r/blobs/{d}"))).body == bytes);
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "the polite client took {took:?}");
    tests::say(&format!("measured: a polite client beside 80 slow bodies: {took:?}"));
}

#[test]
fn requests_that_two_readers_would_read_differently_are_refused() {
    let daemon = daemon("");
    let d = digest(Algorithm::Sha256, "x");
    let begin = format!("POST /v2/w/r/blobs/uploads/?digest={d} HTTP/1.1\r\nhost: x\r\n");
    let many: String = (0..65).map(|n| format!("x-{n}: y\r\n")).collect();
    let large = format!("x: {}\r\n", "y".repeat(66_000));
    for (name, request) in [
        ("two lengths", format!("{begin}content-length: 1\r\ncontent-length: 2\r\n\r\nxx")),
        ("a signed length", format!("{begin}content-length: +1\r\n\r\nx")),
        ("no number", format!("{begin}transfer-encoding: chunked\r\n\r\nx\r\nx\r\n0\r\n\r\n")),
        (
            "a signed chunk",
            format!("{begin}transfer-encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n"),
        ),
        (
            "a chunk without end",
            format!("{begin}transfer-encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n"),
        ),
        (
            "a chunk too large to count",
            format!("{begin}transfer-encoding: chunked\r\n\r\n10000000000000001\r\nx\r\n0\r\n\r\n"),
        ),
        (
            "chunks and more",
            format!("{begin}transfer-encoding: chunked, gzip\r\n\r\n1\r\nx\r\n0\r\n\r\n"),
        ),
        ("a space before the colon", format!("{begin}content-length : 1\r\n\r\nx")),
        ("a folded line", format!("{begin}content-length: 1\r\n folded: y\r\n\r\nx")),
        ("many fields", format!("{begin}{many}content-length: 1\r\n\r\nx")),
        ("a large field", format!("{begin}{large}content-length: 1\r\n\r\nx")),
        ("a zero in the path", "GET /v2/w\0/r/tags/list HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()),
        ("no method", "/v2/ HTTP/1.1\r\nhost: x\r\n\r\n".to_owned()),
    ] {
        let mut stream = UnixStream::connect(daemon.home().socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let _ = stream.write_all(request.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let n_answers = answer.matches("HTTP/1.1 ").count();
        let good = answer.starts_with("HTTP/1.1 2");
        assert!(!good && n_answers <= 1, "{name}: {answer}");
    }
    let there = Door::of(&daemon)[0].ask(&get(format!("/v2/w/r/blobs/{d}")));
    assert_eq!(there.status, 404, "one of them was taken");
    assert_ne!(there.json(), Value::Null);
}

/// What is deleted while it is mounted is mounted or is not, and no fault of the disk's.
#[test]
fn a_mount_beside_a_delete_is_no_fault() {
    let daemon = daemon("");
    let door = &Door::of(&daemon)[0];
    let bytes = b"mounted and deleted";
    let d = digest(Algorithm::Sha256, bytes);
    assert_eq!(door.ask(&push("w/src", &d, bytes)).status, 201);
    let again_and_again = |step: &Step, good: &[u16]| {
        for _ in 0..300 {
            let answer = door.ask(step);
            assert!(good.contains(&answer.status), "{answer:?}");
        }
    };
    std::thread::scope(|scope| {
        let mount = post(format!("/v2/w/dst/blobs/uploads/?mount={d}&from=w/src"));
        for _ in 0..2 {
            let mount = mount.clone();
            scope.spawn(move || again_and_again(&mount, &[201, 202, 429]));
        }
        again_and_again(&delete(format!("/v2/w/dst/blobs/{d}")), &[202, 404]);
    });
}
