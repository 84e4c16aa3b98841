//! What one peer may have open, and that it keeps nobody else waiting.

use cas::digest::Algorithm;
use tests::layout::noise;
use tests::v2::{Door, ask, daemon, delete, digest, get, post, push, put};

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
