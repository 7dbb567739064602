//! The state keys of a room, numbered.

use std::cmp::Ordering;

use hashbrown::HashTable;
use sha2::{Digest, Sha256};

use super::{
    column::Column,
    names::{NameIndex, NameTable},
    number::dense_number,
};
use crate::event::StateKey;

dense_number! {
    /// A dense local number for a state key of a room. It never leaves the process.
    pub KeyIndex
}

impl KeyIndex {
    /// `("m.room.create", "")`
    pub(crate) const CREATE: Self = Self::known(0);
    /// `("m.room.power_levels", "")`
    pub(crate) const POWER_LEVELS: Self = Self::known(1);
    /// `("m.room.join_rules", "")`
    pub(crate) const JOIN_RULES: Self = Self::known(2);
}

/// How many digits of a key's path are kept; the others are computed again where two keys agree in all of these.
const PREFIX_DIGITS: usize = 8;

#[derive(Debug)]
struct Entry {
    event_type: NameIndex,
    state_key: NameIndex,
    /// Where the key stands in the trees of states: the first digits of its SHA-256, four bits each, highest first.
    path_prefix: u32,
}

/// The state keys of a room, each once, and the strings they are made of.
#[derive(Debug)]
pub(crate) struct KeyTable {
    names: NameTable,
    entries: Column<Entry>,
    /// All but those of member events, which their names know.
    by_names: HashTable<KeyIndex>,
}

impl Default for KeyTable {
    fn default() -> Self {
        let mut keys = Self { names: NameTable::default(), entries: Column::default(), by_names: HashTable::new() };
        for event_type in [NameIndex::CREATE, NameIndex::POWER_LEVELS, NameIndex::JOIN_RULES] {
            keys.intern(event_type, NameIndex::EMPTY);
        }
        keys
    }
}

impl KeyTable {
    pub(crate) fn names(&self) -> &NameTable {
        &self.names
    }

    pub(super) fn names_mut(&mut self) -> &mut NameTable {
        &mut self.names
    }

    /// Returns the number of a key, if it has one.
    pub(crate) fn get(&self, event_type: &str, state_key: &str) -> Option<KeyIndex> {
        self.find(self.names.get(event_type)?, self.names.get(state_key)?)
    }

    /// Returns the key of a user's member event, if it has a number.
    pub(crate) fn member(&self, user: NameIndex) -> Option<KeyIndex> {
        self.names.member_key(user)
    }

    /// Returns the number of a key, giving it the next one if it has none; `None` if there is none left.
    pub(crate) fn intern(&mut self, event_type: NameIndex, state_key: NameIndex) -> Option<KeyIndex> {
        if let Some(found) = self.find(event_type, state_key) {
            return Some(found);
        }
        let index = KeyIndex::from_usize(self.entries.len())?;
        let path = path_of(self.names.text(event_type), self.names.text(state_key));
        let path_prefix = path.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        self.entries.push(Entry { event_type, state_key, path_prefix });
        if event_type == NameIndex::MEMBER {
            self.names.set_member_key(state_key, index);
        } else {
            let Self { entries, by_names, .. } = self;
            by_names.insert_unique(hash_of(event_type, state_key), index, |index| {
                entries.get(index.as_usize()).map_or(0, |entry| hash_of(entry.event_type, entry.state_key))
            });
        }
        Some(index)
    }

    /// Returns the state key of a key.
    pub(crate) fn state_key(&self, index: KeyIndex) -> NameIndex {
        self.entry(index).state_key
    }

    /// Returns type and state key.
    pub(crate) fn texts(&self, index: KeyIndex) -> (&str, &str) {
        let entry = self.entry(index);
        (self.names.text(entry.event_type), self.names.text(entry.state_key))
    }

    /// Returns type and state key as bytes, which is quicker.
    pub(crate) fn bytes(&self, index: KeyIndex) -> (&[u8], &[u8]) {
        let entry = self.entry(index);
        (self.names.bytes(entry.event_type), self.names.bytes(entry.state_key))
    }

    pub(crate) fn key(&self, index: KeyIndex) -> StateKey {
        let (event_type, state_key) = self.texts(index);
        StateKey::new(event_type, state_key)
    }

    /// Returns the digit that chooses the child at a depth.
    pub(crate) fn digit(&self, index: KeyIndex, depth: usize) -> u8 {
        if depth < PREFIX_DIGITS {
            return (self.entry(index).path_prefix >> (28 - 4 * depth) & 15) as u8;
        }
        let byte = self.path(index).get(depth / 2).copied().unwrap_or(0);
        if depth.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
    }

    /// Returns the digits that choose the child at a depth and at the next one.
    pub(crate) fn two_digits(&self, index: KeyIndex, depth: usize) -> u8 {
        self.digit(index, depth) << 4 | self.digit(index, depth + 1)
    }

    /// Compares two keys by their paths.
    pub(crate) fn compare_paths(&self, a: KeyIndex, b: KeyIndex) -> Ordering {
        self.entry(a)
            .path_prefix
            .cmp(&self.entry(b).path_prefix)
            .then_with(|| if a == b { Ordering::Equal } else { self.path(a).cmp(&self.path(b)) })
    }

    fn path(&self, index: KeyIndex) -> [u8; 32] {
        let (event_type, state_key) = self.texts(index);
        path_of(event_type, state_key)
    }

    fn find(&self, event_type: NameIndex, state_key: NameIndex) -> Option<KeyIndex> {
        if event_type == NameIndex::MEMBER {
            return self.names.member_key(state_key);
        }
        let is_it = |index: &KeyIndex| {
            let entry = self.entry(*index);
            (entry.event_type, entry.state_key) == (event_type, state_key)
        };
        self.by_names.find(hash_of(event_type, state_key), is_it).copied()
    }

    fn entry(&self, index: KeyIndex) -> &Entry {
        self.entries.at(index.as_usize())
    }
}

/// The numbers are given out here, so nobody can choose them to collide.
fn hash_of(event_type: NameIndex, state_key: NameIndex) -> u64 {
    let both = (event_type.as_usize() as u64) << 32 ^ state_key.as_usize() as u64;
    (both ^ both >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn path_of(event_type: &str, state_key: &str) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(u32::try_from(event_type.len()).unwrap_or(u32::MAX).to_be_bytes());
    hasher.update(event_type);
    hasher.update(state_key);
    hasher.finalize().into()
}
