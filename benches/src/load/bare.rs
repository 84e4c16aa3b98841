//! What the disk takes of the same pushes from a program that does nothing else: the same files and
//! names, each push synced where its files are, but no connection, no hashing, no index, no log, and no look
//! at what is there already. What is beyond that is beyond this disk for whoever has no log.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

use benches::cache::{self, aligned};
use benches::measure::{Doing, Failed, Result};
use benches::usage::Usage;
use cas::digest::{Algorithm, Digest};
use cas::disk::{Create, Disk, File, RealDisk, RelPath, write_all_at};
use cas::layout::{self, MemberKind, Pool};
use cas::workspace::{RepositoryName, Workspace};
use nix::sys::resource::UsageWho;

use crate::crowd::{Bounds, Outcome};
use crate::work::{Size, Work};

/// Bytes of one write.
const STEP: usize = 512 << 10;
/// From this size on a blob is written past the page cache.
const DIRECT_FROM: usize = 256 << 10;
/// About as much as stands in a small manifest, in the index of its layout, or in a tag.
const DOCUMENT: usize = 400;
/// Syncs of everything that may be under way at once.
const N_SYNCS: usize = 2;

/// Whether there is anything to be tried for this work.
pub(crate) fn knows(work: Work) -> bool {
    // Large blobs take several threads each, and no target for them is about the disk.
    matches!(work, Work::Push(Size::Small | Size::Medium) | Work::Small)
}

