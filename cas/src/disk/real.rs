//! The disk that is there: Linux, beneath one folder, no symlink followed.
//!
//! Each path is opened with `openat2` and `RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS` from the root's
//! descriptor, so that whatever stands on disk, no call leaves the root.

#![allow(clippy::disallowed_methods, reason = "this is the room of filesystem calls")]

use std::collections::HashMap;
use std::io::{self, IoSliceMut, Read as _, Seek as _, Write as _};
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use nix::dir::{Dir, Type};
use nix::fcntl::{
    AtFlags, Flock, FlockArg, OFlag, OpenHow, PosixFadviseAdvice, RenameFlags, ResolveFlag,
};
use nix::sys::stat::{FileStat, Mode, SFlag};
use nix::unistd::{Gid, LinkatFlags, UnlinkatFlags};
use nix::{fcntl, sys, unistd};
use rustix::io::{ReadWriteFlags, preadv2};

use super::lately::{JustRead, Lately, Seen};
use super::real_file::RealFile;
use super::{Create, Disk, Entry, File, Kind, N_SYNCS, RelPath, Space, Stat, sorted};

/// Unwritten bytes of everybody beyond which a sync of the whole filesystem is no longer cheap.
const CROWDED: u64 = 256 << 20;
/// Names of a listing that is kept.
const LISTING_SIZE: usize = 1000;
/// How many descriptors of folders are kept.
const MOST_KEPT: usize = 1024;
/// For how long that is believed without looking again: a disk takes longer to fill a cache.
const CROWD_LASTS: Duration = Duration::from_millis(20);
/// The mode of every file of the store: readable by whoever its folder lets in, writable by nobody.
const SEALED: u32 = 0o444;

/// A folder on a local Linux filesystem.
pub struct RealDisk {
    root: OwnedFd,
    /// The root again, for each sync that may be under way: the kernel tells each descriptor once
    /// that it lost something, and two who sync at the same time must both be told.
    syncing: Vec<Mutex<OwnedFd>>,
    /// What the process takes from the mode of whatever it makes.
    umask: u32,
    /// When it was last looked how much unwritten data there is, and whether it was much.
    crowd: Mutex<Option<(Instant, bool)>>,
    /// Descriptors of folders that never move while the store is open.
    kept: Mutex<HashMap<String, Arc<Folder>>>,
    /// Small files that were read lately, and listings.
    files: Lately<Arc<[u8]>>,
    listings: Lately<Arc<[Entry]>>,
}

/// An open folder.
struct Folder {
    descriptor: OwnedFd,
    /// Its name, and those of the folders above it, were synced since it was opened. Another folder at
    /// the same path is another one of these.
    is_settled: AtomicBool,
}

