//! Comparing states at the cost of what differs.

use smallvec::SmallVec;

use super::{StateMap, node::Slot};
use crate::graph::{EventGraph, EventIndex, KeyIndex};

/// Calls `found` for each key at which the states differ, with what each holds there, in their order.
///
/// Subtrees that all share are not visited: O(s d log n) for d such keys and s states.
pub(crate) fn conflicts(
    graph: &EventGraph,
    states: &[&StateMap],
    found: &mut impl FnMut(KeyIndex, &[Option<EventIndex>]),
) {
    let slots: Slots<'_> = states.iter().map(|state| &state.root).collect();
    compare(graph, &slots, 0, found);
}

/// The same subtree of several states.
type Slots<'a> = SmallVec<[&'a Slot; 4]>;

/// At most 64 levels deep, by the length of a path.
fn compare(graph: &EventGraph, slots: &[&Slot], depth: usize, found: &mut impl FnMut(KeyIndex, &[Option<EventIndex>])) {
    let Some((first, rest)) = slots.split_first() else { return };
    if rest.iter().all(|slot| slot.is_same(first)) {
        return;
    }
    if slots.iter().any(|slot| matches!(slot, Slot::Branch(_))) {
        let keys = graph.keys();
        for digit in 0..16 {
            let children: Slots<'_> = slots
                .iter()
                .map(|slot| match slot {
                    Slot::Branch(branch) => branch.child(digit),
                    Slot::Entry(key, _) if keys.digit(*key, depth) == digit => slot,
                    _ => &Slot::Empty,
                })
                .collect();
            compare(graph, &children, depth + 1, found);
        }
        return;
    }
    // Entries only, of one key or of several whose paths begin alike.
    let mut keys: SmallVec<[KeyIndex; 4]> = slots.iter().filter_map(|slot| entry(slot)).map(|(key, _)| key).collect();
    keys.sort_unstable();
    keys.dedup();
    for key in keys {
        let values: SmallVec<[Option<EventIndex>; 4]> =
            slots.iter().map(|slot| entry(slot).filter(|(held, _)| *held == key).map(|(_, event)| event)).collect();
        found(key, &values);
    }
}

fn entry(slot: &Slot) -> Option<(KeyIndex, EventIndex)> {
    match slot {
        Slot::Entry(key, event) => Some((*key, *event)),
        _ => None,
    }
}
