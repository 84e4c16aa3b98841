//! `bond gc`: frees what nobody holds, and ends what nobody lists.

use std::process::ExitCode;

use clap::Args;

use super::{Context, say};
use crate::problem::Error;

/// Frees the blobs that nobody holds
///
/// Artifacts that were pushed, were never put, and are listed in no repository any more are retired
/// first. A pushed blob that nothing needs yet is held by a lease (timeouts.lease).
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
        let mut text = match gc.dry_run {
            true => format!("would free {size} in {n_blobs}\n"),
            false => format!("freed {size} in {n_blobs}\n"),
        };
        let would = if gc.dry_run { "would be " } else { "" };
        for (n, one, many) in [
            (gc.n_retired, "artifact that nothing lists", "artifacts that nothing lists"),
            (gc.n_leases_ended, "lease that is over", "leases that are over"),
        ] {
            if n > 0 {
                text.push_str(&format!("{would}ended: {}\n", say::count(n, one, many)));
            }
        }
        if gc.n_leases > 0 {
            let n_leases = say::count(gc.n_leases, "pushed blob", "pushed blobs");
            let size = say::size(gc.lease_bytes);
            text.push_str(&format!(
                "held by leases: {size} in {n_leases} that nothing needs yet\n"
            ));
        }
        say::listing(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}
