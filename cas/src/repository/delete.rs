//! Ending names. What a name led to stays where it is: retiring ends artifacts, and gc takes the
//! bytes that nobody holds.

use std::collections::BTreeSet;

use super::Repository;
use crate::digest::Digest;
use crate::disk::RelPath;
use crate::durable::Unsynced;
use crate::error::Error;
use crate::layout::{self, MemberKind};
use crate::names::{self, N_TRIES};
use crate::workspace::{Name, Tag};

impl Repository {
    /// Ends a tag; what it leads to stays listed.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Disk`].
    pub fn delete_tag(&self, tag: &Tag) -> Result<(), Error> {
        let name = Name::new(&self.name, tag);
        let folder = layout::tags(&self.workspace, &self.name);
        let moved = [names::file_of(&self.workspace, &name)];
        self.ending(&moved, |changed| {
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
        self.ending(&[self.member(MemberKind::Manifest, digest)], |changed| {
            let led = self.names_of(digest)?;
            // One that rotted is led to by its tags alone, and would be listed again when it is healed.
            let mut is_listed = !led.is_empty();
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
            for name in led {
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
    /// [`Error::Busy`] while it is pushed again and again, [`Error::Disk`].
    pub fn delete_blob(&self, digest: &Digest) -> Result<(), Error> {
        let member = self.member(MemberKind::Blob, digest);
        for _ in 0..N_TRIES {
            let ended = self.ending(std::slice::from_ref(&member), |changed| {
                if !self.has(MemberKind::Blob, digest)? {
                    return Err(Error::NotFound { what: digest.to_string() });
                }
                if let Some(by) = self.kept_by(digest)? {
                    return Err(Error::Needed { digest: *digest, by });
                }
                if self.inner().log_rests_on(&member) {
                    return Err(Error::Busy);
                }
                self.unlink(&member)?;
                changed.insert(self.folder(MemberKind::Blob));
                Ok(())
            });
            match ended {
                Err(Error::Busy) => self.inner().empty_log()?,
                ended => return ended,
            }
        }
        Err(Error::Busy)
    }

    /// Ends names while others are excluded; it is durable when this returns. Works on a full disk. That they are
    /// not there is durable as well before it is said, here and for a log that would make `names` again: perhaps
    /// somebody ended them a moment ago, and it failed.
    fn ending(
        &self,
        names: &[RelPath],
        end: impl FnOnce(&mut BTreeSet<RelPath>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let inner = self.inner();
        let since = inner.barrier.n_failed();
        // What may be ended rests on what is listed, and that may be a change of others who have not
        // synced it yet.
        let tags = layout::tags(&self.workspace, &self.name);
        let mut changed = BTreeSet::from([self.folder(MemberKind::Manifest), tags.clone()]);
        let (ended, is_unsettled) = {
            let _repository = self.exclude();
            let is_unsettled = inner.unsettled.has(&tags);
            inner.unsettled.begin(&tags);
            (end(&mut changed), is_unsettled)
        };
        if is_unsettled {
            changed.extend(MemberKind::ALL.map(|kind| self.folder(kind)));
        }
        let folders = changed.into_iter().collect();
        let unsynced = Unsynced { folders, since, ..Unsynced::default() };
        let settled = match ended {
            Ok(()) => inner.settle_ended(&unsynced),
            Err(gone @ Error::NotFound { .. }) => {
                inner.settle_gone(is_unsettled, &unsynced, names).and(Err(gone))
            }
            other => other,
        };
        let is_over = |error: &Error| {
            matches!(error, Error::NotFound { .. } | Error::Needed { .. } | Error::Busy)
        };
        if settled.as_ref().map_or_else(is_over, |()| true) {
            inner.unsettled.end(&tags);
        }
        settled
    }
}
