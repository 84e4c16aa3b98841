//! What is interrupted: each scenario is a durable disk, one operation, and what must be true
//! before and after it.

use std::collections::BTreeMap;
use std::rc::Rc;

use cas::digest::Digest;
use cas::disk::sim::SimDisk;
use cas::layout;
use cas::workspace::{Name, Workspace};
use cas::{Error, Store};

use super::fixture::{self, Artifact};
use super::open;

/// Whose an artifact is, and which.
pub(crate) type Key = (Workspace, Digest);

/// How an artifact stands on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Whole,
    /// A check may find damage and tell it; checks heal it once the store has the good bytes.
    Rotten,
}

/// What was acknowledged.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Truth {
    pub(crate) held: BTreeMap<Key, State>,
    pub(crate) names: BTreeMap<(Workspace, Name), Digest>,
}

type Act = Rc<dyn Fn(&Store) -> Result<(), Error>>;

#[derive(Clone)]
pub(crate) struct Scenario {
    pub(crate) name: String,
    pub(crate) disk: SimDisk,
    pub(crate) before: Truth,
    pub(crate) after: Truth,
    pub(crate) act: Act,
    /// Another put that meets what this one left, and what it adds to the truth.
    pub(crate) next: Act,
    pub(crate) by_next: Truth,
    /// The opening of the store is interrupted as well.
    pub(crate) opens: bool,
    /// Something may be in quarantine.
    pub(crate) heals: bool,
    /// It must be possible on a full disk.
    pub(crate) frees: bool,
    pub(crate) artifacts: BTreeMap<Digest, Artifact>,
}

// === making one ===

/// A store in the making, with what was put in it.
struct World {
    disk: SimDisk,
    truth: Truth,
    artifacts: BTreeMap<Digest, Artifact>,
}

fn default_workspace() -> Workspace {
    "default".parse().unwrap()
}

fn other_workspace() -> Workspace {
    "other".parse().unwrap()
}

fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

impl World {
    fn new(disk: SimDisk) -> World {
        drop(open(&disk).unwrap());
        disk.sync_all_by_hand();
        World { disk, truth: Truth::default(), artifacts: BTreeMap::new() }
    }

    fn has(mut self, of: &Workspace, artifact: &Artifact, texts: &[&str]) -> World {
        let store = open(&self.disk).unwrap();
        artifact.put(&store, of, &names(texts)).unwrap();
        drop(store);
        self.disk.sync_all_by_hand();
        note(&mut self.truth, of, artifact, texts);
        self.artifacts.insert(artifact.digest(), artifact.clone());
        self
    }

    fn lost(mut self, of: &Workspace, artifact: &Artifact) -> World {
        let store = open(&self.disk).unwrap();
        store.retire(of, &artifact.digest()).unwrap();
        drop(store);
        self.disk.sync_all_by_hand();
        forget(&mut self.truth, of, artifact);
        self
    }

    /// Flips a byte of the store's copy, and so of every layout that shares it.
    fn rots(mut self, blob: &Digest, in_artifacts: &[&Artifact]) -> World {
        self.disk.corrupt(&layout::blob(blob), 700).unwrap();
        for (key, state) in &mut self.truth.held {
            if in_artifacts.iter().any(|artifact| artifact.digest() == key.1) {
                *state = State::Rotten;
            }
        }
        self
    }

    fn scenario(
        self,
        name: &str,
        act: impl Fn(&Store) -> Result<(), Error> + 'static,
        becomes: impl Fn(&mut Truth),
    ) -> Scenario {
        let (before, mut after) = (self.truth.clone(), self.truth);
        becomes(&mut after);
        // What comes next shares blobs, folders and a repository with most scenarios.
        let meeting = fixture::plain();
        let texts = &["team/app:next"];
        let mut by_next = Truth::default();
        note(&mut by_next, &default_workspace(), &meeting, texts);
        let mut artifacts = self.artifacts;
        for artifact in [fixture::tree(), fixture::lone(), meeting.clone()] {
            artifacts.insert(artifact.digest(), artifact);
        }
        Scenario {
            name: name.to_owned(),
            disk: self.disk,
            before,
            after,
            act: Rc::new(act),
            next: Rc::new(move |store| put(store, &default_workspace(), &meeting, texts)),
            by_next,
            opens: false,
            heals: false,
            frees: false,
            artifacts,
        }
    }
}

