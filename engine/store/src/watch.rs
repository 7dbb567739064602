//! Waking those who wait for a prefix to be touched.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::watch;

use crate::{Batch, KeyRange, Keyspace, Op, StoreError};

/// Tells of commits that touched a prefix since it was made or last told.
///
/// A touch between two calls of [`changed`](Self::changed) is not lost: the second returns at once. Many touches may be told
/// as one.
pub struct Watch {
    receiver: watch::Receiver<()>,
    place: Place,
    registry: Weak<Registry>,
}

impl Watch {
    /// Waits until a commit has touched the prefix since the watch was made or this last returned; loses nothing if dropped.
    ///
    /// # Errors
    /// `Closed` once the store is gone.
    pub async fn changed(&mut self) -> Result<(), StoreError> {
        self.receiver.changed().await.map_err(|_| StoreError::Closed)
    }

    /// As [`changed`](Self::changed), on the calling thread and for no longer than `pause`: `None` if nothing happened until then.
    ///
    /// Must not be called on a thread that drives other futures: it would block them.
    pub fn changed_within(&mut self, pause: Duration) -> Option<Result<(), StoreError>> {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        let mut changed = pin!(self.changed());
        let began = Instant::now();
        loop {
            if let Poll::Ready(changed) = changed.as_mut().poll(&mut context) {
                return Some(changed);
            }
            let left = pause.saturating_sub(began.elapsed());
            if left.is_zero() {
                return None;
            }
            thread::park_timeout(left);
        }
    }

    /// Tells whether `changed` would return at once.
    pub fn has_changed(&self) -> bool {
        self.receiver.has_changed().unwrap_or(true)
    }
}

/// Wakes a thread that is parked.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("place", &self.place).field("has_changed", &self.has_changed()).finish()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(registry) = self.registry.upgrade() {
            registry.forget(&self.place);
        }
    }
}

/// The watches of one store; a backend keeps one and tells it of each commit, after it is visible and before it returns.
#[derive(Debug, Default)]
pub struct Watchers {
    registry: Arc<Registry>,
}

impl Watchers {
    /// Returns a watch of a prefix.
    pub fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
        let place = (keyspace, Bytes::copy_from_slice(prefix));
        let receiver = self.registry.lock().entry(place.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        Watch { receiver, place, registry: Arc::downgrade(&self.registry) }
    }

    /// Whether there is a watch of anything.
    pub fn is_watched(&self) -> bool {
        !self.registry.lock().is_empty()
    }

    /// Wakes those who watch what the batch touches.
    ///
    /// Cost: O(writes * length of the key * log(watched prefixes)), nothing if none is watched.
    pub fn notify(&self, batch: &Batch) {
        let watched = self.registry.lock();
        if watched.is_empty() {
            return;
        }
        for op in batch.ops() {
            match op {
                Op::Put { keyspace, key, .. } | Op::Delete { keyspace, key } => {
                    for len in 0..=key.len() {
                        if let Some(sender) = watched.get(&(*keyspace, key.slice(..len))) {
                            sender.send_replace(());
                        }
                    }
                }
                Op::DeleteRange { keyspace, range } => {
                    for ((_, prefix), sender) in watched.iter().filter(|((watched, _), _)| watched == keyspace) {
                        if range.overlaps(&KeyRange::prefix(prefix.clone())) {
                            sender.send_replace(());
                        }
                    }
                }
            }
        }
    }
}

type Place = (Keyspace, Bytes);

#[derive(Debug, Default)]
struct Registry {
    watched: Mutex<BTreeMap<Place, watch::Sender<()>>>,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, watch::Sender<()>>> {
        // Nothing in here can panic half-way through a change.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets a place when its last watch is being dropped (which still counts as one).
    fn forget(&self, place: &Place) {
        if let Entry::Occupied(entry) = self.lock().entry(place.clone())
            && entry.get().receiver_count() <= 1
        {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_watch_is_forgotten_and_a_closed_store_ends_the_others() {
        let watchers = Watchers::default();
        let first = watchers.watch(Keyspace::Log, b"a");
        let second = watchers.watch(Keyspace::Log, b"a");
        drop(first);
        assert_eq!(watchers.registry.lock().len(), 1);
        drop(second);
        assert_eq!(watchers.registry.lock().len(), 0);
        let mut third = watchers.watch(Keyspace::Log, b"a");
        drop(watchers);
        assert!(matches!(pollster::block_on(third.changed()), Err(StoreError::Closed)));
    }
}
