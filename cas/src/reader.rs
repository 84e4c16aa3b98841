//! Readers that hash what they read, and give nothing away before it is proved.

use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::buffer::{Buffer, Ring, STEP};
use crate::digest::{Algorithm, Digest, Hasher};
use crate::disk::{File, RelPath};
use crate::error::Error;
use crate::stop::Stop;

/// From this size on, a file that is not in the page cache is read past it.
const PAST_CACHE_FROM: u64 = 8 << 20;
/// Bytes read at once past the page cache.
const PAST_CACHE_STEP: usize = 1 << 20;
/// Reads in flight past the page cache: one keeps no disk busy.
const N_LANES: usize = 3;
/// Buffers of each: one being filled, one that waits or is being hashed.
const N_BUFFERS: usize = 2;
/// Lanes of all files at once: so many threads and buffers are there at most.
const MOST_LANES: usize = 24;

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
    let mut buffer = Buffer::for_what_is_left(size, STEP);
    let mut at = 0;
    while at <= size {
        stop.check()?;
        fill_buffer(file, &mut buffer, at)?;
        hasher.update(buffer.bytes());
        at += buffer.bytes().len() as u64;
        if !buffer.is_full() {
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
                    let ring = Ring::new(N_BUFFERS, PAST_CACHE_STEP);
                    let mut at = (lane * PAST_CACHE_STEP) as u64;
                    while at <= size {
                        stop.check()?;
                        let Some(mut chunk) = ring.next(at) else { break };
                        let n = fill(file, chunk.space(), at)?;
                        chunk.set_filled(n);
                        if send.send(chunk).is_err() || n < PAST_CACHE_STEP {
                            break;
                        }
                        at += (N_LANES * PAST_CACHE_STEP) as u64;
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
            if chunk.bytes().len() < PAST_CACHE_STEP {
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

/// Reads into a buffer until it is full or the file ends.
pub(crate) fn fill_buffer(file: &dyn File, buffer: &mut Buffer, at: u64) -> io::Result<()> {
    let filled = fill(file, buffer.space(), at)?;
    buffer.set_filled(filled);
    Ok(())
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
/// What was read goes out in the buffer that it was read into.
pub struct Verified {
    file: Box<dyn File>,
    digest: Digest,
    size: u64,
    hasher: Option<Hasher>,
    /// How far the file was read.
    at: u64,
    /// Hashed, and kept back until there is more, or the digest agrees.
    withheld: Option<Buffer>,
    /// What may go out.
    ready: Option<Buffer>,
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
            withheld: None,
            ready: None,
            on_rot: Some(on_rot),
        }
    }

    /// How many bytes will come, if all is well.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The next bytes, 128 KiB at most; none at the end. What is smaller than that comes at once.
    ///
    /// # Errors
    /// `InvalidData` for a blob that turned out damaged, and whatever the disk says.
    pub fn chunk(&mut self) -> io::Result<Option<Buffer>> {
        while self.ready.is_none() && self.advance()? {}
        Ok(self.ready.take())
    }

    /// Reads on, and says whether there may be more; a whole buffer at least is kept back, or all
    /// that there is, until the digest agrees.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(hasher) = &mut self.hasher else {
            return match self.on_rot {
                Some(_) => {
                    self.ready = self.withheld.take();
                    Ok(false)
                }
                None => Err(io::ErrorKind::InvalidData.into()),
            };
        };
        let mut bytes = Buffer::for_what_is_left(self.size.saturating_sub(self.at), STEP);
        if let Err(error) = fill_buffer(&*self.file, &mut bytes, self.at) {
            // Nothing more comes out of this, whoever asks again.
            (self.hasher, self.on_rot) = (None, None);
            return Err(error);
        }
        hasher.update(bytes.bytes());
        self.at += bytes.bytes().len() as u64;
        let is_last = !bytes.is_full() || self.at > self.size;
        if !is_last || (self.at == self.size && self.agrees()) {
            let next = Some(bytes).filter(|bytes| !bytes.is_empty());
            self.ready = std::mem::replace(&mut self.withheld, next);
            return Ok(true);
        }
        (self.hasher, self.withheld) = (None, None);
        if let Some(on_rot) = self.on_rot.take() {
            on_rot();
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", self.digest)))
    }

    /// Whether the digest of all that was read is the right one. Nothing more is read after this.
    fn agrees(&mut self) -> bool {
        self.hasher.take().map(Hasher::finish) == Some(self.digest)
    }
}

impl Read for Verified {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let Some(mut bytes) = self.chunk()? else { return Ok(0) };
        let n = bytes.give(buf);
        self.ready = Some(bytes).filter(|bytes| !bytes.is_empty());
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

    const SIZES: [usize; 12] = [
        0,
        1,
        4096,
        STEP / 8 - 1,
        STEP / 8,
        STEP / 8 + 1,
        STEP - 1,
        STEP,
        STEP + 1,
        2 * STEP - 1,
        2 * STEP,
        3 * STEP + 5,
    ];

    #[test]
    fn good_bytes_come_whole_whichever_way_they_are_taken() {
        for n in SIZES {
            let (bytes, size) = (bytes(n), n as u64);
            let good = || stream(&bytes, Digest::of(&bytes), size).0;
            let mut read = Vec::new();
            good().read_to_end(&mut read).expect("read");
            assert_eq!(read, bytes, "{n}");
            // Some by reading, the rest in chunks.
            let (mut mixed, mut some) = (good(), vec![0; n.min(100)]);
            mixed.read_exact(&mut some).expect("some");
            while let Some(chunk) = mixed.chunk().expect("the rest") {
                some.extend_from_slice(chunk.as_ref());
            }
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
            let much_longer = [good.clone(), vec![7; 2 * STEP]].concat();
            let mut wrong = vec![("longer", longer), ("much longer", much_longer)];
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
                        Ok(None) => panic!("{n} bytes, {what}: an end"),
                        Ok(Some(chunk)) => came += chunk.as_ref().len(),
                        Err(error) => break error,
                    }
                };
                assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{n} bytes, {what}");
                assert!(told.load(Ordering::Relaxed), "{n} bytes, {what}: told");
                let most = n.saturating_sub(STEP);
                assert!(came <= most, "{n} bytes, {what}: {came} came");
                assert!(stream.chunk().is_err(), "{n} bytes, {what}: asked again");
            }
        }
    }
}
