//! A disk in memory, stricter than life: whatever was not synced can be lost.
//!
//! It owns a filesystem's state (`state`, `names`), what a power cut may leave of it (`crash`), the seam's
//! two faces ([`SimDisk`] here, open files in `file`) and what tests do behind the store's back
//! (`hand`). It knows nothing of blobs, layouts or the store.
//!
//! # Assumptions about the medium
//!
//! * **Bytes and names are apart.** [`File::sync`] makes the bytes and the size of that file
//!   durable and none of its names. [`Disk::sync_dir`] makes the name changes of that one folder
//!   durable and no bytes. [`Disk::sync_all`] makes everything durable.
//! * **Unsynced bytes** survive in any subset, by sectors of 512 bytes, each sector as it was after
//!   any of the writes that touched it. The size is apart from the bytes: a file may have grown
//!   and hold zeros.
//! * **Unsynced name changes** survive in any subset, in any order across names; changes of one and
//!   the same name keep their order. A rename is one change of two names: both or none. It is
//!   durable once either folder was synced, and not before.
//! * **A folder's own name and the names in it are apart.** A name in a folder is durable only when
//!   that folder was synced, and reachable only when the folder is. What is not reachable is gone.
//! * **Link counts** are those of the names that are left, as after a check of the filesystem.
//! * **A failed sync throws dirty bytes away**, as Linux does: they can still be read, they are
//!   clean, a later sync succeeds and leaves zeros. Whoever had the file open hears of it once, and
//!   so does the next `sync_all`. Names whose sync failed stay unsynced.
//! * Modes, groups and times are not lost. Sectors do not rot by themselves.
//!
//! Every call of either trait but [`Disk::is_crowded`] and the closing of a file is numbered, from
//! 0 on. Driven from one thread, the same calls give the same answers.

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;

use super::{Create, Disk, Entry, File, Kind, RelPath, Space, Stat};
use file::SimFile;
use names::name_hash;
use state::{Body, Data, Ino, State};

mod crash;
mod file;
mod hand;
mod names;
mod state;
#[cfg(test)]
mod tests;

pub use hand::Seen;

/// The disk. Clones are the same disk; [`SimDisk::fork`] makes another one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// What an injected failure says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device failed: any call can say so.
    Io,
    /// No room: only a call that may need room says so.
    NoSpace,
}

/// How often an injected failure strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// The call it was set for, or the first one after it that can fail so.
    Once,
    /// Every call from there on.
    ForGood,
}

/// What every call answers once the power went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the power is gone")]
pub struct PowerCut;

impl SimDisk {
    /// An empty disk without limits but the 65 000 links of ext4.
    pub fn new() -> SimDisk {
        SimDisk::from_state(State::new())
    }

    fn from_state(state: State) -> SimDisk {
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// The names that one file can have.
    #[must_use]
    pub fn with_link_limit(self, limit: u64) -> SimDisk {
        self.state().link_limit = limit;
        self
    }

    /// Bytes that fit, in blocks of 4096. Calling it again on a disk in use makes it fuller or emptier.
    #[must_use]
    pub fn with_capacity(self, bytes: u64) -> SimDisk {
        self.state().capacity = Some(bytes);
        self
    }

    /// Reads and writes move fewer bytes than asked, as this seed has it.
    #[must_use]
    pub fn with_short_calls(self, seed: u64) -> SimDisk {
        self.state().shorts = Some(crash::Rng::new(seed));
        self
    }

    /// What [`Disk::is_crowded`] answers.
    #[must_use]
    pub fn with_crowd(self, crowded: bool) -> SimDisk {
        self.state().crowded = crowded;
        self
    }

    /// How many calls were made, refused ones included.
    pub fn calls(&self) -> u64 {
        self.state().n_calls
    }

    /// Lets `n` calls happen; call number `n`, and every later one, fails with [`PowerCut`] and
    /// changes nothing.
    pub fn stop_after(&self, n: u64) {
        self.state().stop_at = Some(n);
    }

    /// Lets call number `n` fail.
    pub fn fail(&self, n: u64, fault: Fault, times: Times) {
        self.state().faults.push((n, fault, times));
    }

    /// Whether every injected failure that strikes once has struck.
    pub fn failed(&self) -> bool {
        self.state().n_faults > 0
    }

    /// Writes down every call from now on.
    pub fn start_trace(&self) {
        self.state().trace = Some(Vec::new());
    }

    /// The calls written down so far.
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone().unwrap_or_default()
    }

    /// Another disk in the same state, unsynced changes included, as a new process finds it: no
    /// open files, no locks, no injected failures, calls numbered from 0. The limits stay.
    pub fn fork(&self) -> SimDisk {
        SimDisk::from_state(self.state().fork())
    }

    /// Another disk as it may be found after a power cut now: seed 0 lost all that was not
    /// durable, seed 1 nothing, seed 2 all bytes and no names, seed 3 all names and no bytes;
    /// every other seed is some legal mixture. The limits stay.
    pub fn crash(&self, seed: u64) -> SimDisk {
        SimDisk::from_state(crash::outcome(&self.state(), seed))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, state: &mut State, inode: Ino, writable: bool) -> Box<dyn File> {
        let n_errors = state.with_data(inode, |data| data.n_errors).unwrap_or(0);
        state.inode_mut(inode).n_opens += 1;
        Box::new(SimFile::new(self.clone(), inode, writable, n_errors))
    }
}

