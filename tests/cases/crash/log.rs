//! The write-ahead log: what was acknowledged of small blobs outlives every stop, what was ended does not
//! come back, and whoever shares a file with the log is not deceived.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use cas::digest::{Algorithm, Digest};
use cas::disk::sim::{Fault, SimDisk, Times};
use cas::disk::{Disk as _, RelPath};
use cas::{Error, Repository, Source, Store};

use super::fixture::{self, Artifact, take};
use super::world::default_workspace;
use super::{open, open_with};

const REPOSITORIES: [&str; 3] = ["one", "two/three", "four"];
/// Blobs that no artifact needs, by size: two records of the log of one page, two of more, and one that is
/// not for the log of these tests at all.
const SIZES: [usize; 5] = [0, 900, 3_500, 5_000, 9_000];

/// What is done to a repository of that number.
#[derive(Clone, Copy, Debug)]
enum Step {
    Take(usize, usize),
    Delete(usize, usize),
    /// From the first one into the second.
    Mount(usize, usize, usize),
    /// An artifact: its blobs, and the manifest.
    Push(usize),
    /// Its blobs alone, and its manifest alone.
    Blobs(usize),
    Manifest(usize),
    /// The same from a client, by a draft.
    Put,
    Retire,
    /// All leases end, and nobody's blobs go.
    Collect,
    /// Others begin to write much, or have ended.
    Crowd(bool),
}
use Step::{Blobs, Collect, Crowd, Delete, Manifest, Mount, Push, Put, Retire, Take};

/// What must be there.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    There,
    Gone,
    Either,
}

/// What somebody was told: of blobs by repository, and of the artifact.
#[derive(Clone, Default)]
struct Told {
    blobs: BTreeMap<(usize, usize), Option<bool>>,
    pushed: BTreeMap<usize, Option<bool>>,
    held: Option<bool>,
}

fn blob(number: usize) -> Vec<u8> {
    fixture::bytes(40 + number as u64, SIZES[number])
}

fn artifact() -> Artifact {
    fixture::lone()
}

fn repository(store: &Store, number: usize) -> Repository {
    store.repository(&default_workspace(), &REPOSITORIES[number].parse().unwrap())
}

fn act(store: &Store, disk: &SimDisk, step: Step) -> Result<(), Error> {
    match step {
        Take(at, number) => take(&repository(store, at), &blob(number)),
        Delete(at, number) => repository(store, at).delete_blob(&Digest::of(&blob(number))),
        Mount(from, to, number) => {
            let from = REPOSITORIES[from].parse().unwrap();
            let digest = Digest::of(&blob(number));
            match repository(store, to).mount(&digest, Some(&from))? {
                Some(_) => Ok(()),
                None => Err(Error::NotFound { what: digest.to_string() }),
            }
        }
        Blobs(at) => artifact().take(&repository(store, at)),
        Manifest(at) => artifact().push(&repository(store, at), &["tag"]).map(drop),
        Push(at) => act(store, disk, Blobs(at)).and_then(|()| act(store, disk, Manifest(at))),
        Put => artifact().put(store, &default_workspace(), &[]).map(drop),
        Retire => store.retire(&default_workspace(), &artifact().digest()).map(drop),
        Collect => {
            store.end_leases(i128::MAX, false, &mut || {})?;
            store.gc(false, &mut || {}).map(drop)
        }
        Crowd(is_crowded) => {
            drop(disk.clone().with_crowd(is_crowded));
            Ok(())
        }
    }
}

impl Told {
    /// Notes what an answer said; an error that is no refusal says nothing.
    fn note(&mut self, step: Step, answer: &Result<(), Error>) {
        let is_refused = matches!(
            answer,
            Err(Error::NotFound { .. } | Error::Needed { .. } | Error::Incomplete { .. })
        );
        let known = |is_there: bool| answer.is_ok().then_some(is_there);
        if is_refused {
            return;
        }
        match step {
            Take(at, number) | Mount(_, at, number) => {
                self.blobs.insert((at, number), known(true));
            }
            Delete(at, number) => drop(self.blobs.insert((at, number), known(false))),
            Push(at) | Manifest(at) => {
                self.pushed.insert(at, known(true));
                if answer.is_ok() || self.held != Some(true) {
                    self.held = known(true);
                }
            }
            Put => {
                if answer.is_ok() || self.held != Some(true) {
                    self.held = known(true);
                }
            }
            Retire => {
                self.held = known(false);
                self.pushed.values_mut().for_each(|pushed| *pushed = known(false));
            }
            // What nobody was told of may come with the next start.
            Collect => {
                let told = self.blobs.values_mut().filter(|there| **there == Some(true));
                told.for_each(|there| *there = known(false));
            }
            Blobs(_) | Crowd(_) => {}
        }
    }

