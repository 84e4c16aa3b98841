//! Paths and names: no text that is taken leaves its workspace, and each prints as it was read.

use std::fmt::{Debug, Display};
use std::path::{Component, Path};
use std::str::FromStr;

use cas::workspace::{Name, Reference, RepositoryName, Tag, Workspace};
use daemon::v2::path::{self, Access, Form, Target};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::{Held, fuzz};

/// What names are made of, and what has been used to break out of them.
const PIECES: [&str; 44] = [
    "w",
    "app",
    "a__b",
    "c.d-e",
    "0",
    "v2",
    "blobs",
    "uploads",
    "manifests",
    "tags",
    "list",
    "referrers",
    "sha256",
    "sha512",
    "_tags",
    "_members",
    ".",
    "..",
    "...",
    "%2e",
    "%2e%2e",
    "%2f",
    "%2F",
    "%5c",
    "\\",
    "%00",
    "\0",
    "%ff",
    "%",
    "%2",
    "%25",
    "%252e%252e",
    "%77",
    "A",
    "é",
    "%c3%a9",
    ":",
    "@",
    "sha256:",
    "latest",
    "-",
    "a--b",
    "a..b",
    " ",
];

/// What stands behind a name.
const ENDS: [&str; 14] = [
    "/blobs/uploads/",
    "/blobs/uploads",
    "/blobs/uploads/1-2",
    "/blobs/sha256:00",
    "/manifests/1",
    "/manifests/a%2fb",
    "/manifests/%2e%2e",
    "/tags/list",
    "/tags/list/",
    "/referrers/sha512:11",
    "/blobs/",
    "/manifests/latest",
    "",
    "/",
];

/// A segment, now and then one that nobody thought of.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => "[a-z0-9]{1,6}",
        4 => select(&PIECES[..]).prop_map(str::to_owned),
        2 => vec(select(&PIECES[..]), 2..4).prop_map(|pieces| pieces.concat()),
        1 => any::<String>(),
        1 => "[a-z]{120,260}",
    ]
}

fn name() -> impl Strategy<Value = String> {
    vec(segment(), 0..5).prop_map(|segments| segments.join("/"))
}

fn whole_path() -> impl Strategy<Value = String> {
    let begins = select(&["/v2/", "/v2/", "/v2/", "/v2/", "/v2", "/v2//", "/v1/", "v2/", ""][..]);
    let digest = prop_oneof![Just("sha256:".to_owned() + &"0a".repeat(32)), segment()];
    (begins, name(), select(&ENDS[..]), digest, any::<bool>()).prop_map(
        |(begin, name, end, last, is_last)| match is_last && end.ends_with('1') {
            true => format!("{begin}{name}{}{last}", &end[..=end.rfind('/').unwrap()]),
            false => format!("{begin}{name}{end}"),
        },
    )
}

/// The grammar of the specification, read once more and otherwise.
fn is_name(text: &str) -> bool {
    text.len() <= 255
        && text.split('/').all(|segment| {
            let ends = [segment.chars().next(), segment.chars().next_back()];
            let plain = |c: char| matches!(c, 'a'..='z' | '0'..='9');
            ends.iter().all(|end| end.is_some_and(plain))
                && segment.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-'))
                && !segment.contains("..")
        })
}

/// Below a folder a name that was taken goes down, only down, and meets nothing that is ours.
fn stays_below(workspace: &str, repository: &str) -> bool {
    let path = Path::new("names").join(workspace).join(repository).join("_tags");
    let mut parts = path.components();
    let is_plain = parts.clone().all(|part| matches!(part, Component::Normal(_)));
    let ends = (parts.next(), parts.next(), parts.next_back());
    let normal = |text| Some(Component::Normal(std::ffi::OsStr::new(text)));
    is_plain
        && ends == (normal("names"), normal(workspace), normal("_tags"))
        && repository.split('/').all(|segment| !segment.starts_with('_'))
        && !repository.contains('\0')
}

