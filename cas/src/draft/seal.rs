//! Sealing: from a draft that has everything to an artifact that is there, in one transaction.
//!
//! The order is the promise: what was written is synced before any name leads to it, and the names
//! are synced before anybody is told. `docs/on-disk.md` says what a crash leaves at each step.

use std::collections::HashSet;
use std::io;

use super::{Draft, Held, Receipt};
use crate::digest::{Algorithm, Digest};
use crate::disk::{Create, Disk, Kind, RelPath, write_all_at};
use crate::durable::Unsynced;
use crate::error::Error;
use crate::index::Facts;
use crate::layout;
use crate::names;
use crate::oci::{Closure, Node, Refusal};
use crate::quarantine::{self, Subject};
use crate::reader::hash;
use crate::sealed::{Sealed, facts_of, put_strangers_away};
use crate::store::lock;
use crate::workspace::Name;

impl Draft {
    pub(super) fn seal_closure(
        mut self,
        closure: Closure,
        names: &[Name],
    ) -> Result<(Sealed, Receipt), Error> {
        let mut receipt = Receipt { n_blobs: closure.nodes().len() as u64, ..Receipt::default() };
        let mut unsynced = Unsynced { since: self.since, ..Unsynced::default() };
        let mut new = Vec::new();
        for node in closure.nodes() {
            let claim = node.descriptor();
            let member = match self.member(&claim) {
                Err(Refusal::Missing { digest, .. }) if claim.may_be_absent() => {
                    receipt.absent.push(digest);
                    continue;
                }
                other => other?,
            };
            receipt.size += node.size();
            if member.held != Held::Kept {
                new.push((node.digest(), member.held));
                if !member.synced {
                    unsynced.files.push(layout::blob_in(&self.dir, &node.digest()));
                }
            }
        }
        self.drop_strangers(&closure)?;
        let Some(Node::Manifest(root)) = closure.nodes().last() else {
            let digest = Digest::of(b"");
            return Err(Refusal::Missing { digest, media_type: String::new() }.into());
        };
        let root = root.descriptor();
        let store = self.store.clone();
        let place = layout::artifact(&self.workspace, &root.digest);
        let is_new = store.inner.disk.stat(&place).is_err();
        // What the workspace has already counts once; layers that were absent so far count now.
        let held = match is_new {
            true => 0,
            false => store.facts(&self.workspace, &root.digest).map_or(0, |facts| facts.size),
        };
        let counted = receipt.size.saturating_sub(held);
        let reserved = store.inner.reserve(&self.workspace, counted)?;
        for (name, bytes) in [
            (layout::OCI_LAYOUT_FILE, layout::OCI_LAYOUT),
            (layout::INDEX_FILE, &layout::index_json(&root)[..]),
        ] {
            let path = self.dir.join(name);
            self.write(&path, bytes)?;
            unsynced.files.push(path);
        }
        let mut pending = Vec::new();
        for name in names {
            let path = self.store.inner.staging("name");
            lock(&self.extras).push(path.clone());
            let disk = &*self.store.inner.disk;
            let (tag, changed) =
                names::prepare(disk, &self.workspace, name, &root.digest, path.clone())?;
            unsynced.files.push(path);
            unsynced.folders.extend(changed);
            pending.push(tag);
        }
        unsynced.folders.extend(self.folders(&self.dir, &closure));

        // Everything is written: now it must be safe before any name leads to it.
        self.store.inner.settle(&unsynced)?;

        let mut published =
            Unsynced { since: self.store.inner.barrier.n_failed(), ..Unsynced::default() };
        for (digest, held) in new {
            let healed = self.publish(&digest, held)?;
            receipt.n_written += u64::from(held != Held::Heals);
            receipt.n_healed += u64::from(held == Held::Heals || healed);
            published.folders.push(layout::blobs(digest.algorithm()));
        }
        match self.store.inner.disk.rename_new(&self.dir, &place) {
            Ok(()) => self.placed = true,
            Err(error) if is_in_the_way(&error) => {
                receipt.existed = true;
                receipt.n_healed += self.mend(&place, &closure)?;
            }
            Err(error) => return Err(Error::disk("renaming", &self.dir)(error)),
        }
        published.folders.extend(self.folders(&place, &closure));
        if let Some((folder, _)) = place.split() {
            published.folders.push(folder);
        }
        published.folders.dedup();
        self.store.inner.settle(&published)?;

        // A name moves last: it must not outlive a power cut that the artifact does not.
        if !pending.is_empty() {
            published.folders.clear();
            for tag in &pending {
                published.folders.push(names::publish(&*self.store.inner.disk, tag)?);
            }
            published.folders.dedup();
            self.store.inner.settle(&published)?;
        }

        if !receipt.existed || !is_new {
            reserved.keep();
        }
        let facts = facts_of(&closure, receipt.size.max(held));
        self.remember(&root.digest, &facts, &closure);
        let sealed = Sealed::new(self.store.clone(), self.workspace.clone(), root.digest);
        Ok((sealed, receipt))
    }

