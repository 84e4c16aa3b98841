//! A filesystem of its own in an image file, mounted by way of a loop device, whose power can be
//! cut. It knows nothing of stores.
//!
//! The cut is the kernel's own: `xfs_io -x -c shutdown` is `XFS_IOC_GOINGDOWN` without flushing the
//! log, which ext4 knows as `EXT4_IOC_SHUTDOWN`. From then on nothing of what the filesystem holds
//! in memory reaches the device; mounting again replays the log that did. What the device was given
//! it keeps: the image file stands for a disk whose write cache is lossless. Torn and reordered
//! writes below the filesystem are what the simulated disk is for.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use tests::{run, scratch, wait_until};

/// Programs that all of this takes.
pub(super) const PROGRAMS: [&str; 6] =
    ["mkfs.ext4", "mkfs.xfs", "xfs_io", "mount", "losetup", "unshare"];

/// XFS is made no smaller than 300 MiB.
const SIZE: u64 = 600 << 20;

/// The filesystem, mounted until it goes out of scope, however that comes.
pub(super) struct Disk {
    folder: tempfile::TempDir,
    at: PathBuf,
}

impl Disk {
    /// A fresh one, made by this program with these options; `None` where the machine does not let
    /// it be mounted.
    pub(super) fn new(mkfs: &str, options: &[&str]) -> Option<Disk> {
        let folder = scratch();
        let disk = Disk { at: folder.path().join("mounted"), folder };
        std::fs::create_dir(&disk.at).unwrap();
        File::create(disk.image()).unwrap().set_len(SIZE).unwrap();
        run(Command::new(mkfs).arg("-q").args(options).arg(disk.image())).ok();
        (disk.try_mount().code == Some(0)).then_some(disk)
    }

    /// Where it is mounted.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn try_mount(&self) -> tests::Run {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(&self.at))
    }

    /// Cuts the power: what was not synced is gone, and every call fails until [`Disk::restore`].
    #[track_caller]
    pub(super) fn cut(&self) {
        run(Command::new("xfs_io").args(["-x", "-c", "shutdown"]).arg(&self.at)).ok();
    }

    /// Has the power back: mounts what the device was given. Nobody may have a file open in it.
    #[track_caller]
    pub(super) fn restore(&self) {
        wait_until("nobody is on the disk any more", || {
            run(Command::new("umount").arg(&self.at)).code == Some(0)
        });
        // Another mount namespace may hold it for a moment longer, and it must not be mounted twice.
        wait_until("the loop device is let go", || {
            run(Command::new("losetup").arg("-j").arg(self.image())).ok().out.is_empty()
        });
        self.try_mount().ok();
    }

    /// Writes out all that is written to it.
    #[track_caller]
    pub(super) fn sync(&self) {
        run(Command::new("sync").arg("-f").arg(&self.at)).ok();
    }

    /// How many bytes are free, all that was written being written out.
    #[track_caller]
    pub(super) fn free(&self) -> u64 {
        self.sync();
        let space = nix::sys::statvfs::statvfs(&self.at).unwrap();
        space.blocks_free() * space.fragment_size()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily, as a failed test may still be on it; the loop device goes with its last user.
        let _ = Command::new("umount").arg("-l").arg(&self.at).output();
    }
}
