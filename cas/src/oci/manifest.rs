//! One manifest or index: its exact bytes, and what they say.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use oci_spec::image::{
    DescriptorBuilder, ImageManifestBuilder, MediaType, SCHEMA_VERSION, Sha256Digest,
};
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::{Descriptor, Limits, Refusal, media_type};
use crate::digest::{Digest, ParseError};

/// Which of the two shapes a document has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestKind {
    /// `config` and `layers`.
    Image,
    /// `manifests`.
    Index,
}

/// A manifest or index that was parsed and, by [`Manifest::parse`], found to be what it claims.
#[derive(Clone, Debug)]
pub struct Manifest {
    bytes: Vec<u8>,
    digest: Digest,
    media_type: String,
    kind: ManifestKind,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    children: Vec<Descriptor>,
    subject: Option<Descriptor>,
    annotations: BTreeMap<String, String>,
}

/// The fields that decide anything. What else a document holds stays in its bytes.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: u64,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    subject: Option<RawDescriptor>,
    annotations: Option<BTreeMap<String, String>>,
    fs_layers: Option<IgnoredAny>,
}

/// What tells a document's type.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Typed {
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
}

/// A descriptor before its digest is known to be one.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: String,
    digest: String,
    size: u64,
    data: Option<String>,
    artifact_type: Option<String>,
    platform: Option<oci_spec::image::Platform>,
    annotations: Option<BTreeMap<String, String>>,
}

const DOCUMENT_KEYS: [&str; 9] = [
    "schemaVersion",
    "mediaType",
    "artifactType",
    "config",
    "layers",
    "manifests",
    "subject",
    "annotations",
    "fsLayers",
];
const DESCRIPTOR_KEYS: [&str; 7] =
    ["mediaType", "digest", "size", "data", "artifactType", "platform", "annotations"];

impl Manifest {
    /// Parses the document that `claim` describes and checks digest, size, shape and media type.
    ///
    /// # Errors
    /// A [`Refusal`] that says what is wrong with the document itself; its children are not looked at.
    pub fn parse(claim: &Descriptor, bytes: Vec<u8>, limits: &Limits) -> Result<Manifest, Refusal> {
        let digest = claim.digest;
        if bytes.len() as u64 > limits.manifest_size {
            let size = bytes.len() as u64;
            return Err(Refusal::TooLarge { digest, size, limit: limits.manifest_size });
        }
        if bytes.len() as u64 != claim.size {
            let actual = bytes.len() as u64;
            return Err(Refusal::WrongSize { digest, claimed: claim.size, actual });
        }
        let actual = Digest::compute(digest.algorithm(), &bytes);
        if actual != digest {
            return Err(Refusal::Mismatch { claimed: digest, actual });
        }
        Manifest::read(claim, bytes)
    }

    /// The view alone: the caller answers for digest and size.
    pub(super) fn read(claim: &Descriptor, bytes: Vec<u8>) -> Result<Manifest, Refusal> {
        let digest = claim.digest;
        let malformed = |reason: String| Refusal::Malformed { digest, reason };

        // The parser does not look into texts that it skips, and other readers refuse them.
        std::str::from_utf8(&bytes).map_err(|error| malformed(format!("not UTF-8: {error}")))?;
        let mut parser = serde_json::Deserializer::from_slice(&bytes);
        let document = Document::deserialize(&mut parser).map_err(|e| malformed(e.to_string()))?;
        parser.end().map_err(|_| Refusal::TrailingBytes { digest })?;
        refuse_look_alikes(&bytes).map_err(malformed)?;

        if document.manifests.is_some() && (document.layers.is_some() || document.config.is_some())
            || document.fs_layers.is_some()
        {
            return Err(Refusal::BothKinds { digest });
        }
        if document.schema_version != 2 {
            let version = document.schema_version;
            return Err(malformed(format!("schemaVersion is {version}, not 2")));
        }
        if let Some(found) = &document.media_type
            && *found != claim.media_type
        {
            let (claimed, found) = (claim.media_type.clone(), found.clone());
            return Err(Refusal::MediaType { digest, claimed, found });
        }
        if document.media_type.is_none() && !claim.media_type.starts_with("application/vnd.oci.") {
            // Only OCI lets it out. So the type of a root always follows from its own bytes.
            return Err(malformed(format!("a {} must say so in mediaType", claim.media_type)));
        }
        bound_type(digest, document.artifact_type.as_deref().unwrap_or_default())?;
        let parsed = |raw: RawDescriptor| raw.parse(digest);
        let (kind, config, children) = match (document.manifests, document.config, document.layers)
        {
            (Some(manifests), None, None) => {
                let children = manifests.into_iter().map(parsed).collect::<Result<Vec<_>, _>>()?;
                (ManifestKind::Index, None, children)
            }
            (None, Some(config), layers) => {
                let config = parsed(config)?;
                let mut children = vec![config.clone()];
                for layer in layers.unwrap_or_default() {
                    children.push(parsed(layer)?);
                }
                (ManifestKind::Image, Some(config), children)
            }
            _ => return Err(malformed("it has neither manifests nor a config".to_owned())),
        };
        let fits = match kind {
            ManifestKind::Image => media_type::is_image(&claim.media_type),
            ManifestKind::Index => media_type::is_index(&claim.media_type),
        };
        if !fits {
            let found = match kind {
                ManifestKind::Image => "a manifest with config and layers",
                ManifestKind::Index => "an index with manifests",
            };
            let (claimed, found) = (claim.media_type.clone(), found.to_owned());
            return Err(Refusal::MediaType { digest, claimed, found });
        }
        Ok(Manifest {
            digest,
            media_type: claim.media_type.clone(),
            kind,
            artifact_type: document.artifact_type,
            config,
            children,
            subject: document.subject.map(parsed).transpose()?,
            annotations: document.annotations.unwrap_or_default(),
            bytes,
        })
    }

