//! The room reducer: one event in, its verdict, the new snapshot, the new forward extremities and the effects out.
//!
//! A [`Room`] is a function of the events handed to it, in their order. The state before and after an event depends on the DAG
//! alone; whether an event is soft-failed, the forward extremities and the current state depend on the order of arrival too,
//! which is why the log keeps it.

mod batch;
mod compose;
mod explain;
mod held_events;
mod place;
mod purged;
mod redactions;
mod verdict;

use std::{collections::BTreeSet, sync::Arc};

use self::{
    purged::Source,
    redactions::{EventsView, RedactionSet, Redactions},
};
use sha2::{Digest, Sha256};

pub use self::{
    compose::{NewEvent, compose_create},
    explain::Explanation,
    place::{Arrival, Place},
    purged::{PurgedEvent, Remains},
    verdict::{Check, Outcome, RecordedReason, Verdict},
};
use crate::{
    event::{Content, Event, StateKey},
    event_auth::{
        AuthState, CitedAuthEvent, Refusal, StateLookup, can_redact_any, check_in_state, check_state_dependent,
        check_state_independent,
    },
    graph::{Column, EventGraph, EventIndex, EventView, GraphError, KeyIndex, StoredEvent},
    id::{EventId, RoomId},
    pdu::{PduError, VerifiedPdu},
    resolve::{Recorder, Silent, resolve},
    room_version::RoomVersionRules,
    state::{Fingerprint, NodeIndex, NodeNumbers, NodeRecord, State, StateMap, conflicts},
};

/// A room as far as its events are known here.
#[derive(Debug)]
pub struct Room {
    room_id: RoomId,
    graph: EventGraph,
    /// By [`EventIndex`].
    positions: Column<Position>,
    redactions: Redactions,
    /// The accepted events that no accepted event builds on (see [`Position::is_built_on`]).
    forward_extremities: BTreeSet<EventIndex>,
    current_state: StateMap,
    node_numbers: NodeNumbers,
    /// How often history of the room was purged.
    purges: u32,
}

/// What is known of an event's place in the room.
#[derive(Debug)]
struct Position {
    /// `None` for most messages, which are made of the room's numbers when they are asked for.
    event: Option<Arc<Event>>,
    depth: i64,
    /// Those that were known when it came.
    prev_events: Box<[EventIndex]>,
    outcome: Outcome,
    reason: Option<Box<RecordedReason>>,
    /// `None` for outliers, and if they were purged. Invariant: forward extremities have them.
    states: Option<States>,
    /// Only its skeleton is left.
    is_skeleton: bool,
    /// Its place in the DAG is not known.
    is_outlier: bool,
    /// The redactions among the event and its ancestors that may matter to rules.
    redactions: RedactionSet,
    /// Whether it is a redaction whose sender may redact any event.
    may_redact_any: bool,
    /// Whether an accepted event builds on this one, directly or through soft-failed events.
    is_built_on: bool,
}

/// The states around an event.
#[derive(Clone, Debug)]
struct States {
    before: StateMap,
    after: StateMap,
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
    /// The event can't be judged here by what it builds on: the states after these of its prev events, sorted, were purged, or never
    /// known. Nothing changed. Other servers may know the state before it, see [`Room::handle`].
    NeedState(Vec<EventId>),
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
    /// What is known of its place. Outliers have empty states.
    pub place: Place,
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
    /// A purged event names a number that no event before it has.
    #[error("{event_id} names event {missing:?}, which does not come before it")]
    UnknownNumber {
        /// The event.
        event_id: EventId,
        /// The number.
        missing: EventIndex,
    },
    /// The state after an event is asked for, and was purged or never known.
    #[error("the state after {0} is not there")]
    NoState(EventId),
    /// An event is to get a place that has one, or is not there.
    #[error("{0} is to get a place, and is no outlier")]
    NoOutlier(EventId),
}

