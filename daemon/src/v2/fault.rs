//! What goes wrong at the front door: the one map from a problem to a status and to a code of the
//! distribution specification.
//!
//! The specification has fourteen codes, and answers of the 400s may have no other. So several
//! kinds of fault share a code, and the message tells them apart. What goes into the log is our
//! own code, which the rest of the daemon knows too.

use cas::digest::Digest;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use wire::{Code, Problem};

use crate::{refusal, status};

/// Why a request at the front door was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A name or tag outside the grammar, or a name that lacks its workspace.
    NameInvalid,
    /// No such repository, or the peer may not know of it.
    NameUnknown,
    /// No such blob in this repository.
    BlobUnknown,
    /// No such manifest in this repository.
    ManifestUnknown,
    /// No such upload in this repository, of this peer.
    UploadUnknown,
    /// A text is no digest, or the bytes are not those of the digest.
    DigestInvalid,
    /// There are more or fewer bytes than was said.
    SizeInvalid,
    /// A chunk or an upload makes no sense.
    UploadInvalid,
    /// A chunk does not begin where the upload has come to.
    OutOfOrder,
    /// No byte of the range is there.
    OutOfReach,
    /// A manifest makes no sense.
    ManifestInvalid,
    /// A manifest names what is not there.
    ManifestBlobUnknown,
    /// A manifest, or what it reaches, is more than may be.
    TooLarge,
    /// The tag may not be moved.
    TagTaken,
    /// A listed manifest needs this.
    Needed,
    /// The peer may see it and not do this.
    Denied,
    /// Nobody knows who it is, and it has to say so.
    Unauthorized,
    /// Too much is asked at once.
    TooMany,
    /// More tags than one push may set.
    TooManyTags,
    /// The request makes no sense, or asks for what is not there to be asked for.
    Unsupported,
    /// Nothing of this form is here.
    NoSuchPath,
    /// The path is there and not for this method.
    NoSuchMethod,
    /// There is no room on the disk, or none left for the workspace.
    Full,
    /// The client was too slow.
    TooSlow,
    /// The store or the daemon failed.
    Broken,
}

/// One fault, as the client is told.
#[derive(Debug)]
pub struct Fault {
    /// What kind it is.
    pub kind: Kind,
    /// What the log says.
    pub code: Code,
    /// What happened, to what.
    pub message: String,
    /// The digests that it is about, where there may be several.
    pub digests: Vec<Digest>,
    /// Fields of the answer's header beside those that its kind has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

/// After so many seconds a client may try again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("2");
/// How to say who one is (RFC 7617).
const CHALLENGE: HeaderValue = HeaderValue::from_static(r#"Basic realm="bonded", charset="UTF-8""#);

// === impl Kind ===

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 25] = [
        Kind::NameInvalid,
        Kind::NameUnknown,
        Kind::BlobUnknown,
        Kind::ManifestUnknown,
        Kind::UploadUnknown,
        Kind::DigestInvalid,
        Kind::SizeInvalid,
        Kind::UploadInvalid,
        Kind::OutOfOrder,
        Kind::OutOfReach,
        Kind::ManifestInvalid,
        Kind::ManifestBlobUnknown,
        Kind::TooLarge,
        Kind::TagTaken,
        Kind::Needed,
        Kind::Denied,
        Kind::Unauthorized,
        Kind::TooMany,
        Kind::TooManyTags,
        Kind::Unsupported,
        Kind::NoSuchPath,
        Kind::NoSuchMethod,
        Kind::Full,
        Kind::TooSlow,
        Kind::Broken,
    ];

    /// The status of the answer and the specification's code.
    pub fn told(self) -> (StatusCode, &'static str) {
        let code = match self {
            Kind::NameInvalid => "NAME_INVALID",
            Kind::NameUnknown => "NAME_UNKNOWN",
            Kind::BlobUnknown => "BLOB_UNKNOWN",
            Kind::ManifestUnknown => "MANIFEST_UNKNOWN",
            Kind::UploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Kind::DigestInvalid => "DIGEST_INVALID",
            // Not MANIFEST_INVALID for what is too large: skopeo would convert it and try again.
            Kind::SizeInvalid | Kind::TooLarge => "SIZE_INVALID",
            // None of the list says "too slow"; it is always an upload that was.
            Kind::UploadInvalid | Kind::OutOfOrder | Kind::OutOfReach | Kind::TooSlow => {
                "BLOB_UPLOAD_INVALID"
            }
            Kind::ManifestInvalid => "MANIFEST_INVALID",
            Kind::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Kind::TagTaken | Kind::Denied | Kind::Full => "DENIED",
            Kind::Needed
            | Kind::TooManyTags
            | Kind::Unsupported
            | Kind::NoSuchPath
            | Kind::NoSuchMethod => "UNSUPPORTED",
            Kind::Unauthorized => "UNAUTHORIZED",
            Kind::TooMany => "TOOMANYREQUESTS",
            Kind::Broken => "UNKNOWN",
        };
        (status::of_fault(self), code)
    }

