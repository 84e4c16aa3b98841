//! Names that were changed, and may lead on the disk to where they led before.
//!
//! Whoever ends an artifact makes the tags among them durable first: he sees that no tag leads to it, and
//! after a power cut one would lead nowhere. And what the log has rests on no member among them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::disk::RelPath;
use crate::layout;
use crate::store::lock;
use crate::workspace::Workspace;

/// The folders of such tags, or such members, and how many changes each has.
#[derive(Default)]
pub(crate) struct Unsettled {
    places: Mutex<BTreeMap<RelPath, usize>>,
}

impl Unsettled {
    /// This is about to change, or just did; the caller excludes others from the repository. A change
    /// whose end is not told, because its sync failed or something before that, counts until the next
    /// start: that costs others a sync, and nothing else.
    pub(crate) fn begin(&self, place: &RelPath) {
        *lock(&self.places).entry(place.clone()).or_default() += 1;
    }

    /// It is durable, or was not made.
    pub(crate) fn end(&self, place: &RelPath) {
        let mut places = lock(&self.places);
        if let Some(n) = places.get_mut(place) {
            *n -= 1;
            if *n == 0 {
                places.remove(place);
            }
        }
    }

    pub(crate) fn has(&self, place: &RelPath) -> bool {
        lock(&self.places).contains_key(place)
    }

    /// Those of a workspace.
    pub(crate) fn of(&self, workspace: &Workspace) -> Vec<RelPath> {
        let within = RelPath::new(layout::NAMES).join(workspace);
        let places = lock(&self.places);
        places.keys().filter(|folder| folder.way().contains(&within)).cloned().collect()
    }
}