    /// Opens the store and looks; what is there must be whole, whoever was told.
    fn judge(&self, disk: &SimDisk, place: &str) {
        let store = open(disk).unwrap_or_else(|error| panic!("{place}: {error}"));
        for (at, name) in REPOSITORIES.iter().enumerate() {
            for number in 0..SIZES.len() {
                let state = state(self.blobs.get(&(at, number)).copied().unwrap_or(Some(false)));
                let read = repository(&store, at)
                    .blob(&Digest::of(&blob(number)))
                    .and_then(|held| held.bytes());
                judge(state, read.map(|bytes| bytes == blob(number)), || {
                    format!("{place}: blob {number} of {name}")
                });
            }
            let pushed = self.pushed.get(&at).copied().unwrap_or(Some(false));
            if pushed == Some(true) {
                for (claim, _) in artifact().members.iter().filter(|(c, _)| !c.is_manifest()) {
                    let read = repository(&store, at).blob(&claim.digest).and_then(|b| b.bytes());
                    assert!(read.is_ok(), "{place}: a blob of what was pushed to {at}: {read:?}");
                }
            }
        }
        let sealed = store.sealed(&default_workspace(), &artifact().digest());
        let checked = sealed.and_then(|sealed| sealed.check().map(|_| true));
        judge(state(self.held), checked, || format!("{place}: the artifact"));
    }
}

fn state(told: Option<bool>) -> State {
    match told {
        Some(true) => State::There,
        Some(false) => State::Gone,
        None => State::Either,
    }
}

#[track_caller]
fn judge(state: State, found: Result<bool, Error>, place: impl Fn() -> String) {
    match (state, found) {
        (State::There | State::Either, Ok(true)) => {}
        (State::Gone | State::Either, Err(Error::NotFound { .. })) => {}
        (_, found) => panic!("{}: {found:?}, and must be {state:?}", place()),
    }
}

fn scripts() -> Vec<Vec<Step>> {
    vec![
        // More than both segments hold.
        vec![
            Take(0, 0),
            Take(0, 1),
            Take(1, 1),
            Take(0, 2),
            Take(1, 0),
            Take(0, 3),
            Take(0, 4),
            Take(1, 3),
        ],
        // What was ended does not come back, and what came again stays.
        vec![
            Take(0, 1),
            Delete(0, 1),
            Take(0, 1),
            Take(0, 2),
            Delete(0, 2),
            Delete(0, 1),
            Take(0, 2),
        ],
        vec![Take(0, 1), Take(1, 2), Collect, Take(1, 1), Collect],
        // A file with two names, one of them in the log.
        vec![Take(0, 1), Mount(0, 1, 1), Delete(0, 1), Take(2, 1), Delete(1, 1)],
        vec![
            Take(0, 1),
            Crowd(true),
            Take(1, 1),
            Mount(1, 2, 1),
            Delete(0, 1),
            Crowd(false),
            Take(0, 2),
        ],
        vec![Take(0, 1), Crowd(true), Delete(0, 1), Take(0, 2), Crowd(false), Delete(0, 2)],
        // What is sealed rests on it.
        vec![Push(0), Retire, Collect, Push(1)],
        vec![Take(0, 1), Push(0), Crowd(true), Push(1), Put, Retire],
        vec![Put, Push(0), Take(0, 1), Push(1), Retire, Collect],
        // A sync of others may fail in between.
        vec![Take(1, 1), Blobs(0), Mount(1, 2, 1), Manifest(0)],
    ]
}

#[test]
fn what_was_acknowledged_outlives_every_stop_and_what_was_ended_does_not_come_back() {
    let n_seeds = if tests::is_long() { 60 } else { 8 };
    let fresh = SimDisk::new();
    open(&fresh).unwrap().close();
    let mut n_states = 0;
    for (number, script) in scripts().iter().enumerate() {
        for call in 0.. {
            let disk = fresh.fork();
            let store = open(&disk).unwrap();
            disk.stop_after(disk.calls() + call);
            let (mut told, mut is_cut) = (Told { held: Some(false), ..Told::default() }, false);
            for step in script {
                let answer = act(&store, &disk, *step);
                told.note(*step, &answer);
                is_cut |= answer.is_err();
                if is_cut {
                    break;
                }
            }
            drop(store);
            for (seed, left) in
                (0..n_seeds).map(|seed| disk.crash(seed)).chain([disk.fork()]).enumerate()
            {
                let place = format!("script {number}, call {call}, state {seed}");
                told.judge(&left, &place);
                // What was found is durable, wherever it was found.
                told.judge(&left.crash(0), &format!("{place}, again"));
                n_states += 2;
            }
            if !is_cut {
                break;
            }
        }
    }
    super::say(&format!("measured: {n_states} stops of what the log holds"));
}