impl Folder {
    fn has_name(&self) -> bool {
        sys::stat::fstat(&self.descriptor).is_ok_and(|stat| stat.st_nlink > 0)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl RealDisk {
    /// Opens the folder, and makes it (mode 0755) when it is absent.
    ///
    /// # Errors
    /// What the system says: the parent is missing, it is no folder, it may not be read.
    pub fn open(root: &Path) -> io::Result<RealDisk> {
        match std::fs::DirBuilder::new().mode(0o755).create(root) {
            Ok(()) => {
                // The name of a new store must outlive a power cut as well.
                let parent = root.parent().filter(|p| !p.as_os_str().is_empty());
                let parent = open_root(parent.unwrap_or(Path::new(".")))?;
                unistd::fsync(&parent)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let mut syncing = Vec::with_capacity(N_SYNCS);
        for _ in 0..N_SYNCS {
            syncing.push(Mutex::new(open_root(root)?));
        }
        Ok(RealDisk {
            root: open_root(root)?,
            syncing,
            umask: umask().unwrap_or(0o777),
            crowd: Mutex::default(),
            kept: Mutex::default(),
            files: Lately::default(),
            listings: Lately::default(),
        })
    }

    fn beneath(&self, path: &RelPath, flags: OFlag) -> io::Result<OwnedFd> {
        self.resolve(path, flags, ResolveFlag::empty())
    }

    fn resolve(&self, path: &RelPath, flags: OFlag, more: ResolveFlag) -> io::Result<OwnedFd> {
        let beneath = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(beneath | more);
        let text = if path.as_str().is_empty() { "." } else { path.as_str() };
        fcntl::openat2(&self.root, text, how).map_err(error_of)
    }

    /// Calls `each` for every name in this folder, which is at that path.
    fn entries(
        &self,
        folder: OwnedFd,
        path: &RelPath,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut folder = Dir::from_fd(folder)?;
        for entry in folder.iter() {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == "." || name == ".." {
                continue;
            }
            let kind = match entry.file_type() {
                Some(Type::File) => Kind::File,
                Some(Type::Directory) => Kind::Folder,
                Some(Type::Symlink) => Kind::Symlink,
                Some(_) => Kind::Special,
                None => self.stat(&path.join(&name))?.kind,
            };
            if each(Entry { name, kind }).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// Whether a path leads to what was seen there.
    fn leads_to(&self, path: &RelPath, seen: &Stat, more: ResolveFlag) -> bool {
        let place = self.resolve(path, OFlag::O_PATH, more).ok();
        let now = place.and_then(|place| sys::stat::fstat(&place).ok());
        now.is_some_and(|now| now.st_ino == seen.inode)
    }

    /// To be said of each path that leads elsewhere, or nowhere, from now on.
    fn ended(&self, path: &RelPath) {
        self.files.changed(path.as_str());
        self.listings.changed(path.as_str());
        self.appeared(path);
    }

    /// To be said of each path that leads somewhere from now on.
    fn appeared(&self, path: &RelPath) {
        if let Some((folder, _)) = path.as_str().rsplit_once('/') {
            self.listings.changed(folder);
        }
    }

    fn folder(&self, path: &RelPath) -> io::Result<Arc<Folder>> {
        let open = || {
            let descriptor = self.beneath(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
            io::Result::Ok(Arc::new(Folder { descriptor, is_settled: AtomicBool::new(false) }))
        };
        if !is_kept(path.as_str()) {
            return open();
        }
        let kept = || self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept().get(path.as_str()).cloned();
        // A folder without a name of its own was taken away, and there may be another one by now.
        if let Some(folder) = known
            && folder.has_name()
        {
            return Ok(folder);
        }
        let folder = open()?;
        let mut kept = kept();
        if kept.len() >= MOST_KEPT {
            // Those that are in use come back, but the way to them is synced once more.
            let any = kept.keys().next().cloned();
            any.map(|any| kept.remove(&any));
        }
        kept.insert(path.as_str().to_owned(), Arc::clone(&folder));
        Ok(folder)
    }

    fn parent<'a>(&self, path: &'a RelPath) -> io::Result<(Arc<Folder>, &'a str)> {
        let (folder, name) = path.split().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((self.folder(&folder)?, name))
    }

    fn move_to(&self, from: &RelPath, to: &RelPath, flags: RenameFlags) -> io::Result<()> {
        let (from_folder, from_name) = self.parent(from)?;
        let (to_folder, to_name) = self.parent(to)?;
        fcntl::renameat2(&from_folder, from_name, &to_folder, to_name, flags).map_err(error_of)?;
        self.ended(from);
        self.ended(to);
        Ok(())
    }
}

/// `blobs/<algorithm>`, `staging` and its like, `artifacts/<workspace>/<algorithm>`, and all below
/// `names` and `pushed`: folders that are made and removed there, and never renamed.
fn is_kept(path: &str) -> bool {
    match path.bytes().filter(|b| *b == b'/').count() {
        0 => !path.is_empty(),
        1 if path.starts_with("blobs/") => true,
        2 if path.starts_with("artifacts/") => true,
        _ => path.starts_with("names/") || path.starts_with("pushed/"),
    }
}

/// The process's umask, which must not decide what reviewers can read.
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(umask.trim(), 8).ok()
}

fn open_root(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    fcntl::open(path, flags, Mode::empty()).map_err(error_of)
}

fn error_of(errno: nix::Error) -> io::Error {
    match errno {
        nix::Error::ELOOP => io::Error::new(io::ErrorKind::InvalidInput, "a symlink is in the way"),
        nix::Error::ENXIO => io::Error::new(io::ErrorKind::InvalidInput, "it is a special file"),
        other => other.into(),
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn File>> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        let (folder, name) = self.parent(path)?;
        let file = fcntl::openat(
            &folder,
            name,
            flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
            Mode::empty(),
        )
        .map_err(error_of)?;
        if regular(&stat_of(&sys::stat::fstat(&file)?))?.size > 1 << 20 {
            // A hint only: a filesystem without it reads as well, with less ahead.
            let _ = fcntl::posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
        }
        Ok(Box::new(RealFile { file, direct: None }))
    }

    fn read_now(&self, path: &RelPath, most: u64) -> io::Result<Vec<u8>> {
        let bounded = |size: u64| match size <= most {
            true => usize::try_from(size).map_err(|_| io::ErrorKind::FileTooLarge.into()),
            false => Err(io::Error::from(io::ErrorKind::FileTooLarge)),
        };
        if let Some(bytes) = self.files.get(path) {
            return bounded(bytes.len() as u64).map(|_| bytes.to_vec());
        }
        // nix has no name for it.
        let cached = ResolveFlag::from_bits_retain(nix::libc::RESOLVE_CACHED);
        let file = self.resolve(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK, cached)?;
        let seen = Seen::of(&file)?;
        let size = bounded(regular(&seen.stat)?.size)?;
        let mut bytes = vec![0; size];
        let space = &mut [IoSliceMut::new(&mut bytes)];
        // What is only partly in memory comes partly.
        if preadv2(&file, space, 0, ReadWriteFlags::NOWAIT)? != size {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let stat = seen.stat;
        let read = JustRead { place: file, seen, what: bytes.as_slice().into(), bytes: size };
        self.files.keep(path, read, || self.leads_to(path, &stat, cached));
        Ok(bytes)
    }

    fn create(&self, path: &RelPath, how: Create) -> io::Result<Box<dyn File>> {
        let (folder, name) = self.parent(path)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        // A second descriptor can be opened for direct writes only while the mode still lets us.
        let mode = if how == Create::Direct { 0o600 } else { SEALED };
        let file = fcntl::openat(&folder, name, flags, Mode::from_bits_truncate(mode));
        let file = file.map_err(error_of)?;
        self.appeared(path);
        let direct = match how {
            Create::Buffered => None,
            Create::Direct => {
                // A filesystem that refuses direct I/O is written through the page cache.
                let flags =
                    OFlag::O_WRONLY | OFlag::O_DIRECT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                fcntl::openat(&folder, name, flags, Mode::empty()).ok()
            }
        };
        if mode != SEALED || self.umask & SEALED != 0 {
            sys::stat::fchmod(&file, Mode::from_bits_truncate(SEALED))?;
        }
        Ok(Box::new(RealFile { file, direct }))
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        let Ok((folder, name)) = self.parent(path) else {
            return Ok(stat_of(&sys::stat::fstat(&*self.folder(path)?)?));
        };
        let stat = sys::stat::fstatat(&folder, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        Ok(stat_of(&stat))
    }

    fn list(
        &self,
        path: &RelPath,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let folder = self.beneath(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        self.entries(folder, path, each)
    }

    fn listing(&self, path: &RelPath) -> io::Result<Arc<[Entry]>> {
        let folder = self.beneath(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let seen = Seen::of(&folder)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let again = fcntl::openat(&folder, ".", flags, Mode::empty()).map_err(error_of)?;
        let entries = sorted(|each| self.entries(again, path, each))?;
        if entries.len() <= LISTING_SIZE {
            let bytes = entries.iter().map(|entry| size_of::<Entry>() + entry.name.len()).sum();
            let stat = seen.stat;
            let read = JustRead { place: folder, seen, what: entries.clone(), bytes };
            let still_leads = || self.leads_to(path, &stat, ResolveFlag::empty());
            self.listings.keep(path, read, still_leads);
        }
        Ok(entries)
    }

    fn listing_now(&self, path: &RelPath) -> Option<Arc<[Entry]>> {
        self.listings.get(path)
    }

    fn make_dir(&self, path: &RelPath, bits: u32) -> io::Result<()> {
        let (folder, name) = self.parent(path)?;
        let mode = Mode::from_bits_truncate(bits);
        sys::stat::mkdirat(&folder, name, mode)?;
        self.appeared(path);
        if self.umask & bits != 0 {
            let follow = sys::stat::FchmodatFlags::FollowSymlink;
            sys::stat::fchmodat(&folder, name, mode, follow)?;
        }
        Ok(())
    }

    fn set_group(&self, path: &RelPath, gid: u32, mode: u32) -> io::Result<()> {
        let folder = self.beneath(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        unistd::fchown(&folder, None, Some(Gid::from_raw(gid)))?;
        sys::stat::fchmod(&folder, Mode::from_bits_truncate(mode))?;
        Ok(())
    }

    fn link(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        let (from_folder, from_name) = self.parent(from)?;
        let (to_folder, to_name) = self.parent(to)?;
        let flags = LinkatFlags::empty();
        unistd::linkat(&from_folder, from_name, &to_folder, to_name, flags).map_err(error_of)?;
        self.appeared(to);
        Ok(())
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.move_to(from, to, RenameFlags::empty())
    }

    fn rename_new(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.move_to(from, to, RenameFlags::RENAME_NOREPLACE)
    }

    fn unlink(&self, path: &RelPath) -> io::Result<()> {
        let (folder, name) = self.parent(path)?;
        unistd::unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir).map_err(error_of)?;
        self.ended(path);
        Ok(())
    }

    fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        let (folder, name) = self.parent(path)?;
        unistd::unlinkat(&folder, name, UnlinkatFlags::RemoveDir).map_err(error_of)?;
        self.ended(path);
        Ok(())
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        Ok(unistd::fsync(&self.folder(path)?)?)
    }

    fn sync_way(&self, path: &RelPath) -> io::Result<()> {
        let mut settled: Vec<Arc<Folder>> = Vec::new();
        for path in path.way() {
            if settled.last().is_some_and(|inner| inner.is_settled.load(Ordering::Acquire)) {
                break;
            }
            // Open before its name is synced: what is said of it must be true of this very folder.
            let folder = self.folder(&path)?;
            unistd::fsync(&folder)?;
            if !folder.has_name() {
                // Taken away in this moment: some filesystems then say yes and write nothing.
                return Err(io::ErrorKind::NotFound.into());
            }
            settled.push(folder);
        }
        // All the way up, or up to one of which that is known.
        settled.iter().for_each(|folder| folder.is_settled.store(true, Ordering::Release));
        Ok(())
    }

    fn sync_all(&self) -> io::Result<()> {
        let free = self.syncing.iter().find_map(|root| match root.try_lock() {
            Ok(root) => Some(root),
            Err(TryLockError::Poisoned(root)) => Some(root.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        });
        let root =
            free.unwrap_or_else(|| self.syncing[0].lock().unwrap_or_else(PoisonError::into_inner));
        Ok(unistd::syncfs(&*root)?)
    }

    fn is_crowded(&self) -> bool {
        let mut crowd = self.crowd.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, is_crowded)) = *crowd
            && at.elapsed() < CROWD_LASTS
        {
            return is_crowded;
        }
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let dirty = memory.lines().find_map(|line| line.strip_prefix("Dirty:"));
        let kib = dirty.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let is_crowded = kib.is_some_and(|kib| kib << 10 > CROWDED);
        *crowd = Some((Instant::now(), is_crowded));
        is_crowded
    }

    fn space(&self) -> io::Result<Space> {
        let stat = sys::statvfs::fstatvfs(&self.root)?;
        let unit = stat.fragment_size();
        Ok(Space { free: stat.blocks_available() * unit, total: stat.blocks() * unit })
    }

    fn lock(&self, path: &RelPath, holder: &str) -> io::Result<Box<dyn Send + Sync>> {
        let (folder, name) = self.parent(path)?;
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = fcntl::openat(&folder, name, flags, Mode::from_bits_truncate(0o644))?;
        match Flock::lock(std::fs::File::from(fd), FlockArg::LockExclusiveNonblock) {
            Ok(mut lock) => {
                lock.set_len(0)?;
                lock.rewind()?;
                lock.write_all(holder.as_bytes())?;
                Ok(Box::new(lock))
            }
            Err((mut file, nix::Error::EWOULDBLOCK)) => {
                let mut other = String::new();
                (&mut file).take(4096).read_to_string(&mut other)?;
                Err(io::Error::new(io::ErrorKind::ResourceBusy, other))
            }
            Err((_, errno)) => Err(errno.into()),
        }
    }
}

/// What is known of a file that may be read; of anything else that it is none.
fn regular(stat: &Stat) -> io::Result<&Stat> {
    match stat.kind {
        Kind::File => Ok(stat),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file")),
    }
}

pub(super) fn stat_of(stat: &FileStat) -> Stat {
    let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Folder,
        SFlag::S_IFLNK => Kind::Symlink,
        _ => Kind::Special,
    };
    let time = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
    Stat {
        kind,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        n_links: stat.st_nlink,
        inode: stat.st_ino,
        modified_ns: time(stat.st_mtime, stat.st_mtime_nsec),
        changed_ns: time(stat.st_ctime, stat.st_ctime_nsec),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder's way is settled once, and once more for another folder at the same path.
    #[test]
    fn what_is_settled_is_the_folder_and_not_its_path() {
        let scratch = tempfile::tempdir().expect("a folder");
        let disk = RealDisk::open(scratch.path()).expect("a disk");
        let top = RelPath::new("names");
        let (middle, other) = (top.join("middle"), top.join("other"));
        let inner = middle.join("inner");
        let make = |path: &RelPath| disk.make_dir(path, 0o700).expect("made");
        [&top, &middle, &other, &inner].into_iter().for_each(make);
        let settled = || {
            let is_settled = |path: &RelPath| {
                disk.folder(path).expect("a folder").is_settled.load(Ordering::Acquire)
            };
            [&top, &middle, &inner, &other].map(is_settled)
        };
        assert_eq!(settled(), [false, false, false, false]);
        disk.sync_way(&inner).expect("synced");
        assert_eq!(settled(), [true, true, true, false]);
        disk.remove_dir(&inner).expect("removed");
        let gone = disk.sync_way(&inner).expect_err("it is gone");
        assert_eq!(gone.kind(), io::ErrorKind::NotFound);
        make(&inner);
        assert_eq!(settled(), [true, true, false, false]);
        disk.sync_way(&inner).expect("synced");
        assert_eq!(settled(), [true, true, true, false]);

        // What is known of a folder is believed: nothing above it is synced again.
        make(&other.join("inner"));
        disk.folder(&other.join("inner"))
            .expect("a folder")
            .is_settled
            .store(true, Ordering::Release);
        disk.sync_way(&other.join("inner")).expect("synced");
        assert_eq!(settled(), [true, true, true, false]);

        // Of one that may move nothing is known.
        let moves = RelPath::new("staging").join("draft");
        make(&RelPath::new("staging"));
        make(&moves);
        disk.sync_way(&moves).expect("synced");
        assert!(!disk.folder(&moves).expect("a folder").is_settled.load(Ordering::Acquire));
    }

    /// Whatever is changed through this disk is out of memory when that is done, even where the kernel
    /// would tell nothing.
    #[test]
    fn what_is_changed_here_is_not_kept() {
        let scratch = tempfile::tempdir().expect("a folder");
        let disk = RealDisk::open(scratch.path()).expect("a disk");
        let folder = RelPath::new("folder");
        let (a, b, c) = (folder.join("a"), folder.join("b"), folder.join("c"));
        let make = |path: &RelPath| disk.create(path, Create::Buffered).map(drop);
        disk.make_dir(&folder, 0o700).expect("made");
        for file in [&a, &b] {
            make(file).expect("made");
        }
        type Change<'a> = (&'a str, usize, &'a dyn Fn() -> io::Result<()>);
        let changes: [Change<'_>; 7] = [
            ("create", 2, &|| make(&c)),
            ("unlink", 2, &|| disk.unlink(&c)),
            ("link", 2, &|| disk.link(&a, &c)),
            ("rename over", 1, &|| disk.rename(&c, &b)),
            ("rename", 1, &|| disk.rename_new(&a, &c)),
            ("make a folder", 2, &|| disk.make_dir(&a, 0o700)),
            ("remove a folder", 2, &|| disk.remove_dir(&a)),
        ];
        for (what, n_files, change) in changes {
            std::thread::sleep(Duration::from_millis(200));
            let names = disk.listing(&folder).expect("a listing").len();
            let n_read = [&a, &b, &c].iter().filter(|file| disk.read_now(file, 10).is_ok()).count();
            // A filesystem that answers nothing without a wait keeps no files.
            let kept = (disk.files.n_kept(), disk.listings.n_kept());
            assert_eq!(kept, (n_read, 1), "{what}: of {names} names");
            change().expect("changed");
            let left = n_read.min(n_files);
            let kept = (disk.files.n_kept(), disk.listings.n_kept());
            assert_eq!(kept, (left, 0), "{what}");
        }

        for i in 0..LISTING_SIZE - 2 {
            make(&folder.join(i)).expect("made");
        }
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(disk.listing(&folder).expect("a listing").len(), LISTING_SIZE);
        assert!(disk.listing_now(&folder).is_some(), "as many as are kept");
        make(&a).expect("made");
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(disk.listing(&folder).expect("a listing").len(), LISTING_SIZE + 1);
        assert!(disk.listing_now(&folder).is_none(), "one too many");
    }
}
