//! When what was written is safe: one sync of the filesystem for all who wait for one, or a sync of each
//! file and folder.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, N_SYNCS, RelPath};
use crate::error::Error;

/// The numbers that somebody can wait for at once: those under way, and the one to come.
const N_AWAITED: usize = N_SYNCS + 1;

/// Lets many small puts share one `syncfs`.
#[derive(Default)]
pub(crate) struct Barrier {
    state: Mutex<State>,
    /// Who waits for a sync waits at its number, so that its end wakes nobody else.
    ended: [Condvar; N_AWAITED],
}

#[derive(Default)]
struct State {
    n_begun: u64,
    /// Numbers of the syncs that are under way.
    running: Vec<u64>,
    /// Numbers of the syncs that failed. Whoever waited for one of them must not believe a later
    /// one: after a failed sync the kernel has dropped what it could not write.
    failed: BTreeSet<u64>,
    /// How many syncs of one file or folder failed.
    n_failed_alone: u64,
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
        self.wait(disk).map_err(Error::disk("syncing", &RelPath::root()))?;
        self.none_failed(unsynced)
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
        self.none_failed(unsynced)
    }

    fn counted<T, E>(&self, synced: Result<T, E>) -> Result<T, E> {
        if synced.is_err() {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.n_failed_alone += 1;
        }
        synced
    }

    fn none_failed(&self, unsynced: &Unsynced) -> Result<(), Error> {
        // A sync that failed may have dropped the bytes of all who had written and not synced yet;
        // the kernel told only the one who asked, and ours succeeds without them.
        match self.n_failed() == unsynced.since {
            true => Ok(()),
            false => Err(Error::disk("syncing", &RelPath::root())(io::Error::other(
                "a sync failed while this was being written",
            ))),
        }
    }

    /// How many syncs have failed.
    pub(crate) fn n_failed(&self) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failed.len() as u64 + state.n_failed_alone
    }

    /// Waits for a sync that began after this call.
    fn wait(&self, disk: &dyn Disk) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = state.n_begun + 1;
        while state.n_begun < mine || state.running.contains(&mine) {
            if state.n_begun < mine && state.running.len() < N_SYNCS {
                return self.sync(state, disk);
            }
            state = self.at(mine).wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match state.failed.contains(&mine) {
            true => Err(io::Error::other("a sync that others waited for as well failed")),
            false => Ok(()),
        }
    }

    /// Syncs, for all who wait for this number, and keeps the system's own words for what went wrong.
    fn sync(&self, mut state: MutexGuard<'_, State>, disk: &dyn Disk) -> io::Result<()> {
        state.n_begun += 1;
        let number = state.n_begun;
        state.running.push(number);
        drop(state);
        let synced = disk.sync_all();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running.retain(|running| *running != number);
        if synced.is_err() {
            state.failed.insert(number);
        }
        let next = state.n_begun + 1;
        drop(state);
        self.at(number).notify_all();
        // Of those who wait for the next one, one is to begin it.
        self.at(next).notify_one();
        synced
    }

    fn at(&self, number: u64) -> &Condvar {
        let place = usize::try_from(number % N_AWAITED as u64).unwrap_or(0);
        &self.ended[place]
    }
}
