//! Room in memory for bodies that are collected whole: so many bytes in all, and of them at most
//! half for one peer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wire::{Code, Problem};

use crate::config::Config;
use crate::peer::Whom;

/// Room is given out in steps of this many bytes.
const STEP: u64 = 4 << 10;

/// All the room.
#[derive(Debug)]
pub struct BodyRoom {
    all: Arc<Semaphore>,
    n_steps_per_peer: usize,
    /// Those who have some, or wait.
    shares: Mutex<HashMap<Whom, Weak<Semaphore>>>,
    patience: Duration,
}

/// Room for one body.
#[derive(Debug)]
pub struct Room {
    _room: OwnedSemaphorePermit,
    _of_share: OwnedSemaphorePermit,
    _share: Arc<Semaphore>,
}

impl BodyRoom {
    /// As much as the configuration allows.
    pub fn new(config: &Config) -> BodyRoom {
        let n_steps = config.limits.bodies_in_memory.0.div_ceil(STEP);
        let n_steps = usize::try_from(n_steps).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        BodyRoom {
            all: Arc::new(Semaphore::new(n_steps)),
            n_steps_per_peer: n_steps.div_ceil(2),
            shares: Mutex::default(),
            patience: config.timeouts.queue.0,
        }
    }

    /// Waits for room for so many bytes for this peer.
    ///
    /// # Errors
    /// [`Code::Busy`] when it did not come free in time.
    pub async fn take(&self, whom: Whom, n_bytes: u64) -> Result<Room, Problem> {
        let busy = || Problem::new(Code::Busy, "too many bodies are in memory just now");
        let n_steps = u32::try_from(n_bytes.div_ceil(STEP)).map_err(|_| busy())?;
        let share = self.share(whom);
        let wait = async {
            let of_share = share.clone().acquire_many_owned(n_steps).await.ok()?;
            Some((of_share, self.all.clone().acquire_many_owned(n_steps).await.ok()?))
        };
        match tokio::time::timeout(self.patience, wait).await {
            Ok(Some((_of_share, _room))) => Ok(Room { _room, _of_share, _share: share }),
            Ok(None) | Err(_) => Err(busy()),
        }
    }

    /// The share of a peer, for as long as anybody holds it.
    fn share(&self, whom: Whom) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&whom).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.n_steps_per_peer));
        shares.insert(whom, Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Size;

    #[tokio::test]
    async fn one_uid_gets_half_and_what_is_dropped_is_free_again() {
        let mut config = Config::default();
        config.limits.bodies_in_memory = Size(8 * STEP);
        config.timeouts.queue.0 = Duration::from_millis(20);
        let room = BodyRoom::new(&config);
        let first = room.take(Whom::Uid(1), 3 * STEP).await.expect("room");
        assert_eq!(
            room.take(Whom::Uid(1), 2 * STEP).await.map_err(|p| p.code).err(),
            Some(Code::Busy)
        );
        let other = room.take(Whom::Uid(2), 4 * STEP).await.expect("room for another one");
        assert!(room.take(Whom::Uid(3), 2 * STEP).await.is_err(), "there is one step left");
        drop((first, other));
        assert!(room.take(Whom::Uid(1), 4 * STEP).await.is_ok());
        assert!(room.take(Whom::Uid(1), 5 * STEP).await.is_err(), "more than its half");
    }
}
