//! A blob that comes in parts. It is hashed while it is written, in `uploads/`, and what somebody was
//! told that has come is durable: another process can go on with it.

use std::collections::BTreeMap;
use std::io;

use super::Repository;
use super::record::{self, Belongs, Found, Mark, UploadId};
use crate::buffer::{Buffer, STEP};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::disk::{Create, File, RelPath, read_exact_at, write_all_at};
use crate::draft::Taken;
use crate::durable::Unsynced;
use crate::error::Error;
use crate::layout;
use crate::linking::{Linking, Scraps};
use crate::oci::Refusal;
use crate::reader::hash;
use crate::source::{Reading, Source};
use crate::store::Store;

/// How much room is asked for at once: nobody says how much will come.
const GROWTH: u64 = 16 << 20;
/// After so many bytes of one body what came is made durable, so that of a long one that breaks off
/// in a crash no more than this comes again.
const NOTED_EVERY: u64 = 64 << 20;

/// An upload. Dropped without being committed or kept, it leaves nothing.
pub struct Upload {
    repository: Repository,
    id: UploadId,
    owner: String,
    algorithm: Algorithm,
    state: State,
}

enum State {
    /// Nothing came, and nothing is on disk.
    Empty,
    /// Nothing came, and an empty file and its record are on disk, for the next process.
    Resting,
    /// An earlier process left it; nobody has looked at its bytes yet.
    Asleep(BTreeMap<u64, Mark>),
    Open(Box<Open>),
    /// It is a blob now, or was left for the next process.
    Ended,
}

struct Open {
    file: Box<dyn File>,
    hasher: Hasher,
    offset: u64,
    /// How much of it is written down, durably.
    noted: u64,
    /// The records that there are, and the number of the next one.
    records: Vec<u64>,
    serial: u64,
    /// The disk failed in the middle: what is there cannot be gone on with.
    is_broken: bool,
    /// Syncs that had failed before anything of this was written.
    since: u64,
}

impl Store {
    /// The uploads that earlier processes left. Whoever drops one gives it up.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn uploads(&self) -> Result<Vec<Upload>, Error> {
        let asleep = |found: Found| Upload {
            repository: self.repository(&found.workspace, &found.repository),
            id: found.id,
            owner: found.owner,
            algorithm: found.algorithm,
            state: State::Asleep(found.marks),
        };
        Ok(record::all(&*self.inner.disk)?.into_iter().map(asleep).collect())
    }
}

impl Repository {
    /// An upload of a blob whose digest will most likely be of that algorithm. Nothing is made on disk
    /// before its first bytes come. `owner` is kept with it and means nothing here.
    pub fn upload(&self, id: UploadId, owner: &str, algorithm: Algorithm) -> Upload {
        let (repository, owner) = (self.clone(), owner.to_owned());
        Upload { repository, id, owner, algorithm, state: State::Empty }
    }
}

impl Upload {
    /// What it is called.
    pub fn id(&self) -> &UploadId {
        &self.id
    }

    /// Whose it is, as was said when it was begun.
    pub fn owner(&self) -> &str {
        &self.owner
    }

    /// The repository that it is for.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// What its bytes are hashed by as they come.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// How many bytes have come. Nobody knows of one that was not woken.
    pub fn offset(&self) -> u64 {
        match &self.state {
            State::Open(open) => open.offset,
            State::Empty | State::Resting | State::Asleep(_) | State::Ended => 0,
        }
    }

    /// Whether nothing at all has come.
    pub fn is_empty(&self) -> bool {
        matches!(self.state, State::Empty | State::Resting)
    }

    /// Whether it cannot be gone on with: the disk failed, or there was no room. Drop it.
    pub fn is_over(&self) -> bool {
        match &self.state {
            State::Open(open) => open.is_broken,
            State::Ended => true,
            State::Empty | State::Resting | State::Asleep(_) => false,
        }
    }

    /// Whether an earlier process left it, and it is to be woken.
    pub fn is_asleep(&self) -> bool {
        matches!(self.state, State::Asleep(_))
    }

