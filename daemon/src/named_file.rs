//! Files that the configuration names: the keeper's, not the store's. Read whole, and never more
//! than they may have.

use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;

/// A file, as it was when it was read.
#[derive(Debug)]
pub struct NamedFile {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
}

impl NamedFile {
    /// Refuses a file that others have one of these rights to: what they must do instead, and how that is mended.
    ///
    /// # Errors
    /// The path, and why not.
    pub fn refuse(&self, path: &Path, bits: u32, must: &str, mend: &str) -> Result<(), String> {
        let (path, mode) = (path.display(), self.mode);
        match mode & bits {
            0 => Ok(()),
            _ => Err(format!(
                "{path}: its mode is {mode:04o}, and others must {must}: chmod {mend} {path}"
            )),
        }
    }
}

/// Reads a regular file of at most so many bytes.
///
/// # Errors
/// The path, and why not.
pub fn read(path: &Path, most: u64) -> Result<NamedFile, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    // A pipe would be waited for until somebody writes to it.
    let mut options = std::fs::OpenOptions::new();
    let options = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    #[allow(clippy::disallowed_methods, reason = "a file of the keeper's, not of the store")]
    let file = options.open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    if !about.is_file() {
        return Err(format!("{}: it is no regular file", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(format!("{}: it has more than {most} bytes", path.display()));
    }
    Ok(NamedFile { bytes, mode: about.mode() & 0o7777 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_files_of_bounded_size_are_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        #[allow(clippy::disallowed_methods, reason = "a file of the test's")]
        std::fs::write(&path, "12345").expect("written");
        assert_eq!(read(&path, 5).expect("read").bytes, b"12345");
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        let no = folder.path().join("no");
        for (path, most) in [(&*path, 4), (folder.path(), 100), (&no, 100), (&pipe, 100)] {
            let refused = read(path, most).expect_err("refused");
            assert!(refused.starts_with(&path.display().to_string()), "{refused}");
        }
    }
}
