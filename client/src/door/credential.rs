//! The credential of one command: made for it, known to it, gone with it.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cas::digest::Digest;
use http::HeaderValue;

use crate::problem::Error;

/// The name that goes with the password.
pub(crate) const USER: &str = "bond";

/// Random bytes in a password: more than anybody tries.
const N_BYTES: usize = 24;
/// No header that is worth decoding is longer.
const LONGEST: usize = 512;

/// What a request must come with.
pub(crate) struct Credential {
    password: String,
    /// The digest of `USER:PASSWORD`.
    expected: Digest,
}

impl Credential {
    /// A new one, that nobody has seen.
    ///
    /// # Errors
    /// [`Error::Source`] when the system gives no random bytes.
    pub(crate) fn random() -> Result<Credential, Error> {
        let mut bytes = [0; N_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| Error::Source {
            doing: "making a password",
            source: io::Error::other(error.to_string()),
        })?;
        let password = URL_SAFE_NO_PAD.encode(bytes);
        let expected = Digest::of(pair(&password).as_bytes());
        Ok(Credential { password, expected })
    }

    /// The password.
    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// Name and password as the configuration files of the tools hold them.
    pub(crate) fn basic(&self) -> String {
        STANDARD.encode(pair(&self.password))
    }

    /// Whether the value of a request's `Authorization` is this credential.
    ///
    /// Digests are compared, and not the texts. How long that takes may tell how many bytes of the
    /// two digests agree; whoever tries passwords cannot steer the digest of one, and so learns
    /// nothing that brings the next try nearer. What was sent may be of any length for the same
    /// reason.
    pub(crate) fn is(&self, value: &HeaderValue) -> bool {
        let text = value.to_str().ok().filter(|text| text.len() <= LONGEST);
        let Some((scheme, word)) = text.and_then(|text| text.split_once(' ')) else {
            return false;
        };
        scheme.eq_ignore_ascii_case("basic")
            && STANDARD.decode(word.trim()).is_ok_and(|pair| Digest::of(&pair) == self.expected)
    }
}

fn pair(password: &str) -> String {
    format!("{USER}:{password}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_credential_itself_is_it() {
        let own = Credential::random().expect("random bytes");
        let other = Credential::random().expect("random bytes");
        assert_ne!(own.password(), other.password());
        assert!(own.password().len() * 6 >= 128, "bits");
        let basic = own.basic();
        for (value, is_it) in [
            (format!("Basic {basic}"), true),
            (format!("basic {basic}"), true),
            (format!("Basic {}", other.basic()), false),
            (format!("Bearer {basic}"), false),
            (format!("Basic {}", STANDARD.encode(format!("{USER}:"))), false),
            (format!("Basic {}", STANDARD.encode(format!("root:{}", own.password()))), false),
            (format!("Basic {}", STANDARD.encode(own.password())), false),
            (format!("Basic {}", &basic[..basic.len() - 4]), false),
            (format!("Basic {basic}{}", "A".repeat(LONGEST)), false),
            (basic.clone(), false),
            ("Basic".to_owned(), false),
            (String::new(), false),
        ] {
            let header = HeaderValue::from_str(&value).expect("a header");
            assert_eq!(own.is(&header), is_it, "{value}");
        }
    }
}
