//! Ranges: the part of a blob that a reader wants, and the place of a chunk in an upload.
//!
//! `Range` follows RFC 9110, section 14; `Content-Range` of an upload is `first-last`, without
//! unit or total, as the distribution specification writes it.

use std::ops::Range;

use super::fault::{Fault, Kind};

/// What a reader gets of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it: no range was asked for, or none that is understood.
    Whole,
    /// These bytes.
    Bytes(Range<u64>),
    /// Nothing: no byte of the range is there.
    OutOfReach,
}

/// Which part of `size` bytes a `Range` header asks for.
///
/// One range of bytes is served. Several, or another unit, are ignored, which RFC 9110 allows. A
/// range that ends before it begins is refused, although the RFC would have it ignored: the
/// specification's own conformance suite wants to be told.
pub fn wanted(header: Option<&str>, size: u64) -> Part {
    let Some(ranges) = header.and_then(|text| text.trim().strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    let Some((first, last)) = ranges.trim().split_once('-') else {
        return Part::Whole;
    };
    let bytes = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(_), Some(_)) => return Part::OutOfReach,
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(n)) if first.is_empty() => size.saturating_sub(n)..size,
        _ => return Part::Whole,
    };
    if bytes.start < bytes.end { Part::Bytes(bytes) } else { Part::OutOfReach }
}

/// The place of a chunk: where it begins, and how long it is.
///
/// # Errors
/// [`Kind::UploadInvalid`] for what is no `first-last`.
pub fn chunk(header: &str) -> Result<(u64, u64), Fault> {
    let place = header.split_once('-').and_then(|(first, last)| {
        let (first, last) = (number(first)?, number(last)?);
        Some((first, last.checked_sub(first)?.checked_add(1)?))
    });
    place.ok_or_else(|| {
        let text: String = header.chars().take(80).collect();
        let message = format!("Content-Range is FIRST-LAST, in bytes, and not {text:?}");
        Fault::new(Kind::UploadInvalid, message)
    })
}

/// Digits and nothing else: `parse` alone would take a sign.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_of_bytes_is_served() {
        let cases = [
            (None, 10, Part::Whole),
            (Some("bytes=5-14"), 20, Part::Bytes(5..15)),
            (Some("bytes=5-"), 20, Part::Bytes(5..20)),
            (Some("bytes=-5"), 20, Part::Bytes(15..20)),
            (Some("bytes=-50"), 20, Part::Bytes(0..20)),
            (Some("bytes=15-50"), 20, Part::Bytes(15..20)),
            (Some("bytes=0-0"), 20, Part::Bytes(0..1)),
            (Some("bytes=0-18446744073709551615"), 20, Part::Bytes(0..20)),
            (Some("bytes=20-"), 20, Part::OutOfReach),
            (Some("bytes=50-60"), 20, Part::OutOfReach),
            (Some("bytes=5-0"), 20, Part::OutOfReach),
            (Some("bytes=-0"), 20, Part::OutOfReach),
            (Some("bytes=0-"), 0, Part::OutOfReach),
            (Some("bytes=0-0,5-6"), 20, Part::Whole),
            (Some("items=0-1"), 20, Part::Whole),
            (Some("bytes=a-b"), 20, Part::Whole),
            (Some("bytes=+1-2"), 20, Part::Whole),
            (Some("bytes="), 20, Part::Whole),
            (Some("bytes=-"), 20, Part::Whole),
        ];
        for (header, size, expected) in cases {
            assert_eq!(wanted(header, size), expected, "{header:?} of {size}");
        }
    }

    #[test]
    fn a_chunk_says_where_it_begins_and_ends() {
        for (header, expected) in
            [("0-0", (0, 1)), ("0-99", (0, 100)), ("100-199", (100, 100)), ("007-8", (7, 2))]
        {
            assert_eq!(chunk(header).ok(), Some(expected), "{header}");
        }
        for header in [
            "",
            "abc",
            "5-4",
            "-5",
            "5-",
            "+1-2",
            "1-+2",
            "0-18446744073709551615",
            "0-99999999999999999999",
            "bytes 0-9/10",
            "0-9/10",
            " 0-9",
        ] {
            assert_eq!(chunk(header).map_err(|f| f.kind), Err(Kind::UploadInvalid), "{header:?}");
        }
    }
}
