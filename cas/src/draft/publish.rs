//! Giving what a draft wrote its place: a blob in the pool, a layout's files in the layout that is
//! there already.
//!
//! Somebody else may have put the same meanwhile. Of two good files the one that is there stays, so
//! that the bytes are there once; a rotten one makes way and goes to quarantine.

use std::io;

use super::Draft;
use crate::digest::{Algorithm, Digest};
use crate::disk::{Disk, Kind, RelPath};
use crate::error::Error;
use crate::layout;
use crate::oci::{Closure, Node};
use crate::quarantine::{self, Subject};
use crate::reader::hash;
use crate::sealed::put_strangers_away;
use crate::stop::Stop;

/// How often a blob's place is looked at again because somebody else was quicker.
const N_TRIES: usize = 16;

impl Draft {
    /// Gives a new blob its name in `blobs/`. `true` when a rotten copy had to make way.
    pub(super) fn publish(&self, digest: &Digest) -> Result<bool, Error> {
        let disk = &*self.store.inner.disk;
        let own = layout::blob_in(&self.dir, digest);
        let blob = self.pool().blob(digest);
        for _ in 0..N_TRIES {
            let theirs = self.spare("theirs");
            {
                let _blob = self.store.inner.lock_digest(digest);
                match disk.link(&own, &blob) {
                    Ok(()) => return Ok(false),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(Error::disk("linking", &own)(error)),
                }
                // One is there already: it was when we began, and is rotten or worn out, or
                // somebody else has put it meanwhile. Hold it.
                match disk.link(&blob, &theirs) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {
                        self.replace(&own, &blob)?;
                        return Ok(false);
                    }
                    Err(error) if is_no_file(&error) => {
                        self.replace(&own, &blob)?;
                        return Ok(true);
                    }
                    Err(error) => return Err(Error::disk("linking", &blob)(error)),
                }
            }
            // If it is as good, that one it is, so that the bytes are there once. Nobody waits
            // for us while we look.
            if is_same(disk, &own, &theirs)? {
                disk.rename(&theirs, &own).map_err(Error::disk("renaming", &theirs))?;
                return Ok(false);
            }
            quarantine::keep(disk, &Subject::Blob(*digest), Some(&theirs));
            let _blob = self.store.inner.lock_digest(digest);
            let inode = |path: &RelPath| disk.stat(path).ok().map(|stat| stat.inode);
            if inode(&blob) == inode(&theirs) {
                self.replace(&own, &blob)?;
                return Ok(true);
            }
        }
        let busy = io::Error::other("others put this blob again and again");
        Err(Error::disk("linking", &own)(busy))
    }

    /// Puts a draft's blob in the place of whatever has its name in `blobs/`.
    fn replace(&self, own: &RelPath, blob: &RelPath) -> Result<(), Error> {
        let disk = &*self.store.inner.disk;
        let spare = self.spare("blob");
        disk.link(own, &spare).map_err(Error::disk("linking", own))?;
        match disk.rename(&spare, blob) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                self.store.inner.remove_tree(blob)?;
                disk.rename(&spare, blob).map_err(Error::disk("renaming", &spare))
            }
            other => other.map_err(Error::disk("renaming", &spare)),
        }
    }

    /// The workspace has this artifact already. What of its layout is not as good as the draft's
    /// is replaced by the draft's, file by file; the rest of the draft goes when it is dropped. The
    /// caller excludes others from the layout.
    pub(super) fn mend(&self, place: &RelPath, closure: &Closure) -> Result<u64, Error> {
        let inner = &*self.store.inner;
        let disk = &*inner.disk;
        let mut n_mended = 0;
        for folder in self.folders(place, closure).iter().rev().skip(1) {
            self.clear_way(folder, Kind::Folder)?;
            self.make_dir(folder)?;
        }
        let mut files: Vec<(RelPath, RelPath, Subject)> = Vec::new();
        let Some(Node::Manifest(root)) = closure.nodes().last() else { return Ok(0) };
        for name in [layout::OCI_LAYOUT_FILE, layout::INDEX_FILE] {
            let subject = Subject::Fixed(root.digest());
            files.push((self.dir.join(name), place.join(name), subject));
        }
        for node in closure.nodes() {
            let digest = node.digest();
            let (own, theirs) =
                (layout::blob_in(&self.dir, &digest), layout::blob_in(place, &digest));
            files.push((own, theirs, Subject::Blob(digest)));
        }
        for (own, theirs, subject) in &files {
            let (ours, there) = (disk.stat(own), disk.stat(theirs));
            let ours = match ours {
                Ok(ours) => ours,
                // A non-distributable layer that was not brought.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(Error::disk("looking at", own)(error)),
            };
            match there {
                Ok(there) if there.kind == Kind::File => {
                    if there.inode == ours.inode {
                        continue;
                    }
                    if is_same(disk, own, theirs)? {
                        // As good, but not the store's own file: shared from now on.
                        if matches!(subject, Subject::Blob(_)) {
                            disk.rename(own, theirs).map_err(Error::disk("renaming", own))?;
                        }
                        continue;
                    }
                    quarantine::keep(disk, subject, Some(theirs));
                }
                Ok(_) => self.clear_way(theirs, Kind::File)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::disk("looking at", theirs)(error)),
            }
            disk.rename(own, theirs).map_err(Error::disk("renaming", own))?;
            n_mended += 1;
        }
        n_mended += put_strangers_away(inner, place, closure)?.len() as u64;
        Ok(n_mended)
    }

    /// Removes what stands at a place where something of another kind must be.
    fn clear_way(&self, path: &RelPath, kind: Kind) -> Result<(), Error> {
        match self.store.inner.disk.stat(path) {
            Ok(stat) if stat.kind == kind => Ok(()),
            Ok(stat) if stat.kind == Kind::Folder => self.store.inner.remove_tree(path),
            Ok(_) => self.store.inner.disk.unlink(path).map_err(Error::disk("removing", path)),
            Err(_) => Ok(()),
        }
    }
}

/// What stands there is a folder, or something else that cannot be linked.
pub(super) fn is_no_file(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput)
}

/// Whether two files of ours hold the same bytes; one that cannot be read is not the same.
fn is_same(disk: &dyn Disk, own: &RelPath, other: &RelPath) -> Result<bool, Error> {
    let own_file = disk.open(own).map_err(Error::disk("opening", own))?;
    let size = own_file.stat().map_err(Error::disk("reading", own))?.size;
    let Ok(other_file) = disk.open(other) else { return Ok(false) };
    let (digest, _) = hash(&*own_file, Algorithm::Sha256, size, &Stop::default())
        .map_err(Error::disk("reading", own))?;
    Ok(hash(&*other_file, Algorithm::Sha256, size, &Stop::default())
        .is_ok_and(|(other, n)| other == digest && n == size))
}
