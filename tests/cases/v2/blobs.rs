//! Blobs: seen, read, in parts, and mounted.

use cas::digest::{Algorithm, Digest};
use tests::layout::noise;
use tests::v2::{Case, ask, case, delete, digest, get, head, patch, post, push, put};

use super::{Image, run, steps};

fn path(repository: &str, digest: &Digest) -> String {
    format!("/v2/{repository}/blobs/{digest}")
}

fn kinds(algorithm: Algorithm) -> Vec<Case> {
    let mut cases = Vec::new();
    let large = noise("a large blob", 3_000_000);
    for (name, bytes) in
        [("empty", &b""[..]), ("{}", b"{}"), ("some text", b"text"), ("large", &large)]
    {
        let d = digest(algorithm, bytes);
        let tag = format!("\"{d}\"");
        cases.push(case(
            format!("a blob of {name}, {algorithm:?}"),
            [
                head(path("{r}", &d)).fails(404, "BLOB_UNKNOWN"),
                push("{r}", &d, bytes)
                    .eq("location", path("{r}", &d))
                    .eq("docker-content-digest", d.to_string()),
                head(path("{r}", &d))
                    .eq("content-length", bytes.len().to_string())
                    .eq("docker-content-digest", d.to_string())
                    .eq("content-type", "application/octet-stream"),
                get(path("{r}", &d))
                    .gives(bytes)
                    .eq("content-length", bytes.len().to_string())
                    .eq("docker-content-digest", d.to_string())
                    .eq("content-type", "application/octet-stream")
                    .eq("accept-ranges", "bytes")
                    .eq("etag", tag),
                head(path("{s}", &d)).fails(404, "BLOB_UNKNOWN"),
                get(path("{s}", &d)).fails(404, "NAME_UNKNOWN"),
                get(path("{o}", &d)).fails(404, "NAME_UNKNOWN"),
                push("{r}", &d, bytes).eq("docker-content-digest", d.to_string()),
            ],
        ));
    }
    cases
}

#[test]
fn blobs_come_back_as_they_went() {
    let mut cases: Vec<Case> = Algorithm::ALL.into_iter().flat_map(kinds).collect();
    let image = Image::new(Algorithm::Sha256, "no blob");
    cases.push(case(
        "what is no blob",
        steps([
            image.push("{r}", "1"),
            vec![
                head(path("{r}", &image.digest())).fails(404, "BLOB_UNKNOWN"),
                get(path("{r}", &image.digest())).fails(404, "BLOB_UNKNOWN"),
                get("/v2/{r}/blobs/sha256:baddigeststring").fails(400, "DIGEST_INVALID"),
                get("/v2/{r}/blobs/md5:d41d8cd98f00b204e9800998ecf8427e")
                    .fails(400, "DIGEST_INVALID"),
                get("/v2/{r}/blobs/x").fails(400, "DIGEST_INVALID"),
                get(path("{r}", &digest(Algorithm::Sha256, &image.layer)).replace(':', "%3A")),
            ],
        ]),
    ));
    run(&cases);
}

#[test]
fn a_range_is_a_part_of_a_proved_blob() {
    let bytes = noise("ranges", 2048);
    let d = digest(Algorithm::Sha256, &bytes);
    let at = path("{r}", &d);
    let empty = digest(Algorithm::Sha256, "");
    let ranged = |range: &str| get(&at).with("range", range);
    let part = |range: &str, from: usize, to: usize| {
        ranged(range)
            .is(206)
            .eq("content-range", format!("bytes {from}-{to}/2048"))
            .eq("content-length", (to - from + 1).to_string())
            .eq("docker-content-digest", d.to_string())
            .gives(&bytes[from..=to])
    };
    let refused = |range: &str| {
        ranged(range)
            .is(416)
            .eq("content-range", "bytes */2048")
            .eq("content-type", "application/json")
    };
    run(&[case(
        "ranges",
        [
            push("{r}", &d, &bytes),
            part("bytes=500-1499", 500, 1499),
            part("bytes=500-", 500, 2047),
            part("bytes=-500", 1548, 2047),
            part("bytes=2000-5000", 2000, 2047),
            part("bytes=0-0", 0, 0),
            refused("bytes=500-0"),
            refused("bytes=5000-10000"),
            refused("bytes=-0"),
            ranged("bytes=0-0,5-6").gives(&*bytes),
            ranged("items=0-1").gives(&*bytes),
            part("bytes=0-9", 0, 9).with("if-range", format!("\"{d}\"")),
            ranged("bytes=0-9").with("if-range", "\"other\"").gives(&*bytes),
            head(&at).with("range", "bytes=0-9").eq("content-length", "2048"),
            push("{r}", &empty, b""),
            get(path("{r}", &empty)).with("range", "bytes=0-").is(416),
            get(path("{r}", &digest(Algorithm::Sha256, "absent")))
                .with("range", "bytes=0-1")
                .fails(404, "BLOB_UNKNOWN"),
        ],
    )]);
}

