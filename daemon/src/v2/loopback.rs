//! The listener for this machine alone: where it may listen, and whom it hears.
//!
//! Whoever reaches it may do what the policy gives to anonymous peers. A web page in somebody's
//! browser must not be among them: it reaches loopback too, by a name that it made to point there.
//! So a request names the host by its address or as `localhost`, and comes from no page.

use std::net::{IpAddr, SocketAddr};

use http::header;
use http::request::Parts;
use http::uri::Authority;

use super::fault::{Fault, Kind};

/// Whether this address may be listened on.
///
/// # Errors
/// Why not.
pub fn check(address: SocketAddr, allows_anonymous: bool) -> Result<(), String> {
    if !address.ip().is_loopback() {
        return Err(format!(
            "{address} is no loopback address: without users and TLS bonded listens to this \
             machine alone, as at 127.0.0.1:{}",
            address.port()
        ));
    }
    if !allows_anonymous {
        return Err("everybody on this machine could connect, and nobody would be asked who they \
                    are: say --allow-anonymous, or registry.allow_anonymous = true, if that is \
                    what you want"
            .to_owned());
    }
    Ok(())
}

/// Whether a request comes from a client, and not from a page in a browser.
///
/// # Errors
/// [`Kind::Denied`].
pub fn admit(head: &Parts) -> Result<(), Fault> {
    if head.headers.contains_key(header::ORIGIN) {
        return Err(Fault::new(Kind::Denied, "pages in a browser are not served"));
    }
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
    fn only_loopback_is_listened_on_and_only_when_it_is_said_in_words() {
        for (address, allows, good) in [
            ("127.0.0.1:5000", true, true),
            ("127.9.9.9:0", true, true),
            ("[::1]:5000", true, true),
            ("127.0.0.1:5000", false, false),
            ("0.0.0.0:5000", true, false),
            ("[::]:5000", true, false),
            ("192.168.1.7:5000", true, false),
            ("[::ffff:127.0.0.1]:5000", true, false),
        ] {
            let address: SocketAddr = address.parse().expect(address);
            assert_eq!(check(address, allows).is_ok(), good, "{address} {allows}");
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
            assert_eq!(admit(&head).is_ok(), good, "{uri} {host:?} {origin:?}");
        }
    }
}
