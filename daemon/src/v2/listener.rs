//! The TCP listener: where it may listen, for whom, and what it needs for that.
//!
//! On loopback it may hear everybody on this machine, unasked, when that is said in as many words.
//! A web page in somebody's browser must not be among them: it reaches loopback too, by a name that
//! it made to point there. So a request names the host by its address or as `localhost`, and comes
//! from no page. Anywhere else it hears only those who prove who they are, over TLS.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header;
use http::request::Parts;
use http::uri::Authority;

use super::fault::{Fault, Kind};
use super::login::Login;
use super::tls::{CERTIFICATE, KEY, Refused, Tls};
use crate::config::RegistrySection;
use crate::policy::Anonymous;

const LISTEN: &str = "registry.listen";
const USERS: &str = "registry.users";

/// A listener that may be opened.
#[derive(Debug)]
pub struct Front {
    /// Where.
    pub address: SocketAddr,
    /// What its connections are encrypted with; without it they are not, and there are no users.
    pub tls: Option<Tls>,
    /// Whom it lets in.
    pub login: Arc<Login>,
}

impl Front {
    /// What the configuration asks for, if it asks for a listener: looked at, and its files read.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub fn load(asked: &RegistrySection) -> Result<Option<Front>, Refused> {
        let Some(address) = asked.listen else {
            return Ok(None);
        };
        check(address, asked)?;
        let tls = match (&asked.tls_certificate, &asked.tls_key) {
            (Some(certificate), Some(key)) => Some(Tls::load(certificate, key)?),
            _ => None,
        };
        let login = Login::load(asked.users.as_deref(), asked.allow_anonymous);
        let login = Arc::new(login.map_err(|reason| (USERS, reason))?);
        Ok(Some(Front { address, tls, login }))
    }

    /// Reads certificate, key and users anew. What is wrong stays as it was, and is told.
    ///
    /// # Errors
    /// The key that is wrong, and why.
    pub fn reload(&self) -> Result<(), Refused> {
        // Each on its own: a bad certificate must not keep a user in who was taken out.
        let users = self.login.reload().map_err(|reason| (USERS, reason));
        self.tls.as_ref().map_or(Ok(()), Tls::reload).and(users)
    }
}

/// Whether such a listener may be opened, as far as words say.
fn check(address: SocketAddr, asked: &RegistrySection) -> Result<(), Refused> {
    let has_tls = match (&asked.tls_certificate, &asked.tls_key) {
        (Some(_), Some(_)) => true,
        (None, None) => false,
        (Some(_), None) => return Err((KEY, format!("{CERTIFICATE} needs its key"))),
        (None, Some(_)) => return Err((CERTIFICATE, format!("{KEY} needs its certificate"))),
    };
    if asked.users.is_some() && !has_tls {
        // On loopback too: whoever takes the port while bonded is down would be told passwords.
        let reason = format!("passwords go over TLS alone: set {CERTIFICATE} and {KEY} too");
        return Err((USERS, reason));
    }
    if !address.ip().is_loopback() {
        if !has_tls || asked.users.is_none() {
            let reason = format!(
                "{address} is no loopback address: there bonded listens only with TLS and users \
                 ({CERTIFICATE}, {KEY} and {USERS}); without them it listens to this machine \
                 alone, as at 127.0.0.1:{}",
                address.port()
            );
            return Err((LISTEN, reason));
        }
        if asked.allow_anonymous == Anonymous::Everything {
            let reason = format!(
                "{address} is no loopback address: those who are anonymous may there read at \
                 most, with registry.allow_anonymous = \"read\""
            );
            return Err((LISTEN, reason));
        }
    } else if asked.users.is_none() && asked.allow_anonymous == Anonymous::Nothing {
        let reason = "everybody on this machine could connect, and nobody would be asked who they \
                      are: say --allow-anonymous, or registry.allow_anonymous = true, if that is \
                      what you want";
        return Err((LISTEN, reason.to_owned()));
    }
    Ok(())
}

/// Whether a request comes from a client, and not from a page in a browser.
///
/// # Errors
/// [`Kind::Denied`].
pub fn admit(head: &Parts) -> Result<(), Fault> {
    match head.headers.contains_key(header::ORIGIN) {
        true => Err(Fault::new(Kind::Denied, "pages in a browser are not served")),
        false => Ok(()),
    }
}

