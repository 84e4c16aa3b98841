//! `PATCH /v2/**/blobs/uploads/*`: the next bytes of an upload, as one chunk of many or as one
//! stream of unknown length. What came before a connection broke is kept.

use std::sync::Arc;
use std::time::Duration;

use http::header;
use http_body::Body as _;
use tokio::sync::OwnedMutexGuard;

use super::upload_begin::{come_so_far, so_far};
use super::{Upload, bring, path, repository, target};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::policy::Right;
use crate::status;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::{Access, Target};
use crate::v2::range;
use crate::v2::sessions;

/// How long a request waits for another one to be done with the same upload.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let (target, id, upload) = hold(ask).await?;
    in_order(ask, &target, &id, upload.offset())?;
    let upload = append(ask, &target, upload).await?;
    // It may have been cancelled meanwhile; if not, it was used just now, however long that took.
    find(ask, &id, &target)?;
    so_far(status::ACCEPTED, &target, &id, upload.offset())
}

/// The upload that the path names, if it is the peer's. One request at a time has it.
pub(super) async fn hold(
    ask: &mut Ask,
) -> Result<(Target, String, OwnedMutexGuard<Upload>), Fault> {
    let target = target(ask, Access::Write, Right::Put)?;
    let id = path(ask)?.upload().to_owned();
    let upload = find(ask, &id, &target)?;
    let upload = tokio::time::timeout(PATIENCE, upload.lock_owned())
        .await
        .map_err(|_| Fault::new(Kind::TooMany, "another request is busy with this upload"))?;
    // Whoever had it meanwhile may have ended it.
    find(ask, &id, &target)?;
    Ok((target, id, upload))
}

/// An upload of the peer's; that it was looked for counts as use of it.
fn find(ask: &Ask, id: &str, target: &Target) -> Result<Arc<sessions::Upload<Upload>>, Fault> {
    ask.app.uploads.find(id, ask.caller.peer.whom(), target)
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
    match ask.body.size_hint().exact() {
        Some(actual) if actual != size => {
            let message = format!("the chunk has {actual} bytes, and its range {size}");
            Err(Fault::new(Kind::SizeInvalid, message))
        }
        _ => Ok(()),
    }
}

/// Adds the body to an upload and gives it back.
pub(super) async fn append(
    ask: &mut Ask,
    target: &Target,
    mut upload: OwnedMutexGuard<Upload>,
) -> Result<OwnedMutexGuard<Upload>, Fault> {
    let repository = repository(ask, target);
    bring(ask, move |source, _| {
        let algorithm = upload.algorithm;
        let spool = match &mut upload.spool {
            Some(spool) => spool,
            none => none.insert(repository.begin_upload(algorithm)?),
        };
        spool.append(source)?;
        Ok(upload)
    })
    .await
}

impl Upload {
    /// How many bytes came.
    pub(super) fn offset(&self) -> u64 {
        self.spool.as_ref().map_or(0, cas::Upload::offset)
    }
}
