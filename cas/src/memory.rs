//! Memory for documents: what everybody at once may hold of manifests and indexes.
//!
//! Blobs pass through buffers of a fixed number and size, so that their size costs nothing. A
//! closure is different: its documents are in memory as long as somebody works with it. Who finds
//! no room is told to come back and waits for nobody, so that two who each have a part of what
//! they need never wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// Room that is shared by all closures of a store.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    left: Arc<AtomicU64>,
}

/// What one closure holds of it, given back when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Budget,
    bytes: u64,
}

impl Budget {
    pub(crate) fn new(bytes: u64) -> Budget {
        Budget { left: Arc::new(AtomicU64::new(bytes)) }
    }

    pub(crate) fn share(&self) -> Share {
        Share { budget: self.clone(), bytes: 0 }
    }
}

impl Share {
    /// Takes room for one more document.
    ///
    /// # Errors
    /// [`Error::Busy`] when others hold too much.
    pub(crate) fn grow(&mut self, bytes: u64) -> Result<(), Error> {
        let take = |left: u64| left.checked_sub(bytes);
        match self.budget.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => {
                self.bytes += bytes;
                Ok(())
            }
            Err(_) => Err(Error::Busy),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_holds_the_others_have_not_until_it_is_given_back() {
        let budget = Budget::new(100);
        let (mut one, mut two) = (budget.share(), budget.share());
        one.grow(60).expect("room");
        two.grow(40).expect("the rest");
        assert!(matches!(two.grow(1), Err(Error::Busy)));
        drop(one);
        two.grow(60).expect("what was given back");
        assert!(matches!(budget.share().grow(1), Err(Error::Busy)));
        drop(two);
        budget.share().grow(100).expect("all of it");
    }
}
