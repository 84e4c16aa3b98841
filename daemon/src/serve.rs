//! Connections from the accept to the last byte: the one place that spawns tasks.
//!
//! Accepting never waits for anybody. What a peer does on its connection, or fails to do, is
//! watched by that connection's own clock and ends that connection.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cas::UploadId;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use wire::stream::{DescriptorStream, Descriptors};
use wire::{Code, Problem};

use crate::app::App;
use crate::ask::{Ask, Caller, Door};
use crate::bridge::Kind;
use crate::clocked::Clocked;
use crate::connections::{Overdue, Seat};
use crate::ops;
use crate::peer::{Peer, Whom};
use crate::record::Record;
use crate::routes::{self, Op};
use crate::v2::fault::{self, Fault};
use crate::v2::listener::Front;
use crate::v2::login::Visitor;
use crate::v2::path;
use crate::v2::sessions::Upload;

/// Peers that are told at once that there is no room; more than that are just closed.
const N_TURNED_AWAY: usize = 64;
const TURNED_AWAY_WITHIN: Duration = Duration::from_secs(1);
/// How often uploads are looked at that may wait for their first bytes.
const WAITING: Duration = Duration::from_millis(250);
/// How often drafts are looked at whose time may be over.
const SWEEP: Duration = Duration::from_secs(5);

/// Serves until `stop` resolves, then drains: nothing new is accepted, what is in flight may end,
/// for as long as the configuration allows.
pub async fn serve(
    app: Arc<App>,
    listener: UnixListener,
    front: Option<(TcpListener, Arc<Front>)>,
    stop: impl Future<Output = ()>,
) {
    let (draining, told) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let turning_away = Arc::new(Semaphore::new(N_TURNED_AWAY));
    let mut sweep = interval(SWEEP.min(app.config.timeouts.draft_abandoned.0.max(TICK_LEAST)));
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut waiting = interval(WAITING);
    waiting.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let own = Whom::Uid(nix::unistd::Uid::effective().as_raw());
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => accept(&app, stream, &mut tasks, &told, &turning_away),
                Err(error) => not_accepted(&error).await,
            },
            accepted = next_of(front.as_ref()) => match accepted {
                Ok((stream, address, front)) => {
                    let (turned, app) = (&turning_away, &app);
                    accept_tcp(app, stream, address.ip(), front, &mut tasks, &told, turned);
                }
                Err(error) => not_accepted(&error).await,
            },
            Some(_) = tasks.join_next() => {}
            _ = waiting.tick() => {
                let uploads = app.uploads.waiting();
                if !uploads.is_empty() {
                    let (app, writer) = (app.clone(), app.clone());
                    let write = move || { write_down(&writer, uploads); Ok(()) };
                    spawn(&mut tasks, async move {
                        let _ = app.bridge.run(Kind::Short, own, write).await;
                    });
                }
            }
            _ = sweep.tick() => {
                let (drafts, uploads) = (app.drafts.expired(), app.uploads.expired());
                let (n_drafts, n_uploads) = (drafts.len(), uploads.len());
                if n_drafts + n_uploads > 0 {
                    tracing::info!(n_drafts, n_uploads, "drafts and uploads were given up");
                    let app = app.clone();
                    let end = move || { drop((drafts, uploads)); Ok(()) };
                    spawn(&mut tasks, async move {
                        let _ = app.bridge.run(Kind::Short, own, end).await;
                    });
                }
            }
        }
    }
    drop((listener, front));
    app.drain();
    let _ = draining.send(true);
    let deadline = Instant::now() + app.config.timeouts.drain.0;
    let all = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout_at(deadline, all).await.is_err() {
        tracing::warn!(n_connections = tasks.len(), "connections were cut off");
        tasks.shutdown().await;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    if !app.bridge.quiet(left.max(Duration::from_secs(1))).await {
        tracing::warn!("jobs were still running");
    }
}

/// Lets the next process know of uploads that nothing came of yet; those in use are looked at again.
fn write_down(app: &App, uploads: Vec<(UploadId, Arc<Upload<cas::Upload>>)>) {
    for (id, upload) in uploads {
        let Ok(mut upload) = upload.try_lock() else { continue };
        if let Err(error) = upload.rest() {
            tracing::warn!(%id, %error, "an upload would not outlive a kill");
        }
        app.uploads.note_known(&id);
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that spawns tasks")]
fn spawn(tasks: &mut JoinSet<()>, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(task);
}

fn accept(
    app: &Arc<App>,
    stream: UnixStream,
    tasks: &mut JoinSet<()>,
    told: &watch::Receiver<bool>,
    turning_away: &Arc<Semaphore>,
) {
    app.metrics.connections.fetch_add(1, Ordering::Relaxed);
    let peer = match Peer::of(&stream, app.overflow_uid) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!(%error, "a peer without credentials was turned away");
            return;
        }
    };
    let Some(seat) = sit(app, peer.whom()) else {
        return turn_away(stream, busy, tasks, turning_away);
    };
    let stream = DescriptorStream::new(stream);
    let descriptors = stream.descriptors();
    let (peer, connection) = (Arc::new(peer), seat.id());
    let caller = Caller { door: Door::Socket, peer, connection, descriptors };
    spawn(tasks, self::connection(app.clone(), stream, seat, caller, told.clone()));
}

