//! Names that people give: workspaces, repositories, tags. Parsed once, then types.
//!
//! Repositories and tags follow the grammar of distribution-spec 1.1; a workspace is one segment
//! of a repository name.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Algorithm, Digest, ParseError};

/// A tenant of the store: one path segment of `[a-z0-9]+([._-][a-z0-9]+)*`, at most 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workspace(String);

/// A set of names inside a workspace: segments with `/` between them, at most 255 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepositoryName(String);

/// What a manifest is called in a repository: at most 128 bytes. Ordered by bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(String);

/// `repository:tag`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    repository: RepositoryName,
    tag: Tag,
}

/// What names a manifest in a repository. No tag holds a colon, every digest does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// By what it is called.
    Tag(Tag),
    /// By what it is.
    Digest(Digest),
}

/// A text that is neither a tag nor a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It has no colon and is no tag.
    #[error(transparent)]
    Tag(#[from] NameError),
    /// It has a colon and is no digest.
    #[error(transparent)]
    Digest(#[from] ParseError),
}

/// A text outside the grammar of names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}: {rule}")]
pub struct NameError {
    what: &'static str,
    text: String,
    rule: &'static str,
}

/// Checks that the title of a file is one plain file name of at most 255 bytes.
///
/// # Errors
/// [`NameError`] when it is not.
pub fn check_title(title: &str) -> Result<(), NameError> {
    let is_plain = !title.is_empty()
        && title.len() <= MOST_REPOSITORY
        && title != "."
        && title != ".."
        && !title.contains(['/', '\0']);
    match is_plain {
        true => Ok(()),
        false => Err(NameError {
            what: "title of a file",
            text: title.chars().take(400).collect(),
            rule: "one plain file name, at most 255 bytes",
        }),
    }
}

const MOST: usize = 128;
const MOST_REPOSITORY: usize = 255;

/// `[a-z0-9]+` parts with one of `.`, `_`, `__` or any run of `-` between them.
fn is_segment(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !bytes.first().is_some_and(plain) || !bytes.last().is_some_and(plain) {
        return false;
    }
    bytes.split(plain).all(|between| {
        matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|b| *b == b'-')
    })
}

fn is_tag(text: &str) -> bool {
    let mut bytes = text.bytes();
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= MOST
        && bytes.next().is_some_and(word)
        && bytes.all(|b| word(b) || b == b'.' || b == b'-')
}

// === impl Workspace ===

impl Workspace {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Workspace {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Workspace, NameError> {
        if text.len() <= MOST && is_segment(text) {
            return Ok(Workspace(text.to_owned()));
        }
        Err(NameError {
            what: "workspace",
            text: text.chars().take(160).collect(),
            rule: "lower-case letters and digits, with . _ or - between them, at most 128",
        })
    }
}

impl fmt::Display for Workspace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl RepositoryName, Tag ===

/// A text, cut to what an error may hold.
pub(crate) fn refused(what: &'static str, text: &str, rule: &'static str) -> NameError {
    NameError { what, text: text.chars().take(400).collect(), rule }
}

impl RepositoryName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Result<RepositoryName, &'static str> {
        if text.len() > MOST_REPOSITORY || !text.split('/').all(is_segment) {
            return Err("a repository is lower-case segments with / between, at most 255");
        }
        if Algorithm::from_name(text).is_some() {
            return Err("a repository cannot be called like an algorithm of digests");
        }
        Ok(RepositoryName(text.to_owned()))
    }
}

impl FromStr for RepositoryName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<RepositoryName, NameError> {
        RepositoryName::parse(text).map_err(|rule| refused("repository", text, rule))
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Tag {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn parse(text: &str) -> Result<Tag, &'static str> {
        match is_tag(text) {
            true => Ok(Tag(text.to_owned())),
            false => Err("a tag is letters, digits, _ . and -, at most 128"),
        }
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Tag, NameError> {
        Tag::parse(text).map_err(|rule| refused("tag", text, rule))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Name ===

impl Name {
    /// What `tag` means in `repository`.
    pub fn new(repository: &RepositoryName, tag: &Tag) -> Name {
        Name { repository: repository.clone(), tag: tag.clone() }
    }

    /// The repository inside its workspace.
    pub fn repository(&self) -> &RepositoryName {
        &self.repository
    }

    /// The tag.
    pub fn tag(&self) -> &Tag {
        &self.tag
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        let Some((repository, tag)) = text.rsplit_once(':') else {
            return Err(refused("name", text, "a name is REPOSITORY:TAG"));
        };
        let repository = RepositoryName::parse(repository);
        let repository = repository.map_err(|rule| refused("name", text, rule))?;
        let tag = Tag::parse(tag).map_err(|rule| refused("name", text, rule))?;
        Ok(Name { repository, tag })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

// === impl Reference ===

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        Ok(match text.contains(':') {
            true => Reference::Digest(text.parse()?),
            false => Reference::Tag(text.parse()?),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => tag.fmt(f),
            Reference::Digest(digest) => digest.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_the_grammar() {
        for good in ["default", "ci-42", "a.b_c--d", "a__b", "0"] {
            assert!(good.parse::<Workspace>().is_ok(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", "a/b", "..", "a___b", "_tags", &"a".repeat(129)] {
            assert!(bad.parse::<Workspace>().is_err(), "{bad}");
        }
        for good in ["app:1", "team/app:v1.2-rc_3", "a/b/c:Latest", "app:_x"] {
            assert_eq!(good.parse::<Name>().map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "app",
            "app:",
            ":1",
            "app:.1",
            "app:a/b",
            "../app:1",
            "a//b:1",
            "App:1",
            "_a:1",
            "sha256:dead",
            "sha512:1",
        ] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
        assert!(format!("app:{}", "t".repeat(129)).parse::<Name>().is_err());
    }

    #[test]
    fn a_reference_is_a_tag_or_a_digest() {
        let digest = Digest::of(b"bonded");
        assert_eq!(digest.to_string().parse(), Ok(Reference::Digest(digest)));
        assert_eq!("v1".parse(), Ok(Reference::Tag(Tag("v1".to_owned()))));
        for bad in ["sha256:baddigeststring", "md5:00", ":"] {
            let refused = bad.parse::<Reference>();
            assert!(matches!(refused, Err(ReferenceError::Digest(_))), "{bad}");
        }
        for bad in ["", ".v1", "a/b", &"t".repeat(129)] {
            let refused = bad.parse::<Reference>();
            assert!(matches!(refused, Err(ReferenceError::Tag(_))), "{bad}");
        }
        for (text, good) in [("a/b", true), ("sha256", false), ("a/sha256", true), ("_x", false)] {
            assert_eq!(text.parse::<RepositoryName>().is_ok(), good, "{text}");
        }
    }
}
