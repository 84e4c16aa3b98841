//! What leaves a repository, and what stays.

use cas::digest::{Algorithm, Digest};
use serde_json::json;
use tests::layout::{noise, types};
use tests::v2::{Case, Door, case, daemon, delete, digest, get, head, push};

use super::{Image, run, steps};

fn kinds(algorithm: Algorithm) -> Vec<Case> {
    let image = Image::new(algorithm, "deleted");
    let at = |reference: &str| format!("/v2/{{r}}/manifests/{reference}");
    let d = image.digest().to_string();
    let layer = digest(algorithm, &image.layer);
    let blob = format!("/v2/{{r}}/blobs/{layer}");
    let mut index = Image::new(algorithm, "index");
    index.document = json!({
        "schemaVersion": 2,
        "mediaType": types::IMAGE_INDEX,
        "manifests": [image.descriptor()],
    });
    let above = index.digest().to_string();
    let push_by_digest =
        || steps([image.blobs("{r}"), vec![image.manifest("{r}", &format!("{d}?tag=1&tag=2"))]]);
    vec![
        case(
            format!("a tag, {algorithm:?}"),
            steps([
                push_by_digest(),
                vec![
                    delete(at("1")),
                    get(at("1")).fails(404, "MANIFEST_UNKNOWN"),
                    get(at("2")).gives(image.bytes()),
                    get(at(&d)).gives(image.bytes()),
                    delete(at("1")).fails(404, "MANIFEST_UNKNOWN"),
                ],
            ]),
        ),
        case(
            format!("a manifest and its tags, {algorithm:?}"),
            steps([
                push_by_digest(),
                vec![
                    delete(at(&d)),
                    get(at(&d)).fails(404, "MANIFEST_UNKNOWN"),
                    get(at("1")).fails(404, "MANIFEST_UNKNOWN"),
                    head(at("2")).is(404),
                    get("/v2/{r}/tags/list").json("/tags", json!([])),
                    delete(at(&d)).fails(404, "MANIFEST_UNKNOWN"),
                ],
                // And it comes back.
                image.blobs("{r}"),
                vec![image.manifest("{r}", "3"), get(at("3")).gives(image.bytes())],
            ]),
        ),
        case(
            format!("a manifest that an index needs, {algorithm:?}"),
            steps([
                push_by_digest(),
                vec![
                    index.manifest("{r}", &above),
                    delete(at(&d)).fails(405, "UNSUPPORTED").says(above.clone()),
                    get(at("1")).gives(image.bytes()),
                    delete(at(&above)),
                    delete(at(&d)),
                ],
            ]),
        ),
        case(
            format!("a child whose index is gone, {algorithm:?}"),
            steps([
                image.blobs("{s}"),
                vec![
                    image.manifest("{s}", &d),
                    index.manifest("{r}", &above),
                    delete(at(&above)),
                    get(at(&d)).gives(image.bytes()),
                    delete(blob.clone()).fails(405, "UNSUPPORTED").says(d.clone()),
                    delete(at(&d)),
                    delete(blob.clone()),
                    get(format!("/v2/{{s}}/blobs/{layer}")).gives(image.layer.clone()),
                ],
            ]),
        ),
        case(
            format!("a blob, needed and not, {algorithm:?}"),
            steps([
                push_by_digest(),
                vec![
                    push("{s}", &layer, &image.layer),
                    delete(blob.clone()).fails(405, "UNSUPPORTED").says(d.clone()),
                    head(blob.clone()),
                    delete(at(&d)),
                    delete(blob.clone()),
                    get(blob.clone()).fails(404, "BLOB_UNKNOWN"),
                    delete(blob.clone()).fails(404, "BLOB_UNKNOWN"),
                    get(format!("/v2/{{s}}/blobs/{layer}")).gives(image.layer.clone()),
                ],
            ]),
        ),
    ]
}

#[test]
fn what_is_deleted_is_gone_from_its_repository_at_once() {
    let mut cases: Vec<Case> = Algorithm::ALL.into_iter().flat_map(kinds).collect();
    let d = digest(Algorithm::Sha256, "x");
    cases.push(case(
        "where nothing is",
        [
            delete(format!("/v2/{{r}}/manifests/{d}")).fails(404, "NAME_UNKNOWN"),
            delete(format!("/v2/{{r}}/blobs/{d}")).fails(404, "NAME_UNKNOWN"),
            delete("/v2/{r}/manifests/1").fails(404, "NAME_UNKNOWN"),
            delete("/v2/{r}/manifests/sha256:x").fails(400, "DIGEST_INVALID"),
            delete("/v2/{r}/blobs/x").fails(400, "DIGEST_INVALID"),
        ],
    ));
    run(&cases);
}

#[test]
fn what_is_deleted_everywhere_is_freed_and_what_waits_is_held_by_a_lease() {
    let daemon = daemon("[timeouts]\nlease = \"2s\"\n");
    let door = &Door::of(&daemon)[0];
    let image = Image::new(Algorithm::Sha256, "to be deleted");
    let root = image.digest();
    for step in image.push("w/r", "1") {
        assert_eq!(door.ask(&step).status, 201);
    }
    let waiting = noise("its manifest never comes", 50_000);
    let d = digest(Algorithm::Sha256, &waiting);
    assert_eq!(door.ask(&push("w/r", &d, &waiting)).status, 201);
    let gc = |words: &[&str]| {
        let all: Vec<&str> = [&["gc", "--format", "json"], words].concat();
        daemon.bond(&all).ok().json()
    };
    let why = |digest: &Digest| {
        let words = ["--workspace", "w", "why", "--format", "json", &digest.to_string()];
        daemon.bond(&words).ok().json()
    };
    let found = gc(&[]);
    assert_eq!((&found["n_leases"], &found["lease_bytes"]), (&1.into(), &50_000.into()));
    assert_eq!((&found["n_blobs"], &found["n_retired"]), (&0.into(), &0.into()), "{found}");
    assert!(why(&d)["repositories"][0]["leased_until"].is_u64());
    assert!(why(&root)["repositories"][0]["leased_until"].is_null());
    let told = daemon.bond(&["doctor", "--format", "json"]).ok().text().to_owned();
    assert!(told.contains("1 pushed blobs of 50000 bytes"), "{told}");

    // Asked for again and again, it is there.
    let begun = std::time::Instant::now();
    while begun.elapsed().as_secs() < 3 {
        assert_eq!(door.ask(&head(format!("/v2/w/r/blobs/{d}"))).status, 200);
        assert_eq!(gc(&[])["n_leases_ended"], 0);
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(door.ask(&delete(format!("/v2/w/r/manifests/{root}"))).status, 202);
    tests::wait_until("the leases are over", || gc(&["--dry-run"])["n_leases"] == 0);
    let freed = gc(&[]);
    assert_eq!(freed["n_retired"], 1, "{freed}");
    assert!(freed["n_leases_ended"].as_u64() > Some(1), "{freed}");
    assert!(freed["n_blobs"].as_u64() > Some(2), "{freed}");
    assert_eq!(door.ask(&head(format!("/v2/w/r/blobs/{d}"))).status, 404);
    daemon.bond(&["--workspace", "w", "show", &root.to_string()]).fails(wire::Code::NotFound);
}
