//! Proving one file that holds a blob, wherever it is linked: in a layout or in a repository.
//!
//! Damage is told once: the bad file goes to quarantine. What quarantine knows of is healed by a
//! link to the pool's own copy, if that one is another file and good.

use std::io;

use crate::digest::Digest;
use crate::disk::{Disk, File, Kind, RelPath};
use crate::durable::sync_folder_of;
use crate::error::{DamageKind, Error};
use crate::layout::Pool;
use crate::quarantine::{self, Subject};
use crate::reader::hash;
use crate::sealed::put_stranger_away;
use crate::stop::Stop;
use crate::store::Inner;

/// Where a blob is linked, and what it must be.
pub(crate) struct Place<'a> {
    pub(crate) inner: &'a Inner,
    pub(crate) pool: Pool,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) path: &'a RelPath,
    pub(crate) stop: &'a Stop,
}

/// A file that was hashed whole just now.
pub(crate) struct Good {
    pub(crate) file: Box<dyn File>,
    /// It took the place of one whose damage had been told before.
    pub(crate) healed: bool,
}

/// A file that is not as it should be.
pub(crate) struct Bad {
    what: DamageKind,
    /// The file that was looked at, open, so that no other can get its number meanwhile; absent
    /// when there is none, or none that can be opened.
    file: Option<Box<dyn File>>,
}

impl Bad {
    fn of(what: DamageKind) -> Bad {
        Bad { what, file: None }
    }

    fn inode(&self) -> Option<u64> {
        self.file.as_ref().and_then(|file| file.stat().ok()).map(|stat| stat.inode)
    }
}

