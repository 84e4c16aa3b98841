//! `bond why DIGEST`: who holds it.

use std::process::ExitCode;

use cas::digest::Digest;
use clap::Args;

use super::{Context, say};
use crate::problem::Error;

/// Says which artifacts hold a blob or manifest, and which repositories list it
///
/// What nobody holds is freed by the next `bond gc`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bond why sha256:9c1d…            a layer, a config, a manifest
  bond why app/web:v1")]
pub(super) struct Why {
    /// A whole digest of anything, or a REF
    #[arg(value_name = "DIGEST")]
    digest: String,
}

impl Why {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let client = context.client().await?;
        let digest: Digest = match self.digest.parse() {
            Ok(digest) => digest,
            Err(_) => client.resolve(&self.digest).await?,
        };
        let answer = client.holders(&digest).await?;
        if context.is_json() {
            say::json(&answer)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut text = String::new();
        let rows: Vec<Vec<String>> = answer
            .holders
            .iter()
            .map(|h| vec![h.workspace.clone(), h.artifact.to_string(), h.names.join(", ")])
            .collect();
        if !rows.is_empty() {
            text.push_str(&say::table(&["WORKSPACE", "ARTIFACT", "NAMES"], &rows));
        }
        for listed in &answer.repositories {
            text.push_str(&match listed.leased_until {
                None => format!("listed in {}\n", listed.repository),
                Some(_) => format!("leased in {}: nothing there needs it yet\n", listed.repository),
            });
        }
        say::listing(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
