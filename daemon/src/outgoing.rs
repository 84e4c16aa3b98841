//! The bytes of an answer: from a blocking reader that proves them to the connection.
//!
//! The job goes at the peer's pace and ends when the connection does. Of a blob that the pieces under
//! way have room for, all are read before the answer begins: its damage is told in words, and its
//! peer waits for the job once. Of a larger one it is the first piece; a later error ends the answer
//! before its announced length.

use std::io;
use std::ops::Range;
use std::task::{Context, Poll};

use bytes::Bytes;
use cas::{CheckedBlob, Verified};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use wire::{Code, Problem};

use crate::ask::Ask;
use crate::bridge::{Kind, Place};

/// Pieces between the job and the connection, which are of 128 KiB each. With more of a long answer
/// under way they would be out of the core's own cache when they are sent.
const N_PIECES: usize = 4;
/// The same for an answer that has no more pieces than these.
const N_AT_ONCE: usize = 8;

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
    /// What the peer is told when what is read first is damaged or cannot be read.
    pub broken: B,
}

/// Pieces on their way to the connection. They hold the job's place, also when that is done: they are
/// its memory.
pub struct Coming {
    pieces: Receiver<io::Result<Bytes>>,
    _place: Place,
}

impl Coming {
    /// The next piece; none when the job is over.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        self.pieces.poll_recv(cx)
    }
}

/// Opens what goes out in a job of its own and reads what comes first; the rest follows at the peer's
/// pace.
///
/// # Errors
/// What `open` or `broken` say; [`Code::Busy`].
pub async fn start<R, B, E>(
    ask: &Ask,
    open: impl FnOnce() -> Result<Outgoing<R, B>, E> + Send + 'static,
) -> Result<(Coming, u64), E>
where
    R: Pieces,
    B: FnOnce(&io::Error) -> E + Send + 'static,
    E: From<Problem> + Send + 'static,
{
    let (begin, begun) = oneshot::channel();
    let place = ask.app.bridge.place(Kind::Sending, ask.caller.peer.whom()).await?;
    let kept = place.clone();
    place.start(move || {
        let opened = open().and_then(|Outgoing { mut reader, size, broken }| {
            let first = read_first(&mut reader, size).map_err(|error| broken(&error))?;
            Ok((size, first, reader))
        });
        match opened {
            Err(error) => drop(begin.send(Err(error))),
            Ok((size, first, reader)) => {
                let (pieces, coming) = channel(N_PIECES.max(first.len()));
                // All that was read first finds room there.
                let left = first.into_iter().fold(size, |left, piece| {
                    let n_bytes = piece.len() as u64;
                    let _ = pieces.try_send(Ok(piece));
                    left.saturating_sub(n_bytes)
                });
                if begin.send(Ok((coming, size))).is_ok() {
                    pass_on(reader, left, &pieces);
                }
            }
        }
    });
    let died = |_| Problem::new(Code::Internal, "the reading job died");
    let (pieces, size) = begun.await.map_err(died)??;
    Ok((Coming { pieces, _place: kept }, size))
}

/// All of what has room under way, or the first piece of what is longer.
fn read_first(reader: &mut impl Pieces, size: u64) -> io::Result<Vec<Bytes>> {
    if size == 0 {
        // Nothing comes, once that is proved; an empty piece says so.
        return Ok(vec![reader.next()?]);
    }
    let mut first = vec![next(reader)?];
    let n_pieces = size.div_ceil(first[0].len().max(1) as u64);
    if n_pieces <= N_AT_ONCE as u64 {
        for _ in 1..n_pieces {
            first.push(next(reader)?);
        }
    }
    Ok(first)
}

fn next(reader: &mut impl Pieces) -> io::Result<Bytes> {
    match reader.next() {
        Ok(bytes) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        other => other,
    }
}

fn pass_on(mut reader: impl Pieces, mut left: u64, pieces: &Sender<io::Result<Bytes>>) {
    while left > 0 {
        let next = next(&mut reader);
        left = left.saturating_sub(next.as_ref().map_or(left, |bytes| bytes.len() as u64));
        // An error ends the answer before its announced length, and so does a peer that left.
        if pieces.blocking_send(next).is_err() {
            return;
        }
    }
}
