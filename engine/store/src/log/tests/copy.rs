//! Copies of logs that are written to meanwhile, and logs that were moved.

mod purges;

use std::sync::Arc;

use super::{
    Bytes, Durability, EventLog, Fault, FaultyStore, Head, Keyspace, LogError, MemoryStore, Operation, Store,
    StoreError, TestRoom, block_on, contents, error_of_open, findings, open, rules, stored, stored_in_batches, write,
};
use crate::{
    StoreExt,
    log::{Compared, CopyError, LogCopy, Standing, records::key, seal},
};

fn begin(source: &MemoryStore, target: impl Store) -> Result<LogCopy, CopyError> {
    block_on(LogCopy::begin(Arc::new(source.clone()), Arc::new(target), "the source"))
}

/// Copies what there is, and returns how many entries that were.
fn catch_up(copy: &mut LogCopy) -> u64 {
    let mut copied = 0;
    loop {
        match block_on(copy.step()).unwrap() {
            0 => return copied,
            step => copied += step,
        }
    }
}

#[track_caller]
fn check_equal(copy: &mut LogCopy, rooms: usize) {
    let compared = block_on(copy.compare(|_, _| {})).unwrap();
    assert_eq!(compared.len(), rooms);
    assert!(compared.values().all(Compared::is_equal), "{compared:?}");
}

fn seal_to(store: &MemoryStore, to: &str) -> Result<u64, LogError> {
    let store: Arc<dyn Store> = Arc::new(store.clone());
    block_on(seal(&store, to))
}

#[test]
fn a_finished_copy_has_the_same_bytes() {
    let (source, _) = stored_in_batches();
    write(&source, |batch| {
        batch.put(Keyspace::ServerKeys, "a\0ed25519:1", "a key");
    });
    let target = MemoryStore::new();
    let mut copy = begin(&source, target.clone()).unwrap();
    assert_eq!(catch_up(&mut copy), open(&source).len());
    block_on(copy.copy_server_keys()).unwrap();
    check_equal(&mut copy, open(&source).rooms().len());
    block_on(copy.finish()).unwrap();
    assert!(contents(&target) == contents(&source));
    // An empty log, too.
    let (empty, target) = (MemoryStore::new(), MemoryStore::new());
    let mut copy = begin(&empty, target.clone()).unwrap();
    assert_eq!(catch_up(&mut copy), 0);
    block_on(copy.finish()).unwrap();
    assert!(contents(&target).is_empty());
}

/// After each event of the source the copy is compared at its own position, though the source is ahead of it.
#[test]
fn a_copy_follows_a_log_that_grows() {
    let source = MemoryStore::new();
    let log = open(&source);
    let target = MemoryStore::new();
    let mut copy = begin(&source, target.clone()).unwrap();
    let rooms = ["!r:a", "!s:a"].map(TestRoom::forked);
    for event in 0..rooms[0].judged.len() {
        for room in &rooms {
            let event = std::slice::from_ref(&room.judged[event]);
            block_on(log.append(room.room.room_id(), rules(), event, Durability::Sync)).unwrap();
            if room.room.room_id().as_str() == "!r:a" {
                catch_up(&mut copy);
            }
        }
        check_equal(&mut copy, if event == 0 { 1 } else { 2 });
        assert_eq!(findings(&target), [""; 0]);
    }
    assert!(copy.position() < block_on(copy.source_len()).unwrap());
    catch_up(&mut copy);
    check_equal(&mut copy, 2);
    block_on(copy.finish()).unwrap();
    assert!(contents(&target) == contents(&source));
}

#[test]
fn a_copy_that_differs_is_found_out() {
    let (source, rooms) = stored();
    let target = MemoryStore::new();
    let mut copy = begin(&source, target.clone()).unwrap();
    catch_up(&mut copy);
    // The message of the first room's end is no longer accepted here: another history with the same entries.
    let timelines = contents(&target).into_iter().filter(|(keyspace, ..)| *keyspace == Keyspace::Timelines);
    let (_, key, value) = timelines.take(rooms[0].judged.len()).last().unwrap();
    let mut record: super::TimelineRecord = crate::codec::decode(&key, &value).unwrap();
    record.outcome = 1;
    write(&target, |batch| {
        batch.put_record(key, &record).unwrap();
    });
    let compared = block_on(copy.compare(|_, _| {})).unwrap();
    let equal: Vec<bool> = compared.values().map(Compared::is_equal).collect();
    assert_eq!(equal, [false, true]);
}

