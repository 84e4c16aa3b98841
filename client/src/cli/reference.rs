//! What the user types for a source or a sink: `oci:DIR[:TAG][@DIGEST]` and its kin.

use std::path::{Path, PathBuf};

use cas::digest::Digest;
use cas::disk::{ForeignError, ForeignFile, Kind, kind_at};
use cas::media;

use crate::problem::Error;

const SOURCES: &str =
    "a source is oci:DIR[:TAG][@DIGEST], oci-archive:FILE[:TAG][@DIGEST], file:PATH or -";
const SINKS: &str = "a sink is oci:DIR[:TAG], oci-archive:FILE[:TAG], file:PATH or --stdout";

/// Where an artifact is read from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// An OCI layout.
    Layout { path: PathBuf, entry: Entry },
    /// An OCI archive.
    Archive { path: PathBuf, entry: Entry },
    /// An OCI archive on standard input.
    ArchiveInput { entry: Entry },
    /// One file.
    File { path: PathBuf },
    /// Standard input as one file.
    Input,
}

/// Which entry of a layout is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) tag: Option<String>,
    pub(super) digest: Option<Digest>,
}

/// Where a copy goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sink {
    /// A new OCI layout.
    Layout { path: PathBuf, tag: Option<String> },
    /// A new OCI archive.
    Archive { path: PathBuf, tag: Option<String> },
    /// An OCI archive on standard output.
    ArchiveOutput { tag: Option<String> },
    /// One file.
    File { path: PathBuf },
    /// Standard output.
    Output,
}

impl Source {
    pub(super) fn parse(text: &str) -> Result<Source, Error> {
        match text {
            "" => return Err(Error::usage("the source is empty", SOURCES)),
            "-" => return Ok(Source::Input),
            _ => {}
        }
        match scheme(text) {
            Some(("oci", rest)) => {
                let (path, entry) = split(rest, SOURCES)?;
                Ok(Source::Layout { path, entry })
            }
            Some(("oci-archive", rest)) => {
                let (path, entry) = split(rest, SOURCES)?;
                match path.as_os_str() == "-" {
                    true => Ok(Source::ArchiveInput { entry }),
                    false => Ok(Source::Archive { path, entry }),
                }
            }
            Some(("file", "")) => Err(Error::usage("file: names no file", SOURCES)),
            Some(("file", path)) => Ok(Source::File { path: path.into() }),
            Some((other, _)) if kind_at(Path::new(text)).is_err() => Err(Error::usage(
                format!("bond does not read {other}:"),
                format!("{SOURCES}; `skopeo copy {text} oci:DIR` makes a layout of most others"),
            )),
            _ => Source::bare(text),
        }
    }

    /// A path alone is taken when it can mean one thing only.
    fn bare(text: &str) -> Result<Source, Error> {
        let path = PathBuf::from(text);
        let failed = |source: std::io::Error| {
            let file = text.to_owned();
            Error::from(media::Error::from(match source.kind() {
                std::io::ErrorKind::NotFound => ForeignError::Missing { file },
                _ => ForeignError::Unreadable { file, source },
            }))
        };
        match kind_at(&path).map_err(failed)? {
            Kind::Folder => Ok(Source::Layout { path, entry: Entry::default() }),
            Kind::File | Kind::Symlink | Kind::Special => {
                let file = ForeignFile::open(&path).map_err(media::Error::from)?;
                if !media::is_oci_archive(&file) {
                    return Ok(Source::File { path });
                }
                let candidates = vec![format!("oci-archive:{text}"), format!("file:{text}")];
                let wanted = text.to_owned();
                Err(media::Error::Ambiguous { wanted, candidates }.into())
            }
        }
    }
}

impl Sink {
    pub(super) fn parse(text: &str) -> Result<Sink, Error> {
        if text == "-" {
            return Ok(Sink::Output);
        }
        let untagged = |rest| match split(rest, SINKS)? {
            (path, Entry { tag, digest: None }) => Ok((path, tag)),
            _ => Err(Error::usage("a copy has the digest of its artifact", SINKS)),
        };
        match scheme(text) {
            Some(("oci", rest)) => untagged(rest).map(|(path, tag)| Sink::Layout { path, tag }),
            Some(("oci-archive", rest)) => {
                untagged(rest).map(|(path, tag)| match path.as_os_str() == "-" {
                    true => Sink::ArchiveOutput { tag },
                    false => Sink::Archive { path, tag },
                })
            }
            Some(("file", path)) if !path.is_empty() => Ok(Sink::File { path: path.into() }),
            _ => {
                Err(Error::usage(format!("{text} could be a layout, an archive or a file"), SINKS))
            }
        }
    }
}

/// `scheme:rest`, where the text begins like that.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_scheme = !scheme.is_empty()
        && scheme.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    is_scheme.then_some((scheme, rest))
}