/// The same pushes, by so many threads.
pub(crate) fn measure(dir: &Path, work: Work, n_threads: usize, bounds: Bounds) -> Result<Outcome> {
    let size = if let Work::Push(size) = work { size } else { Size::Small };
    let bare = Bare::new(dir.join("bare"), size, n_threads)?;
    cache::settle();
    let usage = || Usage::of(std::process::id(), UsageWho::RUSAGE_CHILDREN);
    let (begun, before) = (Instant::now(), usage()?);
    let n_begun = AtomicUsize::new(0);
    let client = |repository: &RepositoryName| {
        let mut n_done = 0;
        while begun.elapsed() < bounds.time
            && n_begun.fetch_add(1, Ordering::Relaxed) < bounds.n_ops
        {
            let name = format!("{repository} {n_done}");
            bare.push(repository, &Digest::of(name.as_bytes()))?;
            if work == Work::Small {
                bare.seal(repository, &name)?;
            }
            n_done += 1;
        }
        Ok(n_done)
    };
    let n_right = std::thread::scope(|scope| {
        let clients: Vec<_> =
            bare.repositories.iter().map(|own| scope.spawn(move || client(own))).collect();
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
    workspace: Workspace,
    repositories: Vec<RepositoryName>,
    size: usize,
    memory: Vec<u8>,
    start: usize,
    syncs: Mutex<Syncs>,
    ended: Condvar,
}

/// How many syncs of everything have begun, and the numbers of those that are under way.
#[derive(Default)]
struct Syncs {
    n_begun: u64,
    running: Vec<u64>,
}

impl Drop for Bare {
    fn drop(&mut self) {
        cache::hollow_out(&self.root);
    }
}

impl Bare {
    fn new(root: PathBuf, size: Size, n_threads: usize) -> Result<Bare> {
        let disk = RealDisk::open(&root).doing("making a folder to write to")?;
        let workspace: Workspace = "load".parse().doing("naming a workspace")?;
        let repository = |i| format!("client-{i}").parse().doing("naming a repository");
        let repositories = (0..n_threads).map(repository).collect::<Result<Vec<_>>>()?;
        let (mut memory, start) = aligned(STEP);
        getrandom::fill(&mut memory[..]).doing("asking for random bytes")?;
        let (syncs, ended) = (Mutex::default(), Condvar::new());
        let size = size.n_bytes();
        let bare = Bare { root, disk, workspace, repositories, size, memory, start, syncs, ended };
        let sha256 = Algorithm::Sha256;
        let mut folders = vec![
            RelPath::new(layout::STAGING),
            Pool::Shared.blobs(sha256),
            layout::workspace(&bare.workspace).join(sha256.name()),
            layout::pushed_by(&bare.workspace, sha256),
        ];
        for own in &bare.repositories {
            folders.extend(MemberKind::ALL.map(|kind| layout::members(&bare.workspace, own, kind)));
            folders.push(layout::tags(&bare.workspace, own));
        }
        for folder in &folders {
            let path = bare.root.join(folder.as_str());
            std::fs::create_dir_all(path).doing(format!("making {folder}"))?;
        }
        Ok(bare)
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

    fn members(&self, repository: &RepositoryName, kind: MemberKind) -> RelPath {
        layout::members(&self.workspace, repository, kind)
    }

    /// A blob: a file that is synced under the first of its names in a repository, and its other names.
    fn push(&self, repository: &RepositoryName, blob: &Digest) -> Result<()> {
        let own = RelPath::new(layout::STAGING).join(blob);
        let folder = self.members(repository, MemberKind::Blob);
        let coming = folder.join(layout::coming_file(blob, 0));
        let file = self.file(&own, self.size)?;
        self.rename(&own, &coming)?;
        file.sync().doing("syncing")?;
        self.disk.sync_dir(&folder).doing("syncing a folder")?;
        self.link(&coming, &Pool::Shared.blob(blob))?;
        self.rename(&coming, &folder.join(layout::digest_file(blob)))
    }

    /// An artifact: a layout of three folders and three files with two blobs linked in, and a tag; a sync
    /// before anything has its name, and one after it.
    fn seal(&self, repository: &RepositoryName, name: &str) -> Result<()> {
        let (blob, root) =
            (Digest::of(name.as_bytes()), Digest::of(format!("{name} root").as_bytes()));
        let (draft, place) =
            (RelPath::new(layout::STAGING).join(root), layout::artifact(&self.workspace, &root));
        let tag = RelPath::new(layout::STAGING).join(blob);
        let blobs = draft.join(layout::BLOBS);
        let inner = blobs.join(Algorithm::Sha256.name());
        for folder in [&draft, &blobs, &inner] {
            self.disk.make_dir(folder, 0o755).doing("making a folder")?;
        }
        self.link(&Pool::Shared.blob(&blob), &layout::blob_in(&draft, &blob))?;
        // A config, which all artifacts share.
        self.link(&Pool::Shared.blob(&blob), &inner.join("config"))?;
        let documents = [layout::OCI_LAYOUT_FILE, layout::INDEX_FILE].map(|name| draft.join(name));
        for path in documents.iter().chain([&layout::blob_in(&draft, &root), &tag]) {
            self.file(path, DOCUMENT)?;
        }
        self.sync_all()?;
        self.link(&layout::blob_in(&draft, &root), &Pool::Shared.blob(&root))?;
        self.rename(&draft, &place)?;
        let sealed = layout::blob_in(&place, &root);
        self.link(&sealed, &layout::pushed(&self.workspace, &root))?;
        let listed = self.members(repository, MemberKind::Manifest);
        self.link(&sealed, &listed.join(layout::digest_file(&root)))?;
        self.rename(&tag, &layout::tags(&self.workspace, repository).join(blob))?;
        self.sync_all()
    }

    /// A sync of everything that began after this call, shared by all who wait for one.
    fn sync_all(&self) -> Result<()> {
        let lock = || self.syncs.lock().unwrap_or_else(PoisonError::into_inner);
        let mut syncs = lock();
        let mine = syncs.n_begun + 1;
        while syncs.n_begun < mine || syncs.running.contains(&mine) {
            if syncs.n_begun < mine && syncs.running.len() < N_SYNCS {
                syncs.n_begun = mine;
                syncs.running.push(mine);
                drop(syncs);
                let synced = self.disk.sync_all();
                lock().running.retain(|running| *running != mine);
                self.ended.notify_all();
                return synced.doing("syncing everything");
            }
            syncs = self.ended.wait(syncs).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}