impl Scenario {
    fn with_opening(self) -> Scenario {
        Scenario { opens: true, ..self }
    }

    fn with_healing(self) -> Scenario {
        Scenario { heals: true, ..self }
    }

    fn that_frees(self) -> Scenario {
        Scenario { frees: true, ..self }
    }

    fn and(mut self, artifact: &Artifact) -> Scenario {
        self.artifacts.insert(artifact.digest(), artifact.clone());
        self
    }

    /// The same on a disk where every file and folder is synced by itself.
    fn crowded(&self) -> Scenario {
        Scenario {
            name: format!("{}, synced one by one", self.name),
            disk: self.disk.fork().with_crowd(true),
            ..self.clone()
        }
    }
}

/// An artifact is there from now on, and these names lead to it.
fn note(truth: &mut Truth, of: &Workspace, artifact: &Artifact, texts: &[&str]) {
    truth.held.entry((of.clone(), artifact.digest())).or_insert(State::Whole);
    for name in names(texts) {
        truth.names.insert((of.clone(), name), artifact.digest());
    }
}

fn forget(truth: &mut Truth, of: &Workspace, artifact: &Artifact) {
    truth.held.remove(&(of.clone(), artifact.digest()));
    truth.names.retain(|(place, _), digest| place != of || *digest != artifact.digest());
}

fn put(store: &Store, of: &Workspace, artifact: &Artifact, texts: &[&str]) -> Result<(), Error> {
    artifact.put(store, of, &names(texts)).map(drop)
}

/// Ends the hold; that it was ended before is as good.
fn retire(store: &Store, of: &Workspace, digest: &Digest) -> Result<(), Error> {
    match store.retire(of, digest) {
        Err(Error::NotFound { .. }) => Ok(()),
        other => other.map(drop),
    }
}

/// Checks until no damage is told any more, at most three times.
fn check(store: &Store, of: &Workspace, digest: &Digest) -> Result<(), Error> {
    let mut n_told = 0;
    loop {
        match store.sealed(of, digest)?.check() {
            Err(Error::Corrupt { .. }) if n_told < 2 => n_told += 1,
            other => return other.map(drop),
        }
    }
}

// === all of them ===

/// Every scenario, in both ways of syncing.
pub(crate) fn all() -> Vec<Scenario> {
    type Make = fn() -> Scenario;
    let makes: [Make; 18] = [
        first_opening,
        reopening,
        put_tree,
        put_file,
        put_shared,
        put_again,
        put_again_from_another_workspace,
        put_with_names,
        names_move,
        two_drafts_at_once,
        retire_named,
        retire_one_of_two,
        collect,
        heal_by_put,
        heal_by_check,
        damaged_layout,
        link_limit,
        unsealed,
    ];
    let each = makes.into_iter().flat_map(|make| {
        let scenario = make();
        let crowded = scenario.crowded();
        [scenario, crowded]
    });
    each.collect()
}

fn first_opening() -> Scenario {
    let lone = fixture::lone();
    let world = World { disk: SimDisk::new(), truth: Truth::default(), artifacts: BTreeMap::new() };
    world
        .scenario(
            "a new store",
            move |store| put(store, &default_workspace(), &lone, &[]),
            |truth| {
                note(truth, &default_workspace(), &fixture::lone(), &[]);
            },
        )
        .with_opening()
}

/// Opened where a put was cut off in the middle, twice.
fn reopening() -> Scenario {
    let (of, tree, lone) = (default_workspace(), fixture::tree(), fixture::lone());
    let world = World::new(SimDisk::new()).has(&of, &lone, &["lone:1"]);
    let store = open(&world.disk).unwrap();
    let draft = store.draft(&of).unwrap();
    tree.bring(&draft).unwrap();
    world.disk.stop_after(world.disk.calls());
    drop((draft, store));
    let disk = world.disk.crash(1);
    World { disk, ..world }.scenario("opening after a crash", |_| Ok(()), |_| {}).with_opening()
}

fn put_tree() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::lone(), &["lone:1"]);
    let tree = fixture::tree();
    world.scenario(
        "put of an index",
        move |store| put(store, &default_workspace(), &tree, &[]),
        |truth| note(truth, &default_workspace(), &fixture::tree(), &[]),
    )
}

