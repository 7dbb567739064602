//! The room reducer: one event in, its verdict, the new snapshot, the new forward extremities and the effects out.
//!
//! A [`Room`] is a function of the events handed to it, in their order. The state before and after an event depends on the DAG
//! alone; whether an event is soft-failed, the forward extremities and the current state depend on the order of arrival too,
//! which is why the log keeps it.

mod batch;
mod explain;
mod redactions;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::redactions::{EventsView, RedactionSet, Redactions};
use sha2::{Digest, Sha256};

pub use self::{
    explain::Explanation,
    verdict::{Check, Outcome, RecordedReason, Verdict},
};
use crate::{
    event::{Content, Event, event_type},
    event_auth::{
        AuthEventsAsState, CitedAuthEvent, Refusal, auth_keys_for_event, can_redact_any_event, check_state_dependent,
        check_state_independent,
    },
    graph::{EventGraph, EventIndex, GraphError},
    id::{EventId, RoomId},
    pdu::{PduError, VerifiedPdu},
    resolve::{Recorder, Silent, resolve},
    room_version::RoomVersionRules,
    state::{Fingerprint, NodeRecord, State, StateMap},
};

/// A room as far as its events are known here.
#[derive(Debug)]
pub struct Room {
    room_id: RoomId,
    graph: EventGraph,
    /// By [`EventIndex`].
    positions: Vec<Position>,
    redactions: Redactions,
    /// The accepted events that no accepted event builds on (see [`Position::is_built_on`]).
    forward_extremities: BTreeSet<EventIndex>,
    current_state: StateMap,
}

/// What is known of an event's place in the room.
#[derive(Debug)]
struct Position {
    prev_events: Box<[EventIndex]>,
    outcome: Outcome,
    reason: Option<Box<RecordedReason>>,
    state_before: StateMap,
    state_after: StateMap,
    /// The redactions among the event and its ancestors that may matter to rules.
    redactions: RedactionSet,
    /// Whether an accepted event builds on this one, directly or through soft-failed events.
    is_built_on: bool,
}

/// What [`Room::handle_pdu`] answers.
#[derive(Debug)]
pub enum Receipt {
    /// The event was judged and is now part of the room.
    Judged(Box<Judged>),
    /// The event was there already, with this outcome. Nothing changed.
    AlreadyKnown(Outcome),
    /// The event can't be judged before these events are there: its prev and auth events that are missing, sorted. Nothing
    /// changed; hand the event in again after them.
    NeedEvents(Vec<EventId>),
    /// The event is of another room. Nothing changed.
    OtherRoom(RoomId),
}

/// A judged event.
#[derive(Debug)]
pub struct Judged {
    /// The event.
    pub event: Arc<Event>,
    /// The verdict.
    pub verdict: Verdict,
    /// The room state before the event.
    pub state_before: StateMap,
    /// The room state after it.
    pub state_after: StateMap,
    /// Whether the state before had to be resolved from different states.
    pub resolved: bool,
    /// What is to be done now, in this order.
    pub effects: Vec<Effect>,
}

/// What the core asks of whoever runs it.
#[derive(Debug)]
pub enum Effect {
    /// Append the event to the log and store what follows from it, all or nothing.
    Persist(Box<PersistEvent>),
    /// The event is to be shown to clients, and sent on if it was made here.
    Publish(EventId),
}

/// All that is to be stored of a judged event.
#[derive(Debug)]
pub struct PersistEvent {
    /// The event.
    pub event: Arc<Event>,
    /// Its canonical JSON without `unsigned`; redacted if its content hash did not match.
    pub json: Arc<[u8]>,
    /// Whether the content hash matched.
    pub content_hash_matched: bool,
    /// Whether the server of `join_authorised_via_users_server` signed, if the event has that key.
    pub authorising_user_signed: Option<bool>,
    /// The outcome.
    pub outcome: Outcome,
    /// Why it was not accepted.
    pub reason: Option<RecordedReason>,
    /// The state before the event.
    pub state_before: Fingerprint,
    /// Snapshot nodes of the states before and after the event and of the current state that were not there yet.
    pub nodes: Vec<(Fingerprint, NodeRecord)>,
    /// All forward extremities after the event, sorted, if they changed.
    pub forward_extremities: Option<Vec<EventId>>,
    /// The current state after the event.
    pub current_state: Fingerprint,
}

