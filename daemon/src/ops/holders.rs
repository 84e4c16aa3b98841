//! `GET /v1/workspaces/W/holders/DIGEST`: which artifacts of a workspace reach a digest, and which of
//! its repositories list it.

use wire::Problem;
use wire::api::{Holder, Holders, ListedIn};

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

    let (store, lease) = (ask.app.store.clone(), ask.app.lease_ns());
    let find = move || {
        let found = store.holders(&workspace, &digest).map_err(refusal::problem)?;
        let listed = store.listings(&workspace, &digest).map_err(refusal::problem)?;
        if found.is_empty() && listed.is_empty() {
            return Err(refusal::not_found(&what, &workspace));
        }
        let workspace = workspace.to_string();
        let holder = |(artifact, names): (_, Vec<_>)| Holder {
            workspace: workspace.clone(),
            artifact,
            names: texts(&names),
        };
        let until = |since: i128| u64::try_from((since + lease) / 1_000_000_000).unwrap_or(0);
        let listed_in = |listed: cas::Listed| ListedIn {
            repository: listed.repository.to_string(),
            leased_until: listed.leased_since.map(until),
        };
        let holders = found.into_iter().map(holder).collect();
        Ok(Holders { digest, holders, repositories: listed.into_iter().map(listed_in).collect() })
    };
    Answer::json(&ask.run(Kind::Short, find).await?)
}
