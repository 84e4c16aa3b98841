//! Sealing: from a draft that has everything to an artifact that is there, in one transaction.
//!
//! The order is the promise: what was written is synced before any name leads to it, and all names
//! are synced before anybody is told. A crash may leave a tag, and the artifact still in staging: whole,
//! so that the next start puts it in its place. A small manifest that is pushed is synced in the log instead,
//! and with it all that is made of it. `docs/on-disk.md` says what a crash leaves at each step.

use std::collections::{BTreeSet, HashSet};
use std::io;

use super::{Draft, Held, Receipt};
use crate::absent;
use crate::digest::{Algorithm, Digest};
use crate::disk::{Create, RelPath, write_all_at};
use crate::durable::Unsynced;
use crate::error::{Damage, DamageKind, Error};
use crate::layout::{self, MemberKind};
use crate::locks;
use crate::names;
use crate::oci::{Closure, Descriptor, Node, Refusal};
use crate::pushed;
use crate::repository::{Fills, Repository};
use crate::sealed::{Sealed, facts_of};
use crate::store::{Inner, Reserved, Store, lock};
use crate::wal::{self, Logged, Record, Sealing};
use crate::workspace::{Name, RepositoryName, Tag, Workspace};

/// Where an artifact is to be listed, and what it is to be called there.
pub(crate) struct Listing<'a> {
    pub(crate) names: Vec<Name>,
    /// Listed here whether or not a name is in it.
    pub(crate) repository: Option<&'a RepositoryName>,
    /// Whether a tag that leads elsewhere may be moved.
    pub(crate) may_move: &'a dyn Fn(&Tag) -> bool,
}

impl Listing<'_> {
    /// Refuses, before anything is made, a name that may not be moved. Asked again when it moves.
    pub(crate) fn check(
        &self,
        store: &Store,
        workspace: &Workspace,
        to: &Digest,
    ) -> Result<(), Error> {
        for name in &self.names {
            let listed = store.repository(workspace, name.repository());
            listed.may_lead_now(name, to, self.may_move)?;
        }
        Ok(())
    }

    /// The same of the names in one repository, and for as long as others are excluded from it.
    fn exclude<'r>(
        &self,
        repository: &'r Repository,
        to: &Digest,
    ) -> Result<locks::Held<'r, (Workspace, RepositoryName)>, Error> {
        let excluded = repository.exclude();
        for name in self.names.iter().filter(|name| name.repository() == repository.name()) {
            repository.may_lead(name, to, self.may_move)?;
        }
        Ok(excluded)
    }

    /// Whether one of the names may be refused.
    fn is_strict(&self) -> bool {
        self.names.iter().any(|name| !(self.may_move)(name.tag()))
    }

    /// In the order in which others are excluded from them.
    fn repositories(&self) -> BTreeSet<RepositoryName> {
        let named = self.names.iter().map(Name::repository);
        named.chain(self.repository).cloned().collect()
    }
}

/// What sealing has settled before anything is moved.
struct Plan {
    closure: Closure,
    root: Descriptor,
    place: RelPath,
    receipt: Receipt,
    /// The members that were written.
    new: Vec<(Digest, Held)>,
    /// The members that the workspace had before.
    known: HashSet<Digest>,
    /// The size that the workspace counts for it.
    counted: u64,
}

/// The names that were given to it.
struct Published {
    /// The log has them.
    is_logged: bool,
    unsynced: Unsynced,
    /// Members of repositories that are new.
    members: Vec<RelPath>,
}

