//! Blobs that no registry has seen: random bytes, which neither a filesystem nor a registry can
//! make smaller, and at almost no cost to who makes them.
//!
//! The processor time of the driver is taken from the registry's, because both share the machine.
//! So the first bytes of a blob are one of a few random beginnings that were hashed ahead, and only
//! the last 64 are its own. No registry here stores less than whole blobs.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use cas::digest::{Algorithm, Digest, Hasher};

use crate::measure::{Doing, Result};

/// Bytes that a blob shares with no other.
const OWN: usize = 64;
/// Beginnings lie so far apart in the same random bytes.
const APART: usize = 4096;

/// A blob that is to be pushed.
#[derive(Clone, Debug)]
pub struct Blob {
    /// Its bytes, in order.
    pub parts: [Bytes; 2],
    /// Its digest.
    pub digest: Digest,
}

impl Blob {
    /// These bytes.
    pub fn of(bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        Blob { parts: [bytes, Bytes::new()], digest }
    }

    /// Bytes of it.
    pub fn size(&self) -> u64 {
        self.parts.iter().map(|part| part.len() as u64).sum()
    }
}

/// As many blobs of one size as are wanted.
pub struct Fresh {
    beginnings: Vec<(Bytes, Hasher)>,
    n_made: AtomicUsize,
}

impl Fresh {
    /// Blobs of so many bytes, more than 64, with so many beginnings.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new(size: usize, n_beginnings: usize) -> Result<Fresh> {
        let len = size.saturating_sub(OWN);
        let mut random = vec![0; len + n_beginnings * APART];
        getrandom::fill(&mut random).doing("asking for random bytes")?;
        let random = Bytes::from(random);
        let beginning = |i: usize| {
            let bytes = random.slice(i * APART..i * APART + len);
            let mut hasher = Hasher::new(Algorithm::Sha256);
            hasher.update(&bytes);
            (bytes, hasher)
        };
        let beginnings = (0..n_beginnings).map(beginning).collect();
        Ok(Fresh { beginnings, n_made: AtomicUsize::new(0) })
    }

    /// The next blob.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn next(&self) -> Result<Blob> {
        let turn = self.n_made.fetch_add(1, Ordering::Relaxed) % self.beginnings.len();
        let (beginning, hasher) = &self.beginnings[turn];
        let mut own = vec![0; OWN];
        getrandom::fill(&mut own).doing("asking for random bytes")?;
        let mut hasher = hasher.clone();
        hasher.update(&own);
        Ok(Blob { parts: [beginning.clone(), own.into()], digest: hasher.finish() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_as_large_as_said_and_named_by_their_bytes_and_never_the_same() {
        let fresh = Fresh::new(1000, 2).expect("random bytes");
        let blobs: Vec<Blob> = (0..5).map(|_| fresh.next().expect("a blob")).collect();
        for (i, blob) in blobs.iter().enumerate() {
            assert_eq!((blob.size(), blob.digest), (1000, Digest::of(&blob.parts.concat())));
            assert!(blobs[..i].iter().all(|other| other.digest != blob.digest));
        }
    }
}
