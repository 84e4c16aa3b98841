//! Threads that take turns: at every call of the disk a seed decides whose call comes next.
//!
//! Free threads nearly always run past each other; these meet at every place where they can, and
//! the same seed brings them together in the same way again. A thread that waits for another one
//! inside the store is passed over until it wakes. This file knows nothing of stores.

use std::cell::Cell;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cas::disk::sim::SimDisk;
use cas::disk::{Create, Disk, Entry, File, RelPath, Space, Stat};

use super::plan::Rng;

/// How long a waiting thread sleeps before it looks whether the running one waits as well.
const LOOK_AFTER: Duration = Duration::from_micros(50);
/// How long a thread that is under way is waited for before somebody else is let on.
const PATIENCE: Duration = Duration::from_secs(2);

thread_local! {
    /// Which of the threads this is; none of them does what it likes.
    static ME: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Whose turn it is.
pub(crate) struct Turns {
    state: Mutex<State>,
    called: Vec<Condvar>,
    /// Threads that are about to ask for `state`: they sleep for no other reason.
    at_door: Vec<AtomicBool>,
}

struct State {
    rng: Rng,
    /// One in so many calls hands the turn on.
    stays: u64,
    running: Option<usize>,
    threads: Vec<Thread>,
    n_begun: usize,
    trace: Vec<String>,
}

struct Thread {
    phase: Phase,
    /// Where Linux tells of it.
    stat: String,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between two calls, or waiting inside the store.
    Away,
    /// Before a call.
    Ready,
    Done,
}

impl Turns {
    pub(crate) fn new(n_threads: usize, seed: u64) -> Arc<Turns> {
        let mut rng = Rng::new(seed);
        // Some errors need a turn for each call, others a thread that gets far while another rests.
        let stays = [1, 1, 2, 6, 20][rng.below(5) as usize];
        let threads = (0..n_threads).map(|_| Thread { phase: Phase::Away, stat: String::new() });
        let state = State {
            rng,
            stays,
            running: None,
            threads: threads.collect(),
            n_begun: 0,
            trace: Vec::new(),
        };
        let called = (0..n_threads).map(|_| Condvar::new()).collect();
        let at_door = (0..n_threads).map(|_| AtomicBool::new(false)).collect();
        Arc::new(Turns { state: Mutex::new(state), called, at_door })
    }

    /// Makes the calling thread number `me` until the guard is dropped; waits for all the others.
    pub(crate) fn join(self: &Arc<Turns>, me: usize) -> Member {
        ME.set(Some(me));
        let mut state = self.state();
        state.threads[me].stat = own_stat();
        state.n_begun += 1;
        state.threads[me].phase = Phase::Ready;
        if state.n_begun == state.threads.len() {
            state = self.hand_on(state);
        }
        drop(self.wait(state, me));
        Member { turns: self.clone(), me }
    }

    /// The calls that were made, in order.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for the thread `me`, which nobody takes for one that waits in the store meanwhile.
    fn enter(&self, me: usize) -> MutexGuard<'_, State> {
        self.at_door[me].store(true, Ordering::SeqCst);
        let state = self.state();
        self.at_door[me].store(false, Ordering::SeqCst);
        state
    }

    /// Whether a thread waits inside the store for another one.
    fn waits_inside(&self, state: &State, thread: usize) -> bool {
        let Thread { phase, stat } = &state.threads[thread];
        let sleeps = || {
            // What Linux cannot tell of any more is at its end.
            let Ok(stat) = std::fs::read_to_string(stat) else { return true };
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
        };
        // Asked last, so that who came to the door while we looked is not mistaken.
        *phase == Phase::Away && sleeps() && !self.at_door[thread].load(Ordering::SeqCst)
    }

    /// A call is about to be made.
    fn pause(&self, call: impl FnOnce() -> String) {
        let Some(me) = ME.get() else { return };
        let mut state = self.enter(me);
        if state.running == Some(me) {
            let stays = state.stays;
            if stays == 1 || state.rng.below(stays) == 0 {
                state.threads[me].phase = Phase::Ready;
                state = self.hand_on(state);
            }
        } else {
            // It waited in the store and somebody else was let on meanwhile.
            state.threads[me].phase = Phase::Ready;
            if state.running.is_none() {
                state = self.hand_on(state);
            }
        }
        state = self.wait(state, me);
        let line = format!("thread {me}: {}", call());
        state.trace.push(line);
    }

    fn wait<'a>(&'a self, mut state: MutexGuard<'a, State>, me: usize) -> MutexGuard<'a, State> {
        while state.running != Some(me) {
            let waited = self.called[me].wait_timeout(state, LOOK_AFTER);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = again;
            let is_stuck = |state: &State| match state.running {
                None => state.n_begun == state.threads.len(),
                Some(other) => self.waits_inside(state, other),
            };
            if timeout.timed_out() && state.running != Some(me) && is_stuck(&state) {
                state = self.hand_on(state);
            }
        }
        state.threads[me].phase = Phase::Away;
        state
    }

    /// Chooses who goes on, once everybody is ready, waits in the store, or is done.
    fn hand_on<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let begun = Instant::now();
        let under_way = |state: &State| {
            let away = |i: &usize| state.threads[*i].phase == Phase::Away;
            (0..state.threads.len()).filter(away).any(|i| !self.waits_inside(state, i))
        };
        state.running = None;
        while under_way(&state) && begun.elapsed() < PATIENCE {
            drop(state);
            std::thread::yield_now();
            state = self.state();
            if state.running.is_some() {
                return state;
            }
        }
        let threads = state.threads.iter().enumerate();
        let ready: Vec<usize> =
            threads.filter(|(_, thread)| thread.phase == Phase::Ready).map(|(i, _)| i).collect();
        if !ready.is_empty() {
            let next = ready[state.rng.below(ready.len() as u64) as usize];
            state.running = Some(next);
            self.called[next].notify_one();
        }
        state
    }
}

