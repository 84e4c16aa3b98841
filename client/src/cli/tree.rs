//! `bond tree REF`: what hangs on it.

use std::collections::{HashMap, HashSet};
use std::process::ExitCode;

use cas::digest::Digest;
use cas::oci::{Descriptor, media_type};
use clap::Args;
use wire::api;

use super::{Context, say};
use crate::problem::Error;

/// Draws what an artifact consists of
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bond tree app/web:v1
  bond tree app/web:v1 --no-trunc")]
pub(super) struct Tree {
    /// A digest, the start of one, NAME:TAG, or a handle's path
    #[arg(value_name = "REF")]
    reference: String,
    /// Whole digests
    #[arg(long)]
    no_trunc: bool,
}

impl Tree {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let client = context.client().await?;
        let digest = client.resolve(&self.reference).await?;
        let closure = client.closure(&digest).await?;
        match context.is_json() {
            true => say::json(&closure)?,
            false => say::listing(&draw(&closure, self.no_trunc))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// `os/architecture[/variant]`
pub(super) fn platform(descriptor: &Descriptor) -> Option<String> {
    let platform = descriptor.platform.as_ref()?;
    let mut text = format!("{}/{}", platform.os(), platform.architecture());
    if let Some(variant) = platform.variant() {
        text.push_str(&format!("/{variant}"));
    }
    Some(text)
}

struct Drawing<'a> {
    members: HashMap<Digest, &'a api::Member>,
    /// Members whose children were drawn: a shared one is drawn once.
    drawn: HashSet<Digest>,
    no_trunc: bool,
    text: String,
}

fn draw(closure: &api::Closure, no_trunc: bool) -> String {
    let members = closure.members.iter().map(|m| (m.descriptor.digest, m)).collect();
    let mut drawing = Drawing { members, drawn: HashSet::new(), no_trunc, text: String::new() };
    let names = match closure.artifact.names.is_empty() {
        true => String::new(),
        false => format!("  {}", closure.artifact.names.join(", ")),
    };
    let line = drawing.describe(&closure.root, "root");
    drawing.text.push_str(&format!("{line}{names}\n"));
    drawing.children(&closure.root, "");
    drawing.text
}

impl Drawing<'_> {
    fn children(&mut self, of: &Descriptor, indent: &str) {
        let Some(member) = self.members.get(&of.digest).copied() else { return };
        if member.children.is_empty() || !self.drawn.insert(of.digest) {
            return;
        }
        let is_image = media_type::is_image(&of.media_type);
        for (n, child) in member.children.iter().enumerate() {
            let is_last = n + 1 == member.children.len();
            let (branch, further) =
                if is_last { ("└── ", "    ") } else { ("├── ", "│   ") };
            let role = match (is_image, n) {
                (true, 0) => "config",
                (true, _) => "layer",
                (false, _) if media_type::is_index(&child.media_type) => "index",
                (false, _) => "manifest",
            };
            let mut line = self.describe(child, role);
            if self.drawn.contains(&child.digest) {
                line.push_str("  (see above)");
            }
            self.text.push_str(&format!("{indent}{branch}{line}\n"));
            self.children(child, &format!("{indent}{further}"));
        }
    }

    fn describe(&self, descriptor: &Descriptor, role: &str) -> String {
        let digest = match self.no_trunc {
            true => descriptor.digest.to_string(),
            false => say::short(&descriptor.digest),
        };
        let size = say::size(descriptor.size);
        let mut line = format!("{role:<8} {digest}  {size:>10}  {}", descriptor.media_type);
        if let Some(platform) = platform(descriptor) {
            line.push_str(&format!("  {platform}"));
        }
        if let Some(title) = descriptor.annotations.get("org.opencontainers.image.title") {
            line.push_str(&format!("  {title:?}"));
        }
        let member = self.members.get(&descriptor.digest);
        if member.is_some_and(|member| member.absent) {
            line.push_str("  ABSENT (may not be distributed)");
        }
        if let Some(subject) = member.and_then(|member| member.subject) {
            line.push_str(&format!("  about {}", say::short(&subject)));
        }
        line
    }
}
