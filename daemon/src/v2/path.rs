//! Paths of the front door: which form a path has, which repository it names, and what in it.
//!
//! A repository's name may hold any number of segments, some of which are words of the API, so a
//! path is read from its end. The first segment of a name is the workspace, unless the request is
//! made within one: then names are written without it, in the answer too. Nothing here knows of
//! methods, rights or the store.

use std::fmt;

use cas::digest::{Digest, ParseError};
use cas::workspace::{Reference, RepositoryName, Tag, Workspace};
use percent_encoding::percent_decode_str;
use wire::Problem;

use super::fault::{Fault, Kind};

/// What a path asks about. The text is how it stands in the table of routes: `**` is a repository
/// with its workspace, `*` one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The API itself.
    Base,
    /// Where uploads begin.
    Uploads,
    /// One upload.
    Upload,
    /// One blob.
    Blob,
    /// One manifest, by tag or digest.
    Manifest,
    /// The tags of a repository.
    Tags,
    /// What refers to a digest.
    Referrers,
}

/// A path of the front door, not decoded yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// What it asks about.
    pub form: Form,
    name: &'a str,
    /// The segment at the `*`.
    last: &'a str,
}

/// A repository of a workspace, and how the client writes its name. Whoever writes it for the
/// client writes it the same way.
#[derive(Clone, Debug)]
pub struct Target {
    /// The workspace.
    pub workspace: Workspace,
    /// The repository in it.
    pub repository: RepositoryName,
    spelling: Spelling,
}

/// How a repository's name is written.
#[derive(Clone, Copy, Debug)]
enum Spelling {
    /// The workspace, a slash, the repository.
    Whole,
    /// The repository alone: the request is made within its workspace.
    Within,
}

/// Whether a request changes something: what cannot be there is unknown to a reader and invalid to
/// a writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It looks.
    Read,
    /// It changes.
    Write,
}

/// The longest name, the workspace included: what clients and other registries agree on.
const MOST_NAME: usize = 255;

// === impl Form ===

impl Form {
    /// How it stands in the table of routes.
    pub fn text(self) -> &'static str {
        match self {
            Form::Base => "/v2/",
            Form::Uploads => "/v2/**/blobs/uploads/",
            Form::Upload => "/v2/**/blobs/uploads/*",
            Form::Blob => "/v2/**/blobs/*",
            Form::Manifest => "/v2/**/manifests/*",
            Form::Tags => "/v2/**/tags/list",
            Form::Referrers => "/v2/**/referrers/*",
        }
    }
}

/// Whether a path is the front door's, known or not.
pub fn is_ours(path: &str) -> bool {
    path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Reads a path; `None` when it has no form that is known.
pub fn parse(path: &str) -> Option<Path<'_>> {
    let rest = path.strip_prefix("/v2")?;
    if matches!(rest, "" | "/") {
        return Some(Path { form: Form::Base, name: "", last: "" });
    }
    let rest = rest.strip_prefix('/')?;
    for end in ["/blobs/uploads/", "/blobs/uploads"] {
        if let Some(name) = rest.strip_suffix(end) {
            return Some(Path { form: Form::Uploads, name, last: "" });
        }
    }
    let (before, last) = rest.rsplit_once('/').filter(|(_, last)| !last.is_empty())?;
    let (name, word) = before.rsplit_once('/')?;
    let (form, name) = match (word, last) {
        ("tags", "list") => (Form::Tags, name),
        ("manifests", _) => (Form::Manifest, name),
        ("blobs", _) => (Form::Blob, name),
        ("referrers", _) => (Form::Referrers, name),
        ("uploads", _) => (Form::Upload, name.strip_suffix("/blobs")?),
        _ => return None,
    };
    Some(Path { form, name, last })
}

// === impl Path ===

