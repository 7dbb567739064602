//! The chains of power levels events, each citing the one before: what mainlines are made of.
//!
//! The power levels that an event cites are its parent, so all of a room are a tree, and the mainline of an event is its line of
//! ancestors. Each knows how deep it stands and one ancestor further up (a jump, chosen so that any ancestor is reached in a
//! logarithmic number of steps); where two lines meet is found without walking them.

use std::collections::BTreeMap;

use super::EventIndex;

/// Where a power levels event stands in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerChain {
    /// How many there are from the oldest to this one: 1 for one that cites none.
    pub depth: u32,
    /// An ancestor; itself if it cites none.
    pub jump: EventIndex,
    /// The power levels that it cites.
    pub parent: Option<EventIndex>,
}

impl PowerChain {
    /// Returns the place of an event that cites `parent`.
    pub(super) fn below(index: EventIndex, parent: Option<EventIndex>, chains: &BTreeMap<EventIndex, Self>) -> Self {
        let place = |index: EventIndex| chains.get(&index).copied();
        let Some((number, above)) = parent.and_then(|parent| Some((parent, place(parent)?))) else {
            return Self { depth: 1, jump: index, parent: None };
        };
        // Jumps have the lengths of a skew-binary number: two of a length are followed by one over both.
        let over = place(above.jump).unwrap_or(above);
        let farther = place(over.jump).unwrap_or(over);
        let doubles = above.depth - over.depth == over.depth - farther.depth;
        Self { depth: above.depth + 1, jump: if doubles { over.jump } else { number }, parent: Some(number) }
    }
}

/// Returns the deepest event that both lines have, with its place. O(log p) look-ups for lines of p.
///
/// `place` returns where an event stands; nothing, and then neither does this, for one that is not there.
pub(super) fn meeting(
    mut left: EventIndex,
    mut right: EventIndex,
    place: impl Fn(EventIndex) -> Option<PowerChain>,
) -> Option<PowerChain> {
    let (mut left_place, mut right_place) = (place(left)?, place(right)?);
    while left != right {
        if left_place.depth < right_place.depth {
            std::mem::swap(&mut left, &mut right);
            std::mem::swap(&mut left_place, &mut right_place);
        }
        if left_place.depth > right_place.depth {
            // Up with the deeper one, as far as it stays at least as deep.
            let over = place(left_place.jump)?;
            left = if over.depth >= right_place.depth { left_place.jump } else { left_place.parent? };
            left_place = place(left)?;
        } else {
            // At the same depth jumps are equally long.
            let apart = left_place.jump != right_place.jump && left_place.jump != left;
            (left, right) =
                if apart { (left_place.jump, right_place.jump) } else { (left_place.parent?, right_place.parent?) };
            (left_place, right_place) = (place(left)?, place(right)?);
        }
    }
    Some(left_place)
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, collections::BTreeMap};

    use super::{PowerChain, meeting};
    use crate::graph::EventIndex;

    /// Events by number, each with the number of its parent.
    fn chains(parents: &[Option<usize>]) -> BTreeMap<EventIndex, PowerChain> {
        let index = |place| EventIndex::from_usize(place).unwrap();
        let mut chains = BTreeMap::new();
        for (place, parent) in parents.iter().enumerate() {
            let chain = PowerChain::below(index(place), parent.map(index), &chains);
            chains.insert(index(place), chain);
        }
        chains
    }

    #[test]
    fn lines_meet_where_walking_them_says() {
        // Trees of many shapes, from a line to a bush, some with two oldest ones.
        for shape in 1..12_usize {
            let parent = |place: usize| match place {
                0 => None,
                1 if shape % 3 == 0 => None,
                _ => Some(place - 1 - (place * 7919 / 3) % shape.min(place)),
            };
            let parents: Vec<_> = (0..120).map(parent).collect();
            let chains = chains(&parents);
            let line = |place: usize| std::iter::successors(Some(place), |place| parents[*place]).collect::<Vec<_>>();
            for left in 0..parents.len() {
                assert_eq!(chains[&EventIndex::from_usize(left).unwrap()].depth as usize, line(left).len());
                for right in (0..parents.len()).step_by(3) {
                    let expected = line(left).into_iter().find(|place| line(right).contains(place));
                    let indices = [left, right].map(|place| EventIndex::from_usize(place).unwrap());
                    let met = meeting(indices[0], indices[1], |index| chains.get(&index).copied());
                    let expected = expected.map(|place| chains[&EventIndex::from_usize(place).unwrap()]);
                    assert_eq!(met, expected, "{left} and {right} in shape {shape}");
                }
            }
        }
    }

    #[test]
    fn long_lines_are_not_walked() {
        // Two lines of 10,000 above a common one of 10,000.
        let parents: Vec<_> = (0..30_000_usize)
            .map(|place| match place {
                0 => None,
                20_000 => Some(9_999),
                place => Some(place - 1),
            })
            .collect();
        let chains = chains(&parents);
        let looked_up = Cell::new(0);
        let place = |index: EventIndex| {
            looked_up.set(looked_up.get() + 1);
            chains.get(&index).copied()
        };
        let index = |place| EventIndex::from_usize(place).unwrap();
        assert_eq!(meeting(index(19_999), index(29_000), place).unwrap().depth, 10_000);
        assert!(looked_up.get() < 150, "{} look-ups", looked_up.get());
        assert_eq!(meeting(index(5), index(5), place).unwrap().depth, 6);
    }
}
