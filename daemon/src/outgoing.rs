//! The bytes of an answer: from a blocking reader that proves them to the connection.
//!
//! The job goes at the peer's pace and ends when the connection does. The first piece is read
//! before the answer begins, so that damage to a small blob is told in words; a later error ends
//! the answer before its announced length.

use std::io::{self, Read};

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;
use wire::{Code, Problem};

use crate::ask::Ask;
use crate::bridge::Kind;

/// Bytes handed to the connection at once.
const PIECE: usize = 128 << 10;
/// Pieces between the job and the connection.
const N_PIECES: usize = 4;

/// What goes out.
pub struct Outgoing<R, B> {
    /// Where it is read.
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
    R: Read + Send + 'static,
    B: FnOnce(&io::Error) -> E + Send + 'static,
    E: From<Problem> + Send + 'static,
{
    let (begin, begun) = oneshot::channel();
    let (pieces, coming) = channel(N_PIECES);
    let place = ask.app.bridge.place(Kind::Sending, ask.caller.peer.whom()).await?;
    place.start(move || {
        let opened = open().and_then(|Outgoing { mut reader, size, broken }| {
            let first = piece(&mut reader, size).map_err(|error| broken(&error))?;
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

fn pass_on(mut reader: impl Read, size: u64, first: Bytes, pieces: &Sender<io::Result<Bytes>>) {
    let mut left = size.saturating_sub(first.len() as u64);
    if pieces.blocking_send(Ok(first)).is_err() {
        return;
    }
    while left > 0 {
        let next = match piece(&mut reader, left) {
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

fn piece(reader: &mut impl Read, left: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
    let mut filled = 0;
    while filled < bytes.len() {
        match reader.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    Ok(bytes.into())
}
