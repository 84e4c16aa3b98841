//! `GET /v1/status`: what the peer may know of the daemon, and of itself. Everybody may ask.

use wire::Problem;
use wire::api::{Rights, Status};

use crate::answer::Answer;
use crate::ask::Ask;
use crate::bridge::Kind;
use crate::refusal;

pub(super) async fn run(ask: &Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    let store = ask.app.store.clone();
    let look = move || store.space().map_err(refusal::problem);
    let space = ask.run(Kind::Short, look).await?;
    let rights = ask.app.policy.summary(&ask.caller.peer).into_iter();
    Answer::json(&Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        store: ask.app.store.id().to_owned(),
        uid: ask.caller.peer.raw_uid(),
        rights: rights
            .map(|(workspace, rights)| Rights { workspace, may: rights.names() })
            .collect(),
        free: space.free,
        limits: ask.app.config.oci_limits().into(),
    })
}