    /// What the log says when nobody says it better.
    fn code(self) -> Code {
        match self {
            Kind::NameInvalid => Code::NameInvalid,
            Kind::NameUnknown
            | Kind::BlobUnknown
            | Kind::ManifestUnknown
            | Kind::UploadUnknown
            | Kind::NoSuchPath => Code::NotFound,
            Kind::DigestInvalid => Code::DigestInvalid,
            Kind::SizeInvalid => Code::WrongSize,
            Kind::UploadInvalid
            | Kind::OutOfOrder
            | Kind::OutOfReach
            | Kind::TooManyTags
            | Kind::Unsupported
            | Kind::NoSuchMethod => Code::Usage,
            Kind::ManifestInvalid => Code::ManifestInvalid,
            Kind::ManifestBlobUnknown => Code::Missing,
            Kind::TooLarge => Code::ManifestTooLarge,
            Kind::TagTaken => Code::TagTaken,
            Kind::Needed => Code::Needed,
            Kind::Denied | Kind::Unauthorized => Code::Forbidden,
            Kind::TooMany => Code::Busy,
            Kind::Full => Code::DiskFull,
            Kind::TooSlow => Code::Timeout,
            Kind::Broken => Code::Internal,
        }
    }

    /// What a problem of the daemon's or the store's is at the front door, where the verb does not
    /// know better.
    fn of(code: Code) -> Kind {
        match code {
            Code::Usage
            | Code::DescriptorRefused
            | Code::SourceChanged
            | Code::Symlink
            | Code::NotRegular
            | Code::LayoutInvalid
            | Code::ArchiveLink
            | Code::ArchiveDuplicate
            | Code::ArchiveName
            | Code::ArchiveTruncated
            | Code::ArchiveInvalid => Kind::Unsupported,
            Code::Forbidden => Kind::Denied,
            Code::NotFound => Kind::BlobUnknown,
            Code::Ambiguous => Kind::ManifestUnknown,
            Code::Busy => Kind::TooMany,
            Code::Timeout => Kind::TooSlow,
            Code::LocalIo => Kind::UploadInvalid,
            Code::DiskFull | Code::Quota => Kind::Full,
            Code::Mismatch | Code::DigestInvalid | Code::DigestUnsupported => Kind::DigestInvalid,
            Code::WrongSize => Kind::SizeInvalid,
            Code::Missing => Kind::ManifestBlobUnknown,
            Code::MediaType
            | Code::BothKinds
            | Code::ManifestInvalid
            | Code::TrailingBytes
            | Code::Cycle => Kind::ManifestInvalid,
            Code::ManifestTooLarge | Code::TooDeep | Code::TooManyEntries => Kind::TooLarge,
            Code::NameInvalid => Kind::NameInvalid,
            Code::TagTaken => Kind::TagTaken,
            Code::Needed => Kind::Needed,
            Code::Internal
            | Code::Unreachable
            | Code::Corrupt
            | Code::StoreIo
            | Code::Locked
            | Code::Config => Kind::Broken,
        }
    }
}

// === impl Fault ===

impl Fault {
    /// A fault with nothing but a kind and a message.
    pub fn new(kind: Kind, message: impl Into<String>) -> Fault {
        Fault {
            kind,
            code: kind.code(),
            message: message.into(),
            digests: Vec::new(),
            headers: Vec::new(),
        }
    }

    /// The same with a field of the answer's header; one that is no text is left out.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: &str) -> Fault {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// The same as another kind, if it is of this one.
    #[must_use]
    pub fn seen_as(mut self, from: Kind, to: Kind) -> Fault {
        if self.kind == from {
            self.kind = to;
        }
        self
    }

    /// Status, header fields and JSON body of the answer.
    pub fn answer(self) -> (StatusCode, Vec<(HeaderName, HeaderValue)>, Vec<u8>) {
        let (status, code) = self.kind.told();
        let detail = (!self.digests.is_empty()).then(|| Detail {
            digests: self.digests.iter().take(100).map(Digest::to_string).collect(),
        });
        let body = Errors { errors: [Told { code, message: &self.message, detail }] };
        let mut headers = self.headers;
        match self.kind {
            Kind::TooMany => headers.push((header::RETRY_AFTER, RETRY_AFTER)),
            Kind::Unauthorized => headers.push((header::WWW_AUTHENTICATE, CHALLENGE)),
            _ => {}
        }
        (status, headers, serde_json::to_vec(&body).unwrap_or_default())
    }
}

