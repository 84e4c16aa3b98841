//! An open file of the simulated disk. It outlives its names.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;

use super::state::{BLOCK, Ino, State, Write};
use super::{SimDisk, is_power_cut};
use crate::disk::{File, Stat};

pub(super) struct SimFile {
    disk: SimDisk,
    inode: Ino,
    writable: bool,
    /// The failed syncs that this descriptor has heard of.
    n_errors: AtomicU64,
}

impl SimFile {
    pub(super) fn new(disk: SimDisk, inode: Ino, writable: bool, n_errors: u64) -> SimFile {
        SimFile { disk, inode, writable, n_errors: AtomicU64::new(n_errors) }
    }

    fn what(&self) -> String {
        format!("inode {}", self.inode)
    }

    fn require_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(Errno::EBADF.into()) }
    }

    /// Says once what went wrong since the last time, as Linux does.
    fn report_loss(&self, state: &State) -> io::Result<()> {
        let n_errors = state.with_data(self.inode, |data| data.n_errors)?;
        if self.n_errors.swap(n_errors, Ordering::Relaxed) == n_errors {
            return Ok(());
        }
        Err(Errno::EIO.into())
    }
}

/// How much of `asked` bytes one call moves.
fn part(state: &mut State, asked: usize) -> usize {
    let Some(rng) = &mut state.shorts else { return asked };
    if asked < 2 || rng.below(2) == 0 {
        return asked;
    }
    1 + rng.below(asked as u64) as usize
}

impl File for SimFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.call("read_at", || format!("{} {offset}+{}", self.what(), buf.len()), false)?;
        let asked = part(&mut state, buf.len());
        state.with_data(self.inode, |data| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX).min(data.now.len());
            let n = asked.min(data.now.len() - start);
            buf[..n].copy_from_slice(&data.now[start..start + n]);
            n
        })
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut state = self.disk.state();
        state.call("write_at", || format!("{} {offset}+{}", self.what(), buf.len()), true)?;
        self.require_writable()?;
        let offset = usize::try_from(offset).map_err(|_| io::Error::from(Errno::EFBIG))?;
        let mut asked = part(&mut state, buf.len());
        if state.capacity.is_some() {
            let held = state.with_data(self.inode, |data| {
                (data.now.len() as u64).max(data.allocated).next_multiple_of(BLOCK)
            })?;
            let end = held.saturating_add(state.room() / BLOCK * BLOCK);
            asked = asked.min(end.saturating_sub(offset as u64) as usize);
            if asked == 0 && !buf.is_empty() {
                return Err(Errno::ENOSPC.into());
            }
        }
        state.touch(self.inode, true);
        state.with_data_mut(self.inode, |data| {
            data.write(Write { offset, bytes: buf[..asked].into() });
        })?;
        Ok(asked)
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.state();
        if let Err(error) = state.call("sync", || self.what(), true) {
            if !is_power_cut(&error) {
                state.with_data_mut(self.inode, |data| data.lose())?;
                state.unheard_loss = true;
                self.report_loss(&state).err();
            }
            return Err(error);
        }
        self.report_loss(&state)?;
        state.with_data_mut(self.inode, |data| data.settle())
    }

    fn stat(&self) -> io::Result<Stat> {
        let mut state = self.disk.state();
        state.call("fstat", || self.what(), false)?;
        Ok(state.stat(self.inode))
    }

    fn share_extents(&self, _source: BorrowedFd<'_>, _offset: u64, _len: u64) -> io::Result<bool> {
        let mut state = self.disk.state();
        state.call("share_extents", || self.what(), true)?;
        self.require_writable()?;
        Ok(false)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.state();
        state.call("allocate", || format!("{} {len}", self.what()), true)?;
        self.require_writable()?;
        let held = state.with_data(self.inode, |data| data.allocated.max(data.now.len() as u64))?;
        state.require_room(len.saturating_sub(held).next_multiple_of(BLOCK))?;
        let offset = usize::try_from(len).map_err(|_| io::Error::from(Errno::EFBIG))?;
        state.with_data_mut(self.inode, |data| {
            data.allocated = data.allocated.max(len);
            if offset > data.now.len() {
                data.write(Write { offset, bytes: [].into() });
            }
        })
    }

    fn descriptor(&self) -> io::Result<OwnedFd> {
        let mut state = self.disk.state();
        state.call("descriptor", || self.what(), false)?;
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        let inode = state.inode_mut(self.inode);
        inode.n_opens = inode.n_opens.saturating_sub(1);
    }
}
