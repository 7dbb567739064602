//! Atomicity, order and guards.

use std::{
    collections::BTreeSet,
    sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Waker},
    thread,
};

use super::{QUEUE_BYTES_IN_TESTS, SPACE, StoreBuilder, commit, everything, get, put, text, with_store, write};
use crate::{
    BATCH_BYTES_MAX, Batch, BoundedBy, Bytes, Committed, GET_KEYS_MAX, KEY_BYTES_MAX, KeyRange, Keyspace, Scan, Store,
    StoreError, StoreExt, VALUE_BYTES_MAX, block_on,
};

pub fn a_batch_is_written_whole<B: StoreBuilder>() {
    with_store::<B>(|store| {
        write(store, |batch| {
            for keyspace in Keyspace::ALL {
                batch.put(*keyspace, "key", keyspace.name());
            }
        });
        for keyspace in Keyspace::ALL {
            assert_eq!(text(store, Scan::prefix(*keyspace, "")), format!("key={keyspace}"));
        }
    });
}

pub fn operations_take_effect_in_order<B: StoreBuilder>() {
    with_store::<B>(|store| {
        put(store, "d", "old");
        write(store, |batch| {
            batch.put(SPACE, "a", "1").put(SPACE, "a", "2");
            batch.put(SPACE, "b", "1").delete(SPACE, "b");
            batch.delete(SPACE, "c").put(SPACE, "c", "2");
            batch.put(SPACE, "e", "1").delete_range(SPACE, KeyRange::new("d", "f")).put(SPACE, "f", "3");
            batch.put(SPACE, "g", "1").delete_range(SPACE, KeyRange::prefix("g")).put(SPACE, "g", "2");
        });
        assert_eq!(everything(store), "a=2 c=2 f=3 g=2");
    });
}

pub fn absent_guards<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let append = |value: &'static str| {
            commit(store, |batch| {
                batch.guard_absent(SPACE, "key").put(SPACE, "key", value);
            })
        };
        assert_eq!(append("first"), Committed::Written);
        let Committed::Refused(failed) = append("second") else { panic!("a second append under one key") };
        assert_eq!((failed.index, failed.keyspace, &*failed.key), (0, SPACE, &b"key"[..]));
        assert_eq!(failed.found.as_deref(), Some(&b"first"[..]));
        assert_eq!(everything(store), "key=first");
        write(store, |batch| {
            batch.delete(SPACE, "key");
        });
        assert_eq!(append("third"), Committed::Written);
    });
}

pub fn equals_guards<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let swap = |from: &'static str, to: &'static str| {
            commit(store, |batch| {
                batch.guard_equals(SPACE, "key", from).put(SPACE, "key", to);
            })
        };
        let refused_with = |committed| match committed {
            Committed::Refused(failed) => failed.found,
            Committed::Written => panic!("written though the value was another"),
        };
        assert_eq!(refused_with(swap("1", "2")), None);
        put(store, "key", "1");
        assert!(swap("1", "2").is_written());
        assert_eq!(refused_with(swap("1", "3")), Some(Bytes::from("2")));
        // Neither a prefix nor an extension of the value is the value.
        assert!(!swap("", "3").is_written());
        assert!(!swap("22", "3").is_written());
        assert_eq!(everything(store), "key=2");
        put(store, "key", "");
        assert!(swap("", "4").is_written());
    });
}

pub fn several_guards_name_the_first_that_fails<B: StoreBuilder>() {
    with_store::<B>(|store| {
        put(store, "a", "1");
        let check = |expected: Option<usize>, build: fn(&mut Batch)| {
            let committed = commit(store, |batch| {
                build(batch);
                batch.put(Keyspace::Meta, "x", "y");
            });
            let index = match committed {
                Committed::Written => None,
                Committed::Refused(failed) => Some(failed.index),
            };
            assert_eq!(index, expected);
        };
        check(Some(1), |batch| {
            batch.guard_equals(SPACE, "a", "1").guard_absent(SPACE, "a").guard_equals(SPACE, "a", "2");
        });
        check(Some(2), |batch| {
            batch.guard_absent(SPACE, "b").guard_equals(SPACE, "a", "1").guard_equals(SPACE, "b", "");
        });
        assert_eq!(text(store, Scan::prefix(Keyspace::Meta, "")), "");
        check(None, |batch| {
            batch.guard_absent(SPACE, "b").guard_equals(SPACE, "a", "1").guard_absent(Keyspace::Meta, "a");
        });
        assert_eq!(text(store, Scan::prefix(Keyspace::Meta, "")), "x=y");
    });
}

