//! Ending names. What a name led to stays where it is: retiring ends artifacts, and gc takes the
//! bytes that nobody holds.

use std::collections::BTreeSet;

use super::Repository;
use crate::digest::Digest;
use crate::disk::RelPath;
use crate::durable::Unsynced;
use crate::error::Error;
use crate::layout::{self, MemberKind};
use crate::names;
use crate::store::Inner;
use crate::workspace::{Name, Tag};

impl Repository {
    /// Ends a tag; what it leads to stays listed.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Disk`].
    pub fn delete_tag(&self, tag: &Tag) -> Result<(), Error> {
        let name = Name::new(&self.name, tag);
        let folder = layout::tags(&self.workspace, &self.name);
        self.ending(|changed| {
            let led = names::get(self.disk(), &self.workspace, &name);
            if !self.unlink(&folder.join(tag))? {
                return Err(Error::NotFound { what: name.to_string() });
            }
            changed.insert(folder.clone());
            if let (Ok(Some(digest)), Some(index)) = (led, self.inner().index()) {
                index.forget_name(&self.workspace, &digest, &name);
            }
            Ok(())
        })
    }

    /// Ends the listing of a manifest, and the tags that lead to it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Needed`] while another that is listed reaches it,
    /// [`Error::Disk`].
    pub fn delete_manifest(&self, digest: &Digest) -> Result<(), Error> {
        let kinds = [MemberKind::Manifest, MemberKind::Child];
        self.ending(|changed| {
            let mut is_listed = false;
            for kind in kinds {
                is_listed |= self.has(kind, digest)?;
            }
            if !is_listed {
                return Err(Error::NotFound { what: digest.to_string() });
            }
            if let Some(by) = self.needed_by(digest, digest)? {
                return Err(Error::Needed { digest: *digest, by });
            }
            // What leads to it goes first: nothing may lead to what is not listed.
            for name in self.store.names_of(&self.workspace, digest)? {
                if *name.repository() != self.name {
                    continue;
                }
                changed.extend(names::remove(self.disk(), &self.workspace, &name, digest)?);
                if let Some(index) = self.inner().index() {
                    index.forget_name(&self.workspace, digest, &name);
                }
            }
            changed.extend(self.forget_referrer(digest)?);
            for kind in kinds {
                if self.unlink(&self.member(kind, digest))? {
                    changed.insert(self.folder(kind));
                }
            }
            Ok(())
        })
    }

    /// Ends the listing of a blob.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Needed`] while a manifest that is listed reaches it,
    /// [`Error::Disk`].
    pub fn delete_blob(&self, digest: &Digest) -> Result<(), Error> {
        let ended = self.ending_of(Inner::settle_ended, |changed| {
            if !self.has(MemberKind::Blob, digest)? {
                return Err(Error::NotFound { what: digest.to_string() });
            }
            if let Some(by) = self.needed_by(digest, digest)? {
                return Err(Error::Needed { digest: *digest, by });
            }
            self.unlink(&self.member(MemberKind::Blob, digest))?;
            changed.insert(self.folder(MemberKind::Blob));
            Ok(())
        });
        if matches!(ended, Err(Error::NotFound { .. })) {
            // Perhaps it ended a moment ago, and the one who did so could not say it to the log.
            self.inner().forget_logged(digest)?;
        }
        ended
    }

    /// Ends names while others are excluded; it is durable when this returns. Works on a full disk.
    fn ending(
        &self,
        end: impl FnOnce(&mut BTreeSet<RelPath>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.ending_of(Inner::settle, end)
    }

    fn ending_of(
        &self,
        settle: impl FnOnce(&Inner, &Unsynced) -> Result<(), Error>,
        end: impl FnOnce(&mut BTreeSet<RelPath>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let inner = self.inner();
        let since = inner.barrier.n_failed();
        // What may be ended rests on what is listed, and that may be a change of others who have not
        // synced it yet.
        let tags = layout::tags(&self.workspace, &self.name);
        let mut changed = BTreeSet::from([self.folder(MemberKind::Manifest), tags.clone()]);
        let ended = {
            let _repository = self.exclude();
            inner.unsettled.begin(&tags);
            end(&mut changed)
        };
        let folders = changed.into_iter().collect();
        let settled =
            ended.and_then(|()| settle(inner, &Unsynced { folders, since, ..Unsynced::default() }));
        if matches!(settled, Ok(()) | Err(Error::NotFound { .. } | Error::Needed { .. })) {
            inner.unsettled.end(&tags);
        }
        settled
    }
}
