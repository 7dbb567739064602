//! What a group of batches does together: which of them are refused, and what the others leave.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ravel_store::{Batch, Committed, KeyRange, Keyspace, Op, StoreError};

/// Where a value is.
pub(super) type Place = (Keyspace, Bytes);

/// Returns the keys that guards of the batches are about, by keyspace, each once.
pub(super) fn guarded_keys<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> BTreeMap<Keyspace, BTreeSet<Bytes>> {
    let mut keys = BTreeMap::<_, BTreeSet<_>>::new();
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
    fn each_guarded_key_is_read_once() {
        let batches = [batch(|batch| {
            batch.guard_absent(SPACE, "b").guard_equals(SPACE, "a", "1").guard_equals(SPACE, "b", "1");
        })];
        let keys = guarded_keys(&batches);
        assert_eq!(keys, BTreeMap::from([(SPACE, BTreeSet::from(["a".into(), "b".into()]))]));
    }
}
