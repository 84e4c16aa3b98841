//! Manifests: pushed, refused, read.

use cas::digest::{Algorithm, Digest};
use serde_json::{Value, json};
use tests::layout::{noise, types};
use tests::v2::{Case, Door, case, delete, digest, get, head, manifest, patch, post, push, put};

use super::{Image, describe, run, steps};

fn at(repository: &str, reference: impl std::fmt::Display) -> String {
    format!("/v2/{repository}/manifests/{reference}")
}

fn index(algorithm: Algorithm, children: &[Value]) -> Image {
    let mut index = Image::new(algorithm, "index");
    index.document = json!({
        "schemaVersion": 2,
        "mediaType": types::IMAGE_INDEX,
        "manifests": children,
    });
    index
}

fn kinds(algorithm: Algorithm) -> Vec<Case> {
    let image = Image::new(algorithm, "plain");
    let d = image.digest();
    let sha256 = Digest::of(&image.bytes());
    let mut docker =
        Image::new(algorithm, "docker").with("mediaType", types::DOCKER_MANIFEST.into());
    docker.document["config"]["mediaType"] = types::DOCKER_CONFIG.into();
    docker.document["layers"][0]["mediaType"] = types::DOCKER_LAYER.into();
    let list =
        index(algorithm, &[docker.descriptor()]).with("mediaType", types::DOCKER_LIST.into());
    let inner = index(algorithm, &[image.descriptor()]);
    let outer = index(algorithm, &[inner.descriptor(), image.descriptor()]);
    let odd = Image::new(algorithm, "odd")
        .with("org.example.custom", json!({ "a": [1, 2.5, "\u{2028}"] }))
        .with("annotations", json!({ "org.example": "x" }));
    let read = |image: &Image| {
        let media_type = image.document["mediaType"].as_str().expect("a type").to_owned();
        vec![
            get(at("{r}", image.digest()))
                .gives(image.bytes())
                .eq("content-type", media_type.clone())
                .eq("docker-content-digest", image.digest().to_string()),
            head(at("{r}", image.digest()))
                .eq("content-length", image.bytes().len().to_string())
                .eq("content-type", media_type)
                .eq("docker-content-digest", image.digest().to_string()),
        ]
    };
    let by_digest = |image: &Image| image.manifest("{r}", &image.digest().to_string());
    vec![
        case(
            format!("by tag, {algorithm:?}"),
            steps([
                image.blobs("{r}"),
                vec![
                    head(at("{r}", "1")).fails(404, "MANIFEST_UNKNOWN"),
                    get(at("{r}", "1")).fails(404, "MANIFEST_UNKNOWN"),
                    image
                        .manifest("{r}", "1")
                        .eq("location", at("{r}", sha256))
                        .eq("docker-content-digest", sha256.to_string())
                        .lacks("oci-subject")
                        .lacks("oci-tag"),
                    get(at("{r}", "1"))
                        .gives(image.bytes())
                        .eq("content-type", types::IMAGE_MANIFEST)
                        .eq("docker-content-digest", sha256.to_string())
                        .eq("etag", format!("\"{sha256}\"")),
                    head(at("{r}", "1")).eq("docker-content-digest", sha256.to_string()),
                    get(at("{r}", sha256)).gives(image.bytes()),
                    get(at("{r}", "1")).with("accept", "text/plain").gives(image.bytes()),
                    get(at("{s}", sha256)).fails(404, "NAME_UNKNOWN"),
                    image.manifest("{r}", "1"),
                    image.manifest("{r}", "2"),
                ],
            ]),
        ),
        case(
            format!("by digest, {algorithm:?}"),
            steps([
                image.blobs("{r}"),
                vec![
                    by_digest(&image)
                        .eq("location", at("{r}", d))
                        .eq("docker-content-digest", d.to_string()),
                ],
                read(&image),
                vec![by_digest(&image)],
            ]),
        ),
        case(
            format!("by digest, with tags, {algorithm:?}"),
            steps([
                image.blobs("{r}"),
                vec![
                    image
                        .manifest("{r}", &format!("{d}?tag=a&tag=b&tag=a"))
                        .eq("oci-tag", "a, b")
                        .eq("docker-content-digest", d.to_string()),
                    get(at("{r}", "a")).eq("docker-content-digest", d.to_string()),
                    get(at("{r}", "b")).gives(image.bytes()),
                ],
            ]),
        ),
        case(
            format!("Docker's, {algorithm:?}"),
            steps([
                docker.blobs("{r}"),
                vec![by_digest(&docker), by_digest(&list)],
                read(&docker),
                read(&list),
            ]),
        ),
        case(
            format!("nested indexes, {algorithm:?}"),
            steps([
                image.blobs("{r}"),
                vec![by_digest(&image), by_digest(&inner), by_digest(&outer)],
                read(&outer),
            ]),
        ),
        case(
            format!("an empty index, {algorithm:?}"),
            steps([vec![by_digest(&index(algorithm, &[]))], read(&index(algorithm, &[]))]),
        ),
        case(
            format!("fields that nobody knows, {algorithm:?}"),
            steps([odd.blobs("{r}"), vec![by_digest(&odd)], read(&odd)]),
        ),
    ]
}

