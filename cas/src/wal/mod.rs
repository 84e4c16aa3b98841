//! The write-ahead log: what is pushed and small is durable here first, many by one write and one sync.
//!
//! A small blob costs little to write and much to sync, as a file and a folder, and a manifest is a dozen
//! of those. So their bytes go to the log as well, together with those of all who push in that moment; one
//! sync later a blob may have its names, and a manifest its layout, its listing and its tags, and nobody
//! syncs those. After a crash the next start makes all of it again that the log tells of.
//! What the log holds is durable for the names that it was logged for, and for no others: who gives its
//! file another name asks [`Inner::rest_on`] first. What is not in the log of a manifest must be durable
//! without it: its children, as members of its repository.
//!
//! There are two segments, files that are written over and never grow. One takes records until it is full;
//! then a sync of everything makes what they tell of durable where it is, and it is empty again. Who ends a
//! name that the log would bring back empties it before he says so, [`Inner::settle_ended`], and so does who
//! moves one that the log would move back, [`Inner::settle_moved`].

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

use record::{PAGE, Use};
pub(crate) use record::{Record, Sealing};

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
    /// Told when what is in a record has its names.
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
    /// Names that a record is about to move, one at a time, so that they move in the order of the records.
    moving: HashSet<RelPath>,
}

#[derive(Default)]
struct Segment {
    file: Option<Arc<dyn File>>,
    of: Use,
    /// Where the next record begins.
    end: u64,
    /// The last records, which are not written yet.
    pending: Vec<u8>,
    /// Records of what does not have its names yet.
    n_unnamed: u64,
    /// How many syncs had failed before the first of its files was written.
    since: u64,
    /// Whose bytes its records have.
    blobs: HashSet<Digest>,
    /// Layouts, listings and tags that its records would make again.
    names: HashSet<RelPath>,
    /// Members that its manifests could not be made again without.
    rests_on: HashSet<RelPath>,
    /// It takes no more records until it was emptied.
    is_full: bool,
    /// Where a write failed.
    broken_at: Option<u64>,
}

