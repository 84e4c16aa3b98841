//! The write-ahead log: small pushed blobs are durable here first, many by one write and one sync.
//!
//! A small blob costs little to write and much to sync, as a file and a folder. So its bytes go to the log
//! as well, together with those of all who push in that moment; one sync later it may have its names, and
//! nobody syncs those. After a crash the next start gives every blob of the log its bytes and names again.
//! What the log holds is durable for the names that it was logged for, and for no others: who gives its
//! file another name asks [`Inner::rest_on`] first.
//!
//! There are two segments, files that are written over and never grow. One takes records until it is full;
//! then a sync of everything makes its blobs durable where they are, and it is empty again. Who ends a name
//! that the log would bring back empties it before he says so: [`Inner::settle_ended`].

mod record;
mod redo;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::disk::{Create, File, RelPath, write_all_at};
use crate::durable::{Turns, Unsynced, settle_way};
use crate::error::Error;
use crate::layout;
use crate::store::{Inner, lock};

use record::PAGE;
pub(crate) use record::Record;

/// Larger blobs are synced by themselves: to write them twice costs more than it saves.
pub(crate) const MOST_BYTES: u64 = 64 << 10;
const N_SEGMENTS: usize = 2;
/// Bytes of a segment at most.
const MOST_SEGMENT: u64 = 64 << 20;
/// What is written at once into a new segment.
const STEP: u64 = 1 << 20;

pub(crate) struct Wal {
    /// Bytes of a segment; without any there is no log.
    size: u64,
    state: Mutex<State>,
    /// Told when a blob has its names.
    named: Condvar,
    writes: Turns,
    emptied: Turns,
    /// Held by the one who empties a segment.
    emptying: Mutex<()>,
}

#[derive(Default)]
struct State {
    segments: [Segment; N_SEGMENTS],
    /// The one that takes records.
    current: usize,
    generation: u64,
}

#[derive(Default)]
struct Segment {
    file: Option<Arc<dyn File>>,
    generation: u64,
    /// Where the next record begins.
    end: u64,
    /// The last records, which are not written yet.
    pending: Vec<u8>,
    /// Records whose blobs do not have their names yet.
    n_unnamed: u64,
    /// How many syncs had failed before the first of its blobs was written.
    since: u64,
    blobs: HashSet<Digest>,
    /// It takes no more records until it was emptied.
    is_full: bool,
    /// Where a write failed.
    broken_at: Option<u64>,
}

/// A blob that is durable in the log and is about to get its names.
pub(crate) struct Logged<'a> {
    wal: &'a Wal,
    segment: usize,
    at: u64,
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        lock(&self.wal.state).segments[self.segment].n_unnamed -= 1;
        self.wal.named.notify_all();
    }
}

impl Wal {
    pub(crate) fn new(size: u64) -> Wal {
        Wal {
            size: size.min(MOST_SEGMENT) / PAGE as u64 * PAGE as u64,
            state: Mutex::default(),
            named: Condvar::new(),
            writes: Turns::new(1),
            emptied: Turns::new(1),
            emptying: Mutex::default(),
        }
    }