/// The next connection of a listener that may not be there.
async fn next_of(
    front: Option<&(TcpListener, Arc<Front>)>,
) -> io::Result<(TcpStream, SocketAddr, &Arc<Front>)> {
    match front {
        Some((listener, front)) => {
            listener.accept().await.map(|(stream, address)| (stream, address, front))
        }
        None => std::future::pending().await,
    }
}

async fn not_accepted(error: &io::Error) {
    // Out of descriptors, most likely: others must end before it gets better.
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn accept_tcp(
    app: &Arc<App>,
    stream: TcpStream,
    address: IpAddr,
    front: &Arc<Front>,
    tasks: &mut JoinSet<()>,
    told: &watch::Receiver<bool>,
    turning_away: &Arc<Semaphore>,
) {
    app.metrics.connections.fetch_add(1, Ordering::Relaxed);
    // Answers are short and go out whole; to wait for more would cost each one a delayed
    // acknowledgement.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection keeps its delay");
    }
    let peer = Arc::new(Peer::Anonymous);
    let caller = |door, seat: &Seat| {
        let (connection, descriptors) = (seat.id(), Descriptors::default());
        Caller { door, peer, connection, descriptors }
    };
    let Some(tls) = &front.tls else {
        let Some(seat) = sit(app, Whom::Anonymous) else {
            return turn_away(stream, busy, tasks, turning_away);
        };
        let caller = caller(Door::Plain, &seat);
        return spawn(tasks, connection(app.clone(), stream, seat, caller, told.clone()));
    };
    // Nobody knows yet who it is, so it counts for where it comes from. There is no telling it that
    // there is no seat: that would take a handshake.
    let Some(seat) = sit(app, Whom::stranger(address)) else { return };
    let visitor = Arc::new(Visitor::new(front.login.clone(), address));
    let caller = caller(Door::Tls(visitor), &seat);
    let acceptor = tls.acceptor();
    spawn(tasks, connection_over_tls(app.clone(), acceptor, stream, seat, caller, told.clone()));
}

/// A seat for a connection, if there is one.
fn sit(app: &App, whom: Whom) -> Option<Seat> {
    let Some((seat, gave_way)) = app.connections.sit(whom) else {
        app.metrics.connections_refused.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%whom, "a connection was turned away: too many");
        return None;
    };
    if gave_way {
        app.metrics.connections_evicted.fetch_add(1, Ordering::Relaxed);
    }
    Some(seat)
}

/// Tells somebody why there is no connection for it, if not too many are told so already.
fn turn_away(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answer: fn(&[u8]) -> Vec<u8>,
    tasks: &mut JoinSet<()>,
    turning_away: &Arc<Semaphore>,
) {
    if let Ok(permit) = turning_away.clone().try_acquire_owned() {
        spawn(tasks, async move {
            let _permit = permit;
            let _ = timeout(TURNED_AWAY_WITHIN, say_and_close(stream, answer)).await;
        });
    }
}

/// That there is no seat, in the words of the plane that the request asks for.
fn busy(request: &[u8]) -> Vec<u8> {
    let problem = Problem::new(Code::Busy, "too many connections are open")
        .hint("try again when some of them are closed");
    let asked = request.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    if std::str::from_utf8(asked).is_ok_and(path::is_ours) {
        let (status, fields, body) = Fault::from(problem).answer();
        return last_answer(status, fields, &body);
    }
    let status = crate::status::of(problem.code);
    let body = serde_json::to_vec(&wire::api::ErrorBody { error: problem }).unwrap_or_default();
    last_answer(status, Vec::new(), &body)
}

/// That plain HTTP is not spoken here.
fn speaks_tls(_: &[u8]) -> Vec<u8> {
    let message = "this port speaks TLS: ask over https";
    let (status, fields, body) = Fault::new(fault::Kind::Unsupported, message).answer();
    last_answer(status, fields, &body)
}

/// The whole of an answer after which the connection is closed.
fn last_answer(
    status: http::StatusCode,
    fields: Vec<(http::HeaderName, http::HeaderValue)>,
    body: &[u8],
) -> Vec<u8> {
    let mut answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n",
        body.len()
    )
    .into_bytes();
    for (name, value) in fields {
        answer.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    answer.extend([b"\r\n", body].concat());
    answer
}

/// Answers the first request. To answer unasked would confuse HTTP clients.
async fn say_and_close(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: fn(&[u8]) -> Vec<u8>,
) -> io::Result<()> {
    let mut request = [0; 4096];
    let n = stream.read(&mut request).await?;
    if n == 0 {
        return Ok(());
    }
    stream.write_all(&answer(&request[..n])).await?;
    stream.shutdown().await?;
    // To close a socket with unread bytes in it would take the answer away from the peer.
    while stream.read(&mut request).await? > 0 {}
    Ok(())
}