    /// The exact bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its media type.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Image or index.
    pub fn kind(&self) -> ManifestKind {
        self.kind
    }

    /// `artifactType`, or where there is none the type of the config, as image-spec 1.1 has it.
    pub fn artifact_type(&self) -> Option<&str> {
        self.artifact_type.as_deref().or(self.config.as_ref().map(|c| c.media_type.as_str()))
    }

    /// The config of an image or artifact.
    pub fn config(&self) -> Option<&Descriptor> {
        self.config.as_ref()
    }

    /// What it reaches: config and layers, or manifests, in the order of the document.
    /// `subject` is no child.
    pub fn children(&self) -> &[Descriptor] {
        &self.children
    }

    /// What it is about, when it is a referrer.
    pub fn subject(&self) -> Option<&Descriptor> {
        self.subject.as_ref()
    }

    /// Its annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        &self.annotations
    }

    /// The descriptor of this document.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(self.media_type.clone(), self.digest, self.bytes.len() as u64)
    }
}

/// Types stand in listings and messages, so they are as short as their grammar wants them
/// (RFC 6838: 127 characters on either side of the slash).
fn bound_type(document: Digest, media_type: &str) -> Result<(), Refusal> {
    match media_type.len() <= 255 {
        true => Ok(()),
        false => {
            let reason = format!("a media type of {} bytes is none", media_type.len());
            Err(Refusal::Malformed { digest: document, reason })
        }
    }
}

impl RawDescriptor {
    fn parse(self, document: Digest) -> Result<Descriptor, Refusal> {
        let digest: Digest =
            self.digest.parse().map_err(|error: ParseError| Refusal::Digest { document, error })?;
        if let Some(data) = &self.data {
            let bytes =
                base64::engine::general_purpose::STANDARD.decode(data).map_err(|error| {
                    Refusal::Malformed {
                        digest: document,
                        reason: format!("data of {digest}: {error}"),
                    }
                })?;
            let actual = Digest::compute(digest.algorithm(), &bytes);
            if actual != digest {
                return Err(Refusal::Mismatch { claimed: digest, actual });
            }
        }
        bound_type(document, &self.media_type)?;
        bound_type(document, self.artifact_type.as_deref().unwrap_or_default())?;
        Ok(Descriptor {
            media_type: self.media_type,
            digest,
            size: self.size,
            data: self.data,
            artifact_type: self.artifact_type,
            platform: self.platform,
            annotations: self.annotations.unwrap_or_default(),
        })
    }
}

/// Some readers fold the case of keys: to them `Layers` is `layers`, and they would see another
/// document than we do. A key that differs from one that decides something only by its case is
/// refused. Only keys are looked at, and nothing is kept: the document is not believed yet.
fn refuse_look_alikes(bytes: &[u8]) -> Result<(), String> {
    serde_json::from_slice::<DocumentKeys>(bytes).map(|DocumentKeys| ()).map_err(|e| e.to_string())
}

