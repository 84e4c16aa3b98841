//! Every filesystem call of the store, and nothing else.
//!
//! The store says *what* must be on disk; this room says *how* the kernel is asked. Two disks
//! stand behind the same seam: [`RealDisk`], which opens everything beneath one folder and never
//! follows a symlink, and [`sim::SimDisk`], stricter than life, which loses whatever was not
//! synced. `std::fs` is used here and nowhere else.

use std::fmt::{self, Write as _};
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

mod foreign;
mod lately;
mod output;
mod real;
mod real_file;
pub mod sim;

pub use foreign::{Foreign, ForeignError, ForeignFile, kind_at, spool};
pub use output::{NewFile, NewFolder, Output};
pub use real::RealDisk;

/// How many syncs of everything may be under way at once: while one waits for the disk, the next
/// collects.
pub(crate) const N_SYNCS: usize = 2;

/// Bytes of a name that is as long as most are: an algorithm and a digest.
const NAME_SIZE: usize = 72;

/// A path below the store's root, built from parts that are each one plain file name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelPath(String);

impl RelPath {
    /// The root itself.
    pub fn root() -> RelPath {
        RelPath(String::new())
    }

    /// A folder or file directly below the root.
    pub fn new(name: &str) -> RelPath {
        RelPath::root().join(name)
    }

    /// A name inside this folder. A name that is not one plain component stays inside as well:
    /// it becomes a name that no file of the store has, so it is simply not found.
    #[must_use]
    pub fn join(&self, name: impl fmt::Display) -> RelPath {
        let mut path = String::with_capacity(self.0.len() + 1 + NAME_SIZE);
        path.push_str(&self.0);
        if !path.is_empty() {
            path.push('/');
        }
        let begin = path.len();
        // Writing to a string fails only if what is written says so.
        let written = write!(path, "{name}").is_ok();
        let name = &path[begin..];
        let plain = !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0']);
        debug_assert!(plain, "{name:?} is not one component");
        if !(written && plain) {
            path.truncate(begin);
            path.push('\u{fffd}');
        }
        RelPath(path)
    }

    /// The folder that holds this path, and the name in it; `None` for the root.
    pub fn split(&self) -> Option<(RelPath, &str)> {
        if self.0.is_empty() {
            return None;
        }
        Some(match self.0.rsplit_once('/') {
            Some((folder, name)) => (RelPath(folder.to_owned()), name),
            None => (RelPath::root(), &self.0),
        })
    }

    /// A folder and those above it but for the root, inner ones first.
    pub(crate) fn way(&self) -> Vec<RelPath> {
        let folder = |path: &RelPath| path.split().map(|(folder, _)| folder);
        std::iter::successors(Some(self.clone()), folder)
            .take_while(|path| !path.0.is_empty())
            .collect()
    }

    /// The text, `/` between the parts, empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "." } else { &self.0 })
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What stands behind a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, never followed.
    Symlink,
    /// A FIFO, socket or device.
    Special,
}

/// What the filesystem says of one file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: Kind,
    /// Bytes, of a regular file.
    pub size: u64,
    /// Names that lead to it.
    pub n_links: u64,
    /// Which file it is; the same number is the same file.
    pub inode: u64,
    /// When its bytes were last changed, in nanoseconds since 1970.
    pub modified_ns: i128,
    /// When its bytes or its inode were last changed, in nanoseconds since 1970.
    pub changed_ns: i128,
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name. One that is not UTF-8 is shown with replacement characters and so is found nowhere.
    pub name: String,
    /// What it is.
    pub kind: Kind,
}

/// How a new file is going to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Create {
    /// Small: through the page cache.
    Buffered,
    /// Large: past the page cache for every aligned part, where the filesystem can.
    Direct,
}

/// Room on the filesystem, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What an ordinary user may still write.
    pub free: u64,
    /// All of it.
    pub total: u64,
}

/// What is told of a folder, in the order of the names' bytes.
fn sorted(
    told: impl FnOnce(&mut dyn FnMut(Entry) -> ControlFlow<()>) -> io::Result<()>,
) -> io::Result<Arc<[Entry]>> {
    let mut entries = Vec::new();
    told(&mut |entry| {
        entries.push(entry);
        ControlFlow::Continue(())
    })?;
    entries.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    Ok(entries.into())
}

