//! Links between the pool and whoever holds a blob: a layout, a draft, a repository.
//!
//! Somebody else may put the same meanwhile. Of two good files the one that is there stays, so
//! that the bytes are there once; a rotten one makes way and goes to quarantine; one that can have
//! no more names makes way for a fresh copy and lives on where it is held.

use std::io;
use std::sync::Mutex;

use crate::buffer::STEP;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::disk::{Create, Disk, File, RelPath, write_all_at};
use crate::durable::lost;
use crate::error::{Damage, DamageKind, Error};
use crate::layout::{self, Pool};
use crate::quarantine::{self, Subject};
use crate::reader::hash;
use crate::stop::Stop;
use crate::store::{Inner, Store, lock};

/// How often a blob's place is looked at again because somebody else was quicker.
const N_TRIES: usize = 16;

/// Names in staging that go when this is dropped. What cannot be removed then is removed when the
/// store is opened next.
pub(crate) struct Scraps {
    store: Store,
    paths: Mutex<Vec<RelPath>>,
}

/// How a blob stands at the name that was made for it in staging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stands {
    /// A link to the store's own copy.
    Kept,
    /// A new file that the store does not have.
    New,
    /// A new file that takes the place of the store's, which is rotten.
    Heals,
}

/// A pool, and where to put what is needed for a moment.
pub(crate) struct Linking<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) pool: Pool,
    pub(crate) scraps: &'a Scraps,
    /// What gets its names is in the log for them.
    pub(crate) is_logged: bool,
}

impl Scraps {
    pub(crate) fn new(store: &Store) -> Scraps {
        Scraps { store: store.clone(), paths: Mutex::default() }
    }

    /// A name in staging that nobody else has.
    pub(crate) fn path(&self, what: &str) -> RelPath {
        let path = self.store.inner.staging(what);
        lock(&self.paths).push(path.clone());
        path
    }

    /// One of them was renamed, and is to go from there.
    pub(crate) fn moved(&self, from: &RelPath, to: &RelPath) {
        if let Some(path) = lock(&self.paths).iter_mut().find(|path| *path == from) {
            path.clone_from(to);
        }
    }

    /// One of them is not there any more.
    pub(crate) fn gone(&self, path: &RelPath) {
        lock(&self.paths).retain(|left| left != path);
    }
}

impl Drop for Scraps {
    fn drop(&mut self) {
        for path in lock(&self.paths).drain(..) {
            let _ = self.store.inner.disk.unlink(&path);
        }
    }
}

