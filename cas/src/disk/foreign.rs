//! Files of somebody else, open for reading.
//!
//! Both ends use this: the client opens a layout or archive of its user, the daemon gets the open
//! descriptor over the socket. Nothing here is believed for longer than one call: whoever owns the
//! file may write to it meanwhile. Only regular files pass, no open ever waits (a FIFO would), and
//! every read names its offset, because a descriptor's own position is shared with its giver.

#![allow(clippy::disallowed_methods, reason = "this is the room of filesystem calls")]

use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;

use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, OpenHow, ResolveFlag, SealFlag, fcntl, openat2};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{FileStat, SFlag, fstat, stat};
use nix::sys::statfs::fstatfs;

use super::{Kind, Stat};
use crate::stop::Stop;

/// Filesystems whose reads wait for nothing but this machine's own disks (`statfs`, `f_type`).
///
/// It is a list of what is let in: a process behind FUSE, a server behind NFS or CIFS, or a file in
/// `/proc` can make a read wait for ever, and the next such filesystem is not known yet. Overlayfs
/// is missing on purpose: any user may mount one over a FUSE of his own. What lies elsewhere is
/// streamed by its owner, which is slower and blocks nobody else.
const LOCAL: [(u32, &str); 16] = [
    (0x0000_ef53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683e, "btrfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0xf2f5_2010, "f2fs"),
    (0x2fc1_2fc1, "zfs"),
    (0xca45_1a4e, "bcachefs"),
    (0xe0f5_e1e2, "erofs"),
    (0x7371_7368, "squashfs"),
    (0x0000_9660, "iso9660"),
    (0x1501_3346, "udf"),
    (0x0000_4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x3153_464a, "jfs"),
    (0x0000_3434, "nilfs2"),
];

/// Why a file of somebody else is not read.
#[derive(Debug, thiserror::Error)]
pub enum ForeignError {
    /// A symlink stands in the way, and nobody asked to follow it.
    #[error("{file} is a symlink")]
    Symlink {
        /// The file, as it was asked for.
        file: String,
    },
    /// It is a folder, FIFO, socket or device, or a descriptor that cannot be read.
    #[error("{file} is {kind}, not a regular file")]
    NotRegular {
        /// The file, as it was asked for.
        file: String,
        /// What it is instead.
        kind: &'static str,
    },
    /// There is no such file.
    #[error("{file} is not there")]
    Missing {
        /// The file, as it was asked for.
        file: String,
    },
    /// Reading it could wait for another machine or process: it is to be streamed instead.
    #[error("{file} is on a filesystem where a read can wait for ever (type {filesystem:#x})")]
    Network {
        /// The file, as it was asked for.
        file: String,
        /// The `f_type` of its filesystem.
        filesystem: u32,
    },
    /// The system refused.
    #[error("{file} cannot be read: {source}")]
    Unreadable {
        /// The file, as it was asked for.
        file: String,
        /// What it said.
        source: io::Error,
    },
}

impl ForeignError {
    fn of(file: &str, error: nix::Error) -> ForeignError {
        use nix::errno::Errno;
        let file = file.to_owned();
        match error {
            Errno::ELOOP => ForeignError::Symlink { file },
            Errno::ENOENT | Errno::ENOTDIR => ForeignError::Missing { file },
            other => ForeignError::Unreadable { file, source: other.into() },
        }
    }
}

/// A regular file of somebody else, open for reading.
#[derive(Debug)]
pub struct ForeignFile {
    file: std::fs::File,
    filesystem: u32,
    stop: Stop,
}

impl ForeignFile {
    /// Takes a descriptor that came over a socket from somebody who is not trusted.
    ///
    /// # Errors
    /// [`ForeignError::NotRegular`] for what is no regular file or sealed memfd, or is not open for
    /// reading; [`ForeignError::Network`] for what is to be streamed instead.
    pub fn from_descriptor(fd: OwnedFd) -> Result<ForeignFile, ForeignError> {
        const NAME: &str = "the descriptor";
        let refused = |kind| Err(ForeignError::NotRegular { file: NAME.to_owned(), kind });
        let flags = fcntl(&fd, FcntlArg::F_GETFL).map_err(|e| ForeignError::of(NAME, e))?;
        let flags = OFlag::from_bits_truncate(flags);
        if flags.contains(OFlag::O_PATH) {
            return refused("a mere path (O_PATH)");
        }
        if flags & OFlag::O_ACCMODE == OFlag::O_WRONLY {
            return refused("open for writing only");
        }
        let found = fstat(&fd).map_err(|e| ForeignError::of(NAME, e))?;
        let file = ForeignFile::checked(fd, &found, NAME)?;
        if Some(found.st_dev) == memfd_device() && !is_sealed(&file) {
            return refused("a memfd that is not sealed");
        }
        if !file.is_local() {
            let filesystem = file.filesystem;
            return Err(ForeignError::Network { file: NAME.to_owned(), filesystem });
        }
        Ok(file)
    }

    /// Opens a file that the user named; symlinks on the way to it are the user's own business.
    ///
    /// # Errors
    /// See [`ForeignError`]; a file on a network filesystem is opened.
    pub fn open(path: &Path) -> Result<ForeignFile, ForeignError> {
        let open = |flags| openat2(AT_FDCWD, path, OpenHow::new().flags(flags));
        ForeignFile::open_with(&open, &path.display().to_string())
    }

    /// Takes one of the process's own descriptors, such as its standard input.
    ///
    /// # Errors
    /// [`ForeignError::NotRegular`] when it is none of a regular file.
    pub fn adopt(fd: OwnedFd, name: &str) -> Result<ForeignFile, ForeignError> {
        let found = fstat(&fd).map_err(|e| ForeignError::of(name, e))?;
        ForeignFile::checked(fd, &found, name)
    }

    /// Looks at what is there before it opens it to read, so that nothing waits for the writer of
    /// a FIFO and no device notices.
    fn open_with(
        open: &dyn Fn(OFlag) -> nix::Result<OwnedFd>,
        name: &str,
    ) -> Result<ForeignFile, ForeignError> {
        let of = |error| ForeignError::of(name, error);
        let look = open(OFlag::O_PATH | OFlag::O_CLOEXEC).map_err(of)?;
        refuse_irregular(&fstat(&look).map_err(of)?, name)?;
        // Somebody may have put another file there since, so this open does not wait either, and
        // what it yields is looked at again.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let fd = open(flags).map_err(of)?;
        let found = fstat(&fd).map_err(of)?;
        ForeignFile::checked(fd, &found, name)
    }

    fn checked(fd: OwnedFd, found: &FileStat, name: &str) -> Result<ForeignFile, ForeignError> {
        refuse_irregular(found, name)?;
        let filesystem = fstatfs(&fd).map_err(|e| ForeignError::of(name, e))?.filesystem_type().0;
        // The kernel's number is 32 bits wide, whatever the C type.
        let filesystem = (filesystem & 0xffff_ffff) as u32;
        Ok(ForeignFile { file: fd.into(), filesystem, stop: Stop::default() })
    }

    /// The same file, of which nothing is read any more after the word was given.
    #[must_use]
    pub fn stopped_by(self, stop: &Stop) -> ForeignFile {
        ForeignFile { stop: stop.clone(), ..self }
    }

    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Reads up to `buf.len()` bytes at `offset`; fewer is legal, 0 is the end.
    ///
    /// # Errors
    /// What the system says; an error of its own after the word to stop.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.stop.check()?;
        self.file.read_at(buf, offset)
    }

    /// What the filesystem says of it now.
    ///
    /// # Errors
    /// What the system says.
    pub fn stat(&self) -> io::Result<Stat> {
        let stat = fstat(&self.file)?;
        let nanoseconds = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
        Ok(Stat {
            kind: Kind::File,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            n_links: stat.st_nlink,
            inode: stat.st_ino,
            modified_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            changed_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        })
    }

    /// Where its descriptor stands, for a standard input that was read from before.
    ///
    /// # Errors
    /// What the system says.
    pub fn position(&self) -> io::Result<u64> {
        (&self.file).stream_position()
    }

    /// Whether reads wait for nothing but this machine's own disks.
    pub fn is_local(&self) -> bool {
        LOCAL.iter().any(|(number, _)| *number == self.filesystem)
    }

    /// The descriptor, to hand on or to ask the kernel about.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// A folder of the user's from which files are read.
#[derive(Debug)]
pub struct Foreign {
    folder: OwnedFd,
    follow_symlinks: bool,
}

impl Foreign {
    /// Opens the folder that the user named. Below it a symlink is refused, unless
    /// `follow_symlinks`: then it is followed wherever it leads, with the process's own rights.
    ///
    /// # Errors
    /// See [`ForeignError`].
    pub fn open(folder: &Path, follow_symlinks: bool) -> Result<Foreign, ForeignError> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = openat2(AT_FDCWD, folder, OpenHow::new().flags(flags))
            .map_err(|e| ForeignError::of(&folder.display().to_string(), e))?;
        Ok(Foreign { folder, follow_symlinks })
    }

    /// Opens a regular file below the folder.
    ///
    /// # Errors
    /// See [`ForeignError`]; a file on a network filesystem is opened.
    pub fn file(&self, name: &str) -> Result<ForeignFile, ForeignError> {
        let open = |flags: OFlag| {
            let how = OpenHow::new();
            let how = match self.follow_symlinks {
                true => how.flags(flags),
                false => how
                    .flags(flags | OFlag::O_NOFOLLOW)
                    .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS),
            };
            openat2(&self.folder, name, how)
        };
        ForeignFile::open_with(&open, name)
    }
}

