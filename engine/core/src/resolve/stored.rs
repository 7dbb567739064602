//! Resolving states of a room that is in a store, reading only what the resolution needs.

use std::collections::BTreeSet;

use super::{Silent, edits};
use crate::{
    event::StateKey,
    graph::{EventGraph, EventIndex, GraphError, Missing, StoredEvent},
    id::EventId,
    room_version::RoomVersionRules,
    state::{NodeIndex, NodeRecord, StateMap, UnusableNode},
};

/// States of a room that is in a store, to be resolved.
///
/// [`resolve`](Self::resolve) says what it lacks; whoever runs it reads that, all at once, hands it in, and asks again. The events
/// that are read are those in conflict, what they cite down to where all states agree, and the few of the common state that the
/// rules ask for; of the snapshots, the nodes on the way to these.
#[derive(Debug)]
pub struct StoredStates {
    graph: EventGraph,
    states: Vec<StateMap>,
    /// The lowest of the events that were asked for first, the conflicted ones: what they cite from there on is needed too.
    floor: Option<EventIndex>,
}

/// How far a resolution got.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is done: what the first state has to be changed by, sorted by key; `None` is nothing at the key.
    Done(Vec<(StateKey, Option<EventId>)>),
    /// These are to be handed in.
    Needs(Missing),
}

impl StoredStates {
    /// Begins with the roots of the states, `None` for an empty one. `create` is the room's create event.
    pub fn new(rules: &'static RoomVersionRules, create: EventIndex, roots: &[Option<NodeIndex>]) -> Self {
        let states = roots.iter().map(|root| StateMap::stored(*root)).collect();
        Self { graph: EventGraph::new_sparse(rules, create), states, floor: None }
    }

    /// Resolves with what was handed in so far. Costs a resolution each time.
    pub fn resolve(&mut self) -> Progress {
        let states: Vec<&StateMap> = self.states.iter().collect();
        let edits = edits(&self.graph, &states, &mut Silent);
        let base = states.first().copied();
        let held = |key| base.and_then(|base| base.get(&self.graph, key));
        let edits: Vec<_> = edits.into_iter().filter(|(key, event)| held(*key) != *event).collect();
        let missing = self.graph.take_missing();
        if !missing.is_empty() {
            let lowest = missing.events.first().copied();
            self.floor = self.floor.or(lowest);
            return Progress::Needs(missing);
        }
        let edits = edits
            .into_iter()
            .map(|(key, event)| (self.graph.state_key(key), event.map(|event| self.graph.event_id(event))));
        let mut edits: Vec<_> = edits.collect();
        edits.sort_unstable();
        Progress::Done(edits)
    }

    /// Takes a node that was missing.
    ///
    /// # Errors
    ///
    /// When it can't be one.
    pub fn supply_node(&mut self, number: NodeIndex, node: NodeRecord) -> Result<(), UnusableNode> {
        node.check_form(number)?;
        self.graph.add_stored_node(number, node);
        Ok(())
    }

    /// Takes an event that was missing. Returns those of its auth events that will be missing next.
    ///
    /// # Errors
    ///
    /// When there is no room left for it.
    pub fn supply_event(&mut self, index: EventIndex, event: &StoredEvent) -> Result<BTreeSet<EventIndex>, GraphError> {
        self.graph.insert_stored(index, event).ok_or(GraphError::Full)?;
        let next = event.auth_events.iter().copied();
        Ok(next
            .filter(|next| self.floor.is_some_and(|floor| *next >= floor) && !self.graph.has_stored(*next))
            .collect())
    }
}