/// Why a room can't go on. Each is a broken invariant or a damaged store, never bad input.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// The graph lacks an event that the room has.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// An event can't be redacted, though it was parsed.
    #[error("an accepted event has no redacted form")]
    Redact(#[from] PduError),
    /// An event restored from the log comes before its parents.
    #[error("the log has {event_id} before its parent {missing}")]
    OutOfOrder {
        /// The event.
        event_id: EventId,
        /// The parent.
        missing: EventId,
    },
}

impl Room {
    /// Returns a room without events.
    pub fn new(room_id: RoomId, rules: &'static RoomVersionRules) -> Self {
        Self {
            room_id,
            graph: EventGraph::new(rules),
            positions: Vec::new(),
            redactions: Redactions::default(),
            forward_extremities: BTreeSet::new(),
            current_state: StateMap::new(),
        }
    }

    /// Judges an event and makes it part of the room, unless events are missing that it builds on.
    ///
    /// These are checks 4 to 6 of "Checks performed on receipt of a PDU" (Server-Server API): against the event's own auth events
    /// and the state before it (else rejected), and against the current state (else soft-failed). Checks 1 to 3 made the
    /// [`VerifiedPdu`].
    ///
    /// Costs the resolution of the states after the prev events if they differ, and of those after the forward extremities.
    ///
    /// # Errors
    ///
    /// Only if an invariant is broken. Drop the room then and restore it from the log.
    pub fn handle_pdu(&mut self, pdu: &VerifiedPdu) -> Result<Receipt, RoomError> {
        let event = pdu.event();
        if event.room_id != self.room_id {
            return Ok(Receipt::OtherRoom(event.room_id.clone()));
        }
        if let Some(index) = self.graph.index_of(&event.event_id) {
            return Ok(Receipt::AlreadyKnown(self.position(index).outcome));
        }
        let missing = self.missing_events(event);
        if !missing.is_empty() {
            return Ok(Receipt::NeedEvents(missing));
        }
        let prev_events = self.prev_events_of(event)?;
        let redactions = self.redactions_after(&prev_events);
        let states = self.states_after(&prev_events);
        let resolved = states.windows(2).any(|pair| matches!(pair, [a, b] if !a.is_same(b)));
        let builds_on_all = prev_events.iter().copied().collect::<BTreeSet<_>>() == self.forward_extremities;
        let state_before = if builds_on_all { self.current_state.clone() } else { self.resolve(&states, &mut Silent) };
        let verdict = self.judge(pdu, builds_on_all, &state_before, &redactions)?;
        let judged = self.admit(pdu, prev_events, redactions, state_before, resolved, verdict)?;
        Ok(Receipt::Judged(Box::new(judged)))
    }

    /// Returns the prev and auth events of an event that are not known, sorted, each once.
    pub fn missing_events(&self, event: &Event) -> Vec<EventId> {
        let cited: BTreeSet<_> = event.prev_events.iter().chain(&event.auth_events).collect();
        cited.into_iter().filter(|id| self.graph.index_of(id).is_none()).cloned().collect()
    }

    /// Returns the room's id.
    pub fn room_id(&self) -> &RoomId {
        &self.room_id
    }

