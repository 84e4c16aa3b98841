//! Doing again what the log says: at a start, and when a sync failed.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;

use crate::digest::Digest;
use crate::disk::{Create, Disk, File, Kind, RelPath, read_exact_at, write_all_at};
use crate::error::Error;
use crate::layout::{self, MemberKind};
use crate::linking::{Linking, Scraps};
use crate::names::{self, make_dirs, move_into};
use crate::oci::{self, Closure, Descriptor, Limits, root_media_type};
use crate::pushed;
use crate::reader::read_up_to;
use crate::repository::Fills;
use crate::store::{Inner, Store};
use crate::workspace::Name;

use super::record::{self, Found};
use super::{MOST_BYTES, MOST_SEGMENT};

/// A record, and its bytes.
struct Entry {
    record: Found,
    bytes: Vec<u8>,
    /// What a manifest reaches.
    closure: Option<Closure>,
}

impl Store {
    /// Gives what is in the log its bytes and names, which a crash may have taken, and ends the log.
    pub(crate) fn redo(&self) -> Result<(), Error> {
        let inner = &*self.inner;
        let (disk, folder) = (&*inner.disk, RelPath::new(layout::WAL));
        let (mut paths, mut segments) = (Vec::new(), Vec::new());
        for entry in inner.entries(&folder)? {
            let path = folder.join(&entry.name);
            if entry.kind != Kind::File {
                // Not ours, and where a segment is to be.
                match entry.kind {
                    Kind::Folder => inner.remove_tree(&path)?,
                    _ => disk.unlink(&path).map_err(Error::disk("removing", &path))?,
                }
                continue;
            }
            let file = disk.open(&path).map_err(Error::disk("opening", &path))?;
            segments.push(Arc::from(file));
            paths.push(path);
        }
        let entries = entries(&segments)?;
        if !entries.is_empty() {
            let n_records = entries.len();
            tracing::info!(n_records, "the last process did not empty its log: it is done again");
            // On a full disk that is room enough, unless much was lost.
            inner.release_reserve();
            self.redo_all(&entries)?;
            disk.sync_all().map_err(Error::disk("syncing", &RelPath::root()))?;
        }
        for path in &paths {
            disk.unlink(path).map_err(Error::disk("removing", path))?;
        }
        disk.sync_dir(&folder).map_err(Error::disk("syncing", &folder))
    }

    fn redo_all(&self, entries: &[Entry]) -> Result<(), Error> {
        let inner = &*self.inner;
        let mut names: HashMap<RelPath, BTreeSet<RelPath>> = HashMap::new();
        for entry in entries {
            let blob = inner.blob_of(entry);
            names.entry(blob).or_default().extend(inner.names_of_bytes(entry));
            let pool = inner.pool(&entry.record.workspace);
            for (child, path) in inner.blobs_in_layout(entry) {
                names.entry(pool.blob(&child)).or_default().insert(path);
            }
        }
        let scraps = Scraps::new(self);
        for entry in entries {
            let Found { workspace, digest, .. } = &entry.record;
            let blob = inner.blob_of(entry);
            inner.ensure_workspace(workspace)?;
            let Some(names) = names.remove(&blob) else { continue };
            if !is_sure(&*inner.disk, &blob, &entry.bytes, names.len() as u64) {
                inner.put_in_place(&entry.bytes, &blob)?;
            }
            // Old names may lead to a file that was lost. On a full disk, what nothing leads to any more is the
            // room for the next one.
            let linking = Linking::new(inner, inner.pool(workspace), &scraps);
            for name in &names {
                // What is in the way of a name is cleared away when it is made.
                if inner.disk.stat(name).is_ok() {
                    self.lead(digest, &blob, name, &linking)?;
                }
            }
        }
        let mut listed = HashSet::new();
        for entry in entries {
            let Found { workspace, repository, .. } = &entry.record;
            let linking = Linking::new(inner, inner.pool(workspace), &scraps);
            match &entry.closure {
                None => self.relist(entry, &linking)?,
                Some(closure) => {
                    if listed.insert((workspace, repository)) {
                        self.repository(workspace, repository).list_what_was_coming(&linking)?;
                    }
                    self.reseal(entry, closure, &linking)?;
                }
            }
        }
        Ok(())
    }

