//! Maps by dense numbers.

use std::hash::{BuildHasherDefault, Hasher};

use hashbrown::HashMap;

use crate::work::count;

/// A map from the numbers of events or keys to values: an array where most of the numbers are, a hash map for the others.
///
/// The numbers of a conflict mostly lie close together, at the end of the room, and then a look-up is one access to memory.
pub(super) struct NumberMap<V> {
    start: usize,
    window: Vec<V>,
    others: HashMap<usize, V, NumberHashes>,
}

impl<V: Clone + Default> NumberMap<V> {
    /// Returns a map for numbers of which most are among these. O(their number).
    pub(super) fn around(numbers: impl Iterator<Item = usize>) -> Self {
        let (lowest, highest, len) =
            numbers.fold((usize::MAX, 0, 0_usize), |(low, high, len), n| (low.min(n), high.max(n), len + 1));
        let span = (highest + 1).saturating_sub(lowest);
        let is_dense = span <= len.saturating_mul(4) + 64;
        count(len + if is_dense { span } else { 0 });
        let window = if is_dense { vec![V::default(); span] } else { Vec::new() };
        Self { start: lowest, window, others: HashMap::default() }
    }

    /// Returns the value of a number, the default if it has none.
    pub(super) fn get(&self, number: usize) -> V {
        count(1);
        match self.window.get(number.wrapping_sub(self.start)) {
            Some(value) => value.clone(),
            None => self.others.get(&number).cloned().unwrap_or_default(),
        }
    }

    /// Returns the place of a number's value, which is the default if it had none.
    pub(super) fn entry(&mut self, number: usize) -> &mut V {
        count(1);
        match self.window.get_mut(number.wrapping_sub(self.start)) {
            Some(value) => value,
            None => self.others.entry(number).or_default(),
        }
    }
}

/// Builds hashers for dense numbers. They are given out here, so nobody can choose them to collide.
type NumberHashes = BuildHasherDefault<NumberHasher>;

/// Multiplication spreads a number over the high bits.
#[derive(Default)]
struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_usize(usize::from(*byte));
        }
    }

    fn write_usize(&mut self, number: usize) {
        self.0 = (self.0.rotate_left(32) ^ number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use super::NumberMap;

    #[test]
    fn a_value_is_kept_inside_and_outside_of_the_window() {
        for around in [vec![], vec![100, 120, 103], vec![5, 1_000_000], vec![0]] {
            let mut map: NumberMap<u8> = NumberMap::around(around.iter().copied());
            for number in [0, 4, 5, 99, 100, 110, 120, 121, 1_000_000, usize::MAX - 1] {
                assert_eq!(map.get(number), 0);
                *map.entry(number) += 7;
                assert_eq!(map.get(number), 7, "{number} in a map around {around:?}");
            }
            assert_eq!(map.get(3), 0);
        }
    }
}
