//! The store: opened once, by one process; everything else is reached from here.

mod find;
mod opening;
mod room;

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::{Algorithm, Digest};
use crate::disk::{Disk, Entry, Kind, RelPath, Space};
use crate::draft::Draft;
use crate::durable::{Barrier, Unsynced};
use crate::error::Error;
use crate::index::Index;
use crate::layout::{self, Pool};
use crate::locks::{Held, Locks};
use crate::memory::Budget;
use crate::names;
use crate::oci::Limits;
use crate::proofs::Proofs;
use crate::repository::Repository;
use crate::unsettled::Unsettled;
use crate::wal::Wal;
use crate::workspace::{RepositoryName, Workspace};

pub use find::Summary;
use opening::{identify, make_folders, make_pool};
pub(crate) use room::{Reserved, Writing};

/// One lock for each of so many digests at once.
const N_LOCKS: usize = 64;

/// Between whom the same bytes are there only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dedup {
    /// Between all workspaces.
    #[default]
    Store,
    /// Inside each workspace only: nothing that a peer can measure tells it what others hold.
    Workspace,
}

/// How a store is opened. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bounds on documents.
    pub limits: Limits,
    /// The folder of the index; without one every lookup reads the layouts.
    pub index: Option<PathBuf>,
    /// Memory that the index may use.
    pub index_cache: u64,
    /// Between whom the same bytes are there only once; settled when the store is made.
    pub dedup: Dedup,
    /// What must stay free on the disk.
    pub min_free: u64,
    /// What one workspace may hold, its artifacts' closures added up; 0 for no limit.
    pub quota: u64,
    /// Bytes of manifests that all work at once may hold in memory.
    pub documents: u64,
    /// What each of the two segments of the log may hold; 0 for no log.
    pub log: u64,
    /// From which size on a blob is read, hashed and written by several threads.
    pub pipeline_from: u64,
    /// How many blobs of one artifact are hashed at once.
    pub n_threads: usize,
    /// What a second process is told about this one.
    pub holder: String,
    /// The id that a new store gets.
    pub new_id: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            limits: Limits::default(),
            index: None,
            index_cache: 4 << 20,
            dedup: Dedup::Store,
            min_free: 0,
            quota: 0,
            documents: 128 << 20,
            log: 4 << 20,
            pipeline_from: 4 << 20,
            n_threads: 2,
            holder: String::new(),
            new_id: "unnamed".to_owned(),
        }
    }
}

/// An open store. Clones are the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) barrier: Barrier,
    /// Folders of tags that changed.
    pub(crate) unsettled: Unsettled,
    /// Members that are new, and not in the log.
    pub(crate) unsettled_members: Unsettled,
    pub(crate) wal: Wal,
    pub(crate) memory: Budget,
    pub(crate) index: Mutex<Option<Arc<Index>>>,
    id: String,
    serial: AtomicU64,
    blob_locks: Vec<Mutex<()>>,
    artifact_locks: Locks<(Workspace, Digest)>,
    repository_locks: Locks<(Workspace, RepositoryName)>,
    pub(crate) proofs: Proofs,
    prepared: Mutex<HashSet<Workspace>>,
    /// Bytes that puts are writing just now.
    being_written: AtomicU64,
    /// Bytes that each workspace holds, by the closures of its artifacts.
    usage: Mutex<HashMap<Workspace, u64>>,
    _lock: Box<dyn Send + Sync>,
}