/// The file that tells how the calling thread is.
fn own_stat() -> String {
    let link = std::fs::read_link("/proc/thread-self").unwrap();
    format!("/proc/{}/stat", link.display())
}

/// The calling thread is one of those that take turns.
pub(crate) struct Member {
    turns: Arc<Turns>,
    me: usize,
}

impl Drop for Member {
    fn drop(&mut self) {
        ME.set(None);
        let mut state = self.turns.enter(self.me);
        state.threads[self.me].phase = Phase::Done;
        if state.running.is_none_or(|running| running == self.me) {
            drop(self.turns.hand_on(state));
        }
    }
}

/// A simulated disk whose callers take turns.
pub(crate) struct Turned {
    pub(crate) disk: SimDisk,
    pub(crate) turns: Arc<Turns>,
}

impl Disk for Turned {
    fn open(&self, path: &RelPath) -> io::Result<Box<dyn File>> {
        self.turns.pause(|| format!("open {path}"));
        self.disk.open(path)
    }

    fn create(&self, path: &RelPath, how: Create) -> io::Result<Box<dyn File>> {
        self.turns.pause(|| format!("create {path}"));
        self.disk.create(path, how)
    }

    fn stat(&self, path: &RelPath) -> io::Result<Stat> {
        self.turns.pause(|| format!("stat {path}"));
        self.disk.stat(path)
    }

    fn list(
        &self,
        path: &RelPath,
        each: &mut dyn FnMut(Entry) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.turns.pause(|| format!("list {path}"));
        self.disk.list(path, each)
    }

    fn make_dir(&self, path: &RelPath, mode: u32) -> io::Result<()> {
        self.turns.pause(|| format!("make_dir {path}"));
        self.disk.make_dir(path, mode)
    }

    fn set_group(&self, path: &RelPath, gid: u32, mode: u32) -> io::Result<()> {
        self.turns.pause(|| format!("set_group {path}"));
        self.disk.set_group(path, gid, mode)
    }

    fn link(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.turns.pause(|| format!("link {from} -> {to}"));
        self.disk.link(from, to)
    }

    fn rename(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.turns.pause(|| format!("rename {from} -> {to}"));
        self.disk.rename(from, to)
    }

    fn rename_new(&self, from: &RelPath, to: &RelPath) -> io::Result<()> {
        self.turns.pause(|| format!("rename_new {from} -> {to}"));
        self.disk.rename_new(from, to)
    }

    fn unlink(&self, path: &RelPath) -> io::Result<()> {
        self.turns.pause(|| format!("unlink {path}"));
        self.disk.unlink(path)
    }

    fn remove_dir(&self, path: &RelPath) -> io::Result<()> {
        self.turns.pause(|| format!("remove_dir {path}"));
        self.disk.remove_dir(path)
    }

    fn sync_dir(&self, path: &RelPath) -> io::Result<()> {
        self.turns.pause(|| format!("sync_dir {path}"));
        self.disk.sync_dir(path)
    }

    fn sync_all(&self) -> io::Result<()> {
        self.turns.pause(|| "sync_all".to_owned());
        self.disk.sync_all()
    }

    fn is_crowded(&self) -> bool {
        self.disk.is_crowded()
    }

    fn space(&self) -> io::Result<Space> {
        self.turns.pause(|| "space".to_owned());
        self.disk.space()
    }

    fn lock(&self, path: &RelPath, holder: &str) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path, holder)
    }
}
