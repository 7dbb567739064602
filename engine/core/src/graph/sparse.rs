//! What is in memory of a room that is mostly in a store.
//!
//! Whoever asks for an event or a snapshot node that is not there gets nothing, and the asking is noted: a computation runs to
//! its end on what there is, what it missed is loaded, and it runs again, until it missed nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use super::EventIndex;
use crate::state::{NodeIndex, NodeRecord};

/// What a computation asked for that was not in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Events, by their numbers.
    pub events: BTreeSet<EventIndex>,
    /// Snapshot nodes, by theirs.
    pub nodes: BTreeSet<NodeIndex>,
    /// Those of the events that a jump along power levels asked for: what they cite is not asked for next.
    pub(crate) jumped_to: BTreeSet<EventIndex>,
}

impl Missing {
    /// Whether nothing was missing.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.nodes.is_empty()
    }
}

/// The events and nodes that are in memory.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    events: BTreeMap<EventIndex, SparseEvent>,
    nodes: BTreeMap<NodeIndex, NodeRecord>,
    missing: Mutex<Missing>,
}

#[derive(Debug)]
struct SparseEvent {
    /// Where its facts are.
    place: usize,
    /// How many snapshot nodes there were before it.
    nodes_before: u32,
}

impl Sparse {
    pub(super) fn add_event(&mut self, index: EventIndex, place: usize, nodes_before: u32) {
        self.events.insert(index, SparseEvent { place, nodes_before });
    }

    pub(super) fn has_event(&self, index: EventIndex) -> bool {
        self.events.contains_key(&index)
    }

    pub(super) fn add_node(&mut self, number: NodeIndex, node: NodeRecord) {
        self.nodes.insert(number, node);
    }

    /// Returns where an event's facts are; notes that they are missing if they are.
    pub(super) fn place(&self, index: EventIndex) -> Option<usize> {
        let found = self.events.get(&index).map(|event| event.place);
        if found.is_none() {
            self.note(|missing| missing.events.insert(index));
        }
        found
    }

    /// Notes, where a jump leads to an event that is not in memory, that it is missing.
    pub(super) fn jump_to(&self, index: EventIndex) {
        if !self.has_event(index) {
            self.note(|missing| missing.jumped_to.insert(index) | missing.events.insert(index));
        }
    }

    /// Returns how many snapshot nodes there were before an event, none if it is not in memory.
    pub(super) fn nodes_before(&self, index: EventIndex) -> u32 {
        self.events.get(&index).map_or(0, |event| event.nodes_before)
    }

    /// Returns a node; notes that it is missing if it is.
    pub(super) fn node(&self, number: NodeIndex) -> Option<&NodeRecord> {
        let found = self.nodes.get(&number);
        if found.is_none() {
            self.note(|missing| missing.nodes.insert(number));
        }
        found
    }

    /// Returns what was missing since this was called last.
    pub(super) fn take_missing(&self) -> Missing {
        std::mem::take(&mut *self.missing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether something was missing since that was taken last.
    pub(super) fn is_missing_some(&self) -> bool {
        !self.missing.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn note(&self, note: impl FnOnce(&mut Missing) -> bool) {
        // Noting can't panic half-way, so a poisoned lock guards what it should.
        note(&mut self.missing.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