    /// Gives a record its place. Nothing when there is none: the blob is to be synced by itself.
    fn append(&self, inner: &Inner, record: &Record<'_>, since: u64) -> Option<Logged<'_>> {
        let mut state = lock(&self.state);
        let end = |segment: &Segment| segment.end + record.size() as u64;
        let fits = |segment: &Segment| !segment.is_full && end(segment) <= self.size;
        let (current, next) = (state.current, 1 - state.current);
        if !fits(&state.segments[current]) {
            if !fits(&state.segments[next]) {
                return None;
            }
            state.segments[current].is_full = true;
            state.current = next;
        }
        let (number, generation) = (state.current, state.generation + 1);
        let segment = &mut state.segments[number];
        if segment.file.is_none() {
            segment.file = Some(self.make(inner, number)?);
        }
        let is_first = segment.end == 0;
        if is_first {
            (segment.generation, segment.since) = (generation, since);
        }
        segment.since = segment.since.min(since);
        let since = segment.since;
        let at = segment.end;
        segment.end = end(segment);
        record.write(segment.generation, &mut segment.pending);
        segment.n_unnamed += 1;
        segment.blobs.insert(*record.digest);
        state.generation += u64::from(is_first);
        // The two may be records of one file: what a failed sync took of it, it took from both.
        let other = &mut state.segments[1 - number];
        if other.blobs.contains(record.digest) {
            let since = other.since.min(since);
            other.since = since;
            state.segments[number].since = since;
        }
        Some(Logged { wal: self, segment: number, at })
    }

    /// A new segment, durable, with a block for each of its bytes. That there is no room for one is no
    /// failure.
    fn make(&self, inner: &Inner, number: usize) -> Option<Arc<dyn File>> {
        let path = layout::segment(number);
        // Where there is little room, it is for blobs.
        if inner.disk.space().is_ok_and(|space| space.free / 8 < self.size) {
            return None;
        }
        let made = inner.has_room(self.size).and_then(|()| {
            let file = inner.disk.create(&path, Create::Buffered);
            let file = file.map_err(Error::disk("creating", &path))?;
            let zeros = vec![0; usize::try_from(STEP.min(self.size)).unwrap_or(PAGE)];
            let mut at = 0;
            while at < self.size {
                let part = zeros.len().min(usize::try_from(self.size - at).unwrap_or(PAGE));
                write_all_at(&*file, &zeros[..part], at).map_err(Error::disk("writing", &path))?;
                at += part as u64;
            }
            inner.barrier.counted(file.sync()).map_err(Error::disk("syncing", &path))?;
            inner.barrier.counted(settle_way(&*inner.disk, &RelPath::new(layout::WAL)))?;
            Ok(file.into())
        });
        match made {
            Ok(file) => Some(file),
            Err(error) => {
                tracing::warn!(%error, "the log cannot be used just now");
                let _ = inner.disk.unlink(&path);
                None
            }
        }
    }

    /// Writes what has come since the last time. Who waited for it sees then whether his record is among
    /// what could be written: see [`Wal::is_lost`].
    fn write(&self) -> io::Result<()> {
        let mut parts = Vec::with_capacity(N_SEGMENTS);
        for (number, segment) in lock(&self.state).segments.iter_mut().enumerate() {
            let bytes = std::mem::take(&mut segment.pending);
            let at = segment.end - bytes.len() as u64;
            let file = segment.file.clone().filter(|_| segment.broken_at.is_none());
            parts.extend(file.filter(|_| !bytes.is_empty()).map(|file| (number, file, bytes, at)));
        }
        let mut written = Ok(());
        for (number, file, bytes, at) in parts {
            let part = write_all_at(&*file, &bytes, at).and_then(|()| file.sync());
            if part.is_err() {
                let segment = &mut lock(&self.state).segments[number];
                (segment.is_full, segment.broken_at) = (true, Some(at));
            }
            written = written.and(part);
        }
        written
    }

    /// Whether a record is behind a write that failed: then it would not be found.
    fn is_lost(&self, logged: &Logged<'_>) -> bool {
        let broken_at = lock(&self.state).segments[logged.segment].broken_at;
        broken_at.is_some_and(|at| at <= logged.at)
    }

    fn is_empty(&self) -> bool {
        lock(&self.state).segments.iter().all(|segment| segment.end == 0)
    }

    /// The number of failed syncs from which on the log answers for a blob; nothing when it does not.
    fn since(&self, digest: &Digest) -> Option<u64> {
        let state = lock(&self.state);
        let holding = state.segments.iter().filter(|segment| segment.blobs.contains(digest));
        holding.map(|segment| segment.since).min()
    }

    fn wait_for_names(&self, number: usize) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        while state.segments[number].n_unnamed > 0 {
            state = self.named.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Makes the blobs of a full segment durable where they are; then it takes records again.
    fn empty_segment(&self, inner: &Inner, number: usize) -> Result<(), Error> {
        let state = self.wait_for_names(number);
        let segment = &state.segments[number];
        let (since, file) = (segment.since, segment.file.clone());
        drop(state);
        let Some(file) = file else { return Ok(()) };
        let disk = &*inner.disk;
        let synced = inner.barrier.sync_all(disk);
        if synced.is_err() || inner.barrier.n_failed_soon() != since {
            // Its blobs may have been dropped from memory, and be nowhere but in the log.
            let since = inner.barrier.n_failed();
            inner.release_reserve();
            inner.redo_written(&*file)?;
            inner.barrier.sync_all(disk).map_err(Error::disk("syncing", &RelPath::root()))?;
            inner.barrier.n_failed_soon();
            inner.barrier.none_failed(since)?;
            inner.refill_reserve();
        }
        let path = layout::segment(number);
        write_all_at(&*file, &[0; PAGE], 0).map_err(Error::disk("writing", &path))?;
        inner.barrier.counted(file.sync()).map_err(Error::disk("syncing", &path))?;
        let segment = &mut lock(&self.state).segments[number];
        *segment = Segment { file: segment.file.take(), ..Segment::default() };
        Ok(())
    }

    fn full(&self) -> Option<usize> {
        lock(&self.state).segments.iter().position(|segment| segment.is_full)
    }

    /// Empties all that has records now. Everything was synced since when this returns, records or not:
    /// somebody else may just have emptied them, by a sync that began before.
    fn empty(&self, inner: &Inner) -> Result<(), Error> {
        let _emptying = lock(&self.emptying);
        let until = lock(&self.state).generation;
        let mut is_synced = false;
        for _ in 0..N_SEGMENTS {
            let Some(number) = self.close(until) else { break };
            self.empty_segment(inner, number)?;
            is_synced = true;
        }
        match is_synced {
            true => Ok(()),
            false => {
                let synced = inner.barrier.sync_all(&*inner.disk);
                synced.map_err(Error::disk("syncing", &RelPath::root()))
            }
        }
    }

    /// A segment that has records and takes no more of them, none that is younger than that.
    fn close(&self, until: u64) -> Option<usize> {
        let mut state = lock(&self.state);
        let has_old = |segment: &Segment| segment.end > 0 && segment.generation <= until;
        let is_full = |segment: &Segment| segment.is_full && has_old(segment);
        let full = state.segments.iter().position(is_full);
        let current = Some(state.current).filter(|current| has_old(&state.segments[*current]));
        let number = full.or(current)?;
        state.segments[number].is_full = true;
        Some(number)
    }
}

impl Inner {
    /// Makes a blob durable in the log. Nothing when the log is not for it, or has no room just now.
    pub(crate) fn log(&self, record: &Record<'_>, since: u64) -> Result<Option<Logged<'_>>, Error> {
        let wal = &self.wal;
        // What others have not written would hold up the sync that empties it.
        if wal.size == 0 || record.bytes.len() as u64 > MOST_BYTES || self.disk.is_crowded() {
            return Ok(None);
        }
        let Some(logged) = wal.append(self, record, since) else { return Ok(None) };
        let written = wal.writes.wait(|| self.barrier.counted(wal.write()));
        let written = written.and_then(|()| match wal.is_lost(&logged) {
            true => Err(io::Error::other("a write of the log failed")),
            false => Ok(()),
        });
        written.map_err(Error::disk("writing", &RelPath::new(layout::WAL)))?;
        Ok(Some(logged))
    }

    /// Empties a segment that is full, unless somebody does so already. That it fails is no failure of who
    /// asks: the log keeps what it has.
    pub(crate) fn relieve_log(&self) {
        let Some(full) = self.wal.full().filter(|_| !self.disk.is_crowded()) else { return };
        let Ok(_emptying) = self.wal.emptying.try_lock() else { return };
        if self.wal.full() != Some(full) {
            return;
        }
        if let Err(error) = self.wal.empty_segment(self, full) {
            tracing::error!(%error, "the log cannot be emptied");
        }
    }

    /// Empties the log of all that is in it now.
    pub(crate) fn empty_log(&self) -> Result<(), Error> {
        let emptied = self.wal.emptied.wait(|| self.wal.empty(self).map_err(into_io));
        emptied.map_err(Error::disk("emptying", &RelPath::new(layout::WAL)))
    }

    /// Makes it durable that names were ended, also for the log.
    pub(crate) fn settle_ended(&self, unsynced: &Unsynced) -> Result<(), Error> {
        if self.wal.is_empty() {
            return self.settle(unsynced);
        }
        // With a sync of everything.
        self.empty_log()?;
        self.barrier.none_failed(unsynced.since)
    }

    /// Empties the log if it would bring a blob back.
    pub(crate) fn forget_logged(&self, digest: &Digest) -> Result<(), Error> {
        match self.wal.since(digest) {
            None => Ok(()),
            Some(_) => self.empty_log(),
        }
    }

    /// Whether a blob is durable in the log alone; then its file may be believed, and is to be synced. What a
    /// failed sync dropped of it is not.
    pub(crate) fn is_logged(&self, digest: &Digest) -> Result<bool, Error> {
        let Some(since) = self.wal.since(digest) else { return Ok(false) };
        self.barrier.none_failed(since).map(|()| true)
    }

    /// Makes the file of a blob safe by itself, because it got a name, or is to get one, that the log does not
    /// know. `false` when a failed sync may have dropped its bytes: then it is not to be used before the log
    /// was emptied, which gives the blob another file.
    pub(crate) fn rest_on(&self, digest: &Digest, path: &RelPath) -> Result<bool, Error> {
        let Some(since) = self.wal.since(digest) else { return Ok(true) };
        let file = match self.disk.open(path) {
            // Nothing is there that could get a name; who makes one sees that himself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            other => other.map_err(Error::disk("opening", path))?,
        };
        self.barrier.counted(file.sync()).map_err(Error::disk("syncing", path))?;
        // A sync that failed before this one is perhaps told of only now.
        Ok(self.barrier.n_failed_soon() == since)
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Disk { source, .. } => source,
        other => io::Error::other(other),
    }
}
