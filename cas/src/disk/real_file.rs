//! A file on the disk that is there: read, written, synced, whole extents shared, around the page cache
//! where that is better.

#![allow(clippy::disallowed_methods, reason = "this is the room of filesystem calls")]

use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::{FallocateFlags, OFlag, PosixFadviseAdvice};
use nix::sys::stat::Mode;
use nix::{fcntl, sys, unistd};
use rustix::io::{ReadWriteFlags, preadv2};

use super::real::stat_of;
use super::{File, Stat};

/// Direct writes must start, end and lie in memory at multiples of this many bytes.
const DIRECT_ALIGNMENT: usize = 4096;

/// How many places of a file are looked at to tell whether it is in the page cache.
const N_PROBES: u32 = 8;

/// An open file. Only [`super::RealDisk`] opens one.
pub(super) struct RealFile {
    pub(super) file: OwnedFd,
    /// The same file again, past the page cache.
    pub(super) direct: Option<OwnedFd>,
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let is_aligned = offset.is_multiple_of(DIRECT_ALIGNMENT as u64)
            && buf.len().is_multiple_of(DIRECT_ALIGNMENT)
            && buf.as_ptr().addr().is_multiple_of(DIRECT_ALIGNMENT);
        if let Some(direct) = self.direct.as_ref().filter(|_| is_aligned) {
            match sys::uio::pread(direct, buf, signed(offset)?) {
                Ok(n) => return Ok(n),
                // Opened to write only, or another alignment than ours: take the other way.
                Err(nix::Error::EBADF | nix::Error::EINVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(sys::uio::pread(&self.file, buf, signed(offset)?)?)
    }

    fn past_cache(&self) -> io::Result<Option<Box<dyn File>>> {
        // Opened again: neither advice nor direct access may change what others hold.
        let again = |more: OFlag| {
            let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
            fcntl::open(path.as_str(), OFlag::O_RDONLY | OFlag::O_CLOEXEC | more, Mode::empty())
        };
        // Without /proc, or on a filesystem without direct access, it is read as always.
        let (Ok(cached), Ok(direct)) = (again(OFlag::empty()), again(OFlag::O_DIRECT)) else {
            return Ok(None);
        };
        if is_in_cache(&cached, self.stat()?.size) {
            return Ok(None);
        }
        // What is in there all the same would not be looked at, and be the next reader's.
        let dropped = fcntl::posix_fadvise(&cached, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        if dropped.is_err() {
            return Ok(None);
        }
        Ok(Some(Box::new(RealFile { file: cached, direct: Some(direct) })))
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        if let Some(direct) = &self.direct {
            let whole = buf.len() - buf.len() % DIRECT_ALIGNMENT;
            let aligned = offset.is_multiple_of(DIRECT_ALIGNMENT as u64)
                && buf.as_ptr().addr().is_multiple_of(DIRECT_ALIGNMENT);
            if aligned && whole > 0 {
                match sys::uio::pwrite(direct, &buf[..whole], signed(offset)?) {
                    Ok(n) => return Ok(n),
                    // This filesystem wants another alignment than ours: take the other way.
                    Err(nix::Error::EINVAL) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(sys::uio::pwrite(&self.file, buf, signed(offset)?)?)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(unistd::fdatasync(&self.file)?)
    }

    fn stat(&self) -> io::Result<Stat> {
        Ok(stat_of(&sys::stat::fstat(&self.file)?))
    }

    fn share_extents(&self, source: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<bool> {
        let shares = sys::statfs::fstatfs(&self.file).is_ok_and(|filesystem| {
            let kind = filesystem.filesystem_type();
            kind == sys::statfs::XFS_SUPER_MAGIC || kind == sys::statfs::BTRFS_SUPER_MAGIC
        });
        let same = sys::stat::fstat(source)?.st_dev == sys::stat::fstat(&self.file)?.st_dev;
        if !shares || !same || !offset.is_multiple_of(DIRECT_ALIGNMENT as u64) {
            return Ok(false);
        }
        // On these filesystems the kernel clones first and copies only what it cannot clone.
        let (mut from, mut to) = (signed(offset)?, 0);
        let mut left = len;
        while left > 0 {
            let step = usize::try_from(left.min(1 << 30)).unwrap_or(1 << 30);
            match fcntl::copy_file_range(source, Some(&mut from), &self.file, Some(&mut to), step) {
                Ok(0) => break,
                Ok(n) => left -= n as u64,
                Err(nix::Error::EINTR) => {}
                Err(_) if left == len => return Ok(false),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        match fcntl::fallocate(&self.file, FallocateFlags::empty(), 0, signed(len)?) {
            Err(nix::Error::EOPNOTSUPP) => Ok(()),
            other => Ok(other?),
        }
    }

    fn descriptor(&self) -> io::Result<OwnedFd> {
        self.file.as_fd().try_clone_to_owned()
    }
}

/// Whether the pages of a file that a few probes fall on are all in the page cache, or nobody can
/// tell.
fn is_in_cache(file: &OwnedFd, size: u64) -> bool {
    // So that a probe brings no more than its own page in.
    if fcntl::posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_RANDOM).is_err() {
        return true;
    }
    // Other places each time: the pages that the last probes brought in say nothing.
    let random = RandomState::new();
    (0..N_PROBES).all(|i| {
        let offset = random.hash_one(i) % size.max(1);
        let mut byte = [0];
        let bytes = &mut [IoSliceMut::new(&mut byte)];
        // A filesystem or a filter that refuses the question says nothing.
        preadv2(file, bytes, offset, ReadWriteFlags::NOWAIT) != Err(rustix::io::Errno::AGAIN)
    })
}

fn signed(offset: u64) -> io::Result<i64> {
    i64::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge.into())
}
