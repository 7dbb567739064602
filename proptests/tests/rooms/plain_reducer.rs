//! A plain, slow room reducer, and the product's compared with it: states before events by the plain reading of resolution, verdicts
//! by the authorization rules alone.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ravel_core::{
    event::{Content, Event, StateKey, event_type},
    event_auth::{
        CitedAuthEvent, auth_types_for_event, can_redact_any_event, check_state_dependent, check_state_independent,
    },
    id::EventId,
    pdu::VerifiedPdu,
    room::Outcome,
    room_version::RoomVersion,
};
use ravel_proptests::{
    draft::Draft,
    plain,
    plan::{Style, plans},
    seed,
};

use crate::replay::{empty_room, handle};

/// What is known of the events so far.
struct PlainReducer<'a> {
    resolution: plain::Room<'a>,
    /// Each event as it is once redacted.
    redacted: BTreeMap<EventId, Event>,
    states_after: BTreeMap<EventId, plain::State>,
    outcomes: BTreeMap<EventId, Outcome>,
    /// Each event's ancestors, and the event.
    history: BTreeMap<EventId, BTreeSet<EventId>>,
    /// The redactions whose sender could redact any event.
    powerful_redactions: BTreeSet<EventId>,
    forward_extremities: BTreeSet<EventId>,
}

/// What the reducer makes of an event.
struct Judged {
    state_before: plain::State,
    outcome: Outcome,
    current_state: plain::State,
}

impl PlainReducer<'_> {
    /// Takes the next event, all of whose parents are there.
    fn take(&mut self, pdu: &VerifiedPdu) -> Judged {
        let event = pdu.event();
        let state_before = self.resolve(&event.prev_events);
        let before: BTreeSet<EventId> =
            event.prev_events.iter().flat_map(|id| self.history[id].iter().cloned()).collect();
        let outcome = self.outcome(pdu, &state_before, &self.redacted_by(&before));
        if matches!(event.content, Content::Redaction(_)) && self.has_power(event, &state_before, &before) {
            self.powerful_redactions.insert(event.event_id.clone());
        }

        let mut state_after = state_before.clone();
        if let (true, Some(key)) = (outcome != Outcome::Rejected, event.state_key()) {
            state_after.insert(key, event.event_id.clone());
        }
        if outcome == Outcome::Rejected {
            self.resolution.rejected.insert(event.event_id.clone());
        }
        let mut history = before;
        history.insert(event.event_id.clone());
        self.history.insert(event.event_id.clone(), history);
        self.states_after.insert(event.event_id.clone(), state_after);
        self.outcomes.insert(event.event_id.clone(), outcome);
        if outcome == Outcome::Accepted {
            self.advance(event);
        }
        Judged { state_before, outcome, current_state: self.current_state() }
    }

    fn resolve<'e>(&self, events: impl IntoIterator<Item = &'e EventId>) -> plain::State {
        let states: Vec<plain::State> = events.into_iter().map(|id| self.states_after[id].clone()).collect();
        self.resolution.resolve(&states)
    }

    fn current_state(&self) -> plain::State {
        self.resolve(&self.forward_extremities)
    }

    /// "Checks performed on receipt of a PDU", 4 to 6.
    fn outcome(&self, pdu: &VerifiedPdu, state_before: &plain::State, redacted: &BTreeSet<EventId>) -> Outcome {
        let event = pdu.event();
        if !self.passes_auth_events(pdu, redacted) || !self.passes(event, state_before, redacted) {
            return Outcome::Rejected;
        }
        let history: BTreeSet<EventId> =
            self.forward_extremities.iter().flat_map(|id| self.history[id].iter().cloned()).collect();
        let passes = self.passes(event, &self.current_state(), &self.redacted_by(&history));
        if passes { Outcome::Accepted } else { Outcome::SoftFailed }
    }

    fn passes_auth_events(&self, pdu: &VerifiedPdu, redacted: &BTreeSet<EventId>) -> bool {
        let (event, rules) = (pdu.event(), self.resolution.rules);
        let cited: Vec<&Event> = event.auth_events.iter().map(|id| self.view(id, redacted)).collect();
        let rejected = |id| self.resolution.rejected.contains(id);
        let auth_events =
            event.auth_events.iter().zip(&cited).map(|(id, cited)| CitedAuthEvent::new(cited, rejected(id)));
        let auth_events: Vec<CitedAuthEvent<'_>> = auth_events.collect();
        let create = self.outcomes.contains_key(&self.resolution.create);
        let create = create.then(|| self.view(&self.resolution.create, redacted));
        let create_id = create.map(|create| &create.event_id);
        let state: Vec<&Event> = cited.into_iter().chain(create).collect();
        check_state_independent(rules, event, pdu.authorising_user_signed(), create_id, &auth_events).is_ok()
            && check_state_dependent(rules, event, &state).is_ok()
    }

    fn passes(&self, event: &Event, state: &plain::State, redacted: &BTreeSet<EventId>) -> bool {
        let keys = auth_types_for_event(self.resolution.rules, event).into_iter();
        let keys = keys.chain([StateKey::new(event_type::CREATE, "")]);
        let found = keys.filter_map(|key| Some((key.clone(), self.view(state.get(&key)?, redacted))));
        check_state_dependent(self.resolution.rules, event, &plain::Lookup(found.collect())).is_ok()
    }

    /// Returns an event as rules read it where these are redacted.
    fn view(&self, event_id: &EventId, redacted: &BTreeSet<EventId>) -> &Event {
        if redacted.contains(event_id) { &self.redacted[event_id] } else { &self.resolution.events[event_id] }
    }

    /// Returns the events that are redacted by one of these. A create event never is.
    fn redacted_by(&self, history: &BTreeSet<EventId>) -> BTreeSet<EventId> {
        let mut redacted = BTreeSet::new();
        for id in history.iter().filter(|id| self.outcomes[*id] != Outcome::Rejected) {
            let redaction = &self.resolution.events[id];
            let Content::Redaction(Some(target_id)) = &redaction.content else { continue };
            // Whether the event is here already is no matter: nothing that was judged without it can have looked at it.
            let Some(target) = self.resolution.events.get(target_id) else { continue };
            let same_server = redaction.sender.server_name() == target.sender.server_name();
            let takes_effect =
                same_server || self.resolution.rules.redaction_auth_rule || self.powerful_redactions.contains(id);
            if takes_effect && *target.event_type != *event_type::CREATE {
                redacted.insert(target_id.clone());
            }
        }
        redacted
    }

    fn has_power(&self, event: &Event, state_before: &plain::State, before: &BTreeSet<EventId>) -> bool {
        let redacted = self.redacted_by(before);
        let power_levels = state_before.get(&StateKey::new(event_type::POWER_LEVELS, ""));
        let power_levels = power_levels.map(|id| self.view(id, &redacted));
        let create = &self.resolution.events[&self.resolution.create];
        can_redact_any_event(self.resolution.rules, create, power_levels, event.sender.as_str())
    }

    /// An accepted event takes the place of the extremities that it builds on, directly or through soft-failed events.
    fn advance(&mut self, event: &Event) {
        let mut pending = event.prev_events.to_vec();
        while let Some(id) = pending.pop() {
            self.forward_extremities.remove(&id);
            if self.outcomes[&id] == Outcome::SoftFailed {
                pending.extend(self.resolution.events[&id].prev_events.iter().cloned());
            }
        }
        self.forward_extremities.insert(event.event_id.clone());
    }
}

