//! The bridge between the async shell and the blocking store: the one place that calls
//! `spawn_blocking`.
//!
//! Every job needs a place first. There are kinds of places because jobs wait for different
//! things: the processor, a client's pace, a client's filesystem. A kind that is full never keeps
//! another one waiting, and of every kind one peer gets at most half: whatever one of them asks for,
//! the others go on. A long job is told when nobody waits for it any more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use cas::Stop;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use wire::{Code, Problem};

use crate::config::Config;
use crate::peer::Whom;

/// What a job waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing for long: small files, listings, seals.
    Short,
    /// The processor and the disk: large blobs hashed.
    Hashing,
    /// A client that sends a long body.
    Receiving,
    /// A client that takes a body.
    Sending,
    /// The filesystem that a client's descriptor lives on, which may be one that never answers.
    Probe,
    /// The processor, for as long as it takes to check a password of somebody unknown.
    Password,
}

/// Places for jobs of every kind.
#[derive(Debug)]
pub struct Bridge {
    short: Places,
    hashing: Places,
    receiving: Places,
    sending: Places,
    probe: Places,
    password: Places,
    patience: Duration,
}

#[derive(Debug)]
struct Places {
    all: Queue,
    total: usize,
    /// How many of them one peer may have.
    per_uid: usize,
    /// Those who have some, or wait.
    shares: Mutex<HashMap<Whom, Weak<Queue>>>,
}

/// A number of places and those who wait for one.
#[derive(Debug)]
struct Queue {
    free: Arc<Semaphore>,
    n_waiting: AtomicUsize,
}

/// A place for one job, free again when the last copy of this is gone.
#[derive(Clone, Debug)]
pub struct Place(#[expect(dead_code, reason = "only its end is of use")] Arc<Permits>);

#[derive(Debug)]
struct Permits {
    _place: OwnedSemaphorePermit,
    _of_share: OwnedSemaphorePermit,
    _share: Arc<Queue>,
}

/// Tells a job to end early when it is dropped: the request that waits for the job keeps it, and
/// goes with its connection.
#[derive(Debug, Default)]
pub struct Wanted(Stop);

/// Two descriptors of a filesystem that never answers hold two places for ever. So a uid gets no
/// more than those, there are enough for others, and the threads cost little.
const N_PROBES: usize = 32;
const N_PROBES_PER_UID: usize = 2;
const PROBE_PATIENCE: Duration = Duration::from_secs(5);
/// Who guesses passwords keeps others waiting no longer than this: they are told to come back.
const PASSWORD_PATIENCE: Duration = Duration::from_secs(10);

impl Bridge {
    /// The places that the configuration allows.
    pub fn new(config: &Config) -> Bridge {
        let limits = &config.limits;
        let half = |total: usize| total.div_ceil(2);
        Bridge {
            short: Places::new(limits.short_jobs, half(limits.short_jobs)),
            hashing: Places::new(hashing_jobs(config), half(hashing_jobs(config))),
            receiving: Places::new(limits.receiving_jobs, half(limits.receiving_jobs)),
            sending: Places::new(limits.sending_jobs, half(limits.sending_jobs)),
            probe: Places::new(N_PROBES, N_PROBES_PER_UID),
            password: Places::new(password_jobs(), 1),
            patience: config.timeouts.queue.0,
        }
    }

    /// How many threads all jobs at once need.
    pub fn n_threads(config: &Config) -> usize {
        let limits = &config.limits;
        let at_a_clients_pace = limits.receiving_jobs + limits.sending_jobs + N_PROBES;
        limits.short_jobs + hashing_jobs(config) + at_a_clients_pace + password_jobs()
    }

    fn places(&self, kind: Kind) -> &Places {
        match kind {
            Kind::Short => &self.short,
            Kind::Hashing => &self.hashing,
            Kind::Receiving => &self.receiving,
            Kind::Sending => &self.sending,
            Kind::Probe => &self.probe,
            Kind::Password => &self.password,
        }
    }

    /// Waits for a place for this peer.
    ///
    /// # Errors
    /// [`Code::Busy`] when none came free in time.
    pub async fn place(&self, kind: Kind, whom: Whom) -> Result<Place, Problem> {
        let patience = match kind {
            Kind::Probe => PROBE_PATIENCE,
            Kind::Password => PASSWORD_PATIENCE.min(self.patience),
            Kind::Short | Kind::Hashing | Kind::Receiving | Kind::Sending => self.patience,
        };
        let places = self.places(kind);
        let share = places.share(whom);
        let wait = async {
            let of_share = share.permit().await?;
            Some((of_share, places.all.permit().await?))
        };
        match tokio::time::timeout(patience, wait).await {
            Ok(Some((_of_share, _place))) => {
                Ok(Place(Arc::new(Permits { _place, _of_share, _share: share })))
            }
            Ok(None) | Err(_) => {
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
        whom: Whom,
        job: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let place = self.place(kind, whom).await?;
        ended(place.start(job).await)
    }

    /// Whether somebody waits for a place that this peer holds: then whoever stalls gets less time.
    pub fn is_crowded(&self, whom: Whom) -> bool {
        [&self.receiving, &self.sending].into_iter().any(|places| places.is_crowded(whom))
    }

    /// Waits until no job runs any more, for so long at most; says whether it came to that.
    pub async fn quiet(&self, patience: Duration) -> bool {
        let all = async {
            for places in [&self.short, &self.hashing, &self.receiving, &self.sending] {
                let total = u32::try_from(places.total).unwrap_or(u32::MAX);
                let _ = places.all.free.acquire_many(total).await;
            }
        };
        tokio::time::timeout(patience, all).await.is_ok()
    }
}

impl Wanted {
    /// What the job is to ask.
    pub fn stop(&self) -> &Stop {
        &self.0
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Place {
    /// Runs a job here, which keeps the place until it ends.
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
        Err(Problem::new(Code::Internal, "something went wrong inside bonded")
            .hint("the log of bonded says more"))
    })
}

/// Passwords checked at once: half of the processor is left to those who have proved who they are.
fn password_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, |cores| (cores.get() / 2).max(1))
}

fn hashing_jobs(config: &Config) -> usize {
    match config.limits.hashing_jobs {
        // The half that one uid gets must keep every core at work, also while the next job is on its
        // way to its thread or waits for the disk.
        0 => 2 * (std::thread::available_parallelism().map_or(2, usize::from) + 1),
        n => n,
    }
}

impl Places {
    fn new(total: usize, per_uid: usize) -> Places {
        Places { all: Queue::new(total), total, per_uid, shares: Mutex::default() }
    }

    /// The share of a peer, for as long as anybody holds it.
    fn share(&self, whom: Whom) -> Arc<Queue> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&whom).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Queue::new(self.per_uid));
        shares.insert(whom, Arc::downgrade(&share));
        share
    }

    fn is_crowded(&self, whom: Whom) -> bool {
        let shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares.get(&whom).and_then(Weak::upgrade);
        share.is_some_and(|share| share.is_waited_for() || self.all.is_waited_for())
    }
}

