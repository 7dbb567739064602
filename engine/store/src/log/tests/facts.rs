//! Facts beside the events of rooms.

use std::sync::Arc;

use super::{
    Bytes, Durability, EventLog, Fault, FaultyStore, KeyRange, Keyspace, LogError, MemoryStore, Operation, TestRoom,
    block_on, check_loaded, contents, findings, open, rebuild, rules, write,
};
use crate::{
    KEY_BYTES_MAX, Limits,
    log::{Condition, FACT_KEY_BYTES_MAX, FACT_VALUE_BYTES_MAX, Fact, Replica},
};

fn fact(key: &str, value: impl Into<Option<&'static str>>) -> Fact {
    Fact { kind: 1, key: Bytes::copy_from_slice(key.as_bytes()), value: value.into().map(Bytes::from) }
}

fn condition(key: &str, value: impl Into<Option<&'static str>>) -> Condition {
    Condition { kind: 1, key: Bytes::copy_from_slice(key.as_bytes()), value: value.into().map(Bytes::from) }
}

fn put(log: &EventLog, facts: &[Fact], conditions: &[Condition]) -> Option<u64> {
    block_on(log.put_facts(facts, conditions, Durability::Sync)).unwrap()
}

/// Returns what is there as `key=value@sequence`.
fn all(log: &EventLog, prefix: &str) -> Vec<String> {
    let (mut told, mut after) = (Vec::new(), None);
    loop {
        let page = block_on(log.facts(1, prefix.as_bytes(), after.as_deref(), 2)).unwrap();
        let Some(last) = page.last() else { return told };
        after = Some(last.key.clone());
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        told.extend(page.iter().map(|fact| format!("{}={}@{}", text(&fact.key), text(&fact.value), fact.sequence)));
    }
}

/// A log with facts before and after the events of a room.
fn stored() -> MemoryStore {
    let store = MemoryStore::new();
    let log = open(&store);
    put(&log, &[fact("a", "1"), fact("b", "2")], &[]);
    TestRoom::forked("!r:a").append_to(&log).unwrap();
    put(&log, &[fact("b", "3"), fact("c", "4"), fact("a", None)], &[]);
    store
}

#[test]
fn the_newest_value_counts() {
    let store = stored();
    let log = open(&store);
    assert_eq!(all(&log, ""), ["b=3@12", "c=4@13"]);
    assert_eq!((all(&log, "c"), log.len()), (vec!["c=4@13".to_owned()], 15));
    assert_eq!(block_on(log.fact(1, b"a")).unwrap(), None);
    assert_eq!(block_on(log.fact(2, b"b")).unwrap(), None, "another kind");
    assert_eq!(put(&log, &[fact("ba", "5"), fact("bb", "6"), fact("bc", "7")], &[]), Some(18));
    assert_eq!(all(&log, "b"), ["b=3@12", "ba=5@15", "bb=6@16", "bc=7@17"], "page by page");
    assert_eq!(findings(&store), [""; 0]);
}

#[test]
fn facts_are_put_under_conditions() {
    let log = open(&stored());
    for (condition, holds) in [
        (condition("a", None), true),
        (condition("b", "3"), true),
        (condition("b", "2"), false),
        (condition("b", None), false),
        (condition("d", "4"), false),
    ] {
        let before = log.len();
        let put = put(&log, &[fact("x", "y")], std::slice::from_ref(&condition));
        assert_eq!(put, holds.then_some(before + 1), "{condition:?}");
        assert_eq!(log.len(), before + u64::from(holds));
    }
}

#[test]
fn what_is_too_long_is_refused() {
    let log = open(&stored());
    let of = |key: usize, value: usize| Fact {
        kind: 255,
        key: vec![b'k'; key].into(),
        value: Some(vec![b'v'; value].into()),
    };
    assert_eq!(FACT_KEY_BYTES_MAX, KEY_BYTES_MAX - 1);
    put(&log, &[of(FACT_KEY_BYTES_MAX, FACT_VALUE_BYTES_MAX)], &[]).unwrap();
    for too_long in [of(FACT_KEY_BYTES_MAX + 1, 0), of(0, FACT_VALUE_BYTES_MAX + 1)] {
        let refused = block_on(log.put_facts(&[fact("n", "1"), too_long], &[], Durability::Sync));
        assert!(matches!(refused, Err(LogError::FactTooLong { .. })));
    }
    assert_eq!(block_on(log.fact(1, b"n")).unwrap(), None);
}

