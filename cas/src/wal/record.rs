//! How a blob stands in the log.
//!
//! A record is a number of whole pages, so that writing one never touches a block that holds another: a
//! line of JSON, a line with the first 16 hex digits of its SHA-256, the blob's bytes, zeros. The blob's own
//! digest guards its bytes. The generation of its segment stands in every record, so that what an earlier
//! use of the segment left behind it is not taken for one of this.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::workspace::{RepositoryName, Workspace};

/// Bytes of a block of the disk, and of the kernel's cache.
pub(super) const PAGE: usize = 4096;
/// Bytes that the two lines have at most: names are at most 383 of them, and a digest 135.
const HEAD: usize = 1024;
/// Hex digits of the check of a record's line.
const CHECK: usize = 16;

/// One blob of one repository.
pub(crate) struct Record<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) repository: &'a RepositoryName,
    pub(crate) digest: &'a Digest,
    pub(crate) bytes: &'a [u8],
}

/// What a record says.
pub(super) struct Found {
    pub(super) generation: u64,
    pub(super) workspace: Workspace,
    pub(super) repository: RepositoryName,
    pub(super) digest: Digest,
    /// Where the blob's bytes are.
    pub(super) bytes: Range<usize>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    generation: u64,
    workspace: String,
    repository: String,
    digest: Digest,
    size: usize,
}

impl Record<'_> {
    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        size_of(self.bytes.len())
    }

    /// Adds the record, as it stands in a segment of that generation.
    pub(super) fn write(&self, generation: u64, to: &mut Vec<u8>) {
        let line = Line {
            generation,
            workspace: self.workspace.to_string(),
            repository: self.repository.to_string(),
            digest: *self.digest,
            size: self.bytes.len(),
        };
        let end = to.len() + self.size();
        to.reserve(self.size());
        to.extend_from_slice(checked(&serde_json::to_string(&line).unwrap_or_default()).as_bytes());
        to.extend_from_slice(self.bytes);
        to.resize(end, 0);
    }
}

fn size_of(blob: usize) -> usize {
    (HEAD + blob).next_multiple_of(PAGE)
}

/// The records of a segment, in order, as far as they are whole.
pub(super) fn all(segment: &[u8]) -> Vec<Found> {
    let (mut found, mut at) = (Vec::<Found>::new(), 0);
    while let Some(record) = read(segment, at) {
        if found.first().is_some_and(|first| first.generation != record.generation) {
            break;
        }
        at += size_of(record.bytes.len());
        found.push(record);
    }
    found
}

fn checked(line: &str) -> String {
    format!("{line}\n{}\n", &Digest::of(line.as_bytes()).hex()[..CHECK])
}

fn read(segment: &[u8], at: usize) -> Option<Found> {
    let head = segment.get(at..at + HEAD)?;
    let line = head.split(|byte| *byte == b'\n').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let head = checked(line);
    let begin = at + head.len();
    if segment.get(at..begin)? != head.as_bytes() {
        return None;
    }
    let Line { generation, workspace, repository, digest, size } =
        serde_json::from_str(line).ok()?;
    let bytes = begin..begin.checked_add(size)?;
    if Digest::compute(digest.algorithm(), segment.get(bytes.clone())?) != digest {
        return None;
    }
    let (workspace, repository) = (workspace.parse().ok()?, repository.parse().ok()?);
    Some(Found { generation, workspace, repository, digest, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: &[u8], generation: u64) -> Vec<u8> {
        let (workspace, repository) = ("w".parse().unwrap(), "app/x".parse().unwrap());
        let digest = &Digest::of(bytes);
        let mut written = Vec::new();
        Record { workspace: &workspace, repository: &repository, digest, bytes }
            .write(generation, &mut written);
        written
    }

    fn bytes_in(segment: &[u8]) -> Vec<Vec<u8>> {
        all(segment).iter().map(|found| segment[found.bytes.clone()].to_vec()).collect()
    }

    #[test]
    fn what_was_written_is_found_in_order() {
        let blobs: [&[u8]; 4] = [b"", b"one", &[7; 2 * PAGE - HEAD], b"\n\n{}\n"];
        let mut segment: Vec<u8> = blobs.iter().flat_map(|bytes| record(bytes, 3)).collect();
        assert_eq!(segment.len(), 5 * PAGE);
        assert_eq!(bytes_in(&segment), blobs);
        segment.extend([0; PAGE]);
        assert_eq!(bytes_in(&segment), blobs);
        assert_eq!(all(&segment)[1].repository.to_string(), "app/x");
    }

    #[test]
    fn what_is_torn_ends_the_log() {
        let segment: Vec<u8> =
            [b"one", b"two", b"six"].iter().flat_map(|b| record(*b, 3)).collect();
        for at in PAGE..PAGE + segment[PAGE..].iter().position(|byte| *byte == 0).unwrap() {
            let mut torn = segment.clone();
            torn[at] ^= 1;
            assert_eq!(bytes_in(&torn), [b"one"], "a bit flipped at {at}");
        }
        for length in 0..segment.len() {
            let found = bytes_in(&segment[..length]);
            assert!(
                [b"one", b"two", b"six"].iter().zip(&found).all(|(one, two)| one[..] == two[..])
            );
            assert!(found.len() <= length.div_ceil(PAGE), "{length} bytes are left");
        }
    }

    #[test]
    fn what_an_earlier_use_left_is_not_of_this_one() {
        let mut segment = record(b"new", 4);
        segment.extend(record(b"old", 3));
        assert_eq!(bytes_in(&segment), [b"new"]);
    }
}