    /// Lists a blob.
    fn relist(&self, entry: &Entry, linking: &Linking<'_>) -> Result<(), Error> {
        let blob = self.inner.blob_of(entry);
        let names = self.inner.names_of_bytes(entry);
        names.iter().try_for_each(|name| self.lead(&entry.record.digest, &blob, name, linking))
    }

    /// Makes an artifact of a manifest, lists it, and has its tags lead to it.
    fn reseal(&self, entry: &Entry, closure: &Closure, linking: &Linking<'_>) -> Result<(), Error> {
        let inner = &*self.inner;
        let disk = &*inner.disk;
        let Found { workspace, repository, digest, tags, .. } = &entry.record;
        let place = layout::artifact(workspace, digest);
        let root = self.inner.blob_of(entry);
        let (own, blobs) = (layout::blob_in(&place, digest), inner.blobs_in_layout(entry));
        for folder in [place.clone(), place.join(layout::BLOBS)] {
            if disk.stat(&folder).is_ok_and(|stat| stat.kind != Kind::Folder) {
                disk.unlink(&folder).map_err(Error::disk("removing", &folder))?;
            }
        }
        for path in [&own].into_iter().chain(blobs.iter().map(|(_, path)| path)) {
            if let Some((folder, _)) = path.split() {
                make_dirs(disk, &folder, 0o755)?;
            }
        }
        for (name, bytes) in fixed_files(entry) {
            inner.put_in_place(&bytes, &place.join(name))?;
        }
        let listed = self.repository(workspace, repository);
        for (child, path) in blobs {
            let member = listed.member(MemberKind::Blob, &child);
            // What is there already may have been healed since, and a member may be rotten.
            let led = match inner.is_there(&path)? && !inner.is_one_file(&member, &path) {
                true => linking.copy(&child, &member, &linking.scraps.path("logged")),
                false => Ok(()),
            };
            match led.and_then(|()| self.lead(&child, &member, &path, linking)) {
                Err(error @ Error::Disk { .. }) if inner.is_there(&member)? => return Err(error),
                Err(error) => tracing::error!(artifact = %digest, %child, %error, "a blob is lost"),
                Ok(()) => {}
            }
        }
        self.lead(digest, &root, &own, linking)?;
        pushed::mark(disk, workspace, digest)?;
        listed.enlist(closure, &place, Fills::Empty, linking, &mut Vec::new())?;
        for tag in tags.iter().flatten() {
            let name = Name::new(repository, tag);
            let path = inner.staging("logged");
            inner.clear(&names::file_of(workspace, &name))?;
            names::publish(disk, &names::prepare(disk, workspace, &name, digest, path)?)?;
        }
        Ok(())
    }

    /// Makes a name lead to that very file, whatever stood there.
    fn lead(
        &self,
        digest: &Digest,
        from: &RelPath,
        to: &RelPath,
        linking: &Linking<'_>,
    ) -> Result<(), Error> {
        let inner = &*self.inner;
        if inner.is_one_file(from, to) {
            return Ok(());
        }
        let Some((folder, name)) = to.split() else { return Ok(()) };
        let spare = linking.scraps.path("logged");
        linking.link(digest, from, &spare)?;
        inner.clear(to)?;
        move_into(&*inner.disk, &spare, &folder, name)
    }
}

impl Inner {
    /// Writes anew what a failed sync may have dropped, where it still has its names, while others are at work.
    /// What leads nowhere now is left so.
    pub(super) fn redo_written(&self, segments: &[Arc<dyn File>]) -> Result<(), Error> {
        let entries = entries(segments)?;
        // Blobs first: layouts get the new files.
        entries.iter().try_for_each(|entry| self.rewrite(entry))?;
        let written = entries.iter().map(|entry| entry.record.digest).collect();
        entries.iter().try_for_each(|entry| self.rewrite_layout(entry, &written))?;
        let mut led: HashMap<RelPath, (&Found, Name, Vec<Digest>)> = HashMap::new();
        for Entry { record, .. } in &entries {
            for tag in record.tags.iter().flatten() {
                let name = Name::new(&record.repository, tag);
                let path = names::file_of(&record.workspace, &name);
                let (_, _, digests) = led.entry(path).or_insert((record, name, Vec::new()));
                digests.push(record.digest);
            }
        }
        led.values().try_for_each(|(record, name, digests)| self.rewrite_tag(record, name, digests))
    }

