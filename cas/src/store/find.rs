//! Finding what is there: by digest, by a beginning of one, by name, by file, or all of it.
//!
//! Paths decide what exists; the index only saves reading.

use std::io;
use std::ops::ControlFlow;

use super::Store;
use crate::digest::{Algorithm, Digest};
use crate::disk::{Kind, RelPath};
use crate::error::Error;
use crate::index::Facts;
use crate::layout;
use crate::names;
use crate::sealed::Sealed;
use crate::workspace::{Name, Workspace};

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The artifact digest.
    pub digest: Digest,
    /// What its root and closure say.
    pub facts: Facts,
    /// Names that lead to it.
    pub names: Vec<Name>,
    /// When it was sealed, in seconds since 1970.
    pub sealed_at: u64,
    /// When it was last found whole, in seconds since 1970; may be lost in a crash.
    pub verified_at: Option<u64>,
}

impl Store {
    /// The artifact with this digest.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn sealed(&self, workspace: &Workspace, digest: &Digest) -> Result<Sealed, Error> {
        let path = layout::artifact(workspace, digest);
        match self.inner.disk.stat(&path) {
            Ok(stat) if stat.kind == Kind::Folder => {
                Ok(Sealed::new(self.clone(), workspace.clone(), *digest))
            }
            Ok(_) => Err(Error::NotFound { what: digest.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::NotFound { what: digest.to_string() })
            }
            Err(error) => Err(Error::disk("looking for", &path)(error)),
        }
    }

    /// What a reference means: a digest of an artifact or of a file, `[sha256:]` and at least four
    /// hex digits that begin one, `repository:tag`, or a handle's path.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`], [`Error::Name`].
    pub fn resolve(&self, workspace: &Workspace, reference: &str) -> Result<Digest, Error> {
        let not_found = || Error::NotFound { what: reference.chars().take(400).collect() };
        if let Ok(digest) = reference.parse::<Digest>() {
            return match self.sealed(workspace, &digest) {
                Err(Error::NotFound { .. }) => {
                    self.only(reference, self.wrappers(workspace, &digest)?)
                }
                found => found.map(|sealed| sealed.digest()),
            };
        }
        // A handle holds no colon, a name always does.
        if let Some(rest) = reference.strip_prefix(&format!("{}/", layout::ARTIFACTS))
            && !rest.contains(':')
        {
            let parts: Vec<&str> = rest.split('/').collect();
            let [of, algorithm, hex] = parts[..] else { return Err(not_found()) };
            let digest = format!("{algorithm}:{hex}").parse::<Digest>().map_err(|_| not_found())?;
            if of != workspace.as_str() {
                return Err(not_found());
            }
            return self.sealed(workspace, &digest).map(|sealed| sealed.digest());
        }
        let (algorithm, digits) = match reference.split_once(':') {
            Some((name, digits)) if Algorithm::from_name(name).is_some() => (Some(name), digits),
            _ => (None, reference),
        };
        let is_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if digits.len() >= 4 && digits.bytes().all(is_hex) {
            let mut found = Vec::new();
            self.each_artifact(workspace, &mut |digest| {
                let fits = algorithm.is_none_or(|a| a == digest.algorithm().name());
                if fits && digest.hex().starts_with(digits) {
                    found.push(digest);
                }
                if found.len() > 100 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
            return self.only(reference, found);
        }
        if !reference.contains(':') {
            return Err(not_found());
        }
        let name: Name = reference.parse()?;
        let digest = names::get(&*self.inner.disk, workspace, &name)?.ok_or_else(not_found)?;
        match self.sealed(workspace, &digest) {
            Err(Error::NotFound { .. }) => Err(not_found()),
            found => found.map(|sealed| sealed.digest()),
        }
    }

    fn only(&self, reference: &str, mut found: Vec<Digest>) -> Result<Digest, Error> {
        found.sort();
        match found[..] {
            [] => Err(Error::NotFound { what: reference.to_owned() }),
            [digest] => Ok(digest),
            _ => Err(Error::Ambiguous { reference: reference.to_owned(), candidates: found }),
        }
    }

    /// The artifacts that wrap a file with this digest.
    fn wrappers(&self, workspace: &Workspace, file: &Digest) -> Result<Vec<Digest>, Error> {
        if let Some(mut found) = self.inner.index().and_then(|i| i.wrappers(workspace, file)) {
            found.retain(|artifact| self.sealed(workspace, artifact).is_ok());
            return Ok(found);
        }
        let mut found = Vec::new();
        for digest in self.artifacts(workspace)? {
            match self.facts(workspace, &digest) {
                Ok(facts) if facts.file == Some(*file) => found.push(digest),
                Err(Error::Busy) => return Err(Error::Busy),
                _ => {}
            }
        }
        Ok(found)
    }

    /// The artifacts of a workspace after `after`, ordered by digest, at most `limit` of them, and
    /// after which one to go on when there are more.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn list(
        &self,
        workspace: &Workspace,
        after: Option<&Digest>,
        limit: usize,
    ) -> Result<(Vec<Summary>, Option<Digest>), Error> {
        let mut digests = self.artifacts(workspace)?;
        digests.retain(|digest| after.is_none_or(|after| digest > after));
        let is_more = digests.len() > limit;
        digests.truncate(limit);
        let next = digests.last().copied().filter(|_| is_more);
        let mut found = Vec::with_capacity(digests.len());
        for digest in &digests {
            match self.summary(workspace, digest) {
                // Retired since the folder was listed.
                Err(Error::NotFound { .. }) => {}
                other => found.push(other?),
            }
        }
        Ok((found, next))
    }

    /// One line of a listing.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Disk`].
    pub fn summary(&self, workspace: &Workspace, digest: &Digest) -> Result<Summary, Error> {
        let sealed = self.sealed(workspace, digest)?;
        let facts = match self.facts(workspace, digest) {
            Ok(facts) => facts,
            Err(Error::Busy) => return Err(Error::Busy),
            // A listing shows what is there; that it is damaged is for `check` to say.
            Err(_) => Facts {
                media_type: "unreadable".to_owned(),
                artifact_type: None,
                title: None,
                file: None,
                size: 0,
                n_blobs: 0,
            },
        };
        let index = self.inner.index();
        Ok(Summary {
            digest: *digest,
            facts,
            names: self.names_of(workspace, digest)?,
            sealed_at: sealed.sealed_at()?,
            verified_at: index.and_then(|index| index.verified_at(workspace, digest)),
        })
    }

    pub(crate) fn facts(&self, workspace: &Workspace, digest: &Digest) -> Result<Facts, Error> {
        if let Some(facts) = self.inner.index().and_then(|index| index.facts(workspace, digest)) {
            return Ok(facts);
        }
        let (facts, members) = self.sealed(workspace, digest)?.facts()?;
        if let Some(index) = self.inner.index() {
            index.note(workspace, digest, &facts, &members);
        }
        Ok(facts)
    }

    /// The names that lead to an artifact, in order.
    pub(crate) fn names_of(
        &self,
        workspace: &Workspace,
        digest: &Digest,
    ) -> Result<Vec<Name>, Error> {
        let disk = &*self.inner.disk;
        let index = self.inner.index();
        let mut names = Vec::new();
        match index.as_ref().and_then(|index| index.names(workspace, digest)) {
            Some(noted) => {
                for name in noted {
                    match names::get(disk, workspace, &name) {
                        Ok(Some(there)) if there == *digest => names.push(name),
                        // It leads elsewhere by now; that goes when the artifact is retired.
                        Ok(_) => {}
                        Err(error @ Error::DamagedName { .. }) => {
                            tracing::error!(%workspace, %error, "a name cannot be read");
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            None => names::each(disk, workspace, &mut |name, there| {
                if there == *digest {
                    names.push(name);
                }
            })?,
        }
        names.sort();
        Ok(names)
    }

    /// Whether an artifact of the workspace, but for `besides`, reaches a digest. Without an index
    /// nobody looks, and the answer is no.
    pub(crate) fn is_held(
        &self,
        workspace: &Workspace,
        member: &Digest,
        besides: Option<&Digest>,
    ) -> bool {
        let Some(index) = self.inner.index() else { return false };
        let mut is_held = false;
        let known = index.holders(workspace, member, &mut |artifact| {
            let layout = layout::artifact(workspace, &artifact);
            is_held = besides != Some(&artifact)
                && self.inner.disk.stat(&layout::blob_in(&layout, member)).is_ok();
            !is_held
        });
        known.is_some() && is_held
    }

    /// Records that an artifact was found whole, `at` seconds after 1970.
    pub fn note_verified(&self, workspace: &Workspace, digest: &Digest, at: u64) {
        if let Some(index) = self.inner.index() {
            index.note_verified(workspace, digest, at);
        }
    }

    /// The workspaces that have a folder.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn workspaces(&self) -> Result<Vec<Workspace>, Error> {
        let entries = self.inner.entries(&RelPath::new(layout::ARTIFACTS))?;
        let mut found: Vec<Workspace> =
            entries.iter().filter_map(|entry| entry.name.parse().ok()).collect();
        found.sort();
        Ok(found)
    }

    /// The artifacts of a workspace that reach a digest, with the names that lead to them.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn holders(
        &self,
        workspace: &Workspace,
        digest: &Digest,
    ) -> Result<Vec<(Digest, Vec<Name>)>, Error> {
        let mut reaching = Vec::new();
        let known = self.inner.index().and_then(|index| {
            index.holders(workspace, digest, &mut |artifact| {
                reaching.push(artifact);
                true
            })
        });
        if known.is_none() {
            reaching = self.artifacts(workspace)?;
        }
        let mut holders = Vec::new();
        for artifact in reaching {
            let layout = layout::artifact(workspace, &artifact);
            if self.inner.disk.stat(&layout::blob_in(&layout, digest)).is_ok() {
                holders.push((artifact, self.names_of(workspace, &artifact)?));
            }
        }
        Ok(holders)
    }

    /// The digests of a workspace's artifacts, ordered.
    pub(crate) fn artifacts(&self, workspace: &Workspace) -> Result<Vec<Digest>, Error> {
        let mut digests = Vec::new();
        self.each_artifact(workspace, &mut |digest| {
            digests.push(digest);
            ControlFlow::Continue(())
        })?;
        digests.sort();
        Ok(digests)
    }

    fn each_artifact(
        &self,
        workspace: &Workspace,
        each: &mut dyn FnMut(Digest) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        for algorithm in Algorithm::ALL {
            let folder = layout::workspace(workspace).join(algorithm.name());
            let listed = self.inner.disk.list(&folder, &mut |entry| match Digest::from_hex(
                algorithm,
                &entry.name,
            ) {
                Ok(digest) => each(digest),
                Err(_) => ControlFlow::Continue(()),
            });
            match listed {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(Error::disk("listing", &folder))?,
            }
        }
        Ok(())
    }
}
