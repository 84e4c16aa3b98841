//! One lock for each thing that has a name, made when somebody wants it.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Condvar, Mutex, PoisonError};

/// Locks by key.
#[derive(Debug)]
pub(crate) struct Locks<K> {
    held: Mutex<HashSet<K>>,
    freed: Condvar,
}

/// The lock of one key, held until this is dropped.
#[derive(Debug)]
pub(crate) struct Held<'a, K: Eq + Hash> {
    locks: &'a Locks<K>,
    key: K,
}

impl<K> Default for Locks<K> {
    fn default() -> Locks<K> {
        Locks { held: Mutex::default(), freed: Condvar::new() }
    }
}

impl<K: Eq + Hash + Clone> Locks<K> {
    /// Waits until nobody else holds the key's lock.
    pub(crate) fn lock(&self, key: K) -> Held<'_, K> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let is_held = |held: &mut HashSet<K>| held.contains(&key);
        let waited = self.freed.wait_while(held, is_held);
        waited.unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        Held { locks: self, key }
    }
}

impl<K: Eq + Hash> Drop for Held<'_, K> {
    fn drop(&mut self) {
        self.locks.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        self.locks.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn one_key_excludes_and_two_do_not() {
        let locks: Locks<u8> = Locks::default();
        let (inside, most) = (AtomicU32::new(0), AtomicU32::new(0));
        let _other = locks.lock(2);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let _held = locks.lock(1);
                        most.fetch_max(inside.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::Relaxed), 0, "nobody was inside beside another");
        drop(locks.lock(1));
    }
}
