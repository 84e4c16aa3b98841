//! Lookups derived from the layouts and the names, in sled.
//!
//! Nothing lives only here but verification times, which may be lost. Paths decide what exists:
//! whoever asks here looks at the path that the answer names before believing it. Whatever goes
//! wrong in this room is logged and answered with "not known", and the caller reads the layouts
//! instead. sled does its own filesystem calls, syncs too little for a power cut and may panic on
//! what one leaves behind: so a marker file says whether the index was closed in peace, and without
//! it the folder is thrown away.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::workspace::{Name, Workspace};

/// The key under which the last clean stop is named. The number is the format of the trees: an index
/// of another one has no stop and is built again.
const STOP: &str = "stop 3";
/// From which size on it is worth knowing whether the store may have a blob of that size.
pub(crate) const NOTED_FROM: u64 = 1 << 20;

/// What a listing says of one artifact without reading it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The media type of the root.
    pub media_type: String,
    /// The artifact type of the root.
    pub artifact_type: Option<String>,
    /// A file's name.
    pub title: Option<String>,
    /// A file's own digest.
    pub file: Option<Digest>,
    /// Bytes of the whole closure.
    pub size: u64,
    /// Members of the closure.
    pub n_blobs: u64,
}

/// The open index. Keys are texts with a zero byte between their parts, the workspace first.
pub(crate) struct Index {
    db: sled::Db,
    /// workspace, artifact: its [`Facts`].
    facts: sled::Tree,
    /// workspace, digest of a file, artifact that wraps it.
    files: sled::Tree,
    /// workspace, member, artifact that reaches it.
    holds: sled::Tree,
    /// workspace, artifact, name that was given to it; it may lead elsewhere by now.
    names: sled::Tree,
    /// Sizes of blobs that are or were in the store.
    sizes: sled::Tree,
    /// workspace, artifact: when it was last found whole.
    verified: sled::Tree,
    /// Something could not be written: what is not found here may be there all the same.
    is_torn: AtomicBool,
}

