//! Ending holds, and taking back what nobody holds.
//!
//! A blob's link count is its reference count: one link is its name in `blobs/`, every other a
//! layout, a draft or a lease. One link means that nobody holds it, and there is no other rule.

use std::io;
use std::ops::ControlFlow;

use crate::absent;
use crate::digest::{Algorithm, Digest};
use crate::disk::{Kind, RelPath};
use crate::durable::Unsynced;
use crate::error::Error;
use crate::layout::{self, Pool};
use crate::leases::Count;
use crate::names;
use crate::pushed;
use crate::store::{Dedup, Store};
use crate::workspace::{Name, Workspace};

/// How many deletes there are between two calls of the caller's pace.
const PACE: u64 = 64;

/// A hold that was ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retired {
    /// Names that led to the artifact and are gone.
    pub names: Vec<Name>,
    /// Bytes that no other artifact of the workspace has.
    pub released: u64,
}

/// What a collection took, or would take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs that nobody holds.
    pub n_blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// One thing that was looked at by [`Store::examine`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// What.
    pub what: &'static str,
    /// Whether somebody should act.
    pub is_problem: bool,
    /// What was seen.
    pub text: String,
}

impl Store {
    /// Ends a workspace's hold on an artifact: its layout and the names that lead to it.
    ///
    /// Who reads the layout in place gets "not found" from then on; who holds a descriptor keeps it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Disk`].
    pub fn retire(&self, workspace: &Workspace, digest: &Digest) -> Result<Retired, Error> {
        let retired = self.retire_if(workspace, digest, &|| Ok(true))?;
        retired.ok_or_else(|| Error::NotFound { what: digest.to_string() })
    }

    /// The same, if `may` says so while others are excluded from the artifact.
    pub(crate) fn retire_if(
        &self,
        workspace: &Workspace,
        digest: &Digest,
        may: &dyn Fn() -> Result<bool, Error>,
    ) -> Result<Option<Retired>, Error> {
        let inner = &*self.inner;
        let disk = &*inner.disk;
        let gone = inner.staging("retired");
        let artifact = inner.lock_artifact(workspace, digest);
        if !may()? {
            return Ok(None);
        }
        let sealed = match self.sealed(workspace, digest) {
            // Perhaps somebody retired it a moment ago, and it failed.
            Err(gone @ Error::NotFound { .. }) => {
                let place = layout::artifact(workspace, digest);
                let folders = place.split().map(|(folder, _)| folder).into_iter().collect();
                let since = inner.barrier.n_failed();
                let unsynced = Unsynced { folders, since, ..Unsynced::default() };
                inner.settle_gone(inner.unsettled.has(&place), &unsynced, &[place])?;
                return Err(gone);
            }
            other => other?,
        };
        let size = match self.facts(workspace, digest) {
            Err(Error::Busy) => return Err(Error::Busy),
            facts => facts.map_or(0, |facts| facts.size),
        };
        let led = self.names_of(workspace, digest)?;
        let parts = inner.digests_in(&sealed.path())?;

        // The disk may be full: this must work all the same.
        inner.release_reserve();
        let mut unsynced = Unsynced { since: inner.barrier.n_failed(), ..Unsynced::default() };
        // Whatever leads to it goes first, and what it listed: nothing may outlive what it needs.
        let (mut touched, mut tags) = (Vec::new(), Vec::new());
        for name in names::repositories(disk, workspace)? {
            let repository = self.repository(workspace, &name);
            let _repository = repository.exclude();
            let mut changed = Vec::new();
            for tag in led.iter().filter(|tag| *tag.repository() == name) {
                let folder = layout::tags(workspace, &name);
                inner.unsettled.begin(&folder);
                tags.push(folder);
                changed.extend(names::remove(disk, workspace, tag, digest)?);
                if let Some(index) = inner.index() {
                    index.forget_name(workspace, digest, tag);
                }
            }
            let is_listed = repository.lists(digest)?;
            let mut kept = Vec::new();
            if is_listed {
                kept = repository.delist_parts(digest, &parts, &mut changed)?;
                changed.extend(repository.forget_referrer(digest)?);
            }
            if is_listed || !changed.is_empty() {
                unsynced.folders.extend(changed);
                touched.push((repository.clone(), kept));
            }
        }
        // Tags that others moved from it or ended, and did not sync yet, go before it as well.
        unsynced.folders.extend(inner.unsettled.of(workspace));
        if !touched.is_empty() || !unsynced.folders.is_empty() {
            inner.settle_ended(&unsynced)?;
            unsynced.folders.clear();
        }
        for folder in &tags {
            inner.unsettled.end(folder);
        }
        for (repository, kept) in &touched {
            let _repository = repository.exclude();
            unsynced.folders.extend(repository.delist_root(digest)?);
            // What needed them may be on its way out as well, and have left them for our sake.
            if !kept.is_empty() {
                repository.delist_parts(digest, kept, &mut unsynced.folders)?;
            }
        }
        let size_of = |part: &Digest| {
            let stat = disk.stat(&layout::blob_in(&sealed.path(), part)).ok()?;
            Some((*part, stat.size))
        };
        let members: Vec<(Digest, u64)> = parts.iter().filter_map(size_of).collect();
        inner.unsettled.begin(&sealed.path());
        disk.rename_new(&sealed.path(), &gone).map_err(Error::disk("renaming", &sealed.path()))?;
        if let Some(index) = inner.index() {
            index.forget(workspace, digest, &parts);
        }
        unsynced.folders.push(RelPath::new(layout::STAGING));
        unsynced.folders.extend(sealed.path().split().map(|(folder, _)| folder));
        inner.settle_ended(&unsynced)?;
        inner.unsettled.end(&sealed.path());
        inner.take_usage(workspace, size);

        // The hold has ended. What follows is tidying: what of it fails, the next start does.
        if let Err(error) = absent::remove(disk, workspace, digest) {
            tracing::warn!(%digest, %error, "the record of absent layers stays");
        }
        // A mark without a layout counts for nothing, and goes at the latest with the next put.
        if let Err(error) = pushed::unmark(disk, workspace, digest) {
            tracing::warn!(%digest, %error, "the mark of a push stays");
        }
        for (repository, _) in &touched {
            let _repository = repository.exclude();
            names::tidy(disk, workspace, repository.name());
        }
        drop(artifact);
        if let Err(error) = inner.remove_tree(&gone) {
            tracing::warn!(%digest, %error, "a retired layout stays in staging until the next start");
        }
        inner.refill_reserve();
        let released =
            members.iter().filter(|(part, _)| !self.is_held(workspace, part, Some(digest)));
        Ok(Some(Retired { names: led, released: released.map(|(_, size)| size).sum() }))
    }

