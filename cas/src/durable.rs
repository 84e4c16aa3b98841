//! When what was written is safe: one sync of the filesystem for all who wait for one, or a sync of each
//! file and folder.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, N_SYNCS, RelPath};
use crate::error::Error;
use crate::store::lock;

/// Work that is done once for all who wait for it: who asks waits for a turn that begins after he asked.
pub(crate) struct Turns {
    state: Mutex<State>,
    /// How many may be under way at once.
    most: usize,
    /// Who waits for a turn waits at its number, so that its end wakes nobody else: one for each that can be
    /// waited for at once, those under way and the one to come.
    ended: Vec<Condvar>,
    /// Who has had his turn and waits for older ones waits here.
    passed: Condvar,
}

#[derive(Default)]
struct State {
    n_begun: u64,
    /// Numbers of the turns that are under way.
    running: Vec<u64>,
    /// Numbers of the turns that failed. Whoever waited for one of them must not believe a later
    /// one: after a failed sync the kernel has dropped what it could not write.
    failed: BTreeSet<u64>,
}

/// Lets many small puts share one `syncfs`.
pub(crate) struct Barrier {
    syncs: Turns,
    /// How many syncs of one file or folder failed.
    n_failed_alone: AtomicU64,
}

/// What one operation wrote and wants to be durable.
#[derive(Default)]
pub(crate) struct Unsynced {
    /// Files whose bytes were not synced yet.
    pub(crate) files: Vec<RelPath>,
    /// Folders whose names changed. Those that lead to them are synced with them: somebody may have made
    /// them again and not synced them yet.
    pub(crate) folders: Vec<RelPath>,
    /// What [`Barrier::n_failed`] was before the first byte was written.
    pub(crate) since: u64,
}

/// What is said where a failed sync may have dropped the bytes of a file that is about to get a name.
pub(crate) fn lost(doing: &'static str, path: &RelPath) -> Error {
    Error::disk(doing, path)(io::Error::other("a sync failed"))
}

/// Makes what was changed under a name durable.
pub(crate) fn sync_folder_of(disk: &dyn Disk, path: &RelPath) -> Result<(), Error> {
    let Some((folder, _)) = path.split() else { return Ok(()) };
    disk.sync_dir(&folder).map_err(Error::disk("syncing", &folder))
}

/// Makes the names in a folder durable, and those that lead to it. Of one that was retired or tidied away
/// there is left what leads there, and whoever took it away answers for that himself.
pub(crate) fn settle_way(disk: &dyn Disk, folder: &RelPath) -> Result<(), Error> {
    for folder in folder.way() {
        match disk.sync_way(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other.map_err(Error::disk("syncing", &folder)),
        }
    }
    Ok(())
}

impl Default for Barrier {
    fn default() -> Barrier {
        Barrier { syncs: Turns::new(N_SYNCS), n_failed_alone: AtomicU64::new(0) }
    }
}

impl Barrier {
    /// Returns once everything in `unsynced` is durable.
    ///
    /// One sync of the whole filesystem is cheaper than one for each file, but it waits for the
    /// unwritten data of everybody on it. When there is much of that, each file and folder is
    /// synced by itself, so that a neighbour's gigabytes cost us nothing.
    pub(crate) fn settle(&self, disk: &dyn Disk, unsynced: &Unsynced) -> Result<(), Error> {
        if disk.is_crowded() {
            return self.settle_alone(disk, unsynced);
        }
        self.sync_all(disk).map_err(Error::disk("syncing", &RelPath::root()))?;
        self.none_failed(unsynced.since)
    }

    /// The same by a sync of each. For one file and one folder that is cheaper than a sync of everything,
    /// but it makes nothing durable besides: it is for what rests on no change of others, who may not
    /// have synced it yet, or where a sync of everything costs too much.
    pub(crate) fn settle_alone(&self, disk: &dyn Disk, unsynced: &Unsynced) -> Result<(), Error> {
        for path in &unsynced.files {
            let file = disk.open(path).map_err(Error::disk("opening", path))?;
            self.counted(file.sync()).map_err(Error::disk("syncing", path))?;
        }
        for folder in &unsynced.folders {
            self.counted(settle_way(disk, folder))?;
        }
        self.none_failed(unsynced.since)
    }

