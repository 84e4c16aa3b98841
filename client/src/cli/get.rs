//! `bond get REF SINK`: a checked copy out.

use std::process::ExitCode;

use cas::digest::Digest;
use clap::Args;
use serde::Serialize;
use wire::Code;

use super::reference::Sink;
use super::{Context, progress, say};
use crate::problem::Error;
use crate::progress::Progress;

/// Copies an artifact out, every byte checked
///
/// bonded hashes what it hands out, and bond hashes it again. The copy appears whole or not at all,
/// and nothing that is there is replaced.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bond get app/web:v1 oci:./image              a layout for skopeo, crane, oras, buildah
  bond get 3f2a9c oci-archive:image.tar:v1     an archive, and the name in it
  bond get app/tool:v1 file:./tool             the bytes of a file artifact
  bond get app/tool:v1 --stdout | sha256sum
  bond get app/web:v1 --blob sha256:9c1d… file:./layer.tar.gz")]
pub(super) struct Get {
    /// A digest, the start of one, NAME:TAG, or a handle's path
    #[arg(value_name = "REF")]
    reference: String,
    /// oci:DIR[:TAG], oci-archive:FILE[:TAG], or file:PATH
    #[arg(required_unless_present = "stdout")]
    sink: Option<String>,
    /// Write the bytes of a file artifact, or of a blob, to standard output
    #[arg(long, conflicts_with = "sink")]
    stdout: bool,
    /// Only this member of the artifact
    #[arg(long, value_name = "DIGEST")]
    blob: Option<String>,
}

/// What was copied out.
#[derive(Debug, Serialize)]
struct Got {
    /// The artifact.
    digest: Digest,
    /// Bytes that were hashed and written.
    size: u64,
}

impl Get {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let sink = self.sink.as_deref().map_or(Ok(Sink::Output), Sink::parse)?;
        let member: Option<Digest> = self.blob.as_deref().map(str::parse).transpose()?;
        if member.is_some() && !matches!(sink, Sink::File { .. } | Sink::Output) {
            let hint = "use file:PATH or --stdout with --blob";
            return Err(Error::usage("one member is not a layout", hint));
        }
        let client = context.client().await?;
        let artifact = client.resolve(&self.reference).await?;

        let progress = Progress::default();
        let getting = async {
            match &sink {
                Sink::Layout { path, tag } => {
                    client.get_dir(&artifact, path, tag.as_deref(), &progress).await
                }
                Sink::Archive { path, tag } => {
                    client.get_archive(&artifact, path, tag.as_deref(), &progress).await
                }
                Sink::ArchiveOutput { tag } => {
                    let (out, what) = (std::io::stdout(), "standard output");
                    let name = tag.as_deref();
                    client.write_archive(&artifact, out, what, name, &progress).await.map(drop)
                }
                Sink::File { path } => {
                    client.get_file(&artifact, member.as_ref(), path, &progress).await
                }
                Sink::Output => {
                    let out = std::io::stdout();
                    client.write_file(&artifact, member.as_ref(), out, &progress).await.map(drop)
                }
            }
        };
        match progress::show(context, "getting", &progress, getting).await {
            Ok(()) => {}
            // Here the bytes are the point: who closed the pipe did not get them all. He knows.
            Err(error) if is_closed(&error) => return Ok(ExitCode::from(Code::LocalIo.exit())),
            Err(error) => return Err(error),
        }
        if matches!(sink, Sink::Output | Sink::ArchiveOutput { .. }) {
            return Ok(ExitCode::SUCCESS);
        }
        if context.is_json() {
            say::json(&Got { digest: artifact, size: progress.done() })?;
        } else if !context.common.quiet {
            say::note(&format!("{} of {artifact}, checked", say::size(progress.done())));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn is_closed(error: &Error) -> bool {
    use cas::media::Error as Media;
    matches!(error, Error::Media(Media::Write { source, .. })
        if source.kind() == std::io::ErrorKind::BrokenPipe)
}
