//! Giving what a draft wrote its place in a layout that is there already.
//!
//! Of two good files the one that is there stays; a rotten one makes way and goes to quarantine.

use std::io;

use super::Draft;
use crate::disk::{Kind, RelPath};
use crate::error::Error;
use crate::layout;
use crate::linking::is_same;
use crate::oci::{Closure, Node};
use crate::quarantine::{self, Subject};
use crate::sealed::put_strangers_away;

impl Draft {
    /// The workspace has this artifact already. What of its layout is not as good as the draft's
    /// is replaced by the draft's, file by file; the rest of the draft goes when it is dropped. The
    /// caller excludes others from the layout.
    pub(super) fn mend(&self, place: &RelPath, closure: &Closure) -> Result<u64, Error> {
        let inner = &*self.store.inner;
        let disk = &*inner.disk;
        let mut n_mended = 0;
        for folder in [place.join(layout::BLOBS)].iter().chain(&self.folders(place, closure)) {
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
