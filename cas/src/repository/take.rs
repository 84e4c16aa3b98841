//! A blob on its way into a repository: brought, or found in the workspace.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Repository;
use super::members::Fills;
use crate::digest::Digest;
use crate::disk::{Kind, RelPath};
use crate::draft::Taken;
use crate::durable::{Unsynced, lost, settle_way};
use crate::error::Error;
use crate::intake::{Expected, Intake};
use crate::layout::{self, MemberKind};
use crate::linking::{Linking, Scraps};
use crate::names::{self, N_TRIES, move_into};
use crate::quarantine::{self, Subject};
use crate::source::{Reading, Source};
use crate::wal::{self, Record};
use crate::workspace::RepositoryName;

/// How many blobs are looked for at once in all repositories of a workspace.
const MOST_BESIDE: usize = 256;

/// Where something is.
pub(super) struct Found {
    pub(super) path: RelPath,
    pub(super) of: Of,
}

/// Whose file it is.
pub(super) enum Of {
    Repository(RepositoryName),
    /// In its layout.
    Artifact(Digest),
}

impl Repository {
    /// Takes a blob in: every byte of the source is read and hashed, whatever the store has. It is
    /// listed and durable when this returns, and stays until it is deleted.
    ///
    /// # Errors
    /// [`Error::Refused`] with a mismatch or wrong size, [`Error::SourceRead`],
    /// [`Error::SourceChanged`], [`Error::Quota`], [`Error::Full`], [`Error::Disk`].
    pub fn take(
        &self,
        claimed: &Digest,
        size: Option<u64>,
        source: Source<'_>,
    ) -> Result<Taken, Error> {
        let inner = self.inner();
        let disk = self.disk();
        inner.admit(size.unwrap_or(0))?;
        inner.ensure_workspace(&self.workspace)?;
        let scraps = Scraps::new(&self.store);
        let mut linking = Linking::new(inner, inner.pool(&self.workspace), &scraps);
        let own = scraps.path("blob");
        let mut unsynced = Unsynced { since: inner.barrier.n_failed(), ..Unsynced::default() };

        let (existing, _) = linking.hold(claimed, &own)?;
        // Whether the store has it must not show: room is looked for in both cases, and taken for
        // what has come, never on somebody's word.
        inner.has_room(size.unwrap_or(0))?;
        let writing = inner.writing();
        let progress = AtomicU64::new(0);
        let may_grow = |size| {
            inner.admit(progress.load(Ordering::Relaxed).saturating_add(size))?;
            writing.grow(size)
        };
        let intake = Intake {
            disk,
            path: &own,
            existing,
            wanted_upto: wal::MOST_BYTES,
            pipeline_from: inner.options.pipeline_from,
            progress: &progress,
            may_grow: &may_grow,
            on_rot: Box::new(|rotten| {
                tracing::error!(digest = %claimed, "the store's copy is rotten and is replaced");
                quarantine::keep_open(disk, &Subject::Blob(*claimed), rotten);
            }),
        };
        let expected = Expected { algorithm: claimed.algorithm(), digest: Some(*claimed), size };
        let proved = intake.run(&expected, Reading::new(source)?)?;

        let (workspace, repository) = (&self.workspace, &self.name);
        if let Some(bytes) = proved.bytes.as_deref().filter(|_| !proved.kept) {
            let record = Record { workspace, repository, digest: claimed, bytes, manifest: None };
            if let Some(logged) = inner.log(&record, unsynced.since) {
                inner.write_log(&logged)?;
                linking.is_logged = true;
                self.name_blob(claimed, &own, false, &linking)?;
                drop(logged);
                inner.relieve_log();
                return Ok(Taken { digest: proved.digest, size: proved.size });
            }
        }
        // The store's own copy is safe already.
        if !proved.kept && !proved.synced {
            unsynced.files.push(own.clone());
        }
        self.list_blob(claimed, &own, unsynced, proved.kept, &linking)?;
        inner.relieve_log();
        Ok(Taken { digest: proved.digest, size: proved.size })
    }

    /// Gives a blob that was hashed while it was written its names, durably. `is_ours` when it is
    /// the pool's own file already.
    ///
    /// One sync is enough: it makes the bytes durable under a name in the repository that says what
    /// they are to be. Whatever a crash takes of the rest, the next start does again.
    pub(super) fn list_blob(
        &self,
        digest: &Digest,
        own: &RelPath,
        mut unsynced: Unsynced,
        is_ours: bool,
        linking: &Linking<'_>,
    ) -> Result<(), Error> {
        let (inner, disk) = (self.inner(), self.disk());
        let folder = self.folder(MemberKind::Blob);
        let coming = layout::coming_file(digest, inner.number());
        move_into(disk, own, &folder, &coming)?;
        let coming = folder.join(&coming);
        linking.scraps.moved(own, &coming);
        if !unsynced.files.is_empty() {
            unsynced.files = vec![coming.clone()];
        }
        unsynced.folders.push(folder);
        inner.barrier.settle_alone(disk, &unsynced)?;
        self.name_blob(digest, &coming, is_ours, linking)?;
        if inner.unsettled_members.has(&self.member(MemberKind::Blob, digest)) {
            // Of that file somebody else made a member, and did not sync it yet.
            inner.barrier.counted(settle_way(disk, &self.folder(MemberKind::Blob)))?;
        }
        // If that name stayed, the next start would list the blob again, whoever deleted it meanwhile.
        self.unlink(&coming)?;
        linking.scraps.gone(&coming);
        Ok(())
    }

