//! The auth difference and the conflicted state subgraph.

use super::{EventSet, conflict::Conflict, number_map::NumberMap};
use crate::{
    graph::{EventGraph, EventIndex},
    work::count,
};

/// Returns the auth difference, without the events of the conflicted state set itself.
///
/// "Calculating the full auth chain for each state S_i, that is the union of the auth chains for each event in S_i, and then
/// taking every event that doesn't appear in every auth chain." Source: room version 2, "Definitions".
///
/// The text's auth chain of an event does not contain the event. Deployed servers take the chains of a state INCLUSIVE of the
/// state's own events, and with the other reading recorded rooms come out differently; so here the chain of a state includes
/// its events. (Synapse's `get_auth_chain_difference` starts its walk from the state's events themselves.)
///
/// An event that the states' common part leads to is in every chain. So walking from the conflicted events alone finds candidates;
/// then it is asked where the common part leads to, first the entries that are most likely to lead to them.
pub(super) fn auth_difference(graph: &EventGraph, conflict: &Conflict<'_>, conflicted: &EventSet) -> EventSet {
    let mut candidates = chains_of_some(graph, conflict, conflicted);
    candidates.retain(|index| !conflicted.contains(*index));
    let mut difference: EventSet = candidates.into_iter().collect();
    exclude_chains_of_common_state(graph, conflict, &mut difference);
    difference
}

/// Returns the events that the conflicted events of some states lead to, but not those of all.
fn chains_of_some(graph: &EventGraph, conflict: &Conflict<'_>, conflicted: &EventSet) -> Vec<EventIndex> {
    // From the highest number down, every event is seen after all that cite it.
    let mut walk = Walk::new(conflict.states(), conflicted);
    for (_, values) in conflict.iter() {
        for (state, value) in values.iter().enumerate() {
            if let Some(index) = value {
                walk.reach_from_state(*index, state);
            }
        }
    }
    let mut found = Vec::new();
    // When no event that is left is in some chains only, all of them are in all.
    while walk.in_some_only > 0 {
        let Some(index) = walk.reached.pop_last() else { break };
        if walk.leave(index) {
            found.push(index);
        }
        for auth_event in graph.auth_events(index) {
            walk.reach(*auth_event);
        }
    }
    found
}

/// A walk down several auth chains at once.
struct Walk {
    reached: EventSet,
    /// Which states' chains hold an event: the place of its words in `chains`, from 1 on.
    places: NumberMap<u32>,
    /// A bit for each state, 64 in a word; as many words for each event as are needed for all states.
    chains: Vec<u64>,
    words: usize,
    /// The words of an event that all chains hold.
    full: Box<[u64]>,
    /// The words of the event whose auth events are being reached.
    by: Box<[u64]>,
    /// How many of the reached events are not in all chains.
    in_some_only: usize,
}

impl Walk {
    fn new(states: usize, conflicted: &EventSet) -> Self {
        let words = states.div_ceil(64);
        let bits_of = |word: usize| u64::MAX >> (64 - (states - word * 64).min(64));
        Self {
            reached: EventSet::default(),
            places: NumberMap::around(conflicted.iter().map(EventIndex::as_usize)),
            chains: Vec::new(),
            words,
            full: (0..words).map(bits_of).collect(),
            by: vec![0; words].into(),
            in_some_only: 0,
        }
    }

    fn reach_from_state(&mut self, index: EventIndex, state: usize) {
        count(self.words);
        self.by.fill(0);
        if let Some(word) = self.by.get_mut(state / 64) {
            *word = 1 << (state % 64);
        }
        self.reach(index);
    }

    /// Reaches an event by the chains of `by`.
    fn reach(&mut self, index: EventIndex) {
        count(self.words);
        let is_new = self.reached.insert(index);
        let place = self.places.entry(index.as_usize());
        if *place == 0 {
            self.chains.resize(self.chains.len() + self.words, 0);
            // One for each reached event, of which there are less than 2^32.
            *place = u32::try_from(self.chains.len() / self.words).unwrap_or(u32::MAX);
        }
        let start = (*place as usize - 1) * self.words;
        let Some(chains) = self.chains.get_mut(start..start + self.words) else { return };
        let was_full = !is_new && are_equal(chains, &self.full);
        chains.iter_mut().zip(&self.by).for_each(|(word, by)| *word |= by);
        match (is_new, was_full, are_equal(chains, &self.full)) {
            (true, _, false) => self.in_some_only += 1,
            (false, false, true) => self.in_some_only -= 1,
            _ => {}
        }
    }

