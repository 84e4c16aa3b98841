//! Why a layout or archive of somebody else is not read, or a copy not written.

use std::io;

use crate::digest::Digest;
use crate::disk::ForeignError;
use crate::oci::Refusal;

/// What went wrong with a source or a sink.
///
/// Names of files are those inside the layout or archive; the caller knows where that one lies.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A document, or what it reaches, is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The list of what the layout holds is refused.
    #[error("index.json: {0}")]
    Index(Refusal),
    /// The list of what the layout holds is larger than a manifest may be.
    #[error("index.json has {size} bytes; the limit is {limit}")]
    IndexTooLarge {
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file is a symlink, no regular file, or cannot be read.
    #[error(transparent)]
    File(#[from] ForeignError),
    /// What every layout has is missing or of another version.
    #[error("this is no OCI layout: {reason}")]
    NotLayout {
        /// What is missing or wrong.
        reason: String,
        /// It has the `manifest.json` of a `docker-archive`.
        is_docker: bool,
    },
    /// The layout holds several artifacts, and nobody said which.
    #[error("{wanted} could be any of {n}", n = candidates.len())]
    Ambiguous {
        /// What was asked for.
        wanted: String,
        /// What to type instead, one for each.
        candidates: Vec<String>,
    },
    /// The layout does not hold what was asked for.
    #[error("{wanted} is not in the layout's index.json")]
    NotListed {
        /// What was asked for.
        wanted: String,
        /// What there is, as references to type.
        candidates: Vec<String>,
    },
    /// The archive is compressed, so nothing in it can be read in place.
    #[error("the archive is compressed with {with}")]
    Compressed {
        /// The command that made it, and unmakes it with `-dc`.
        with: &'static str,
    },
    /// The file is no tar archive, or one with what no OCI archive has.
    #[error("the archive cannot be read: {reason}")]
    NotArchive {
        /// What was found.
        reason: String,
    },
    /// The archive ends before what it announced.
    #[error("the archive ends too early: {reason}")]
    Truncated {
        /// What is cut.
        reason: String,
    },
    /// An entry is a symbolic or hard link.
    #[error("the archive's entry {entry:?} is a link")]
    Link {
        /// Its name.
        entry: String,
    },
    /// An entry is a device or FIFO.
    #[error("the archive's entry {entry:?} is {kind}, not a regular file")]
    Special {
        /// Its name.
        entry: String,
        /// What it is.
        kind: &'static str,
    },
    /// Two entries have one name.
    #[error("the archive has {entry:?} twice")]
    Duplicate {
        /// Their name.
        entry: String,
    },
    /// An entry's name is absolute, leads out of the archive or is no text.
    #[error("the archive's entry {entry:?} has a name that {why}")]
    Name {
        /// The name, with replacement characters where it is no text.
        entry: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The archive has more entries than a layout can need.
    #[error("the archive has more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: usize,
    },
    /// The bytes that came for a copy are not those of the digest.
    #[error("what was handed over as {digest} is not that: {reason}")]
    NotProved {
        /// The blob.
        digest: Digest,
        /// What is wrong with the bytes.
        reason: String,
    },
    /// Something is there already; nothing is replaced.
    #[error("{path} exists already")]
    Exists {
        /// Where.
        path: String,
    },
    /// Reading the bytes of a blob failed.
    #[error("reading {what} failed: {source}")]
    Read {
        /// What was read.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// Writing a copy failed.
    #[error("writing {what} failed: {source}")]
    Write {
        /// What was written.
        what: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// What making something at `path` failed with.
    pub(super) fn making(path: &str, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists { path: path.to_owned() },
            _ => Error::Write { what: path.to_owned(), source },
        }
    }
}
