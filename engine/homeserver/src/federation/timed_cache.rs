//! A map with bounds on count and time.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// A map whose entries end at a time of their own; when it is full, the entry that would end first makes room.
///
/// It does not know the time: callers say what time it is. Cost of each call: O(log n).
#[derive(Debug)]
pub(crate) struct TimedCache<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Invariant: the ends of `entries`, with the number that `Entry` has.
    ends: BTreeMap<(i64, u64), K>,
    next_number: u64,
    count_max: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    end_ms: i64,
    number: u64,
}

impl<K: Clone + Eq + Hash, V> TimedCache<K, V> {
    /// Makes an empty map of at most so many entries.
    pub(crate) fn new(count_max: usize) -> Self {
        Self { entries: HashMap::new(), ends: BTreeMap::new(), next_number: 0, count_max: count_max.max(1) }
    }

    /// Returns the value under a key, unless its time is over.
    pub(crate) fn get(&self, key: &K, now_ms: i64) -> Option<&V> {
        let entry = self.entries.get(key)?;
        (entry.end_ms > now_ms).then_some(&entry.value)
    }

    /// Puts a value under a key until a time.
    pub(crate) fn insert(&mut self, key: K, value: V, end_ms: i64) {
        self.remove(&key);
        while self.entries.len() >= self.count_max
            && let Some((_, first)) = self.ends.pop_first()
        {
            self.entries.remove(&first);
        }
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.ends.insert((end_ms, number), key.clone());
        self.entries.insert(key, Entry { value, end_ms, number });
    }

    /// Takes out what is under a key, even if its time is over.
    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let entry = self.entries.remove(key)?;
        self.ends.remove(&(entry.end_ms, entry.number));
        Some(entry.value)
    }

    /// Returns the number of entries, those whose time is over included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        assert_eq!(self.entries.len(), self.ends.len());
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::TimedCache;

    #[test]
    fn entries_end() {
        let mut cache = TimedCache::new(10);
        cache.insert("a", 1, 100);
        assert_eq!(cache.get(&"a", 99), Some(&1));
        assert_eq!(cache.get(&"a", 100), None);
        cache.insert("a", 2, 200);
        assert_eq!(cache.get(&"a", 100), Some(&2));
        assert_eq!((cache.remove(&"a"), cache.len()), (Some(2), 0));
    }

    #[test]
    fn sc_203_a_full_cache_makes_room() {
        let mut cache = TimedCache::new(3);
        for number in 0..100_000 {
            cache.insert(number, (), 1_000 - i64::from(number == 7));
        }
        assert_eq!(cache.len(), 3);
        assert_eq!(cache.get(&99_999, 0), Some(&()));
    }
}