/// One call fails, perhaps a sync, and then the power: nothing that was acknowledged before or after is lost.
#[test]
fn a_call_that_fails_loses_nothing_of_the_log() {
    let fresh = SimDisk::new();
    open(&fresh).unwrap().close();
    for (number, script) in scripts().iter().enumerate() {
        for call in 0.. {
            let disk = fresh.fork();
            let store = open(&disk).unwrap();
            disk.fail(disk.calls() + call, Fault::Io, Times::Once);
            let mut told = Told { held: Some(false), ..Told::default() };
            for step in script {
                told.note(*step, &act(&store, &disk, *step));
            }
            let place = format!("script {number}, call {call} fails");
            for seed in 0..4 {
                told.judge(&disk.crash(seed), &format!("{place}, state {seed}"));
            }
            if !disk.failed() {
                break;
            }
        }
    }
}

/// Several at once, each in a repository of its own, with the same blobs, until the power goes; in half of
/// the rounds one call fails before.
#[test]
fn at_once_they_share_writes_and_files_and_deceive_nobody() {
    let n_rounds = if tests::is_long() { 8_000 } else { 300 };
    for round in 0..n_rounds {
        let random = fixture::bytes(1_000 + round, 64);
        let disk = SimDisk::new();
        // With segments of two records, and of many.
        let log = if round % 4 < 2 { super::LOG } else { 16 * super::LOG };
        let store = super::open_with(&disk, log).unwrap();
        let n_calls = 40 + u64::from(random[0]) * 3;
        disk.stop_after(disk.calls() + n_calls);
        if round % 2 == 1 {
            disk.fail(disk.calls() + u64::from(random[61]) * n_calls / 256, Fault::Io, Times::Once);
        }
        let told = Arc::new(Mutex::new(Told { held: Some(false), ..Told::default() }));
        std::thread::scope(|scope| {
            for at in 0..REPOSITORIES.len() {
                let (store, disk, told) = (store.clone(), disk.clone(), told.clone());
                let random = &random[1 + 20 * at..][..20];
                scope.spawn(move || {
                    for byte in random {
                        let number = usize::from(byte % 4);
                        let step = match byte / 4 % 8 {
                            0..5 => Take(at, number),
                            _ => Delete(at, number),
                        };
                        let answer = act(&store, &disk, step);
                        told.lock().unwrap().note(step, &answer);
                    }
                });
            }
        });
        drop(store);
        let told = told.lock().unwrap();
        for seed in 0..6 {
            told.judge(&disk.crash(seed), &format!("round {round}, state {seed}"));
        }
    }
}

/// A store that took one blob, was not stopped, and lost all but its log to the power.
fn only_logged(link_limit: u64) -> SimDisk {
    let disk = SimDisk::new().with_link_limit(link_limit);
    open(&disk).unwrap().close();
    take(&repository(&open(&disk).unwrap(), 0), &blob(1)).unwrap();
    disk.crash(0)
}

#[track_caller]
fn has_it(disk: &SimDisk) {
    let store = open(disk).unwrap();
    let read = repository(&store, 0).blob(&Digest::of(&blob(1))).and_then(|held| held.bytes());
    assert!(read.unwrap() == blob(1));
}

#[test]
fn on_a_full_disk_the_log_is_done_again_at_the_cost_of_the_reserve() {
    let left = only_logged(65_000);
    let space = left.space().unwrap();
    let full = left.with_capacity(space.total - space.free);
    assert_eq!(full.space().unwrap().free, 0);
    has_it(&full);
    assert!(!full.files().contains_key("reserve"));
}

/// More than the reserve has room for, when the process was killed and all of it is there: what is written anew
/// takes the room of what it replaces. What the power took needs room; without it a start says so, and with it
/// all is there.
#[test]
fn on_a_full_disk_much_is_done_again_file_by_file() {
    const ROOMY: u64 = 64 << 12;
    let blobs: Vec<Vec<u8>> = (0..16).map(|n| fixture::bytes(60 + n, 3_000)).collect();
    let disk = SimDisk::new();
    open(&disk).unwrap().close();
    let store = open_with(&disk, ROOMY).unwrap();
    blobs.iter().for_each(|bytes| take(&repository(&store, 0), bytes).unwrap());
    let full = |left: SimDisk, more: u64| {
        let reserve = RelPath::new("reserve");
        left.unlink(&reserve).unwrap();
        let space = left.space().unwrap();
        left.with_capacity(space.total - space.free + more)
    };
    let are_there = |disk: &SimDisk| {
        let store = open(disk).unwrap();
        for bytes in &blobs {
            let read = repository(&store, 0).blob(&Digest::of(bytes)).and_then(|held| held.bytes());
            assert!(read.unwrap() == *bytes);
        }
    };
    are_there(&full(disk.fork(), 4 << 12));
    let cut = full(disk.crash(0), 4 << 12);
    assert!(matches!(open(&cut), Err(Error::Full)));
    are_there(&cut.with_capacity(1 << 30));
}