/// An image that lacks a layer that may be absent, and that layer.
fn with_a_late_layer(seed: &str) -> (Image, Digest, Vec<u8>) {
    let mut image = Image::new(Algorithm::Sha256, seed);
    let late = noise(seed, 20_000);
    let layer = describe(Algorithm::Sha256, types::FOREIGN_LAYER, &late);
    image.document["layers"].as_array_mut().expect("layers").push(layer);
    (image, digest(Algorithm::Sha256, &late), late)
}

#[test]
fn a_layer_that_may_be_absent_and_comes_late_stays_for_its_manifest() {
    let (image, d, late) = with_a_late_layer("late");
    let blob = |r: &str| format!("/v2/{r}/blobs/{d}");
    let chunks = || {
        let (begin, end) = late.split_at(10_000);
        vec![
            post("/v2/{r}/blobs/uploads/").is(202),
            patch("{loc}", begin),
            put(format!("{{loc}}?digest={d}"), end),
        ]
    };
    let mount = post(format!("/v2/{{r}}/blobs/uploads/?mount={d}&from={{s}}")).is(201);
    let cases = [
        ("in one piece", vec![push("{r}", &d, &late)]),
        ("in chunks", chunks()),
        ("mounted", vec![push("{s}", &d, &late), mount, delete(blob("{s}"))]),
    ];
    run(&cases.map(|(name, brought)| {
        let there = || get(blob("{r}")).gives(late.clone());
        case(
            name,
            steps([
                image.push("{r}", "1"),
                vec![get(blob("{r}")).is(404), delete(blob("{r}")).is(404)],
                brought,
                vec![there(), delete(blob("{r}")).fails(405, "UNSUPPORTED"), there()],
                vec![delete(at("{r}", image.digest())), there(), delete(blob("{r}"))],
                vec![get(blob("{r}")).is(404)],
                // The same with its manifest pushed once more: it is a part of the artifact then.
                image.push("{r}", "1"),
                vec![push("{r}", &d, &late), image.manifest("{r}", "1")],
                vec![delete(blob("{r}")).fails(405, "UNSUPPORTED"), there()],
            ]),
        )
    }));
}

#[test]
fn a_layer_that_may_be_absent_is_linked_in_where_another_repository_has_it() {
    let (image, d, late) = with_a_late_layer("beside");
    let blob = format!("/v2/{{r}}/blobs/{d}");
    run(&[case(
        "beside",
        steps([
            vec![push("{s}", &d, &late)],
            image.push("{r}", "1"),
            vec![get(&blob).gives(late), delete(&blob).fails(405, "UNSUPPORTED")],
        ]),
    )]);
}

#[test]
fn a_layer_that_came_late_is_freed_only_after_its_manifest() {
    let daemon = tests::v2::daemon("[timeouts]\nlease = \"1s\"\n");
    let door = &Door::of(&daemon)[0];
    let (image, d, late) = with_a_late_layer("leased");
    for step in steps([image.push("w/r", "1"), vec![push("w/r", &d, &late)]]) {
        assert_eq!(door.ask(&step).status, 201);
    }
    let is_over = || {
        std::thread::sleep(std::time::Duration::from_millis(1500));
        daemon.bond(&["gc"]).ok();
        door.ask(&get(format!("/v2/w/r/blobs/{d}"))).status == 404
    };
    assert!(!is_over());
    assert_eq!(door.ask(&delete(at("w/r", image.digest()))).status, 202);
    assert!(is_over());
}

