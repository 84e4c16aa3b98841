//! A stream that is still listened to when its other end takes nothing more.
//!
//! A daemon may refuse a body in the middle: it answers and closes. Whoever is writing then learns
//! from the failed write that nobody reads, and the answer lies unread in the socket. HTTP's driver
//! gives up at the first write that fails, so here such a write never ends: what is to be learnt
//! comes by reading, be it the answer or the end of the stream. This room knows nothing of HTTP.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream, and whether its other end still takes what is written.
pub(crate) struct Hearing<S> {
    stream: S,
    is_refused: bool,
}

impl<S> Hearing<S> {
    pub(crate) fn new(stream: S) -> Hearing<S> {
        Hearing { stream, is_refused: false }
    }

    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Err(error)) if is_refusal(&error) => {
                self.is_refused = true;
                // Nobody wakes whoever waits for this: what wakes it is the reading side, where an
                // end that was closed always has something to tell.
                Poll::Pending
            }
            other => other,
        }
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<S: AsyncRead + Unpin> AsyncRead for Hearing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hearing<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_refused {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.is_refused {
            return Poll::Pending;
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixStream;

    #[tokio::test]
    async fn what_was_said_before_the_end_was_closed_is_still_heard() {
        let (ours, mut theirs) = UnixStream::pair().expect("a socket pair");
        let mut ours = Hearing::new(ours);
        ours.write_all(b"unread").await.expect("written");
        theirs.write_all(b"no").await.expect("written");
        drop(theirs);

        let writing = async {
            let (mut answer, (mut reader, mut writer)) = (Vec::new(), tokio::io::split(ours));
            tokio::select! {
                biased;
                written = writer.write_all(b"more") => panic!("{written:?}"),
                // The end, or that bytes of ours went unread: both come after what was said.
                _ = reader.read_to_end(&mut answer) => answer,
            }
        };
        let heard = tokio::time::timeout(std::time::Duration::from_secs(10), writing).await;
        assert_eq!(heard.as_deref(), Ok(b"no".as_slice()));
    }
}
