//! `GET /v2/**/manifests/*`: a manifest by tag or digest, proved, in its own bytes and by its own
//! type, whatever the client says that it accepts: there is no other form of it.

use cas::Held;
use http::header;

use super::{CONTENT_DIGEST, inside, job, path, quoted, repository, target, text};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge;
use crate::policy::Right;
use crate::status;
use crate::v2::fault::{Fault, Kind};
use crate::v2::path::Access;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let found = find(ask).await?;
    let answer = described(Answer::empty(status::DONE), &found)?;
    Ok(answer.body(found.bytes()?))
}

/// The manifest that is asked for.
pub(super) async fn find(ask: &mut Ask) -> Result<Held, Fault> {
    let target = target(ask, Access::Read, Right::Read)?;
    let reference = path(ask)?.reference(Access::Read)?;
    let repository = repository(ask, &target);
    let found = match repository.manifest_at_a_look(&reference) {
        Some(found) => found,
        None => {
            let read = move || {
                let told = |error| {
                    inside(error, (&repository, &target), Kind::ManifestUnknown, &reference)
                };
                repository.manifest(&reference).map_err(told)
            };
            job(ask, bridge::Kind::Short, read).await?
        }
    };
    ask.record.digest = Some(found.digest());
    Ok(found)
}

/// What every answer about a manifest says of it.
pub(super) fn described(answer: Answer, found: &Held) -> Result<Answer, Fault> {
    let digest = found.digest();
    Ok(answer
        .header(header::CONTENT_TYPE, text(found.media_type())?)
        .header(header::ETAG, text(&quoted(&digest))?)
        .header(CONTENT_DIGEST, text(&digest.to_string())?))
}
