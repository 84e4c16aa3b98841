//! A blob that comes in parts. It is hashed while it is written, in `staging/`: an upload lives as
//! long as the process, and what of it was not committed goes with it.

use super::Repository;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::disk::{Create, File, RelPath, write_all_at};
use crate::draft::Taken;
use crate::durable::Unsynced;
use crate::error::Error;
use crate::linking::{Linking, Scraps};
use crate::oci::Refusal;
use crate::reader::hash;
use crate::source::{Reading, Source};

/// Bytes that go through at once.
const STEP: usize = 128 << 10;
/// How much room is asked for at once: nobody says how much will come.
const GROWTH: u64 = 16 << 20;

/// An upload that was begun. Dropped without being committed, it leaves nothing.
pub struct Upload {
    repository: Repository,
    scraps: Scraps,
    path: RelPath,
    file: Box<dyn File>,
    hasher: Hasher,
    offset: u64,
    /// The disk failed in the middle: what is there cannot be gone on with.
    is_broken: bool,
    /// Syncs that had failed before anything of this was written.
    since: u64,
}

impl Repository {
    /// Begins an upload of a blob whose digest will most likely be of that algorithm.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Disk`].
    pub fn begin_upload(&self, algorithm: Algorithm) -> Result<Upload, Error> {
        let inner = self.inner();
        inner.has_room(0)?;
        inner.ensure_workspace(&self.workspace)?;
        let scraps = Scraps::new(&self.store);
        let path = scraps.path("upload");
        let since = inner.barrier.n_failed();
        let file = self.disk().create(&path, Create::Buffered);
        let file = file.map_err(Error::disk("creating", &path))?;
        let (repository, hasher) = (self.clone(), Hasher::new(algorithm));
        let (offset, is_broken) = (0, false);
        Ok(Upload { repository, scraps, path, file, hasher, offset, is_broken, since })
    }
}

impl Upload {
    /// How many bytes have come.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Adds all that the source has, and returns how many bytes have come since the beginning. Of a
    /// source that breaks off, what came stays.
    ///
    /// # Errors
    /// [`Error::SourceRead`], [`Error::SourceChanged`], [`Error::Quota`], [`Error::Full`],
    /// [`Error::Disk`]; after the last three nothing can be added any more.
    pub fn append(&mut self, source: Source<'_>) -> Result<u64, Error> {
        let mut reading = Reading::new(source)?;
        let mut buffer = vec![0; STEP];
        loop {
            let filled = match reading.fill_what_comes(&mut buffer) {
                (0, None) => break,
                (filled, outcome) => {
                    self.write(&buffer[..filled])?;
                    match outcome {
                        Some(error) => return Err(error),
                        None => filled,
                    }
                }
            };
            if filled < buffer.len() {
                break;
            }
        }
        match reading.stayed()? {
            true => Ok(self.offset),
            false => {
                // Nobody knows of which version what was read is.
                self.is_broken = true;
                Err(Error::SourceChanged { what: "the file".to_owned() })
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.check()?;
        let inner = self.repository.inner();
        let end = self.offset.saturating_add(bytes.len() as u64);
        let grows = end.div_ceil(GROWTH) > self.offset.div_ceil(GROWTH);
        let room = inner.admit(end).and_then(|()| match grows {
            true => inner.has_room(GROWTH),
            false => Ok(()),
        });
        let written = room.and_then(|()| {
            write_all_at(&*self.file, bytes, self.offset)
                .map_err(Error::disk("writing", &self.path))
        });
        self.is_broken = written.is_err();
        written?;
        self.hasher.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn check(&self) -> Result<(), Error> {
        match self.is_broken {
            false => Ok(()),
            true => Err(Error::disk("writing", &self.path)(std::io::Error::other(
                "this upload failed before",
            ))),
        }
    }

    /// Makes what came a blob of the repository, if it has that digest; listed and durable when
    /// this returns.
    ///
    /// # Errors
    /// [`Error::Refused`] with a mismatch, [`Error::Disk`].
    pub fn commit(self, claimed: &Digest) -> Result<Taken, Error> {
        self.check()?;
        let repository = &self.repository;
        let inner = repository.inner();
        let (algorithm, size) = (claimed.algorithm(), self.offset);
        let hashed = self.hasher.clone().finish();
        let actual = match hashed.algorithm() == algorithm {
            true => hashed,
            // It was begun without a word on the algorithm.
            false => {
                hash(&*self.file, algorithm, size, &repository.stop)
                    .map_err(Error::disk("reading", &self.path))?
                    .0
            }
        };
        if actual != *claimed {
            return Err(Refusal::Mismatch { claimed: *claimed, actual }.into());
        }
        let pool = inner.pool(&repository.workspace);
        let linking = Linking { inner, pool, scraps: &self.scraps };
        let mut unsynced = Unsynced { since: self.since, ..Unsynced::default() };
        match size >= inner.options.pipeline_from {
            // By itself: others who sync meanwhile need not wait for all of it.
            true => self.file.sync().map_err(Error::disk("syncing", &self.path))?,
            false => unsynced.files.push(self.path.clone()),
        }
        repository.list_blob(claimed, &self.path, unsynced, false, &linking)?;
        Ok(Taken { digest: *claimed, size })
    }
}
