//! Whether what a crash left is legal: what was acknowledged verifies, everything else is wholly
//! there and verifies or wholly absent, the operation can be done again, and no leftovers stay.
//!
//! The store's own check is never the only witness: layouts are also compared byte by byte with
//! what was put, past the store.

use std::collections::{BTreeMap, BTreeSet};

use cas::digest::Digest;
use cas::disk::Kind;
use cas::disk::sim::{Seen, SimDisk};
use cas::layout::{self, MemberKind};
use cas::workspace::{Name, Reference, Workspace};
use cas::{Error, Store};

use super::open;
use super::world::{Key, Scenario, State, Truth, marked};

/// One end of one scenario, to be judged on the disk that it left.
#[derive(Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) scenario: &'a Scenario,
    /// The operation said that it was done.
    pub(crate) acknowledged: bool,
    /// Quarantine may hold something.
    pub(crate) heals: bool,
}

type Verdict = Result<(), String>;

/// What a check must say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demand {
    Whole,
    /// Damage may be told, twice at most: then it is healed.
    Healable,
    /// Damage may be told.
    Anything,
}

fn told<T>(doing: &str, result: Result<T, Error>) -> Result<T, String> {
    result.map_err(|error| format!("{doing}: {error}"))
}

impl Case<'_> {
    /// Opens the store on this disk, looks, does the operation again, collects, looks again.
    pub(crate) fn judge(&self, disk: &SimDisk) -> Verdict {
        let store = told("the store does not open", open(disk))?;
        self.look(&store, disk)?;
        told("the same operation again", (self.scenario.act)(&store))?;
        let after = &self.scenario.after;
        for (key, state) in &after.held {
            let demand = if *state == State::Whole { Demand::Whole } else { Demand::Healable };
            self.verify(&store, key, demand)?;
        }
        self.check_names(&store, &[after])?;
        self.read_all(&store, after)?;
        told("gc", store.gc(false, &mut || {}))?;
        self.tidy(disk)?;
        drop(store);
        self.lasts(disk, after)
    }

    /// Opens the store on this disk and puts something that meets what the operation left. What
    /// is acknowledged now must outlive the power, whoever wrote it.
    pub(crate) fn judge_next(&self, disk: &SimDisk) -> Verdict {
        let store = told("the store does not open", open(disk))?;
        told("the next put", (self.scenario.next)(&store))?;
        drop(store);
        self.lasts(disk, &self.scenario.by_next)
    }

    /// The power goes now, and nothing that was not durable is left.
    pub(crate) fn lasts(&self, disk: &SimDisk, besides: &Truth) -> Verdict {
        let left = disk.crash(0);
        let store = told("after the power went, the store does not open", open(&left))?;
        let sure = self.sure();
        let held: BTreeSet<&Key> = besides.held.keys().chain(sure.held.keys()).collect();
        for key in held {
            self.verify(&store, key, self.demand(key))
                .map_err(|said| format!("after the power went: {said}"))?;
        }
        for truth in [besides, &sure] {
            self.read_all(&store, truth).map_err(|said| format!("after the power went: {said}"))?;
        }
        let names = names_on(&left);
        for (name, digest) in &besides.names {
            if names.get(name) != Some(digest) {
                return Err(format!("after the power went, {}/{} is gone", name.0, name.1));
            }
        }
        Ok(())
    }

    /// What must be there whatever happened.
    fn sure(&self) -> Truth {
        let Scenario { before, after, .. } = self.scenario;
        let mut sure = after.clone();
        if !self.acknowledged {
            sure.held.retain(|key, _| before.held.contains_key(key));
            sure.names.retain(|name, digest| before.names.get(name) == Some(digest));
            sure.listed.retain(|listed| before.listed.contains(listed));
            let links = before.all_links(&self.scenario.artifacts);
            sure.links.retain(|link| links.contains(link));
        }
        sure
    }

    /// What a check of an artifact must say that was there before or is after.
    fn demand(&self, key: &Key) -> Demand {
        let Scenario { before, after, .. } = self.scenario;
        match (self.acknowledged, before.held.get(key), after.held.get(key)) {
            (true, _, Some(State::Rotten)) => Demand::Healable,
            (false, Some(State::Rotten), _) => Demand::Anything,
            _ => Demand::Whole,
        }
    }

    fn look(&self, store: &Store, disk: &SimDisk) -> Verdict {
        let Scenario { before, after, .. } = self.scenario;
        let sure = self.sure();
        let mut there: BTreeSet<Key> = BTreeSet::new();
        let known: BTreeSet<&Key> = before.held.keys().chain(after.held.keys()).collect();
        for key in known {
            let (workspace, digest) = key;
            match store.sealed(workspace, digest) {
                Ok(_) if self.acknowledged && !after.held.contains_key(key) => {
                    return Err(format!("{workspace}/{digest} is still there"));
                }
                Ok(_) => {
                    self.verify(store, key, self.demand(key))?;
                    self.shares(disk, key)?;
                    there.insert(key.clone());
                }
                Err(Error::NotFound { .. }) if !sure.held.contains_key(key) => {}
                Err(error) => return Err(format!("{workspace}/{digest}: {error}")),
            }
        }
        let mut listed: BTreeSet<Key> = BTreeSet::new();
        for workspace in told("listing workspaces", store.workspaces())? {
            for summary in told("listing", store.list(&workspace, None, 100))?.0 {
                listed.insert((workspace.clone(), summary.digest));
            }
        }
        if listed != there {
            return Err(format!("listed are {listed:?}, there are {there:?}"));
        }
        let (files, truths) = (disk.files(), [before, after]);
        let pushed = &truths[usize::from(self.acknowledged)..];
        for key in files.keys().filter_map(|path| marked(path)) {
            // What somebody put must never look as if only a repository held it.
            if !pushed.iter().any(|truth| truth.pushed.contains(&key)) {
                return Err(format!("{}/{} is marked as pushed alone", key.0, key.1));
            }
        }
        let names: &[&Truth] = if self.acknowledged { &[after] } else { &[before, after] };
        self.check_names(store, names)?;
        self.read_all(store, &sure)?;
        self.look_at_listings(store, disk)?;
        for ((workspace, name), digest) in names_on(disk) {
            if !there.contains(&(workspace.clone(), digest)) {
                return Err(format!("{workspace}/{name} leads to {digest}, which is not there"));
            }
        }
        Ok(())
    }

    /// Everything that is listed there can be read, and is what was brought.
    fn read_all(&self, store: &Store, truth: &Truth) -> Verdict {
        for (workspace, name, kind, digest) in truth.all_links(&self.scenario.artifacts) {
            let repository = store.repository(&workspace, &name);
            let read = || match kind {
                MemberKind::Blob => repository.blob(&digest)?.bytes(),
                _ => repository.manifest(&Reference::Digest(digest))?.bytes(),
            };
            match read() {
                Ok(bytes) if Digest::compute(digest.algorithm(), &bytes) == digest => {}
                // What rotted is put away, until it is brought again.
                Err(Error::Corrupt { .. } | Error::NotFound { .. }) if self.heals => {}
                Ok(_) => return Err(format!("{name} gives other bytes for {digest}")),
                Err(error) => return Err(format!("{name} does not give {digest}: {error}")),
            }
        }
        for (workspace, name, digest) in &truth.listed {
            let Some(subject) = self.scenario.artifacts[digest].subject else { continue };
            let repository = store.repository(workspace, name);
            let found = told("referrers", repository.referrers(&subject, None, None, 1 << 20))?;
            if found.0.iter().all(|found| found.digest != *digest) {
                return Err(format!("{digest} is not among the referrers in {name}"));
            }
        }
        Ok(())
    }

    /// What is listed is listed whole, and nothing is that should not be.
    fn look_at_listings(&self, store: &Store, disk: &SimDisk) -> Verdict {
        let Scenario { before, after, artifacts, .. } = self.scenario;
        for (workspace, name, digest) in before.listed.union(&after.listed) {
            let repository = store.repository(workspace, name);
            match repository.manifest(&Reference::Digest(*digest)) {
                Ok(_) => {
                    let is_needed =
                        after.all_links(artifacts).iter().any(|(place, of, _, link)| {
                            place == workspace && of == name && link == digest
                        });
                    if self.acknowledged && !is_needed {
                        return Err(format!("{digest} is still listed in {name}"));
                    }
                    // As a child it may be there without what it reaches.
                    let file = layout::members(workspace, name, MemberKind::Manifest)
                        .join(layout::digest_file(digest));
                    if disk.files().contains_key(file.as_str()) {
                        let listed = (workspace.clone(), name.clone(), *digest);
                        let whole = Truth { listed: [listed].into(), ..Truth::default() };
                        self.read_all(store, &whole)?;
                    }
                }
                Err(Error::NotFound { .. } | Error::Corrupt { .. }) => {}
                Err(error) => return Err(format!("{digest} in {name}: {error}")),
            }
        }
        let (seen, known) = (disk.files(), [before.files(artifacts), after.files(artifacts)]);
        for (path, file) in seen.iter().filter(|(path, _)| is_link(path)) {
            let digest = known.iter().find_map(|known| known.get(path));
            let digest = digest.ok_or_else(|| format!("{path} is nobody's"))?;
            if self.acknowledged && !known[1].contains_key(path) {
                return Err(format!("{path} is still there"));
            }
            let is_good = Digest::compute(digest.algorithm(), &file.bytes) == *digest;
            let is_whole = is_good && seen.contains_key(&layout::blob_file(digest));
            if !self.heals && !is_whole {
                return Err(format!("{path} is not what the store has"));
            }
        }
        for ((workspace, name), digest) in names_on(disk) {
            let repository = store.repository(&workspace, name.repository());
            match repository.manifest(&Reference::Tag(name.tag().clone())) {
                Ok(held) if held.digest() == digest => {}
                Err(Error::Corrupt { .. } | Error::NotFound { .. }) if self.heals => {}
                Ok(held) => return Err(format!("{name} gives {}", held.digest())),
                Err(error) => return Err(format!("{name} gives nothing: {error}")),
            }
        }
        Ok(())
    }

    /// Every name leads where one of these truths says.
    fn check_names(&self, store: &Store, truths: &[&Truth]) -> Verdict {
        let Scenario { before, after, .. } = self.scenario;
        for (workspace, name) in before.names.keys().chain(after.names.keys()) {
            let found = match store.resolve(workspace, &name.to_string()) {
                Ok(digest) => Some(digest),
                Err(Error::NotFound { .. }) => None,
                Err(error) => return Err(format!("resolving {workspace}/{name}: {error}")),
            };
            let key = (workspace.clone(), name.clone());
            if !truths.iter().any(|truth| truth.names.get(&key).copied() == found) {
                return Err(format!("{workspace}/{name} leads to {found:?}"));
            }
        }
        Ok(())
    }

    /// The artifact verifies, for the store.
    fn verify(&self, store: &Store, key: &Key, demand: Demand) -> Verdict {
        let (workspace, digest) = key;
        let mut n_told = 0;
        loop {
            let sealed = told("an acknowledged artifact", store.sealed(workspace, digest))?;
            match (sealed.check(), demand) {
                (Ok(checked), Demand::Whole) if !self.heals && checked.n_healed() > 0 => {
                    return Err(format!("{digest} had to be healed"));
                }
                (Ok(_), _) | (Err(Error::Corrupt { .. }), Demand::Anything) => return Ok(()),
                (Err(Error::Corrupt { .. }), Demand::Healable) if n_told < 2 => n_told += 1,
                (Err(error), _) => return Err(format!("{workspace}/{digest}: {error}")),
            }
        }
    }

    /// The artifact is byte by byte what was put, and each of its blobs has its name in the store,
    /// where the next put and the next healing look for it.
    fn shares(&self, disk: &SimDisk, key: &Key) -> Verdict {
        let (workspace, digest) = key;
        if self.demand(key) != Demand::Whole {
            return Ok(());
        }
        let seen = disk.files();
        self.compare(&seen, &layout::artifact(workspace, digest).to_string(), digest)?;
        let blobs = self.scenario.artifacts[digest].blobs();
        match blobs.keys().find(|name| !seen.contains_key(*name)) {
            Some(name) => Err(format!("{name} is in a layout and not in the store")),
            None => Ok(()),
        }
    }

    /// Nothing is on the disk but what the truth needs.
    fn tidy(&self, disk: &SimDisk) -> Verdict {
        let seen = disk.snapshot();
        let mut expected: BTreeSet<String> = super::fresh_files().into_iter().collect();
        for (workspace, digest) in self.scenario.after.held.keys() {
            let place = layout::artifact(workspace, digest).to_string();
            self.compare(&seen, &place, digest)?;
            let artifact = &self.scenario.artifacts[digest];
            expected.extend([format!("{place}/oci-layout"), format!("{place}/index.json")]);
            if artifact.lacks {
                expected.insert(layout::absences(workspace, digest).to_string());
            }
            for (name, bytes) in artifact.blobs() {
                expected.insert(format!("{place}/{name}"));
                match seen.get(&name) {
                    None => return Err(format!("{name} is in a layout and not in the store")),
                    Some(blob) if *blob.bytes != bytes => return Err(format!("{name} is rotten")),
                    Some(blob) if blob.n_links < 2 => return Err(format!("nobody holds {name}")),
                    Some(_) => {}
                }
                expected.insert(name);
            }
        }
        let listed = self.scenario.after.files(&self.scenario.artifacts);
        for (path, digest) in &listed {
            match seen.get(path) {
                Some(file) if Digest::compute(digest.algorithm(), &file.bytes) == *digest => {}
                _ if self.heals => {}
                Some(_) => return Err(format!("{path} has other bytes than were brought")),
                None => return Err(format!("{path} is missing")),
            }
            expected.insert(layout::blob_file(digest));
        }
        let stray = |path: &str| is_link(path) && !listed.contains_key(path);
        if let Some((path, _)) =
            seen.iter().find(|(path, seen)| seen.kind == Kind::File && stray(path))
        {
            return Err(format!("{path} is left over"));
        }
        let names = names_on(disk);
        if names != self.scenario.after.names {
            return Err(format!("the names are {names:?}"));
        }
        for (path, seen) in &seen {
            let in_quarantine = path.starts_with("quarantine/");
            if in_quarantine && self.heals || path.starts_with("names/") || path.starts_with("wal/")
            {
                continue;
            }
            let inner_folder = path.starts_with("artifacts/") && path.split('/').count() > 3
                || path.starts_with("staging/")
                || in_quarantine;
            let wanted = match seen.kind {
                Kind::Folder if inner_folder => {
                    expected.iter().any(|file| file.starts_with(&format!("{path}/")))
                }
                Kind::Folder => true,
                _ if path.starts_with("pushed/") => {
                    marked(path).is_some_and(|key| self.scenario.after.pushed.contains(&key))
                }
                Kind::File | Kind::Symlink | Kind::Special => expected.contains(path),
            };
            if !wanted {
                return Err(format!("{path} is left over"));
            }
        }
        Ok(())
    }

    /// A layout on the disk holds what was put, and no more.
    fn compare(&self, seen: &BTreeMap<String, Seen>, place: &str, digest: &Digest) -> Verdict {
        let artifact = &self.scenario.artifacts[digest];
        for (name, bytes) in artifact.blobs() {
            match seen.get(&format!("{place}/{name}")) {
                Some(file) if *file.bytes == bytes => {}
                Some(_) => return Err(format!("{place}/{name} has other bytes than were put")),
                None => return Err(format!("{place}/{name} is missing")),
            }
        }
        let json = |name: &str| {
            let file = seen.get(&format!("{place}/{name}"));
            let file = file.ok_or_else(|| format!("{place}/{name} is missing"))?;
            let parsed: Result<serde_json::Value, _> = serde_json::from_slice(&file.bytes);
            parsed.map_err(|error| format!("{place}/{name}: {error}"))
        };
        let (index, version) = (json("index.json")?, json("oci-layout")?);
        let root = &index["manifests"][0];
        let is_root = root["digest"] == digest.to_string()
            && root["size"] == artifact.root.size
            && root["mediaType"] == artifact.root.media_type
            && index["manifests"].as_array().is_some_and(|list| list.len() == 1);
        if !is_root || version["imageLayoutVersion"] != "1.0.0" {
            return Err(format!("{place} has the index {index} and the version {version}"));
        }
        Ok(())
    }
}

