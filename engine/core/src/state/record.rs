//! The nodes as records for storage: each is written once, under its number, and shared by every state that has it.

use std::collections::BTreeMap;

use super::{
    Fingerprint, StateMap,
    node::{CHILDREN, LEAF_ENTRIES_MAX, Slot},
};
use crate::graph::{EventGraph, EventIndex, dense_number, stored_number};

dense_number! {
    /// A dense number for a node of a room's states, in the order in which they were made: a child's is always smaller.
    pub NodeIndex
}

stored_number!(NodeIndex);

/// A node as it is stored under its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRecord {
    /// The fingerprint of the subtree.
    pub fingerprint: Fingerprint,
    /// What is below.
    pub content: NodeContent,
}

impl NodeRecord {
    /// Checks what does not depend on other records.
    pub(crate) fn check_form(&self, number: NodeIndex) -> Result<(), UnusableNode> {
        let well_formed = match &self.content {
            NodeContent::Leaf(entries) => (1..=LEAF_ENTRIES_MAX).contains(&entries.len()),
            // Children come before their parents, so branches can't lead in a circle.
            NodeContent::Branch { children, .. } => children.iter().flatten().all(|child| *child < number),
        };
        if well_formed { Ok(()) } else { Err(UnusableNode::Corrupt(number)) }
    }
}

/// What is below a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeContent {
    /// At most 64 entries, sorted by event.
    Leaf(Vec<EntryRecord>),
    /// More than that.
    Branch {
        /// How many entries there are below.
        len: u32,
        /// The children, by the digit of the path that leads to them.
        children: [Option<NodeIndex>; CHILDREN],
    },
}

/// An entry of a leaf. The key that the event holds is the event's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryRecord {
    /// The event, by its number.
    pub event: EventIndex,
    /// The first eight digits of the key's path.
    pub path_prefix: u32,
}

/// Why a stored state can't be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableNode {
    /// A node is not there.
    #[error("snapshot node {0:?} is missing")]
    Missing(NodeIndex),
    /// A record does not have the fingerprint that it says.
    #[error("snapshot node {0:?} is not what its fingerprint says")]
    Corrupt(NodeIndex),
    /// A node names an event that the room does not have, or none that can be in a state.
    #[error("a snapshot names event {0:?}, which is not a state event of the room")]
    NoStateEvent(EventIndex),
}

/// Gives nodes their numbers.
#[derive(Debug, Default)]
pub struct NodeNumbers {
    next: usize,
}

impl NodeNumbers {
    /// Goes on after so many numbers.
    pub fn after(given: u32) -> Self {
        Self { next: given as usize }
    }

    /// Returns how many numbers were given.
    pub fn given(&self) -> u32 {
        // What `give` gives fits.
        u32::try_from(self.next).unwrap_or(u32::MAX)
    }

    fn give(&mut self) -> Option<NodeIndex> {
        let number = NodeIndex::from_usize(self.next)?;
        self.next += 1;
        Some(number)
    }
}

impl StateMap {
    /// Returns a state of a room that is in a store, by the number of its root.
    pub(crate) fn stored(root: Option<NodeIndex>) -> Self {
        Self { root: root.map_or(Slot::Empty, Slot::Stored) }
    }

    /// Returns the number of the root; `None` for the empty state and one that was never [numbered](Self::number_nodes).
    pub fn root_number(&self) -> Option<NodeIndex> {
        self.root.number()
    }

    /// Gives every node that has none a number, and adds their records to `records`: children before parents. `None` if there
    /// are no numbers left.
    ///
    /// Costs what is new: a subtree that has its number is not visited.
    pub fn number_nodes(
        &self,
        graph: &EventGraph,
        numbers: &mut NodeNumbers,
        records: &mut Vec<(NodeIndex, NodeRecord)>,
    ) -> Option<()> {
        number_below(graph, &self.root, 0, numbers, records)
    }
}

/// At most 64 levels deep, by the length of a path.
fn number_below(
    graph: &EventGraph,
    slot: &Slot,
    depth: usize,
    numbers: &mut NodeNumbers,
    records: &mut Vec<(NodeIndex, NodeRecord)>,
) -> Option<()> {
    if slot.number().is_some() {
        return Some(());
    }
    let Some(fingerprint) = slot.fingerprint(graph, depth) else { return Some(()) };
    let content = match slot {
        Slot::Empty | Slot::Stored(_) => return Some(()),
        Slot::Leaf(leaf) => {
            let entries = leaf.entries().iter();
            let mut entries: Vec<EntryRecord> = entries
                .map(|(key, event)| EntryRecord { event: *event, path_prefix: graph.keys().path_prefix(*key) })
                .collect();
            entries.sort_unstable();
            NodeContent::Leaf(entries)
        }
        Slot::Branch(branch) => {
            let mut children = [None; CHILDREN];
            for (number, child) in children.iter_mut().zip(branch.children()) {
                number_below(graph, child, depth + 1, numbers, records)?;
                *number = child.number();
            }
            NodeContent::Branch { len: u32::try_from(slot.len()).ok()?, children }
        }
    };
    let number = numbers.give()?;
    slot.set_number(number);
    records.push((number, NodeRecord { fingerprint, content }));
    Some(())
}

