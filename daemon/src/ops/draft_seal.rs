//! `POST /v1/drafts/ID/seal`: ends a draft. Answered, the artifact is whole and durable; refused,
//! nothing of it stays.

use std::time::Duration;

use cas::Draft;
use cas::workspace::{Tag, Workspace};
use wire::api::Seal;
use wire::{Code, Problem};

use super::{names, put};
use crate::answer::Answer;
use crate::ask::Ask;
use crate::body;
use crate::bridge::Kind;
use crate::drafts::Drafts;
use crate::refusal;

/// How often, and after which pause, a draft in use is looked at again.
const N_TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(5);

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    let id = ask.draft()?;
    let Seal { root, names: texts } = body::json(ask).await?;
    let names = names(texts.iter().map(String::as_str))?;
    ask.record.digest = Some(root.digest);
    let (app, uid) = (ask.app.clone(), ask.caller.peer.raw_uid());
    let seal = move || {
        // Taken out only now: a draft must outlive an answer that there is no place just now.
        let (draft, workspace) = take(&app.drafts, &id, uid)?;
        app.prepare(&workspace).map_err(refusal::problem)?;
        let may_move = |tag: &Tag| app.may_move(tag);
        let (sealed, receipt) = draft.seal(&root, &names, &may_move).map_err(refusal::problem)?;
        Ok(put(&app.metrics, &sealed, receipt, root.media_type, None))
    };
    let done = ask.run(Kind::Short, seal).await?;
    ask.record.workspace = Some(done.workspace.clone());
    Answer::made(&done)
}

/// Takes a draft out. Who asks how far it is holds it for a moment: that is no reason to refuse.
fn take(drafts: &Drafts, id: &str, uid: u32) -> Result<(Draft, Workspace), Problem> {
    for _ in 0..N_TRIES {
        match drafts.take(id, uid) {
            Err(problem) if problem.code == Code::Busy => std::thread::sleep(PAUSE),
            taken => return taken,
        }
    }
    drafts.take(id, uid)
}
