//! The nodes of the tree: what is shared between states.

use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};
use smallvec::{SmallVec, smallvec};

use super::{Fingerprint, NodeIndex, entry_fingerprints::Hashed, stored};
use crate::{
    graph::{EventGraph, EventIndex, KeyIndex, KeyTable},
    work::count,
};

/// How many entries a leaf has at most. A subtree with more is a branch, one with fewer never: so the content alone decides the
/// shape.
pub(super) const LEAF_ENTRIES_MAX: usize = 64;

/// How many children a branch has.
pub(super) const CHILDREN: usize = 16;

/// A key with the event that holds it.
pub(super) type Entry = (KeyIndex, EventIndex);

/// A subtree.
#[derive(Clone, Debug, Default)]
pub(super) enum Slot {
    #[default]
    Empty,
    Leaf(Arc<Leaf>),
    Branch(Arc<Branch>),
    /// A whole state of a room that is in a store; never below a branch. It is read by `stored`, and not edited.
    Stored(NodeIndex),
}

/// Few entries. Invariant: at least one and at most [`LEAF_ENTRIES_MAX`], sorted by key, each key once.
#[derive(Debug)]
pub(super) struct Leaf {
    entries: Box<[Entry]>,
    newest: EventIndex,
    /// The leaf that this one is stored as a change of. It has a number and none of these itself, so no reference leads further.
    changes: Option<Arc<Leaf>>,
    marks: Marks,
}

/// An entry that another leaf has not got, with the event that holds its key there.
pub(super) type Changed = (Option<EventIndex>, Entry);

/// One of so many entries may differ from the leaf that a leaf is stored as a change of.
const CHANGED_SHARE: usize = 4;

/// So many entries of a leaf may differ at most.
const CHANGED_MAX: usize = LEAF_ENTRIES_MAX / CHANGED_SHARE;

/// Many entries. Invariant: `len` is the number of entries below and more than [`LEAF_ENTRIES_MAX`].
#[derive(Debug)]
pub(super) struct Branch {
    children: [Slot; CHILDREN],
    len: u32,
    /// No event below has a higher number.
    newest: EventIndex,
    marks: Marks,
}

/// What is found out about a node once and then kept with it.
#[derive(Debug, Default)]
struct Marks {
    fingerprint: OnceLock<Fingerprint>,
    /// The number under which it is stored.
    number: OnceLock<NodeIndex>,
}

impl Marks {
    /// Whether two nodes are known to have the same content.
    fn are_same(&self, other: &Self) -> bool {
        matches!((self.fingerprint.get(), other.fingerprint.get()), (Some(a), Some(b)) if a == b)
    }
}

/// A change of one key: the event that holds it now, or none.
type Edit = (KeyIndex, Option<EventIndex>);

impl Leaf {
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the leaf that this one is stored as a change of.
    pub(super) fn changes(&self) -> Option<&Arc<Self>> {
        self.changes.as_ref()
    }

    /// Returns the leaf that those made of this one may be stored as changes of.
    fn to_change(self: &Arc<Self>) -> Option<&Arc<Self>> {
        self.changes.as_ref().or_else(|| self.marks.number.get().map(|_| self))
    }

    /// Returns the number under which it is stored, if it has one.
    pub(super) fn number(&self) -> Option<NodeIndex> {
        self.marks.number.get().copied()
    }
}

/// Returns the entries that differ from those of another leaf; `None` if they are too many to be stored as a change of that, or
/// a key is not there any more.
pub(super) fn changed(entries: &[Entry], other: &[Entry]) -> Option<SmallVec<[Changed; CHANGED_MAX]>> {
    count(entries.len());
    let mut rest = other;
    let mut changed = SmallVec::new();
    for entry in entries {
        let held = match rest.split_first() {
            Some(((key, event), after)) if *key == entry.0 => {
                rest = after;
                Some(*event)
            }
            _ => None,
        };
        if held != Some(entry.1) {
            if (changed.len() + 1) * CHANGED_SHARE > entries.len() {
                return None;
            }
            changed.push((held, *entry));
        }
    }
    rest.is_empty().then_some(changed)
}

impl Branch {
    pub(super) fn children(&self) -> &[Slot; CHILDREN] {
        &self.children
    }

    fn child(&self, digit: u8) -> &Slot {
        self.children.get(usize::from(digit)).unwrap_or(&Slot::Empty)
    }
}

