//! Readers that hash what they read, and give nothing away before it is proved.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::buffer::Ring;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::disk::{File, RelPath};
use crate::error::Error;
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
/// Bytes of a stream that are read, hashed and handed on at once: so many are kept back until the
/// digest agrees.
const VERIFIED_STEP: usize = 128 << 10;

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

pub(crate) fn fill(file: &dyn File, space: &mut [u8], at: u64) -> io::Result<usize> {
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

/// What stands in a small file of ours, of `most` bytes at most; nothing for one that is larger.
pub(crate) fn read_up_to(file: &dyn File, path: &RelPath, most: u64) -> Result<Vec<u8>, Error> {
    let read = || read_small(file, file.stat()?.size.min(most));
    Ok(read().map_err(Error::disk("reading", path))?.unwrap_or_default())
}

/// A blob as a stream that hashes as it goes. Its last bytes come out only once the digest of all
/// of them agrees: who gets a complete answer got the right bytes.
///
/// What was read goes out in the buffer that it was read into, and a buffer is as large as what is
/// left: small blobs are many, and pages that are mapped and cleared for nothing cost them more than
/// hashing does.
pub struct Verified {
    file: Box<dyn File>,
    digest: Digest,
    size: u64,
    hasher: Option<Hasher>,
    /// How far the file was read.
    at: u64,
    /// Hashed, and kept back until there is more, or the digest agrees.
    withheld: Vec<u8>,
    /// What may go out to whoever reads, from `n_taken` on.
    ready: Vec<u8>,
    n_taken: usize,
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
            withheld: Vec::new(),
            ready: Vec::new(),
            n_taken: 0,
            on_rot: Some(on_rot),
        }
    }

    /// How many bytes will come, if all is well.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes, in a buffer of their own, 128 KiB at most; none at the end.
    ///
    /// # Errors
    /// `InvalidData` for a blob that turned out damaged, and whatever the disk says.
    pub fn chunk(&mut self) -> io::Result<Vec<u8>> {
        if self.n_taken > 0 {
            self.ready.drain(..self.n_taken);
            self.n_taken = 0;
        }
        while self.ready.is_empty() && self.advance()? {}
        Ok(std::mem::take(&mut self.ready))
    }

    /// All that is left.
    ///
    /// # Errors
    /// Like [`Verified::chunk`].
    pub fn whole(mut self) -> io::Result<Vec<u8>> {
        let mut all = self.chunk()?;
        loop {
            match self.chunk()? {
                more if more.is_empty() => return Ok(all),
                more => all.extend_from_slice(&more),
            }
        }
    }

    /// Reads on, and says whether there may be more; a whole buffer at least is kept back, or all
    /// that there is, until the digest agrees.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(hasher) = &mut self.hasher else {
            return match self.on_rot {
                Some(_) => {
                    self.ready = std::mem::take(&mut self.withheld);
                    Ok(!self.ready.is_empty())
                }
                None => Err(io::ErrorKind::InvalidData.into()),
            };
        };
        let left = usize::try_from(self.size.saturating_sub(self.at)).unwrap_or(usize::MAX);
        // One more than is left, so that a file that grew shows.
        let step = VERIFIED_STEP.min(left.saturating_add(1));
        let mut bytes = vec![0; step];
        let n = match fill(&*self.file, &mut bytes, self.at) {
            Ok(n) => n,
            Err(error) => {
                // Nothing more comes out of this, whoever asks again.
                (self.hasher, self.on_rot) = (None, None);
                return Err(error);
            }
        };
        bytes.truncate(n);
        hasher.update(&bytes);
        self.at += n as u64;
        if n == step && self.at <= self.size {
            self.ready = std::mem::replace(&mut self.withheld, bytes);
            return Ok(true);
        }
        let actual = self.hasher.take().map(Hasher::finish);
        if self.at == self.size && actual == Some(self.digest) {
            self.ready = std::mem::replace(&mut self.withheld, bytes);
            return Ok(true);
        }
        self.withheld = Vec::new();
        if let Some(on_rot) = self.on_rot.take() {
            on_rot();
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", self.digest)))
    }
}