/// Whether a request over plain HTTP does, and names this machine. Over TLS the certificate says
/// which names are ours.
///
/// # Errors
/// [`Kind::Denied`].
pub fn admit_unasked(head: &Parts) -> Result<(), Fault> {
    admit(head)?;
    let written = || head.headers.get(header::HOST)?.to_str().ok()?.parse().ok();
    let host: Option<Authority> = head.uri.authority().cloned().or_else(written);
    match host.is_some_and(|host| is_this_machine(host.host())) {
        true => Ok(()),
        false => {
            let message = "name this registry by its loopback address or as localhost";
            Err(Fault::new(Kind::Denied, message))
        }
    }
}

fn is_this_machine(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn where_it_listens_and_for_whom() {
        let (none, read, all) = (Anonymous::Nothing, Anonymous::Read, Anonymous::Everything);
        let (plain, tls) = ((false, false), (true, true));
        let (loopback, anywhere) = ("127.0.0.1:5000", "192.0.2.7:5000");
        for (address, (certificate, key), users, anonymous, refused) in [
            (loopback, plain, false, all, None),
            (loopback, plain, false, read, None),
            ("127.9.9.9:0", plain, false, all, None),
            ("[::1]:5000", plain, false, all, None),
            (loopback, plain, false, none, Some(LISTEN)),
            (loopback, plain, true, none, Some(USERS)),
            (loopback, plain, true, all, Some(USERS)),
            (loopback, tls, true, none, None),
            (loopback, tls, true, read, None),
            (loopback, tls, true, all, None),
            (loopback, tls, false, all, None),
            (loopback, tls, false, none, Some(LISTEN)),
            (loopback, (true, false), true, none, Some(KEY)),
            (loopback, (false, true), true, none, Some(CERTIFICATE)),
            (anywhere, tls, true, none, None),
            (anywhere, tls, true, read, None),
            ("0.0.0.0:5000", tls, true, none, None),
            ("[::]:5000", tls, true, none, None),
            (anywhere, tls, true, all, Some(LISTEN)),
            (anywhere, tls, false, none, Some(LISTEN)),
            (anywhere, tls, false, read, Some(LISTEN)),
            (anywhere, plain, false, all, Some(LISTEN)),
            (anywhere, plain, false, read, Some(LISTEN)),
            (anywhere, plain, true, none, Some(USERS)),
            ("0.0.0.0:5000", plain, false, all, Some(LISTEN)),
            ("[::]:5000", plain, false, all, Some(LISTEN)),
            ("[::ffff:127.0.0.1]:5000", plain, false, all, Some(LISTEN)),
        ] {
            let some = |is: bool| is.then(|| "/x".into());
            let asked = RegistrySection {
                tls_certificate: some(certificate),
                tls_key: some(key),
                users: some(users),
                allow_anonymous: anonymous,
                ..RegistrySection::default()
            };
            let checked = check(address.parse().expect(address), &asked);
            assert_eq!(checked.err().map(|(key, _)| key), refused, "{address} {asked:?}");
        }
    }

    #[test]
    fn pages_and_foreign_names_are_not_heard() {
        for (uri, host, origin, good) in [
            ("/v2/", Some("127.0.0.1:5000"), None, true),
            ("/v2/", Some("localhost"), None, true),
            ("/v2/", Some("LocalHost:1"), None, true),
            ("/v2/", Some("[::1]:5000"), None, true),
            ("/v2/", Some("evil.example:5000"), None, false),
            ("/v2/", Some("127.0.0.1.evil.example"), None, false),
            ("/v2/", Some("10.0.0.1"), None, false),
            ("/v2/", Some(""), None, false),
            ("/v2/", None, None, false),
            ("/v2/", Some("127.0.0.1:5000"), Some("http://evil.example"), false),
            ("/v2/", Some("127.0.0.1:5000"), Some("null"), false),
            // What a request's line names counts more than its header.
            ("http://evil.example/v2/", Some("127.0.0.1"), None, false),
        ] {
            let mut request = Request::get(uri);
            for (name, value) in [(header::HOST, host), (header::ORIGIN, origin)] {
                if let Some(value) = value {
                    request = request.header(name, value);
                }
            }
            let head = request.body(()).expect(uri).into_parts().0;
            assert_eq!(admit_unasked(&head).is_ok(), good, "{uri} {host:?} {origin:?}");
            assert_eq!(admit(&head).is_ok(), origin.is_none(), "{uri} {origin:?}");
        }
    }
}
