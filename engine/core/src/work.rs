//! Counting work: tests bound what a computation does by counting it, not by timing it.
//!
//! A unit is a step that takes about the same time whatever the room: an entry, edge or fact that is read, a word of a set, a
//! comparison. Outside of tests nothing is counted.

#[cfg(test)]
use std::cell::Cell;

#[cfg(test)]
thread_local! {
    static COUNTED: Cell<u64> = const { Cell::new(0) };
}

/// Counts units of work.
#[cfg(test)]
pub(crate) fn count(units: usize) {
    COUNTED.set(COUNTED.get() + units as u64);
}

/// Counts units of work in tests; costs nothing here.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn count(_: usize) {}

/// Returns what a computation on this thread returns, and the work that it does.
#[cfg(test)]
pub(crate) fn measure<T>(computation: impl FnOnce() -> T) -> (T, u64) {
    let before = COUNTED.get();
    let result = computation();
    (result, COUNTED.get() - before)
}
