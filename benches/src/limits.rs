//! What the machine can do at best: hashing and nothing else, writing and nothing else, reading and
//! nothing else.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cas::digest::{Algorithm, Hasher};
use cas::disk::{Create, Disk, RealDisk, RelPath, write_all_at};
use nix::libc::O_DIRECT;

use crate::cache::aligned;
use crate::measure::{Doing, Failed, Result, timed};

/// Bytes of one read or write past the page cache.
const DIRECT_STEP: usize = 1 << 20;
/// Bytes of one read through the page cache.
const STEP: usize = 256 << 10;
/// More than any core's own cache and, with luck, than the one that all cores share.
const HASHED: usize = 1 << 30;

/// Random bytes in memory, to be hashed and written.
pub(crate) struct Memory(Vec<u8>);

impl Memory {
    pub(crate) fn new() -> Result<Memory> {
        let mut bytes = vec![0; HASHED];
        getrandom::fill(&mut bytes).doing("asking for random bytes")?;
        Ok(Memory(bytes))
    }

    /// Bytes that [`Memory::hash`] and [`Memory::hash_in_cache`] hash.
    pub(crate) fn len(&self) -> f64 {
        self.0.len() as f64
    }

    /// SHA-256 of all of it, a part of it on each thread.
    pub(crate) fn hash(&self, n_threads: usize) -> Result<Duration> {
        let parts: Vec<&[u8]> = self.0.chunks(self.0.len() / n_threads).collect();
        hash_all(n_threads, |i| parts[i].chunks(STEP))
    }

    /// SHA-256 of as many bytes that stay in each core's own cache: no memory is read.
    pub(crate) fn hash_in_cache(&self, n_threads: usize) -> Result<Duration> {
        let n_steps = self.0.len() / n_threads / STEP;
        hash_all(n_threads, |i| std::iter::repeat_n(&self.0[i * STEP..][..STEP], n_steps))
    }
}

fn hash_all<'a, I: Iterator<Item = &'a [u8]>>(
    n_threads: usize,
    part: impl Fn(usize) -> I + Sync,
) -> Result<Duration> {
    let hash = |i: usize| {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        part(i).for_each(|step| hasher.update(step));
        std::hint::black_box(hasher.finish());
        Ok(())
    };
    let indices: Vec<usize> = (0..n_threads).collect();
    timed(|| spread(n_threads, &indices, |i| hash(*i))).map(|(_, time)| time)
}

/// Does the work for every item, on so many threads.
pub(crate) fn spread<T: Sync>(
    n_threads: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let worker = || -> Result<()> {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let helpers: Vec<_> = (0..n_threads).map(|_| scope.spawn(worker)).collect();
        helpers.into_iter().try_for_each(|helper| {
            helper.join().unwrap_or_else(|_| Err(Failed("a thread died".to_owned())))
        })
    })
}

/// How long it takes to write files of these sizes into `dir`, past the page cache, with this many
/// writes in flight, and to make them durable. The files are removed again.
pub(crate) fn write(
    memory: &Memory,
    dir: &Path,
    sizes: &[u64],
    n_streams: usize,
) -> Result<(Duration, Duration)> {
    let root = dir.join("limit");
    let disk = RealDisk::open(&root).doing("making a folder to write to")?;
    let (buffer, start) = aligned(DIRECT_STEP);
    let mut buffer = buffer;
    buffer[start..start + DIRECT_STEP].copy_from_slice(&memory.0[..DIRECT_STEP]);
    let bytes = &buffer[start..start + DIRECT_STEP];
    let mut files = Vec::new();
    let mut steps = Vec::new();
    let ((), time) = timed(|| {
        for (i, size) in sizes.iter().enumerate() {
            let path = RelPath::new(&i.to_string());
            let file = disk.create(&path, Create::Direct).doing("creating a file")?;
            file.allocate(*size).doing("allocating a file")?;
            files.push(file);
            steps.extend((0..size / DIRECT_STEP as u64).map(|step| (i, step * DIRECT_STEP as u64)));
        }
        spread(n_streams, &steps, |(i, at)| write_all_at(&*files[*i], bytes, *at).doing("writing"))
    })?;
    let ((), sync_time) = timed(|| {
        files.iter().try_for_each(|file| file.sync()).doing("syncing")?;
        disk.sync_dir(&RelPath::root()).doing("syncing the folder")
    })?;
    fs::remove_dir_all(&root).doing("removing what was written")?;
    Ok((time, sync_time))
}

/// How long it takes to read files past the page cache with this many reads in flight.
pub(crate) fn read_direct(files: &[PathBuf], n_streams: usize) -> Result<Duration> {
    let mut open = Vec::new();
    let mut steps = Vec::new();
    for (i, path) in files.iter().enumerate() {
        let doing = || format!("opening {} past the page cache", path.display());
        let file = OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path).doing(doing())?;
        let n_steps = file.metadata().doing(doing())?.len().div_ceil(DIRECT_STEP as u64);
        open.push(file);
        steps.extend((0..n_steps).map(|step| (i, step * DIRECT_STEP as u64)));
    }
    let read = |(i, at): &(usize, u64)| {
        thread_local! {
            static BUFFER: std::cell::RefCell<(Vec<u8>, usize)> = aligned(DIRECT_STEP).into();
        }
        BUFFER.with_borrow_mut(|(buffer, start)| {
            open[*i].read_at(&mut buffer[*start..*start + DIRECT_STEP], *at).map(drop)
        })
    };
    timed(|| spread(n_streams, &steps, |step| read(step).doing("reading past the page cache")))
        .map(|(_, time)| time)
}

/// How long it takes to read files one after the other, from their first byte to their last,
/// through the page cache, on so many threads, a file on each.
pub(crate) fn read_through(files: &[PathBuf], n_threads: usize) -> Result<Duration> {
    let read = |path: &PathBuf| each_step(path, |_| ()).doing("reading");
    timed(|| spread(n_threads, files, read)).map(|(_, time)| time)
}

/// How long it takes to hash `sources` and to read `copies`, on so many threads: a source and its
/// copy on each, or with a single one of each the two at the same time.
pub(crate) fn hash_and_read(
    sources: &[PathBuf],
    copies: &[PathBuf],
    n_threads: usize,
) -> Result<Duration> {
    let hash = |path: &PathBuf| {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        each_step(path, |step| hasher.update(step)).doing("hashing")?;
        std::hint::black_box(hasher.finish());
        Ok(())
    };
    let read = |path: &PathBuf| each_step(path, |_| ()).doing("reading");
    let jobs: Vec<(bool, &PathBuf)> = match sources.len() < n_threads {
        true => {
            sources.iter().map(|p| (true, p)).chain(copies.iter().map(|p| (false, p))).collect()
        }
        false => {
            let pairs = sources.iter().zip(copies);
            pairs.flat_map(|(source, copy)| [(true, source), (false, copy)]).collect()
        }
    };
    timed(|| {
        spread(n_threads, &jobs, |(hashes, path)| if *hashes { hash(path) } else { read(path) })
    })
    .map(|(_, time)| time)
}

fn each_step(path: &Path, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; STEP];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        each(&buffer[..n]);
    }
}
