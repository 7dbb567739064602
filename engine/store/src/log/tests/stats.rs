//! What a room costs.

use std::collections::BTreeMap;

use super::{collect::branching_room, *};
use crate::log::{EventCounts, ResolutionStats, RoomStats};

fn stats(log: &EventLog, room: &TestRoom) -> RoomStats {
    block_on(log.stats(room.room.room_id())).unwrap().unwrap()
}

/// The bytes of a room that is the only one but for the last room opened, which has no events.
fn stored_bytes(store: &MemoryStore) -> BTreeMap<Keyspace, u64> {
    let mut bytes = BTreeMap::new();
    for (keyspace, key, value) in contents(store) {
        if keyspace != Keyspace::Meta {
            *bytes.entry(keyspace).or_default() += (key.len() + value.len()) as u64;
        }
    }
    bytes
}

#[test]
fn everything_is_counted() {
    let room = branching_room("!r:a", 10);
    let store = MemoryStore::new();
    let log = open(&store);
    room.append_to(&log).unwrap();
    let counted = stats(&log, &room);
    let count = |outcome| room.room.events().filter(|(_, other)| *other == outcome).count() as u64;
    let events = EventCounts {
        accepted: count(Outcome::Accepted),
        soft_failed: count(Outcome::SoftFailed),
        rejected: count(Outcome::Rejected),
        purged: 0,
        without_states: 0,
    };
    assert!(events.soft_failed > 0 && events.rejected > 0);
    assert_eq!((counted.events, counted.event_count()), (events, room.judged.len() as u64));
    assert_eq!(counted.bytes, stored_bytes(&store));
    assert_eq!(counted.forward_extremities, room.room.forward_extremities().len() as u64);
    let changes = room.judged.iter().filter(|event| event.state_before != event.state_after).count() as u64;
    assert_eq!(counted.state_changes, changes);
    // Counted once more from what the room in memory gave.
    let nodes: BTreeMap<u32, _> =
        room.judged.iter().flat_map(|event| &event.nodes).map(|(number, node)| (number.number(), node)).collect();
    let roots = room.judged.iter().flat_map(|event| [event.state_before, event.state_after]);
    let roots = roots.chain([room.room.current_state().map().root_number()]).flatten();
    let roots: BTreeMap<u32, ()> = roots.map(|root| (root.number(), ())).collect();
    let mut referred: BTreeMap<u32, u64> = roots.keys().map(|root| (*root, 1)).collect();
    let mut pending: Vec<u32> = roots.keys().copied().collect();
    while let Some(number) = pending.pop() {
        if let NodeContent::Branch { children, .. } = &nodes[&number].content {
            for child in children.iter().flatten().map(|child| child.number()) {
                let times = referred.entry(child).or_default();
                *times += 1;
                if *times == 1 {
                    pending.push(child);
                }
            }
        }
    }
    let shared = referred.values().filter(|times| **times > 1).count() as u64;
    assert!(shared > 10);
    let expected = (roots.len() as u64, referred.len() as u64, shared);
    assert_eq!((counted.snapshots, counted.nodes, counted.shared_nodes), expected);
    assert_eq!(counted.unreferenced_nodes, (nodes.len() - referred.len()) as u64);
    assert!(counted.nodes_of_state_changes >= counted.state_changes);

    let collected = block_on(log.collect(room.room.room_id())).unwrap().unwrap();
    assert_eq!((collected.kept, collected.deleted), (counted.nodes, counted.unreferenced_nodes));
    let after = stats(&log, &room);
    assert_eq!((after.nodes, after.unreferenced_nodes), (counted.nodes, 0));
    assert_eq!(counted.byte_count() - after.byte_count(), collected.deleted_bytes);
    let mut total = after.clone();
    total.add(&after);
    assert_eq!((total.event_count(), total.byte_count()), (2 * after.event_count(), 2 * after.byte_count()));
    assert_eq!(block_on(log.stats(&RoomId::parse("!unknown:a").unwrap())).unwrap(), None);
}

#[test]
fn what_was_purged_is_counted() {
    let room = branching_room("!r:a", 10);
    let store = MemoryStore::new();
    let log = open(&store);
    room.append_to(&log).unwrap();
    let whole = stats(&log, &room);
    let event_id = &room.judged[100].event.event_id;
    let purged = block_on(log.purge_history(room.room.room_id(), event_id, |_, _| {})).unwrap().unwrap();
    let left = stats(&log, &room);
    let events = EventCounts { purged: purged.events, without_states: purged.states, ..whole.events };
    assert_eq!(left.events, events);
    assert_eq!(left.bytes, stored_bytes(&store));
    assert_eq!((left.nodes, left.unreferenced_nodes), (purged.nodes.kept, 0));
    assert!(left.byte_count() < whole.byte_count() && left.snapshots < whole.snapshots);
}

#[test]
fn resolutions_are_counted_by_what_they_look_at() {
    let room = branching_room("!r:a", 9);
    let store = MemoryStore::new();
    let log = open(&store);
    room.append_to(&log).unwrap();
    let stats = block_on(log.resolution_stats(room.room.room_id())).unwrap().unwrap();
    assert_eq!((stats.resolutions, stats.unknown), (9, 0));
    // The topic, the banned member and the name; of two topics at a time the banned one's is refused.
    assert_eq!((stats.conflicted.median, stats.conflicted.max), (3, 3));
    let costliest = stats.costliest.unwrap();
    assert!(room.room.event(&costliest).unwrap().prev_events.len() == 2);
    let message = room.judged.iter().rposition(|event| event.event.prev_events.len() == 2).unwrap();
    let event_id = &room.judged[message].event.event_id;
    block_on(log.purge_history(room.room.room_id(), event_id, |_, _| {})).unwrap();
    let stats = block_on(log.resolution_stats(room.room.room_id())).unwrap().unwrap();
    assert_eq!((stats.resolutions, stats.unknown, stats.costliest), (0, 9, None));
    assert_eq!(ResolutionStats::of(&Room::new(RoomId::parse("!r:a").unwrap(), rules())).unwrap(), Default::default());
}
