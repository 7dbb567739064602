//! Resolving a generated room as if it were in a store: from records, read as they are asked for.

use std::collections::{BTreeMap, BTreeSet};

use ravel_core::{
    event::StateKey,
    graph::{EventGraph, EventIndex},
    id::EventId,
    resolve::{Progress, StoredStates},
    state::{NodeIndex, NodeNumbers, NodeRecord, StateMap},
};

use super::GeneratedRoom;

/// What a resolution from records gave.
#[derive(Debug)]
pub struct FromRecords {
    /// What the first state has to be changed by, sorted by key.
    pub edits: Vec<(StateKey, Option<EventId>)>,
    /// How many records of events and nodes were read.
    pub reads: u64,
    /// How often the resolution asked for some.
    pub rounds: u64,
}

impl GeneratedRoom {
    /// Resolves the states after the forks from records alone.
    ///
    /// Gives nodes their numbers and computes their fingerprints, so comparing the states is faster afterwards.
    ///
    /// # Panics
    ///
    /// If something is asked for that is not there, or can't be taken.
    pub fn resolve_from_records(&self, graph: &EventGraph, shared: &StateMap, states: &[StateMap]) -> FromRecords {
        let (mut numbers, mut records) = (NodeNumbers::default(), Vec::new());
        let mut number = |state: &StateMap| {
            state.number_nodes(graph, &mut numbers, &mut records).expect("there are numbers enough");
            numbers.given()
        };
        let nodes_of_shared = number(shared);
        for state in states {
            number(state);
        }
        let nodes: BTreeMap<NodeIndex, NodeRecord> = records.into_iter().collect();
        // From the first of the events that only forks have on, the nodes of the shared state were there.
        let of_forks =
            self.forks.iter().flat_map(BTreeMap::iter).filter(|(key, id)| self.shared.get(*key) != Some(*id));
        let first_of_forks = of_forks.filter_map(|(_, event_id)| graph.index_of(event_id)).min();
        let stored_event = |index: EventIndex| {
            let nodes_before = if Some(index) < first_of_forks { 0 } else { nodes_of_shared };
            graph.stored_event(index, self.events[index.number() as usize].event.clone(), nodes_before)
        };
        let roots: Vec<_> = states.iter().map(StateMap::root_number).collect();
        let create = graph.create().expect("a room has a create event");
        let mut stored = StoredStates::new(graph.rules(), create, &roots);
        let (mut reads, mut rounds) = (0, 0);
        loop {
            let missing = match stored.resolve() {
                Progress::Done(edits) => return FromRecords { edits, reads, rounds },
                Progress::Needs(missing) => missing,
            };
            rounds += 1;
            for number in missing.nodes {
                reads += 1;
                stored.supply_node(number, nodes[&number].clone()).expect("a sound node");
            }
            let mut wanted = missing.events;
            while !wanted.is_empty() {
                let mut next = BTreeSet::new();
                for index in &wanted {
                    reads += 1;
                    next.extend(stored.supply_event(*index, &stored_event(*index)).expect("a sound event"));
                }
                next.retain(|index| !wanted.contains(index));
                wanted = next;
            }
        }
    }
}
