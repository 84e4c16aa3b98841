//! One request's line in the log and its place in the numbers.
//!
//! The record goes from the accepted header into the body of the answer and speaks when it is
//! dropped: after the last byte of the answer, or when the peer went away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use cas::digest::Digest;
use wire::Code;

use crate::app::App;
use crate::connections::Pulse;
use crate::metrics::End;
use crate::peer::Peer;
use crate::routes::Op;

/// What is noted of one request.
pub struct Record {
    app: Arc<App>,
    pulse: Arc<Pulse>,
    op: Op,
    /// Of a process.
    uid: Option<u32>,
    /// Of a user of the registry. Without either, nobody knows who it is.
    user: Option<Arc<str>>,
    started: Instant,
    /// How it ended; a record that nobody closes was cut off.
    end: End,
    /// The workspace, once it is known.
    pub workspace: Option<String>,
    /// What it is about, once that is known.
    pub digest: Option<Digest>,
    bytes_in: AtomicU64,
    bytes_out: u64,
}

impl Record {
    /// Begins a record; the connection counts as busy until it ends.
    pub fn new(app: Arc<App>, pulse: Arc<Pulse>, op: Op, peer: &Peer) -> Record {
        pulse.begin_request();
        let mut record = Record {
            app,
            pulse,
            op,
            uid: None,
            user: None,
            started: Instant::now(),
            end: End::CutOff,
            workspace: None,
            digest: None,
            bytes_in: AtomicU64::new(0),
            bytes_out: 0,
        };
        record.is_of(peer);
        record
    }

    /// Says who asks.
    pub fn is_of(&mut self, peer: &Peer) {
        (self.uid, self.user) = match peer {
            Peer::Process(_) => (Some(peer.raw_uid()), None),
            Peer::User(name) => (None, Some(name.clone())),
            Peer::Anonymous => (None, None),
        };
    }

    /// Says how it ended.
    pub fn close(&mut self, end: End) {
        self.end = end;
    }

    /// Says that what had begun well broke off with this code.
    pub fn fail(&mut self, code: Code) {
        self.end = End::Failed(code);
    }

    /// Says that the peer went away in the middle of an answer that had begun well.
    pub fn cut_off(&mut self) {
        if self.end == End::Done {
            self.end = End::CutOff;
        }
    }

    /// Bytes of the request's body.
    pub fn came_in(&self, n_bytes: u64) {
        self.bytes_in.fetch_add(n_bytes, Ordering::Relaxed);
    }

    /// Bytes of the answer's body.
    pub fn went_out(&mut self, n_bytes: u64) {
        self.bytes_out += n_bytes;
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.pulse.end_request();
        let bytes_in = self.bytes_in.load(Ordering::Relaxed);
        let took = self.started.elapsed();
        let milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.app.metrics.request(self.op, self.end, milliseconds, bytes_in, self.bytes_out);

        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "bonded",
                    op = self.op.name(),
                    code = self.end.name(),
                    workspace = self.workspace.as_deref(),
                    digest = self.digest.as_ref().map(tracing::field::display),
                    uid = self.uid,
                    user = self.user.as_deref(),
                    anonymous = (self.uid.is_none() && self.user.is_none()).then_some(true),
                    bytes_in,
                    bytes_out = self.bytes_out,
                    us = microseconds,
                    "request"
                )
            };
        }
        match self.end {
            End::Failed(Code::Internal | Code::StoreIo | Code::Corrupt) => line!(error),
            End::Failed(Code::DiskFull) => line!(warn),
            _ if self.op.is_routine() => line!(debug),
            _ => line!(info),
        }
    }
}
