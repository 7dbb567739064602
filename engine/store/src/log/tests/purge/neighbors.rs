//! Rooms beside one that is purged, of which id or number begins like its.

use super::*;
use crate::log::Fact;

fn number_of(store: &MemoryStore, room: &TestRoom) -> u32 {
    let record: Option<RoomRecord> = block_on(store.get_record(room.room.room_id().as_str().to_owned())).unwrap();
    record.unwrap().number
}

/// Returns all records but those of a room, and those that tell how long the log is.
fn records_beside(store: &MemoryStore, room_id: &RoomId, number: u32) -> Vec<(Keyspace, Bytes, Bytes)> {
    let mut records = contents(store);
    records.retain(|(keyspace, key, value)| match keyspace {
        Keyspace::Meta => false,
        Keyspace::ServerKeys | Keyspace::Facts => true,
        Keyspace::Rooms => *key != room_id.as_str(),
        Keyspace::Log => codec::decode::<LogEntry>(key, value).unwrap().room() != Some(number),
        Keyspace::Events
        | Keyspace::Timelines
        | Keyspace::SnapshotNodes
        | Keyspace::Extremities
        | Keyspace::EventFacts => key[..4] != number.to_be_bytes(),
    });
    records
}

fn fingerprint(store: &MemoryStore) -> String {
    block_on(open(store).fingerprint(|| {})).unwrap().to_string()
}

/// Purges history of one of some rooms, then the whole room, and checks each time that nothing has changed of the others.
fn check_purges_of(purged: usize, store: &MemoryStore, rooms: &[TestRoom], before: usize) {
    let room = &rooms[purged];
    let (room_id, number) = (room.room.room_id(), number_of(store, room));
    let beside = || records_beside(store, room_id, number);
    let untouched = beside();
    let log = open(store);
    assert!(purge(&log, room, before).events > 0);
    assert!(beside() == untouched, "history of {room_id} was purged");
    assert!(purge_room(&log, room).events > 0);
    assert!(beside() == untouched, "{room_id} was purged");
    let others: Vec<&TestRoom> = rooms.iter().filter(|other| other.room.room_id() != room_id).collect();
    assert_eq!(fingerprint(store), fingerprint(&store_of(&others)));
    assert_eq!(findings(store), [""; 0]);
    let bytes = contents(store);
    rebuild(store).unwrap();
    assert!(contents(store) == bytes, "{room_id} was purged, and all computed again");
}

#[test]
fn sc_178_rooms_whose_ids_begin_with_that_of_a_purged_one_are_untouched() {
    let ids = ["!a:x", "!a:xy", "!a:x.y", "!a:x:84", "!a:x:844"];
    let rooms = ids.map(|id| branching_room(id, 2));
    for purged in 0..rooms.len() {
        let store = store_of(&rooms.each_ref());
        let facts = ids.map(|id| Fact { kind: 1, key: format!("{id}\0x").into(), value: Some(id.into()) });
        block_on(open(&store).put_facts(&facts, &[], Durability::Sync)).unwrap();
        check_purges_of(purged, &store, &rooms, 80);
    }
}

/// Rooms are stored by number. One that begins or ends with the bytes of another one's number is another room.
#[test]
fn sc_178_rooms_whose_numbers_share_bytes_with_that_of_a_purged_one_are_untouched() {
    let purged = [0, 1, 255, 256, 257];
    let mut rooms: Vec<TestRoom> = (0..=257).map(|number| TestRoom::forked(&format!("!{number}:a"))).collect();
    for (_, room) in rooms.iter_mut().enumerate().filter(|(number, _)| !purged.contains(number)) {
        room.judged.truncate(1);
    }
    for purged in purged {
        let store = store_of(&rooms.iter().collect::<Vec<_>>());
        assert_eq!(usize::try_from(number_of(&store, &rooms[purged])), Ok(purged));
        check_purges_of(purged, &store, &rooms, 8);
    }
}
