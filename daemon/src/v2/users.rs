//! The users of the registry: a file in the form of Apache's `htpasswd`, bcrypt only, and whether a
//! password is that of a user. It knows nothing of requests; checking a password blocks.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use bcrypt::HashParts;
use cas::digest::Digest;

use crate::named_file;
use crate::policy::EVERY_USER;

/// Bytes of the file: some ten thousand users.
const MOST_BYTES: u64 = 1 << 20;
/// The longest name.
const MOST_NAME: usize = 128;
/// What a hash may cost: at 15 one check takes a core for about two seconds.
const COSTS: std::ops::RangeInclusive<u32> = 4..=15;
/// The length of `$2y$CC$`, salt and hash.
const LENGTH: usize = 60;

/// Users and the hashes of their passwords.
pub struct Users {
    /// Where each one's hash is in the list.
    by_name: HashMap<Arc<str>, usize>,
    hashes: Vec<String>,
    /// So that nobody outside can tell which hash stands in for which unknown name.
    seed: [u8; 32],
}

impl Users {
    /// Reads a file of users.
    ///
    /// # Errors
    /// `FILE:LINE: REASON`; never a part of a hash.
    pub fn load(path: &Path) -> Result<Users, String> {
        let file = named_file::read(path, MOST_BYTES)?;
        let refused = |reason: &dyn fmt::Display| format!("{}: {reason}", path.display());
        file.refuse(path, 0o002, "not write it", "o-w")?;
        let text = String::from_utf8(file.bytes).map_err(|_| refused(&"it is no UTF-8"))?;
        Users::parse(&text).map_err(|(line, reason)| match line {
            0 => refused(&reason),
            _ => format!("{}:{line}: {reason}", path.display()),
        })
    }

    /// Users from the lines of a file. Empty lines, and those that begin with `#`, say nothing.
    ///
    /// # Errors
    /// The number of the line, or 0, and what is wrong with it.
    pub fn parse(text: &str) -> Result<Users, (usize, String)> {
        let (mut by_name, mut hashes) = (HashMap::new(), Vec::new());
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let refused = |reason: String| (number + 1, reason);
            let (name, hash) = entry(line).map_err(refused)?;
            if by_name.insert(Arc::from(name), hashes.len()).is_some() {
                return Err(refused(format!("the user {name:?} stands there twice")));
            }
            hashes.push(hash.to_owned());
        }
        if hashes.is_empty() {
            return Err((0, "there is no user in it".to_owned()));
        }
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).map_err(|e| (0, format!("no random bytes: {e}")))?;
        Ok(Users { by_name, hashes, seed })
    }

    /// How many there are.
    pub fn n_users(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there is a user of this name.
    pub fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Whether this is the password of this user. Takes the processor for as long as the hash
    /// costs; for a user that is not there it takes as long as for one who is.
    pub fn verify(&self, name: &str, password: &[u8]) -> bool {
        let known = self.by_name.get(name).copied();
        let hash = known.unwrap_or_else(|| self.stand_in(name));
        // The crate compares in constant time. Every hash was parsed when the file was read.
        let is_right = bcrypt::verify(password, &self.hashes[hash]).unwrap_or(false);
        is_right && known.is_some()
    }

    /// The hash that an unknown name is checked against: always the same for one name, so that it
    /// costs what that of a user could.
    fn stand_in(&self, name: &str) -> usize {
        let digest = Digest::of(&[&self.seed, name.as_bytes()].concat());
        let number = digest
            .bytes()
            .iter()
            .fold(0, |n: usize, byte| (n << 8 | usize::from(*byte)) % self.hashes.len());
        number.min(self.hashes.len() - 1)
    }
}

impl fmt::Debug for Users {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Users({})", self.n_users())
    }
}

