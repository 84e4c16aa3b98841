//! One blob on its way in: read once, hashed while it is written or compared.
//!
//! Neither side is believed. The bringer's bytes are hashed whatever the store has; where the
//! store has a file of that name, it is compared with them byte by byte, and a copy that differs
//! is given up for the bytes just brought. What this room leaves behind at the draft's name is a
//! file whose bytes this process has just proved.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

use crate::buffer::{Buffer, Chunk, DIRECT_STEP, Ring, STEP};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::disk::{Create, Disk, File, RelPath, read_exact_at, write_all_at};
use crate::error::Error;
use crate::oci::Refusal;
use crate::reader::hash;
use crate::source::Reading;
use crate::stop::Stop;

/// From this size on a new blob is written past the page cache, which nobody else then waits to see
/// written out.
const DIRECT_FROM: u64 = 256 << 10;
/// Bytes of a file that go from thread to thread at once; of a stream, of which there may be more at once, it is
/// [`DIRECT_STEP`].
const CHUNK: usize = 1 << 20;
/// Chunks of one blob in flight: one being read, one hashed, two written, two waiting.
const N_CHUNKS: usize = 6;

/// What is known of a blob before it is read.
pub(crate) struct Expected {
    pub(crate) algorithm: Algorithm,
    /// Absent for a file whose digest is found out.
    pub(crate) digest: Option<Digest>,
    /// Absent for a stream of unknown length.
    pub(crate) size: Option<u64>,
}

/// What a blob turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Proved {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    /// The store's copy was kept; otherwise a new file stands at the draft's name.
    pub(crate) kept: bool,
    /// The new file's bytes were synced already.
    pub(crate) synced: bool,
    /// All of its bytes, if it is as small as that.
    pub(crate) bytes: Option<Vec<u8>>,
}

/// Told of the store's file that turned out to be rotten.
pub(crate) type OnRot<'a> = dyn Fn(&dyn File) + Sync + 'a;
/// Refuses bytes that there is no room for.
pub(crate) type MayGrow<'a> = dyn Fn(u64) -> Result<(), Error> + Sync + 'a;

/// Where one blob goes.
pub(crate) struct Intake<'a> {
    pub(crate) disk: &'a dyn Disk,
    /// The draft's own name for it.
    pub(crate) path: &'a RelPath,
    /// The store's copy, held by a link at `path`, to compare with.
    pub(crate) existing: Option<Box<dyn File>>,
    /// Up to how many bytes they are wanted in memory as well.
    pub(crate) wanted_upto: u64,
    /// From how many bytes on threads take part.
    pub(crate) pipeline_from: u64,
    /// Counts the bytes that went through.
    pub(crate) progress: &'a AtomicU64,
    /// Keeps a copy of the store's file when that turned out to be rotten.
    pub(crate) on_rot: Box<OnRot<'a>>,
    /// Asked before a stream may grow by so many bytes.
    pub(crate) may_grow: &'a MayGrow<'a>,
}

