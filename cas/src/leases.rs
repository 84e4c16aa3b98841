//! What was pushed and is not needed yet: a blob whose manifest may still come, or a child whose index
//! was deleted. Its repository holds it by a lease, for as long as the caller says.
//!
//! A lease needs no file of its own. It begins anew whenever a name of the bytes is made or ended
//! anywhere, because that is when the kernel changes the inode's time; so it may last longer than was
//! said, and never shorter.

use std::io;

use crate::digest::Digest;
use crate::disk::{Kind, RelPath};
use crate::durable::Unsynced;
use crate::error::Error;
use crate::layout::MemberKind;
use crate::names;
use crate::repository::{Held, Repository};
use crate::store::Store;
use crate::workspace::{RepositoryName, Workspace};

/// Blobs and children, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub n_blobs: u64,
    /// Bytes, those of two repositories counted twice.
    pub bytes: u64,
}

/// The leases of all repositories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// Those that go on.
    pub held: Count,
    /// Those that are over; unless it was a dry run they have ended.
    pub over: Count,
}

/// A repository that lists a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name in the workspace.
    pub repository: RepositoryName,
    /// When its lease began, in nanoseconds since 1970; nothing when something listed needs it.
    pub leased_since: Option<i128>,
}

impl Count {
    fn add(&mut self, bytes: u64) {
        self.n_blobs += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

impl Store {
    /// Ends the leases that began before `before`, in nanoseconds since 1970; with `dry_run` only
    /// counts. `pace` is called after each repository, so that the caller can let the disk breathe.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn end_leases(
        &self,
        before: i128,
        dry_run: bool,
        pace: &mut dyn FnMut(),
    ) -> Result<Leases, Error> {
        let mut leases = Leases::default();
        for workspace in self.workspaces()? {
            for name in names::repositories(&*self.inner.disk, &workspace)? {
                let repository = self.repository(&workspace, &name);
                repository.end_leases(before, dry_run, &mut leases)?;
                pace();
            }
        }
        Ok(leases)
    }

    /// The repositories of a workspace that list a digest, in order.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn listings(&self, workspace: &Workspace, digest: &Digest) -> Result<Vec<Listed>, Error> {
        let mut found = Vec::new();
        let mut repositories = names::repositories(&*self.inner.disk, workspace)?;
        repositories.sort();
        for repository in repositories {
            let listing = self.repository(workspace, &repository).listing_of(digest)?;
            found.extend(listing.map(|leased_since| Listed { repository, leased_since }));
        }
        Ok(found)
    }
}

impl Repository {
    fn end_leases(&self, before: i128, dry_run: bool, leases: &mut Leases) -> Result<(), Error> {
        let needed = self.needed(None)?;
        let mut over = Vec::new();
        for kind in [MemberKind::Blob, MemberKind::Child] {
            for digest in self.digests_in(&self.folder(kind))? {
                if needed.contains(&digest) {
                    continue;
                }
                let Some((began, size)) = self.began(kind, &digest)? else { continue };
                match began < before {
                    true => over.push((kind, digest, size)),
                    false => leases.held.add(size),
                }
            }
        }
        let inner = self.inner();
        let mut unsynced = Unsynced { since: inner.barrier.n_failed(), ..Unsynced::default() };
        for (kind, digest, size) in over {
            if !dry_run && !self.end_lease(kind, &digest, before)? {
                leases.held.add(size);
                continue;
            }
            leases.over.add(size);
            unsynced.folders.push(self.folder(kind));
        }
        if dry_run || unsynced.folders.is_empty() {
            return Ok(());
        }
        unsynced.folders.dedup();
        inner.settle_ended(&unsynced)
    }

    /// Ends one lease, unless somebody needs it or has begun it anew meanwhile.
    fn end_lease(&self, kind: MemberKind, digest: &Digest, before: i128) -> Result<bool, Error> {
        let _repository = self.exclude();
        let is_over = !self.inner().log_rests_on(&self.member(kind, digest))
            && self.began(kind, digest)?.is_some_and(|(began, _)| began < before);
        Ok(is_over
            && self.needed_by(digest, digest)?.is_none()
            && self.unlink(&self.member(kind, digest))?)
    }

    /// When the lease of a member began, and its size.
    fn began(&self, kind: MemberKind, digest: &Digest) -> Result<Option<(i128, u64)>, Error> {
        let path = self.member(kind, digest);
        match self.disk().stat(&path) {
            Ok(stat) if stat.kind == Kind::File => Ok(Some((stat.changed_ns, stat.size))),
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::disk("looking at", &path)(error)),
        }
    }

    /// Begins the lease of a member anew, whose bytes nobody brought: under the new one they are not proved.
    pub(crate) fn renew(&self, digest: &Digest, member: &RelPath) {
        let spare = self.inner().staging("lease");
        if self.disk().link(member, &spare).is_ok() {
            let _ = self.disk().unlink(&spare);
        }
        self.inner().proofs.forget(digest);
    }

    /// Whether a digest is listed here, and since when only by a lease.
    fn listing_of(&self, digest: &Digest) -> Result<Option<Option<i128>>, Error> {
        for kind in MemberKind::ALL {
            let Some((began, _)) = self.began(kind, digest)? else { continue };
            let is_needed = kind == MemberKind::Manifest || self.kept_by(digest)?.is_some();
            return Ok(Some((!is_needed).then_some(began)));
        }
        Ok(None)
    }
}

impl Held {
    /// Begins the lease anew if it began before `before`, in nanoseconds since 1970: who is told that
    /// a blob is there is going to push what needs it. That it does not come about is no failure.
    pub fn renew(&self, before: i128) {
        let (repository, path) = self.place();
        if repository.disk().stat(path).is_ok_and(|stat| stat.changed_ns < before) {
            repository.renew(&self.digest(), path);
        }
    }
}