impl Draft {
    pub(crate) fn seal_closure(
        mut self,
        closure: Closure,
        listing: &Listing<'_>,
    ) -> Result<(Sealed, Receipt), Error> {
        let store = self.store.clone();
        let inner = &*store.inner;
        let mut unsynced = Unsynced { since: self.since, ..Unsynced::default() };
        let mut plan = self.plan(closure, &mut unsynced)?;
        self.drop_strangers(&plan.closure)?;
        let digest = plan.root.digest;
        inner.ensure_workspace(&self.workspace)?;
        let (tags, record) = self.write_rest(&plan, &listing.names, &mut unsynced)?;

        // Everything is written: now it must be safe before any name leads to it.
        let repository = self.may_be_logged(&plan, listing);
        if repository.is_none() {
            inner.settle(&unsynced)?;
        }

        // Held to the end: nobody may retire it, or put it as well, in between.
        let artifact = inner.lock_artifact(&self.workspace, &digest);
        // What the workspace has already counts once; layers that were absent so far count now.
        let is_there = inner.is_there(&plan.place)?;
        let counted = match is_there {
            true => store.facts(&self.workspace, &digest).map_or(0, |facts| facts.size),
            false => 0,
        };
        plan.counted = plan.receipt.size.max(counted);
        let reserved = inner.reserve(&self.workspace, plan.counted - counted)?;
        let logged = match repository.filter(|_| !is_there) {
            Some(name) => self.log(inner, name, &plan, listing)?,
            None => None,
        };
        if repository.is_some() && logged.is_none() {
            inner.settle(&unsynced)?;
        }
        let mut published = Published {
            is_logged: logged.is_some(),
            unsynced: Unsynced { since: inner.barrier.n_failed(), ..Unsynced::default() },
            members: Vec::new(),
        };
        let named = self.name(&mut plan, record, &tags, listing, reserved, &mut published);
        match (named, logged) {
            (Ok(()), None) => {
                let tags = listing.names.iter().map(|name| names::file_of(&self.workspace, name));
                let moved: Vec<RelPath> = tags.chain([plan.place.clone()]).collect();
                inner.settle_moved(&published.unsynced, &moved)?;
            }
            (Ok(()), Some(logged)) => drop(logged),
            (Err(error), None) => return Err(error),
            (Err(error), Some(logged)) => {
                // What is refused now is not to come with the next start.
                drop(logged);
                inner.empty_log()?;
                return Err(error);
            }
        }
        for tag in &tags {
            inner.unsettled.end(tag.folder());
        }
        for member in &published.members {
            inner.unsettled_members.end(member);
        }
        if plan.receipt.absent.is_empty() && plan.closure.blobs().any(Descriptor::may_be_absent) {
            absent::remove(&*inner.disk, &self.workspace, &digest)?;
        }
        drop(artifact);
        if published.is_logged {
            inner.relieve_log();
        }
        let sealed = Sealed::new(store.clone(), self.workspace.clone(), digest);
        Ok((sealed, plan.receipt))
    }

