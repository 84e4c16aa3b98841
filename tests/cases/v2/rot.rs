//! Rot in the store is never handed out, and the next good push heals it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use cas::digest::{Algorithm, Digest};
use serde_json::json;
use tests::layout::{noise, types};
use tests::v2::{Door, case, daemon, delete, digest, get, head, push};
use tests::{Daemon, oci, tree};

use super::{Image, steps};

/// Flips a byte in the store's copy, which all links share.
#[track_caller]
fn rot(daemon: &Daemon, digest: &Digest) {
    let file = daemon.store().join(format!("blobs/{}/{}", digest.algorithm().name(), digest.hex()));
    let file = if file.is_file() { file } else { find(daemon.store(), &digest.hex()) };
    let writable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&file, writable).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o444)).unwrap();
}

/// The file of that name anywhere in the store.
#[track_caller]
fn find(store: &Path, hex: &str) -> std::path::PathBuf {
    let mut folders = vec![store.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(hex) {
                return path;
            }
        }
    }
    panic!("no file of {hex} in:\n{}", tree::store(store).join("\n"));
}

#[test]
fn a_rotten_blob_is_never_handed_out_and_heals() {
    // Up to 1 MiB is proved before its answer begins; of what is larger the answer breaks off.
    let at_once = 1 << 20;
    for (size, what, told) in [
        (20_000, "small", 500),
        (at_once, "the largest at once", 500),
        (at_once + 1, "the smallest in parts", 200),
        (3_000_000, "large", 200),
    ] {
        let daemon = daemon("");
        let door = &Door::of(&daemon)[0];
        let bytes = noise(what, size);
        let d = digest(Algorithm::Sha256, &bytes);
        let at = format!("/v2/w/r/blobs/{d}");
        assert_eq!(door.ask(&push("w/r", &d, &bytes)).status, 201);
        rot(&daemon, &d);
        let answer = door.ask(&get(&at));
        assert_eq!(answer.status, told, "{what}");
        assert!(told != 200 || !answer.is_whole, "{what}: rotten bytes came whole");
        assert_eq!(door.ask(&head(&at)).status, 404, "{what}: known to be rotten");
        assert_eq!(door.ask(&get(&at)).status, 404, "{what}");
        assert_eq!(door.ask(&push("w/r", &d, &bytes)).status, 201, "{what}: it heals");
        let answer = door.ask(&get(&at));
        assert!(answer.is_whole && answer.body == bytes, "{what}: {}", answer.status);
    }
}

#[test]
fn a_rotten_blob_gives_no_range() {
    let daemon = daemon("");
    let door = &Door::of(&daemon)[0];
    let bytes = noise("ranged", 1_000_000);
    let d = digest(Algorithm::Sha256, &bytes);
    assert_eq!(door.ask(&push("w/r", &d, &bytes)).status, 201);
    rot(&daemon, &d);
    // The range itself has none of the rot in it, and is not given all the same.
    let answer = door.ask(&get(format!("/v2/w/r/blobs/{d}")).with("range", "bytes=0-9"));
    assert!(matches!(answer.status, 404 | 500), "{answer:?}");
}

#[test]
fn a_push_over_rot_is_refused_and_the_next_one_heals() {
    let daemon = daemon("");
    let door = &Door::of(&daemon)[0];
    let image = Image::new(Algorithm::Sha256, "rotten");
    let layer = digest(Algorithm::Sha256, &image.layer);
    door.run(&[case("pushed", image.push("{r}", "1"))]);
    rot(&daemon, &layer);
    // What is mounted was not hashed by this push: sealing hashes it.
    let other = image.clone().with("annotations", serde_json::json!({ "a": "b" }));
    let mount = |bytes: &[u8]| {
        let d = digest(Algorithm::Sha256, bytes);
        tests::v2::post(format!("/v2/{{s}}/blobs/uploads/?mount={d}&from={{r}}")).is(201)
    };
    door.run(&[case(
        "over rot",
        steps([
            vec![mount(&image.config), mount(&image.layer)],
            vec![
                other
                    .manifest("{s}", "1")
                    .fails(404, "MANIFEST_BLOB_UNKNOWN")
                    .says(layer.to_string()),
                // Known to be rotten, it is not mounted again, from there or from anywhere.
                mount(&image.layer).is(202),
                tests::v2::post(format!("/v2/{{s}}/blobs/uploads/?mount={layer}")).is(202),
                mount(&image.config),
                push("{s}", &layer, &image.layer),
                other.manifest("{s}", "1"),
                get("/v2/{s}/manifests/1").gives(other.bytes()),
                get(format!("/v2/{{s}}/blobs/{layer}")).gives(image.layer.clone()),
            ],
        ]),
    )]);
    let reference = "two:1";
    daemon.bond(&["--workspace", "w0-socket", "verify", reference]).ok();
}

