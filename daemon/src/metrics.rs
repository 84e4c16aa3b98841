//! Numbers for Prometheus, in its text format 0.0.4.
//!
//! No label holds a workspace, a digest or a uid: a number must not tell one tenant of another.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use wire::Code;

use crate::routes::Op;

/// All that is counted, from the start of the process on.
#[derive(Debug)]
pub struct Metrics {
    /// By op, then by what came of it: the codes, then done, then cut off.
    requests: Vec<[AtomicU64; N_ENDS]>,
    seconds: [AtomicU64; BUCKETS_MS.len() + 1],
    milliseconds_sum: AtomicU64,
    /// Bytes of bodies that came in.
    pub bytes_in: AtomicU64,
    /// Bytes of bodies that went out.
    pub bytes_out: AtomicU64,
    written: AtomicU64,
    present: AtomicU64,
    healed: AtomicU64,
    corrupt: AtomicU64,
    /// Connections open now.
    pub connections_open: AtomicU64,
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections turned away at a limit.
    pub connections_refused: AtomicU64,
    /// Idle connections closed to make room.
    pub connections_evicted: AtomicU64,
    /// Handshakes of TLS that failed, or came too late.
    pub handshakes_failed: AtomicU64,
    /// Passwords checked against a hash.
    pub password_checks: AtomicU64,
    /// Of them those that were wrong, or of nobody.
    pub logins_refused: AtomicU64,
    /// Blobs deleted by gc.
    pub gc_blobs: AtomicU64,
    /// Bytes freed by gc.
    pub gc_bytes: AtomicU64,
    started: u64,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As asked.
    Done,
    /// With an error.
    Failed(Code),
    /// The peer went away, or the answer broke off.
    CutOff,
}

const N_CODES: usize = Code::ALL.len();
const N_ENDS: usize = N_CODES + 2;
const BUCKETS_MS: [u64; 8] = [1, 5, 25, 100, 500, 2_500, 10_000, 60_000];

impl End {
    /// Its name in the log and as a label.
    pub fn name(self) -> &'static str {
        match self {
            End::Done => "ok",
            End::Failed(code) => code.name(),
            End::CutOff => "cut_off",
        }
    }

    fn index(self) -> usize {
        match self {
            End::Failed(code) => Code::ALL.iter().position(|c| *c == code).unwrap_or(0),
            End::Done => N_CODES,
            End::CutOff => N_CODES + 1,
        }
    }

    fn all() -> impl Iterator<Item = End> {
        Code::ALL.iter().map(|code| End::Failed(*code)).chain([End::Done, End::CutOff])
    }
}

impl Metrics {
    /// Everything at zero, started now.
    pub fn new() -> Metrics {
        let none = || std::array::from_fn(|_| AtomicU64::new(0));
        Metrics {
            requests: Op::ALL.iter().map(|_| none()).collect(),
            seconds: std::array::from_fn(|_| AtomicU64::new(0)),
            milliseconds_sum: AtomicU64::new(0),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            written: AtomicU64::new(0),
            present: AtomicU64::new(0),
            healed: AtomicU64::new(0),
            corrupt: AtomicU64::new(0),
            connections_open: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            connections_refused: AtomicU64::new(0),
            connections_evicted: AtomicU64::new(0),
            handshakes_failed: AtomicU64::new(0),
            password_checks: AtomicU64::new(0),
            logins_refused: AtomicU64::new(0),
            gc_blobs: AtomicU64::new(0),
            gc_bytes: AtomicU64::new(0),
            started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
        }
    }

    /// Counts a request.
    pub fn request(&self, op: Op, end: End, milliseconds: u64, bytes_in: u64, bytes_out: u64) {
        if let Some(ends) = self.requests.get(op as usize) {
            ends[end.index()].fetch_add(1, Ordering::Relaxed);
        }
        if end == End::Failed(Code::Corrupt) {
            self.corrupt.fetch_add(1, Ordering::Relaxed);
        }
        let place = BUCKETS_MS.iter().position(|most| milliseconds <= *most);
        self.seconds[place.unwrap_or(BUCKETS_MS.len())].fetch_add(1, Ordering::Relaxed);
        self.milliseconds_sum.fetch_add(milliseconds, Ordering::Relaxed);
        self.bytes_in.fetch_add(bytes_in, Ordering::Relaxed);
        self.bytes_out.fetch_add(bytes_out, Ordering::Relaxed);
    }

    /// Counts the blobs of an artifact that was put.
    pub fn put(&self, receipt: &cas::Receipt) {
        let cas::Tally { n_written, n_healed } = receipt.store;
        let n_new = n_written + n_healed + receipt.absent.len() as u64;
        self.written.fetch_add(n_written, Ordering::Relaxed);
        self.present.fetch_add(receipt.n_blobs.saturating_sub(n_new), Ordering::Relaxed);
        self.healed(n_healed);
    }

    /// Counts what a check healed.
    pub fn healed(&self, n_blobs: u64) {
        self.healed.fetch_add(n_blobs, Ordering::Relaxed);
    }

