//! `bond ls`: what is there.

use std::process::ExitCode;

use clap::Args;
use wire::api;

use super::{Context, say};
use crate::problem::Error;

/// Lists the artifacts of the workspace
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bond ls
  bond ls --workspace team-a --no-trunc
  bond ls --format json | jq -r '.artifacts[].digest'")]
pub(super) struct Ls {
    /// Whole digests
    #[arg(long)]
    no_trunc: bool,
}

impl Ls {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let artifacts = context.client().await?.list().await?;
        if context.is_json() {
            say::json(&api::Artifacts { artifacts, next: None })?;
            return Ok(ExitCode::SUCCESS);
        }
        let head = ["DIGEST", "KIND", ">SIZE", ">BLOBS", "SEALED", "NAMES"];
        let rows: Vec<Vec<String>> = artifacts.iter().map(|a| self.row(a)).collect();
        say::listing(&say::table(&head, &rows))?;
        Ok(ExitCode::SUCCESS)
    }

    fn row(&self, artifact: &api::Artifact) -> Vec<String> {
        let digest = match self.no_trunc {
            true => artifact.digest.to_string(),
            false => say::short(&artifact.digest),
        };
        let title = artifact.title.as_deref();
        let kind = say::kind(&artifact.media_type, artifact.artifact_type.as_deref(), title);
        let names = match (artifact.names.is_empty(), title) {
            (true, Some(title)) => format!("({title})"),
            _ => artifact.names.join(", "),
        };
        vec![
            digest,
            kind,
            say::size(artifact.size),
            artifact.n_blobs.to_string(),
            say::ago(artifact.sealed_at),
            names,
        ]
    }
}