impl Slot {
    /// Returns the subtree of these entries, sorted by key, that stands at a depth. At most 64 levels deep, by the length of a
    /// path.
    pub(super) fn of_entries(keys: &KeyTable, entries: Vec<Entry>, depth: usize) -> Self {
        count(entries.len());
        let Some(newest) = entries.iter().map(|(_, event)| *event).max() else { return Self::Empty };
        if entries.len() <= LEAF_ENTRIES_MAX {
            return Self::of_leaf(entries, newest, None);
        }
        let len = entries.len();
        let mut below: [Vec<Entry>; CHILDREN] = Default::default();
        for entry in entries {
            if let Some(child) = below.get_mut(usize::from(keys.digit(entry.0, depth))) {
                child.push(entry);
            }
        }
        let children = below.map(|entries| Self::of_entries(keys, entries, depth + 1));
        Self::of_children(children, len, newest)
    }

    fn of_children(children: [Self; CHILDREN], len: usize, newest: EventIndex) -> Self {
        // An entry has a key number, of which there are less than 2^32.
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        Self::Branch(Arc::new(Branch { children, len, newest, marks: Marks::default() }))
    }

    fn of_leaf(entries: Vec<Entry>, newest: EventIndex, changes: Option<Arc<Leaf>>) -> Self {
        let (entries, marks) = (entries.into_boxed_slice(), Marks::default());
        Self::Leaf(Arc::new(Leaf { entries, newest, changes, marks }))
    }

    /// As [`of_entries`](Self::of_entries), for those of a leaf after a change.
    fn of_changed_entries(keys: &KeyTable, entries: Vec<Entry>, old: &Arc<Leaf>, depth: usize) -> Self {
        let newest = entries.iter().map(|(_, event)| *event).max();
        let changes = old.to_change().filter(|other| changed(&entries, &other.entries).is_some());
        match (newest, changes) {
            (Some(newest), Some(changes)) if entries.len() <= LEAF_ENTRIES_MAX => {
                Self::of_leaf(entries, newest, Some(Arc::clone(changes)))
            }
            _ => Self::of_entries(keys, entries, depth),
        }
    }

    /// Returns the leaf of these entries, sorted by key, that is stored as a change of another one, if it is; `None` if it can't be
    /// one.
    pub(super) fn of_loaded_entries(entries: Vec<Entry>, changes: Option<Arc<Leaf>>) -> Option<Self> {
        let newest = entries.iter().map(|(_, event)| *event).max()?;
        (entries.len() <= LEAF_ENTRIES_MAX).then(|| Self::of_leaf(entries, newest, changes))
    }

    /// Returns the branch of these children; `None` if they hold too little for one.
    pub(super) fn of_loaded_children(children: [Self; CHILDREN]) -> Option<Self> {
        let len = children.iter().map(Self::len).sum();
        let newest = children.iter().filter_map(Self::newest).max()?;
        (len > LEAF_ENTRIES_MAX).then(|| Self::of_children(children, len, newest))
    }

    pub(super) fn as_branch(&self) -> Option<&Branch> {
        match self {
            Self::Branch(branch) => Some(branch),
            _ => None,
        }
    }

    fn newest(&self) -> Option<EventIndex> {
        match self {
            Self::Empty | Self::Stored(_) => None,
            Self::Leaf(leaf) => Some(leaf.newest),
            Self::Branch(branch) => Some(branch.newest),
        }
    }

    fn marks(&self) -> Option<&Marks> {
        match self {
            Self::Empty | Self::Stored(_) => None,
            Self::Leaf(leaf) => Some(&leaf.marks),
            Self::Branch(branch) => Some(&branch.marks),
        }
    }

    /// Returns the number under which the node is stored, if it has one.
    pub(super) fn number(&self) -> Option<NodeIndex> {
        self.marks()?.number.get().copied()
    }

    /// Gives the node its number, unless it has one.
    pub(super) fn set_number(&self, number: NodeIndex) {
        if let Some(marks) = self.marks() {
            marks.number.get_or_init(|| number);
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Leaf(leaf) => leaf.entries.len(),
            Self::Branch(branch) => branch.len as usize,
            Self::Stored(_) => 0,
        }
    }

