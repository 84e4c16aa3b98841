//! The start of a store: its folders, its id, and the index that a crash may have cost.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use super::{Dedup, Store, lock};
use crate::absent;
use crate::digest::{Algorithm, Digest};
use crate::disk::{Create, Disk, Kind, RelPath, Stat, write_all_at};
use crate::error::Error;
use crate::index::Index;
use crate::layout::{self, Pool};
use crate::names;
use crate::oci::{self, Descriptor, root_media_type};
use crate::reader::read_up_to;
use crate::sealed::Sealed;
use crate::workspace::Workspace;

/// The only format there is.
const FORMAT: u64 = 1;
/// Written at the end of a clean stop: the index may be believed.
const CLEAN_FILE: &str = "index.clean";
/// Neither `bonded.json` nor the `index.json` of a layout is larger.
const MOST_DOCUMENT: u64 = 4096;

impl Store {
    /// Opens the index; builds it again unless the last stop was clean.
    pub(super) fn open_index(&self) -> Result<(), Error> {
        let disk = &*self.inner.disk;
        let marker = RelPath::new(CLEAN_FILE);
        let stop = disk.stat(&marker).ok().map(|stat| name_of_stop(&stat));
        if stop.is_some() {
            // Gone, durably, before the first change.
            disk.unlink(&marker).map_err(Error::disk("removing", &marker))?;
            let root = RelPath::root();
            disk.sync_dir(&root).map_err(Error::disk("syncing", &root))?;
        }
        let mut rebuild = stop.is_none();
        if let Some(path) = &self.inner.options.index {
            let cache = self.inner.options.index_cache;
            let mut index = None;
            if !rebuild {
                // An index that another stop wrote was put there by somebody, or not written out.
                index = Index::open(path, cache).filter(|index| index.stop() == stop);
                rebuild = index.is_none();
            }
            if rebuild {
                self.remove_index()?;
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
                    if let Some(index) = self.inner.index() {
                        index.tear();
                    }
                }
            }
            for name in names::repositories(&*self.inner.disk, &workspace)? {
                self.repository(&workspace, &name).reopen()?;
            }
            let limit = self.inner.options.limits.entries;
            absent::tidy(&*self.inner.disk, &workspace, limit)?;
            self.tidy_pushed(&workspace)?;
            if let Some(index) = self.inner.index() {
                names::each(&*self.inner.disk, &workspace, &mut |name, digest| {
                    index.note_name(&workspace, &digest, &name);
                })?;
            }
        }
        // What a process that was killed left may be there and not be durable: nobody is to find it
        // before it is.
        disk.sync_all().map_err(Error::disk("syncing", &RelPath::root()))?;
        self.count_usage()
    }

    /// Puts drafts in their place that something leads to already: layouts and names land in one
    /// sync, after another one that made the draft durable where it is.
    pub(super) fn place_what_is_named(&self) -> Result<(), Error> {
        let mut named: HashMap<Workspace, HashSet<Digest>> = HashMap::new();
        for entry in self.inner.entries(&RelPath::new(layout::STAGING))? {
            let draft = RelPath::new(layout::STAGING).join(&entry.name);
            let Some(workspace) = layout::workspace_of_draft(&entry.name) else { continue };
            let Some(root) = self.root_of(&draft)? else { continue };
            let place = layout::artifact(&workspace, &root);
            if self.inner.is_there(&place)? {
                continue;
            }
            if !named.contains_key(&workspace) {
                named.insert(workspace.clone(), self.named(&workspace)?);
            }
            let is_named = named.get(&workspace).is_some_and(|named| named.contains(&root));
            if is_named && self.is_whole(&draft, &root)? {
                self.inner.ensure_workspace(&workspace)?;
                let placed = self.inner.disk.rename_new(&draft, &place);
                placed.map_err(Error::disk("renaming", &draft))?;
            }
        }
        Ok(())
    }

    /// Whether a draft has all that its root reaches. One that was given up may be there in part, and somebody
    /// else may have been ending what leads to it.
    fn is_whole(&self, draft: &RelPath, root: &Digest) -> Result<bool, Error> {
        let (disk, limits) = (&*self.inner.disk, &self.inner.options.limits);
        let read = |digest: &Digest| -> Result<Vec<u8>, Error> {
            let path = layout::blob_in(draft, digest);
            let file = disk.open(&path).map_err(Error::disk("opening", &path))?;
            read_up_to(&*file, &path, limits.manifest_size)
        };
        let walked = read(root).and_then(|bytes| {
            let root = Descriptor::new(root_media_type(&bytes), *root, bytes.len() as u64);
            oci::walk(&root, limits, &mut |claim| read(&claim.digest))
        });
        let closure = match walked {
            Ok(closure) => closure,
            Err(Error::Disk { source, .. }) if is_no_file(&source) => return Ok(false),
            Err(error @ Error::Disk { .. }) => return Err(error),
            Err(_) => return Ok(false),
        };
        Ok(closure.nodes().iter().all(|node| {
            let stat = disk.stat(&layout::blob_in(draft, &node.digest()));
            stat.map_or(node.descriptor().may_be_absent(), |stat| stat.size == node.size())
        }))
    }

    /// What a draft would be sealed as, if it was about to be.
    fn root_of(&self, draft: &RelPath) -> Result<Option<Digest>, Error> {
        let path = draft.join(layout::INDEX_FILE);
        let file = match self.inner.disk.open(&path) {
            Err(error) if is_no_file(&error) => return Ok(None),
            other => other.map_err(Error::disk("opening", &path))?,
        };
        Ok(layout::root_of_index(&read_up_to(&*file, &path, MOST_DOCUMENT)?))
    }

    /// The artifacts that repositories of a workspace list or name.
    fn named(&self, workspace: &Workspace) -> Result<HashSet<Digest>, Error> {
        let mut named = HashSet::new();
        for name in names::repositories(&*self.inner.disk, workspace)? {
            named.extend(self.repository(workspace, &name).leads()?);
        }
        Ok(named)
    }

    fn remove_index(&self) -> Result<(), Error> {
        let folder = RelPath::new(layout::INDEX);
        match self.inner.disk.stat(&folder) {
            Ok(stat) if stat.kind != Kind::Folder => {
                self.inner.disk.unlink(&folder).map_err(Error::disk("removing", &folder))
            }
            _ => self.inner.remove_tree(&folder),
        }
    }

    /// Writes the index out and says so. The marker becomes durable only after all that sled wrote.
    pub(super) fn mark_clean_stop(&self, index: Index) -> Result<(), Error> {
        let disk = &*self.inner.disk;
        let (draft, marker) = (self.inner.staging("clean"), RelPath::new(CLEAN_FILE));
        let file = disk.create(&draft, Create::Buffered);
        let file = file.map_err(Error::disk("creating", &draft))?;
        let stat = file.stat().map_err(Error::disk("looking at", &draft))?;
        if !index.close(&name_of_stop(&stat)) {
            return Ok(());
        }
        let root = RelPath::root();
        disk.sync_all().map_err(Error::disk("syncing", &root))?;
        disk.rename(&draft, &marker).map_err(Error::disk("renaming", &draft))?;
        disk.sync_dir(&root).map_err(Error::disk("syncing", &root))
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

/// Nothing, or something else, stands there.
fn is_no_file(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidInput)
}