/// Whether a file stands for something that a repository lists.
fn is_link(path: &str) -> bool {
    let inside = [layout::MEMBERS, layout::REFERRERS].map(|part| format!("/{part}/"));
    path.starts_with("names/")
        && inside.iter().any(|part| path.contains(part))
        && path.rsplit('/').next().is_some_and(|name| layout::digest_of_file(name).is_some())
}

/// The names on the disk, read past the store.
fn names_on(disk: &SimDisk) -> BTreeMap<(Workspace, Name), Digest> {
    let mut names = BTreeMap::new();
    for (path, seen) in disk.files() {
        let Some(rest) = path.strip_prefix("names/").filter(|_| !is_link(&path)) else { continue };
        let parsed = rest.split_once('/').and_then(|(workspace, rest)| {
            let (repository, tag) = rest.split_once("/_tags/")?;
            let name = format!("{repository}:{tag}").parse::<Name>().ok()?;
            let text = std::str::from_utf8(&seen.bytes).ok()?;
            let (digest, check) = text.strip_suffix('\n')?.split_once('\n')?;
            let digest = digest.parse::<Digest>().ok()?;
            if !Digest::of(format!("{name} {digest}").as_bytes()).hex().starts_with(check) {
                return None;
            }
            Some(((workspace.parse::<Workspace>().ok()?, name), digest))
        });
        let (name, digest) = parsed.unwrap_or_else(|| {
            // Told as a name that no truth has.
            let name = (path.replace(['/', '_'], "-"), "torn:name");
            (("torn".parse().unwrap(), name.1.parse().unwrap()), Digest::of(name.0.as_bytes()))
        });
        names.insert(name, digest);
    }
    names
}
