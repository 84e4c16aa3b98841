//! Readers that hash what they read, and give nothing away before it is proved.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::buffer::Ring;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::disk::File;
use crate::stop::Stop;

/// Bytes read at once; small enough to stay in a core's own cache until they are hashed.
const STEP: usize = 256 << 10;
/// From this size on, a file that is not in the page cache is read past it.
const PAST_CACHE_FROM: u64 = 8 << 20;
/// Bytes read at once past the page cache.
const DIRECT_STEP: usize = 1 << 20;
/// Reads in flight past the page cache: one keeps no disk busy.
const N_LANES: usize = 3;
/// Buffers of each: one being filled, one that waits or is being hashed.
const N_BUFFERS: usize = 2;
/// Lanes of all files at once: so many threads and buffers are there at most.
const MOST_LANES: usize = 24;
/// Bytes that [`Verified`] keeps back until the digest agrees.
const WITHHELD: usize = 64 << 10;

/// Hashes a file whole and says how many bytes it saw; one that is longer than `size` is not read
/// to its end. Ends early when told to stop.
///
/// What is in the page cache is copied out of it and hashed by this thread alone: with another that
/// copies ahead the bytes go from core to core, and that is slower. What is not there is read past
/// it, so that hashing a large artifact throws nobody's pages out.
pub(crate) fn hash(
    file: &dyn File,
    algorithm: Algorithm,
    size: u64,
    stop: &Stop,
) -> io::Result<(Digest, u64)> {
    if size >= PAST_CACHE_FROM
        && let Some(lanes) = Lanes::take()
        && let Some(file) = file.past_cache()?
        && let Some(hashed) = hash_past_cache(&*file, algorithm, size, stop, &lanes)
    {
        return hashed;
    }
    let mut hasher = Hasher::new(algorithm);
    let step = STEP.min(usize::try_from(size.saturating_add(1)).unwrap_or(STEP));
    let mut buffer = vec![0; step];
    let mut at = 0;
    while at <= size {
        stop.check()?;
        let n = fill(file, &mut buffer, at)?;
        hasher.update(&buffer[..n]);
        at += n as u64;
        if n < buffer.len() {
            break;
        }
    }
    Ok((hasher.finish(), at))
}

/// The right to [`N_LANES`] lanes.
struct Lanes;

static N_TAKEN: AtomicUsize = AtomicUsize::new(0);

impl Lanes {
    fn take() -> Option<Lanes> {
        let add = |taken: usize| (taken + N_LANES <= MOST_LANES).then_some(taken + N_LANES);
        N_TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok().map(|_| Lanes)
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        N_TAKEN.fetch_sub(N_LANES, Ordering::Relaxed);
    }
}

/// Each lane reads every n-th chunk; this thread hashes them in their order. `None` when the system
/// gives no threads: then it is read as always.
fn hash_past_cache(
    file: &dyn File,
    algorithm: Algorithm,
    size: u64,
    stop: &Stop,
    _right: &Lanes,
) -> Option<io::Result<(Digest, u64)>> {
    let mut hasher = Hasher::new(algorithm);
    thread::scope(|scope| {
        let lanes: io::Result<Vec<_>> = (0..N_LANES)
            .map(|lane| {
                let (send, receive) = sync_channel(N_BUFFERS);
                let read = move || -> io::Result<()> {
                    let ring = Ring::new(N_BUFFERS, DIRECT_STEP);
                    let mut at = (lane * DIRECT_STEP) as u64;
                    while at <= size {
                        stop.check()?;
                        let Some(mut chunk) = ring.next(at) else { break };
                        let n = fill(file, chunk.space(), at)?;
                        chunk.set_filled(n);
                        if send.send(chunk).is_err() || n < DIRECT_STEP {
                            break;
                        }
                        at += (N_LANES * DIRECT_STEP) as u64;
                    }
                    Ok(())
                };
                Ok((receive, thread::Builder::new().spawn_scoped(scope, read)?))
            })
            .collect();
        // Those that were made find that nobody listens and end.
        let lanes = lanes.ok()?;
        let mut at = 0;
        for (receive, _) in lanes.iter().cycle() {
            // A lane that ended without a chunk has read to the end, or failed and says so below.
            let Ok(chunk) = receive.recv() else { break };
            hasher.update(chunk.bytes());
            at += chunk.bytes().len() as u64;
            if chunk.bytes().len() < DIRECT_STEP {
                break;
            }
        }
        for (receive, read) in lanes {
            drop(receive);
            let died = |_| Err(io::Error::other("a reading thread died"));
            if let Err(error) = read.join().unwrap_or_else(died) {
                return Some(Err(error));
            }
        }
        Some(Ok((hasher.finish(), at)))
    })
}

