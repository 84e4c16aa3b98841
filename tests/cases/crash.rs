//! The crash sweep: the real store on the simulated disk, stopped at every single call.
//!
//! For each operation of the store and each call that it makes: the power goes there and the disk
//! keeps many legal subsets of what was not synced; the process is killed there and another one
//! goes on; the call fails with EIO, or there is no room, once or from there on. After each of
//! them `verdict` looks at what is left. `BONDED_LONG=1` tries ten times as many; `BONDED_CRASH`
//! repeats one that was reported.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use cas::disk::Disk as _;
use cas::disk::sim::{Fault, SimDisk, Times};
use cas::{Error, Options, Store};

use verdict::Case;
use world::Scenario;

pub(crate) mod fixture;
mod log;
mod logged_pushes;
mod repository;
mod scenario;
mod uploads;
mod verdict;
mod world;

/// Crash states that the ordinary run tries at least.
const N_STATES: u64 = 20_000;
/// Reports that are shown in full.
const N_SHOWN: usize = 40;

/// Bytes of a segment of the log: the third blob of a scenario finds the first one full.
pub(crate) const LOG: u64 = 8 << 10;

/// Opens the store the way that makes the same calls each time.
fn open(disk: &SimDisk) -> Result<Store, Error> {
    open_with(disk, LOG)
}

/// The same with segments of the log of so many bytes.
fn open_with(disk: &SimDisk, log: u64) -> Result<Store, Error> {
    let options = Options { index: None, pipeline_from: u64::MAX, log, ..Options::default() };
    Store::open(Arc::new(disk.clone()), options)
}

/// The files that an empty store has.
fn fresh_files() -> Vec<String> {
    static FRESH: OnceLock<Vec<String>> = OnceLock::new();
    let fresh = FRESH.get_or_init(|| {
        let disk = SimDisk::new();
        drop(open(&disk).unwrap());
        disk.files().into_keys().collect()
    });
    fresh.clone()
}

/// Does the operation on this disk; `arm` sets what goes wrong, from the number on that it gets.
fn run(
    scenario: &Scenario,
    disk: &SimDisk,
    arm: impl Fn(u64),
) -> (Option<Store>, Result<(), Error>) {
    if scenario.opens {
        arm(disk.calls());
    }
    match open(disk) {
        Ok(store) => {
            if !scenario.opens {
                arm(disk.calls());
            }
            let result = (scenario.act)(&store);
            (Some(store), result)
        }
        Err(error) => (None, Err(error)),
    }
}

/// The calls of an undisturbed run, as text.
fn calls(scenario: &Scenario) -> Vec<String> {
    let disk = scenario.disk.fork();
    let (store, result) = run(scenario, &disk, |_| disk.start_trace());
    result.unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
    drop(store);
    let calls = disk.trace().into_iter().enumerate().map(|(n, call)| {
        // Numbered from where the operation begins, as `BONDED_CRASH` wants it.
        format!("call {n} ({})", call.split_once(' ').map_or("", |(_, what)| what.trim()))
    });
    calls.collect()
}

/// What went wrong, told so that it can be repeated.
#[derive(Default)]
struct Reports {
    n: usize,
    shown: Vec<String>,
    /// One report of each kind is enough.
    kinds: std::collections::BTreeSet<String>,
}

impl Reports {
    /// Judges one state; a panic in the store is a verdict as well.
    fn judge(
        &mut self,
        scenario: &Scenario,
        place: impl Fn() -> String,
        disk: &SimDisk,
        judge: impl FnOnce(&SimDisk) -> Result<(), String>,
    ) {
        let judged = catch_unwind(AssertUnwindSafe(|| judge(disk)))
            .unwrap_or_else(|_| Err("the store panicked".to_owned()));
        let Err(said) = judged else { return };
        self.n += 1;
        let kind = said.split_whitespace().filter(|word| word.len() < 30).collect::<Vec<_>>();
        if self.kinds.insert(format!("{}: {}", scenario.name, kind.join(" "))) {
            self.shown.push(format!("{}, {}: {said}", scenario.name, place()));
            if std::env::var_os("BONDED_CRASH").is_some() {
                self.shown.push(disk.describe());
            }
        }
    }