impl Store {
    /// Opens the store on this disk, or makes a new one. What a crash left in staging is removed;
    /// after an unclean stop the index is built again from the layouts.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it, [`Error::Format`] when it is of another
    /// format, [`Error::Disk`] when the disk fails.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<Store, Error> {
        let lock_path = RelPath::new(layout::LOCK_FILE);
        let lock = disk.lock(&lock_path, &options.holder).map_err(|error| match error.kind() {
            io::ErrorKind::ResourceBusy => Error::Locked { holder: error.to_string() },
            _ => Error::disk("locking", &lock_path)(error),
        })?;
        make_folders(&*disk)?;
        let id = identify(&*disk, &options.new_id, options.dedup)?;
        make_pool(&*disk, options.dedup)?;
        let store = Store {
            inner: Arc::new(Inner {
                disk,
                memory: Budget::new(options.documents),
                wal: Wal::new(options.log),
                options,
                barrier: Barrier::default(),
                unsettled: Unsettled::default(),
                unsettled_members: Unsettled::default(),
                index: Mutex::new(None),
                id,
                serial: AtomicU64::new(0),
                blob_locks: (0..N_LOCKS).map(|_| Mutex::new(())).collect(),
                artifact_locks: Locks::default(),
                repository_locks: Locks::default(),
                proofs: Proofs::default(),
                being_written: AtomicU64::new(0),
                prepared: Mutex::default(),
                usage: Mutex::default(),
                _lock: lock,
            }),
        };
        store.place_what_is_named()?;
        store.inner.remove_tree_inside(&RelPath::new(layout::STAGING))?;
        store.redo()?;
        store.inner.refill_reserve();
        store.open_index()?;
        Ok(store)
    }

    /// Stops in peace: the index is written out and marked as such.
    pub fn close(self) {
        if Arc::strong_count(&self.inner) > 1 {
            // Somebody may still seal something: the next start looks for itself.
            return;
        }
        if let Err(error) = self.inner.empty_log() {
            tracing::error!(%error, "the log is not empty: the next start does it again");
            return;
        }
        let index = lock(&self.inner.index).take();
        let Some(index) = index.and_then(Arc::into_inner) else { return };
        if let Err(error) = self.mark_clean_stop(index) {
            tracing::warn!(%error, "the clean stop could not be marked");
        }
    }

    /// The store's id.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// Room on its filesystem.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn space(&self) -> Result<Space, Error> {
        self.inner.disk.space().map_err(Error::disk("asking for room on", &RelPath::root()))
    }

    /// Makes a workspace's folder and gives it to the group that may read in place.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn prepare_workspace(&self, workspace: &Workspace, gid: Option<u32>) -> Result<(), Error> {
        self.inner.ensure_workspace(workspace)?;
        let path = layout::workspace(workspace);
        match gid {
            Some(gid) => self
                .inner
                .disk
                .set_group(&path, gid, 0o750)
                .map_err(Error::disk("giving away", &path)),
            None => Ok(()),
        }
    }

    /// Begins to take an artifact in. Nothing of its workspace is made before it is sealed.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Full`].
    pub fn draft(&self, workspace: &Workspace) -> Result<Draft, Error> {
        Draft::begin(self.clone(), workspace.clone())
    }

    /// A repository of a workspace, whether or not anything is in it.
    pub fn repository(&self, workspace: &Workspace, name: &RepositoryName) -> Repository {
        Repository::new(self.clone(), workspace.clone(), name.clone())
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Inner ===

impl Inner {
    pub(crate) fn index(&self) -> Option<Arc<Index>> {
        lock(&self.index).clone()
    }

    /// A name in staging that nobody else has.
    pub(crate) fn staging(&self, what: &str) -> RelPath {
        RelPath::new(layout::STAGING).join(format!("{what}-{}", self.number()))
    }

    /// A number that nobody else in this process gets.
    pub(crate) fn number(&self) -> u64 {
        self.serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Linking a blob, and looking at its link count before removing it, exclude each other.
    pub(crate) fn lock_digest(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        lock(&self.blob_locks[usize::from(digest.bytes()[0]) % N_LOCKS])
    }

    /// Everything that changes the layout of an artifact, or moves it or the names that lead to
    /// it, excludes each other. Taken before a lock of a digest, never after one, and never held
    /// while a client is waited for.
    pub(crate) fn lock_artifact(
        &self,
        workspace: &Workspace,
        artifact: &Digest,
    ) -> Held<'_, (Workspace, Digest)> {
        self.artifact_locks.lock((workspace.clone(), *artifact))
    }

    /// Everything that changes what a repository lists, or what its tags lead to, excludes each
    /// other. Taken after the lock of an artifact, before one of a digest, and never held while
    /// the disk syncs.
    pub(crate) fn lock_repository(
        &self,
        workspace: &Workspace,
        name: &RepositoryName,
    ) -> Held<'_, (Workspace, RepositoryName)> {
        self.repository_locks.lock((workspace.clone(), name.clone()))
    }

    /// Where the blobs are that a workspace's layouts share.
    pub(crate) fn pool(&self, workspace: &Workspace) -> Pool {
        match self.options.dedup {
            Dedup::Store => Pool::Shared,
            Dedup::Workspace => Pool::Of(workspace.clone()),
        }
    }

    pub(crate) fn settle(&self, unsynced: &Unsynced) -> Result<(), Error> {
        self.barrier.settle(&*self.disk, unsynced)
    }

    /// Makes a workspace's folders, once in the life of the process.
    pub(crate) fn ensure_workspace(&self, workspace: &Workspace) -> Result<(), Error> {
        let folder = layout::workspace(workspace);
        if lock(&self.prepared).contains(workspace) {
            return Ok(());
        }
        // The group of the workspace decides who gets past this folder; inside it all may look.
        names::make_dirs(&*self.disk, &folder, 0o750)?;
        let mut made = Vec::new();
        for algorithm in Algorithm::ALL {
            made.push((folder.join(algorithm.name()), 0o755));
            if self.options.dedup == Dedup::Workspace {
                made.push((self.pool(workspace).blobs(algorithm), 0o700));
            }
        }
        for (folder, mode) in &made {
            names::make_dirs(&*self.disk, folder, *mode)?;
            self.disk.sync_way(folder).map_err(Error::disk("syncing", folder))?;
        }
        lock(&self.prepared).insert(workspace.clone());
        Ok(())
    }

    /// Whether anything stands at a path.
    pub(crate) fn is_there(&self, path: &RelPath) -> Result<bool, Error> {
        match self.disk.stat(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::disk("looking at", path)(error)),
        }
    }

    /// Whether two names lead to one file.
    pub(crate) fn is_one_file(&self, one: &RelPath, other: &RelPath) -> bool {
        let inode = |path: &RelPath| self.disk.stat(path).ok().map(|stat| stat.inode);
        inode(one).is_some_and(|found| inode(other) == Some(found))
    }

    pub(crate) fn entries(&self, folder: &RelPath) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        let listed = self.disk.list(folder, &mut |entry| {
            entries.push(entry);
            ControlFlow::Continue(())
        });
        match listed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            other => other.map_err(Error::disk("listing", folder)).map(|()| entries),
        }
    }

    /// What the names in a layout's folders of blobs say that it holds.
    pub(crate) fn digests_in(&self, layout: &RelPath) -> Result<Vec<Digest>, Error> {
        let mut digests = Vec::new();
        for algorithm in Algorithm::ALL {
            let folder = layout.join(layout::BLOBS).join(algorithm.name());
            for entry in self.entries(&folder)? {
                digests.extend(Digest::from_hex(algorithm, &entry.name));
            }
        }
        Ok(digests)
    }

    pub(crate) fn remove_tree_inside(&self, folder: &RelPath) -> Result<(), Error> {
        for entry in self.entries(folder)? {
            let path = folder.join(&entry.name);
            if entry.kind == Kind::Folder {
                self.remove_tree_inside(&path)?;
                self.disk.remove_dir(&path).map_err(Error::disk("removing", &path))?;
            } else {
                self.disk.unlink(&path).map_err(Error::disk("removing", &path))?;
            }
        }
        Ok(())
    }

    /// Removes a folder with all that is in it; none is as good.
    pub(crate) fn remove_tree(&self, folder: &RelPath) -> Result<(), Error> {
        self.remove_tree_inside(folder)?;
        match self.disk.remove_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(Error::disk("removing", folder)),
        }
    }
}