    fn remember(&self, digest: &Digest, facts: &Facts, closure: &Closure) {
        if let Some(index) = self.store.inner.index() {
            index.note(&self.workspace, digest, facts);
            for node in closure.nodes() {
                index.note_size(node.size());
            }
        }
    }

    fn write(&self, path: &RelPath, bytes: &[u8]) -> Result<(), Error> {
        let disk = &*self.store.inner.disk;
        let file = disk.create(path, Create::Buffered).map_err(Error::disk("creating", path))?;
        write_all_at(&*file, bytes, 0).map_err(Error::disk("writing", path))
    }

    /// The folders of a layout, inner ones first.
    fn folders(&self, layout: &RelPath, closure: &Closure) -> Vec<RelPath> {
        let blobs = layout.join(layout::BLOBS);
        let uses = |a: Algorithm| closure.nodes().iter().any(|n| n.digest().algorithm() == a);
        let used = Algorithm::ALL.into_iter().filter(|a| uses(*a));
        let mut folders: Vec<RelPath> = used.map(|a| blobs.join(a.name())).collect();
        folders.extend([blobs, layout.clone()]);
        folders
    }

    /// What was brought and is not reached does not become part of the artifact.
    fn drop_strangers(&self, closure: &Closure) -> Result<(), Error> {
        let members = lock(&self.members);
        let reached: HashSet<Digest> = closure.nodes().iter().map(Node::digest).collect();
        let strangers = members.keys().filter(|digest| !reached.contains(*digest));
        for digest in strangers {
            let path = layout::blob_in(&self.dir, digest);
            self.store.inner.disk.unlink(&path).map_err(Error::disk("removing", &path))?;
        }
        Ok(())
    }

    /// Gives a new blob its name in `blobs/`. `true` when a rotten copy had to make way that was
    /// put there meanwhile.
    fn publish(&self, digest: &Digest, held: Held) -> Result<bool, Error> {
        let disk = &*self.store.inner.disk;
        let own = layout::blob_in(&self.dir, digest);
        let blob = layout::blob(digest);
        let _guard = self.store.inner.lock_digest(digest);
        if held == Held::New {
            match disk.link(&own, &blob) {
                Ok(()) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(Error::disk("linking", &own)(error)),
            }
            // Somebody else put the same blob while we wrote ours. If theirs is as good, theirs
            // it is, so that the bytes are there once.
            if is_same(disk, &own, &blob)? {
                let theirs = self.spare("theirs");
                match disk.link(&blob, &theirs) {
                    Ok(()) => {
                        disk.rename(&theirs, &own).map_err(Error::disk("renaming", &theirs))?;
                        return Ok(false);
                    }
                    Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {}
                    Err(error) => return Err(Error::disk("linking", &blob)(error)),
                }
            } else {
                quarantine::keep(disk, &Subject::Blob(*digest), Some(&blob));
            }
        }
        let spare = self.spare("blob");
        disk.link(&own, &spare).map_err(Error::disk("linking", &own))?;
        match disk.rename(&spare, &blob) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                self.store.inner.remove_tree(&blob)?;
                disk.rename(&spare, &blob).map_err(Error::disk("renaming", &spare))?;
            }
            other => other.map_err(Error::disk("renaming", &spare))?,
        }
        Ok(held == Held::New)
    }

    fn spare(&self, what: &str) -> RelPath {
        let path = self.store.inner.staging(what);
        lock(&self.extras).push(path.clone());
        path
    }

    /// The workspace has this artifact already. What of its layout is not as good as the draft's
    /// is replaced by the draft's, file by file; the rest of the draft goes when it is dropped.
    fn mend(&self, place: &RelPath, closure: &Closure) -> Result<u64, Error> {
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
            let _guard = match subject {
                Subject::Blob(digest) => Some(inner.lock_digest(digest)),
                Subject::Fixed(_) => None,
            };
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
        n_mended += put_strangers_away(inner, place, closure, true)?.len() as u64;
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

fn is_in_the_way(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

/// Whether two files of ours hold the same bytes; one that cannot be read is not the same.
fn is_same(disk: &dyn Disk, own: &RelPath, other: &RelPath) -> Result<bool, Error> {
    let own_file = disk.open(own).map_err(Error::disk("opening", own))?;
    let size = own_file.stat().map_err(Error::disk("reading", own))?.size;
    let Ok(other_file) = disk.open(other) else { return Ok(false) };
    let (digest, _) =
        hash(&*own_file, Algorithm::Sha256, size, false).map_err(Error::disk("reading", own))?;
    Ok(hash(&*other_file, Algorithm::Sha256, size, false)
        .is_ok_and(|(other, n)| other == digest && n == size))
}