    /// Whether both are the same node, or known to have the same content.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let known_same = || matches!((self.marks(), other.marks()), (Some(a), Some(b)) if a.are_same(b));
        self.is_same_node(other) || known_same()
    }

    /// Whether both are the same node, with the same number.
    pub(super) fn is_same_node(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Empty, Self::Empty) => true,
            (Self::Stored(a), Self::Stored(b)) => a == b,
            (Self::Leaf(a), Self::Leaf(b)) => Arc::ptr_eq(a, b),
            (Self::Branch(a), Self::Branch(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    pub(super) fn get(&self, graph: &EventGraph, wanted: KeyIndex) -> Option<EventIndex> {
        let (mut slot, mut depth) = (self, 0);
        loop {
            count(1);
            match slot {
                Self::Empty => return None,
                Self::Stored(root) => return stored::get(graph, *root, wanted),
                Self::Leaf(leaf) => {
                    let place = leaf.entries.binary_search_by_key(&wanted, |(key, _)| *key).ok()?;
                    return leaf.entries.get(place).map(|(_, event)| *event);
                }
                Self::Branch(branch) => slot = branch.child(graph.keys().digit(wanted, depth)),
            }
            depth += 1;
        }
    }

    /// Returns this subtree with edits that all belong into it, each key once; they are left in another order. A node that does
    /// not change stays the same. At most 64 levels deep, by the length of a path.
    pub(super) fn with_edits(&self, keys: &KeyTable, edits: &mut [Edit], depth: usize) -> Self {
        match self {
            _ if edits.is_empty() => self.clone(),
            Self::Stored(_) => self.clone(),
            Self::Empty => {
                sort_unless_sorted(edits, |(key, _)| *key);
                let entries = edits.iter().filter_map(|(key, event)| Some((*key, (*event)?)));
                Self::of_entries(keys, entries.collect(), depth)
            }
            Self::Leaf(leaf) => match merge(&leaf.entries, edits) {
                Some(entries) => Self::of_changed_entries(keys, entries, leaf, depth),
                None => self.clone(),
            },
            Self::Branch(branch) => branch.with_edits(keys, edits, depth).unwrap_or_else(|| self.clone()),
        }
    }

    /// Returns the entries below, a leaf after the other.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.entries_since(EventIndex::FIRST)
    }

    /// Returns the entries below whose events have this number or a higher one.
    pub(super) fn entries_since(&self, lowest: EventIndex) -> impl Iterator<Item = Entry> {
        let mut pending = vec![self];
        let leaves = std::iter::from_fn(move || {
            loop {
                count(1);
                match pending.pop()? {
                    Self::Leaf(leaf) if leaf.newest >= lowest => {
                        count(leaf.entries.len());
                        return Some(&leaf.entries);
                    }
                    Self::Branch(branch) if branch.newest >= lowest => pending.extend(branch.children.iter().rev()),
                    _ => {}
                }
            }
        });
        leaves.flatten().copied().filter(move |(_, event)| *event >= lowest)
    }

    /// Returns the entries below, sorted by key.
    pub(super) fn sorted_entries(&self) -> Vec<Entry> {
        let mut entries: Vec<Entry> = self.entries().collect();
        entries.sort_unstable();
        entries
    }

    /// Returns the fingerprint of this subtree, which stands at a depth; `None` if it is empty.
    pub(super) fn fingerprint(&self, graph: &EventGraph, depth: usize) -> Option<Fingerprint> {
        match self {
            Self::Empty | Self::Stored(_) => None,
            Self::Leaf(leaf) => Some(*leaf.marks.fingerprint.get_or_init(|| {
                let mut entries = graph.entry_fingerprints().of(graph, &leaf.entries);
                entries.sort_by(|(a, _), (b, _)| graph.keys().compare_paths(*a, *b));
                fingerprint_of_entries(graph, &entries, depth)
            })),
            Self::Branch(branch) => Some(*branch.marks.fingerprint.get_or_init(|| {
                branch_fingerprint(branch.children.iter().map(|child| child.fingerprint(graph, depth + 1)))
            })),
        }
    }
}