fn fill(file: &dyn File, space: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < space.len() {
        match file.read_at(&mut space[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Reads a whole file of a known small size; `None` when it has another size.
pub(crate) fn read_small(file: &dyn File, size: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; usize::try_from(size + 1).map_err(|_| io::ErrorKind::FileTooLarge)?];
    let n = fill(file, &mut bytes, 0)?;
    bytes.truncate(n);
    Ok((n as u64 == size).then_some(bytes))
}

/// A blob as a stream that hashes as it goes. Its last bytes come out only once the digest of all
/// of them agrees: who gets a complete answer got the right bytes.
pub struct Verified {
    file: Box<dyn File>,
    digest: Digest,
    size: u64,
    hasher: Option<Hasher>,
    /// How far the file was read.
    at: u64,
    buffer: Vec<u8>,
    /// The part of `buffer` that may go out.
    ready: std::ops::Range<usize>,
    on_rot: Option<Box<dyn FnOnce() + Send>>,
}

impl Verified {
    pub(crate) fn new(
        file: Box<dyn File>,
        digest: Digest,
        size: u64,
        on_rot: Box<dyn FnOnce() + Send>,
    ) -> Verified {
        Verified {
            file,
            digest,
            size,
            hasher: Some(Hasher::new(digest.algorithm())),
            at: 0,
            buffer: Vec::new(),
            ready: 0..0,
            on_rot: Some(on_rot),
        }
    }

    /// How many bytes will come, if all is well.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads on until something may go out: everything but a tail, or at the end the tail.
    fn advance(&mut self) -> io::Result<()> {
        let Some(hasher) = &mut self.hasher else { return Ok(()) };
        self.buffer.drain(..self.ready.end);
        let kept = self.buffer.len();
        self.buffer.resize(kept + STEP, 0);
        let n = match fill(&*self.file, &mut self.buffer[kept..], self.at) {
            Ok(n) => n,
            Err(error) => {
                // Nothing more comes out of this, whoever asks again.
                (self.hasher, self.on_rot, self.ready) = (None, None, 0..0);
                return Err(error);
            }
        };
        self.buffer.truncate(kept + n);
        hasher.update(&self.buffer[kept..]);
        self.at += n as u64;
        if n == STEP && self.at <= self.size {
            self.ready = 0..self.buffer.len() - WITHHELD;
            return Ok(());
        }
        let actual = self.hasher.take().map(Hasher::finish);
        if self.at == self.size && actual == Some(self.digest) {
            self.ready = 0..self.buffer.len();
            return Ok(());
        }
        self.ready = 0..0;
        self.buffer = Vec::new();
        if let Some(on_rot) = self.on_rot.take() {
            on_rot();
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", self.digest)))
    }
}

impl Read for Verified {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.ready.is_empty() {
            if self.hasher.is_none() {
                return match self.on_rot {
                    Some(_) => Ok(0),
                    None => Err(io::ErrorKind::InvalidData.into()),
                };
            }
            self.advance()?;
        }
        let n = buf.len().min(self.ready.len());
        let from = self.ready.start;
        buf[..n].copy_from_slice(&self.buffer[from..from + n]);
        self.ready.start += n;
        Ok(n)
    }
}