/// A stop is named by the file that marks it, so that an index and a marker of two stops never pass
/// for one pair.
fn name_of_stop(marker: &Stat) -> String {
    format!("{}-{}", marker.inode, marker.modified_ns)
}

pub(super) fn make_folders(disk: &dyn Disk) -> Result<(), Error> {
    let folders = [
        (RelPath::new(layout::ARTIFACTS), 0o755),
        (RelPath::new(layout::BLOBS), 0o700),
        (RelPath::new(layout::NAMES), 0o700),
        (RelPath::new(layout::ABSENT), 0o700),
        (RelPath::new(layout::PUSHED), 0o700),
        (RelPath::new(layout::STAGING), 0o700),
        (RelPath::new(layout::UPLOADS), 0o700),
        (RelPath::new(layout::QUARANTINE), 0o700),
        (RelPath::new(layout::WAL), 0o700),
    ];
    for (path, mode) in &folders {
        make_folder(disk, path, *mode)?;
    }
    // Not for new ones alone: after a crash a folder may be there that was never synced.
    let root = RelPath::root();
    disk.sync_dir(&root).map_err(Error::disk("syncing", &root))
}

fn make_folder(disk: &dyn Disk, path: &RelPath, mode: u32) -> Result<(), Error> {
    match disk.make_dir(path, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(Error::disk("making", path)),
    }
}

/// The folders of the pool that all workspaces share. Pools of workspaces are made with them.
pub(super) fn make_pool(disk: &dyn Disk, dedup: Dedup) -> Result<(), Error> {
    if dedup == Dedup::Store {
        for algorithm in Algorithm::ALL {
            make_folder(disk, &Pool::Shared.blobs(algorithm), 0o700)?;
        }
    }
    let blobs = RelPath::new(layout::BLOBS);
    disk.sync_dir(&blobs).map_err(Error::disk("syncing", &blobs))
}

#[derive(serde::Serialize, serde::Deserialize)]
struct StoreFile {
    format: u64,
    id: String,
    #[serde(default)]
    dedup: Dedup,
}

/// Reads `bonded.json`, or writes it for a new store.
pub(super) fn identify(disk: &dyn Disk, new_id: &str, dedup: Dedup) -> Result<String, Error> {
    let path = RelPath::new(layout::STORE_FILE);
    match disk.open(&path) {
        Ok(file) => {
            let bytes = read_up_to(&*file, &path, MOST_DOCUMENT)?;
            match serde_json::from_slice::<StoreFile>(&bytes) {
                Ok(StoreFile { format: FORMAT, id, dedup: made }) if made == dedup => Ok(id),
                Ok(StoreFile { format: FORMAT, dedup: made, .. }) => Err(Error::Dedup { made }),
                Ok(StoreFile { format, .. }) => Err(Error::Format { found: format.to_string() }),
                Err(_) => Err(Error::Format { found: "unreadable".to_owned() }),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = StoreFile { format: FORMAT, id: new_id.to_owned(), dedup };
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
