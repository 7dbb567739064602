//! Resolutions that read from a store what they need, beside those of a room in memory.

use ravel_core::{event::StateKey, id::EventId, room::Room};
use ravel_store::{block_on, log::EventLog};

/// Resolves the states before every merge of a stored room anew; they must be those of the room in memory. Returns how many there
/// were, and the most records that one read.
pub(crate) fn check(log: &EventLog, room: &Room) -> (usize, u64) {
    let (mut merges, mut reads_max) = (0, 0);
    for (event, _) in room.events() {
        let [first, _, ..] = &*event.prev_events else { continue };
        let stored = block_on(log.resolve_stored(room.room_id(), &event.prev_events)).unwrap().unwrap();
        let before = room.state_before(&event.event_id).unwrap();
        let base = room.state_after(first).unwrap();
        let differences = before.map().differences(room.graph(), base.map()).into_iter();
        let expected: Vec<(StateKey, Option<EventId>)> =
            differences.map(|difference| (difference.key, difference.left)).collect();
        assert_eq!(stored.edits, expected, "before {}", event.event_id);
        assert!(stored.rounds <= stored.reads, "{stored:?}");
        merges += 1;
        reads_max = reads_max.max(stored.reads);
    }
    (merges, reads_max)
}
