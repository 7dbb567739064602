//! The auth difference and the conflicted state subgraph.

use hashbrown::{HashMap, HashSet};

use super::{EventSet, conflict::Conflict, index_hash::IndexHashes};
use crate::graph::{EventGraph, EventIndex, KeyIndex};

/// Returns the auth difference, without the events of the conflicted state set itself.
///
/// "Calculating the full auth chain for each state S_i, that is the union of the auth chains for each event in S_i, and then
/// taking every event that doesn't appear in every auth chain." Source: room version 2, "Definitions".
///
/// The text's auth chain of an event does not contain the event. Deployed servers take the chains of a state INCLUSIVE of the
/// state's own events, and with the other reading recorded rooms come out differently; so here the chain of a state includes
/// its events. (Synapse's `get_auth_chain_difference` starts its walk from the state's events themselves.)
///
/// An event that the states' common part cites is in every chain, so walking from the conflicted events alone finds candidates,
/// and only if there are any, the common part is looked at too.
pub(super) fn auth_difference(graph: &EventGraph, conflict: &Conflict<'_>, conflicted: &EventSet) -> EventSet {
    let mut candidates = chains_of_some(graph, conflict);
    candidates.retain(|index| !conflicted.contains(*index));
    let mut difference: EventSet = candidates.into_iter().collect();
    exclude_chain_of_common_state(graph, conflict, &mut difference);
    difference
}

/// Returns the events that the conflicted events of some states lead to, but not those of all.
fn chains_of_some(graph: &EventGraph, conflict: &Conflict<'_>) -> Vec<EventIndex> {
    let full = StateSet::full(conflict.states());
    // Which states' chains hold an event. From the highest number down, every event is seen after all that cite it.
    let mut chains: HashMap<EventIndex, StateSet, IndexHashes> = HashMap::default();
    let mut reached = EventSet::default();
    // How many of the reached events are not in all chains. When there are none, all that is left is in all.
    let mut partial = 0_usize;
    let reach = |reached: &mut EventSet, chains: &mut HashMap<_, StateSet, _>, index, by: &StateSet| {
        let new = reached.insert(index);
        let set = chains.entry(index).or_insert_with(|| StateSet::none(conflict.states()));
        let was_full = !new && *set == full;
        set.add_all(by);
        match (new, was_full, *set == full) {
            (true, _, false) => 1,
            (false, false, true) => -1,
            _ => 0_isize,
        }
    };
    for (_, values) in conflict.iter() {
        for (state, value) in values.iter().enumerate() {
            if let Some(index) = value {
                let by = StateSet::of(state, conflict.states());
                partial = partial.saturating_add_signed(reach(&mut reached, &mut chains, *index, &by));
            }
        }
    }
    let mut found = Vec::new();
    while partial > 0 {
        let Some(index) = reached.pop_last() else { break };
        let Some(by) = chains.remove(&index) else { continue };
        if by != full {
            partial -= 1;
            found.push(index);
        }
        for auth_event in graph.auth_events(index) {
            partial = partial.saturating_add_signed(reach(&mut reached, &mut chains, *auth_event, &by));
        }
    }
    found
}

/// Removes from `candidates` what the unconflicted state map's events or their auth chains contain.
fn exclude_chain_of_common_state(graph: &EventGraph, conflict: &Conflict<'_>, candidates: &mut EventSet) {
    let Some(lowest) = candidates.first() else { return };
    // Older events can't lead to a candidate.
    let conflicted_keys: HashSet<KeyIndex, IndexHashes> = conflict.iter().map(|(key, _)| key).collect();
    let common = conflict.base().entries_since(lowest).filter(|(key, _)| !conflicted_keys.contains(key));
    let mut pending: EventSet = common.map(|(_, event)| event).collect();
    while let Some(index) = pending.pop_last() {
        candidates.remove(index);
        pending.extend(graph.auth_events(index).iter().copied().filter(|index| *index >= lowest));
    }
}

/// Returns the *conflicted state subgraph*: every event on a path of auth edges between two events of the conflicted state set,
/// these included. Source: room version 12, "Definitions".
pub(super) fn conflicted_state_subgraph(graph: &EventGraph, conflicted: &EventSet) -> EventSet {
    let Some(lowest) = conflicted.first() else { return EventSet::default() };
    // Down: all that conflicted events lead to, but not below the lowest of them.
    let mut below = Vec::new();
    let mut pending = conflicted.clone();
    while let Some(index) = pending.pop_last() {
        below.push(index);
        pending.extend(graph.auth_events(index).iter().copied().filter(|index| *index >= lowest));
    }
    // Up: of these, all that lead to a conflicted event.
    let mut subgraph = EventSet::default();
    for index in below.into_iter().rev() {
        let leads_to_one = || graph.auth_events(index).iter().any(|auth_event| subgraph.contains(*auth_event));
        if conflicted.contains(index) || leads_to_one() {
            subgraph.insert(index);
        }
    }
    subgraph
}

/// A set of the states that are resolved, by their place in the list.
#[derive(Clone, PartialEq, Eq)]
struct StateSet(smallvec::SmallVec<[u64; 1]>);

impl StateSet {
    fn none(states: usize) -> Self {
        Self(smallvec::smallvec![0; states.div_ceil(64)])
    }

    fn of(state: usize, states: usize) -> Self {
        let mut set = Self::none(states);
        if let Some(word) = set.0.get_mut(state / 64) {
            *word |= 1 << (state % 64);
        }
        set
    }

    fn full(states: usize) -> Self {
        let mut set = Self::none(states);
        for state in 0..states {
            set.add_all(&Self::of(state, states));
        }
        set
    }

    fn add_all(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }
}
