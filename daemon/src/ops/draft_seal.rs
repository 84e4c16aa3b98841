//! `POST /v1/drafts/ID/seal`: ends a draft. Answered, the artifact is whole and durable; refused,
//! nothing of it stays.

use wire::Problem;
use wire::api::Seal;

use super::{names, put};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::body;
use crate::bridge::Kind;
use crate::refusal;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    let id = ask.draft()?;
    let Seal { root, names: texts } = body::json(ask).await?;
    let names = names(texts.iter().map(String::as_str))?;
    ask.record.digest = Some(root.digest);
    let (app, uid) = (ask.app.clone(), ask.caller.peer.raw_uid());
    let seal = move || {
        // Taken out only now: a draft must outlive an answer that there is no place just now.
        let (draft, workspace) = app.drafts.take(&id, uid)?;
        app.prepare(&workspace).map_err(refusal::problem)?;
        let (sealed, receipt) = draft.seal(&root, &names).map_err(refusal::problem)?;
        Ok(put(&app.metrics, &sealed, receipt, root.media_type, None))
    };
    let done = ask.run(Kind::Short, seal).await?;
    ask.record.workspace = Some(done.workspace.clone());
    Answer::made(&done)
}
