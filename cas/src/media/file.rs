//! The bytes of one blob, proved on their way to a file or a stream.

use std::io::{self, Read, Write};

use super::Error;
use crate::digest::{Digest, Hasher};
use crate::oci::Descriptor;

/// Bytes read at once, and so the bytes that are kept back until all of them are proved.
const STEP: usize = 256 << 10;

/// A stream that is hashed as it is read. Its last piece comes out only once size and digest of
/// the whole agree with the descriptor; if they do not, reading ends in an error.
pub struct Proved<'a> {
    from: &'a mut dyn Read,
    digest: Digest,
    size: u64,
    /// Gone once the end was seen, for good or bad.
    hasher: Option<Hasher>,
    n_seen: u64,
    /// Seen and hashed, kept back.
    held: Vec<u8>,
    /// May go out.
    ready: Vec<u8>,
    /// How much of `ready` is out, for readers with small buffers.
    n_out: usize,
    has_failed: bool,
}

impl<'a> Proved<'a> {
    /// Reads what claims to be the bytes of `descriptor`, at most one byte beyond its size.
    pub fn new(descriptor: &Descriptor, from: &'a mut dyn Read) -> Proved<'a> {
        Proved {
            from,
            digest: descriptor.digest,
            size: descriptor.size,
            hasher: Some(Hasher::new(descriptor.digest.algorithm())),
            n_seen: 0,
            held: Vec::new(),
            ready: Vec::new(),
            n_out: 0,
            has_failed: false,
        }
    }

    /// Makes the next piece ready; an empty one is the end.
    fn advance(&mut self) -> Result<(), Error> {
        self.ready.clear();
        self.n_out = 0;
        while self.hasher.is_some() {
            std::mem::swap(&mut self.ready, &mut self.held);
            if let Err(error) = self.hold_next() {
                self.ready.clear();
                self.hasher = None;
                self.has_failed = true;
                return Err(error);
            }
            if !self.ready.is_empty() {
                break;
            }
        }
        Ok(())
    }

    /// Reads and hashes the next piece; at the end, everything must agree.
    fn hold_next(&mut self) -> Result<(), Error> {
        let Some(hasher) = &mut self.hasher else { return Ok(()) };
        let most = (self.size + 1).saturating_sub(self.n_seen).min(STEP as u64);
        (&mut *self.from)
            .take(most)
            .read_to_end(&mut self.held)
            .map_err(|source| Error::Read { what: self.digest.to_string(), source })?;
        hasher.update(&self.held);
        self.n_seen += self.held.len() as u64;

        let wrong = |reason| Err(Error::NotProved { digest: self.digest, reason });
        if self.n_seen > self.size {
            return wrong(format!("there are more than {} bytes", self.size));
        }
        if !self.held.is_empty() {
            return Ok(());
        }
        if self.n_seen < self.size {
            return wrong(format!("there are {} bytes of {}", self.n_seen, self.size));
        }
        match self.hasher.take().map(Hasher::finish) {
            Some(actual) if actual != self.digest => {
                wrong(format!("the bytes are those of {actual}"))
            }
            _ => Ok(()),
        }
    }
}

impl Read for Proved<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.has_failed {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if self.n_out == self.ready.len() {
            self.advance().map_err(io::Error::other)?;
        }
        let rest = &self.ready[self.n_out..];
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        self.n_out += n;
        Ok(n)
    }
}

/// Copies a proved stream. If it turns out wrong, its last piece was not written.
///
/// # Errors
/// [`Error::NotProved`], [`Error::Read`], [`Error::Write`].
pub fn copy(from: &mut Proved<'_>, to: &mut dyn Write) -> Result<(), Error> {
    let what = from.digest.to_string();
    let failed = |source| Error::Write { what: what.clone(), source };
    loop {
        from.advance()?;
        if from.ready.is_empty() {
            return to.flush().map_err(failed);
        }
        to.write_all(&from.ready).map_err(failed)?;
    }
}
