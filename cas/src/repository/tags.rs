//! The tags of a repository.

use std::io;

use super::Repository;
use crate::digest::Digest;
use crate::disk::Entry;
use crate::error::Error;
use crate::workspace::{Name, Tag};
use crate::{layout, names};

impl Repository {
    /// Tags in the order of their bytes after `after`, which need not be one, at most `limit` of
    /// them; and whether there are more.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn tags(&self, after: Option<&str>, limit: usize) -> Result<(Vec<Tag>, bool), Error> {
        let folder = layout::tags(&self.workspace, &self.name);
        match self.disk().listing(&folder) {
            Ok(entries) => Ok(page(&entries, after, limit)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok((Vec::new(), false)),
            Err(error) => Err(Error::disk("listing", &folder)(error)),
        }
    }

    /// The same at a look, without waiting for the disk: `None` says nothing.
    pub fn tags_at_a_look(&self, after: Option<&str>, limit: usize) -> Option<(Vec<Tag>, bool)> {
        let folder = layout::tags(&self.workspace, &self.name);
        self.disk().listing_now(&folder).map(|entries| page(&entries, after, limit))
    }

    /// Refuses to move a name that leads elsewhere and may not be moved. A damaged one is mended. The caller
    /// excludes others.
    pub(crate) fn may_lead(
        &self,
        name: &Name,
        to: &Digest,
        may_move: &dyn Fn(&Tag) -> bool,
    ) -> Result<(), Error> {
        match names::get(self.disk(), &self.workspace, name) {
            // No damage, if a failed sync took what the log has: it is there when somebody asks again.
            Err(damaged @ Error::DamagedName { .. }) if self.is_logged(name) => Err(damaged),
            led => permits(name, led, to, may_move),
        }
    }

    /// The same where others are not excluded, so that it may be another answer in a moment.
    pub(crate) fn may_lead_now(
        &self,
        name: &Name,
        to: &Digest,
        may_move: &dyn Fn(&Tag) -> bool,
    ) -> Result<(), Error> {
        permits(name, self.led(name), to, may_move)
    }

    /// Where a name leads. Others must not be excluded: what a failed sync took of the log's tags is written
    /// anew.
    pub(super) fn led(&self, name: &Name) -> Result<Option<Digest>, Error> {
        let led = || names::get(self.disk(), &self.workspace, name);
        match led() {
            Err(Error::DamagedName { .. }) if self.is_logged(name) => {
                self.inner().empty_log()?;
                led()
            }
            led => led,
        }
    }

    fn is_logged(&self, name: &Name) -> bool {
        self.inner().log_has(&names::file_of(&self.workspace, name))
    }
}

fn permits(
    name: &Name,
    led: Result<Option<Digest>, Error>,
    to: &Digest,
    may_move: &dyn Fn(&Tag) -> bool,
) -> Result<(), Error> {
    match led {
        Ok(Some(digest)) if digest != *to && !may_move(name.tag()) => {
            Err(Error::TagTaken { name: name.clone(), digest })
        }
        Ok(_) | Err(Error::DamagedName { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Tags among the names in their folder, which are in the order of their bytes.
fn page(entries: &[Entry], after: Option<&str>, limit: usize) -> (Vec<Tag>, bool) {
    let begin =
        entries.partition_point(|entry| after.is_some_and(|after| entry.name.as_str() <= after));
    let mut tags = entries[begin..].iter().filter_map(names::tag_of);
    let page = tags.by_ref().take(limit).collect();
    (page, tags.next().is_some())
}
