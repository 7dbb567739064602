//! What lasts: reopening, faults, copies.

use super::{SPACE, StoreBuilder, commit, everything, get, put, write};
use crate::{
    Batch, Committed, Durability, KeyRange, Operation, Scan, Store, StoreError, block_on,
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
