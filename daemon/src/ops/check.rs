//! `POST /v1/workspaces/W/artifacts/DIGEST/check`: hashes every byte of an artifact, and says
//! where its layout is to peers that may read it in place.

use cas::Stop;
use wire::Problem;
use wire::api::Checked;

use super::handle;
use crate::answer::Answer;
use crate::app::now;
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
    let in_place = ask.app.may_read_in_place(&ask.caller.peer, &workspace);

    let app = ask.app.clone();
    let hash = move |stop: &Stop| {
        let told = |error| refusal::inside(error, &what, &workspace);
        let sealed = app.store.sealed(&workspace, &digest).map_err(told)?.stopped_by(stop);
        app.prepare(&workspace).map_err(told)?;
        let checked = sealed.check().map_err(told)?;
        app.store.note_verified(&workspace, &digest, now());
        app.metrics.healed(checked.n_healed());
        let path = in_place.then(|| app.root.join(checked.path().as_str()).display().to_string());
        let n_absent = checked.absent().len();
        Ok(Checked {
            digest,
            path,
            handle: handle(checked.path()),
            size: checked.size(),
            n_blobs: checked.closure().nodes().len().saturating_sub(n_absent) as u64,
            n_healed: checked.n_healed(),
            absent: checked.absent().iter().copied().collect(),
        })
    };
    let checked = ask.run_while_wanted(Kind::Hashing, hash).await?;
    Answer::json(&checked)
}
