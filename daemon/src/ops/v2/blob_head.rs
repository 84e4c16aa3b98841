//! `HEAD /v2/**/blobs/*`: whether a blob is in a repository, and how long it is.

use cas::digest::Digest;
use http::{HeaderValue, header};

use super::{CONTENT_DIGEST, inside, job, number, path, quoted, repository, target, text};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge;
use crate::policy::Right;
use crate::status;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::Access;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let target = target(ask, Access::Read, Right::Read)?;
    let digest = path(ask)?.digest()?;
    ask.record.digest = Some(digest);
    let repository = repository(ask, &target);
    // Who is told that it is there does not bring it again: no gc may take it in the next moment.
    let half_over = ask.app.leases_over() + ask.app.lease_ns() / 2;
    let look = move || {
        let told = |error| inside(error, (&repository, &target), Kind::BlobUnknown, &digest);
        let held = repository.blob(&digest).map_err(told)?;
        held.renew(half_over);
        Ok(held.size())
    };
    let size = job(ask, bridge::Kind::Short, look).await?;
    described(Answer::empty(status::DONE).header(header::CONTENT_LENGTH, number(size)), &digest)
}

/// What every answer about a blob says of it.
pub(super) fn described(answer: Answer, digest: &Digest) -> Result<Answer, Fault> {
    Ok(answer
        .header(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
        .header(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"))
        .header(header::ETAG, text(&quoted(digest))?)
        .header(CONTENT_DIGEST, text(&digest.to_string())?))
}