#[test]
fn a_range_of_any_length_is_cut_where_it_was_said() {
    const SIZE: usize = (2 << 20) + 77;
    let bytes = noise("long ranges", SIZE);
    let d = digest(Algorithm::Sha256, &bytes);
    let mut steps = vec![push("{r}", &d, &bytes)];
    for n in [16 << 10, 128 << 10, 1 << 20] {
        for n in [n - 1, n, n + 1] {
            for from in [0, 1001, SIZE - n] {
                let range = format!("bytes={from}-{}", from + n - 1);
                let part = get(path("{r}", &d)).with("range", range);
                steps.push(part.is(206).gives(&bytes[from..from + n]));
            }
        }
    }
    run(&[case("long ranges", steps)]);
}

fn mounts(algorithm: Algorithm) -> Vec<Case> {
    let bytes = b"mounted";
    let d = digest(algorithm, bytes);
    let begin = |query: String| post(format!("/v2/{{s}}/blobs/uploads/?mount={d}{query}"));
    vec![
        case(
            format!("a mount from where it is, {algorithm:?}"),
            [
                push("{r}", &d, bytes),
                begin("&from={r}".to_owned())
                    .is(201)
                    .eq("location", path("{s}", &d))
                    .eq("docker-content-digest", d.to_string()),
                get(path("{s}", &d)).gives(bytes),
                delete(path("{r}", &d)),
                head(path("{r}", &d)).is(404),
                get(path("{s}", &d)).gives(bytes),
            ],
        ),
        case(
            format!("a mount from where it is not, {algorithm:?}"),
            [
                begin("&from={r}".to_owned()).has("location"),
                put(format!("{{loc}}?digest={d}"), bytes.to_vec()),
                get(path("{s}", &d)).gives(bytes),
            ],
        ),
    ]
}

#[test]
fn a_mount_lists_what_the_workspace_has() {
    let mut cases: Vec<Case> = Algorithm::ALL.into_iter().flat_map(mounts).collect();
    let d = digest(Algorithm::Sha256, "in another workspace");
    let own = digest(Algorithm::Sha256, "somewhere in this workspace");
    let image = Image::new(Algorithm::Sha256, "mounted from");
    let layer = digest(Algorithm::Sha256, &image.layer);
    cases.extend([
        case(
            "a mount from nowhere in particular",
            [
                push("{r}", &own, b"somewhere in this workspace"),
                post(format!("/v2/{{s}}/blobs/uploads/?mount={own}")).is(201),
                get(path("{s}", &own)),
                post(format!("/v2/{{s}}/blobs/uploads/?mount={d}")).has("docker-upload-uuid"),
            ],
        ),
        case(
            "a mount of an image's layer",
            steps([
                image.push("{r}", "1"),
                vec![post(format!("/v2/{{s}}/blobs/uploads/?mount={layer}&from={{r}}")).is(201)],
            ]),
        ),
        case(
            "no mount crosses workspaces",
            [
                push("{o}", &d, b"in another workspace"),
                post(format!("/v2/{{r}}/blobs/uploads/?mount={d}&from={{o}}")).is(202),
                post(format!("/v2/{{r}}/blobs/uploads/?mount={d}")).is(202),
                head(path("{r}", &d)).is(404),
            ],
        ),
        case(
            "mounts that make no sense",
            [
                ask("POST", "/v2/{r}/blobs/uploads/?mount=sha256:x").fails(400, "DIGEST_INVALID"),
                post(format!("/v2/{{r}}/blobs/uploads/?mount={d}&from=../../etc")).is(202),
                post(format!("/v2/{{r}}/blobs/uploads/?mount={d}&from=app")).is(202),
                patch("{loc}", "x").is(202),
            ],
        ),
    ]);
    run(&cases);
}
