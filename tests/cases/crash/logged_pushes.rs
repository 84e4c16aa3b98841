//! Manifests in the write-ahead log: what was acknowledged of a push outlives every stop, whole; what was moved
//! or ended since does not come back; and who pushes the same at once agrees with himself after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Barrier, Mutex};

use cas::digest::Digest;
use cas::disk::sim::{Fault, SimDisk, Times};
use cas::disk::{Disk as _, RelPath};
use cas::layout::MemberKind;
use cas::workspace::{Name, Reference, RepositoryName, Tag};
use cas::{Error, Repository, Source, Store};

use super::fixture::{self, Artifact};
use super::world::default_workspace;
use super::{LOG, open, open_with};

const REPOSITORIES: [&str; 2] = ["one", "two/three"];
const TAGS: [&str; 2] = ["t", "u"];

/// What is done to the repository of that number with the artifact of that number.
#[derive(Clone, Copy, Debug)]
enum Step {
    Blobs(usize, usize),
    /// The manifest, under the tags whose bits are set.
    Push(usize, usize, usize),
    /// The same under one tag that may not move.
    Create(usize, usize, usize),
    /// By a draft, under that tag.
    Put(usize, usize, usize),
    DeleteTag(usize, usize),
    DeleteManifest(usize, usize),
    /// The blob that only this artifact needs.
    DeleteBlob(usize, usize),
    /// The same from the other repository.
    Mount(usize, usize),
    Retire(usize),
    Collect,
    Crowd(bool),
}
use Step::{
    Blobs, Collect, Create, Crowd, DeleteBlob, DeleteManifest, DeleteTag, Mount, Push, Put, Retire,
};

/// Bytes of a segment that takes many records, where [`LOG`] takes two.
const ROOMY: u64 = 16 * LOG;

/// Two images, of which one is about the other, and an index of images: the log is not for that one.
fn artifacts() -> Vec<Artifact> {
    let lone = fixture::lone();
    vec![fixture::referrer(&lone), lone, fixture::tree()]
}

fn repository(store: &Store, number: usize) -> Repository {
    store.repository(&default_workspace(), &REPOSITORIES[number].parse().unwrap())
}

fn tag(number: usize) -> Tag {
    TAGS[number].parse().unwrap()
}

/// The largest blob of an artifact, which nothing else needs.
fn own_blob(artifact: &Artifact) -> Digest {
    let blobs = artifact.members.iter().filter(|(claim, _)| !claim.is_manifest());
    blobs.max_by_key(|(claim, _)| claim.size).unwrap().0.digest
}

struct World {
    artifacts: Vec<Artifact>,
    store: Store,
    disk: SimDisk,
}

impl World {
    fn push(&self, at: usize, of: usize, tags: &[Tag], may_move: bool) -> Result<(), Error> {
        let artifact = &self.artifacts[of];
        let here = repository(&self.store, at);
        for part in artifact.members.iter().filter(|(claim, _)| claim.is_manifest()) {
            let is_root = part.0.digest == artifact.digest();
            let push = here.prepare(&part.0, part.1.clone())?;
            push.seal(if is_root { tags } else { &[] }, &|_| may_move)?;
        }
        Ok(())
    }

