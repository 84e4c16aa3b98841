//! Manifests and closures that somebody bent: what is taken is what it says, and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use cas::digest::{Algorithm, Digest};
use cas::oci::{
    Closure, Descriptor, Limits, Manifest, ManifestKind, Node, Refusal, media_type,
    root_media_type, walk,
};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value, json};
use tests::layout::types;

use super::{Raw, fuzz};

/// Types that a document may be claimed to have, or claims.
const TYPES: [&str; 8] = [
    media_type::IMAGE_MANIFEST,
    media_type::IMAGE_MANIFEST,
    media_type::IMAGE_INDEX,
    media_type::IMAGE_INDEX,
    media_type::DOCKER_MANIFEST,
    media_type::DOCKER_LIST,
    "application/json",
    "",
];

/// Keys that decide something, and what some readers take for them. Go's JSON folds the case of
/// every letter, those outside of ASCII too.
const KEYS: [&str; 26] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
    "fsLayers",
    "digest",
    "size",
    "data",
    "platform",
    "signatures",
    "Layers",
    "MANIFESTS",
    "Config",
    "mediatype",
    "manife\u{17f}ts",
    "layer\u{17f}",
    "\u{17f}ubject",
    "dige\u{17f}t",
    "\u{17f}ize",
    "annotation\u{17f}",
    "\u{212a}ey",
    "",
];

fn blob(n: u8) -> Value {
    let bytes = [n];
    json!({ "mediaType": types::LAYER, "digest": Digest::of(&bytes).to_string(), "size": 1 })
}

fn image() -> Value {
    json!({
        "schemaVersion": 2, "mediaType": media_type::IMAGE_MANIFEST,
        "config": blob(0), "layers": [blob(1), blob(2)], "annotations": { "a": "b" },
    })
}

