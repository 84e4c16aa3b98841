//! A manifest on its way in: what it reaches is here already, and is linked together and sealed.
//!
//! What this process hashed while it wrote it for this repository, and what a link has held since, is
//! believed. All else is hashed before it is sealed: that it is listed says nothing of its bytes.

use std::collections::HashSet;
use std::io;

use super::Repository;
use super::take::{Found, Of};
use crate::digest::Digest;
use crate::disk::Stat;
use crate::draft::{Draft, Listing, Receipt};
use crate::error::Error;
use crate::layout::MemberKind;
use crate::memory::Share;
use crate::oci::{self, Closure, Descriptor, Manifest, Refusal, root_media_type};
use crate::proving::Place;
use crate::sealed::{CheckedBlob, Sealed};
use crate::source::Source;
use crate::workspace::{Name, Tag};

/// How many missing blobs are told at once.
const MOST_TOLD: usize = 100;
/// How often a rotten child is looked for again: where it was healed it is good then.
const N_TRIES: usize = 2;

/// A manifest that was read, with all that it reaches at hand.
pub struct Push {
    repository: Repository,
    draft: Draft,
    closure: Closure,
    root: Manifest,
    /// What `seal` has yet to hash.
    unproved: Vec<Descriptor>,
    _share: Share,
}

/// What a push did.
pub struct Pushed {
    /// The artifact that the manifest is the root of.
    pub sealed: Sealed,
    /// What became of its bytes.
    pub receipt: Receipt,
    /// What it is about, when it is a referrer.
    pub subject: Option<Digest>,
}

impl Repository {
    /// Reads a manifest and finds what it reaches: in this repository, in a sealed artifact of its workspace, or,
    /// of blobs, in another repository of it. Its subject is no child and need not be there; neither must a layer
    /// that may be absent.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Incomplete`] with all that is missing, [`Error::Busy`],
    /// [`Error::Quota`], [`Error::Full`], [`Error::Disk`].
    pub fn prepare(&self, claim: &Descriptor, bytes: Vec<u8>) -> Result<Push, Error> {
        let limits = self.inner().options.limits;
        let root = Manifest::parse(claim, bytes, &limits)?;
        // A document that does not say what it is would be another one when it is read again.
        let found = root_media_type(root.bytes());
        if found != claim.media_type {
            let (digest, claimed) = (claim.digest, claim.media_type.clone());
            return Err(Refusal::MediaType { digest, claimed, found }.into());
        }
        let mut share = self.inner().memory.share();
        let walked = oci::walk(claim, &limits, &mut |child| {
            share.grow(child.size)?;
            match child.digest == claim.digest {
                true => Ok(root.bytes().to_vec()),
                false => self.child_manifest(child),
            }
        });
        let closure = match walked {
            Err(Error::Refused(Refusal::Missing { .. })) => return Err(self.incomplete(&root)),
            other => other?,
        };
        let mut children: Vec<(Descriptor, Found)> = Vec::new();
        let mut lacking = Vec::new();
        for node in closure.nodes().iter().filter(|node| node.digest() != root.digest()) {
            let child = node.descriptor();
            match self.find_near(&child.digest)? {
                Some(found) => children.push((child, found)),
                None => lacking.push(child),
            }
        }
        let wanted: Vec<Digest> = lacking.iter().map(|child| child.digest).collect();
        let mut beside = self.find_beside(&wanted)?;
        for child in lacking {
            match beside.remove(&child.digest) {
                Some(found) => children.push((child, found)),
                None if child.may_be_absent() => {}
                None => return Err(self.incomplete(&root)),
            }
        }
        let draft = self.store.draft(&self.workspace)?;
        let mut unproved = Vec::new();
        for (child, found) in children {
            let adopted =
                self.check_size(&child, &found).and_then(|()| draft.adopt(&child, &found.path));
            let Some(stat) = self.unless_gone(&found, adopted)? else {
                return Err(Error::Incomplete { missing: vec![child.digest] });
            };
            if !self.inner().proofs.has((&self.workspace, &self.name), &child.digest, &stat) {
                unproved.push(child);
            }
        }
        Ok(Push { repository: self.clone(), draft, closure, root, unproved, _share: share })
    }

