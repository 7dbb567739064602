//! Turns of those who must not do the same thing at the same time.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError, Weak},
};

/// A lock for each thing that somebody does or waits for, fair.
pub(crate) struct Turns<K> {
    locks: Mutex<HashMap<K, Weak<Turn>>>,
}

/// Held by whose turn it is.
pub(crate) type Turn = tokio::sync::Mutex<()>;

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { locks: Mutex::default() }
    }
}

impl<K: Eq + Hash> Turns<K> {
    /// Returns the lock of a thing.
    pub(crate) fn of(&self, key: K) -> Arc<Turn> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&key).and_then(Weak::upgrade) {
            return lock;
        }
        // Those that are over leave their keys behind.
        if locks.len() >= 1024 && locks.len().is_power_of_two() {
            locks.retain(|_, lock| lock.strong_count() > 0);
        }
        let lock = Arc::default();
        locks.insert(key, Arc::downgrade(&lock));
        lock
    }

    /// Returns the lock of a thing if somebody holds or wants it.
    pub(crate) fn under_way(&self, key: &K) -> Option<Arc<Turn>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).get(key).and_then(Weak::upgrade)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_after_the_other_does_a_thing_and_others_do_others() {
        let turns = Turns::default();
        let one = turns.of(1).lock_owned().await;
        assert!(turns.of(1).try_lock().is_err() && turns.of(2).try_lock().is_ok());
        assert!(turns.under_way(&1).is_some() && turns.under_way(&2).is_none());
        drop(one);
        assert!(turns.under_way(&1).is_none() && turns.of(1).try_lock().is_ok());
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let turns = Turns::default();
        let held = turns.of(0);
        for key in 1..10_000 {
            turns.of(key);
        }
        assert!(turns.locks.lock().unwrap().len() <= 1024);
        assert!(Arc::ptr_eq(&held, &turns.of(0)));
    }
}