impl Path<'_> {
    /// The repository that it names, in a request that is made within a workspace or within none.
    ///
    /// # Errors
    /// [`Kind::NameInvalid`] outside the grammar. A name without a workspace is
    /// [`Kind::NameUnknown`] to a reader and [`Kind::NameInvalid`] to a writer.
    pub fn target(&self, access: Access, within: Option<&Workspace>) -> Result<Target, Fault> {
        let mut name = String::with_capacity(self.name.len());
        for (n, segment) in self.name.split('/').enumerate() {
            let segment = percent_decode_str(segment).decode_utf8();
            let segment = segment.map_err(|_| invalid(self.name, "it is no text"))?;
            // It would make two segments of one after the path was taken apart.
            if segment.contains('/') {
                return Err(invalid(self.name, "a slash in it is encoded"));
            }
            // Also after an empty one, which is part of no name.
            if n > 0 {
                name.push('/');
            }
            name.push_str(&segment);
        }
        match within {
            None => Target::parse(&name, access),
            Some(workspace) => Target::within(workspace, &name),
        }
    }

    /// The segment at the `*`, decoded.
    fn last(&self) -> Option<std::borrow::Cow<'_, str>> {
        percent_decode_str(self.last).decode_utf8().ok()
    }

    /// The digest that it names.
    ///
    /// # Errors
    /// [`Kind::DigestInvalid`].
    pub fn digest(&self) -> Result<Digest, Fault> {
        digest(&self.last().unwrap_or_default())
    }

    /// The tag or digest that it names.
    ///
    /// # Errors
    /// [`Kind::DigestInvalid`]. A tag outside the grammar is [`Kind::ManifestUnknown`] to a reader
    /// and [`Kind::NameInvalid`] to a writer.
    pub fn reference(&self, access: Access) -> Result<Reference, Fault> {
        let text = self.last().unwrap_or_default();
        if text.contains(':') {
            return digest(&text).map(Reference::Digest);
        }
        tag(&text).map(Reference::Tag).map_err(|fault| match access {
            Access::Write => fault,
            Access::Read => Fault::new(Kind::ManifestUnknown, fault.message),
        })
    }

    /// The upload that it names, as the client wrote it.
    pub fn upload(&self) -> &str {
        self.last
    }
}

// === impl Target ===

impl Target {
    /// Reads a name: the workspace, a slash, the repository.
    ///
    /// # Errors
    /// As [`Path::target`].
    pub fn parse(name: &str, access: Access) -> Result<Target, Fault> {
        if name.len() > MOST_NAME {
            return Err(invalid(name, "it has more than 255 bytes"));
        }
        let Some((workspace, repository)) = name.split_once('/') else {
            // Outside the grammar it is invalid whoever asks.
            let _: Workspace = parsed(name)?;
            let kind = match access {
                Access::Read => Kind::NameUnknown,
                Access::Write => Kind::NameInvalid,
            };
            let message = format!(
                "the name {name:?} has one segment: the first segment is the workspace, and the \
                 repository follows it, as in {name}/app"
            );
            return Err(Fault::new(kind, message));
        };
        Ok(Target::new(parsed(workspace)?, parsed(repository)?))
    }

    /// A repository that nobody wrote as a name.
    pub fn new(workspace: Workspace, repository: RepositoryName) -> Target {
        Target { workspace, repository, spelling: Spelling::Whole }
    }

    /// Reads a name that is written within a workspace: the repository alone.
    ///
    /// # Errors
    /// [`Kind::NameInvalid`] outside the grammar, or when the whole name is too long.
    pub fn within(workspace: &Workspace, name: &str) -> Result<Target, Fault> {
        if workspace.as_str().len() + 1 + name.len() > MOST_NAME {
            return Err(invalid(name, "with its workspace it has more than 255 bytes"));
        }
        let (workspace, repository) = (workspace.clone(), parsed(name)?);
        Ok(Target { workspace, repository, spelling: Spelling::Within })
    }

    /// Reads another name of the same request, which is written as this one was.
    ///
    /// # Errors
    /// As [`Path::target`], for a reader.
    pub fn beside(&self, name: &str) -> Result<Target, Fault> {
        match self.spelling {
            Spelling::Whole => Target::parse(name, Access::Read),
            Spelling::Within => Target::within(&self.workspace, name),
        }
    }

    /// Where one of its blobs is.
    pub fn blob(&self, digest: &Digest) -> String {
        format!("/v2/{self}/blobs/{digest}")
    }

    /// Where one of its manifests is.
    pub fn manifest(&self, digest: &Digest) -> String {
        format!("/v2/{self}/manifests/{digest}")
    }

