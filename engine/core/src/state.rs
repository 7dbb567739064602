//! Room state as a persistent map from state key to event, with a 32-byte fingerprint.
//!
//! The map is a trie over the SHA-256 of the key, 16 ways at each step, with up to 64 entries in a leaf. Its shape depends on the
//! content alone: a subtree with no more entries than that is a leaf, so the same entries always give the same tree, whatever
//! edits led to it. Nodes are shared between versions: an edit makes O(log n) new nodes, and comparing maps skips every subtree
//! they share.
//!
//! Inside, keys and events are the dense numbers of the room's [`EventGraph`]; a [`State`] puts both together and speaks of state
//! keys and event ids.

mod compare;
mod entry_fingerprints;
mod node;
mod record;
mod stored;

use std::{collections::BTreeMap, fmt};

use sha2::{Digest, Sha256};

use self::node::Slot;
pub use self::record::{
    EntryRecord, LeafChange, NodeCache, NodeContent, NodeIndex, NodeNumbers, NodeRecord, RootCheck, StateLoader,
    UnusableNode,
};
pub(crate) use self::{compare::conflicts, entry_fingerprints::EntryFingerprints};
use crate::{
    event::StateKey,
    graph::{EventGraph, EventIndex, KeyIndex},
    id::EventId,
};

/// What identifies a state: equal on every server that holds the same entries.
///
/// An entry's is the SHA-256 of `00`, type, state key and event id, each of the first two after its length as four bytes, big
/// endian. A branch's is that of `01`, the 16-bit map of its children (big endian, child 0 in the lowest bit) and the children's
/// fingerprints in order. The empty state's is that of `02`. Children are chosen by the four-bit digits, highest first, of the
/// SHA-256 of the type's length, the type and the state key; an entry stands as high as it is alone. (How nodes lie in memory and on
/// disk has no influence: a leaf of several entries has the fingerprint of the branch that they would be.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Returns the fingerprint of the state without entries.
    pub fn of_empty() -> Self {
        Self(Sha256::digest([2]).into())
    }

    /// Reads 64 hexadecimal digits.
    pub fn parse(hex: &str) -> Option<Self> {
        let digits = hex.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// Returns the SHA-256 over entries sorted by type and state key, each written as type, NUL, state key, NUL, event id, LF: the
/// digest of a state in files of recorded rooms.
pub fn entries_sha256<'a>(sorted: impl IntoIterator<Item = (&'a StateKey, &'a EventId)>) -> Fingerprint {
    let mut hasher = Sha256::new();
    for (key, event_id) in sorted {
        for part in [&*key.event_type, "\0", &*key.state_key, "\0", event_id.as_str(), "\n"] {
            hasher.update(part);
        }
    }
    Fingerprint(hasher.finalize().into())
}

/// A room state by numbers of the room's graph. Cloning costs a reference count.
#[derive(Clone, Debug, Default)]
pub struct StateMap {
    root: Slot,
}

impl StateMap {
    /// Returns the state without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the state that these state events make up, each holding its own key. Of two with the same key the last counts.
    pub fn of_events(graph: &EventGraph, events: impl IntoIterator<Item = EventIndex>) -> Self {
        let entries = events.into_iter().filter_map(|index| Some((graph.key(index)?, Some(index))));
        Self::new().with_edits(graph, entries.collect())
    }