/// Loaded nodes, shared between the states of a room that are loaded with the same cache.
#[derive(Debug, Default)]
pub struct NodeCache(BTreeMap<NodeIndex, Slot>);

impl NodeCache {
    /// Returns the highest number among the loaded nodes.
    pub fn highest(&self) -> Option<NodeIndex> {
        self.0.last_key_value().map(|(number, _)| *number)
    }
}

/// Loads a state from its records, in rounds, one for each level of the tree.
///
/// Whoever runs it reads what [`wanted`](Self::wanted) says and hands it to [`supply`](Self::supply), until nothing is wanted.
/// Every node is checked against its fingerprint.
#[derive(Debug)]
pub struct StateLoader {
    root: Option<NodeIndex>,
    wanted: Vec<NodeIndex>,
    /// What was supplied; with a branch's number come those of its children before it.
    supplied: BTreeMap<NodeIndex, (usize, NodeRecord)>,
    depth: usize,
}

impl StateLoader {
    /// Begins to load the state with this root, `None` for the empty state.
    pub fn new(root: Option<NodeIndex>, cache: &NodeCache) -> Self {
        let mut loader = Self { root, wanted: Vec::new(), supplied: BTreeMap::new(), depth: 0 };
        loader.want(root.into_iter().collect(), cache);
        loader
    }

    /// Returns the nodes to read next, sorted, each once; none when all are there.
    pub fn wanted(&self) -> &[NodeIndex] {
        &self.wanted
    }

    /// Takes the records of the wanted nodes, in their order, `None` for one that is not there.
    ///
    /// # Errors
    ///
    /// When a node is missing or can't be one.
    pub fn supply(&mut self, records: Vec<Option<NodeRecord>>, cache: &NodeCache) -> Result<(), UnusableNode> {
        let mut next = Vec::new();
        let mut records = records.into_iter();
        for number in std::mem::take(&mut self.wanted) {
            let record = records.next().flatten().ok_or(UnusableNode::Missing(number))?;
            record.check_form(number)?;
            if let NodeContent::Branch { children, .. } = &record.content {
                next.extend(children.iter().flatten());
            }
            self.supplied.insert(number, (self.depth, record));
        }
        self.depth += 1;
        self.want(next, cache);
        Ok(())
    }

    /// Returns the state.
    ///
    /// # Errors
    ///
    /// When something is still wanted, a node names what is no state event of the graph, or it is not what its fingerprint says.
    pub fn finish(self, graph: &EventGraph, cache: &mut NodeCache) -> Result<StateMap, UnusableNode> {
        for (number, (depth, record)) in self.supplied {
            let slot = match record.content {
                NodeContent::Leaf(entries) => {
                    let mut held = Vec::with_capacity(entries.len());
                    for EntryRecord { event, .. } in entries {
                        let key = (event.as_usize() < graph.len()).then(|| graph.key(event)).flatten();
                        held.push((key.ok_or(UnusableNode::NoStateEvent(event))?, event));
                    }
                    held.sort_unstable();
                    held.dedup_by_key(|(key, _)| *key);
                    Slot::of_entries(graph.keys(), held, depth)
                }
                NodeContent::Branch { children, len } => {
                    let mut slots: [Slot; CHILDREN] = Default::default();
                    for (slot, child) in slots.iter_mut().zip(children) {
                        let Some(child) = child else { continue };
                        *slot = cache.0.get(&child).ok_or(UnusableNode::Missing(child))?.clone();
                    }
                    Slot::of_loaded_children(slots)
                        .filter(|slot| slot.len() == len as usize)
                        .ok_or(UnusableNode::Corrupt(number))?
                }
            };
            if slot.fingerprint(graph, depth) != Some(record.fingerprint) {
                return Err(UnusableNode::Corrupt(number));
            }
            slot.set_number(number);
            cache.0.insert(number, slot);
        }
        Ok(StateMap {
            root: match self.root {
                None => Slot::Empty,
                Some(root) => cache.0.get(&root).cloned().ok_or(UnusableNode::Missing(root))?,
            },
        })
    }

    fn want(&mut self, mut numbers: Vec<NodeIndex>, cache: &NodeCache) {
        numbers.retain(|number| !cache.0.contains_key(number) && !self.supplied.contains_key(number));
        numbers.sort_unstable();
        numbers.dedup();
        self.wanted = numbers;
    }
}
