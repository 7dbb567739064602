//! Look-ups, scans and pages.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use super::{SPACE, StoreBuilder, everything, get, put, text, with_store, write};
use crate::{Bytes, Durability, KEY_BYTES_MAX, KeyRange, Keyspace, Scan, Store, StoreExt, VALUE_BYTES_MAX, block_on};

pub fn missing_keys_are_none<B: StoreBuilder>() {
    with_store::<B>(|store| {
        assert_eq!(get(store, "a"), None);
        assert_eq!(everything(store), "");
        put(store, "a", "1");
        for near in ["", "a\0", "aa", "`", "b"] {
            assert_eq!(get(store, near), None, "{near:?}");
        }
    });
}

pub fn keys_are_answered_in_their_order<B: StoreBuilder>() {
    with_store::<B>(|store| {
        put(store, "a", "1");
        put(store, "b", "2");
        put(store, "c", "3");
        let keys = ["c", "x", "a", "c", "b"].map(Bytes::from);
        let values = block_on(store.get_many(SPACE, &keys)).unwrap();
        assert_eq!(values, [Some("3"), None, Some("1"), Some("3"), Some("2")].map(|value| value.map(Bytes::from)));
        assert_eq!(block_on(store.get_many(SPACE, &[])).unwrap(), []);
    });
}

pub fn empty_keys_and_values<B: StoreBuilder>() {
    with_store::<B>(|store| {
        put(store, "", "");
        assert_eq!(get(store, ""), Some(Bytes::new()));
        put(store, "a", "");
        put(store, "", "1");
        assert_eq!(everything(store), "=1 a=");
        assert_eq!(text(store, Scan::prefix(SPACE, "").backward().items(1)), "a= =1");
        write(store, |batch| {
            batch.delete(SPACE, "");
        });
        assert_eq!(everything(store), "a=");
    });
}

pub fn large_values<B: StoreBuilder>() {
    let place = B::place();
    let sizes = [4_000, 30_000, 65_536, 100_000, 131_072, 512 * 1024, VALUE_BYTES_MAX - 1, VALUE_BYTES_MAX];
    let value = |size: usize| -> Bytes { (0..size).map(|at| (at * 7 + at / 251 + size) as u8).collect() };
    let store = B::open(&place).unwrap();
    write(&store, |batch| {
        for size in sizes {
            batch.put(SPACE, format!("{size:07}"), value(size));
        }
    });
    let check = |store: &B::Store| {
        for size in sizes {
            let found = get(store, format!("{size:07}")).unwrap();
            assert_eq!(found.len(), size);
            assert!(found == value(size), "a value of {size} bytes came back changed");
        }
        let items = block_on(store.scan_all(Scan::prefix(SPACE, "").backward())).unwrap();
        let found: Vec<_> = items.iter().rev().map(|(_, value)| value.len()).collect();
        assert_eq!(found, sizes);
    };
    check(&store);
    drop(store);
    check(&B::open(&place).unwrap());
}

pub fn growing_and_shrinking_values<B: StoreBuilder>() {
    let place = B::place();
    let store = B::open(&place).unwrap();
    for (round, size) in [10, 700_000, 200_000, 0, 900_000, 5].into_iter().enumerate() {
        write(&store, |batch| {
            // More than one in one batch: only the last may leave something behind.
            batch.put(SPACE, "key", vec![0xAA; 300_000]);
            batch.put(SPACE, "key", vec![round as u8; size]);
            batch.put(SPACE, "key2", "neighbor");
        });
        assert!(get(&store, "key").unwrap() == vec![round as u8; size], "round {round}");
    }
    write(&store, |batch| {
        batch.put(SPACE, "key", vec![1; 400_000]).put(SPACE, "k", vec![2; 400_000]);
    });
    write(&store, |batch| {
        batch.delete(SPACE, "key").delete_range(SPACE, KeyRange::new("k", "kex"));
    });
    assert_eq!(everything(&store), "key2=neighbor");
    drop(store);
    assert_eq!(everything(&B::open(&place).unwrap()), "key2=neighbor");
}

pub fn long_keys<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let key = |last: u8| -> Bytes {
            let mut key = vec![0xFF; KEY_BYTES_MAX];
            key[KEY_BYTES_MAX - 1] = last;
            key.into()
        };
        write(store, |batch| {
            for last in [0xFF, 0, 1] {
                batch.put(SPACE, key(last), vec![last; 100_000]);
            }
        });
        let items = block_on(store.scan_all(Scan::new(SPACE, KeyRange::all()).items(1))).unwrap();
        assert_eq!(
            items.iter().map(|(key, value)| (key.clone(), value[0])).collect::<Vec<_>>(),
            [(key(0), 0), (key(1), 1), (key(0xFF), 0xFF)]
        );
        write(store, |batch| {
            batch.delete_range(SPACE, KeyRange::all());
        });
        assert_eq!(everything(store), "");
    });
}

