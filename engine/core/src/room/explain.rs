//! How the state before an event came about, and how the event was judged.

use super::{Outcome, RecordedReason, Room, RoomError};
use crate::{
    id::EventId,
    resolve::{Step, Steps},
    state::Fingerprint,
};

/// The account of one event.
#[derive(Debug)]
pub struct Explanation {
    /// The event.
    pub event_id: EventId,
    /// Its prev events, each with the fingerprint of the state after it.
    pub prev_events: Vec<(EventId, Fingerprint)>,
    /// The steps of the resolution, empty if the states after the prev events are one.
    pub steps: Vec<Step>,
    /// How the event was judged.
    pub outcome: Outcome,
    /// Why it was not accepted.
    pub reason: Option<RecordedReason>,
}

impl Room {
    /// Explains an event, by resolving the states before it once more with a recorder. `None` if the event is not known.
    ///
    /// # Errors
    ///
    /// [`RoomError::NoState`] if history was purged that it builds on; else only if an invariant is broken.
    pub fn explain(&self, event_id: &EventId) -> Result<Option<Explanation>, RoomError> {
        let Some(index) = self.graph.index_of(event_id) else { return Ok(None) };
        let position = self.position(index);
        let prev_events = self.prev_events_then(index);
        let states = self.states_after(&prev_events)?;
        let mut steps = Steps::default();
        self.resolve(&states, &mut steps);
        let prev_events = prev_events.iter().zip(&states);
        Ok(Some(Explanation {
            event_id: event_id.clone(),
            prev_events: prev_events
                .map(|(prev, state)| (self.graph.event_id(*prev), state.fingerprint(&self.graph)))
                .collect(),
            steps: steps.0,
            outcome: position.outcome,
            reason: self.reasons.get(&index).cloned(),
        }))
    }
}
