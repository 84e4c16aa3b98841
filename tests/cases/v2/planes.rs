//! One store, two planes: what `bond` put is pulled by any client, and the other way round.

use cas::digest::Algorithm;
use serde_json::json;
use tests::layout::types;
use tests::v2::{Door, case, daemon, delete, get, head};
use tests::{Layout, oci};

use super::{Image, steps};

#[test]
fn what_bond_put_is_in_its_repository() {
    let daemon = daemon("");
    let mut layout = Layout::default();
    let root = layout.image("put by bond");
    layout.list(&root);
    let folder = daemon.folder().join("layout");
    layout.write(&folder);
    let put = ["--workspace", "w0-socket", "put", &oci(&folder), "--name", "one:v1"];
    let digest = daemon.bond(&put).ok().digest();
    let manifest = layout.blobs()[&digest].clone();
    let document: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let layer = document["layers"][0]["digest"].as_str().unwrap();
    let bytes = layout.blobs()[&layer.parse().unwrap()].clone();
    let socket = &Door::of(&daemon)[0];
    socket.run(&[case(
        "put by bond",
        [
            get("/v2/{r}/tags/list").json("/tags", json!(["v1"])),
            head("/v2/{r}/manifests/v1").eq("docker-content-digest", digest.to_string()),
            get("/v2/{r}/manifests/v1").gives(manifest.clone()),
            get(format!("/v2/{{r}}/manifests/{digest}"))
                .gives(manifest)
                .eq("content-type", types::IMAGE_MANIFEST),
            get(format!("/v2/{{r}}/blobs/{layer}")).gives(bytes),
            head(format!("/v2/{{s}}/blobs/{layer}")).is(404),
            // It leaves the repository, and stays in the workspace.
            delete(format!("/v2/{{r}}/manifests/{digest}")),
            get("/v2/{r}/manifests/v1").is(404),
        ],
    )]);
    let by_digest = digest.to_string();
    daemon.bond(&["--workspace", "w0-socket", "resolve", &by_digest]).ok();
    daemon.bond(&["--workspace", "w0-socket", "gc"]).ok();
    daemon.bond(&["--workspace", "w0-socket", "verify", &by_digest]).ok();
}

#[test]
fn what_was_pushed_is_an_artifact_of_the_workspace() {
    let daemon = daemon("");
    let image = Image::new(Algorithm::Sha256, "pushed");
    let doors = Door::of(&daemon);
    doors[0].run(&[case("pushed", image.push("{r}", "v1"))]);

    let bond = |words: &[&str]| {
        let words: Vec<&str> = ["--workspace", "w0-socket"].iter().chain(words).copied().collect();
        daemon.bond(&words)
    };
    let path = bond(&["resolve", "one:v1"]).ok().lines()[0].to_owned();
    let layout = std::path::Path::new(&path);
    assert!(layout.join("index.json").is_file(), "{path}");
    let resolved = bond(&["resolve", &image.digest().to_string()]).ok();
    assert_eq!(resolved.lines()[0], path, "one artifact, one handle");
    assert!(bond(&["ls"]).ok().text().contains("one:v1"));
    bond(&["verify", "one:v1"]).ok();

    // The same artifact put by bond is the same layout, and is held by bond from then on.
    let copy = daemon.folder().join("copy");
    bond(&["get", "one:v1", &oci(&copy)]).ok();
    let put = bond(&["put", &oci(&copy), "--name", "other:v1"]).ok();
    assert_eq!(put.digest(), image.digest());
    assert_eq!(bond(&["resolve", "other:v1"]).ok().lines()[0], path);
}

#[test]
fn what_is_retired_is_gone_from_its_repositories() {
    let daemon = daemon("");
    let image = Image::new(Algorithm::Sha256, "retired");
    let socket = &Door::of(&daemon)[0];
    socket.run(&[case("pushed", image.push("{r}", "v1"))]);
    daemon.bond(&["--workspace", "w0-socket", "retire", &image.digest().to_string()]).ok();
    socket.run(&[case(
        "retired",
        [
            get("/v2/{r}/manifests/v1").is(404),
            get(format!("/v2/{{r}}/manifests/{}", image.digest())).is(404),
        ],
    )]);
    socket.run(&[case(
        "pushed again",
        steps([image.push("{r}", "v1"), vec![get("/v2/{r}/manifests/v1")]]),
    )]);
}

#[test]
fn what_was_pushed_is_there_after_a_restart() {
    let mut daemon = daemon("");
    let image = Image::new(Algorithm::Sha512, "durable");
    let tag = |image: &Image| image.manifest("{r}", &format!("{}?tag=v1", image.digest()));
    let push = case("pushed", steps([image.blobs("{r}"), vec![tag(&image)]]));
    Door::of(&daemon)[0].run(&[push]);
    daemon.kill();
    daemon.start_again();
    let there = [
        get("/v2/{r}/manifests/v1")
            .gives(image.bytes())
            .eq("docker-content-digest", image.digest().to_string()),
        get(format!("/v2/{{r}}/blobs/{}", tests::v2::digest(Algorithm::Sha512, &image.layer)))
            .gives(image.layer.clone()),
    ];
    Door::of(&daemon)[0].run(&[case("after a kill", there.clone())]);
    daemon.stop();
    daemon.start_again();
    Door::of(&daemon)[0].run(&[case("after a stop", there)]);
}
