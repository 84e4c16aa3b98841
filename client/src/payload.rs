//! What a request brings with it: nothing, bytes, a stream, or an open file.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use cas::disk::ForeignFile;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

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
                Payload::read_apart(Some(len), move |to| read_range(&file, offset, len, to))
            }
            Brings::Stream(stream, progress) => {
                let taken = match stream.lock() {
                    Ok(mut stream) => stream.take(),
                    Err(poisoned) => poisoned.into_inner().take(),
                };
                let progress = progress.clone();
                Payload::read_apart(None, move |to| match taken {
                    Some(mut stream) => read_stream(&mut *stream, &progress, to),
                    None => Err(io::Error::other("the stream was read before")),
                })
            }
        }
    }
}

/// What is known of a body whose bytes are read on a thread of their own. Nobody waits for that
/// thread: it may be in a read that does not end, of a terminal or a pipe.
pub(crate) struct Reading {
    failed: oneshot::Receiver<io::Error>,
    flow: Arc<Flow>,
}

impl Reading {
    /// Why the bytes could not be read on, if that is why no more of them came.
    pub(crate) fn failure(mut self) -> Option<io::Error> {
        self.failed.try_recv().ok()
    }

    /// How the bytes flow.
    pub(crate) fn flow(&self) -> &Arc<Flow> {
        &self.flow
    }
}

/// How the bytes of a body flow.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    n_bytes: AtomicU64,
    waits: AtomicBool,
}

impl Flow {
    /// Bytes that went on to the connection.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.n_bytes.load(Ordering::Relaxed)
    }

    /// Whether the connection would take more and the source gives none.
    pub(crate) fn waits_for_its_source(&self) -> bool {
        self.waits.load(Ordering::Relaxed)
    }
}

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
    Pieces { pieces: Receiver<Piece>, left: Option<u64>, is_over: bool, flow: Arc<Flow> },
}

impl Payload {
    /// A body that `read` brings piece by piece, `len` bytes when that is known.
    fn read_apart(
        len: Option<u64>,
        read: impl FnOnce(&Sender<Piece>) -> io::Result<()> + Send + 'static,
    ) -> (Payload, Option<Reading>) {
        let (send, pieces) = channel(N_PIECES);
        let (tell, failed) = oneshot::channel();
        apart(move || {
            if let Err(error) = read(&send) {
                // Told before the pieces end, so that whoever sees them end finds the reason.
                let _ = tell.send(error);
            }
        });
        let flow = Arc::new(Flow::default());
        let reading = Reading { failed, flow: Arc::clone(&flow) };
        (Payload::Pieces { pieces, left: len, is_over: len == Some(0), flow }, Some(reading))
    }
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
            Payload::Pieces { pieces, left, is_over, flow } => match pieces.poll_recv(cx) {
                Poll::Pending => {
                    flow.waits.store(true, Ordering::Relaxed);
                    Poll::Pending
                }
                Poll::Ready(Some(Piece::Bytes(bytes))) => {
                    flow.waits.store(false, Ordering::Relaxed);
                    flow.n_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    if let Some(left) = left {
                        *left = left.saturating_sub(bytes.len() as u64);
                        *is_over = *left == 0;
                    }
                    Poll::Ready(Some(Ok(Frame::data(bytes))))
                }
                Poll::Ready(Some(Piece::End)) => {
                    flow.waits.store(false, Ordering::Relaxed);
                    *is_over = true;
                    Poll::Ready(None)
                }
                Poll::Ready(None) => Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into()))),
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
