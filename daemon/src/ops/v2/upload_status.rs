//! `GET /v2/**/blobs/uploads/*`: how far an upload has come.

use super::upload_begin::so_far;
use super::upload_patch::hold;
use crate::answer::Answer;
use crate::ask::Ask;
use crate::status;
use crate::v2::fault::Fault;
use crate::v2::path::Access;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let (target, id, upload) = hold(ask, Access::Read).await?;
    so_far(status::NOTHING, &target, &id, upload.offset())
}
