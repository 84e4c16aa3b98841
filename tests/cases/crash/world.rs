//! A store prepared for a scenario, and what must be true of it before and after.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use cas::digest::Digest;
use cas::disk::Disk;
use cas::disk::sim::SimDisk;
use cas::layout::{self, MemberKind};
use cas::workspace::{Name, RepositoryName, Workspace};
use cas::{Error, Repository, Store};

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
    /// Which of them were pushed and never put.
    pub(crate) pushed: BTreeSet<Key>,
    /// Which artifacts a repository lists.
    pub(crate) listed: BTreeSet<(Workspace, RepositoryName, Digest)>,
    /// What it lists besides what those need.
    pub(crate) links: BTreeSet<Link>,
}

/// Whose repository, which, and what it lists as what.
pub(crate) type Link = (Workspace, RepositoryName, MemberKind, Digest);

impl Truth {
    /// Everything that repositories list.
    pub(crate) fn all_links(&self, artifacts: &BTreeMap<Digest, Artifact>) -> BTreeSet<Link> {
        let listed = self.listed.iter().flat_map(|(workspace, name, artifact)| {
            let parts = artifacts[artifact].listing();
            parts.map(|(kind, digest)| (workspace.clone(), name.clone(), kind, digest))
        });
        self.links.iter().cloned().chain(listed).collect()
    }

    /// The files that stand for it, and whose bytes they hold.
    pub(crate) fn files(&self, artifacts: &BTreeMap<Digest, Artifact>) -> BTreeMap<String, Digest> {
        let links = self.all_links(artifacts);
        let members = links.iter().map(|(workspace, name, kind, digest)| {
            let folder = layout::members(workspace, name, *kind);
            (folder.join(layout::digest_file(digest)).to_string(), *digest)
        });
        let referrers = self.listed.iter().filter_map(|(workspace, name, digest)| {
            let subject = layout::digest_file(&artifacts[digest].subject?);
            let folder = layout::referrers(workspace, name).join(subject);
            Some((folder.join(layout::digest_file(digest)).to_string(), *digest))
        });
        members.chain(referrers).collect()
    }
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
        open(&disk).unwrap().close();
        settle(&disk);
        World { disk, truth: Truth::default(), artifacts: BTreeMap::new() }
    }

    pub(crate) fn has(mut self, of: &Workspace, artifact: &Artifact, texts: &[&str]) -> World {
        let store = open(&self.disk).unwrap();
        artifact.put(&store, of, &names(texts)).unwrap();
        store.close();
        settle(&self.disk);
        note(&mut self.truth, of, artifact, texts);
        self.artifacts.insert(artifact.digest(), artifact.clone());
        self
    }

    pub(crate) fn lost(mut self, of: &Workspace, artifact: &Artifact) -> World {
        let store = open(&self.disk).unwrap();
        store.retire(of, &artifact.digest()).unwrap();
        store.close();
        settle(&self.disk);
        forget(&mut self.truth, of, artifact);
        self
    }

    /// Does something with a repository beforehand that becomes truth.
    pub(crate) fn with(
        mut self,
        repository: &str,
        act: impl Fn(&Repository) -> Result<(), Error>,
        becomes: impl Fn(&mut Truth, &RepositoryName),
    ) -> World {
        let store = open(&self.disk).unwrap();
        let name = repository.parse().unwrap();
        act(&store.repository(&default_workspace(), &name)).unwrap();
        store.close();
        settle(&self.disk);
        becomes(&mut self.truth, &name);
        self
    }

    /// Took the blobs of an artifact into a repository.
    pub(crate) fn took(self, repository: &str, artifact: &Artifact) -> World {
        self.with(
            repository,
            |repository| artifact.take(repository),
            |truth, name| note_taken(truth, name, artifact),
        )
    }

    /// An artifact whose blobs were taken and whose manifest was pushed.
    pub(crate) fn pushed(self, repository: &str, artifact: &Artifact, tags: &[&str]) -> World {
        let mut world = self.with(
            repository,
            |repository| {
                artifact.take(repository)?;
                artifact.push(repository, tags).map(drop)
            },
            |truth, name| note_pushed(truth, name, artifact, tags),
        );
        world.artifacts.insert(artifact.digest(), artifact.clone());
        world
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

/// An artifact was put, and these names lead to it.
pub(crate) fn note(truth: &mut Truth, of: &Workspace, artifact: &Artifact, texts: &[&str]) {
    note_held(truth, of, artifact, texts);
    truth.pushed.remove(&(of.clone(), artifact.digest()));
}

fn note_held(truth: &mut Truth, of: &Workspace, artifact: &Artifact, texts: &[&str]) {
    truth.held.entry((of.clone(), artifact.digest())).or_insert(State::Whole);
    for name in names(texts) {
        truth.listed.insert((of.clone(), name.repository().clone(), artifact.digest()));
        truth.names.insert((of.clone(), name), artifact.digest());
    }
}

/// The blobs of an artifact are listed in a repository.
pub(crate) fn note_taken(truth: &mut Truth, name: &RepositoryName, artifact: &Artifact) {
    for (kind, digest) in artifact.listing().filter(|(kind, _)| *kind == MemberKind::Blob) {
        truth.links.insert((default_workspace(), name.clone(), kind, digest));
    }
}

/// An artifact is listed in a repository, and these tags lead to it.
pub(crate) fn note_pushed(
    truth: &mut Truth,
    name: &RepositoryName,
    artifact: &Artifact,
    tags: &[&str],
) {
    let texts: Vec<String> = tags.iter().map(|tag| format!("{name}:{tag}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let key = (default_workspace(), artifact.digest());
    if !truth.held.contains_key(&key) {
        truth.pushed.insert(key);
    }
    note_held(truth, &default_workspace(), artifact, &texts);
    truth.listed.insert((default_workspace(), name.clone(), artifact.digest()));
    note_taken(truth, name, artifact);
}

/// A manifest is no longer listed; its blobs are, and the manifests below it.
pub(crate) fn note_deleted(truth: &mut Truth, name: &RepositoryName, artifact: &Artifact) {
    let (of, digest) = (default_workspace(), artifact.digest());
    truth.listed.remove(&(of.clone(), name.clone(), digest));
    truth
        .names
        .retain(|(place, led), to| *place != of || led.repository() != name || *to != digest);
    let parts = artifact.listing().filter(|(_, part)| *part != digest);
    truth.links.extend(parts.map(|(kind, part)| (of.clone(), name.clone(), kind, part)));
}

pub(crate) fn forget(truth: &mut Truth, of: &Workspace, artifact: &Artifact) {
    // What it alone needed of where it was listed goes with it.
    let listed = truth.listed.clone();
    truth.links.retain(|(place, name, _, digest)| {
        let is_listed = listed.contains(&(place.clone(), name.clone(), artifact.digest()));
        place != of || !is_listed || artifact.listing().all(|(_, part)| part != *digest)
    });
    truth.listed.retain(|(place, _, digest)| place != of || *digest != artifact.digest());
    truth.held.remove(&(of.clone(), artifact.digest()));
    truth.pushed.remove(&(of.clone(), artifact.digest()));
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

/// The artifact that a mark of a push is of, by the mark's path.
pub(crate) fn marked(path: &str) -> Option<Key> {
    let parts: Vec<&str> = path.strip_prefix("pushed/")?.split('/').collect();
    let [workspace, algorithm, hex] = parts[..] else { return None };
    Some((workspace.parse().ok()?, format!("{algorithm}:{hex}").parse().ok()?))
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
