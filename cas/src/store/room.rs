//! Room: what the disk still has, what a workspace may hold, and what is kept back for the day
//! when the disk is full.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Inner, Options, lock};
use crate::disk::{Create, RelPath};
use crate::error::Error;
use crate::layout;
use crate::workspace::Workspace;

/// What is kept back so that a full disk can still be tidied, in bytes.
const RESERVE: u64 = 1 << 20;

/// Bytes that are going to be written; dropped, they are on the disk or given up.
pub(crate) struct Writing<'a> {
    inner: &'a Inner,
    size: AtomicU64,
}

impl Writing<'_> {
    /// Takes room for more; refuses what the disk has no room for, those bytes counted that others
    /// are writing.
    pub(crate) fn grow(&self, size: u64) -> Result<(), Error> {
        let Options { min_free, .. } = self.inner.options;
        let mut free = u64::MAX;
        if min_free > 0 {
            let space = self.inner.disk.space();
            free = space.map_err(Error::disk("asking for room on", &RelPath::root()))?.free;
        }
        // What is refused is never counted: nobody else must be refused because of it.
        let add = |before: u64| {
            let after = before.checked_add(size)?;
            (free >= min_free.saturating_add(after)).then_some(after)
        };
        let all = &self.inner.being_written;
        match all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add) {
            Ok(_) => {
                self.size.fetch_add(size, Ordering::Relaxed);
                Ok(())
            }
            Err(_) => Err(Error::Full),
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.inner.being_written.fetch_sub(*self.size.get_mut(), Ordering::Relaxed);
    }
}

/// Bytes that count to a workspace's quota although their artifact is not there yet.
pub(crate) struct Reserved<'a> {
    inner: &'a Inner,
    workspace: Workspace,
    size: u64,
}

impl Reserved<'_> {
    /// The artifact is there.
    pub(crate) fn keep(mut self) {
        self.size = 0;
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.inner.take_usage(&self.workspace, self.size);
    }
}

impl Inner {
    /// Refuses a draft that has more bytes than any workspace may hold. Whether this one may hold
    /// it as well is asked when it is sealed: until then nobody knows whether the workspace has
    /// that very artifact already.
    pub(crate) fn admit(&self, size: u64) -> Result<(), Error> {
        match self.options.quota {
            quota if quota > 0 && size > quota => Err(Error::Quota { limit: quota }),
            _ => Ok(()),
        }
    }

    /// Nothing yet; it grows with what is written.
    pub(crate) fn writing(&self) -> Writing<'_> {
        Writing { inner: self, size: AtomicU64::new(0) }
    }

    /// Refuses bytes that the disk has no room for now, without taking any: a claim may be empty.
    pub(crate) fn has_room(&self, size: u64) -> Result<(), Error> {
        self.writing().grow(size)
    }

    /// Counts an artifact to what a workspace holds; refuses it when the quota has no room for it.
    /// Dropped before [`Reserved::keep`], it is not counted.
    pub(crate) fn reserve(&self, workspace: &Workspace, size: u64) -> Result<Reserved<'_>, Error> {
        let quota = self.options.quota;
        let mut usage = lock(&self.usage);
        let held = usage.entry(workspace.clone()).or_insert(0);
        if quota > 0 && held.saturating_add(size) > quota {
            return Err(Error::Quota { limit: quota });
        }
        *held = held.saturating_add(size);
        Ok(Reserved { inner: self, workspace: workspace.clone(), size })
    }

    pub(crate) fn take_usage(&self, workspace: &Workspace, size: u64) {
        if let Some(held) = lock(&self.usage).get_mut(workspace) {
            *held = held.saturating_sub(size);
        }
    }

    /// Gives up what is kept back, so that a full disk can be tidied.
    pub(crate) fn release_reserve(&self) {
        let _ = self.disk.unlink(&RelPath::new(layout::RESERVE_FILE));
    }

    /// Keeps room back again, if there is some.
    pub(crate) fn refill_reserve(&self) {
        let path = RelPath::new(layout::RESERVE_FILE);
        let roomy = self.disk.space().is_ok_and(|space| space.free > RESERVE * 4);
        if roomy && let Ok(file) = self.disk.create(&path, Create::Buffered) {
            let _: io::Result<()> = file.allocate(RESERVE);
        }
    }
}