fn index() -> Value {
    let mut child = blob(3);
    child["mediaType"] = json!(media_type::IMAGE_MANIFEST);
    child["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    json!({ "schemaVersion": 2, "mediaType": media_type::IMAGE_INDEX, "manifests": [child] })
}

/// What is put somewhere instead of what belongs there.
fn value() -> impl Strategy<Value = Value> {
    let odd = [
        json!(null),
        json!(true),
        json!(0),
        json!(1),
        json!(2),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("x"),
        json!([]),
        json!({}),
        json!([[]]),
        json!([null]),
        blob(4),
        json!([blob(5)]),
        json!({ "a": 1 }),
        json!("sha256:00"),
        json!("e30="),
        json!("\u{0}"),
        json!("y".repeat(300)),
        json!(Digest::of(b"x").to_string()),
    ];
    prop_oneof![
        4 => select(odd.to_vec()),
        1 => select(&TYPES[..]).prop_map(|text| json!(text)),
        1 => (1..200_usize).prop_map(|n| (0..n).fold(json!(1), |inner, _| json!([inner]))),
    ]
}

/// One way to bend a document.
#[derive(Clone, Debug)]
enum Bend {
    /// A key at this depth gets a value.
    Set(bool, &'static str, Value),
    /// A key is gone.
    Remove(Index),
    /// A key stands there twice.
    Twice(&'static str, Value),
    /// A byte is another.
    Byte(Index, u8),
    /// It ends here.
    Cut(Index),
    /// Something comes before or after it.
    Around(&'static str, &'static str),
}

fn bend() -> impl Strategy<Value = Bend> {
    let around = [("", " "), ("\n", ""), ("\u{feff}", ""), ("", "{}"), ("", "\0"), ("[", "]")];
    prop_oneof![
        6 => (any::<bool>(), select(&KEYS[..]), value()).prop_map(|(at, k, v)| Bend::Set(at, k, v)),
        2 => any::<Index>().prop_map(Bend::Remove),
        2 => (select(&KEYS[..]), value()).prop_map(|(key, value)| Bend::Twice(key, value)),
        1 => (any::<Index>(), any::<u8>()).prop_map(|(place, byte)| Bend::Byte(place, byte)),
        1 => any::<Index>().prop_map(Bend::Cut),
        1 => select(around.to_vec()).prop_map(|(before, after)| Bend::Around(before, after)),
    ]
}

fn bent(mut document: Value, bends: &[Bend]) -> Vec<u8> {
    for bend in bends {
        let Some(object) = document.as_object_mut() else { break };
        match bend {
            Bend::Set(false, key, value) => drop(object.insert((*key).to_owned(), value.clone())),
            Bend::Set(true, key, value) => {
                let lists = ["manifests", "layers"].into_iter().find(|k| object.contains_key(*k));
                let list = lists.and_then(|key| object[key].as_array_mut());
                let first = list.and_then(|list| list.first_mut()?.as_object_mut());
                if let Some(first) = first {
                    first.insert((*key).to_owned(), value.clone());
                }
            }
            Bend::Remove(at) => {
                let keys: Vec<String> = object.keys().cloned().collect();
                if !keys.is_empty() {
                    object.remove(&keys[at.index(keys.len())]);
                }
            }
            _ => {}
        }
    }
    let mut bytes = document.to_string().into_bytes();
    for bend in bends {
        match bend {
            Bend::Twice(key, value) if bytes.first() == Some(&b'{') => {
                let pair = format!("{}:{value},", json!(key));
                bytes.splice(1..1, pair.into_bytes());
            }
            Bend::Byte(at, byte) if !bytes.is_empty() => {
                let place = at.index(bytes.len());
                bytes[place] = *byte;
            }
            Bend::Cut(at) => bytes.truncate(at.index(bytes.len() + 1)),
            Bend::Around(before, after) => {
                bytes = [before.as_bytes(), &bytes, after.as_bytes()].concat();
            }
            _ => {}
        }
    }
    bytes
}

/// Bytes that are nearly a manifest, or nothing like one.
pub(super) fn manifests() -> impl Strategy<Value = Raw> {
    let good = prop_oneof![Just(image()), Just(index())];
    prop_oneof![
        8 => (good, vec(bend(), 0..3)).prop_map(|(document, bends)| bent(document, &bends)),
        1 => vec(any::<u8>(), 0..64),
        1 => value().prop_map(|value| value.to_string().into_bytes()),
    ]
    .prop_map(Raw)
}

/// A key as the most lenient reader that we know of sees it.
fn folded(key: &str) -> String {
    key.replace('\u{17f}', "s").replace('\u{212a}', "k").to_lowercase()
}

/// Keys of a descriptor that decide something; those of a document are the first nine of `KEYS`.
const OF_DESCRIPTOR: [&str; 7] =
    ["mediaType", "digest", "size", "data", "artifactType", "platform", "annotations"];

/// Whether all readers agree on which of these keys an object has.
fn is_plain(object: &Map<String, Value>, keys: &[&str]) -> bool {
    let known: BTreeMap<String, &str> = keys.iter().map(|key| (folded(key), *key)).collect();
    object.keys().all(|key| known.get(&folded(key)).is_none_or(|plain| plain == key))
}

/// A manifest that was taken, beside a reading of its bytes that knows only JSON.
fn judge(manifest: &Manifest, claim: &Descriptor, bytes: &[u8]) -> Result<(), TestCaseError> {
    prop_assert_eq!(manifest.bytes(), bytes);
    prop_assert_eq!(manifest.descriptor(), claim.clone());
    prop_assert_eq!(root_media_type(bytes), claim.media_type.as_str());
    let value: Value = match serde_json::from_slice(bytes) {
        Ok(value) => value,
        // What nobody looks into may be nested deeper than this reading goes.
        Err(error) if error.to_string().starts_with("recursion limit") => return Ok(()),
        Err(error) => panic!("it was taken, so it is JSON: {error}"),
    };
    let object = value.as_object().expect("it was taken, so it is an object");
    let field = |key: &str| object.get(key).filter(|value| !value.is_null());
    prop_assert!(is_plain(object, &KEYS[..9]), "a key that some readers fold");
    prop_assert_eq!(field("schemaVersion"), Some(&json!(2)));
    prop_assert!(field("fsLayers").is_none());
    let has_image = field("config").is_some() || field("layers").is_some();
    prop_assert!(field("manifests").is_some() != has_image, "it can be read in two ways");
    let (kind, lists) = match has_image {
        true => (ManifestKind::Image, &["config", "layers"][..]),
        false => (ManifestKind::Index, &["manifests"][..]),
    };
    prop_assert_eq!(manifest.kind(), kind);
    let is_right_type = match kind {
        ManifestKind::Image => media_type::is_image(&claim.media_type),
        ManifestKind::Index => media_type::is_index(&claim.media_type),
    };
    prop_assert!(is_right_type && field("mediaType").is_none_or(|t| *t == claim.media_type[..]));
    let raw: Vec<&Value> = lists
        .iter()
        .filter_map(|key| field(key))
        .flat_map(|value| value.as_array().map_or(vec![value], |list| list.iter().collect()))
        .collect();
    prop_assert_eq!(raw.len(), manifest.children().len());
    for (raw, child) in raw.iter().zip(manifest.children()) {
        prop_assert_eq!(&raw["digest"], &json!(child.digest.to_string()));
        prop_assert_eq!(&raw["size"], &json!(child.size));
        prop_assert_eq!(&raw["mediaType"], &json!(child.media_type));
        prop_assert!(
            raw.as_object().is_some_and(|raw| is_plain(raw, &OF_DESCRIPTOR)),
            "a key that some readers fold"
        );
    }
    Ok(())
}

#[test]
fn manifests_are_what_they_say() {
    let limits = Limits { manifest_size: 2_000, ..Limits::default() };
    let claimed = prop_oneof![1 => select(&TYPES[..]).prop_map(Some), 3 => Just(None)];
    let algorithms = select(&Algorithm::ALL[..]);
    fuzz(
        "manifests",
        20_000,
        (manifests(), claimed, algorithms),
        |(Raw(bytes), claimed, algorithm)| {
            let own = root_media_type(&bytes);
            let digest = Digest::compute(algorithm, &bytes);
            let media_type = claimed.map_or(own, str::to_owned);
            let claim = Descriptor::new(media_type, digest, bytes.len() as u64);
            let Ok(manifest) = Manifest::parse(&claim, bytes.clone(), &limits) else {
                return Ok(false);
            };
            prop_assert!(bytes.len() <= 2_000);
            judge(&manifest, &claim, &bytes)?;
            // The same with one thing wrong about it.
            let longer = Descriptor { size: claim.size + 1, ..claim.clone() };
            prop_assert!(Manifest::parse(&longer, bytes.clone(), &limits).is_err());
            let other = Descriptor { digest: Digest::of(b"other"), ..claim.clone() };
            prop_assert!(Manifest::parse(&other, bytes.clone(), &limits).is_err());
            let small = Limits { manifest_size: bytes.len() as u64 - 1, ..limits };
            prop_assert!(Manifest::parse(&claim, bytes, &small).is_err());
            Ok(true)
        },
    );
}

/// Documents of which each may reach those before it, blobs, and what is nowhere.
#[derive(Clone, Debug)]
struct Graph {
    documents: Vec<Vec<Reach>>,
    limits: Limits,
    /// One document is answered with other bytes.
    torn: Option<Index>,
}

#[derive(Clone, Debug)]
enum Reach {
    /// A document before this one, rightly described unless it is lied about.
    Document(Index, bool),
    Blob(u8),
}

fn graphs() -> impl Strategy<Value = Graph> {
    let reach = prop_oneof![
        3 => (any::<Index>(), prop::bool::weighted(0.05)).prop_map(|(at, lie)| Reach::Document(at, lie)),
        2 => (0..6_u8).prop_map(Reach::Blob),
    ];
    let documents = vec(vec(reach, 0..5), 1..9);
    let limits = (1..9_usize, 0..40_usize, 200..4_000_u64).prop_map(|(depth, entries, size)| {
        Limits { manifest_size: 1_500, manifests_size: size, depth, entries }
    });
    let torn = prop::option::weighted(0.1, any::<Index>());
    (documents, limits, torn).prop_map(|(documents, limits, torn)| Graph {
        documents,
        limits,
        torn,
    })
}

impl Graph {
    /// The documents' bytes and descriptors, the root last.
    fn built(&self) -> Vec<(Descriptor, Vec<u8>)> {
        let mut built: Vec<(Descriptor, Vec<u8>)> = Vec::new();
        for (n, reached) in self.documents.iter().enumerate() {
            let children: Vec<Value> = reached
                .iter()
                .map(|reach| match reach {
                    Reach::Document(at, lies) if n > 0 => {
                        let (mut claim, _) = built[at.index(n)].clone();
                        claim.size += u64::from(*lies);
                        json!(claim)
                    }
                    Reach::Document(..) => blob(9),
                    Reach::Blob(n) => blob(*n),
                })
                .collect();
            let document = json!({
                "schemaVersion": 2, "mediaType": media_type::IMAGE_INDEX, "manifests": children,
            });
            let bytes = document.to_string().into_bytes();
            let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
            built.push((Descriptor::new(media_type::IMAGE_INDEX, digest, size), bytes));
        }
        built
    }
}

/// How many documents stand on top of each other.
fn depth(closure: &Closure, at: &Digest) -> usize {
    match closure.get(at) {
        Some(Node::Manifest(manifest)) => {
            let below = manifest.children().iter().map(|child| depth(closure, &child.digest));
            1 + below.max().unwrap_or(0)
        }
        _ => 0,
    }
}

#[test]
fn closures_keep_their_limits() {
    fuzz("closures", 5_000, graphs(), |graph| {
        let built = graph.built();
        let torn = graph.torn.map(|at| built[at.index(built.len())].0.digest);
        let root = &built[built.len() - 1].0;
        let mut met_torn = false;
        let mut fetch = |claim: &Descriptor| -> Result<Vec<u8>, Refusal> {
            let (_, bytes) = built.iter().find(|(d, _)| d.digest == claim.digest).expect("known");
            let mut bytes = bytes.clone();
            if torn == Some(claim.digest) {
                met_torn = true;
                bytes.push(b' ');
                bytes.truncate(usize::try_from(claim.size).unwrap());
                bytes[0] ^= 1;
            }
            Ok(bytes)
        };
        let Ok(closure) = walk(root, &graph.limits, &mut fetch) else { return Ok(false) };
        prop_assert!(!met_torn, "other bytes were taken");
        let mut before = BTreeSet::new();
        for node in closure.nodes() {
            if let Node::Manifest(manifest) = node {
                let is_after = |child: &Descriptor| before.contains(&child.digest);
                prop_assert!(manifest.children().iter().all(is_after), "a parent before its child");
            }
            prop_assert!(before.insert(node.digest()), "a member stands there twice");
        }
        prop_assert_eq!(closure.nodes().last().map(Node::digest), Some(root.digest));
        let n_entries: usize = closure.manifests().map(|m| m.children().len()).sum();
        let n_bytes: usize = closure.manifests().map(|m| m.bytes().len()).sum();
        prop_assert!(n_entries <= graph.limits.entries);
        prop_assert!(n_bytes as u64 <= graph.limits.manifests_size);
        prop_assert!(
            closure.manifests().all(|m| m.bytes().len() as u64 <= graph.limits.manifest_size)
        );
        prop_assert!(depth(&closure, &root.digest) <= graph.limits.depth);
        Ok(true)
    });
}
