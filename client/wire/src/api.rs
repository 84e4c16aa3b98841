//! Requests and answers of `/v1/`, HTTP/1.1 with JSON bodies over the daemon's Unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/openapi.json` | this table, its types and its errors for machines |
//! | `GET /v1/health` | [`Health`] |
//! | `GET /v1/metrics` | Prometheus text |
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/doctor` | [`Doctor`] |
//! | `POST /v1/gc?dry_run=BOOL` | [`Gc`] |
//! | `POST /v1/workspaces/W/drafts` | 201 [`DraftOpened`] |
//! | `PUT /v1/drafts/ID/blobs/DIGEST?size=N[&offset=N]`, a body or a descriptor | [`Taken`] |
//! | `GET /v1/drafts/ID` | [`DraftProgress`] |
//! | `POST /v1/drafts/ID/seal`, [`Seal`] | 201 [`Put`] |
//! | `DELETE /v1/drafts/ID` | 204 |
//! | `POST /v1/workspaces/W/files?`[`FileQuery`], a body or a descriptor | 201 [`Put`] |
//! | `GET /v1/workspaces/W/refs?ref=REF` | [`Resolved`] |
//! | `GET /v1/workspaces/W/artifacts?after=DIGEST&limit=N` | [`Artifacts`] |
//! | `GET /v1/workspaces/W/artifacts/DIGEST` | [`Closure`] |
//! | `POST /v1/workspaces/W/artifacts/DIGEST/check` | [`Checked`] |
//! | `GET /v1/workspaces/W/artifacts/DIGEST/blobs/DIGEST` | the bytes, or a descriptor |
//! | `DELETE /v1/workspaces/W/artifacts/DIGEST` | [`Retired`] |
//! | `GET /v1/workspaces/W/holders/DIGEST` | [`Holders`] |
//!
//! A request that comes with a descriptor says so in the header [`DESCRIPTORS`] (`1`) and has no
//! body; one that can take a descriptor for its answer says so in [`ACCEPT_DESCRIPTORS`] (`1`), and
//! the answer then carries [`DESCRIPTORS`] and an empty body. Sizes are bytes.

use cas::digest::Digest;
use cas::oci::{Descriptor, Limits};
use serde::{Deserialize, Serialize};

use crate::code::Problem;

/// How many descriptors come with this message; at most one.
pub const DESCRIPTORS: &str = "bonded-descriptors";
/// How many descriptors the asker can take with the answer; at most one.
pub const ACCEPT_DESCRIPTORS: &str = "bonded-accept-descriptors";
/// The workspace within which the names of a request under `/v2/`, and of its answer, are written;
/// without it a name begins with its workspace. Heard on the socket alone.
pub const WORKSPACE: &str = "bonded-workspace";
/// Where the daemon listens when nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/bonded/bonded.sock";
/// The workspace when none is named.
pub const DEFAULT_WORKSPACE: &str = "default";
/// The most names that one put may give.
pub const MOST_NAMES: usize = 64;

/// The body of every answer that is no success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: Problem,
}

/// The daemon is alive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// `ok`, or `draining` once it was told to stop.
    pub status: String,
    /// Its version.
    pub version: String,
}

/// What a peer may know of the daemon and of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// The store's id.
    pub store: String,
    /// The peer's user id as the kernel says it.
    pub uid: u32,
    /// What the peer may do, by workspace.
    pub rights: Vec<Rights>,
    /// Free bytes on the store's filesystem.
    pub free: u64,
    /// Bounds on the documents that the daemon takes.
    pub limits: DocumentLimits,
}

/// Bounds on manifests and indexes, as the daemon is configured: see [`Limits`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentLimits {
    /// Bytes of one manifest or index.
    pub manifest_size: u64,
    /// Bytes of all manifests and indexes of one closure.
    pub manifests_size: u64,
    /// Indexes on top of each other, the root counted.
    pub depth: usize,
    /// Descriptors in one closure.
    pub entries: usize,
}

impl DocumentLimits {
    /// The widest that a daemon can be configured to. Nobody who is told wider ones believes them.
    pub const WIDEST: DocumentLimits = DocumentLimits {
        manifest_size: 64 << 20,
        manifests_size: 1 << 30,
        depth: 64,
        entries: 10_000_000,
    };
}

impl From<Limits> for DocumentLimits {
    fn from(limits: Limits) -> DocumentLimits {
        let Limits { manifest_size, manifests_size, depth, entries } = limits;
        DocumentLimits { manifest_size, manifests_size, depth, entries }
    }
}

impl From<DocumentLimits> for Limits {
    fn from(told: DocumentLimits) -> Limits {
        let widest = DocumentLimits::WIDEST;
        Limits {
            manifest_size: told.manifest_size.min(widest.manifest_size),
            manifests_size: told.manifests_size.min(widest.manifests_size),
            depth: told.depth.min(widest.depth),
            entries: told.entries.min(widest.entries),
        }
    }
}

/// What one peer may do in one workspace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rights {
    /// The workspace, or `*`.
    pub workspace: String,
    /// Of `put`, `read`, `retire`, `admin`.
    pub may: Vec<String>,
}

/// An answer to the wish to put an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftOpened {
    /// Names the draft in later requests. It is bound to the peer's uid and the workspace.
    pub draft: String,
}

/// One blob was taken into a draft.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Its digest.
    pub digest: Digest,
    /// Its size.
    pub size: u64,
}

/// How far a draft has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DraftProgress {
    /// Bytes hashed so far, over all its blobs.
    pub bytes: u64,
}

/// Ends a draft: everything that `root` reaches must have been taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// The manifest or index at the top.
    pub root: Descriptor,
    /// Names to give it, `repository:tag`, at most [`MOST_NAMES`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}

/// The query of a put of one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileQuery {
    /// Its name, kept as `org.opencontainers.image.title`: one path component, at most 255 bytes.
    pub title: String,
    /// Its size, when it is known beforehand (always with a descriptor).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Where it begins in the descriptor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The media type of the layer; `application/octet-stream` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The type of the artifact; `application/octet-stream` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The digest that the bytes must have, when the bringer knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// Names to give it, `repository:tag`, at most [`MOST_NAMES`], with commas between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<String>,
}

/// Where the store keeps an artifact: inert data, never a registry address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersistenceHandle {
    /// `oci_layout`.
    pub kind: String,
    /// The layout.
    pub oci_layout: OciLayoutHandle,
}

/// Where a layout is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciLayoutHandle {
    /// Relative to the store's root: `artifacts/<workspace>/sha256/<hex>`.
    pub path: String,
}

/// An artifact is sealed: whole and durable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Put {
    /// The handle to keep.
    #[serde(flatten)]
    pub handle: PersistenceHandle,
    /// The artifact digest.
    pub digest: Digest,
    /// The workspace.
    pub workspace: String,
    /// The media type of the root.
    pub media_type: String,
    /// Bytes of the whole closure, each member once.
    pub size: u64,
    /// Members of the closure.
    pub n_blobs: u64,
    /// Of them new to the workspace, whatever other workspaces have.
    pub n_written: u64,
    /// Of them, or of the layout's own files, rotten in the workspace and healed.
    pub n_healed: u64,
    /// Whether the workspace had this artifact before.
    pub existed: bool,
    /// For a file: the digest of its own bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_digest: Option<Digest>,
    /// Non-distributable layers that were not brought.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Digest>,
}

/// Which artifact a reference means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// Its digest.
    pub digest: Digest,
    /// The workspace.
    pub workspace: String,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// The artifact digest.
    pub digest: Digest,
    /// The media type of the root.
    pub media_type: String,
    /// `artifactType`, where the root has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The file's name, for a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Bytes of the whole closure, each member once.
    pub size: u64,
    /// Members of the closure.
    pub n_blobs: u64,
    /// Names that lead to it, `repository:tag`.
    pub names: Vec<String>,
    /// When it was sealed, in seconds since 1970.
    pub sealed_at: u64,
    /// When it was last found whole, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified_at: Option<u64>,
}

/// A page of a listing, ordered by digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifacts {
    /// The artifacts.
    pub artifacts: Vec<Artifact>,
    /// Ask again with this as `after` for the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Digest>,
}

/// What hangs on an artifact: its structure was checked, its manifests hashed, its blobs not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closure {
    /// The artifact.
    pub artifact: Artifact,
    /// The root.
    pub root: Descriptor,
    /// All members, children before parents, the root last.
    pub members: Vec<Member>,
}

/// One member of a closure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its descriptor.
    pub descriptor: Descriptor,
    /// Its children, for a manifest or index.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Descriptor>,
    /// What it is about, for a referrer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Digest>,
    /// A non-distributable layer that is not there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub absent: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The whole closure was hashed just now and is what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// The artifact.
    pub digest: Digest,
    /// The layout's absolute path, for peers that may read in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The handle.
    #[serde(flatten)]
    pub handle: PersistenceHandle,
    /// Bytes that were hashed.
    pub size: u64,
    /// Members that were hashed.
    pub n_blobs: u64,
    /// Members whose rotten copy in this layout was replaced by the store's good one.
    pub n_healed: u64,
    /// Non-distributable layers that are not there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<Digest>,
}

/// One workspace's hold was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// The artifact.
    pub digest: Digest,
    /// Names that led to it and are gone.
    pub names: Vec<String>,
    /// Bytes that the workspace does not hold any more; gc frees those that no other one holds.
    pub released: u64,
}

/// What a collection freed, or would free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gc {
    /// Nothing was deleted.
    pub dry_run: bool,
    /// Blobs that nobody holds. Those that the rest of this answer is about count once it is done,
    /// not in a dry run.
    pub n_blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Artifacts that were pushed, that nobody put, and that no repository lists any more: retired.
    pub n_retired: u64,
    /// Pushed blobs that nothing needs and whose lease is over: not listed any more.
    pub n_leases_ended: u64,
    /// Pushed blobs that are held by a lease until what needs them comes.
    pub n_leases: u64,
    /// Their bytes.
    pub lease_bytes: u64,
}

/// Who holds a digest, among the workspaces that the peer may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holders {
    /// The digest asked for.
    pub digest: Digest,
    /// The artifacts of the workspace that reach it.
    pub holders: Vec<Holder>,
    /// The repositories of the workspace that list it.
    pub repositories: Vec<ListedIn>,
}

/// A repository that lists a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedIn {
    /// Its name in the workspace.
    pub repository: String,
    /// When a gc may end the listing, in seconds since 1970, because nothing that is listed there
    /// needs it; absent when something does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leased_until: Option<u64>,
}

/// One artifact that holds a digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The workspace.
    pub workspace: String,
    /// The artifact.
    pub artifact: Digest,
    /// Names that lead to it.
    pub names: Vec<String>,
}

/// The state of the house, for its keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// What was looked at, in the order of the looking.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub what: String,
    /// `ok`, `note` or `problem`.
    pub level: String,
    /// What was seen.
    pub text: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}