pub fn guards_see_the_state_before_the_batch<B: StoreBuilder>() {
    with_store::<B>(|store| {
        write(store, |batch| {
            batch.put(SPACE, "a", "1").guard_absent(SPACE, "a");
        });
        write(store, |batch| {
            batch.put(SPACE, "a", "2").guard_equals(SPACE, "a", "1").delete(SPACE, "a");
        });
        assert_eq!(everything(store), "");
    });
}

pub fn a_refused_batch_writes_nothing<B: StoreBuilder>() {
    with_store::<B>(|store| {
        put(store, "a", "1");
        put(store, "b", "1");
        let committed = commit(store, |batch| {
            batch.put(SPACE, "c", "2").delete(SPACE, "a").delete_range(SPACE, KeyRange::all());
            batch.put(Keyspace::Meta, "m", "2").guard_absent(SPACE, "b");
        });
        assert!(!committed.is_written());
        assert_eq!(everything(store), "a=1 b=1");
        assert_eq!(text(store, Scan::prefix(Keyspace::Meta, "")), "");
    });
}

pub fn range_deletes<B: StoreBuilder>() {
    let check = |range: KeyRange, expected: &str| {
        with_store::<B>(|store| {
            write(store, |batch| {
                for key in [&b""[..], b"a", b"a\0", b"b", b"b\xff", b"c", b"\xff", b"\xff\xff"] {
                    batch.put(SPACE, key, "");
                    batch.put(Keyspace::Rooms, key, "");
                    batch.put(Keyspace::Events, key, "");
                }
            });
            write(store, |batch| {
                batch.delete_range(SPACE, range.clone());
            });
            let left: Vec<String> = block_on(crate::StoreExt::scan_all(store, Scan::new(SPACE, KeyRange::all())))
                .unwrap()
                .iter()
                .map(|(key, _)| key.escape_ascii().to_string())
                .collect();
            assert_eq!(left.join(" "), expected, "{range:?}");
            for neighbor in [Keyspace::Rooms, Keyspace::Events] {
                let page = block_on(store.scan(Scan::new(neighbor, KeyRange::all()))).unwrap();
                assert_eq!(page.items.len(), 8, "{range:?}");
            }
        });
    };
    check(KeyRange::all(), "");
    check(KeyRange::prefix("a"), r" b b\xff c \xff \xff\xff");
    check(KeyRange::new("a", "b"), r" b b\xff c \xff \xff\xff");
    check(KeyRange::new("a\0", "b"), r" a b b\xff c \xff \xff\xff");
    check(KeyRange::new("b", "a"), r" a a\x00 b b\xff c \xff \xff\xff");
    check(KeyRange::new("b", "b"), r" a a\x00 b b\xff c \xff \xff\xff");
    check(KeyRange::prefix("b"), r" a a\x00 c \xff \xff\xff");
    check(KeyRange::prefix(&b"\xff"[..]), r" a a\x00 b b\xff c");
    check(KeyRange::from("b"), r" a a\x00");
    check(KeyRange::new("", "a"), r"a a\x00 b b\xff c \xff \xff\xff");
}

pub fn an_empty_batch_is_fine<B: StoreBuilder>() {
    with_store::<B>(|store| {
        write(store, |_| {});
        write(store, |batch| {
            batch.delete(SPACE, "missing").delete_range(SPACE, KeyRange::all());
        });
        let refused = commit(store, |batch| {
            batch.guard_equals(SPACE, "missing", "");
        });
        assert!(!refused.is_written());
    });
}

pub fn exactly_one_of_many_racing_commits_wins<B: StoreBuilder>() {
    with_store::<B>(|store| {
        const THREADS: usize = 8;
        const ROUNDS: usize = 20;
        let wins = AtomicUsize::new(0);
        let start = Barrier::new(THREADS);
        thread::scope(|scope| {
            for writer in 0..THREADS {
                let (wins, start) = (&wins, &start);
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        start.wait();
                        let committed = commit(store, |batch| {
                            batch.guard_absent(SPACE, format!("{round:02}"));
                            batch.put(SPACE, format!("{round:02}"), writer.to_string());
                            batch.put(Keyspace::Meta, format!("{round:02}"), writer.to_string());
                        });
                        wins.fetch_add(usize::from(committed.is_written()), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(wins.into_inner(), ROUNDS);
        assert_eq!(everything(store), text(store, Scan::prefix(Keyspace::Meta, "")));
    });
}

pub fn counting_with_guards_loses_nothing<B: StoreBuilder>() {
    with_store::<B>(|store| {
        const THREADS: usize = 4;
        const EACH: usize = 25;
        put(store, "count", "0");
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let mut done = 0;
                    while done < EACH {
                        let old = String::from_utf8(get(store, "count").unwrap().to_vec()).unwrap();
                        let new = (old.parse::<usize>().unwrap() + 1).to_string();
                        let committed = commit(store, |batch| {
                            batch.guard_equals(SPACE, "count", old).put(SPACE, "count", new);
                        });
                        done += usize::from(committed.is_written());
                    }
                });
            }
        });
        assert_eq!(everything(store), format!("count={}", THREADS * EACH));
    });
}