impl Room {
    /// Returns a room without events.
    pub fn new(room_id: RoomId, rules: &'static RoomVersionRules) -> Self {
        Self {
            room_id,
            graph: EventGraph::new(rules),
            positions: Column::default(),
            redactions: Redactions::default(),
            forward_extremities: BTreeSet::new(),
            current_state: StateMap::new(),
            node_numbers: NodeNumbers::default(),
            purges: 0,
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
        self.handle(pdu, Arrival::New, None)
    }

    /// Judges an event that came in any way: by the states after its prev events, or, if a state before it is given, by that and the
    /// states after those of its prev events that have one here.
    ///
    /// All events of a given state have to be here, as [outliers](Self::handle_outlier) at least; those that are no state events, or
    /// were rejected, are left out. An outlier gets its place by this.
    ///
    /// # Errors
    ///
    /// As [`handle_pdu`](Self::handle_pdu).
    pub fn handle(
        &mut self,
        pdu: &VerifiedPdu,
        arrival: Arrival,
        given_state: Option<&[EventId]>,
    ) -> Result<Receipt, RoomError> {
        let event = pdu.event();
        let known = self.graph.index_of(&event.event_id);
        let outlier = known.filter(|index| self.position(*index).is_outlier);
        if let Some(receipt) = self.receipt_of_known(event).filter(|_| outlier.is_none()) {
            return Ok(receipt);
        }
        let missing = match given_state {
            Some(state) => self.unknown(event.auth_events.iter().chain(state)),
            None => self.missing_events(event),
        };
        if !missing.is_empty() {
            return Ok(Receipt::NeedEvents(missing));
        }
        let prev_events = self.known_prev_events(event);
        let before = match given_state {
            Some(state) => {
                let state = state.iter().filter_map(|event_id| self.graph.index_of(event_id));
                let state = self.usable_state(state.filter(|index| Some(*index) != known));
                self.before_in_state(prev_events, state)
            }
            None => {
                let without_state = self.without_state(&prev_events);
                if !without_state.is_empty() {
                    return Ok(Receipt::NeedState(without_state));
                }
                self.before(prev_events)?
            }
        };
        let index = match outlier {
            Some(index) => index,
            None => self.number(event)?,
        };
        let verdict = self.judge(pdu, index, &before, arrival);
        let (outcome, reason) = verdict.record(self.rules().version);
        // States and auth chains may hold an outlier: what its auth events allow is not rejected later.
        if let Some(index) = outlier
            && outcome == Outcome::Rejected
        {
            return Ok(Receipt::AlreadyKnown(self.position(index).outcome));
        }
        let resolved = before.resolved;
        let (states, persist) = self.admit(&Source::Pdu(pdu), index, before, arrival, outcome, reason)?;
        let place = persist.place.clone();
        let mut effects = vec![Effect::Persist(Box::new(persist))];
        if outcome == Outcome::Accepted && arrival != Arrival::History {
            effects.push(Effect::Publish(event.event_id.clone()));
        }
        let States { before: state_before, after: state_after } = states;
        let event = event.clone();
        Ok(Receipt::Judged(Box::new(Judged { event, verdict, state_before, state_after, resolved, place, effects })))
    }

    /// Returns what is answered to an event of another room, and to one that is there.
    fn receipt_of_known(&self, event: &Event) -> Option<Receipt> {
        if event.room_id != self.room_id {
            return Some(Receipt::OtherRoom(event.room_id.clone()));
        }
        let index = self.graph.index_of(&event.event_id)?;
        Some(Receipt::AlreadyKnown(self.position(index).outcome))
    }

    /// Returns those of these events that have no states here, sorted, each once.
    fn without_state(&self, events: &[EventIndex]) -> Vec<EventId> {
        let without = events.iter().filter(|index| self.position(**index).states.is_none());
        let without: BTreeSet<EventId> = without.map(|index| self.graph.event_id(*index)).collect();
        without.into_iter().collect()
    }

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

    /// Returns the keys at which the current state differs from an earlier state of this room. Costs what differs.
    pub fn changed_keys(&self, before: &StateMap) -> Vec<StateKey> {
        let mut changed = Vec::new();
        conflicts(&self.graph, &[before, &self.current_state], &mut |key, _| changed.push(self.graph.state_key(key)));
        changed
    }

    /// Returns the prev and auth events of an event that are not known, sorted, each once.
    pub fn missing_events(&self, event: &Event) -> Vec<EventId> {
        self.unknown(event.prev_events.iter().chain(&event.auth_events))
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

    /// Returns the number of an event: they are given from 0 on, in the order in which events come.
    pub fn number_of(&self, event_id: &EventId) -> Option<usize> {
        self.graph.index_of(event_id).map(EventIndex::as_usize)
    }

    /// Returns an event's outcome.
    pub fn outcome(&self, event_id: &EventId) -> Option<Outcome> {
        Some(self.position(self.graph.index_of(event_id)?).outcome)
    }

    /// Returns why an event was not accepted.
    pub fn reason(&self, event_id: &EventId) -> Option<&RecordedReason> {
        self.position(self.graph.index_of(event_id)?).reason.as_deref()
    }

    /// Returns the state before an event: the specification's S(E). `None` for an [outlier](Self::is_outlier), and if it was
    /// [purged](Self::remains).
    pub fn state_before(&self, event_id: &EventId) -> Option<State<'_>> {
        Some(State::new(&self.graph, &self.position(self.graph.index_of(event_id)?).states.as_ref()?.before))
    }

    /// Returns the state after an event: the specification's S'(E). `None` as for [`state_before`](Self::state_before).
    pub fn state_after(&self, event_id: &EventId) -> Option<State<'_>> {
        Some(State::new(&self.graph, &self.position(self.graph.index_of(event_id)?).states.as_ref()?.after))
    }