/// What stands at a path that the user named, symlinks followed.
///
/// # Errors
/// What the system says, `NotFound` first of all.
pub fn kind_at(path: &Path) -> io::Result<Kind> {
    Ok(match kind_of(&stat(path)?) {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Folder,
        SFlag::S_IFLNK => Kind::Symlink,
        _ => Kind::Special,
    })
}

/// Copies a stream into a file without a name in `folder`, so that it can be read in any order and
/// is gone with the process.
///
/// # Errors
/// What reading or writing failed with.
pub fn spool(folder: &Path, stream: &mut dyn Read) -> io::Result<ForeignFile> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags((OFlag::O_TMPFILE).bits());
    let mut file = options.open(folder)?;
    io::copy(stream, &mut file)?;
    file.flush()?;
    ForeignFile::adopt(file.into(), "the spooled standard input").map_err(|error| match error {
        ForeignError::Unreadable { source, .. } => source,
        other => io::Error::other(other.to_string()),
    })
}

fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn refuse_irregular(stat: &FileStat, name: &str) -> Result<(), ForeignError> {
    let file = name.to_owned();
    let kind = match kind_of(stat) {
        SFlag::S_IFREG => return Ok(()),
        SFlag::S_IFLNK => return Err(ForeignError::Symlink { file }),
        SFlag::S_IFDIR => "a folder",
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFBLK | SFlag::S_IFCHR => "a device",
        _ => "something unknown",
    };
    Err(ForeignError::NotRegular { file, kind })
}

