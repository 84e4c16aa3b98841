//! Bent manifests of any claimed type, pushed: what is answered follows from the bytes and the
//! type, and what was taken is read back as it was sent.

use cas::digest::Digest;
use cas::oci::{Descriptor, Limits, Manifest, Refusal, root_media_type, walk};
use proptest::prelude::*;
use proptest::sample::select;
use tests::v2::{Door, ask, daemon, get, push};

use super::documents::manifests;
use super::{Raw, fuzz};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// How a client writes the type, and which one that is; `None` when it is left to the bytes.
fn content_types() -> impl Strategy<Value = (Option<&'static str>, Option<&'static str>)> {
    let written = [
        (None, None),
        (None, None),
        (Some(""), None),
        (Some(" ; x=y"), None),
        (Some(IMAGE), Some(IMAGE)),
        (Some(INDEX), Some(INDEX)),
        (Some("application/vnd.oci.image.manifest.v1+json; charset=\"\\;\""), Some(IMAGE)),
        (Some("application/vnd.oci.image.manifest.v1+json\t;"), Some(IMAGE)),
        (
            Some("application/vnd.oci.image.manifest.v1+json, application/json"),
            Some("application/vnd.oci.image.manifest.v1+json, application/json"),
        ),
        (
            Some("APPLICATION/vnd.oci.image.manifest.v1+json"),
            Some("APPLICATION/vnd.oci.image.manifest.v1+json"),
        ),
        (Some("application/json"), Some("application/json")),
        (Some("*/*"), Some("*/*")),
        (Some("é"), Some("é")),
        (Some("a/b/c"), Some("a/b/c")),
    ];
    select(written.to_vec())
}

/// Whether it must be taken: it parses as what it is said to be, and reaches what is there.
fn is_good(media_type: Option<&str>, bytes: &[u8]) -> bool {
    let media_type = media_type.map_or_else(|| root_media_type(bytes), str::to_owned);
    let claim = Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64);
    let Ok(manifest) = Manifest::parse(&claim, bytes.to_vec(), &Limits::default()) else {
        return false;
    };
    let mut fetch = |wanted: &Descriptor| match wanted.digest == claim.digest {
        true => Ok(bytes.to_vec()),
        false => Err(Refusal::Cycle { digest: wanted.digest }),
    };
    let are_there = walk(&claim, &Limits::default(), &mut fetch).is_ok();
    are_there
        && manifest.children().iter().all(|child| {
            let is_pushed = (0..6_u8).any(|n| Digest::of(&[n]) == child.digest) && child.size == 1;
            is_pushed || child.may_be_absent()
        })
}

#[test]
fn what_is_pushed_is_what_it_says() {
    let daemon = daemon("");
    let doors = Door::of(&daemon);
    for n in 0..6_u8 {
        assert_eq!(doors[0].ask(&push("fuzz/r", &Digest::of(&[n]), &[n])).status, 201);
    }
    let inputs = (manifests(), content_types(), any::<bool>(), 0..2_usize);
    fuzz(
        "pushed manifests",
        600,
        inputs,
        |(Raw(bytes), (written, media_type), by_digest, door)| {
            let digest = Digest::of(&bytes);
            let at = match by_digest {
                true => format!("/v2/fuzz/r/manifests/{digest}"),
                false => "/v2/fuzz/r/manifests/latest".to_owned(),
            };
            let mut step = ask("PUT", at).body(bytes.clone());
            if let Some(written) = written {
                step = step.with("content-type", written);
            }
            let answer = doors[door].ask(&step);
            let is_taken = answer.status == 201;
            let known =
                ["MANIFEST_INVALID", "MANIFEST_BLOB_UNKNOWN", "DIGEST_INVALID", "SIZE_INVALID"];
            prop_assert!(is_taken || known.contains(&&*answer.code()), "{answer:?}");
            prop_assert!(is_taken || matches!(answer.status, 400 | 404 | 413), "{answer:?}");
            prop_assert_eq!(is_taken, is_good(media_type, &bytes), "{:?}", answer);
            let read = doors[1 - door].ask(&get(format!("/v2/fuzz/r/manifests/{digest}")));
            if is_taken {
                prop_assert_eq!((read.status, &read.body), (200, &bytes));
            }
            Ok(is_taken)
        },
    );
    assert!(!daemon.home().logged().contains("panicked"), "the daemon panicked");
}
