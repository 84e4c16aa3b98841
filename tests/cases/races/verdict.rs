//! Whether what a round left is legal: every answer is right in some order, what is there is
//! whole and shared as it should be, and nothing else is there.
//!
//! The store's own check is never the only witness: layouts are also compared byte by byte with
//! what was put, past the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use cas::digest::Digest;
use cas::disk::Kind;
use cas::disk::sim::{Seen, SimDisk};
use cas::layout;
use cas::{Error, Store};

use super::model::{Answer, Event, There, What, is_legal};
use super::plan::{self, Key, N_KEYS, N_NAMES, Op, Plan, SHARING, keys, names};
use super::round::{self, Ended};

pub(crate) type Verdict = Result<(), String>;

/// Everything below the store's root.
pub(crate) type Snapshot = BTreeMap<String, Seen>;

/// The round has ended and the process lives on.
pub(crate) fn judge(plan: &Plan, ended: &mut Ended, snapshot: &dyn Fn() -> Snapshot) -> Verdict {
    answered(&ended.events)?;
    let seen = snapshot();
    if let Some((path, _)) = seen.range("staging/".to_owned()..).next()
        && path.starts_with("staging/")
    {
        return Err(format!("{path} is left over"));
    }
    let there = look(plan, &seen)?;
    note_look(ended, &there);
    listed(&ended.store, &there)?;
    let held: Vec<Key> = (0..N_KEYS).filter(|key| there.held[*key]).collect();
    // Whatever was told by a first check, a second one knows of, and so does one after a gc.
    for round in 0..3 {
        if round == 2 {
            note(plan, ended, Op::Gc);
        }
        for key in &held {
            note(plan, ended, Op::Check(*key));
        }
    }
    answered(&ended.events)?;
    if !is_legal(plan, &ended.events, false) {
        return Err("there is no order in which these answers are right".to_owned());
    }
    let n_last = ended.events.len() - held.len();
    let damaged = ended.events[n_last..].iter().zip(&held);
    let damaged = damaged.filter(|(event, _)| event.answer == Answer::Corrupt);
    let damaged: Vec<Key> = damaged.map(|(_, key)| *key).collect();
    tidy(plan, &snapshot(), &there, &damaged, &Half::default())
}

/// The power went, or the process was killed, and this is the disk that it left.
pub(crate) fn judge_crash(plan: &Plan, events: &[Event], disk: &SimDisk) -> Verdict {
    let opened = Store::open(std::sync::Arc::new(disk.clone()), round::options());
    let store = opened.map_err(|error| format!("the store does not open: {error}"))?;
    let there = look(plan, &disk.snapshot())?;
    listed(&store, &there)?;
    let mut events = events.to_vec();
    events.push(Event {
        thread: plan.threads.len(),
        what: What::Look(there.clone()),
        answer: Answer::Done,
        begun: u64::MAX - 1,
        ended: u64::MAX,
    });
    if !is_legal(plan, &events, true) {
        return Err(format!("what was acknowledged cannot have left {}", show(&there)));
    }
    let clock = std::sync::atomic::AtomicU64::new(0);
    let mut damaged = Vec::new();
    for round in 0..3 {
        damaged.clear();
        if round == 2 {
            let leases = store.end_leases(i128::MAX, false, &mut || {});
            leases.map_err(|error| format!("ending leases: {error}"))?;
            store.gc(false, &mut || {}).map_err(|error| format!("gc: {error}"))?;
        }
        for key in (0..N_KEYS).filter(|key| there.held[*key]) {
            match round::observe_after(&store, plan, Op::Check(key), &clock).answer {
                Answer::Done => {}
                Answer::Corrupt => damaged.push(key),
                answer => return Err(format!("after the crash, checking {key}: {answer:?}")),
            }
        }
    }
    let is_put = |key: Key| {
        let put = |event: &Event| matches!(event.what, What::Op(Op::Put(put, _)) if put == key);
        events.iter().any(|event| put(event) && event.answer == Answer::Done)
    };
    if let Some(key) = damaged.iter().find(|key| is_put(**key)) {
        return Err(format!("good bytes of {key} were put, and after the crash it is damaged"));
    }
    // A healing that was not acknowledged may have reached the layout and not yet `blobs/`.
    let is_half = events.iter().any(|event| event.answer == Answer::Unknown);
    let half = Half { heals: plan.rots && is_half, puts: half_put(plan, &events) };
    tidy(plan, &disk.snapshot(), &there, &damaged, &half)
}

fn note_look(ended: &mut Ended, there: &There) {
    let at = ended.clock.fetch_add(1, Ordering::SeqCst);
    let what = What::Look(there.clone());
    ended.events.push(Event { thread: 9, what, answer: Answer::Done, begun: at, ended: at });
}

