//! The unconflicted state map and the conflicted state set.

use super::{EventSet, Recorder, Step, steps};
use crate::{
    graph::{EventGraph, EventIndex, KeyIndex},
    state::{StateMap, conflicts},
    work::count,
};

/// What several states differ in.
///
/// "If a given key K is present in every S_i with the same value V in each state map, then the pair (K, V) belongs to the
/// unconflicted state map. Otherwise, V belongs to the conflicted state set." Source: room version 2, "Definitions".
pub(super) struct Conflict<'a> {
    states: &'a [&'a StateMap],
    /// The conflicted keys.
    keys: Vec<KeyIndex>,
    /// What the states hold there: for each key one for each state, in their order.
    values: Vec<Option<EventIndex>>,
}

impl<'a> Conflict<'a> {
    /// Compares the states, at the cost of what differs.
    pub(super) fn between(graph: &EventGraph, states: &'a [&'a StateMap]) -> Self {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        conflicts(graph, states, &mut |key, held| {
            count(held.len());
            keys.push(key);
            values.extend_from_slice(held);
        });
        Self { states, keys, values }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns how many states there are.
    pub(super) fn states(&self) -> usize {
        self.states.len()
    }

    /// Returns one of the states. It holds the unconflicted state map, and its own values for the conflicted keys.
    #[allow(clippy::indexing_slicing, reason = "states that differ are at least two")]
    pub(super) fn base(&self) -> &'a StateMap {
        self.states[0]
    }

    /// Returns the conflicted keys, in the order of the tree of [`base`](Self::base).
    pub(super) fn keys(&self) -> &[KeyIndex] {
        &self.keys
    }

    /// Returns the conflicted keys, each with what the states hold there.
    pub(super) fn iter(&self) -> impl Iterator<Item = (KeyIndex, &[Option<EventIndex>])> {
        self.keys.iter().copied().zip(self.values.chunks(self.states.len()))
    }

    /// Keeps only some of the keys.
    pub(super) fn retain(&mut self, mut wanted: impl FnMut(KeyIndex, &[Option<EventIndex>]) -> bool) {
        let kept: Vec<_> = self.iter().filter(|(key, values)| wanted(*key, values)).collect();
        let (keys, values): (Vec<_>, Vec<_>) = kept.into_iter().unzip();
        let values = values.concat();
        (self.keys, self.values) = (keys, values);
    }

    /// Returns the conflicted state set.
    pub(super) fn events(&self) -> EventSet {
        self.values.iter().flatten().copied().collect()
    }

    pub(super) fn record(&self, graph: &EventGraph, recorder: &mut impl Recorder) {
        recorder.record_all(|| {
            let mut conflicts: Vec<_> = self.iter().map(|(key, values)| (graph.state_key(key), values)).collect();
            conflicts.sort_unstable();
            let steps = conflicts.into_iter().map(|(key, values)| Step::Conflict {
                key,
                candidates: steps::ids(graph, &values.iter().flatten().copied().collect()),
                absent_from_some: values.contains(&None),
            });
            steps.collect()
        });
    }
}
