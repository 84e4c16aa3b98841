//! `bond doctor`: what is wrong with the house, and what to do about it.

use std::process::ExitCode;

use clap::Args;
use wire::{Code, api};

use super::{Context, say};
use crate::pool::Client;
use crate::problem::Error;

/// Looks at the daemon and its store and says what to do
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bond doctor
  bond doctor --format json | jq '.findings[] | select(.level != \"ok\")'")]
pub(super) struct Doctor {}

impl Doctor {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let mut findings = Vec::new();
        let end = match context.client().await {
            Ok(client) => examine(&client, &mut findings).await,
            Err(error) => Err(error),
        };
        // What could not be asked is a finding too: the one that the keeper came for.
        let mut exit = findings.iter().any(|f| f.level == "problem").then_some(Code::Internal);
        if let Err(error) = end {
            let problem = error.problem();
            exit = Some(problem.code);
            findings.push(api::Finding {
                what: "connection".to_owned(),
                level: "problem".to_owned(),
                text: problem.message,
                hint: problem.hint,
            });
        }
        let doctor = api::Doctor { findings };
        match context.is_json() {
            true => say::json(&doctor)?,
            false => say::listing(&text(&doctor))?,
        }
        Ok(ExitCode::from(exit.map_or(0, Code::exit)))
    }
}

async fn examine(client: &Client, findings: &mut Vec<api::Finding>) -> Result<(), Error> {
    let ok = |what: &str, text: String| api::Finding {
        what: what.to_owned(),
        level: "ok".to_owned(),
        text,
        hint: None,
    };
    let status = client.status().await?;
    let version = env!("CARGO_PKG_VERSION");
    let mut daemon = ok("connection", format!("bonded {} answers", status.version));
    if status.version != version {
        daemon.level = "note".to_owned();
        daemon.hint = Some(format!("bond is {version}: use the same version of both"));
    }
    findings.push(daemon);
    let rights: Vec<String> = status
        .rights
        .iter()
        .map(|rights| format!("{} in {}", rights.may.join(", "), rights.workspace))
        .collect();
    findings.push(match rights.is_empty() {
        false => ok("rights", format!("uid {} may {}", status.uid, rights.join("; "))),
        true => api::Finding {
            level: "problem".to_owned(),
            hint: Some("bonded's policy says which uid or gid may do what".to_owned()),
            ..ok("rights", format!("uid {} may do nothing", status.uid))
        },
    });
    findings.extend(client.doctor().await?.findings);
    Ok(())
}

fn text(doctor: &api::Doctor) -> String {
    let mut text = String::new();
    for finding in &doctor.findings {
        let api::Finding { what, level, text: seen, hint } = finding;
        text.push_str(&format!("{level:<8} {what:<12} {seen}\n"));
        if let Some(hint) = hint {
            text.push_str(&format!("{:<8} {:<12} hint: {hint}\n", "", ""));
        }
    }
    text
}
