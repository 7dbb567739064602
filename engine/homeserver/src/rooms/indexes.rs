//! What is known of a room's events beside the room itself, so that it is found without a look at each of them.

use std::collections::HashMap;

use ravel_core::{
    event::Event,
    id::EventId,
    room::{Outcome, Room, RoomError},
};

use super::{order::Order, target, times::Times};

/// So many of a room's newest events are in memory, and as many again before older messages are put aside. (Few in this crate's tests.)
const NEWEST: usize = if cfg!(test) { 4 } else { 16_384 };

/// What is known of a room's events.
#[derive(Default)]
pub(super) struct Indexes {
    pub(super) order: Order,
    pub(super) times: Times,
    /// The accepted redactions of each event that has some, in the order in which they came. Those behind the first that is known to take
    /// effect are left out.
    redactions: HashMap<EventId, Vec<EventId>>,
    /// How many events were in memory after messages were put aside.
    stayed: usize,
}

impl Indexes {
    /// Costs O(n log n) for n events.
    pub(super) fn of(room: &Room) -> Self {
        let mut indexes = Self::default();
        for (event, _) in room.events() {
            indexes.add(room, &event);
        }
        indexes
    }

    /// Takes note of an event that came into the room, or got its place there.
    pub(super) fn add(&mut self, room: &Room, event: &Event) {
        self.order.add(room, event);
        if room.outcome(&event.event_id) != Some(Outcome::Accepted) {
            return;
        }
        self.times.add(room, event);
        if let Some(target) = target(event) {
            let redactions = self.redactions.entry(target.clone()).or_default();
            let is_redacted = redactions.iter().any(|redaction| room.redacts(redaction, &target));
            if !is_redacted && !redactions.contains(&event.event_id) {
                redactions.push(event.event_id.clone());
            }
        }
    }

    /// Returns the first redaction that takes effect on an event.
    pub(super) fn redaction_of(&self, room: &Room, event_id: &EventId) -> Option<&EventId> {
        self.redactions.get(event_id)?.iter().find(|redaction| room.redacts(redaction, event_id))
    }

    /// Puts messages aside if there are many in memory.
    ///
    /// # Errors
    ///
    /// Only if an invariant is broken.
    pub(super) fn tidy(&mut self, room: &mut Room) -> Result<(), RoomError> {
        if room.in_memory() > self.stayed.saturating_add(NEWEST) {
            room.put_messages_aside(NEWEST)?;
            self.stayed = room.in_memory();
        }
        Ok(())
    }
}
