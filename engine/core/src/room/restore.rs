//! Rooms as they were stored: events are put back with their places and verdicts, and nothing is judged again.

use super::{Arrival, Outcome, RecordedReason, Room, RoomError, admit::Standing, purged::Source};
use crate::{
    graph::{EventIndex, GraphError},
    id::EventId,
    pdu::VerifiedPdu,
    state::{NodeNumbers, StateMap, conflicts},
};

/// What is stored of an event's place in a room.
#[derive(Clone, Debug)]
pub struct StoredPosition {
    /// How it was judged.
    pub outcome: Outcome,
    /// Why it was not accepted.
    pub reason: Option<RecordedReason>,
    /// Whether it is a redaction whose sender may redact any event.
    pub may_redact_any: bool,
    /// The state before it; `None` for an outlier, and if that was purged.
    pub state_before: Option<StateMap>,
    /// How it came; `None` for an outlier.
    pub arrival: Option<Arrival>,
    /// A state before it was given, so not all of its prev events need to be there.
    pub in_given_state: bool,
}

impl Room {
    /// Puts an event back that the log has, without judging it again. Events come in the order of the log, each that has states
    /// followed by a call of [`restore_state_after`](Self::restore_state_after).
    ///
    /// # Errors
    ///
    /// When the log has an event before those it builds on.
    pub fn restore_event(&mut self, pdu: &VerifiedPdu, position: StoredPosition) -> Result<(), RoomError> {
        self.restore(&Source::Pdu(pdu), position)
    }

    /// Gives an outlier that was put back the place that it got later; as [`restore_event`](Self::restore_event) for others.
    ///
    /// # Errors
    ///
    /// When it is not an outlier.
    pub fn restore_place(&mut self, pdu: &VerifiedPdu, position: StoredPosition) -> Result<(), RoomError> {
        let event_id = pdu.event_id();
        let index = self.graph.index_of(event_id).filter(|index| self.position(*index).is_outlier);
        let index = index.ok_or_else(|| RoomError::NoOutlier(event_id.clone()))?;
        self.restore_at(&Source::Pdu(pdu), index, position)
    }

    /// Sets the state after an event that was restored, as it was stored. Returns whether it is that state: the one before with the
    /// event in it, or the same if the event changes none.
    pub fn restore_state_after(&mut self, event_id: &EventId, state: &StateMap) -> bool {
        let Some(index) = self.graph.index_of(event_id) else { return false };
        let position = self.position(index);
        let Some(states) = &position.states else { return false };
        let key = self.graph.key(index).filter(|_| position.outcome != Outcome::Rejected);
        let (mut holds_its_key, mut differs_elsewhere) = (key.is_none(), false);
        conflicts(&self.graph, &[&states.before, state], &mut |differing, held| {
            if Some(differing) == key && held.last() == Some(&Some(index)) {
                holds_its_key = true;
            } else {
                differs_elsewhere = true;
            }
        });
        let states = self.states_around(self.prev_events(index), &states.before, state);
        if let Some(position) = self.positions.get_mut(index.as_usize()) {
            position.states = Some(states);
        }
        holds_its_key && !differs_elsewhere
    }

    /// Sets the current state of a room whose events were all restored, how many snapshot nodes have numbers, and how often
    /// history was purged.
    pub fn restore_current_state(&mut self, state: StateMap, nodes_numbered: u32, purges: u32) {
        self.current_state = state;
        self.node_numbers = NodeNumbers::after(nodes_numbered);
        self.purges = purges;
    }

    /// Computes the current state of a room whose events were restored up to some point, and sets how many snapshot nodes had
    /// numbers there and how often history was purged. Costs the resolution of the states after the forward extremities.
    ///
    /// # Errors
    ///
    /// When the state after one of them was purged since.
    pub fn restore_current_state_of_extremities(&mut self, nodes_numbered: u32, purges: u32) -> Result<(), RoomError> {
        self.current_state = self.resolve_extremities()?;
        self.node_numbers = NodeNumbers::after(nodes_numbered);
        self.purges = purges;
        Ok(())
    }

    pub(super) fn restore(&mut self, source: &Source<'_>, position: StoredPosition) -> Result<(), RoomError> {
        let event = source.event();
        if self.graph.index_of(&event.event_id).is_some() {
            return Err(GraphError::Duplicate(event.event_id.clone()).into());
        }
        if position.arrival.is_some() && !position.in_given_state {
            self.prev_events_of(event)?;
        }
        let index = self.number(event)?;
        self.restore_at(source, index, position)
    }

    fn restore_at(
        &mut self,
        source: &Source<'_>,
        index: EventIndex,
        position: StoredPosition,
    ) -> Result<(), RoomError> {
        let StoredPosition { outcome, reason, may_redact_any, state_before, arrival, in_given_state } = position;
        let prev_events = match arrival {
            Some(_) if in_given_state => self.known_prev_events(source.event()),
            Some(_) => self.prev_events_of(source.event())?,
            None => Box::default(),
        };
        let redactions = self.redactions_after(&prev_events);
        let states = state_before.map(|before| self.states_around(&prev_events, &before, &before));
        let place = Standing { prev_events, redactions, states, may_redact_any, arrival };
        self.insert(source, index, place, outcome, reason)
    }
}