    /// Makes the chains of an event those of `by`; returns whether they are not all.
    fn leave(&mut self, index: EventIndex) -> bool {
        let place = self.places.get(index.as_usize()) as usize;
        let start = place.saturating_sub(1) * self.words;
        if let Some(chains) = self.chains.get(start..start + self.words) {
            self.by.copy_from_slice(chains);
        }
        let in_some_only = !are_equal(&self.by, &self.full);
        self.in_some_only -= usize::from(in_some_only);
        in_some_only
    }
}

/// Compares words; mostly there is one, and comparing slices is a call.
fn are_equal(left: &[u64], right: &[u64]) -> bool {
    left.iter().zip(right).all(|(left, right)| left == right)
}

/// Removes from `candidates` what the unconflicted state map's events or their auth chains contain.
fn exclude_chains_of_common_state(graph: &EventGraph, conflict: &Conflict<'_>, candidates: &mut EventSet) {
    if candidates.first().is_none() {
        return;
    }
    let mut is_conflicted = NumberMap::around(conflict.keys().iter().map(|key| key.as_usize()));
    for key in conflict.keys() {
        *is_conflicted.entry(key.as_usize()) = true;
    }
    // Mostly a candidate is in the common state itself, as the sender's membership is that only one side cites, or what holds its
    // key there cites it.
    let keys = candidates.iter().filter_map(|index| graph.key(index));
    let unconflicted = keys.filter(|key| !is_conflicted.get(key.as_usize()));
    let holders = unconflicted.filter_map(|key| conflict.base().get(graph, key)).collect();
    exclude_chains(graph, holders, candidates);
    // Events that are not in memory may have been among them: all this will be done again with them.
    if graph.is_missing_some() {
        return;
    }
    let Some(lowest) = candidates.first() else { return };
    // Older events can't lead to a candidate.
    let common = conflict.base().entries_since(graph, lowest).filter(|(key, _)| !is_conflicted.get(key.as_usize()));
    exclude_chains(graph, common.map(|(_, event)| event).collect(), candidates);
}

/// Removes events and their auth chains from `candidates`. Goes down no further than to the lowest candidate that is left.
fn exclude_chains(graph: &EventGraph, events: EventSet, candidates: &mut EventSet) {
    let Some(lowest) = candidates.first() else { return };
    let mut pending = events;
    while let Some(index) = pending.pop_last().filter(|index| *index >= lowest) {
        candidates.remove(index);
        if index == lowest {
            // Those that are left are higher, and nothing that is still to come leads there.
            return;
        }
        pending.extend(graph.auth_events(index).iter().copied().filter(|index| *index >= lowest));
    }
}

/// Returns the *conflicted state subgraph*: every event on a path of auth edges between two events of the conflicted state set,
/// these included. Source: room version 12, "Definitions".
pub(super) fn conflicted_state_subgraph(graph: &EventGraph, conflicted: &EventSet) -> EventSet {
    let Some(lowest) = conflicted.first() else { return EventSet::default() };
    // Down: all that conflicted events lead to, but not below the lowest of them.
    let mut reached = conflicted.clone();
    let mut below = Vec::new();
    while let Some(index) = reached.pop_last() {
        below.push(index);
        for auth_event in graph.auth_events(index).iter().filter(|auth_event| **auth_event >= lowest) {
            reached.insert(*auth_event);
        }
    }
    // Up: of these, all that lead to a conflicted event.
    let mut subgraph = conflicted.clone();
    for index in below.into_iter().rev() {
        if graph.auth_events(index).iter().any(|auth_event| subgraph.contains(*auth_event)) {
            subgraph.insert(index);
        }
    }
    subgraph
}
