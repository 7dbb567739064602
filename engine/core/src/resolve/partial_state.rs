//! A state while it is being resolved.

use hashbrown::HashMap;

use super::{conflict::Conflict, index_hash::IndexHashes};
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
    held: HashMap<KeyIndex, Held, IndexHashes>,
}

#[derive(Clone, Copy)]
enum Held {
    /// In conflict, and nothing holds it yet.
    Nothing,
    /// In conflict, and held by an event that was allowed.
    Resolved(EventIndex),
    /// Not in conflict, but held for now by an event of the auth difference that was allowed.
    Overlaid(EventIndex),
    /// As in the unconflicted state map.
    Unconflicted(Option<EventIndex>),
}

impl<'a> PartialState<'a> {
    pub(super) fn new(graph: &'a EventGraph, conflict: &Conflict<'a>, starts_from_unconflicted: bool) -> Self {
        let held = conflict.iter().map(|(key, _)| (key, Held::Nothing)).collect();
        Self { graph, base: conflict.base(), starts_from_unconflicted, held }
    }

    pub(super) fn get(&mut self, key: KeyIndex) -> Option<EventIndex> {
        match self.held.get(&key) {
            Some(Held::Nothing) => None,
            Some(Held::Resolved(index) | Held::Overlaid(index)) => Some(*index),
            Some(Held::Unconflicted(held)) => *held,
            None if self.starts_from_unconflicted => {
                let held = self.base.get(self.graph, key);
                self.held.insert(key, Held::Unconflicted(held));
                held
            }
            None => None,
        }
    }

    pub(super) fn set(&mut self, key: KeyIndex, index: EventIndex) {
        let in_conflict = matches!(self.held.get(&key), Some(Held::Nothing | Held::Resolved(_)));
        self.held.insert(key, if in_conflict { Held::Resolved(index) } else { Held::Overlaid(index) });
    }

    /// Returns what the base has to be edited by: every conflicted key, and keys that no state has. A key of the unconflicted state
    /// map keeps its event.
    pub(super) fn into_edits(self) -> Vec<(KeyIndex, Option<EventIndex>)> {
        let Self { graph, base, held, .. } = self;
        let edits = held.into_iter().filter_map(|(key, held)| match held {
            Held::Nothing => Some((key, None)),
            Held::Resolved(index) => Some((key, Some(index))),
            Held::Overlaid(index) => base.get(graph, key).is_none().then_some((key, Some(index))),
            Held::Unconflicted(_) => None,
        });
        edits.collect()
    }
}