    /// Returns the accepted events that no accepted event has as a prev event, sorted.
    pub fn forward_extremities(&self) -> Vec<EventId> {
        let mut ids: Vec<_> = self.forward_extremities.iter().map(|index| self.graph.event_id(*index)).collect();
        ids.sort_unstable();
        ids
    }

    /// Returns the resolution of the states after the forward extremities.
    pub fn current_state(&self) -> State<'_> {
        State::new(&self.graph, &self.current_state)
    }

    /// Returns a state of this room as something to look events up in.
    pub fn state<'r>(&'r self, map: &'r StateMap) -> State<'r> {
        State::new(&self.graph, map)
    }

    /// Returns the room's events with their numbers.
    pub fn graph(&self) -> &EventGraph {
        &self.graph
    }

    /// Returns a fingerprint over all events in the order in which they were judged, each with its outcome, the state before it
    /// if it was not purged, and at last the current state: equal only for rooms with the same history. O(n) for n events.
    pub fn history_fingerprint(&self) -> Fingerprint {
        let mut hasher = Sha256::new();
        for index in self.graph.indices() {
            let position = self.position(index);
            let outcome = position.outcome;
            hasher.update(self.graph.event_id_text(index));
            match &position.states {
                Some(states) => {
                    hasher.update([0, outcome as u8]);
                    hasher.update(states.before.fingerprint(&self.graph).0);
                }
                None => hasher.update([1, outcome as u8, u8::from(position.is_outlier)]),
            }
        }
        hasher.update(self.current_state.fingerprint(&self.graph).0);
        Fingerprint(hasher.finalize().into())
    }

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
    pub fn restore_state_after(&mut self, event_id: &EventId, state: StateMap) -> bool {
        let Some(index) = self.graph.index_of(event_id) else { return false };
        let Some(position) = self.positions.get_mut(index.as_usize()) else { return false };
        let Some(states) = &mut position.states else { return false };
        let key = self.graph.key(index).filter(|_| position.outcome != Outcome::Rejected);
        let (mut holds_its_key, mut differs_elsewhere) = (key.is_none(), false);
        conflicts(&self.graph, &[&states.before, &state], &mut |differing, held| {
            if Some(differing) == key && held.last() == Some(&Some(index)) {
                holds_its_key = true;
            } else {
                differs_elsewhere = true;
            }
        });
        states.after = state;
        holds_its_key && !differs_elsewhere
    }

    /// Sets the current state of a room whose events were all restored, how many snapshot nodes have numbers, and how often
    /// history was purged.
    pub fn restore_current_state(&mut self, state: StateMap, nodes_numbered: u32, purges: u32) {
        self.current_state = state;
        self.node_numbers = NodeNumbers::after(nodes_numbered);
        self.purges = purges;
    }

    fn restore(&mut self, source: &Source<'_>, position: StoredPosition) -> Result<(), RoomError> {
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
        let states = state_before.map(|before| States { after: before.clone(), before });
        let place = Standing { prev_events, redactions, states, may_redact_any, arrival };
        self.insert(source, index, place, outcome, reason.map(Box::new))
    }

    /// Returns those of an event's prev events that are here.
    fn known_prev_events(&self, event: &Event) -> Box<[EventIndex]> {
        event.prev_events.iter().filter_map(|event_id| self.graph.index_of(event_id)).collect()
    }

    /// Returns what comes before an event.
    ///
    /// # Errors
    ///
    /// When the state after one of the prev events was purged.
    fn before(&self, prev_events: Box<[EventIndex]>) -> Result<Before, RoomError> {
        let states = self.states_after(&prev_events)?;
        let resolved = states.windows(2).any(|pair| matches!(pair, [a, b] if !a.is_same(b)));
        let builds_on_all = prev_events.iter().copied().collect::<BTreeSet<_>>() == self.forward_extremities;
        let state = if builds_on_all { self.current_state.clone() } else { self.resolve(&states, &mut Silent) };
        let redactions = self.redactions_after(&prev_events);
        Ok(Before { redactions, prev_events, state, resolved, builds_on_all, given_state: None })
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

    /// Gives an event its number. It counts as rejected until it is judged.
    fn number(&mut self, event: &Event) -> Result<EventIndex, RoomError> {
        let auth_events = event.auth_events.iter().map(|event_id| self.known(event, event_id));
        let auth_events: Vec<EventIndex> = auth_events.collect::<Result<_, _>>()?;
        Ok(self.graph.insert_citing(event, &auth_events).ok_or(GraphError::Full)?)
    }

    fn judge(&self, pdu: &VerifiedPdu, index: EventIndex, before: &Before, arrival: Arrival) -> Verdict {
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
    fn check_auth_events(&self, view: EventsView<'_>, pdu: &VerifiedPdu, index: EventIndex) -> Result<(), Refusal> {
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

    /// Makes a judged event part of the room and says what is to be stored.
    fn admit(
        &mut self,
        source: &Source<'_>,
        index: EventIndex,
        before: Before,
        arrival: Arrival,
        outcome: Outcome,
        reason: Option<RecordedReason>,
    ) -> Result<(States, PersistEvent), RoomError> {
        let event = source.event().clone();
        let may_redact_any = self.may_redact_any(&event, index, &before);
        let was_outlier = index.as_usize() < self.positions.len();
        let Before { prev_events, redactions, state, given_state, .. } = before;
        let states = Some(States { before: state.clone(), after: state.clone() });
        let place = Standing { prev_events, redactions, states, may_redact_any, arrival: Some(arrival) };
        self.insert(source, index, place, outcome, reason.clone().map(Box::new))?;
        let key = self.graph.key(index).filter(|_| outcome != Outcome::Rejected);
        let after = key.map_or_else(|| state.clone(), |key| state.insert(&self.graph, key, index));
        let states = States { before: state, after };
        if let Some(position) = self.positions.get_mut(index.as_usize()) {
            position.states = Some(states.clone());
        }

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
    fn to_persist(
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

    /// Makes an event part of the room. The state after it is the one before until the caller sets it.
    fn insert(
        &mut self,
        source: &Source<'_>,
        index: EventIndex,
        place: Standing,
        outcome: Outcome,
        reason: Option<Box<RecordedReason>>,
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
            reason,
            states,
            is_skeleton,
            redactions,
            may_redact_any,
            is_outlier: arrival.is_none(),
            // Nothing of the past becomes an extremity.
            is_built_on: arrival == Some(Arrival::History),
            prev_events: prev_events.clone(),
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
                pending.extend(&position.prev_events);
            }
        }
        self.forward_extremities.insert(index);
    }

    fn resolve_extremities(&self) -> Result<StateMap, RoomError> {
        let extremities: Vec<EventIndex> = self.forward_extremities.iter().copied().collect();
        let states = self.states_after(&extremities)?;
        Ok(self.resolve(&states, &mut Silent))
    }

    fn resolve(&self, states: &[StateMap], recorder: &mut impl Recorder) -> StateMap {
        resolve(&self.graph, &states.iter().collect::<Vec<_>>(), recorder)
    }

    fn states_after(&self, events: &[EventIndex]) -> Result<Vec<StateMap>, RoomError> {
        let state_after = |index: &EventIndex| {
            let states = self.position(*index).states.as_ref();
            Ok(states.ok_or_else(|| RoomError::NoState(self.graph.event_id(*index)))?.after.clone())
        };
        events.iter().map(state_after).collect()
    }

    fn redactions_after<'e>(&self, events: impl IntoIterator<Item = &'e EventIndex>) -> RedactionSet {
        RedactionSet::union(events.into_iter().map(|index| &self.position(*index).redactions))
    }

    fn may_redact_any(&self, event: &Event, index: EventIndex, before: &Before) -> bool {
        if !matches!(event.content, Content::Redaction(_)) {
            return false;
        }
        let view = EventsView::new(&self.graph, &self.redactions, &before.redactions);
        let Some(create) = self.graph.create() else { return false };
        let power_levels = before.state.get(&self.graph, KeyIndex::POWER_LEVELS).map(|index| view.event(index));
        can_redact_any(view.event(create), power_levels, self.graph.event(index).sender())
    }

    fn prev_events_of(&self, event: &Event) -> Result<Box<[EventIndex]>, RoomError> {
        event.prev_events.iter().map(|event_id| self.known(event, event_id)).collect()
    }

    fn known(&self, event: &Event, cited: &EventId) -> Result<EventIndex, RoomError> {
        let missing = || RoomError::OutOfOrder { event_id: event.event_id.clone(), missing: cited.clone() };
        self.graph.index_of(cited).ok_or_else(missing)
    }

    /// Every event of the graph gets its position when it is inserted.
    fn position(&self, index: EventIndex) -> &Position {
        self.positions.at(index.as_usize())
    }
}

/// What an event builds on.
struct Before {
    prev_events: Box<[EventIndex]>,
    redactions: RedactionSet,
    state: StateMap,
    /// The state had to be resolved from different ones.
    resolved: bool,
    /// The prev events are the forward extremities.
    builds_on_all: bool,
    /// Events of a state that another server gave, sorted.
    given_state: Option<Vec<EventIndex>>,
}

/// Where an event stands in the room, as far as that does not depend on its verdict.
struct Standing {
    prev_events: Box<[EventIndex]>,
    /// Those before it.
    redactions: RedactionSet,
    states: Option<States>,
    may_redact_any: bool,
    /// `None` for an outlier.
    arrival: Option<Arrival>,
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

#[cfg(test)]
mod tests;
