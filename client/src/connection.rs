//! One connection to the daemon: HTTP/1.1 with descriptors beside it.
//!
//! The connection is driven by whoever waits for an answer on it. There is no task behind it, so a
//! request costs no switch between tasks, and a connection that is dropped is gone at once.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use wire::api::{ACCEPT_DESCRIPTORS, DESCRIPTORS, ErrorBody};
use wire::stream::{DescriptorStream, Descriptors};

use crate::hearing::Hearing;
use crate::payload::{Brings, Payload, Reading};
use crate::problem::Error;
use crate::routes::moving;

/// How long a connection may take to come about; the socket is on this machine.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// The largest header of an answer, and the buffer for its body.
const BUFFER: usize = 512 << 10;
/// The largest JSON answer: the closure of an artifact with 100 000 members fits.
const JSON_LIMIT: usize = 64 << 20;

/// A request before it is put into bytes.
#[derive(Clone)]
pub(crate) struct Ask {
    /// What the user is told when it fails: `doing` something.
    pub(crate) doing: &'static str,
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) path: String,
    pub(crate) brings: Brings,
    /// Whether the answer may be a descriptor.
    pub(crate) accepts_descriptor: bool,
    /// How long the answer may take to begin; for a stream, after the last of it went out.
    pub(crate) patience: Duration,
    /// Whether it comes to the same when it is done twice.
    pub(crate) is_idempotent: bool,
}

/// What was answered.
pub(crate) struct Answer {
    pub(crate) body: Incoming,
    pub(crate) descriptor: Option<OwnedFd>,
    pub(crate) patience: Duration,
    pub(crate) doing: &'static str,
}

type Driver = http1::Connection<TokioIo<Hearing<DescriptorStream>>, Payload>;

/// A connection on which one request at a time is made.
pub(crate) struct Connection {
    sender: http1::SendRequest<Payload>,
    driver: Driver,
    /// The driver came to its end and may not be asked again.
    is_over: bool,
    descriptors: Descriptors,
}

impl Connection {
    /// Connects to the daemon's socket.
    pub(crate) async fn open(socket: &Path) -> Result<Connection, Error> {
        let unreachable =
            |source| Error::Unreachable { socket: socket.display().to_string(), source };
        let connecting = tokio::time::timeout(CONNECT_WITHIN, UnixStream::connect(socket));
        let stream = match connecting.await {
            Ok(stream) => stream.map_err(unreachable)?,
            Err(_) => return Err(unreachable(io::ErrorKind::TimedOut.into())),
        };
        let stream = DescriptorStream::new(stream);
        let descriptors = stream.descriptors();
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(BUFFER)
            .handshake(TokioIo::new(Hearing::new(stream)))
            .await
            .map_err(|error| unreachable(io::Error::other(error)))?;
        Ok(Connection { sender, driver, is_over: false, descriptors })
    }

    /// Whether another request can be made; an idle connection may have been closed meanwhile.
    pub(crate) async fn is_open(&mut self) -> bool {
        poll_fn(|cx| {
            self.advance(cx);
            Poll::Ready(())
        })
        .await;
        !self.is_over && self.sender.is_ready()
    }

    /// Makes a request and waits until its answer begins.
    pub(crate) async fn ask(&mut self, ask: &Ask) -> Result<Answer, Error> {
        let (payload, reading) = ask.brings.body();
        let request = request(ask, payload)?;
        if let Brings::Descriptor(file) = &ask.brings {
            let lost = |source: io::Error| Error::lost(ask.doing, &source);
            let descriptor = file.as_fd().try_clone_to_owned().map_err(lost)?;
            self.descriptors.put(descriptor).map_err(lost)?;
        }
        let sending = self.sender.send_request(request);
        let answered = Self::drive(&mut self.driver, &mut self.is_over, sending);
        let response = match within(ask, reading.as_ref(), answered).await? {
            Ok(response) => response,
            Err(error) => return Err(why(ask.doing, &error, reading)),
        };
        self.answer(ask, response).await
    }

