//! What a digest is, and how one is computed.
//!
//! A digest is a type, never a string: whoever holds a [`Digest`] holds an algorithm and exactly
//! as many bytes as that algorithm makes, so a path built from it cannot leave its folder. This
//! room knows nothing of files, manifests or errors of anybody else.
//!
//! The grammar is the one of the OCI image specification 1.1, "Digests", narrowed to the two
//! algorithms that it registers and to lower-case hex.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// A registered digest algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// `sha256`: 32 bytes, 64 hex digits.
    Sha256,
    /// `sha512`: 64 bytes, 128 hex digits.
    Sha512,
}

impl Algorithm {
    /// Every algorithm that is known.
    pub const ALL: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

    /// The name in front of the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    /// The number of bytes of a digest.
    pub fn size(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    /// The algorithm of that name.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|a| a.name() == name)
    }
}

/// `algorithm:hex`, parsed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

/// Why a text is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// There is no `algorithm:` in front, or what follows is not lower-case hex of the right length.
    #[error("{text:?} is not a digest: {reason}")]
    Malformed {
        /// The text, cut to 160 characters.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The algorithm is not one that this store computes.
    #[error("{text:?} names a digest algorithm that is not supported (sha256 and sha512 are)")]
    Algorithm {
        /// The text, cut to 160 characters.
        text: String,
    },
}

/// Hex digits of [`check_of`].
pub(crate) const CHECK: usize = 16;

/// The check of a line in a file of the store's own, against rot and torn writes: the first hex digits of its
/// SHA-256.
pub(crate) fn check_of(line: &str) -> String {
    let mut check = Digest::of(line.as_bytes()).hex();
    check.truncate(CHECK);
    check
}

impl Digest {
    /// The SHA-256 of these bytes.
    pub fn of(bytes: &[u8]) -> Digest {
        Digest::compute(Algorithm::Sha256, bytes)
    }

    /// The digest of these bytes by that algorithm.
    pub fn compute(algorithm: Algorithm, bytes: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size()]
    }

    /// The lower-case hex digits, without the algorithm.
    pub fn hex(&self) -> String {
        self.digits(&mut [0; 128]).to_owned()
    }

    fn digits<'a>(&self, space: &'a mut [u8; 128]) -> &'a str {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for (pair, byte) in space.chunks_exact_mut(2).zip(self.bytes()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        std::str::from_utf8(&space[..self.algorithm.size() * 2]).unwrap_or_default()
    }

    /// A digest from its algorithm and hex digits, as they stand in a layout's folders.
    ///
    /// # Errors
    /// [`ParseError::Malformed`] when the digits are not lower-case hex of the right length.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Digest, ParseError> {
        let malformed = |reason| ParseError::Malformed { text: cut(hex), reason };
        if hex.len() != algorithm.size() * 2 {
            return Err(malformed("the number of hex digits does not fit the algorithm"));
        }
        let mut bytes = [0; 64];
        for (slot, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else {
                return Err(malformed("hex digits must be 0-9 and a-f"));
            };
            *slot = high << 4 | low;
        }
        Ok(Digest { algorithm, bytes })
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

fn cut(text: &str) -> String {
    text.chars().take(160).collect()
}

impl FromStr for Digest {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Digest, ParseError> {
        let Some((name, hex)) = text.split_once(':') else {
            return Err(ParseError::Malformed {
                text: cut(text),
                reason: "it has no algorithm in front of a colon",
            });
        };
        match Algorithm::from_name(name) {
            Some(algorithm) => Digest::from_hex(algorithm, hex).map_err(|error| match error {
                ParseError::Malformed { reason, .. } => {
                    ParseError::Malformed { text: cut(text), reason }
                }
                other => other,
            }),
            None => Err(ParseError::Algorithm { text: cut(text) }),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm.name())?;
        f.write_str(":")?;
        f.write_str(self.digits(&mut [0; 128]))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A digest in the making.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(sha2::Sha256),
    /// SHA-512.
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher that has seen no bytes.
    pub fn new(algorithm: Algorithm) -> Hasher {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(sha2::Sha512::new()),
        }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all bytes seen.
    pub fn finish(self) -> Digest {
        let mut bytes = [0; 64];
        let algorithm = match self {
            Hasher::Sha256(hasher) => {
                bytes[..32].copy_from_slice(&hasher.finalize());
                Algorithm::Sha256
            }
            Hasher::Sha512(hasher) => {
                bytes.copy_from_slice(&hasher.finalize());
                Algorithm::Sha512
            }
        };
        Digest { algorithm, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_grammar_of_the_specification_is_a_digest() {
        let good = Digest::of(b"bonded").to_string();
        assert_eq!(good.parse::<Digest>().map(|d| d.to_string()), Ok(good.clone()));
        let sha512 = Digest::compute(Algorithm::Sha512, b"").to_string();
        assert_eq!(sha512.parse::<Digest>().map(|d| d.to_string()), Ok(sha512));

        let hex = &good["sha256:".len()..];
        let malformed = [
            String::new(),
            hex.to_owned(),
            good.to_uppercase().replace("SHA256", "sha256"),
            good[..good.len() - 1].to_owned(),
            format!("{good}0"),
            format!("sha256:../../{}", &hex[6..]),
            format!("sha256:{}/", &hex[1..]),
            format!("sha512:{hex}"),
        ];
        for text in malformed {
            let refused = text.parse::<Digest>();
            assert!(matches!(refused, Err(ParseError::Malformed { .. })), "{text:?}: {refused:?}");
        }
        for text in [format!("md5:{hex}"), format!("SHA256:{hex}"), format!(":{hex}")] {
            let refused = text.parse::<Digest>();
            assert!(matches!(refused, Err(ParseError::Algorithm { .. })), "{text:?}: {refused:?}");
        }
    }
}