/// Where the store lives.
///
/// No call follows a symlink or leaves the root. A name is durable once its folder was synced
/// after the change, a file's bytes once the file was.
pub trait Disk: Send + Sync {
    /// Opens a regular file to read it. A symlink, folder or special file is `InvalidInput`.
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn File>>;
    /// What a regular file holds, without waiting for the disk: `WouldBlock` when that is not in memory,
    /// and `FileTooLarge` for more than `most` bytes.
    fn read_now(&self, path: &RelPath, most: u64) -> io::Result<Vec<u8>> {
        // For disks that never wait.
        let file = self.open(path)?;
        let size = file.stat()?.size;
        if size > most {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut bytes = vec![0; usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge)?];
        read_exact_at(&*file, &mut bytes, 0)?;
        Ok(bytes)
    }
    /// Makes a new file of mode 0444, open to read and write; `AlreadyExists` when the name is taken.
    fn create(&self, path: &RelPath, how: Create) -> io::Result<Box<dyn File>>;
    /// What a name leads to; a symlink is reported as such.
    fn stat(&self, path: &RelPath) -> io::Result<Stat>;
    /// Calls `each` for every name in a folder, in no order, until it breaks.
    fn list(
        &self,
        path: &RelPath,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> io::Result<()>;
    /// Every name in a folder, in the order of their bytes. A disk may keep a short listing until the
    /// folder changes, so this is for folders that are asked about often.
    fn listing(&self, path: &RelPath) -> io::Result<Arc<[Entry]>> {
        sorted(|each| self.list(path, each))
    }
    /// The same if it needs no wait for the disk; `None` says nothing.
    fn listing_now(&self, path: &RelPath) -> Option<Arc<[Entry]>> {
        // For disks that never wait.
        self.listing(path).ok()
    }
    /// Makes a folder of exactly this mode.
    fn make_dir(&self, path: &RelPath, mode: u32) -> io::Result<()>;
    /// Gives a folder to a group, and sets its mode again.
    fn set_group(&self, path: &RelPath, gid: u32, mode: u32) -> io::Result<()>;
    /// A second name for a file; `AlreadyExists` when it is taken, `TooManyLinks` at the limit.
    fn link(&self, from: &RelPath, to: &RelPath) -> io::Result<()>;
    /// Moves a file or folder; a file in the way is replaced in one step.
    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()>;
    /// Moves a file or folder; `AlreadyExists` when anything is in the way.
    fn rename_new(&self, from: &RelPath, to: &RelPath) -> io::Result<()>;
    /// Ends one name of a file (of anything that is not a folder).
    fn unlink(&self, path: &RelPath) -> io::Result<()>;
    /// Removes an empty folder.
    fn remove_dir(&self, path: &RelPath) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, path: &RelPath) -> io::Result<()>;
    /// Makes the names in a folder durable, and those that lead to it: syncs it and the folders above it,
    /// up to one whose way is known to be durable.
    fn sync_way(&self, path: &RelPath) -> io::Result<()> {
        // For disks that know nothing.
        path.way().iter().try_for_each(|folder| self.sync_dir(folder))
    }
    /// Makes all that was written before durable: bytes and names of the whole filesystem.
    fn sync_all(&self) -> io::Result<()>;
    /// Whether much unwritten data of others is in memory, so that [`Disk::sync_all`] would wait for it.
    fn is_crowded(&self) -> bool;
    /// Room left.
    fn space(&self) -> io::Result<Space>;
    /// Takes the lock file for as long as the guard lives, and writes `holder` into it; when
    /// another process has it, `ResourceBusy` with what that one wrote as the error's text.
    fn lock(&self, path: &RelPath, holder: &str) -> io::Result<Box<dyn Send + Sync>>;
}

/// One open file. Reads and writes name their offset: a descriptor's own position is shared with
/// whoever else holds it and is never used.
pub trait File: Send + Sync {
    /// Reads up to `buf.len()` bytes; fewer is legal, 0 is the end.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// The same file for reading it once, past the page cache, if it is not in there; `None` when it
    /// is, or when it cannot be told. Buffers and offsets should then be multiples of 4096.
    fn past_cache(&self) -> io::Result<Option<Box<dyn File>>> {
        Ok(None)
    }
    /// Writes up to `buf.len()` bytes; fewer is legal.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// Makes the bytes and the size durable.
    fn sync(&self) -> io::Result<()>;
    /// What the filesystem says of it.
    fn stat(&self) -> io::Result<Stat>;
    /// Shares `len` bytes of another file from `offset` on as the whole content of this one, where
    /// the filesystem can; `false` when it cannot, and then nothing was changed.
    fn share_extents(&self, source: BorrowedFd<'_>, offset: u64, len: u64) -> io::Result<bool>;
    /// Gives the file real blocks for `len` bytes.
    fn allocate(&self, len: u64) -> io::Result<()>;
    /// A read-only descriptor of the same file to hand to somebody else; `Unsupported` on a disk
    /// that has none.
    fn descriptor(&self) -> io::Result<OwnedFd>;
}

/// Reads exactly `buf.len()` bytes at `offset`; `UnexpectedEof` when the file ends before.
pub fn read_exact_at(file: &dyn File, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes all of `buf` at `offset`.
pub fn write_all_at(file: &dyn File, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.write_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                buf = &buf[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
