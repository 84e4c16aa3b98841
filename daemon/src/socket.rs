//! The socket that is listened on: handed over by the service manager, or made at a path.
//!
//! Path sockets only: an abstract one has neither owner nor mode (CVE-2020-15257). Nobody can
//! connect before owner, group and mode are right, because a socket that was bound and is not yet
//! listened on refuses everybody, and it gets its name only by a rename at the end.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, lstat};
use nix::unistd::{Gid, chown, unlink};

/// Connections that wait to be accepted, as the kernel allows at most (`somaxconn`). Beyond it a
/// client that does not block, as tokio does not, would be turned away by the kernel.
const BACKLOG: i32 = 4096;
/// What a socket's address has room for, the final zero not counted.
const LONGEST_PATH: usize = 107;

/// A listening socket and what must be removed with it.
#[derive(Debug)]
pub struct Listening {
    listener: UnixListener,
    own: Option<Own>,
}

/// A socket that we made: its path, and which file it is.
#[derive(Debug)]
struct Own {
    path: PathBuf,
    file: (u64, u64),
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path cannot be a socket's.
    #[error("{path}: {reason}")]
    Path {
        /// The path.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Somebody answers there.
    #[error("{path}: another process listens on this socket")]
    InUse {
        /// The path.
        path: String,
    },
    /// The system refused a step.
    #[error("{path}: {doing}: {source}")]
    System {
        /// The path.
        path: String,
        /// The step.
        doing: &'static str,
        /// The reason.
        source: io::Error,
    },
}

/// Whether a path means the abstract namespace.
pub fn is_abstract(path: &Path) -> bool {
    matches!(path.as_os_str().as_bytes(), [] | [b'@' | 0, ..])
}

impl Listening {
    /// The socket that the service manager handed over, if it did.
    ///
    /// # Errors
    /// When it handed over something else, or more than one.
    pub fn inherited() -> Result<Option<Listening>, SocketError> {
        let system = |source| SocketError::System {
            path: "LISTEN_FDS".to_owned(),
            doing: "taking the socket of the service manager",
            source,
        };
        let mut handed = listenfd::ListenFd::from_env();
        if handed.len() > 1 {
            return Err(system(io::Error::other("there is more than one")));
        }
        let Some(listener) = handed.take_unix_listener(0).map_err(system)? else {
            return Ok(None);
        };
        let address = listener.local_addr().map_err(system)?;
        if address.as_pathname().is_none() {
            return Err(system(io::Error::other("it has no path")));
        }
        Ok(Some(Listening { listener, own: None }))
    }

    /// Makes a socket at `path`. One that is there already is taken away when nobody answers on it.
    ///
    /// # Errors
    /// Which step failed.
    pub fn bind(path: &Path, mode: u32, group: Option<u32>) -> Result<Listening, SocketError> {
        let shown = path.display().to_string();
        let refused = |reason| SocketError::Path { path: shown.clone(), reason };
        let system = |doing| {
            let path = shown.clone();
            move |source: nix::Error| SocketError::System { path, doing, source: source.into() }
        };
        if is_abstract(path) {
            return Err(refused("abstract sockets are not listened on"));
        }
        let Some(name) = path.file_name() else {
            return Err(refused("it has no file name"));
        };
        let temporary = path.with_file_name(format!(".bonded{}", std::process::id()));
        if path.as_os_str().len().max(temporary.as_os_str().len()) > LONGEST_PATH {
            return Err(refused("a socket's path has at most 107 bytes"));
        }
        debug_assert_ne!(temporary.file_name(), Some(name));
        make_way(path, &shown)?;

        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Unix, SockType::Stream, flags, None)
            .map_err(system("making a socket"))?;
        let _ = unlink(&temporary);
        let address = UnixAddr::new(&temporary).map_err(system("its address"))?;
        bind(fd.as_raw_fd(), &address).map_err(system("binding it"))?;
        let made = finish(&fd, &temporary, path, mode, group);
        match made {
            Ok(file) => Ok(Listening {
                listener: UnixListener::from(fd),
                own: Some(Own { path: path.to_owned(), file }),
            }),
            Err((doing, source)) => {
                let _ = unlink(&temporary);
                Err(system(doing)(source))
            }
        }
    }

