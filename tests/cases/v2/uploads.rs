//! Uploads in every way that clients have.

use cas::digest::{Algorithm, Digest};
use tests::layout::noise;
use tests::v2::{Case, Step, ask, case, delete, digest, get, head, patch, post, push, put};

use super::run;

const BEGIN: &str = "/v2/{r}/blobs/uploads/";

fn close(digest: &Digest, bytes: &[u8]) -> Step {
    put(format!("{{loc}}?digest={digest}"), bytes)
}

fn blob(digest: &Digest) -> String {
    format!("/v2/{{r}}/blobs/{digest}")
}

fn is_there(digest: &Digest, bytes: &[u8]) -> Step {
    get(blob(digest)).gives(bytes).eq("docker-content-digest", digest.to_string())
}

fn gone() -> Vec<Step> {
    vec![
        get("{loc}").fails(404, "BLOB_UPLOAD_UNKNOWN"),
        patch("{loc}", "x").fails(404, "BLOB_UPLOAD_UNKNOWN"),
        put(format!("{{loc}}?digest={}", digest(Algorithm::Sha256, "x")), "x")
            .fails(404, "BLOB_UPLOAD_UNKNOWN"),
    ]
}

fn whole(algorithm: Algorithm) -> Vec<Case> {
    let bytes = noise("uploaded whole", 100_000);
    let d = digest(algorithm, &bytes);
    let wrong = digest(algorithm, "something else");
    vec![
        case(
            format!("one POST, {algorithm:?}"),
            [
                push("{r}", &d, &bytes).eq("location", blob(&d)),
                is_there(&d, &bytes),
                push("{r}", &wrong, &bytes).fails(400, "DIGEST_INVALID"),
                head(blob(&wrong)).is(404),
            ],
        ),
        case(
            format!("POST and PUT, {algorithm:?}"),
            [
                post(BEGIN).has("location").eq("range", "0-0").has("docker-upload-uuid"),
                close(&d, &bytes)
                    .with("content-type", "application/octet-stream")
                    .eq("location", blob(&d))
                    .eq("docker-content-digest", d.to_string()),
                is_there(&d, &bytes),
                get("{loc}").fails(404, "BLOB_UPLOAD_UNKNOWN"),
            ],
        ),
        case(
            format!("POST and PUT in chunks, {algorithm:?}"),
            [post(BEGIN), close(&d, &bytes).chunked(), is_there(&d, &bytes)],
        ),
        case(
            format!("an algorithm that was announced, {algorithm:?}"),
            [
                post(format!("{BEGIN}?digest-algorithm={}", algorithm.name())),
                patch("{loc}", bytes.clone()),
                close(&d, b""),
                is_there(&d, &bytes),
            ],
        ),
        case(
            format!("an algorithm that shows at the end, {algorithm:?}"),
            [post(BEGIN), patch("{loc}", bytes.clone()), close(&d, b""), is_there(&d, &bytes)],
        ),
    ]
}

#[test]
fn whole_uploads() {
    let mut cases: Vec<Case> = Algorithm::ALL.into_iter().flat_map(whole).collect();
    let d = digest(Algorithm::Sha256, "x");
    cases.extend([
        case(
            "a wrong digest ends the upload",
            [vec![post(BEGIN), close(&d, b"y").fails(400, "DIGEST_INVALID")], gone()].concat(),
        ),
        case(
            "digests that are none",
            [
                ask("POST", format!("{BEGIN}?digest=sha256:x")).fails(400, "DIGEST_INVALID"),
                ask("POST", format!("{BEGIN}?digest-algorithm=md5")).fails(400, "DIGEST_INVALID"),
                post(BEGIN),
                put("{loc}", "x").fails(400, "DIGEST_INVALID"),
                put("{loc}?digest=x", "x").fails(400, "DIGEST_INVALID"),
                put(format!("{{loc}}?digest={d}&digest={d}"), "x").fails(400, "UNSUPPORTED"),
                // None of that ended it.
                close(&d, b"x"),
            ],
        ),
        case(
            "a body that breaks off leaves the upload as it was",
            [post(BEGIN), close(&d, b"x").torn(), get("{loc}").is(204), close(&d, b"x")],
        ),
    ]);
    run(&cases);
}

