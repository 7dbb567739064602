//! Events whose content is gone: what is left of them, and how they are part of a room all the same.
//!
//! What is purged is the JSON of events and the states around them; ids, edges, verdicts and what rules read stay. So the graph, the
//! auth chains and later states come out as they were, and only what builds directly on purged history can't be judged any more.

use std::sync::Arc;

use super::{Arrival, Outcome, RecordedReason, Room, RoomError, StoredPosition, redactions};
use crate::{
    event::{Content, Event},
    graph::{EventIndex, GraphError},
    id::EventId,
    pdu::{PduError, VerifiedPdu},
    room::PersistEvent,
};

/// What is left of an event once it is purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurgedEvent {
    /// The fields that rules read. Its own lists of events are not looked at.
    pub event: Arc<Event>,
    /// Its prev events, in its order.
    pub prev_events: Vec<EventIndex>,
    /// Its auth events, in its order.
    pub auth_events: Vec<EventIndex>,
    /// What rules read of its content once it is redacted, if that differs.
    pub redacted: Option<Content>,
    /// How it came.
    pub arrival: Arrival,
}

impl PurgedEvent {
    /// Returns what is left of an event that was judged. The numbers are those of its prev and auth events.
    ///
    /// # Errors
    ///
    /// None for an event that was parsed; the type system cannot know.
    pub fn of(
        pdu: &VerifiedPdu,
        outcome: Outcome,
        arrival: Arrival,
        prev_events: Vec<EventIndex>,
        auth_events: Vec<EventIndex>,
    ) -> Result<Self, PduError> {
        // What a rejected event is once redacted is never asked for.
        let redacted = if outcome == Outcome::Rejected {
            None
        } else {
            redactions::redacted_facts(pdu)?.map(|event| event.content)
        };
        let event = Event { prev_events: Box::default(), auth_events: Box::default(), ..Event::clone(pdu.event()) };
        Ok(Self { event: Arc::new(event), prev_events, auth_events, redacted, arrival })
    }
}

/// What is there of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remains {
    /// Its id, edges, verdict and what rules read of it.
    Skeleton,
    /// Its content too; the states around it were purged.
    Content,
    /// All of it.
    Everything,
}

impl Room {
    /// Returns what is there of an event; `None` if it is not known.
    pub fn remains(&self, event_id: &EventId) -> Option<Remains> {
        let position = self.position(self.graph.index_of(event_id)?);
        Some(match (&position.states, position.is_skeleton) {
            (_, true) => Remains::Skeleton,
            (None, false) => Remains::Content,
            (Some(_), false) => Remains::Everything,
        })
    }

    /// Returns how often history of the room was purged.
    pub fn purges(&self) -> u32 {
        self.purges
    }

    /// Takes note that history of the room was purged.
    pub fn note_purge(&mut self) {
        self.purges = self.purges.saturating_add(1);
    }

    /// Makes a purged event part of the room once more, with its verdict of that day, when the log is replayed from its beginning.
    ///
    /// States, numbers and extremities come out as they did when it was judged. Costs what judging costs but for the rules.
    ///
    /// # Errors
    ///
    /// When the event is there already, or what it builds on is not.
    pub fn replay_purged(
        &mut self,
        purged: &PurgedEvent,
        outcome: Outcome,
        reason: Option<RecordedReason>,
    ) -> Result<PersistEvent, RoomError> {
        let source = self.source_of(purged)?;
        let event = source.event();
        if self.graph.index_of(&event.event_id).is_some() {
            return Err(GraphError::Duplicate(event.event_id.clone()).into());
        }
        let before = self.before(self.prev_events_of(event)?)?;
        let index = self.number(event)?;
        let (_, persist) = self.admit(&source, index, before, purged.arrival, outcome, reason)?;
        Ok(persist)
    }

    /// Puts a purged event back that the log has, as [`restore_event`](Self::restore_event) does others.
    ///
    /// # Errors
    ///
    /// When the log has it before those it builds on.
    pub fn restore_purged(&mut self, purged: &PurgedEvent, position: StoredPosition) -> Result<(), RoomError> {
        let source = self.source_of(purged)?;
        self.restore(&source, position)
    }

    fn source_of<'p>(&self, purged: &'p PurgedEvent) -> Result<Source<'p>, RoomError> {
        let event = &purged.event;
        let ids = |numbers: &[EventIndex]| -> Result<Box<[EventId]>, RoomError> {
            let known = |number: &EventIndex| {
                let missing = || RoomError::UnknownNumber { event_id: event.event_id.clone(), missing: *number };
                if number.as_usize() < self.len() { Ok(self.graph.event_id(*number)) } else { Err(missing()) }
            };
            numbers.iter().map(known).collect()
        };
        let (prev_events, auth_events) = (ids(&purged.prev_events)?, ids(&purged.auth_events)?);
        let event = Arc::new(Event { prev_events, auth_events, ..Event::clone(event) });
        Ok(Source::Skeleton(event, purged.redacted.as_ref()))
    }
}

/// What an event is known from.
pub(super) enum Source<'a> {
    Pdu(&'a VerifiedPdu),
    /// The fields that rules read, and what they read of the content once it is redacted, if that differs.
    Skeleton(Arc<Event>, Option<&'a Content>),
}

impl Source<'_> {
    pub(super) fn event(&self) -> &Arc<Event> {
        match self {
            Self::Pdu(pdu) => pdu.event(),
            Self::Skeleton(event, _) => event,
        }
    }

    pub(super) fn pdu(&self) -> Option<&VerifiedPdu> {
        match self {
            Self::Pdu(pdu) => Some(pdu),
            Self::Skeleton(..) => None,
        }
    }

    pub(super) fn redacted_facts(&self) -> Result<Option<Event>, PduError> {
        match self {
            Self::Pdu(pdu) => redactions::redacted_facts(pdu),
            Self::Skeleton(event, redacted) => {
                Ok(redacted.map(|content| Event { content: content.clone(), ..Event::clone(event) }))
            }
        }
    }
}
