//! Rooms whose projections are of an older version.

use super::{
    Durability, KeyRange, Keyspace, LogError, MemoryStore, RoomId, RoomRecord, RoomVersion, TestRoom, block_on,
    check_loaded, contents, error_of_open, findings, key, open, rules, stored, write,
};
use crate::{StoreError, StoreExt, log::EventLog};

/// Makes a room's projections look as if an older program had made them: other versions, and records it can't read.
fn age(store: &MemoryStore, room_id: &RoomId, projections: Vec<u8>) {
    let room_key = room_id.as_str().to_owned();
    let record: RoomRecord = block_on(store.get_record(room_key.clone())).unwrap().unwrap();
    let number = record.number;
    write(store, |batch| {
        batch.put_record(room_key, &record.with_projections(projections)).unwrap();
        for keyspace in [Keyspace::Events, Keyspace::SnapshotNodes, Keyspace::Extremities] {
            batch.delete_range(keyspace, KeyRange::prefix(key::room(number)));
        }
        batch.put(Keyspace::EventFacts, [&number.to_be_bytes()[..], &[0, 0, 0, 0]].concat(), vec![0, 1, 2]);
        batch.put(Keyspace::SnapshotNodes, [&number.to_be_bytes()[..], &[9, 9, 9, 9]].concat(), vec![0]);
        // Of the timeline only the keys are read.
        batch.put(Keyspace::Timelines, key::timeline(number, first_sequence(store, number)), vec![0]);
    });
}

fn first_sequence(store: &MemoryStore, number: u32) -> u64 {
    let scan = crate::Scan::prefix(Keyspace::Timelines, key::room(number)).items(1);
    let page = block_on(crate::Store::scan(store, scan)).unwrap();
    key::timeline_sequence(&page.items[0].0).unwrap()
}

#[test]
fn a_stale_room_is_computed_again_when_it_is_loaded() {
    let (store, rooms) = stored();
    let before = contents(&store);
    age(&store, rooms[1].room.room_id(), vec![1, 1, 1, 1, 1]);
    let log = open(&store);
    assert_eq!(log.stale_rooms(), [rooms[1].room.room_id().clone()]);
    // The others are served and go on.
    check_loaded(&log, &rooms[0]);
    assert_eq!(log.stale_rooms().len(), 1);
    check_loaded(&log, &rooms[1]);
    assert_eq!(log.stale_rooms(), []);
    assert_eq!(contents(&store), before);
    assert_eq!(findings(&store), [""; 0]);
}

#[test]
fn a_room_without_a_new_projection_is_stale() {
    let (store, rooms) = stored();
    let before = contents(&store);
    age(&store, rooms[0].room.room_id(), vec![2, 1]);
    let log = open(&store);
    block_on(log.refresh_room(rooms[0].room.room_id())).unwrap();
    assert_eq!(contents(&store), before);
}

#[test]
fn others_are_appended_to_while_a_room_is_computed_again() {
    let (store, rooms) = stored();
    for room in &rooms {
        age(&store, room.room.room_id(), vec![0; 5]);
    }
    let log = open(&store);
    let other = TestRoom::forked("!t:a");
    std::thread::scope(|scope| {
        let sweep =
            scope.spawn(|| log.stale_rooms().iter().try_for_each(|room_id| block_on(log.refresh_room(room_id))));
        for event in &other.judged {
            let event = std::slice::from_ref(event);
            block_on(log.append(other.room.room_id(), rules(), event, Durability::Sync)).unwrap();
        }
        sweep.join().unwrap().unwrap();
    });
    for room in rooms.iter().chain([&other]) {
        check_loaded(&open(&store), room);
    }
    assert_eq!(findings(&store), [""; 0]);
}

#[test]
fn projections_of_a_newer_program_are_refused_untouched() {
    for newer in [vec![2, 1, 9, 2, 2], vec![2, 1, 1, 2, 2, 1]] {
        let (store, rooms) = stored();
        let record = RoomRecord::new(0, RoomVersion::V11, 0).with_projections(newer);
        write(&store, |batch| {
            batch.put_record(rooms[0].room.room_id().as_str().to_owned(), &record).unwrap();
        });
        let before = contents(&store);
        assert_eq!(error_of_open(&store), "!r:a was last written by a newer program");
        assert_eq!(contents(&store), before);
    }
}

/// Killed at any of its commits, it begins anew.
#[test]
fn an_interrupted_refresh_begins_anew() {
    use super::{Arc, Fault, FaultyStore, Operation};
    let (memory, room) = super::stored_in_batches();
    let before = contents(&memory);
    for n in 1.. {
        age(&memory, room.room.room_id(), vec![1; 5]);
        let store = FaultyStore::new(memory.clone());
        store.fail(Operation::Commit, n, Fault::Failed);
        let log = block_on(EventLog::open(Arc::new(store))).unwrap();
        let result = block_on(log.refresh_room(room.room.room_id()));
        if result.is_ok() {
            assert!(n > 2, "{n}");
            break;
        }
        assert!(matches!(result, Err(LogError::Store(StoreError::Io { .. }))));
        check_loaded(&open(&memory), &room);
        assert!(contents(&memory) == before, "{n}");
    }
    assert!(contents(&memory) == before);
}