impl Index {
    /// Opens the index in this folder; `None` when it cannot be used as it is.
    pub(crate) fn open(folder: &Path, cache: u64) -> Option<Index> {
        let open = || -> sled::Result<Index> {
            let db = sled::Config::new()
                .path(folder)
                .cache_capacity(cache)
                .flush_every_ms(None)
                .open()?;
            Ok(Index {
                facts: db.open_tree("facts")?,
                files: db.open_tree("files")?,
                holds: db.open_tree("holds")?,
                names: db.open_tree("names")?,
                sizes: db.open_tree("sizes")?,
                verified: db.open_tree("verified")?,
                is_torn: AtomicBool::new(false),
                db,
            })
        };
        // sled panics on some of what a power cut leaves behind.
        match catch_unwind(AssertUnwindSafe(open)) {
            Ok(Ok(index)) => Some(index),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the index cannot be opened");
                None
            }
            Err(_) => {
                tracing::warn!("opening the index panicked");
                None
            }
        }
    }

    /// Which clean stop wrote this index; `None` for none, or one that cannot be read.
    pub(crate) fn stop(&self) -> Option<String> {
        String::from_utf8(self.db.get(STOP).ok()??.to_vec()).ok()
    }

    /// Notes an artifact: what a listing says of it, and its members with their sizes.
    pub(crate) fn note(
        &self,
        workspace: &Workspace,
        artifact: &Digest,
        facts: &Facts,
        members: &[(Digest, u64)],
    ) {
        self.said("note", || {
            let bytes = serde_json::to_vec(facts).unwrap_or_default();
            self.facts.insert(key(&[workspace, artifact]), bytes)?;
            if let Some(file) = &facts.file {
                self.files.insert(key(&[workspace, file, artifact]), &[])?;
            }
            // One by one: a batch is written out at once, for an atomicity that nobody asks of an
            // index that is thrown away after a crash.
            for (member, size) in members {
                self.holds.insert(key(&[workspace, member, artifact]), &[])?;
                if *size >= NOTED_FROM {
                    self.sizes.insert(size.to_be_bytes(), &[])?;
                }
            }
            Ok(())
        });
    }

    /// Whether a blob of that size, of [`NOTED_FROM`] at least, may be in the store. `true` can be
    /// wrong; after a rebuild that was cut short `false` can be as well, and then a blob is written
    /// once more and compared.
    pub(crate) fn may_have_size(&self, size: u64) -> bool {
        self.sizes.contains_key(size.to_be_bytes()).unwrap_or(true)
    }

    pub(crate) fn forget(&self, workspace: &Workspace, artifact: &Digest, members: &[Digest]) {
        self.said("forget", || {
            let key_of = key(&[workspace, artifact]);
            if let Some(facts) = self.facts.remove(&key_of)?
                && let Ok(Facts { file: Some(file), .. }) = serde_json::from_slice(&facts)
            {
                self.files.remove(key(&[workspace, &file, artifact]))?;
            }
            for member in members {
                self.holds.remove(key(&[workspace, member, artifact]))?;
            }
            let mut prefix = key_of.clone();
            prefix.push(0);
            for name in self.names.scan_prefix(prefix).keys() {
                self.names.remove(name?)?;
            }
            self.verified.remove(key_of).map(drop)
        });
    }

    pub(crate) fn facts(&self, workspace: &Workspace, artifact: &Digest) -> Option<Facts> {
        let bytes = self.facts.get(key(&[workspace, artifact])).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// Up to a hundred artifacts that wrap a file with this digest; `None` when that cannot be
    /// said.
    pub(crate) fn wrappers(&self, workspace: &Workspace, file: &Digest) -> Option<Vec<Digest>> {
        self.last_parts(&self.files, &[workspace, file])?.take(100).collect()
    }

    /// Calls `each` for the artifacts that reach a member, until it returns `false`. `None` when
    /// they are not known.
    pub(crate) fn holders(
        &self,
        workspace: &Workspace,
        member: &Digest,
        each: &mut dyn FnMut(Digest) -> bool,
    ) -> Option<()> {
        for artifact in self.last_parts(&self.holds, &[workspace, member])? {
            if !each(artifact?) {
                break;
            }
        }
        Some(())
    }

    pub(crate) fn note_name(&self, workspace: &Workspace, artifact: &Digest, name: &Name) {
        let key = key(&[workspace, artifact, name]);
        self.said("note a name", || self.names.insert(key, &[]).map(drop));
    }

    pub(crate) fn forget_name(&self, workspace: &Workspace, artifact: &Digest, name: &Name) {
        let key = key(&[workspace, artifact, name]);
        self.said("forget a name", || self.names.remove(key).map(drop));
    }

    /// The names that were given to an artifact; `None` when they are not known.
    pub(crate) fn names(&self, workspace: &Workspace, artifact: &Digest) -> Option<Vec<Name>> {
        self.last_parts(&self.names, &[workspace, artifact])?.collect()
    }

    pub(crate) fn note_verified(&self, workspace: &Workspace, artifact: &Digest, at: u64) {
        let insert = || self.verified.insert(key(&[workspace, artifact]), &at.to_be_bytes());
        self.said("note a verification", || insert().map(drop));
    }

    pub(crate) fn verified_at(&self, workspace: &Workspace, artifact: &Digest) -> Option<u64> {
        let bytes = self.verified.get(key(&[workspace, artifact])).ok()??;
        Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?))
    }

    /// What follows `parts` in the keys of a tree. `None` for a torn index; a key that cannot be
    /// read is a `None` among the others.
    fn last_parts<'a, T: FromStr + 'a>(
        &self,
        tree: &'a sled::Tree,
        parts: &[&dyn std::fmt::Display],
    ) -> Option<impl Iterator<Item = Option<T>> + 'a> {
        if self.is_torn.load(Ordering::Relaxed) {
            return None;
        }
        let mut prefix = key(parts);
        prefix.push(0);
        let from = prefix.len();
        let last =
            move |key: sled::IVec| std::str::from_utf8(key.get(from..)?).ok()?.parse::<T>().ok();
        Some(tree.scan_prefix(prefix).keys().map(move |key| last(key.ok()?)))
    }

    /// Says that something which should be here is not.
    pub(crate) fn tear(&self) {
        self.is_torn.store(true, Ordering::Relaxed);
    }

    fn said(&self, doing: &str, what: impl FnOnce() -> sled::Result<()>) {
        if let Err(error) = what() {
            self.is_torn.store(true, Ordering::Relaxed);
            tracing::warn!(%error, doing, "the index failed");
        }
    }

    /// Writes everything out, and which stop this is. Says whether that may be believed at the
    /// next start.
    pub(crate) fn close(self, stop: &str) -> bool {
        if self.is_torn.load(Ordering::Relaxed) {
            return false;
        }
        let write = || self.db.insert(STOP, stop).and_then(|_| self.db.flush());
        match catch_unwind(AssertUnwindSafe(write)) {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the index could not be written out");
                false
            }
            Err(_) => false,
        }
    }
}

/// No part holds a zero byte: they are workspaces, digests and names.
fn key(parts: &[&dyn std::fmt::Display]) -> Vec<u8> {
    let mut text = String::with_capacity(192);
    for (i, part) in parts.iter().enumerate() {
        if i > 0 {
            text.push('\0');
        }
        // Writing to a text never fails.
        let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{part}"));
    }
    text.into_bytes()
}
