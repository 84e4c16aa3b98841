//! Races: the store from several threads at once, and whether what they were answered can be.
//!
//! A seed makes a plan (`plan`): what the store has, and what each thread does. The threads run on
//! the simulated disk, where the seed also decides whose call comes next (`turns`) and where the
//! power goes, and on a real one, where they run as they like (`round`). Then `verdict` looks at
//! what is left, and `model` looks for an order in which every answer is right. `BONDED_RACE=SEED`
//! repeats one seed and tells the calls; `BONDED_LONG=1` tries forty times as many, from another
//! seed each time.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cas::disk::sim::{Seen, SimDisk};
use cas::disk::{Kind, RealDisk};
use cas::{Options, Store, layout};
use tests::{is_long, say};

use model::Event;
use plan::{Plan, Rng};
use verdict::{Snapshot, Verdict};

mod model;
mod plan;
mod round;
mod turns;
mod verdict;

/// Rounds of the ordinary run: in turns, and free on a real disk.
const N_TURNS: u64 = 280;
const N_FREE: u64 = 140;
/// Seeds by which the long run found something once.
const FOUND: [u64; 7] = [
    179580129700679,
    179580129705205,
    179580129707774,
    179580129709585,
    179580192900832,
    179580043102612,
    179580470700533,
];
/// The ordinary run on a real disk ends early when the disk is busy with other things.
const FREE_ENDS_AFTER: Duration = Duration::from_secs(8);
/// Reports that are shown in full.
const N_SHOWN: usize = 12;

/// The one seed that is wanted, if one is.
fn wanted() -> Option<u64> {
    let seed = std::env::var("BONDED_RACE").ok()?;
    Some(seed.parse().expect("BONDED_RACE is the number of a seed"))
}

/// The seeds of this run, and of each how many rounds.
fn seeds(n: u64, n_repeats: u64) -> (Vec<u64>, u64) {
    match (wanted(), is_long()) {
        (Some(seed), _) => (vec![seed], n_repeats),
        (None, false) => ((0..n).chain(FOUND).collect(), 1),
        (None, true) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let first = now.as_secs() * 100_000;
            ((first..first + n * 40).collect(), 1)
        }
    }
}

/// What went wrong, told so that it can be repeated.
#[derive(Default)]
struct Reports {
    n: usize,
    shown: Vec<String>,
    /// One report of each kind is enough.
    kinds: BTreeMap<String, BTreeSet<u64>>,
}

impl Reports {
    fn judge(
        &mut self,
        seed: u64,
        plan: &Plan,
        place: &str,
        trace: &[String],
        judge: impl FnOnce(&mut Vec<Event>) -> Verdict,
    ) {
        let mut events = Vec::new();
        let judged = catch_unwind(AssertUnwindSafe(|| judge(&mut events)))
            .unwrap_or_else(|_| Err("the store panicked".to_owned()));
        let Err(said) = judged else { return };
        self.n += 1;
        let words = said
            .split_whitespace()
            .filter(|word| word.len() < 25 && !word.contains(|c: char| c.is_ascii_digit()));
        let kind = words.collect::<Vec<_>>().join(" ");
        let seeds = self.kinds.entry(kind).or_default();
        if !seeds.insert(seed) || seeds.len() > 1 {
            return;
        }
        let mut text = format!("seed {seed}, {}, {place}: {said}\n  {plan:?}", plan.what);
        for Event { thread, what, answer, begun, ended } in &events {
            text += &format!("\n  {begun}..{ended} thread {thread}: {what:?} => {answer:?}");
        }
        if wanted().is_some() {
            text += &format!("\n  {}", trace.join("\n  "));
        }
        self.shown.push(text);
    }

    fn end(self) {
        let Reports { n, mut shown, kinds } = self;
        shown.truncate(N_SHOWN);
        let kinds: Vec<String> = kinds
            .iter()
            .map(|(kind, seeds)| {
                let some: Vec<&u64> = seeds.iter().take(6).collect();
                format!("{} seeds, {some:?}: {kind}", seeds.len())
            })
            .collect();
        assert!(
            n == 0,
            "{n} rounds ended illegally (BONDED_RACE=SEED repeats one):\n{}\n\n{}",
            kinds.join("\n"),
            shown.join("\n")
        );
    }
}