impl Intake<'_> {
    /// Reads the source to its end.
    pub(crate) fn run(self, expected: &Expected, reading: Reading<'_>) -> Result<Proved, Error> {
        let mut reading = reading;
        let read = self.read(expected, &mut reading);
        if !matches!(read, Err(Error::Disk { .. } | Error::Full)) && !reading.stayed()? {
            // Of a file without a claim, half of one version and half of the next would be
            // sealed; of one with a claim, this says better than "mismatch" what to do.
            let what = expected.digest.map_or_else(|| "the file".to_owned(), |d| d.to_string());
            return Err(Error::SourceChanged { what });
        }
        let (proved, rewritten) = read?;
        match expected.digest {
            Some(claimed) if claimed != proved.digest => {
                return Err(Refusal::Mismatch { claimed, actual: proved.digest }.into());
            }
            _ => {}
        }
        if rewritten {
            // Only now is it known that the store's copy was the wrong one of the two.
            if let Some(existing) = &self.existing {
                (self.on_rot)(&**existing);
            }
            self.read_back(&proved)?;
        }
        Ok(proved)
    }

    /// What the bytes turned out to be, and whether the store's copy was found rotten on the way.
    fn read(
        &self,
        expected: &Expected,
        reading: &mut Reading<'_>,
    ) -> Result<(Proved, bool), Error> {
        let size = expected.size.unwrap_or(0);
        if size < self.pipeline_from {
            return self.inline(expected, reading);
        }
        if self.existing.is_none()
            && let Some(file) = self.shared(reading, size)?
        {
            return Ok((self.prove_shared(expected, &*file, size, &reading.stop())?, false));
        }
        self.pipelined(expected, reading)
    }

    /// Blobs that are not large, and streams of unknown length: one thread, one buffer.
    fn inline(
        &self,
        expected: &Expected,
        reading: &mut Reading<'_>,
    ) -> Result<(Proved, bool), Error> {
        let is_direct =
            self.existing.is_none() && expected.size.is_some_and(|size| size >= DIRECT_FROM);
        let most = if is_direct { DIRECT_STEP } else { STEP };
        let mut buffer = Buffer::for_what_is_left(expected.size.unwrap_or(u64::MAX), most);
        let mut hasher = Hasher::new(expected.algorithm);
        // Room is taken as the bytes come.
        let mut lane = Lane::new(self, is_direct.then_some(0))?;
        let (mut at, mut wanted) = (0_u64, (self.wanted_upto > 0).then(Vec::new));
        loop {
            let filled = reading.fill(buffer.space())?;
            buffer.set_filled(filled);
            self.grow(reading, filled)?;
            check_not_longer(expected, &hasher, at + filled as u64)?;
            hasher.update(buffer.bytes());
            lane.take(buffer.bytes(), at)?;
            at += filled as u64;
            wanted = wanted.filter(|_| at <= self.wanted_upto);
            if let Some(bytes) = &mut wanted {
                bytes.extend_from_slice(buffer.bytes());
            }
            self.progress.fetch_add(filled as u64, Ordering::Relaxed);
            if !buffer.is_full() {
                break;
            }
        }
        let digest = finish(expected, hasher, at)?;
        lane.finish(at)?;
        let kept = lane.existing.is_some();
        let proved = Proved { digest, size: at, kept, synced: false, bytes: wanted };
        Ok((proved, lane.rewritten))
    }

    /// Large blobs: reading, hashing and writing (or comparing) go on at the same time. Two
    /// writers keep two direct writes in flight on one file, which a disk needs to run full.
    fn pipelined(
        &self,
        expected: &Expected,
        reading: &mut Reading<'_>,
    ) -> Result<(Proved, bool), Error> {
        let size = expected.size.unwrap_or(0);
        // Beside a comparison, which reads as much again, a thread that only reads is one too many.
        let reads_ahead = reading.is_file() && self.existing.is_none();
        let step = if reading.is_file() { CHUNK } else { DIRECT_STEP };
        let ring = Ring::new(N_CHUNKS, step);
        // Room is taken ahead only for a file that is there, never on a stream's word.
        let ahead = if reads_ahead { size } else { 0 };
        let lane = Lane::new(self, Some(ahead))?;
        let file = lane.file.clone();
        thread::scope(|scope| {
            // Comparing may have to turn into writing from the first byte on: one lane, in order.
            let n_lanes = if lane.existing.is_some() { 1 } else { 2 };
            let mut lanes = vec![lane];
            while lanes.len() < n_lanes {
                lanes.push(Lane {
                    intake: self,
                    existing: None,
                    file: file.clone(),
                    rewritten: false,
                });
            }
            let mut ways = Vec::new();
            let mut ends = Vec::new();
            for lane in lanes {
                let (send, receive) = sync_channel::<Arc<Chunk>>(N_CHUNKS);
                ways.push(send);
                ends.push(scope.spawn(move || lane.run(&receive)));
            }
            let (mut hasher, mut at) = (Hasher::new(expected.algorithm), 0);
            let mut digested = |chunk: &Chunk| {
                check_not_longer(expected, &hasher, chunk.offset + chunk.bytes().len() as u64)?;
                hasher.update(chunk.bytes());
                at += chunk.bytes().len() as u64;
                self.progress.fetch_add(chunk.bytes().len() as u64, Ordering::Relaxed);
                Ok(())
            };
            let mut n_read = 0;
            let mut read = move |reading: &mut Reading<'_>| -> Result<Option<Arc<Chunk>>, Error> {
                // No free buffer means that every lane has given up; its own error says why.
                let Some(mut chunk) = ring.next(n_read) else { return Ok(None) };
                let filled = reading.fill(chunk.space())?;
                self.grow(reading, filled)?;
                chunk.set_filled(filled);
                n_read += filled as u64;
                let chunk = Arc::new(chunk);
                let turn = usize::try_from(chunk.offset / step as u64).unwrap_or(0) % ways.len();
                let sent = filled > 0 && ways[turn].send(Arc::clone(&chunk)).is_ok();
                Ok(sent.then_some(chunk))
            };
            let gone_through: Result<(), Error> = if reads_ahead {
                let (send, receive) = sync_channel::<Arc<Chunk>>(N_CHUNKS);
                let reader = scope.spawn(move || {
                    while let Some(chunk) = read(reading)? {
                        let is_last = chunk.bytes().len() < step;
                        if send.send(chunk).is_err() || is_last {
                            break;
                        }
                    }
                    Ok(())
                });
                let hashed = receive.iter().try_for_each(|chunk| digested(&chunk));
                drop(receive);
                let read = reader.join().unwrap_or_else(|_| Err(thread_died(self.path)));
                hashed.and(read)
            } else {
                let mut all = || {
                    while let Some(chunk) = read(reading)? {
                        digested(&chunk)?;
                        if chunk.bytes().len() < step {
                            break;
                        }
                    }
                    Ok(())
                };
                let all = all();
                drop(read);
                all
            };
            let mut kept = false;
            let mut rewritten = false;
            let mut written: Result<(), Error> = Ok(());
            let mut last = None;
            for end in ends {
                match end.join().unwrap_or_else(|_| Err(thread_died(self.path))) {
                    Ok(lane) => last = Some(lane),
                    Err(error) => written = Err(error),
                }
            }
            written?;
            gone_through?;
            let digest = finish(expected, hasher, at)?;
            let mut synced = false;
            if let Some(mut lane) = last {
                lane.finish(at)?;
                kept = lane.existing.is_some();
                rewritten = lane.rewritten;
                if let Some(file) = &lane.file {
                    file.sync().map_err(Error::disk("syncing", self.path))?;
                    synced = true;
                }
            }
            Ok((Proved { digest, size: at, kept, synced, bytes: None }, rewritten))
        })
    }

    /// Asks for room for what came of a stream. A file has its own already.
    fn grow(&self, reading: &Reading<'_>, filled: usize) -> Result<(), Error> {
        match reading.is_file() || filled == 0 {
            true => Ok(()),
            false => (self.may_grow)(filled as u64),
        }
    }

    /// A file of our own that shares its extents with the bringer's, where the filesystem can.
    fn shared(&self, reading: &Reading<'_>, size: u64) -> Result<Option<Box<dyn File>>, Error> {
        let Some((source, offset, len)) = reading.range().filter(|(_, _, len)| *len == size) else {
            return Ok(None);
        };
        let file = self.disk.create(self.path, Create::Buffered);
        let file = file.map_err(Error::disk("creating", self.path))?;
        let shares = file.share_extents(source.as_fd(), offset, len);
        if shares.map_err(Error::disk("sharing extents with", self.path))? {
            return Ok(Some(file));
        }
        self.disk.unlink(self.path).map_err(Error::disk("removing", self.path))?;
        Ok(None)
    }

    fn prove_shared(
        &self,
        expected: &Expected,
        file: &dyn File,
        size: u64,
        stop: &Stop,
    ) -> Result<Proved, Error> {
        let hashed = hash(file, expected.algorithm, size, stop);
        let (digest, actual) = hashed.map_err(Error::disk("reading", self.path))?;
        self.progress.fetch_add(actual, Ordering::Relaxed);
        if actual != size {
            let digest = expected.digest.unwrap_or(digest);
            return Err(Refusal::WrongSize { digest, claimed: size, actual }.into());
        }
        file.sync().map_err(Error::disk("syncing", self.path))?;
        Ok(Proved { digest, size, kept: false, synced: true, bytes: None })
    }

    /// A file that was partly made from the store's rotten copy is proved by reading it again.
    fn read_back(&self, proved: &Proved) -> Result<(), Error> {
        let file = self.disk.open(self.path).map_err(Error::disk("opening", self.path))?;
        let algorithm = proved.digest.algorithm();
        let hashed = hash(&*file, algorithm, proved.size, &Stop::default());
        let (actual, _) = hashed.map_err(Error::disk("reading", self.path))?;
        if actual == proved.digest {
            return Ok(());
        }
        let source = std::io::Error::other("the disk does not give back what was written");
        Err(Error::Disk { doing: "reading back", path: self.path.clone(), source })
    }
}