    /// The repository in whose listing the log can do all of this again: one manifest that is small, and
    /// whose blobs must all be there.
    fn may_be_logged<'a>(&self, plan: &Plan, listing: &Listing<'a>) -> Option<&'a RepositoryName> {
        let is_plain = plan.root.size <= wal::MOST_BYTES
            && plan.closure.manifests().count() == 1
            && !plan.closure.blobs().any(Descriptor::may_be_absent);
        listing.repository.filter(|_| is_plain)
    }

    /// Makes it durable in the log, if the repository has what it reaches without the log's help. The caller
    /// excludes others from the artifact.
    fn log<'a>(
        &self,
        inner: &'a Inner,
        repository: &RepositoryName,
        plan: &Plan,
        listing: &Listing<'_>,
    ) -> Result<Option<Logged<'a>>, Error> {
        let digest = plan.root.digest;
        let Some(root) = plan.closure.manifests().last() else { return Ok(None) };
        let listed = self.store.repository(&self.workspace, repository);
        let logged = {
            // What is there now stays until this is listed, or is ended by somebody who sees the record.
            let _repository = listing.exclude(&listed, &digest)?;
            let is_safe = |blob: &Descriptor| {
                let member = listed.member(MemberKind::Blob, &blob.digest);
                inner.is_one_file(&member, &self.member_path(&blob.digest))
                    && !inner.unsettled_members.has(&member)
            };
            if !plan.closure.blobs().all(is_safe) {
                return Ok(None);
            }
            let tags = listing.names.iter().map(Name::tag).collect();
            let blobs = plan.closure.blobs().map(|blob| blob.digest).collect();
            let record = Record {
                workspace: &self.workspace,
                repository,
                digest: &digest,
                bytes: root.bytes(),
                manifest: Some(Sealing { tags, blobs }),
            };
            inner.log(&record, self.since)
        };
        let Some(logged) = logged else { return Ok(None) };
        inner.write_log(&logged)?;
        Ok(Some(logged))
    }

    /// Gives it all its names, the tags last. The caller excludes others from the artifact.
    fn name(
        &mut self,
        plan: &mut Plan,
        record: Option<absent::Record>,
        tags: &[names::Pending],
        listing: &Listing<'_>,
        reserved: Reserved<'_>,
        published: &mut Published,
    ) -> Result<(), Error> {
        let store = self.store.clone();
        let (disk, digest) = (&*store.inner.disk, plan.root.digest);
        for (digest, held) in std::mem::take(&mut plan.new) {
            let mut linking = self.linking();
            // The log has the bytes of the root, and of nothing that it reaches.
            linking.is_logged = published.is_logged && digest == plan.root.digest;
            let has_healed = linking.publish(&digest, &self.member_path(&digest))?;
            if has_healed || held == Held::Heals {
                plan.receipt.store.n_healed += 1;
                plan.receipt.workspace.n_healed += u64::from(plan.known.contains(&digest));
            }
            published.unsynced.folders.push(self.pool().blobs(digest.algorithm()));
        }
        let listed = listing.repositories();
        let listed: Vec<Repository> =
            listed.iter().map(|name| store.repository(&self.workspace, name)).collect();
        // Where one of its names may be refused, nobody gives any of them before all are given.
        let exclude = |repository| listing.exclude(repository, &digest);
        let is_strict = listing.is_strict();
        let _all: Vec<_> = match is_strict {
            true => listed.iter().map(exclude).collect::<Result<_, _>>()?,
            false => Vec::new(),
        };
        self.place(plan, record)?;
        reserved.keep();
        let is_new = !plan.receipt.existed;
        published.unsynced.folders.extend(match listing.repository {
            // A put holds, whoever pushed the same before.
            None => pushed::unmark(disk, &self.workspace, &digest)?,
            Some(_) if is_new => pushed::mark(disk, &self.workspace, &digest)?,
            Some(_) => None,
        });
        published.unsynced.folders.extend(self.folders(&plan.place, &plan.closure));
        // Before it is listed: whoever deletes what it needs asks the index.
        self.remember(plan);
        // Names come last also for those who sync folder by folder.
        for repository in &listed {
            let _one = (!is_strict).then(|| exclude(repository)).transpose()?;
            self.list_in(repository, plan, tags, published)?;
        }
        published.unsynced.folders.dedup();
        Ok(())
    }

    /// Matches what was brought with what the closure needs.
    fn plan(&self, closure: Closure, unsynced: &mut Unsynced) -> Result<Plan, Error> {
        let mut receipt = Receipt { n_blobs: closure.nodes().len() as u64, ..Receipt::default() };
        let (mut new, mut known) = (Vec::new(), HashSet::new());
        for node in closure.nodes() {
            let (claim, digest) = (node.descriptor(), node.digest());
            let member = match self.member(&claim) {
                Err(Refusal::Missing { digest, .. }) if claim.may_be_absent() => {
                    receipt.absent.push(digest);
                    continue;
                }
                other => other?,
            };
            receipt.size = receipt.size.saturating_add(node.size());
            match self.store.is_held(&self.workspace, &digest, None) {
                true => drop(known.insert(digest)),
                false => receipt.workspace.n_written += 1,
            }
            if member.held != Held::Kept {
                receipt.store.n_written += u64::from(member.held != Held::Heals);
                new.push((digest, member.held));
            }
            let inner = &*self.store.inner;
            // Whoever tries again finds what the log has written anew.
            let is_logged =
                inner.is_logged(&digest).or_else(|lost| inner.empty_log().and(Err(lost)))?;
            if is_logged || (member.held != Held::Kept && !member.synced) {
                unsynced.files.push(layout::blob_in(&self.dir, &digest));
            }
        }
        let Some(Node::Manifest(root)) = closure.nodes().last() else {
            let digest = Digest::of(b"");
            return Err(Refusal::Missing { digest, media_type: String::new() }.into());
        };
        let root = root.descriptor();
        let place = layout::artifact(&self.workspace, &root.digest);
        Ok(Plan { closure, root, place, receipt, new, known, counted: 0 })
    }

    /// Writes what belongs to the artifact beside its members: the fixed files, the tags, and the
    /// record of what is absent. All of it is invisible still.
    fn write_rest(
        &self,
        plan: &Plan,
        names: &[Name],
        unsynced: &mut Unsynced,
    ) -> Result<(Vec<names::Pending>, Option<absent::Record>), Error> {
        let disk = &*self.store.inner.disk;
        let digest = plan.root.digest;
        for (name, bytes) in [
            (layout::OCI_LAYOUT_FILE, layout::OCI_LAYOUT),
            (layout::INDEX_FILE, &layout::index_json(&plan.root)[..]),
        ] {
            let path = self.dir.join(name);
            self.write(&path, bytes)?;
            unsynced.files.push(path);
        }
        let mut tags = Vec::with_capacity(names.len());
        for name in names {
            let path = self.spare("name");
            tags.push(names::prepare(disk, &self.workspace, name, &digest, path.clone())?);
            unsynced.files.push(path);
        }
        let mut record = None;
        if !plan.receipt.absent.is_empty() {
            let path = self.spare("absent");
            let absent = &plan.receipt.absent;
            let written = absent::prepare(disk, &self.workspace, &digest, absent, path.clone())?;
            unsynced.files.push(path);
            record = Some(written);
        }
        unsynced.folders.extend(self.folders(&self.dir, &plan.closure));
        Ok((tags, record))
    }

    /// Moves the layout to its place, or mends the one that is there. The caller excludes others
    /// from it.
    fn place(&mut self, plan: &mut Plan, record: Option<absent::Record>) -> Result<(), Error> {
        let disk = &*self.store.inner.disk;
        if let Some(record) = record
            && !self.store.inner.is_there(&plan.place)?
        {
            record.publish(disk)?;
        }
        match disk.rename_new(&self.dir, &plan.place) {
            Ok(()) => self.placed = true,
            Err(error) if is_in_the_way(&error) => {
                let n_mended = self.mend(&plan.place, &plan.closure)?;
                self.refuse_lost(plan)?;
                let Receipt { existed, workspace, store, .. } = &mut plan.receipt;
                *existed = true;
                // All of it was there, or should have been.
                workspace.n_written = 0;
                workspace.n_healed = workspace.n_healed.max(n_mended);
                store.n_healed = store.n_healed.max(n_mended);
            }
            Err(error) => return Err(Error::disk("renaming", &self.dir)(error)),
        }
        Ok(())
    }

    /// A layer that the artifact once had is not absent because nobody brings it again.
    fn refuse_lost(&self, plan: &Plan) -> Result<(), Error> {
        let disk = &*self.store.inner.disk;
        let mut lost = Vec::new();
        for digest in &plan.receipt.absent {
            if !self.store.inner.is_there(&layout::blob_in(&plan.place, digest))? {
                lost.push(*digest);
            }
        }
        if lost.is_empty() {
            return Ok(());
        }
        let limit = self.store.inner.options.limits.entries;
        let sealed_without = absent::get(disk, &self.workspace, &plan.root.digest, limit)?;
        lost.retain(|digest| !sealed_without.contains(digest));
        let damage = |digest| Damage { file: layout::blob_file(digest), what: DamageKind::Missing };
        match lost.is_empty() {
            true => Ok(()),
            false => Err(Error::Corrupt {
                artifact: plan.root.digest,
                damages: lost.iter().map(damage).collect(),
            }),
        }
    }

    /// Lists the artifact in a repository and moves its tags there to their places. The caller excludes others.
    fn list_in(
        &self,
        repository: &Repository,
        plan: &Plan,
        tags: &[names::Pending],
        published: &mut Published,
    ) -> Result<(), Error> {
        let inner = &*self.store.inner;
        let disk = &*inner.disk;
        if published.is_logged {
            // What a failed sync took from the log's files was written anew, and is in the draft as it was.
            inner.barrier.none_failed(self.since)?;
        }
        let tags: Vec<_> =
            tags.iter().filter(|tag| tag.name.repository() == repository.name()).collect();
        let mut made = Vec::new();
        let listed =
            repository.enlist(&plan.closure, &plan.place, Fills::Any, &self.linking(), &mut made);
        made.iter().for_each(|member| inner.unsettled_members.begin(member));
        published.members.extend(made);
        let mut changed = listed?;
        for tag in tags {
            inner.unsettled.begin(tag.folder());
            names::publish(disk, tag)?;
            changed.insert(tag.folder().clone());
            if let Some(index) = inner.index() {
                index.note_name(&self.workspace, &plan.root.digest, &tag.name);
            }
        }
        published.unsynced.folders.extend(changed);
        Ok(())
    }

    fn remember(&self, plan: &Plan) {
        let facts = facts_of(&plan.closure, plan.counted);
        if let Some(index) = self.store.inner.index() {
            let there = |node: &&Node| !plan.receipt.absent.contains(&node.digest());
            let members: Vec<(Digest, u64)> = plan
                .closure
                .nodes()
                .iter()
                .filter(there)
                .map(|node| (node.digest(), node.size()))
                .collect();
            index.note(&self.workspace, &plan.root.digest, &facts, &members);
        }
    }

    fn write(&self, path: &RelPath, bytes: &[u8]) -> Result<(), Error> {
        let disk = &*self.store.inner.disk;
        let file = disk.create(path, Create::Buffered).map_err(Error::disk("creating", path))?;
        write_all_at(&*file, bytes, 0).map_err(Error::disk("writing", path))
    }

    /// The innermost folders of a layout.
    pub(super) fn folders(&self, layout: &RelPath, closure: &Closure) -> Vec<RelPath> {
        let blobs = layout.join(layout::BLOBS);
        let uses = |a: Algorithm| closure.nodes().iter().any(|n| n.digest().algorithm() == a);
        let used = Algorithm::ALL.into_iter().filter(|a| uses(*a));
        used.map(|a| blobs.join(a.name())).collect()
    }

    /// What was brought and is not reached does not become part of the artifact.
    fn drop_strangers(&self, closure: &Closure) -> Result<(), Error> {
        let members = lock(&self.members);
        let reached: HashSet<Digest> = closure.nodes().iter().map(Node::digest).collect();
        let strangers = members.keys().filter(|digest| !reached.contains(*digest));
        for digest in strangers {
            let path = layout::blob_in(&self.dir, digest);
            self.store.inner.disk.unlink(&path).map_err(Error::disk("removing", &path))?;
        }
        Ok(())
    }

    pub(super) fn spare(&self, what: &str) -> RelPath {
        self.extras.path(what)
    }
}

fn is_in_the_way(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}
