//! Memory that bytes pass through: aligned for direct I/O, used again, bounded.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

const ALIGNMENT: usize = 4096;

/// Bytes whose first one lies at a multiple of 4096 in memory.
pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    capacity: usize,
    filled: usize,
}

impl Aligned {
    pub(crate) fn new(capacity: usize) -> Aligned {
        let memory = vec![0; capacity + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Aligned { memory, start, capacity, filled: 0 }
    }

    /// All of it, to be filled.
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
}

/// A fixed number of buffers that go round between the threads of one job.
pub(crate) struct Ring {
    free: Receiver<Aligned>,
    back: SyncSender<Aligned>,
}

impl Ring {
    pub(crate) fn new(n_buffers: usize, capacity: usize) -> Ring {
        let (back, free) = sync_channel(n_buffers);
        for _ in 0..n_buffers {
            // The channel has room for all of them, so this never fails.
            let _ = back.try_send(Aligned::new(capacity));
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
    buffer: Option<Aligned>,
    back: SyncSender<Aligned>,
}

impl Chunk {
    pub(crate) fn space(&mut self) -> &mut [u8] {
        self.buffer.as_mut().map_or(&mut [], Aligned::space)
    }

    pub(crate) fn set_filled(&mut self, filled: usize) {
        if let Some(buffer) = &mut self.buffer {
            buffer.set_filled(filled);
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], Aligned::bytes)
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let _ = self.back.try_send(buffer);
        }
    }
}
