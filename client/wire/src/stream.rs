//! A Unix stream socket that carries open descriptors beside its bytes.
//!
//! Whoever owns the stream (hyper, on both sides) reads and writes bytes and knows nothing of
//! descriptors. Whoever handles requests holds [`Descriptors`], a handle to the same connection:
//! it takes what came with the bytes just read, and leaves what is to go out with the bytes
//! written next. This room knows nothing of HTTP, files or who is on the other side.
//!
//! Rules (FACTS.md, "descriptors over sockets"): close-on-exec from the first moment, one
//! descriptor waiting at a time, anything more or anything truncated ends the connection. A
//! descriptor that nobody took is closed with the connection.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

/// The most descriptors that Linux passes in one message (`SCM_MAX_FD`). With room for all of them
/// the kernel has no cause to cut the list, so every one that was installed is seen and closed.
const MOST_IN_ONE_MESSAGE: usize = 253;

/// The descriptors of one connection: what came in and was not taken, what waits to go out.
///
/// Cheap to clone; every clone means the same connection.
#[derive(Clone, Debug, Default)]
pub struct Descriptors(Arc<Mutex<Slots>>);

#[derive(Debug, Default)]
struct Slots {
    received: Option<OwnedFd>,
    to_send: Option<OwnedFd>,
}

impl Descriptors {
    /// The descriptor that came with the bytes read so far, once.
    pub fn take(&self) -> Option<OwnedFd> {
        self.slots().received.take()
    }

    /// Sends a descriptor along with the bytes that are written next.
    ///
    /// # Errors
    /// `AlreadyExists` when another one still waits to be sent.
    pub fn put(&self, descriptor: OwnedFd) -> io::Result<()> {
        let mut slots = self.slots();
        if slots.to_send.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        slots.to_send = Some(descriptor);
        Ok(())
    }

    /// Takes back what [`Descriptors::put`] left and nothing was written after.
    pub fn withdraw(&self) -> Option<OwnedFd> {
        self.slots().to_send.take()
    }

    /// No code panics while it holds the lock, so a poisoned one still guards whole slots.
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connected Unix stream socket and its [`Descriptors`].
#[derive(Debug)]
pub struct DescriptorStream {
    stream: UnixStream,
    descriptors: Descriptors,
    /// Room for control messages, made once.
    control: Vec<u8>,
}

impl DescriptorStream {
    /// Wraps a connection. All its reads must go through this wrapper from now on.
    pub fn new(stream: UnixStream) -> DescriptorStream {
        let control = nix::cmsg_space!([RawFd; MOST_IN_ONE_MESSAGE]);
        DescriptorStream { stream, descriptors: Descriptors::default(), control }
    }

    /// A handle to this connection's descriptors, which outlives the move of the stream into hyper.
    pub fn descriptors(&self) -> Descriptors {
        self.descriptors.clone()
    }

    /// The socket, for its peer's credentials.
    pub fn socket(&self) -> &UnixStream {
        &self.stream
    }

    fn write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut slots = self.descriptors.slots();
        let Some(descriptor) =
            slots.to_send.as_ref().filter(|_| slices.iter().any(|s| !s.is_empty()))
        else {
            drop(slots);
            return self.stream.try_write_vectored(slices);
        };
        let raw = [descriptor.as_raw_fd()];
        let n = self.stream.try_io(Interest::WRITABLE, || {
            let rights = [ControlMessage::ScmRights(&raw)];
            Ok(sendmsg::<()>(
                self.stream.as_raw_fd(),
                slices,
                &rights,
                MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
                None,
            )?)
        })?;
        // However few bytes the kernel took, the descriptor went with the first of them.
        slots.to_send = None;
        Ok(n)
    }
}

/// One `recvmsg`: the bytes go into `buffer`, every descriptor that came is owned from here on.
fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    control: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut slices = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let mut message = recvmsg::<()>(stream.as_raw_fd(), &mut slices, Some(control), flags)?;

    // nix shows no control message of a truncated answer, but the kernel installed the descriptors
    // that did fit: they are collected first and refused after.
    let truncated = message.flags.contains(MsgFlags::MSG_CTRUNC);
    message.flags.remove(MsgFlags::MSG_CTRUNC);
    let mut descriptors = Vec::new();
    for control_message in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = control_message {
            descriptors.extend(raw.into_iter().map(own));
        }
    }
    if truncated {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "descriptors were lost on the socket: too many came, or no more can be open",
        ));
    }
    Ok((message.bytes, descriptors))
}