fn put_file() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new().with_short_calls(7)).has(&of, &fixture::lone(), &[]);
    let file = fixture::file(1);
    let known = file.clone();
    world
        .scenario(
            "put of a file",
            move |store| put(store, &default_workspace(), &file, &["team/tool:1"]),
            |truth| note(truth, &default_workspace(), &known, &["team/tool:1"]),
        )
        .and(&known)
}

fn put_shared() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::tree(), &[]);
    let plain = fixture::plain();
    world.scenario(
        "put that shares blobs",
        move |store| put(store, &default_workspace(), &plain, &[]),
        |truth| note(truth, &default_workspace(), &fixture::plain(), &[]),
    )
}

fn put_again() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::tree(), &["team/app:1"]);
    let tree = fixture::tree();
    world.scenario(
        "the same put again",
        move |store| put(store, &default_workspace(), &tree, &["team/app:1"]),
        |_| {},
    )
}

fn put_again_from_another_workspace() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::tree(), &["team/app:1"]);
    let tree = fixture::tree();
    world.scenario(
        "the same put in another workspace",
        move |store| put(store, &other_workspace(), &tree, &["team/app:1"]),
        |truth| note(truth, &other_workspace(), &fixture::tree(), &["team/app:1"]),
    )
}

fn put_with_names() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::lone(), &["lone:1"]);
    let tree = fixture::tree();
    const NAMES: [&str; 3] = ["team/app:1", "team/app:latest", "lone:2"];
    world.scenario(
        "put with new names",
        move |store| put(store, &default_workspace(), &tree, &NAMES),
        |truth| note(truth, &default_workspace(), &fixture::tree(), &NAMES),
    )
}

fn names_move() -> Scenario {
    let of = default_workspace();
    let world =
        World::new(SimDisk::new()).has(&of, &fixture::tree(), &["team/app:1", "team/app:latest"]);
    let lone = fixture::lone();
    const NAMES: [&str; 2] = ["team/app:2", "team/app:latest"];
    world.scenario(
        "put that moves a name",
        move |store| put(store, &default_workspace(), &lone, &NAMES),
        |truth| note(truth, &default_workspace(), &fixture::lone(), &NAMES),
    )
}

/// Two drafts of the same bytes; the first one is not synced yet when the second one is sealed.
fn two_drafts_at_once() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::lone(), &[]);
    let tree = fixture::tree();
    world.scenario(
        "two drafts at once",
        move |store| {
            let of = default_workspace();
            let (first, second) = (store.draft(&of)?, store.draft(&of)?);
            let brought = tree.bring(&first);
            let second = tree.bring(&second).and_then(|()| tree.seal(second, &[]));
            let first = brought.and_then(|()| tree.seal(first, &[]));
            // Whichever was acknowledged must be there.
            first.or(second).map(drop)
        },
        |truth| note(truth, &default_workspace(), &fixture::tree(), &[]),
    )
}

fn retire_named() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::lone(), &["lone:1"]).has(
        &of,
        &fixture::tree(),
        &["team/app:1", "team/app:latest"],
    );
    world
        .scenario(
            "retire",
            |store| retire(store, &default_workspace(), &fixture::tree().digest()),
            |truth| forget(truth, &default_workspace(), &fixture::tree()),
        )
        .that_frees()
}

fn retire_one_of_two() -> Scenario {
    let (of, other) = (default_workspace(), other_workspace());
    let world = World::new(SimDisk::new()).has(&of, &fixture::tree(), &["team/app:1"]).has(
        &other,
        &fixture::tree(),
        &["team/app:1"],
    );
    world
        .scenario(
            "retire in one of two workspaces",
            |store| retire(store, &default_workspace(), &fixture::tree().digest()),
            |truth| forget(truth, &default_workspace(), &fixture::tree()),
        )
        .that_frees()
}

fn collect() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new())
        .has(&of, &fixture::plain(), &["team/app:1"])
        .has(&of, &fixture::tree(), &[])
        .lost(&of, &fixture::tree());
    world.scenario("gc", |store| store.gc(false, &mut || {}).map(drop), |_| {}).that_frees()
}

