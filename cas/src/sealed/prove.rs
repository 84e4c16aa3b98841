//! Proving a layout again: every member there, and made of the bytes that its digest says.

use std::collections::HashSet;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Sealed, structure};
use crate::digest::Digest;
use crate::disk::{File, Kind, RelPath};
use crate::error::{Damage, DamageKind, Error};
use crate::layout;
use crate::oci::{self, Closure, Descriptor};
use crate::quarantine::{self, Subject};
use crate::reader::{hash, read_small};
use crate::store::lock;

/// From this size on, a blob that is hashed alone is read ahead by a second thread.
const AHEAD_FROM: u64 = 8 << 20;

/// What a look at a layout found.
pub(super) struct Inspection {
    pub(super) closure: Closure,
    pub(super) absent: HashSet<Digest>,
    pub(super) n_healed: u64,
}

#[derive(Clone, Copy)]
enum Depth {
    Sizes,
    Bytes,
}

impl Sealed {
    /// Looks at the whole layout, and with `bytes` hashes the blobs as well.
    pub(super) fn inspect(&self, bytes: bool) -> Result<Inspection, Error> {
        // Retired meanwhile, or never there: that is no damage.
        self.store.sealed(&self.workspace, &self.digest)?;
        let mut n_healed = 0;
        let mut damages = Vec::new();
        let closure = self.walk(&mut n_healed)?;
        let layout = self.path();
        let disk = &*self.inner().disk;

        let mut absent = HashSet::new();
        let mut whole = Vec::new();
        for descriptor in closure.blobs() {
            let digest = descriptor.digest;
            // One whose damage was told was there, and its loss is no permission.
            if descriptor.may_be_absent()
                && !quarantine::knows(disk, &Subject::Blob(digest))
                && disk
                    .stat(&layout::blob_in(&layout, &digest))
                    .is_err_and(|e| e.kind() == io::ErrorKind::NotFound)
            {
                absent.insert(digest);
                continue;
            }
            whole.push((digest, descriptor.size));
        }
        let depth = if bytes { Depth::Bytes } else { Depth::Sizes };
        for (digest, what) in self.prove_all(whole, depth, &mut n_healed)? {
            damages.push(Damage { file: layout::blob_file(&digest), what });
        }
        damages.extend(structure::put_strangers_away(self.inner(), &layout, &closure, false)?);
        if let Some(root) = closure.manifests().last() {
            damages.extend(self.check_fixed(&root.descriptor(), &mut n_healed)?);
        }
        match damages.is_empty() {
            true => Ok(Inspection { closure, absent, n_healed }),
            false => Err(self.corrupt(damages)),
        }
    }

    pub(super) fn corrupt(&self, damages: Vec<Damage>) -> Error {
        let artifact = self.digest;
        for damage in &damages {
            tracing::error!(%artifact, workspace = %self.workspace, %damage, "damage was found");
        }
        Error::Corrupt { artifact, damages }
    }

    /// The root's descriptor, made from its own bytes, which are not proved here.
    pub(super) fn root(&self) -> Result<(Descriptor, Vec<u8>), Error> {
        let path = layout::blob_in(&self.path(), &self.digest);
        let limit = self.inner().options.limits.manifest_size;
        let open = || -> io::Result<Option<Vec<u8>>> {
            let file = self.inner().disk.open(&path)?;
            let size = file.stat()?.size;
            if size > limit { Ok(None) } else { read_small(&*file, size) }
        };
        let bytes = open().map_err(Error::disk("reading", &path))?.unwrap_or_default();
        let media_type = oci::root_media_type(&bytes);
        Ok((Descriptor::new(media_type, self.digest, bytes.len() as u64), bytes))
    }