fn thread_died(path: &RelPath) -> Error {
    let source = std::io::Error::other("a thread of this job died");
    Error::Disk { doing: "writing", path: path.clone(), source }
}

/// Stops reading at the first byte too many.
fn check_not_longer(expected: &Expected, hasher: &Hasher, at: u64) -> Result<(), Error> {
    match expected.size {
        Some(claimed) if at > claimed => {
            let digest = expected.digest.unwrap_or_else(|| hasher.clone().finish());
            Err(Refusal::WrongSize { digest, claimed, actual: at }.into())
        }
        _ => Ok(()),
    }
}

fn finish(expected: &Expected, hasher: Hasher, actual: u64) -> Result<Digest, Error> {
    let digest = hasher.finish();
    match expected.size {
        Some(claimed) if claimed != actual => {
            let digest = expected.digest.unwrap_or(digest);
            Err(Refusal::WrongSize { digest, claimed, actual }.into())
        }
        _ => Ok(digest),
    }
}

/// The end of the way for the bytes: compared with the store's copy for as long as that one is
/// the same, written otherwise.
struct Lane<'a> {
    intake: &'a Intake<'a>,
    existing: Option<Existing<'a>>,
    file: Option<Arc<dyn File>>,
    /// The store's copy was found rotten on the way.
    rewritten: bool,
}