pub fn too_large_is_refused_before_anything_is_done<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let check = |expected: BoundedBy, build: &dyn Fn(&mut Batch)| {
            let mut batch = Batch::new();
            batch.put(SPACE, "small", "small");
            build(&mut batch);
            let error = block_on(store.commit(batch)).unwrap_err();
            assert!(matches!(error, StoreError::TooLarge { what, .. } if what == expected), "{error}");
            assert_eq!(get(store, "small"), None);
        };
        let long_key = vec![b'k'; KEY_BYTES_MAX + 1];
        check(BoundedBy::Key, &|batch| {
            batch.put(SPACE, long_key.clone(), "");
        });
        check(BoundedBy::Key, &|batch| {
            batch.delete(SPACE, long_key.clone());
        });
        check(BoundedBy::Key, &|batch| {
            batch.guard_absent(SPACE, long_key.clone());
        });
        check(BoundedBy::Key, &|batch| {
            batch.delete_range(SPACE, KeyRange::from(vec![b'k'; KEY_BYTES_MAX + 2]));
        });
        check(BoundedBy::Value, &|batch| {
            batch.put(SPACE, "large", vec![0; VALUE_BYTES_MAX + 1]);
        });
        check(BoundedBy::Batch, &|batch| {
            let value = Bytes::from(vec![0; VALUE_BYTES_MAX]);
            for key in 0..=BATCH_BYTES_MAX / VALUE_BYTES_MAX {
                batch.put(SPACE, key.to_string(), value.clone());
            }
        });
        let get = block_on(store.get_many(SPACE, &[Bytes::from(long_key.clone())]));
        assert!(matches!(get, Err(StoreError::TooLarge { what: BoundedBy::Key, .. })));
        let get = block_on(store.get_many(SPACE, &vec![Bytes::new(); GET_KEYS_MAX + 1]));
        assert!(matches!(get, Err(StoreError::TooLarge { what: BoundedBy::Keys, .. })));
        let scan = block_on(store.scan(Scan::new(SPACE, KeyRange::from(vec![0; KEY_BYTES_MAX + 2]))));
        assert!(matches!(scan, Err(StoreError::TooLarge { what: BoundedBy::Key, .. })));
    });
}

pub fn an_unpolled_commit_does_nothing<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let mut batch = Batch::new();
        batch.put(SPACE, "a", "1");
        drop(store.commit(batch));
        put(store, "b", "2");
        assert_eq!(everything(store), "b=2");
    });
}

pub fn more_than_the_queue_holds_is_written_in_the_end<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let commit = |number: usize| {
            let mut batch = Batch::new();
            batch.put(SPACE, format!("{number:03}"), vec![0; QUEUE_BYTES_IN_TESTS / 10]);
            store.commit(batch)
        };
        let mut over = Batch::new();
        over.put(SPACE, "over", vec![0; QUEUE_BYTES_IN_TESTS * 2]);
        let mut commits: Vec<_> = (0..40).map(commit).chain([store.commit(over)]).chain((40..60).map(commit)).collect();
        let mut context = Context::from_waker(Waker::noop());
        let mut ready: Vec<_> =
            commits.iter_mut().map(|commit| commit.as_mut().poll(&mut context).is_ready()).collect();
        // Those that are dropped, be it while they wait, make room for those behind them.
        for number in (0..40).step_by(3).rev() {
            drop(commits.remove(number));
            ready.remove(number);
        }
        for (commit, ready) in commits.into_iter().zip(ready) {
            assert!(ready || block_on(commit).unwrap().is_written());
        }
        let keys: BTreeSet<_> =
            block_on(store.scan_all(Scan::prefix(SPACE, ""))).unwrap().into_iter().map(|(key, _)| key).collect();
        let kept = (0..60).filter(|number| number % 3 != 0 || *number >= 40).map(|number| format!("{number:03}"));
        assert!(kept.chain(["over".to_owned()]).all(|key| keys.contains(key.as_bytes())));
    });
}