#[test]
fn a_copy_goes_on_whatever_stopped_it() {
    let (source, _) = stored_in_batches();
    let target = MemoryStore::new();
    let mut stopped = 0;
    loop {
        let store = FaultyStore::new(target.clone());
        store.fail(Operation::Commit, 3, Fault::Failed);
        let result = begin(&source, store).and_then(|mut copy| block_on(copy.step()));
        assert_eq!(findings(&target), [""; 0]);
        match result {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => stopped += 1,
        }
    }
    assert!(stopped > 1);
    block_on(begin(&source, target.clone()).unwrap().finish()).unwrap();
    assert!(contents(&target) == contents(&source));
}

#[test]
fn an_unfinished_copy_takes_no_appends() {
    let (source, _) = stored();
    let target = MemoryStore::new();
    let before = open(&target);
    let mut copy = begin(&source, target.clone()).unwrap();
    let check = |log: &EventLog| {
        let error = TestRoom::forked("!new:a").append_to(log).unwrap_err();
        assert!(matches!(&error, LogError::UnfinishedCopy { of } if of == "the source"), "{error}");
    };
    // Not even those of a log that was opened before the copy began.
    check(&before);
    catch_up(&mut copy);
    drop(copy);
    let log = open(&target);
    assert_eq!(log.standing(), Standing::UnfinishedCopy { of: "the source".to_owned() });
    check(&log);
    // What it has can be read. It is no source for others.
    assert_eq!(log.rooms().len(), 2);
    assert!(matches!(begin(&target, MemoryStore::new()), Err(CopyError::Source(LogError::UnfinishedCopy { .. }))));
    assert!(matches!(seal_to(&target, "x"), Err(LogError::UnfinishedCopy { .. })));
    block_on(begin(&source, target.clone()).unwrap().finish()).unwrap();
    TestRoom::forked("!new:a").append_to(&open(&target)).unwrap();
}

#[test]
fn what_is_no_beginning_of_the_source_is_left_alone() {
    let check = |source: &MemoryStore, target: &MemoryStore, expected: &str| {
        let before = contents(target);
        let error = begin(source, target.clone()).err().unwrap();
        assert!(error.to_string().contains(expected), "{error}");
        assert!(contents(target) == before);
    };
    let (source, _) = stored();
    let other = MemoryStore::new();
    TestRoom::forked("!other:a").append_to(&open(&other)).unwrap();
    check(&source, &other, "its entry 0 is not that of the source");
    check(&other, &source, "its entry 0 is not that of the source");
    let ahead = MemoryStore::new();
    let mut copy = begin(&source, ahead.clone()).unwrap();
    catch_up(&mut copy);
    block_on(copy.finish()).unwrap();
    TestRoom::forked("!own:a").append_to(&open(&ahead)).unwrap();
    check(&source, &ahead, "the target has 30 entries, and the source only 20 of them");
    TestRoom::forked("!more:a").append_to(&open(&source)).unwrap();
    TestRoom::forked("!even-more:a").append_to(&open(&source)).unwrap();
    check(&source, &ahead, "its entry 29 is not that of the source");
    let damaged = MemoryStore::new();
    write(&damaged, |batch| {
        batch.put(Keyspace::Log, key::sequence(0), "x");
    });
    check(&source, &damaged, "the target: the store is not empty, and its log has no head");
    check(&damaged, &MemoryStore::new(), "the source: the store is not empty, and its log has no head");
}

