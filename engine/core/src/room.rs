//! The room reducer: one event in, its verdict, the new snapshot, the new forward extremities and the effects out.
//!
//! A [`Room`] is a function of the events handed to it, in their order. The state before and after an event depends on the DAG
//! alone; whether an event is soft-failed, the forward extremities and the current state depend on the order of arrival too,
//! which is why the log keeps it.

mod admit;
mod aside;
mod batch;
mod compose;
mod explain;
mod held_events;
mod judge;
mod place;
mod purged;
mod redactions;
mod restore;
mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    aside::Runs,
    purged::Source,
    redactions::{RedactionSet, Redactions},
};
use sha2::{Digest, Sha256};

pub use self::{
    admit::PersistEvent,
    compose::{NewEvent, compose_create},
    explain::Explanation,
    place::{Arrival, Place},
    purged::{PurgedEvent, Remains},
    restore::StoredPosition,
    verdict::{Check, Outcome, RecordedReason, Verdict},
};
use crate::{
    event::{Event, StateKey},
    graph::{Arena, Column, EventGraph, EventIndex, GraphError, Span},
    id::{EventId, RoomId},
    pdu::{PduError, VerifiedPdu},
    resolve::{Recorder, Silent, resolve},
    room_version::RoomVersionRules,
    state::{Fingerprint, NodeNumbers, State, StateMap, conflicts},
};

/// A room as far as its events are known here.
#[derive(Debug)]
pub struct Room {
    room_id: RoomId,
    graph: EventGraph,
    /// By [`EventIndex`].
    positions: Column<Position>,
    /// What [`Position::prev_events`] points into.
    prev_edges: Arena<EventIndex>,
    /// Why events were not accepted.
    reasons: BTreeMap<EventIndex, RecordedReason>,
    redactions: Redactions,
    /// The accepted events that no accepted event builds on (see [`Position::is_built_on`]).
    forward_extremities: BTreeSet<EventIndex>,
    current_state: StateMap,
    node_numbers: NodeNumbers,
    /// How often history of the room was purged.
    purges: u32,
    aside: Runs,
    /// That of events that are not in memory.
    absent: Position,
}

/// What is known of an event's place in the room. Most are those of messages, so what few have lies apart.
#[derive(Debug)]
struct Position {
    /// `None` for most messages, which are made of the room's numbers when they are asked for.
    event: Option<Arc<Event>>,
    depth: i64,
    /// Those that were known when it came.
    prev_events: Span,
    outcome: Outcome,
    /// `None` for outliers, and if they were purged. Invariant: forward extremities have them.
    states: Option<Arc<States>>,
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

impl Position {
    /// That of an event that is not in memory.
    fn absent() -> Self {
        Self {
            event: None,
            depth: 0,
            prev_events: Span::default(),
            outcome: Outcome::Accepted,
            states: None,
            is_skeleton: false,
            is_outlier: false,
            redactions: RedactionSet::default(),
            may_redact_any: false,
            is_built_on: false,
        }
    }
}

/// The states around an event; messages that follow each other have theirs in common.
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
    /// What a store has in place of an event that was put aside can't be that.
    #[error("{0} is to be put back, and was not put aside")]
    NotAside(EventId),
}

impl Room {
    /// Returns a room without events.
    pub fn new(room_id: RoomId, rules: &'static RoomVersionRules) -> Self {
        Self {
            room_id,
            graph: EventGraph::new(rules),
            positions: Column::default(),
            prev_edges: Arena::default(),
            reasons: BTreeMap::new(),
            redactions: Redactions::default(),
            forward_extremities: BTreeSet::new(),
            current_state: StateMap::new(),
            node_numbers: NodeNumbers::default(),
            purges: 0,
            aside: Runs::default(),
            absent: Position::absent(),
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
        let (state_before, state_after) = (states.before.clone(), states.after.clone());
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
        self.reasons.get(&self.graph.index_of(event_id)?)
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
    /// if it was not purged, and at last the current state: equal only for rooms with the same history. Events that were put aside are left
    /// out. O(n) for n events.
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

    /// Returns those of an event's prev events that are here.
    fn known_prev_events(&self, event: &Event) -> Box<[EventIndex]> {
        event.prev_events.iter().filter_map(|event_id| self.graph.index_of(event_id)).collect()
    }

    /// Returns those of an event's prev events that were known when it came.
    fn prev_events(&self, index: EventIndex) -> &[EventIndex] {
        self.prev_edges.get(self.position(index).prev_events)
    }

    /// Returns the states around an event: those of one of its prev events, if they are the very same.
    fn states_around(&self, prev_events: &[EventIndex], before: &StateMap, after: &StateMap) -> Arc<States> {
        let mut near = prev_events.iter().filter_map(|prev| self.position(*prev).states.as_ref());
        let same = near.find(|states| states.before.is_one(before) && states.after.is_one(after));
        same.cloned().unwrap_or_else(|| Arc::new(States { before: before.clone(), after: after.clone() }))
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

    /// Gives an event its number. It counts as rejected until it is judged.
    fn number(&mut self, event: &Event) -> Result<EventIndex, RoomError> {
        let auth_events = event.auth_events.iter().map(|event_id| self.known(event, event_id));
        let auth_events: Vec<EventIndex> = auth_events.collect::<Result<_, _>>()?;
        Ok(self.graph.insert_citing(event, &auth_events).ok_or(GraphError::Full)?)
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

    fn prev_events_of(&self, event: &Event) -> Result<Box<[EventIndex]>, RoomError> {
        event.prev_events.iter().map(|event_id| self.known(event, event_id)).collect()
    }

    fn known(&self, event: &Event, cited: &EventId) -> Result<EventIndex, RoomError> {
        let missing = || RoomError::OutOfOrder { event_id: event.event_id.clone(), missing: cited.clone() };
        self.graph.index_of(cited).ok_or_else(missing)
    }

    /// Every event of the graph gets its position when it is inserted; of one that was put aside there is none, which is noted.
    fn position(&self, index: EventIndex) -> &Position {
        self.positions.get(index.as_usize()).unwrap_or_else(|| {
            self.graph.note_missed(index);
            &self.absent
        })
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

#[cfg(test)]
mod tests;