impl<'a> Lane<'a> {
    fn new(intake: &'a Intake<'a>, large: Option<u64>) -> Result<Lane<'a>, Error> {
        let existing = intake.existing.as_deref();
        let existing = existing.map(|file| Existing::new(file, large.is_some()));
        let mut lane = Lane { intake, existing, file: None, rewritten: false };
        if lane.existing.is_none() {
            lane.create(large)?;
        }
        Ok(lane)
    }

    fn create(&mut self, large: Option<u64>) -> Result<Arc<dyn File>, Error> {
        let (disk, path) = (self.intake.disk, self.intake.path);
        let how = if large.is_some() { Create::Direct } else { Create::Buffered };
        let file: Arc<dyn File> =
            disk.create(path, how).map_err(Error::disk("creating", path))?.into();
        if let Some(size) = large.filter(|size| *size > 0) {
            file.allocate(size).map_err(Error::disk("allocating", path))?;
        }
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    fn run(mut self, chunks: &Receiver<Arc<Chunk>>) -> Result<Lane<'a>, Error> {
        for chunk in chunks {
            self.take(chunk.bytes(), chunk.offset)?;
        }
        Ok(self)
    }

    fn take(&mut self, bytes: &[u8], at: u64) -> Result<(), Error> {
        if let Some(existing) = &mut self.existing {
            if existing.has(bytes, at) {
                return Ok(());
            }
            self.give_up(at)?;
        }
        let Some(file) = &self.file else { return Ok(()) };
        write_all_at(&**file, bytes, at).map_err(Error::disk("writing", self.intake.path))
    }

    /// The store's copy is rotten from somewhere after `upto` on: a new file begins with what was
    /// the same so far.
    fn give_up(&mut self, upto: u64) -> Result<(), Error> {
        let (disk, path) = (self.intake.disk, self.intake.path);
        let Some(existing) = self.existing.take() else { return Ok(()) };
        self.rewritten = true;
        disk.unlink(path).map_err(Error::disk("removing", path))?;
        let file = self.create(None)?;
        let mut buffer = vec![0; STEP];
        let mut at = 0;
        while at < upto {
            let step = buffer.len().min(usize::try_from(upto - at).unwrap_or(usize::MAX));
            let part = &mut buffer[..step];
            read_exact_at(existing.file, part, at).map_err(Error::disk("reading", path))?;
            write_all_at(&*file, part, at).map_err(Error::disk("writing", path))?;
            at += step as u64;
        }
        Ok(())
    }

    /// The bringer's bytes have ended: the store's copy must end there as well.
    fn finish(&mut self, size: u64) -> Result<(), Error> {
        if let Some(existing) = &self.existing
            && !existing.file.stat().is_ok_and(|stat| stat.size == size)
        {
            self.give_up(size)?;
        }
        Ok(())
    }
}

/// The store's copy, being compared.
struct Existing<'a> {
    file: &'a dyn File,
    /// The same past the page cache, if it was not in there.
    past_cache: Option<Box<dyn File>>,
    own: Buffer,
}

impl<'a> Existing<'a> {
    fn new(file: &'a dyn File, is_large: bool) -> Existing<'a> {
        // If that cannot be asked, it is read as always.
        let past_cache = if is_large { file.past_cache().unwrap_or(None) } else { None };
        // From the page cache, what is compared should still be in the core's own.
        let step = if past_cache.is_some() { CHUNK } else { STEP };
        Existing { file, past_cache, own: Buffer::new(step) }
    }

    /// Whether the copy has these bytes there. One that cannot be read has not.
    fn has(&mut self, bytes: &[u8], at: u64) -> bool {
        let file = self.past_cache.as_deref().unwrap_or(self.file);
        let space = self.own.space();
        let step = space.len();
        bytes.chunks(step).zip(0_u64..).all(|(part, i)| {
            let own = &mut space[..part.len()];
            read_exact_at(file, own, at + i * step as u64).is_ok() && own == part
        })
    }
}