#[test]
fn a_sealed_log_is_read_and_never_appended_to() {
    let (store, _) = stored();
    let (idle, busy) = (open(&store), open(&store));
    TestRoom::forked("!before:a").append_to(&busy).unwrap();
    let entries = busy.len();
    assert_eq!(seal_to(&store, "sled:/new").unwrap(), entries);
    let before = contents(&store);
    for log in [&idle, &busy, &open(&store)] {
        for _ in 0..2 {
            let error = TestRoom::forked("!after:a").append_to(log).unwrap_err();
            assert_eq!(error.to_string(), "this database was moved to sled:/new: go on there");
        }
    }
    assert_eq!(open(&store).standing(), Standing::Moved { to: "sled:/new".to_owned() });
    assert_eq!(open(&store).rooms().len(), 3);
    // Once more is the same; to another place is refused.
    assert_eq!(seal_to(&store, "sled:/new").unwrap(), entries);
    assert!(matches!(seal_to(&store, "sled:/other"), Err(LogError::Moved { to }) if to == "sled:/new"));
    assert!(contents(&store) == before);
    assert_eq!(findings(&store), [""; 0]);
    // A rebuild does not open it again, not even with a damaged head.
    write(&store, |batch| {
        batch.put(Keyspace::Meta, key::HEAD, "damaged");
    });
    assert_ne!(error_of_open(&store), "none");
    let mut log = block_on(EventLog::open_to_repair(Arc::new(store.clone()))).unwrap();
    block_on(log.rebuild(|_, _| {})).unwrap();
    assert!(matches!(TestRoom::forked("!after:a").append_to(&log), Err(LogError::Moved { .. })));
    assert!(contents(&store) == before);
}

#[test]
fn of_an_append_and_a_seal_one_comes_first() {
    for _ in 0..50 {
        let store = MemoryStore::new();
        let log = open(&store);
        let room = TestRoom::forked("!r:a");
        let (appended, sealed) = std::thread::scope(|scope| {
            let appended = scope.spawn(|| {
                let one = |event| block_on(log.append(room.room.room_id(), rules(), event, Durability::Sync));
                room.judged.chunks(1).take_while(|event| one(event).is_ok()).count()
            });
            let sealed = scope.spawn(|| seal_to(&store, "x").unwrap());
            (appended.join().unwrap(), sealed.join().unwrap())
        });
        // The first entry opens the room.
        assert_eq!(sealed, appended as u64 + u64::from(appended > 0));
        let head: Head = block_on(store.get_record(key::HEAD)).unwrap().unwrap();
        assert_eq!(head.next_sequence, sealed);
    }
}

/// There and back, and on in the first place.
#[test]
fn a_log_moves_and_comes_back() {
    let (first, _) = stored();
    let second = MemoryStore::new();
    for (from, to, name, room) in
        [(&first, &second, "second", "!x:a"), (&second, &first, "first", "!y:a"), (&first, &second, "second", "!z:a")]
    {
        let mut copy = begin(from, to.clone()).unwrap();
        seal_to(from, name).unwrap();
        catch_up(&mut copy);
        check_equal(&mut copy, open(from).rooms().len());
        block_on(copy.finish()).unwrap();
        TestRoom::forked(room).append_to(&open(to)).unwrap();
        assert!(TestRoom::forked(room).append_to(&open(from)).is_err());
        assert_eq!(findings(to), [""; 0]);
    }
    assert_eq!(open(&second).rooms().len(), 5);
}

#[test]
fn a_failing_seal_is_an_error_and_can_be_repeated() {
    let (store, _) = stored();
    for operation in [Operation::Get, Operation::Commit] {
        let faulty = FaultyStore::new(store.clone());
        faulty.fail(operation, 1, Fault::Failed);
        let faulty: Arc<dyn Store> = Arc::new(faulty);
        assert!(matches!(block_on(seal(&faulty, "x")), Err(LogError::Store(StoreError::Io { .. }))));
        TestRoom::forked(&format!("!{operation:?}:a")).append_to(&open(&store)).unwrap();
    }
    seal_to(&store, "x").unwrap();
}

#[test]
fn damaged_entries_stop_a_copy_before_them() {
    let (source, _) = stored();
    write(&source, |batch| {
        batch.put(Keyspace::Log, key::sequence(7), Bytes::from("damaged"));
    });
    let target = MemoryStore::new();
    let mut copy = begin(&source, target.clone()).unwrap();
    let error = block_on(copy.step()).unwrap_err();
    assert!(error.to_string().contains("corrupt log"), "{error}");
    assert!(copy.position() <= 7);
    assert_eq!(findings(&target), [""; 0]);
}
