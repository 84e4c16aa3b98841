//! Where things are below the store's root, and the fixed files of a sealed layout.
//!
//! Every path of the store is made here, from types that cannot hold a `/`.

use crate::digest::{Algorithm, Digest};
use crate::disk::RelPath;
use crate::oci::Descriptor;
use crate::workspace::{RepositoryName, Workspace};

/// The one content of `oci-layout` (image-spec 1.1, "oci-layout file").
pub const OCI_LAYOUT: &[u8] = b"{\"imageLayoutVersion\":\"1.0.0\"}";
/// The name of the file that says so.
pub const OCI_LAYOUT_FILE: &str = "oci-layout";
/// The name of a layout's index.
pub const INDEX_FILE: &str = "index.json";
/// The name of a layout's folder of blobs, and of the store's.
pub const BLOBS: &str = "blobs";

/// The folder of sealed layouts.
pub const ARTIFACTS: &str = "artifacts";
/// The folder of drafts.
pub const STAGING: &str = "staging";
/// The folder of what was found wrong.
pub const QUARANTINE: &str = "quarantine";
/// The folder of names.
pub const NAMES: &str = "names";
/// The folder of records of what artifacts were sealed without.
pub const ABSENT: &str = "absent";
/// The folder of uploads that were begun and are not blobs yet.
pub const UPLOADS: &str = "uploads";
/// The folder of marks: artifacts that were pushed, and that nobody put.
pub const PUSHED: &str = "pushed";
/// The folder of the write-ahead log.
pub const WAL: &str = "wal";
/// The folder of the derived index.
pub const INDEX: &str = "index";
/// The file that says which store this is, and of which format.
pub const STORE_FILE: &str = "bonded.json";
/// The file that is locked while a process has the store.
pub const LOCK_FILE: &str = "lock";
/// The file that is given up when the disk is full and something must be removed.
pub const RESERVE_FILE: &str = "reserve";

/// Which workspaces share the blobs of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pool {
    /// All of them.
    Shared,
    /// This one alone.
    Of(Workspace),
}

impl Pool {
    /// `blobs`, or `blobs/<workspace>`.
    pub fn folder(&self) -> RelPath {
        match self {
            Pool::Shared => RelPath::new(BLOBS),
            Pool::Of(workspace) => RelPath::new(BLOBS).join(workspace),
        }
    }

    /// `<pool>/<algorithm>`
    pub fn blobs(&self, algorithm: Algorithm) -> RelPath {
        self.folder().join(algorithm.name())
    }

    /// `<pool>/<algorithm>/<hex>`
    pub fn blob(&self, digest: &Digest) -> RelPath {
        self.blobs(digest.algorithm()).join(digest.hex())
    }
}

/// `<layout>/blobs/<algorithm>/<hex>`
pub fn blob_in(layout: &RelPath, digest: &Digest) -> RelPath {
    layout.join(BLOBS).join(digest.algorithm().name()).join(digest.hex())
}

/// The same as it is called inside its layout: `blobs/<algorithm>/<hex>`.
pub fn blob_file(digest: &Digest) -> String {
    format!("{BLOBS}/{}/{}", digest.algorithm().name(), digest.hex())
}

/// `artifacts/<workspace>`
pub fn workspace(workspace: &Workspace) -> RelPath {
    RelPath::new(ARTIFACTS).join(workspace)
}

/// `artifacts/<workspace>/<algorithm>/<hex>`
pub fn artifact(of: &Workspace, digest: &Digest) -> RelPath {
    workspace(of).join(digest.algorithm().name()).join(digest.hex())
}

/// `absent/<workspace>/<algorithm>/<hex>`
pub fn absences(workspace: &Workspace, artifact: &Digest) -> RelPath {
    absences_by(workspace, artifact.algorithm()).join(artifact.hex())
}

/// `absent/<workspace>/<algorithm>`
pub fn absences_by(workspace: &Workspace, algorithm: Algorithm) -> RelPath {
    RelPath::new(ABSENT).join(workspace).join(algorithm.name())
}

/// `pushed/<workspace>/<algorithm>/<hex>`
pub fn pushed(workspace: &Workspace, artifact: &Digest) -> RelPath {
    pushed_by(workspace, artifact.algorithm()).join(artifact.hex())
}

