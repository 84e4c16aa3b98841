//! Digests, ranges and the places of chunks, each beside a model that knows nothing of the parser.

use cas::digest::{Algorithm, Digest};
use daemon::v2::range::{Part, chunk, wanted};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::fuzz;

/// Texts near to being digests: the right length as often as a wrong one, and one odd character.
fn digests() -> impl Strategy<Value = String> {
    let names = ["sha256:", "sha256:", "sha512:", "sha512:", "SHA256:", "md5:", "sha256", ":", ""];
    let lengths = select(&[64_usize, 64, 64, 128, 128, 128, 0, 1, 63, 65, 127, 129, 500][..]);
    let odd = select(&["", "", "", "", "A", "g", "/", "..", "\0", "é", " ", ":", "\n"][..]);
    (select(names.to_vec()), lengths, any::<[u8; 16]>(), odd, any::<prop::sample::Index>())
        .prop_map(|(name, length, bytes, odd, place)| {
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            let mut hex = hex.repeat(length / hex.len() + 1);
            hex.truncate(length);
            let from = place.index(hex.len() + 1);
            let to = hex.len().min(from + odd.len());
            hex.replace_range(from..to, odd);
            format!("{name}{hex}")
        })
}

/// Whether it is a digest, read from the other end.
fn is_digest(text: &str) -> bool {
    let is_hex = |hex: &str| hex.chars().all(|c| "0123456789abcdef".contains(c));
    [("sha256:", 64), ("sha512:", 128)].iter().any(|(name, length)| {
        text.strip_prefix(name).is_some_and(|hex| hex.chars().count() == *length && is_hex(hex))
    })
}

/// A number at some edge.
fn edge() -> impl Strategy<Value = u64> {
    prop_oneof![
        0..20_u64,
        select(&[i64::MAX as u64, 1 << 63, u64::MAX - 1, u64::MAX, 1 << 32, 1 << 53][..]),
        any::<u64>(),
    ]
}

/// A number as somebody writes it, or what they write instead.
fn written() -> impl Strategy<Value = String> {
    let odd =
        ["", "", "+1", "-1", " 1", "1 ", "0x1", "1e3", "1.0", "\u{0661}", "18446744073709551616"];
    prop_oneof![
        5 => edge().prop_map(|n| n.to_string()),
        1 => edge().prop_map(|n| format!("000{n}")),
        3 => select(odd.to_vec()).prop_map(str::to_owned),
        1 => "[0-9]{15,45}",
    ]
}

fn place() -> impl Strategy<Value = String> {
    let between = select(&["-", "-", "-", "-", "-", "--", "", "/", "\u{2013}"][..]);
    let more = select(&["", "", "", "", "", ",", ",0-1", "/10", "-", " "][..]);
    (written(), between, written(), more).prop_map(|(a, b, c, d)| format!("{a}{b}{c}{d}"))
}

/// Digits as a number, whatever its size; `None` for all else.
fn digits(text: &str) -> Option<u128> {
    let is_number = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
    // More than fits is as good as the largest.
    is_number.then(|| text.parse().unwrap_or(u128::MAX))
}

/// What is asked for, by arithmetic that cannot overflow. More than 64 bits are not understood.
fn model(header: &str, size: u64) -> Part {
    let Some(range) = header.trim().strip_prefix("bytes=") else { return Part::Whole };
    let range = range.trim();
    let parts: Vec<&str> = range.splitn(2, '-').collect();
    let [first, last] = parts[..] else { return Part::Whole };
    let fits = |n: &u128| *n <= u128::from(u64::MAX);
    let whole = u128::from(size);
    let (from, to) = match (first, last, digits(first).filter(fits), digits(last).filter(fits)) {
        (_, "", Some(from), _) => (from, whole),
        ("", _, _, Some(n)) => (whole - whole.min(n), whole),
        (_, _, Some(from), Some(to)) => (from, whole.min(to + 1).max(from)),
        _ => return Part::Whole,
    };
    let is_backwards = matches!((digits(first), digits(last)), (Some(a), Some(b)) if a > b);
    match from < to && !is_backwards {
        true => Part::Bytes(from as u64..to as u64),
        false => Part::OutOfReach,
    }
}

#[test]
fn digests_are_what_the_grammar_says() {
    fuzz("digests", 20_000, digests(), |text| {
        let read: Option<Digest> = text.parse().ok();
        prop_assert_eq!(read.is_some(), is_digest(&text));
        if let Some(read) = read {
            prop_assert_eq!(read.to_string(), text.clone());
            let again = Digest::from_hex(read.algorithm(), &read.hex());
            prop_assert_eq!(again.ok(), Some(read));
        }
        for algorithm in Algorithm::ALL {
            let hex = Digest::from_hex(algorithm, &text).ok();
            prop_assert!(hex.is_none_or(|digest| digest.hex() == text));
        }
        Ok(read.is_some())
    });
}

#[test]
fn ranges_are_what_the_model_says() {
    let units =
        select(&["bytes=", "bytes=", "bytes=", "bytes= ", " bytes=", "Bytes=", "x=", ""][..]);
    let inputs = (units, place(), edge());
    fuzz("ranges", 20_000, inputs, |(unit, place, size)| {
        let header = format!("{unit}{place}");
        let part = wanted(Some(&header), size);
        prop_assert_eq!(&part, &model(&header, size), "{:?} of {}", header, size);
        if let Part::Bytes(bytes) = &part {
            prop_assert!(bytes.start < bytes.end && bytes.end <= size);
        }
        Ok(matches!(part, Part::Bytes(_)))
    });
}

#[test]
fn chunks_are_where_the_model_says() {
    let inputs =
        prop_oneof![8 => place(), 1 => vec(any::<char>(), 0..8).prop_map(String::from_iter)];
    fuzz("places of chunks", 20_000, inputs, |header| {
        let read = chunk(&header).ok();
        let modelled = header.split_once('-').and_then(|(first, last)| {
            let (first, last) = (digits(first)?, digits(last)?);
            let length = last.checked_sub(first)?.checked_add(1)?;
            let fits = |n: u128| u64::try_from(n).ok();
            fits(last)?;
            Some((fits(first)?, fits(length)?))
        });
        prop_assert_eq!(read, modelled, "{:?}", header);
        Ok(read.is_some())
    });
}
