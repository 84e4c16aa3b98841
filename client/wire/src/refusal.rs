//! From a refusal of what was brought to what stands on the wire: one map for both ends.
//!
//! The client finds most refusals itself, before a byte goes out; the daemon finds them again,
//! because it believes no client. Both say the same.

use cas::digest::ParseError;
use cas::oci::Refusal;

use crate::code::{Code, Problem};

impl From<&ParseError> for Problem {
    fn from(error: &ParseError) -> Problem {
        Problem::new(of_digest(error), error.to_string())
    }
}

impl From<&Refusal> for Problem {
    fn from(refusal: &Refusal) -> Problem {
        use Refusal as R;
        let (code, digest, hint) = match refusal {
            R::Mismatch { claimed, .. } => (Code::Mismatch, claimed, None),
            R::WrongSize { digest, .. } => (Code::WrongSize, digest, None),
            R::Missing { digest, .. } => {
                (Code::Missing, digest, Some("everything that the root reaches must be brought"))
            }
            R::MediaType { digest, .. } => (Code::MediaType, digest, None),
            R::BothKinds { digest } => (Code::BothKinds, digest, None),
            R::Malformed { digest, .. } => (Code::ManifestInvalid, digest, None),
            R::TrailingBytes { digest } => (Code::TrailingBytes, digest, None),
            R::Digest { document, error } => (of_digest(error), document, None),
            R::TooLarge { digest, .. } => (
                Code::ManifestTooLarge,
                digest,
                Some("limits.manifest_size of bonded sets the limit"),
            ),
            R::ManifestsTooLarge { root, .. } => (
                Code::ManifestTooLarge,
                root,
                Some("limits.manifests_size of bonded sets the limit"),
            ),
            R::TooDeep { digest, .. } => {
                (Code::TooDeep, digest, Some("limits.depth of bonded sets the limit"))
            }
            R::Cycle { digest } => (Code::Cycle, digest, None),
            R::TooManyEntries { root, .. } => {
                (Code::TooManyEntries, root, Some("limits.entries of bonded sets the limit"))
            }
        };
        let problem = Problem::new(code, refusal.to_string()).about(*digest);
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

fn of_digest(error: &ParseError) -> Code {
    match error {
        ParseError::Malformed { .. } => Code::DigestInvalid,
        ParseError::Algorithm { .. } => Code::DigestUnsupported,
    }
}
