//! Tags: one small file each, moved by rename.
//!
//! The file holds the digest that the tag leads to and, on a second line, a check that ties both
//! together: a tag that rotted is damage, not a name that nobody gave.

use std::fmt;
use std::io;
use std::ops::ControlFlow;

use crate::digest::{CHECK, Digest, check_of};
use crate::disk::{Create, Disk, Entry, Kind, RelPath, write_all_at};
use crate::error::Error;
use crate::layout::{self, MemberKind};
use crate::reader::read_up_to;
use crate::workspace::{Name, RepositoryName, Tag, Workspace};

/// The longest digest as text, its line's end, and the check.
const MOST_BYTES: u64 = 7 + 128 + 1 + CHECK as u64 + 1;
/// How deep a repository's folders are followed; its name has at most 255 bytes.
const MOST_DEPTH: usize = 130;
/// How often a folder is made again because somebody tidied it away.
pub(crate) const N_TRIES: usize = 16;

/// A tag's file that is written and waits to be moved to its place.
pub(crate) struct Pending {
    pub(crate) name: Name,
    from: RelPath,
    folder: RelPath,
}

impl Pending {
    /// The folder of its place, which is to be synced when it has moved there.
    pub(crate) fn folder(&self) -> &RelPath {
        &self.folder
    }
}

/// Writes what `name` is to lead to at `path` and makes the folders that it will stand in.
pub(crate) fn prepare(
    disk: &dyn Disk,
    workspace: &Workspace,
    name: &Name,
    digest: &Digest,
    path: RelPath,
) -> Result<Pending, Error> {
    let file = disk.create(&path, Create::Buffered).map_err(Error::disk("creating", &path))?;
    write_all_at(&*file, &bytes(name, digest), 0).map_err(Error::disk("writing", &path))?;
    let folder = layout::tags(workspace, name.repository());
    make_dirs(disk, &folder, 0o700)?;
    Ok(Pending { name: name.clone(), from: path, folder })
}

/// Moves a prepared tag to its place. The caller excludes others from the repository.
pub(crate) fn publish(disk: &dyn Disk, pending: &Pending) -> Result<(), Error> {
    move_into(disk, &pending.from, &pending.folder, pending.name.tag())
}

/// Renames a file of ours to a name in a folder of names, whatever stood there.
pub(crate) fn move_into(
    disk: &dyn Disk,
    from: &RelPath,
    folder: &RelPath,
    name: impl fmt::Display,
) -> Result<(), Error> {
    let to = folder.join(name);
    let mut renamed = disk.rename(from, &to);
    for _ in 0..N_TRIES {
        match &renamed {
            // The folder was never made, or somebody who ended the last name in it took it away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_dirs(disk, folder, 0o700)?;
                renamed = disk.rename(from, &to);
            }
            _ => break,
        }
    }
    renamed.map_err(Error::disk("renaming", from))
}

/// Makes a folder and those above it.
pub(crate) fn make_dirs(disk: &dyn Disk, path: &RelPath, mode: u32) -> Result<(), Error> {
    // It is there already, most of the time: then there is nothing more to ask for.
    if disk.make_dir(path, mode).is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
        return Ok(());
    }
    let way = path.way();
    for _ in 0..N_TRIES {
        let made = way.iter().rev().try_fold(true, |made, folder| {
            match disk.make_dir(folder, mode) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(made),
                // The one above it was tidied away in this moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
                other => other.map(|()| made).map_err(Error::disk("making", folder)),
            }
        })?;
        if made {
            return Ok(());
        }
    }
    Err(Error::disk("making", path)(io::ErrorKind::NotFound.into()))
}

/// Where a name leads.
///
/// # Errors
/// [`Error::DamagedName`] when its file is not what it was, [`Error::Disk`].
pub(crate) fn get(
    disk: &dyn Disk,
    workspace: &Workspace,
    name: &Name,
) -> Result<Option<Digest>, Error> {
    let path = file_of(workspace, name);
    let file = match disk.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(damaged(name)),
        Err(error) => return Err(Error::disk("opening", &path)(error)),
    };
    let found = read_up_to(&*file, &path, MOST_BYTES)?;
    leads_to(name, &found).map(Some).ok_or_else(|| damaged(name))
}

/// The same without waiting for the disk; `None` says nothing.
pub(crate) fn get_now(disk: &dyn Disk, workspace: &Workspace, name: &Name) -> Option<Digest> {
    let path = file_of(workspace, name);
    leads_to(name, &disk.read_now(&path, MOST_BYTES).ok()?)
}

/// Where it stands where a name leads.
pub(crate) fn file_of(workspace: &Workspace, name: &Name) -> RelPath {
    layout::tags(workspace, name.repository()).join(name.tag())
}

