//! `bond verify [REF…|--all]`: one verdict for each artifact.

use std::process::ExitCode;

use cas::digest::Digest;
use clap::Args;
use serde::Serialize;
use wire::{Problem, api};

use super::{Context, say};
use crate::pool::Client;
use crate::problem::Error;

/// Hashes every byte of artifacts and says whether they are what they were
///
/// One line for each artifact. The exit code is that of the first failure: 10 for damage.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bond verify app/web:v1
  bond verify --all
  bond verify --all --format json | jq '.verdicts[] | select(.error)'")]
pub(super) struct Verify {
    /// Digests, starts of digests, NAME:TAG, or handles' paths
    #[arg(value_name = "REF", required_unless_present = "all")]
    references: Vec<String>,
    /// Every artifact of the workspace
    #[arg(long, conflicts_with = "references")]
    all: bool,
}

/// What was found about one artifact.
#[derive(Debug, Serialize)]
struct Verdict {
    reference: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<Digest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checked: Option<api::Checked>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
}

#[derive(Debug, Serialize)]
struct Verdicts {
    n_whole: usize,
    n_failed: usize,
    verdicts: Vec<Verdict>,
}

impl Verify {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let client = context.client().await?;
        let mut asked: Vec<(String, Option<(Digest, u64)>)> =
            self.references.into_iter().map(|reference| (reference, None)).collect();
        if self.all {
            let known = |a: api::Artifact| (a.digest.to_string(), Some((a.digest, a.size)));
            asked = client.list().await?.into_iter().map(known).collect();
        }

        let mut verdicts = Vec::new();
        for (reference, known) in asked {
            let verdict = verdict(&client, reference, known).await?;
            if !context.is_json() {
                say::listing(&line(&verdict))?;
            }
            verdicts.push(verdict);
        }
        let failures: Vec<&Problem> = verdicts.iter().filter_map(|v| v.error.as_ref()).collect();
        let exit = failures.first().map_or(0, |problem| problem.code.exit());
        let (n_whole, n_failed) = (verdicts.len() - failures.len(), failures.len());
        if context.is_json() {
            say::json(&Verdicts { n_whole, n_failed, verdicts })?;
        } else {
            say::listing(&format!("{n_whole} whole, {n_failed} failed\n"))?;
        }
        Ok(ExitCode::from(exit))
    }
}

/// What is wrong with one artifact is its verdict; that nothing can be asked ends the verb.
async fn verdict(
    client: &Client,
    reference: String,
    known: Option<(Digest, u64)>,
) -> Result<Verdict, Error> {
    let mut digest = known.map(|(digest, _)| digest);
    let checked = async {
        let found = match digest {
            Some(digest) => digest,
            None => *digest.insert(client.resolve(&reference).await?),
        };
        client.check(&found, known.map(|(_, size)| size)).await
    };
    let (checked, error) = match checked.await {
        Ok(checked) => (Some(checked), None),
        Err(Error::Answered(problem)) => (None, Some(*problem)),
        Err(error) => return Err(error),
    };
    Ok(Verdict { reference, digest, checked, error })
}

fn line(verdict: &Verdict) -> String {
    let shown = match verdict.digest {
        Some(digest) => digest.to_string(),
        None => verdict.reference.clone(),
    };
    match (&verdict.checked, &verdict.error) {
        (Some(checked), _) => {
            let mut text = format!("{:<10} {shown}  {:>10}", "whole", say::size(checked.size));
            if checked.n_healed > 0 {
                text.push_str(&format!("  {} healed", checked.n_healed));
            }
            if !checked.absent.is_empty() {
                text.push_str(&format!("  {} absent", checked.absent.len()));
            }
            text + "\n"
        }
        (None, Some(problem)) => {
            let mut text = format!("{:<10} {shown}\n", problem.code.name());
            text.push_str(&format!("           {}\n", problem.message));
            let unnamed = problem.files.iter().filter(|file| !problem.message.contains(*file));
            for file in unnamed.take(20) {
                text.push_str(&format!("           file: {file}\n"));
            }
            text
        }
        (None, None) => String::new(),
    }
}