    async fn answer(&mut self, ask: &Ask, response: Response<Incoming>) -> Result<Answer, Error> {
        let odd = |reason: String| Error::Odd { doing: ask.doing, reason };
        let (head, body) = response.into_parts();
        let announced = match head.headers.get(DESCRIPTORS).map(HeaderValue::as_bytes) {
            None | Some(b"0") => 0,
            Some(b"1") => 1,
            Some(other) => {
                return Err(odd(format!("{DESCRIPTORS}: {}", other.escape_ascii())));
            }
        };
        let descriptor = self.descriptors.take();
        if announced != u8::from(descriptor.is_some()) {
            return Err(odd("descriptors do not come as announced".to_owned()));
        }
        let answer = Answer { body, descriptor, patience: ask.patience, doing: ask.doing };
        match head.status {
            StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT => Ok(answer),
            status => {
                let bytes = self.collect(answer).await?;
                match serde_json::from_slice::<ErrorBody>(&bytes) {
                    Ok(ErrorBody { error }) => Err(Error::Answered(Box::new(error))),
                    Err(_) => Err(odd(format!("the answer is {status} without a reason"))),
                }
            }
        }
    }

    /// The next bytes of an answer; `None` at its end.
    pub(crate) async fn next(&mut self, answer: &mut Answer) -> Result<Option<Bytes>, Error> {
        loop {
            let frame = poll_fn(|cx| Pin::new(&mut answer.body).poll_frame(cx));
            let driven = Self::drive(&mut self.driver, &mut self.is_over, frame);
            match tokio::time::timeout(answer.patience, driven).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
                Ok(Some(Err(error))) => return Err(Error::lost(answer.doing, &error)),
                Err(_) => {
                    return Err(Error::Late { doing: answer.doing, after: answer.patience });
                }
            }
        }
    }

    /// The whole answer, which must not be longer than the largest JSON.
    pub(crate) async fn collect(&mut self, mut answer: Answer) -> Result<Bytes, Error> {
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next(&mut answer).await? {
            if whole.len() + bytes.len() > JSON_LIMIT {
                let reason = format!("the answer has more than {JSON_LIMIT} bytes");
                return Err(Error::Odd { doing: answer.doing, reason });
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    /// Waits for something that comes over this connection, and moves the connection meanwhile.
    async fn drive<F: Future>(driver: &mut Driver, is_over: &mut bool, what: F) -> F::Output {
        let mut what = pin!(what);
        poll_fn(|cx| {
            if let Poll::Ready(done) = what.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            move_on(driver, is_over, cx);
            // What the connection has just brought is looked at now, not at the next wake-up.
            what.as_mut().poll(cx)
        })
        .await
    }

    fn advance(&mut self, cx: &mut Context<'_>) {
        move_on(&mut self.driver, &mut self.is_over, cx);
    }
}

fn move_on(driver: &mut Driver, is_over: &mut bool, cx: &mut Context<'_>) {
    if !*is_over {
        // How it ended is told to whoever waits for an answer.
        *is_over = Pin::new(driver).poll(cx).is_ready();
    }
}

fn request(ask: &Ask, payload: Payload) -> Result<Request<Payload>, Error> {
    let mut request = Request::builder()
        .method(&ask.method)
        .uri(&ask.path)
        .body(payload)
        .map_err(|error| Error::Odd { doing: ask.doing, reason: error.to_string() })?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_static("bonded"));
    if matches!(ask.brings, Brings::Descriptor(_)) {
        headers.insert(DESCRIPTORS, HeaderValue::from_static("1"));
    }
    if ask.accepts_descriptor {
        headers.insert(ACCEPT_DESCRIPTORS, HeaderValue::from_static("1"));
    }
    Ok(request)
}

/// Waits for an answer, for as long as that may take. While a stream's own source is waited for, the
/// clock stands; how long a body may take whose length is known is known as well.
async fn within<F: Future>(
    ask: &Ask,
    reading: Option<&Reading>,
    answered: F,
) -> Result<F::Output, Error> {
    let stream = reading.filter(|_| matches!(ask.brings, Brings::Stream(..)));
    let mut answered = pin!(answered);
    let (mut after, mut n_before) = (ask.patience, 0);
    loop {
        match tokio::time::timeout(after, &mut answered).await {
            Ok(answered) => return Ok(answered),
            Err(_) => match stream.map(Reading::flow) {
                Some(flow) if flow.waits_for_its_source() || flow.n_bytes() > n_before => {
                    n_before = flow.n_bytes();
                    after = ask.patience + moving(n_before);
                }
                _ => return Err(Error::Late { doing: ask.doing, after }),
            },
        }
    }
}

/// Why no answer came: when the caller's own bytes could not be read, that was it.
fn why(doing: &'static str, error: &hyper::Error, reading: Option<Reading>) -> Error {
    match reading.and_then(Reading::failure) {
        Some(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            Error::SourceChanged { doing }
        }
        Some(source) => Error::Source { doing, source },
        None if error.is_canceled() => Error::NeverSent { doing },
        None => Error::lost(doing, error),
    }
}
