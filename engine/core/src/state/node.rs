//! The nodes of the tree and their edits.

use std::sync::{Arc, OnceLock};

use sha2::{Digest, Sha256};

use super::Fingerprint;
use crate::{
    event::StateKey,
    graph::{EventGraph, EventIndex, KeyIndex, KeyTable},
    id::EventId,
};

/// A subtree: nothing, one entry, or a branch.
#[derive(Clone, Debug, Default)]
pub(super) enum Slot {
    #[default]
    Empty,
    Entry(KeyIndex, EventIndex),
    Branch(Arc<Branch>),
}

/// A node with children.
///
/// Invariants: it holds at least two entries; an entry stands as high as it is alone; no child is empty; `len` and `newest` are
/// those of the content.
#[derive(Debug)]
pub(super) struct Branch {
    /// Which of the 16 children are there, child 0 in the lowest bit.
    bitmap: u16,
    /// Those that are there, in order.
    children: Box<[Slot]>,
    len: u32,
    /// The highest number among the events below.
    newest: EventIndex,
    fingerprint: OnceLock<Fingerprint>,
}

const fn bit(digit: u8) -> u16 {
    1 << (digit & 15)
}

impl Branch {
    pub(super) fn bitmap(&self) -> u16 {
        self.bitmap
    }

    pub(super) fn children(&self) -> &[Slot] {
        &self.children
    }

    pub(super) fn child(&self, digit: u8) -> &Slot {
        if self.bitmap & bit(digit) == 0 {
            return &Slot::Empty;
        }
        let position = (self.bitmap & (bit(digit) - 1)).count_ones() as usize;
        self.children.get(position).unwrap_or(&Slot::Empty)
    }

    fn fingerprint(&self, graph: &EventGraph) -> Fingerprint {
        *self
            .fingerprint
            .get_or_init(|| branch_fingerprint(self.bitmap, self.children.iter().map(|child| child.fingerprint(graph))))
    }
}

pub(super) fn branch_fingerprint(bitmap: u16, children: impl Iterator<Item = Fingerprint>) -> Fingerprint {
    let mut hasher = Sha256::new();
    hasher.update([1]);
    hasher.update(bitmap.to_be_bytes());
    children.for_each(|child| hasher.update(child.0));
    Fingerprint(hasher.finalize().into())
}

pub(super) fn entry_fingerprint(key: &StateKey, event_id: &EventId) -> Fingerprint {
    let mut hasher = Sha256::new();
    hasher.update([0]);
    for part in [&key.event_type, &key.state_key] {
        // Lengths come from events, which are at most 64 KiB.
        hasher.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        hasher.update(&**part);
    }
    hasher.update(event_id.as_str());
    Fingerprint(hasher.finalize().into())
}

impl Slot {
    /// Returns the canonical subtree of these children, numbered by their digits: nothing, an entry that is alone, or a branch.
    pub(super) fn of_children(children: Vec<(u8, Self)>) -> Self {
        let mut children = children;
        children.retain(|(_, child)| !matches!(child, Self::Empty));
        match children.as_slice() {
            [] => return Self::Empty,
            [(_, Self::Entry(key, event))] => return Self::Entry(*key, *event),
            _ => {}
        }
        let bitmap = children.iter().fold(0, |bitmap, (digit, _)| bitmap | bit(*digit));
        let len = children.iter().map(|(_, child)| child.len()).sum::<usize>();
        let newest = children.iter().map(|(_, child)| child.newest()).max().flatten().unwrap_or_default();
        Self::Branch(Arc::new(Branch {
            bitmap,
            // An entry has a key number, of which there are less than 2^32.
            len: u32::try_from(len).unwrap_or(u32::MAX),
            newest,
            children: children.into_iter().map(|(_, child)| child).collect(),
            fingerprint: OnceLock::new(),
        }))
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Entry(..) => 1,
            Self::Branch(branch) => branch.len as usize,
        }
    }

    fn newest(&self) -> Option<EventIndex> {
        match self {
            Self::Empty => None,
            Self::Entry(_, event) => Some(*event),
            Self::Branch(branch) => Some(branch.newest),
        }
    }

    /// Whether both are the same nodes, or the same entry.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Empty, Self::Empty) => true,
            (Self::Entry(key, event), Self::Entry(other_key, other_event)) => key == other_key && event == other_event,
            (Self::Branch(branch), Self::Branch(other)) => {
                Arc::ptr_eq(branch, other)
                    || matches!((branch.fingerprint.get(), other.fingerprint.get()), (Some(a), Some(b)) if a == b)
            }
            _ => false,
        }
    }

    pub(super) fn fingerprint(&self, graph: &EventGraph) -> Fingerprint {
        match self {
            Self::Empty => Fingerprint::of_empty(),
            Self::Entry(key, event) => entry_fingerprint(graph.keys().key(*key), &graph.event(*event).event_id),
            Self::Branch(branch) => branch.fingerprint(graph),
        }
    }

    pub(super) fn get(&self, keys: &KeyTable, wanted: KeyIndex) -> Option<EventIndex> {
        let (mut slot, mut depth) = (self, 0);
        loop {
            match slot {
                Self::Empty => return None,
                Self::Entry(key, event) => return (*key == wanted).then_some(*event),
                Self::Branch(branch) => slot = branch.child(keys.digit(wanted, depth)),
            }
            depth += 1;
        }
    }

    /// Returns the child of a subtree that stands at a depth: an entry is its own child, further down.
    pub(super) fn child_at(&self, keys: &KeyTable, depth: usize, digit: u8) -> Self {
        match self {
            Self::Empty => Self::Empty,
            Self::Entry(key, _) if keys.digit(*key, depth) != digit => Self::Empty,
            Self::Entry(key, event) => Self::Entry(*key, *event),
            Self::Branch(branch) => branch.child(digit).clone(),
        }
    }

    /// Returns this subtree with edits that all belong into it, each key once, sorted by path. At most 64 levels deep, by
    /// the length of a path.
    pub(super) fn with_edits(&self, keys: &KeyTable, edits: &[(KeyIndex, Option<EventIndex>)], depth: usize) -> Self {
        match (self, edits) {
            (_, []) => return self.clone(),
            (Self::Empty, [(key, event)]) => return event.map_or(Self::Empty, |event| Self::Entry(*key, event)),
            (Self::Entry(held, _), [(key, event)]) if held == key => {
                return event.map_or(Self::Empty, |event| Self::Entry(*key, event));
            }
            _ => {}
        }
        let mut children = Vec::with_capacity(16);
        let mut rest = edits;
        for digit in 0..16 {
            let (here, others) = rest.split_at(rest.partition_point(|(key, _)| keys.digit(*key, depth) <= digit));
            rest = others;
            let child = self.child_at(keys, depth, digit);
            children.push((digit, if here.is_empty() { child } else { child.with_edits(keys, here, depth + 1) }));
        }
        Self::of_children(children)
    }

    /// Returns the entries below, in order.
    pub(super) fn entries(&self) -> impl Iterator<Item = (KeyIndex, EventIndex)> {
        self.entries_since(EventIndex::default())
    }

    /// Returns the entries below whose events have this number or a higher one.
    pub(super) fn entries_since(&self, lowest: EventIndex) -> impl Iterator<Item = (KeyIndex, EventIndex)> {
        let mut pending = vec![self];
        std::iter::from_fn(move || {
            loop {
                match pending.pop()? {
                    Self::Entry(key, event) if *event >= lowest => return Some((*key, *event)),
                    Self::Branch(branch) if branch.newest >= lowest => pending.extend(branch.children.iter().rev()),
                    _ => {}
                }
            }
        })
    }
}
