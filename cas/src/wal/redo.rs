//! Doing again what the log says: at a start, and when a sync failed.

use std::collections::{HashMap, HashSet};
use std::io;

use crate::disk::{Create, Disk, File, Kind, RelPath, read_exact_at, write_all_at};
use crate::error::Error;
use crate::layout::{self, MemberKind};
use crate::names::move_into;
use crate::reader::read_up_to;
use crate::store::Inner;

use super::MOST_SEGMENT;
use super::record::{self, Found};

impl Inner {
    /// Gives the blobs of the log their bytes and names, which a crash may have taken, and ends the log.
    pub(crate) fn redo(&self) -> Result<(), Error> {
        let (disk, folder) = (&*self.disk, RelPath::new(layout::WAL));
        let mut segments = Vec::new();
        for entry in self.entries(&folder)? {
            let path = folder.join(&entry.name);
            if entry.kind != Kind::File {
                // Not ours, and where a segment is to be.
                match entry.kind {
                    Kind::Folder => self.remove_tree(&path)?,
                    _ => disk.unlink(&path).map_err(Error::disk("removing", &path))?,
                }
                continue;
            }
            let file = disk.open(&path).map_err(Error::disk("opening", &path))?;
            let bytes = read_up_to(&*file, &path, MOST_SEGMENT)?;
            let records = record::all(&bytes);
            segments.push((path, bytes, records));
        }
        segments.sort_by_key(|(_, _, records)| records.first().map(|record| record.generation));
        let n_blobs: usize = segments.iter().map(|(_, _, records)| records.len()).sum();
        if n_blobs > 0 {
            tracing::info!(n_blobs, "the last process did not empty its log: it is done again");
            // On a full disk that is room enough, unless much was lost.
            self.release_reserve();
            let mut names: HashMap<RelPath, HashSet<RelPath>> = HashMap::new();
            for record in segments.iter().flat_map(|(_, _, records)| records) {
                let (blob, folder, member) = self.places(record);
                names.entry(blob).or_default().insert(folder.join(member));
            }
            let mut written = HashSet::new();
            for (_, bytes, records) in &segments {
                for record in records {
                    let (blob, ..) = self.places(record);
                    let bytes = &bytes[record.bytes.clone()];
                    let n_names = names.get(&blob).map_or(0, HashSet::len) as u64;
                    if !written.contains(&blob) && !is_sure(disk, &blob, bytes, n_names) {
                        self.put_in_place(bytes, &blob)?;
                        written.insert(blob);
                    }
                    self.relist(record, bytes)?;
                }
            }
            disk.sync_all().map_err(Error::disk("syncing", &RelPath::root()))?;
        }
        for (path, ..) in &segments {
            disk.unlink(path).map_err(Error::disk("removing", path))?;
        }
        disk.sync_dir(&folder).map_err(Error::disk("syncing", &folder))
    }

    fn relist(&self, record: &Found, bytes: &[u8]) -> Result<(), Error> {
        let disk = &*self.disk;
        self.ensure_workspace(&record.workspace)?;
        let (blob, folder, member) = self.places(record);
        let inode = |path: &RelPath| disk.stat(path).ok().map(|stat| stat.inode);
        if inode(&blob) == inode(&folder.join(&member)) {
            return Ok(());
        }
        let spare = self.staging("logged");
        let mut linked = disk.link(&blob, &spare);
        if linked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::TooManyLinks) {
            self.put_in_place(bytes, &blob)?;
            linked = disk.link(&blob, &spare);
        }
        linked.map_err(Error::disk("linking", &blob))?;
        self.clear(&folder.join(&member))?;
        move_into(disk, &spare, &folder, &member)
    }

    /// The same while others are at work: what a failed sync may have dropped is written anew, and has no
    /// name that it does not have now.
    fn rewrite(&self, record: &Found, bytes: &[u8]) -> Result<(), Error> {
        let disk = &*self.disk;
        let (blob, folder, member) = self.places(record);
        let (member, spare) = (folder.join(member), self.staging("logged"));
        let _repository = self.lock_repository(&record.workspace, &record.repository);
        let _blob = self.lock_digest(&record.digest);
        let is_listed = self.is_there(&member)?;
        if is_listed || self.is_there(&blob)? {
            self.put_in_place(bytes, &blob)?;
        }
        if !is_listed {
            return Ok(());
        }
        disk.link(&blob, &spare).map_err(Error::disk("linking", &blob))?;
        disk.rename(&spare, &member).map_err(Error::disk("renaming", &spare))
    }

    /// The blob's name in the pool, the folder of its member, and what it is called there.
    fn places(&self, record: &Found) -> (RelPath, RelPath, String) {
        let pool = self.pool(&record.workspace);
        let folder = layout::members(&record.workspace, &record.repository, MemberKind::Blob);
        (pool.blob(&record.digest), folder, layout::digest_file(&record.digest))
    }

    /// Writes anew what a failed sync may have dropped, where it still has its names.
    pub(super) fn redo_written(&self, file: &dyn File) -> Result<(), Error> {
        let bytes = read_up_to(file, &RelPath::new(layout::WAL), MOST_SEGMENT)?;
        let mut records = record::all(&bytes).into_iter();
        records.try_for_each(|record| self.rewrite(&record, &bytes[record.bytes.clone()]))
    }

    /// Writes these bytes as a new file, and gives it this name.
    fn put_in_place(&self, bytes: &[u8], path: &RelPath) -> Result<(), Error> {
        let (disk, own) = (&*self.disk, self.staging("logged"));
        let file = disk.create(&own, Create::Buffered).map_err(Error::disk("creating", &own))?;
        write_all_at(&*file, bytes, 0).map_err(Error::disk("writing", &own))?;
        self.clear(path)?;
        disk.rename(&own, path).map_err(Error::disk("renaming", &own))
    }

    /// No folder may stand where a file is to be.
    fn clear(&self, path: &RelPath) -> Result<(), Error> {
        match self.disk.stat(path).is_ok_and(|stat| stat.kind == Kind::Folder) {
            true => self.remove_tree(path),
            false => Ok(()),
        }
    }
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
