//! The private folder of one command, and what it takes over from the user's own files: all that
//! the front door of a command does with files.
//!
//! The folder is the user's alone from its first moment, and gone with its value. These are the
//! user's files and no store's, so they do not go through `cas::disk`.

#![allow(
    clippy::disallowed_methods,
    reason = "the user's own configuration, and a folder beside it; nothing of a store"
)]

use std::ffi::{OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// No file that is taken over is larger: bundles of certificates have some hundred KiB.
const LARGEST: u64 = 16 << 20;

/// A folder that only its user may enter.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// A new one in the user's runtime folder, which is gone when he leaves. Where there is none, or it is
    /// somebody else's, it is in the temporary folder.
    pub(super) fn private(runtime: Option<OsString>) -> io::Result<Folder> {
        let runtime = runtime.map(PathBuf::from).filter(|path| path.is_absolute());
        match runtime.and_then(|runtime| Folder::new(&runtime).ok()) {
            Some(folder) => Ok(folder),
            None => Folder::new(&std::env::temp_dir()),
        }
    }

    fn new(parent: &Path) -> io::Result<Folder> {
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|error| io::Error::other(error.to_string()))?;
        let path = parent.join(format!("bond-exec-{:016x}", u64::from_be_bytes(name)));
        // Fails when somebody was there before, be it with a symlink.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Folder { path })
    }

    /// Makes a folder in it.
    pub(super) fn folder(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(path)
    }

    /// Writes a file in it, for its user alone, and says where.
    pub(super) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> io::Result<PathBuf> {
        self.write(name, bytes.as_ref(), 0o600)
    }

    /// Writes a program in it.
    pub(super) fn program(&self, name: &str, bytes: impl AsRef<[u8]>) -> io::Result<PathBuf> {
        self.write(name, bytes.as_ref(), 0o700)
    }

    fn write(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        OpenOptions::new().write(true).create_new(true).mode(mode).open(&path)?.write_all(bytes)?;
        Ok(path)
    }

    /// Makes everything that is in `theirs`, but for the file `except`, appear in `ours` as well.
    /// What is written there is written to theirs.
    pub(super) fn link_all(ours: &Path, theirs: &Path, except: &str) -> io::Result<()> {
        let entries = match fs::read_dir(theirs) {
            Ok(entries) => entries,
            // What bond may not read the command may not read either.
            Err(error)
                if is_not_there(&error) || error.kind() == io::ErrorKind::PermissionDenied =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let theirs = std::path::absolute(theirs)?;
        for entry in entries {
            let name = entry?.file_name();
            if name != OsStr::new(except) {
                symlink(theirs.join(&name), ours.join(&name))?;
            }
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Symlinks are not followed. What cannot be removed holds a credential that is over.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn is_not_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The bytes of a file of the user's; `None` when there is no such file.
pub(super) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if is_not_there(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it has more than {LARGEST} bytes")));
    }
    Ok(Some(bytes))
}
