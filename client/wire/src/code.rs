//! The closed list of errors: the same on the wire, in the log and as exit codes of `bond`.

use cas::digest::Digest;
use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, exit $exit:literal;)+) => {
        /// Why something was not done. The name is what stands on the wire; the exit code is what
        /// `bond` ends with. Neither ever changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Code { $($(#[doc = $doc])+ $variant,)+ }

        impl Code {
            /// Every code, in the order of its exit codes.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)+];

            /// The name on the wire and in the log.
            pub fn name(self) -> &'static str { match self { $(Code::$variant => $name,)+ } }

            /// The exit code of `bond`.
            pub fn exit(self) -> u8 { match self { $(Code::$variant => $exit,)+ } }

            /// What it means, in a sentence.
            pub fn meaning(self) -> &'static str {
                match self { $(Code::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// Something went wrong inside; the log of the daemon says what.
    Internal = "internal", exit 1;
    /// The command line or the request does not make sense.
    Usage = "usage", exit 2;
    /// The daemon cannot be reached.
    Unreachable = "unreachable", exit 3;
    /// The peer may not do this.
    Forbidden = "forbidden", exit 4;
    /// Nothing of that name or digest is there, or the peer may not know of it.
    NotFound = "not_found", exit 5;
    /// Several things are meant; the candidates are listed.
    Ambiguous = "ambiguous", exit 6;
    /// Too much is asked at once: try again later.
    Busy = "busy", exit 7;
    /// Something took longer than it may.
    Timeout = "timeout", exit 8;
    /// A file of the caller could not be read or written.
    LocalIo = "local_io", exit 9;
    /// The store's own bytes are not what they were; they are never handed out.
    Corrupt = "corrupt", exit 10;
    /// The store's disk reported an error.
    StoreIo = "store_io", exit 11;
    /// The store's disk is full.
    DiskFull = "disk_full", exit 12;
    /// The workspace's quota is used up.
    Quota = "quota", exit 13;
    /// Another daemon holds the store.
    Locked = "locked", exit 14;
    /// The configuration is wrong.
    Config = "config", exit 15;
    /// The bytes are not those of the claimed digest.
    Mismatch = "mismatch", exit 20;
    /// There are more or fewer bytes than claimed.
    WrongSize = "wrong_size", exit 21;
    /// A blob or manifest of the closure is missing.
    Missing = "missing", exit 22;
    /// A document's media type contradicts its descriptor.
    MediaType = "media_type", exit 23;
    /// A document has both manifests and layers.
    BothKinds = "both_kinds", exit 24;
    /// A document is no valid manifest.
    ManifestInvalid = "manifest_invalid", exit 25;
    /// Bytes follow the end of a document.
    TrailingBytes = "trailing_bytes", exit 26;
    /// A text is no digest.
    DigestInvalid = "digest_invalid", exit 27;
    /// A digest's algorithm is not supported.
    DigestUnsupported = "digest_unsupported", exit 28;
    /// A manifest is larger than the limit.
    ManifestTooLarge = "manifest_too_large", exit 29;
    /// Indexes nest deeper than the limit.
    TooDeep = "too_deep", exit 30;
    /// A document reaches itself.
    Cycle = "cycle", exit 31;
    /// There are more entries than the limit.
    TooManyEntries = "too_many_entries", exit 32;
    /// A symlink stands where a regular file must.
    Symlink = "symlink", exit 33;
    /// A folder, FIFO, socket or device stands where a regular file must.
    NotRegular = "not_regular", exit 34;
    /// A descriptor is not of a regular file on a local filesystem that is open for reading.
    DescriptorRefused = "descriptor_refused", exit 35;
    /// A file changed while it was read.
    SourceChanged = "source_changed", exit 36;
    /// The folder is no OCI layout.
    LayoutInvalid = "layout_invalid", exit 37;
    /// The archive holds a link.
    ArchiveLink = "archive_link", exit 38;
    /// The archive holds the same name twice.
    ArchiveDuplicate = "archive_duplicate", exit 39;
    /// The archive holds an absolute name or one that leaves it.
    ArchiveName = "archive_name", exit 40;
    /// The archive ends too early.
    ArchiveTruncated = "archive_truncated", exit 41;
    /// The file is no archive that can be read in place.
    ArchiveInvalid = "archive_invalid", exit 42;
    /// A workspace, repository or tag has a name outside the grammar.
    NameInvalid = "name_invalid", exit 43;
    /// A manifest that is listed in the repository needs it.
    Needed = "needed", exit 44;
    /// The tag is there already, and tags like it are not moved.
    TagTaken = "tag_taken", exit 45;
}

/// An error as it stands in the body of an answer: `{"error": {…}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Which one of the closed list.
    pub code: Code,
    /// What happened, to what.
    pub message: String,
    /// What to do about it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The digest that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The files that it is about: the caller's own, or names inside a layout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
    /// What could have been meant, as references to type.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<String>,
}

impl Problem {
    /// A problem with nothing but a code and a message.
    pub fn new(code: Code, message: impl Into<String>) -> Problem {
        Problem {
            code,
            message: message.into(),
            hint: None,
            digest: None,
            files: Vec::new(),
            candidates: Vec::new(),
        }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Problem {
        self.hint = Some(hint.into());
        self
    }

    /// The same with the digest that it is about.
    #[must_use]
    pub fn about(mut self, digest: Digest) -> Problem {
        self.digest = Some(digest);
        self
    }

    /// The same with a file that it is about.
    #[must_use]
    pub fn file(mut self, file: impl Into<String>) -> Problem {
        self.files.push(file.into());
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_and_exit_codes_are_one_to_one() {
        let names: HashSet<_> = Code::ALL.iter().map(|c| c.name()).collect();
        let exits: HashSet<_> = Code::ALL.iter().map(|c| c.exit()).collect();
        assert_eq!((names.len(), exits.len()), (Code::ALL.len(), Code::ALL.len()));
        for code in Code::ALL {
            assert_eq!(serde_json::to_value(code).ok(), Some(code.name().into()));
        }
    }
}
