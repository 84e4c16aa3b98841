//! What the disk takes of the same pushes from a program that does nothing else: no connection, no
//! hashing, no check, the same files and names, as safe. A target far beyond that is beyond this disk, for
//! whoever keeps such files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use benches::cache::{self, aligned};
use benches::measure::{Doing, Failed, Result};
use benches::usage::Usage;
use cas::disk::{Create, Disk, File, RealDisk, RelPath, write_all_at};
use nix::sys::resource::UsageWho;

use crate::crowd::{Bounds, Outcome};
use crate::work::{Size, Work};

/// Bytes of one write.
const STEP: usize = 512 << 10;
/// From this size on a blob is written past the page cache.
const DIRECT_FROM: usize = 256 << 10;
/// About as much as stands in a small manifest, in the index of its layout, or in a tag.
const DOCUMENT: usize = 400;

/// Pushes of that kind by so many threads; of other work there is none.
pub(crate) fn measure(dir: &Path, work: Work, n_threads: usize, bounds: Bounds) -> Result<Outcome> {
    let (size, with_artifact) = match work {
        Work::Push(size) => (size, false),
        Work::Small => (Size::Small, true),
        _ => return Err(Failed("only pushes are tried on the bare disk".to_owned())),
    };
    let bare = Bare::new(dir.join("bare"), size, n_threads)?;
    cache::settle();
    let usage = || Usage::of(std::process::id(), UsageWho::RUSAGE_CHILDREN);
    let (begun, before) = (Instant::now(), usage()?);
    let n_begun = AtomicUsize::new(0);
    let client = |i: usize| {
        let mut n_done = 0;
        while begun.elapsed() < bounds.time
            && n_begun.fetch_add(1, Ordering::Relaxed) < bounds.n_ops
        {
            let name = format!("{i}-{n_done}");
            bare.push(i, &name)?;
            if with_artifact {
                bare.seal(&name)?;
            }
            n_done += 1;
        }
        Ok(n_done)
    };
    let n_right = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..n_threads).map(|i| scope.spawn(move || client(i))).collect();
        clients.into_iter().try_fold(0, |sum, client| {
            let n_done = client.join().unwrap_or_else(|_| Err(Failed("a thread died".to_owned())));
            n_done.map(|n_done: usize| sum + n_done)
        })
    })?;
    let (time, usage) = (begun.elapsed(), Some(usage()?.since(before)));
    Ok(Outcome { n_right, time, usage, ..Outcome::default() })
}

/// Folders as a store has them, and the bytes that go there.
struct Bare {
    root: PathBuf,
    disk: RealDisk,
    size: usize,
    memory: Vec<u8>,
    start: usize,
    /// How many syncs of everything have begun, how many have ended.
    syncs: Mutex<(u64, u64)>,
    ended: Condvar,
}

impl Drop for Bare {
    fn drop(&mut self) {
        cache::hollow_out(&self.root);
    }
}

/// These folders are called as the store's own, because its disk keeps those open.
fn staging() -> RelPath {
    RelPath::new("staging")
}

fn pool() -> RelPath {
    RelPath::new("blobs").join("sha256")
}

fn artifacts() -> RelPath {
    RelPath::new("artifacts").join("load").join("sha256")
}

fn members(of: impl std::fmt::Display) -> RelPath {
    RelPath::new("names").join(of)
}

impl Bare {
    fn new(root: PathBuf, size: Size, n_threads: usize) -> Result<Bare> {
        let disk = RealDisk::open(&root).doing("making a folder to write to")?;
        let repositories = (0..n_threads).map(members);
        for path in repositories.chain([staging(), pool(), artifacts(), members("manifests")]) {
            fs::create_dir_all(root.join(path.as_str())).doing(format!("making {path}"))?;
        }
        let size = size.n_bytes();
        let (mut memory, start) = aligned(STEP);
        getrandom::fill(&mut memory[..]).doing("asking for random bytes")?;
        let (syncs, ended) = Default::default();
        Ok(Bare { root, disk, size, memory, start, syncs, ended })
    }

    fn file(&self, path: &RelPath, size: usize) -> Result<Box<dyn File>> {
        let how = if size >= DIRECT_FROM { Create::Direct } else { Create::Buffered };
        let file = self.disk.create(path, how).doing("creating a file")?;
        for at in (0..size).step_by(STEP) {
            let bytes = &self.memory[self.start..][..STEP.min(size - at)];
            write_all_at(&*file, bytes, at as u64).doing("writing")?;
        }
        Ok(file)
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> Result<()> {
        self.disk.rename(from, to).doing("renaming")
    }

    fn link(&self, from: &RelPath, to: &RelPath) -> Result<()> {
        self.disk.link(from, to).doing("linking")
    }

    /// A blob: a file and three names for it, one of which and its bytes are synced.
    fn push(&self, repository: usize, name: &str) -> Result<()> {
        let (own, folder) = (staging().join(name), members(repository));
        let (coming, member) = (folder.join(format!("{name}.coming")), folder.join(name));
        let file = self.file(&own, self.size)?;
        self.rename(&own, &coming)?;
        file.sync().doing("syncing")?;
        self.disk.sync_dir(&folder).doing("syncing a folder")?;
        self.link(&coming, &pool().join(name))?;
        self.rename(&coming, &member)
    }

    /// A layout with that blob: three folders and three files, listed under a tag, with a sync before
    /// anything has its name and one after it.
    fn seal(&self, name: &str) -> Result<()> {
        let (manifest, tag) = (format!("{name}-manifest"), format!("{name}-tag"));
        let (draft, place) = (staging().join(name), artifacts().join(name));
        let (blobs, sha256) = (|at: &RelPath| at.join("blobs"), |at: &RelPath| at.join("sha256"));
        for folder in [draft.clone(), blobs(&draft), sha256(&blobs(&draft))] {
            self.disk.make_dir(&folder, 0o755).doing("making a folder")?;
        }
        let inner = sha256(&blobs(&draft));
        self.link(&pool().join(name), &inner.join(name))?;
        let (spare, documents) = (
            staging().join(&tag),
            [inner.join(&manifest), draft.join("index.json"), draft.join("oci-layout")],
        );
        for path in documents.iter().chain([&spare]) {
            self.file(path, DOCUMENT)?;
        }
        self.sync_all()?;
        self.link(&inner.join(&manifest), &pool().join(&manifest))?;
        self.rename(&draft, &place)?;
        let listed = sha256(&blobs(&place)).join(&manifest);
        self.link(&listed, &members("manifests").join(&manifest))?;
        self.rename(&spare, &members("manifests").join(&tag))?;
        self.sync_all()
    }

    /// A sync of everything that began after this call, shared by all who wait for one.
    fn sync_all(&self) -> Result<()> {
        let lock = || self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut syncs = lock();
        let mine = syncs.0 + 1;
        while syncs.1 < mine {
            if syncs.0 > syncs.1 {
                syncs = self.ended.wait(syncs).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            syncs.0 += 1;
            drop(syncs);
            let synced = self.disk.sync_all();
            syncs = lock();
            syncs.1 = syncs.0;
            self.ended.notify_all();
            synced.doing("syncing everything")?;
        }
        Ok(())
    }
}
