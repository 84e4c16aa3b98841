//! Tags that were moved or ended, and may lead on the disk to where they led before.
//!
//! Whoever ends an artifact makes them durable first: he sees that no tag leads to it, and after a power
//! cut one would lead nowhere.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::disk::RelPath;
use crate::layout;
use crate::store::lock;
use crate::workspace::Workspace;

/// The folders of such tags, and how many changes each has.
#[derive(Default)]
pub(crate) struct Unsettled {
    folders: Mutex<BTreeMap<RelPath, usize>>,
}

impl Unsettled {
    /// A tag in this folder is about to change; the caller excludes others from the repository. A change
    /// whose end is not told, because its sync failed or something before that, counts until the next
    /// start: that costs a retire a sync, and nothing else.
    pub(crate) fn begin(&self, folder: &RelPath) {
        *lock(&self.folders).entry(folder.clone()).or_default() += 1;
    }

    /// It is durable, or was not made.
    pub(crate) fn end(&self, folder: &RelPath) {
        let mut folders = lock(&self.folders);
        if let Some(n) = folders.get_mut(folder) {
            *n -= 1;
            if *n == 0 {
                folders.remove(folder);
            }
        }
    }

    /// The folders of a workspace.
    pub(crate) fn of(&self, workspace: &Workspace) -> Vec<RelPath> {
        let within = RelPath::new(layout::NAMES).join(workspace);
        let folders = lock(&self.folders);
        folders.keys().filter(|folder| folder.way().contains(&within)).cloned().collect()
    }
}