    fn rewrite(&self, entry: &Entry) -> Result<(), Error> {
        let disk = &*self.disk;
        let Found { workspace, repository, digest, .. } = &entry.record;
        let blob = self.blob_of(entry);
        let _repository = self.lock_repository(workspace, repository);
        let _blob = self.lock_digest(digest);
        let mut left = Vec::new();
        // A mark says the same whatever it leads to, and a put may be about to end it.
        let mark = layout::pushed(workspace, digest);
        for name in self.names_of_bytes(entry).into_iter().filter(|name| *name != mark) {
            if self.is_there(&name)? {
                left.push(name);
            }
        }
        if !left.is_empty() || self.is_there(&blob)? {
            self.put_in_place(&entry.bytes, &blob)?;
        }
        for name in left {
            let spare = self.staging("logged");
            disk.link(&blob, &spare).map_err(Error::disk("linking", &blob))?;
            self.rename_over(&spare, &name)?;
        }
        Ok(())
    }

    /// The fixed files of a layout, and its links to what was written anew just now.
    fn rewrite_layout(&self, entry: &Entry, written: &HashSet<Digest>) -> Result<(), Error> {
        let Found { workspace, repository, digest, .. } = &entry.record;
        let place = layout::artifact(workspace, digest);
        for (name, bytes) in fixed_files(entry) {
            if self.is_there(&place)? {
                let own = self.write_new(&bytes)?;
                self.rename_over(&own, &place.join(name))?;
            }
        }
        let folder = layout::members(workspace, repository, MemberKind::Blob);
        for (child, path) in self.blobs_in_layout(entry) {
            if !written.contains(&child) {
                continue;
            }
            let _repository = self.lock_repository(workspace, repository);
            let member = folder.join(layout::digest_file(&child));
            if !self.is_there(&member)? || !self.is_there(&path)? {
                continue;
            }
            if !self.is_one_file(&member, &path) {
                let spare = self.staging("logged");
                self.disk.link(&member, &spare).map_err(Error::disk("linking", &member))?;
                self.rename_over(&spare, &path)?;
            }
        }
        Ok(())
    }

    /// A tag that leads to where the log led it, or that cannot be read.
    fn rewrite_tag(&self, record: &Found, name: &Name, digests: &[Digest]) -> Result<(), Error> {
        let disk = &*self.disk;
        let Found { workspace, repository, .. } = record;
        let _repository = self.lock_repository(workspace, repository);
        let digest = match names::get(disk, workspace, name) {
            Ok(led) => led.filter(|led| digests.contains(led)),
            Err(Error::DamagedName { .. }) => {
                let is_sealed =
                    |digest: &&Digest| disk.stat(&layout::artifact(workspace, digest)).is_ok();
                digests.iter().rev().find(is_sealed).copied()
            }
            Err(error) => return Err(error),
        };
        let Some(digest) = digest else { return Ok(()) };
        let path = self.staging("logged");
        names::publish(disk, &names::prepare(disk, workspace, name, &digest, path)?)
    }