    fn end(self, what: &str) {
        let Reports { n, mut shown, .. } = self;
        let n_kinds = shown.len();
        shown.truncate(N_SHOWN);
        assert!(
            n == 0,
            "{n} {what} were illegal, {n_kinds} kinds \
             (BONDED_CRASH='SCENARIO:CALL' repeats one):\n{}",
            shown.join("\n")
        );
    }
}

/// Goes past the test runner, which keeps what passing tests print.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// `BONDED_CRASH=scenario:call` narrows a sweep to one scenario, and to one call of it.
fn wanted(scenario: &Scenario, call: Option<u64>) -> bool {
    let Ok(wanted) = std::env::var("BONDED_CRASH") else { return true };
    let (name, number) = wanted.split_once(':').unwrap_or((&wanted, ""));
    scenario.name == name
        && call.zip(number.parse().ok()).is_none_or(|(call, number): (u64, u64)| call == number)
}

/// The seeds that are tried after call `n`: everything lost, one of the other extremes, mixtures.
fn seeds(n: u64, n_seeds: u64) -> impl Iterator<Item = u64> {
    (0..n_seeds).map(move |i| match i {
        0 => 0,
        1 => 1 + n % 3,
        _ => 4 + (n * 1_000_003 + i) * 7,
    })
}

#[test]
fn power_cuts_lose_nothing_that_was_acknowledged() {
    let begun = Instant::now();
    let scenarios = scenario::all();
    let all_calls: Vec<Vec<String>> = scenarios.iter().map(calls).collect();
    let n_calls: u64 = all_calls.iter().map(|calls| calls.len() as u64 + 1).sum();
    let long = if std::env::var_os("BONDED_LONG").is_some() { 10 } else { 1 };
    let n_seeds = (N_STATES * long).div_ceil(n_calls).max(4);
    let (mut n_states, mut n_kills) = (0, 0);
    let mut reports = Reports::default();
    for (scenario, calls) in scenarios.iter().zip(&all_calls) {
        for n in 0..=calls.len() as u64 {
            if !wanted(scenario, Some(n)) {
                continue;
            }
            let disk = scenario.disk.fork();
            let (store, result) = run(scenario, &disk, |first| disk.stop_after(first + n));
            drop(store);
            let acknowledged = result.is_ok();
            let case = Case { scenario, acknowledged, heals: scenario.heals };
            let before = || calls.get(n as usize).map_or("the end", String::as_str);
            for seed in seeds(n, n_seeds) {
                let left = disk.crash(seed);
                let place = || format!("power cut before {}, seed {seed}", before());
                reports.judge(scenario, place, &left, |disk| case.judge(disk));
                n_states += 1;
            }
            // Killed, the disk lives on: whoever comes next meets what nobody has synced.
            let place = || format!("killed before {}", before());
            reports.judge(scenario, place, &disk.fork(), |disk| case.judge(disk));
            let place = || format!("killed before {}, then another put", before());
            reports.judge(scenario, place, &disk.fork(), |disk| case.judge_next(disk));
            n_kills += 2;
        }
    }
    say(&format!(
        "measured: crash states tried: {n_states} (and {n_kills} kills) at {n_calls} calls of {} scenarios, {:.0} s",
        scenarios.len(),
        begun.elapsed().as_secs_f64()
    ));
    reports.end("crash states");
}

