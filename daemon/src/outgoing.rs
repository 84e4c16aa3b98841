//! The bytes of an answer: from a blocking reader that proves them to the connection.
//!
//! The job goes at the peer's pace and ends when the connection does. The first piece is read
//! before the answer begins, so that damage to a small blob is told in words; a later error ends
//! the answer before its announced length.

use std::io;
use std::ops::Range;

use bytes::Bytes;
use cas::{CheckedBlob, Verified};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use wire::{Code, Problem};

use crate::ask::Ask;
use crate::bridge::Kind;

/// Pieces between the job and the connection.
const N_PIECES: usize = 4;

/// Bytes that come piece by piece.
pub trait Pieces: Send + 'static {
    /// The next of them; none at the end.
    ///
    /// # Errors
    /// What became of the disk, or of the bytes.
    fn next(&mut self) -> io::Result<Bytes>;
}

impl Pieces for Verified {
    fn next(&mut self) -> io::Result<Bytes> {
        Ok(self.chunk()?.map(Bytes::from_owner).unwrap_or_default())
    }
}

/// A part of a blob, read from the descriptor that was hashed.
pub struct Slice {
    /// The blob.
    pub blob: CheckedBlob,
    /// The part of it that is to come yet.
    pub left: Range<u64>,
}

impl Pieces for Slice {
    fn next(&mut self) -> io::Result<Bytes> {
        let left = self.left.end.saturating_sub(self.left.start);
        let bytes = Bytes::from_owner(self.blob.chunk(self.left.start, left)?);
        self.left.start += bytes.len() as u64;
        Ok(bytes)
    }
}

/// What goes out.
pub struct Outgoing<R, B> {
    /// Where it comes from.
    pub reader: R,
    /// How many bytes.
    pub size: u64,
    /// What the peer is told when the first piece cannot be read.
    pub broken: B,
}

/// Opens what goes out in a job of its own and reads its first piece; the rest follows at the
/// peer's pace.
///
/// # Errors
/// What `open` or `broken` say; [`Code::Busy`].
pub async fn start<R, B, E>(
    ask: &Ask,
    open: impl FnOnce() -> Result<Outgoing<R, B>, E> + Send + 'static,
) -> Result<(Receiver<io::Result<Bytes>>, u64), E>
where
    R: Pieces,
    B: FnOnce(&io::Error) -> E + Send + 'static,
    E: From<Problem> + Send + 'static,
{
    let (begin, begun) = oneshot::channel();
    let (pieces, coming) = channel(N_PIECES);
    let place = ask.app.bridge.place(Kind::Sending, ask.caller.peer.whom()).await?;
    place.start(move || {
        let opened = open().and_then(|Outgoing { mut reader, size, broken }| {
            let first = reader.next().map_err(|error| broken(&error))?;
            Ok((size, first, reader))
        });
        match opened {
            Err(error) => drop(begin.send(Err(error))),
            Ok((size, first, reader)) => {
                if begin.send(Ok(size)).is_ok() {
                    pass_on(reader, size, first, &pieces);
                }
            }
        }
    });
    let size = begun.await.map_err(|_| Problem::new(Code::Internal, "the reading job died"))??;
    Ok((coming, size))
}

fn pass_on(mut reader: impl Pieces, size: u64, first: Bytes, pieces: &Sender<io::Result<Bytes>>) {
    let mut left = size.saturating_sub(first.len() as u64);
    if pieces.blocking_send(Ok(first)).is_err() {
        return;
    }
    while left > 0 {
        let next = match reader.next() {
            Ok(bytes) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            other => other,
        };
        left = left.saturating_sub(next.as_ref().map_or(left, |bytes| bytes.len() as u64));
        // An error ends the answer before its announced length, and so does a peer that left.
        if pieces.blocking_send(next).is_err() {
            return;
        }
    }
}
