//! `bond resolve REF`: the path of a layout that has just been checked.

use std::process::ExitCode;

use clap::Args;
use wire::{Code, Problem};

use super::{Context, say};
use crate::problem::Error;

/// Checks every byte of an artifact and prints the path of its layout
///
/// The first line of standard output is the absolute path alone. It is an OCI layout that any tool
/// reads in place; it may be read by whoever bonded's configuration lets read it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  syft oci-dir:\"$(bond resolve app/web:v1)\"
  skopeo inspect oci:\"$(bond resolve 3f2a9c)\"")]
pub(super) struct Resolve {
    /// A digest, the start of one, NAME:TAG, or a handle's path
    #[arg(value_name = "REF")]
    reference: String,
}

impl Resolve {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let client = context.client().await?;
        let digest = client.resolve(&self.reference).await?;
        let checked = client.check(&digest, None).await?;
        let Some(path) = &checked.path else {
            let message = format!("{digest} is whole, and you may not read it in place");
            let problem = Problem::new(Code::Forbidden, message)
                .about(digest)
                .hint("`bond get` makes a copy that is yours");
            return Err(Error::Answered(Box::new(problem)));
        };
        match context.is_json() {
            true => say::json(&checked)?,
            false => say::text(&format!("{path}\n"))?,
        }
        if !context.common.quiet && !context.is_json() {
            if checked.n_healed > 0 {
                say::note(&format!("{} healed", say::count(checked.n_healed, "blob", "blobs")));
            }
            for digest in &checked.absent {
                say::note(&format!("{digest} may not be distributed and is not there"));
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