pub fn keyspaces_do_not_meet<B: StoreBuilder>() {
    with_store::<B>(|store| {
        for keyspace in Keyspace::ALL {
            write(store, |batch| {
                for key in ["", "a", "\u{7f}"] {
                    batch.put(*keyspace, key, keyspace.name());
                }
            });
        }
        for keyspace in Keyspace::ALL {
            for scan in [Scan::new(*keyspace, KeyRange::all()), Scan::new(*keyspace, KeyRange::all()).backward()] {
                let items = block_on(store.scan_all(scan.items(2))).unwrap();
                assert_eq!(items.len(), 3);
                assert!(items.iter().all(|(_, value)| value == keyspace.name()));
            }
        }
        write(store, |batch| {
            batch.delete_range(Keyspace::Rooms, KeyRange::all());
        });
        let left = |keyspace| block_on(store.scan_all(Scan::new(keyspace, KeyRange::all()))).unwrap().len();
        assert_eq!([Keyspace::Meta, Keyspace::Rooms, Keyspace::Log].map(left), [3, 0, 3]);
    });
}

pub fn scans_are_bytewise_both_ways<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let mut keys: Vec<Bytes> = (0..=255u8).map(|byte| vec![byte].into()).collect();
        keys.extend(
            [&b""[..], b"a\0", b"a\0\0", b"a\xff", b"\x7f\x80", b"\x80\x7f", b"\xff\0", b"\xff\xff\xff"]
                .map(Bytes::from),
        );
        // Written in another order than they are read.
        for (at, key) in
            keys.iter().enumerate().rev().step_by(2).chain(keys.iter().enumerate().rev().skip(1).step_by(2))
        {
            write(store, |batch| {
                batch.durability(Durability::Relaxed).put(SPACE, key.clone(), at.to_string());
            });
        }
        keys.sort();
        for items in [1, 3, 1000] {
            let scan = Scan::new(SPACE, KeyRange::all()).items(items);
            let of = |scan| -> Vec<Bytes> {
                block_on(store.scan_all(scan)).unwrap().into_iter().map(|(key, _)| key).collect()
            };
            assert_eq!(of(scan.clone()), keys);
            let mut backward = of(scan.backward());
            backward.reverse();
            assert_eq!(backward, keys);
        }
    });
}

pub fn pages_end_at_their_limits<B: StoreBuilder>() {
    with_store::<B>(|store| {
        write(store, |batch| {
            for key in 0..10 {
                batch.put(SPACE, format!("k{key}"), "12345678");
            }
        });
        let sizes = |scan: Scan| {
            let mut sizes = Vec::new();
            let mut scan = Some(scan);
            while let Some(asked) = scan.take() {
                let page = block_on(store.scan(asked.clone())).unwrap();
                sizes.push(page.items.len());
                assert_eq!(page.next.is_some(), sizes.iter().sum::<usize>() < 10, "next only if more is left");
                scan = page.next.map(|cursor| asked.after(&cursor));
            }
            sizes
        };
        for scan in [Scan::prefix(SPACE, "k"), Scan::prefix(SPACE, "k").backward()] {
            assert_eq!(sizes(scan.clone()), [10]);
            assert_eq!(sizes(scan.clone().items(10)), [10]);
            assert_eq!(sizes(scan.clone().items(4)), [4, 4, 2]);
            assert_eq!(sizes(scan.clone().items(5)), [5, 5]);
            assert_eq!(sizes(scan.clone().bytes(30)), [3, 3, 3, 1]);
            assert_eq!(sizes(scan.clone().bytes(29)), [2, 2, 2, 2, 2]);
            assert_eq!(sizes(scan.clone().bytes(50).items(2)), [2, 2, 2, 2, 2]);
            assert_eq!(sizes(scan.items(usize::MAX).bytes(usize::MAX)), [10]);
        }
    });
}

pub fn a_page_has_one_item_at_least<B: StoreBuilder>() {
    with_store::<B>(|store| {
        put(store, "a", "larger than the page");
        put(store, "b", "2");
        let scan = Scan::prefix(SPACE, "").items(0).bytes(0);
        let page = block_on(store.scan(scan.clone())).unwrap();
        assert_eq!((page.items.len(), page.next.as_deref()), (1, Some(&b"a"[..])));
        assert_eq!(text(store, scan), "a=larger than the page b=2");
        let nothing = block_on(store.scan(Scan::prefix(SPACE, "c"))).unwrap();
        assert_eq!((nothing.items.len(), nothing.next), (0, None));
    });
}