/// `pushed/<workspace>/<algorithm>`
pub fn pushed_by(workspace: &Workspace, algorithm: Algorithm) -> RelPath {
    RelPath::new(PUSHED).join(workspace).join(algorithm.name())
}

/// `names/<workspace>/<repository>`
pub fn repository(workspace: &Workspace, name: &RepositoryName) -> RelPath {
    let workspace = RelPath::new(NAMES).join(workspace);
    name.as_str().split('/').fold(workspace, |path, part| path.join(part))
}

/// `names/<workspace>/<repository>/_tags`
pub fn tags(workspace: &Workspace, name: &RepositoryName) -> RelPath {
    repository(workspace, name).join(TAGS)
}

/// `names/<workspace>/<repository>/_members/<kind>`
pub fn members(workspace: &Workspace, name: &RepositoryName, kind: MemberKind) -> RelPath {
    repository(workspace, name).join(MEMBERS).join(kind.folder())
}

/// `wal/<number>`
pub fn segment(number: usize) -> RelPath {
    RelPath::new(WAL).join(number)
}

/// `names/<workspace>/<repository>/_referrers`
pub fn referrers(workspace: &Workspace, name: &RepositoryName) -> RelPath {
    repository(workspace, name).join(REFERRERS)
}

/// A digest as one plain file name: `<algorithm>-<hex>`.
pub fn digest_file(digest: &Digest) -> String {
    format!("{}-{}", digest.algorithm().name(), digest.hex())
}

/// The root that such an `index.json` names.
pub fn root_of_index(bytes: &[u8]) -> Option<Digest> {
    let index = oci_spec::image::ImageIndex::from_reader(bytes).ok()?;
    index.manifests().first()?.digest().to_string().parse().ok()
}

/// What a draft of a workspace is called in staging, before its number.
pub fn draft_of(workspace: &Workspace) -> String {
    format!("{DRAFT}{workspace}")
}

/// The workspace of a draft in staging.
pub fn workspace_of_draft(name: &str) -> Option<Workspace> {
    let (workspace, number) = name.strip_prefix(DRAFT)?.rsplit_once('-')?;
    number.parse::<u64>().ok().and_then(|_| workspace.parse().ok())
}

const DRAFT: &str = "draft-";

/// What a blob's member is called until its bytes are durable: nothing reads or holds it so.
pub fn coming_file(digest: &Digest, number: u64) -> String {
    format!("{}.{number}", digest_file(digest))
}

/// The digest of a member that is coming.
pub fn digest_of_coming(name: &str) -> Option<Digest> {
    let (name, number) = name.split_once('.')?;
    number.parse::<u64>().ok().and_then(|_| digest_of_file(name))
}

/// The digest that such a name stands for.
pub fn digest_of_file(name: &str) -> Option<Digest> {
    let (algorithm, hex) = name.split_once('-')?;
    Digest::from_hex(Algorithm::from_name(algorithm)?, hex).ok()
}

/// The folder of a repository's tags. No repository can be called so.
pub const TAGS: &str = "_tags";
/// The folder of what a repository lists, each a link to the bytes.
pub const MEMBERS: &str = "_members";
/// The folder of a repository's referrers, by subject.
pub const REFERRERS: &str = "_referrers";

/// As what something is listed in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberKind {
    /// A manifest that was pushed or named.
    Manifest,
    /// A manifest that one of those reaches.
    Child,
    /// A config, a layer, or a blob that no manifest needs yet.
    Blob,
}

impl MemberKind {
    /// All of them.
    pub const ALL: [MemberKind; 3] = [MemberKind::Manifest, MemberKind::Child, MemberKind::Blob];

    fn folder(self) -> &'static str {
        match self {
            MemberKind::Manifest => "manifests",
            MemberKind::Child => "children",
            MemberKind::Blob => "blobs",
        }
    }
}

/// The bytes of `index.json` of a sealed layout: exactly one entry without a name, so that
/// scanners read the layout without being told a tag. The same root always makes the same bytes.
pub fn index_json(root: &Descriptor) -> Vec<u8> {
    use crate::oci::media_type::IMAGE_INDEX;
    let (media_type, digest, size) = (&root.media_type, root.digest, root.size);
    // The media type of a root is one of four constants: nothing in it needs escaping.
    format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{IMAGE_INDEX}\",\"manifests\":[{{\
         \"mediaType\":\"{media_type}\",\"digest\":\"{digest}\",\"size\":{size}}}]}}"
    )
    .into_bytes()
}