impl Place<'_> {
    fn disk(&self) -> &dyn Disk {
        &*self.inner.disk
    }

    /// Hashes the file. A damaged one is healed if it can be, and otherwise put into quarantine.
    /// `still` fails when the place itself is gone meanwhile, which is no damage; `lock` excludes
    /// others from it.
    pub(crate) fn prove<G>(
        &self,
        still: &dyn Fn() -> Result<(), Error>,
        lock: &dyn Fn() -> G,
    ) -> Result<Result<Good, DamageKind>, Error> {
        if let Ok(file) = self.look()? {
            return Ok(Ok(Good { file, healed: false }));
        }
        // Twice wrong before it is damage: a read can go wrong once.
        let bad = match self.look()? {
            Ok(file) => return Ok(Ok(Good { file, healed: false })),
            Err(bad) => bad,
        };
        still()?;
        // No rot, if a failed sync dropped what the log still has.
        if self.inner.mend_lost(&self.digest)?
            && let Ok(file) = self.look()?
        {
            return Ok(Ok(Good { file, healed: true }));
        }
        let exclude = || {
            let guard = lock();
            still().map(|()| guard)
        };
        if bad.what == DamageKind::Missing {
            // The place may have been retired and put again since.
            let _excluded = exclude()?;
            if let Ok(file) = self.look()? {
                return Ok(Ok(Good { file, healed: false }));
            }
        }
        let digest = self.digest;
        if quarantine::knows(self.disk(), &Subject::Blob(digest)) && self.heal(&bad, &exclude)? {
            tracing::warn!(%digest, place = %self.path, "a damaged blob was healed from the store's good copy");
            let again = self.look()?.map_err(|bad| bad.what);
            return Ok(again.map(|file| Good { file, healed: true }));
        }
        self.put_away(&bad, &exclude)?;
        Ok(Err(bad.what))
    }

    /// Hashes the file and changes nothing.
    pub(crate) fn look(&self) -> Result<Result<Box<dyn File>, Bad>, Error> {
        let path = self.path;
        let file = match self.disk().open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err(Bad::of(DamageKind::Missing)));
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Ok(Err(Bad::of(DamageKind::NotAFile)));
            }
            Err(error) => return Err(Error::disk("opening", path)(error)),
        };
        let expected = self.size;
        let actual = file.stat().map_err(Error::disk("looking at", path))?.size;
        if actual != expected {
            let what = DamageKind::Size { expected, actual };
            return Ok(Err(Bad { what, file: Some(file) }));
        }
        let hashed = hash(&*file, self.digest.algorithm(), expected, self.stop);
        let (actual, _) = hashed.map_err(Error::disk("reading", path))?;
        match actual == self.digest {
            true => Ok(Ok(file)),
            false => Ok(Err(Bad { what: DamageKind::Bytes { actual }, file: Some(file) })),
        }
    }

    /// Replaces the file by a link to the pool's, if that one is another file and good.
    fn heal<G>(&self, bad: &Bad, exclude: &dyn Fn() -> Result<G, Error>) -> Result<bool, Error> {
        let (disk, path, size) = (self.disk(), self.path, self.size);
        let blob = self.pool.blob(&self.digest);
        let inode = |path: &RelPath| disk.stat(path).ok().map(|stat| stat.inode);
        let good = match disk.stat(&blob) {
            Ok(good) if good.kind == Kind::File && good.size == size => {
                if bad.inode() == Some(good.inode) {
                    return Ok(false);
                }
                match disk.open(&blob) {
                    Ok(good) => good,
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                    Err(error) => return Err(Error::disk("opening", &blob)(error)),
                }
            }
            _ => return Ok(false),
        };
        let hashed = hash(&*good, self.digest.algorithm(), size, self.stop);
        if hashed.map_err(Error::disk("reading", &blob))?.0 != self.digest {
            return Ok(false);
        }
        let proved = good.stat().map_err(Error::disk("looking at", &blob))?.inode;
        quarantine::keep(disk, &Subject::Blob(self.digest), Some(path));
        self.inner.proofs.forget(&self.digest);

        if !self.inner.rest_on(&self.digest, &blob)? {
            self.inner.empty_log()?;
            return Ok(true);
        }
        let _excluded = exclude()?;
        if self.is_other(bad) {
            // Somebody else was quicker: it is to be looked at again.
            return Ok(true);
        }
        let spare = self.inner.staging("heal");
        {
            let _blob = self.inner.lock_digest(&self.digest);
            if inode(&blob) != Some(proved) {
                return Ok(false);
            }
            match disk.link(&blob, &spare) {
                // Worn out: there is nothing to heal from just now.
                Err(error) if error.kind() == io::ErrorKind::TooManyLinks => return Ok(false),
                other => other.map_err(Error::disk("linking", &blob))?,
            }
        }
        if disk.stat(path).is_ok_and(|stat| stat.kind == Kind::Folder) {
            self.inner.remove_tree(path)?;
        }
        disk.rename(&spare, path).map_err(Error::disk("renaming", &spare))?;
        sync_folder_of(disk, path)?;
        Ok(true)
    }

    /// A damaged file leaves its place, and if it is the pool's own copy, the pool as well, so that
    /// the next put writes it anew. A copy stays in quarantine.
    fn put_away<G>(&self, bad: &Bad, exclude: &dyn Fn() -> Result<G, Error>) -> Result<(), Error> {
        let (inner, disk, path, digest) = (self.inner, self.disk(), self.path, self.digest);
        let subject = Subject::Blob(digest);
        inner.proofs.forget(&digest);
        let is_kept = match &bad.file {
            Some(file) => quarantine::keep_open(disk, &subject, &**file),
            None => quarantine::keep(disk, &subject, None),
        };
        let _excluded = exclude()?;
        if bad.what == DamageKind::Missing || self.is_other(bad) {
            return Ok(());
        }
        let Some(inode) = bad.inode() else {
            // No regular file: whatever it is, it does not belong there.
            put_stranger_away(inner, &subject, path)?;
            return sync_folder_of(disk, path);
        };
        if is_kept {
            disk.unlink(path).map_err(Error::disk("removing", path))?;
        } else {
            // Too large to be copied, or the disk is full: the file itself goes there.
            inner.release_reserve();
            if let Err(error) = quarantine::move_away(disk, &subject, path) {
                // It stays, and every check tells of it again.
                tracing::error!(%digest, %error, "a damaged file cannot be put into quarantine");
                return Ok(());
            }
        }
        let blob = self.pool.blob(&digest);
        let _blob = inner.lock_digest(&digest);
        if disk.stat(&blob).is_ok_and(|there| there.inode == inode) {
            disk.unlink(&blob).map_err(Error::disk("removing", &blob))?;
            sync_folder_of(disk, &blob)?;
        }
        sync_folder_of(disk, path)
    }

    /// Whether something else stands there by now than what was looked at: somebody put the good
    /// file there, or took the bad one away.
    fn is_other(&self, bad: &Bad) -> bool {
        match (self.disk().stat(self.path), bad.inode()) {
            (Ok(there), Some(inode)) => there.inode != inode,
            (Ok(there), None) => there.kind == Kind::File,
            (Err(_), _) => bad.what != DamageKind::Missing,
        }
    }
}