/// Where a name leads by what stands in its file, unless that is damaged.
fn leads_to(name: &Name, found: &[u8]) -> Option<Digest> {
    let line = found.split(|b| *b == b'\n').next()?;
    let digest = std::str::from_utf8(line).ok()?.parse::<Digest>().ok()?;
    (bytes(name, &digest) == found).then_some(digest)
}

fn damaged(name: &Name) -> Error {
    Error::DamagedName { name: name.clone() }
}

/// What stands in the file of a tag.
fn bytes(name: &Name, digest: &Digest) -> Vec<u8> {
    format!("{digest}\n{}\n", check_of(&format!("{name} {digest}"))).into_bytes()
}

/// The repositories of a workspace that have a folder, in no order.
pub(crate) fn repositories(
    disk: &dyn Disk,
    workspace: &Workspace,
) -> Result<Vec<RepositoryName>, Error> {
    let mut found = Vec::new();
    let mut folders = vec![(RelPath::new(layout::NAMES).join(workspace), String::new())];
    while let Some((folder, repository)) = folders.pop() {
        let mut is_repository = false;
        let listed = disk.list(&folder, &mut |entry| {
            // No segment of a name begins so.
            let is_part = entry.name.starts_with('_');
            is_repository |= is_part;
            if !is_part && entry.kind == Kind::Folder && repository.split('/').count() < MOST_DEPTH
            {
                let inner = match repository.is_empty() {
                    true => entry.name.clone(),
                    false => format!("{repository}/{}", entry.name),
                };
                folders.push((folder.join(&entry.name), inner));
            }
            ControlFlow::Continue(())
        });
        match listed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(Error::disk("listing", &folder))?,
        }
        if is_repository && let Ok(name) = repository.parse() {
            found.push(name);
        }
    }
    Ok(found)
}

/// The tags of a repository, in no order. Nothing is said of where they lead.
pub(crate) fn tags(
    disk: &dyn Disk,
    workspace: &Workspace,
    repository: &RepositoryName,
) -> Result<Vec<Tag>, Error> {
    let folder = layout::tags(workspace, repository);
    let mut tags = Vec::new();
    let listed = disk.list(&folder, &mut |entry| {
        tags.extend(tag_of(&entry));
        ControlFlow::Continue(())
    });
    match listed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(tags),
        other => other.map_err(Error::disk("listing", &folder)).map(|()| tags),
    }
}

/// The tag that an entry of their folder is.
pub(crate) fn tag_of(entry: &Entry) -> Option<Tag> {
    (entry.kind == Kind::File).then_some(&entry.name)?.parse().ok()
}

/// Calls `each` for every name of a workspace with the digest that it leads to. Names whose files
/// are damaged are told in the log and left out.
pub(crate) fn each(
    disk: &dyn Disk,
    workspace: &Workspace,
    each: &mut dyn FnMut(Name, Digest),
) -> Result<(), Error> {
    for repository in repositories(disk, workspace)? {
        for tag in tags(disk, workspace, &repository)? {
            let name = Name::new(&repository, &tag);
            match get(disk, workspace, &name) {
                Ok(Some(digest)) => each(name, digest),
                Ok(None) => {}
                Err(error @ Error::DamagedName { .. }) => {
                    tracing::error!(%workspace, %error, "a name cannot be read");
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Ends a name, if it leads to this digest. The folder that this returns is to be synced, and
/// tidied afterwards. The caller excludes others from the repository.
pub(crate) fn remove(
    disk: &dyn Disk,
    workspace: &Workspace,
    name: &Name,
    digest: &Digest,
) -> Result<Option<RelPath>, Error> {
    if get(disk, workspace, name)? != Some(*digest) {
        return Ok(None);
    }
    let folder = layout::tags(workspace, name.repository());
    let path = folder.join(name.tag());
    disk.unlink(&path).map_err(Error::disk("removing", &path))?;
    Ok(Some(folder))
}

/// Removes the folders of a repository that hold nothing any more, inner ones first. What is in
/// use stays, and what comes back after a power cut does no harm.
pub(crate) fn tidy(disk: &dyn Disk, workspace: &Workspace, repository: &RepositoryName) {
    let place = layout::repository(workspace, repository);
    for kind in MemberKind::ALL {
        let _ = disk.remove_dir(&layout::members(workspace, repository, kind));
    }
    for part in [layout::MEMBERS, layout::REFERRERS, layout::TAGS] {
        let _ = disk.remove_dir(&place.join(part));
    }
    let end = RelPath::new(layout::NAMES).join(workspace);
    for folder in place.way().iter().take_while(|folder| **folder != end) {
        if disk.remove_dir(folder).is_err() {
            return;
        }
    }
}
