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
    let (draft, workspace) = ask.app.drafts.take(&id, ask.caller.peer.raw_uid())?;
    ask.record.workspace = Some(workspace.to_string());

    let app = ask.app.clone();
    let seal = move || {
        let (sealed, receipt) = draft.seal(&root, &names).map_err(refusal::problem)?;
        Ok(put(&app.metrics, &sealed, receipt, root.media_type, None))
    };
    let done = ask.run(Kind::Short, seal).await?;
    Answer::made(&done)
}
