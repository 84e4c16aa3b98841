//! Tags: one small file each, moved by rename.

use std::collections::BTreeMap;
use std::io;
use std::ops::ControlFlow;

use crate::digest::Digest;
use crate::disk::{Create, Disk, Kind, RelPath, write_all_at};
use crate::error::Error;
use crate::layout;
use crate::reader::read_small;
use crate::workspace::{Name, Workspace};

/// The longest digest, as text.
const MOST_BYTES: u64 = 7 + 128;
/// How deep a repository's folders are followed; its name has at most 255 bytes.
const MOST_DEPTH: usize = 130;

/// A tag's file that is written and waits to be moved to its place.
pub(crate) struct Pending {
    from: RelPath,
    folder: RelPath,
    to: RelPath,
}

/// Writes what `name` is to lead to at `path` and makes the folders that it will stand in.
/// Returns the folders that were made or hold one that was made, to be synced.
pub(crate) fn prepare(
    disk: &dyn Disk,
    workspace: &Workspace,
    name: &Name,
    digest: &Digest,
    path: RelPath,
) -> Result<(Pending, Vec<RelPath>), Error> {
    let file = disk.create(&path, Create::Buffered).map_err(Error::disk("creating", &path))?;
    let text = digest.to_string();
    write_all_at(&*file, text.as_bytes(), 0).map_err(Error::disk("writing", &path))?;
    let folder = layout::tags(workspace, name);
    let made = make_dirs(disk, &folder, 0o700)?;
    let to = folder.join(name.tag());
    Ok((Pending { from: path, folder, to }, made))
}

/// Moves a prepared tag to its place. The folder that this returns is to be synced.
pub(crate) fn publish(disk: &dyn Disk, pending: &Pending) -> Result<RelPath, Error> {
    disk.rename(&pending.from, &pending.to).map_err(Error::disk("renaming", &pending.from))?;
    Ok(pending.folder.clone())
}

/// Makes a folder and those above it; returns every folder above it but the root, inner ones
/// first. What is there already was perhaps made by somebody who never came to sync it.
pub(crate) fn make_dirs(disk: &dyn Disk, path: &RelPath, mode: u32) -> Result<Vec<RelPath>, Error> {
    let mut above = Vec::new();
    let mut place = path.clone();
    while let Some((folder, _)) = place.split()
        && folder != RelPath::root()
    {
        above.push(folder.clone());
        place = folder;
    }
    for folder in above.iter().rev().chain([path]) {
        match disk.make_dir(folder, mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(Error::disk("making", folder))?,
        }
    }
    Ok(above)
}

/// Where a name leads.
pub(crate) fn get(
    disk: &dyn Disk,
    workspace: &Workspace,
    name: &Name,
) -> Result<Option<Digest>, Error> {
    read(disk, &layout::tags(workspace, name).join(name.tag()))
}

fn read(disk: &dyn Disk, path: &RelPath) -> Result<Option<Digest>, Error> {
    let file = match disk.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::disk("opening", path)(error)),
    };
    let size = file.stat().map_err(Error::disk("reading", path))?.size.min(MOST_BYTES);
    let bytes = read_small(&*file, size).map_err(Error::disk("reading", path))?;
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    Ok(text.and_then(|text| text.parse().ok()))
}

/// Every name of a workspace by the digest that it leads to.
pub(crate) fn all(
    disk: &dyn Disk,
    workspace: &Workspace,
) -> Result<BTreeMap<Digest, Vec<Name>>, Error> {
    let mut names = BTreeMap::new();
    let mut folders = vec![(RelPath::new(layout::NAMES).join(workspace), String::new())];
    while let Some((folder, repository)) = folders.pop() {
        let mut entries = Vec::new();
        let listed = disk.list(&folder, &mut |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        });
        match listed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Error::disk("listing", &folder)(error)),
        }
        let is_tags = folder.split().is_some_and(|(_, name)| name == layout::TAGS);
        for entry in entries {
            let path = folder.join(&entry.name);
            match entry.kind {
                Kind::Folder if repository.split('/').count() < MOST_DEPTH => {
                    let inner = match (entry.name.as_str(), repository.is_empty()) {
                        (layout::TAGS, _) => repository.clone(),
                        (name, true) => name.to_owned(),
                        (name, false) => format!("{repository}/{name}"),
                    };
                    folders.push((path, inner));
                }
                Kind::File if is_tags => {
                    let name = format!("{repository}:{}", entry.name).parse::<Name>();
                    if let (Ok(name), Some(digest)) = (name, read(disk, &path)?) {
                        names.entry(digest).or_insert_with(Vec::new).push(name);
                    }
                }
                _ => {}
            }
        }
    }
    for list in names.values_mut() {
        list.sort();
    }
    Ok(names)
}

/// Ends a name if it still leads to `digest`. The folder that this returns is to be synced.
pub(crate) fn remove(
    disk: &dyn Disk,
    workspace: &Workspace,
    name: &Name,
    digest: &Digest,
) -> Result<Option<RelPath>, Error> {
    if get(disk, workspace, name)? != Some(*digest) {
        return Ok(None);
    }
    let folder = layout::tags(workspace, name);
    let path = folder.join(name.tag());
    disk.unlink(&path).map_err(Error::disk("removing", &path))?;
    Ok(Some(folder))
}
