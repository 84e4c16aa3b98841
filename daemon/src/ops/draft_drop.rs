//! `DELETE /v1/drafts/ID`: gives a draft up; nothing of it stays, once the blobs that are on their way
//! into it have ended.

use wire::Problem;

use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge::Kind;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    let id = ask.draft()?;
    let (draft, workspace) = ask.app.drafts.give_up(&id, ask.caller.peer.raw_uid())?;
    ask.record.workspace = Some(workspace.to_string());
    let end = move || {
        drop(draft);
        Ok(())
    };
    ask.run(Kind::Short, end).await?;
    Ok(Answer::nothing())
}
