//! Requests that two readers could read differently, before anybody acts on one.
//!
//! Where a message ends is hyper's matter: it refuses two lengths, chunks that are none and folded
//! lines, and a request with a length and chunks is read by its chunks and is the last one of its
//! connection (RFC 9112, section 6.1). Here is what hyper leaves to its user: a proxy in front, or
//! the client itself, may have meant another host, another body or another value than we would
//! take. Nothing here knows of paths or verbs.

use http::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, IF_RANGE, RANGE, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::{HeaderName, Version};

use crate::api::{ACCEPT_DESCRIPTORS, DESCRIPTORS};
use crate::code::{Code, Problem};

/// Fields that decide something, and of which somebody else may take the other one.
const AT_MOST_ONCE: [HeaderName; 8] = [
    HOST,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    CONTENT_TYPE,
    CONTENT_RANGE,
    RANGE,
    IF_RANGE,
    HeaderName::from_static(DESCRIPTORS),
];

/// Whether there is one way to read the request. The connection of one that has several must end:
/// what follows on it may be a part of it.
///
/// # Errors
/// [`Code::Usage`].
pub fn check(head: &Parts) -> Result<(), Problem> {
    let accepted = HeaderName::from_static(ACCEPT_DESCRIPTORS);
    for name in AT_MOST_ONCE.iter().chain([&accepted]) {
        if head.headers.get_all(name).iter().count() > 1 {
            return Err(refused(format!("the header says {name} more than once")));
        }
    }
    // RFC 9112, section 3.2. Older clients need not say it.
    if head.version >= Version::HTTP_11 && !head.headers.contains_key(HOST) {
        return Err(refused("the header says no host".to_owned()));
    }
    match head.headers.get(TRANSFER_ENCODING) {
        // A body in another coding, beneath the chunks, would be stored as it comes.
        Some(coding) if !coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Err(refused("chunked is the only transfer coding that is understood".to_owned()))
        }
        _ => Ok(()),
    }
}

fn refused(message: String) -> Problem {
    Problem::new(Code::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn what_has_one_reading_passes_and_nothing_else() {
        for (fields, good) in [
            (&[("host", "x")][..], true),
            (&[("host", "x"), ("x", "1"), ("x", "2")], true),
            (&[("host", "x"), ("transfer-encoding", "chunked")], true),
            (&[("host", "x"), ("transfer-encoding", "Chunked")], true),
            (&[("host", ""), ("content-length", "1")], true),
            (&[], false),
            (&[("host", "x"), ("host", "x")], false),
            (&[("host", "x"), ("host", "y")], false),
            (&[("host", "x"), ("transfer-encoding", "gzip, chunked")], false),
            (&[("host", "x"), ("transfer-encoding", "chunked, chunked")], false),
            (&[("host", "x"), ("transfer-encoding", "identity")], false),
            (
                &[("host", "x"), ("transfer-encoding", "gzip"), ("transfer-encoding", "chunked")],
                false,
            ),
            (&[("host", "x"), ("content-type", "a/b"), ("content-type", "a/c")], false),
            (&[("host", "x"), ("content-range", "0-1"), ("content-range", "0-2")], false),
            (&[("host", "x"), ("range", "bytes=0-1"), ("range", "bytes=0-2")], false),
            (&[("host", "x"), (DESCRIPTORS, "0"), (DESCRIPTORS, "1")], false),
        ] {
            let mut request = Request::get("/");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let head = request.body(()).expect("a request").into_parts().0;
            assert_eq!(check(&head).is_ok(), good, "{fields:?}");
        }
        let old = Request::get("/").version(Version::HTTP_10).body(()).expect("a request");
        assert!(check(&old.into_parts().0).is_ok());
    }
}
