//! `PUT /v2/**/blobs/uploads/*`: ends an upload, with all of its bytes, the last of them, or none.
//! Answered, the blob is proved, durable and listed in the repository.

use cas::Upload;
use cas::digest::Digest;
use http_body::Body as _;
use tokio::sync::OwnedMutexGuard;

use super::upload_begin::take;
use super::upload_patch::{append, hold, in_order};
use super::{job, made, query};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::{self, Access};

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let (target, id, upload) = hold(ask, Access::Write).await?;
    let query = query(ask)?;
    let digest = query
        .once("digest")?
        .ok_or_else(|| Fault::new(Kind::DigestInvalid, "the query lacks the digest"))?;
    let digest = path::digest(digest)?;
    ask.record.digest = Some(digest);
    in_order(ask, &target, &id, upload.offset())?;

    let ended = match upload.is_empty() {
        true => take(ask, &target, digest).await,
        false => {
            let upload = match ask.body.size_hint().exact() {
                Some(0) => upload,
                _ => append(ask, &target, &id, upload, Upload::append_last).await?,
            };
            drop(ask.app.uploads.end(&id, &ask.caller.peer.owner(), &target)?);
            commit(ask, upload, digest).await
        }
    };
    // What the client sent is wrong or is here; what did not all come may come yet.
    let is_over = ended.as_ref().err().is_none_or(|fault| fault.kind == Kind::DigestInvalid);
    if is_over {
        drop(ask.app.uploads.end(&id, &ask.caller.peer.owner(), &target));
    }
    ended?;
    made(&target.blob(&digest), &digest)
}

/// Makes a blob of an upload whose bytes all came.
async fn commit(
    ask: &Ask,
    mut upload: OwnedMutexGuard<Upload>,
    digest: Digest,
) -> Result<(), Fault> {
    // Bytes that were hashed by another algorithm as they came are read again.
    let kind = match upload.algorithm() == digest.algorithm() {
        true => bridge::Kind::Short,
        false => bridge::Kind::Hashing,
    };
    let commit = move || Ok(upload.commit(&digest).map(drop)?);
    job(ask, kind, commit).await
}