    /// Gives a blob whose bytes are safe its names.
    fn name_blob(
        &self,
        digest: &Digest,
        own: &RelPath,
        is_ours: bool,
        linking: &Linking<'_>,
    ) -> Result<(), Error> {
        let disk = self.disk();
        if !is_ours {
            linking.publish(digest, own)?;
        }
        let stat = disk.stat(own).map_err(Error::disk("looking at", own))?;
        {
            let _repository = self.exclude();
            // Two names of one file stay as they are; then the scraps take this one away.
            move_into(disk, own, &self.folder(MemberKind::Blob), layout::digest_file(digest))?;
        }
        self.inner().proofs.note((&self.workspace, &self.name), digest, &stat);
        Ok(())
    }

    /// Lists a blob that another repository of the workspace lists (`from`, if that is given, and
    /// no other) or that an artifact of the workspace has. Its lease begins anew here. Returns its size; `None`
    /// when there is no such blob, or none that is whole where it was found rotten before.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn mount(
        &self,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<Option<u64>, Error> {
        let inner = self.inner();
        let Some(source) = self.mountable(digest, from)? else { return Ok(None) };
        let scraps = Scraps::new(&self.store);
        let linking = Linking::new(inner, inner.pool(&self.workspace), &scraps);
        let since = inner.barrier.n_failed();
        let member = self.member(MemberKind::Blob, digest);
        if !inner.rest_on(digest, &source)? {
            inner.empty_log()?;
        }
        // What is listed already stays: nobody has looked at the bytes of the other one.
        let repository = self.exclude();
        let linked = self.link(digest, &source, &member, Fills::Empty, &linking);
        if matches!(linked, Ok(true)) {
            inner.unsettled_members.begin(&member);
        }
        drop(repository);
        match linked {
            Ok(true) => {}
            Ok(false) => self.renew(digest, &member),
            // Deleted in this moment.
            Err(Error::Disk { source: error, .. })
                if error.kind() == io::ErrorKind::NotFound && !self.is_there(&source)? =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        // Perhaps it is another one than a moment ago.
        if !inner.rest_on(digest, &member)? {
            return Err(lost("linking", &member));
        }
        let folders = vec![linking.pool.blobs(digest.algorithm()), self.folder(MemberKind::Blob)];
        inner.settle(&Unsynced { folders, since, ..Unsynced::default() })?;
        if matches!(linked, Ok(true)) {
            inner.unsettled_members.end(&member);
        }
        match self.disk().stat(&member) {
            Ok(stat) => Ok(Some(stat.size)),
            // Deleted in this moment.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::disk("looking at", &member)(error)),
        }
    }

    /// A file of the workspace that holds this blob, by its name there. Of a blob that was found rotten
    /// somewhere it is hashed first.
    fn mountable(
        &self,
        digest: &Digest,
        from: Option<&RepositoryName>,
    ) -> Result<Option<RelPath>, Error> {
        for _ in 0..N_TRIES {
            let found = match from {
                Some(from) => {
                    let path = self.blob_in(from, digest)?;
                    path.map(|path| Found { path, of: Of::Repository(from.clone()) })
                }
                None => match self.in_layouts(digest)? {
                    Some(found) => Some(found),
                    None => self.find_beside(&[*digest])?.remove(digest),
                },
            };
            let Some(found) = found else { return Ok(None) };
            let is_suspect = quarantine::knows(self.disk(), &Subject::Blob(*digest));
            // What is rotten is put away: it is not found again.
            if !is_suspect || self.prove_found(digest, &found)?.is_some() {
                return Ok(Some(found.path));
            }
        }
        Ok(None)
    }

    /// Blobs that other repositories of the workspace list; of very many only some are looked for.
    pub(super) fn find_beside(&self, wanted: &[Digest]) -> Result<HashMap<Digest, Found>, Error> {
        let wanted = &wanted[..wanted.len().min(MOST_BESIDE)];
        let mut found = HashMap::new();
        if wanted.is_empty() {
            return Ok(found);
        }
        for name in names::repositories(self.disk(), &self.workspace)? {
            if found.len() == wanted.len() {
                break;
            }
            for digest in wanted {
                if !found.contains_key(digest)
                    && let Some(path) = self.blob_in(&name, digest)?
                {
                    found.insert(*digest, Found { path, of: Of::Repository(name.clone()) });
                }
            }
        }
        Ok(found)
    }

    /// The file of a blob that a repository of the workspace lists.
    fn blob_in(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<RelPath>, Error> {
        let folder = layout::members(&self.workspace, name, MemberKind::Blob);
        let path = folder.join(layout::digest_file(digest));
        match self.disk().stat(&path) {
            Ok(stat) => Ok((stat.kind == Kind::File).then_some(path)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::disk("looking at", &path)(error)),
        }
    }

    /// A layout's file of the workspace that holds this, and whose layout it is, if the index knows
    /// of one.
    pub(super) fn in_layouts(&self, digest: &Digest) -> Result<Option<Found>, Error> {
        let mut found = Ok(None);
        if let Some(index) = self.inner().index() {
            index.holders(&self.workspace, digest, &mut |artifact| {
                let layout = layout::artifact(&self.workspace, &artifact);
                let path = layout::blob_in(&layout, digest);
                let is_there = self.is_there(&path);
                let of = Of::Artifact(artifact);
                found = is_there.map(|there| there.then_some(Found { path, of }));
                matches!(found, Ok(None))
            });
        }
        found
    }
}