    /// Reads the root and every manifest below it, each hashed.
    fn walk(&self, n_healed: &mut u64) -> Result<Closure, Error> {
        let path = layout::blob_in(&self.path(), &self.digest);
        let limit = self.inner().options.limits.manifest_size;
        // Nothing but the digest says how large the root is: its own size if that proves right,
        // else that of the store's copy.
        let size_at = |path: &RelPath| self.inner().disk.stat(path).ok().map(|s| s.size.min(limit));
        let own = size_at(&path).unwrap_or(0);
        if self.look(&self.digest, own, false, &path)?.is_err() {
            let size = size_at(&layout::blob(&self.digest)).unwrap_or(own);
            if let Err(what) = self.prove(&self.digest, size, false, n_healed)? {
                let file = layout::blob_file(&self.digest);
                return Err(self.corrupt(vec![Damage { file, what }]));
            }
        }
        let (root, bytes) = self.root()?;
        let limits = self.inner().options.limits;
        oci::walk(&root, &limits, &mut |claim| {
            if claim.digest == root.digest {
                return Ok(bytes.clone());
            }
            match self.prove(&claim.digest, claim.size, false, n_healed)? {
                Ok(file) => {
                    let path = layout::blob_in(&self.path(), &claim.digest);
                    let bytes = read_small(&*file, claim.size);
                    Ok(bytes.map_err(Error::disk("reading", &path))?.unwrap_or_default())
                }
                Err(what) => {
                    let file = layout::blob_file(&claim.digest);
                    Err(self.corrupt(vec![Damage { file, what }]))
                }
            }
        })
    }

    /// Proves many blobs, the largest first, several at once.
    fn prove_all(
        &self,
        mut blobs: Vec<(Digest, u64)>,
        depth: Depth,
        n_healed: &mut u64,
    ) -> Result<Vec<(Digest, DamageKind)>, Error> {
        blobs.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        let n_large = blobs.iter().filter(|(_, size)| *size >= AHEAD_FROM).count();
        let n_threads = match depth {
            Depth::Sizes => 1,
            Depth::Bytes => self.inner().options.n_threads.min(n_large).max(1),
        };
        let ahead = n_large < self.inner().options.n_threads.max(2);
        let next = AtomicUsize::new(0);
        let found = Mutex::new((Vec::new(), 0));
        let work = || -> Result<(), Error> {
            let mut healed = 0;
            while let Some((digest, size)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let damage = match depth {
                    Depth::Sizes => self.prove_size(digest, *size, &mut healed)?,
                    Depth::Bytes => self.prove(digest, *size, ahead, &mut healed)?.err(),
                };
                if let Some(what) = damage {
                    lock(&found).0.push((*digest, what));
                }
            }
            lock(&found).1 += healed;
            Ok(())
        };
        if n_threads == 1 {
            work()?;
        } else {
            std::thread::scope(|scope| {
                let helpers: Vec<_> = (1..n_threads).map(|_| scope.spawn(work)).collect();
                let mut outcome = work();
                for helper in helpers {
                    let died = || {
                        Err(Error::disk("checking", &self.path())(io::Error::other(
                            "a thread died",
                        )))
                    };
                    let other = helper.join().unwrap_or_else(|_| died());
                    outcome = outcome.and(other);
                }
                outcome
            })?;
        }
        let (mut damages, healed) = found.into_inner().unwrap_or_default();
        damages.sort_by_key(|(digest, _)| *digest);
        *n_healed += healed;
        Ok(damages)
    }

    /// Is the file there, and as long as it should be?
    fn prove_size(
        &self,
        digest: &Digest,
        size: u64,
        n_healed: &mut u64,
    ) -> Result<Option<DamageKind>, Error> {
        let path = layout::blob_in(&self.path(), digest);
        let stat = self.inner().disk.stat(&path);
        match stat {
            Ok(stat) if stat.kind == Kind::File && stat.size == size => Ok(None),
            _ => self.prove(digest, size, true, n_healed).map(Result::err),
        }
    }

    /// Hashes one member of the layout. A damaged one is healed if it can be, and otherwise put
    /// into quarantine.
    pub(super) fn prove(
        &self,
        digest: &Digest,
        size: u64,
        ahead: bool,
        n_healed: &mut u64,
    ) -> Result<Result<Box<dyn File>, DamageKind>, Error> {
        let path = layout::blob_in(&self.path(), digest);
        if let Ok(file) = self.look(digest, size, ahead, &path)? {
            return Ok(Ok(file));
        }
        // Twice wrong before it is damage: a read can go wrong once, and a layout that was retired
        // meanwhile has lost nothing.
        let damage = match self.look(digest, size, false, &path)? {
            Ok(file) => return Ok(Ok(file)),
            Err(damage) => damage,
        };
        self.store.sealed(&self.workspace, &self.digest)?;
        if quarantine::knows(&*self.inner().disk, &Subject::Blob(*digest))
            && self.heal(digest, size, &path)?
        {
            tracing::warn!(%digest, artifact = %self.digest, "a damaged blob was healed from the store's good copy");
            *n_healed += 1;
            return self.look(digest, size, ahead, &path);
        }
        self.put_away(digest, &path)?;
        Ok(Err(damage))
    }

