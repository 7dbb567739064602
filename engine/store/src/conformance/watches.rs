//! Waking those who watch a prefix.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::Duration,
};

use super::{SPACE, StoreBuilder, commit, get, put, with_store, write};
use crate::{Bytes, KeyRange, Keyspace, Store, Watch};

/// Takes a change if there is one, without waiting.
fn take(watch: &mut Watch) -> bool {
    let changed = pin!(watch.changed());
    match changed.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => {
            result.unwrap();
            true
        }
        Poll::Pending => false,
    }
}

/// Waits for a change; a wake-up that never comes fails the test instead of hanging it.
fn wait(watch: &mut Watch) {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread::current())).into();
    let mut changed = pin!(watch.changed());
    for _ in 0..100 {
        if let Poll::Ready(result) = changed.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result.unwrap();
        }
        // Woken for nothing now and then, by an earlier wait on this thread; never for so long.
        let before = std::time::Instant::now();
        thread::park_timeout(PATIENCE);
        assert!(before.elapsed() < PATIENCE, "nobody woke the watch");
    }
    panic!("woken again and again without a change");
}

const PATIENCE: Duration = Duration::from_secs(20);

pub fn a_commit_wakes_the_watches_it_touches<B: StoreBuilder>() {
    with_store::<B>(|store| {
        put(store, "room1/a", "before");
        let mut room = store.watch(SPACE, b"room1/");
        let mut all = store.watch(SPACE, b"");
        let mut key = store.watch(SPACE, b"room1/a");
        let mut elsewhere = store.watch(Keyspace::Meta, b"room1/");
        let mut check = |expected: [bool; 4]| {
            let woken = [&mut room, &mut all, &mut key, &mut elsewhere].map(take);
            assert_eq!(woken, expected);
        };
        check([false; 4]);
        put(store, "room1/a", "1");
        check([true, true, true, false]);
        check([false; 4]);
        put(store, "room1/aa", "1");
        check([true, true, true, false]);
        put(store, "room1", "1");
        check([false, true, false, false]);
        put(store, "room10/a", "1");
        check([false, true, false, false]);
        write(store, |batch| {
            batch.delete(SPACE, "room1/b");
        });
        check([true, true, false, false]);
        write(store, |batch| {
            batch.put(Keyspace::Meta, "room1/a", "1");
        });
        check([false, false, false, true]);
    });
}

pub fn a_touch_before_the_wait_is_not_lost<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let mut watch = store.watch(SPACE, b"a");
        assert_eq!(get(store, "a"), None);
        put(store, "a", "1");
        put(store, "a", "2");
        assert!(watch.has_changed());
        wait(&mut watch);
        assert!(!take(&mut watch));
        // A wait that was given up loses nothing either.
        put(store, "a", "3");
        drop(watch.changed());
        assert!(take(&mut watch));
    });
}

pub fn a_waiting_watch_is_woken_from_another_thread<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let mut watches: Vec<_> = (0..4).map(|_| store.watch(SPACE, b"a")).collect();
        thread::scope(|scope| {
            for watch in &mut watches {
                scope.spawn(|| wait(watch));
            }
            thread::sleep(Duration::from_millis(20));
            put(store, "abc", "1");
        });
    });
}

pub fn a_refused_batch_wakes_nobody<B: StoreBuilder>() {
    with_store::<B>(|store| {
        put(store, "a", "1");
        let mut watch = store.watch(SPACE, b"");
        let committed = commit(store, |batch| {
            batch.guard_absent(SPACE, "a").put(SPACE, "a", "2");
        });
        assert!(!committed.is_written());
        assert!(!take(&mut watch));
    });
}

pub fn a_range_delete_wakes_what_it_overlaps<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let prefixes = ["a", "b", "ba", "c", ""];
        let mut watches = prefixes.map(|prefix| store.watch(SPACE, prefix.as_bytes()));
        let mut check = |range: KeyRange, expected: [bool; 5]| {
            write(store, |batch| {
                batch.delete_range(SPACE, range.clone());
            });
            assert_eq!(watches.each_mut().map(take), expected, "{range:?}");
        };
        check(KeyRange::all(), [true; 5]);
        check(KeyRange::prefix("b"), [false, true, true, false, true]);
        check(KeyRange::new("b", "ba"), [false, true, false, false, true]);
        check(KeyRange::prefix("bax"), [false, true, true, false, true]);
        check(KeyRange::from("bz"), [false, true, false, true, true]);
        check(KeyRange::new("b", "b"), [false; 5]);
    });
}

pub fn a_woken_watch_sees_the_commit<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let mut watch = store.watch(SPACE, b"count");
        thread::scope(|scope| {
            scope.spawn(|| (1..=50).for_each(|count: u32| put(store, "count", &count.to_string())));
            // No wait is longer than a commit: if a wake-up came before its commit, the last would be missed forever.
            while get(store, "count") != Some(Bytes::from("50")) {
                wait(&mut watch);
            }
        });
    });
}
