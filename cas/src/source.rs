//! Where a bringer's bytes come from.

use std::io::{self, Read};

use crate::disk::{ForeignFile, Stat};
use crate::error::Error;
use crate::stop::Stop;

/// The bytes of one blob on their way in.
pub enum Source<'a> {
    /// Bytes in order, from a socket or from memory.
    Stream(&'a mut (dyn Read + Send)),
    /// A part of a file that the bringer opened; it may be writing to it at the same time.
    Range {
        /// The open file.
        file: &'a ForeignFile,
        /// Where the blob begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        len: u64,
    },
}

/// A source being read from its first byte to its last.
pub(crate) struct Reading<'a> {
    source: Source<'a>,
    at: u64,
    before: Option<Stat>,
}

impl<'a> Reading<'a> {
    pub(crate) fn new(source: Source<'a>) -> Result<Reading<'a>, Error> {
        let before = match &source {
            Source::Stream(_) => None,
            Source::Range { file, .. } => Some(file.stat().map_err(Error::source)?),
        };
        Ok(Reading { source, at: 0, before })
    }

    /// Whether reading never waits for anybody but the disk.
    pub(crate) fn is_file(&self) -> bool {
        matches!(self.source, Source::Range { .. })
    }

    /// Whose word ends this early.
    pub(crate) fn stop(&self) -> Stop {
        self.range().map(|(file, ..)| file.stop().clone()).unwrap_or_default()
    }

    pub(crate) fn range(&self) -> Option<(&'a ForeignFile, u64, u64)> {
        match self.source {
            Source::Stream(_) => None,
            Source::Range { file, offset, len } => Some((file, offset, len)),
        }
    }

    /// Fills `space` from the front; fewer bytes than that only at the end.
    pub(crate) fn fill(&mut self, space: &mut [u8]) -> Result<usize, Error> {
        match self.fill_what_comes(space) {
            (_, Some(error)) => Err(error),
            (filled, None) => Ok(filled),
        }
    }

    /// The same, where what came before an error is worth something.
    pub(crate) fn fill_what_comes(&mut self, space: &mut [u8]) -> (usize, Option<Error>) {
        let mut filled = 0;
        while filled < space.len() {
            let read = match &mut self.source {
                Source::Stream(stream) => stream.read(&mut space[filled..]),
                Source::Range { file, offset, len } => {
                    let left = usize::try_from(*len - self.at).unwrap_or(usize::MAX);
                    let end = space.len().min(filled.saturating_add(left));
                    file.read_at(&mut space[filled..end], *offset + self.at)
                }
            };
            match read {
                Ok(0) => break,
                Ok(n) => {
                    filled += n;
                    self.at += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (filled, Some(Error::source(error))),
            }
        }
        (filled, None)
    }

    /// Whether the file stayed as it was while it was read; a stream always did.
    pub(crate) fn stayed(&self) -> Result<bool, Error> {
        let (Source::Range { file, .. }, Some(before)) = (&self.source, &self.before) else {
            return Ok(true);
        };
        let after = file.stat().map_err(Error::source)?;
        Ok(after.size == before.size && after.modified_ns == before.modified_ns)
    }
}
