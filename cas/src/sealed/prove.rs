//! Proving a layout again: every member there, and made of the bytes that its digest says.

use std::collections::HashSet;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Sealed;
use crate::absent;
use crate::digest::Digest;
use crate::disk::{File, Kind, RelPath};
use crate::error::{Damage, DamageKind, Error};
use crate::layout::{self, Pool};
use crate::locks::Held;
use crate::memory::Share;
use crate::oci::{self, Closure, Descriptor};
use crate::proving::{Good, Place};
use crate::reader::read_small;
use crate::store::lock;
use crate::workspace::Workspace;

/// From this size on, blobs of one artifact are hashed by several threads.
const LARGE_FROM: u64 = 8 << 20;

/// What a look at a layout found.
pub(super) struct Inspection {
    pub(super) closure: Closure,
    pub(super) absent: HashSet<Digest>,
    pub(super) n_healed: u64,
    pub(super) share: Share,
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
        let mut share = self.inner().memory.share();
        let closure = self.walk(&mut n_healed, &mut share)?;
        let (absent, whole) = self.split_absent(&closure)?;
        let depth = if bytes { Depth::Bytes } else { Depth::Sizes };
        for (digest, what) in self.prove_all(whole, depth, &mut n_healed)? {
            damages.push(Damage { file: layout::blob_file(&digest), what });
        }
        damages.extend(self.check_strangers(&closure)?);
        if let Some(root) = closure.manifests().last() {
            damages.extend(self.check_fixed(&root.descriptor(), &mut n_healed)?);
        }
        match damages.is_empty() {
            true => Ok(Inspection { closure, absent, n_healed, share }),
            false => Err(self.corrupt(damages)),
        }
    }

    /// The blobs that must be there, and those that the artifact was sealed without.
    #[allow(clippy::type_complexity, reason = "two halves of one list")]
    fn split_absent(
        &self,
        closure: &Closure,
    ) -> Result<(HashSet<Digest>, Vec<(Digest, u64)>), Error> {
        let (disk, layout) = (&*self.inner().disk, self.path());
        let is_gone = |digest: &Digest| {
            let there = disk.stat(&layout::blob_in(&layout, digest));
            there.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        };
        let mut absent = HashSet::new();
        if closure.blobs().any(|blob| blob.may_be_absent() && is_gone(&blob.digest)) {
            let limit = self.inner().options.limits.entries;
            absent = absent::get(disk, &self.workspace, &self.digest, limit)?;
            absent.retain(is_gone);
        }
        let whole = closure.blobs().filter(|blob| !absent.contains(&blob.digest));
        let whole = whole.map(|blob| (blob.digest, blob.size)).collect();
        Ok((absent, whole))
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
    fn walk(&self, n_healed: &mut u64, share: &mut Share) -> Result<Closure, Error> {
        let path = layout::blob_in(&self.path(), &self.digest);
        let limit = self.inner().options.limits.manifest_size;
        // Nothing but the digest says how large the root is: its own size if that proves right,
        // else that of the store's copy.
        let size_at = |path: &RelPath| self.inner().disk.stat(path).ok().map(|s| s.size.min(limit));
        let own = size_at(&path).unwrap_or(0);
        if self.place(&self.digest, own, &path).look()?.is_err() {
            let size = size_at(&self.pool().blob(&self.digest)).unwrap_or(own);
            if let Err(what) = self.prove(&self.digest, size, n_healed)? {
                let file = layout::blob_file(&self.digest);
                return Err(self.corrupt(vec![Damage { file, what }]));
            }
        }
        let (root, bytes) = self.root()?;
        let limits = self.inner().options.limits;
        oci::walk(&root, &limits, &mut |claim| {
            share.grow(claim.size)?;
            if claim.digest == root.digest {
                return Ok(bytes.clone());
            }
            match self.prove(&claim.digest, claim.size, n_healed)? {
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
        let n_large = blobs.iter().filter(|(_, size)| *size >= LARGE_FROM).count();
        let n_threads = match depth {
            Depth::Sizes => 1,
            Depth::Bytes => self.inner().options.n_threads.min(n_large).max(1),
        };
        let next = AtomicUsize::new(0);
        let found = Mutex::new((Vec::new(), 0));
        let work = || -> Result<(), Error> {
            let mut healed = 0;
            while let Some((digest, size)) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let damage = match depth {
                    Depth::Sizes => self.prove_size(digest, *size, &mut healed)?,
                    Depth::Bytes => self.prove(digest, *size, &mut healed)?.err(),
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
            _ => self.prove(digest, size, n_healed).map(Result::err),
        }
    }

    /// Hashes one member of the layout. A damaged one is healed if it can be, and otherwise put
    /// into quarantine.
    pub(super) fn prove(
        &self,
        digest: &Digest,
        size: u64,
        n_healed: &mut u64,
    ) -> Result<Result<Box<dyn File>, DamageKind>, Error> {
        let path = layout::blob_in(&self.path(), digest);
        // A layout that was retired meanwhile has lost nothing.
        let still = || self.store.sealed(&self.workspace, &self.digest).map(drop);
        let lock = || self.inner().lock_artifact(&self.workspace, &self.digest);
        Ok(match self.place(digest, size, &path).prove(&still, &lock)? {
            Ok(Good { file, healed }) => {
                *n_healed += u64::from(healed);
                Ok(file)
            }
            Err(what) => Err(what),
        })
    }

    fn place<'a>(&'a self, digest: &Digest, size: u64, path: &'a RelPath) -> Place<'a> {
        let (inner, pool) = (self.inner(), self.pool());
        Place { inner, pool, digest: *digest, size, path, stop: &self.stop }
    }

    fn pool(&self) -> Pool {
        self.inner().pool(&self.workspace)
    }

    /// Excludes everybody else who changes this layout, for as long as it is held.
    ///
    /// # Errors
    /// [`Error::NotFound`] when the artifact was retired meanwhile.
    pub(super) fn exclude(&self) -> Result<Held<'_, (Workspace, Digest)>, Error> {
        let guard = self.inner().lock_artifact(&self.workspace, &self.digest);
        self.store.sealed(&self.workspace, &self.digest)?;
        Ok(guard)
    }
}
