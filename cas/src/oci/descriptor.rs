//! A descriptor: somebody's claim about bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Media types that decide how a document is read.
pub mod media_type {
    /// An OCI image or artifact manifest.
    pub const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI index.
    pub const IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// A Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// A Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// The empty JSON object that stands where an artifact has no config.
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// Bytes of no declared kind: what a file is when its bringer says nothing.
    pub const OCTETS: &str = "application/octet-stream";

    /// Whether bytes of this type are a document that names other descriptors as its children.
    pub fn is_manifest(media_type: &str) -> bool {
        is_image(media_type) || is_index(media_type)
    }

    /// Whether this is a manifest with `config` and `layers`.
    pub fn is_image(media_type: &str) -> bool {
        matches!(media_type, IMAGE_MANIFEST | DOCKER_MANIFEST)
    }

    /// Whether this is an index with `manifests`.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, IMAGE_INDEX | DOCKER_LIST)
    }

    /// Whether a layer of this type may be absent from a layout (image-spec 1.1, "Non-Distributable
    /// Layers", and Docker's foreign layers).
    pub fn is_non_distributable(media_type: &str) -> bool {
        media_type.starts_with("application/vnd.oci.image.layer.nondistributable.v1.")
            || media_type.starts_with("application/vnd.docker.image.rootfs.foreign.")
    }
}

/// Media type, digest and size of bytes, as claimed by whoever wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the bytes are.
    pub media_type: String,
    /// Which bytes.
    pub digest: Digest,
    /// How many.
    pub size: u64,
    /// The bytes themselves in base64, where the writer put them in as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The type of the artifact that a manifest stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// `os/architecture[/variant]` of a child of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<oci_spec::image::Platform>,
    /// Free text by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A claim with nothing but type, digest and size.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Descriptor {
        Descriptor {
            media_type: media_type.into(),
            digest,
            size,
            data: None,
            artifact_type: None,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Whether the bytes are a document with children.
    pub fn is_manifest(&self) -> bool {
        media_type::is_manifest(&self.media_type)
    }

    /// Whether a layout without these bytes is still complete.
    pub fn may_be_absent(&self) -> bool {
        media_type::is_non_distributable(&self.media_type)
    }
}
