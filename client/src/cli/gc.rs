//! `bond gc`: frees what nobody holds.

use std::process::ExitCode;

use clap::Args;

use super::{Context, say};
use crate::problem::Error;

/// Frees the blobs that no artifact holds
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bond gc --dry-run        says what it would free
  bond gc")]
pub(super) struct Gc {
    /// Delete nothing
    #[arg(long)]
    dry_run: bool,
}

impl Gc {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let gc = context.client().await?.gc(self.dry_run).await?;
        if context.is_json() {
            say::json(&gc)?;
            return Ok(ExitCode::SUCCESS);
        }
        let n_blobs = say::count(gc.n_blobs, "blob", "blobs");
        let size = say::size(gc.bytes);
        say::listing(&match gc.dry_run {
            true => format!("would free {size} in {n_blobs}\n"),
            false => format!("freed {size} in {n_blobs}\n"),
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