#[test]
fn a_rotten_manifest_is_an_error_once_and_absent_then() {
    let daemon = daemon("");
    let door = &Door::of(&daemon)[0];
    let image = Image::new(Algorithm::Sha256, "rotten manifest");
    door.run(&[case("pushed", image.push("{r}", "1"))]);
    rot(&daemon, &image.digest());
    door.run(&[case(
        "read",
        steps([
            vec![
                get("/v2/{r}/manifests/1").fails(500, "UNKNOWN"),
                get("/v2/{r}/manifests/1").fails(404, "MANIFEST_UNKNOWN"),
            ],
            image.blobs("{r}"),
            vec![image.manifest("{r}", "1"), get("/v2/{r}/manifests/1").gives(image.bytes())],
        ]),
    )]);
}

/// The layout is healed by a put that says nothing of repositories; those that listed it list it again.
#[test]
fn what_is_healed_elsewhere_is_listed_again() {
    let daemon = daemon("");
    let door = &Door::of(&daemon)[0];
    let image = Image::new(Algorithm::Sha256, "healed elsewhere");
    let (root, layer) = (image.digest(), digest(Algorithm::Sha256, &image.layer));
    let blob = || format!("/v2/{{r}}/blobs/{layer}");
    let by_digest = || format!("/v2/{{r}}/manifests/{root}");
    door.run(&[case("pushed", image.push("{r}", "1"))]);
    let bond = |words: &[&str]| {
        let all: Vec<&str> = ["--workspace", "w0-socket"].iter().chain(words).copied().collect();
        daemon.bond(&all)
    };
    let copy = oci(&daemon.folder().join("copy"));
    bond(&["get", "one:1", &copy]).ok();

    rot(&daemon, &layer);
    let gone = |at: String| vec![get(&at).is(500), head(&at).is(404), head(&at).is(404)];
    door.run(&[case("a rotten layer", gone(blob()))]);
    bond(&["put", &copy]).ok();
    door.run(&[case(
        "the layer again",
        steps([vec![head(blob()), get(blob()).gives(image.layer.clone()), delete(blob()).is(405)]]),
    )]);

    rot(&daemon, &root);
    let absent = vec![get(by_digest()).is(404), head("/v2/{r}/manifests/1").is(404)];
    let rotten = get("/v2/{r}/manifests/1").is(500);
    door.run(&[case("a rotten manifest", steps([vec![rotten], absent]))]);
    bond(&["put", &copy]).ok();
    door.run(&[case(
        "the manifest again",
        steps([
            vec![get(by_digest()).gives(image.bytes())],
            vec![get("/v2/{r}/manifests/1").gives(image.bytes())],
            // What was deleted does not come back.
            vec![delete(by_digest()), delete(blob())],
            vec![
                get("/v2/{r}/manifests/1").is(404),
                get(by_digest()).is(404),
                head(blob()).is(404),
            ],
        ]),
    )]);
}