impl From<cas::Error> for Fault {
    fn from(error: cas::Error) -> Fault {
        let missing = match &error {
            cas::Error::Incomplete { missing } => missing.clone(),
            _ => Vec::new(),
        };
        let mut fault = Fault::from(refusal::problem(error));
        if !missing.is_empty() {
            fault.digests = missing;
        }
        fault
    }
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Fault {
        let Problem { code, message, hint, digest, .. } = problem;
        let kind = Kind::of(code);
        let message = match hint {
            Some(hint) => format!("{message} ({hint})"),
            None => message,
        };
        // Which one is missing is for the client to read; other digests stand in the message.
        let digests = digest.into_iter().filter(|_| kind == Kind::ManifestBlobUnknown).collect();
        Fault { kind, code, message, digests, headers: Vec::new() }
    }
}

#[derive(Serialize)]
struct Errors<'a> {
    errors: [Told<'a>; 1],
}

#[derive(Serialize)]
struct Told<'a> {
    code: &'static str,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<Detail>,
}

#[derive(Serialize)]
struct Detail {
    digests: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "Error Codes" of the distribution specification.
    const CODES: [&str; 14] = [
        "BLOB_UNKNOWN",
        "BLOB_UPLOAD_INVALID",
        "BLOB_UPLOAD_UNKNOWN",
        "DIGEST_INVALID",
        "MANIFEST_BLOB_UNKNOWN",
        "MANIFEST_INVALID",
        "MANIFEST_UNKNOWN",
        "NAME_INVALID",
        "NAME_UNKNOWN",
        "SIZE_INVALID",
        "UNAUTHORIZED",
        "DENIED",
        "UNSUPPORTED",
        "TOOMANYREQUESTS",
    ];

    #[test]
    fn answers_of_the_400s_have_codes_of_the_specification() {
        for (number, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number, "{kind:?}");
            let (status, code) = kind.told();
            assert!(status.is_client_error() || status.is_server_error(), "{kind:?}");
            assert!(status.is_server_error() || CODES.contains(&code), "{kind:?}: {code}");
        }
    }

    #[test]
    fn the_document_tells_of_every_status_and_code() {
        // The rows of its table of errors: | STATUS | CODE, CODE | …
        let told: Vec<(&str, Vec<&str>)> = include_str!("../../../docs/http.md")
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| ")?.split(" | ");
                let status = cells.next().filter(|cell| cell.len() == 3)?;
                Some((status, cells.next()?.split(", ").collect()))
            })
            .collect();
        for kind in Kind::ALL {
            let (status, code) = kind.told();
            let is_told =
                told.iter().any(|(s, codes)| *s == status.as_str() && codes.contains(&code));
            assert!(is_told, "{kind:?}: {status} {code}");
        }
    }

    #[test]
    fn both_maps_blame_the_same_side() {
        for code in Code::ALL {
            let fault = Fault::from(Problem::new(*code, "x"));
            let (ours, theirs) = (status::of(*code), fault.kind.told().0);
            // To be asked too much is the client's matter here: it is told when to come back.
            let same = ours.is_server_error() == theirs.is_server_error() || *code == Code::Busy;
            assert!(same, "{code:?}: {ours} and {theirs}");
        }
    }

    #[test]
    fn a_fault_is_told_as_the_specification_writes_it() {
        let digest = Digest::of(b"x");
        let missing = Problem::new(Code::Missing, "it is missing").about(digest).hint("bring it");
        let (status, headers, body) = Fault::from(missing).answer();
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        let expected = serde_json::json!({ "errors": [{
            "code": "MANIFEST_BLOB_UNKNOWN",
            "message": "it is missing (bring it)",
            "detail": { "digests": [digest.to_string()] },
        }]});
        assert_eq!((status, headers.len(), body), (StatusCode::NOT_FOUND, 0, expected));

        let (status, headers, _) = Fault::new(Kind::TooMany, "wait").answer();
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(headers, [(header::RETRY_AFTER, RETRY_AFTER)]);

        let (status, headers, _) = Fault::new(Kind::Unauthorized, "who?").answer();
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(headers, [(header::WWW_AUTHENTICATE, CHALLENGE)]);
    }
}