/// A record that has its place in the log, and what it tells of does not have its names yet.
pub(crate) struct Logged<'a> {
    wal: &'a Wal,
    segment: usize,
    at: u64,
    moving: Vec<RelPath>,
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        let mut state = lock(&self.wal.state);
        state.segments[self.segment].n_unnamed -= 1;
        for name in &self.moving {
            state.moving.remove(name);
        }
        drop(state);
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

    /// Gives a record its place. Nothing when there is none: what it tells of is to be synced by itself.
    fn append(&self, inner: &Inner, record: &Record<'_>, since: u64) -> Option<Logged<'_>> {
        let names = record.names();
        // A blob is the same wherever its listing leads.
        let moving = if record.manifest.is_some() { names.clone() } else { Vec::new() };
        if !record.fits() {
            return None;
        }
        let mut state = lock(&self.state);
        if moving.iter().any(|name| state.moving.contains(name)) {
            return None;
        }
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
            (segment.of, segment.since) = (Use::new(generation), since);
        }
        segment.since = segment.since.min(since);
        let since = segment.since;
        let at = segment.end;
        segment.end = end(segment);
        record.write(segment.of, &mut segment.pending);
        segment.n_unnamed += 1;
        segment.blobs.insert(*record.digest);
        segment.names.extend(names);
        segment.rests_on.extend(record.rests_on());
        state.moving.extend(moving.iter().cloned());
        state.generation += u64::from(is_first);
        // The two may be records of one file: what a failed sync took of it, it took from both.
        let other = &mut state.segments[1 - number];
        if other.blobs.contains(record.digest) {
            let since = other.since.min(since);
            other.since = since;
            state.segments[number].since = since;
        }
        Some(Logged { wal: self, segment: number, at, moving })
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

    /// Whether it would bring one of these back.
    fn has_any(&self, names: &[RelPath]) -> bool {
        let state = lock(&self.state);
        names.iter().any(|name| state.segments.iter().any(|segment| segment.names.contains(name)))
    }

    /// Its files, the older one first.
    fn files(&self) -> Vec<Arc<dyn File>> {
        let state = lock(&self.state);
        let mut segments: Vec<&Segment> = state.segments.iter().collect();
        segments.sort_by_key(|segment| segment.of.generation);
        segments.iter().filter_map(|segment| segment.file.clone()).collect()
    }

    fn wait_for_names(&self, number: usize) -> MutexGuard<'_, State> {
        let mut state = lock(&self.state);
        while state.segments[number].n_unnamed > 0 {
            state = self.named.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state
    }

    /// Makes what a full segment tells of durable where it is; then it takes records again.
    fn empty_segment(&self, inner: &Inner, number: usize) -> Result<(), Error> {
        let state = self.wait_for_names(number);
        let segment = &state.segments[number];
        let (since, file) = (segment.since, segment.file.clone());
        drop(state);
        let Some(file) = file else { return Ok(()) };
        let disk = &*inner.disk;
        let synced = inner.barrier.sync_all(disk);
        if synced.is_err() || inner.barrier.n_failed_soon() != since {
            // Its files may have been dropped from memory, and be nowhere but in the log; and a layout holds
            // blobs of the other segment as well.
            let since = inner.barrier.n_failed();
            inner.release_reserve();
            inner.redo_written(&self.files())?;
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
        oldest(&lock(&self.state).segments, |segment| segment.is_full)
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
        let has_old = |segment: &Segment| segment.end > 0 && segment.of.generation <= until;
        let full = oldest(&state.segments, |segment| segment.is_full && has_old(segment));
        let current = Some(state.current).filter(|current| has_old(&state.segments[*current]));
        let number = full.or(current)?;
        state.segments[number].is_full = true;
        Some(number)
    }
}

/// Records go before younger ones: a name may have moved twice.
fn oldest(segments: &[Segment], is_one: impl Fn(&Segment) -> bool) -> Option<usize> {
    let found = segments.iter().enumerate().filter(|(_, segment)| is_one(segment));
    found.min_by_key(|(_, segment)| segment.of.generation).map(|(number, _)| number)
}

impl Inner {
    /// Gives a record its place in the log; it is not durable before [`Inner::write_log`]. Nothing when the
    /// log is not for it, or has no room just now. Of two records of one name the one that comes first here
    /// is the older one; a name that is about to move is for nobody else.
    pub(crate) fn log(&self, record: &Record<'_>, since: u64) -> Option<Logged<'_>> {
        // What others have not written would hold up the sync that empties it.
        if self.wal.size == 0 || record.bytes.len() as u64 > MOST_BYTES || self.disk.is_crowded() {
            return None;
        }
        self.wal.append(self, record, since)
    }

    /// Makes what has its place in the log durable.
    pub(crate) fn write_log(&self, logged: &Logged<'_>) -> Result<(), Error> {
        let wal = &self.wal;
        let written = wal.writes.wait(|| self.barrier.counted(wal.write()));
        let written = written.and_then(|()| match wal.is_lost(logged) {
            true => Err(io::Error::other("a write of the log failed")),
            false => Ok(()),
        });
        written.map_err(Error::disk("writing", &RelPath::new(layout::WAL)))
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

    /// Makes it durable that names were moved, also for a log that would move them back.
    pub(crate) fn settle_moved(&self, unsynced: &Unsynced, names: &[RelPath]) -> Result<(), Error> {
        match self.wal.has_any(names) {
            true => self.settle_ended(unsynced),
            false => self.settle(unsynced),
        }
    }

    /// Whether the log has a manifest that could not be made again without this member. Who is about to end it
    /// asks, while others are excluded from the repository, and empties the log first, or leaves it.
    pub(crate) fn log_rests_on(&self, member: &RelPath) -> bool {
        lock(&self.wal.state).segments.iter().any(|segment| segment.rests_on.contains(member))
    }

    /// Makes it durable that these names are not there, before somebody is told: `is_unsettled` says that they
    /// may have been ended a moment ago, by somebody whose sync failed.
    pub(crate) fn settle_gone(
        &self,
        is_unsettled: bool,
        unsynced: &Unsynced,
        names: &[RelPath],
    ) -> Result<(), Error> {
        match is_unsettled {
            true => self.settle_moved(unsynced, names),
            false => self.forget_names(names),
        }
    }

    /// Whether the log would make this name again.
    pub(crate) fn log_has(&self, name: &RelPath) -> bool {
        self.wal.has_any(std::slice::from_ref(name))
    }

    /// Empties the log if it would bring one of these names back.
    pub(crate) fn forget_names(&self, names: &[RelPath]) -> Result<(), Error> {
        match self.wal.has_any(names) {
            true => self.empty_log(),
            false => Ok(()),
        }
    }

    /// Whether a blob is durable in the log alone; then its file may be believed, and is to be synced. What a
    /// failed sync dropped of it is not.
    pub(crate) fn is_logged(&self, digest: &Digest) -> Result<bool, Error> {
        let Some(since) = self.wal.since(digest) else { return Ok(false) };
        self.barrier.none_failed(since).map(|()| true)
    }

    /// Writes a blob of the log anew if a failed sync may have dropped it. Says whether it did.
    pub(crate) fn mend_lost(&self, digest: &Digest) -> Result<bool, Error> {
        match self.is_logged(digest) {
            Ok(_) => Ok(false),
            Err(_) => self.empty_log().map(|()| true),
        }
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
