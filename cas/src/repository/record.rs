//! What is written down of an upload, so that another process can go on with it.
//!
//! An upload is `uploads/<id>.bytes` and one record, `uploads/<id>.<serial>`: whose it is, where it
//! belongs, and how long its bytes were, with their digest, when somebody was told so. A record is
//! written once. The next one has the next serial, and the old one goes only when the new one and the
//! bytes before it are durable; so the newest record whose digest agrees with the bytes is at least
//! what was acknowledged.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::{Algorithm, Digest, check_of};
use crate::disk::{Create, Disk, Kind, RelPath, write_all_at};
use crate::error::Error;
use crate::layout;
use crate::reader::read_up_to;
use crate::workspace::{NameError, RepositoryName, Workspace, refused};

/// Bytes of one record: names have at most 383 of them, and an owner at most 512.
const MOST_BYTES: u64 = 4096;

/// What an upload is called: a UUID as RFC 9562 writes it, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UploadId(String);

impl FromStr for UploadId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<UploadId, NameError> {
        let fits = |(at, byte): (usize, u8)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        };
        match text.len() == 36 && text.bytes().enumerate().all(fits) {
            true => Ok(UploadId(text.to_owned())),
            false => Err(refused("name of an upload", text, "a UUID in lower case")),
        }
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much had come when it was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Bytes.
    pub(super) len: u64,
    /// Their digest.
    pub(super) digest: Digest,
}

/// Whose an upload is, and where it belongs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Belongs {
    pub(super) owner: String,
    pub(super) workspace: String,
    pub(super) repository: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    belongs: Belongs,
    #[serde(flatten)]
    mark: Mark,
}

/// What the records of one upload say.
pub(super) struct Found {
    pub(super) id: UploadId,
    pub(super) owner: String,
    pub(super) workspace: Workspace,
    pub(super) repository: RepositoryName,
    pub(super) algorithm: Algorithm,
    /// By serial.
    pub(super) marks: BTreeMap<u64, Mark>,
}

/// `uploads/<id>.bytes`
pub(super) fn bytes_of(id: &UploadId) -> RelPath {
    RelPath::new(layout::UPLOADS).join(format!("{id}.bytes"))
}

/// `uploads/<id>.<serial>`
pub(super) fn path(id: &UploadId, serial: u64) -> RelPath {
    RelPath::new(layout::UPLOADS).join(format!("{id}.{serial}"))
}

/// Writes a record. It is not durable yet.
pub(super) fn write(
    disk: &dyn Disk,
    id: &UploadId,
    serial: u64,
    belongs: &Belongs,
    mark: Mark,
) -> Result<(), Error> {
    let path = path(id, serial);
    let line = serde_json::to_string(&Line { belongs: belongs.clone(), mark }).unwrap_or_default();
    let file = disk.create(&path, Create::Buffered).map_err(Error::disk("creating", &path))?;
    write_all_at(&*file, checked(id, &line).as_bytes(), 0).map_err(Error::disk("writing", &path))
}

/// The line and, on a second one, a check that ties it to the upload.
fn checked(id: &UploadId, line: &str) -> String {
    format!("{line}\n{}\n", check_of(&format!("{id} {line}")))
}

fn read(disk: &dyn Disk, id: &UploadId, serial: u64) -> Result<Option<Line>, Error> {
    let path = path(id, serial);
    let file = disk.open(&path).map_err(Error::disk("opening", &path))?;
    let text = String::from_utf8(read_up_to(&*file, &path, MOST_BYTES)?).unwrap_or_default();
    let line = text.lines().next().filter(|line| checked(id, line) == text);
    Ok(line.and_then(|line| serde_json::from_str(line).ok()))
}

/// The uploads that earlier processes left. What belongs to none of them is removed.
pub(super) fn all(disk: &dyn Disk) -> Result<Vec<Found>, Error> {
    let folder = RelPath::new(layout::UPLOADS);
    let (mut with_bytes, mut serials) = (Vec::new(), BTreeMap::<UploadId, Vec<u64>>::new());
    let mut strangers = Vec::new();
    let listed = disk.list(&folder, &mut |entry| {
        let parts = entry.name.split_once('.').filter(|_| entry.kind == Kind::File);
        let parts = parts.and_then(|(id, part)| Some((id.parse::<UploadId>().ok()?, part)));
        match parts.map(|(id, part)| (id, part, part.parse())) {
            Some((id, "bytes", _)) => with_bytes.push(id),
            Some((id, _, Ok(serial))) => serials.entry(id).or_default().push(serial),
            // Folders and the like are nobody's of ours: they are left to whoever made them.
            _ if entry.kind == Kind::File => strangers.push(folder.join(&entry.name)),
            _ => {}
        }
        ControlFlow::Continue(())
    });
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::disk("listing", &folder))?,
    }
    let mut found: BTreeMap<UploadId, Found> = BTreeMap::new();
    for (id, serials) in serials {
        for serial in serials {
            let line = match with_bytes.contains(&id) {
                true => read(disk, &id, serial)?,
                false => None,
            };
            if line.and_then(|line| note(&mut found, &id, serial, line)).is_none() {
                strangers.push(path(&id, serial));
            }
        }
    }
    strangers.extend(with_bytes.iter().filter(|id| !found.contains_key(id)).map(bytes_of));
    for stranger in strangers {
        disk.unlink(&stranger).map_err(Error::disk("removing", &stranger))?;
    }
    Ok(found.into_values().collect())
}

/// Adds what a record says to the others of its upload; nothing when it makes no sense.
fn note(all: &mut BTreeMap<UploadId, Found>, id: &UploadId, serial: u64, line: Line) -> Option<()> {
    let Belongs { owner, workspace, repository } = line.belongs;
    let algorithm = line.mark.digest.algorithm();
    let (workspace, repository) = (workspace.parse().ok()?, repository.parse().ok()?);
    let found = all.entry(id.clone()).or_insert_with(|| Found {
        id: id.clone(),
        owner,
        workspace,
        repository,
        algorithm,
        marks: BTreeMap::new(),
    });
    found.marks.insert(serial, line.mark);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_called_by_a_uuid_and_by_nothing_else() {
        let good = "0123abcd-0123-4123-8123-0123456789ab";
        assert_eq!(good.parse::<UploadId>().map(|id| id.to_string()), Ok(good.to_owned()));
        for bad in [
            "",
            "../../../../../../../etc/passwd-----",
            "0123ABCD-0123-4123-8123-0123456789ab",
            "0123abcd-0123-4123-8123-0123456789abc",
            "0123abcd-0123-4123-8123-0123456789a",
            "0123abcd_0123-4123-8123-0123456789ab",
            "0123abcd-0123-4123-8123-0123456789a.",
            "0123abcd-0123-4123-8123-0123456789a/",
        ] {
            assert!(bad.parse::<UploadId>().is_err(), "{bad:?}");
        }
    }
}
