//! The nodes as records for storage: content-addressed, so a node is written once and shared by every state that has it.

use std::collections::BTreeMap;

use super::{
    Fingerprint, StateMap,
    node::{Slot, branch_fingerprint, entry_fingerprint},
};
use crate::{event::StateKey, graph::EventGraph, id::EventId};

/// A node as it is stored under its fingerprint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeRecord {
    /// One entry.
    Entry {
        /// Its key.
        key: StateKey,
        /// The event that holds it.
        event_id: EventId,
    },
    /// A branch.
    Branch {
        /// Which of the 16 children are there, child 0 in the lowest bit.
        bitmap: u16,
        /// Their fingerprints, in order; as many as `bitmap` has ones.
        children: Vec<Fingerprint>,
    },
}

impl NodeRecord {
    /// Returns the fingerprint that a record has by its content; `None` for a branch that can't be one.
    fn fingerprint(&self) -> Option<Fingerprint> {
        match self {
            Self::Entry { key, event_id } => Some(entry_fingerprint(key, event_id)),
            Self::Branch { bitmap, children } => {
                let well_formed = !children.is_empty() && bitmap.count_ones() as usize == children.len();
                well_formed.then(|| branch_fingerprint(*bitmap, children.iter().copied()))
            }
        }
    }
}

/// Why a stored state can't be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableNode {
    /// A node is not there.
    #[error("snapshot node {0} is missing")]
    Missing(Fingerprint),
    /// A record does not have the fingerprint it is stored under.
    #[error("snapshot node {0} is not what its fingerprint says")]
    Corrupt(Fingerprint),
    /// A node names an event that the room does not have.
    #[error("a snapshot names {0}, which is not known")]
    UnknownEvent(EventId),
}

/// Loaded nodes, shared between the states of a room that are loaded with the same cache.
#[derive(Default)]
pub struct NodeCache(BTreeMap<Fingerprint, Slot>);

/// Loads a state from its records, in rounds, one for each level of the tree.
///
/// Whoever runs it reads what [`wanted`](Self::wanted) says and hands it to [`supply`](Self::supply), until nothing is wanted.
/// Every node is checked against its fingerprint.
#[derive(Debug)]
pub struct StateLoader {
    root: Fingerprint,
    wanted: Vec<Fingerprint>,
    /// Those whose children are still to come, parents before children.
    branches: Vec<(Fingerprint, u16, Vec<Fingerprint>)>,
}

impl StateLoader {
    /// Begins to load the state with this fingerprint.
    pub fn new(root: Fingerprint, cache: &NodeCache) -> Self {
        let mut loader = Self { root, wanted: Vec::new(), branches: Vec::new() };
        if root != Fingerprint::of_empty() {
            loader.want(vec![root], cache);
        }
        loader
    }

    /// Returns the nodes to read next, sorted, each once; none when all are there.
    pub fn wanted(&self) -> &[Fingerprint] {
        &self.wanted
    }

    /// Takes the records of the wanted nodes, in their order, `None` for one that is not there.
    ///
    /// # Errors
    ///
    /// When a node is missing, is not what its fingerprint says, or names an event that the graph lacks.
    pub fn supply(
        &mut self,
        records: Vec<Option<NodeRecord>>,
        graph: &EventGraph,
        cache: &mut NodeCache,
    ) -> Result<(), UnusableNode> {
        let mut next = Vec::new();
        let mut records = records.into_iter();
        for fingerprint in std::mem::take(&mut self.wanted) {
            let record = records.next().flatten().ok_or(UnusableNode::Missing(fingerprint))?;
            // Checked at once, so that branches can't lead in a circle.
            if record.fingerprint() != Some(fingerprint) {
                return Err(UnusableNode::Corrupt(fingerprint));
            }
            match record {
                NodeRecord::Entry { key, event_id } => {
                    let key = graph.keys().get(&key.event_type, &key.state_key);
                    let (Some(key), Some(event)) = (key, graph.index_of(&event_id)) else {
                        return Err(UnusableNode::UnknownEvent(event_id));
                    };
                    cache.0.insert(fingerprint, Slot::Entry(key, event));
                }
                NodeRecord::Branch { bitmap, children } => {
                    next.extend(children.iter().copied());
                    self.branches.push((fingerprint, bitmap, children));
                }
            }
        }
        self.want(next, cache);
        Ok(())
    }

    /// Returns the state.
    ///
    /// # Errors
    ///
    /// When something is still wanted.
    pub fn finish(self, cache: &mut NodeCache) -> Result<StateMap, UnusableNode> {
        for (fingerprint, bitmap, children) in self.branches.into_iter().rev() {
            let digits = (0..16).filter(|digit| bitmap >> digit & 1 == 1);
            let children = digits.zip(&children).map(|(digit, child)| Some((digit, cache.0.get(child)?.clone())));
            let children: Option<Vec<_>> = children.collect();
            let children = children.ok_or(UnusableNode::Missing(fingerprint))?;
            cache.0.insert(fingerprint, Slot::of_children(children));
        }
        let root = match self.root {
            root if root == Fingerprint::of_empty() => Slot::Empty,
            root => cache.0.get(&root).cloned().ok_or(UnusableNode::Missing(root))?,
        };
        Ok(StateMap { root })
    }

    fn want(&mut self, mut fingerprints: Vec<Fingerprint>, cache: &NodeCache) {
        fingerprints.retain(|fingerprint| !cache.0.contains_key(fingerprint));
        fingerprints.sort_unstable();
        fingerprints.dedup();
        self.wanted = fingerprints;
    }
}

impl StateMap {
    /// Returns the nodes of this state that none of `bases` has, children before parents, each with its fingerprint.
    ///
    /// Costs what differs: a subtree that a base has at the same place is not visited.
    pub fn nodes_beyond(&self, graph: &EventGraph, bases: &[&Self]) -> Vec<(Fingerprint, NodeRecord)> {
        let mut found = Vec::new();
        let bases: Vec<Slot> = bases.iter().map(|base| base.root.clone()).collect();
        collect_beyond(graph, &self.root, &bases, 0, &mut found);
        found
    }
}

fn collect_beyond(
    graph: &EventGraph,
    slot: &Slot,
    bases: &[Slot],
    depth: usize,
    found: &mut Vec<(Fingerprint, NodeRecord)>,
) {
    // An entry stands higher in one tree than in another, so a base's entry counts wherever its path leads.
    if bases.iter().any(|base| base.is_same(slot) || base.fingerprint(graph) == slot.fingerprint(graph)) {
        return;
    }
    let record = match slot {
        Slot::Empty => return,
        Slot::Entry(key, event) => {
            NodeRecord::Entry { key: graph.keys().key(*key).clone(), event_id: graph.event(*event).event_id.clone() }
        }
        Slot::Branch(branch) => {
            let digits = (0..16).filter(|digit| branch.bitmap() >> digit & 1 == 1);
            for (digit, child) in digits.zip(branch.children()) {
                let below: Vec<Slot> = bases.iter().map(|base| base.child_at(graph.keys(), depth, digit)).collect();
                collect_beyond(graph, child, &below, depth + 1, found);
            }
            NodeRecord::Branch {
                bitmap: branch.bitmap(),
                children: branch.children().iter().map(|child| child.fingerprint(graph)).collect(),
            }
        }
    };
    found.push((slot.fingerprint(graph), record));
}