#[test]
fn facts_are_rebuilt_and_copied() {
    let store = stored();
    let before = contents(&store);
    write(&store, |batch| {
        batch.delete_range(Keyspace::Facts, KeyRange::all());
        batch.put(Keyspace::Facts, &b"\x01a"[..], &b"back"[..]);
    });
    assert_eq!(findings(&store).len(), 2, "{:?}", findings(&store));
    rebuild(&store).unwrap();
    assert_eq!(contents(&store), before);
    let limits = Limits { items: 1000, bytes: 1 << 30 };
    let entries = block_on(open(&store).raw_entries(0, limits)).unwrap();
    let copy = MemoryStore::new();
    let mut replica = Replica::new(open(&copy));
    block_on(replica.take(&entries, Durability::Sync)).unwrap();
    assert_eq!(contents(&copy), before);
}

#[test]
fn a_failed_commit_puts_nothing_and_a_second_writer_is_told() {
    let inner = stored();
    let store = Arc::new(FaultyStore::new(inner.clone()));
    let log = block_on(EventLog::open(store.clone())).unwrap();
    store.fail(Operation::Commit, 1, Fault::Failed);
    block_on(log.put_facts(&[fact("x", "1")], &[], Durability::Sync)).unwrap_err();
    assert_eq!(put(&log, &[fact("y", "2")], &[]), Some(16));
    assert_eq!(all(&log, "x"), [""; 0]);
    let other = open(&inner);
    put(&other, &[fact("z", "3")], &[]);
    let told = block_on(log.put_facts(&[fact("x", "1")], &[], Durability::Sync)).unwrap_err();
    assert!(matches!(told, LogError::Overtaken), "{told:?}");
    assert_eq!(findings(&inner), [""; 0]);
}

#[test]
fn facts_that_nobody_waits_for_are_settled() {
    let inner = stored();
    let store = FaultyStore::new(inner.clone());
    let log = block_on(EventLog::open(Arc::new(store))).unwrap();
    let dropped_facts = [fact("x", "1")];
    let mut dropped = Box::pin(log.put_facts(&dropped_facts, &[], Durability::Sync));
    let _ = dropped.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
    drop(dropped);
    put(&log, &[fact("y", "2")], &[]).unwrap();
    assert_eq!(findings(&inner), [""; 0]);
}

#[test]
fn facts_come_with_the_events_they_follow_from() {
    let inner = MemoryStore::new();
    let store = Arc::new(FaultyStore::new(inner.clone()));
    let log = block_on(EventLog::open(store.clone())).unwrap();
    let room = TestRoom::forked("!r:a");
    let append = |facts: &[Fact]| {
        block_on(log.append_with_facts(room.room.room_id(), rules(), &room.judged, facts, Durability::Sync))
    };
    let too_long = Fact { kind: 1, key: vec![b'k'; FACT_KEY_BYTES_MAX + 1].into(), value: None };
    assert!(matches!(append(&[too_long]), Err(LogError::FactTooLong { .. })));
    store.fail(Operation::Commit, 1, Fault::Failed);
    append(&[fact("a", "1")]).unwrap_err();
    assert_eq!((log.len(), all(&log, "")), (0, vec![]));

    put(&log, &[fact("old", "0")], &[]);
    // It is one commit: the next one is another's.
    store.fail(Operation::Commit, 2, Fault::Failed);
    append(&[fact("a", "1"), fact("old", None), fact("a", "2")]).unwrap();
    block_on(log.put_facts(&[fact("c", "1")], &[], Durability::Sync)).unwrap_err();
    let events = u64::try_from(room.judged.len()).unwrap();
    // The entry that opens the room, and one that puts `a` before it is put again.
    assert_eq!(all(&log, ""), [format!("a=2@{}", 1 + 1 + events + 2)]);
    check_loaded(&open(&inner), &room);
    // The events are there already: what would follow from them is not so.
    assert!(matches!(append(&[fact("b", "3")]), Err(LogError::AlreadyThere)));
    assert_eq!(all(&log, "b"), [""; 0]);
    let before = contents(&inner);
    assert_eq!(findings(&inner), [""; 0]);
    rebuild(&inner).unwrap();
    assert_eq!(contents(&inner), before);
}