impl Read for Verified {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.n_taken == self.ready.len() {
            (self.ready, self.n_taken) = (self.chunk()?, 0);
        }
        let n = buf.len().min(self.ready.len() - self.n_taken);
        buf[..n].copy_from_slice(&self.ready[self.n_taken..self.n_taken + n]);
        self.n_taken += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::sim::SimDisk;
    use crate::disk::{Create, Disk, RelPath, write_all_at};
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    /// A stream of these bytes under that digest, and whether it said that they are rotten.
    fn stream(bytes: &[u8], digest: Digest, size: u64) -> (Verified, Arc<AtomicBool>) {
        let disk = SimDisk::new();
        let path = RelPath::new("blob");
        let file = disk.create(&path, Create::Buffered).expect("a file");
        write_all_at(&*file, bytes, 0).expect("written");
        let told = Arc::new(AtomicBool::new(false));
        let on_rot = {
            let told = Arc::clone(&told);
            Box::new(move || told.store(true, Ordering::Relaxed))
        };
        (Verified::new(disk.open(&path).expect("open"), digest, size, on_rot), told)
    }

    fn bytes(n: usize) -> Vec<u8> {
        (0..n).map(|i| (i * 31 % 251) as u8).collect()
    }

    const SIZES: [usize; 9] = [
        0,
        1,
        4096,
        VERIFIED_STEP - 1,
        VERIFIED_STEP,
        VERIFIED_STEP + 1,
        2 * VERIFIED_STEP - 1,
        2 * VERIFIED_STEP,
        3 * VERIFIED_STEP + 5,
    ];

    #[test]
    fn good_bytes_come_whole_whichever_way_they_are_taken() {
        for n in SIZES {
            let (bytes, size) = (bytes(n), n as u64);
            let good = || stream(&bytes, Digest::of(&bytes), size).0;
            assert_eq!(good().whole().expect("whole"), bytes, "{n}");
            let mut read = Vec::new();
            good().read_to_end(&mut read).expect("read");
            assert_eq!(read, bytes, "{n}");
            // Some by reading, the rest in chunks.
            let (mut mixed, mut some) = (good(), vec![0; n.min(100)]);
            mixed.read_exact(&mut some).expect("some");
            some.extend(mixed.whole().expect("the rest"));
            assert_eq!(some, bytes, "{n}");
        }
    }

    #[test]
    fn wrong_bytes_never_come_whole() {
        for n in SIZES {
            let good = bytes(n);
            let (digest, size) = (Digest::of(&good), n as u64);
            let mut longer = good.clone();
            longer.push(7);
            let mut wrong = vec![("longer", longer)];
            if n > 0 {
                wrong.push(("shorter", good[..n - 1].to_vec()));
                for at in [0, n / 2, n - 1] {
                    let mut flipped = good.clone();
                    flipped[at] ^= 1;
                    wrong.push(("flipped", flipped));
                }
            }
            for (what, bytes) in wrong {
                let (mut stream, told) = stream(&bytes, digest, size);
                let mut came = 0;
                let error = loop {
                    match stream.chunk() {
                        Ok(chunk) if chunk.is_empty() => panic!("{n} bytes, {what}: an end"),
                        Ok(chunk) => came += chunk.len(),
                        Err(error) => break error,
                    }
                };
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{n} bytes, {what}");
                assert!(told.load(Ordering::Relaxed), "{n} bytes, {what}: told");
                let most = n.saturating_sub(VERIFIED_STEP);
                assert!(came <= most, "{n} bytes, {what}: {came} came");
                assert!(stream.chunk().is_err(), "{n} bytes, {what}: asked again");
            }
        }
    }
}