    /// Where something is that a manifest of this repository may reach.
    fn find(&self, digest: &Digest) -> Result<Option<Found>, Error> {
        match self.find_near(digest)? {
            Some(found) => Ok(Some(found)),
            None => Ok(self.find_beside(&[*digest])?.remove(digest)),
        }
    }

    /// The same without a look into other repositories.
    fn find_near(&self, digest: &Digest) -> Result<Option<Found>, Error> {
        for kind in [MemberKind::Blob, MemberKind::Manifest, MemberKind::Child] {
            if self.has(kind, digest)? {
                let (path, of) = (self.member(kind, digest), Of::Repository(self.name.clone()));
                return Ok(Some(Found { path, of }));
            }
        }
        self.in_layouts(digest)
    }

    /// Hashes what was found, as large as it is; what is rotten is healed or put away there.
    pub(super) fn prove_found(
        &self,
        digest: &Digest,
        found: &Found,
    ) -> Result<Option<CheckedBlob>, Error> {
        let checked = match &found.of {
            Of::Artifact(artifact) => self
                .store
                .sealed(&self.workspace, artifact)
                .and_then(|sealed| sealed.stopped_by(&self.stop).blob(digest)),
            Of::Repository(name) => {
                let stat = self.disk().stat(&found.path);
                let stat = stat.map_err(Error::disk("looking at", &found.path));
                let Some(Stat { size, .. }) = self.unless_gone(found, stat)? else {
                    return Ok(None);
                };
                let listed = self.store.repository(&self.workspace, name).stopped_by(&self.stop);
                match listed.prove(digest, size, &found.path) {
                    Ok(Ok(good)) => Ok(CheckedBlob::new(*digest, size, good.file)),
                    Ok(Err(_)) => return Ok(None),
                    Err(error) => Err(error),
                }
            }
        };
        match checked {
            Ok(checked) => Ok(Some(checked)),
            Err(Error::Corrupt { .. } | Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Nothing, when what was found was deleted or put away in this moment.
    fn unless_gone<T>(&self, found: &Found, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Err(Error::Disk { source, .. })
                if source.kind() == io::ErrorKind::NotFound && !self.is_there(&found.path)? =>
            {
                Ok(None)
            }
            other => other.map(Some),
        }
    }

    fn child_manifest(&self, claim: &Descriptor) -> Result<Vec<u8>, Error> {
        let (digest, media_type) = (claim.digest, claim.media_type.clone());
        let missing = || Refusal::Missing { digest, media_type: media_type.clone() };
        let Some(found) = self.find_near(&digest)? else { return Err(missing().into()) };
        // A blob of another size is no document that was asked for, however long it takes to hash.
        if self
            .disk()
            .stat(&found.path)
            .is_ok_and(|stat| stat.size > self.inner().options.limits.manifest_size)
        {
            let actual = self.disk().stat(&found.path).map_or(0, |stat| stat.size);
            return Err(Refusal::WrongSize { digest, claimed: claim.size, actual }.into());
        }
        // What is rotten is put away, and must be brought again.
        let Some(checked) = self.prove_found(&digest, &found)? else {
            return Err(missing().into());
        };
        let (claimed, actual) = (claim.size, checked.size());
        if claimed != actual {
            return Err(Refusal::WrongSize { digest, claimed, actual }.into());
        }
        let bytes = checked.whole().map_err(Error::disk("reading", &found.path))?;
        bytes.ok_or_else(|| missing().into())
    }

    /// A descriptor that claims another size than its blob has is refused; where rot cut the blob
    /// it is not the descriptor that is wrong.
    fn check_size(&self, claim: &Descriptor, found: &Found) -> Result<(), Error> {
        let (digest, claimed) = (claim.digest, claim.size);
        let stat = self.disk().stat(&found.path).map_err(Error::disk("looking at", &found.path))?;
        let actual = stat.size;
        if actual == claimed {
            return Ok(());
        }
        match self.prove_found(&digest, found)? {
            Some(checked) if checked.size() == claimed => Ok(()),
            Some(_) => Err(Refusal::WrongSize { digest, claimed, actual }.into()),
            None => Err(Error::Incomplete { missing: vec![digest] }),
        }
    }

    /// All that is missing, as far as manifests that are there tell.
    fn incomplete(&self, root: &Manifest) -> Error {
        let limits = &self.inner().options.limits;
        let mut missing = Vec::new();
        let mut met = HashSet::new();
        let (mut n_bytes, mut share) = (0_u64, self.inner().memory.share());
        let mut todo: Vec<Descriptor> = root.children().to_vec();
        while let Some(child) = todo.pop() {
            if missing.len() >= MOST_TOLD || met.len() > limits.entries {
                break;
            }
            if !met.insert(child.digest) {
                continue;
            }
            if !child.is_manifest() {
                match self.find_near(&child.digest) {
                    Ok(None) if !child.may_be_absent() => missing.push(child.digest),
                    Ok(_) => {}
                    Err(error) => return error,
                }
                continue;
            }
            if child.size > limits.manifest_size {
                let (digest, size, limit) = (child.digest, child.size, limits.manifest_size);
                return Refusal::TooLarge { digest, size, limit }.into();
            }
            n_bytes = n_bytes.saturating_add(child.size);
            if n_bytes > limits.manifests_size {
                break;
            }
            if let Err(busy) = share.grow(child.size) {
                return busy;
            }
            match self.child_manifest(&child) {
                Ok(bytes) => match Manifest::parse(&child, bytes, limits) {
                    Ok(manifest) => todo.extend_from_slice(manifest.children()),
                    Err(refusal) => return refusal.into(),
                },
                Err(Error::Refused(Refusal::Missing { digest, .. })) => missing.push(digest),
                Err(error) => return error,
            }
        }
        let beside = match self.find_beside(&missing) {
            Ok(beside) => beside,
            Err(error) => return error,
        };
        if beside.len() < missing.len() {
            missing.retain(|digest| !beside.contains_key(digest));
        }
        missing.sort();
        Error::Incomplete { missing }
    }
}

impl Push {
    /// Bytes that sealing has yet to hash.
    pub fn n_unproved(&self) -> u64 {
        self.unproved.iter().map(|child| child.size).fold(0, u64::saturating_add)
    }

    /// Seals the artifact, lists it and all it reaches, and moves the tags to it. All of it is
    /// durable when this returns. A tag that leads elsewhere is moved only if `may_move` says so.
    ///
    /// # Errors
    /// [`Error::TagTaken`], [`Error::Incomplete`] when something turned out rotten or was deleted
    /// meanwhile, [`Error::Stopped`], [`Error::Quota`], [`Error::Full`], [`Error::Disk`].
    pub fn seal(self, tags: &[Tag], may_move: &dyn Fn(&Tag) -> bool) -> Result<Pushed, Error> {
        let repository = &self.repository;
        let root = self.root.descriptor();
        let names = tags.iter().map(|tag| Name::new(&repository.name, tag)).collect();
        let listing = Listing { names, repository: Some(&repository.name), may_move };
        listing.check(&repository.store, &repository.workspace, &root.digest)?;
        let mut missing = Vec::new();
        for child in &self.unproved {
            if !self.prove(child)? && missing.len() < MOST_TOLD {
                missing.push(child.digest);
            }
        }
        if !missing.is_empty() {
            return Err(Error::Incomplete { missing });
        }
        let mut bytes = self.root.bytes();
        self.draft.take(&root.digest, root.size, Source::Stream(&mut bytes))?;
        let subject = self.root.subject().map(|subject| subject.digest);
        let (sealed, receipt) = self.draft.seal_closure(self.closure, &listing)?;
        Ok(Pushed { sealed, receipt, subject })
    }

    /// Hashes a child as the draft holds it. A rotten one is put away where it was found; if that
    /// healed it, the draft gets the good one.
    fn prove(&self, child: &Descriptor) -> Result<bool, Error> {
        let (repository, digest, size) = (&self.repository, child.digest, child.size);
        let inner = repository.inner();
        let path = self.draft.member_path(&digest);
        let pool = inner.pool(&repository.workspace);
        let stop = &repository.stop;
        let held = Place { inner, pool, digest, size, path: &path, stop };
        for _ in 0..N_TRIES {
            if held.look()?.is_ok() {
                return Ok(true);
            }
            self.draft.disown(&digest)?;
            let Some(found) = repository.find(&digest)? else { return Ok(false) };
            if repository.prove_found(&digest, &found)?.is_none_or(|c| c.size() != size) {
                return Ok(false);
            }
            let adopted = self.draft.adopt(child, &found.path);
            if repository.unless_gone(&found, adopted)?.is_none() {
                return Ok(false);
            }
        }
        Ok(false)
    }
}
