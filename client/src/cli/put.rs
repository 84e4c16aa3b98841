//! `bond put SOURCE`: takes an artifact in.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use cas::digest::Digest;
use cas::disk::{ForeignFile, spool};
use cas::media::{self, Layout};
use cas::workspace::Name;
use clap::Args;
use wire::api;

use super::reference::{Entry, Source};
use super::{Context, progress, say};
use crate::bridge::blocking;
use crate::problem::Error;
use crate::progress::Progress;
use crate::put::{FileBytes, FileOptions};

/// The most bytes of a metadata file: buildx writes whole provenances into it.
const METADATA_LIMIT: u64 = 64 << 20;
/// Where a piped archive waits when TMPDIR says nothing: `/tmp` is often memory.
const SPOOL: &str = "/var/tmp";

/// Takes an artifact in and prints its digest
///
/// The bytes are proved while they are copied, and when the digest is printed they are whole and on
/// disk. An artifact that is there already is proved again and is no error.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  bond put oci:./image                         the one image of a layout
  bond put oci:./image:v1 --name app/web:v1    one of several, and a name for it
  bond put oci-archive:image.tar               what buildx, skopeo or docker save wrote
  docker save app | bond put oci-archive:-
  bond put oci:./out --metadata-file meta.json what buildx says that it built
  bond put file:./bonded --title bonded        one file
  make-report | bond put - --title report.txt")]
pub(super) struct Put {
    /// oci:DIR[:TAG][@DIGEST], oci-archive:FILE[:TAG][@DIGEST], file:PATH, or - for standard input
    ///
    /// A path alone is taken when it can mean one thing only. `oci-archive:-` reads an archive from
    /// standard input.
    source: String,
    /// A name to give it, REPOSITORY:TAG; may be repeated
    #[arg(long = "name", value_name = "REPO:TAG")]
    names: Vec<String>,
    /// Take the image that this file of `buildx build --metadata-file` names
    #[arg(long, value_name = "FILE")]
    metadata_file: Option<PathBuf>,
    /// Follow symlinks inside a layout
    #[arg(long)]
    follow_symlinks: bool,
    /// A file's name; its own when absent
    #[arg(long)]
    title: Option<String>,
    /// A file's media type
    #[arg(long, value_name = "TYPE")]
    media_type: Option<String>,
    /// The type of the artifact that a file becomes
    #[arg(long, value_name = "TYPE")]
    artifact_type: Option<String>,
}

