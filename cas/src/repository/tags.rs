//! The tags of a repository.

use super::Repository;
use crate::digest::Digest;
use crate::error::Error;
use crate::names;
use crate::workspace::{Name, Tag};

impl Repository {
    /// Tags in the order of their bytes after `after`, which need not be one, at most `limit` of
    /// them; and whether there are more.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn tags(&self, after: Option<&str>, limit: usize) -> Result<(Vec<Tag>, bool), Error> {
        let mut tags = names::tags(self.disk(), &self.workspace, &self.name)?;
        tags.retain(|tag| after.is_none_or(|after| tag.as_str() > after));
        tags.sort();
        let is_more = tags.len() > limit;
        tags.truncate(limit);
        Ok((tags, is_more))
    }

    /// Refuses to move a name that leads elsewhere and may not be moved. A damaged one is mended.
    pub(crate) fn may_lead(
        &self,
        name: &Name,
        to: &Digest,
        may_move: &dyn Fn(&Name) -> bool,
    ) -> Result<(), Error> {
        match names::get(self.disk(), &self.workspace, name) {
            Ok(Some(digest)) if digest != *to && !may_move(name) => {
                Err(Error::TagTaken { name: name.clone(), digest })
            }
            Ok(_) | Err(Error::DamagedName { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