    /// The listener, not blocking.
    ///
    /// # Errors
    /// When the system does not set it so.
    pub fn listener(&self) -> io::Result<UnixListener> {
        let listener = self.listener.try_clone()?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Drop for Listening {
    /// Removes the socket's name, if it still is ours.
    fn drop(&mut self) {
        if let Some(own) = &self.own
            && lstat(&own.path).is_ok_and(|stat| (stat.st_dev, stat.st_ino) == own.file)
        {
            let _ = unlink(&own.path);
        }
    }
}

/// Owner and mode first, then listening, then the name.
fn finish(
    fd: &OwnedFd,
    temporary: &Path,
    path: &Path,
    mode: u32,
    group: Option<u32>,
) -> Result<(u64, u64), (&'static str, nix::Error)> {
    if let Some(gid) = group {
        chown(temporary, None, Some(Gid::from_raw(gid)))
            .map_err(|e| ("giving it to the group", e))?;
    }
    let mode = Mode::from_bits_truncate(mode);
    fchmodat(nix::fcntl::AT_FDCWD, temporary, mode, FchmodatFlags::FollowSymlink)
        .map_err(|e| ("setting its mode", e))?;
    let backlog = Backlog::new(BACKLOG).map_err(|e| ("listening", e))?;
    listen(fd, backlog).map_err(|e| ("listening", e))?;
    let stat = lstat(temporary).map_err(|e| ("looking at it", e))?;
    nix::fcntl::renameat(nix::fcntl::AT_FDCWD, temporary, nix::fcntl::AT_FDCWD, path)
        .map_err(|e| ("giving it its name", e))?;
    Ok((stat.st_dev, stat.st_ino))
}

/// What stands at the path may be replaced only when it is a socket and nobody answers on it. It
/// is replaced by the rename at the end, so there is never a moment without any.
fn make_way(path: &Path, shown: &str) -> Result<(), SocketError> {
    let Ok(stat) = lstat(path) else { return Ok(()) };
    if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFSOCK {
        let reason = "something that is no socket is there";
        return Err(SocketError::Path { path: shown.to_owned(), reason });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(SocketError::InUse { path: shown.to_owned() }),
        Err(source) => {
            let (path, doing) = (shown.to_owned(), "asking whether somebody listens there");
            Err(SocketError::System { path, doing, source })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        lstat(path).expect("stat").st_mode & 0o7777
    }

    #[test]
    fn the_socket_has_its_mode_and_goes_when_it_is_dropped() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        for mode in [0o660, 0o600, 0o666] {
            let listening = Listening::bind(&path, mode, Some(Gid::effective().as_raw()));
            let listening = listening.expect("bound");
            assert_eq!(mode_of(&path), mode);
            UnixStream::connect(&path).expect("somebody listens");
            drop(listening);
            assert!(lstat(&path).is_err());
        }
        assert_eq!(
            nix::dir::Dir::open(folder.path(), nix::fcntl::OFlag::O_RDONLY, Mode::empty())
                .expect("open")
                .iter()
                .count(),
            2,
            "only . and .. are left"
        );
    }

    #[test]
    fn only_a_socket_that_nobody_answers_on_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let first = Listening::bind(&path, 0o600, None).expect("bound");
        let second = Listening::bind(&path, 0o600, None);
        assert!(matches!(second, Err(SocketError::InUse { .. })), "{second:?}");

        // A daemon that was killed leaves its socket behind.
        let stale = folder.path().join("stale");
        drop(UnixListener::bind(&stale).expect("bound"));
        assert!(lstat(&stale).is_ok());
        let taken = Listening::bind(&stale, 0o600, None).expect("bound over it");
        UnixStream::connect(&stale).expect("somebody listens");
        drop((first, taken));

        nix::unistd::mkdir(&path, Mode::S_IRWXU).expect("mkdir");
        let refused = Listening::bind(&path, 0o600, None);
        assert!(matches!(refused, Err(SocketError::Path { .. })), "{refused:?}");
    }

    #[test]
    fn a_name_that_somebody_else_took_over_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let ours = Listening::bind(&path, 0o600, None).expect("bound");
        unlink(&path).expect("unlink");
        let theirs = Listening::bind(&path, 0o600, None).expect("bound");
        drop(ours);
        UnixStream::connect(&path).expect("theirs still answers");
        drop(theirs);
    }

    #[test]
    fn abstract_and_overlong_paths_are_refused() {
        for path in ["", "@bonded", "\0bonded", &"x".repeat(108)] {
            let refused = Listening::bind(Path::new(path), 0o600, None);
            assert!(matches!(refused, Err(SocketError::Path { .. })), "{path:?}: {refused:?}");
        }
    }
}
