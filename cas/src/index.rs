//! Lookups derived from the layouts, in sled.
//!
//! Nothing lives only here but verification times, which may be lost. Paths decide what exists;
//! whatever goes wrong in this room is logged and answered with "not known", and the caller looks
//! at the layouts instead. sled does its own filesystem calls, syncs too little for a power cut
//! and may panic on what one leaves behind: so a marker file says whether the index was closed in
//! peace, and without it the folder is thrown away.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::workspace::Workspace;

/// The key under which the last clean stop is named.
const STOP: &str = "stop";

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

/// The open index.
pub(crate) struct Index {
    db: sled::Db,
    facts: sled::Tree,
    files: sled::Tree,
    sizes: sled::Tree,
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

    pub(crate) fn note(&self, workspace: &Workspace, artifact: &Digest, facts: &Facts) {
        self.said("note", || {
            let bytes = serde_json::to_vec(facts).unwrap_or_default();
            self.facts.insert(key(workspace, artifact), bytes)?;
            if let Some(file) = &facts.file {
                self.files.insert(file_key(workspace, file, Some(artifact)), &[])?;
            }
            Ok(())
        });
    }

    pub(crate) fn note_size(&self, size: u64) {
        self.said("note a size", || self.sizes.insert(size.to_be_bytes(), &[]).map(drop));
    }

    /// Whether a blob of that size may be in the store. `true` can be wrong; after a rebuild that
    /// was cut short `false` can be as well, and then a blob is written once more and compared.
    pub(crate) fn may_have_size(&self, size: u64) -> bool {
        self.sizes.contains_key(size.to_be_bytes()).unwrap_or(true)
    }

    pub(crate) fn forget(&self, workspace: &Workspace, artifact: &Digest) {
        self.said("forget", || {
            let key = key(workspace, artifact);
            if let Some(facts) = self.facts.remove(&key)?
                && let Ok(Facts { file: Some(file), .. }) = serde_json::from_slice(&facts)
            {
                self.files.remove(file_key(workspace, &file, Some(artifact)))?;
            }
            self.verified.remove(key).map(drop)
        });
    }

    pub(crate) fn facts(&self, workspace: &Workspace, artifact: &Digest) -> Option<Facts> {
        let bytes = self.facts.get(key(workspace, artifact)).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    /// The artifacts that wrap a file with this digest.
    /// `None` when that cannot be said.
    pub(crate) fn wrappers(&self, workspace: &Workspace, file: &Digest) -> Option<Vec<Digest>> {
        if self.is_torn.load(Ordering::Relaxed) {
            return None;
        }
        let prefix = file_key(workspace, file, None);
        let keys = self.files.scan_prefix(&prefix).keys().take(100);
        keys.map(|key| std::str::from_utf8(&key.ok()?[prefix.len()..]).ok()?.parse().ok()).collect()
    }

    pub(crate) fn note_verified(&self, workspace: &Workspace, artifact: &Digest, at: u64) {
        let insert = || self.verified.insert(key(workspace, artifact), &at.to_be_bytes());
        self.said("note a verification", || insert().map(drop));
    }

    pub(crate) fn verified_at(&self, workspace: &Workspace, artifact: &Digest) -> Option<u64> {
        let bytes = self.verified.get(key(workspace, artifact)).ok()??;
        Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?))
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

fn key(workspace: &Workspace, digest: &Digest) -> Vec<u8> {
    format!("{workspace}\0{digest}").into_bytes()
}

fn file_key(workspace: &Workspace, file: &Digest, artifact: Option<&Digest>) -> Vec<u8> {
    let artifact = artifact.map(Digest::to_string).unwrap_or_default();
    format!("{workspace}\0{file}\0{artifact}").into_bytes()
}
