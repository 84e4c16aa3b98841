//! The bytes that a request brings: from a descriptor, a short body or a long one to a blocking
//! job that reads them.
//!
//! A short body is collected first, so that a client that stalls in it holds nothing but its own
//! connection. A long one goes piece by piece through a small channel: the job waits for the
//! client, the client waits for the job, and if either goes away the other finds out.

use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use cas::Source;
use cas::disk::ForeignFile;
use http_body::Body as _;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout_at};
use wire::{Code, Problem};

use crate::ask::Ask;
use crate::bridge::{Kind, Wanted, ended};
use crate::refusal;

/// Bodies up to this are collected before a job starts.
const SHORT: usize = 64 << 10;
/// A file up to this is read by a short job: eight clients that put small files must be able to
/// wait for one sync together.
const SMALL_FILE: u64 = 1 << 20;
/// Pieces between the connection and the job; hyper makes none larger than its buffer.
const N_PIECES: usize = 4;
/// How much must come within the stall timeout: a drip is a stall.
const PROGRESS: u64 = 64 << 10;
/// How long a stalled body may hold its place when others wait for one.
const STALL_WHEN_CROWDED: Duration = Duration::from_secs(2);
/// What is read of a body that nobody wants any more, so that its sender gets to read the answer.
const DRAINED: u64 = 1 << 20;
const DRAINED_FOR: Duration = Duration::from_millis(500);

/// Where in a descriptor the bytes are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    /// Where they begin.
    pub offset: u64,
    /// How many; up to the end of the file when it is not said.
    pub size: Option<u64>,
}

