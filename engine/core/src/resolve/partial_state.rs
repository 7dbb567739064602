//! A state while it is being resolved.

use super::{conflict::Conflict, number_map::NumberMap};
use crate::{
    graph::{EventGraph, EventIndex, KeyIndex},
    state::StateMap,
};

/// A partially resolved state: edits over the unconflicted state map, or over nothing.
pub(super) struct PartialState<'a> {
    graph: &'a EventGraph,
    /// Holds the unconflicted state map for the keys outside of the conflict.
    base: &'a StateMap,
    starts_from_unconflicted: bool,
    held: NumberMap<Held>,
    conflicted_keys: &'a [KeyIndex],
    /// Keys that are not in conflict, but were set.
    overlaid_keys: Vec<KeyIndex>,
}

#[derive(Clone, Copy, Default)]
enum Held {
    /// Not in conflict, and not looked up yet.
    #[default]
    Unknown,
    /// In conflict, and held by the event that was allowed last, if any was.
    Resolved(Option<EventIndex>),
    /// Not in conflict, but held for now by an event of the auth difference that was allowed.
    Overlaid(EventIndex),
    /// As in the unconflicted state map.
    Unconflicted(Option<EventIndex>),
}

impl<'a> PartialState<'a> {
    pub(super) fn new(graph: &'a EventGraph, conflict: &'a Conflict<'_>, starts_from_unconflicted: bool) -> Self {
        let conflicted_keys = conflict.keys();
        let mut held = NumberMap::around(conflicted_keys.iter().map(|key| key.as_usize()));
        for key in conflicted_keys {
            *held.entry(key.as_usize()) = Held::Resolved(None);
        }
        let overlaid_keys = Vec::new();
        Self { graph, base: conflict.base(), starts_from_unconflicted, held, conflicted_keys, overlaid_keys }
    }

    pub(super) fn get(&mut self, key: KeyIndex) -> Option<EventIndex> {
        match self.held.get(key.as_usize()) {
            Held::Resolved(held) | Held::Unconflicted(held) => held,
            Held::Overlaid(index) => Some(index),
            Held::Unknown if self.starts_from_unconflicted => {
                let held = self.base.get(self.graph, key);
                *self.held.entry(key.as_usize()) = Held::Unconflicted(held);
                held
            }
            Held::Unknown => None,
        }
    }

    pub(super) fn set(&mut self, key: KeyIndex, index: EventIndex) {
        let held = self.held.entry(key.as_usize());
        *held = match held {
            Held::Resolved(_) => Held::Resolved(Some(index)),
            Held::Overlaid(_) => Held::Overlaid(index),
            Held::Unknown | Held::Unconflicted(_) => {
                self.overlaid_keys.push(key);
                Held::Overlaid(index)
            }
        };
    }

    /// Returns what the base has to be edited by: every conflicted key, and keys that no state has. A key of the unconflicted state
    /// map keeps its event.
    pub(super) fn into_edits(mut self) -> Vec<(KeyIndex, Option<EventIndex>)> {
        let overlaid = std::mem::take(&mut self.overlaid_keys);
        let missing = overlaid.into_iter().filter(|key| self.base.get(self.graph, *key).is_none());
        let keys: Vec<KeyIndex> = self.conflicted_keys.iter().copied().chain(missing).collect();
        keys.into_iter().map(|key| (key, self.get(key))).collect()
    }
}