#[test]
fn uploads_in_pieces() {
    let bytes = noise("uploaded in pieces", 300_000);
    let d = digest(Algorithm::Sha256, &bytes);
    let chunk = |from: usize, to: usize| {
        patch("{loc}", &bytes[from..to]).with("content-range", format!("{from}-{}", to - 1))
    };
    run(&[
        case(
            "chunks in order",
            [
                post(BEGIN),
                get("{loc}").is(204).eq("range", "0-0").has("location").has("docker-upload-uuid"),
                chunk(0, 100_000).eq("range", "0-99999").has("location"),
                get("{loc}").is(204).eq("range", "0-99999"),
                chunk(100_000, 300_000).eq("range", "0-299999"),
                close(&d, b""),
                is_there(&d, &bytes),
            ],
        ),
        case(
            "the last chunk with the PUT",
            [
                post(BEGIN),
                chunk(0, 200_000),
                close(&d, &bytes[200_000..]).with("content-range", "200000-299999"),
                is_there(&d, &bytes),
            ],
        ),
        case(
            "one stream of unknown length",
            [
                post(BEGIN),
                patch("{loc}", &*bytes).chunked().eq("range", "0-299999"),
                close(&d, b""),
                is_there(&d, &bytes),
            ],
        ),
        case(
            "chunks out of order leave the upload as it was",
            [
                post(BEGIN),
                chunk(0, 100_000),
                ask("PATCH", "{loc}")
                    .body(&bytes[200_000..])
                    .with("content-range", "200000-299999")
                    .fails(416, "BLOB_UPLOAD_INVALID")
                    .eq("range", "0-99999")
                    .has("location"),
            ],
        ),
        case(
            "and it goes on",
            [
                post(BEGIN),
                chunk(0, 100_000),
                put(format!("{{loc}}?digest={d}"), &bytes[200_000..])
                    .with("content-range", "200000-299999")
                    .fails(416, "BLOB_UPLOAD_INVALID"),
                put(format!("{{loc}}?digest={d}"), &bytes[..100])
                    .with("content-range", "0-99")
                    .fails(416, "BLOB_UPLOAD_INVALID"),
                get(format!("{{loc}}?digest={d}")).is(204).eq("range", "0-99999"),
                chunk(100_000, 300_000),
                close(&d, b""),
                is_there(&d, &bytes),
            ],
        ),
        case(
            "ranges that make no sense",
            [
                post(BEGIN),
                put("{loc}?digest=x", "").fails(400, "DIGEST_INVALID"),
                ask("PATCH", "{loc}")
                    .body("abc")
                    .with("content-range", "abc")
                    .fails(400, "BLOB_UPLOAD_INVALID"),
                ask("PATCH", "{loc}")
                    .body("abc")
                    .with("content-range", "0-9")
                    .fails(400, "SIZE_INVALID"),
                ask("PATCH", "{loc}")
                    .body("abc")
                    .chunked()
                    .with("content-range", "0-2")
                    .fails(400, "SIZE_INVALID"),
                get("{loc}").is(204).eq("range", "0-0"),
            ],
        ),
        case(
            "cancelled, empty and not",
            [
                vec![post(BEGIN), delete("{loc}").is(204)],
                gone(),
                vec![post(BEGIN), chunk(0, 1000), delete("{loc}").is(204)],
                gone(),
                vec![post(BEGIN), delete("{loc}").is(204)],
                vec![delete("{loc}").fails(404, "BLOB_UPLOAD_UNKNOWN")],
            ]
            .concat(),
        ),
        case(
            "a wrong digest ends it",
            [
                vec![post(BEGIN), chunk(0, 1000), close(&d, b"").fails(400, "DIGEST_INVALID")],
                gone(),
            ]
            .concat(),
        ),
        case(
            "an upload belongs to its repository",
            [
                post(BEGIN),
                get("/v2/{s}/blobs/uploads/{id}").fails(404, "BLOB_UPLOAD_UNKNOWN"),
                get("/v2/{o}/blobs/uploads/{id}").fails(404, "BLOB_UPLOAD_UNKNOWN"),
                put(format!("/v2/{{s}}/blobs/uploads/{{id}}?digest={d}"), &*bytes)
                    .fails(404, "BLOB_UPLOAD_UNKNOWN"),
                get("/v2/{r}/blobs/uploads/{id}").is(204),
            ],
        ),
        case(
            "uploads that are not there",
            [
                get("/v2/{r}/blobs/uploads/1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed")
                    .fails(404, "BLOB_UPLOAD_UNKNOWN"),
                get("/v2/{r}/blobs/uploads/x").fails(404, "BLOB_UPLOAD_UNKNOWN"),
                get("/v2/{r}/blobs/uploads/..%2f..%2fx").fails(404, "BLOB_UPLOAD_UNKNOWN"),
                get("/v2/{r}/blobs/uploads/%ff").fails(404, "BLOB_UPLOAD_UNKNOWN"),
            ],
        ),
    ]);
}

