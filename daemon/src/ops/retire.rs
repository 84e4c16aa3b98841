//! `DELETE /v1/workspaces/W/artifacts/DIGEST`: ends the workspace's hold on an artifact.

use wire::Problem;
use wire::api::Retired;

use super::texts;
use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge::Kind;
use crate::policy::Right;
use crate::refusal;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    let workspace = ask.workspace()?;
    let digest = ask.digest()?;
    let what = digest.to_string();
    ask.check(Right::Retire, &workspace, Some(&what))?;

    let store = ask.app.store.clone();
    let end = move || {
        store.retire(&workspace, &digest).map_err(|e| refusal::inside(e, &what, &workspace))
    };
    let retired = ask.run(Kind::Short, end).await?;
    Answer::json(&Retired { digest, names: texts(&retired.names), released: retired.released })
}
