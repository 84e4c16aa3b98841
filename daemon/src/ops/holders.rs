//! `GET /v1/workspaces/W/holders/DIGEST`: which artifacts of a workspace reach a digest.

use wire::Problem;
use wire::api::{Holder, Holders};

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
    ask.check(Right::Read, &workspace, Some(&what))?;

    let store = ask.app.store.clone();
    let find = move || {
        let found = store.holders(&workspace, &digest).map_err(refusal::problem)?;
        if found.is_empty() {
            return Err(refusal::not_found(&what, &workspace));
        }
        let workspace = workspace.to_string();
        let holder = |(artifact, names): (_, Vec<_>)| Holder {
            workspace: workspace.clone(),
            artifact,
            names: texts(&names),
        };
        Ok(found.into_iter().map(holder).collect::<Vec<_>>())
    };
    let holders = ask.run(Kind::Short, find).await?;
    Answer::json(&Holders { digest, holders })
}