impl Branch {
    /// `None` if nothing changes.
    fn with_edits(&self, keys: &KeyTable, edits: &mut [Edit], depth: usize) -> Option<Slot> {
        let digit = |(key, _): &Edit| usize::from(keys.digit(*key, depth));
        sort_unless_sorted(edits, digit);
        let newest = edits.iter().filter_map(|(_, event)| *event).fold(self.newest, EventIndex::max);
        let mut children: Option<[Slot; CHILDREN]> = None;
        let mut len = self.len as usize;
        for here in edits.chunk_by_mut(|a, b| digit(a) == digit(b)) {
            let Some(place) = here.first().map(digit) else { continue };
            let Some(old) = self.children.get(place) else { continue };
            count(1);
            let new = old.with_edits(keys, here, depth + 1);
            if new.is_same_node(old) {
                continue;
            }
            len = len + new.len() - old.len();
            if let Some(child) = children.get_or_insert_with(|| self.children.clone()).get_mut(place) {
                *child = new;
            }
        }
        let children = children?;
        count(CHILDREN);
        if len <= LEAF_ENTRIES_MAX {
            let mut entries: Vec<Entry> = children.iter().flat_map(Slot::entries).collect();
            entries.sort_unstable();
            return Some(Slot::of_entries(keys, entries, depth));
        }
        Some(Slot::of_children(children, len, newest))
    }
}

fn sort_unless_sorted<K: Ord>(edits: &mut [Edit], key: impl Fn(&Edit) -> K) {
    let key = |edit: &Edit| {
        count(1);
        key(edit)
    };
    if !edits.is_sorted_by_key(key) {
        edits.sort_unstable_by_key(key);
    }
}

/// Returns entries with edits; `None` if nothing changes.
fn merge(entries: &[Entry], edits: &mut [Edit]) -> Option<Vec<Entry>> {
    sort_unless_sorted(edits, |(key, _)| *key);
    if let Some(replaced) = replace(entries, edits) {
        return (replaced != entries).then_some(replaced);
    }
    count(entries.len() + edits.len());
    let mut merged = Vec::with_capacity(entries.len() + edits.len());
    let mut changed = false;
    let mut rest = entries;
    for (key, event) in edits {
        let (before, from) = rest.split_at(rest.partition_point(|(held, _)| held < key));
        merged.extend_from_slice(before);
        let held = from.first().filter(|(held, _)| held == key);
        rest = from.get(usize::from(held.is_some())..).unwrap_or_default();
        merged.extend(event.map(|event| (*key, event)));
        changed |= held.map(|(_, event)| *event) != *event;
    }
    merged.extend_from_slice(rest);
    changed.then_some(merged)
}

/// Returns entries with edits that only put other events at keys that are there; `None` if an edit does something else.
fn replace(entries: &[Entry], edits: &[Edit]) -> Option<Vec<Entry>> {
    count(entries.len() + edits.len());
    let mut replaced = entries.to_vec();
    let mut rest = replaced.iter_mut();
    for (key, event) in edits {
        let (_, held) = rest.find(|(held, _)| held >= key).filter(|(held, _)| held == key)?;
        *held = (*event)?;
    }
    Some(replaced)
}

/// The fingerprint of entries, sorted by path, whose paths agree in the digits above a depth: that of an entry if it is alone, of
/// a branch if not. At most 64 levels deep, by the length of a path.
fn fingerprint_of_entries(graph: &EventGraph, entries: &[Hashed], depth: usize) -> Fingerprint {
    if let [(_, fingerprint)] = entries {
        return *fingerprint;
    }
    let mut rest = entries;
    branch_fingerprint((0..16).map(|digit| {
        let end = rest.partition_point(|(key, _)| graph.keys().digit(*key, depth) <= digit);
        let (here, others) = rest.split_at(end);
        rest = others;
        (!here.is_empty()).then(|| fingerprint_of_entries(graph, here, depth + 1))
    }))
}

fn branch_fingerprint(children: impl Iterator<Item = Option<Fingerprint>>) -> Fingerprint {
    let mut bitmap = 0_u16;
    // Hashed at once: many small pieces cost more than the hash.
    let mut message: SmallVec<[u8; 3 + CHILDREN * 32]> = smallvec![1, 0, 0];
    for (digit, child) in children.enumerate() {
        if let Some(fingerprint) = child {
            bitmap |= 1 << (digit & 15);
            message.extend_from_slice(&fingerprint.0);
        }
    }
    if let Some(place) = message.get_mut(1..3) {
        place.copy_from_slice(&bitmap.to_be_bytes());
    }
    Fingerprint(Sha256::digest(&message).into())
}
