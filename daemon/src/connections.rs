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
use crate::peer::Whom;

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
    most_per_peer: usize,
}

#[derive(Debug)]
struct Open {
    whom: Whom,
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
            most_per_peer: config.limits.connections_per_uid,
        }
    }

    /// A seat for a new connection, and whether another one had to give way for it; `None` when
    /// every seat is busy.
    pub fn sit(self: &Arc<Connections>, whom: Whom) -> Option<(Seat, bool)> {
        let mut open = self.lock();
        let crowd = if staying(&open, Some(whom)) >= self.most_per_peer {
            Some(whom)
        } else if staying(&open, None) >= self.most {
            most_frequent(&open)
        } else {
            None
        };
        if let Some(crowd) = crowd {
            give_way(&mut open, crowd)?;
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let pulse = Arc::new(Pulse::new());
        open.insert(id, Open { whom, pulse: pulse.clone(), is_leaving: false });
        Some((Seat { connections: self.clone(), id, pulse }, crowd.is_some()))
    }

    /// Counts an open connection among those of somebody else from now on: who is there was not
    /// known when it was opened. `false` when they have as many as they may, all of them busy.
    pub fn belongs_to(&self, id: u64, whom: Whom) -> bool {
        let mut open = self.lock();
        if open.get(&id).is_none_or(|one| one.whom == whom) {
            return true;
        }
        if staying(&open, Some(whom)) >= self.most_per_peer && give_way(&mut open, whom).is_none() {
            return false;
        }
        if let Some(one) = open.get_mut(&id) {
            one.whom = whom;
        }
        true
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many are open and stay, of one peer or of all. Most peers are few, and the list is short:
/// counting it is cheaper than keeping another one right.
fn staying(open: &HashMap<u64, Open>, of: Option<Whom>) -> usize {
    let counted = |o: &&Open| !o.is_leaving && of.is_none_or(|whom| o.whom == whom);
    open.values().filter(counted).count()
}

/// Tells the idlest connection of this peer to leave, if one is idle.
fn give_way(open: &mut HashMap<u64, Open>, whom: Whom) -> Option<()> {
    let id = idlest(open, whom)?;
    let leaving = open.get_mut(&id)?;
    leaving.is_leaving = true;
    leaving.pulse.leave.notify_one();
    Some(())
}

/// The peer with the most connections.
fn most_frequent(open: &HashMap<u64, Open>) -> Option<Whom> {
    let mut counts = HashMap::<Whom, usize>::new();
    for one in open.values().filter(|o| !o.is_leaving) {
        *counts.entry(one.whom).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, n)| *n).map(|(whom, _)| whom)
}

/// The connection of this peer that can go first.
fn idlest(open: &HashMap<u64, Open>, whom: Whom) -> Option<u64> {
    open.iter()
        .filter(|(_, o)| o.whom == whom && !o.is_leaving)
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

    fn connections(most: usize, most_per_peer: usize) -> Arc<Connections> {
        let mut config = Config::default();
        config.limits.connections = most;
        config.limits.connections_per_uid = most_per_peer;
        Arc::new(Connections::new(&config))
    }

    #[test]
    fn the_idle_give_way_and_the_busy_do_not() {
        let all = connections(100, 2);
        let (useful, _) = all.sit(Whom::Uid(1)).expect("a seat");
        useful.pulse().begin_request();
        useful.pulse().end_request();
        let (useless, _) = all.sit(Whom::Uid(1)).expect("a seat");
        let (third, gave_way) = all.sit(Whom::Uid(1)).expect("a seat");
        assert!(gave_way);
        let is_leaving = |seat: &Seat| all.lock()[&seat.id()].is_leaving;
        assert!(is_leaving(&useless) && !is_leaving(&useful));

        useful.pulse().begin_request();
        third.pulse().begin_request();
        assert!(all.sit(Whom::Uid(1)).is_none(), "all are busy");
        assert!(all.sit(Whom::Uid(2)).is_some(), "another uid has its own seats");
        third.pulse().end_request();
        assert!(all.sit(Whom::Uid(1)).is_some());
        drop(useless);
    }

    #[test]
    fn at_the_total_limit_the_largest_crowd_gives_way() {
        let all = connections(3, 3);
        let seats: Vec<Seat> =
            [1, 1, 2].iter().map(|uid| all.sit(Whom::Uid(*uid)).expect("a seat").0).collect();
        let (_new, gave_way) = all.sit(Whom::Uid(3)).expect("a seat");
        assert!(gave_way);
        assert!(all.lock()[&seats[0].id()].is_leaving);
        assert!(!all.lock()[&seats[2].id()].is_leaving);
        drop(seats);
    }

    #[test]
    fn a_connection_moves_to_whoever_proved_to_be_there() {
        let all = connections(100, 2);
        let (stranger, ada) = (Whom::stranger([192, 0, 2, 1].into()), Whom::User(1));
        let seats: Vec<Seat> = [stranger, stranger, ada]
            .map(|whom| all.sit(whom).expect("a seat").0)
            .into_iter()
            .collect();
        let whose = |seat: &Seat| all.lock()[&seat.id()].whom;
        assert!(all.belongs_to(seats[0].id(), ada));
        assert_eq!(whose(&seats[0]), ada);
        // Her third one: the idlest of hers gives way, and when none is idle she has to wait.
        assert!(all.belongs_to(seats[1].id(), ada));
        assert!(all.lock()[&seats[0].id()].is_leaving);
        let (fourth, _) = all.sit(stranger).expect("a seat");
        seats.iter().for_each(|seat| seat.pulse().begin_request());
        assert!(!all.belongs_to(fourth.id(), ada));
        assert_eq!(whose(&fourth), stranger);
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