    pub(super) fn look(
        &self,
        digest: &Digest,
        size: u64,
        ahead: bool,
        path: &RelPath,
    ) -> Result<Result<Box<dyn File>, DamageKind>, Error> {
        let file = match self.inner().disk.open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Err(DamageKind::Missing));
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                return Ok(Err(DamageKind::NotAFile));
            }
            Err(error) => return Err(Error::disk("opening", path)(error)),
        };
        let actual = file.stat().map_err(Error::disk("looking at", path))?.size;
        if actual != size {
            return Ok(Err(DamageKind::Size { expected: size, actual }));
        }
        let ahead = ahead && size >= AHEAD_FROM;
        let (actual, _) =
            hash(&*file, digest.algorithm(), size, ahead).map_err(Error::disk("reading", path))?;
        match actual == *digest {
            true => Ok(Ok(file)),
            false => Ok(Err(DamageKind::Bytes { actual })),
        }
    }

    /// Replaces the layout's file by a link to the store's, if that one is another file and good.
    fn heal(&self, digest: &Digest, size: u64, path: &RelPath) -> Result<bool, Error> {
        let inner = self.inner();
        let disk = &*inner.disk;
        let blob = layout::blob(digest);
        let good = match (disk.stat(&blob), disk.stat(path)) {
            (Err(_), _) => return Ok(false),
            (Ok(good), Ok(bad)) if good.inode == bad.inode => return Ok(false),
            (Ok(good), _) if good.kind != Kind::File || good.size != size => return Ok(false),
            (Ok(_), _) => disk.open(&blob).map_err(Error::disk("opening", &blob))?,
        };
        let hashed = hash(&*good, digest.algorithm(), size, false);
        if hashed.map_err(Error::disk("reading", &blob))?.0 != *digest {
            return Ok(false);
        }
        quarantine::keep(disk, &Subject::Blob(*digest), Some(path));
        let spare = inner.staging("heal");
        let _guard = inner.lock_digest(digest);
        match disk.link(&blob, &spare) {
            // Collected or worn out meanwhile: there is nothing to heal from just now.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::TooManyLinks
                ) =>
            {
                return Ok(false);
            }
            other => other.map_err(Error::disk("linking", &blob))?,
        }
        if disk.stat(path).is_ok_and(|stat| stat.kind == Kind::Folder) {
            inner.remove_tree(path)?;
        }
        let healed = disk.rename(&spare, path).map_err(Error::disk("renaming", &spare));
        // A rename between two links of one file leaves both: somebody else healed it as well.
        let _ = disk.unlink(&spare);
        healed?;
        self.sync_folder_of(path)?;
        Ok(true)
    }

    pub(super) fn sync_folder_of(&self, path: &RelPath) -> Result<(), Error> {
        let Some((folder, _)) = path.split() else { return Ok(()) };
        self.inner().disk.sync_dir(&folder).map_err(Error::disk("syncing", &folder))
    }

    /// A damaged file leaves the layout, and if it is the store's own copy, `blobs/` as well, so
    /// that the next put writes it anew. A copy stays in quarantine.
    pub(super) fn put_away(&self, digest: &Digest, path: &RelPath) -> Result<(), Error> {
        let inner = self.inner();
        let disk = &*inner.disk;
        let Ok(stat) = disk.stat(path) else {
            quarantine::keep(disk, &Subject::Blob(*digest), None);
            return Ok(());
        };
        if stat.kind == Kind::File {
            let subject = Subject::Blob(*digest);
            let is_kept = quarantine::keep(disk, &subject, Some(path));
            let _guard = inner.lock_digest(digest);
            // While it was copied, somebody may have put the good file in its place.
            if !disk.stat(path).is_ok_and(|there| there.inode == stat.inode) {
                return Ok(());
            }
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
            let blob = layout::blob(digest);
            if disk.stat(&blob).is_ok_and(|there| there.inode == stat.inode) {
                disk.unlink(&blob).map_err(Error::disk("removing", &blob))?;
                self.sync_folder_of(&blob)?;
            }
        } else {
            structure::put_stranger_away(inner, &Subject::Blob(*digest), path)?;
        }
        self.sync_folder_of(path)
    }
}
