//! Memory that bytes pass through: aligned for direct I/O, used again, bounded.

use std::fmt;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::store::lock;

const ALIGNMENT: usize = 4096;

/// Bytes that one thread reads, hashes and hands on at once: small enough to stay in a core's own cache
/// from one to the next.
pub(crate) const STEP: usize = 128 << 10;
/// Bytes that go past the page cache at once where no other thread takes part.
pub(crate) const DIRECT_STEP: usize = 512 << 10;

/// Buffers of the two sizes that every job uses, kept to be used again: mapping and clearing pages
/// for each would cost a blob of a few of them as much as a copy of it.
static SPARE: [Spare; 2] = [Spare::new(STEP, 48), Spare::new(DIRECT_STEP, 16)];

struct Spare {
    capacity: usize,
    most: usize,
    memory: Mutex<Vec<Vec<u8>>>,
}

impl Spare {
    const fn new(capacity: usize, most: usize) -> Spare {
        Spare { capacity, most, memory: Mutex::new(Vec::new()) }
    }

    fn of(capacity: usize) -> Option<&'static Spare> {
        SPARE.iter().find(|spare| spare.capacity == capacity)
    }

    fn take(&self) -> Option<Vec<u8>> {
        lock(&self.memory).pop()
    }

    fn put(&self, memory: Vec<u8>) {
        let mut spare = lock(&self.memory);
        if spare.len() < self.most {
            spare.push(memory);
        }
    }
}

/// Memory for some bytes of a blob, whose first one lies at a multiple of 4096.
pub struct Buffer {
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
    filled: usize,
}

impl Buffer {
    pub(crate) fn new(capacity: usize) -> Buffer {
        let memory = Spare::of(capacity).and_then(Spare::take);
        let memory = memory.unwrap_or_else(|| vec![0; capacity + ALIGNMENT]);
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Buffer { memory, start, capacity, filled: 0 }
    }

    /// One for so many bytes that are to come, or for `most` of them; larger than they are, so that it
    /// shows when there are more.
    pub(crate) fn for_what_is_left(left: u64, most: usize) -> Buffer {
        let exact = usize::try_from(left.saturating_add(1)).unwrap_or(most);
        // Small blobs are many, and a large buffer is taken out of a core's cache by what follows it.
        Buffer::new(if exact <= most / 8 { exact } else { most })
    }

    /// All of it, to be filled; what an earlier use left there is still in it.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.capacity]
    }

    /// Says how many bytes were filled.
    pub(crate) fn set_filled(&mut self, filled: usize) {
        self.filled = filled.min(self.capacity);
    }

    /// What was filled.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.filled]
    }

    /// Whether nothing was filled, or all of it was given away.
    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Moves bytes from the front to `to`; says how many.
    pub(crate) fn give(&mut self, to: &mut [u8]) -> usize {
        let n = to.len().min(self.filled);
        to[..n].copy_from_slice(&self.bytes()[..n]);
        self.start += n;
        self.capacity -= n;
        self.filled -= n;
        n
    }

    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.capacity
    }
}

impl fmt::Debug for Buffer {
    /// Says how much is in it; what an earlier use left there is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes)", self.filled, self.capacity)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(spare) = Spare::of(self.memory.len() - ALIGNMENT) {
            spare.put(std::mem::take(&mut self.memory));
        }
    }
}

/// A fixed number of buffers that go round between the threads of one job.
pub(crate) struct Ring {
    free: Receiver<Buffer>,
    back: SyncSender<Buffer>,
}

impl Ring {
    pub(crate) fn new(n_buffers: usize, capacity: usize) -> Ring {
        let (back, free) = sync_channel(n_buffers);
        for _ in 0..n_buffers {
            // The channel has room for all of them, so this never fails.
            let _ = back.try_send(Buffer::new(capacity));
        }
        Ring { free, back }
    }

    /// The next free buffer; `None` when every holder of one is gone.
    pub(crate) fn next(&self, offset: u64) -> Option<Chunk> {
        let buffer = self.free.recv().ok()?;
        Some(Chunk { offset, buffer: Some(buffer), back: self.back.clone() })
    }
}

/// A filled buffer on its way; dropped by its last holder, it is free again.
pub(crate) struct Chunk {
    /// Where its bytes stand in the blob.
    pub(crate) offset: u64,
    buffer: Option<Buffer>,
    back: SyncSender<Buffer>,
}

impl Chunk {
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], Buffer::space)
    }

    pub(crate) fn set_filled(&mut self, filled: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.set_filled(filled);
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], Buffer::bytes)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let _ = self.back.try_send(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_earlier_use_left_is_never_given_out() {
        for capacity in [STEP, DIRECT_STEP, 100] {
            for n_filled in [0, 1, 99] {
                let mut buffer = Buffer::new(capacity);
                buffer.space().fill(0xAA);
                buffer.set_filled(capacity);
                assert!(buffer.is_full() && buffer.bytes().iter().all(|b| *b == 0xAA));
                drop(buffer);

                let mut buffer = Buffer::new(capacity);
                assert!(buffer.is_empty() && buffer.bytes().is_empty());
                buffer.space()[..n_filled].fill(1);
                buffer.set_filled(n_filled);
                assert_eq!(buffer.bytes(), vec![1; n_filled]);
                assert!(!format!("{buffer:?}").contains("170"));
                let mut some = [0; 40];
                let n = buffer.give(&mut some);
                assert_eq!(some[..n], vec![1; n_filled.min(40)]);
                assert_eq!(buffer.as_ref(), vec![1; n_filled - n]);
            }
        }
    }

    #[test]
    fn a_buffer_that_was_given_from_is_whole_again_when_it_is_used_again() {
        for _ in 0..3 {
            let mut buffer = Buffer::new(STEP);
            assert_eq!(
                (buffer.space().len(), buffer.space().as_ptr().addr() % ALIGNMENT),
                (STEP, 0)
            );
            buffer.set_filled(STEP);
            assert_eq!(buffer.give(&mut [0; 1000]), 1000);
        }
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let spare = Spare::new(8, 2);
        (0..5).for_each(|_| spare.put(vec![0; 8]));
        assert!(spare.take().is_some() && spare.take().is_some() && spare.take().is_none());
    }
}
