//! Query strings: what was meant is what is read, and nothing is read twice.

use daemon::query::Query;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::fuzz;

const KNOWN: [&str; 4] = ["digest", "mount", "from", "n"];

fn word() -> impl Strategy<Value = String> {
    let odd =
        ["", "digest", "mount", "from", "n", "tag", "a+b", "a b", "&", "=", "%", "é", "\0", "#"];
    prop_oneof![
        6 => select(odd.to_vec()).prop_map(str::to_owned),
        2 => "[a-z0-9]{1,5}",
        1 => any::<String>(),
    ]
}

/// Every byte that is no letter or digit, encoded.
fn encode(text: &str) -> String {
    let byte = |b: u8| match b.is_ascii_alphanumeric() {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn pairs() -> impl Strategy<Value = Vec<(String, String)>> {
    vec((word(), word()), 0..6)
}

fn written(pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
    pairs.join("&")
}

#[test]
fn queries_say_what_was_meant() {
    fuzz("queries", 10_000, pairs(), |pairs| {
        let text = written(&pairs);
        let lenient = Query::lenient(Some(&text)).expect("all of it is text");
        for (key, _) in &pairs {
            let meant: Vec<&str> =
                pairs.iter().filter(|(k, _)| k == key).map(|(_, v)| v.as_str()).collect();
            prop_assert_eq!(lenient.all(key).collect::<Vec<_>>(), meant.clone());
            let once = lenient.once(key).ok().flatten();
            prop_assert_eq!(once, (meant.len() == 1).then(|| meant[0]), "{}", key);
        }
        let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
        let is_known = keys.iter().all(|key| KNOWN.contains(key));
        let n = keys.len();
        keys.sort_unstable();
        keys.dedup();
        let strict = Query::parse(Some(&text), &KNOWN).is_ok();
        prop_assert_eq!(strict, is_known && keys.len() == n, "{}", text);
        Ok(strict)
    });
}

#[test]
fn queries_that_nobody_meant_do_no_harm() {
    let pieces =
        ["a", "=", "&", "%", "%4", "%41", "%zz", "%ff", "%00", "+", "é", "?", "#", ";", "\0"];
    let texts = prop_oneof![
        vec(select(pieces.to_vec()), 0..12).prop_map(|pieces| pieces.concat()),
        any::<String>(),
        (1000..1100_usize, "[a-z=%]{1,3}&").prop_map(|(n, pair)| pair.repeat(n)),
    ];
    fuzz("queries of nonsense", 10_000, texts, |text| {
        let lenient = Query::lenient(Some(&text));
        let strict = Query::parse(Some(&text), &KNOWN);
        if strict.is_ok() {
            prop_assert!(lenient.is_ok(), "the strict reader took more");
        }
        let Ok(query) = lenient else { return Ok(false) };
        let n_pairs = text.split('&').filter(|pair| !pair.is_empty()).count();
        prop_assert!(n_pairs <= 1024);
        let n_read = |key: &str| query.all(key).count();
        prop_assert!(n_read("a") <= n_pairs);
        let _ = (query.need("a").is_ok(), query.parsed::<u64>("a").is_ok());
        Ok(true)
    });
}