fn check(draft: &Draft) {
    let pdus = draft.verified();
    let allows = plain::ravel_allows(draft.rules());
    let events: Vec<Arc<Event>> = pdus.iter().map(|pdu| pdu.event().clone()).collect();
    let mut reducer = PlainReducer {
        resolution: plain::Room::new(draft.rules(), events, &allows),
        redacted: pdus.iter().map(|pdu| (pdu.event_id().clone(), pdu.redacted_event().unwrap())).collect(),
        states_after: BTreeMap::new(),
        outcomes: BTreeMap::new(),
        history: BTreeMap::new(),
        powerful_redactions: BTreeSet::new(),
        forward_extremities: BTreeSet::new(),
    };
    let mut room = empty_room(draft);
    for pdu in &pdus {
        assert!(handle(&mut room, pdu));
        let (event, judged) = (pdu.event(), reducer.take(pdu));
        let (id, reason) = (&event.event_id, room.reason(&event.event_id));
        assert_eq!(room.state_before(id).unwrap().to_map(), judged.state_before, "before {event:?}");
        assert_eq!(room.outcome(id), Some(judged.outcome), "{event:?} {reason:?}");
        assert!(room.forward_extremities().iter().eq(&reducer.forward_extremities), "after {event:?}");
        assert_eq!(room.current_state().to_map(), judged.current_state, "after {event:?}");
    }
}

#[test]
fn orderly_rooms_are_judged_as_the_text_says() {
    seed::check(200, &plans(&RoomVersion::ALL, Style::Orderly, 1..40), |plan| check(&Draft::of(&plan)));
}

#[test]
fn hostile_rooms_are_judged_as_the_text_says() {
    seed::check(400, &plans(&RoomVersion::ALL, Style::Hostile, 1..40), |plan| check(&Draft::of(&plan)));
}
