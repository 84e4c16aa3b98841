//! Requests made within a workspace: every name in them and in their answers is written without it.

use cas::digest::Algorithm;
use serde_json::json;
use tests::Daemon;
use tests::v2::{
    Answer, Case, Door, Step, ask, case, daemon, delete, digest, get, head, patch, post, push, put,
};
use wire::api::WORKSPACE;

use super::{Image, steps};

/// A case whose requests are all made within the workspace `{w}`.
fn within(name: &str, steps: Vec<Step>) -> Case {
    case(name, steps.into_iter().map(|step| step.with(WORKSPACE, "{w}")).collect::<Vec<_>>())
}

#[test]
fn names_are_relative_to_the_workspace() {
    let daemon = daemon("");
    let socket = &Door::of(&daemon)[0];
    let image = Image::new(Algorithm::Sha256, "within");
    let layer = digest(Algorithm::Sha256, &image.layer);
    let manifest = image.digest();
    let note = Image::new(Algorithm::Sha256, "note").with("subject", image.descriptor());
    let there = format!("/v2/app/blobs/{layer}");
    socket.run(&[
        within(
            "one segment, every verb",
            steps([
                vec![
                    get("/v2/"),
                    push("app", &layer, &image.layer).eq("location", there.clone()),
                    push("app", &digest(Algorithm::Sha256, &image.config), &image.config),
                    image
                        .manifest("app", "1")
                        .eq("location", format!("/v2/app/manifests/{manifest}")),
                    image.manifest("app", &format!("{manifest}?tag=2")),
                    get("/v2/app/manifests/1").gives(image.bytes()),
                    head(there.clone()).eq("docker-content-digest", layer.to_string()),
                    get("/v2/app/tags/list").json("", json!({ "name": "app", "tags": ["1", "2"] })),
                    get("/v2/app/tags/list?n=1")
                        .eq("link", "</v2/app/tags/list?n=1&last=1>; rel=\"next\""),
                    // A mount says where from in the same way.
                    post(format!("/v2/a/b/c/blobs/uploads/?mount={layer}&from=app"))
                        .is(201)
                        .eq("location", format!("/v2/a/b/c/blobs/{layer}")),
                    post(format!("/v2/d/blobs/uploads/?mount={layer}&from=w0-socket/app")).is(202),
                ],
                note.blobs("app"),
                vec![
                    note.manifest("app", "note"),
                    get(format!("/v2/app/referrers/{manifest}")).says(note.digest().to_string()),
                    get("/v2/app/manifests/none")
                        .fails(404, "MANIFEST_UNKNOWN")
                        .says("none is not in app"),
                    get("/v2/none/manifests/1")
                        .fails(404, "NAME_UNKNOWN")
                        .says("there is no repository none"),
                    get("/v2/App/manifests/1").fails(400, "NAME_INVALID"),
                    delete(format!("/v2/a/b/c/blobs/{layer}")),
                    // What looks like a whole name is one more repository.
                    get("/v2/{w}/app/tags/list").fails(404, "NAME_UNKNOWN"),
                ],
            ]),
        ),
        case(
            "the same is there by its whole name",
            [
                get("/v2/w0-socket/app/manifests/1").gives(image.bytes()),
                get("/v2/w0-socket/app/tags/list").json("/name", json!("w0-socket/app")),
                get("/v2/app/manifests/1").fails(404, "NAME_UNKNOWN").says("workspace"),
            ],
        ),
    ]);
}

#[test]
fn an_upload_goes_on_where_its_answers_say() {
    let daemon = Daemon::start();
    let socket = &Door::of(&daemon)[0];
    let step = |step: Step| step.with(WORKSPACE, "ci");
    let location = |answer: &Answer| answer.headers["location"].clone();
    let begun = socket.ask(&step(post("/v2/app/blobs/uploads/")));
    let first = location(&begun);
    assert!(first.starts_with("/v2/app/blobs/uploads/"), "{first}");
    let more = socket.ask(&step(patch(first.clone(), "bytes").with("content-range", "0-4")));
    assert_eq!((more.status, location(&more)), (202, first.clone()), "{more:?}");
    let early = socket.ask(&step(patch(first.clone(), "x").with("content-range", "9-9")));
    assert_eq!((early.status, location(&early)), (416, first.clone()), "{early:?}");
    let asked = socket.ask(&step(get(first.clone())));
    assert_eq!((asked.status, location(&asked)), (204, first.clone()), "{asked:?}");
    // It is one upload, however its repository is written.
    let whole = first.replace("/v2/app/", "/v2/ci/app/");
    let asked = socket.ask(&get(whole.clone()));
    assert_eq!((asked.status, location(&asked)), (204, whole), "{asked:?}");
    let wanted = digest(Algorithm::Sha256, "bytes");
    let ended = socket.ask(&step(put(format!("{first}?digest={wanted}"), "")));
    assert_eq!((ended.status, location(&ended)), (201, format!("/v2/app/blobs/{wanted}")));
}

#[test]
fn rights_are_those_of_the_workspace_and_the_header_is_the_sockets_alone() {
    let own = nix::unistd::Uid::effective().as_raw();
    let daemon = daemon(&format!(
        "[[policy]]\nuid = {own}\nworkspaces = [\"shown\"]\nmay = [\"read\"]\n\
         [[policy]]\nuid = {own}\nworkspaces = [\"own\"]\nmay = [\"put\", \"read\"]\n\
         [[policy]]\nanonymous = true\nworkspaces = [\"*\"]\nmay = [\"read\"]\n"
    ));
    let doors = Door::of(&daemon);
    let (bytes, blob) = ("bytes", digest(Algorithm::Sha256, "bytes"));
    let at = |workspace: &str, step: Step| step.with(WORKSPACE, workspace);
    let push = || push("app", &blob, bytes.as_bytes());
    doors[0].run(&[case(
        "by workspace",
        [
            at("own", push()),
            at("own", delete(format!("/v2/app/blobs/{blob}")).fails(403, "DENIED")),
            at("shown", push().fails(403, "DENIED")),
            at("shown", get("/v2/app/tags/list").fails(404, "NAME_UNKNOWN")),
            at("hidden", push().fails(404, "NAME_UNKNOWN")),
            at("hidden", get("/v2/app/tags/list").fails(404, "NAME_UNKNOWN")),
            // No workspace, two of them, and none that could be one.
            at("", get("/v2/").fails(400, "NAME_INVALID")),
            at("own/app", get("/v2/").fails(400, "NAME_INVALID")),
            at("..", get("/v2/app/tags/list").fails(400, "NAME_INVALID")),
            at("own", at("shown", get("/v2/").fails(400, "UNSUPPORTED"))),
        ],
    )]);
    doors[1].run(&[case(
        "off the socket",
        [
            get("/v2/"),
            at("own", get("/v2/").fails(400, "UNSUPPORTED")),
            at("own", get("/v2/app/tags/list").fails(400, "UNSUPPORTED")),
            at("own", ask("HEAD", format!("/v2/app/blobs/{blob}")).is(400)),
        ],
    )]);
    // The control plane knows nothing of it.
    let answer = doors[0].ask(&at("own", get("/v1/health")));
    assert_eq!(answer.status, 200, "{answer:?}");
}