/// What cannot be gone on with answers for nothing that came, and keeps no room.
#[test]
fn an_upload_that_is_refused_room_is_over() {
    let daemon = tests::v2::daemon("[store]\nquota = \"1 MiB\"\n");
    let steps = [
        vec![
            post(BEGIN),
            patch("{loc}", noise("fits", 500_000)).eq("range", "0-499999"),
            patch("{loc}", noise("does not fit", 2_000_000)).fails(507, "DENIED"),
        ],
        gone(),
    ];
    for door in tests::v2::Door::of(&daemon) {
        door.run(&[case("more than the quota", steps.concat())]);
    }
    let uploads = daemon.store().join("uploads");
    assert_eq!(std::fs::read_dir(uploads).unwrap().count(), 0);
}

/// A daemon with an upload of which `part` came, and where that upload is.
fn begun(daemon: &tests::Daemon, part: &[u8]) -> String {
    let door = &tests::v2::Door::of(daemon)[0];
    let place = door.ask(&post("/v2/w/r/blobs/uploads/"));
    let at = place.headers["location"].clone();
    if !part.is_empty() {
        assert_eq!(door.ask(&patch(&at, part)).status, 202);
    }
    at
}

#[test]
fn what_came_before_a_connection_broke_is_kept() {
    let daemon = tests::v2::daemon("");
    let door = &tests::v2::Door::of(&daemon)[0];
    for (size, n_broken) in [1, 900, 100_000].into_iter().zip(1..) {
        let bytes = noise("broken off", size);
        let at = begun(&daemon, b"");
        door.ask(&patch(&at, &*bytes).torn());
        // One byte reads like none: that it has come is seen in the log alone.
        tests::wait_until("it is seen to", || {
            daemon.home().logged().matches("op=\"v2_upload_patch\"").count() == n_broken
        });
        let range = format!("0-{}", size - 1);
        tests::wait_until("it is there", || {
            let told = door.ask(&get(&at));
            assert_eq!(told.status, 204);
            told.headers.get("range") == Some(&range)
        });
        let d = digest(Algorithm::Sha256, [&bytes[..], b"more"].concat());
        assert_eq!(door.ask(&put(format!("{at}?digest={d}"), "more")).status, 201, "{size}");
    }
}

