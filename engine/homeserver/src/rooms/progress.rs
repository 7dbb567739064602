//! How far the log is known to whoever reads it.
//!
//! Rooms append at the same time, and what follows from an append, who is in the room now, is known a moment after it is stored. A
//! reader that went on from the end of the log could miss that. So the place that readers go on from is before all that is under way.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;

/// The place in the log before which all is known.
#[derive(Debug)]
pub(super) struct Progress {
    /// Of the appends that are under way: the length of the log when they began, with their count.
    under_way: Mutex<BTreeMap<u64, usize>>,
    position: watch::Sender<u64>,
}

impl Progress {
    pub(super) fn new(length: u64) -> Self {
        Self { under_way: Mutex::default(), position: watch::channel(length).0 }
    }

    pub(super) fn position(&self) -> u64 {
        *self.position.borrow()
    }

    /// Returns what tells when the place moves on.
    pub(super) fn subscribe(&self) -> watch::Receiver<u64> {
        self.position.subscribe()
    }

    /// Begins an append; it is over when what is returned is dropped.
    pub(super) fn begin<L: Fn() -> u64>(&self, length: L) -> UnderWay<'_, L> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let from = length();
        *under_way.entry(from).or_default() += 1;
        UnderWay { progress: self, from, length }
    }
}

/// An append that is under way.
pub(super) struct UnderWay<'p, L: Fn() -> u64> {
    progress: &'p Progress,
    from: u64,
    length: L,
}

impl<L: Fn() -> u64> Drop for UnderWay<'_, L> {
    fn drop(&mut self) {
        let mut under_way = self.progress.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = under_way.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.from);
            }
        }
        let known = under_way.keys().next().copied().unwrap_or_else(&self.length);
        self.progress.position.send_replace(known);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn what_is_under_way_is_not_known_yet() {
        let (progress, length) = (Progress::new(5), Cell::new(5));
        let first = progress.begin(|| length.get());
        length.set(7);
        let second = progress.begin(|| length.get());
        length.set(9);
        drop(second);
        assert_eq!(progress.position(), 5, "the first may have any place from there on");
        let third = progress.begin(|| length.get());
        drop(first);
        assert_eq!(progress.position(), 9);
        length.set(12);
        drop(third);
        assert_eq!(progress.position(), 12);
    }
}