impl Default for SimDisk {
    fn default() -> SimDisk {
        SimDisk::new()
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.call("open", || path.to_string(), false)?;
        let inode = state.find(path)?;
        match state.inode(inode).kind() {
            Kind::File => Ok(self.opened(&mut state, inode, false)),
            kind => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path} is no regular file but {kind:?}"),
            )),
        }
    }

    fn create(&self, path: &RelPath, _how: Create) -> io::Result<Box<dyn File>> {
        let mut state = self.state();
        state.call("create", || path.to_string(), true)?;
        let (folder, name) = state.vacant(path)?;
        let inode = state.add(Body::File(Data::default()));
        state.change(vec![(folder, name, Some(inode))]);
        Ok(self.opened(&mut state, inode, true))
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        let mut state = self.state();
        state.call("stat", || path.to_string(), false)?;
        let inode = state.find(path)?;
        Ok(state.stat(inode))
    }

    fn list(
        &self,
        path: &RelPath,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut entries: Vec<Entry> = {
            let mut state = self.state();
            state.call("list", || path.to_string(), false)?;
            let folder = state.find(path)?;
            let names = state.names(folder)?;
            names
                .iter()
                .map(|(name, inode)| Entry { name: name.clone(), kind: state.inode(*inode).kind() })
                .collect()
        };
        // In no order, as ext4 hashes its names: who relies on one is found out.
        entries.sort_by_key(|entry| name_hash(&entry.name));
        for entry in entries {
            if each(entry).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn make_dir(&self, path: &RelPath, mode: u32) -> io::Result<()> {
        let mut state = self.state();
        state.call("make_dir", || path.to_string(), true)?;
        let (folder, name) = state.vacant(path)?;
        state.require_room(state::BLOCK)?;
        let inode = state.add(Body::Folder(state::Names::default()));
        state.inode_mut(inode).mode = mode;
        state.change(vec![(folder, name, Some(inode))]);
        Ok(())
    }

    fn set_group(&self, path: &RelPath, gid: u32, mode: u32) -> io::Result<()> {
        let mut state = self.state();
        state.call("set_group", || path.to_string(), false)?;
        let folder = state.find(path)?;
        state.names(folder)?;
        let inode = state.inode_mut(folder);
        (inode.gid, inode.mode) = (Some(gid), mode);
        Ok(())
    }

    fn link(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let mut state = self.state();
        state.call("link", || format!("{from} -> {to}"), true)?;
        let inode = state.find(from)?;
        let (folder, name) = state.vacant(to)?;
        match state.inode(inode) {
            found if found.kind() == Kind::Folder => Err(Errno::EPERM.into()),
            found if found.n_links >= state.link_limit => Err(Errno::EMLINK.into()),
            _ => {
                state.change(vec![(folder, name, Some(inode))]);
                Ok(())
            }
        }
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let mut state = self.state();
        state.call("rename", || format!("{from} -> {to}"), true)?;
        state.rename(from, to, false)
    }

    fn rename_new(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let mut state = self.state();
        state.call("rename_new", || format!("{from} -> {to}"), true)?;
        state.rename(from, to, true)
    }

    fn unlink(&self, path: &RelPath) -> io::Result<()> {
        let mut state = self.state();
        state.call("unlink", || path.to_string(), false)?;
        let inode = state.find(path)?;
        if state.inode(inode).kind() == Kind::Folder {
            return Err(Errno::EISDIR.into());
        }
        let (folder, name) = state.place(path)?;
        state.change(vec![(folder, name, None)]);
        Ok(())
    }

    fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        let mut state = self.state();
        state.call("remove_dir", || path.to_string(), false)?;
        let inode = state.find(path)?;
        if !state.names(inode)?.is_empty() {
            return Err(Errno::ENOTEMPTY.into());
        }
        let (folder, name) = state.place(path)?;
        state.change(vec![(folder, name, None)]);
        Ok(())
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        let mut state = self.state();
        state.call("sync_dir", || path.to_string(), true)?;
        let folder = state.find(path)?;
        state.names(folder)?;
        state.settle_names(Some(folder));
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut state = self.state();
        match state.call("sync_all", String::new, true) {
            Ok(()) if state.unheard_loss => {
                state.unheard_loss = false;
                return Err(Errno::EIO.into());
            }
            Ok(()) => {}
            Err(error) => {
                if !is_power_cut(&error) {
                    state.lose_all_bytes();
                    state.unheard_loss = false;
                }
                return Err(error);
            }
        }
        state.settle_names(None);
        state.settle_all_bytes();
        Ok(())
    }

    fn is_crowded(&self) -> bool {
        self.state().crowded
    }

    fn space(&self) -> io::Result<Space> {
        let mut state = self.state();
        state.call("space", String::new, false)?;
        let total = state.capacity.unwrap_or(1 << 40);
        Ok(Space { free: total.saturating_sub(state.used()), total })
    }

    fn lock(&self, path: &RelPath, holder: &str) -> io::Result<Box<dyn Send + Sync>> {
        let mut state = self.state();
        state.call("lock", || path.to_string(), true)?;
        let inode = match state.find(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (folder, name) = state.vacant(path)?;
                let inode = state.add(Body::File(Data::default()));
                state.change(vec![(folder, name, Some(inode))]);
                inode
            }
            found => found?,
        };
        if let Some(other) = state.locks.get(&inode) {
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, other.clone()));
        }
        // Who holds it matters to the living only: it is written past the model, like a PID file.
        state.with_data_mut(inode, |data| *data = Data::whole(holder.as_bytes().to_vec()))?;
        state.locks.insert(inode, holder.to_owned());
        Ok(Box::new(Lock { disk: self.clone(), inode }))
    }
}

struct Lock {
    disk: SimDisk,
    inode: Ino,
}

impl Drop for Lock {
    fn drop(&mut self) {
        self.disk.state().locks.remove(&self.inode);
    }
}

/// Whether a call failed because the power was gone.
pub fn is_power_cut(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<PowerCut>())
}