#[test]
fn a_child_that_is_healed_elsewhere_is_listed_again_and_nothing_else_is() {
    let daemon = daemon("");
    let door = &Door::of(&daemon)[0];
    let subject = Image::new(Algorithm::Sha256, "subject");
    let child = Image::new(Algorithm::Sha256, "child").with("subject", subject.descriptor());
    let mut index = Image::new(Algorithm::Sha256, "index");
    index.document = json!({
        "schemaVersion": 2,
        "mediaType": types::IMAGE_INDEX,
        "manifests": [child.descriptor()],
    });
    let config = digest(Algorithm::Sha256, &child.config);
    let manifest = |digest: &Digest| format!("/v2/{{r}}/manifests/{digest}");
    let referrers =
        || get(format!("/v2/{{r}}/referrers/{}", subject.digest())).json("/manifests", json!([]));
    door.run(&[case(
        "pushed",
        steps([
            child.push("{s}", "1"),
            // The child is listed here for the sake of the index alone.
            vec![index.manifest("{r}", "1"), get(manifest(&child.digest())).gives(child.bytes())],
            vec![get(manifest(&config)).is(404), head(manifest(&config)).is(404), referrers()],
        ]),
    )]);
    rot(&daemon, &child.digest());
    door.run(&[case(
        "rotten",
        steps([
            vec![get(manifest(&child.digest())).is(500), get(manifest(&child.digest())).is(404)],
            child.push("{s}", "2"),
        ]),
    )]);
    daemon.bond(&["--workspace", "w0-socket", "verify", &index.digest().to_string()]).ok();
    door.run(&[case(
        "healed",
        steps([
            vec![get(manifest(&child.digest())).gives(child.bytes()), referrers()],
            // It is still there for the index alone.
            vec![delete(manifest(&child.digest())).is(405), delete(manifest(&index.digest()))],
            vec![delete(manifest(&child.digest())), get(manifest(&child.digest())).is(404)],
        ]),
    )]);
}

/// Its tags would bring it back.
#[test]
fn a_rotten_manifest_that_is_deleted_stays_so() {
    let daemon = daemon("");
    let door = &Door::of(&daemon)[0];
    let image = Image::new(Algorithm::Sha256, "rotten and deleted");
    let manifest = || format!("/v2/{{r}}/manifests/{}", image.digest());
    door.run(&[case("pushed", image.push("{r}", "1"))]);
    rot(&daemon, &image.digest());
    door.run(&[case(
        "deleted",
        steps([
            vec![get(manifest()).is(500), get(manifest()).is(404), delete(manifest())],
            vec![get("/v2/{r}/tags/list").json("/tags", json!([])), delete(manifest()).is(404)],
            image.push("{s}", "1"),
            vec![get("/v2/{r}/manifests/1").is(404), get(manifest()).is(404)],
        ]),
    )]);
}

/// What is read often is kept in memory, and seen to be something else at once.
#[test]
fn what_is_read_often_is_believed_until_it_changes() {
    let daemon = daemon("");
    for door in &Door::of(&daemon) {
        let (one, other) = (Image::new(Algorithm::Sha256, "1"), Image::new(Algorithm::Sha256, "2"));
        let by_digest = || get(format!("/v2/{{r}}/manifests/{}", one.digest()));
        let list = |tags: &[&str]| get("/v2/{r}/tags/list").json("/tags", json!(tags));
        // Long enough for the clock of the filesystem to tell this change from the next one.
        let often = |what: &str, image: &Image, tags: &[&str]| {
            std::thread::sleep(Duration::from_millis(250));
            let read = || vec![get("/v2/{r}/manifests/1").gives(image.bytes()), list(tags)];
            door.run(&[case(what, steps([read(), read(), read()]))]);
        };
        door.run(&[case("pushed", one.push("{r}", "1"))]);
        often("read", &one, &["1"]);
        let moved = vec![get("/v2/{r}/manifests/1").gives(other.bytes())];
        door.run(&[case("moved", steps([other.push("{r}", "1"), moved]))]);
        often("read when it was moved", &other, &["1"]);
        let more = vec![one.manifest("{r}", "2"), list(&["1", "2"])];
        door.run(&[case("one more", steps([more, vec![by_digest().gives(one.bytes())]]))]);
        often("read when there is one more", &other, &["1", "2"]);
        door.run(&[case(
            "deleted",
            vec![
                delete("/v2/{r}/manifests/1"),
                get("/v2/{r}/manifests/1").fails(404, "MANIFEST_UNKNOWN"),
                list(&["2"]),
                by_digest().gives(one.bytes()),
                delete(format!("/v2/{{r}}/manifests/{}", one.digest())),
                by_digest().fails(404, "MANIFEST_UNKNOWN"),
                get("/v2/{r}/manifests/2").fails(404, "MANIFEST_UNKNOWN"),
                list(&[]),
            ],
        )]);
        door.run(&[case("pushed again", steps([one.push("{r}", "1")]))]);
        often("read when it was pushed again", &one, &["1"]);
        rot(&daemon, &one.digest());
        door.run(&[case(
            "rotten",
            vec![
                get("/v2/{r}/manifests/1").fails(500, "UNKNOWN"),
                get("/v2/{r}/manifests/1").fails(404, "MANIFEST_UNKNOWN"),
            ],
        )]);
    }
}
