//! After an unclean stop: what a crash left of a listing is made whole, or ended.
//!
//! Layouts, members, referrers and tags land in one sync, so that any of them may be there without
//! the others. What something lists was whole in staging before, and was put in its place by now; it
//! is listed whole again. What leads to nothing goes before anything is served, so that no later push
//! brings it back to life. Blobs on their way in are listed if their bytes are all there.

use std::collections::BTreeSet;
use std::io;

use super::Repository;
use super::members::Fills;
use crate::digest::Digest;
use crate::disk::{Kind, RelPath};
use crate::error::Error;
use crate::layout::{self, MemberKind};
use crate::linking::{Linking, Scraps};
use crate::names;
use crate::quarantine::{self, Subject};
use crate::reader::hash;
use crate::sealed::Sealed;
use crate::workspace::Name;

impl Repository {
    pub(crate) fn reopen(&self) -> Result<(), Error> {
        let inner = self.inner();
        let scraps = Scraps::new(&self.store);
        let linking = Linking::new(inner, inner.pool(&self.workspace), &scraps);
        self.list_what_was_coming(&linking)?;
        for artifact in self.to_be_listed()? {
            let sealed = Sealed::new(self.store.clone(), self.workspace.clone(), artifact);
            // What cannot be read now is found when it is asked for; opening must not fail of it.
            let listed = sealed.reaches().and_then(|(closure, _)| {
                self.enlist(&closure, &sealed.path(), Fills::Empty, &linking, &mut Vec::new())
            });
            if let Err(error) = listed {
                let repository = &self.name;
                tracing::warn!(%artifact, %repository, %error, "an artifact is listed in part");
            }
        }
        self.end_referrers_of_nobody()?;
        self.name_in_pool(&linking)
    }

    /// A sync may have made a blob durable under this name and no other. If it did not, nobody was
    /// told that the blob is here; and what reads well may be in memory alone, after a sync that
    /// failed, so it is written once more.
    pub(crate) fn list_what_was_coming(&self, linking: &Linking<'_>) -> Result<(), Error> {
        let (disk, folder) = (self.disk(), self.folder(MemberKind::Blob));
        for entry in self.inner().entries(&folder)? {
            let Some(digest) = layout::digest_of_coming(&entry.name) else { continue };
            let (coming, member) =
                (folder.join(&entry.name), self.member(MemberKind::Blob, &digest));
            let copy = linking.scraps.path("coming");
            match linking.copy(&digest, &coming, &copy) {
                Ok(()) => {
                    linking.publish(&digest, &copy)?;
                    disk.rename(&copy, &member).map_err(Error::disk("renaming", &copy))?;
                }
                Err(Error::Corrupt { .. }) => {}
                // Perhaps there is no room for a copy: what reads well is better than nothing.
                Err(error) => {
                    tracing::warn!(%digest, %error, "a blob on its way is not copied");
                    match self.reads_well(&digest, &coming) {
                        Ok(true) => {
                            let renamed = disk.rename(&coming, &member);
                            renamed.map_err(Error::disk("renaming", &coming))?;
                        }
                        Ok(false) => {}
                        // It is looked at again at the next start.
                        Err(_) => continue,
                    }
                }
            }
            self.unlink(&coming)?;
        }
        Ok(())
    }

    fn reads_well(&self, digest: &Digest, path: &RelPath) -> io::Result<bool> {
        let file = self.disk().open(path)?;
        let (actual, _) = hash(&*file, digest.algorithm(), file.stat()?.size, &self.stop)?;
        Ok(actual == *digest)
    }

    /// The artifacts that manifests' members and tags lead to, whether they are there or not.
    pub(crate) fn leads(&self) -> Result<Vec<Digest>, Error> {
        let mut led = self.digests_in(&self.folder(MemberKind::Manifest))?;
        for tag in names::tags(self.disk(), &self.workspace, &self.name)? {
            match names::get(self.disk(), &self.workspace, &Name::new(&self.name, &tag)) {
                Ok(digest) => led.extend(digest),
                Err(Error::DamagedName { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(led)
    }

    /// The artifacts that a manifest's member or a tag lists. Members without a layout are ended:
    /// their artifact was being retired.
    fn to_be_listed(&self) -> Result<BTreeSet<Digest>, Error> {
        let mut listed = BTreeSet::new();
        for digest in self.leads()? {
            match self.store.sealed(&self.workspace, &digest) {
                Ok(_) => drop(listed.insert(digest)),
                Err(Error::NotFound { .. }) => {
                    self.unlink(&self.member(MemberKind::Manifest, &digest))?;
                }
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
