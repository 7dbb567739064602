//! Visiting the snapshot nodes of a room, each once, in bounded memory.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ravel_core::state::{EntryRecord, LeafChange, NodeContent, NodeIndex, NodeRecord};

use super::{
    EventLog, LogError,
    records::{SnapshotNodeRecord, key},
};
use crate::{GET_KEYS_MAX, Keyspace, StoreError, codec};

/// How many nodes are read at a time.
const NODES: usize = 1024;

/// A set of numbers, a bit for each up to the highest.
#[derive(Debug, Default)]
pub(super) struct Numbers(Vec<u64>);

impl Numbers {
    /// Adds a number; returns whether it is new.
    pub(super) fn insert(&mut self, number: u32) -> bool {
        let (word, bit) = (number as usize / 64, 1_u64 << (number % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let Some(word) = self.0.get_mut(word) else { return false };
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.0.get(number as usize / 64).is_some_and(|word| word & (1 << (number % 64)) != 0)
    }

    pub(super) fn len(&self) -> u64 {
        self.union_len(&Self::default())
    }

    /// Returns how many numbers are in this set or in another one.
    fn union_len(&self, other: &Self) -> u64 {
        let words = (0..self.0.len().max(other.0.len())).map(|place| {
            let word = |numbers: &Self| numbers.0.get(place).copied().unwrap_or(0);
            word(self) | word(other)
        });
        words.map(|word| u64::from(word.count_ones())).sum()
    }
}

/// The nodes of a room that were visited.
#[derive(Debug, Default)]
pub(super) struct NodeWalk {
    room: u32,
    /// Nodes from this number on are not visited.
    boundary: u32,
    visited: Numbers,
    /// Leaves that visited ones are stored as changes of; they may be visited too.
    changed: Numbers,
}

impl NodeWalk {
    pub(super) fn new(room: u32, boundary: u32) -> Self {
        Self { room, boundary, ..Self::default() }
    }

    pub(super) fn boundary(&self) -> u32 {
        self.boundary
    }

    /// Whether a node was visited, or one that was is a change of it.
    pub(super) fn needs(&self, number: u32) -> bool {
        self.visited.contains(number) || self.changed.contains(number)
    }

    /// Returns how many nodes are needed so far.
    pub(super) fn needed(&self) -> u64 {
        self.visited.union_len(&self.changed)
    }

    /// Visits the nodes below some roots, the roots included, that were not visited before; `None` is one that is not there. Leaves
    /// that are stored as changes of others come with all of their entries.
    ///
    /// Reads up to 1,024 nodes at once, and as many that they are changes of, and keeps at most that many times the depth of a tree and
    /// a branch's children of numbers in memory, beside two bits for each node of the room.
    pub(super) async fn visit(
        &mut self,
        log: &EventLog,
        roots: impl IntoIterator<Item = u32>,
        mut on_node: impl FnMut(NodeIndex, Option<&NodeRecord>),
    ) -> Result<(), LogError> {
        let mut pending = Vec::new();
        for root in roots {
            self.want(root, &mut pending);
        }
        while !pending.is_empty() {
            let mut numbers = pending.split_off(pending.len().saturating_sub(NODES));
            numbers.sort_unstable();
            let mut nodes = log.nodes(self.room, &numbers).await?;
            let changed = |node: &Option<NodeRecord>| match node.as_ref().map(|node| &node.content) {
                Some(NodeContent::Change(change)) => Some(change.of),
                _ => None,
            };
            let changed: BTreeSet<NodeIndex> = nodes.iter().filter_map(changed).collect();
            changed.iter().filter(|of| of.number() < self.boundary).for_each(|of| {
                self.changed.insert(of.number());
            });
            let changed: Vec<NodeIndex> = changed.into_iter().collect();
            let changed: BTreeMap<_, _> = changed.iter().copied().zip(log.nodes(self.room, &changed).await?).collect();
            for (number, node) in numbers.into_iter().zip(&mut nodes) {
                if let Some(NodeRecord { content, .. }) = node
                    && let NodeContent::Change(change) = content
                {
                    let Some(of) = changed.get(&change.of).and_then(Option::as_ref) else {
                        on_node(change.of, None);
                        continue;
                    };
                    *content = NodeContent::Leaf(self.entries(number, change, of)?);
                }
                if let Some(NodeContent::Branch { children }) = node.as_ref().map(|node| &node.content) {
                    for child in children.iter().flatten() {
                        self.want(child.number(), &mut pending);
                    }
                }
                on_node(number, node.as_ref());
            }
        }
        Ok(())
    }

    fn want(&mut self, number: u32, pending: &mut Vec<NodeIndex>) {
        if number < self.boundary
            && self.visited.insert(number)
            && let Some(index) = NodeIndex::from_number(number)
        {
            pending.push(index);
        }
    }

    /// Returns the entries of a leaf that is stored as a change of another node.
    fn entries(&self, number: NodeIndex, change: &LeafChange, of: &NodeRecord) -> Result<Vec<EntryRecord>, StoreError> {
        let entries = match &of.content {
            NodeContent::Leaf(entries) => change.entries(entries),
            NodeContent::Change(_) | NodeContent::Branch { .. } => None,
        };
        entries.ok_or_else(|| unusable(&key::node(self.room, number)))
    }
}

impl EventLog {
    /// Reads nodes of a room, in the order of their numbers, `None` for one that is not there.
    pub(super) async fn nodes(&self, room: u32, numbers: &[NodeIndex]) -> Result<Vec<Option<NodeRecord>>, LogError> {
        let mut nodes = Vec::with_capacity(numbers.len());
        for numbers in numbers.chunks(GET_KEYS_MAX) {
            let keys: Vec<Bytes> = numbers.iter().map(|number| key::node(room, *number)).collect();
            let found = self.store.get_many(Keyspace::SnapshotNodes, &keys).await?;
            for ((number, key), value) in numbers.iter().zip(&keys).zip(found) {
                nodes.push(value.map(|value| decode_node(*number, key, &value)).transpose()?);
            }
        }
        Ok(nodes)
    }
}

/// Decodes the record of a node.
fn decode_node(number: NodeIndex, key: &[u8], value: &[u8]) -> Result<NodeRecord, StoreError> {
    let node = codec::decode::<SnapshotNodeRecord>(key, value)?.into_node(number);
    node.ok_or_else(|| unusable(key))
}

fn unusable(key: &[u8]) -> StoreError {
    StoreError::corrupt(Keyspace::SnapshotNodes, key, "a leaf or a branch")
}

#[cfg(test)]
mod tests {
    use super::Numbers;

    #[test]
    fn numbers_are_a_set() {
        let mut numbers = Numbers::default();
        for number in [0, 63, 64, 1_000_000] {
            assert_eq!([numbers.insert(number), numbers.insert(number)], [true, false], "{number}");
            assert!(numbers.contains(number));
        }
        assert_eq!(numbers.len(), 4);
        assert!(![1, 62, 65, 999_999, u32::MAX].into_iter().any(|number| numbers.contains(number)));
    }
}
