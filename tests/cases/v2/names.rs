//! The base, and what names a repository.

use cas::digest::Algorithm;
use tests::v2::{ask, case, delete, digest, get, head, push, put};

use super::{Image, run, steps};

#[test]
fn the_base_and_what_is_not_there() {
    run(&[
        case(
            "the base",
            [
                get("/v2/").gives("{}").eq("content-type", "application/json"),
                head("/v2/").eq("content-length", "2"),
                get("/v2"),
                ask("POST", "/v2/").fails(405, "UNSUPPORTED").eq("allow", "GET, HEAD"),
                get("/v2/_catalog").fails(404, "UNSUPPORTED"),
                get("/v2/{r}").fails(404, "UNSUPPORTED"),
                ask("PUT", "/v2/{r}/tags/list").fails(405, "UNSUPPORTED").eq("allow", "GET"),
                get("/v2/{r}/blobs/uploads/").fails(405, "UNSUPPORTED").eq("allow", "POST"),
            ],
        ),
        case(
            "queries that nobody knows are nobody's business",
            [
                get("/v2/?ns=docker.io&x=y"),
                get("/v2/{r}/tags/list?n=%ff").fails(400, "UNSUPPORTED"),
            ],
        ),
    ]);
}

#[test]
fn a_name_is_a_workspace_and_a_repository() {
    let image = Image::new(Algorithm::Sha256, "named");
    let mut cases = vec![
        case(
            "a name without workspace",
            [
                image.manifest("app", "1").fails(400, "NAME_INVALID").says("workspace"),
                get("/v2/app/manifests/1").fails(404, "NAME_UNKNOWN").says("workspace"),
                get("/v2/app/tags/list").fails(404, "NAME_UNKNOWN"),
                ask("POST", "/v2/app/blobs/uploads/").fails(400, "NAME_INVALID"),
                get("/v2/app/blobs/uploads/x").fails(404, "NAME_UNKNOWN"),
                ask("PATCH", "/v2/app/blobs/uploads/x").fails(400, "NAME_INVALID"),
                delete("/v2/app/manifests/1").fails(400, "NAME_INVALID"),
            ],
        ),
        case(
            "a repository that is not there",
            [
                get("/v2/{r}/tags/list").fails(404, "NAME_UNKNOWN"),
                get("/v2/{r}/manifests/1").fails(404, "NAME_UNKNOWN"),
                get(format!("/v2/{{r}}/blobs/{}", digest(Algorithm::Sha256, "x")))
                    .fails(404, "NAME_UNKNOWN"),
                get(format!("/v2/{{r}}/referrers/{}", digest(Algorithm::Sha256, "x"))),
            ],
        ),
    ];
    for name in ["a__b/c.d-e", "blobs/uploads", "manifests", "tags/list", "referrers/blobs", "v2"] {
        let repository = format!("{{r}}/{name}");
        let digest = image.digest();
        cases.push(case(
            format!("a repository called {name}"),
            steps([
                image.push(&repository, "1"),
                vec![
                    get(format!("/v2/{repository}/manifests/1")).gives(image.bytes()),
                    get(format!("/v2/{repository}/manifests/{digest}")),
                    get(format!("/v2/{repository}/tags/list")).says("[\"1\"]"),
                ],
            ]),
        ));
    }
    let long = format!("{{w}}/{}", "a".repeat(256));
    for name in [
        "{w}/App",
        "W/app",
        "{w}//a",
        "/{w}/a",
        "//{w}/a",
        "{w}/a/",
        "{w}/..",
        "{w}/../x",
        "{w}/_tags",
        "{w}/a___b",
        "{w}/%2e%2e",
        "{w}/a%2fb",
        "{w}/a%00",
        "{w}/%ff",
        "{w}/-a",
        "{w}/sha256",
        &long,
    ] {
        let blob = digest(Algorithm::Sha256, "x");
        cases.push(case(
            format!("a repository called {name}"),
            [
                put(format!("/v2/{name}/manifests/1"), "{}").fails(400, "NAME_INVALID"),
                get(format!("/v2/{name}/tags/list")).fails(400, "NAME_INVALID"),
                push(name, &blob, b"x").fails(400, "NAME_INVALID"),
            ],
        ));
    }
    run(&cases);
}
