//! `bond retire REF`: ends the workspace's hold on an artifact.

use std::process::ExitCode;

use clap::Args;

use super::{Context, say};
use crate::problem::Error;

/// Ends the workspace's hold on an artifact, and its names
///
/// The bytes stay until `bond gc`, and for as long as anything else holds them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bond retire app/web:v1
  bond retire sha256:3f2a9c… && bond gc")]
pub(super) struct Retire {
    /// A digest, the start of one, NAME:TAG, or a handle's path
    #[arg(value_name = "REF")]
    reference: String,
}

impl Retire {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let client = context.client().await?;
        let digest = client.resolve(&self.reference).await?;
        let retired = client.retire(&digest).await?;
        if context.is_json() {
            say::json(&retired)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut text = format!("retired {}\n", retired.digest);
        for name in &retired.names {
            text.push_str(&format!("  {name} is gone\n"));
        }
        text.push_str(&match retired.released {
            0 => "  other artifacts of the workspace hold all its blobs\n".to_owned(),
            bytes => {
                let bytes = say::size(bytes);
                format!("  {bytes} released; `bond gc` frees what no other workspace holds\n")
            }
        });
        say::listing(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
