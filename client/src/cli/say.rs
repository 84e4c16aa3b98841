//! How things are written for people: sizes, times, tables, errors.

use std::io::{self, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};

use cas::digest::Digest;
use cas::oci::media_type;
use serde::Serialize;
use wire::Problem;

use crate::problem::Error;

/// Candidates that are shown; JSON has them all.
const MOST_CANDIDATES: usize = 50;
/// Hex digits of a digest in a table: enough to be typed again as a reference.
const SHORT: usize = 12;

/// Writes an answer for people. It ends in a newline already.
pub(super) fn text(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|source| Error::Output { what: "standard output", source })
}

/// Writes an answer that people look at: whoever closed the pipe has seen enough, and that is no
/// failure.
pub(super) fn listing(listing: &str) -> Result<(), Error> {
    match text(&plain(listing)) {
        Err(error) if error.is_closed_output() => Ok(()),
        other => other,
    }
}

/// Names and types come from whoever made the artifact: they must not command a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// Writes an answer for programs.
pub(super) fn json(value: &impl Serialize) -> Result<(), Error> {
    let json = serde_json::to_string_pretty(value);
    let json = json.map_err(|e| Error::Output { what: "JSON", source: e.into() })?;
    text(&format!("{json}\n"))
}

/// Writes a line to standard error; when that fails, nobody is left to be told.
pub(super) fn note(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// An error with what helps.
pub(super) fn problem(problem: &Problem) -> String {
    let mut text = format!("bond: {}", problem.message);
    let unnamed = problem.files.iter().filter(|file| !problem.message.contains(file.as_str()));
    for file in unnamed.take(20) {
        text.push_str(&format!("\n  file: {file}"));
    }
    if let Some(hint) = &problem.hint {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    for candidate in problem.candidates.iter().take(MOST_CANDIDATES) {
        text.push_str(&format!("\n    {candidate}"));
    }
    if problem.candidates.len() > MOST_CANDIDATES {
        text.push_str(&format!("\n    and {} more", problem.candidates.len() - MOST_CANDIDATES));
    }
    plain(&text)
}

/// A size: bytes below 1 KiB, else with one decimal.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let (mut tenths, mut unit) = (bytes.saturating_mul(10) / 1024, 0);
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1024;
        unit += 1;
    }
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A number of things.
pub(super) fn count(n: u64, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

/// A digest as it is shown in tables.
pub(super) fn short(digest: &Digest) -> String {
    let text = digest.to_string();
    let end = digest.algorithm().name().len() + 1 + SHORT;
    text[..end].to_owned()
}

/// How long ago that was.
pub(super) fn ago(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (n, unit) = match now.saturating_sub(seconds) {
        0..60 => return "just now".to_owned(),
        s @ 60..3600 => (s / 60, "minute"),
        s @ 3600..86_400 => (s / 3600, "hour"),
        s => (s / 86_400, "day"),
    };
    format!("{n} {unit}{} ago", if n == 1 { "" } else { "s" })
}

/// What kind of thing it is, in a word or two.
pub(super) fn kind(media: &str, artifact_type: Option<&str>, title: Option<&str>) -> String {
    match artifact_type {
        _ if media_type::is_index(media) => "index".to_owned(),
        _ if title.is_some() => "file".to_owned(),
        Some(
            "application/vnd.oci.image.config.v1+json"
            | "application/vnd.docker.container.image.v1+json",
        )
        | None
            if media_type::is_image(media) =>
        {
            "image".to_owned()
        }
        Some(other) => other.to_owned(),
        None => media.to_owned(),
    }
}

/// Rows with aligned columns; those whose head begins with `>` are aligned to the right.
pub(super) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let length = |text: &str| text.chars().count();
    let mut widths: Vec<usize> =
        head.iter().map(|title| length(title.trim_start_matches('>'))).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(length(cell));
        }
    }
    let titles: Vec<String> =
        head.iter().map(|title| title.trim_start_matches('>').to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(rows) {
        let mut line = String::new();
        for ((cell, width), title) in row.iter().zip(&widths).zip(head) {
            let padding = " ".repeat(width - length(cell));
            match title.starts_with('>') {
                true => line.push_str(&format!("{padding}{cell}  ")),
                false => line.push_str(&format!("{cell}{padding}  ")),
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short_and_never_too_large() {
        for (bytes, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1023.9 KiB"),
            (1 << 20, "1.0 MiB"),
            (256 << 20, "256.0 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(size(bytes), expected);
        }
    }

    #[test]
    fn tables_align() {
        let rows = [vec!["a".to_owned(), "1".to_owned()], vec!["bcd".to_owned(), "200".to_owned()]];
        assert_eq!(table(&["NAME", ">SIZE"], &rows), "NAME  SIZE\na        1\nbcd    200\n");
    }
}
