//! A store prepared for a scenario, and what must be true of it before and after.

use std::collections::BTreeMap;
use std::rc::Rc;

use cas::digest::Digest;
use cas::disk::Disk;
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

/// A store in the making, with what was put in it.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) truth: Truth,
    pub(crate) artifacts: BTreeMap<Digest, Artifact>,
}

pub(crate) fn default_workspace() -> Workspace {
    "default".parse().unwrap()
}

pub(crate) fn other_workspace() -> Workspace {
    "other".parse().unwrap()
}

pub(crate) fn names(texts: &[&str]) -> Vec<Name> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

impl World {
    pub(crate) fn new(disk: SimDisk) -> World {
        drop(open(&disk).unwrap());
        settle(&disk);
        World { disk, truth: Truth::default(), artifacts: BTreeMap::new() }
    }

    pub(crate) fn has(mut self, of: &Workspace, artifact: &Artifact, texts: &[&str]) -> World {
        let store = open(&self.disk).unwrap();
        artifact.put(&store, of, &names(texts)).unwrap();
        drop(store);
        settle(&self.disk);
        note(&mut self.truth, of, artifact, texts);
        self.artifacts.insert(artifact.digest(), artifact.clone());
        self
    }

    pub(crate) fn lost(mut self, of: &Workspace, artifact: &Artifact) -> World {
        let store = open(&self.disk).unwrap();
        store.retire(of, &artifact.digest()).unwrap();
        drop(store);
        settle(&self.disk);
        forget(&mut self.truth, of, artifact);
        self
    }

    /// Flips a byte of the store's copy, and so of every layout that shares it.
    pub(crate) fn rots(mut self, blob: &Digest, in_artifacts: &[&Artifact]) -> World {
        self.disk.corrupt(&layout::Pool::Shared.blob(blob), 700).unwrap();
        for (key, state) in &mut self.truth.held {
            if in_artifacts.iter().any(|artifact| artifact.digest() == key.1) {
                *state = State::Rotten;
            }
        }
        self
    }

    pub(crate) fn scenario(
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
    pub(crate) fn with_opening(self) -> Scenario {
        Scenario { opens: true, ..self }
    }

    pub(crate) fn with_healing(self) -> Scenario {
        Scenario { heals: true, ..self }
    }

    pub(crate) fn that_frees(self) -> Scenario {
        Scenario { frees: true, ..self }
    }

    pub(crate) fn and(mut self, artifact: &Artifact) -> Scenario {
        self.artifacts.insert(artifact.digest(), artifact.clone());
        self
    }

    /// The same on a disk where every file and folder is synced by itself.
    pub(crate) fn crowded(&self) -> Scenario {
        Scenario {
            name: format!("{}, synced one by one", self.name),
            disk: self.disk.fork().with_crowd(true),
            ..self.clone()
        }
    }
}

/// An artifact is there from now on, and these names lead to it.
pub(crate) fn note(truth: &mut Truth, of: &Workspace, artifact: &Artifact, texts: &[&str]) {
    truth.held.entry((of.clone(), artifact.digest())).or_insert(State::Whole);
    for name in names(texts) {
        truth.names.insert((of.clone(), name), artifact.digest());
    }
}

pub(crate) fn forget(truth: &mut Truth, of: &Workspace, artifact: &Artifact) {
    truth.held.remove(&(of.clone(), artifact.digest()));
    truth.names.retain(|(place, _), digest| place != of || *digest != artifact.digest());
}

pub(crate) fn put(
    store: &Store,
    of: &Workspace,
    artifact: &Artifact,
    texts: &[&str],
) -> Result<(), Error> {
    artifact.put(store, of, &names(texts)).map(drop)
}

/// Ends the hold; that it was ended before is as good.
pub(crate) fn retire(store: &Store, of: &Workspace, digest: &Digest) -> Result<(), Error> {
    match store.retire(of, digest) {
        Err(Error::NotFound { .. }) => Ok(()),
        other => other.map(drop),
    }
}

/// Checks until no damage is told any more, at most three times.
pub(crate) fn check(store: &Store, of: &Workspace, digest: &Digest) -> Result<(), Error> {
    let mut n_told = 0;
    loop {
        match store.sealed(of, digest)?.check() {
            Err(Error::Corrupt { .. }) if n_told < 2 => n_told += 1,
            other => return other.map(drop),
        }
    }
}

/// Makes a prepared disk durable.
fn settle(disk: &SimDisk) {
    Disk::sync_all(disk).unwrap();
}