    /// Moves a file to a name that was there a moment ago. If that folder is gone, so is the name.
    fn rename_over(&self, own: &RelPath, to: &RelPath) -> Result<(), Error> {
        match self.disk.rename(own, to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.disk.unlink(own).map_err(Error::disk("removing", own))
            }
            other => other.map_err(Error::disk("renaming", own)),
        }
    }

    /// The name of its bytes in the pool.
    fn blob_of(&self, entry: &Entry) -> RelPath {
        self.pool(&entry.record.workspace).blob(&entry.record.digest)
    }

    /// The other names of that file that the log may give it.
    fn names_of_bytes(&self, entry: &Entry) -> Vec<RelPath> {
        let Found { workspace, repository, digest, .. } = &entry.record;
        let file = layout::digest_file(digest);
        let listed = |kind| layout::members(workspace, repository, kind).join(&file);
        let Some(closure) = &entry.closure else { return vec![listed(MemberKind::Blob)] };
        let mut names = vec![
            listed(MemberKind::Manifest),
            layout::blob_in(&layout::artifact(workspace, digest), digest),
            layout::pushed(workspace, digest),
        ];
        let subject = closure.manifests().last().and_then(|root| root.subject());
        names.extend(subject.map(|subject| {
            let folder = layout::referrers(workspace, repository);
            folder.join(layout::digest_file(&subject.digest)).join(&file)
        }));
        names
    }

    /// The blobs that a manifest reaches, and where its layout has them.
    fn blobs_in_layout(&self, entry: &Entry) -> Vec<(Digest, RelPath)> {
        let place = layout::artifact(&entry.record.workspace, &entry.record.digest);
        let blobs = entry.closure.iter().flat_map(Closure::blobs);
        blobs.map(|blob| (blob.digest, layout::blob_in(&place, &blob.digest))).collect()
    }

    /// Writes these bytes as a new file, and gives it this name.
    fn put_in_place(&self, bytes: &[u8], path: &RelPath) -> Result<(), Error> {
        let own = self.write_new(bytes)?;
        self.clear(path)?;
        self.disk.rename(&own, path).map_err(Error::disk("renaming", &own))
    }

    fn write_new(&self, bytes: &[u8]) -> Result<RelPath, Error> {
        let own = self.staging("logged");
        let file = self.disk.create(&own, Create::Buffered);
        let file = file.map_err(Error::disk("creating", &own))?;
        write_all_at(&*file, bytes, 0).map_err(Error::disk("writing", &own))?;
        Ok(own)
    }

    /// No folder may stand where a file is to be.
    fn clear(&self, path: &RelPath) -> Result<(), Error> {
        match self.disk.stat(path).is_ok_and(|stat| stat.kind == Kind::Folder) {
            true => self.remove_tree(path),
            false => Ok(()),
        }
    }
}

/// What is in these segments, the oldest first.
fn entries(segments: &[Arc<dyn File>]) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::new();
    for file in segments {
        let bytes = read_up_to(&**file, &RelPath::new(layout::WAL), MOST_SEGMENT)?;
        for record in record::all(&bytes) {
            let bytes = bytes[record.bytes.clone()].to_vec();
            let closure = record.tags.as_ref().map(|_| closure(&record, &bytes)).transpose()?;
            entries.push(Entry { record, bytes, closure });
        }
    }
    // Stable: those of one segment stay in their order.
    entries.sort_by_key(|entry| entry.record.of.generation);
    Ok(entries)
}

/// What a manifest reaches that was taken once, whatever the limits are now.
fn closure(record: &Found, bytes: &[u8]) -> Result<Closure, Error> {
    let limits = Limits {
        manifest_size: MOST_BYTES,
        manifests_size: MOST_BYTES,
        entries: usize::MAX,
        ..Limits::default()
    };
    oci::walk(&root(record, bytes), &limits, &mut |_| Ok(bytes.to_vec()))
}

fn root(record: &Found, bytes: &[u8]) -> Descriptor {
    Descriptor::new(root_media_type(bytes), record.digest, bytes.len() as u64)
}

/// The files of a layout that follow from its root.
fn fixed_files(entry: &Entry) -> Vec<(&'static str, Vec<u8>)> {
    if entry.closure.is_none() {
        return Vec::new();
    }
    let index = layout::index_json(&root(&entry.record, &entry.bytes));
    vec![(layout::OCI_LAYOUT_FILE, layout::OCI_LAYOUT.to_vec()), (layout::INDEX_FILE, index)]
}

/// Whether a file has these bytes, and somebody else holds it than the pool and the names in the log: he made
/// it durable. What nobody else holds may be in memory alone, after a sync that failed, however well it reads.
fn is_sure(disk: &dyn Disk, path: &RelPath, bytes: &[u8], n_names: u64) -> bool {
    let Ok(file) = disk.open(path) else { return false };
    let mut own = vec![0; bytes.len()];
    file.stat().is_ok_and(|stat| stat.size == bytes.len() as u64 && stat.n_links > 1 + n_names)
        && read_exact_at(&*file, &mut own, 0).is_ok()
        && own == bytes
}
