//! What rules an event of a room has to pass, and in which states.

use super::{Arrival, Before, Check, Room, Verdict, redactions::EventsView};
use crate::{
    event::{Content, Event},
    event_auth::{
        AuthState, CitedAuthEvent, Refusal, StateLookup, can_redact_any, check_in_state, check_state_dependent,
        check_state_independent,
    },
    graph::{EventIndex, EventView, KeyIndex},
    pdu::VerifiedPdu,
    state::StateMap,
};

impl Room {
    /// Whether an event that was made here, and builds on where the room stands, would be accepted; nothing changes.
    ///
    /// # Errors
    ///
    /// The first rule that refuses it.
    pub fn check(&self, pdu: &VerifiedPdu) -> Result<(), Refusal> {
        let event = pdu.event();
        let auth_events: Vec<EventIndex> =
            event.auth_events.iter().filter_map(|event_id| self.graph.index_of(event_id)).collect();
        self.check_cited(pdu, &auth_events)?;
        check_state_dependent(self.rules(), event, &CurrentState(self))
    }

    pub(super) fn judge(&self, pdu: &VerifiedPdu, index: EventIndex, before: &Before, arrival: Arrival) -> Verdict {
        let view = EventsView::new(&self.graph, &self.redactions, &before.redactions);
        if let Err(refusal) = self.check_auth_events(view, pdu, index) {
            return Verdict::Rejected { check: Check::AuthEvents, refusal };
        }
        let event = self.graph.event(index);
        if let Err(refusal) = check_in_state(event, &mut InState { view, state: &before.state }) {
            return Verdict::Rejected { check: Check::StateBefore, refusal };
        }
        if arrival == Arrival::Unsigned {
            return Verdict::NotRecommended;
        }
        // Where the event builds on all forward extremities, the current state is the state before it.
        if before.builds_on_all || arrival != Arrival::New {
            return Verdict::Accepted;
        }
        let redactions = self.redactions_after(&self.forward_extremities);
        let view = EventsView::new(&self.graph, &self.redactions, &redactions);
        match check_in_state(event, &mut InState { view, state: &self.current_state }) {
            Ok(()) => Verdict::Accepted,
            Err(refusal) => Verdict::SoftFailed(refusal),
        }
    }

    /// Check 4: the rules about `auth_events`, and the others in the state that these events make up.
    pub(super) fn check_auth_events(
        &self,
        view: EventsView<'_>,
        pdu: &VerifiedPdu,
        index: EventIndex,
    ) -> Result<(), Refusal> {
        let auth_events = self.graph.auth_events(index);
        self.check_cited(pdu, auth_events)?;
        let create = self.graph.create();
        check_in_state(self.graph.event(index), &mut AuthEventsAsState { view, auth_events, create })
    }

    /// The rules that look at the events that an event cites, and at no state.
    fn check_cited(&self, pdu: &VerifiedPdu, auth_events: &[EventIndex]) -> Result<(), Refusal> {
        let graph = &self.graph;
        let cited = auth_events.iter().map(|index| {
            let event = graph.event(*index);
            CitedAuthEvent {
                event_type: graph.name(event.event_type()),
                state_key: event.state_key().map(|state_key| graph.name(state_key)),
                room_id: &self.room_id,
                rejected: graph.is_rejected(*index),
            }
        });
        let cited: Vec<_> = cited.collect();
        let create = graph.create().map(|index| graph.event_id(index));
        let signed = pdu.authorising_user_signed();
        check_state_independent(self.rules(), pdu.event(), signed, create.as_ref(), &cited)
    }

    pub(super) fn may_redact_any(&self, event: &Event, index: EventIndex, before: &Before) -> bool {
        if !matches!(event.content, Content::Redaction(_)) {
            return false;
        }
        let view = EventsView::new(&self.graph, &self.redactions, &before.redactions);
        let Some(create) = self.graph.create() else { return false };
        let power_levels = before.state.get(&self.graph, KeyIndex::POWER_LEVELS).map(|index| view.event(index));
        can_redact_any(view.event(create), power_levels, self.graph.event(index).sender())
    }
}

/// The current state by its events.
struct CurrentState<'r>(&'r Room);

impl StateLookup for CurrentState<'_> {
    fn state_event(&self, event_type: &str, state_key: &str) -> Option<&Event> {
        self.0.state_event(&self.0.current_state().get(event_type, state_key)?).map(|event| &**event)
    }
}

/// A state, its events as they stand in a view.
struct InState<'g> {
    view: EventsView<'g>,
    state: &'g StateMap,
}

impl<'g> AuthState<'g> for InState<'g> {
    fn event(&mut self, key: KeyIndex) -> Option<EventView<'g>> {
        Some(self.view.event(self.state.get(self.view.graph(), key)?))
    }
}

/// The state that an event's own auth events make up: what check 4 of "Checks performed on receipt of a PDU" looks at.
struct AuthEventsAsState<'g> {
    view: EventsView<'g>,
    /// Without duplicates.
    auth_events: &'g [EventIndex],
    /// The create event of the room; looked at if the auth events have none, as in room version 12.
    create: Option<EventIndex>,
}

impl<'g> AuthState<'g> for AuthEventsAsState<'g> {
    fn event(&mut self, key: KeyIndex) -> Option<EventView<'g>> {
        let graph = self.view.graph();
        let mut cited = self.auth_events.iter().copied().chain(self.create);
        cited.find(|index| graph.key(*index) == Some(key)).map(|index| self.view.event(index))
    }
}