fn note(plan: &Plan, ended: &mut Ended, op: Op) {
    let event = round::observe_after(&ended.store, plan, op, &ended.clock);
    ended.events.push(event);
}

/// No answer is one that may never be given.
fn answered(events: &[Event]) -> Verdict {
    match events.iter().find(|event| matches!(event.answer, Answer::Strange(_))) {
        Some(Event { what: What::Op(op), answer: Answer::Strange(said), .. }) => {
            Err(format!("{op:?} was answered: {said}"))
        }
        _ => Ok(()),
    }
}

fn show(there: &There) -> String {
    let held: Vec<Key> = (0..N_KEYS).filter(|key| there.held[*key]).collect();
    format!("{held:?}, names {:?}", there.names)
}

/// What the disk shows. A name that leads to nothing is an error whatever happened.
fn look(plan: &Plan, seen: &Snapshot) -> Result<There, String> {
    let mut there = There { held: [false; N_KEYS], names: [None; N_NAMES] };
    let place = |key: Key| {
        let held = &keys()[key];
        layout::artifact(&held.workspace, &held.artifact.digest()).to_string()
    };
    for (path, entry) in seen {
        if path.starts_with("artifacts/") && path.split('/').count() == 4 {
            let key = (0..N_KEYS).find(|key| place(*key) == *path);
            there.held[key.ok_or_else(|| format!("{path} is nobody's"))?] = true;
        }
        let is_tag = path.contains("/_tags/");
        if path.starts_with("names/") && entry.kind == Kind::File && is_tag {
            let text = String::from_utf8_lossy(&entry.bytes);
            let led = text.lines().next().unwrap_or_default();
            let key = (0..N_KEYS)
                .find(|key| *key != 3 && keys()[*key].artifact.digest().to_string() == led);
            let tag = (0..N_NAMES).find(|tag| {
                let name = &names()[*tag];
                *path == format!("names/default/{}/_tags/{}", name.repository(), name.tag())
            });
            let tag = tag.ok_or_else(|| format!("{path} is nobody's name"))?;
            there.names[tag] = Some(key.ok_or_else(|| format!("{path} leads to {led:?}"))?);
        }
    }
    for (tag, key) in there.names.iter().enumerate() {
        let Some(key) = *key else { continue };
        let (name, held) = (&names()[tag], &keys()[key]);
        if !there.held[key] {
            return Err(format!("{name} leads to {key}, which is not there"));
        }
        // What a name leads to is listed beside it, with all that it reaches.
        for (kind, digest) in held.artifact.listing() {
            let folder = layout::members(&held.workspace, name.repository(), kind);
            let file = folder.join(layout::digest_file(&digest)).to_string();
            // What rotted is put away until it is brought again.
            let may_be_away = plan.rots && digest == plan::rotten();
            if !may_be_away && !seen.contains_key(&file) {
                return Err(format!("{name} leads to {key}, and {file} is not there"));
            }
        }
    }
    Ok(there)
}

/// The store lists what the disk shows, and its names lead where the disk says.
fn listed(store: &Store, there: &There) -> Verdict {
    for (number, held) in keys().iter().enumerate() {
        let found = store.list(&held.workspace, None, 100).map_err(|error| error.to_string())?.0;
        let is_listed = found.iter().any(|line| line.digest == held.artifact.digest());
        if is_listed != there.held[number] {
            return Err(format!("{number} is {}listed", if is_listed { "" } else { "not " }));
        }
    }
    for (tag, name) in names().iter().enumerate() {
        let led = match store.resolve(&keys()[0].workspace, &name.to_string()) {
            Ok(digest) => Some(digest),
            Err(Error::NotFound { .. }) => None,
            Err(error) => return Err(format!("resolving {name}: {error}")),
        };
        if led != there.names[tag].map(|key| keys()[key].artifact.digest()) {
            return Err(format!("{name} resolves to {led:?}"));
        }
    }
    Ok(())
}

/// What the power may have left of operations that nobody was told of.
#[derive(Default)]
struct Half {
    /// The rotten blob may be another file in a layout than in the store.
    heals: bool,
    /// The blobs of these may be files of their own in their layouts and where they are listed, whether
    /// the store has them or not.
    puts: BTreeSet<Key>,
}

