//! What is listed: links under `_members/`, made from a layout, and what needs which of them.

use std::collections::{BTreeSet, HashSet};
use std::io;

use super::Repository;
use crate::absent;
use crate::digest::Digest;
use crate::disk::RelPath;
use crate::error::Error;
use crate::layout::{self, MemberKind};
use crate::linking::Linking;
use crate::names::{N_TRIES, make_dirs};
use crate::oci::{Closure, Descriptor, Manifest, Node, root_media_type};
use crate::reader::read_small;
use crate::workspace::Name;

/// Which names are made to lead to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fills {
    /// Those that lead nowhere: the file was not proved just now.
    Empty,
    /// All: it was.
    Any,
}

impl Repository {
    /// Where a member of that kind is linked.
    pub(crate) fn member(&self, kind: MemberKind, digest: &Digest) -> RelPath {
        self.folder(kind).join(layout::digest_file(digest))
    }

    pub(crate) fn folder(&self, kind: MemberKind) -> RelPath {
        layout::members(&self.workspace, &self.name, kind)
    }

    pub(crate) fn has(&self, kind: MemberKind, digest: &Digest) -> Result<bool, Error> {
        self.is_there(&self.member(kind, digest))
    }

    /// Where a referrer of that subject is linked.
    pub(super) fn referrer(&self, subject: &Digest, digest: &Digest) -> RelPath {
        self.subject(subject).join(layout::digest_file(digest))
    }

    pub(super) fn subject(&self, subject: &Digest) -> RelPath {
        layout::referrers(&self.workspace, &self.name).join(layout::digest_file(subject))
    }

    /// The digests that the names in a folder stand for, in no order.
    pub(crate) fn digests_in(&self, folder: &RelPath) -> Result<Vec<Digest>, Error> {
        let entries = self.inner().entries(folder)?;
        Ok(entries.iter().filter_map(|entry| layout::digest_of_file(&entry.name)).collect())
    }

    /// Lists a sealed artifact with all that it reaches, the root last: what is listed halfway,
    /// because a call failed, has no root. Returns the folders that are to be synced; `made` gets the members
    /// that are new. The caller excludes others from the layout and from the repository.
    pub(crate) fn enlist(
        &self,
        closure: &Closure,
        layout: &RelPath,
        fills: Fills,
        linking: &Linking<'_>,
        made: &mut Vec<RelPath>,
    ) -> Result<BTreeSet<RelPath>, Error> {
        let mut changed = BTreeSet::new();
        let Some(root) = closure.manifests().last() else { return Ok(changed) };
        for node in closure.nodes() {
            let digest = node.digest();
            let kind = match node {
                Node::Manifest(manifest) if manifest.digest() == root.digest() => {
                    MemberKind::Manifest
                }
                Node::Manifest(_) => MemberKind::Child,
                Node::Blob(_) => MemberKind::Blob,
            };
            let from = layout::blob_in(layout, &digest);
            // What may be absent and is cannot be listed, and neither can what rot took from an artifact
            // that is listed again: whoever brings it lists it.
            let may_be_absent = matches!(node, Node::Blob(claim) if claim.may_be_absent());
            if (may_be_absent || fills == Fills::Empty) && !self.is_there(&from)? {
                if !may_be_absent {
                    tracing::warn!(%digest, repository = %self.name, "lost, and not listed again");
                }
                continue;
            }
            let member = self.member(kind, &digest);
            if self.link(&digest, &from, &member, fills, linking)? {
                made.push(member);
            }
            changed.insert(self.folder(kind));
        }
        if let Some(subject) = root.subject() {
            let from = layout::blob_in(layout, &root.digest());
            let entry = self.referrer(&subject.digest, &root.digest());
            self.link(&root.digest(), &from, &entry, fills, linking)?;
            changed.insert(self.subject(&subject.digest));
        }
        Ok(changed)
    }

