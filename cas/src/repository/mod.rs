//! A repository: which blobs and manifests of a workspace are listed under one name, and what its
//! tags lead to.
//!
//! A member is a hard link to the bytes: it lists them, holds them and is the file to read. Bytes
//! belong to the workspace; what a repository lists is all that whoever reads through it sees.

mod delete;
mod held;
mod members;
mod push;
mod record;
mod referrers;
mod reopen;
mod tags;
mod take;
mod upload;

use crate::disk::{Disk, RelPath};
use crate::error::Error;
use crate::layout;
use crate::locks;
use crate::stop::Stop;
use crate::store::{Inner, Store};
use crate::workspace::{RepositoryName, Workspace};

pub use held::Held;
pub(crate) use members::Fills;
pub use push::{Push, Pushed};
pub use record::UploadId;
pub use upload::Upload;

/// One repository of one workspace. Clones are the same repository; making one looks at nothing.
#[derive(Clone)]
pub struct Repository {
    store: Store,
    workspace: Workspace,
    name: RepositoryName,
    stop: Stop,
}

impl Repository {
    pub(crate) fn new(store: Store, workspace: Workspace, name: RepositoryName) -> Repository {
        Repository { store, workspace, name, stop: Stop::default() }
    }

    /// The same repository, whose long reads end early after the word was given.
    #[must_use]
    pub fn stopped_by(self, stop: &Stop) -> Repository {
        Repository { stop: stop.clone(), ..self }
    }

    /// The workspace that it belongs to.
    pub fn workspace(&self) -> &Workspace {
        &self.workspace
    }

    /// What it is called inside its workspace.
    pub fn name(&self) -> &RepositoryName {
        &self.name
    }

    /// Whether anything was ever listed in it, even if all of that was deleted since.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn is_known(&self) -> Result<bool, Error> {
        let place = layout::repository(&self.workspace, &self.name);
        for part in [layout::MEMBERS, layout::TAGS] {
            if self.is_there(&place.join(part))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.store.inner
    }

    pub(crate) fn disk(&self) -> &dyn Disk {
        &*self.store.inner.disk
    }

    /// Excludes everybody else who changes what is listed here or where its tags lead.
    pub(crate) fn exclude(&self) -> locks::Held<'_, (Workspace, RepositoryName)> {
        self.inner().lock_repository(&self.workspace, &self.name)
    }

    fn is_there(&self, path: &RelPath) -> Result<bool, Error> {
        self.inner().is_there(path)
    }
}
