//! `PATCH /v2/**/blobs/uploads/*`: the next bytes of an upload, as one chunk of many or as one
//! stream of unknown length. Answered, they are durable. What came before a connection broke is kept.

use std::sync::Arc;
use std::time::Duration;

use cas::{Source, Upload};
use http::header;
use http_body::Body as _;
use tokio::sync::OwnedMutexGuard;
use wire::Code;

use super::upload_begin::{come_so_far, so_far};
use super::{bring, job, path, target};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge;
use crate::policy::Right;
use crate::status;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::{Access, Target};
use crate::v2::range;
use crate::v2::sessions;

/// How long a request waits for another one to be done with the same upload.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let (target, id, upload) = hold(ask, Access::Write).await?;
    in_order(ask, &target, &id, upload.offset())?;
    let upload = append(ask, &target, &id, upload, cas::Upload::append).await?;
    // It may have been cancelled meanwhile; if not, it was used just now, however long that took.
    find(ask, &id, &target)?;
    so_far(status::ACCEPTED, &target, &id, upload.offset())
}

/// The upload that the path names, if it is the peer's. One request at a time has it.
pub(super) async fn hold(
    ask: &mut Ask,
    access: Access,
) -> Result<(Target, String, OwnedMutexGuard<Upload>), Fault> {
    let target = target(ask, access, Right::Put)?;
    let id = path(ask)?.upload().to_owned();
    let upload = find(ask, &id, &target)?;
    let upload = tokio::time::timeout(PATIENCE, upload.lock_owned())
        .await
        .map_err(|_| Fault::new(Kind::TooMany, "another request is busy with this upload"))?;
    // Whoever had it meanwhile may have ended it.
    find(ask, &id, &target)?;
    let upload = match upload.is_asleep() {
        true => wake(ask, &target, &id, upload).await?,
        false => upload,
    };
    Ok((target, id, upload))
}

/// Looks at what an earlier process left of an upload. One whose bytes are not what they were is over.
async fn wake(
    ask: &Ask,
    target: &Target,
    id: &str,
    mut upload: OwnedMutexGuard<Upload>,
) -> Result<OwnedMutexGuard<Upload>, Fault> {
    let wake = move || {
        let woken = upload.wake().map_err(Fault::from);
        Ok((upload, woken))
    };
    let (upload, woken) = job(ask, bridge::Kind::Hashing, wake).await?;
    let Err(fault) = woken else { return Ok(upload) };
    let is_unknown = fault.code == Code::NotFound;
    if is_unknown || upload.is_over() {
        drop(ask.app.uploads.end(id, &ask.caller.peer.owner(), target));
    }
    match is_unknown {
        true => Err(Fault::new(Kind::UploadUnknown, fault.message)),
        false => Err(fault),
    }
}

/// An upload of the peer's; that it was looked for counts as use of it.
fn find(ask: &Ask, id: &str, target: &Target) -> Result<Arc<sessions::Upload<Upload>>, Fault> {
    ask.app.uploads.find(id, &ask.caller.peer.owner(), target)
}

/// Whether the body begins where the upload has come to, and is as long as it says.
pub(super) fn in_order(ask: &Ask, target: &Target, id: &str, offset: u64) -> Result<(), Fault> {
    let Some(value) = ask.head.headers.get(header::CONTENT_RANGE) else {
        return Ok(());
    };
    let (first, size) = range::chunk(value.to_str().unwrap_or_default())?;
    if first != offset {
        let message = format!("the upload has {offset} bytes, and the chunk begins at {first}");
        return Err(Fault::new(Kind::OutOfOrder, message)
            .with(header::LOCATION, &target.upload(id))
            .with(header::RANGE, &come_so_far(offset)));
    }
    let message = match ask.body.size_hint().exact() {
        Some(actual) if actual == size => return Ok(()),
        Some(actual) => format!("the chunk has {actual} bytes, and its range {size}"),
        None => "a chunk that says its range says its length as well".to_owned(),
    };
    Err(Fault::new(Kind::SizeInvalid, message))
}

/// Adds the body to an upload, in this way, and gives it back. One that cannot be gone on with is ended.
pub(super) async fn append(
    ask: &mut Ask,
    target: &Target,
    id: &str,
    mut upload: OwnedMutexGuard<Upload>,
    append: fn(&mut Upload, Source<'_>) -> Result<u64, cas::Error>,
) -> Result<OwnedMutexGuard<Upload>, Fault> {
    let append = move |source: Source<'_>, _| {
        let added = append(&mut upload, source).map_err(Fault::from);
        Ok((upload, added))
    };
    let (upload, added) = bring(ask, append).await?;
    if added.is_err() && upload.is_over() {
        drop(ask.app.uploads.end(id, &ask.caller.peer.owner(), target));
    }
    added.map(|_| upload)
}
