//! The query of a request: percent-encoded keys and values. A `+` is a plus, as in media types.

use std::borrow::Cow;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use wire::{Code, Problem};

/// Keys and values, each key once.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

/// More keys than any request has.
const MOST: usize = 32;
/// The same at the front door, where a push may name many tags.
const MOST_LENIENT: usize = 1024;

impl Query {
    /// Parses what stands behind the `?`.
    ///
    /// # Errors
    /// [`Code::Usage`] for what is no UTF-8, comes twice, or is none of `known`.
    pub fn parse(text: Option<&str>, known: &[&str]) -> Result<Query, Problem> {
        let mut pairs = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key)?, decode(value)?);
            if !known.contains(&&*key) {
                return Err(usage(format!("this request knows no {key:?} in its query")));
            }
            if pairs.len() == MOST || pairs.iter().any(|(k, _)| *k == key) {
                return Err(usage(format!("{key:?} comes twice in the query")));
            }
            pairs.push((key.into_owned(), value.into_owned()));
        }
        Ok(Query(pairs))
    }

    /// Parses a query of the front door: what is not known is none of our business there, and
    /// some keys come several times.
    ///
    /// # Errors
    /// [`Code::Usage`] for what is no UTF-8, and for more pairs than anybody sends.
    pub fn lenient(text: Option<&str>) -> Result<Query, Problem> {
        let mut pairs = Vec::new();
        for pair in text.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if pairs.len() == MOST_LENIENT {
                return Err(usage(format!("the query has more than {MOST_LENIENT} pairs")));
            }
            pairs.push((decode(key)?.into_owned(), decode(value)?.into_owned()));
        }
        Ok(Query(pairs))
    }

    /// All values of a key, in their order.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The value of a key that may come once.
    ///
    /// # Errors
    /// [`Code::Usage`] when it comes several times: who reads the first and who reads the last
    /// would not do the same.
    pub fn once(&self, key: &str) -> Result<Option<&str>, Problem> {
        match self.all(key).count() {
            0 | 1 => Ok(self.get(key)),
            _ => Err(usage(format!("{key:?} comes twice in the query"))),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// [`Code::Usage`].
    pub fn need(&self, key: &str) -> Result<&str, Problem> {
        self.get(key).ok_or_else(|| usage(format!("the query lacks {key:?}")))
    }

    /// The value of a key, parsed.
    ///
    /// # Errors
    /// [`Code::Usage`] when it does not parse.
    pub fn parsed<T: FromStr>(&self, key: &str) -> Result<Option<T>, Problem> {
        let Some(text) = self.get(key) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(_) => Err(usage(format!("{key}={text:.80} in the query makes no sense"))),
        }
    }
}

/// A segment or value without its percent-encoding.
///
/// # Errors
/// [`Code::Usage`] when it is no UTF-8.
pub fn decode(text: &str) -> Result<Cow<'_, str>, Problem> {
    percent_decode_str(text)
        .decode_utf8()
        .map_err(|_| usage("the request's path or query is no UTF-8".to_owned()))
}

fn usage(message: String) -> Problem {
    Problem::new(Code::Usage, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_of_the_front_door_is_read_leniently() {
        let query = Query::lenient(Some("tag=a&ns=docker.io&tag=b%2Bc&mount=&x")).expect("good");
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b+c"]);
        assert_eq!((query.once("mount"), query.once("digest")), (Ok(Some("")), Ok(None)));
        assert!(query.once("tag").is_err());
        assert!(Query::lenient(Some("tag=%ff")).is_err());
        assert!(Query::lenient(Some(&"a&".repeat(MOST_LENIENT + 1))).is_err());
    }

    #[test]
    fn a_query_is_read_strictly() {
        let known = ["title", "size", "media_type"];
        let parse = |text| Query::parse(Some(text), &known);
        let query = parse("title=a%20b%2Fc&media_type=application/x+json&size=7").expect("good");
        assert_eq!(query.get("title"), Some("a b/c"));
        assert_eq!(query.get("media_type"), Some("application/x+json"));
        assert_eq!(query.parsed::<u64>("size"), Ok(Some(7)));
        assert!(query.need("title").is_ok() && query.get("digest").is_none());
        for text in ["size=1&size=2", "sise=1", "title=%ff"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let odd = parse("size=-1").expect("parsed later");
        assert!(odd.parsed::<u64>("size").is_err() && odd.need("title").is_err());
    }
}