/// nix hands received descriptors over as bare numbers.
#[allow(unsafe_code)]
fn own(raw: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just installed this descriptor for us, in a message that is read
    // once, and nothing else in the process knows its number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

impl AsyncRead for DescriptorStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let DescriptorStream { stream, descriptors, control } = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let into = buffer.initialize_unfilled();
            match stream.try_io(Interest::READABLE, || receive(stream, into, control)) {
                Ok((n, received)) => {
                    for descriptor in received {
                        let mut slots = descriptors.slots();
                        if slots.received.is_some() {
                            return Poll::Ready(Err(io::Error::new(
                                io::ErrorKind::InvalidData,
                                "more than one descriptor came with a message",
                            )));
                        }
                        slots.received = Some(descriptor);
                    }
                    buffer.advance(n);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for DescriptorStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buffer)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.write(slices) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return Poll::Ready(done),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn pair() -> (DescriptorStream, DescriptorStream) {
        let (a, b) = UnixStream::pair().expect("a socket pair");
        (DescriptorStream::new(a), DescriptorStream::new(b))
    }

    /// A pipe: its reading end sees the end of file once nobody holds the writing end any more.
    fn pipe() -> (tokio::net::unix::pipe::Receiver, OwnedFd) {
        let (read, write) = nix::unistd::pipe().expect("a pipe");
        nix::fcntl::fcntl(&read, FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).expect("fcntl");
        (tokio::net::unix::pipe::Receiver::from_owned_fd(read).expect("a receiver"), write)
    }

    fn send_raw(to: &DescriptorStream, raw: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(raw)];
        let bytes = [IoSlice::new(b"x")];
        let sent = sendmsg::<()>(to.stream.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None);
        assert_eq!(sent, Ok(1));
    }

    #[tokio::test]
    async fn a_descriptor_comes_with_the_bytes_it_was_put_before() {
        let (mut client, mut server) = pair();
        let (mut end, write) = pipe();

        // With the request, from the client to the server ...
        client.descriptors().put(write).expect("put");
        client.write_all(b"request").await.expect("write");
        let mut buffer = [0; 7];
        server.read_exact(&mut buffer).await.expect("read");
        assert_eq!(&buffer, b"request");
        let received = server.descriptors().take().expect("a descriptor with the request");
        assert!(server.descriptors().take().is_none(), "it is taken once");
        assert!(client.descriptors().withdraw().is_none(), "it was sent and is closed here");
        let flags = fcntl(&received, FcntlArg::F_GETFD).expect("fcntl");
        assert_eq!(FdFlag::from_bits_truncate(flags), FdFlag::FD_CLOEXEC);

        // ... and the same one back with the answer, in a vectored write.
        server.descriptors().put(received).expect("put");
        let slices = [IoSlice::new(b"ans"), IoSlice::new(b"wer")];
        assert_eq!(server.write_vectored(&slices).await.expect("write"), 6);
        let mut buffer = [0; 6];
        client.read_exact(&mut buffer).await.expect("read");
        assert_eq!(&buffer, b"answer");
        let back = client.descriptors().take().expect("a descriptor with the answer");
        nix::unistd::write(&back, b"through").expect("the pipe is the same");
        drop(back);
        let mut said = String::new();
        end.read_to_string(&mut said).await.expect("read");
        assert_eq!(said, "through");
    }

    #[tokio::test]
    async fn bytes_without_a_descriptor_bring_none() {
        let (mut client, mut server) = pair();
        client.write_all(b"plain").await.expect("write");
        let mut buffer = [0; 5];
        server.read_exact(&mut buffer).await.expect("read");
        assert!(server.descriptors().take().is_none());
        drop(client);
        assert_eq!(server.read(&mut buffer).await.expect("the end"), 0);
    }

    #[tokio::test]
    async fn more_than_one_descriptor_ends_the_connection_and_is_closed() {
        for n in [2, 3, MOST_IN_ONE_MESSAGE] {
            let (client, mut server) = pair();
            let (mut end, write) = pipe();
            send_raw(&client, &vec![write.as_raw_fd(); n]);
            drop(write);
            let refused = server.read_u8().await.expect_err("refused");
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{n}");
            drop((client, server));
            assert_eq!(end.read(&mut [0]).await.expect("all are closed"), 0, "{n}");
        }
        // One at a time, but the first was never taken.
        let (client, mut server) = pair();
        let (_end, write) = pipe();
        send_raw(&client, &[write.as_raw_fd()]);
        send_raw(&client, &[write.as_raw_fd()]);
        server.read_u8().await.expect("the first");
        assert!(server.read_u8().await.is_err(), "the second");
    }

    #[tokio::test]
    async fn a_dropped_connection_closes_what_nobody_took() {
        let (client, mut server) = pair();
        let (mut end, write) = pipe();
        send_raw(&client, &[write.as_raw_fd()]);
        server.read_u8().await.expect("read");
        client.descriptors().put(write).expect("put");
        assert!(client.descriptors().put(server.descriptors().take().expect("one")).is_err());
        drop((client, server));
        assert_eq!(end.read(&mut [0]).await.expect("all are closed"), 0);
    }

    #[tokio::test]
    async fn a_full_socket_neither_loses_nor_repeats_a_descriptor() {
        let (mut client, mut server) = pair();
        let (_end, write) = pipe();
        let filling = vec![0_u8; 4 << 20];
        let sender = async {
            client.write_all(&filling).await.expect("write");
            client.descriptors().put(write).expect("put");
            client.write_all(&filling).await.expect("write");
            client.shutdown().await.expect("shutdown");
        };
        let receiver = async {
            let (mut n_bytes, mut n_descriptors) = (0, 0);
            let mut buffer = vec![0; 1 << 16];
            loop {
                match server.read(&mut buffer).await.expect("read") {
                    0 => return (n_bytes, n_descriptors),
                    n => n_bytes += n,
                }
                n_descriptors += usize::from(server.descriptors().take().is_some());
            }
        };
        let ((), (n_bytes, n_descriptors)) = tokio::join!(sender, receiver);
        assert_eq!((n_bytes, n_descriptors), (8 << 20, 1));
    }
}
