//! What a group of batches does together: which of them are refused, and what the others leave.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ravel_store::{Batch, Committed, KeyRange, Keyspace, Op, StoreError};

/// Where a value is.
pub(super) type Place = (Keyspace, Bytes);

/// Keys that guards are about, by keyspace, each once.
pub(super) type GuardedKeys = BTreeMap<Keyspace, BTreeSet<Bytes>>;

/// Returns the keys that guards of the batches are about.
pub(super) fn guarded_keys<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> GuardedKeys {
    let mut keys = GuardedKeys::new();
    for guard in batches.into_iter().flat_map(Batch::guards) {
        keys.entry(guard.keyspace()).or_default().insert(guard.key().clone());
    }
    keys
}

/// Decides the batches one after the other, each against what those before it leave of `stored`.
///
/// `stored` has what is stored under the guarded keys. Returns what becomes of each batch, and what all of them do.
pub(super) fn decide<'a>(
    batches: impl IntoIterator<Item = &'a Batch>,
    stored: &BTreeMap<Place, Bytes>,
) -> Result<(Vec<Committed>, Effect), StoreError> {
    let mut effect = Effect::default();
    let mut outcomes = Vec::new();
    for batch in batches {
        let failed = batch.failed_guard(|keyspace, key| {
            let place = (keyspace, Bytes::copy_from_slice(key));
            Ok(match effect.found(&place) {
                Some(found) => found,
                None => stored.get(&place).cloned(),
            })
        })?;
        outcomes.push(match failed {
            Some(failed) => Committed::Refused(failed),
            None => {
                batch.ops().iter().for_each(|op| effect.add(op));
                Committed::Written
            }
        });
    }
    Ok((outcomes, effect))
}

/// What is stored under keys that guards asked for lately, as far as the only writer knows it from what it wrote and read.
#[derive(Debug, Default)]
pub(super) struct KnownGuarded(BTreeMap<Place, Option<Bytes>>);

impl KnownGuarded {
    /// Returns what is stored under these keys, as far as that is known, and those of which it is not.
    pub(super) fn stored(&self, keys: &GuardedKeys) -> (BTreeMap<Place, Bytes>, GuardedKeys) {
        let (mut stored, mut unknown) = (BTreeMap::new(), GuardedKeys::new());
        for (keyspace, key) in keys.iter().flat_map(|(keyspace, keys)| keys.iter().map(|key| (*keyspace, key))) {
            let place = (keyspace, key.clone());
            match self.0.get(&place) {
                Some(Some(value)) => drop(stored.insert(place, value.clone())),
                Some(None) => {}
                None => drop(unknown.entry(keyspace).or_default().insert(place.1)),
            }
        }
        (stored, unknown)
    }

    /// Takes in what was stored under these keys before an effect was committed, and the effect. Where many keys of one keyspace were
    /// asked for, as those of events are, they are not asked for again.
    pub(super) fn learn(&mut self, keys: &GuardedKeys, mut stored: BTreeMap<Place, Bytes>, effect: &Effect) {
        for (keyspace, range) in &effect.ranges {
            self.0.retain(|(of, key), _| of != keyspace || !range.contains(key));
        }
        for (place, value) in &effect.points {
            if let Some(known) = self.0.get_mut(place) {
                known.clone_from(value);
            }
        }
        if self.0.len() > KNOWN_MAX {
            self.0.retain(|(keyspace, key), _| keys.get(keyspace).is_some_and(|keys| keys.contains(key)));
        }
        for (keyspace, keys) in keys.iter().filter(|(_, keys)| keys.len() <= KNOWN_AT_ONCE_MAX) {
            for key in keys {
                let place = (*keyspace, key.clone());
                let value = effect.found(&place).unwrap_or_else(|| stored.remove(&place));
                self.0.insert(place, value);
            }
        }
        self.0.retain(|_, value| value.as_ref().is_none_or(|value| value.len() <= KNOWN_VALUE_BYTES_MAX));
    }

