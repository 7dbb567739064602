//! Merging of work that several tasks want at the same time.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};

/// Work under way, by what it is about.
///
/// Whoever asks while it runs waits for the same result. When nobody waits any more, it stops.
pub(crate) struct Flights<K, V: Clone> {
    running: Mutex<HashMap<K, WeakShared<BoxFuture<'static, V>>>>,
}

impl<K: Clone + Eq + Hash, V: Clone> Flights<K, V> {
    pub(crate) fn new() -> Self {
        Self { running: Mutex::default() }
    }

    /// Waits for the work under a key, which is started unless it runs already.
    pub(crate) async fn run(&self, key: &K, start: impl FnOnce() -> BoxFuture<'static, V>) -> V {
        let flight = self.join(key, start);
        let value = flight.clone().await;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        // Another may have begun meanwhile.
        if running.get(key).is_some_and(|weak| weak.upgrade().is_none_or(|other| other.ptr_eq(&flight))) {
            running.remove(key);
        }
        value
    }

    fn join(&self, key: &K, start: impl FnOnce() -> BoxFuture<'static, V>) -> Shared<BoxFuture<'static, V>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = running.get(key).and_then(WeakShared::upgrade) {
            return flight;
        }
        // Those that were given up leave their keys behind.
        if running.len() >= 1024 && running.len().is_power_of_two() {
            running.retain(|_, weak| weak.upgrade().is_some());
        }
        let flight = start().shared();
        if let Some(weak) = flight.downgrade() {
            running.insert(key.clone(), weak);
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use futures_util::future::join_all;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_runs_is_joined() {
        let flights = Flights::new();
        let started = Arc::new(AtomicU32::new(0));
        let work = || {
            let started = started.clone();
            async move {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
                started.fetch_add(1, Ordering::SeqCst)
            }
            .boxed()
        };
        assert_eq!(join_all((0..5).map(|_| flights.run(&"a", work))).await, [0; 5]);
        assert_eq!(flights.run(&"a", work).await, 1);
        assert!(flights.running.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn what_nobody_waits_for_is_started_anew() {
        let flights = Flights::new();
        let never = flights.run(&1, || futures_util::future::pending().boxed());
        assert!(never.now_or_never().is_none());
        assert_eq!(flights.run(&1, || async { 7 }.boxed()).await, 7);
    }
}