/// Hands the request's bytes to a job, and says how many there are when that is known.
///
/// # Errors
/// The job's own; [`Code::DescriptorRefused`]; [`Code::Timeout`], [`Code::Busy`].
pub async fn bring<T, F>(ask: &mut Ask, range: Range, job: F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: FnOnce(Source<'_>, Option<u64>) -> Result<T, Problem> + Send + 'static,
{
    match ask.descriptor.take() {
        Some(descriptor) => from_file(ask, descriptor, range, job).await,
        None if range.offset != 0 => {
            Err(Problem::new(Code::Usage, "an offset goes with a descriptor, not with a body"))
        }
        None => {
            let brought = from_body(ask, range.size, job).await;
            if brought.is_err() {
                drain(&mut ask.body).await;
            }
            brought
        }
    }
}

async fn from_file<T, F>(
    ask: &Ask,
    descriptor: std::os::fd::OwnedFd,
    range: Range,
    job: F,
) -> Result<T, Problem>
where
    T: Send + 'static,
    F: FnOnce(Source<'_>, Option<u64>) -> Result<T, Problem> + Send + 'static,
{
    // Even to look at it can take for ever, on a filesystem that its owner serves.
    let look = move || {
        let file = ForeignFile::from_descriptor(descriptor).map_err(|e| refusal::descriptor(&e))?;
        let stat = file
            .stat()
            .map_err(|e| Problem::new(Code::DescriptorRefused, format!("the descriptor: {e}")))?;
        Ok((file, stat.size))
    };
    let (file, total) = ask.run(Kind::Probe, look).await?;
    let rest = total.saturating_sub(range.offset);
    let len = range.size.unwrap_or(rest);
    if len > rest {
        // Before anything is read: an offset near the end of what can be counted is no offset.
        let message = format!("the file has {rest} bytes from {} on, not {len}", range.offset);
        return Err(Problem::new(Code::WrongSize, message));
    }
    let kind = if len <= SMALL_FILE { Kind::Short } else { Kind::Hashing };
    let wanted = Wanted::default();
    let file = file.stopped_by(wanted.stop());
    let read = move || {
        let source = Source::Range { file: &file, offset: range.offset, len };
        job(source, Some(len))
    };
    ask.run(kind, read).await
}

async fn from_body<T, F>(ask: &mut Ask, size: Option<u64>, job: F) -> Result<T, Problem>
where
    T: Send + 'static,
    F: FnOnce(Source<'_>, Option<u64>) -> Result<T, Problem> + Send + 'static,
{
    let announced = ask.body.size_hint().exact();
    let size = size.or(announced);
    let stall = ask.app.config.timeouts.stall.0;
    let mut start = Bytes::new();
    if announced.is_none_or(|n| n <= SHORT as u64) {
        let (bytes, end) = collect(&mut ask.body, SHORT, stall).await?;
        ask.record.came_in(bytes.len() as u64);
        match end {
            Collected::Whole => {
                let read = move || job(Source::Stream(&mut bytes.reader()), size);
                return ask.run(Kind::Short, read).await;
            }
            // What came is the job's all the same: an upload keeps it.
            Collected::Torn => {
                let read = move || job(Source::Stream(&mut bytes.reader().chain(Torn)), size);
                return ask.run(Kind::Short, read).await;
            }
            Collected::More => start = bytes,
        }
    } else if let Some(bytes) = first(&mut ask.body, stall).await? {
        ask.record.came_in(bytes.len() as u64);
        start = bytes;
    }

    // The place first: whoever waits for one must not fill memory meanwhile.
    let place = ask.app.bridge.place(Kind::Receiving, ask.caller.peer.whom()).await?;
    let (pieces, coming) = channel(N_PIECES);
    let mut running = place.start(move || {
        let mut reader = Pieces { coming, current: start, is_over: false };
        job(Source::Stream(&mut reader), size)
    });
    let feeding = feed(ask, pieces);
    tokio::select! {
        biased;
        end = &mut running => return ended(end),
        () = feeding => {}
    }
    ended(running.await)
}

/// Passes the body on until it ends, fails, stalls, or nobody wants it any more.
async fn feed(ask: &mut Ask, pieces: Sender<Piece>) {
    let Ask { app, caller, body, record, .. } = ask;
    let whom = caller.peer.whom();
    let patience = || match app.bridge.is_crowded(whom) {
        true => app.config.timeouts.stall.0.min(STALL_WHEN_CROWDED),
        false => app.config.timeouts.stall.0,
    };
    let mut since_progress = 0;
    let mut last = Instant::now();
    loop {
        // Who waits may begin to do so while this one already stalls: so look again now and then.
        let piece = loop {
            let until = (last + patience()).min(Instant::now() + STALL_WHEN_CROWDED);
            match timeout_at(until, next(body)).await {
                Ok(piece) => break piece,
                Err(_) if Instant::now() < last + patience() => {}
                Err(_) => break Some(Err(io::ErrorKind::TimedOut.into())),
            }
        };
        let (piece, is_last) = match piece {
            Some(Ok(bytes)) => {
                record.came_in(bytes.len() as u64);
                since_progress += bytes.len() as u64;
                (Piece::Bytes(bytes), false)
            }
            Some(Err(error)) => (Piece::Failed(error), true),
            None => (Piece::End, true),
        };
        let before = Instant::now();
        if pieces.send(piece).await.is_err() || is_last {
            return;
        }
        // The time that the job took is not the client's.
        last += before.elapsed();
        if since_progress >= PROGRESS {
            (since_progress, last) = (0, Instant::now());
        }
    }
}

/// The next bytes of a body.
async fn next(body: &mut Incoming) -> Option<io::Result<Bytes>> {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await?;
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(bytes)) if bytes.is_empty() => {}
            Ok(Ok(bytes)) => return Some(Ok(bytes)),
            Ok(Err(_trailers)) => {}
            Err(error) => {
                return Some(Err(io::Error::new(io::ErrorKind::ConnectionAborted, error)));
            }
        }
    }
}

/// The first bytes of a body: who sends none gets no place.
async fn first(body: &mut Incoming, stall: Duration) -> Result<Option<Bytes>, Problem> {
    match tokio::time::timeout(stall, next(body)).await {
        Ok(piece) => piece.transpose().map_err(|_| broke_off()),
        Err(_) => Err(stalled()),
    }
}

fn stalled() -> Problem {
    Problem::new(Code::Timeout, "the body stopped coming")
}

fn broke_off() -> Problem {
    Problem::new(Code::WrongSize, "the body broke off")
}

/// What followed on the bytes that were collected.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Collected {
    /// Nothing: they are all.
    Whole,
    More,
    /// The connection broke.
    Torn,
}

/// A body that broke off.
struct Torn;

impl Read for Torn {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the body broke off"))
    }
}

