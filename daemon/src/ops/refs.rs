//! `GET /v1/workspaces/W/refs?ref=REF`: which artifact a reference means.

use wire::Problem;
use wire::api::Resolved;

use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge::Kind;
use crate::policy::Right;
use crate::refusal;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Problem> {
    let query = ask.query(&["ref"])?;
    let reference = query.need("ref")?.to_owned();
    let workspace = ask.workspace()?;
    ask.check(Right::Read, &workspace, Some(&reference))?;

    let (store, here) = (ask.app.store.clone(), workspace.clone());
    let find =
        move || store.resolve(&here, &reference).map_err(|e| refusal::inside(e, &reference, &here));
    let digest = ask.run(Kind::Short, find).await?;
    ask.record.digest = Some(digest);
    Answer::json(&Resolved { digest, workspace: workspace.to_string() })
}
