//! What the bound is stated in, found in a plain way.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    graph::{EventGraph, EventIndex, KeyIndex},
    id::EventId,
    resolve::Step,
    state::{StateMap, conflicts},
};

/// The terms of the bound, by their names in the documentation of [`resolve`](crate::resolve::resolve).
#[derive(Debug)]
pub(super) struct Terms {
    s: u64,
    d: u64,
    n: u64,
    m: u64,
    f: u64,
    e: u64,
    q: u64,
    p: u64,
    pub(super) w: u64,
}

impl Terms {
    pub(super) fn of(graph: &EventGraph, states: &[&StateMap], steps: &[Step]) -> Self {
        let mut differing = BTreeSet::new();
        let mut held: Vec<BTreeSet<EventIndex>> = vec![BTreeSet::new(); states.len()];
        conflicts(graph, states, &mut |key, values| {
            differing.insert(key);
            held.iter_mut().zip(values).for_each(|(held, value)| held.extend(value));
        });
        let conflicted: BTreeSet<EventIndex> = held.iter().flatten().copied().collect();
        // In how many of the states' chains an event is.
        let mut chains = vec![0; graph.len()];
        for held in &held {
            for index in auth_chain(graph, held) {
                chains[index.as_usize()] += 1;
            }
        }
        let in_some = |index: &EventIndex| (1..states.len()).contains(&chains[index.as_usize()]);
        let candidates: BTreeSet<EventIndex> =
            graph.indices().filter(|index| in_some(index) && !conflicted.contains(index)).collect();

        // What the conflicted events lead to, down to the oldest event that is in question.
        let mut seen: BTreeSet<EventIndex> = BTreeSet::new();
        if let Some(lowest) = candidates.union(&conflicted).min() {
            seen.extend(graph.indices().filter(|index| index >= lowest && chains[index.as_usize()] > 0));
        }
        // What the shared entries at the keys of candidates lead to, and what all new ones lead to if that leaves candidates.
        let mut shared: BTreeMap<KeyIndex, EventIndex> = states[0].iter().collect();
        shared.retain(|key, _| !differing.contains(key));
        let keys = candidates.iter().filter_map(|index| graph.key(*index));
        let holders = auth_chain(graph, &keys.filter_map(|key| shared.get(&key)).copied().collect());
        if let Some(lowest) = candidates.first() {
            seen.extend(holders.range(lowest..));
        }
        let mut new_entries = 0;
        if let Some(lowest) = candidates.difference(&holders).next() {
            let new: BTreeSet<EventIndex> = shared.into_values().filter(|event| event >= lowest).collect();
            new_entries = new.len();
            seen.extend(auth_chain(graph, &new).range(lowest..));
        }

        let full = full_conflicted_set(graph, steps);
        assert!(conflicted.is_subset(&full));
        let reached = seen.iter().flat_map(|index| graph.auth_events(*index)).chain(&seen);
        let span = match (reached.min(), seen.last()) {
            (Some(lowest), Some(highest)) => highest.as_usize() - lowest.as_usize() + 1,
            _ => 0,
        };
        let others = full.iter().filter(|index| !graph.is_power_event(**index));
        let cited_power_levels: BTreeSet<EventIndex> = others.filter_map(|index| graph.power_levels(*index)).collect();
        let number = |size: usize| size as u64;
        Self {
            s: number(states.len()),
            d: number(differing.len()),
            n: number(states.iter().map(|state| state.len()).max().unwrap()),
            m: number(new_entries),
            f: number(full.len()),
            e: number(seen.iter().map(|index| graph.auth_events(*index).len()).sum()),
            q: number(cited_power_levels.len()),
            p: number(graph.indices().filter(|index| graph.key(*index) == Some(KeyIndex::POWER_LEVELS)).count()),
            w: number(span / 64),
        }
    }

    /// Returns the sum that the work is a multiple of, at the most.
    pub(super) fn sum(&self) -> u64 {
        let log2 = |number: u64| u64::from(number.max(2).ilog2());
        let levels = 1 + log2(self.n) / 4;
        let states = self.s.div_ceil(64);
        (self.s * self.d + self.m) * levels + self.f * log2(self.f) + self.e * states + self.q * log2(self.p) + self.w
    }
}

/// Returns events and all that they lead to.
fn auth_chain(graph: &EventGraph, events: &BTreeSet<EventIndex>) -> BTreeSet<EventIndex> {
    let (mut chain, mut pending) = (BTreeSet::new(), events.clone());
    while let Some(index) = pending.pop_last() {
        chain.insert(index);
        pending.extend(graph.auth_events(index));
    }
    chain
}

fn full_conflicted_set(graph: &EventGraph, steps: &[Step]) -> BTreeSet<EventIndex> {
    let ids = steps.iter().flat_map(|step| match step {
        Step::Conflict { candidates: ids, .. }
        | Step::AuthDifference { events: ids }
        | Step::ConflictedStateSubgraph { events: ids } => &ids[..],
        _ => &[],
    });
    ids.map(|id| index_of(graph, id)).collect()
}

fn index_of(graph: &EventGraph, id: &EventId) -> EventIndex {
    graph.index_of(id).unwrap()
}