/// Collects up to `most` bytes, and says whether that was all. What was read beyond is not lost:
/// a few bytes more than `most` may come back.
async fn collect(
    body: &mut Incoming,
    most: usize,
    stall: Duration,
) -> Result<(Bytes, Collected), Problem> {
    // The common small put comes in one piece, which is not copied.
    let mut start = Bytes::new();
    let mut more = BytesMut::new();
    loop {
        let piece = tokio::time::timeout(stall, next(body)).await.map_err(|_| stalled())?;
        match piece {
            None => return Ok((join(start, more), Collected::Whole)),
            Some(Err(_)) => return Ok((join(start, more), Collected::Torn)),
            Some(Ok(bytes)) if start.is_empty() => start = bytes,
            Some(Ok(bytes)) => more.extend_from_slice(&bytes),
        }
        if start.len() + more.len() > most {
            return Ok((join(start, more), Collected::More));
        }
    }
}

fn join(first: Bytes, more: BytesMut) -> Bytes {
    if more.is_empty() {
        return first;
    }
    let mut whole = BytesMut::with_capacity(first.len() + more.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&more);
    whole.freeze()
}

/// Reads on for a moment in a body that nobody wants, so that its sender gets to read the answer.
pub async fn drain(body: &mut Incoming) {
    if body.is_end_stream() {
        return;
    }
    let mut left = DRAINED;
    let until = Instant::now() + DRAINED_FOR;
    while let Ok(Some(Ok(bytes))) = timeout_at(until, next(body)).await {
        left = left.saturating_sub(bytes.len() as u64);
        if left == 0 {
            return;
        }
    }
}

/// The whole body, of a bounded size. The caller has room for as many bytes.
///
/// # Errors
/// [`Code::ManifestTooLarge`] when there is more, [`Code::WrongSize`], [`Code::Timeout`].
pub async fn whole(ask: &mut Ask, most: usize) -> Result<Bytes, Problem> {
    let stall = ask.app.config.timeouts.stall.0;
    // However it comes, it has this long in all: who drips must not keep the room from others. One
    // that does not say how long it is gets as long as a short one twice.
    let announced = ask.body.size_hint().exact().unwrap_or(PROGRESS).min(most as u64);
    let longest = stall.saturating_mul(u32::try_from(announced / PROGRESS + 1).unwrap_or(1));
    let collected = tokio::time::timeout(longest, collect(&mut ask.body, most, stall)).await;
    let (bytes, end) = collected.map_err(|_| stalled())??;
    ask.record.came_in(bytes.len() as u64);
    match end {
        Collected::Torn => return Err(broke_off()),
        Collected::Whole if bytes.len() <= most => return Ok(bytes),
        Collected::Whole | Collected::More => {}
    }
    let message = format!("the body has more than {most} bytes");
    Err(Problem::new(Code::ManifestTooLarge, message)
        .hint("limits.manifest_size of bonded sets the limit"))
}

/// The body as JSON of a bounded size.
///
/// # Errors
/// [`Code::Usage`] when it is too long or not what is asked for, [`Code::Timeout`].
pub async fn json<T: DeserializeOwned>(ask: &mut Ask) -> Result<T, Problem> {
    let stall = ask.app.config.timeouts.stall.0;
    let (bytes, end) = collect(&mut ask.body, SHORT, stall).await?;
    ask.record.came_in(bytes.len() as u64);
    if end == Collected::Torn {
        return Err(broke_off());
    }
    if end == Collected::More {
        drain(&mut ask.body).await;
        return Err(Problem::new(Code::Usage, format!("the body has more than {SHORT} bytes")));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Problem::new(Code::Usage, format!("the body makes no sense: {error}")))
}

enum Piece {
    Bytes(Bytes),
    Failed(io::Error),
    End,
}

/// A body as a blocking reader. Its end is told, not guessed: when the channel closes without
/// one, the request was given up.
struct Pieces {
    coming: Receiver<Piece>,
    current: Bytes,
    is_over: bool,
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !self.is_over {
            match self.coming.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.current = bytes,
                Some(Piece::End) => self.is_over = true,
                Some(Piece::Failed(error)) => return Err(error),
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the client left",
                    ));
                }
            }
        }
        let n = buf.len().min(self.current.len());
        self.current.copy_to_slice(&mut buf[..n]);
        Ok(n)
    }
}

/// What came in as a digest by the query's words.
///
/// # Errors
/// [`Code::DigestInvalid`], [`Code::DigestUnsupported`].
pub fn digest(text: Option<&str>) -> Result<Option<cas::digest::Digest>, Problem> {
    text.map(str::parse).transpose().map_err(|error: cas::digest::ParseError| Problem::from(&error))
}
