//! Where an event stands whose parents are not all here: what other servers have to be asked for.
//!
//! A server that joins a room has none of its history. It is given the state before its join and the auth chains of that: events
//! that are judged by their auth events alone and have no place in the DAG here, *outliers*. An event that builds on what is not
//! here is judged by a state before it that another server gave.

use super::{
    Before, Check, Effect, Judged, Outcome, PersistEvent, Receipt, RecordedReason, Room, RoomError, Verdict,
    admit::Standing,
    purged::Source,
    redactions::{EventsView, RedactionSet},
};
use crate::{
    graph::{EventIndex, KeyIndex},
    id::EventId,
    pdu::VerifiedPdu,
    resolve::Silent,
    state::StateMap,
};

/// How an event comes into a room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arrival {
    /// It was just made, here or elsewhere: it is checked against the current state, and becomes a forward extremity.
    #[default]
    New,
    /// This server enters the room by it, and what it knew of the room is out of date: the event becomes the only forward extremity,
    /// and is not checked against the current state.
    Entry,
    /// It is of the room's past, and was asked for: it is not checked against the current state, and changes neither that nor the
    /// forward extremities.
    History,
    /// The room has a policy server, which has not signed it: whether it is new or of the past, it is soft-failed, unless it is
    /// rejected.
    Unsigned,
}

/// What of an event's place in the DAG is known here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing: it is of a state or an auth chain.
    Outlier,
    /// Its prev events, or those that there are and a state in place of the others.
    Placed {
        /// How it came.
        arrival: Arrival,
        /// The state before it that another server gave, by the numbers of its events, sorted.
        given_state: Option<Vec<EventIndex>>,
        /// It was an outlier before.
        was_outlier: bool,
    },
}

impl Room {
    /// Takes in an event of a state or an auth chain that another server gave. It is judged by its auth events (check 4), and has no
    /// states: what builds on it has to be [given one](Self::handle).
    ///
    /// Handed in again by another function, it gets a place in the DAG.
    ///
    /// # Errors
    ///
    /// Only if an invariant is broken. Drop the room then and restore it from the log.
    pub fn handle_outlier(&mut self, pdu: &VerifiedPdu) -> Result<Receipt, RoomError> {
        let event = pdu.event();
        if let Some(receipt) = self.receipt_of_known(event) {
            return Ok(receipt);
        }
        let missing = self.unknown(&event.auth_events);
        if !missing.is_empty() {
            return Ok(Receipt::NeedEvents(missing));
        }
        let index = self.number(event)?;
        let verdict = self.judge_outlier(pdu, index);
        let (outcome, reason) = verdict.record(self.rules().version);
        let persist = self.admit_outlier(&Source::Pdu(pdu), index, outcome, reason)?;
        Ok(Receipt::Judged(Box::new(Judged {
            event: event.clone(),
            verdict,
            state_before: StateMap::new(),
            state_after: StateMap::new(),
            resolved: false,
            place: Place::Outlier,
            effects: vec![Effect::Persist(Box::new(persist))],
        })))
    }

    /// Whether the event is known, and its place in the DAG is not.
    pub fn is_outlier(&self, event_id: &EventId) -> bool {
        self.graph.index_of(event_id).is_some_and(|index| self.position(index).is_outlier)
    }

    /// Whether the event is known, and so is its place in the DAG.
    pub fn has_place(&self, event_id: &EventId) -> bool {
        self.graph.index_of(event_id).is_some_and(|index| !self.position(index).is_outlier)
    }

    /// Returns the events of a given state that can be part of one, sorted; of several for one key the newest.
    pub(super) fn usable_state(&self, state: impl IntoIterator<Item = EventIndex>) -> Vec<EventIndex> {
        let is_usable = |index: &EventIndex| self.graph.key(*index).is_some() && !self.graph.is_rejected(*index);
        let mut usable: Vec<(KeyIndex, EventIndex)> =
            state.into_iter().filter(is_usable).filter_map(|index| Some((self.graph.key(index)?, index))).collect();
        usable.sort_unstable();
        // Whoever gave the state gave two answers for one key: any of them will do, as long as it is always the same.
        let mut one_for_each: Vec<EventIndex> =
            usable.chunk_by(|(a, _), (b, _)| a == b).filter_map(|same| same.last()).map(|(_, index)| *index).collect();
        one_for_each.sort_unstable();
        one_for_each
    }

    /// Returns what comes before an event of which not all prev events are known.
    pub(super) fn before_in_state(&self, prev_events: Box<[EventIndex]>, given_state: Vec<EventIndex>) -> Before {
        let given = StateMap::of_events(&self.graph, given_state.iter().copied());
        let known = prev_events.iter().filter_map(|prev| Some(self.position(*prev).states.as_ref()?.after.clone()));
        let states: Vec<StateMap> = std::iter::once(given).chain(known).collect();
        let resolved = states.windows(2).any(|pair| matches!(pair, [a, b] if !a.is_same(b)));
        let state = self.resolve(&states, &mut Silent);
        let redactions = self.redactions_after(&prev_events);
        Before { prev_events, redactions, state, resolved, builds_on_all: false, given_state: Some(given_state) }
    }

    /// Returns the events of these that are not known, sorted, each once.
    pub(super) fn unknown<'e>(&self, event_ids: impl IntoIterator<Item = &'e EventId>) -> Vec<EventId> {
        let mut unknown: Vec<EventId> =
            event_ids.into_iter().filter(|id| self.graph.index_of(id).is_none()).cloned().collect();
        unknown.sort_unstable();
        unknown.dedup();
        unknown
    }

    /// Makes an outlier part of the room.
    pub(super) fn admit_outlier(
        &mut self,
        source: &Source<'_>,
        index: EventIndex,
        outcome: Outcome,
        reason: Option<RecordedReason>,
    ) -> Result<PersistEvent, RoomError> {
        let standing = Standing {
            prev_events: Box::default(),
            redactions: RedactionSet::default(),
            states: None,
            may_redact_any: false,
            arrival: None,
        };
        self.insert(source, index, standing, outcome, reason.clone())?;
        Ok(self.to_persist(source, index, Place::Outlier, outcome, reason))
    }

    fn judge_outlier(&self, pdu: &VerifiedPdu, index: EventIndex) -> Verdict {
        let redactions = RedactionSet::default();
        let view = EventsView::new(&self.graph, &self.redactions, &redactions);
        match self.check_auth_events(view, pdu, index) {
            Ok(()) => Verdict::Accepted,
            Err(refusal) => Verdict::Rejected { check: Check::AuthEvents, refusal },
        }
    }
}
