//! Events in memory without copies of what others near them have.

use smallvec::SmallVec;

use super::Room;
use crate::{event::Event, graph::EventIndex, id::EventId};

impl Room {
    /// Returns an event that has the room's id, and the texts of those that it builds on and cites, in place of copies: half as large,
    /// as rooms are held in memory.
    pub(super) fn sharing(&self, event: &Event, index: EventIndex, prev_events: &[EventIndex]) -> Event {
        let near = prev_events.iter().chain(self.graph.auth_events(index)).map(|near| &*self.position(*near).event);
        let near: SmallVec<[&Event; 8]> = near.collect();
        let id = |id: &EventId| shared(id, near.iter().map(|near| &near.event_id));
        Event {
            event_id: event.event_id.clone(),
            room_id: shared(&event.room_id, [&self.room_id].into_iter()),
            carries_room_id: event.carries_room_id,
            sender: shared(&event.sender, near.iter().map(|near| &near.sender)),
            event_type: shared(&event.event_type, near.iter().map(|near| &near.event_type)),
            state_key: event.state_key.clone(),
            origin_server_ts_ms: event.origin_server_ts_ms,
            depth: event.depth,
            prev_events: event.prev_events.iter().map(id).collect(),
            auth_events: event.auth_events.iter().map(id).collect(),
            content: event.content.clone(),
            oversized_field: event.oversized_field,
        }
    }
}

/// Returns a value that is equal to `text` and is there already, if there is one.
fn shared<'e, T: Clone + PartialEq + 'e>(text: &'e T, mut there: impl Iterator<Item = &'e T>) -> T {
    there.find(|known| *known == text).unwrap_or(text).clone()
}