    pub(super) fn forget(&mut self) {
        self.0.clear();
    }
}

/// Most keys of one keyspace that are asked for at a time and whose values are known from then on.
const KNOWN_AT_ONCE_MAX: usize = 16;
/// With more keys whose values are known, only those are kept that were asked for last.
const KNOWN_MAX: usize = 1024;
/// Longer values are not kept.
const KNOWN_VALUE_BYTES_MAX: usize = 1024;

/// What a sequence of writes leaves: first the ranges are removed, then each point is set or removed, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect {
    pub(super) ranges: Vec<(Keyspace, KeyRange)>,
    pub(super) points: BTreeMap<Place, Option<Bytes>>,
}

impl Effect {
    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty() && self.points.is_empty()
    }

    /// Returns what is at a place if these writes say so.
    fn found(&self, place: &Place) -> Option<Option<Bytes>> {
        if let Some(point) = self.points.get(place) {
            return Some(point.clone());
        }
        let (keyspace, key) = place;
        self.ranges.iter().any(|(removed, range)| removed == keyspace && range.contains(key)).then_some(None)
    }

    fn add(&mut self, op: &Op) {
        match op {
            Op::Put { keyspace, key, value } => {
                self.points.insert((*keyspace, key.clone()), Some(value.clone()));
            }
            Op::Delete { keyspace, key } => {
                self.points.insert((*keyspace, key.clone()), None);
            }
            Op::DeleteRange { range, .. } if range.is_empty() => {}
            Op::DeleteRange { keyspace, range } => {
                self.points.retain(|(touched, key), _| touched != keyspace || !range.contains(key));
                self.ranges.push((*keyspace, range.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPACE: Keyspace = Keyspace::Log;

    fn batch(build: impl FnOnce(&mut Batch)) -> Batch {
        let mut batch = Batch::new();
        build(&mut batch);
        batch
    }

    #[test]
    fn a_batch_meets_what_those_before_it_leave() {
        let stored = BTreeMap::from([((SPACE, "a".into()), "1".into()), ((SPACE, "r1".into()), "1".into())]);
        let batches = [
            batch(|batch| {
                batch.guard_equals(SPACE, "a", "1").put(SPACE, "a", "2");
            }),
            // Refused: its writes must not be seen by the next.
            batch(|batch| {
                batch.guard_equals(SPACE, "a", "1").put(SPACE, "a", "3").delete_range(SPACE, KeyRange::all());
            }),
            batch(|batch| {
                batch.guard_equals(SPACE, "a", "2").delete(SPACE, "a").delete_range(SPACE, KeyRange::prefix("r"));
            }),
            batch(|batch| {
                batch.guard_absent(SPACE, "a").guard_absent(SPACE, "r1").put(SPACE, "r2", "4");
            }),
            batch(|batch| {
                batch.guard_absent(SPACE, "r2");
            }),
        ];
        let (outcomes, effect) = decide(&batches, &stored).unwrap();
        let refused: Vec<_> = outcomes
            .iter()
            .map(|outcome| match outcome {
                Committed::Written => None,
                Committed::Refused(failed) => Some((failed.index, failed.found.clone())),
            })
            .collect();
        assert_eq!(refused, [None, Some((0, Some("2".into()))), None, None, Some((0, Some("4".into())))]);
        assert_eq!(effect.ranges, [(SPACE, KeyRange::prefix("r"))]);
        let points = [((SPACE, "a".into()), None), ((SPACE, "r2".into()), Some("4".into()))];
        assert_eq!(effect.points, BTreeMap::from(points));
    }

    #[test]
    fn a_range_removes_what_was_put_before_it_and_not_what_is_put_after() {
        let batches = [batch(|batch| {
            batch.put(SPACE, "a", "1").put(SPACE, "b", "1").put(Keyspace::Meta, "a", "1");
            batch.delete_range(SPACE, KeyRange::new("a", "b")).delete_range(SPACE, KeyRange::new("z", "b"));
            batch.put(SPACE, "aa", "2");
        })];
        let (_, effect) = decide(&batches, &BTreeMap::new()).unwrap();
        assert_eq!(effect.ranges, [(SPACE, KeyRange::new("a", "b"))]);
        let places: Vec<_> = effect.points.into_keys().collect();
        assert_eq!(places, [(Keyspace::Meta, "a".into()), (SPACE, "aa".into()), (SPACE, "b".into())]);
    }

    #[test]
    fn what_was_written_and_read_is_known() {
        let mut known = KnownGuarded::default();
        let keys =
            |keys: &[&'static str]| BTreeMap::from([(SPACE, keys.iter().map(|key| Bytes::from(*key)).collect())]);
        let effect = |build: fn(&mut Batch)| decide(&[batch(build)], &BTreeMap::new()).unwrap().1;
        let check =
            |asked: &[&'static str], expected: Option<&[(&'static str, &'static str)]>, known: &KnownGuarded| {
                let expected = expected
                    .map(|items| items.iter().map(|(key, value)| ((SPACE, (*key).into()), (*value).into())).collect());
                let (stored, unknown) = known.stored(&keys(asked));
                assert_eq!(unknown.is_empty().then_some(stored), expected, "{asked:?}, {unknown:?}");
            };
        check(&["a"], None, &known);
        let stored = BTreeMap::from([((SPACE, "a".into()), "1".into()), ((SPACE, "b".into()), "1".into())]);
        known.learn(
            &keys(&["a", "b", "c"]),
            stored,
            &effect(|batch| {
                batch.put(SPACE, "b", "2").put(SPACE, "unasked", "1");
            }),
        );
        check(&["a", "b", "c"], Some(&[("a", "1"), ("b", "2")]), &known);
        check(&["a", "unasked"], None, &known);
        let (stored, unknown) = known.stored(&keys(&["a", "c", "unasked"]));
        assert_eq!((stored, unknown), (BTreeMap::from([((SPACE, "a".into()), "1".into())]), keys(&["unasked"])));
        known.learn(
            &BTreeMap::new(),
            BTreeMap::new(),
            &effect(|batch| {
                batch.put(SPACE, "a", "3").put(SPACE, "c", vec![0; 2000]).delete_range(SPACE, KeyRange::prefix("b"));
            }),
        );
        check(&["a"], Some(&[("a", "3")]), &known);
        check(&["b"], None, &known);
        check(&["c"], None, &known);
        known.learn(
            &BTreeMap::new(),
            BTreeMap::new(),
            &effect(|batch| {
                batch.delete(SPACE, "a");
            }),
        );
        check(&["a"], Some(&[]), &known);
        let many: Vec<String> = (0..=KNOWN_AT_ONCE_MAX).map(|number| number.to_string()).collect();
        let many = BTreeMap::from([(SPACE, many.into_iter().map(Bytes::from).collect())]);
        known.learn(&many, BTreeMap::new(), &Effect::default());
        check(&["0"], None, &known);
        for number in 0..=KNOWN_MAX {
            let asked = BTreeMap::from([(SPACE, BTreeSet::from(["a".into(), number.to_string().into()]))]);
            known.learn(&asked, BTreeMap::new(), &Effect::default());
        }
        check(&["1"], None, &known);
        check(&["a"], Some(&[]), &known);
    }

    #[test]
    fn each_guarded_key_is_read_once() {
        let batches = [batch(|batch| {
            batch.guard_absent(SPACE, "b").guard_equals(SPACE, "a", "1").guard_equals(SPACE, "b", "1");
        })];
        let keys = guarded_keys(&batches);
        assert_eq!(keys, BTreeMap::from([(SPACE, BTreeSet::from(["a".into(), "b".into()]))]));
    }
}
