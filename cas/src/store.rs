//! The store: opened once, by one process; everything else is reached from here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::digest::{Algorithm, Digest};
use crate::disk::{Create, Disk, Entry, Kind, RelPath, Space, write_all_at};
use crate::draft::Draft;
use crate::durable::{Barrier, Unsynced};
use crate::error::Error;
use crate::index::{Facts, Index};
use crate::layout;
use crate::names;
use crate::oci::Limits;
use crate::reader::read_small;
use crate::sealed::Sealed;
use crate::workspace::{Name, Workspace};

/// The only format there is.
const FORMAT: u64 = 1;
/// Written at the end of a clean stop: the index may be believed.
const CLEAN_FILE: &str = "index.clean";
/// What is kept back so that a full disk can still be tidied, in bytes.
const RESERVE: u64 = 1 << 20;
/// One lock for each of so many digests at once.
const N_LOCKS: usize = 64;

/// How a store is opened. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bounds on documents.
    pub limits: Limits,
    /// The folder of the index; without one every lookup reads the layouts.
    pub index: Option<PathBuf>,
    /// Memory that the index may use.
    pub index_cache: u64,
    /// What must stay free on the disk.
    pub min_free: u64,
    /// What one workspace may hold, its artifacts' closures added up; 0 for no limit.
    pub quota: u64,
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
            min_free: 0,
            quota: 0,
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
    pub(crate) index: Mutex<Option<Arc<Index>>>,
    id: String,
    serial: AtomicU64,
    locks: Vec<Mutex<()>>,
    prepared: Mutex<HashSet<Workspace>>,
    /// Bytes that each workspace holds, by the closures of its artifacts.
    usage: Mutex<HashMap<Workspace, u64>>,
    _lock: Box<dyn Send + Sync>,
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The artifact digest.
    pub digest: Digest,
    /// What its root and closure say.
    pub facts: Facts,
    /// Names that lead to it.
    pub names: Vec<Name>,
    /// When it was sealed, in seconds since 1970.
    pub sealed_at: u64,
    /// When it was last found whole, in seconds since 1970; may be lost in a crash.
    pub verified_at: Option<u64>,
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
        let id = identify(&*disk, &options.new_id)?;
        let store = Store {
            inner: Arc::new(Inner {
                disk,
                options,
                barrier: Barrier::default(),
                index: Mutex::new(None),
                id,
                serial: AtomicU64::new(0),
                locks: (0..N_LOCKS).map(|_| Mutex::new(())).collect(),
                prepared: Mutex::default(),
                usage: Mutex::default(),
                _lock: lock,
            }),
        };
        store.inner.remove_tree_inside(&RelPath::new(layout::STAGING))?;
        store.inner.refill_reserve();
        store.open_index()?;
        Ok(store)
    }

    /// Stops in peace: the index is written out and marked as such.
    pub fn close(self) {
        let index = lock(&self.inner.index).take();
        let Some(index) = index.and_then(Arc::into_inner) else { return };
        // The marker may become durable only after all that sled wrote.
        let disk = &*self.inner.disk;
        if index.close() && disk.sync_all().is_ok() {
            let path = RelPath::new(CLEAN_FILE);
            let written = disk.create(&path, Create::Buffered).and_then(|file| file.sync());
            if let Err(error) = written.and_then(|()| disk.sync_dir(&RelPath::root())) {
                tracing::warn!(%error, "the clean stop could not be marked");
            }
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
            Some(gid) => {
                self.inner.disk.set_group(&path, gid, 0o750).map_err(Error::disk("giving away", &path))
            }
            None => Ok(()),
        }
    }

    /// Begins to take an artifact in.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Full`].
    pub fn draft(&self, workspace: &Workspace) -> Result<Draft, Error> {
        self.inner.ensure_workspace(workspace)?;
        Draft::begin(self.clone(), workspace.clone())
    }

    /// The artifact with this digest.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn sealed(&self, workspace: &Workspace, digest: &Digest) -> Result<Sealed, Error> {
        let path = layout::artifact(workspace, digest);
        match self.inner.disk.stat(&path) {
            Ok(stat) if stat.kind == Kind::Folder => {
                Ok(Sealed::new(self.clone(), workspace.clone(), *digest))
            }
            Ok(_) => Err(Error::NotFound { what: digest.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound { what: digest.to_string() })
            }
            Err(error) => Err(Error::disk("looking for", &path)(error)),
        }
    }

    /// What a reference means: a digest of an artifact or of a file, `[sha256:]` and at least four
    /// hex digits that begin one, `repository:tag`, or a handle's path.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`], [`Error::Name`].
    pub fn resolve(&self, workspace: &Workspace, reference: &str) -> Result<Digest, Error> {
        let not_found = || Error::NotFound { what: reference.chars().take(400).collect() };
        if let Ok(digest) = reference.parse::<Digest>() {
            return match self.sealed(workspace, &digest) {
                Err(Error::NotFound { .. }) => self.only(reference, self.wrappers(workspace, &digest)?),
                found => found.map(|sealed| sealed.digest()),
            };
        }
        if let Some(rest) = reference.strip_prefix(&format!("{}/", layout::ARTIFACTS)) {
            let parts: Vec<&str> = rest.split('/').collect();
            let [of, algorithm, hex] = parts[..] else { return Err(not_found()) };
            let digest = format!("{algorithm}:{hex}").parse::<Digest>().map_err(|_| not_found())?;
            if of != workspace.as_str() {
                return Err(not_found());
            }
            return self.sealed(workspace, &digest).map(|sealed| sealed.digest());
        }
        let (algorithm, digits) = match reference.split_once(':') {
            Some((name, digits)) if Algorithm::from_name(name).is_some() => (Some(name), digits),
            _ => (None, reference),
        };
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() >= 4 && digits.bytes().all(is_hex) {
            let mut found = Vec::new();
            self.each_artifact(workspace, &mut |digest| {
                let fits = algorithm.is_none_or(|a| a == digest.algorithm().name());
                if fits && digest.hex().starts_with(digits) {
                    found.push(digest);
                }
                if found.len() > 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            return self.only(reference, found);
        }
        if !reference.contains(':') {
            return Err(not_found());
        }
        let name: Name = reference.parse()?;
        let digest = names::get(&*self.inner.disk, workspace, &name)?.ok_or_else(not_found)?;
        match self.sealed(workspace, &digest) {
            Err(Error::NotFound { .. }) => Err(not_found()),
            found => found.map(|sealed| sealed.digest()),
        }
    }

    fn only(&self, reference: &str, mut found: Vec<Digest>) -> Result<Digest, Error> {
        found.sort();
        match found[..] {
            [] => Err(Error::NotFound { what: reference.to_owned() }),
            [digest] => Ok(digest),
            _ => Err(Error::Ambiguous { reference: reference.to_owned(), candidates: found }),
        }
    }

    /// The artifacts that wrap a file with this digest.
    fn wrappers(&self, workspace: &Workspace, file: &Digest) -> Result<Vec<Digest>, Error> {
        if let Some(index) = self.inner.index() {
            let mut found = index.wrappers(workspace, file);
            found.retain(|artifact| self.sealed(workspace, artifact).is_ok());
            return Ok(found);
        }
        let mut found = Vec::new();
        for digest in self.artifacts(workspace)? {
            if self.facts(workspace, &digest).is_ok_and(|facts| facts.file == Some(*file)) {
                found.push(digest);
            }
        }
        Ok(found)
    }

    /// The artifacts of a workspace after `after`, ordered by digest, at most `limit` of them.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn list(
        &self,
        workspace: &Workspace,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<Vec<Summary>, Error> {
        let mut digests = self.artifacts(workspace)?;
        digests.retain(|digest| after.is_none_or(|after| digest > after));
        digests.truncate(limit);
        let names = names::all(&*self.inner.disk, workspace)?;
        let summaries = digests.iter().map(|digest| self.summary_with(workspace, digest, &names));
        // What was retired, or found damaged, since the folder was listed is left out or told bare.
        Ok(summaries.filter_map(Result::ok).collect())
    }

    /// One line of a listing.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Disk`].
    pub fn summary(&self, workspace: &Workspace, digest: &Digest) -> Result<Summary, Error> {
        self.summary_with(workspace, digest, &names::all(&*self.inner.disk, workspace)?)
    }

    fn summary_with(
        &self,
        workspace: &Workspace,
        digest: &Digest,
        names: &BTreeMap<Digest, Vec<Name>>,
    ) -> Result<Summary, Error> {
        let sealed = self.sealed(workspace, digest)?;
        let facts = match self.facts(workspace, digest) {
            Ok(facts) => facts,
            // A listing shows what is there; that it is damaged is for `check` to say.
            Err(_) => Facts {
                media_type: "unreadable".to_owned(),
                artifact_type: None,
                title: None,
                file: None,
                size: 0,
                n_blobs: 0,
            },
        };
        let index = self.inner.index();
        Ok(Summary {
            digest: *digest,
            facts,
            names: names.get(digest).cloned().unwrap_or_default(),
            sealed_at: sealed.sealed_at()?,
            verified_at: index.and_then(|index| index.verified_at(workspace, digest)),
        })
    }

    pub(crate) fn facts(&self, workspace: &Workspace, digest: &Digest) -> Result<Facts, Error> {
        if let Some(facts) = self.inner.index().and_then(|index| index.facts(workspace, digest)) {
            return Ok(facts);
        }
        let facts = self.sealed(workspace, digest)?.facts()?;
        if let Some(index) = self.inner.index() {
            index.note(workspace, digest, &facts);
        }
        Ok(facts)
    }

    /// Records that an artifact was found whole, `at` seconds after 1970.
    pub fn note_verified(&self, workspace: &Workspace, digest: &Digest, at: u64) {
        if let Some(index) = self.inner.index() {
            index.note_verified(workspace, digest, at);
        }
    }

    /// The workspaces that have a folder.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn workspaces(&self) -> Result<Vec<Workspace>, Error> {
        let entries = self.inner.entries(&RelPath::new(layout::ARTIFACTS))?;
        let mut found: Vec<Workspace> =
            entries.iter().filter_map(|entry| entry.name.parse().ok()).collect();
        found.sort();
        Ok(found)
    }

    /// The artifacts of a workspace that reach a digest, with the names that lead to them.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn holders(
        &self,
        workspace: &Workspace,
        digest: &Digest,
    ) -> Result<Vec<(Digest, Vec<Name>)>, Error> {
        let names = names::all(&*self.inner.disk, workspace)?;
        let mut holders = Vec::new();
        for artifact in self.artifacts(workspace)? {
            let layout = layout::artifact(workspace, &artifact);
            if self.inner.disk.stat(&layout::blob_in(&layout, digest)).is_ok() {
                holders.push((artifact, names.get(&artifact).cloned().unwrap_or_default()));
            }
        }
        Ok(holders)
    }

    /// The digests of a workspace's artifacts, ordered.
    pub(crate) fn artifacts(&self, workspace: &Workspace) -> Result<Vec<Digest>, Error> {
        let mut digests = Vec::new();
        self.each_artifact(workspace, &mut |digest| {
            digests.push(digest);
            ControlFlow::Continue(())
        })?;
        digests.sort();
        Ok(digests)
    }

    fn each_artifact(
        &self,
        workspace: &Workspace,
        each: &mut dyn FnMut(Digest) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        for algorithm in Algorithm::ALL {
            let folder = layout::workspace(workspace).join(algorithm.name());
            let listed = self.inner.disk.list(&folder, &mut |entry| {
                match Digest::from_hex(algorithm, &entry.name) {
                    Ok(digest) => each(digest),
                    Err(_) => ControlFlow::Continue(()),
                }
            });
            match listed {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(Error::disk("listing", &folder))?,
            }
        }
        Ok(())
    }

    /// Opens the index; builds it again unless the last stop was clean.
    fn open_index(&self) -> Result<(), Error> {
        let disk = &*self.inner.disk;
        let marker = RelPath::new(CLEAN_FILE);
        let was_clean = disk.stat(&marker).is_ok();
        if was_clean {
            // Gone, durably, before the first change.
            disk.unlink(&marker).map_err(Error::disk("removing", &marker))?;
            let root = RelPath::root();
            disk.sync_dir(&root).map_err(Error::disk("syncing", &root))?;
        }
        let folder = RelPath::new(layout::INDEX);
        let mut rebuild = !was_clean;
        if let Some(path) = &self.inner.options.index {
            let cache = self.inner.options.index_cache;
            if rebuild {
                self.inner.remove_tree(&folder)?;
            }
            let mut index = Index::open(path, cache);
            if index.is_none() {
                rebuild = true;
                self.inner.remove_tree(&folder)?;
                index = Index::open(path, cache);
            }
            *lock(&self.inner.index) = index.map(Arc::new);
        }
        if !rebuild {
            return self.count_usage();
        }
        for workspace in self.workspaces()? {
            for digest in self.artifacts(&workspace)? {
                let sealed = Sealed::new(self.clone(), workspace.clone(), digest);
                // What cannot be read now is found by the next check; opening must not fail of it.
                if let Err(error) = sealed.relink() {
                    tracing::warn!(%digest, %error, "an artifact could not be indexed");
                }
            }
        }
        self.count_usage()
    }

    fn count_usage(&self) -> Result<(), Error> {
        if self.inner.options.quota == 0 {
            return Ok(());
        }
        for workspace in self.workspaces()? {
            let mut total = 0;
            for digest in self.artifacts(&workspace)? {
                total += self.facts(&workspace, &digest).map_or(0, |facts| facts.size);
            }
            lock(&self.inner.usage).insert(workspace, total);
        }
        Ok(())
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
        let number = self.serial.fetch_add(1, Ordering::Relaxed);
        RelPath::new(layout::STAGING).join(format!("{what}-{number}"))
    }

    /// Linking a blob, and looking at its link count before removing it, exclude each other.
    pub(crate) fn lock_digest(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        lock(&self.locks[usize::from(digest.bytes()[0]) % N_LOCKS])
    }

    pub(crate) fn settle(&self, unsynced: &Unsynced) -> Result<(), Error> {
        self.barrier.settle(&*self.disk, unsynced)
    }

    /// Refuses more bytes than the disk or the workspace's quota has room for.
    pub(crate) fn admit(&self, workspace: &Workspace, size: u64) -> Result<(), Error> {
        let Options { quota, min_free, .. } = self.options;
        let held = lock(&self.usage).get(workspace).copied().unwrap_or(0);
        if quota > 0 && held.saturating_add(size) > quota {
            return Err(Error::Quota { limit: quota });
        }
        if min_free > 0 {
            let space = self.disk.space().map_err(Error::disk("asking for room on", &RelPath::root()))?;
            if space.free < min_free.saturating_add(size) {
                return Err(Error::Full);
            }
        }
        Ok(())
    }

    pub(crate) fn add_usage(&self, workspace: &Workspace, size: u64) {
        *lock(&self.usage).entry(workspace.clone()).or_insert(0) += size;
    }

    pub(crate) fn take_usage(&self, workspace: &Workspace, size: u64) {
        if let Some(held) = lock(&self.usage).get_mut(workspace) {
            *held = held.saturating_sub(size);
        }
    }

    /// Makes `artifacts/<workspace>/<algorithm>`, once in the life of the process.
    pub(crate) fn ensure_workspace(&self, workspace: &Workspace) -> Result<(), Error> {
        let folder = layout::workspace(workspace);
        if lock(&self.prepared).contains(workspace) {
            return Ok(());
        }
        // The group of the workspace decides who gets past this folder; inside it all may look.
        let mut changed = names::make_dirs(&*self.disk, &folder, 0o750)?;
        for algorithm in Algorithm::ALL {
            changed.extend(names::make_dirs(&*self.disk, &folder.join(algorithm.name()), 0o755)?);
        }
        changed.dedup();
        for path in &changed {
            self.disk.sync_dir(path).map_err(Error::disk("syncing", path))?;
        }
        lock(&self.prepared).insert(workspace.clone());
        Ok(())
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

    /// Gives up what is kept back, so that a full disk can be tidied.
    pub(crate) fn release_reserve(&self) {
        let _ = self.disk.unlink(&RelPath::new(layout::RESERVE_FILE));
    }

    /// Keeps room back again, if there is some.
    pub(crate) fn refill_reserve(&self) {
        let path = RelPath::new(layout::RESERVE_FILE);
        let roomy = self.disk.space().is_ok_and(|space| space.free > RESERVE * 4);
        if roomy && let Ok(file) = self.disk.create(&path, Create::Buffered) {
            let _ = file.allocate(RESERVE);
        }
    }
}

