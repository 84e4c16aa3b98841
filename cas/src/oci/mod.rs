//! OCI documents: what they claim, and what they reach.
//!
//! A [`Descriptor`] is a claim; a [`Manifest`] is its exact bytes plus a parsed view, and the
//! bytes are never made again from the view. This room reads bytes that somebody else fetched: it
//! knows nothing of files, stores or sockets. Formats: image-spec 1.1 and Docker schema 2.

use crate::digest::{Digest, ParseError};

mod closure;
mod descriptor;
mod manifest;

pub use closure::{Closure, Node, walk};
pub use descriptor::{Descriptor, media_type};
pub use manifest::{Manifest, ManifestKind, file_manifest, root_media_type};

/// Bounds on what is read of a document that nobody has vouched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest manifest or index, in bytes.
    pub manifest_size: u64,
    /// The manifests and indexes of one closure together, in bytes.
    pub manifests_size: u64,
    /// How many indexes may stand on top of each other, the root counted.
    pub depth: usize,
    /// How many descriptors a closure may hold.
    pub entries: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { manifest_size: 4 << 20, manifests_size: 64 << 20, depth: 8, entries: 100_000 }
    }
}

/// Why a document, or what it reaches, is not taken. Every variant is the bringer's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes have another digest than was claimed.
    #[error("the bytes brought as {claimed} have the digest {actual}")]
    Mismatch {
        /// What was claimed.
        claimed: Digest,
        /// What the bytes have.
        actual: Digest,
    },
    /// There are more or fewer bytes than was claimed.
    #[error("{digest} is claimed to have {claimed} bytes and has {actual}")]
    WrongSize {
        /// The blob.
        digest: Digest,
        /// Its claimed size in bytes.
        claimed: u64,
        /// The size that was found, in bytes.
        actual: u64,
    },
    /// Something the document reaches was not brought.
    #[error("{digest} ({media_type}) is missing")]
    Missing {
        /// The blob or manifest.
        digest: Digest,
        /// The media type that its descriptor claims.
        media_type: String,
    },
    /// The document says that it is something else than its descriptor says.
    #[error("{digest} is claimed to be {claimed} and says itself that it is {found}")]
    MediaType {
        /// The document.
        digest: Digest,
        /// The descriptor's media type.
        claimed: String,
        /// The document's own.
        found: String,
    },
    /// The document could be read as an index and as an image (CVE-2021-41190).
    #[error("{digest} has both manifests and layers")]
    BothKinds {
        /// The document.
        digest: Digest,
    },
    /// The document is not what its media type demands.
    #[error("{digest} is not a valid manifest: {reason}")]
    Malformed {
        /// The document.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// Bytes follow the end of the document.
    #[error("{digest} has bytes after the end of its document")]
    TrailingBytes {
        /// The document.
        digest: Digest,
    },
    /// A descriptor names a digest that is none.
    #[error("{document} holds a descriptor whose digest is refused: {error}")]
    Digest {
        /// The document that holds the descriptor.
        document: Digest,
        /// What is wrong with the digest.
        error: ParseError,
    },
    /// The document is larger than any manifest may be.
    #[error("the manifest {digest} has {size} bytes; the limit is {limit}")]
    TooLarge {
        /// The document.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// The documents of a closure are larger, all together, than they may be.
    #[error("the manifests of {root} have more than {limit} bytes in all")]
    ManifestsTooLarge {
        /// The root.
        root: Digest,
        /// The limit in bytes.
        limit: u64,
    },
    /// Indexes nest deeper than the limit.
    #[error("{digest} is nested deeper than {limit} levels")]
    TooDeep {
        /// The first document beyond the limit.
        digest: Digest,
        /// The limit.
        limit: usize,
    },
    /// A document reaches itself.
    #[error("{digest} reaches itself")]
    Cycle {
        /// The document.
        digest: Digest,
    },
    /// The closure holds more descriptors than the limit.
    #[error("the closure of {root} has more than {limit} entries")]
    TooManyEntries {
        /// The root.
        root: Digest,
        /// The limit.
        limit: usize,
    },
}
