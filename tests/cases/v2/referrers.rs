//! What refers to a digest.

use cas::digest::Algorithm;
use serde_json::{Value, json};
use tests::layout::types;
use tests::v2::{Case, Step, case, delete, get};

use super::{Image, run, steps};

fn about(subject: &Image, algorithm: Algorithm, seed: &str, artifact_type: Option<&str>) -> Image {
    let image = Image::new(algorithm, seed)
        .with("subject", subject.descriptor())
        .with("annotations", json!({ "org.example.seed": seed }));
    match artifact_type {
        Some(artifact_type) => image.with("artifactType", artifact_type.into()),
        None => image,
    }
}

fn listed(image: &Image, artifact_type: &str) -> Value {
    let mut descriptor = image.descriptor();
    descriptor["artifactType"] = artifact_type.into();
    descriptor["annotations"] = image.document["annotations"].clone();
    descriptor
}

fn kinds(algorithm: Algorithm) -> Vec<Case> {
    let subject = Image::new(algorithm, "subject");
    let sbom = about(&subject, algorithm, "an SBOM", Some("application/vnd.example.sbom"));
    let untyped = about(&subject, algorithm, "typed by its config", None);
    let list = format!("/v2/{{r}}/referrers/{}", subject.digest());
    let put = |image: &Image| {
        image
            .manifest("{r}", &image.digest().to_string())
            .eq("oci-subject", subject.digest().to_string())
    };
    let is = |query: &str, referrers: &[Value]| {
        get(format!("{list}{query}"))
            .eq("content-type", types::IMAGE_INDEX)
            .json("/mediaType", types::IMAGE_INDEX.into())
            .json("/schemaVersion", 2.into())
            .json("/manifests", sorted(referrers).into())
    };
    let none: &[Value] = &[];
    let both = [listed(&sbom, "application/vnd.example.sbom"), listed(&untyped, types::CONFIG)];
    vec![
        case(
            format!("before its subject, {algorithm:?}"),
            steps([
                vec![is("", none)],
                sbom.blobs("{r}"),
                vec![put(&sbom), is("", &both[..1])],
                untyped.blobs("{r}"),
                vec![put(&untyped), is("", &both)],
                subject.blobs("{r}"),
                vec![
                    subject.manifest("{r}", &subject.digest().to_string()).lacks("oci-subject"),
                    is("", &both).lacks("oci-filters-applied"),
                    is("?artifactType=application/vnd.example.sbom", &both[..1])
                        .eq("oci-filters-applied", "artifactType"),
                    is("?artifactType=application%2Fvnd.example.none", none)
                        .eq("oci-filters-applied", "artifactType"),
                    delete(format!("/v2/{{r}}/manifests/{}", sbom.digest())),
                    is("", &both[1..]),
                    // A subject is no child: it goes, and what refers to it stays.
                    delete(format!("/v2/{{r}}/manifests/{}", subject.digest())),
                    is("", &both[1..]),
                    get(format!("/v2/{{s}}/referrers/{}", subject.digest()))
                        .json("/manifests", json!([])),
                ],
            ]),
        ),
        case(
            format!("by tag, {algorithm:?}"),
            steps([
                sbom.blobs("{r}"),
                vec![
                    sbom.manifest("{r}", "sbom").eq("oci-subject", subject.digest().to_string()),
                    get(&list).says(subject_type(&sbom)),
                ],
            ]),
        ),
    ]
}

fn subject_type(image: &Image) -> String {
    image.document["artifactType"].as_str().unwrap_or_default().to_owned()
}

/// In the order of their digests.
fn sorted(descriptors: &[Value]) -> Vec<Value> {
    let mut descriptors = descriptors.to_vec();
    descriptors.sort_by_key(|d| d["digest"].as_str().map(str::to_owned));
    descriptors
}