    /// Makes a name of this repository lead to that very file. Says whether it did not before.
    pub(super) fn link(
        &self,
        digest: &Digest,
        from: &RelPath,
        to: &RelPath,
        fills: Fills,
        linking: &Linking<'_>,
    ) -> Result<bool, Error> {
        let disk = self.disk();
        let inode = |path: &RelPath| disk.stat(path).ok().map(|stat| stat.inode);
        let mut linked = linking.link(digest, from, to);
        for _ in 0..N_TRIES {
            match &linked {
                Err(Error::Disk { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && self.is_there(from)? =>
                {
                    // The folder was never made, or somebody tidied it away.
                    if let Some((folder, _)) = to.split() {
                        make_dirs(disk, &folder, 0o700)?;
                    }
                    linked = linking.link(digest, from, to);
                }
                _ => break,
            }
        }
        if linked? {
            return Ok(true);
        }
        let is_other = fills == Fills::Any && inode(from) != inode(to);
        if is_other {
            // Another file: it may be one that rotted and was brought again since.
            let spare = linking.scraps.path("member");
            linking.link(digest, from, &spare)?;
            disk.rename(&spare, to).map_err(Error::disk("renaming", &spare))?;
        }
        Ok(is_other)
    }

    /// Ends a name; none is as good. Says whether there was one.
    pub(crate) fn unlink(&self, path: &RelPath) -> Result<bool, Error> {
        match self.disk().unlink(path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::disk("removing", path)(error)),
        }
    }

    /// A manifest that is listed here, another than `besides`, and reaches `digest`. One whose index was deleted
    /// is read still, for as long as its lease is.
    pub(crate) fn needed_by(
        &self,
        digest: &Digest,
        besides: &Digest,
    ) -> Result<Option<Digest>, Error> {
        self.reached_by(digest, &|artifact| Ok(artifact != besides && self.lists_as_any(artifact)?))
    }

    /// Another artifact that has `digest`, among those that count.
    pub(super) fn reached_by(
        &self,
        digest: &Digest,
        counts: &dyn Fn(&Digest) -> Result<bool, Error>,
    ) -> Result<Option<Digest>, Error> {
        let reaches = |artifact: &Digest| -> Result<bool, Error> {
            let layout = layout::artifact(&self.workspace, artifact);
            Ok(artifact != digest
                && counts(artifact)?
                && self.is_there(&layout::blob_in(&layout, digest))?)
        };
        let mut found = Ok(None);
        let known = self.inner().index().and_then(|index| {
            index.holders(&self.workspace, digest, &mut |artifact| {
                found = reaches(&artifact).map(|reaches| reaches.then_some(artifact));
                matches!(found, Ok(None))
            })
        });
        if known.is_some() {
            return found;
        }
        for kind in [MemberKind::Manifest, MemberKind::Child] {
            for artifact in self.digests_in(&self.folder(kind))? {
                if reaches(&artifact)? {
                    return Ok(Some(artifact));
                }
            }
        }
        Ok(None)
    }

    /// The names here that lead to an artifact.
    pub(super) fn names_of(&self, artifact: &Digest) -> Result<Vec<Name>, Error> {
        let mut names = self.store.names_of(&self.workspace, artifact)?;
        names.retain(|name| *name.repository() == self.name);
        Ok(names)
    }

    /// A manifest that is listed here, and reaches this blob or was sealed without it: a layer that came since
    /// stays for as long as such a manifest does.
    pub(crate) fn kept_by(&self, blob: &Digest) -> Result<Option<Digest>, Error> {
        if let Some(by) = self.needed_by(blob, blob)? {
            return Ok(Some(by));
        }
        for artifact in absent::recorded(self.disk(), &self.workspace)? {
            if self.lists_as_any(&artifact)? && self.absent(&artifact)?.contains(blob) {
                return Ok(Some(artifact));
            }
        }
        Ok(None)
    }

    fn absent(&self, artifact: &Digest) -> Result<HashSet<Digest>, Error> {
        let limit = self.inner().options.limits.entries;
        absent::get(self.disk(), &self.workspace, artifact, limit)
    }

    /// Takes away what is listed here for the sake of one artifact and of nothing else, but for
    /// the artifact itself. The folders that are to be synced go to `changed`; the parts that another
    /// artifact needs stay, and are returned. The caller excludes others.
    pub(crate) fn delist_parts(
        &self,
        artifact: &Digest,
        parts: &[Digest],
        changed: &mut Vec<RelPath>,
    ) -> Result<Vec<Digest>, Error> {
        let needed = self.needed(Some(artifact))?;
        // The log may have this artifact, or one that is about to be listed and needs a part of it.
        let is_safe =
            |part: &Digest| !self.inner().log_rests_on(&self.member(MemberKind::Blob, part));
        let (kept, needless): (Vec<Digest>, Vec<Digest>) =
            parts.iter().partition(|part| needed.contains(*part) || !is_safe(part));
        for part in needless {
            for kind in [MemberKind::Child, MemberKind::Blob] {
                if self.unlink(&self.member(kind, &part))? {
                    changed.push(self.folder(kind));
                }
            }
        }
        Ok(kept)
    }

    /// Everything that manifests listed here by themselves reach, but for one of them; and what was absent when
    /// a manifest that is listed here was sealed. No push makes a record of a layer that is here.
    pub(crate) fn needed(&self, besides: Option<&Digest>) -> Result<HashSet<Digest>, Error> {
        let mut needed = HashSet::new();
        for listed in self.digests_in(&self.folder(MemberKind::Manifest))? {
            if Some(&listed) == besides {
                continue;
            }
            let layout = layout::artifact(&self.workspace, &listed);
            needed.extend(self.inner().digests_in(&layout)?);
        }
        for artifact in absent::recorded(self.disk(), &self.workspace)? {
            if Some(&artifact) != besides && self.lists_as_any(&artifact)? {
                needed.extend(self.absent(&artifact)?);
            }
        }
        Ok(needed)
    }

    /// Ends the listing of an artifact itself, once nothing leads to it any more. Returns the folder that
    /// is to be synced.
    pub(crate) fn delist_root(&self, artifact: &Digest) -> Result<Option<RelPath>, Error> {
        let gone = self.unlink(&self.member(MemberKind::Manifest, artifact))?;
        Ok(gone.then(|| self.folder(MemberKind::Manifest)))
    }

    /// Whether the artifact is listed here by itself.
    pub(crate) fn lists(&self, artifact: &Digest) -> Result<bool, Error> {
        self.has(MemberKind::Manifest, artifact)
    }

    /// Whether a manifest is listed here, by itself or because another reaches it.
    pub(crate) fn lists_as_any(&self, manifest: &Digest) -> Result<bool, Error> {
        Ok(self.lists(manifest)? || self.has(MemberKind::Child, manifest)?)
    }

    /// Ends the entry of a manifest among the referrers of its subject. The manifest itself must
    /// still be listed: it says what its subject is. It is only read, not proved, because the
    /// caller excludes others already.
    pub(crate) fn forget_referrer(&self, digest: &Digest) -> Result<Option<RelPath>, Error> {
        let subjects = match self.read_unproved(digest) {
            Some(manifest) => manifest.subject().map(|s| s.digest).into_iter().collect(),
            // It cannot be read: then it is looked for.
            None => self.digests_in(&layout::referrers(&self.workspace, &self.name))?,
        };
        for subject in subjects {
            if self.unlink(&self.referrer(&subject, digest))? {
                let folder = self.subject(&subject);
                // The last one takes the folder with it.
                let _ = self.disk().remove_dir(&folder);
                return Ok(Some(folder));
            }
        }
        Ok(None)
    }

    fn read_unproved(&self, digest: &Digest) -> Option<Manifest> {
        let limits = &self.inner().options.limits;
        let file = self.disk().open(&self.member(MemberKind::Manifest, digest)).ok()?;
        let size = file.stat().ok()?.size;
        let bytes = read_small(&*file, size.min(limits.manifest_size)).ok()??;
        let claim = Descriptor::new(root_media_type(&bytes), *digest, size);
        Manifest::parse(&claim, bytes, limits).ok()
    }

    /// A manifest that is listed by itself, proved and parsed.
    pub(super) fn listed_manifest(&self, digest: &Digest) -> Result<Manifest, Error> {
        self.manifest_at(digest, &[MemberKind::Manifest])?.parsed()
    }
}
