//! How a blob or a sealed manifest stands in the log.
//!
//! A record is a number of whole pages, so that writing one never touches a block that holds another: a
//! line of JSON, a line with the first 16 hex digits of its SHA-256, the bytes, zeros. Their own digest
//! guards the bytes. The generation of its segment stands in every record, so that what an earlier use of
//! the segment left behind it is not taken for one of this; and with it a number that nobody can guess, because
//! what is left behind are bytes that clients chose.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, check_of};
use crate::disk::RelPath;
use crate::layout::{self, MemberKind};
use crate::workspace::{RepositoryName, Tag, Workspace};

/// Bytes of a block of the disk, and of the kernel's cache.
pub(super) const PAGE: usize = 4096;
/// Bytes that the two lines have at most: names are at most 383 of them, and a digest 135. A manifest
/// whose tags do not fit is not for the log.
const HEAD: usize = 1024;

/// One blob of one repository, or one manifest that is sealed and listed there.
pub(crate) struct Record<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) repository: &'a RepositoryName,
    pub(crate) digest: &'a Digest,
    pub(crate) bytes: &'a [u8],
    /// Nothing of the kind for a blob.
    pub(crate) manifest: Option<Sealing<'a>>,
}

/// What is more to say of a manifest.
pub(crate) struct Sealing<'a> {
    /// What is to lead to it.
    pub(crate) tags: Vec<&'a Tag>,
    /// What it reaches, each a member of the repository.
    pub(crate) blobs: Vec<Digest>,
}

/// One use of a segment, between being empty and being empty again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Use {
    pub(super) generation: u64,
    secret: u64,
}

impl Use {
    pub(super) fn new(generation: u64) -> Use {
        // Keyed with what the system gives each process at random.
        Use { generation, secret: RandomState::new().hash_one(generation) }
    }
}

/// What a record says.
pub(super) struct Found {
    pub(super) of: Use,
    pub(super) workspace: Workspace,
    pub(super) repository: RepositoryName,
    pub(super) digest: Digest,
    /// Where the bytes are.
    pub(super) bytes: Range<usize>,
    /// What leads to a manifest; nothing of the kind for a blob.
    pub(super) tags: Option<Vec<Tag>>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    of: Use,
    workspace: String,
    repository: String,
    digest: Digest,
    size: usize,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tags: Option<Vec<String>>,
}

impl Record<'_> {
    /// Bytes that it takes.
    pub(super) fn size(&self) -> usize {
        size_of(self.bytes.len())
    }

    /// Whether its lines have room. Those of a blob always have.
    pub(super) fn fits(&self) -> bool {
        self.manifest.is_none()
            || self.head(Use { generation: u64::MAX, secret: u64::MAX }).len() <= HEAD
    }

    /// Where it is listed, and of a manifest its layout and its tags as well.
    pub(super) fn names(&self) -> Vec<RelPath> {
        let Some(manifest) = &self.manifest else {
            return vec![self.member(MemberKind::Blob, self.digest)];
        };
        let folder = layout::tags(self.workspace, self.repository);
        let own = [
            self.member(MemberKind::Manifest, self.digest),
            layout::artifact(self.workspace, self.digest),
        ];
        own.into_iter().chain(manifest.tags.iter().map(|tag| folder.join(tag))).collect()
    }

    /// The members of its repository without which it could not be done again.
    pub(super) fn rests_on(&self) -> impl Iterator<Item = RelPath> {
        let blobs = self.manifest.iter().flat_map(|manifest| &manifest.blobs);
        blobs.map(|blob| self.member(MemberKind::Blob, blob))
    }

    fn member(&self, kind: MemberKind, digest: &Digest) -> RelPath {
        layout::members(self.workspace, self.repository, kind).join(layout::digest_file(digest))
    }

    /// Adds the record, as it stands in that use of a segment.
    pub(super) fn write(&self, of: Use, to: &mut Vec<u8>) {
        let end = to.len() + self.size();
        to.reserve(self.size());
        to.extend_from_slice(self.head(of).as_bytes());
        to.extend_from_slice(self.bytes);
        to.resize(end, 0);
    }

    fn head(&self, of: Use) -> String {
        let line = Line {
            of,
            workspace: self.workspace.to_string(),
            repository: self.repository.to_string(),
            digest: *self.digest,
            size: self.bytes.len(),
            tags: self
                .manifest
                .as_ref()
                .map(|m| m.tags.iter().map(|tag| tag.to_string()).collect()),
        };
        checked(&serde_json::to_string(&line).unwrap_or_default())
    }
}

fn size_of(blob: usize) -> usize {
    (HEAD + blob).next_multiple_of(PAGE)
}

/// The records of a segment, in order, as far as they are whole.
pub(super) fn all(segment: &[u8]) -> Vec<Found> {
    let (mut found, mut at) = (Vec::<Found>::new(), 0);
    while let Some(record) = read(segment, at) {
        if found.first().is_some_and(|first| first.of != record.of) {
            break;
        }
        at += size_of(record.bytes.len());
        found.push(record);
    }
    found
}

fn checked(line: &str) -> String {
    format!("{line}\n{}\n", check_of(line))
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
    let Line { of, workspace, repository, digest, size, tags } = serde_json::from_str(line).ok()?;
    let bytes = begin..begin.checked_add(size)?;
    if Digest::compute(digest.algorithm(), segment.get(bytes.clone())?) != digest {
        return None;
    }
    let (workspace, repository) = (workspace.parse().ok()?, repository.parse().ok()?);
    let tags = tags.map(|tags| tags.iter().map(|tag| tag.parse()).collect::<Result<_, _>>());
    Some(Found { of, workspace, repository, digest, bytes, tags: tags.transpose().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: &[u8], generation: u64) -> Vec<u8> {
        of(bytes, Use { generation, secret: 7 })
    }

    fn of(bytes: &[u8], of: Use) -> Vec<u8> {
        let (workspace, repository) = ("w".parse().unwrap(), "app/x".parse().unwrap());
        let digest = &Digest::of(bytes);
        let mut written = Vec::new();
        Record { workspace: &workspace, repository: &repository, digest, bytes, manifest: None }
            .write(of, &mut written);
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

    /// A client knows all of a record but one number.
    #[test]
    fn what_a_client_wrote_is_not_taken_for_a_record() {
        let (real, guessed) = (Use::new(4), Use { generation: 4, secret: 7 });
        assert!(real.secret != Use::new(4).secret || real.secret != Use::new(4).secret);
        let mut segment = of(b"new", real);
        segment.extend(of(b"forged", guessed));
        assert_eq!(bytes_in(&segment), [b"new"]);
        // The same record, if the number were known.
        segment.truncate(PAGE);
        segment.extend(of(b"forged", real));
        assert_eq!(bytes_in(&segment), [&b"new"[..], b"forged"]);
    }
}
