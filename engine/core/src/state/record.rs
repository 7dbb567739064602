//! The nodes as records for storage: each is written once, under its number, and shared by every state that has it.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    StateMap,
    node::{CHILDREN, LEAF_ENTRIES_MAX, Leaf, Slot, changed},
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
    /// Of the root of a state, the beginning of its fingerprint. Other nodes have none: that of the root covers them.
    pub root_check: Option<RootCheck>,
    /// What is below.
    pub content: NodeContent,
}

/// The first bytes of a fingerprint: enough to notice that nodes do not belong together.
pub type RootCheck = [u8; 4];

impl NodeRecord {
    /// Checks what does not depend on other records.
    pub(crate) fn check_form(&self, number: NodeIndex) -> Result<(), UnusableNode> {
        let well_formed = match &self.content {
            NodeContent::Leaf(entries) => (1..=LEAF_ENTRIES_MAX).contains(&entries.len()),
            // What a node names comes before it, so nothing can lead in a circle.
            NodeContent::Change(change) => change.of < number,
            NodeContent::Branch { children } => children.iter().flatten().all(|child| *child < number),
        };
        if well_formed { Ok(()) } else { Err(UnusableNode::Corrupt(number)) }
    }
}

/// What is below a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeContent {
    /// At most 64 entries, sorted by event.
    Leaf(Vec<EntryRecord>),
    /// A leaf, as a change of another one.
    Change(LeafChange),
    /// More entries than a leaf has.
    Branch {
        /// The children, by the digit of the path that leads to them.
        children: [Option<NodeIndex>; CHILDREN],
    },
}

/// An entry of a leaf. The key that the event holds is the event's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryRecord {
    /// The event, by its number.
    pub event: EventIndex,
    /// The two digits of the key's path that would choose the next children, if the leaf were a branch.
    pub path: u8,
}

/// In what a leaf differs from another one that is stored whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafChange {
    /// That one.
    pub of: NodeIndex,
    /// Events that hold the key of another one here, sorted, each with the place of that other one among its leaf's entries.
    pub replaced: Vec<(EventIndex, u8)>,
    /// Entries at other keys, sorted by event.
    pub added: Vec<EntryRecord>,
}

impl LeafChange {
    /// Returns the entries, sorted by event, given those of the leaf that is changed; `None` if they don't belong together.
    pub fn entries(&self, of: &[EntryRecord]) -> Option<Vec<EntryRecord>> {
        let mut entries = of.to_vec();
        for (event, place) in &self.replaced {
            entries.get_mut(usize::from(*place))?.event = *event;
        }
        entries.extend_from_slice(&self.added);
        entries.sort_unstable();
        (entries.len() <= LEAF_ENTRIES_MAX).then_some(entries)
    }

    fn between(graph: &EventGraph, leaf: &Leaf, of: &Leaf, depth: usize) -> Option<Self> {
        let (mut replaced, mut added) = (Vec::new(), Vec::new());
        for (held, (key, event)) in changed(leaf.entries(), of.entries())? {
            match held {
                Some(held) => {
                    let place = of.entries().iter().filter(|(_, other)| *other < held).count();
                    replaced.push((event, u8::try_from(place).ok()?));
                }
                None => added.push(EntryRecord { event, path: graph.keys().two_digits(key, depth) }),
            }
        }
        replaced.sort_unstable();
        added.sort_unstable();
        Some(Self { of: of.number()?, replaced, added })
    }
}

/// Why a stored state can't be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnusableNode {
    /// A node is not there.
    #[error("snapshot node {0:?} is missing")]
    Missing(NodeIndex),
    /// A node can't be one, or a root has another fingerprint than it says.
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
    let content = match slot {
        Slot::Empty | Slot::Stored(_) => return Some(()),
        Slot::Leaf(leaf) => match leaf.changes().and_then(|of| LeafChange::between(graph, leaf, of, depth)) {
            Some(change) => NodeContent::Change(change),
            None => {
                let entry =
                    |(key, event): &(_, _)| EntryRecord { event: *event, path: graph.keys().two_digits(*key, depth) };
                let mut entries: Vec<EntryRecord> = leaf.entries().iter().map(entry).collect();
                entries.sort_unstable();
                NodeContent::Leaf(entries)
            }
        },
        Slot::Branch(branch) => {
            let mut children = [None; CHILDREN];
            for (number, child) in children.iter_mut().zip(branch.children()) {
                number_below(graph, child, depth + 1, numbers, records)?;
                *number = child.number();
            }
            NodeContent::Branch { children }
        }
    };
    let root_check = if depth == 0 { Some(root_check(graph, slot)?) } else { None };
    let number = numbers.give()?;
    slot.set_number(number);
    records.push((number, NodeRecord { root_check, content }));
    Some(())
}

