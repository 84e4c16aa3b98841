//! Which connections are open, and which one gives way when there are too many.
//!
//! A connection costs something only while it has a request. One that has none, never had one or
//! sent half a header can be closed at any time, so it never keeps a good peer out: at a limit the
//! one that has been idle longest goes, those that never completed a request before all others.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::config::Config;

/// The heartbeat of one connection: what it waits for, and since when. Written by the stream and
/// the requests on it, read by its clock.
#[derive(Debug)]
pub struct Pulse {
    born: Instant,
    is_busy: AtomicBool,
    n_requests: AtomicU64,
    /// When it last became idle, in milliseconds after `born`.
    idle_since: AtomicU64,
    /// When the first byte of a header came that is not complete, plus one; 0 when there is none.
    header_since: AtomicU64,
    /// When a write first found the socket full, plus one; 0 when the last one did not.
    blocked_since: AtomicU64,
    /// Set when it must go.
    leave: Notify,
}

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// A header was begun and not ended.
    Header,
    /// The peer takes no bytes.
    Write,
    /// There is no request.
    Idle,
}

/// All open connections.
#[derive(Debug)]
pub struct Connections {
    open: Mutex<HashMap<u64, Open>>,
    next: AtomicU64,
    most: usize,
    most_per_uid: usize,
}

#[derive(Debug)]
struct Open {
    uid: u32,
    pulse: Arc<Pulse>,
    is_leaving: bool,
}

/// A connection's place among the open ones; dropped, it is free.
#[derive(Debug)]
pub struct Seat {
    connections: Arc<Connections>,
    id: u64,
    pulse: Arc<Pulse>,
}

// === impl Pulse ===

