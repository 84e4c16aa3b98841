//! `DELETE /v2/**/blobs/uploads/*`: an upload is given up; nothing of it stays.

use super::job;
use super::upload_patch::hold;
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge;
use crate::v2::fault::Fault;
use crate::v2::path::Access;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Fault> {
    let (target, id, upload) = hold(ask, Access::Write).await?;
    let ended = ask.app.uploads.end(&id, &ask.caller.peer.owner(), &target)?;
    drop(upload);
    let give_up = move || {
        drop(ended);
        Ok(())
    };
    job(ask, bridge::Kind::Short, give_up).await?;
    Ok(Answer::nothing())
}
