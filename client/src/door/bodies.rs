//! Bodies on their way through: what the client sends to the daemon, what the daemon answers, and the
//! connection that moves both while somebody waits. A piece is held, and never more.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::hearing::Hearing;

/// How long the daemon may take from one piece of an answer to the next.
pub(super) const PIECE_WITHIN: Duration = Duration::from_secs(600);

/// The body of a request on its way to the daemon.
pub(super) struct Asked {
    pub(super) body: Incoming,
    pub(super) wanted: Wanted,
    pub(super) sent: Arc<Sent>,
    /// The client left in the middle. What came before goes out before that is told.
    pub(super) broken: Option<hyper::Error>,
}

/// What became of a body, for whoever waits for the answer to it.
#[derive(Default)]
pub(super) struct Sent {
    /// How many pieces went out.
    pub(super) n_pieces: AtomicU64,
    /// It has no end.
    pub(super) is_torn: AtomicBool,
}

/// Whether the daemon wants a body. To read that of a client that asks first would tell the client
/// that it is wanted.
pub(super) enum Wanted {
    Yes,
    /// It is to say so.
    Asked(oneshot::Receiver<()>),
    /// It answered without it.
    No,
}

/// The body of an answer on its way to the client.
pub(super) enum Answered {
    /// Of this room's own.
    Own(Option<Bytes>),
    /// From the daemon, over a connection that moves while somebody waits for it.
    Carried { driver: Box<Driver>, body: Incoming, patience: Pin<Box<Sleep>> },
}

/// What moves a connection to the daemon; there is no task behind it.
pub(super) struct Driver {
    pub(super) connection: http1::Connection<TokioIo<Hearing<UnixStream>>, Asked>,
    pub(super) is_over: bool,
}

impl Driver {
    /// Waits for something that comes over the connection.
    pub(super) async fn drive<F: Future>(&mut self, what: F) -> F::Output {
        let mut what = pin!(what);
        std::future::poll_fn(|cx| self.move_for(cx, |cx| what.as_mut().poll(cx))).await
    }

    fn move_for<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut look: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if let Poll::Ready(done) = look(cx) {
            return Poll::Ready(done);
        }
        if !self.is_over {
            // How it ended is told to whoever waits for an answer.
            self.is_over = Pin::new(&mut self.connection).poll(cx).is_ready();
        }
        // What the connection has just brought is looked at now, not at the next wake-up.
        look(cx)
    }
}

impl Body for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Wanted::Asked(told) = &mut self.wanted {
            self.wanted = match Pin::new(told).poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => Wanted::Yes,
                Poll::Ready(Err(_)) => Wanted::No,
            };
        }
        if let Wanted::No = self.wanted {
            return Poll::Pending;
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Err(error))) => {
                self.sent.is_torn.store(true, Ordering::Relaxed);
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            frame => {
                if frame.is_ready() {
                    self.sent.n_pieces.fetch_add(1, Ordering::Relaxed);
                }
                frame
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match &mut *self {
            Answered::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Answered::Carried { driver, body, patience } => {
                match driver.move_for(cx, |cx| Pin::new(&mut *body).poll_frame(cx)) {
                    Poll::Ready(frame) => {
                        patience.as_mut().reset(Instant::now() + PIECE_WITHIN);
                        Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)))
                    }
                    Poll::Pending if patience.as_mut().poll(cx).is_ready() => {
                        Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
                    }
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Answered::Own(bytes) => bytes.is_none(),
            Answered::Carried { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Answered::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Answered::Carried { body, .. } => body.size_hint(),
        }
    }
}