impl Put {
    pub(super) async fn run(self, context: &Context) -> Result<ExitCode, Error> {
        let names: Vec<Name> =
            self.names.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
        let source = Source::parse(&self.source)?;
        self.refuse_idle_options(&source)?;

        let progress = Progress::default();
        let putting = self.put(context, source, names, &progress);
        let put = progress::show(context, "putting", &progress, putting).await?;
        if context.is_json() {
            say::json(&put)?;
        } else {
            say::text(&format!("{}\n", put.digest))?;
        }
        if !context.common.quiet && !context.is_json() {
            say::note(&summary(&put));
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn put(
        &self,
        context: &Context,
        source: Source,
        names: Vec<Name>,
        progress: &Progress,
    ) -> Result<api::Put, Error> {
        let client = context.client().await?;
        let (layout, entry) = match source {
            Source::File { path } => {
                let file = ForeignFile::open(&path).map_err(media::Error::from)?;
                let title = path.file_name().and_then(|name| name.to_str());
                let options = self.options(title, names)?;
                let bytes = FileBytes::File { file, offset: 0 };
                return client.put_file_with(bytes, &options, progress).await;
            }
            Source::Input => {
                let options = self.options(Some("stdin"), names)?;
                let bytes = match standard_input()? {
                    Some((file, offset)) => FileBytes::File { file, offset },
                    None => FileBytes::Stream(Box::new(std::io::stdin())),
                };
                return client.put_file_with(bytes, &options, progress).await;
            }
            Source::Layout { path, entry } => {
                let (typed, follow) = (format!("oci:{}", path.display()), self.follow_symlinks);
                let limits = client.limits().await?;
                let layout =
                    blocking(move || Layout::open_dir(&path, &typed, follow, &limits)).await?;
                (layout, entry)
            }
            Source::Archive { path, entry } => {
                let typed = format!("oci-archive:{}", path.display());
                let limits = client.limits().await?;
                let open =
                    move || Layout::open_archive(ForeignFile::open(&path)?, 0, &typed, &limits);
                (blocking(open).await?, entry)
            }
            Source::ArchiveInput { entry } => {
                let (file, offset) = match standard_input()? {
                    Some(found) => found,
                    None => (spooled().await?, 0),
                };
                let limits = client.limits().await?;
                let open = move || Layout::open_archive(file, offset, "oci-archive:-", &limits);
                (blocking(open).await?, entry)
            }
        };
        let entry = self.with_metadata(entry)?;
        let layout = Arc::new(layout);
        let from = Arc::clone(&layout);
        let root = blocking(move || from.pick(entry.tag.as_deref(), entry.digest.as_ref())).await?;
        client.put_layout(layout, &root, &names, progress).await
    }

    /// An option that would do nothing was meant to do something.
    fn refuse_idle_options(&self, source: &Source) -> Result<(), Error> {
        let is_file = matches!(source, Source::File { .. } | Source::Input);
        let is_folder = matches!(source, Source::Layout { .. });
        let idle = [
            ("--title", self.title.is_some(), is_file),
            ("--media-type", self.media_type.is_some(), is_file),
            ("--artifact-type", self.artifact_type.is_some(), is_file),
            ("--metadata-file", self.metadata_file.is_some(), !is_file),
            ("--follow-symlinks", self.follow_symlinks, is_folder),
        ];
        match idle.iter().find(|(_, is_given, has_use)| *is_given && !has_use) {
            None => Ok(()),
            Some((option, ..)) => Err(Error::usage(
                format!("{option} says nothing about {}", self.source),
                "--title, --media-type and --artifact-type are about a file, --metadata-file is \
                 about a layout or archive, --follow-symlinks about a layout",
            )),
        }
    }

    fn options(&self, title: Option<&str>, names: Vec<Name>) -> Result<FileOptions, Error> {
        let title = self.title.as_deref().or(title).ok_or_else(|| {
            Error::usage(
                format!("{} has no name to go by", self.source),
                "give it one with --title",
            )
        })?;
        Ok(FileOptions {
            title: title.to_owned(),
            media_type: self.media_type.clone(),
            artifact_type: self.artifact_type.clone(),
            names,
        })
    }

    fn with_metadata(&self, entry: Entry) -> Result<Entry, Error> {
        let Some(path) = &self.metadata_file else { return Ok(entry) };
        let built = built_digest(path)?;
        match entry.digest {
            Some(digest) if digest != built => Err(Error::usage(
                format!("{} says {built}, and you say {digest}", path.display()),
                "leave one of them out",
            )),
            _ => Ok(Entry { digest: Some(built), ..entry }),
        }
    }
}

/// `containerimage.digest` of a metadata file: buildx writes it at the top, bake once per target.
fn built_digest(path: &Path) -> Result<Digest, Error> {
    const KEY: &str = "containerimage.digest";
    let shown = path.display();
    let odd = |reason: String| {
        let hint = "buildx writes it with --metadata-file and an OCI output";
        Error::usage(format!("{shown}: {reason}"), hint)
    };
    let file = ForeignFile::open(path).map_err(media::Error::from)?;
    let size =
        file.stat().map_err(|source| Error::Source { doing: "reading metadata", source })?.size;
    if size > METADATA_LIMIT {
        return Err(odd(format!("it has {size} bytes")));
    }
    let part = media::Part::File { file: Arc::new(file), offset: 0, len: size };
    let bytes = part.read(&shown.to_string())?;
    let metadata: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes).map_err(|error| odd(error.to_string()))?;
    let digest = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let mut found: Vec<String> = metadata.get(KEY).and_then(digest).into_iter().collect();
    if found.is_empty() {
        found = metadata.values().filter_map(|target| digest(target.get(KEY)?)).collect();
        found.sort();
        found.dedup();
    }
    match found.as_slice() {
        [one] => Ok(one.parse()?),
        [] => Err(odd(format!("it holds no {KEY}"))),
        several => {
            let wanted = format!("{KEY} of {shown}");
            Err(media::Error::Ambiguous { wanted, candidates: several.to_vec() }.into())
        }
    }
}

/// Standard input, when it is a file that can be read in place, and where it stands.
fn standard_input() -> Result<Option<(ForeignFile, u64)>, Error> {
    let failed = |source| Error::Source { doing: "reading standard input", source };
    let descriptor = std::io::stdin().as_fd().try_clone_to_owned().map_err(failed)?;
    match ForeignFile::adopt(descriptor, "standard input") {
        Ok(file) => {
            let position = file.position().map_err(failed)?;
            Ok(Some((file, position)))
        }
        Err(_) => Ok(None),
    }
}

/// A piped standard input in a file without a name.
async fn spooled() -> Result<ForeignFile, Error> {
    let folder = std::env::var_os("TMPDIR").filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(|| PathBuf::from(SPOOL), PathBuf::from);
    let what = format!("standard input to {}", folder.display());
    blocking(move || {
        spool(&folder, &mut std::io::stdin().lock())
            .map_err(|source| media::Error::Write { what, source })
    })
    .await
}

fn summary(put: &api::Put) -> String {
    let mut text = format!(
        "{} in {}, {} new",
        say::size(put.size),
        say::count(put.n_blobs, "blob", "blobs"),
        put.n_written
    );
    if put.n_healed > 0 {
        text.push_str(&format!(", {} healed", put.n_healed));
    }
    if put.existed {
        text.push_str("; the artifact was there already");
    }
    if !put.absent.is_empty() {
        let n = say::count(put.absent.len() as u64, "layer", "layers");
        text.push_str(&format!("; without {n} that may not be distributed"));
    }
    text
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make their own files")]
mod tests {
    use super::*;

    #[test]
    fn a_metadata_file_names_one_digest_or_none() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("metadata.json");
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let key = "containerimage.digest";
        let cases = [
            (format!(r#"{{"{key}":"{one}","image.name":"x"}}"#), Some(one)),
            (format!(r#"{{"app":{{"{key}":"{one}"}},"buildx.build.ref":"x"}}"#), Some(one)),
            (format!(r#"{{"a":{{"{key}":"{one}"}},"b":{{"{key}":"{one}"}}}}"#), Some(one)),
            (format!(r#"{{"a":{{"{key}":"{one}"}},"b":{{"{key}":"{two}"}}}}"#), None),
            (format!(r#"{{"{key}":"sha256:xyz"}}"#), None),
            ("{}".to_owned(), None),
            ("[]".to_owned(), None),
        ];
        for (text, expected) in cases {
            std::fs::write(&path, &text).expect("written");
            assert_eq!(built_digest(&path).ok(), expected, "{text}");
        }
    }
}