/// A connection that begins with a handshake, which gets as much time as a request's header.
async fn connection_over_tls(
    app: Arc<App>,
    acceptor: TlsAcceptor,
    stream: TcpStream,
    seat: Seat,
    caller: Caller,
    mut told: watch::Receiver<bool>,
) {
    let pulse = seat.pulse().clone();
    let shaken = tokio::select! {
        shaken = timeout(app.config.timeouts.header.0, shake_hands(acceptor, stream)) => shaken,
        () = pulse.told_to_leave() => return,
        _ = told.wait_for(|is_leaving| *is_leaving) => return,
    };
    match shaken.unwrap_or_else(|late| Err(late.into())) {
        Ok(stream) => connection(app, stream, seat, caller, told).await,
        Err(error) => {
            app.metrics.handshakes_failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%error, "a handshake failed");
        }
    }
}

async fn shake_hands(acceptor: TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
        // A method of HTTP: whoever mistook the port is told so in its own words.
        let _ = timeout(TURNED_AWAY_WITHIN, say_and_close(stream, speaks_tls)).await;
        return Err(io::Error::other("it spoke plain HTTP"));
    }
    acceptor.accept(stream).await
}

/// The shortest step of a connection's clock.
const TICK_LEAST: Duration = Duration::from_millis(20);

async fn connection(
    app: Arc<App>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    seat: Seat,
    caller: Caller,
    mut told: watch::Receiver<bool>,
) {
    let open = OpenConnection::new(&app, seat);
    let pulse = open.seat.pulse().clone();
    let service = service_fn(|request: Request<Incoming>| {
        let record = |op| Record::new(app.clone(), pulse.clone(), op, &caller.peer);
        let op = routes::find(request.method(), request.uri().path()).0;
        answer(app.clone(), caller.clone(), request, op, record(op))
    });
    let limits = &app.config.limits;
    let header_size = usize::try_from(limits.header_size.0).unwrap_or(usize::MAX);
    let io = TokioIo::new(Clocked::new(stream, pulse.clone()));
    let mut http = pin!(
        http1::Builder::new()
            .max_headers(limits.header_fields)
            .max_header_size(header_size)
            // Also what is read of a body at once; larger reads gain nothing on a Unix socket.
            .max_buf_size(header_size.max(64 << 10))
            .auto_date_header(false)
            .serve_connection(io, service)
    );

    let times = &app.config.timeouts;
    let shortest = times.header.0.min(times.stall.0).min(times.keep_alive.0);
    let mut clock = interval((shortest / 4).clamp(TICK_LEAST, Duration::from_secs(1)));
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_leaving = *told.borrow();
    if is_leaving {
        http.as_mut().graceful_shutdown();
    }
    loop {
        tokio::select! {
            biased;
            end = &mut http => {
                if let Err(error) = end {
                    tracing::debug!(%error, whom = %caller.whom(), "a connection broke");
                }
                return;
            }
            _ = told.changed(), if !is_leaving => {
                is_leaving = true;
                http.as_mut().graceful_shutdown();
            }
            () = pulse.told_to_leave(), if !is_leaving => {
                // A request that came in the same moment is still answered.
                is_leaving = true;
                http.as_mut().graceful_shutdown();
            }
            _ = clock.tick() => {
                let stall = match app.bridge.is_crowded(caller.whom()) {
                    true => times.stall.0.min(STALL_WHEN_CROWDED),
                    false => times.stall.0,
                };
                match pulse.overdue(times.header.0, stall, times.keep_alive.0) {
                    None => {}
                    Some(Overdue::Idle) if !is_leaving => {
                        is_leaving = true;
                        http.as_mut().graceful_shutdown();
                    }
                    Some(overdue) => {
                        let whom = caller.whom();
                        tracing::debug!(%whom, ?overdue, "a connection was closed");
                        return;
                    }
                }
            }
        }
    }
}

/// How long a stalled answer may hold its place when others wait for one.
const STALL_WHEN_CROWDED: Duration = Duration::from_secs(2);

/// Counts a connection, and tells its drafts when it is gone, however it ended.
struct OpenConnection {
    app: Arc<App>,
    seat: Seat,
}

impl OpenConnection {
    fn new(app: &Arc<App>, seat: Seat) -> OpenConnection {
        app.metrics.connections_open.fetch_add(1, Ordering::Relaxed);
        OpenConnection { app: app.clone(), seat }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.app.metrics.connections_open.fetch_sub(1, Ordering::Relaxed);
        self.app.drafts.hang_up(self.seat.id());
    }
}

/// One request: the op that it means, and what came of it.
async fn answer(
    app: Arc<App>,
    caller: Caller,
    request: Request<Incoming>,
    op: Op,
    record: Record,
) -> Result<http::Response<crate::answer::AnswerBody>, Infallible> {
    let descriptors = caller.descriptors.clone();
    let (head, body) = request.into_parts();
    let mut ask = Ask::new(app, caller, head, body, record);
    let (answer, end) = ops::run(op, &mut ask).await;
    let mut record = ask.record;
    record.close(end);
    Ok(answer.into_response(record, &descriptors))
}
