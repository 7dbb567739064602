//! Visiting the snapshot nodes of a room, each once, in bounded memory.

use bytes::Bytes;
use ravel_core::state::{NodeContent, NodeIndex, NodeRecord};

use super::{
    EventLog, LogError,
    records::{SnapshotNodeRecord, key},
};
use crate::{Keyspace, StoreError, codec};

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
        self.0.iter().map(|word| u64::from(word.count_ones())).sum()
    }
}

/// The nodes of a room that were visited.
#[derive(Debug, Default)]
pub(super) struct NodeWalk {
    room: u32,
    /// Nodes from this number on are not visited.
    boundary: u32,
    visited: Numbers,
}

impl NodeWalk {
    pub(super) fn new(room: u32, boundary: u32) -> Self {
        Self { room, boundary, visited: Numbers::default() }
    }

    pub(super) fn boundary(&self) -> u32 {
        self.boundary
    }

    pub(super) fn visited(&self) -> &Numbers {
        &self.visited
    }

    /// Visits the nodes below some roots, the roots included, that were not visited before; `None` is one that is not there.
    ///
    /// Reads up to 1,024 nodes at once and keeps at most that many times the depth of a tree and a branch's children of numbers in
    /// memory, beside a bit for each node of the room.
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
            let keys: Vec<Bytes> = numbers.iter().map(|number| key::node(self.room, *number)).collect();
            let found = log.store.get_many(Keyspace::SnapshotNodes, &keys).await?;
            for ((number, key), value) in numbers.into_iter().zip(&keys).zip(found) {
                let Some(value) = value else {
                    on_node(number, None);
                    continue;
                };
                let node = decode_node(key, &value)?;
                if let NodeContent::Branch { children, .. } = &node.content {
                    for child in children.iter().flatten() {
                        self.want(child.number(), &mut pending);
                    }
                }
                on_node(number, Some(&node));
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
}

/// Decodes the record of a node.
pub(super) fn decode_node(key: &[u8], value: &[u8]) -> Result<NodeRecord, StoreError> {
    let node = codec::decode::<SnapshotNodeRecord>(key, value)?.into_node();
    node.ok_or_else(|| StoreError::corrupt(Keyspace::SnapshotNodes, key, "a leaf or a branch"))
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
