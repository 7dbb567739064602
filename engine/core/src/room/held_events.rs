//! Events in memory, as rooms are held whole: of messages, which are most, only what can't be made of numbers; others without copies of
//! what those near them have.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{Outcome, Position, Room};
use crate::{
    event::{Content, Event},
    graph::EventIndex,
    id::EventId,
};

impl Room {
    /// Returns the events in memory with their outcomes, in the order in which they were judged. Costs what [`event`](Self::event) costs for
    /// each.
    pub fn events(&self) -> impl Iterator<Item = (Arc<Event>, Outcome)> {
        self.graph.indices().map(|index| (self.event_of(index), self.position(index).outcome))
    }

    /// Returns an event. Of one that was purged there are the fields that rules read. A message is made anew, which costs some
    /// allocations.
    pub fn event(&self, event_id: &EventId) -> Option<Arc<Event>> {
        Some(self.event_of(self.graph.index_of(event_id)?))
    }

    /// Returns the id of the event of a number.
    pub fn event_id_at(&self, index: usize) -> Option<EventId> {
        let index = EventIndex::from_usize(index).filter(|_| index < self.len())?;
        let event_id = self.graph.event_id(index);
        (!self.graph.is_aside(index)).then_some(event_id)
    }

    /// Returns a state event, as [`event`](Self::event) does, and at no cost: they are held as they are.
    pub fn state_event(&self, event_id: &EventId) -> Option<&Arc<Event>> {
        self.position(self.graph.index_of(event_id)?).event.as_ref().filter(|event| event.state_key.is_some())
    }

    /// Returns the `depth` that an event gives.
    pub fn depth(&self, event_id: &EventId) -> Option<i64> {
        Some(self.position(self.graph.index_of(event_id)?).depth)
    }

    /// Whether an event is known.
    pub fn has(&self, event_id: &EventId) -> bool {
        self.graph.index_of(event_id).is_some()
    }

    fn event_of(&self, index: EventIndex) -> Arc<Event> {
        let position = self.position(index);
        position.event.clone().unwrap_or_else(|| Arc::new(self.message(index, position)))
    }

    /// Makes the event of which a position holds nothing.
    fn message(&self, index: EventIndex, position: &Position) -> Event {
        let view = self.graph.event(index);
        let ids = |numbers: &[EventIndex]| numbers.iter().map(|number| self.graph.event_id(*number)).collect();
        Event {
            event_id: view.event_id(),
            room_id: self.room_id.clone(),
            carries_room_id: true,
            sender: view.sender_id(),
            event_type: self.graph.name(view.event_type()).into(),
            state_key: None,
            origin_server_ts_ms: self.graph.origin_server_ts_ms(index),
            depth: position.depth,
            prev_events: ids(self.prev_events(index)),
            auth_events: ids(self.graph.auth_events(index)),
            content: Content::Other,
            oversized_field: false,
        }
    }

    /// Returns what a position holds of an event: nothing, if it is a message that can be made of the room's numbers again.
    pub(super) fn held(&self, event: &Event, index: EventIndex, prev_events: &[EventIndex]) -> Option<Arc<Event>> {
        // All of its auth events have numbers, and a message carries its room's id.
        let is_made_of_numbers =
            event.is_plain() && !event.oversized_field && event.prev_events.len() == prev_events.len();
        (!is_made_of_numbers).then(|| Arc::new(self.sharing(event, index, prev_events)))
    }

    /// Returns an event that has the room's id, and the texts of those that it builds on and cites, in place of copies: half as large.
    fn sharing(&self, event: &Event, index: EventIndex, prev_events: &[EventIndex]) -> Event {
        let near = prev_events.iter().chain(self.graph.auth_events(index));
        let near: SmallVec<[&Event; 8]> = near.filter_map(|near| self.position(*near).event.as_deref()).collect();
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