#[test]
fn in_every_order_the_answers_are_right_and_outlive_the_power() {
    let begun = Instant::now();
    let mut reports = Reports::default();
    let (mut n_rounds, mut n_crashes) = (0, 0);
    let (seeds, n_repeats) = seeds(N_TURNS, 20);
    for seed in seeds.iter().flat_map(|seed| std::iter::repeat_n(*seed, n_repeats as usize)) {
        let plan = Arc::new(plan::plan(seed));
        let before = round::prepared(&plan);
        let disk = before.fork();
        let mut rng = Rng::new(!seed);
        let n_opening = {
            let disk = before.fork();
            drop(Store::open(Arc::new(disk.clone()), round::options()).unwrap());
            disk.calls()
        };
        n_rounds += 1;
        let mut ended = match round::take_turns(&disk, &plan, seed, None) {
            Ok(ended) => ended,
            Err(said) => {
                reports.judge(seed, &plan, "in turns", &[], |_| Err(said));
                continue;
            }
        };
        let n_calls = disk.calls() - n_opening;
        let left = disk.fork();
        let events = ended.events.clone();
        let trace = std::mem::take(&mut ended.trace);
        reports.judge(seed, &plan, "in turns", &trace, |events| {
            let judged = verdict::judge(&plan, &mut ended, &|| disk.snapshot());
            events.append(&mut ended.events);
            judged
        });
        drop(ended);
        n_crashes += crash(&mut reports, seed, &plan, "after the round", &trace, &events, &left);
        for _ in 0..2 {
            let (disk, cut) = (before.fork(), rng.below(n_calls));
            let place = format!("cut before call {cut} of {n_calls}");
            match round::take_turns(&disk, &plan, seed, Some(cut)) {
                Ok(ended) => {
                    let round::Ended { store, events, trace, .. } = ended;
                    drop(store);
                    n_crashes += crash(&mut reports, seed, &plan, &place, &trace, &events, &disk);
                }
                Err(said) => reports.judge(seed, &plan, &place, &[], |_| Err(said)),
            }
        }
    }
    say(&format!(
        "measured: races in turns: {n_rounds}, with {n_crashes} crash states, {:.0} s",
        begun.elapsed().as_secs_f64()
    ));
    reports.end();
}

/// Judges what a power cut may leave of this disk.
fn crash(
    reports: &mut Reports,
    seed: u64,
    plan: &Plan,
    place: &str,
    trace: &[String],
    events: &[Event],
    disk: &SimDisk,
) -> u64 {
    // Everything lost, names only, a mixture; and the process killed while the disk lives on.
    let states = [Some(0), Some(3), Some(4 + seed), None];
    for state in states {
        let left = state.map_or_else(|| disk.fork(), |state| disk.crash(state));
        let place = match state {
            Some(state) => format!("{place}, power cut of seed {state}"),
            None => format!("{place}, killed"),
        };
        reports.judge(seed, plan, &place, trace, |shown| {
            shown.extend_from_slice(events);
            verdict::judge_crash(plan, events, &left)
        });
    }
    states.len() as u64
}

#[test]
fn on_a_real_disk_the_answers_are_right() {
    let begun = Instant::now();
    let mut reports = Reports::default();
    let (seeds, n_repeats) = seeds(N_FREE, 200);
    let mut n_rounds = 0;
    for seed in seeds.iter().flat_map(|seed| std::iter::repeat_n(*seed, n_repeats as usize)) {
        if !is_long() && wanted().is_none() && begun.elapsed() > FREE_ENDS_AFTER {
            break;
        }
        n_rounds += 1;
        let plan = Arc::new(plan::plan(seed));
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        std::fs::create_dir(&root).unwrap();
        // As it ships: with an index, and blobs of several threads.
        let options = Options {
            index: Some(folder.path().join("index")),
            pipeline_from: 1000,
            log: crate::crash::LOG,
            ..Options::default()
        };
        let store = Store::open(Arc::new(RealDisk::open(&root).unwrap()), options).unwrap();
        round::fill(&store, &plan);
        if plan.rots {
            flip(&root.join(layout::blob_file(&plan::rotten())));
        }
        match round::run_free(store, &plan) {
            Ok(mut ended) => reports.judge(seed, &plan, "on a real disk", &[], |events| {
                let judged = verdict::judge(&plan, &mut ended, &|| snapshot(&root));
                events.append(&mut ended.events);
                judged
            }),
            Err(said) => reports.judge(seed, &plan, "on a real disk", &[], |_| Err(said)),
        }
    }
    say(&format!(
        "measured: races on a real disk: {n_rounds}, {:.0} s",
        begun.elapsed().as_secs_f64()
    ));
    reports.end();
}

/// Flips every bit of one byte, behind the store's back.
fn flip(path: &Path) {
    let mode = |mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    mode(0o644);
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 700).unwrap();
    file.write_all_at(&[!byte[0]], 700).unwrap();
    mode(0o444);
}

/// Everything below a real store's root.
fn snapshot(root: &Path) -> Snapshot {
    let mut seen = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stat = std::fs::symlink_metadata(&path).unwrap();
            let (kind, bytes) = if stat.is_dir() {
                folders.push(path.clone());
                (Kind::Folder, Vec::new())
            } else {
                (Kind::File, std::fs::read(&path).unwrap())
            };
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let (n_links, inode, mode) = (stat.nlink(), stat.ino(), stat.mode());
            seen.insert(
                name,
                Seen { kind, bytes: Arc::new(bytes), n_links, inode, mode, gid: None },
            );
        }
    }
    seen
}