/// What a path names, judged.
fn judge(text: &str) -> Held {
    let Some(read) = path::parse(text) else { return Ok(false) };
    prop_assert!(path::is_ours(text), "it has a form and is not ours");
    let (reads, writes) = (read.target(Access::Read, None), read.target(Access::Write, None));
    prop_assert_eq!(reads.is_ok(), writes.is_ok(), "who reads and who writes see other names");
    let _ = read.upload();
    if let Ok(digest) = read.digest() {
        prop_assert_eq!(digest.to_string().parse().ok(), Some(digest));
    }
    for access in [Access::Read, Access::Write] {
        if let Ok(reference) = read.reference(access) {
            prop_assert_eq!(reference.to_string().parse().ok(), Some(reference));
        }
    }
    let Ok(target) = reads else { return Ok(false) };
    prop_assert_eq!(writes.ok(), Some(target.clone()));
    let printed = target.to_string();
    prop_assert!(is_name(&printed), "{printed:?} is no name");
    prop_assert!(stays_below(target.workspace.as_str(), target.repository.as_str()));
    prop_assert_eq!(Target::parse(&printed, Access::Read).ok(), Some(target.clone()));
    // What was decoded once is not decoded again, and means the same in every form.
    for form in [Form::Uploads, Form::Blob, Form::Manifest, Form::Tags, Form::Referrers] {
        let again = form.text().replace("**", &printed).replace('*', "x");
        let again = path::parse(&again);
        let again = again.map(|read| (read.form, read.target(Access::Read, None).ok()));
        prop_assert_eq!(again, Some((form, Some(target.clone()))));
    }
    // Written within its workspace, a name is of that workspace, whatever it says.
    let within = path::parse(text).map(|read| read.target(Access::Write, Some(&target.workspace)));
    if let Some(Ok(within)) = within {
        prop_assert_eq!(&within.workspace, &target.workspace);
        prop_assert!(stays_below(within.workspace.as_str(), within.repository.as_str()));
        prop_assert_eq!(within.to_string(), within.repository.to_string());
    }
    Ok(true)
}

/// What is taken prints as it was written.
fn prints_back<T: FromStr + Display + Debug>(text: &str) -> Result<Option<T>, TestCaseError> {
    let read: Option<T> = text.parse().ok();
    if let Some(read) = &read {
        prop_assert_eq!(&read.to_string(), text);
    }
    Ok(read)
}

#[test]
fn paths_stay_in_their_workspace() {
    fuzz("paths", 20_000, whole_path(), |text| judge(&text));
}

#[test]
fn names_print_as_they_were_read() {
    let texts = prop_oneof![name(), (name(), segment()).prop_map(|(a, b)| format!("{a}:{b}"))];
    fuzz("names and tags", 20_000, texts, |text| {
        let workspace: Option<Workspace> = prints_back(&text)?;
        let repository: Option<RepositoryName> = prints_back(&text)?;
        let tag: Option<Tag> = prints_back(&text)?;
        let name: Option<Name> = prints_back(&text)?;
        let reference: Option<Reference> = prints_back(&text)?;
        if workspace.is_some() {
            prop_assert!(is_name(&text) && !text.contains('/') && text.len() <= 128);
        }
        if repository.is_some() {
            prop_assert!(is_name(&text) && stays_below("w", &text));
        }
        if tag.is_some() {
            let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
            prop_assert!(text.starts_with(is_word) && text.len() <= 128);
            prop_assert!(text.chars().all(|c| is_word(c) || c == '.' || c == '-'));
        }
        // No text is both a tag and a digest, and a name has both of its halves.
        prop_assert_eq!(tag.is_some(), matches!(&reference, Some(Reference::Tag(_))));
        if let Some(name) = &name {
            prop_assert_eq!(format!("{}:{}", name.repository(), name.tag()), text.clone());
        }
        if cas::workspace::check_title(&text).is_ok() {
            let parts: Vec<_> = Path::new(&text).components().collect();
            prop_assert!(matches!(parts[..], [Component::Normal(_)]), "{parts:?}");
        }
        Ok(workspace.is_some() || repository.is_some() || tag.is_some() || name.is_some())
    });
}