/// Returns the beginning of a root's fingerprint; `None` for an empty one.
fn root_check(graph: &EventGraph, root: &Slot) -> Option<RootCheck> {
    root.fingerprint(graph, 0)?.0.first_chunk().copied()
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

/// Loads a state from its records, in rounds: one for each level of the tree, and one for leaves that others are changes of.
///
/// Whoever runs it reads what [`wanted`](Self::wanted) says and hands it to [`supply`](Self::supply), until nothing is wanted.
/// The root's fingerprint covers all nodes of the state, so damage to any of them is noticed.
#[derive(Debug)]
pub struct StateLoader {
    root: Option<NodeIndex>,
    wanted: Vec<NodeIndex>,
    /// How deep each of them stands.
    depths: Vec<usize>,
    /// What was supplied; with a node's number come those that it names before it.
    supplied: BTreeMap<NodeIndex, (usize, NodeRecord)>,
}

impl StateLoader {
    /// Begins to load the state with this root, `None` for the empty state.
    pub fn new(root: Option<NodeIndex>, cache: &NodeCache) -> Self {
        let mut loader = Self { root, wanted: Vec::new(), depths: Vec::new(), supplied: BTreeMap::new() };
        loader.want(root.map(|root| (root, 0)).into_iter().collect(), cache);
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
        let depths = std::mem::take(&mut self.depths);
        for (number, depth) in std::mem::take(&mut self.wanted).into_iter().zip(depths) {
            let record = records.next().flatten().ok_or(UnusableNode::Missing(number))?;
            record.check_form(number)?;
            match &record.content {
                NodeContent::Leaf(_) => {}
                NodeContent::Change(change) => next.push((change.of, depth)),
                NodeContent::Branch { children } => {
                    next.extend(children.iter().flatten().map(|child| (*child, depth + 1)));
                }
            }
            self.supplied.insert(number, (depth, record));
        }
        self.want(next, cache);
        Ok(())
    }

    /// Returns the state.
    ///
    /// # Errors
    ///
    /// When something is still wanted, a node names what is no state event of the graph, or the root is not what its fingerprint
    /// says.
    pub fn finish(self, graph: &EventGraph, cache: &mut NodeCache) -> Result<StateMap, UnusableNode> {
        for (number, (depth, record)) in self.supplied {
            let corrupt = || UnusableNode::Corrupt(number);
            let slot = match record.content {
                NodeContent::Leaf(entries) => leaf_of(graph, entries, None)?,
                NodeContent::Change(change) => {
                    let of = cache.0.get(&change.of).ok_or(UnusableNode::Missing(change.of))?;
                    // Only a leaf that is stored whole is changed.
                    let Slot::Leaf(of) = of else { return Err(corrupt()) };
                    if of.changes().is_some() {
                        return Err(corrupt());
                    }
                    let mut held: Vec<_> =
                        of.entries().iter().map(|(_, event)| EntryRecord { event: *event, path: 0 }).collect();
                    held.sort_unstable();
                    let entries = change.entries(&held).ok_or_else(corrupt)?;
                    leaf_of(graph, entries, Some(Arc::clone(of)))?
                }
                NodeContent::Branch { children } => {
                    let mut slots: [Slot; CHILDREN] = Default::default();
                    for (slot, child) in slots.iter_mut().zip(children) {
                        let Some(child) = child else { continue };
                        *slot = cache.0.get(&child).ok_or(UnusableNode::Missing(child))?.clone();
                    }
                    Slot::of_loaded_children(slots)
                }
            };
            let slot = slot.ok_or_else(corrupt)?;
            let check = if depth == 0 { root_check(graph, &slot) } else { None };
            if record.root_check != check {
                return Err(corrupt());
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

    fn want(&mut self, mut nodes: Vec<(NodeIndex, usize)>, cache: &NodeCache) {
        nodes.retain(|(number, _)| !cache.0.contains_key(number) && !self.supplied.contains_key(number));
        nodes.sort_unstable();
        nodes.dedup_by_key(|(number, _)| *number);
        (self.wanted, self.depths) = nodes.into_iter().unzip();
    }
}

/// Returns the leaf of these entries; `None` if it can't be one.
fn leaf_of(
    graph: &EventGraph,
    entries: Vec<EntryRecord>,
    changes: Option<Arc<Leaf>>,
) -> Result<Option<Slot>, UnusableNode> {
    let mut held = Vec::with_capacity(entries.len());
    for EntryRecord { event, .. } in entries {
        let key = (event.as_usize() < graph.len()).then(|| graph.key(event)).flatten();
        held.push((key.ok_or(UnusableNode::NoStateEvent(event))?, event));
    }
    held.sort_unstable();
    held.dedup_by_key(|(key, _)| *key);
    Ok(Slot::of_loaded_entries(held, changes))
}