#[test]
fn failing_calls_are_told_and_lose_nothing() {
    let begun = Instant::now();
    let scenarios = scenario::all();
    let mut n_states = 0;
    let mut reports = Reports::default();
    for scenario in &scenarios {
        let calls = calls(scenario);
        for n in 0..calls.len() as u64 {
            if !wanted(scenario, Some(n)) {
                continue;
            }
            for (fault, times) in [
                (Fault::Io, Times::Once),
                (Fault::Io, Times::ForGood),
                (Fault::NoSpace, Times::Once),
                (Fault::NoSpace, Times::ForGood),
            ] {
                let disk = scenario.disk.fork();
                let (store, result) =
                    run(scenario, &disk, |first| disk.fail(first + n, fault, times));
                if !disk.failed() {
                    continue;
                }
                n_states += 1;
                let place = || format!("{fault:?} {times:?} at {}", calls[n as usize]);
                // A copy that cannot be read is given up for good bytes, which is healing.
                let case = Case { scenario, acknowledged: result.is_ok(), heals: true };
                reports.judge(scenario, place, &disk, |_| honest(scenario, result));
                let (cut, killed) = (disk.crash(n % 7), disk.fork());
                if times == Times::Once
                    && let Some(store) = &store
                {
                    // The same process goes on. It may be told once more of a sync that failed.
                    let place = || format!("{}, then another put", place());
                    reports.judge(scenario, place, &disk, |disk| {
                        let put = || (scenario.next)(store);
                        put().or_else(|_| put()).map_err(|error| error.to_string())?;
                        case.lasts(disk, &scenario.by_next)
                    });
                }
                reports.judge(scenario, place, &killed, |disk| case.judge(disk));
                let place = || format!("{}, then a power cut, seed {}", place(), n % 7);
                reports.judge(scenario, place, &cut, |disk| case.judge(disk));
            }
        }
    }
    say(&format!(
        "measured: failing calls tried: {n_states}, {:.0} s",
        begun.elapsed().as_secs_f64()
    ));
    reports.end("failures");
}

#[test]
fn a_full_disk_takes_nothing_by_half_and_can_be_tidied() {
    const BLOCK: u64 = 4096;
    let (mut n_done, mut n_refused) = (0, 0);
    let mut reports = Reports::default();
    let scenarios = scenario::all();
    for scenario in scenarios.iter().filter(|scenario| !scenario.opens) {
        if !wanted(scenario, None) {
            continue;
        }
        for n_blocks in 0..40 {
            let space = scenario.disk.fork().space().unwrap();
            let used = space.total - space.free;
            let disk = scenario.disk.fork().with_capacity(used + n_blocks * BLOCK);
            let (store, result) = run(scenario, &disk, |_| ());
            n_done += u64::from(result.is_ok());
            n_refused += u64::from(result.is_err());
            let case = Case { scenario, acknowledged: result.is_ok(), heals: true };
            let place = || format!("with room for {n_blocks} blocks");
            reports.judge(scenario, place, &disk, |_| match result {
                Ok(()) => Ok(()),
                Err(Error::Full) if !scenario.frees => Ok(()),
                Err(error) => Err(format!("it was told as: {error}")),
            });
            reports.judge(scenario, place, &disk, |_| {
                let store = store.ok_or("the store does not open")?;
                store.gc(false, &mut || {}).map(drop).map_err(|error| format!("gc: {error}"))
            });
            let left = disk.crash(n_blocks).with_capacity(space.total);
            reports.judge(scenario, place, &left, |disk| case.judge(disk));
        }
    }
    say(&format!("measured: full disks tried: {n_done} with room enough, {n_refused} without"));
    reports.end("full disks");
    assert!(std::env::var_os("BONDED_CRASH").is_some() || n_done > 100 && n_refused > 100);
}

/// A disk that fails is not the bringer's fault, and no damage of the store.
fn honest(scenario: &Scenario, result: Result<(), Error>) -> Result<(), String> {
    match result {
        Ok(()) | Err(Error::Disk { .. } | Error::Full) => Ok(()),
        Err(Error::Corrupt { .. }) if scenario.heals => Ok(()),
        Err(error) => Err(format!("it was told as: {error}")),
    }
}
