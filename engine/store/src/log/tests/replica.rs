//! Logs that follow another one.

use std::sync::Arc;

use super::{
    BATCH_BYTES, Bytes, Durability, Fault, FaultyStore, LogError, MemoryStore, Operation, Store, StoreError, TestRoom,
    block_on, check_loaded, contents, findings, open, rebuild, rules, stored, stored_in_batches,
};
use crate::{
    Limits,
    log::{EventLog, Replica},
};

fn entries(store: &MemoryStore) -> Vec<(u64, Bytes)> {
    let limits = Limits { items: 100_000, bytes: 1 << 30 };
    block_on(open(store).raw_entries(0, limits)).unwrap()
}

fn replica(store: impl Store) -> Replica {
    Replica::new(block_on(EventLog::open(Arc::new(store))).unwrap())
}

#[test]
fn a_replica_has_the_same_bytes() {
    let (source, room) = stored_in_batches();
    let entries = entries(&source);
    assert!(entries.iter().map(|(_, entry)| entry.len()).sum::<usize>() > 2 * BATCH_BYTES);
    for step in [1, 7, 1000] {
        let copy = MemoryStore::new();
        let mut replica = replica(copy.clone());
        for entries in entries.chunks(step) {
            block_on(replica.take(entries, Durability::Sync)).unwrap();
        }
        assert!(contents(&copy) == contents(&source), "{step} at a time");
        // It is a log like any other.
        let log = replica.into_log();
        check_loaded(&log, &room);
        TestRoom::forked("!new:a").append_to(&log).unwrap();
        assert_eq!(findings(&copy), [""; 0]);
    }
}

#[test]
fn a_replica_goes_on_where_it_was_stopped() {
    let (source, _) = stored_in_batches();
    let entries = entries(&source);
    let copy = MemoryStore::new();
    let mut stopped = 0;
    loop {
        let store = FaultyStore::new(copy.clone());
        store.fail(Operation::Commit, 2, Fault::Failed);
        let mut replica = replica(store);
        let result = block_on(replica.take(&entries, Durability::Sync));
        assert_eq!(findings(&copy), [""; 0]);
        if result.is_ok() {
            break;
        }
        stopped += 1;
    }
    assert!(stopped > 1);
    assert!(contents(&copy) == contents(&source));
}

/// Rooms that were not used for long are put aside, and loaded when they come again.
#[test]
fn many_rooms_in_turns_need_not_be_in_memory_at_once() {
    let rooms: Vec<TestRoom> = (0..12).map(|number| TestRoom::forked(&format!("!r{number}:a"))).collect();
    let source = MemoryStore::new();
    let log = open(&source);
    for place in 0..rooms[0].judged.len() {
        for room in &rooms {
            block_on(log.append(room.room.room_id(), rules(), &room.judged[place..=place], Durability::Sync)).unwrap();
        }
    }
    let copy = MemoryStore::new();
    let mut replica = replica(copy.clone());
    block_on(replica.take(&entries(&source), Durability::Sync)).unwrap();
    assert!(replica.replay.rooms().count() < rooms.len(), "some are put aside");
    assert!(contents(&copy) == contents(&source));
    rebuild(&copy).unwrap();
    assert!(contents(&copy) == contents(&source));
}

#[test]
fn entries_that_do_not_fit_are_refused() {
    let (source, _) = stored();
    let entries = entries(&source);
    let check = |entries: &[(u64, Bytes)], expected: &str, kept: u64| {
        let copy = MemoryStore::new();
        let mut replica = replica(copy.clone());
        let error = block_on(replica.take(entries, Durability::Sync)).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(open(&copy).len() <= kept);
        assert_eq!(findings(&copy), [""; 0]);
    };
    check(&entries[1..], "entry 0 is not usable: it is missing", 0);
    let gap = [&entries[..3], &entries[4..]].concat();
    check(&gap, "entry 3 is not usable: it is missing", 3);
    let mut damaged = entries.clone();
    damaged[2].1 = damaged[2].1.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == 9)).collect();
    check(&damaged, "corrupt", 2);
    let mut swapped = entries.clone();
    let (second, third) = (swapped[2].1.clone(), swapped[3].1.clone());
    (swapped[2].1, swapped[3].1) = (third, second);
    check(&swapped, "before its parent", 2);
}

#[test]
fn somebody_else_who_appends_is_noticed() {
    let (source, _) = stored();
    let entries = entries(&source);
    let copy = MemoryStore::new();
    let mut replica = replica(copy.clone());
    block_on(replica.take(&entries[..5], Durability::Sync)).unwrap();
    TestRoom::forked("!new:a").append_to(&open(&copy)).unwrap();
    assert!(matches!(block_on(replica.take(&entries, Durability::Sync)), Err(LogError::Overtaken)));
    assert_eq!(findings(&copy), [""; 0]);
}

#[test]
fn a_full_disk_stops_it_and_room_lets_it_go_on() {
    let (source, _) = stored_in_batches();
    let copy = MemoryStore::new();
    let store = FaultyStore::new(copy.clone());
    store.fail(Operation::Commit, 2, Fault::Full);
    let mut first = replica(store);
    let result = block_on(first.take(&entries(&source), Durability::Sync));
    assert!(matches!(result, Err(LogError::Store(StoreError::Full { .. }))));
    let mut second = replica(copy.clone());
    block_on(second.take(&entries(&source), Durability::Sync)).unwrap();
    assert!(contents(&copy) == contents(&source));
}

#[test]
fn keys_of_servers_are_kept_and_checked() {
    use ravel_core::{
        id::{KeyId, ServerName},
        signing::{KeyRing, PublishedKey, SigningKey},
    };
    let store = MemoryStore::new();
    let mut keys = KeyRing::new();
    for (server, name, expired_ts_ms) in
        [("a", "ed25519:1", None), ("a", "ed25519:2", Some(7)), ("b:80", "ed25519:1", None)]
    {
        let key_id = KeyId::parse(name).unwrap();
        let key = SigningKey::from_seed(key_id.clone(), &[1; 32]).verify_key();
        keys.insert(
            ServerName::parse(server).unwrap(),
            key_id,
            PublishedKey { key, valid_until_ts_ms: 5, expired_ts_ms },
        );
    }
    let log = open(&store);
    block_on(log.put_server_keys(&keys, Durability::Sync)).unwrap();
    assert_eq!(block_on(open(&store).server_keys()).unwrap(), keys);
    for (server, count) in [("a", 2), ("b:80", 1), ("b", 0), ("b:8", 0)] {
        let of_server = block_on(log.server_keys_of(&ServerName::parse(server).unwrap())).unwrap();
        assert_eq!(of_server.iter().count(), count, "{server}");
    }
    assert_eq!(findings(&store), [""; 0]);
    super::write(&store, |batch| {
        batch.put(super::Keyspace::ServerKeys, &b"a\0ed25519:2"[..], &b"no key"[..]);
    });
    assert!(findings(&store)[0].contains("server_keys"), "{:?}", findings(&store));
}