    /// Hashes what an earlier process left, so that it can be gone on with: all that was
    /// acknowledged, or more.
    ///
    /// # Errors
    /// [`Error::NotFound`] when its bytes are not what was written down, [`Error::Stopped`],
    /// [`Error::Full`] when there is no room for a copy just now, [`Error::Disk`].
    pub fn wake(&mut self) -> Result<(), Error> {
        let State::Asleep(marks) = &self.state else { return Ok(()) };
        let inner = self.repository.inner();
        let path = record::bytes_of(&self.id);
        let not_found = || Error::NotFound { what: format!("the upload {}", self.id) };
        let file = match inner.disk.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(not_found()),
            other => other.map_err(Error::disk("opening", &path))?,
        };
        let since = inner.barrier.n_failed();
        let (offset, hasher) = self.agreeing(&*file, marks)?.ok_or_else(not_found)?;
        // After a sync that failed, what reads well may be in memory alone, and what was cut off could come
        // back; and those bytes may have a second name by now, and be sealed.
        inner.has_room(offset)?;
        let file = self.copy(&*file, offset, &hasher, &path)?;
        let records: Vec<u64> = marks.keys().copied().collect();
        let serial = records.last().map_or(0, |last| last.saturating_add(1));
        let (noted, is_broken) = (0, false);
        let open = Open { file, hasher, offset, noted, records, serial, is_broken, since };
        self.state = State::Open(Box::new(open));
        self.note()
    }

    /// Puts a copy of the first `len` bytes in the place of what came. They are synced, and their name is not.
    fn copy(
        &self,
        from: &dyn File,
        len: u64,
        expected: &Hasher,
        path: &RelPath,
    ) -> Result<Box<dyn File>, Error> {
        let disk = self.repository.disk();
        let scraps = Scraps::new(&self.repository.store);
        let spare = scraps.path("upload");
        let file =
            disk.create(&spare, Create::Buffered).map_err(Error::disk("creating", &spare))?;
        let (mut hasher, mut at, mut buffer) = (Hasher::new(self.algorithm), 0, vec![0; STEP]);
        while at < len {
            let most = usize::try_from(len - at).unwrap_or(STEP).min(STEP);
            let read = self.repository.stop.check();
            let read = read.and_then(|()| read_exact_at(from, &mut buffer[..most], at));
            read.map_err(Error::disk("reading", path))?;
            hasher.update(&buffer[..most]);
            write_all_at(&*file, &buffer[..most], at).map_err(Error::disk("writing", &spare))?;
            at += most as u64;
        }
        if hasher.finish() != expected.clone().finish() {
            return Err(Error::NotFound { what: format!("the upload {}", self.id) });
        }
        file.sync().map_err(Error::disk("syncing", &spare))?;
        disk.rename(&spare, path).map_err(Error::disk("renaming", &spare))?;
        Ok(file)
    }

    /// How far the bytes agree with a record, the newest that does.
    fn agreeing(
        &self,
        file: &dyn File,
        marks: &BTreeMap<u64, Mark>,
    ) -> Result<Option<(u64, Hasher)>, Error> {
        let mut marks: Vec<Mark> = marks.values().copied().collect();
        marks.sort_by_key(|mark| mark.len);
        let (mut hasher, mut at, mut best) = (Hasher::new(self.algorithm), 0, None);
        let mut buffer = vec![0; STEP];
        for mark in marks {
            while at < mark.len {
                let most = usize::try_from(mark.len - at).unwrap_or(STEP).min(STEP);
                let path = || record::bytes_of(&self.id);
                let stop = &self.repository.stop;
                match stop.check().and_then(|()| file.read_at(&mut buffer[..most], at)) {
                    Ok(0) => return Ok(best),
                    Ok(n) => {
                        hasher.update(&buffer[..n]);
                        at += n as u64;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(Error::disk("reading", &path())(error)),
                }
            }
            if hasher.clone().finish() == mark.digest {
                best = Some((at, hasher.clone()));
            }
        }
        Ok(best)
    }

    /// Adds all that the source has, and returns how many bytes have come since the beginning; they
    /// are durable then. Of a source that breaks off, what came stays.
    ///
    /// # Errors
    /// [`Error::SourceRead`], [`Error::SourceChanged`], [`Error::Quota`], [`Error::Full`],
    /// [`Error::NotFound`] when it has ended, [`Error::Disk`]; after all but the first nothing can be
    /// added any more.
    pub fn append(&mut self, source: Source<'_>) -> Result<u64, Error> {
        self.be_known()?;
        let added = self.add(source);
        if matches!(added, Ok(_) | Err(Error::SourceRead { .. })) {
            self.note()?;
        }
        added
    }

    /// The same for the last bytes, which [`Upload::commit`] makes durable.
    ///
    /// # Errors
    /// As [`Upload::append`].
    pub fn append_last(&mut self, source: Source<'_>) -> Result<u64, Error> {
        self.add(source)
    }

    fn add(&mut self, source: Source<'_>) -> Result<u64, Error> {
        self.begin()?;
        let mut reading = Reading::new(source)?;
        let mut buffer = Buffer::new(STEP);
        loop {
            let (filled, outcome) = reading.fill_what_comes(buffer.space());
            buffer.set_filled(filled);
            if filled > 0 {
                self.write(buffer.bytes())?;
            }
            if let Some(error) = outcome {
                return Err(error);
            }
            if !buffer.is_full() {
                break;
            }
            let open = self.open()?;
            if open.offset - open.noted >= NOTED_EVERY {
                self.note()?;
            }
        }
        let stayed = reading.stayed()?;
        let open = self.open()?;
        match stayed {
            true => Ok(open.offset),
            false => {
                // Nobody knows of which version what was read is.
                open.is_broken = true;
                Err(Error::SourceChanged { what: "the file".to_owned() })
            }
        }
    }

    /// Makes the file that the bytes go to, if there is none.
    fn begin(&mut self) -> Result<(), Error> {
        self.wake()?;
        if !self.is_empty() {
            return self.open().map(drop);
        }
        let inner = self.repository.inner();
        inner.has_room(0)?;
        inner.ensure_workspace(&self.repository.workspace)?;
        let since = inner.barrier.n_failed();
        let path = record::bytes_of(&self.id);
        let is_known = matches!(self.state, State::Resting);
        if is_known {
            inner.disk.unlink(&path).map_err(Error::disk("removing", &path))?;
        }
        let file = inner.disk.create(&path, Create::Buffered);
        let file = file.map_err(Error::disk("creating", &path))?;
        let records: Vec<u64> = is_known.then_some(0).into_iter().collect();
        let (hasher, serial) = (Hasher::new(self.algorithm), records.len() as u64);
        let (offset, noted, is_broken) = (0, 0, false);
        let open = Open { file, hasher, offset, noted, records, serial, is_broken, since };
        self.state = State::Open(Box::new(open));
        Ok(())
    }

    fn belongs(&self) -> Belongs {
        Belongs {
            owner: self.owner.clone(),
            workspace: self.repository.workspace.to_string(),
            repository: self.repository.name.to_string(),
        }
    }

    fn open(&mut self) -> Result<&mut Open, Error> {
        match &mut self.state {
            State::Open(open) if open.is_broken => {
                let error = io::Error::other("this upload failed before");
                Err(Error::disk("writing", &record::bytes_of(&self.id))(error))
            }
            State::Open(open) => Ok(open),
            State::Empty | State::Resting | State::Asleep(_) | State::Ended => {
                Err(Error::NotFound { what: format!("the upload {}", self.id) })
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let repository = self.repository.clone();
        let (inner, path) = (repository.inner(), record::bytes_of(&self.id));
        let open = self.open()?;
        let end = open.offset.saturating_add(bytes.len() as u64);
        let grows = end.div_ceil(GROWTH) > open.offset.div_ceil(GROWTH);
        let room = inner.admit(end).and_then(|()| match grows {
            true => inner.has_room(GROWTH),
            false => Ok(()),
        });
        let written = room.and_then(|()| {
            write_all_at(&*open.file, bytes, open.offset).map_err(Error::disk("writing", &path))
        });
        open.is_broken = written.is_err();
        written?;
        open.hasher.update(bytes);
        open.offset = end;
        Ok(())
    }

    /// Makes what came durable, and writes down how much that is.
    fn note(&mut self) -> Result<(), Error> {
        let (repository, id, belongs) = (self.repository.clone(), self.id.clone(), self.belongs());
        let (inner, disk) = (repository.inner(), repository.disk());
        let open = self.open()?;
        if !open.records.is_empty() && open.noted == open.offset {
            return Ok(());
        }
        let bytes = record::bytes_of(&id);
        let mark = Mark { len: open.offset, digest: open.hasher.clone().finish() };
        let mut unsynced = Unsynced { since: open.since, ..Unsynced::default() };
        let mut note = || {
            match open.offset - open.noted >= inner.options.pipeline_from {
                // By itself: others who sync meanwhile need not wait for all of it.
                true => open.file.sync().map_err(Error::disk("syncing", &bytes))?,
                false => unsynced.files.push(bytes.clone()),
            }
            record::write(disk, &id, open.serial, &belongs, mark)?;
            unsynced.files.push(record::path(&id, open.serial));
            unsynced.folders.push(RelPath::new(layout::UPLOADS));
            inner.settle(&unsynced)
        };
        let noted = note();
        open.is_broken = noted.is_err();
        if noted.is_err() {
            // What a sync lost can still be read: the next process is not to find that it came.
            let _ = disk.unlink(&record::path(&id, open.serial));
        }
        noted?;
        for old in open.records.drain(..) {
            let _ = disk.unlink(&record::path(&id, old));
        }
        open.records.push(open.serial);
        (open.noted, open.serial) = (mark.len, open.serial + 1);
        Ok(())
    }

    /// Makes what came a blob of the repository, if it has that digest; listed and durable when
    /// this returns.
    ///
    /// # Errors
    /// [`Error::Refused`] with a mismatch, [`Error::NotFound`] when it has ended, [`Error::Disk`].
    pub fn commit(&mut self, claimed: &Digest) -> Result<Taken, Error> {
        self.begin()?;
        let (repository, path) = (self.repository.clone(), record::bytes_of(&self.id));
        let inner = repository.inner();
        let open = self.open()?;
        let (algorithm, size) = (claimed.algorithm(), open.offset);
        let hashed = open.hasher.clone().finish();
        let actual = match hashed.algorithm() == algorithm {
            true => hashed,
            // It was begun without a word on the algorithm.
            false => {
                hash(&*open.file, algorithm, size, &repository.stop)
                    .map_err(Error::disk("reading", &path))?
                    .0
            }
        };
        if actual != *claimed {
            return Err(Refusal::Mismatch { claimed: *claimed, actual }.into());
        }
        let scraps = Scraps::new(&repository.store);
        let linking = Linking::new(inner, inner.pool(&repository.workspace), &scraps);
        let mut unsynced = Unsynced { since: open.since, ..Unsynced::default() };
        match open.offset - open.noted >= inner.options.pipeline_from {
            true => {
                let synced = open.file.sync();
                // It is told once. Who asked again would hear that all is well.
                open.is_broken = synced.is_err();
                synced.map_err(Error::disk("syncing", &path))?;
            }
            false if open.records.is_empty() || open.noted < open.offset => {
                unsynced.files.push(path.clone());
            }
            false => {}
        }
        inner.mend_lost(claimed)?;
        // By a second name: a crash must find the upload, or the blob.
        let own = scraps.path("blob");
        inner.disk.link(&path, &own).map_err(Error::disk("linking", &path))?;
        repository.list_blob(claimed, &own, unsynced, false, &linking)?;
        self.remove();
        Ok(Taken { digest: *claimed, size })
    }

    /// Leaves it for the next process. What was acknowledged is durable already; that it was begun is
    /// if the disk is synced before the power goes.
    pub fn keep(mut self) {
        if let Err(error) = self.rest() {
            tracing::warn!(id = %self.id, %error, "an upload is not kept");
            return;
        }
        self.state = State::Ended;
    }

    /// Lets the next process know of one of which nothing came yet. It holds nothing open until something comes.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Disk`].
    pub fn rest(&mut self) -> Result<(), Error> {
        if let State::Empty = self.state {
            if let Err(error) = self.be_known() {
                self.remove();
                self.state = State::Empty;
                return Err(error);
            }
            self.state = State::Resting;
        }
        Ok(())
    }

    /// Writes down that it was begun, before anything of it is durable: the next process knows of it even if this
    /// one is killed.
    fn be_known(&mut self) -> Result<(), Error> {
        match self.state {
            State::Empty => self.begin()?,
            State::Resting => return self.begin(),
            _ => return Ok(()),
        }
        let belongs = self.belongs();
        let nothing = Mark { len: 0, digest: Hasher::new(self.algorithm).finish() };
        record::write(self.repository.disk(), &self.id, 0, &belongs, nothing)?;
        let open = self.open()?;
        open.records.push(0);
        open.serial = 1;
        Ok(())
    }

    /// Takes away what is left of it on disk: the records first, so that nothing begins without bytes.
    fn remove(&mut self) {
        let records: Vec<u64> = match std::mem::replace(&mut self.state, State::Ended) {
            State::Empty | State::Ended => return,
            State::Resting => vec![0],
            State::Asleep(marks) => marks.into_keys().collect(),
            State::Open(open) => open.records.into_iter().chain([open.serial]).collect(),
        };
        let disk = self.repository.disk();
        for serial in records {
            let _ = disk.unlink(&record::path(&self.id, serial));
        }
        let _ = disk.unlink(&record::bytes_of(&self.id));
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.remove();
    }
}
