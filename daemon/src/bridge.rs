//! The bridge between the async shell and the blocking store: the one place that calls
//! `spawn_blocking`.
//!
//! Every job needs a place first. There are kinds of places because jobs wait for different
//! things: the processor, a client's pace, a client's filesystem. A kind that is full never keeps
//! another one waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use wire::{Code, Problem};

use crate::config::Config;

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing for long: small files, listings, seals.
    Short,
    /// The processor and the disk: large blobs hashed.
    Hashing,
    /// A client that sends or takes a long body.
    Streaming,
    /// The filesystem that a client's descriptor lives on, which may be one that never answers.
    Probe,
}

/// Places for jobs of every kind.
#[derive(Debug)]
pub struct Bridge {
    short: Places,
    hashing: Places,
    streaming: Places,
    probe: Places,
    patience: Duration,
}

#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    total: u32,
    n_waiting: AtomicUsize,
}

/// A place for one job.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

const N_PROBES: usize = 4;
const PROBE_PATIENCE: Duration = Duration::from_secs(5);

impl Bridge {
    /// The places that the configuration allows.
    pub fn new(config: &Config) -> Bridge {
        let limits = &config.limits;
        Bridge {
            short: Places::new(limits.short_jobs),
            hashing: Places::new(hashing_jobs(config)),
            streaming: Places::new(limits.streaming_jobs),
            probe: Places::new(N_PROBES),
            patience: config.timeouts.queue.0,
        }
    }

    /// How many threads all jobs at once need.
    pub fn n_threads(config: &Config) -> usize {
        config.limits.short_jobs + hashing_jobs(config) + config.limits.streaming_jobs + N_PROBES
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// [`Code::Busy`] when none came free in time.
    pub async fn place(&self, kind: Kind) -> Result<Place, Problem> {
        let (places, patience) = match kind {
            Kind::Short => (&self.short, self.patience),
            Kind::Hashing => (&self.hashing, self.patience),
            Kind::Streaming => (&self.streaming, self.patience),
            Kind::Probe => (&self.probe, PROBE_PATIENCE),
        };
        if let Ok(permit) = places.free.clone().try_acquire_owned() {
            return Ok(Place { _permit: permit });
        }
        let _waiting = Waiting::new(&places.n_waiting);
        match tokio::time::timeout(patience, places.free.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Place { _permit: permit }),
            Ok(Err(_)) | Err(_) => {
                Err(Problem::new(Code::Busy, "too many requests are waiting")
                    .hint("try again later"))
            }
        }
    }

    /// Waits for a place and runs a job there.
    ///
    /// # Errors
    /// The job's own; [`Code::Busy`]; [`Code::Internal`] when it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        kind: Kind,
        job: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let place = self.place(kind).await?;
        ended(place.start(job).await)
    }

    /// Whether somebody waits to stream: then whoever stalls gets less time.
    pub fn is_crowded(&self) -> bool {
        self.streaming.n_waiting.load(Ordering::Relaxed) > 0
    }

    /// Waits until no job runs any more, for so long at most; says whether it came to that.
    pub async fn quiet(&self, patience: Duration) -> bool {
        let all = async {
            for places in [&self.short, &self.hashing, &self.streaming] {
                let _ = places.free.acquire_many(places.total).await;
            }
        };
        tokio::time::timeout(patience, all).await.is_ok()
    }
}

impl Place {
    /// Runs a job here; the place is free again when it ended.
    pub fn start<T: Send + 'static>(
        self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        #[allow(clippy::disallowed_methods, reason = "this is the bridge")]
        tokio::task::spawn_blocking(move || {
            let _place = self;
            job()
        })
    }
}

/// What became of a job.
///
/// # Errors
/// The job's own, or [`Code::Internal`] when it panicked.
pub fn ended<T>(end: Result<Result<T, Problem>, tokio::task::JoinError>) -> Result<T, Problem> {
    end.unwrap_or_else(|error| {
        tracing::error!(%error, "a job died");
        Err(
            Problem::new(Code::Internal, "something went wrong inside bonded")
                .hint("the log of bonded says more"),
        )
    })
}

fn hashing_jobs(config: &Config) -> usize {
    match config.limits.hashing_jobs {
        0 => std::thread::available_parallelism().map_or(2, usize::from),
        n => n,
    }
}

impl Places {
    fn new(total: usize) -> Places {
        Places {
            free: Arc::new(Semaphore::new(total)),
            total: u32::try_from(total).unwrap_or(u32::MAX),
            n_waiting: AtomicUsize::new(0),
        }
    }
}

/// Counts one who waits, for as long as it does, even if it gives up.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn new(count: &AtomicUsize) -> Waiting<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