    fn act(&self, step: Step) -> Result<(), Error> {
        let (store, workspace) = (&self.store, default_workspace());
        match step {
            Blobs(at, of) => self.artifacts[of].take(&repository(store, at)),
            Push(at, of, bits) => {
                let tags: Vec<Tag> = (0..2).filter(|n| bits >> n & 1 == 1).map(tag).collect();
                self.push(at, of, &tags, true)
            }
            Create(at, of, number) => self.push(at, of, &[tag(number)], false),
            Put(at, of, number) => {
                let here: RepositoryName = REPOSITORIES[at].parse().unwrap();
                let names = [Name::new(&here, &tag(number))];
                self.artifacts[of].put(store, &workspace, &names).map(drop)
            }
            DeleteTag(at, number) => repository(store, at).delete_tag(&tag(number)),
            DeleteManifest(at, of) => {
                repository(store, at).delete_manifest(&self.artifacts[of].digest())
            }
            DeleteBlob(at, of) => repository(store, at).delete_blob(&own_blob(&self.artifacts[of])),
            Mount(at, of) => {
                let from = REPOSITORIES[1 - at].parse().unwrap();
                let mounted =
                    repository(store, at).mount(&own_blob(&self.artifacts[of]), Some(&from));
                mounted?.map(drop).ok_or(Error::NotFound { what: "a blob".to_owned() })
            }
            Retire(of) => store.retire(&workspace, &self.artifacts[of].digest()).map(drop),
            Collect => {
                store.end_leases(i128::MAX, false, &mut || {})?;
                store.retire_unlisted(false, &mut || {})?;
                store.gc(false, &mut || {}).map(drop)
            }
            Crowd(is_crowded) => {
                drop(self.disk.clone().with_crowd(is_crowded));
                Ok(())
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Tag(usize, usize),
    Listed(usize, usize),
    Held(usize),
    /// Of a blob that was told and that no artifact needs, nothing is said.
    Blob(usize, usize),
}

/// What may be there: for a tag the artifact, for all else 0, or nothing.
#[derive(Clone)]
struct Told(BTreeMap<Key, BTreeSet<Option<usize>>>);

impl Told {
    fn new() -> Told {
        Told(BTreeMap::new())
    }

    fn may_be(&self, key: Key) -> BTreeSet<Option<usize>> {
        self.0.get(&key).cloned().unwrap_or_else(|| BTreeSet::from([None]))
    }

    /// What is so since somebody was told, or may be so because nobody was.
    fn set(&mut self, key: Key, value: Option<usize>, is_told: bool) {
        let mut may_be = self.may_be(key);
        if is_told {
            may_be.clear();
        }
        may_be.insert(value);
        self.0.insert(key, may_be);
    }

    /// Tags that may lead to an artifact are gone, and its listing.
    fn unlist(&mut self, at: usize, of: usize, is_told: bool) {
        for number in 0..TAGS.len() {
            let key = Key::Tag(at, number);
            let mut may_be = self.may_be(key);
            if may_be.contains(&Some(of)) {
                if is_told {
                    may_be.remove(&Some(of));
                }
                may_be.insert(None);
                self.0.insert(key, may_be);
            }
        }
        self.set(Key::Listed(at, of), None, is_told);
    }

    fn note(&mut self, step: Step, answer: &Result<(), Error>) {
        let is_told = answer.is_ok();
        let is_gone = matches!(answer, Err(Error::NotFound { .. }));
        if let Err(Error::Needed { .. } | Error::Incomplete { .. } | Error::TagTaken { .. }) =
            answer
        {
            return;
        }
        match step {
            Push(at, of, bits) => self.pushed(at, of, bits, is_told),
            Create(at, of, number) => {
                let may_be = self.may_be(Key::Tag(at, number));
                let is_free = may_be.contains(&None) || may_be.contains(&Some(of));
                self.pushed(at, of, usize::from(is_free) << number, is_told);
            }
            Put(at, of, number) => self.pushed(at, of, 1 << number, is_told),
            DeleteTag(at, number) => self.set(Key::Tag(at, number), None, is_told || is_gone),
            DeleteManifest(at, of) => self.unlist(at, of, is_told || is_gone),
            DeleteBlob(at, of) => self.set(Key::Blob(at, of), None, is_told || is_gone),
            Blobs(at, of) => self.set(Key::Blob(at, of), Some(0), is_told),
            Mount(at, of) if !is_gone => self.set(Key::Blob(at, of), Some(0), is_told),
            Retire(of) => {
                for at in 0..REPOSITORIES.len() {
                    self.unlist(at, of, is_told);
                    // What only it needed is listed no more; what was lent before may be.
                    self.set(Key::Blob(at, of), None, false);
                }
                self.set(Key::Held(of), None, is_told || is_gone);
            }
            Collect => {
                // What is listed nowhere and was never put goes, and blobs that nothing needs.
                let keys: Vec<Key> = self.0.keys().copied().collect();
                for key in keys {
                    match key {
                        Key::Blob(..) | Key::Held(_) => self.set(key, None, false),
                        Key::Tag(..) | Key::Listed(..) => {}
                    }
                }
            }
            Mount(..) | Crowd(_) => {}
        }
    }

    fn pushed(&mut self, at: usize, of: usize, bits: usize, is_told: bool) {
        self.set(Key::Listed(at, of), Some(0), is_told);
        self.set(Key::Held(of), Some(0), is_told);
        self.set(Key::Blob(at, of), Some(0), is_told);
        for number in (0..TAGS.len()).filter(|number| bits >> number & 1 == 1) {
            self.set(Key::Tag(at, number), Some(of), is_told);
        }
    }

    fn judge(&self, disk: &SimDisk, artifacts: &[Artifact], place: &str) {
        let store = open(disk).unwrap_or_else(|error| panic!("{place}: {error}"));
        let found = |key: Key, value: Option<usize>| {
            let may_be = self.may_be(key);
            assert!(may_be.contains(&value), "{place}: {key:?} is {value:?}, not of {may_be:?}");
        };
        for at in 0..REPOSITORIES.len() {
            let here = repository(&store, at);
            for number in 0..TAGS.len() {
                let led = match here.manifest(&Reference::Tag(tag(number))) {
                    Ok(held) => Some(held.digest()),
                    Err(Error::NotFound { .. }) => None,
                    Err(error) => panic!("{place}: tag {number} of {at}: {error}"),
                };
                let of = led.map(|led| artifacts.iter().position(|a| a.digest() == led).unwrap());
                found(Key::Tag(at, number), of);
            }
            for (of, artifact) in artifacts.iter().enumerate() {
                let is_listed = look(here.manifest(&Reference::Digest(artifact.digest())), place);
                found(Key::Listed(at, of), is_listed);
                if is_listed.is_some() {
                    all_is_there(&store, &here, artifact, place);
                }
                let blob = here.blob(&own_blob(artifact)).and_then(|blob| blob.bytes());
                // A blob may be on its way whenever something is; what must be there is asked for.
                let is_there = look(blob, place);
                if is_there.is_none() {
                    found(Key::Blob(at, of), None);
                }
            }
        }
        for (of, artifact) in artifacts.iter().enumerate() {
            let sealed = store.sealed(&default_workspace(), &artifact.digest());
            found(Key::Held(of), look(sealed.and_then(|sealed| sealed.check()), place));
        }
    }
}

fn look<T>(found: Result<T, Error>, place: &str) -> Option<usize> {
    match found {
        Ok(_) => Some(0),
        Err(Error::NotFound { .. }) => None,
        Err(error) => panic!("{place}: {error}"),
    }
}

/// Whatever lists a manifest has all of it: in the repository, as a referrer, and as an artifact.
fn all_is_there(store: &Store, here: &Repository, artifact: &Artifact, place: &str) {
    for (kind, digest) in artifact.listing() {
        let read = match kind {
            MemberKind::Blob => here.blob(&digest).and_then(|blob| blob.bytes()),
            _ => here.manifest(&Reference::Digest(digest)).and_then(|held| held.bytes()),
        };
        assert!(read.is_ok(), "{place}: {digest} is not listed: {:?}", read.err());
    }
    if let Some(subject) = &artifact.subject {
        let (listed, _) = here.referrers(subject, None, None, 1 << 20).unwrap();
        let is_one = listed.iter().any(|referrer| referrer.digest == artifact.digest());
        assert!(is_one, "{place}: it is not among the referrers");
    }
    let sealed = store.sealed(&default_workspace(), &artifact.digest()).and_then(|s| s.check());
    assert!(sealed.is_ok(), "{place}: what is listed is no artifact: {:?}", sealed.err());
}

fn scripts() -> Vec<Vec<Step>> {
    let mut scripts = vec![
        vec![Blobs(0, 1), Push(0, 1, 1), Blobs(0, 0), Push(0, 0, 1), Push(0, 1, 2)],
        vec![Blobs(0, 1), Push(0, 1, 1), DeleteTag(0, 0), Push(0, 1, 3), DeleteManifest(0, 1)],
        vec![Blobs(0, 1), Push(0, 1, 1), Retire(1), Blobs(0, 1), Push(0, 1, 2), Retire(1)],
        vec![Blobs(0, 1), Push(0, 1, 1), Blobs(0, 0), Put(0, 0, 0), Put(0, 1, 1), Push(0, 0, 2)],
        vec![Blobs(0, 1), Create(0, 1, 0), Blobs(0, 0), Create(0, 0, 0), Push(0, 0, 1)],
        vec![Blobs(0, 1), Mount(1, 1), Blobs(1, 1), Push(1, 1, 1), DeleteBlob(0, 1), Collect],
        vec![Blobs(0, 1), Push(0, 1, 1), DeleteManifest(0, 1), DeleteBlob(0, 1), Collect],
        vec![Put(1, 1, 0), Blobs(0, 1), Push(0, 1, 1), Retire(1), Blobs(1, 1), Push(1, 1, 1)],
        vec![Blobs(0, 2), Push(0, 2, 1), Blobs(0, 1), Push(0, 1, 1), DeleteManifest(0, 2), Collect],
        vec![
            Blobs(0, 1),
            Push(0, 1, 1),
            Crowd(true),
            Put(0, 1, 1),
            DeleteTag(0, 0),
            Crowd(false),
            Blobs(1, 1),
            Push(1, 1, 1),
        ],
    ];
    // And what nobody thinks of.
    for seed in 0..if tests::is_long() { 40 } else { 6 } {
        let random = fixture::bytes(7_000 + seed, 40);
        let step = |bytes: &[u8]| {
            let (at, number) = (usize::from(bytes[1] & 1), usize::from(bytes[1] >> 1 & 1));
            let of = usize::from(bytes[2]) * 5 / 2 % 256 / 103;
            match bytes[0] % 16 {
                0..3 => vec![Blobs(at, of)],
                3..7 => vec![Blobs(at, of), Push(at, of, usize::from(bytes[3] & 3))],
                7 => vec![Blobs(at, of), Create(at, of, number)],
                8 => vec![Put(at, of, number)],
                9 => vec![DeleteTag(at, number)],
                10 => vec![DeleteManifest(at, of)],
                11 => vec![DeleteBlob(at, of)],
                12 => vec![Mount(at, of)],
                13 => vec![Retire(of)],
                14 => vec![Collect],
                _ => vec![Crowd(bytes[3] & 1 == 1)],
            }
        };
        scripts.push(random.chunks(4).take(8).flat_map(step).collect());
    }
    scripts
}

/// Each script, with its number, on a log that is emptied often and on one that is not.
fn on_each_log() -> impl Iterator<Item = (usize, Vec<Step>, u64)> {
    let numbered = scripts().into_iter().enumerate();
    numbered.flat_map(|(number, script)| [(number, script.clone(), LOG), (number, script, ROOMY)])
}

/// A store of which nobody was told anything, and which was stopped in peace.
fn fresh() -> SimDisk {
    let disk = SimDisk::new();
    open(&disk).unwrap().close();
    disk
}

#[test]
fn what_was_pushed_outlives_every_stop_and_what_was_ended_does_not_come_back() {
    let n_seeds = if tests::is_long() { 12 } else { 4 };
    let (fresh, artifacts) = (fresh(), artifacts());
    let mut n_states = 0;
    for (number, script, log) in on_each_log() {
        for call in 0.. {
            let disk = fresh.fork();
            let store = open_with(&disk, log).unwrap();
            disk.stop_after(disk.calls() + call);
            let world = World { artifacts: artifacts.clone(), store, disk: disk.clone() };
            let mut told = Told::new();
            let is_cut = script.iter().any(|step| {
                let answer = world.act(*step);
                told.note(*step, &answer);
                matches!(answer, Err(Error::Disk { .. }))
            });
            drop(world);
            let left = (0..n_seeds).map(|seed| disk.crash(seed)).chain([disk.fork()]);
            for (seed, left) in left.enumerate() {
                let place = format!("script {number} {script:?}, call {call}, state {seed}");
                told.judge(&left, &artifacts, &place);
                // What was found is durable, wherever it was found.
                told.judge(&left.crash(0), &artifacts, &format!("{place}, again"));
                n_states += 2;
            }
            if !is_cut {
                break;
            }
        }
    }
    super::say(&format!("measured: {n_states} stops of what the log holds of pushes"));
}

/// One call fails, perhaps a sync, and then the power: nothing that was acknowledged before or after is lost.
#[test]
fn a_call_that_fails_loses_nothing_of_a_push() {
    let (fresh, artifacts) = (fresh(), artifacts());
    for (number, script, log) in on_each_log() {
        for call in 0.. {
            let disk = fresh.fork();
            let store = open_with(&disk, log).unwrap();
            disk.fail(disk.calls() + call, Fault::Io, Times::Once);
            let world = World { artifacts: artifacts.clone(), store, disk: disk.clone() };
            let mut told = Told::new();
            for step in &script {
                told.note(*step, &world.act(*step));
            }
            drop(world);
            let place = format!("script {number} {script:?}, call {call} fails");
            for (seed, left) in (0..3).map(|seed| disk.crash(seed)).chain([disk.fork()]).enumerate()
            {
                told.judge(&left, &artifacts, &format!("{place}, state {seed}"));
            }
            if !disk.failed() {
                break;
            }
        }
    }
}

/// That it is the log which all of this is about.
#[test]
fn a_small_push_syncs_the_log_and_nothing_else() {
    let (disk, artifact) = (fresh(), fixture::lone());
    let store = open_with(&disk, ROOMY).unwrap();
    let here = repository(&store, 0);
    artifact.take(&here).unwrap();
    disk.start_trace();
    artifact.push(&here, &["t"]).unwrap();
    let syncs: Vec<String> = disk.trace().into_iter().filter(|l| l.contains("sync")).collect();
    assert!(syncs.len() == 1 && syncs[0].contains("sync inode"), "{syncs:?}");
    // What is there already is sealed by the other way.
    disk.start_trace();
    artifact.push(&here, &["u"]).unwrap();
    assert!(disk.trace().iter().any(|line| line.contains("sync_all")), "{:?}", disk.trace());
}

/// Who pushed when, under a tag that all use.
#[derive(Clone, Copy)]
struct Turn {
    begun: u64,
    /// Nothing when nobody was told.
    ended: Option<u64>,
    of: usize,
}

/// Several at once, with artifacts of their own under tags of their own, with one artifact that all push, and
/// with tags that all push to, until the power goes; in half of the rounds one call fails before, and in some
/// the power goes when all is done.
#[test]
fn at_once_they_agree_with_themselves_after_a_crash() {
    const N_THREADS: usize = 3;
    let n_rounds = if tests::is_long() { 4_000 } else { 200 };
    let common = fixture::lone();
    let own: Vec<Artifact> =
        (0..2 * N_THREADS as u64).map(|n| fixture::referrer(&fixture::file(n % 6))).collect();
    let all: Vec<Artifact> = own.iter().chain([&common]).cloned().collect();
    let clock = AtomicU64::new(0);
    let now = || clock.fetch_add(1, Ordering::SeqCst);
    for round in 0..n_rounds {
        let random = fixture::bytes(31_000 + round, 80);
        let disk = SimDisk::new();
        let store = open_with(&disk, if round % 4 < 2 { LOG } else { ROOMY }).unwrap();
        let here = repository(&store, 0);
        common.take(&here).unwrap();
        let n_calls = 60 + u64::from(random[0]) * 4;
        let is_quiet = round % 8 == 2;
        if !is_quiet {
            disk.stop_after(disk.calls() + n_calls);
        }
        if round % 2 == 1 {
            disk.fail(disk.calls() + u64::from(random[1]) * n_calls / 256, Fault::Io, Times::Once);
        }
        let turns = Mutex::new(Vec::<Turn>::new());
        let created = Mutex::new(Vec::<(usize, bool)>::new());
        let told: Vec<Mutex<BTreeSet<Option<usize>>>> =
            (0..N_THREADS).map(|_| Mutex::new(BTreeSet::from([None]))).collect();
        std::thread::scope(|scope| {
            for me in 0..N_THREADS {
                let (here, all, random) = (&here, &all, &random[2 + 20 * me..][..20]);
                let (turns, created, told, now) = (&turns, &created, &told, &now);
                scope.spawn(move || {
                    for byte in random {
                        let of = match byte % 3 {
                            2 => all.len() - 1,
                            n => 2 * me + usize::from(n),
                        };
                        let mine = format!("mine-{me}");
                        let taken = all[of].take(here);
                        let value = match byte / 3 % 5 {
                            4 => None,
                            _ => Some(of),
                        };
                        match byte / 15 % 4 {
                            _ if taken.is_err() => {}
                            0 => {
                                let begun = now();
                                let pushed = all[of].push(here, &["shared"]);
                                let ended = pushed.is_ok().then(now);
                                turns.lock().unwrap().push(Turn { begun, ended, of });
                            }
                            1 => {
                                let pushed = create(here, &all[of], "once");
                                if !matches!(pushed, Err(Error::TagTaken { .. })) {
                                    created.lock().unwrap().push((of, pushed.is_ok()));
                                }
                            }
                            _ => {
                                let answer = match value {
                                    Some(of) => all[of].push(here, &[&mine]).map(drop),
                                    None => here.delete_tag(&mine.parse().unwrap()),
                                };
                                let is_gone = matches!(answer, Err(Error::NotFound { .. }));
                                let mut told = told[me].lock().unwrap();
                                if answer.is_ok() || is_gone {
                                    told.clear();
                                }
                                told.insert(value);
                            }
                        }
                    }
                });
            }
        });
        let led = |here: &Repository, tag: &str, place: &str| match here
            .manifest(&Reference::Tag(tag.parse().unwrap()))
        {
            Ok(held) => all.iter().position(|artifact| artifact.digest() == held.digest()),
            Err(Error::NotFound { .. }) => None,
            Err(error) => panic!("{place}: {tag}: {error}"),
        };
        // Everybody has been answered: what is seen now is what must be seen later.
        let place = format!("round {round}");
        let seen = is_quiet.then(|| led(&here, "shared", &place));
        drop((here, store));
        for seed in 0..6 {
            let place = format!("round {round}, state {seed}");
            let store = open(&disk.crash(seed)).unwrap();
            let here = repository(&store, 0);
            let led = |tag: &str| led(&here, tag, &place);
            assert!(seen.is_none_or(|seen| led("shared") == seen), "{place}: it was {seen:?}");
            for (me, told) in told.iter().enumerate() {
                let (led, told) = (led(&format!("mine-{me}")), told.lock().unwrap());
                assert!(told.contains(&led), "{place}: tag {me} leads to {led:?}, not {told:?}");
            }
            let turns = turns.lock().unwrap();
            is_one_of_the_last(&turns, led("shared"), &place);
            let created = created.lock().unwrap();
            let told: BTreeSet<usize> =
                created.iter().filter(|(_, is_told)| *is_told).map(|(of, _)| *of).collect();
            let once = led("once");
            assert!(told.len() < 2, "{place}: created twice: {told:?}");
            match told.first() {
                Some(of) => assert_eq!(once, Some(*of), "{place}: what was created is another"),
                None => assert!(
                    once.is_none_or(|once| created.iter().any(|(of, _)| *of == once)),
                    "{place}"
                ),
            }
            for artifact in &all {
                if here.manifest(&Reference::Digest(artifact.digest())).is_ok() {
                    all_is_there(&store, &here, artifact, &place);
                }
            }
        }
    }
}

fn create(here: &Repository, artifact: &Artifact, tag: &str) -> Result<(), Error> {
    let push = here.prepare(&artifact.root, artifact.manifest().to_vec())?;
    push.seal(&[tag.parse().unwrap()], &|_| false).map(drop)
}

/// A tag leads to where somebody moved it, and nobody else after him.
fn is_one_of_the_last(turns: &[Turn], led: Option<usize>, place: &str) {
    let told_after = |moved: &Turn| {
        let end = moved.ended.unwrap_or(u64::MAX);
        turns.iter().any(|later| later.ended.is_some() && later.begun > end)
    };
    match led {
        None => assert!(turns.iter().all(|turn| turn.ended.is_none()), "{place}: the tag is lost"),
        Some(led) => assert!(
            turns.iter().any(|turn| turn.of == led && !told_after(turn)),
            "{place}: the tag leads to {led}, which was long ago"
        ),
    }
}

#[test]
fn what_judges_here_refuses_what_is_wrong() {
    let (fresh, artifacts) = (fresh(), artifacts());
    let store = open(&fresh).unwrap();
    let world = World { artifacts: artifacts.clone(), store, disk: fresh.clone() };
    world.act(Blobs(0, 1)).and_then(|()| world.act(Push(0, 1, 1))).unwrap();
    drop(world);
    let judged = |told: &Told| {
        let judge = std::panic::AssertUnwindSafe(|| told.judge(&fresh.fork(), &artifacts, "here"));
        std::panic::catch_unwind(judge).is_ok()
    };
    let mut told = Told::new();
    assert!(!judged(&told));
    told.pushed(0, 1, 1, true);
    assert!(judged(&told));
    told.set(Key::Tag(0, 0), None, true);
    assert!(!judged(&told));
    let turn = |begun, ended, of| Turn { begun, ended, of };
    is_one_of_the_last(&[turn(0, Some(1), 5), turn(2, None, 6)], Some(5), "");
    let late = [turn(0, Some(1), 5), turn(2, Some(3), 6)];
    let refused = std::panic::catch_unwind(|| is_one_of_the_last(&late, Some(5), ""));
    assert!(refused.is_err());
}

/// A store with what an artifact reaches, in a repository, and an empty log.
fn blobs_are_there(artifact: &Artifact, at: usize) -> SimDisk {
    let disk = fresh();
    let store = open(&disk).unwrap();
    artifact.take(&repository(&store, at)).unwrap();
    store.close();
    disk
}

/// A mount that failed may be listed, and not be after a crash: the log must not rest on it.
#[test]
fn what_a_push_rests_on_is_durable_without_the_log() {
    let artifact = fixture::lone();
    let layer = &artifact.members[1];
    let before = blobs_are_there(&artifact, 0);
    let mut n_pushed = 0;
    for call in 0.. {
        let disk = before.fork();
        let store = open(&disk).unwrap();
        let (from, here) = (repository(&store, 0), repository(&store, 1));
        fixture::take(&here, &layer.1).unwrap();
        disk.fail(disk.calls() + call, Fault::Io, Times::Once);
        let is_mounted = here.mount(&artifact.members[0].0.digest, Some(from.name())).is_ok();
        if artifact.push(&here, &["t"]).is_err() {
            continue;
        }
        n_pushed += usize::from(!is_mounted);
        drop((from, here, store));
        for seed in 0..8 {
            let store = open(&disk.crash(seed)).unwrap();
            let place = format!("call {call} fails, state {seed}");
            all_is_there(&store, &repository(&store, 1), &artifact, &place);
        }
        if !disk.failed() {
            break;
        }
    }
    assert!(n_pushed > 0);
}

/// Has something happen in a store, and then something else, in which a sync of everything fails, each that
/// there is.
fn at_each_failed_sync<T>(
    before: &SimDisk,
    prepare: impl Fn(&Store) -> T,
    fail: impl Fn(&Store) -> Result<(), Error>,
    test: impl Fn(&SimDisk, Store, T),
) {
    let mut n_syncs = 0;
    for call in 0.. {
        let disk = before.fork();
        let store = open(&disk).unwrap();
        let prepared = prepare(&store);
        disk.start_trace();
        let number = disk.calls() + call;
        disk.fail(number, Fault::Io, Times::Once);
        let _ = fail(&store);
        if !disk.failed() {
            break;
        }
        if disk.trace().iter().any(|line| line.starts_with(&format!("{number} sync_all"))) {
            n_syncs += 1;
            test(&disk, store, prepared);
        }
    }
    assert!(n_syncs > 0);
}

/// Takes a blob that nobody needs and ends it, so that the log is emptied.
fn empty_the_log(store: &Store) {
    let (here, bytes) = (repository(store, 1), fixture::bytes(3, 800));
    fixture::take(&here, &bytes).unwrap();
    here.delete_blob(&Digest::of(&bytes)).unwrap();
}

/// Between finding what a manifest reaches and sealing it a sync fails, and what the log had is written anew:
/// the push holds files that may never come to the disk.
#[test]
fn a_push_does_not_rest_on_what_a_failed_sync_took_from_it() {
    let artifact = fixture::lone();
    let prepare = |store: &Store| {
        let here = repository(store, 0);
        artifact.take(&here).unwrap();
        here.prepare(&artifact.root, artifact.manifest().to_vec()).unwrap()
    };
    let put = |store: &Store| fixture::tree().put(store, &default_workspace(), &[]).map(drop);
    at_each_failed_sync(&fresh(), prepare, put, |disk, store, push| {
        empty_the_log(&store);
        let pushed = push.seal(&["t".parse().unwrap()], &|_| true);
        let is_pushed = pushed.is_ok();
        drop(pushed);
        store.close();
        let store = open(&disk.crash(0)).unwrap();
        if is_pushed {
            all_is_there(&store, &repository(&store, 0), &artifact, "it was pushed");
        }
    });
}

/// What the log makes again is what was there, name by name, and shares what was shared.
#[test]
fn what_is_done_again_is_what_was_done() {
    let shape = |disk: &SimDisk| {
        let mut seen = disk.snapshot();
        seen.retain(|path, _| !path.starts_with("wal") && path != "reserve" && path != "lock");
        let mut first = BTreeMap::new();
        for (path, seen) in &seen {
            first.entry(seen.inode).or_insert_with(|| path.clone());
        }
        let told = seen.into_iter().map(|(path, seen)| {
            let file = first[&seen.inode].clone();
            (path, (seen.kind, seen.bytes, seen.n_links, seen.mode, file))
        });
        told.collect::<BTreeMap<_, _>>()
    };
    for artifact in [fixture::lone(), fixture::referrer(&fixture::lone())] {
        let disk = fresh();
        let store = open_with(&disk, ROOMY).unwrap();
        let here = repository(&store, 0);
        artifact.take(&here).unwrap();
        artifact.push(&here, &["t", "u"]).unwrap();
        drop(here);
        let cut = disk.crash(0);
        store.close();
        open(&cut).unwrap().close();
        let (left, done_again) = (shape(&disk), shape(&cut));
        assert!(left.keys().eq(done_again.keys()), "{left:#?}\n{done_again:#?}");
        for (path, left) in left {
            assert_eq!(left, done_again[&path], "{path}");
        }
        // It is held by its listing alone, as it was.
        let store = open(&cut).unwrap();
        repository(&store, 0).delete_manifest(&artifact.digest()).unwrap();
        assert_eq!(store.retire_unlisted(false, &mut || {}).unwrap(), 1);
    }
}

/// A sync failed before the process was killed: what reads well is not believed.
#[test]
fn what_a_failed_sync_lost_and_a_killed_process_left_is_sealed_anew() {
    let (disk, artifact) = (fresh(), fixture::lone());
    let store = open_with(&disk, ROOMY).unwrap();
    artifact.take(&repository(&store, 0)).unwrap();
    artifact.push(&repository(&store, 0), &["t"]).unwrap();
    disk.fail(disk.calls(), Fault::Io, Times::Once);
    assert!(disk.sync_all().is_err());
    let killed = disk.fork();
    for disk in [killed.clone(), killed.crash(0)] {
        let store = open(&disk).unwrap();
        all_is_there(&store, &repository(&store, 0), &artifact, "after the kill");
        drop(store);
        let store = open(&disk.crash(0)).unwrap();
        all_is_there(&store, &repository(&store, 0), &artifact, "after the power");
    }
}

/// The kernel dropped a tag that moved twice since the log was empty, and somebody empties it.
#[test]
fn a_tag_that_a_failed_sync_lost_leads_to_where_it_led_last() {
    let (first, last) = (fixture::lone(), fixture::referrer(&fixture::lone()));
    let before = blobs_are_there(&first, 0);
    let store = open(&before).unwrap();
    last.take(&repository(&store, 0)).unwrap();
    store.close();
    let prepare = |store: &Store| {
        let (here, bytes) = (repository(store, 0), fixture::bytes(1, 700));
        first.push(&here, &["t"]).unwrap();
        fixture::take(&here, &bytes).unwrap();
    };
    // The first segment is full, and after this push it is to be emptied.
    let push = |store: &Store| last.push(&repository(store, 0), &["t"]).map(drop);
    at_each_failed_sync(&before, prepare, push, |disk, store, ()| {
        let here = repository(&store, 0);
        let folder = cas::layout::tags(&default_workspace(), here.name());
        disk.corrupt(&folder.join("t"), 9).unwrap();
        empty_the_log(&store);
        drop((here, store));
        for disk in [disk.fork(), disk.crash(0)] {
            let store = open(&disk).unwrap();
            let tag = Reference::Tag("t".parse().unwrap());
            let led = repository(&store, 0).manifest(&tag).unwrap();
            assert_eq!(led.digest(), last.digest());
        }
    });
}

/// Pushes and puts at once under one tag: where it leads when all were answered, there it leads after a crash.
#[test]
fn a_tag_that_many_move_at_once_does_not_move_back() {
    const N_THREADS: usize = 3;
    let n_rounds = if tests::is_long() { 2_000 } else { 100 };
    let about = |n: u8| {
        let mut subject = fixture::lone();
        subject.root.digest = Digest::of(&[n]);
        fixture::referrer(&subject)
    };
    let all: Vec<Artifact> = (0..12).map(about).collect();
    let before = blobs_are_there(&all[0], 0);
    for round in 0..n_rounds {
        let disk = before.fork();
        let store = open_with(&disk, ROOMY).unwrap();
        let here = repository(&store, 0);
        let names = [Name::new(here.name(), &tag(0))];
        let start = Barrier::new(N_THREADS);
        std::thread::scope(|scope| {
            for mine in all.chunks(all.len() / N_THREADS) {
                let (store, here, names, start) = (&store, &here, &names, &start);
                scope.spawn(move || {
                    for (number, artifact) in mine.iter().enumerate() {
                        start.wait();
                        match round % 4 == 3 && number % 2 == 1 {
                            true => drop(artifact.put(store, &default_workspace(), names).unwrap()),
                            false => drop(artifact.push(here, &[TAGS[0]]).unwrap()),
                        }
                    }
                });
            }
        });
        let led = |here: &Repository| here.manifest(&Reference::Tag(tag(0))).unwrap().digest();
        let seen = led(&here);
        drop((here, store));
        let store = open(&disk.crash(0)).unwrap();
        assert_eq!(led(&repository(&store, 0)), seen, "round {round}");
    }
}

/// A manifest that the log still has is whole after a crash or gone, also where deleting it failed halfway, and
/// what it needs is on its way out.
#[test]
fn what_a_delete_that_failed_left_is_not_taken_apart() {
    type End = fn(&Store, &Artifact) -> Result<(), Error>;
    let ends: [(&str, End); 3] = [
        ("a delete", |store, artifact| repository(store, 0).delete_blob(&own_blob(artifact))),
        ("leases", |store, _| store.end_leases(i128::MAX, false, &mut || {}).map(drop)),
        ("a retire", |store, artifact| {
            store.retire(&default_workspace(), &artifact.digest()).map(drop)
        }),
    ];
    for (ending, end) in ends {
        taken_apart(ending, end);
    }
}

fn taken_apart(ending: &str, end: impl Fn(&Store, &Artifact) -> Result<(), Error>) {
    let artifact = fixture::lone();
    let before = blobs_are_there(&artifact, 0);
    let mut n_failed = 0;
    'fails: for call in 0.. {
        for stop in 0.. {
            let disk = before.fork();
            let store = open_with(&disk, ROOMY).unwrap();
            let here = repository(&store, 0);
            artifact.push(&here, &["t"]).unwrap();
            disk.fail(disk.calls() + call, Fault::Io, Times::Once);
            if here.delete_manifest(&artifact.digest()).is_ok() {
                match disk.failed() {
                    true => continue 'fails,
                    false => break 'fails,
                }
            }
            let cut = disk.calls() + stop;
            disk.stop_after(cut);
            // It may be refused because of what failed before.
            let _ = end(&store, &artifact);
            let is_over = disk.calls() < cut;
            n_failed += 1;
            drop((here, store));
            for seed in 0..6 {
                let store = open(&disk.crash(seed)).unwrap();
                let here = repository(&store, 0);
                if here.manifest(&Reference::Digest(artifact.digest())).is_ok() {
                    let place = format!("{ending}: call {call} fails, cut at {stop}, state {seed}");
                    all_is_there(&store, &here, &artifact, &place);
                }
            }
            if is_over {
                break;
            }
        }
    }
    assert!(n_failed > 0);
}

/// Bytes of a client stand in the log, and stay there when it is emptied: none of them is a record, whatever the
/// client knows of the log's form, and if it knew all of the last use but not of this one.
#[test]
fn what_a_client_wrote_is_not_done_again() {
    const PAGE: usize = 4096;
    let artifact = fixture::lone();
    let disk = blobs_are_there(&artifact, 1);
    let store = open_with(&disk, ROOMY).unwrap();
    let here = repository(&store, 0);
    let log = || disk.files()["wal/0"].bytes.clone();
    let take = |bytes: &[u8]| fixture::take(&here, bytes).unwrap();
    let line_at = |at: usize| log()[at..].split(|byte| *byte == b'\n').next().unwrap().to_vec();
    let checked = |line: &serde_json::Value| {
        let line = serde_json::to_string(line).unwrap();
        format!("{line}\n{}\n", &Digest::of(line.as_bytes()).hex()[..16])
    };
    take(b"the first one says what a record looks like");
    let mut line: serde_json::Value = serde_json::from_slice(&line_at(0)).unwrap();
    line["digest"] = serde_json::json!(artifact.digest());
    line["size"] = serde_json::json!(artifact.manifest().len());
    line["repository"] = serde_json::json!(REPOSITORIES[1]);
    line["tags"] = serde_json::json!(["forged"]);
    let generation = line["generation"].as_u64().unwrap();
    line["generation"] = serde_json::json!(generation + 1);
    let mut record = checked(&line).into_bytes();
    record.extend_from_slice(artifact.manifest());
    record.resize(PAGE, 0);
    // Where the blob's bytes begin, every one of its own line is known but for the length of its size.
    let mut own: serde_json::Value = serde_json::from_slice(&line_at(0)).unwrap();
    own["size"] = serde_json::json!(2 * PAGE);
    let mut evil = vec![b'.'; PAGE - checked(&own).len()];
    evil.extend_from_slice(&record);
    take(&evil);
    assert!(log()[2 * PAGE..3 * PAGE] == record, "it does not begin at a page");
    here.delete_blob(&Digest::of(&evil)).unwrap();
    take(b"the second use");
    take(b"of the segment");
    assert!(log()[2 * PAGE..3 * PAGE] == record, "it was written over");
    let used: serde_json::Value = serde_json::from_slice(&line_at(PAGE)).unwrap();
    assert_eq!(used["generation"], line["generation"]);
    drop(here);
    drop(store);
    let store = open(&disk.crash(0)).unwrap();
    let forged = Reference::Tag("forged".parse().unwrap());
    assert!(matches!(repository(&store, 1).manifest(&forged), Err(Error::NotFound { .. })));
}

/// What was healed since the record was written stays healed, though the member that the record rests on is rotten.
#[test]
fn a_layout_that_was_healed_is_not_led_back_to_a_rotten_member() {
    let artifact = fixture::lone();
    let (claim, layer) = &artifact.members[1];
    let disk = blobs_are_there(&artifact, 0);
    let store = open_with(&disk, ROOMY).unwrap();
    let (here, there) = (repository(&store, 0), repository(&store, 1));
    artifact.push(&here, &["t"]).unwrap();
    disk.corrupt(&cas::layout::Pool::Shared.blob(&claim.digest), 5).unwrap();
    let check = |store: &Store| {
        store.sealed(&default_workspace(), &artifact.digest()).and_then(|sealed| sealed.check())
    };
    assert!(matches!(check(&store), Err(Error::Corrupt { .. })));
    // By an upload, so that the log knows nothing of it.
    let id = super::uploads::id(1);
    let mut upload = there.upload(id, "uid 7", cas::digest::Algorithm::Sha256);
    upload.append(Source::Stream(&mut layer.as_slice())).unwrap();
    upload.commit(&claim.digest).unwrap();
    assert!(check(&store).is_ok());
    drop((here, there, store, upload));
    let place = cas::layout::artifact(&default_workspace(), &artifact.digest());
    let healed = cas::layout::blob_in(&place, &claim.digest).to_string();
    for disk in [disk.fork(), disk.crash(1)] {
        let store = open(&disk).unwrap();
        assert!(*disk.files()[&healed].bytes == *layer);
        assert!(check(&store).is_ok());
    }
}

/// Whatever stands where the log is to make something makes way, and a start does not fail of it.
#[test]
fn what_is_in_the_way_of_the_log_makes_way() {
    let artifact = fixture::lone();
    let disk = blobs_are_there(&artifact, 0);
    let store = open_with(&disk, ROOMY).unwrap();
    artifact.push(&repository(&store, 0), &["t"]).unwrap();
    drop(store);
    let place = cas::layout::artifact(&default_workspace(), &artifact.digest());
    let here: RepositoryName = REPOSITORIES[0].parse().unwrap();
    let tag = cas::layout::tags(&default_workspace(), &here).join("t");
    let is_whole = |disk: &SimDisk| {
        let store = open(disk).unwrap();
        all_is_there(&store, &repository(&store, 0), &artifact, "what was in the way");
        let led = repository(&store, 0).manifest(&Reference::Tag("t".parse().unwrap())).unwrap();
        assert_eq!(led.digest(), artifact.digest());
    };
    let with = |change: &dyn Fn(&SimDisk)| {
        let left = disk.crash(0);
        change(&left);
        is_whole(&left);
    };
    let file = |disk: &SimDisk, path: &RelPath| {
        drop(disk.create(path, cas::disk::Create::Buffered).unwrap())
    };
    with(&|_| {});
    with(&|disk| file(disk, &place));
    with(&|disk| {
        disk.make_dir(&place, 0o755).unwrap();
        file(disk, &place.join(cas::layout::BLOBS));
    });
    with(&|disk| {
        disk.make_dir(&place, 0o755).unwrap();
        disk.make_dir(&place.join(cas::layout::INDEX_FILE), 0o755).unwrap();
    });
    with(&|disk| {
        let folder = cas::layout::tags(&default_workspace(), &here);
        for folder in [&folder, &tag] {
            disk.make_dir(folder, 0o700).unwrap();
        }
    });
}

/// A failed sync took a tag that may not move, and the page is gone from memory: it is what it was.
#[test]
fn a_tag_that_may_not_move_does_not_move_because_a_sync_failed() {
    let (artifact, other) = (fixture::lone(), fixture::referrer(&fixture::lone()));
    let before = blobs_are_there(&artifact, 0);
    let store = open(&before).unwrap();
    other.take(&repository(&store, 0)).unwrap();
    store.close();
    let prepare = |store: &Store| create(&repository(store, 0), &artifact, "once").unwrap();
    let put = |store: &Store| fixture::tree().put(store, &default_workspace(), &[]).map(drop);
    at_each_failed_sync(&before, prepare, put, |disk, store, ()| {
        let here = repository(&store, 0);
        let folder = cas::layout::tags(&default_workspace(), here.name());
        disk.corrupt(&folder.join("once"), 3).unwrap();
        let again = create(&here, &other, "once");
        assert!(matches!(again, Err(Error::TagTaken { .. })), "{again:?}");
        let led = here.manifest(&Reference::Tag("once".parse().unwrap())).unwrap();
        assert_eq!(led.digest(), artifact.digest());
    });
    // The same to who reads it, and the fixed files of the layout.
    at_each_failed_sync(&before, prepare, put, |disk, store, ()| {
        let here = repository(&store, 0);
        let folder = cas::layout::tags(&default_workspace(), here.name());
        disk.corrupt(&folder.join("once"), 3).unwrap();
        let led = here.manifest(&Reference::Tag("once".parse().unwrap())).unwrap();
        assert_eq!(led.digest(), artifact.digest());
    });
    at_each_failed_sync(&before, prepare, put, |disk, store, ()| {
        let sealed = store.sealed(&default_workspace(), &artifact.digest()).unwrap();
        disk.corrupt(&sealed.path().join(cas::layout::INDEX_FILE), 3).unwrap();
        assert!(sealed.check().is_ok());
    });
}

/// A retire that the power cuts off leaves what the log had whole or gone; and what a delete ended and could not
/// say is said, and durable, by whoever is told that it is not there.
#[test]
fn what_was_ended_in_part_is_there_or_gone() {
    let artifact = fixture::lone();
    let before = blobs_are_there(&artifact, 0);
    let pushed = || {
        let disk = before.fork();
        let store = open_with(&disk, ROOMY).unwrap();
        artifact.push(&repository(&store, 0), &["t"]).unwrap();
        (disk, store)
    };
    for call in 0.. {
        let (disk, store) = pushed();
        disk.stop_after(disk.calls() + call);
        let retired = store.retire(&default_workspace(), &artifact.digest());
        drop(store);
        for seed in 0..24 {
            let store = open(&disk.crash(seed)).unwrap();
            let here = repository(&store, 0);
            if here.manifest(&Reference::Digest(artifact.digest())).is_ok() {
                let place = format!("cut at {call}, state {seed}");
                assert!(retired.is_err(), "{place}");
                all_is_there(&store, &here, &artifact, &place);
            }
        }
        if retired.is_ok() {
            break;
        }
    }
    for (call, is_logged) in (0..).flat_map(|call| [(call, true), (call, false)]) {
        let (disk, mut store) = pushed();
        if !is_logged {
            store.close();
            store = open(&disk).unwrap();
        }
        let here = repository(&store, 0);
        disk.fail(disk.calls() + call, Fault::Io, Times::Once);
        let deleted = here.delete_manifest(&artifact.digest());
        let told = here.delete_tag(&"t".parse().unwrap());
        drop((here, store));
        let store = open(&disk.crash(0)).unwrap();
        let led = repository(&store, 0).manifest(&Reference::Tag("t".parse().unwrap()));
        match (deleted, told) {
            (Ok(()), _) | (_, Ok(()) | Err(Error::NotFound { .. })) => {
                assert!(matches!(led, Err(Error::NotFound { .. })), "call {call} fails");
            }
            _ => {}
        }
        if !is_logged && !disk.failed() {
            break;
        }
    }
    for call in 0.. {
        let (disk, store) = pushed();
        disk.fail(disk.calls() + call, Fault::Io, Times::Once);
        let _ = store.retire(&default_workspace(), &artifact.digest());
        let told = store.retire(&default_workspace(), &artifact.digest());
        drop(store);
        let store = open(&disk.crash(0)).unwrap();
        if matches!(told, Ok(_) | Err(Error::NotFound { .. })) {
            let sealed = store.sealed(&default_workspace(), &artifact.digest());
            assert!(matches!(sealed, Err(Error::NotFound { .. })), "call {call} fails");
        }
        if !disk.failed() {
            break;
        }
    }
}
