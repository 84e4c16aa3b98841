//! After an unclean stop: what a crash left of a listing is made whole, or ended.
//!
//! Members, referrers and tags land in one sync, so that any of them may be there without the
//! others. An artifact that something lists, and whose layout is there, is listed whole again; it
//! was sealed before anything could list it. What leads to nothing goes before anything is served,
//! so that no later push brings it back to life.

use std::collections::BTreeSet;

use super::Repository;
use super::members::Fills;
use crate::digest::Digest;
use crate::disk::Kind;
use crate::error::Error;
use crate::layout::{self, MemberKind};
use crate::linking::{Linking, Scraps};
use crate::names;
use crate::quarantine::{self, Subject};
use crate::sealed::Sealed;
use crate::workspace::Name;

impl Repository {
    pub(crate) fn reopen(&self) -> Result<(), Error> {
        let inner = self.inner();
        let scraps = Scraps::new(&self.store);
        let linking = Linking { inner, pool: inner.pool(&self.workspace), scraps: &scraps };
        for artifact in self.to_be_listed()? {
            let sealed = Sealed::new(self.store.clone(), self.workspace.clone(), artifact);
            // What cannot be read now is found when it is asked for; opening must not fail of it.
            let listed = sealed.reaches().and_then(|(closure, _)| {
                self.enlist(&closure, &sealed.path(), Fills::Empty, &linking)
            });
            if let Err(error) = listed {
                let repository = &self.name;
                tracing::warn!(%artifact, %repository, %error, "an artifact is listed in part");
            }
        }
        self.end_referrers_of_nobody()?;
        self.name_in_pool(&linking)
    }

    /// The artifacts that a manifest's member or a tag lists. Members without a layout are ended:
    /// their artifact was being retired.
    fn to_be_listed(&self) -> Result<BTreeSet<Digest>, Error> {
        let mut listed = BTreeSet::new();
        for digest in self.digests_in(&self.folder(MemberKind::Manifest))? {
            match self.store.sealed(&self.workspace, &digest) {
                Ok(_) => drop(listed.insert(digest)),
                Err(Error::NotFound { .. }) => {
                    self.unlink(&self.member(MemberKind::Manifest, &digest))?;
                }
                Err(error) => return Err(error),
            }
        }
        for tag in names::tags(self.disk(), &self.workspace, &self.name)? {
            let name = Name::new(&self.name, &tag);
            match names::get(self.disk(), &self.workspace, &name) {
                Ok(Some(digest)) if self.store.sealed(&self.workspace, &digest).is_ok() => {
                    listed.insert(digest);
                }
                Ok(_) | Err(Error::DamagedName { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(listed)
    }

    fn end_referrers_of_nobody(&self) -> Result<(), Error> {
        for subject in self.digests_in(&layout::referrers(&self.workspace, &self.name))? {
            for digest in self.digests_in(&self.subject(&subject))? {
                if !self.lists(&digest)? {
                    self.unlink(&self.referrer(&subject, &digest))?;
                }
            }
            let _ = self.disk().remove_dir(&self.subject(&subject));
        }
        Ok(())
    }

    /// Gives what is listed its name in the pool back, where a crash took it.
    fn name_in_pool(&self, linking: &Linking<'_>) -> Result<(), Error> {
        for kind in MemberKind::ALL {
            for digest in self.digests_in(&self.folder(kind))? {
                let member = self.member(kind, &digest);
                let blob = linking.pool.blob(&digest);
                let stat = match self.disk().stat(&member) {
                    Ok(stat) if stat.kind == Kind::File => stat,
                    _ => continue,
                };
                if self.is_there(&blob)? {
                    continue;
                }
                // What rot took from the pool does not come back to it.
                let is_good = !quarantine::knows(self.disk(), &Subject::Blob(digest))
                    || self.prove(&digest, stat.size, &member).is_ok_and(|proved| proved.is_ok());
                if is_good {
                    linking.link(&digest, &member, &blob)?;
                }
            }
        }
        Ok(())
    }
}
