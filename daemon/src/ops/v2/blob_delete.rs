//! `DELETE /v2/**/blobs/*`: a blob leaves a repository, unless a manifest that is listed there needs
//! it.

use super::{inside, job, path, repository, target};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge;
use crate::policy::Right;
use crate::status;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::Access;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let target = target(ask, Access::Write, Right::Retire)?;
    let digest = path(ask)?.digest()?;
    ask.record.digest = Some(digest);
    let repository = repository(ask, &target);
    let delete = move || {
        let told = |error| inside(error, (&repository, &target), Kind::BlobUnknown, &digest);
        repository.delete_blob(&digest).map_err(told)
    };
    job(ask, bridge::Kind::Short, delete).await?;
    Ok(Answer::empty(status::ACCEPTED))
}