    /// Removes every blob that nobody holds, or with `dry_run` only counts them. `pace` is called
    /// between groups of deletes, so that the caller can let the disk breathe.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn gc(&self, dry_run: bool, pace: &mut dyn FnMut()) -> Result<Collected, Error> {
        let inner = &*self.inner;
        let disk = &*inner.disk;
        let mut collected = Collected::default();
        if !dry_run {
            inner.release_reserve();
        }
        for pool in self.pools()? {
            for algorithm in Algorithm::ALL {
                let folder = pool.blobs(algorithm);
                let mut failed = None;
                let listed = disk.list(&folder, &mut |entry| {
                    let Ok(digest) = Digest::from_hex(algorithm, &entry.name) else {
                        return ControlFlow::Continue(());
                    };
                    match self.collect(&pool, &digest, dry_run) {
                        Ok(None) => {}
                        Ok(Some(bytes)) => {
                            collected.n_blobs += 1;
                            collected.bytes += bytes;
                            if !dry_run && collected.n_blobs % PACE == 0 {
                                pace();
                            }
                        }
                        Err(error) => {
                            failed = Some(error);
                            return ControlFlow::Break(());
                        }
                    }
                    ControlFlow::Continue(())
                });
                match listed {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    other => other.map_err(Error::disk("listing", &folder))?,
                }
                if let Some(error) = failed {
                    return Err(error);
                }
                if !dry_run {
                    disk.sync_dir(&folder).map_err(Error::disk("syncing", &folder))?;
                }
            }
        }
        if !dry_run {
            inner.refill_reserve();
        }
        Ok(collected)
    }

    fn pools(&self) -> Result<Vec<Pool>, Error> {
        Ok(match self.inner.options.dedup {
            Dedup::Store => vec![Pool::Shared],
            Dedup::Workspace => self
                .inner
                .entries(&RelPath::new(layout::BLOBS))?
                .iter()
                .filter_map(|entry| entry.name.parse().ok().map(Pool::Of))
                .collect(),
        })
    }

    /// Removes a blob if it has no link but its name, and says how large it was.
    fn collect(&self, pool: &Pool, digest: &Digest, dry_run: bool) -> Result<Option<u64>, Error> {
        let path = pool.blob(digest);
        let _guard = self.inner.lock_digest(digest);
        let stat = match self.inner.disk.stat(&path) {
            Ok(stat) if stat.kind == Kind::File && stat.n_links == 1 => stat,
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::disk("looking at", &path)(error)),
        };
        if !dry_run {
            self.inner.disk.unlink(&path).map_err(Error::disk("removing", &path))?;
        }
        Ok(Some(stat.size))
    }

    /// Looks at the state of the house.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn examine(&self) -> Result<Vec<Observation>, Error> {
        let mut seen = Vec::new();
        let mut note = |what, is_problem, text| seen.push(Observation { what, is_problem, text });

        let space = self.space()?;
        let is_tight = space.free < space.total / 20;
        note("space", is_tight, format!("{} of {} bytes are free", space.free, space.total));

        let mut n_artifacts = 0;
        let workspaces = self.workspaces()?;
        for workspace in &workspaces {
            n_artifacts += self.artifacts(workspace)?.len();
        }
        let n_workspaces = workspaces.len();
        note("artifacts", false, format!("{n_artifacts} in {n_workspaces} workspaces"));

        let Collected { n_blobs, bytes } = self.gc(true, &mut || {})?;
        note(
            "unheld",
            false,
            format!("nobody holds {n_blobs} blobs of {bytes} bytes; gc frees them"),
        );

        let Count { n_blobs, bytes } = self.end_leases(i128::MIN, true, &mut || {})?.held;
        let text = format!("{n_blobs} pushed blobs of {bytes} bytes wait for what needs them");
        note("leases", false, text);

        let n_drafts = self.inner.entries(&RelPath::new(layout::STAGING))?.len();
        note("staging", false, format!("{n_drafts} entries of work in progress"));

        let n_kept = self.inner.entries(&RelPath::new(layout::QUARANTINE))?.len();
        let text = format!("{n_kept} digests or layouts were found damaged");
        note("quarantine", false, text);

        let (is_open, wanted) = (self.inner.index().is_some(), self.inner.options.index.is_some());
        let text = if is_open { "open" } else { "not in use; lookups read the layouts" };
        note("index", wanted && !is_open, text.to_owned());
        Ok(seen)
    }
}
