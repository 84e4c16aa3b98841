//! Names that people give: workspaces, repositories, tags. Parsed once, then types.
//!
//! Repositories and tags follow the grammar of distribution-spec 1.1; a workspace is one segment
//! of a repository name.

use std::fmt;
use std::str::FromStr;

use crate::digest::Algorithm;

/// A tenant of the store: one path segment of `[a-z0-9]+([._-][a-z0-9]+)*`, at most 128 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Workspace(String);

/// `repository:tag`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    repository: String,
    tag: String,
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

// === impl Name ===

impl Name {
    /// The repository inside its workspace.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        let refused =
            |rule| NameError { what: "name", text: text.chars().take(400).collect(), rule };
        let Some((repository, tag)) = text.rsplit_once(':') else {
            return Err(refused("a name is REPOSITORY:TAG"));
        };
        if repository.len() > MOST_REPOSITORY || !repository.split('/').all(is_segment) {
            return Err(refused("a repository is lower-case segments with / between, at most 255"));
        }
        if Algorithm::from_name(repository).is_some() {
            return Err(refused("a repository cannot be called like an algorithm of digests"));
        }
        if !is_tag(tag) {
            return Err(refused("a tag is letters, digits, _ . and -, at most 128"));
        }
        Ok(Name { repository: repository.to_owned(), tag: tag.to_owned() })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
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
}
