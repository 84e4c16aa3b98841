//! `GET /v2/**/blobs/*`: the bytes of a blob, or a range of them. Nobody gets a whole answer with
//! wrong bytes in it: the last ones come only after the digest of all of them agrees, and a range
//! comes from a descriptor that was just hashed to its end.

use std::io::{self, Read};
use std::ops::Range;

use cas::digest::Digest;
use cas::{CheckedBlob, Repository};
use http::header;
use wire::Problem;

use super::blob_head::{described, size};
use super::{inside, path, quoted, repository, target, text};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge;
use crate::outgoing::{self, Outgoing};
use crate::policy::Right;
use crate::status;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::Access;
use crate::v2::range::{self, Part};

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let target = target(ask, Access::Read, Right::Read)?;
    let digest = path(ask)?.digest()?;
    ask.record.digest = Some(digest);
    let repository = repository(ask, &target);
    let Some(wanted) = wanted(ask, &digest) else {
        return whole(ask, repository, digest).await;
    };
    let size = size(ask, repository.clone(), digest).await?;
    match range::wanted(Some(&wanted), size) {
        Part::Whole => whole(ask, repository, digest).await,
        Part::Bytes(bytes) => part(ask, repository, digest, bytes, size).await,
        Part::OutOfReach => {
            let message = format!("the blob has {size} bytes");
            let fault = Fault::new(Kind::OutOfReach, message);
            Err(fault.with(header::CONTENT_RANGE, &format!("bytes */{size}")))
        }
    }
}

/// The range that is asked for, unless it was asked for of other bytes.
fn wanted(ask: &Ask, digest: &Digest) -> Option<String> {
    let field = |name| Some(ask.head.headers.get(name)?.to_str().unwrap_or_default());
    match field(header::IF_RANGE) {
        Some(tag) if tag != quoted(digest) => None,
        _ => field(header::RANGE).map(str::to_owned),
    }
}

async fn whole(ask: &Ask, repository: Repository, digest: Digest) -> Result<Answer, Fault> {
    let open = move || {
        let told = |error| inside(error, &repository, Kind::BlobUnknown, &digest);
        let reader = repository.blob(&digest).and_then(cas::Held::stream).map_err(told)?;
        let size = reader.size();
        Ok(Outgoing { reader, size, broken: move |error: &_| broken(&digest, error) })
    };
    let (pieces, size) = outgoing::start(ask, open).await?;
    described(Answer::stream(pieces, size), &digest)
}

async fn part(
    ask: &Ask,
    repository: Repository,
    digest: Digest,
    bytes: Range<u64>,
    size: u64,
) -> Result<Answer, Fault> {
    let check = move |stop: &cas::Stop| {
        let repository = repository.stopped_by(stop);
        let told = |error| inside(error, &repository, Kind::BlobUnknown, &digest);
        Ok(repository.blob(&digest).and_then(cas::Held::checked).map_err(told))
    };
    let blob = ask.run_while_wanted(bridge::Kind::Hashing, check).await??;
    let shown = format!("bytes {}-{}/{size}", bytes.start, bytes.end.saturating_sub(1));
    let open = move || {
        let size = bytes.end.saturating_sub(bytes.start);
        let reader = Slice { blob, left: bytes };
        Ok(Outgoing { reader, size, broken: move |error: &_| broken(&digest, error) })
    };
    let (pieces, size) = outgoing::start::<_, _, Fault>(ask, open).await?;
    let answer = described(Answer::stream(pieces, size).status(status::PART), &digest)?;
    Ok(answer.header(header::CONTENT_RANGE, text(&shown)?))
}

/// A part of a blob, read from the descriptor that was hashed.
struct Slice {
    blob: CheckedBlob,
    left: Range<u64>,
}

impl Read for Slice {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.left.end - self.left.start).unwrap_or(usize::MAX);
        let most = buf.len().min(left);
        let n = self.blob.read_at(&mut buf[..most], self.left.start)?;
        self.left.start += n as u64;
        Ok(n)
    }
}

/// A blob that failed before its first piece. The reader found out and had it quarantined.
fn broken(digest: &Digest, error: &io::Error) -> Fault {
    use wire::Code;
    let problem = match error.kind() {
        io::ErrorKind::InvalidData => {
            Problem::new(Code::Corrupt, format!("{digest} is damaged in the store"))
                .about(*digest)
                .hint("push the same blob again: its good bytes heal the store's copy")
        }
        kind => {
            tracing::error!(%digest, %error, "a blob could not be read");
            Problem::new(Code::StoreIo, format!("the store's disk failed: {kind}"))
        }
    };
    Fault::from(problem)
}
