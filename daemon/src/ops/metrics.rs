//! `GET /v1/metrics`: numbers for Prometheus. They are sums over all workspaces, so they are for
//! the keeper.

use wire::Problem;

use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge::Kind;
use crate::refusal;

pub(super) async fn run(ask: &Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    ask.check_admin()?;
    let store = ask.app.store.clone();
    let look = move || store.space().map_err(refusal::problem);
    // A disk that does not answer is a reason to read the other numbers.
    let free = ask.run(Kind::Short, look).await.ok().map(|space| space.free);
    let (n_drafts, n_uploads) = (ask.app.drafts.n_open(), ask.app.uploads.n_open());
    Ok(Answer::text(ask.app.metrics.text(n_drafts, n_uploads, free)))
}
