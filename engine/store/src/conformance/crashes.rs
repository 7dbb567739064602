//! What lasts: reopening, faults, copies.

use super::{SPACE, StoreBuilder, commit, everything, get, put, text, with_store, write};
use crate::{
    Batch, Committed, Durability, KeyRange, Keyspace, MemoryStore, Operation, Scan, Store, StoreError, block_on, copy,
    faulty::{Fault, FaultyStore},
};

pub fn reopening_keeps_everything<B: StoreBuilder>() {
    let place = B::place();
    let mut expected = Vec::new();
    for round in 0..4 {
        let store = B::open(&place).unwrap();
        assert_eq!(everything(&store), expected.join(" "), "round {round}");
        put(&store, &format!("k{round}"), "1");
        expected.push(format!("k{round}=1"));
        if round == 2 {
            write(&store, |batch| {
                batch.delete(SPACE, "k0").delete_range(SPACE, KeyRange::prefix("k1"));
            });
            expected.drain(..2);
        }
        assert_eq!(everything(&store), expected.join(" "), "round {round}");
    }
    let store = B::open(&place).unwrap();
    let refused = commit(&store, |batch| {
        batch.guard_absent(SPACE, "k3").put(SPACE, "k3", "2");
    });
    assert!(!refused.is_written());
}

pub fn relaxed_commits_are_there_after_a_flush<B: StoreBuilder>() {
    let place = B::place();
    let store = B::open(&place).unwrap();
    for key in 0..100 {
        write(&store, |batch| {
            batch.durability(Durability::Relaxed).put(SPACE, format!("{key:03}"), vec![b'x'; 1000]);
        });
    }
    assert!(get(&store, "099").is_some());
    block_on(store.flush()).unwrap();
    drop(store);
    let store = B::open(&place).unwrap();
    let page = block_on(store.scan(Scan::prefix(SPACE, ""))).unwrap();
    assert_eq!(page.items.len(), 100);
    block_on(store.flush()).unwrap();
}

pub fn a_failed_write_loses_nothing_and_leaves_the_store_usable<B: StoreBuilder>() {
    let place = B::place();
    let store = FaultyStore::new(B::open(&place).unwrap());
    put(&store, "a", "1");
    let swap = |from: &'static str, to: &'static str| {
        let mut batch = Batch::new();
        batch.guard_equals(SPACE, "a", from).put(SPACE, "a", to).put(SPACE, "b", to);
        block_on(store.commit(batch))
    };

    store.fail(Operation::Commit, 2, Fault::Failed);
    assert!(swap("1", "2").unwrap().is_written());
    assert!(matches!(swap("2", "3"), Err(StoreError::Io { operation: Operation::Commit, .. })));
    assert_eq!(everything(&store), "a=2 b=2");

    store.fail(Operation::Commit, 1, Fault::Full);
    assert!(matches!(swap("2", "3"), Err(StoreError::Full { operation: Operation::Commit, .. })));
    assert_eq!(everything(&store), "a=2 b=2");

    // An error does not say that nothing was written: the guard is how a second try finds out.
    store.fail(Operation::Commit, 1, Fault::DoneButFailed);
    swap("2", "3").unwrap_err();
    let Committed::Refused(failed) = swap("2", "3").unwrap() else { panic!("written twice") };
    assert_eq!(failed.found.as_deref(), Some(&b"3"[..]));

    store.fail(Operation::Flush, 1, Fault::Failed);
    block_on(store.flush()).unwrap_err();
    block_on(store.flush()).unwrap();
    assert!(swap("3", "4").unwrap().is_written());
    drop(store);
    assert_eq!(everything(&B::open(&place).unwrap()), "a=4 b=4");
}

pub fn a_failed_read_changes_nothing<B: StoreBuilder>() {
    let place = B::place();
    let store = FaultyStore::new(B::open(&place).unwrap());
    put(&store, "a", "1");
    store.fail(Operation::Get, 1, Fault::Failed);
    store.fail(Operation::Scan, 1, Fault::Failed);
    block_on(store.get_many(SPACE, &["a".into()])).unwrap_err();
    block_on(store.scan(Scan::prefix(SPACE, ""))).unwrap_err();
    assert_eq!(everything(&store), "a=1");
}

pub fn a_copy_is_equal<B: StoreBuilder>() {
    let source_place = B::place();
    let source = B::open(&source_place).unwrap();
    let mut bytes = 0;
    for (at, keyspace) in Keyspace::ALL.iter().enumerate() {
        write(&source, |batch| {
            for key in 0..at * 10 {
                batch.put(*keyspace, format!("{key:03}"), vec![at as u8; key * 3000]);
                bytes += 3 + key as u64 * 3000;
            }
        });
    }
    let memory = MemoryStore::new();
    let target_place = B::place();
    let target = B::open(&target_place).unwrap();
    let out = block_on(copy(&source, &memory)).unwrap();
    let back = block_on(copy(&memory, &target)).unwrap();
    assert_eq!(out, back);
    assert_eq!(out.bytes, bytes);
    assert_eq!(out.items.get(&Keyspace::Meta), None);
    assert_eq!(out.items.get(&Keyspace::Rooms), Some(&10));
    drop(target);
    let target = B::open(&target_place).unwrap();
    for keyspace in Keyspace::ALL {
        let scan = Scan::new(*keyspace, KeyRange::all());
        assert!(text(&source, scan.clone()) == text(&target, scan), "{keyspace} differs");
    }
}

pub fn a_copy_into_a_used_store_is_refused<B: StoreBuilder>() {
    with_store::<B>(|target| {
        write(target, |batch| {
            batch.put(Keyspace::Extremities, "", "");
        });
        let source = MemoryStore::new();
        put(&source, "a", "1");
        let error = block_on(copy(&source, target)).unwrap_err();
        assert!(matches!(error, StoreError::NotEmpty { keyspace: Keyspace::Extremities }));
        assert_eq!(everything(target), "");
    });
}

pub fn a_failed_copy_has_no_meta<B: StoreBuilder>() {
    let source = MemoryStore::new();
    for keyspace in Keyspace::ALL {
        write(&source, |batch| {
            batch.put(*keyspace, "a", "1");
        });
    }
    for n in 1..=Keyspace::ALL.len() as u64 {
        with_store::<B>(|inner| {
            // The store cannot be moved out of its place, so the fault sits on the side that is read.
            let faulty = FaultyStore::new(source.clone());
            faulty.fail(Operation::Scan, n, Fault::Failed);
            block_on(copy(&faulty, inner)).unwrap_err();
            assert_eq!(text(inner, Scan::new(Keyspace::Meta, KeyRange::all())), "");
        });
    }
}