/// What was put by nobody who was told so, and was not there before; unless it was retired after that.
fn half_put(plan: &Plan, events: &[Event]) -> BTreeSet<Key> {
    let puts = |answer: Answer| {
        events.iter().filter(move |event| event.answer == answer).filter_map(|event| {
            match event.what {
                What::Op(Op::Put(key, _)) => Some((key, event.begun)),
                _ => None,
            }
        })
    };
    let is_retired_since = |key: Key, begun: u64| {
        events.iter().any(|event| {
            event.what == What::Op(Op::Retire(key))
                && matches!(event.answer, Answer::Done | Answer::Unknown)
                && event.ended >= begun
        })
    };
    let held = plan.held.iter().map(|(key, _)| (*key, 0));
    let told =
        held.chain(puts(Answer::Done)).filter(|(key, begun)| !is_retired_since(*key, *begun));
    let told: BTreeSet<Key> = told.map(|(key, _)| key).collect();
    puts(Answer::Unknown).map(|(key, _)| key).filter(|key| !told.contains(key)).collect()
}

/// After a gc: what is held is whole, each blob is one file with a name for each who holds it, and
/// there is nothing else. `damaged` are those whose rotten blob nobody has brought again.
fn tidy(plan: &Plan, seen: &Snapshot, there: &There, damaged: &[Key], half: &Half) -> Verdict {
    let mut expected: BTreeSet<String> = fresh_files();
    let mut holders: BTreeMap<String, u64> = BTreeMap::new();
    let rotten = layout::blob_file(&plan::rotten());
    for key in (0..N_KEYS).filter(|key| there.held[*key]) {
        let held = &keys()[key];
        let place = layout::artifact(&held.workspace, &held.artifact.digest()).to_string();
        expected.extend([format!("{place}/oci-layout"), format!("{place}/index.json")]);
        for (name, bytes) in held.artifact.blobs() {
            if name == rotten && damaged.contains(&key) && SHARING.contains(&key) {
                continue;
            }
            let file = format!("{place}/{name}");
            if half.heals && name == rotten {
                match seen.get(&file) {
                    Some(own) if *own.bytes == bytes => expected.extend([file, name]),
                    _ => return Err(format!("{file} is not what was put")),
                };
                continue;
            }
            let Some(own) = seen.get(&file) else {
                return Err(format!("{file} is missing, and {key} is held"));
            };
            if *own.bytes != bytes {
                return Err(format!("{file} has other bytes than were put"));
            }
            let blob = seen.get(&name);
            if half.puts.contains(&key) && blob.is_none_or(|blob| blob.inode != own.inode) {
                expected.insert(file);
                continue;
            }
            let Some(blob) = blob else {
                return Err(format!("{name} is missing, and {key} is held"));
            };
            if own.inode != blob.inode {
                return Err(format!("{file} is another file than {name}"));
            }
            *holders.entry(name.clone()).or_insert(1) += 1;
            expected.extend([file, name]);
        }
    }
    let is_half =
        |name: &str| half.puts.iter().any(|key| keys()[*key].artifact.blobs().contains_key(name));
    // Repositories hold what they list, and list nothing that no artifact needs.
    for (path, entry) in seen.iter().filter(|(path, _)| path.contains("/_members/")) {
        let file = path.rsplit('/').next().unwrap_or_default();
        let Some(digest) = layout::digest_of_file(file) else { continue };
        let name = layout::blob_file(&digest);
        let rots = plan.rots && name == rotten;
        if !rots && Digest::compute(digest.algorithm(), &entry.bytes) != digest {
            return Err(format!("{path} has other bytes than its name says"));
        }
        if seen.get(&name).is_some_and(|blob| blob.inode == entry.inode) {
            match holders.get_mut(&name) {
                Some(n) => *n += 1,
                // Rotten bytes are held by what lists them until somebody reads them there.
                None if rots => drop(expected.insert(name)),
                None => return Err(format!("{path} is listed and nobody needs it")),
            }
        } else if !(rots || is_half(&name)) {
            return Err(format!("{path} is another file than {name}"));
        }
    }
    for (name, n_links) in holders {
        let actual = seen.get(&name).map_or(0, |blob| blob.n_links);
        if actual != n_links {
            return Err(format!("{name} has {actual} links instead of {n_links}"));
        }
    }
    let may_be = |path: &str| {
        ["names/", "wal/"].iter().any(|of| path.starts_with(of))
            || plan.rots && path.starts_with("quarantine/")
    };
    let left = seen.iter().find(|(path, entry)| match entry.kind {
        Kind::Folder => {
            path.starts_with("staging/") || path.starts_with("quarantine/") && !plan.rots
        }
        _ => !expected.contains(*path) && !may_be(path),
    });
    left.map_or(Ok(()), |(path, _)| Err(format!("{path} is left over")))
}

/// The files of an empty store.
fn fresh_files() -> BTreeSet<String> {
    let disk = SimDisk::new();
    drop(Store::open(std::sync::Arc::new(disk.clone()), round::options()).unwrap());
    disk.files().into_keys().collect()
}