fn heal_by_put() -> Scenario {
    let of = default_workspace();
    let (tree, plain) = (fixture::tree(), fixture::plain());
    let world = World::new(SimDisk::new())
        .has(&of, &fixture::lone(), &[])
        .has(&of, &plain, &["team/app:1"])
        .has(&of, &tree, &[])
        .rots(&fixture::shared_layer(), &[&tree, &plain]);
    world
        .scenario(
            "healing by a put",
            |store| put(store, &default_workspace(), &fixture::tree(), &[]),
            |truth| {
                // What was put is whole; who else shared the rot is healed by its next check.
                let key = (default_workspace(), fixture::tree().digest());
                truth.held.insert(key, State::Whole);
            },
        )
        .with_healing()
}

/// The store's copy is good again, both layouts still hold the rotten one.
fn heal_by_check() -> Scenario {
    let (of, other) = (default_workspace(), other_workspace());
    let (tree, plain) = (fixture::tree(), fixture::plain());
    let rotten = [&tree, &plain];
    let world = World::new(SimDisk::new())
        .has(&of, &plain, &["team/app:1"])
        .has(&of, &tree, &[])
        .rots(&fixture::shared_layer(), &rotten)
        .has(&other, &tree, &[]);
    world
        .scenario(
            "healing by a check",
            |store| {
                let of = default_workspace();
                check(store, &of, &fixture::tree().digest())?;
                check(store, &of, &fixture::plain().digest())
            },
            |_| {},
        )
        .with_healing()
}

/// A layout whose own files were edited, taken away, and added to, behind the store's back.
fn damaged_layout() -> Scenario {
    let of = default_workspace();
    let tree = fixture::tree();
    let mut world = World::new(SimDisk::new())
        .has(&of, &fixture::lone(), &[])
        .has(&of, &fixture::plain(), &["team/app:1"])
        .has(&of, &tree, &[]);
    let place = layout::artifact(&of, &tree.digest());
    let shared = layout::blob_in(&place, &fixture::shared_layer());
    let other = layout::blob_in(&place, &tree.members[0].0.digest);
    let disk = &world.disk;
    disk.plant(&place.join(layout::INDEX_FILE), b"{}").unwrap();
    disk.plant(&shared, &fixture::bytes(9, 1500)).unwrap();
    disk.erase(&other).unwrap();
    disk.plant(&place.join("extra"), b"what is this").unwrap();
    let state = world.truth.held.get_mut(&(of, tree.digest())).unwrap();
    *state = State::Rotten;
    world
        .scenario(
            "a damaged layout",
            |store| check(store, &default_workspace(), &fixture::tree().digest()),
            |_| {},
        )
        .with_healing()
}

/// The empty config of every file has as many names as the filesystem allows.
fn link_limit() -> Scenario {
    let of = default_workspace();
    let files: Vec<Artifact> = (0..5).map(fixture::file).collect();
    let mut world = World::new(SimDisk::new().with_link_limit(4));
    for file in &files[..3] {
        world = world.has(&of, file, &[]);
    }
    let seen = world.disk.files();
    let config = layout::blob(&Digest::of(b"{}")).to_string();
    assert_eq!(seen[&config].n_links, 4, "the limit is not reached, so nothing is tried here");
    let brought = files[3..].to_vec();
    let scenario = world.scenario(
        "past the link limit",
        move |store| {
            brought.iter().try_for_each(|file| put(store, &default_workspace(), file, &[]))
        },
        |truth| files[3..].iter().for_each(|file| note(truth, &default_workspace(), file, &[])),
    );
    files.iter().fold(scenario, Scenario::and)
}

/// A draft that is given up, and one that lacks a layer.
fn unsealed() -> Scenario {
    let of = default_workspace();
    let world = World::new(SimDisk::new()).has(&of, &fixture::plain(), &[]);
    let mut lacking = fixture::tree();
    lacking.members.remove(0);
    world.scenario(
        "drafts that come to nothing",
        move |store| {
            let of = default_workspace();
            let draft = store.draft(&of)?;
            fixture::tree().bring(&draft)?;
            drop(draft);
            match lacking.put(store, &of, &[]) {
                Err(Error::Refused(_)) => Ok(()),
                other => other.map(|sealed| panic!("{} was sealed", sealed.digest())),
            }
        },
        |_| {},
    )
}

/// Makes a prepared disk durable without a numbered call.
trait ByHand {
    fn sync_all_by_hand(&self);
}

impl ByHand for SimDisk {
    fn sync_all_by_hand(&self) {
        cas::disk::Disk::sync_all(self).unwrap();
    }
}
