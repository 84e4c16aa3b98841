//! Files and folders that are made for somebody else, outside of the store.
//!
//! What is made here grows under a temporary name beside its place and comes to it whole, by one
//! rename, after its bytes were synced. Nothing that is there already is ever replaced. What is not
//! finished is removed when it is dropped.

#![allow(clippy::disallowed_methods, reason = "this is the room of filesystem calls")]

use std::ffi::OsString;
use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// A place that is free, and the temporary name beside it.
#[derive(Debug)]
struct Place {
    target: PathBuf,
    temporary: PathBuf,
}

impl Place {
    fn free(target: &Path) -> io::Result<Place> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        match fs::symlink_metadata(target) {
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Every `RandomState` has other keys, so this is a number that nobody else comes to.
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".bond-{:016x}", RandomState::new().build_hasher().finish()));
        let temporary = target.with_file_name(temporary);
        Ok(Place { target: target.to_owned(), temporary })
    }

    fn take(&self) -> io::Result<()> {
        let (from, to) = (&self.temporary, &self.target);
        match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {}
            // NFS and older FUSE cannot be told not to replace. A link does not replace a file, and
            // a folder that was made just now, empty, is the only one that a folder can replace.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                if fs::symlink_metadata(from)?.is_dir() {
                    fs::create_dir(to)?;
                    fs::rename(from, to)?;
                } else {
                    fs::hard_link(from, to)?;
                    fs::remove_file(from)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        let parent = to.parent().filter(|p| !p.as_os_str().is_empty());
        File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
    }
}

/// One file being written.
#[derive(Debug)]
pub struct Output(File);

impl Output {
    /// Makes the bytes durable; the name is the business of who made the folder.
    ///
    /// # Errors
    /// What the system says.
    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// A file on its way to its place.
#[derive(Debug)]
pub struct NewFile {
    place: Place,
    output: Output,
    finished: bool,
}

impl NewFile {
    /// Begins a file for this path.
    ///
    /// # Errors
    /// `AlreadyExists` when something is there.
    pub fn beside(target: &Path) -> io::Result<NewFile> {
        let place = Place::free(target)?;
        let output = Output(File::create_new(&place.temporary)?);
        Ok(NewFile { place, output, finished: false })
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// `AlreadyExists` when something came there meanwhile.
    pub fn finish(mut self) -> io::Result<()> {
        self.output.sync()?;
        self.place.take()?;
        self.finished = true;
        Ok(())
    }
}

impl Write for NewFile {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.output.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.finished {
            // It is only tidiness: nobody is left to be told.
            let _ = fs::remove_file(&self.place.temporary);
        }
    }
}

/// A folder on its way to its place.
#[derive(Debug)]
pub struct NewFolder {
    place: Place,
    folders: Vec<PathBuf>,
    finished: bool,
}

impl NewFolder {
    /// Begins a folder for this path, with these folders (parents first) in it.
    ///
    /// # Errors
    /// `AlreadyExists` when something is there, be it an empty folder.
    pub fn beside(target: &Path, folders: &[&str]) -> io::Result<NewFolder> {
        let place = Place::free(target)?;
        fs::create_dir(&place.temporary)?;
        let mut new = NewFolder { place, folders: Vec::new(), finished: false };
        for folder in folders {
            let folder = new.place.temporary.join(folder);
            fs::create_dir(&folder)?;
            new.folders.push(folder);
        }
        Ok(new)
    }

    /// A new file in it.
    ///
    /// # Errors
    /// `AlreadyExists` when it was made before.
    pub fn create(&self, name: &str) -> io::Result<Output> {
        File::create_new(self.place.temporary.join(name)).map(Output)
    }

    /// Removes it now, although others may still write to files in it; what they make after that
    /// goes when the last of them lets go of it.
    pub fn discard(&self) {
        // It is only tidiness: nobody is left to be told.
        let _ = fs::remove_dir_all(&self.place.temporary);
    }

    /// Gives it its name.
    ///
    /// # Errors
    /// `AlreadyExists` when something came there meanwhile.
    pub fn finish(mut self) -> io::Result<()> {
        for folder in self.folders.iter().chain([&self.place.temporary]) {
            File::open(folder)?.sync_all()?;
        }
        self.place.take()?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.finished {
            self.discard();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_comes_whole_or_not_at_all_and_replaces_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let scratch = folder.path();
        let names = || {
            let mut names: Vec<_> = fs::read_dir(scratch)
                .expect("a listing")
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
                .collect();
            names.sort();
            names
        };

        let mut file = NewFile::beside(&scratch.join("file")).expect("begun");
        file.write_all(b"bytes").expect("written");
        assert!(!scratch.join("file").exists());
        file.finish().expect("finished");
        let folder = NewFolder::beside(&scratch.join("folder"), &["a", "a/b"]).expect("begun");
        folder.create("a/b/c").expect("made").write_all(b"bytes").expect("written");
        folder.finish().expect("finished");
        drop(NewFile::beside(&scratch.join("given-up")).expect("begun"));
        drop(NewFolder::beside(&scratch.join("given-up"), &["a"]).expect("begun"));
        assert_eq!(names(), ["file", "folder"]);

        for taken in ["file", "folder"] {
            let target = scratch.join(taken);
            let file = NewFile::beside(&target).map(drop).map_err(|e| e.kind());
            let folder = NewFolder::beside(&target, &[]).map(drop).map_err(|e| e.kind());
            assert_eq!(file, Err(io::ErrorKind::AlreadyExists));
            assert_eq!(folder, Err(io::ErrorKind::AlreadyExists));
        }
        // Two at once: the second to finish finds the place taken.
        let late = NewFile::beside(&scratch.join("race")).expect("begun");
        NewFile::beside(&scratch.join("race")).expect("begun").finish().expect("finished");
        assert_eq!(late.finish().map_err(|e| e.kind()), Err(io::ErrorKind::AlreadyExists));
        assert_eq!(fs::read(scratch.join("folder/a/b/c")).expect("read"), b"bytes");
        assert_eq!(names(), ["file", "folder", "race"]);
    }
}
