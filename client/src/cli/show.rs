//! `bond show REF`: what it is.

use std::process::ExitCode;

use clap::Args;
use wire::api;

use super::{Context, say};
use crate::problem::Error;

/// Says what an artifact is
///
/// Its structure is checked and its manifests are hashed for this, its blobs are not: that is what
/// `bond verify` is for.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bond show app/web:v1
  bond show 3f2a9c --format json | jq '.members[].descriptor.digest'")]
pub(super) struct Show {
    /// A digest, the start of one, NAME:TAG, or a handle's path
    #[arg(value_name = "REF")]
    reference: String,
}

impl Show {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let client = context.client().await?;
        let digest = client.resolve(&self.reference).await?;
        let closure = client.closure(&digest).await?;
        match context.is_json() {
            true => say::json(&closure)?,
            false => say::listing(&text(&closure, &context.common.workspace))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(closure: &api::Closure, workspace: &str) -> String {
    let artifact = &closure.artifact;
    let mut lines = vec![("digest", artifact.digest.to_string())];
    lines.push(("media type", artifact.media_type.clone()));
    if let Some(artifact_type) = &artifact.artifact_type {
        lines.push(("artifact type", artifact_type.clone()));
    }
    if let Some(title) = &artifact.title {
        lines.push(("title", title.clone()));
    }
    let n_blobs = say::count(artifact.n_blobs, "blob", "blobs");
    lines.push(("size", format!("{} in {n_blobs}", say::size(artifact.size))));
    lines.push(("workspace", workspace.to_owned()));
    for name in &artifact.names {
        lines.push(("name", name.clone()));
    }
    let root = closure.members.last();
    for child in root.map(|root| root.children.as_slice()).unwrap_or_default() {
        if let Some(platform) = super::tree::platform(child) {
            lines.push(("platform", format!("{platform:<16} {}", child.digest)));
        }
    }
    if let Some(subject) = root.and_then(|root| root.subject) {
        lines.push(("about", subject.to_string()));
    }
    for member in closure.members.iter().filter(|member| member.absent) {
        lines.push(("absent", format!("{} (may not be distributed)", member.descriptor.digest)));
    }
    lines.push(("sealed", say::ago(artifact.sealed_at)));
    let verified = artifact.verified_at.map_or_else(|| "never since".to_owned(), say::ago);
    lines.push(("verified", verified));
    lines.iter().map(|(key, value)| format!("{key:<14} {value}\n")).collect()
}
