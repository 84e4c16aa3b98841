//! `GET /v1/health`: the daemon is alive. Everybody may ask.

use wire::Problem;
use wire::api::Health;

use crate::answer::Answer;
use crate::ask::Ask;

pub(super) fn run(ask: &Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    Answer::json(&Health {
        status: if ask.app.is_draining() { "draining" } else { "ok" }.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}
