//! `GET /v1/drafts/ID`: how far a draft has come.

use wire::Problem;
use wire::api::DraftProgress;

use crate::answer::Answer;
use crate::ask::Ask;

pub(super) fn run(ask: &Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    let id = ask.draft()?;
    let found = ask.app.drafts.find(&id, ask.caller.peer.raw_uid(), ask.caller.connection)?;
    Answer::json(&DraftProgress { bytes: found.draft.progress() })
}
