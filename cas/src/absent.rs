//! What an artifact was sealed without: non-distributable layers that nobody brought.
//!
//! A layer that is lost looks the same as one that was never there, and only the second is no
//! damage. So sealing writes down what was absent, beside the layouts and not in them, before the
//! layout gets its name. No record, or one that cannot be read, permits nothing.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;

use crate::digest::{Algorithm, Digest};
use crate::disk::{Create, Disk, RelPath, write_all_at};
use crate::durable::{settle_way, sync_folder_of};
use crate::error::Error;
use crate::layout;
use crate::names::make_dirs;
use crate::reader::read_small;
use crate::workspace::Workspace;

/// A digest and its line's end.
const MOST_LINE: u64 = 7 + 128 + 1;

/// A record that is written and waits to be moved to its place.
pub(crate) struct Record {
    from: RelPath,
    to: RelPath,
}

/// Writes a record at `from` and makes the folders that it will stand in.
pub(crate) fn prepare(
    disk: &dyn Disk,
    workspace: &Workspace,
    artifact: &Digest,
    absent: &[Digest],
    from: RelPath,
) -> Result<Record, Error> {
    let file = disk.create(&from, Create::Buffered).map_err(Error::disk("creating", &from))?;
    write_all_at(&*file, &bytes(artifact, absent), 0).map_err(Error::disk("writing", &from))?;
    let to = layout::absences(workspace, artifact);
    if let Some((folder, _)) = to.split() {
        make_dirs(disk, &folder, 0o700)?;
    }
    Ok(Record { from, to })
}

impl Record {
    /// Moves the record to its place, durably: no layout may be there without it.
    pub(crate) fn publish(&self, disk: &dyn Disk) -> Result<(), Error> {
        disk.rename(&self.from, &self.to).map_err(Error::disk("renaming", &self.from))?;
        self.to.split().map_or(Ok(()), |(folder, _)| settle_way(disk, &folder))
    }
}

/// Removes an artifact's record, durably, if there is one: it was retired, or has all its layers
/// now. The caller excludes others from the artifact.
pub(crate) fn remove(
    disk: &dyn Disk,
    workspace: &Workspace,
    artifact: &Digest,
) -> Result<(), Error> {
    let path = layout::absences(workspace, artifact);
    match disk.unlink(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => {
            other.map_err(Error::disk("removing", &path))?;
            sync_folder_of(disk, &path)
        }
    }
}

/// What an artifact was sealed without; nothing when no record says so.
pub(crate) fn get(
    disk: &dyn Disk,
    workspace: &Workspace,
    artifact: &Digest,
    limit: usize,
) -> Result<HashSet<Digest>, Error> {
    let path = layout::absences(workspace, artifact);
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(HashSet::new()),
        Err(error) => return Err(Error::disk("opening", &path)(error)),
    };
    let size = file.stat().map_err(Error::disk("reading", &path))?.size;
    let found = match size <= MOST_LINE.saturating_mul(limit as u64 + 1) {
        true => read_small(&*file, size).map_err(Error::disk("reading", &path))?,
        false => None,
    };
    let text = found.and_then(|found| String::from_utf8(found).ok()).unwrap_or_default();
    let absent: Option<Vec<Digest>> = text.lines().skip(1).map(|line| line.parse().ok()).collect();
    match absent {
        Some(absent) if bytes(artifact, &absent) == text.as_bytes() => {
            Ok(absent.into_iter().collect())
        }
        _ => {
            tracing::error!(%workspace, %artifact, "the record of absent layers is damaged");
            Ok(HashSet::new())
        }
    }
}

/// The artifacts that have a record.
pub(crate) fn recorded(disk: &dyn Disk, workspace: &Workspace) -> Result<Vec<Digest>, Error> {
    let mut found = Vec::new();
    for algorithm in Algorithm::ALL {
        let folder = layout::absences_by(workspace, algorithm);
        let listed = disk.list(&folder, &mut |entry| {
            found.extend(Digest::from_hex(algorithm, &entry.name));
            ControlFlow::Continue(())
        });
        match listed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.map_err(Error::disk("listing", &folder))?,
        }
    }
    Ok(found)
}

/// Removes the records of artifacts that are not there, or lack nothing: a crash came between them
/// and their end.
pub(crate) fn tidy(disk: &dyn Disk, workspace: &Workspace, limit: usize) -> Result<(), Error> {
    for artifact in recorded(disk, workspace)? {
        let place = layout::artifact(workspace, &artifact);
        let is_there = |path: &RelPath| disk.stat(path).is_ok();
        let absent = get(disk, workspace, &artifact, limit)?;
        let lacks = absent.iter().any(|layer| !is_there(&layout::blob_in(&place, layer)));
        if !is_there(&place) || !lacks {
            remove(disk, workspace, &artifact)?;
        }
    }
    Ok(())
}

/// A line that checks artifact and list, then a line for each absent layer.
fn bytes(artifact: &Digest, absent: &[Digest]) -> Vec<u8> {
    let list: String = absent.iter().map(|digest| format!("{digest}\n")).collect();
    format!("{}\n{list}", Digest::of(format!("{artifact}\n{list}").as_bytes())).into_bytes()
}