impl Queue {
    fn new(total: usize) -> Queue {
        Queue { free: Arc::new(Semaphore::new(total)), n_waiting: AtomicUsize::new(0) }
    }

    /// Waits for one; `None` never comes, because no semaphore here is ever closed.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.free.clone().try_acquire_owned() {
            return Some(permit);
        }
        let _waiting = Waiting::new(&self.n_waiting);
        self.free.clone().acquire_owned().await.ok()
    }

    fn is_waited_for(&self) -> bool {
        self.n_waiting.load(Ordering::Relaxed) > 0
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

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge() -> Bridge {
        let mut config = Config::default();
        let limits = &mut config.limits;
        for jobs in [
            &mut limits.short_jobs,
            &mut limits.hashing_jobs,
            &mut limits.receiving_jobs,
            &mut limits.sending_jobs,
        ] {
            *jobs = 4;
        }
        config.timeouts.queue.0 = Duration::from_millis(50);
        Bridge::new(&config)
    }

    #[tokio::test]
    async fn a_greedy_uid_leaves_half_of_every_kind_to_others() {
        let bridge = bridge();
        for kind in [Kind::Short, Kind::Hashing, Kind::Receiving, Kind::Sending] {
            let mut held = Vec::new();
            while let Ok(place) = bridge.place(kind, Whom::Uid(1)).await {
                held.push(place);
            }
            assert_eq!(held.len(), 2, "{kind:?}");
            // It waits for more, and those who ask after it need not.
            let greedy = bridge.place(kind, Whom::Uid(1));
            let polite = async { bridge.run(kind, Whom::Uid(2), || Ok(7)).await };
            let (more, ran) = tokio::join!(greedy, polite);
            assert_eq!((more.is_err(), ran), (true, Ok(7)), "{kind:?}");
            drop(held);
            assert_eq!(bridge.run(kind, Whom::Uid(1), || Ok(7)).await, Ok(7), "{kind:?}");
        }
    }

    #[test]
    fn one_uid_alone_keeps_every_core_at_work() {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        assert_eq!(Bridge::new(&Config::default()).hashing.per_uid, cores + 1);
    }

    #[tokio::test]
    async fn descriptors_that_never_answer_cost_only_those_who_sent_them() {
        let bridge = bridge();
        let mut held = Vec::new();
        for uid in 1..=10 {
            for _ in 0..N_PROBES_PER_UID {
                held.push(bridge.place(Kind::Probe, Whom::Uid(uid)).await.expect("a place"));
            }
        }
        let soon = Duration::from_millis(50);
        let one_more = tokio::time::timeout(soon, bridge.place(Kind::Probe, Whom::Uid(1))).await;
        assert!(one_more.is_err(), "it waits for its own");
        bridge.place(Kind::Probe, Whom::Uid(99)).await.expect("another one does not");
        assert!(bridge.quiet(soon).await, "and the end does not wait for them");
    }

    #[tokio::test]
    async fn who_guesses_passwords_is_one_among_those_who_say_theirs() {
        let bridge = bridge();
        let mut held = Vec::new();
        for whom in (1..).map(Whom::Uid).take(password_jobs()) {
            held.push(bridge.place(Kind::Password, whom).await.expect("a place"));
        }
        let served = Mutex::new(Vec::new());
        let ask = async |whom| {
            let place = bridge.place(Kind::Password, whom).await.expect("a place");
            served.lock().expect("a lock").push(whom);
            drop(place);
        };
        let (guesser, polite) = (Whom::Uid(1), Whom::Uid(99));
        let free = async {
            tokio::task::yield_now().await;
            drop(held);
        };
        tokio::join!(ask(polite), ask(guesser), ask(guesser), ask(guesser), free);
        let served = served.into_inner().expect("a lock");
        assert_eq!((served.len(), served[0]), (4, polite));
    }

    #[tokio::test]
    async fn a_job_is_told_when_nobody_waits_for_it_any_more() {
        let bridge = bridge();
        let wanted = Wanted::default();
        let stop = wanted.stop().clone();
        let place = bridge.place(Kind::Hashing, Whom::Uid(1)).await.expect("a place");
        let job = place.start(move || {
            let begun = std::time::Instant::now();
            while !stop.is_stopped() && begun.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(1));
            }
            stop.is_stopped()
        });
        assert!(!wanted.stop().is_stopped());
        drop(wanted);
        assert!(job.await.expect("it ended"));
    }

    #[tokio::test]
    async fn one_uid_gets_at_most_half_of_what_can_be_held_by_doing_nothing() {
        let bridge = bridge();
        let first = bridge.place(Kind::Receiving, Whom::Uid(1)).await.expect("a place");
        let _second = bridge.place(Kind::Receiving, Whom::Uid(1)).await.expect("a place");
        assert!(!bridge.is_crowded(Whom::Uid(1)));
        let third = async {
            let refused = bridge.place(Kind::Receiving, Whom::Uid(1)).await.expect_err("no place");
            assert_eq!(refused.code, Code::Busy);
        };
        let look = async {
            tokio::task::yield_now().await;
            assert!(bridge.is_crowded(Whom::Uid(1)), "uid 1 waits for itself");
            assert!(!bridge.is_crowded(Whom::Uid(2)), "and nobody else has to hurry");
            let _other = bridge.place(Kind::Receiving, Whom::Uid(2)).await.expect("a place");
        };
        tokio::join!(third, look);
        drop(first);
        bridge.place(Kind::Receiving, Whom::Uid(1)).await.expect("the place that came free");
        bridge.place(Kind::Sending, Whom::Uid(1)).await.expect("another kind");
    }

    #[tokio::test]
    async fn a_job_that_dies_is_an_error_and_leaves_its_place() {
        let bridge = bridge();
        for _ in 0..40 {
            let died = bridge
                .run(Kind::Short, Whom::Uid(1), || -> Result<(), Problem> { panic!("oh") })
                .await;
            assert_eq!(died.map_err(|problem| problem.code), Err(Code::Internal));
        }
        assert!(bridge.quiet(Duration::from_millis(50)).await);
    }
}