/// The device number of the kernel's own tmpfs, where every memfd lives and no file with a name.
fn memfd_device() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let memfd = memfd_create(c"bonded-probe", MFdFlags::MFD_CLOEXEC).ok()?;
        Some(fstat(&memfd).ok()?.st_dev)
    })
}

fn is_sealed(file: &ForeignFile) -> bool {
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&file.file, FcntlArg::F_GET_SEALS)
        .is_ok_and(|found| SealFlag::from_bits_truncate(found).contains(seals))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use std::fs::{self, File};
    use tempfile::TempDir;

    /// A folder with one good file in it.
    fn scratch() -> TempDir {
        let scratch = tempfile::tempdir().expect("a folder");
        fs::create_dir(scratch.path().join("blobs")).expect("a folder");
        fs::write(scratch.path().join("blobs/good"), "good").expect("a file");
        scratch
    }

    #[test]
    fn only_regular_files_below_the_folder_are_read() {
        let scratch = scratch();
        let path = scratch.path();
        std::os::unix::fs::symlink("good", path.join("blobs/link")).expect("a symlink");
        std::os::unix::fs::symlink("nowhere", path.join("blobs/dangling")).expect("a symlink");
        std::os::unix::fs::symlink("blobs", path.join("elsewhere")).expect("a symlink");
        nix::unistd::mkfifo(&path.join("blobs/fifo"), Mode::S_IRWXU).expect("a fifo");
        let socket = std::os::unix::net::UnixListener::bind(path.join("blobs/socket"));

        let strict = Foreign::open(path, false).expect("a folder");
        let follows = Foreign::open(path, true).expect("a folder");
        for folder in [&strict, &follows] {
            let mut bytes = [0; 8];
            let n = folder.file("blobs/good").expect("good").read_at(&mut bytes, 1).expect("read");
            assert_eq!(&bytes[..n], b"ood");
            assert!(matches!(folder.file("blobs/none"), Err(ForeignError::Missing { .. })));
            for (name, kind) in
                [("blobs/fifo", "a FIFO"), ("blobs/socket", "a socket"), ("blobs", "a folder")]
            {
                let refused = folder.file(name);
                assert!(
                    matches!(&refused, Err(ForeignError::NotRegular { kind: k, .. }) if *k == kind),
                    "{name}: {refused:?}"
                );
            }
        }
        for name in ["blobs/link", "blobs/dangling", "elsewhere/good"] {
            let refused = strict.file(name);
            assert!(matches!(refused, Err(ForeignError::Symlink { .. })), "{name}: {refused:?}");
        }
        let escaped = strict.file("../../etc/passwd");
        assert!(matches!(escaped, Err(ForeignError::Unreadable { .. })), "{escaped:?}");
        assert_eq!(follows.file("blobs/link").expect("followed").stat().expect("stat").size, 4);
        assert!(follows.file("elsewhere/good").is_ok());
        assert!(matches!(follows.file("blobs/dangling"), Err(ForeignError::Missing { .. })));
        drop(socket);
    }

    #[test]
    fn only_descriptors_of_readable_local_regular_files_are_taken() {
        let scratch = scratch();
        let path = scratch.path().join("blobs/good");
        let file = File::open(&path).expect("open");
        let taken = ForeignFile::from_descriptor(file.into()).expect("a regular file");
        assert_eq!(taken.stat().expect("stat").size, 4);

        let sealed = |seals| {
            let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
            let memfd = memfd_create(c"test", flags).expect("a memfd");
            fcntl(&memfd, FcntlArg::F_ADD_SEALS(seals)).expect("sealed");
            memfd
        };
        let all = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        assert!(ForeignFile::from_descriptor(sealed(all)).is_ok());

        let open = |path: &Path, flags| openat2(AT_FDCWD, path, OpenHow::new().flags(flags));
        let (pipe, _write) = nix::unistd::pipe().expect("a pipe");
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let irregular: [(OwnedFd, &str); 7] = [
            (open(scratch.path(), OFlag::O_RDONLY).expect("open"), "a folder"),
            (open(&path, OFlag::O_WRONLY).expect("open"), "open for writing only"),
            (open(&path, OFlag::O_PATH).expect("open"), "a mere path (O_PATH)"),
            (open(Path::new("/dev/zero"), OFlag::O_RDONLY).expect("open"), "a device"),
            (pipe, "a FIFO"),
            (socket.into(), "a socket"),
            (sealed(SealFlag::F_SEAL_SHRINK), "a memfd that is not sealed"),
        ];
        for (fd, expected) in irregular {
            let refused = ForeignFile::from_descriptor(fd);
            assert!(
                matches!(&refused, Err(ForeignError::NotRegular { kind, .. }) if *kind == expected),
                "{expected}: {refused:?}"
            );
        }
        let proc = File::open("/proc/self/status").expect("open");
        let refused = ForeignFile::from_descriptor(proc.into());
        assert!(matches!(refused, Err(ForeignError::Network { .. })), "{refused:?}");
    }

    #[test]
    fn a_spooled_stream_is_a_file_without_a_name() {
        let scratch = scratch();
        let bytes = vec![7; 1 << 20];
        let file = spool(scratch.path(), &mut bytes.as_slice()).expect("spooled");
        let stat = file.stat().expect("stat");
        assert_eq!((stat.size, stat.n_links), (1 << 20, 0));
    }
}
