//! What leaves a repository, and what stays.

use cas::digest::Algorithm;
use serde_json::json;
use tests::layout::types;
use tests::v2::{Case, case, delete, digest, get, head, push};

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
