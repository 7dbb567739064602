//! Comparing states at the cost of what differs.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{
    StateMap,
    node::{Branch, CHILDREN, Entry, Slot},
    stored,
};
use crate::{
    graph::{EventGraph, EventIndex, KeyIndex},
    work::count,
};

/// Calls `found` for each key at which the states differ, with what each holds there, in their order.
///
/// Subtrees that all share are not visited: O(s d log n) for d such keys and s states.
pub(crate) fn conflicts(
    graph: &EventGraph,
    states: &[&StateMap],
    found: &mut impl FnMut(KeyIndex, &[Option<EventIndex>]),
) {
    if states.iter().any(|state| matches!(state.root, Slot::Stored(_))) {
        let roots = states.iter().map(|state| match state.root {
            Slot::Stored(root) => Some(root),
            _ => None,
        });
        return stored::compare(graph, &roots.collect::<Vec<_>>(), 0, found);
    }
    let slots: Slots<'_> = states.iter().map(|state| &state.root).collect();
    compare(&slots, found);
}

/// The same subtree of several states.
type Slots<'a> = SmallVec<[&'a Slot; 4]>;

/// At most 64 levels deep, by the length of a path.
fn compare(slots: &[&Slot], found: &mut impl FnMut(KeyIndex, &[Option<EventIndex>])) {
    count(slots.len());
    let Some((first, rest)) = slots.split_first() else { return };
    if rest.iter().all(|slot| slot.is_same(first)) {
        return;
    }
    let branches: SmallVec<[&Branch; 4]> = slots.iter().filter_map(|slot| slot.as_branch()).collect();
    if branches.len() == slots.len() {
        for place in 0..CHILDREN {
            let children: Slots<'_> = branches.iter().filter_map(|branch| branch.children().get(place)).collect();
            compare(&children, found);
        }
        return;
    }
    // A leaf beside a branch: they differ in all but the leaf's few entries, so looking at all below costs what differs.
    let entries: SmallVec<[Cow<'_, [Entry]>; 4]> = slots
        .iter()
        .map(|slot| match slot {
            Slot::Empty | Slot::Stored(_) => Cow::Borrowed(&[][..]),
            Slot::Leaf(leaf) => Cow::Borrowed(leaf.entries()),
            Slot::Branch(_) => Cow::Owned(slot.sorted_entries()),
        })
        .collect();
    match &*entries {
        [left, right] => compare_two(left, right, found),
        _ => compare_entries(entries.iter().map(|entries| &**entries).collect(), found),
    }
}

/// Compares two lists of entries, each sorted by key. (As the next function does, in half of the time: two states are the rule.)
fn compare_two(mut left: &[Entry], mut right: &[Entry], found: &mut impl FnMut(KeyIndex, &[Option<EventIndex>])) {
    loop {
        count(1);
        match (left, right) {
            ([(key, event), left_rest @ ..], [(other_key, other), right_rest @ ..]) if key == other_key => {
                if event != other {
                    found(*key, &[Some(*event), Some(*other)]);
                }
                (left, right) = (left_rest, right_rest);
            }
            ([(key, event), rest @ ..], right) if right.first().is_none_or(|(other_key, _)| key < other_key) => {
                found(*key, &[Some(*event), None]);
                left = rest;
            }
            (_, [(key, event), rest @ ..]) => {
                found(*key, &[None, Some(*event)]);
                right = rest;
            }
            _ => return,
        }
    }
}

/// Compares lists of entries, each sorted by key.
fn compare_entries(mut rests: SmallVec<[&[Entry]; 4]>, found: &mut impl FnMut(KeyIndex, &[Option<EventIndex>])) {
    let mut values: SmallVec<[Option<EventIndex>; 4]> = SmallVec::new();
    loop {
        skip_common(&mut rests);
        let Some(key) = rests.iter().filter_map(|rest| rest.first()).map(|(key, _)| *key).min() else { return };
        count(rests.len());
        values.clear();
        for rest in &mut rests {
            values.push(match rest.split_first() {
                Some(((held, event), after)) if *held == key => {
                    *rest = after;
                    Some(*event)
                }
                _ => None,
            });
        }
        if values.iter().any(|value| Some(value) != values.first()) {
            found(key, &values);
        }
    }
}

/// Skips the entries with which all lists begin.
fn skip_common(rests: &mut [&[Entry]]) {
    let Some((first, others)) = rests.split_first() else { return };
    let common = |other: &&[Entry]| first.iter().zip(*other).take_while(|(a, b)| a == b).count();
    let common = others
        .iter()
        .map(|other| {
            let common = common(other);
            count(common + 1);
            common
        })
        .min()
        .unwrap_or(0);
    for rest in rests {
        *rest = rest.get(common..).unwrap_or_default();
    }
}
