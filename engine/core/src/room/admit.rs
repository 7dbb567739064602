//! How a judged event becomes part of a room, and what is to be stored of it.

use std::sync::Arc;

use super::{
    Arrival, Before, Outcome, Place, Position, RecordedReason, Room, RoomError, States, purged::Source,
    redactions::RedactionSet,
};
use crate::{
    event::Event,
    graph::{EventIndex, GraphError, StoredEvent},
    id::EventId,
    pdu::VerifiedPdu,
    resolve::Silent,
    state::{Fingerprint, NodeIndex, NodeRecord, StateMap},
};

/// All that is to be stored of a judged event.
#[derive(Clone, Debug)]
pub struct PersistEvent {
    /// The event.
    pub event: Arc<Event>,
    /// Its number in the room.
    pub index: EventIndex,
    /// What resolution reads of it.
    pub stored: StoredEvent,
    /// Its canonical JSON without `unsigned`; redacted if its content hash did not match. Empty if it was purged.
    pub json: Arc<[u8]>,
    /// Whether the content hash matched.
    pub content_hash_matched: bool,
    /// Whether the server of `join_authorised_via_users_server` signed, if the event has that key.
    pub authorising_user_signed: Option<bool>,
    /// The outcome.
    pub outcome: Outcome,
    /// Why it was not accepted.
    pub reason: Option<RecordedReason>,
    /// The root of the state before the event; `None` if that is empty.
    pub state_before: Option<NodeIndex>,
    /// The root of the state after the event; `None` if that is empty.
    pub state_after: Option<NodeIndex>,
    /// Snapshot nodes of the states before and after the event and of the current state that were not there yet, children before
    /// parents.
    pub nodes: Vec<(NodeIndex, NodeRecord)>,
    /// All forward extremities after the event, sorted, if they changed.
    pub forward_extremities: Option<Vec<EventId>>,
    /// The root of the current state after the event; `None` if that is empty.
    pub current_state: Option<NodeIndex>,
    /// The fingerprint of the current state after the event.
    pub current_state_fingerprint: Fingerprint,
    /// How many nodes have numbers after the event.
    pub nodes_numbered: u32,
    /// The room's create event, once there is one.
    pub create: Option<EventIndex>,
    /// Whether it is a redaction whose sender may redact any event.
    pub may_redact_any: bool,
    /// How often history of the room was purged before.
    pub purges: u32,
    /// What is known of its place. Outliers have no states.
    pub place: Place,
}

/// Where an event stands in the room, as far as that does not depend on its verdict.
pub(super) struct Standing {
    pub(super) prev_events: Box<[EventIndex]>,
    /// Those before it.
    pub(super) redactions: RedactionSet,
    pub(super) states: Option<Arc<States>>,
    pub(super) may_redact_any: bool,
    /// `None` for an outlier.
    pub(super) arrival: Option<Arrival>,
}

impl Room {
    /// Makes a judged event part of the room and says what is to be stored.
    pub(super) fn admit(
        &mut self,
        source: &Source<'_>,
        index: EventIndex,
        before: Before,
        arrival: Arrival,
        outcome: Outcome,
        reason: Option<RecordedReason>,
    ) -> Result<(Arc<States>, PersistEvent), RoomError> {
        let event = source.event().clone();
        let may_redact_any = self.may_redact_any(&event, index, &before);
        let was_outlier = index.as_usize() < self.positions.len();
        let Before { prev_events, redactions, state, given_state, .. } = before;
        let key = self.graph.key(index).filter(|_| outcome != Outcome::Rejected);
        let after = key.map_or_else(|| state.clone(), |key| state.insert(&self.graph, key, index));
        let states = self.states_around(&prev_events, &state, &after);
        let around = Some(Arc::clone(&states));
        let place = Standing { prev_events, redactions, states: around, may_redact_any, arrival: Some(arrival) };
        self.insert(source, index, place, outcome, reason.clone())?;

        // An accepted event is a forward extremity now; others change nothing there.
        let extremities_changed = outcome == Outcome::Accepted && arrival != Arrival::History;
        if extremities_changed {
            self.current_state = self.resolve_extremities()?;
        }
        let place = Place::Placed { arrival, given_state, was_outlier };
        let mut persist = self.to_persist(source, index, place, outcome, reason);
        for state in [&states.before, &states.after, &self.current_state] {
            state.number_nodes(&self.graph, &mut self.node_numbers, &mut persist.nodes).ok_or(GraphError::Full)?;
        }
        persist.state_before = states.before.root_number();
        persist.state_after = states.after.root_number();
        persist.forward_extremities = extremities_changed.then(|| self.forward_extremities());
        persist.current_state = self.current_state.root_number();
        persist.nodes_numbered = self.node_numbers.given();
        persist.may_redact_any = may_redact_any;
        Ok((states, persist))
    }

