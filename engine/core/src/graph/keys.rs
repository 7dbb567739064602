//! The state keys of a room, numbered.

use std::{cmp::Ordering, sync::Arc};

use hashbrown::HashTable;
use sha2::{Digest, Sha256};

use crate::event::StateKey;

/// A dense local number for a state key of a room. It never leaves the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyIndex(u32);

impl KeyIndex {
    pub(crate) fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// Where a key stands in the trees of states: the digits of its SHA-256, four bits each, highest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PathPrefix(u64);

/// How many of them are kept; the others are computed again where two keys agree in all of these.
const PREFIX_DIGITS: usize = 16;

#[derive(Debug)]
struct Entry {
    key: StateKey,
    prefix: PathPrefix,
}

/// The state keys of a room, each once.
#[derive(Debug, Default)]
pub(crate) struct KeyTable {
    entries: Vec<Entry>,
    by_hash: HashTable<u32>,
}

impl KeyTable {
    /// Returns the number of a key, if it has one.
    pub(crate) fn get(&self, event_type: &str, state_key: &str) -> Option<KeyIndex> {
        self.find(prefix_of(event_type, state_key), event_type, state_key)
    }

    /// Returns the number of a key, giving it the next one if it has none; `None` if there is none left.
    pub(crate) fn intern(&mut self, event_type: &str, state_key: &str) -> Option<KeyIndex> {
        let prefix = prefix_of(event_type, state_key);
        if let Some(found) = self.find(prefix, event_type, state_key) {
            return Some(found);
        }
        let index = u32::try_from(self.entries.len()).ok()?;
        // Most keys of a room are of one type.
        let event_type = match self.entries.last() {
            Some(last) if &*last.key.event_type == event_type => last.key.event_type.clone(),
            _ => Arc::from(event_type),
        };
        self.entries.push(Entry { key: StateKey { event_type, state_key: state_key.into() }, prefix });
        let entries = &self.entries;
        self.by_hash
            .insert_unique(prefix.0, index, |index| entries.get(*index as usize).map_or(0, |entry| entry.prefix.0));
        Some(KeyIndex(index))
    }

    pub(crate) fn key(&self, index: KeyIndex) -> &StateKey {
        &self.entry(index).key
    }

    /// Returns the digit that chooses the child at a depth.
    pub(crate) fn digit(&self, index: KeyIndex, depth: usize) -> u8 {
        let entry = self.entry(index);
        if depth < PREFIX_DIGITS {
            return (entry.prefix.0 >> (60 - 4 * depth) & 15) as u8;
        }
        let hash = hash_of(&entry.key.event_type, &entry.key.state_key);
        let byte = hash.get(depth / 2).copied().unwrap_or(0);
        if depth.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
    }

    /// Compares two keys by their paths.
    pub(crate) fn compare_paths(&self, a: KeyIndex, b: KeyIndex) -> Ordering {
        let (left, right) = (self.entry(a), self.entry(b));
        left.prefix.cmp(&right.prefix).then_with(|| {
            if a == b {
                return Ordering::Equal;
            }
            let hash = |entry: &Entry| hash_of(&entry.key.event_type, &entry.key.state_key);
            hash(left).cmp(&hash(right))
        })
    }

    fn find(&self, prefix: PathPrefix, event_type: &str, state_key: &str) -> Option<KeyIndex> {
        let found = self.by_hash.find(prefix.0, |index| {
            self.entries.get(*index as usize).is_some_and(|entry| {
                entry.prefix == prefix && &*entry.key.state_key == state_key && &*entry.key.event_type == event_type
            })
        });
        found.copied().map(KeyIndex)
    }

    #[allow(clippy::indexing_slicing, reason = "numbers are made by `intern` alone, and entries are never taken away")]
    fn entry(&self, index: KeyIndex) -> &Entry {
        &self.entries[index.as_usize()]
    }
}

fn prefix_of(event_type: &str, state_key: &str) -> PathPrefix {
    let hash = hash_of(event_type, state_key);
    PathPrefix(hash.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
}

fn hash_of(event_type: &str, state_key: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(u32::try_from(event_type.len()).unwrap_or(u32::MAX).to_be_bytes());
    hasher.update(event_type);
    hasher.update(state_key);
    hasher.finalize().into()
}
