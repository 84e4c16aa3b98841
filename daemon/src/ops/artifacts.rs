//! `GET /v1/workspaces/W/artifacts?after=DIGEST&limit=N`: what a workspace holds, page by page.

use wire::Problem;
use wire::api::Artifacts;

use super::line;
use crate::answer::Answer;
use crate::ask::Ask;
use crate::body;
use crate::bridge::Kind;
use crate::policy::Right;
use crate::refusal;

/// Lines on a page, when the peer asks for more or does not say.
const PAGE: usize = 1000;

pub(super) async fn run(ask: &mut Ask) -> Result<Answer, Problem> {
    let query = ask.query(&["after", "limit"])?;
    let after = body::digest(query.get("after"))?;
    let limit = query.parsed("limit")?.unwrap_or(PAGE).clamp(1, PAGE);
    let workspace = ask.workspace()?;
    ask.check(Right::Read, &workspace, None)?;

    let store = ask.app.store.clone();
    let list = move || store.list(&workspace, after.as_ref(), limit).map_err(refusal::problem);
    let (summaries, next) = ask.run(Kind::Short, list).await?;
    Answer::json(&Artifacts { artifacts: summaries.into_iter().map(line).collect(), next })
}
