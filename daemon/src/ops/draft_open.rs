//! `POST /v1/workspaces/W/drafts`: begins to take an artifact in.

use wire::Problem;
use wire::api::DraftOpened;

use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge::Kind;
use crate::policy::Right;
use crate::refusal;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    let workspace = ask.workspace()?;
    ask.check(Right::Put, &workspace, None)?;
    let (uid, connection) = (ask.caller.peer.raw_uid(), ask.caller.connection);
    ask.app.drafts.may_open(uid)?;

    let app = ask.app.clone();
    let begin = move || {
        let draft = app.store.draft(&workspace).map_err(refusal::problem)?;
        app.drafts.keep(uid, workspace, connection, draft)
    };
    let draft = ask.run(Kind::Short, begin).await?;
    Answer::made(&DraftOpened { draft })
}