/// `PATH[:TAG][@DIGEST]`. A path holds no colon, as with skopeo; a tag may, as docker's long names do.
fn split(rest: &str, forms: &str) -> Result<(PathBuf, Entry), Error> {
    let (place, digest) = match rest.rsplit_once('@') {
        Some((place, digest)) if is_meant_as_digest(digest) => (place, Some(digest.parse()?)),
        _ => (rest, None),
    };
    let (path, tag) = match place.split_once(':') {
        Some((path, tag)) => (path, Some(tag.to_owned())),
        None => (place, None),
    };
    if path.is_empty() || tag.as_deref() == Some("") {
        return Err(Error::usage(format!("{rest:?} lacks a path or a tag"), forms));
    }
    Ok((path.into(), Entry { tag, digest }))
}

/// Whether what follows an `@` is a digest, be it a wrong one, and not the rest of a name.
fn is_meant_as_digest(text: &str) -> bool {
    let algorithm = text.split(':').next().unwrap_or_default().to_ascii_lowercase();
    text.contains(':') && (algorithm.starts_with("sha") || algorithm.starts_with("md5"))
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests make their own files")]
mod tests {
    use super::*;

    fn entry(tag: Option<&str>, digest: Option<Digest>) -> Entry {
        Entry { tag: tag.map(str::to_owned), digest }
    }

    #[test]
    fn sources_are_read_as_users_of_skopeo_write_them() {
        let digest = Digest::of(b"x");
        let layout = |path: &str, entry| Some(Source::Layout { path: path.into(), entry });
        let archive = |path: &str, entry| Some(Source::Archive { path: path.into(), entry });
        let cases = [
            ("-".to_owned(), Some(Source::Input)),
            ("oci:dir".to_owned(), layout("dir", entry(None, None))),
            ("oci:/a/b:v1".to_owned(), layout("/a/b", entry(Some("v1"), None))),
            (format!("oci:dir@{digest}"), layout("dir", entry(None, Some(digest)))),
            (format!("oci:dir:v1@{digest}"), layout("dir", entry(Some("v1"), Some(digest)))),
            ("oci:me@home".to_owned(), layout("me@home", entry(None, None))),
            (
                "oci-archive:x.tar:docker.io/library/a:1".to_owned(),
                archive("x.tar", entry(Some("docker.io/library/a:1"), None)),
            ),
            (
                "oci-archive:-:v1".to_owned(),
                Some(Source::ArchiveInput { entry: entry(Some("v1"), None) }),
            ),
            ("file:a:b".to_owned(), Some(Source::File { path: "a:b".into() })),
            ("oci:".to_owned(), None),
            ("oci::v1".to_owned(), None),
            ("oci:dir:".to_owned(), None),
            ("file:".to_owned(), None),
            ("oci:dir@sha256:ABC".to_owned(), None),
            ("docker://alpine".to_owned(), None),
            ("no/such/file".to_owned(), None),
        ];
        for (text, expected) in cases {
            assert_eq!(Source::parse(&text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_bare_path_is_taken_when_it_means_one_thing() {
        let scratch = tempfile::tempdir().expect("a folder");
        let write = |name: &str, bytes: &[u8]| {
            let path = scratch.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            path.display().to_string()
        };
        let file = write("file", b"short");
        assert_eq!(Source::parse(&file).ok(), Some(Source::File { path: file.into() }));
        let archive = media::ArchiveSink::begin(Vec::new(), "x").expect("begun");
        let root = cas::oci::Descriptor::new("text/plain", Digest::of(b""), 0);
        let archive = write("archive", &archive.finish(&root, None).expect("finished"));
        let Err(Error::Media(media::Error::Ambiguous { candidates, .. })) = Source::parse(&archive)
        else {
            panic!("guessed")
        };
        assert_eq!(candidates, [format!("oci-archive:{archive}"), format!("file:{archive}")]);
        let folder = scratch.path().display().to_string();
        assert!(matches!(Source::parse(&folder), Ok(Source::Layout { .. })));
    }

    #[test]
    fn sinks_say_what_they_are() {
        let tag = Some("v1".to_owned());
        let cases = [
            ("oci:d", Some(Sink::Layout { path: "d".into(), tag: None })),
            ("oci:d:v1", Some(Sink::Layout { path: "d".into(), tag: tag.clone() })),
            ("oci-archive:f:v1", Some(Sink::Archive { path: "f".into(), tag: tag.clone() })),
            ("oci-archive:-:v1", Some(Sink::ArchiveOutput { tag })),
            ("file:f", Some(Sink::File { path: "f".into() })),
            ("-", Some(Sink::Output)),
            ("f", None),
            ("file:", None),
            ("docker://x", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Sink::parse(text).ok(), expected, "{text}");
        }
    }
}
