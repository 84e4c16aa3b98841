//! `GET /v2/**/blobs/*`: the bytes of a blob, or a range of them. Nobody gets a whole answer with
//! wrong bytes in it: the last ones come only after the digest of all of them agrees, and a range
//! comes from a descriptor that was just hashed to its end.

use std::io::{self, Read as _};
use std::ops::Range;

use bytes::Bytes;
use cas::digest::Digest;
use cas::{Held, Repository, Stop};
use http::header;
use wire::Problem;

use super::blob_head::described;
use super::{inside, job, path, quoted, repository, target, text};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge;
use crate::outgoing::{self, Outgoing, Slice};
use crate::policy::Right;
use crate::status;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::{Access, Target};
use crate::v2::range::{self, Part};

/// Blobs up to this are read whole by the job that finds them, and go out as they are.
const AT_ONCE: u64 = 64 << 10;

/// What the first job found.
enum Found {
    Small(Vec<u8>),
    Large(Box<Held>),
}

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let target = target(ask, Access::Read, Right::Read)?;
    let digest = path(ask)?.digest()?;
    ask.record.digest = Some(digest);
    let (repository, wanted) = (repository(ask, &target), wanted(ask, &digest));
    let (sought, named) = (repository.clone(), target.clone());
    let find = move || {
        let told = |error| inside(error, (&sought, &named), Kind::BlobUnknown, &digest);
        let held = sought.blob(&digest).map_err(told)?;
        if held.size() > AT_ONCE {
            return Ok(Found::Large(Box::new(held)));
        }
        // Out of the reader's buffer, which may be larger: this waits for its client without a place.
        let mut bytes = Vec::new();
        let read = held.stream().map_err(told)?.read_to_end(&mut bytes);
        read.map(|_| Found::Small(bytes)).map_err(|error| broken(&digest, &error))
    };
    let found = job(ask, bridge::Kind::Short, find).await?;
    let size = match &found {
        Found::Small(bytes) => bytes.len() as u64,
        Found::Large(held) => held.size(),
    };
    match (range::wanted(wanted.as_deref(), size), found) {
        (Part::Whole, Found::Small(bytes)) => {
            described(Answer::bytes(status::DONE, bytes), &digest)
        }
        (Part::Whole, Found::Large(held)) => whole(ask, *held, digest).await,
        (Part::Bytes(part), Found::Small(bytes)) => {
            let within = |at| usize::try_from(at).unwrap_or(usize::MAX);
            let bytes = Bytes::from(bytes).slice(within(part.start)..within(part.end));
            in_part(Answer::bytes(status::PART, bytes), &digest, &part, size)
        }
        (Part::Bytes(part), Found::Large(_)) => {
            cut(ask, (repository, target), digest, part, size).await
        }
        (Part::OutOfReach, _) => {
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

async fn whole(ask: &Ask, held: Held, digest: Digest) -> Result<Answer, Fault> {
    let open = move || {
        let reader = held.stream()?;
        let size = reader.size();
        Ok(Outgoing { reader, size, broken: move |error: &_| broken(&digest, error) })
    };
    let (pieces, size) = outgoing::start::<_, _, Fault>(ask, open).await?;
    described(Answer::stream(pieces, size), &digest)
}

async fn cut(
    ask: &Ask,
    (repository, target): (Repository, Target),
    digest: Digest,
    part: Range<u64>,
    size: u64,
) -> Result<Answer, Fault> {
    let check = move |stop: &Stop| {
        let repository = repository.stopped_by(stop);
        let checked = repository.blob(&digest).and_then(Held::checked);
        Ok(checked
            .map_err(|error| inside(error, (&repository, &target), Kind::BlobUnknown, &digest)))
    };
    let blob = ask.run_while_wanted(bridge::Kind::Hashing, check).await??;
    let left = part.clone();
    let open = move || {
        let size = left.end.saturating_sub(left.start);
        let reader = Slice { blob, left };
        Ok(Outgoing { reader, size, broken: move |error: &_| broken(&digest, error) })
    };
    let (pieces, n_bytes) = outgoing::start::<_, _, Fault>(ask, open).await?;
    in_part(Answer::stream(pieces, n_bytes).status(status::PART), &digest, &part, size)
}

fn in_part(answer: Answer, digest: &Digest, part: &Range<u64>, size: u64) -> Result<Answer, Fault> {
    let shown = format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1));
    Ok(described(answer, digest)?.header(header::CONTENT_RANGE, text(&shown)?))
}

/// A blob that failed before its answer began. The reader found out and had it quarantined.
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