    /// Says what is to be stored of an event in any place.
    pub(super) fn to_persist(
        &self,
        source: &Source<'_>,
        index: EventIndex,
        place: Place,
        outcome: Outcome,
        reason: Option<RecordedReason>,
    ) -> PersistEvent {
        let event = source.event().clone();
        let pdu = source.pdu();
        PersistEvent {
            stored: self.graph.stored_event(index, event.clone(), self.node_numbers.given()),
            event,
            index,
            json: pdu.map(|pdu| pdu.json().clone()).unwrap_or_default(),
            content_hash_matched: pdu.is_some_and(VerifiedPdu::content_hash_matched),
            authorising_user_signed: pdu.and_then(VerifiedPdu::authorising_user_signed),
            outcome,
            reason,
            state_before: None,
            state_after: None,
            nodes: Vec::new(),
            forward_extremities: None,
            current_state: self.current_state.root_number(),
            current_state_fingerprint: self.current_state.fingerprint(&self.graph),
            nodes_numbered: self.node_numbers.given(),
            create: self.graph.create(),
            may_redact_any: false,
            purges: self.purges,
            place,
        }
    }

    /// Makes an event part of the room.
    pub(super) fn insert(
        &mut self,
        source: &Source<'_>,
        index: EventIndex,
        place: Standing,
        outcome: Outcome,
        reason: Option<RecordedReason>,
    ) -> Result<(), RoomError> {
        let Standing { prev_events, redactions, states, may_redact_any, arrival } = place;
        let rejected = outcome == Outcome::Rejected;
        let redacted = if rejected { None } else { source.redacted_facts()? };
        self.graph.judge(index, redacted.as_ref(), rejected)?;
        let counts = arrival.is_some() && !rejected;
        let redactions =
            if counts { self.redactions.add(&self.graph, index, may_redact_any, redactions) } else { redactions };
        let event = self.held(source.event(), index, &prev_events);
        let depth = source.event().depth;
        let is_skeleton = source.pdu().is_none();
        let position = Position {
            event,
            depth,
            outcome,
            states,
            is_skeleton,
            redactions,
            may_redact_any,
            is_outlier: arrival.is_none(),
            // Nothing of the past becomes an extremity.
            is_built_on: arrival == Some(Arrival::History),
            prev_events: self.prev_edges.store(&prev_events).ok_or(GraphError::Full)?,
        };
        match reason {
            Some(reason) => self.reasons.insert(index, reason),
            None => self.reasons.remove(&index),
        };
        match self.positions.get_mut(index.as_usize()) {
            Some(outlier) => *outlier = position,
            None => self.positions.push(position),
        }
        if outcome == Outcome::Accepted {
            match arrival {
                Some(Arrival::Entry) => self.forward_extremities.clear(),
                Some(Arrival::New | Arrival::Unsigned) => {}
                Some(Arrival::History) | None => return Ok(()),
            }
            self.advance_extremities(index, &prev_events);
        }
        Ok(())
    }

    /// Replaces the extremities that an accepted event builds on, directly or through soft-failed events.
    ///
    /// Not through rejected ones: deployed servers keep no edges of those, and an extremity behind a rejected event stays one.
    /// The specification says nothing here; what it costs is that the state there is resolved once more.
    fn advance_extremities(&mut self, index: EventIndex, prev_events: &[EventIndex]) {
        let mut pending = prev_events.to_vec();
        while let Some(prev) = pending.pop() {
            let Some(position) = self.positions.get_mut(prev.as_usize()) else { continue };
            // Behind an event that was built on before there is no extremity any more.
            if std::mem::replace(&mut position.is_built_on, true) {
                continue;
            }
            self.forward_extremities.remove(&prev);
            if position.outcome == Outcome::SoftFailed {
                pending.extend_from_slice(self.prev_edges.get(position.prev_events));
            }
        }
        self.forward_extremities.insert(index);
    }

    pub(super) fn resolve_extremities(&self) -> Result<StateMap, RoomError> {
        let extremities: Vec<EventIndex> = self.forward_extremities.iter().copied().collect();
        let states = self.states_after(&extremities)?;
        Ok(self.resolve(&states, &mut Silent))
    }
}