    /// Returns the rules of the room's version.
    pub fn rules(&self) -> &'static RoomVersionRules {
        self.graph.rules()
    }

    /// Returns the number of events.
    pub fn len(&self) -> usize {
        self.graph.len()
    }

    /// Whether the room has no events.
    pub fn is_empty(&self) -> bool {
        self.graph.is_empty()
    }

    /// Returns the events with their outcomes, in the order in which they were judged.
    pub fn events(&self) -> impl Iterator<Item = (&Arc<Event>, Outcome)> {
        self.graph.iter().map(|(index, event)| (event, self.position(index).outcome))
    }

    /// Returns an event.
    pub fn event(&self, event_id: &EventId) -> Option<&Arc<Event>> {
        Some(self.graph.event(self.graph.index_of(event_id)?))
    }

    /// Returns an event's outcome.
    pub fn outcome(&self, event_id: &EventId) -> Option<Outcome> {
        Some(self.position(self.graph.index_of(event_id)?).outcome)
    }

    /// Returns why an event was not accepted.
    pub fn reason(&self, event_id: &EventId) -> Option<&RecordedReason> {
        self.position(self.graph.index_of(event_id)?).reason.as_deref()
    }

    /// Returns the state before an event: the specification's S(E).
    pub fn state_before(&self, event_id: &EventId) -> Option<State<'_>> {
        Some(State::new(&self.graph, &self.position(self.graph.index_of(event_id)?).state_before))
    }

    /// Returns the state after an event: the specification's S'(E).
    pub fn state_after(&self, event_id: &EventId) -> Option<State<'_>> {
        Some(State::new(&self.graph, &self.position(self.graph.index_of(event_id)?).state_after))
    }

    /// Returns the accepted events that no accepted event has as a prev event, sorted.
    pub fn forward_extremities(&self) -> Vec<EventId> {
        let mut ids: Vec<_> =
            self.forward_extremities.iter().map(|index| self.graph.event(*index).event_id.clone()).collect();
        ids.sort_unstable();
        ids
    }

    /// Returns the resolution of the states after the forward extremities.
    pub fn current_state(&self) -> State<'_> {
        State::new(&self.graph, &self.current_state)
    }

    /// Returns the room's events with their numbers.
    pub fn graph(&self) -> &EventGraph {
        &self.graph
    }

    /// Returns a fingerprint over all events in the order in which they were judged, each with its outcome, the state before it
    /// and at last the current state: equal only for rooms with the same history. O(n) for n events.
    pub fn history_fingerprint(&self) -> Fingerprint {
        let mut hasher = Sha256::new();
        for ((event, outcome), position) in self.events().zip(&self.positions) {
            hasher.update(event.event_id.as_str());
            hasher.update([0, outcome as u8]);
            hasher.update(position.state_before.fingerprint(&self.graph).0);
        }
        hasher.update(self.current_state.fingerprint(&self.graph).0);
        Fingerprint(hasher.finalize().into())
    }

    /// Puts an event back that the log has, without judging it again. Events come in the order of the log.
    ///
    /// # Errors
    ///
    /// When the log has an event before those it builds on.
    pub fn restore_event(
        &mut self,
        pdu: &VerifiedPdu,
        outcome: Outcome,
        reason: Option<RecordedReason>,
        state_before: StateMap,
    ) -> Result<(), RoomError> {
        let prev_events = self.prev_events_of(pdu.event())?;
        let redactions = self.redactions_after(&prev_events);
        self.insert(pdu, prev_events, redactions, state_before, outcome, reason.map(Box::new))?;
        Ok(())
    }

    /// Sets the current state of a room whose events were all restored.
    pub fn restore_current_state(&mut self, state: StateMap) {
        self.current_state = state;
    }

    fn judge(
        &self,
        pdu: &VerifiedPdu,
        builds_on_all: bool,
        state_before: &StateMap,
        redactions: &RedactionSet,
    ) -> Result<Verdict, RoomError> {
        let event = pdu.event();
        let view = EventsView::new(&self.graph, &self.redactions, redactions);
        if let Err(refusal) = self.check_auth_events(view, event, pdu.authorising_user_signed())? {
            return Ok(Verdict::Rejected { check: Check::AuthEvents, refusal });
        }
        if let Err(refusal) = self.check_state(view, event, state_before)? {
            return Ok(Verdict::Rejected { check: Check::StateBefore, refusal });
        }
        // Where the event builds on all forward extremities, the current state is the state before it.
        if builds_on_all {
            return Ok(Verdict::Accepted);
        }
        let redactions = self.redactions_after(&self.forward_extremities);
        let view = EventsView::new(&self.graph, &self.redactions, &redactions);
        Ok(match self.check_state(view, event, &self.current_state)? {
            Ok(()) => Verdict::Accepted,
            Err(refusal) => Verdict::SoftFailed(refusal),
        })
    }

    /// Check 4: the rules about `auth_events`, and the others in the state that these events make up.
    fn check_auth_events(
        &self,
        view: EventsView<'_>,
        event: &Event,
        authorising_user_signed: Option<bool>,
    ) -> Result<Result<(), Refusal>, RoomError> {
        let mut cited = Vec::with_capacity(event.auth_events.len());
        for event_id in &event.auth_events {
            let index = self.known(event, event_id)?;
            cited.push(CitedAuthEvent { event: view.event(index), rejected: self.graph.is_rejected(index) });
        }
        let create = self.graph.create().map(|index| view.event(index));
        if let Err(refusal) = check_state_independent(self.rules(), event, authorising_user_signed, create, &cited) {
            return Ok(Err(refusal));
        }
        let state = AuthEventsAsState { create, auth_events: &cited };
        Ok(check_state_dependent(self.rules(), event, &state))
    }

    /// Checks 5 and 6: the rules in a state.
    fn check_state(
        &self,
        view: EventsView<'_>,
        event: &Event,
        state: &StateMap,
    ) -> Result<Result<(), Refusal>, RoomError> {
        let create = self.rules().room_id_is_create_hash.then_some((event_type::CREATE, ""));
        let mut events: Vec<&Event> = Vec::new();
        for (event_type, state_key) in auth_keys_for_event(self.rules(), event).chain(create) {
            let key = self.graph.keys().get(event_type, state_key);
            events.extend(key.and_then(|key| state.get(&self.graph, key)).map(|index| view.event(index)));
        }
        Ok(check_state_dependent(self.rules(), event, &events))
    }

    /// Makes a judged event part of the room and says what is to be stored.
    fn admit(
        &mut self,
        pdu: &VerifiedPdu,
        prev_events: Box<[EventIndex]>,
        redactions: RedactionSet,
        state_before: StateMap,
        resolved: bool,
        verdict: Verdict,
    ) -> Result<Judged, RoomError> {
        let event = pdu.event().clone();
        let (outcome, reason) = verdict.record(self.rules().version);
        let mut nodes: BTreeMap<Fingerprint, NodeRecord> = BTreeMap::new();
        let states = self.states_after(&prev_events);
        let bases: Vec<&StateMap> = states.iter().chain([&self.current_state]).collect();
        nodes.extend(state_before.nodes_beyond(&self.graph, &bases));

        let index =
            self.insert(pdu, prev_events, redactions, state_before.clone(), outcome, reason.clone().map(Box::new))?;
        let state_after = self.position(index).state_after.clone();
        nodes.extend(state_after.nodes_beyond(&self.graph, &[&state_before]));

        // An accepted event is a forward extremity now; others change nothing there.
        let extremities_changed = outcome == Outcome::Accepted;
        if extremities_changed {
            let current_state = self.resolve_extremities();
            nodes.extend(current_state.nodes_beyond(&self.graph, &[&self.current_state, &state_after]));
            self.current_state = current_state;
        }
        let mut effects = vec![Effect::Persist(Box::new(PersistEvent {
            event: event.clone(),
            json: pdu.json().clone(),
            content_hash_matched: pdu.content_hash_matched(),
            authorising_user_signed: pdu.authorising_user_signed(),
            outcome,
            reason,
            state_before: state_before.fingerprint(&self.graph),
            nodes: nodes.into_iter().collect(),
            forward_extremities: extremities_changed.then(|| self.forward_extremities()),
            current_state: self.current_state.fingerprint(&self.graph),
        }))];
        if outcome == Outcome::Accepted {
            effects.push(Effect::Publish(event.event_id.clone()));
        }
        Ok(Judged { event, verdict, state_before, state_after, resolved, effects })
    }

    fn insert(
        &mut self,
        pdu: &VerifiedPdu,
        prev_events: Box<[EventIndex]>,
        redactions_before: RedactionSet,
        state_before: StateMap,
        outcome: Outcome,
        reason: Option<Box<RecordedReason>>,
    ) -> Result<EventIndex, RoomError> {
        let event = pdu.event();
        let rejected = outcome == Outcome::Rejected;
        let redacted = if rejected { None } else { redactions::redacted_facts(pdu)? };
        let may_redact_any = self.may_redact_any(event, &state_before, &redactions_before)?;
        let index = self.graph.insert(event.clone(), redacted, rejected)?;
        let redactions = if rejected {
            redactions_before
        } else {
            self.redactions.add(&self.graph, index, may_redact_any, redactions_before)
        };
        let state_after = match self.graph.key(index) {
            Some(key) if !rejected => state_before.insert(&self.graph, key, index),
            _ => state_before.clone(),
        };
        if outcome == Outcome::Accepted {
            self.advance_extremities(index, &prev_events);
        }
        let is_built_on = false;
        self.positions.push(Position {
            prev_events,
            outcome,
            reason,
            state_before,
            state_after,
            redactions,
            is_built_on,
        });
        Ok(index)
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
                pending.extend(&position.prev_events);
            }
        }
        self.forward_extremities.insert(index);
    }

    fn resolve_extremities(&self) -> StateMap {
        let extremities: Vec<EventIndex> = self.forward_extremities.iter().copied().collect();
        let states = self.states_after(&extremities);
        self.resolve(&states, &mut Silent)
    }

    fn resolve(&self, states: &[StateMap], recorder: &mut impl Recorder) -> StateMap {
        resolve(&self.graph, &states.iter().collect::<Vec<_>>(), recorder)
    }

    fn states_after(&self, events: &[EventIndex]) -> Vec<StateMap> {
        events.iter().map(|index| self.position(*index).state_after.clone()).collect()
    }

    fn redactions_after<'e>(&self, events: impl IntoIterator<Item = &'e EventIndex>) -> RedactionSet {
        RedactionSet::union(events.into_iter().map(|index| &self.position(*index).redactions))
    }

    fn may_redact_any(
        &self,
        event: &Event,
        state_before: &StateMap,
        redactions: &RedactionSet,
    ) -> Result<bool, RoomError> {
        if !matches!(event.content, Content::Redaction(_)) {
            return Ok(false);
        }
        let view = EventsView::new(&self.graph, &self.redactions, redactions);
        let Some(create) = self.graph.create() else { return Ok(false) };
        let power_levels = self.graph.keys().get(event_type::POWER_LEVELS, "");
        let power_levels =
            power_levels.and_then(|key| state_before.get(&self.graph, key)).map(|index| view.event(index));
        Ok(can_redact_any_event(self.rules(), view.event(create), power_levels, event.sender.as_str()))
    }

    fn prev_events_of(&self, event: &Event) -> Result<Box<[EventIndex]>, RoomError> {
        event.prev_events.iter().map(|event_id| self.known(event, event_id)).collect()
    }

    fn known(&self, event: &Event, cited: &EventId) -> Result<EventIndex, RoomError> {
        let missing = || RoomError::OutOfOrder { event_id: event.event_id.clone(), missing: cited.clone() };
        self.graph.index_of(cited).ok_or_else(missing)
    }

    #[allow(clippy::indexing_slicing, reason = "every event of the graph gets its position when it is inserted")]
    fn position(&self, index: EventIndex) -> &Position {
        &self.positions[index.as_usize()]
    }
}

#[cfg(test)]
mod tests;