#[test]
fn a_file_that_can_have_no_more_names_does_not_stop_a_start() {
    let left = only_logged(2);
    has_it(&left);
    // The same with the file that the pool has, which has all the names that it can have.
    let disk = SimDisk::new();
    open(&disk).unwrap().close();
    let store = open(&disk).unwrap();
    take(&repository(&store, 1), &blob(1)).unwrap();
    store.close();
    take(&repository(&open(&disk).unwrap(), 0), &blob(1)).unwrap();
    has_it(&disk.crash(0).with_link_limit(2));
}

/// What only the log has is not believed because it reads well: a sync failed before the process was killed.
#[test]
fn what_a_failed_sync_lost_and_a_killed_process_left_is_written_anew() {
    let disk = SimDisk::new();
    open(&disk).unwrap().close();
    let store = open(&disk).unwrap();
    for at in 0..2 {
        take(&repository(&store, at), &blob(1)).unwrap();
    }
    disk.fail(disk.calls(), Fault::Io, Times::Once);
    assert!(disk.sync_all().is_err());
    let killed = disk.fork();
    has_it(&killed);
    has_it(&killed.crash(0));
}

/// Has the log know the blobs of an artifact, and no others; then a sync of somebody else fails, each that there is.
fn at_each_failed_sync(test: impl Fn(&SimDisk, Store)) {
    let mut n_syncs = 0;
    for call in 0.. {
        let disk = SimDisk::new();
        open(&disk).unwrap().close();
        let store = open(&disk).unwrap();
        // It fills a segment, which is emptied when the next blob comes.
        take(&repository(&store, 0), &blob(2)).unwrap();
        artifact().take(&repository(&store, 2)).unwrap();
        disk.start_trace();
        let number = disk.calls() + call;
        disk.fail(number, Fault::Io, Times::Once);
        let _ = take(&repository(&store, 1), &fixture::bytes(99, 100_000));
        if !disk.failed() {
            break;
        }
        if disk.trace().iter().any(|line| line.starts_with(&format!("{number} sync"))) {
            n_syncs += 1;
            test(&disk, store);
        }
    }
    assert!(n_syncs > 2);
}

/// The kernel has dropped the bytes of what the log still has: that is no rot.
#[test]
fn what_a_failed_sync_lost_is_not_taken_for_rot() {
    at_each_failed_sync(|disk, store| {
        let artifact = artifact();
        let (digest, layer) = (artifact.members[1].0.digest, &artifact.members[1].1);
        disk.corrupt(&cas::layout::Pool::Shared.blob(&digest), 7).unwrap();
        let read = repository(&store, 2).blob(&digest).and_then(|held| held.bytes());
        assert!(read.unwrap() == *layer);
        drop(store);
        for disk in [disk.fork(), disk.crash(0)] {
            let store = open(&disk).unwrap();
            let read = repository(&store, 2).blob(&digest).and_then(|held| held.bytes());
            assert!(read.unwrap() == *layer);
        }
    });
}

#[test]
fn after_a_sync_that_failed_every_way_in_goes_on() {
    type Way = fn(&Store) -> Result<(), Error>;
    let put: Way = |store| artifact().put(store, &default_workspace(), &[]).map(drop);
    let push: Way = |store| artifact().push(&repository(store, 2), &["tag"]).map(drop);
    let upload: Way = |store| {
        let layer = &artifact().members[1].1;
        let id = super::uploads::id(1);
        let mut upload = repository(store, 1).upload(id, "uid 7", Algorithm::Sha256);
        upload.append(Source::Stream(&mut layer.as_slice()))?;
        upload.commit(&Digest::of(layer)).map(drop)
    };
    for way in [put, push, upload] {
        at_each_failed_sync(|disk, store| {
            way(&store).or_else(|_| way(&store)).unwrap();
            drop(store);
            let store = open(&disk.crash(0)).unwrap();
            let config = &artifact().members[0];
            let read = repository(&store, 2).blob(&config.0.digest).and_then(|held| held.bytes());
            assert!(read.unwrap() == config.1);
        });
    }
}
