//! The duties of a [`Store`] as tests, which a backend passes in one line.
//!
//! ```text
//! struct MyBuilder;
//! impl StoreBuilder for MyBuilder { /* place and open */ }
//! ravel_store::conformance_tests!(MyBuilder);
//! ```
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    missing_docs,
    reason = "these are tests: each function proves the sentence it is named by, and fails by a panic"
)]

use std::path::Path;

use bytes::Bytes;

use crate::{Batch, Committed, Keyspace, Scan, Store, StoreError, StoreExt, block_on};

pub mod crashes;
pub mod directories;
pub mod model;
pub mod reads;
pub mod watches;
pub mod writes;

/// Makes the stores of one backend for the suite.
pub trait StoreBuilder {
    /// The backend.
    type Store: Store;
    /// Where a store keeps its data, such as a temporary folder; dropping it removes them.
    type Place;

    /// Makes a place without data.
    fn place() -> Self::Place;

    /// Opens the store of a place, for the first time or again; the one before was dropped, unless a test of locking runs.
    ///
    /// # Errors
    /// Those of the backend; the suite looks at them.
    fn open(place: &Self::Place) -> Result<Self::Store, StoreError>;

    /// Returns the directory of a place, `None` for a backend without one, which skips the tests of directories.
    fn directory(_place: &Self::Place) -> Option<&Path> {
        None
    }

    /// Tells whether a place is on a disk, so that its store has a layout and a size.
    fn is_on_disk(place: &Self::Place) -> bool {
        Self::directory(place).is_some()
    }
}

/// Makes one `#[test]` for each duty, for the backend of a [`StoreBuilder`](crate::conformance::StoreBuilder).
#[macro_export]
macro_rules! conformance_tests {
    ($builder:ty) => {
        $crate::conformance_tests!(@each $builder;
            writes: a_batch_is_written_whole, operations_take_effect_in_order, absent_guards, equals_guards,
                several_guards_name_the_first_that_fails, guards_see_the_state_before_the_batch,
                a_refused_batch_writes_nothing, range_deletes, an_empty_batch_is_fine,
                exactly_one_of_many_racing_commits_wins, counting_with_guards_loses_nothing,
                too_large_is_refused_before_anything_is_done, an_unpolled_commit_does_nothing,
                more_than_the_queue_holds_is_written_in_the_end;
            reads: missing_keys_are_none, keys_are_answered_in_their_order, empty_keys_and_values,
                large_values, growing_and_shrinking_values, long_keys, keyspaces_do_not_meet, scans_are_bytewise_both_ways,
                pages_end_at_their_limits, a_page_has_one_item_at_least, prefixes_end_where_they_should,
                ranges_are_half_open, pages_with_commits_between_them, a_page_shows_one_moment,
                a_description_names_the_engine;
            watches: a_commit_wakes_the_watches_it_touches, a_touch_before_the_wait_is_not_lost,
                a_waiting_watch_is_woken_from_another_thread, a_refused_batch_wakes_nobody,
                a_range_delete_wakes_what_it_overlaps, a_woken_watch_sees_the_commit;
            crashes: reopening_keeps_everything, relaxed_commits_are_there_after_a_flush,
                a_failed_write_loses_nothing_and_leaves_the_store_usable, a_failed_read_changes_nothing;
            directories: a_foreign_directory_is_refused_and_left_alone, another_engines_directory_is_refused,
                a_newer_directory_is_refused_and_left_alone, the_second_to_open_is_told_so,
                a_missing_directory_is_created;
            model: random_operations_keep_in_step_with_a_map;
        );
    };
    (@each $builder:ty; $($module:ident: $($test:ident),+;)+) => {
        $($(
            #[test]
            fn $test() {
                $crate::conformance::$module::$test::<$builder>();
            }
        )+)+
    };
}

/// Runs a test on a fresh store.
fn with_store<B: StoreBuilder>(test: impl FnOnce(&B::Store)) {
    let place = B::place();
    let store = B::open(&place).unwrap();
    test(&store);
}

fn commit(store: &impl Store, build: impl FnOnce(&mut Batch)) -> Committed {
    let mut batch = Batch::new();
    build(&mut batch);
    block_on(store.commit(batch)).unwrap()
}

fn write(store: &impl Store, build: impl FnOnce(&mut Batch)) {
    assert_eq!(commit(store, build), Committed::Written);
}

fn put(store: &impl Store, key: &str, value: &str) {
    write(store, |batch| {
        batch.put(SPACE, key.to_owned(), value.to_owned());
    });
}

fn get(store: &impl Store, key: impl Into<Bytes>) -> Option<Bytes> {
    block_on(store.get(SPACE, key)).unwrap()
}

/// Returns all of a scan as text, like `a=1 b=2`.
fn text(store: &impl Store, scan: Scan) -> String {
    let items = block_on(store.scan_all(scan)).unwrap();
    let items: Vec<_> = items
        .iter()
        .map(|(key, value)| format!("{}={}", String::from_utf8_lossy(key), String::from_utf8_lossy(value)))
        .collect();
    items.join(" ")
}

fn everything(store: &impl Store) -> String {
    text(store, Scan::prefix(SPACE, ""))
}

/// What a backend with a queue of commits sets its bound to in the suite, in bytes, so that tests reach it.
pub const QUEUE_BYTES_IN_TESTS: usize = 256 * 1024;

/// The keyspace most tests use.
const SPACE: Keyspace = Keyspace::Log;
