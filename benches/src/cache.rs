//! Whether files are in the page cache: put there, or taken out.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use crate::measure::{Doing, Result};

/// Reads files, so that whoever reads them next finds them in memory.
pub fn warm(files: &[PathBuf]) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let doing = || format!("reading {}", path.display());
        let mut file = File::open(path).doing(doing())?;
        while file.read(&mut buffer).doing(doing())? > 0 {}
    }
    Ok(())
}

/// Takes files out of memory: everything of the machine's where we may, these files otherwise.
pub fn drop(files: &[PathBuf]) -> Result<()> {
    for path in files {
        let doing = || format!("dropping {} from memory", path.display());
        let file = File::open(path).doing(doing())?;
        // What was not written yet cannot be dropped.
        file.sync_all().doing(doing())?;
        posix_fadvise(file.as_fd(), 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).doing(doing())?;
    }
    // Only root may; the files above are enough for what is measured here, the names come on top.
    let _ = fs::write("/proc/sys/vm/drop_caches", "1\n");
    Ok(())
}

/// Memory for I/O past the page cache, and where in it an aligned part of so many bytes begins.
pub fn aligned(len: usize) -> (Vec<u8>, usize) {
    let memory = vec![0; len + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    (memory, start)
}

const ALIGNMENT: usize = 4096;

/// Gives the room of a folder's large files back and leaves its names: a filesystem looks for free
/// inodes among those that were deleted just now, and whoever is measured next would pay for that.
pub fn hollow_out(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        if metadata.is_dir() {
            hollow_out(&path);
        } else if metadata.is_file() && metadata.len() > HOLLOWED_FROM {
            // What cannot be made smaller goes with all the rest.
            let _ = fs::set_permissions(&path, fs::Permissions::from_mode(0o600));
            let _ = File::options().write(true).open(&path).and_then(|file| file.set_len(0));
        }
    }
}

const HOLLOWED_FROM: u64 = 64 << 10;

/// Waits until what was written, deleted and discarded before is done with, so that the next one
/// who is measured does not pay for it.
pub fn settle() {
    nix::unistd::sync();
    std::thread::sleep(std::time::Duration::from_millis(300));
}

/// Bytes on disk below a folder, each file once, as `du` counts them.
pub fn disk_usage(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut seen = std::collections::HashSet::new();
    let mut folders = vec![folder.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = folders.pop() {
        // What vanishes while we look is not counted.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if seen.insert(metadata.ino()) {
                bytes += metadata.blocks() * 512;
            }
        }
    }
    bytes
}