fn make_folders(disk: &dyn Disk) -> Result<(), Error> {
    let blobs = RelPath::new(layout::BLOBS);
    let folders = [
        (RelPath::new(layout::ARTIFACTS), 0o755),
        (blobs.clone(), 0o700),
        (layout::blobs(Algorithm::Sha256), 0o700),
        (layout::blobs(Algorithm::Sha512), 0o700),
        (RelPath::new(layout::NAMES), 0o700),
        (RelPath::new(layout::STAGING), 0o700),
        (RelPath::new(layout::QUARANTINE), 0o700),
    ];
    for (path, mode) in &folders {
        match disk.make_dir(path, *mode) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(Error::disk("making", path))?,
        }
    }
    // Not for new ones alone: after a crash a folder may be there that was never synced.
    for path in [&RelPath::root(), &blobs] {
        disk.sync_dir(path).map_err(Error::disk("syncing", path))?;
    }
    Ok(())
}

#[derive(serde::Serialize, serde::Deserialize)]
struct StoreFile {
    format: u64,
    id: String,
}

/// Reads `bonded.json`, or writes it for a new store.
fn identify(disk: &dyn Disk, new_id: &str) -> Result<String, Error> {
    let path = RelPath::new(layout::STORE_FILE);
    match disk.open(&path) {
        Ok(file) => {
            let size = file.stat().map_err(Error::disk("reading", &path))?.size.min(4096);
            let bytes = read_small(&*file, size).map_err(Error::disk("reading", &path))?;
            let bytes = bytes.unwrap_or_default();
            match serde_json::from_slice::<StoreFile>(&bytes) {
                Ok(StoreFile { format: FORMAT, id }) => Ok(id),
                Ok(StoreFile { format, .. }) => Err(Error::Format { found: format.to_string() }),
                Err(_) => Err(Error::Format { found: "unreadable".to_owned() }),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = StoreFile { format: FORMAT, id: new_id.to_owned() };
            let bytes = serde_json::to_vec(&file).unwrap_or_default();
            let draft = RelPath::new(layout::STAGING).join(layout::STORE_FILE);
            match disk.unlink(&draft) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::disk("removing", &draft)(error));
                }
                _ => {}
            }
            let file = disk.create(&draft, Create::Buffered);
            let file = file.map_err(Error::disk("creating", &draft))?;
            write_all_at(&*file, &bytes, 0).map_err(Error::disk("writing", &draft))?;
            file.sync().map_err(Error::disk("syncing", &draft))?;
            disk.rename(&draft, &path).map_err(Error::disk("renaming", &draft))?;
            disk.sync_dir(&RelPath::root()).map_err(Error::disk("syncing", &RelPath::root()))?;
            Ok(new_id.to_owned())
        }
        Err(error) => Err(Error::disk("opening", &path)(error)),
    }
}
