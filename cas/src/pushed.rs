//! Artifacts that were pushed and that nobody put: a repository that lists one is all that holds it.
//!
//! A mark is a link to the artifact's root, made when a push seals what was not there, and removed,
//! durably, when somebody puts it: a put holds until it is retired. Without a mark nothing is ever
//! retired here, so a mark that a crash took keeps too much and never loses anything.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;

use crate::digest::{Algorithm, Digest};
use crate::disk::{Disk, RelPath};
use crate::error::Error;
use crate::layout::{self, MemberKind};
use crate::names;
use crate::quarantine::{self, Subject};
use crate::store::Store;
use crate::workspace::Workspace;

/// Marks an artifact whose layout was just made. Returns the folder that is to be synced. The
/// caller excludes others from it.
pub(crate) fn mark(
    disk: &dyn Disk,
    workspace: &Workspace,
    artifact: &Digest,
) -> Result<Option<RelPath>, Error> {
    let root = layout::blob_in(&layout::artifact(workspace, artifact), artifact);
    let (mark, folder) =
        (layout::pushed(workspace, artifact), layout::pushed_by(workspace, artifact.algorithm()));
    let mut linked = disk.link(&root, &mark);
    if linked.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        names::make_dirs(disk, &folder, 0o700)?;
        linked = disk.link(&root, &mark);
    }
    match linked {
        // With no link left it stays unmarked, and is held until it is retired.
        Err(error) if error.kind() == io::ErrorKind::TooManyLinks => Ok(None),
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::disk("linking", &mark)(error))
        }
        _ => Ok(Some(folder)),
    }
}

/// Takes the mark away, if there is one. Returns the folder that is to be synced before anybody is
/// told. The caller excludes others from the artifact.
pub(crate) fn unmark(
    disk: &dyn Disk,
    workspace: &Workspace,
    artifact: &Digest,
) -> Result<Option<RelPath>, Error> {
    let mark = layout::pushed(workspace, artifact);
    match disk.unlink(&mark) {
        Ok(()) => Ok(Some(layout::pushed_by(workspace, artifact.algorithm()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::disk("removing", &mark)(error)),
    }
}

impl Store {
    /// Retires the artifacts that were pushed, that nobody put, and that no repository lists any
    /// more; with `dry_run` only counts them. `pace` is called after each, so that the caller can let
    /// the disk breathe.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Busy`].
    pub fn retire_unlisted(&self, dry_run: bool, pace: &mut dyn FnMut()) -> Result<u64, Error> {
        let mut n_retired = 0;
        for workspace in self.workspaces()? {
            let marked = self.marked(&workspace)?;
            if marked.is_empty() {
                continue;
            }
            let listed = self.listed(&workspace)?;
            for artifact in marked.iter().filter(|artifact| !listed.contains(artifact)) {
                // Somebody may have pushed or put it since: it is asked again while others wait.
                let is_free = || self.is_free(&workspace, artifact);
                let is_over = match dry_run {
                    true => is_free()?,
                    false => self.retire_if(&workspace, artifact, &is_free)?.is_some(),
                };
                n_retired += u64::from(is_over);
                pace();
            }
        }
        Ok(n_retired)
    }

    /// Removes marks of artifacts that are not there: a crash came between them and their end.
    pub(crate) fn tidy_pushed(&self, workspace: &Workspace) -> Result<(), Error> {
        for artifact in self.marked(workspace)? {
            if !self.inner.is_there(&layout::artifact(workspace, &artifact))? {
                unmark(&*self.inner.disk, workspace, &artifact)?;
            }
        }
        Ok(())
    }

    fn marked(&self, workspace: &Workspace) -> Result<Vec<Digest>, Error> {
        let mut marked = Vec::new();
        for algorithm in Algorithm::ALL {
            let folder = layout::pushed_by(workspace, algorithm);
            let listed = self.inner.disk.list(&folder, &mut |entry| {
                marked.extend(Digest::from_hex(algorithm, &entry.name));
                ControlFlow::Continue(())
            });
            match listed {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(Error::disk("listing", &folder))?,
            }
        }
        Ok(marked)
    }

    /// All manifests that repositories of a workspace list.
    fn listed(&self, workspace: &Workspace) -> Result<HashSet<Digest>, Error> {
        let mut listed = HashSet::new();
        for name in names::repositories(&*self.inner.disk, workspace)? {
            for kind in [MemberKind::Manifest, MemberKind::Child] {
                let folder = layout::members(workspace, &name, kind);
                let entries = self.inner.entries(&folder)?;
                listed.extend(entries.iter().filter_map(|e| layout::digest_of_file(&e.name)));
            }
        }
        Ok(listed)
    }

    /// Whether nothing but its own layout holds a marked artifact now.
    fn is_free(&self, workspace: &Workspace, artifact: &Digest) -> Result<bool, Error> {
        let disk = &*self.inner.disk;
        if !self.inner.is_there(&layout::pushed(workspace, artifact))?
            || !self.names_of(workspace, artifact)?.is_empty()
            // What is not listed because it rotted may be brought again, and needs its layers then.
            || quarantine::knows(disk, &Subject::Blob(*artifact))
        {
            return Ok(false);
        }
        for name in names::repositories(disk, workspace)? {
            if self.repository(workspace, &name).lists_as_any(artifact)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
