//! `DELETE /v2/**/manifests/*`: a tag, or a manifest with all tags that lead to it, leaves a
//! repository.

use cas::workspace::Reference;

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
    let reference = path(ask)?.reference(Access::Read)?;
    if let Reference::Digest(digest) = &reference {
        ask.record.digest = Some(*digest);
    }
    let repository = repository(ask, &target);
    let delete = move || {
        let done = match &reference {
            Reference::Tag(tag) => repository.delete_tag(tag),
            Reference::Digest(digest) => repository.delete_manifest(digest),
        };
        done.map_err(|error| {
            inside(error, (&repository, &target), Kind::ManifestUnknown, &reference)
        })
    };
    job(ask, bridge::Kind::Short, delete).await?;
    Ok(Answer::empty(status::ACCEPTED))
}