#[test]
fn what_refers_to_a_digest_is_listed_at_once() {
    let mut cases: Vec<Case> = Algorithm::ALL.into_iter().flat_map(kinds).collect();
    let subject = Image::new(Algorithm::Sha256, "subject of an index");
    let mut index = Image::new(Algorithm::Sha256, "index");
    index.document = json!({
        "schemaVersion": 2,
        "mediaType": types::IMAGE_INDEX,
        "manifests": [],
        "subject": subject.descriptor(),
    });
    cases.extend([
        case(
            "an index without type",
            [
                index
                    .manifest("{r}", &index.digest().to_string())
                    .eq("oci-subject", subject.digest().to_string()),
                get(format!("/v2/{{r}}/referrers/{}", subject.digest()))
                    .json("/manifests", json!([index.descriptor()])),
            ],
        ),
        case(
            "digests that are none",
            [
                get("/v2/{r}/referrers/sha256:x").fails(400, "DIGEST_INVALID"),
                get("/v2/{r}/referrers/latest").fails(400, "DIGEST_INVALID"),
            ],
        ),
    ]);
    run(&cases);
}

#[test]
fn a_list_that_is_longer_than_a_manifest_may_be_has_pages() {
    let subject = Image::new(Algorithm::Sha256, "much referred to");
    // Three of them have room on one page, the fourth has not.
    let referrers: Vec<Image> = (0..4)
        .map(|n| {
            let large = json!({ "org.example.large": "x".repeat(1_300_000) });
            about(&subject, Algorithm::Sha256, &format!("large {n}"), None)
                .with("annotations", large)
        })
        .collect();
    let mut sorted: Vec<_> = referrers.iter().map(Image::digest).collect();
    sorted.sort_by_key(ToString::to_string);
    let list = format!("/v2/{{r}}/referrers/{}", subject.digest());
    let next = format!("{list}?last={}", sorted[2]);
    let digests = |step: Step, digests: &[cas::digest::Digest]| {
        digests.iter().fold(step, |step, digest| step.says(digest.to_string()))
    };
    run(&[case(
        "pages of referrers",
        steps([
            referrers.iter().flat_map(|r| r.push("{r}", &r.digest().hex()[..8])).collect(),
            vec![
                digests(get(&list), &sorted[..3]).eq("link", format!("<{next}>; rel=\"next\"")),
                digests(get(&next), &sorted[3..]).lacks("link"),
            ],
        ]),
    )]);
}

/// What goes around the entries counts as well: a page is never larger than a manifest may be.
#[test]
fn a_page_of_referrers_is_full_to_the_last_byte_and_no_larger() {
    const SBOM: &str = "application/vnd.example.sbom";
    let most = 4 << 20;
    let around = json!({ "schemaVersion": 2, "mediaType": types::IMAGE_INDEX, "manifests": [] });
    let around = around.to_string().len();
    let pages = [0, 1].map(|beyond| {
        let subject = Image::new(Algorithm::Sha256, &format!("subject {beyond}"));
        let sized = |name: &str, size: usize| {
            let with = |padding: usize| {
                let padding = json!({ "org.example.padding": "x".repeat(padding) });
                about(&subject, Algorithm::Sha256, name, Some(SBOM)).with("annotations", padding)
            };
            // The entry tells the size of the manifest, and so grows with it.
            let around = |padding| listed(&with(padding), SBOM).to_string().len() - padding;
            with(size - around(size / 2))
        };
        let half = (most - around) / 2;
        // A comma stands between them.
        let both = [sized("one", half), sized("two", most - around - half - 1 + beyond)];
        let list = get(format!("/v2/{{r}}/referrers/{}", subject.digest()));
        let list = match beyond {
            0 => list.lacks("link").eq("content-length", most.to_string()),
            _ => list.has("link"),
        };
        case(
            format!("{beyond} bytes more than there is room for"),
            steps([both[0].push("{r}", "one"), both[1].push("{r}", "two"), vec![list]]),
        )
    });
    run(&pages);
}