#[test]
fn manifests_come_back_as_they_went() {
    let mut cases: Vec<Case> = Algorithm::ALL.into_iter().flat_map(kinds).collect();
    let sha256 = Algorithm::Sha256;
    let image = Image::new(sha256, "typed");
    let mut untyped = image.clone();
    untyped.document.as_object_mut().expect("an object").remove("mediaType");
    let mut no_layers = image.clone();
    no_layers.document["layers"] = json!([]);
    let mut foreign = image.clone();
    let absent = describe(sha256, types::FOREIGN_LAYER, b"elsewhere");
    foreign.document["layers"].as_array_mut().expect("layers").push(absent);
    let mut inline = image.clone();
    inline.document["config"]["data"] =
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &image.config).into();
    let large = image.clone().with(
        "annotations",
        (0..390).map(|n| (format!("org.example.{n}"), Value::from("x".repeat(10_000)))).collect(),
    );
    for (name, other) in [
        ("no layers", &no_layers),
        ("an absent layer that may be absent", &foreign),
        ("a data field", &inline),
        ("3.9 MB of annotations", &large),
    ] {
        cases.push(case(
            name,
            steps([
                image.blobs("{r}"),
                vec![other.manifest("{r}", "1"), get(at("{r}", "1")).gives(other.bytes())],
            ]),
        ));
    }
    let typed =
        |value: &str| put(at("{r}", "1"), image.bytes()).with("content-type", value.to_owned());
    cases.extend([
        case(
            "content types",
            steps([
                image.blobs("{r}"),
                vec![
                    typed(&format!("{}; charset=utf-8", types::IMAGE_MANIFEST)),
                    get(at("{r}", "1")).eq("content-type", types::IMAGE_MANIFEST),
                    put(at("{r}", "2"), image.bytes()),
                    put(at("{r}", "3"), untyped.bytes())
                        .with("content-type", types::IMAGE_MANIFEST),
                    get(at("{r}", "3")).eq("content-type", types::IMAGE_MANIFEST),
                    put(at("{r}", "4"), untyped.bytes()),
                    typed(types::IMAGE_INDEX).fails(400, "MANIFEST_INVALID"),
                    typed("application/json").fails(400, "MANIFEST_INVALID"),
                    typed("application/vnd.docker.distribution.manifest.v1+prettyjws")
                        .fails(400, "MANIFEST_INVALID"),
                    typed("\u{e9}").fails(400, "MANIFEST_INVALID"),
                ],
            ]),
        ),
        case("in chunks", steps([image.blobs("{r}"), vec![image.manifest("{r}", "1").chunked()]])),
        case(
            "a child that another repository of the workspace has",
            steps([
                image.push("{s}", "1"),
                vec![
                    index(sha256, &[image.descriptor()]).manifest("{r}", "1"),
                    get(at("{r}", image.digest())).gives(image.bytes()),
                    image.manifest("{r}", "2"),
                ],
            ]),
        ),
    ]);
    run(&cases);
}