/// A line: a name and a hash.
fn entry(line: &str) -> Result<(&str, &str), String> {
    let Some((name, hash)) = line.split_once(':') else {
        return Err("a line is NAME:HASH".to_owned());
    };
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace();
    if name.is_empty() || name.len() > MOST_NAME || !name.chars().all(is_plain) {
        return Err(format!(
            "a name has 1 to {MOST_NAME} bytes, and no blank or control character"
        ));
    }
    if name == EVERY_USER {
        return Err(format!("{EVERY_USER:?} stands for every user, so nobody is called so"));
    }
    let is_bcrypt = ["$2y$", "$2b$", "$2a$"].iter().any(|kind| hash.starts_with(kind));
    if !is_bcrypt {
        return Err(format!(
            "the password of {name:?} is not kept as bcrypt, and nothing else is taken: make the \
             line with htpasswd -B"
        ));
    }
    let malformed = || format!("the hash of {name:?} is no bcrypt hash of {LENGTH} bytes");
    let parts: HashParts =
        hash.parse().ok().filter(|_| hash.len() == LENGTH).ok_or_else(malformed)?;
    let cost = parts.get_cost();
    if !COSTS.contains(&cost) {
        let (least, most) = (COSTS.start(), COSTS.end());
        return Err(format!("the hash of {name:?} costs {cost}; it may cost {least} to {most}"));
    }
    Ok((name, hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    // Made by crypt(3) of libxcrypt, the password in front.
    const ADA: (&str, &str) =
        ("correct horse", "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2");
    const BOB: (&str, &str) =
        ("battery staple", "$2b$05$abcdefghijklmnopqrstuumjewjQVmxxbBHy234HdGTOAqOuVnhhy");

    #[test]
    fn a_password_is_that_of_its_user_and_of_no_other() {
        let text = format!("# users\n\nada:{}\nbob:{}\r\nAda:{}\n", ADA.1, BOB.1, BOB.1);
        let users = Users::parse(&text).expect("users");
        assert_eq!(users.n_users(), 3);
        for (name, password, is_right) in [
            ("ada", ADA.0, true),
            ("bob", BOB.0, true),
            ("Ada", BOB.0, true),
            ("ada", BOB.0, false),
            ("ada", "", false),
            ("ada", "correct horse ", false),
            ("bob", ADA.0, false),
            // A stand-in's password opens nothing.
            ("eve", ADA.0, false),
            ("eve", BOB.0, false),
            ("", ADA.0, false),
        ] {
            assert_eq!(users.verify(name, password.as_bytes()), is_right, "{name} {password}");
        }
    }

    #[test]
    fn every_spelling_of_bcrypt_is_taken_and_nothing_else() {
        let rest = &ADA.1[4..];
        let good = |kind: &str| (format!("ada:{kind}{rest}\n"), true);
        let bad = |line: &str| (format!("bob:{}\n{line}\n", BOB.1), false);
        let hash = ADA.1;
        for (text, is_good) in [
            good("$2y$"),
            good("$2b$"),
            good("$2a$"),
            (format!("ada:{}\n", hash.replace("$05$", "$15$")), true),
            (format!("ädä:{hash}"), true),
            bad(&format!("ada:$2x${rest}")),
            bad(&format!("ada:$2${rest}")),
            bad("ada:$apr1$9Cv/OMGj$tuFVB9bQjuYbDfC.9Wwuf1"),
            bad("ada:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g="),
            bad("ada:$5$saltsalt$x"),
            bad("ada:correct horse"),
            bad("ada:"),
            bad("ada"),
            bad(&format!(":{hash}")),
            bad(&format!("*:{hash}")),
            bad(&format!("a b:{hash}")),
            bad(&format!("{}:{hash}", "x".repeat(129))),
            bad(&format!("ada:{hash}:more")),
            bad(&format!("ada:{}", &hash[..59])),
            bad(&format!("ada:{}", hash.replace("$05$", "$03$"))),
            bad(&format!("ada:{}", hash.replace("$05$", "$16$"))),
            bad(&format!("ada:{}", hash.replace("$05$", "$xx$"))),
            bad(&format!("bob:{hash}")),
        ] {
            match Users::parse(&text) {
                Ok(_) => assert!(is_good, "{text}"),
                Err((line, reason)) => {
                    assert!(!is_good, "{text}: {reason}");
                    assert_eq!(line, 2, "{text}: {reason}");
                    assert!(!reason.contains("abcdefgh"), "a hash is told: {reason}");
                }
            }
        }
        for empty in ["", "\n", "# nobody\n"] {
            assert_eq!(Users::parse(empty).err().map(|(line, _)| line), Some(0), "{empty:?}");
        }
    }

    #[test]
    fn an_unknown_name_costs_what_a_user_could() {
        let text = format!("ada:{}\nbob:{}\n", ADA.1, BOB.1);
        let users = Users::parse(&text).expect("users");
        let chosen: std::collections::HashSet<usize> =
            (0..64).map(|n| users.stand_in(&format!("eve{n}"))).collect();
        assert_eq!(chosen.len(), 2);
        assert_eq!(users.stand_in("eve"), users.stand_in("eve"));
    }
}