pub fn prefixes_end_where_they_should<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let keys = [
            &b"a"[..],
            b"a\0",
            b"a\xff",
            b"a\xff\0",
            b"a\xff\xff",
            b"b",
            b"\xfe\xff",
            b"\xff",
            b"\xff\0",
            b"\xff\xff",
            b"\xff\xff\xff",
        ];
        write(store, |batch| {
            for key in keys {
                batch.put(SPACE, key, "");
            }
        });
        for prefix in [&b""[..], b"a", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff", b"\xff\xff\xff\xff", b"c"] {
            let expected: Vec<_> =
                keys.iter().filter(|key| key.starts_with(prefix)).map(|key| Bytes::from(*key)).collect();
            let scan = Scan::prefix(SPACE, prefix).items(1);
            let of = |scan| -> Vec<Bytes> {
                block_on(store.scan_all(scan)).unwrap().into_iter().map(|(key, _)| key).collect()
            };
            assert_eq!(of(scan.clone()), expected, "{prefix:?}");
            assert_eq!(of(scan.backward()), expected.into_iter().rev().collect::<Vec<_>>(), "{prefix:?}");
        }
    });
}

pub fn ranges_are_half_open<B: StoreBuilder>() {
    with_store::<B>(|store| {
        for key in ["a", "b", "c", "d"] {
            put(store, key, "");
        }
        let check = |range: KeyRange, expected: &str| {
            assert_eq!(text(store, Scan::new(SPACE, range.clone())), expected, "{range:?}");
            let mut backward: Vec<_> = expected.split_whitespace().collect();
            backward.reverse();
            assert_eq!(text(store, Scan::new(SPACE, range.clone()).backward()), backward.join(" "), "{range:?}");
        };
        check(KeyRange::new("b", "d"), "b= c=");
        check(KeyRange::new("b\0", "d\0"), "c= d=");
        check(KeyRange::new("a", "a"), "");
        check(KeyRange::new("c", "b"), "");
        check(KeyRange::from("c"), "c= d=");
        check(KeyRange::new("", "a"), "");
        check(KeyRange::new("", ""), "");
        check(KeyRange::new("aa", "zz"), "b= c= d=");
    });
}

pub fn pages_with_commits_between_them<B: StoreBuilder>() {
    with_store::<B>(|store| {
        for key in ["b", "d", "f", "h"] {
            put(store, key, "");
        }
        let forward = Scan::prefix(SPACE, "").items(2);
        let page = block_on(store.scan(forward.clone())).unwrap();
        let cursor = page.next.unwrap();
        assert_eq!(cursor, "d");
        write(store, |batch| {
            // Before and behind the cursor, the cursor itself gone.
            batch.put(SPACE, "a", "").put(SPACE, "e", "").delete(SPACE, "d").delete(SPACE, "h");
        });
        assert_eq!(text(store, forward.after(&cursor)), "e= f=");

        let backward = Scan::prefix(SPACE, "").backward().items(2);
        let page = block_on(store.scan(backward.clone())).unwrap();
        let cursor = page.next.unwrap();
        assert_eq!(cursor, "e");
        write(store, |batch| {
            batch.put(SPACE, "z", "").put(SPACE, "c", "").delete(SPACE, "e").delete(SPACE, "a");
        });
        assert_eq!(text(store, backward.after(&cursor)), "c= b=");
    });
}

pub fn a_page_shows_one_moment<B: StoreBuilder>() {
    with_store::<B>(|store| {
        let keys: Vec<Bytes> = (0..40).map(|key| format!("k{key:02}").into()).collect();
        let write_round = |round: u32| {
            write(store, |batch| {
                batch.durability(Durability::Relaxed);
                for key in &keys {
                    batch.put(SPACE, key.clone(), round.to_string());
                }
            });
        };
        write_round(0);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                (1..=100).for_each(write_round);
                done.store(true, Ordering::Release);
            });
            while !done.load(Ordering::Acquire) {
                let page = block_on(store.scan(Scan::prefix(SPACE, "k"))).unwrap();
                assert_eq!(page.items.len(), keys.len());
                assert!(page.items.iter().all(|(_, value)| *value == page.items[0].1), "half a batch in a page");
                let values = block_on(store.get_many(SPACE, &keys)).unwrap();
                assert!(values.iter().all(|value| *value == values[0]), "half a batch in a look-up");
            }
        });
    });
}

pub fn a_description_names_the_engine<B: StoreBuilder>() {
    let place = B::place();
    let store = B::open(&place).unwrap();
    put(&store, "a", "1");
    let description = block_on(store.describe()).unwrap();
    assert!(!description.engine.is_empty());
    assert_eq!(description.layout.is_some(), B::is_on_disk(&place));
    assert_eq!(description.size_on_disk > 0, B::is_on_disk(&place));
}