    /// The text that Prometheus reads.
    pub fn text(&self, n_drafts: usize, n_uploads: usize, free: Option<u64>) -> String {
        let mut text = String::with_capacity(8 << 10);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        head(&mut text, "bonded_requests_total", "counter", "Requests by op and how they ended.");
        for (op, ends) in Op::ALL.iter().zip(&self.requests) {
            for (end, count) in End::all().zip(ends).map(|(end, n)| (end, get(n))) {
                if count > 0 {
                    let (op, code) = (op.name(), end.name());
                    line(
                        &mut text,
                        &format!("bonded_requests_total{{op=\"{op}\",code=\"{code}\"}}"),
                        count,
                    );
                }
            }
        }
        let name = "bonded_request_seconds";
        head(&mut text, name, "histogram", "From a request's header to the end of its answer.");
        let mut so_far = 0;
        for (most, count) in BUCKETS_MS.iter().zip(&self.seconds) {
            so_far += get(count);
            line(&mut text, &format!("{name}_bucket{{le=\"{}\"}}", seconds(*most)), so_far);
        }
        so_far += get(&self.seconds[BUCKETS_MS.len()]);
        line(&mut text, &format!("{name}_bucket{{le=\"+Inf\"}}"), so_far);
        line(&mut text, &format!("{name}_sum"), seconds(get(&self.milliseconds_sum)));
        line(&mut text, &format!("{name}_count"), so_far);

        let name = "bonded_blobs_total";
        head(&mut text, name, "counter", "Blobs of artifacts put, by what became of them.");
        for (outcome, count) in
            [("written", &self.written), ("present", &self.present), ("healed", &self.healed)]
        {
            line(&mut text, &format!("{name}{{outcome=\"{outcome}\"}}"), get(count));
        }
        let counters = [
            ("bonded_body_bytes_in_total", "Bytes of bodies that came in.", &self.bytes_in),
            ("bonded_body_bytes_out_total", "Bytes of bodies that went out.", &self.bytes_out),
            ("bonded_corrupt_total", "Requests that found damage in the store.", &self.corrupt),
            ("bonded_connections_total", "Connections accepted.", &self.connections),
            (
                "bonded_connections_refused_total",
                "Connections turned away at a limit.",
                &self.connections_refused,
            ),
            (
                "bonded_connections_evicted_total",
                "Idle connections closed to make room.",
                &self.connections_evicted,
            ),
            (
                "bonded_tls_handshakes_failed_total",
                "Handshakes of TLS that failed, or came too late.",
                &self.handshakes_failed,
            ),
            (
                "bonded_password_checks_total",
                "Passwords of users of the registry checked against a hash.",
                &self.password_checks,
            ),
            (
                "bonded_logins_refused_total",
                "Passwords that were wrong, or of nobody.",
                &self.logins_refused,
            ),
            ("bonded_gc_blobs_total", "Blobs deleted by gc.", &self.gc_blobs),
            ("bonded_gc_freed_bytes_total", "Bytes freed by gc.", &self.gc_bytes),
        ];
        for (name, help, counter) in counters {
            head(&mut text, name, "counter", help);
            line(&mut text, name, get(counter));
        }
        let gauges = [
            ("bonded_connections", "Connections open now.", Some(get(&self.connections_open))),
            ("bonded_drafts", "Drafts open now.", Some(n_drafts as u64)),
            ("bonded_uploads", "Uploads open now at the front door.", Some(n_uploads as u64)),
            ("bonded_store_free_bytes", "Free bytes on the store's filesystem.", free),
            (
                "process_start_time_seconds",
                "When the process started, in seconds since 1970.",
                Some(self.started),
            ),
        ];
        for (name, help, value) in gauges {
            if let Some(value) = value {
                head(&mut text, name, "gauge", help);
                line(&mut text, name, value);
            }
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "{name} {value}");
}

fn seconds(milliseconds: u64) -> String {
    format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let metrics = Metrics::new();
        metrics.request(Op::Check, End::Done, 3, 0, 10);
        metrics.request(Op::Check, End::Failed(Code::Corrupt), 70_000, 0, 0);
        metrics.request(Op::Blob, End::CutOff, 1, 0, 5);
        let store = cas::Tally { n_healed: 1, n_written: 0 };
        metrics.put(&cas::Receipt { store, n_blobs: 3, ..Default::default() });
        let text = metrics.text(2, 3, None);
        for expected in [
            "bonded_requests_total{op=\"check\",code=\"ok\"} 1",
            "bonded_requests_total{op=\"check\",code=\"corrupt\"} 1",
            "bonded_requests_total{op=\"blob\",code=\"cut_off\"} 1",
            "bonded_request_seconds_bucket{le=\"0.005\"} 2",
            "bonded_request_seconds_bucket{le=\"+Inf\"} 3",
            "bonded_request_seconds_sum 70.004",
            "bonded_corrupt_total 1",
            "bonded_body_bytes_out_total 15",
            "bonded_blobs_total{outcome=\"healed\"} 1",
            "bonded_blobs_total{outcome=\"present\"} 2",
            "bonded_drafts 2",
            "bonded_uploads 3",
        ] {
            assert!(text.lines().any(|line| line == expected), "{expected}\n{text}");
        }
        // Every series has a type, and every line is a comment or a name and a number.
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').expect(line);
            assert!(value.parse::<f64>().is_ok(), "{line}");
            let name = series.split('{').next().expect(line);
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
            let typed = |name: &str| text.contains(&format!("# TYPE {name} "));
            assert!(typed(name) || family.is_some_and(typed), "{line}");
        }
    }
}