#[test]
fn manifests_that_are_refused() {
    let sha256 = Algorithm::Sha256;
    let image = Image::new(sha256, "refused");
    let (config, layer) = (digest(sha256, &image.config), digest(sha256, &image.layer));
    let mut both = image.clone();
    both.document["manifests"] = json!([]);
    let mut bad_digest = image.clone();
    bad_digest.document["config"]["digest"] = "sha256:abc".into();
    let mut trailing = image.bytes();
    trailing.extend_from_slice(b" {}");
    let invalid = |name: &str, bytes: Vec<u8>| {
        case(
            name,
            steps([
                image.blobs("{r}"),
                vec![
                    put(at("{r}", "1"), bytes)
                        .with("content-type", types::IMAGE_MANIFEST)
                        .fails(400, "MANIFEST_INVALID"),
                    get(at("{r}", "1")).is(404),
                ],
            ]),
        )
    };
    let missing = |n: &'static str, steps: Vec<tests::v2::Step>, lacks: &[&Digest]| {
        let mut put = image.manifest("{r}", "1").fails(404, "MANIFEST_BLOB_UNKNOWN");
        for digest in lacks {
            put = put.says(format!("\"{digest}\""));
        }
        let then = [image.blobs("{r}"), vec![image.manifest("{r}", "1")]].concat();
        case(n, [steps, vec![put], then].concat())
    };
    let other = image.clone().with("annotations", json!({ "x": "y" }));
    run(&[
        invalid("both kinds", both.bytes()),
        invalid("a digest that is none", bad_digest.bytes()),
        invalid("trailing bytes", trailing),
        invalid("no JSON", b"{".to_vec()),
        invalid("nothing", Vec::new()),
        invalid("an array", b"[]".to_vec()),
        missing("nothing is there", Vec::new(), &[&config, &layer]),
        missing("the layer is missing", image.blobs("{r}")[..1].to_vec(), &[&layer]),
        missing("the config is missing", image.blobs("{r}")[1..].to_vec(), &[&config]),
        missing("another workspace has it", image.blobs("{o}"), &[&config, &layer]),
        case(
            "a child is missing",
            [index(sha256, &[image.descriptor()])
                .manifest("{r}", "1")
                .fails(404, "MANIFEST_BLOB_UNKNOWN")
                .says(image.digest().to_string())],
        ),
        case(
            "digests of algorithms that nobody computes here",
            steps([
                image.blobs("{r}"),
                ["/subject", "/config", "/layers/0"]
                    .map(|place| {
                        let mut strange = image.clone().with("subject", image.descriptor());
                        let digest = format!("blake3:{}", "0".repeat(64));
                        strange.document.pointer_mut(place).expect("it is there")["digest"] =
                            digest.clone().into();
                        strange.manifest("{r}", "1").fails(400, "UNSUPPORTED").says(digest)
                    })
                    .to_vec(),
            ]),
        ),
        case(
            "digests",
            steps([
                image.blobs("{r}"),
                vec![
                    image.manifest("{r}", &other.digest().to_string()).fails(400, "DIGEST_INVALID"),
                    image.manifest("{r}", "sha256:baddigeststring").fails(400, "DIGEST_INVALID"),
                    get(at("{r}", "sha256:baddigeststring")).fails(400, "DIGEST_INVALID"),
                    head(at("{r}", "md5:00")).fails(400, "DIGEST_INVALID"),
                    get(at("{r}", other.digest())).fails(404, "MANIFEST_UNKNOWN"),
                ],
            ]),
        ),
        case(
            "tags",
            steps([
                image.blobs("{r}"),
                vec![
                    image.manifest("{r}", ".x").fails(400, "NAME_INVALID"),
                    image.manifest("{r}", &"t".repeat(129)).fails(400, "NAME_INVALID"),
                    image.manifest("{r}", &"t".repeat(128)),
                    get(at("{r}", ".x")).fails(404, "MANIFEST_UNKNOWN"),
                ],
            ]),
        ),
        case(
            "tags beside a digest",
            steps([
                image.blobs("{r}"),
                vec![
                    image
                        .manifest("{r}", &format!("{}?tag=good&tag=.bad", image.digest()))
                        .fails(400, "NAME_INVALID"),
                    get(at("{r}", "good")).is(404),
                    image.manifest("{r}", &many_tags(&image, 65)).fails(414, "UNSUPPORTED"),
                    get(at("{r}", "t0")).is(404),
                    image.manifest("{r}", &many_tags(&image, 64)).has("oci-tag"),
                    get(at("{r}", "t63")).gives(image.bytes()),
                ],
            ]),
        ),
        case(
            "too large",
            [
                put(at("{r}", "1"), vec![b' '; (4 << 20) + 1]).fails(413, "SIZE_INVALID"),
                put(at("{r}", "1"), vec![b' '; (4 << 20) + 1]).chunked().fails(413, "SIZE_INVALID"),
            ],
        ),
        case(
            "a blob is no manifest",
            [
                push("{r}", &layer, &image.layer),
                get(at("{r}", layer)).fails(404, "MANIFEST_UNKNOWN"),
                manifest(&at("{r}", "1"), types::LAYER, &image.document)
                    .fails(400, "MANIFEST_INVALID"),
            ],
        ),
    ]);
}

fn many_tags(image: &Image, n: usize) -> String {
    let tags: String = (0..n).map(|n| format!("&tag=t{n}")).collect();
    format!("{}?x{tags}", image.digest())
}