    /// Where one of its uploads goes on.
    pub fn upload(&self, id: &str) -> String {
        format!("/v2/{self}/blobs/uploads/{id}")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.spelling {
            Spelling::Whole => write!(f, "{}/{}", self.workspace, self.repository),
            Spelling::Within => write!(f, "{}", self.repository),
        }
    }
}

/// A repository is the same however its name is written.
impl PartialEq for Target {
    fn eq(&self, other: &Target) -> bool {
        self.workspace == other.workspace && self.repository == other.repository
    }
}

impl Eq for Target {}

/// A digest as a client writes it.
///
/// # Errors
/// [`Kind::DigestInvalid`].
pub fn digest(text: &str) -> Result<Digest, Fault> {
    text.parse().map_err(|error: ParseError| Fault::from(Problem::from(&error)))
}

/// A tag as a client writes it.
///
/// # Errors
/// [`Kind::NameInvalid`]: the specification has no code for tags.
pub fn tag(text: &str) -> Result<Tag, Fault> {
    parsed(text)
}

fn parsed<T>(text: &str) -> Result<T, Fault>
where
    T: std::str::FromStr<Err = cas::workspace::NameError>,
{
    text.parse().map_err(|error: T::Err| Fault::new(Kind::NameInvalid, error.to_string()))
}