impl<'a> Linking<'a> {
    pub(crate) fn new(inner: &'a Inner, pool: Pool, scraps: &'a Scraps) -> Linking<'a> {
        Linking { inner, pool, scraps, is_logged: false }
    }

    fn disk(&self) -> &dyn Disk {
        &*self.inner.disk
    }

    /// Links the store's copy to `path`, so that nobody collects it while it is compared.
    pub(crate) fn hold(
        &self,
        digest: &Digest,
        path: &RelPath,
    ) -> Result<(Option<Box<dyn File>>, Stands), Error> {
        for _ in 0..N_TRIES {
            let (existing, stands) = self.hold_once(digest, path)?;
            if existing.is_none() {
                return Ok((existing, stands));
            }
            if !self.inner.rest_on(digest, path)? {
                self.inner.empty_log()?;
            }
            if self.is_ours(digest, path) {
                return Ok((existing, stands));
            }
            self.disk().unlink(path).map_err(Error::disk("removing", path))?;
        }
        Err(Error::disk("linking", path)(io::Error::other("syncs fail again and again")))
    }

    /// Whether a link to the store's own copy still is one: after a failed sync it is written anew.
    fn is_ours(&self, digest: &Digest, path: &RelPath) -> bool {
        self.inner.is_one_file(path, &self.pool.blob(digest))
    }

    fn hold_once(
        &self,
        digest: &Digest,
        path: &RelPath,
    ) -> Result<(Option<Box<dyn File>>, Stands), Error> {
        let blob = self.pool.blob(digest);
        let linked = {
            let _guard = self.inner.lock_digest(digest);
            self.disk().link(&blob, path)
        };
        match linked {
            Ok(()) => match self.disk().open(path) {
                Ok(file) => Ok((Some(file), Stands::Kept)),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    // No regular file: not ours, whatever it is.
                    self.disk().unlink(path).map_err(Error::disk("removing", path))?;
                    Ok((None, Stands::Heals))
                }
                Err(error) => Err(Error::disk("opening", path)(error)),
            },
            Err(error) => match error.kind() {
                // Where a file can have no more names, a fresh one takes its place.
                io::ErrorKind::NotFound | io::ErrorKind::TooManyLinks => Ok((None, Stands::New)),
                _ if is_no_file(&error) => Ok((None, Stands::Heals)),
                _ => Err(Error::disk("linking", &blob)(error)),
            },
        }
    }

    /// Gives a new blob its name in the pool. `true` when a rotten copy had to make way. Whatever
    /// stands at `own` afterwards is the file that the pool has.
    pub(crate) fn publish(&self, digest: &Digest, own: &RelPath) -> Result<bool, Error> {
        let disk = self.disk();
        let blob = self.pool.blob(digest);
        for _ in 0..N_TRIES {
            let theirs = {
                let _blob = self.inner.lock_digest(digest);
                match disk.link(own, &blob) {
                    Ok(()) => return Ok(false),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(Error::disk("linking", own)(error)),
                }
                // One is there already: it was when we began, and is rotten or worn out, or
                // somebody else has put it meanwhile. Hold it.
                let theirs = self.scraps.path("theirs");
                match disk.link(&blob, &theirs) {
                    Ok(()) => theirs,
                    Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {
                        self.replace(own, &blob)?;
                        return Ok(false);
                    }
                    Err(error) if is_no_file(&error) => {
                        self.replace(own, &blob)?;
                        return Ok(true);
                    }
                    Err(error) => return Err(Error::disk("linking", &blob)(error)),
                }
            };
            // If it is as good, that one it is, so that the bytes are there once. Nobody waits
            // for us while we look.
            if is_same(disk, own, &theirs)? {
                // Others may wait for us here: that the log is emptied is left to who asks again.
                if !self.is_logged && !self.inner.rest_on(digest, &theirs)? {
                    return Err(lost("linking", &blob));
                }
                if !self.is_logged && !self.is_ours(digest, &theirs) {
                    continue;
                }
                disk.rename(&theirs, own).map_err(Error::disk("renaming", &theirs))?;
                return Ok(false);
            }
            quarantine::keep(disk, &Subject::Blob(*digest), Some(&theirs));
            let _blob = self.inner.lock_digest(digest);
            let inode = |path: &RelPath| disk.stat(path).ok().map(|stat| stat.inode);
            if inode(&blob) == inode(&theirs) {
                self.replace(own, &blob)?;
                return Ok(true);
            }
        }
        let busy = io::Error::other("others put this blob again and again");
        Err(Error::disk("linking", own)(busy))
    }

    /// Puts a blob in the place of whatever has its name in the pool.
    fn replace(&self, own: &RelPath, blob: &RelPath) -> Result<(), Error> {
        let disk = self.disk();
        let spare = self.scraps.path("blob");
        disk.link(own, &spare).map_err(Error::disk("linking", own))?;
        match disk.rename(&spare, blob) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                self.inner.remove_tree(blob)?;
                disk.rename(&spare, blob).map_err(Error::disk("renaming", &spare))
            }
            other => other.map_err(Error::disk("renaming", &spare)),
        }
    }

    /// One more name for a file that is held already; `false` when `to` is taken. Where the file
    /// can have no more names, `to` leads to the pool's own, or to a fresh copy that becomes it.
    pub(crate) fn link(
        &self,
        digest: &Digest,
        from: &RelPath,
        to: &RelPath,
    ) -> Result<bool, Error> {
        let disk = self.disk();
        let blob = self.pool.blob(digest);
        let link = |from: &RelPath| match disk.link(from, to) {
            Ok(()) => Ok(Some(true)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Some(false)),
            Err(error) if error.kind() == io::ErrorKind::TooManyLinks => Ok(None),
            Err(error) => Err(error),
        };
        if let Some(linked) = link(from).map_err(Error::disk("linking", from))? {
            return Ok(linked);
        }
        {
            let _blob = self.inner.lock_digest(digest);
            match link(&blob) {
                Ok(Some(true)) if !self.inner.rest_on(digest, to)? => {
                    disk.unlink(to).map_err(Error::disk("removing", to))?;
                    return Err(lost("linking", &blob));
                }
                Ok(Some(linked)) => return Ok(linked),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::disk("linking", &blob)(error)),
            }
        }
        let copy = self.scraps.path("copy");
        self.copy(digest, from, &copy)?;
        self.publish(digest, &copy)?;
        let linked = link(&copy).map_err(Error::disk("linking", &copy))?;
        linked.ok_or_else(|| Error::disk("linking", &copy)(io::ErrorKind::TooManyLinks.into()))
    }

    /// A copy whose bytes are proved and durable.
    pub(crate) fn copy(&self, digest: &Digest, from: &RelPath, to: &RelPath) -> Result<(), Error> {
        let disk = self.disk();
        let file = disk.open(from).map_err(Error::disk("opening", from))?;
        let copy = disk.create(to, Create::Buffered).map_err(Error::disk("creating", to))?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; STEP];
        let mut at = 0;
        loop {
            let n = file.read_at(&mut buffer, at).map_err(Error::disk("reading", from))?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            write_all_at(&*copy, &buffer[..n], at).map_err(Error::disk("writing", to))?;
            at += n as u64;
        }
        let actual = hasher.finish();
        if actual != *digest {
            let (file, what) = (layout::blob_file(digest), DamageKind::Bytes { actual });
            return Err(Error::Corrupt { artifact: *digest, damages: vec![Damage { file, what }] });
        }
        copy.sync().map_err(Error::disk("syncing", to))
    }
}

/// What stands there is a folder, or something else that cannot be linked.
fn is_no_file(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput)
}

/// Whether two files of ours hold the same bytes; one that cannot be read is not the same.
pub(crate) fn is_same(disk: &dyn Disk, own: &RelPath, other: &RelPath) -> Result<bool, Error> {
    let inode = |path: &RelPath| disk.stat(path).ok().map(|stat| stat.inode);
    let own_inode = inode(own);
    if own_inode.is_some() && own_inode == inode(other) {
        return Ok(true);
    }
    let own_file = disk.open(own).map_err(Error::disk("opening", own))?;
    let size = own_file.stat().map_err(Error::disk("reading", own))?.size;
    let Ok(other_file) = disk.open(other) else { return Ok(false) };
    let (digest, _) = hash(&*own_file, Algorithm::Sha256, size, &Stop::default())
        .map_err(Error::disk("reading", own))?;
    Ok(hash(&*other_file, Algorithm::Sha256, size, &Stop::default())
        .is_ok_and(|(other, n)| other == digest && n == size))
}
