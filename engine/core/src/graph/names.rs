//! The strings of a room, each once: event types, state keys, user ids, tokens.

use std::hash::{DefaultHasher, Hasher};

use hashbrown::HashTable;

use super::{
    KeyIndex,
    column::{Arena, Column, Span},
    number::dense_number,
};
use crate::event::event_type;

dense_number! {
    /// A dense local number for a string of a room.
    pub(crate) NameIndex
}

#[allow(missing_docs)]
impl NameIndex {
    pub(crate) const EMPTY: Self = Self::known(0);
    pub(crate) const CREATE: Self = Self::known(1);
    pub(crate) const MEMBER: Self = Self::known(2);
    pub(crate) const POWER_LEVELS: Self = Self::known(3);
    pub(crate) const JOIN_RULES: Self = Self::known(4);
    pub(crate) const THIRD_PARTY_INVITE: Self = Self::known(5);
    pub(crate) const ALIASES: Self = Self::known(6);
    pub(crate) const REDACTION: Self = Self::known(7);
}

/// The strings that every room has, in the order of the constants above.
const KNOWN: [&str; 8] = [
    "",
    event_type::CREATE,
    event_type::MEMBER,
    event_type::POWER_LEVELS,
    event_type::JOIN_RULES,
    event_type::THIRD_PARTY_INVITE,
    event_type::ALIASES,
    event_type::REDACTION,
];

#[derive(Debug)]
struct Entry {
    text: Span,
    /// The key of the member event with this name as its state key.
    member_key: Option<KeyIndex>,
}

/// The strings.
#[derive(Debug)]
pub(crate) struct NameTable {
    entries: Column<Entry>,
    texts: Arena<u8>,
    by_text: HashTable<NameIndex>,
}

impl Default for NameTable {
    fn default() -> Self {
        let mut names = Self {
            entries: Column::default(),
            texts: Arena::default(),
            by_text: HashTable::with_capacity(KNOWN.len()),
        };
        for text in KNOWN {
            names.intern(text);
        }
        names
    }
}

impl NameTable {
    /// Returns the number of a string, if it has one.
    pub(crate) fn get(&self, text: &str) -> Option<NameIndex> {
        self.find(hash_of(text), text)
    }

    /// Returns the number of a string, giving it the next one if it has none; `None` if there is no room for it.
    pub(crate) fn intern(&mut self, text: &str) -> Option<NameIndex> {
        let hash = hash_of(text);
        if let Some(found) = self.find(hash, text) {
            return Some(found);
        }
        let index = NameIndex::from_usize(self.entries.len())?;
        let stored = self.texts.store(text.as_bytes())?;
        self.entries.push(Entry { text: stored, member_key: None });
        let Self { entries, texts, by_text } = self;
        by_text.insert_unique(hash, index, |index| {
            entries.get(index.as_usize()).map_or(0, |entry| hash_of_bytes(texts.get(entry.text)))
        });
        Some(index)
    }

    pub(crate) fn text(&self, name: NameIndex) -> &str {
        // They came in as strings.
        std::str::from_utf8(self.bytes(name)).unwrap_or_default()
    }

    pub(super) fn member_key(&self, name: NameIndex) -> Option<KeyIndex> {
        self.entries.get(name.as_usize())?.member_key
    }

    pub(super) fn set_member_key(&mut self, name: NameIndex, key: KeyIndex) {
        if let Some(entry) = self.entries.get_mut(name.as_usize()) {
            entry.member_key = Some(key);
        }
    }

    pub(super) fn bytes(&self, name: NameIndex) -> &[u8] {
        self.entries.get(name.as_usize()).map_or(&[], |entry| self.texts.get(entry.text))
    }

    fn find(&self, hash: u64, text: &str) -> Option<NameIndex> {
        self.by_text.find(hash, |name| self.bytes(*name) == text.as_bytes()).copied()
    }
}

fn hash_of(text: &str) -> u64 {
    hash_of_bytes(text.as_bytes())
}

pub(super) fn hash_of_bytes(text: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::{NameIndex, NameTable};

    #[test]
    fn a_string_has_one_number() {
        let mut names = NameTable::default();
        let alice = names.intern("@alice:a").unwrap();
        assert_eq!(names.intern("@bob:b"), names.get("@bob:b"));
        assert_eq!(names.intern("@alice:a"), Some(alice));
        assert_eq!(names.text(alice), "@alice:a");
        assert_eq!(names.get("@carol:c"), None);
    }

    #[test]
    fn the_constants_are_the_numbers_of_their_strings() {
        let names = NameTable::default();
        for (name, text) in [
            (NameIndex::EMPTY, ""),
            (NameIndex::CREATE, "m.room.create"),
            (NameIndex::MEMBER, "m.room.member"),
            (NameIndex::POWER_LEVELS, "m.room.power_levels"),
            (NameIndex::JOIN_RULES, "m.room.join_rules"),
            (NameIndex::THIRD_PARTY_INVITE, "m.room.third_party_invite"),
            (NameIndex::ALIASES, "m.room.aliases"),
            (NameIndex::REDACTION, "m.room.redaction"),
        ] {
            assert_eq!((names.get(text), names.text(name)), (Some(name), text));
        }
    }
}