impl Pulse {
    fn new() -> Pulse {
        Pulse {
            born: Instant::now(),
            is_busy: AtomicBool::new(false),
            n_requests: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            header_since: AtomicU64::new(0),
            blocked_since: AtomicU64::new(0),
            leave: Notify::new(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    /// A request's header is complete.
    pub fn begin_request(&self) {
        self.is_busy.store(true, Ordering::Relaxed);
        self.n_requests.fetch_add(1, Ordering::Relaxed);
        self.header_since.store(0, Ordering::Relaxed);
    }

    /// Its answer is written, or given up.
    pub fn end_request(&self) {
        self.idle_since.store(self.now(), Ordering::Relaxed);
        self.is_busy.store(false, Ordering::Relaxed);
    }

    /// Bytes came in.
    pub fn read(&self) {
        if !self.is_busy.load(Ordering::Relaxed) && self.header_since.load(Ordering::Relaxed) == 0 {
            self.header_since.store(self.now() + 1, Ordering::Relaxed);
        }
    }

    /// A write was tried; `blocked` when the socket was full.
    pub fn wrote(&self, blocked: bool) {
        if !blocked {
            if self.blocked_since.load(Ordering::Relaxed) != 0 {
                self.blocked_since.store(0, Ordering::Relaxed);
            }
        } else if self.blocked_since.load(Ordering::Relaxed) == 0 {
            self.blocked_since.store(self.now() + 1, Ordering::Relaxed);
        }
    }

    /// Whether it took longer than it may with anything.
    pub fn overdue(&self, header: Duration, stall: Duration, idle: Duration) -> Option<Overdue> {
        let now = self.now();
        let longer_than = |since: u64, most: Duration| {
            now.saturating_sub(since) > u64::try_from(most.as_millis()).unwrap_or(u64::MAX)
        };
        let blocked = self.blocked_since.load(Ordering::Relaxed);
        if blocked != 0 && longer_than(blocked - 1, stall) {
            return Some(Overdue::Write);
        }
        if self.is_busy.load(Ordering::Relaxed) {
            return None;
        }
        match self.header_since.load(Ordering::Relaxed) {
            0 => {
                longer_than(self.idle_since.load(Ordering::Relaxed), idle).then_some(Overdue::Idle)
            }
            since => longer_than(since - 1, header).then_some(Overdue::Header),
        }
    }

    /// Resolves when the connection must give way.
    pub async fn told_to_leave(&self) {
        self.leave.notified().await;
    }
}

// === impl Connections ===

impl Connections {
    /// None open, with the limits of the configuration.
    pub fn new(config: &Config) -> Connections {
        Connections {
            open: Mutex::default(),
            next: AtomicU64::new(1),
            most: config.limits.connections,
            most_per_uid: config.limits.connections_per_uid,
        }
    }

    /// A seat for a new connection, and whether another one had to give way for it; `None` when
    /// every seat is busy.
    pub fn sit(self: &Arc<Connections>, uid: u32) -> Option<(Seat, bool)> {
        let mut open = self.lock();
        let staying = |of: Option<u32>| {
            let counted = |o: &&Open| !o.is_leaving && of.is_none_or(|uid| o.uid == uid);
            open.values().filter(counted).count()
        };
        // Most peers share few uids, and the list is short: counting it is cheaper than keeping
        // another one right.
        let crowd = if staying(Some(uid)) >= self.most_per_uid {
            Some(uid)
        } else if staying(None) >= self.most {
            most_frequent(&open)
        } else {
            None
        };
        let gives_way = match crowd {
            Some(crowd) => Some(idlest(&open, crowd)?),
            None => None,
        };
        if let Some(leaving) = gives_way.and_then(|id| open.get_mut(&id)) {
            leaving.is_leaving = true;
            leaving.pulse.leave.notify_one();
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let pulse = Arc::new(Pulse::new());
        open.insert(id, Open { uid, pulse: pulse.clone(), is_leaving: false });
        Some((Seat { connections: self.clone(), id, pulse }, gives_way.is_some()))
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The uid with the most connections.
fn most_frequent(open: &HashMap<u64, Open>) -> Option<u32> {
    let mut counts = HashMap::<u32, usize>::new();
    for one in open.values().filter(|o| !o.is_leaving) {
        *counts.entry(one.uid).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, n)| *n).map(|(uid, _)| uid)
}

/// The connection of this uid that can go first.
fn idlest(open: &HashMap<u64, Open>, uid: u32) -> Option<u64> {
    open.iter()
        .filter(|(_, o)| o.uid == uid && !o.is_leaving)
        .filter(|(_, o)| !o.pulse.is_busy.load(Ordering::Relaxed))
        .min_by_key(|(id, o)| {
            let was_useful = o.pulse.n_requests.load(Ordering::Relaxed) > 0;
            let idle_since = o.pulse.idle_since.load(Ordering::Relaxed);
            (was_useful, o.pulse.born + Duration::from_millis(idle_since), **id)
        })
        .map(|(id, _)| *id)
}

// === impl Seat ===

impl Seat {
    /// The connection's number, never used again.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its heartbeat.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections(most: usize, most_per_uid: usize) -> Arc<Connections> {
        let mut config = Config::default();
        config.limits.connections = most;
        config.limits.connections_per_uid = most_per_uid;
        Arc::new(Connections::new(&config))
    }

    #[test]
    fn the_idle_give_way_and_the_busy_do_not() {
        let all = connections(100, 2);
        let (useful, _) = all.sit(1).expect("a seat");
        useful.pulse().begin_request();
        useful.pulse().end_request();
        let (useless, _) = all.sit(1).expect("a seat");
        let (third, gave_way) = all.sit(1).expect("a seat");
        assert!(gave_way);
        let is_leaving = |seat: &Seat| all.lock()[&seat.id()].is_leaving;
        assert!(is_leaving(&useless) && !is_leaving(&useful));

        useful.pulse().begin_request();
        third.pulse().begin_request();
        assert!(all.sit(1).is_none(), "all are busy");
        assert!(all.sit(2).is_some(), "another uid has its own seats");
        third.pulse().end_request();
        assert!(all.sit(1).is_some());
        drop(useless);
    }

    #[test]
    fn at_the_total_limit_the_largest_crowd_gives_way() {
        let all = connections(3, 3);
        let seats: Vec<Seat> =
            [1, 1, 2].iter().map(|uid| all.sit(*uid).expect("a seat").0).collect();
        let (_new, gave_way) = all.sit(3).expect("a seat");
        assert!(gave_way);
        assert!(all.lock()[&seats[0].id()].is_leaving);
        assert!(!all.lock()[&seats[2].id()].is_leaving);
        drop(seats);
    }

    #[test]
    fn a_pulse_knows_what_it_waits_for() {
        let (short, long) = (Duration::ZERO, Duration::from_secs(60));
        let wait = || std::thread::sleep(Duration::from_millis(5));
        let pulse = Pulse::new();
        wait();
        assert_eq!(pulse.overdue(short, short, long), None);
        assert_eq!(pulse.overdue(long, long, short), Some(Overdue::Idle));
        pulse.read();
        wait();
        assert_eq!(pulse.overdue(short, long, long), Some(Overdue::Header));
        pulse.begin_request();
        pulse.read();
        wait();
        assert_eq!(pulse.overdue(short, short, short), None);
        pulse.wrote(true);
        wait();
        assert_eq!(pulse.overdue(long, short, long), Some(Overdue::Write));
        pulse.wrote(false);
        pulse.end_request();
        assert_eq!(pulse.overdue(long, long, long), None);
    }
}