fn invalid(name: &str, reason: &str) -> Fault {
    let name: String = name.chars().take(MOST_NAME).collect();
    Fault::new(Kind::NameInvalid, format!("{name:?} is not a valid name: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_from_its_end() {
        let cases = [
            ("/v2", Form::Base, "", ""),
            ("/v2/", Form::Base, "", ""),
            ("/v2/w/r/blobs/uploads/", Form::Uploads, "w/r", ""),
            ("/v2/w/r/blobs/uploads", Form::Uploads, "w/r", ""),
            ("/v2/w/r/blobs/uploads/1-2", Form::Upload, "w/r", "1-2"),
            ("/v2/w/r/blobs/sha256:a", Form::Blob, "w/r", "sha256:a"),
            ("/v2/w/a/b/c/manifests/1", Form::Manifest, "w/a/b/c", "1"),
            ("/v2/w/r/tags/list", Form::Tags, "w/r", ""),
            ("/v2/w/r/referrers/sha256:a", Form::Referrers, "w/r", "sha256:a"),
            // Repositories may be called like words of the API.
            ("/v2/w/blobs/uploads/manifests/x", Form::Manifest, "w/blobs/uploads", "x"),
            ("/v2/w/manifests/tags/list", Form::Tags, "w/manifests", ""),
            ("/v2/w/tags/list/manifests/list", Form::Manifest, "w/tags/list", "list"),
            ("/v2/w/blobs/blobs/uploads/x", Form::Upload, "w/blobs", "x"),
            ("/v2/w/blobs/uploads/blobs/uploads/", Form::Uploads, "w/blobs/uploads", ""),
            ("/v2/app/tags/list", Form::Tags, "app", ""),
        ];
        for (path, form, name, last) in cases {
            let read = parse(path).unwrap_or_else(|| panic!("{path} has no form"));
            let last = if form == Form::Tags { "list" } else { last };
            assert_eq!((read.form, read.name, read.last), (form, name, last), "{path}");
            assert!(is_ours(path), "{path}");
        }
        for path in [
            "/v2/_catalog",
            "/v2/w/r",
            "/v2/w/r/manifests/",
            "/v2/w/r/tags/list/",
            "/v2/w/r/tags/other",
            "/v2/blobs/uploads/",
            "/v2/manifests/1",
            "/v2//",
            "/v2/w/uploads/1",
            "/v1/health",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
        assert!(is_ours("/v2/_catalog") && !is_ours("/v1/health") && !is_ours("/v22/"));
    }

    #[test]
    fn names_are_a_workspace_and_a_repository() {
        let target = |name: &str, access| {
            let path = format!("/v2/{name}/tags/list");
            let read = parse(&path).unwrap_or_else(|| panic!("{path} has no form"));
            read.target(access, None).map(|t| t.to_string()).map_err(|f| (f.kind, f.message))
        };
        let long = format!("w/{}", "a".repeat(253));
        for name in ["w/r", "w/a/b/c", "w/a__b/c.d-e", "ci-1/blobs/uploads", &long] {
            for access in [Access::Read, Access::Write] {
                assert_eq!(target(name, access), Ok(name.to_owned()));
            }
        }
        assert_eq!(target("%77/%72", Access::Read), Ok("w/r".to_owned()));
        for name in [
            "W/r",
            "w/App",
            "w//a",
            "w/a/",
            "w/..",
            "w/_tags",
            "w/%2e%2e",
            "w/a%2fb",
            "w/a%00",
            "w/%ff",
            "w/sha256",
            "App",
            "..",
            &format!("w/{}", "a".repeat(254)),
        ] {
            for access in [Access::Read, Access::Write] {
                let refused = target(name, access).expect_err(name).0;
                assert_eq!(refused, Kind::NameInvalid, "{name}");
            }
        }
        for (access, kind) in
            [(Access::Read, Kind::NameUnknown), (Access::Write, Kind::NameInvalid)]
        {
            let (refused, message) = target("app", access).expect_err("no workspace");
            assert_eq!(refused, kind);
            assert!(message.contains("workspace"), "{message}");
        }
    }

    #[test]
    fn within_a_workspace_names_are_written_without_it() {
        let workspace: Workspace = "w".parse().expect("a workspace");
        let target = |name: &str| {
            let path = format!("/v2/{name}/tags/list");
            let read = parse(&path).unwrap_or_else(|| panic!("{path} has no form"));
            read.target(Access::Write, Some(&workspace))
        };
        for name in ["app", "a/b/c", "w", "%61pp"] {
            let target = target(name).unwrap_or_else(|fault| panic!("{name}: {fault:?}"));
            let written = name.replace("%61", "a");
            assert_eq!((target.workspace.as_str(), target.to_string()), ("w", written.clone()));
            let whole = Target::parse(&format!("w/{written}"), Access::Read).expect("a name");
            assert_eq!(target, whole, "it is the same repository");
            assert_eq!(target.upload("1"), format!("/v2/{written}/blobs/uploads/1"));
            assert_eq!(target.beside("b").expect("a name").to_string(), "b");
            assert_eq!(whole.beside("v/b").expect("a name").to_string(), "v/b");
            assert!(whole.beside("b").is_err());
        }
        for name in ["..", "w/..", "App", "a%2fb", "_x", "sha256", &"a".repeat(254)] {
            assert_eq!(target(name).expect_err(name).kind, Kind::NameInvalid, "{name}");
        }
        assert!(target(&"a".repeat(253)).is_ok());
    }

    #[test]
    fn a_reference_is_a_tag_or_a_digest() {
        let digest = Digest::of(b"x").to_string();
        let encoded = digest.replace(':', "%3A");
        let reference = |text: &str, access| {
            let path = format!("/v2/w/r/manifests/{text}");
            let read = parse(&path).unwrap_or_else(|| panic!("{path} has no form"));
            read.reference(access).map_err(|fault| fault.kind)
        };
        for text in [&digest, &encoded] {
            let read = reference(text, Access::Read);
            assert!(matches!(&read, Ok(Reference::Digest(d)) if d.to_string() == digest), "{text}");
        }
        assert!(matches!(reference("v1.2_x", Access::Write), Ok(Reference::Tag(_))));
        for (text, on_read, on_write) in [
            ("sha256:baddigeststring", Kind::DigestInvalid, Kind::DigestInvalid),
            ("md5:00", Kind::DigestInvalid, Kind::DigestInvalid),
            (".x", Kind::ManifestUnknown, Kind::NameInvalid),
            ("a%2fb", Kind::ManifestUnknown, Kind::NameInvalid),
            (&"t".repeat(129), Kind::ManifestUnknown, Kind::NameInvalid),
        ] {
            assert_eq!(reference(text, Access::Read).err(), Some(on_read), "{text}");
            assert_eq!(reference(text, Access::Write).err(), Some(on_write), "{text}");
        }
        assert!(reference(&"t".repeat(128), Access::Write).is_ok());
    }
}
