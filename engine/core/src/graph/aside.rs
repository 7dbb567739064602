//! Messages that were put aside: a store has them, and who asks for one is noted.
//!
//! State and its auth chain stay. What a message has beside its id, sender and time is nothing that rules read.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{EventGraph, EventIndex, auth_edges::AuthEdges};
use crate::{event::Event, id::EventId};

/// Events that were asked for and are not in memory: they were put aside, or are not known at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missed {
    /// By their ids.
    pub event_ids: BTreeSet<EventId>,
    /// By their numbers, which are those of events.
    pub numbers: BTreeSet<EventIndex>,
}

impl Missed {
    /// Whether nothing was missed.
    pub fn is_empty(&self) -> bool {
        self.event_ids.is_empty() && self.numbers.is_empty()
    }
}

/// What a graph knows of the events that were put aside.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// How many there are.
    count: usize,
    missed: Mutex<Missed>,
}

impl Aside {
    fn missed(&self) -> MutexGuard<'_, Missed> {
        // Noting can't panic half-way, so a poisoned lock guards what it should.
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn note_id(&self, event_id: &EventId) {
        if self.count > 0 {
            self.missed().event_ids.insert(event_id.clone());
        }
    }

    pub(super) fn note_number(&self, index: EventIndex) {
        if self.count > 0 {
            self.missed().numbers.insert(index);
        }
    }
}

impl EventGraph {
    /// Returns how many events were put aside.
    pub fn aside(&self) -> usize {
        self.aside.count
    }

    /// Lets `look` have what was asked for and is not in memory, noted until it is taken out there. Nothing, if no event was put aside.
    pub fn missed<T>(&self, look: impl FnOnce(&mut Missed) -> T) -> T {
        look(&mut self.aside.missed())
    }

    /// Notes that an event was asked for and is not in memory.
    pub(crate) fn note_missed(&self, index: EventIndex) {
        self.aside.note_number(index);
    }

    /// Whether an event was put aside.
    pub fn is_aside(&self, index: EventIndex) -> bool {
        self.aside.count > 0 && index.as_usize() < self.len() && self.facts.get(index.as_usize()).is_none()
    }

    /// Puts messages aside, by their numbers, which are sorted.
    pub(crate) fn put_aside(&mut self, places: &[usize]) {
        self.ids.take_out(places);
        self.facts.take_out(places);
        self.depths.take_out(places);
        self.aside.count += places.len();
        let mut left = AuthEdges::default();
        for facts in self.facts.values_mut().chain(self.redacted.values_mut()) {
            let auth_events = self.auth_edges.get(facts.auth_events());
            if let Some(span) = left.store(auth_events) {
                facts.auth_start = span.start;
            }
        }
        self.auth_edges = left;
    }

    /// Puts a message back that was put aside; `None` if it can't be one, or there is no room for it.
    pub(crate) fn put_back(&mut self, index: EventIndex, event: &Event, auth_events: &[EventIndex]) -> Option<()> {
        let mut facts = self.facts_citing(event, auth_events, None).filter(|facts| facts.key.is_none())?;
        facts.power_levels = self.cited_power_levels(auth_events);
        self.ids.put_back(index, &event.event_id)?;
        self.facts.put_back(index.as_usize(), facts);
        self.depths.put_back(index.as_usize(), event.depth);
        self.aside.count = self.aside.count.saturating_sub(1);
        Some(())
    }
}