struct DocumentKeys;
struct DescriptorKeys;

/// A letter as readers see it that fold its case. Beside the letters of ASCII, two of Unicode fold to
/// one of those: the long s, and the sign for kelvin. Go's JSON folds them too.
fn folded(letter: char) -> char {
    match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        other => other.to_ascii_lowercase(),
    }
}

fn look<E: serde::de::Error>(name: &str, keys: &[&str]) -> Result<(), E> {
    let reads_as = |key: &str| name != key && name.chars().map(folded).eq(key.chars().map(folded));
    match keys.iter().find(|key| reads_as(key)) {
        Some(key) => Err(E::custom(format!("the key {name:?} reads as {key:?} to some tools"))),
        None => Ok(()),
    }
}

impl<'de> Deserialize<'de> for DocumentKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DocumentKeys, D::Error> {
        deserializer.deserialize_map(DocumentKeys)
    }
}

impl<'de> Visitor<'de> for DocumentKeys {
    type Value = DocumentKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DocumentKeys, A::Error> {
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            look(&name, &DOCUMENT_KEYS)?;
            match &*name {
                "config" | "subject" | "layers" | "manifests" => {
                    let DescriptorKeys = map.next_value()?;
                }
                _ => {
                    let IgnoredAny = map.next_value()?;
                }
            }
        }
        Ok(DocumentKeys)
    }
}

impl<'de> Deserialize<'de> for DescriptorKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DescriptorKeys, D::Error> {
        deserializer.deserialize_any(DescriptorKeys)
    }
}

/// One descriptor, a list of them, or null: the types have been checked already.
impl<'de> Visitor<'de> for DescriptorKeys {
    type Value = DescriptorKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a descriptor or a list of them")
    }

    fn visit_unit<E>(self) -> Result<DescriptorKeys, E> {
        Ok(DescriptorKeys)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<DescriptorKeys, A::Error> {
        while list.next_element::<DescriptorKeys>()?.is_some() {}
        Ok(DescriptorKeys)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<DescriptorKeys, A::Error> {
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            look(&name, &DESCRIPTOR_KEYS)?;
            map.next_value::<IgnoredAny>()?;
        }
        Ok(DescriptorKeys)
    }
}

/// The media type that a sealed root has by its own bytes: what it says, or else what it looks
/// like. Bytes that say nothing have the type of an image manifest, whether they are one or not.
pub fn root_media_type(bytes: &[u8]) -> String {
    let typed = serde_json::from_slice::<Typed>(bytes).unwrap_or_default();
    typed.media_type.unwrap_or_else(|| match typed.manifests {
        Some(IgnoredAny) => media_type::IMAGE_INDEX.to_owned(),
        None => media_type::IMAGE_MANIFEST.to_owned(),
    })
}

/// The manifest that a plain file is wrapped in: an empty config, one layer, the file's name as
/// `org.opencontainers.image.title`. The same file, title and types always make the same bytes.
///
/// # Errors
/// The text of what oci-spec refused to build.
pub fn file_manifest(
    title: &str,
    artifact_type: &str,
    media_type: &str,
    digest: Digest,
    size: u64,
) -> Result<Vec<u8>, String> {
    let text = |error: &dyn std::error::Error| error.to_string();
    let sha256 = |digest: Digest| digest.hex().parse::<Sha256Digest>().map_err(|e| text(&e));
    let config = DescriptorBuilder::default()
        .media_type(MediaType::EmptyJSON)
        .digest(sha256(Digest::of(b"{}"))?)
        .size(2u64)
        .data("e30=")
        .build()
        .map_err(|e| text(&e))?;
    let layer = DescriptorBuilder::default()
        .media_type(media_type)
        .digest(sha256(digest)?)
        .size(size)
        .annotations([("org.opencontainers.image.title".to_owned(), title.to_owned())])
        .build()
        .map_err(|e| text(&e))?;
    let manifest = ImageManifestBuilder::default()
        .schema_version(SCHEMA_VERSION)
        .media_type(MediaType::ImageManifest)
        .artifact_type(artifact_type)
        .config(config)
        .layers(vec![layer])
        .build()
        .map_err(|e| text(&e))?;
    manifest.to_string().map(String::into_bytes).map_err(|e| text(&e))
}
