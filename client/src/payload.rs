//! What a request brings with it: nothing, bytes, a stream, or an open file.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cas::disk::ForeignFile;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::bridge::apart;
use crate::progress::Progress;

/// Bytes read at once from a file or stream.
const PIECE: usize = 256 << 10;
/// Pieces between the reading thread and the connection.
const N_PIECES: usize = 4;

/// What a request brings.
#[derive(Clone)]
pub(crate) enum Brings {
    /// No body.
    Nothing,
    /// A short body.
    Bytes(Bytes),
    /// An open file, by descriptor.
    Descriptor(Arc<ForeignFile>),
    /// A part of a file, as a body.
    Range { file: Arc<ForeignFile>, offset: u64, len: u64 },
    /// Bytes of unknown number, as a body; they can be brought once.
    Stream(Arc<std::sync::Mutex<Option<Box<dyn Read + Send>>>>, Progress),
}

impl Brings {
    pub(crate) fn stream(stream: Box<dyn Read + Send>, progress: Progress) -> Brings {
        Brings::Stream(Arc::new(std::sync::Mutex::new(Some(stream))), progress)
    }

    /// Whether the request can be made again from the start.
    pub(crate) fn can_repeat(&self) -> bool {
        !matches!(self, Brings::Stream(..))
    }

    /// The body, and what becomes known of reading it: the reader runs on a thread of its own.
    pub(crate) fn body(&self) -> (Payload, Option<Reading>) {
        match self {
            Brings::Nothing | Brings::Descriptor(_) => (Payload::Whole(Bytes::new()), None),
            Brings::Bytes(bytes) => (Payload::Whole(bytes.clone()), None),
            Brings::Range { file, offset, len } => {
                let (file, offset, len) = (Arc::clone(file), *offset, *len);
                let (send, pieces) = channel(N_PIECES);
                let reading = apart(move || read_range(&file, offset, len, &send));
                (Payload::Pieces { pieces, left: Some(len), is_over: len == 0 }, Some(reading))
            }
            Brings::Stream(stream, progress) => {
                let taken = match stream.lock() {
                    Ok(mut stream) => stream.take(),
                    Err(poisoned) => poisoned.into_inner().take(),
                };
                let progress = progress.clone();
                let (send, pieces) = channel(N_PIECES);
                let reading = apart(move || match taken {
                    Some(mut stream) => read_stream(&mut *stream, &progress, &send),
                    None => Err(io::Error::other("the stream was read before")),
                });
                (Payload::Pieces { pieces, left: None, is_over: false }, Some(reading))
            }
        }
    }
}

/// How reading the caller's bytes went.
pub(crate) type Reading = tokio::task::JoinHandle<io::Result<()>>;

/// One step of a body; its end is said, so that a reader that died is not taken for one.
pub(crate) enum Piece {
    Bytes(Bytes),
    End,
}

fn read_range(file: &ForeignFile, offset: u64, len: u64, to: &Sender<Piece>) -> io::Result<()> {
    let changed =
        || io::Error::new(io::ErrorKind::UnexpectedEof, "the file changed while it was read");
    let before = file.stat()?;
    let mut at = 0;
    while at < len {
        let most = usize::try_from(len - at).unwrap_or(PIECE).min(PIECE);
        let mut buffer = vec![0; most];
        let n = match file.read_at(&mut buffer, offset + at) {
            Ok(0) => return Err(changed()),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        buffer.truncate(n);
        at += n as u64;
        if at == len {
            // The last piece goes only from a file that stayed as it was, so that what the daemon
            // gets is either the file or no complete body.
            let after = file.stat()?;
            if (after.size, after.modified_ns) != (before.size, before.modified_ns) {
                return Err(changed());
            }
        }
        if to.blocking_send(Piece::Bytes(buffer.into())).is_err() {
            // The answer came before the end, or nobody waits for it any more.
            return Ok(());
        }
    }
    Ok(())
}

fn read_stream(stream: &mut dyn Read, progress: &Progress, to: &Sender<Piece>) -> io::Result<()> {
    loop {
        let mut buffer = Vec::with_capacity(PIECE);
        stream.take(PIECE as u64).read_to_end(&mut buffer)?;
        let piece = match buffer.len() {
            0 => Piece::End,
            n => {
                progress.add_done(n as u64);
                Piece::Bytes(buffer.into())
            }
        };
        let is_end = matches!(piece, Piece::End);
        if to.blocking_send(piece).is_err() || is_end {
            return Ok(());
        }
    }
}

/// A request's body as hyper takes it.
pub(crate) enum Payload {
    Whole(Bytes),
    Pieces { pieces: Receiver<Piece>, left: Option<u64>, is_over: bool },
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Payload::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Payload::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Payload::Pieces { is_over: true, .. } => Poll::Ready(None),
            Payload::Pieces { pieces, left, is_over } => match ready!(pieces.poll_recv(cx)) {
                Some(Piece::Bytes(bytes)) => {
                    if let Some(left) = left {
                        *left = left.saturating_sub(bytes.len() as u64);
                        *is_over = *left == 0;
                    }
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                Some(Piece::End) => {
                    *is_over = true;
                    Poll::Ready(None)
                }
                None => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Payload::Whole(bytes) => bytes.is_empty(),
            Payload::Pieces { is_over, .. } => *is_over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Payload::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Payload::Pieces { left: Some(left), .. } => SizeHint::with_exact(*left),
            Payload::Pieces { left: None, .. } => SizeHint::default(),
        }
    }
}