#[test]
fn an_upload_goes_on_after_a_restart_of_the_daemon() {
    let bytes = noise("in two lives", 3 << 20);
    let d = digest(Algorithm::Sha256, &bytes);
    for is_killed in [false, true] {
        for come in [0, 1, 100_000, 2 << 20] {
            let what = format!("{come} bytes, killed: {is_killed}");
            let mut daemon = tests::v2::daemon("");
            let at = begun(&daemon, &bytes[..come]);
            if come == 0 {
                // A moment later it is on disk, though nothing came.
                let folder = daemon.store().join("uploads");
                let door = &tests::v2::Door::of(&daemon)[0];
                tests::wait_until("it is written down", || {
                    assert_eq!(door.ask(&get(&at)).status, 204, "{what}");
                    std::fs::read_dir(&folder).is_ok_and(|entries| entries.count() == 2)
                });
            }
            match is_killed {
                true => daemon.kill(),
                false => daemon.stop(),
            }
            daemon.start_again();
            let door = &tests::v2::Door::of(&daemon)[0];
            let found = door.ask(&get(&at));
            assert_eq!(found.status, 204, "{what}");
            let range = format!("0-{}", come.saturating_sub(1));
            assert_eq!(found.headers.get("range"), Some(&range), "{what}");
            let out_of_order = format!("{}-{}", come + 1, bytes.len() - 1);
            let refused =
                patch(&at, &bytes[..bytes.len() - come - 1]).with("content-range", out_of_order);
            assert_eq!(door.ask(&refused).status, 416, "{what}");
            // Nobody else goes on with it.
            let elsewhere = at.replace("/w/r/", "/w/other/");
            assert_eq!(door.ask(&get(elsewhere)).status, 404, "{what}");
            let other_peer = &tests::v2::Door::of(&daemon)[1];
            assert_eq!(other_peer.ask(&get(&at)).status, 404, "{what}");
            let closing = put(format!("{at}?digest={d}"), &bytes[come..]);
            assert_eq!(door.ask(&closing).status, 201, "{what}");
            assert_eq!(door.ask(&get(&at)).status, 404, "{what}");
            let blob = door.ask(&get(format!("/v2/w/r/blobs/{d}")));
            assert!(blob.is_whole && blob.body == bytes, "{what}");
            let left = std::fs::read_dir(daemon.store().join("uploads")).unwrap().count();
            assert_eq!(left, 0, "{what}");
        }
    }
}

#[test]
fn an_upload_that_was_left_is_refused_wrong_bytes_cancelled_or_expires() {
    let bytes = noise("left", 10_000);
    let wrong = digest(Algorithm::Sha256, "something else");
    let mut daemon = tests::v2::daemon("[timeouts]\nupload_idle = \"3s\"\n");
    let [first, second, third] = [(); 3].map(|()| begun(&daemon, &bytes));
    daemon.kill();
    daemon.start_again();
    let door = &tests::v2::Door::of(&daemon)[0];
    let closing = put(format!("{first}?digest={wrong}"), "");
    assert_eq!(door.ask(&closing).status, 400);
    assert_eq!(door.ask(&delete(&second)).status, 204);
    for ended in [&first, &second] {
        assert_eq!(door.ask(&get(ended)).status, 404);
    }
    let uploads = daemon.store().join("uploads");
    let n_left = || std::fs::read_dir(&uploads).unwrap().count();
    assert_eq!(n_left(), 2, "bytes and a record of the third");
    tests::wait_until("the third expires", || n_left() == 0);
    assert_eq!(door.ask(&get(&third)).status, 404);
}

#[test]
fn uploads_that_wait_hold_nothing_open() {
    let daemon = tests::v2::daemon("");
    let door = &tests::v2::Door::of(&daemon)[0];
    let before = daemon.n_descriptors();
    let begin = || door.ask(&post("/v2/w/r/blobs/uploads/")).headers["location"].clone();
    let begun: Vec<String> = (0..30).map(|_| begin()).collect();
    let n_files = || std::fs::read_dir(daemon.store().join("uploads")).unwrap().count();
    tests::wait_until("they are written down", || n_files() == 2 * begun.len());
    tests::wait_until("they are closed", || daemon.n_descriptors() < before + 10);
    // They go on as if nothing had been.
    let d = digest(Algorithm::Sha256, "late");
    let chunk = patch(&begun[0], "la").with("content-range", "0-1");
    assert_eq!(door.ask(&chunk).status, 202);
    assert_eq!(door.ask(&put(format!("{}?digest={d}", begun[0]), "te")).status, 201);
    assert_eq!(door.ask(&put(format!("{}?digest={d}", begun[1]), "late")).status, 201);
    assert_eq!(door.ask(&put(format!("{}?digest={d}", begun[2]), "else")).status, 400);
    assert_eq!(door.ask(&delete(&begun[3])).status, 204);
    tests::wait_until("what has ended is gone", || n_files() == 2 * (begun.len() - 4));
}