    /// Waits for a sync of everything that began after this call.
    pub(crate) fn sync_all(&self, disk: &dyn Disk) -> io::Result<()> {
        self.syncs.wait(|| disk.sync_all())
    }

    /// How many syncs have failed, those that are under way now among them.
    pub(crate) fn n_failed_soon(&self) -> u64 {
        self.syncs.wait_for_running();
        self.n_failed()
    }

    /// The same result, after it was counted if it is the failure of a sync.
    pub(crate) fn counted<T, E>(&self, synced: Result<T, E>) -> Result<T, E> {
        if synced.is_err() {
            self.n_failed_alone.fetch_add(1, Ordering::SeqCst);
        }
        synced
    }

    /// Refuses to call durable what was written before a sync failed, of whomever: it may have dropped the
    /// bytes of all who had written and not synced yet; the kernel told only the one who asked, and ours
    /// succeeds without them.
    pub(crate) fn none_failed(&self, since: u64) -> Result<(), Error> {
        match self.n_failed() == since {
            true => Ok(()),
            false => Err(Error::disk("syncing", &RelPath::root())(io::Error::other(
                "a sync failed while this was being written",
            ))),
        }
    }

    /// How many syncs have failed.
    pub(crate) fn n_failed(&self) -> u64 {
        self.syncs.n_failed() + self.n_failed_alone.load(Ordering::SeqCst)
    }
}

impl Turns {
    pub(crate) fn new(most: usize) -> Turns {
        let ended = (0..=most).map(|_| Condvar::new()).collect();
        Turns { state: Mutex::default(), most, ended, passed: Condvar::new() }
    }

    fn n_failed(&self) -> u64 {
        lock(&self.state).failed.len() as u64
    }

    /// Waits for a turn that began after this call, and for all that began before that one: what of them
    /// failed is counted when this returns.
    pub(crate) fn wait(&self, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mine = lock(&self.state).n_begun + 1;
        let worked = self.wait_for(mine, work);
        self.wait_for_those_before(mine);
        worked
    }

    /// Waits for all that are under way now.
    fn wait_for_running(&self) {
        let next = lock(&self.state).n_begun + 1;
        self.wait_for_those_before(next);
    }

    fn wait_for_those_before(&self, number: u64) {
        let mut state = lock(&self.state);
        while state.running.iter().any(|running| *running < number) {
            state = self.passed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait_for(&self, mine: u64, work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let mut state = lock(&self.state);
        while state.n_begun < mine || state.running.contains(&mine) {
            if state.n_begun < mine && state.running.len() < self.most {
                return self.begin(state, work);
            }
            state = self.at(mine).wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.failed.contains(&mine) {
            true => Err(io::Error::other("a sync that others waited for as well failed")),
            false => Ok(()),
        }
    }

    /// Works, for all who wait for this number, and keeps the system's own words for what went wrong.
    fn begin(
        &self,
        mut state: MutexGuard<'_, State>,
        work: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        state.n_begun += 1;
        let number = state.n_begun;
        state.running.push(number);
        drop(state);
        let worked = work();
        let mut state = lock(&self.state);
        state.running.retain(|running| *running != number);
        if worked.is_err() {
            state.failed.insert(number);
        }
        let next = state.n_begun + 1;
        drop(state);
        self.passed.notify_all();
        self.at(number).notify_all();
        // Of those who wait for the next one, one is to begin it.
        self.at(next).notify_one();
        worked
    }

    fn at(&self, number: u64) -> &Condvar {
        let place = usize::try_from(number % self.ended.len() as u64).unwrap_or(0);
        &self.ended[place]
    }
}