    /// Returns the number of entries, in constant time.
    pub fn len(&self) -> usize {
        self.root.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether both are the same tree. Two states with equal entries can be different trees in memory.
    pub fn is_same(&self, other: &Self) -> bool {
        self.root.is_same(&other.root)
    }

    /// Whether both are one: not only the same, but also stored under the same number.
    pub(crate) fn is_one(&self, other: &Self) -> bool {
        self.root.is_same_node(&other.root)
    }

    /// Returns the event that holds a key. O(log n).
    pub fn get(&self, graph: &EventGraph, key: KeyIndex) -> Option<EventIndex> {
        self.root.get(graph, key)
    }

    /// Returns what holds a key with what it holds in another state of the room, for each key at which they differ, sorted by key.
    pub fn differences(&self, graph: &EventGraph, other: &Self) -> Vec<Difference> {
        let mut found = Vec::new();
        let id = |index: &Option<EventIndex>| index.map(|index| graph.event_id(index));
        conflicts(graph, &[self, other], &mut |key, held| {
            if let [left, right] = held {
                found.push(Difference { key: graph.state_key(key), left: id(left), right: id(right) });
            }
        });
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        found
    }

    /// Returns this state with a key held by an event. O(log n) new nodes.
    #[must_use]
    pub fn insert(&self, graph: &EventGraph, key: KeyIndex, event: EventIndex) -> Self {
        self.with_edits(graph, vec![(key, Some(event))])
    }

    /// Returns this state with each key held by the given event, or by none. Of several edits of a key the last counts.
    ///
    /// Nodes on the way of several edits are made once: O(e log n) for e edits at the most.
    #[must_use]
    pub fn with_edits(&self, graph: &EventGraph, mut edits: Vec<(KeyIndex, Option<EventIndex>)>) -> Self {
        // Stable, so that of several edits of a key the last stays the last.
        edits.sort_by_key(|(key, _)| *key);
        edits.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1 = later.1;
            }
            same
        });
        self.with_distinct_edits(graph, &mut edits)
    }

    /// As [`with_edits`](Self::with_edits), for edits with each key once. Fastest if they are in the order in which comparing this
    /// state with others found the keys.
    pub(crate) fn with_distinct_edits(&self, graph: &EventGraph, edits: &mut [(KeyIndex, Option<EventIndex>)]) -> Self {
        Self { root: self.root.with_edits(graph.keys(), edits, 0) }
    }

    /// Returns the entries, in no particular order. O(n) for all of them.
    pub fn iter(&self) -> impl Iterator<Item = (KeyIndex, EventIndex)> {
        self.root.entries()
    }

    /// Returns the entries whose events have this number or a higher one. Subtrees without any are not visited.
    pub fn entries_since(
        &self,
        graph: &EventGraph,
        lowest: EventIndex,
    ) -> impl Iterator<Item = (KeyIndex, EventIndex)> + use<'_> {
        let stored = match &self.root {
            Slot::Stored(root) => stored::entries_since(graph, *root, lowest),
            _ => Vec::new(),
        };
        self.root.entries_since(lowest).chain(stored)
    }

    /// Returns the fingerprint. Each node's is computed once.
    pub fn fingerprint(&self, graph: &EventGraph) -> Fingerprint {
        self.root.fingerprint(graph, 0).unwrap_or_else(Fingerprint::of_empty)
    }
}

/// A key at which two states differ, with what each holds there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: StateKey,
    /// The event in the state compared.
    pub left: Option<EventId>,
    /// The event in the state it was compared with.
    pub right: Option<EventId>,
}

/// A state of a room, as it is looked at from outside.
#[derive(Clone, Copy)]
pub struct State<'a> {
    graph: &'a EventGraph,
    map: &'a StateMap,
}

impl<'a> State<'a> {
    /// Puts a state and the graph that its numbers are of together.
    pub fn new(graph: &'a EventGraph, map: &'a StateMap) -> Self {
        Self { graph, map }
    }

    /// Returns the map.
    pub fn map(&self) -> &'a StateMap {
        self.map
    }

    /// Returns the number of entries, in constant time.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Returns the fingerprint.
    pub fn fingerprint(&self) -> Fingerprint {
        self.map.fingerprint(self.graph)
    }

    /// Returns the event that holds a key. Costs one hash and O(log n) steps.
    pub fn get(&self, event_type: &str, state_key: &str) -> Option<EventId> {
        let key = self.graph.keys().get(event_type, state_key)?;
        self.map.get(self.graph, key).map(|index| self.graph.event_id(index))
    }

    /// Returns the entries, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (StateKey, EventId)> + use<'a> {
        let graph = self.graph;
        self.map.iter().map(move |(key, index)| (graph.state_key(key), graph.event_id(index)))
    }

    /// Returns the entries that another state of the room does not hold, in no particular order. Costs what differs.
    pub fn changed_since(&self, other: State<'_>) -> Vec<(StateKey, EventId)> {
        let mut changed = Vec::new();
        conflicts(self.graph, &[self.map, other.map], &mut |key, held| {
            if let Some(index) = held.first().copied().flatten() {
                changed.push((self.graph.state_key(key), self.graph.event_id(index)));
            }
        });
        changed
    }

    /// Returns the entries sorted by type, then state key. O(n log n).
    pub fn sorted_entries(&self) -> Vec<(StateKey, EventId)> {
        let mut entries: Vec<_> = self.iter().collect();
        entries.sort_unstable();
        entries
    }

    /// Returns the entries as a map.
    pub fn to_map(&self) -> BTreeMap<StateKey, EventId> {
        self.iter().collect()
    }

    /// Returns the digest of the entries as files of recorded rooms have it, see [`entries_sha256`].
    pub fn entries_sha256(&self) -> Fingerprint {
        let entries = self.sorted_entries();
        entries_sha256(entries.iter().map(|(key, event_id)| (key, event_id)))
    }
}

impl PartialEq for State<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.map.is_same(other.map) || self.fingerprint() == other.fingerprint()
    }
}

impl Eq for State<'_> {}

impl fmt::Debug for State<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.sorted_entries()).finish()
    }
}

#[cfg(test)]
mod tests;
