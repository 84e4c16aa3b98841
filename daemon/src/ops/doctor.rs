//! `GET /v1/doctor`: the state of the house, for its keeper.

use wire::Problem;
use wire::api::{Doctor, Finding};

use crate::answer::Answer;
use crate::app::App;
use crate::ask::Ask;
use crate::bridge::Kind;
use crate::refusal;

pub(super) async fn run(ask: &Ask) -> Result<Answer, Problem> {
    ask.query(&[])?;
    ask.check_admin()?;
    let store = ask.app.store.clone();
    let look = move || store.examine().map_err(refusal::problem);
    let seen = ask.run(Kind::Hashing, look).await?;
    let mut findings = vec![daemon(&ask.app)];
    findings.extend(seen.into_iter().map(|seen| Finding {
        hint: seen.is_problem.then(|| hint(seen.what)).flatten().map(str::to_owned),
        what: seen.what.to_owned(),
        level: if seen.is_problem { "problem" } else { "ok" }.to_owned(),
        text: seen.text,
    }));
    Answer::json(&Doctor { findings })
}

fn daemon(app: &App) -> Finding {
    let (version, pid) = (env!("CARGO_PKG_VERSION"), std::process::id());
    Finding {
        what: "daemon".to_owned(),
        level: "ok".to_owned(),
        text: format!("bonded {version}, pid {pid}, {} open drafts", app.drafts.n_open()),
        hint: None,
    }
}

fn hint(what: &str) -> Option<&'static str> {
    match what {
        "space" => Some("retire what is no longer needed and run `bond gc`"),
        "quarantine" => Some("run `bond verify --all`; put again what it finds damaged"),
        "index" => Some("stop bonded, delete the folder `index`, start it again"),
        _ => None,
    }
}
