//! Reading states whose nodes are in a store, as far as they are in memory: see [`crate::graph::Missing`].
//!
//! A root's fingerprint is not checked here, which would take all nodes below: that is done when a room is loaded. What is read
//! has passed the checksum of its record.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use smallvec::SmallVec;

use super::{
    NodeIndex,
    record::{EntryRecord, LeafChange, NodeContent},
};
use crate::graph::{EventGraph, EventIndex, KeyIndex};

/// How many digits a path has, and so how many levels a tree has at most. Records that were damaged could make more.
const LEVELS_MAX: usize = 64;

/// Calls `found` for each key at which states differ, as [`conflicts`](super::conflicts) does.
pub(super) fn compare(
    graph: &EventGraph,
    nodes: &[Option<NodeIndex>],
    depth: usize,
    found: &mut impl FnMut(KeyIndex, &[Option<EventIndex>]),
) {
    if depth > LEVELS_MAX || nodes.iter().all(|node| Some(node) == nodes.first()) {
        return;
    }
    // All are asked for, so that all that are missing are loaded together.
    let records: Vec<_> = nodes.iter().map(|node| node.map(|number| graph.stored_node(number))).collect();
    let branches = records.iter().map(|record| match record.flatten()?.content {
        NodeContent::Branch { children } => Some(children),
        NodeContent::Leaf(_) | NodeContent::Change(_) => None,
    });
    if let Some(branches) = branches.collect::<Option<Vec<_>>>() {
        for digit in 0..16 {
            let children = branches.iter().map(|children| children.get(digit).copied().flatten());
            compare(graph, &children.collect::<Vec<_>>(), depth + 1, found);
        }
        return;
    }
    if records.iter().any(|record| matches!(record, Some(None))) {
        return;
    }
    let mut is_whole = true;
    let events: Vec<BTreeSet<EventIndex>> = nodes
        .iter()
        .map(|node| {
            let mut events = BTreeSet::new();
            if let Some(number) = node {
                is_whole &= collect_since(graph, *number, 0, EventIndex::FIRST, &mut events);
            }
            events
        })
        .collect();
    // What is not in memory would look like a conflict.
    if !is_whole {
        return;
    }
    // What all hold is no conflict, whatever its key.
    let mut by_key: BTreeMap<KeyIndex, SmallVec<[Option<EventIndex>; 4]>> = BTreeMap::new();
    for (state, held) in events.iter().enumerate() {
        for event in held.iter().filter(|event| !events.iter().all(|other| other.contains(event))) {
            let Some(key) = graph.key(*event) else { continue };
            let values = by_key.entry(key).or_insert_with(|| smallvec::smallvec![None; nodes.len()]);
            if let Some(value) = values.get_mut(state) {
                *value = Some(*event);
            }
        }
    }
    by_key.iter().for_each(|(key, values)| found(*key, values));
}

/// Returns the event that holds a key.
pub(super) fn get(graph: &EventGraph, root: NodeIndex, wanted: KeyIndex) -> Option<EventIndex> {
    let (mut node, mut depth) = (root, 0);
    loop {
        let entries = match &graph.stored_node(node)?.content {
            NodeContent::Branch { children } => {
                node = (*children.get(usize::from(graph.keys().digit(wanted, depth)))?)?;
                depth += 1;
                continue;
            }
            NodeContent::Leaf(entries) => Cow::Borrowed(entries),
            NodeContent::Change(change) => Cow::Owned(changed_entries(graph, change)?),
        };
        let path = graph.keys().two_digits(wanted, depth);
        let alike = entries.iter().filter(|entry| entry.path == path);
        return alike.map(|entry| entry.event).find(|event| graph.key(*event) == Some(wanted));
    }
}

/// Returns the entries of a leaf that is stored as a change, if the one that it changes is in memory.
fn changed_entries(graph: &EventGraph, change: &LeafChange) -> Option<Vec<EntryRecord>> {
    match &graph.stored_node(change.of)?.content {
        NodeContent::Leaf(entries) => change.entries(entries),
        NodeContent::Change(_) | NodeContent::Branch { .. } => None,
    }
}

/// Returns the entries whose events have this number or a higher one.
pub(super) fn entries_since(graph: &EventGraph, root: NodeIndex, lowest: EventIndex) -> Vec<(KeyIndex, EventIndex)> {
    let mut events = BTreeSet::new();
    collect_since(graph, root, graph.nodes_before(lowest), lowest, &mut events);
    events.into_iter().filter_map(|event| Some((graph.key(event)?, event))).collect()
}

/// Collects the events from `lowest` on, of nodes from number `nodes_before` on: what an event is in was made after it. Returns
/// whether all of them are in memory.
fn collect_since(
    graph: &EventGraph,
    node: NodeIndex,
    nodes_before: u32,
    lowest: EventIndex,
    events: &mut BTreeSet<EventIndex>,
) -> bool {
    let (mut pending, mut is_whole) = (vec![node], true);
    let mut collect = |event: EventIndex| {
        if event >= lowest {
            events.insert(event);
        }
    };
    while let Some(node) = pending.pop() {
        if node.number() < nodes_before {
            continue;
        }
        match graph.stored_node(node).map(|record| &record.content) {
            None => is_whole = false,
            Some(NodeContent::Leaf(entries)) => entries.iter().for_each(|entry| collect(entry.event)),
            // All in the other leaf is older.
            Some(NodeContent::Change(change)) if change.of.number() < nodes_before => {
                change.replaced.iter().for_each(|(event, _)| collect(*event));
                change.added.iter().for_each(|entry| collect(entry.event));
            }
            Some(NodeContent::Change(change)) => match changed_entries(graph, change) {
                Some(entries) => entries.iter().for_each(|entry| collect(entry.event)),
                None => is_whole = false,
            },
            Some(NodeContent::Branch { children }) => pending.extend(children.iter().flatten()),
        }
    }
    is_whole
}
