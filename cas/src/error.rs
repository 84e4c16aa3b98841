//! What can go wrong in the store, told apart where a caller acts differently.
//!
//! [`Refusal`] is the bringer's fault, [`Error::Corrupt`] is ours, and the two never mix.

use std::fmt;
use std::io;

use crate::digest::Digest;
use crate::disk::RelPath;
use crate::oci::Refusal;
use crate::stop::is_stop;
use crate::store::Dedup;
use crate::workspace::{Name, NameError};

/// Why an operation of the store failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What was brought is not what it was said to be.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A workspace or name is outside the grammar.
    #[error(transparent)]
    Name(#[from] NameError),
    /// There is nothing of that name or digest.
    #[error("{what} is not in the store")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// A reference fits several artifacts.
    #[error("{reference} fits {} artifacts", candidates.len())]
    Ambiguous {
        /// The reference.
        reference: String,
        /// What it fits, at most a hundred.
        candidates: Vec<Digest>,
    },
    /// The store's own bytes are not what they were. They are in quarantine already.
    #[error("{artifact} is damaged: {}", show(damages))]
    Corrupt {
        /// The artifact.
        artifact: Digest,
        /// All that was found.
        damages: Vec<Damage>,
    },
    /// The file of a name is not what it was. Giving the name again mends it.
    #[error("the name {name} is damaged: its file is not what it was")]
    DamagedName {
        /// The name.
        name: Name,
    },
    /// What a pushed manifest reaches is not there: all of it, at most a hundred.
    #[error("{} that the manifest needs are missing, {} the first", missing.len(), first(missing))]
    Incomplete {
        /// The blobs and manifests.
        missing: Vec<Digest>,
    },
    /// It cannot be deleted while something that is listed in the repository needs it.
    #[error("{by} needs {digest}")]
    Needed {
        /// What was to be deleted.
        digest: Digest,
        /// What needs it.
        by: Digest,
    },
    /// A tag leads elsewhere and may not be moved.
    #[error("{name} leads to {digest} and may not be moved")]
    TagTaken {
        /// The tag, with its repository.
        name: Name,
        /// Where it leads.
        digest: Digest,
    },
    /// The bringer's bytes could not be read.
    #[error("reading what was brought failed: {source}")]
    SourceRead {
        /// The reason.
        source: io::Error,
    },
    /// The bringer's file changed while it was read.
    #[error("{what} changed while it was read")]
    SourceChanged {
        /// Which blob.
        what: String,
    },
    /// Others hold so much memory for documents that there is none left: come back later.
    #[error("too many documents are in memory just now")]
    Busy,
    /// Whoever waited for this has left: see [`crate::Stop`].
    #[error("nobody waits for this any more")]
    Stopped,
    /// The disk has no room, or less than must stay free.
    #[error("the store's disk is full")]
    Full,
    /// The workspace may not hold more.
    #[error("the workspace's quota of {limit} bytes is used up")]
    Quota {
        /// The quota in bytes.
        limit: u64,
    },
    /// The disk failed otherwise.
    #[error("{doing} {path} failed: {source}")]
    Disk {
        /// What was being done.
        doing: &'static str,
        /// To what, below the store's root.
        path: RelPath,
        /// The reason.
        source: io::Error,
    },
    /// Another process has the store.
    #[error("the store is held by {holder}")]
    Locked {
        /// What it wrote of itself.
        holder: String,
    },
    /// The store is of another format than this program knows.
    #[error("the store's format is {found}")]
    Format {
        /// What its `bonded.json` says.
        found: String,
    },
    /// The store was made to share bytes between others than it is now told.
    #[error("the store was made with dedup = {made:?}")]
    Dedup {
        /// What its `bonded.json` says.
        made: Dedup,
    },
}

impl Error {
    /// Turns a failed call into an error, for `map_err`.
    pub(crate) fn disk<'a>(
        doing: &'static str,
        path: &'a RelPath,
    ) -> impl Fn(io::Error) -> Error + 'a {
        move |source| match source.kind() {
            _ if is_stop(&source) => Error::Stopped,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full,
            _ => Error::Disk { doing, path: path.clone(), source },
        }
    }

    /// The same for a read of what somebody brings.
    pub(crate) fn source(source: io::Error) -> Error {
        if is_stop(&source) { Error::Stopped } else { Error::SourceRead { source } }
    }
}

/// One thing in a layout that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Its name inside the layout: `index.json`, `blobs/sha256/<hex>`.
    pub file: String,
    /// What is wrong with it.
    pub what: DamageKind,
}

/// How a file of a layout differs from what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DamageKind {
    /// It is gone.
    Missing,
    /// It is there and should not be.
    Extra,
    /// It is a symlink, folder or special file.
    NotAFile,
    /// It has another size.
    Size {
        /// Bytes that it had.
        expected: u64,
        /// Bytes that it has.
        actual: u64,
    },
    /// It has other bytes.
    Bytes {
        /// The digest of what it has.
        actual: Digest,
    },
    /// Its bytes differ from those that the root demands (`index.json` and `oci-layout`).
    Edited,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        match &self.what {
            DamageKind::Missing => write!(f, "{file} is missing"),
            DamageKind::Extra => write!(f, "{file} does not belong there"),
            DamageKind::NotAFile => write!(f, "{file} is no regular file"),
            DamageKind::Size { expected, actual } => {
                write!(f, "{file} has {actual} bytes instead of {expected}")
            }
            DamageKind::Bytes { actual } => write!(f, "the bytes of {file} have become {actual}"),
            DamageKind::Edited => write!(f, "{file} was changed"),
        }
    }
}

fn first(digests: &[Digest]) -> String {
    digests.first().map(Digest::to_string).unwrap_or_default()
}

fn show(damages: &[Damage]) -> String {
    let mut texts: Vec<String> = damages.iter().take(3).map(Damage::to_string).collect();
    if damages.len() > 3 {
        texts.push(format!("and {} more", damages.len() - 3));
    }
    texts.join("; ")
}
