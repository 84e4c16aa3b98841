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
