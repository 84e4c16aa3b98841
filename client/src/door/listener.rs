//! Where the command finds its registry: a port of this machine's own, TLS and plain HTTP on it, and
//! the one place of `bond` that listens and starts a task for each connection.
//!
//! Everybody on the machine can connect. Who has not shown the credential gets a short time, makes
//! room for newcomers when the place is full, and learns nothing.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use cas::workspace::Workspace;
use http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::certificate::Certificate;
use super::credential::Credential;
use super::patient::Patient;
use super::relay::Relay;
use crate::problem::Error;

/// Connections at once; a tool has some tens.
const MOST: usize = 256;
/// How long a visitor may take to show the credential.
const KNOWN_WITHIN: Duration = Duration::from_secs(15);
/// How long a header may take, and how long a connection may be idle: longer than the tools keep
/// theirs, so that it is they who close it.
const IDLE: Duration = Duration::from_secs(120);
/// How long a client may take nothing of an answer.
const STALL: Duration = Duration::from_secs(60);
/// The largest header, and what is read of a body at once.
const BUFFER: usize = 64 << 10;
/// The most fields in a header.
const MOST_FIELDS: usize = 100;
/// What a TLS connection begins with: a record of its handshake.
const HANDSHAKE: u8 = 0x16;
/// A client that still writes when it was answered gets to read the answer: so much of what it
/// writes is read, for so long.
const LINGER: u64 = 4 << 20;
const LINGER_FOR: Duration = Duration::from_secs(2);

/// A private front door.
pub(crate) struct Door {
    listener: TcpListener,
    address: SocketAddr,
    tls: TlsAcceptor,
    authority: String,
    relay: Arc<Relay>,
}

/// Who is at the other end of a connection.
#[derive(Default)]
pub(super) struct Visitor {
    has_shown: AtomicBool,
    leave: Notify,
}

// === impl Door ===

impl Door {
    /// Opens one to the daemon at this socket, within a workspace. Nobody is served yet.
    ///
    /// # Errors
    /// [`Error::Source`] when the system has no port for it.
    pub(crate) async fn open(socket: PathBuf, workspace: &Workspace) -> Result<Door, Error> {
        let failed = |source| Error::Source { doing: "opening a port on 127.0.0.1", source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let workspace = HeaderValue::from_str(workspace.as_str());
        let workspace = workspace.map_err(|error| failed(io::Error::other(error)))?;
        let Certificate { server, authority } = Certificate::new()?;
        let credential = Credential::random()?;
        let relay = Arc::new(Relay { socket, workspace, credential });
        Ok(Door { listener, address, tls: server.into(), authority, relay })
    }

    /// Where it is: `127.0.0.1:PORT`.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// What lets one in.
    pub(crate) fn credential(&self) -> &Credential {
        &self.relay.credential
    }

    /// The authority of its certificate, as it stands in a bundle.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// Serves until this is dropped, and every connection with it.
    pub(crate) async fn serve(&self) -> Infallible {
        let mut connections = JoinSet::new();
        let mut unknown: VecDeque<Weak<Visitor>> = VecDeque::new();
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let Ok((stream, _)) = accepted else {
                // Out of descriptors, most likely: others must end before it gets better.
                sleep(Duration::from_millis(50)).await;
                continue;
            };
            unknown.retain(|visitor| visitor.upgrade().is_some_and(|one| !one.has_shown()));
            if connections.len() >= MOST {
                // Who has not shown anything longest goes; when all have, the newcomer does.
                match unknown.pop_front().and_then(|visitor| visitor.upgrade()) {
                    Some(visitor) => visitor.leave.notify_one(),
                    None => continue,
                }
            }
            let visitor = Arc::new(Visitor::default());
            unknown.push_back(Arc::downgrade(&visitor));
            start(&mut connections, self.connection(stream, visitor));
        }
    }

    fn connection(
        &self,
        stream: TcpStream,
        visitor: Arc<Visitor>,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (tls, relay) = (self.tls.clone(), Arc::clone(&self.relay));
        async move {
            let served = async {
                // How it ended, the client knows.
                let _ = receive(stream, tls, relay, Arc::clone(&visitor)).await;
            };
            tokio::select! {
                () = served => {}
                () = visitor.is_to_leave() => {}
            }
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that serves connections")]
fn start(connections: &mut JoinSet<()>, one: impl Future<Output = ()> + Send + 'static) {
    connections.spawn(one);
}

/// Finds out what a client speaks, and speaks it.
async fn receive(
    stream: TcpStream,
    tls: TlsAcceptor,
    relay: Arc<Relay>,
    visitor: Arc<Visitor>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(());
    }
    let stream = Patient::new(stream, STALL);
    match first[0] {
        HANDSHAKE => serve(tls.accept(stream).await?, relay, visitor).await,
        _ => serve(stream, relay, visitor).await,
    }
    Ok(())
}

async fn serve<S>(stream: S, relay: Arc<Relay>, visitor: Arc<Visitor>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let (relay, visitor) = (Arc::clone(&relay), Arc::clone(&visitor));
        Box::pin(async move { relay.answer(&visitor, request).await })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_headers(MOST_FIELDS)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let ended = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
    if ended.is_ok() {
        let stream = connection.into_parts().io.into_inner();
        let _ = timeout(LINGER_FOR, linger(stream)).await;
    }
}

/// Ends a connection so that what was said last is still heard: closed with unread bytes in it, it
/// would be reset.
async fn linger(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.shutdown().await?;
    let mut rest = pin!(stream.take(LINGER));
    let mut buffer = [0; 4096];
    while rest.read(&mut buffer).await? > 0 {}
    Ok(())
}

// === impl Visitor ===

impl Visitor {
    /// It has shown the credential.
    pub(super) fn is_known(&self) {
        self.has_shown.store(true, Ordering::Relaxed);
    }

    fn has_shown(&self) -> bool {
        self.has_shown.load(Ordering::Relaxed)
    }

    /// Waits until it has to go; a visitor that is known never has to.
    async fn is_to_leave(&self) {
        let late = async {
            sleep(KNOWN_WITHIN).await;
            if self.has_shown() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = late => {}
            () = self.leave.notified() => {}
        }
    }
}
