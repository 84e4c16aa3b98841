//! Who is let in by which door, and what they may do.

use cas::digest::Algorithm;
use tests::v2::{Door, ask, case, daemon, delete, digest, get, head, post, push, put};
use tests::{Daemon, Home, run};

use super::{Image, steps};

#[test]
fn the_loopback_listener_has_the_front_door_alone_and_hears_no_page() {
    let daemon = daemon("");
    let doors = Door::of(&daemon);
    let loopback = &doors[1];
    for path in ["/v1/health", "/v1/status", "/v1/workspaces/w/artifacts", "/", "/v22/"] {
        let answer = loopback.ask(&get(path));
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
    }
    loopback.run(&[case(
        "hosts and pages",
        [
            get("/v2/").with("host", "localhost:5000"),
            get("/v2/").with("host", "[::1]"),
            get("/v2/").with("host", "evil.example").fails(403, "DENIED"),
            get("/v2/").with("host", "169.254.169.254").fails(403, "DENIED"),
            get("/v2/").with("origin", "http://evil.example").fails(403, "DENIED"),
            post("/v2/{r}/blobs/uploads/").with("origin", "null").fails(403, "DENIED"),
            ask("OPTIONS", "/v2/{r}/tags/list").fails(405, "UNSUPPORTED"),
        ],
    )]);
    // The socket cares for neither: no page reaches it.
    doors[0].run(&[case("the socket", [get("/v2/").with("host", "evil.example")])]);
}

#[test]
fn a_listener_that_would_let_everybody_in_is_refused() {
    for (words, file, says) in [
        (&["--listen", "127.0.0.1:0"][..], "", "--allow-anonymous"),
        (&["--listen", "0.0.0.0:0", "--allow-anonymous"], "", "loopback"),
        (&["--listen", "[::]:0", "--allow-anonymous"], "", "loopback"),
        (&[], "[registry]\nlisten = \"127.0.0.1:0\"\n", "--allow-anonymous"),
        (&[], "[registry]\nlisten = \"10.0.0.1:0\"\nallow_anonymous = true\n", "loopback"),
        (&["--listen", "localhost:5000", "--allow-anonymous"], "", "invalid"),
    ] {
        let home = Home::new(file).words(words);
        let refused = run(&mut home.bonded());
        assert_ne!(refused.code, Some(0), "{words:?} {file}");
        refused.says(&[says]);
    }
    // A port that somebody has is told too, and nothing stays behind.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let home = Home::new("").words(&["--listen", &address, "--allow-anonymous"]);
    run(&mut home.bonded()).says(&[&address]);
    assert!(!home.socket().exists());
}

#[test]
fn rights_are_those_of_the_policy() {
    let own = nix::unistd::Uid::effective().as_raw();
    let daemon = daemon(&format!(
        "[[policy]]\nuid = {own}\nworkspaces = [\"*\"]\nmay = [\"put\", \"read\", \"retire\"]\n\
         [[policy]]\nanonymous = true\nworkspaces = [\"w0-socket\"]\nmay = [\"read\"]\n\
         [[policy]]\nanonymous = true\nworkspaces = [\"drop\"]\nmay = [\"put\"]\n"
    ));
    let image = Image::new(Algorithm::Sha256, "governed");
    let layer = digest(Algorithm::Sha256, &image.layer);
    let doors = Door::of(&daemon);
    doors[0].run(&[case(
        "the keeper",
        steps([image.push("{r}", "1"), image.push("{o}", "1"), image.blobs("drop/x")]),
    )]);
    let shown = "w0-socket/one";
    let hidden = "ow0-socket/one";
    doors[1].run(&[case(
        "anonymous",
        [
            get("/v2/"),
            get(format!("/v2/{shown}/manifests/1")).gives(image.bytes()),
            get(format!("/v2/{shown}/tags/list")),
            push(shown, &layer, &image.layer).fails(403, "DENIED"),
            post(format!("/v2/{shown}/blobs/uploads/")).fails(403, "DENIED"),
            image.manifest(shown, "2").fails(403, "DENIED"),
            delete(format!("/v2/{shown}/manifests/1")).fails(403, "DENIED"),
            delete(format!("/v2/{shown}/blobs/{layer}")).fails(403, "DENIED"),
            // What is hidden and what is not there read the same, whatever is asked.
            get(format!("/v2/{hidden}/manifests/1")).fails(404, "NAME_UNKNOWN"),
            head(format!("/v2/{hidden}/blobs/{layer}")).is(404),
            get(format!("/v2/{hidden}/referrers/{layer}")).fails(404, "NAME_UNKNOWN"),
            push(hidden, &layer, &image.layer).fails(404, "NAME_UNKNOWN"),
            delete(format!("/v2/{hidden}/manifests/1")).fails(404, "NAME_UNKNOWN"),
            get("/v2/nowhere/x/manifests/1").fails(404, "NAME_UNKNOWN"),
            // Who may only bring learns nothing of what is there, not by mounting either.
            push("drop/y", &layer, &image.layer),
            head(format!("/v2/drop/y/blobs/{layer}")).is(404),
            post(format!("/v2/drop/y/blobs/uploads/?mount={layer}&from=drop/x")).is(202),
            put(format!("{{loc}}?digest={layer}"), image.layer.clone()),
        ],
    )]);
    // An upload that one peer began is not there for another one, whatever both may do.
    let begun = doors[0].ask(&post("/v2/drop/z/blobs/uploads/"));
    let location = begun.headers["location"].clone();
    let foreign = doors[1].ask(&get(&location));
    assert_eq!((foreign.status, foreign.code()), (404, "BLOB_UPLOAD_UNKNOWN".to_owned()));
    assert_eq!(doors[0].ask(&get(&location)).status, 204);
}

#[test]
fn a_descriptor_is_not_taken_at_the_front_door() {
    let daemon = Daemon::start();
    let file = std::fs::File::open(daemon.home().config()).unwrap();
    let answer = daemon.connect().hand("GET", "/v2/", &file);
    assert_eq!(answer.status, 400, "{answer:?}");
}
