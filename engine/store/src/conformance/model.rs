//! Random operations, kept in step with a map.

use std::collections::BTreeMap;

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

use super::StoreBuilder;
use crate::{
    Batch, Bytes, Committed, Direction, Durability, Guard, KeyRange, Keyspace, Limits, Op, Scan, Store, StoreExt,
    block_on,
};

/// Fixed, so that a failure is the same on every machine; proptest prints the shrunk steps.
const SEED: [u8; 32] = *b"ravel store against a plain map.";

pub fn random_operations_keep_in_step_with_a_map<B: StoreBuilder>() {
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &SEED));
    runner.run(&vec(step(), 1..60), |steps| run::<B>(&steps)).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    Commit { guards: Vec<Guard>, ops: Vec<Op>, durability: Durability },
    Get(Keyspace, Vec<Bytes>),
    Scan(Scan),
    Reopen,
}

type Model = BTreeMap<(Keyspace, Bytes), Bytes>;

fn run<B: StoreBuilder>(steps: &[Step]) -> Result<(), TestCaseError> {
    let place = B::place();
    let mut model = Model::new();
    let mut store = B::open(&place).unwrap();
    for step in steps {
        match step {
            Step::Commit { guards, ops, durability } => {
                let mut batch = Batch::new();
                batch.durability(*durability);
                for guard in guards {
                    batch.guard(guard.clone());
                }
                for op in ops {
                    batch.push(op.clone());
                }
                let failed =
                    guards.iter().position(|guard| !guard.holds(model.get(&(guard.keyspace(), guard.key().clone()))));
                let committed = block_on(store.commit(batch)).unwrap();
                let refused = match &committed {
                    Committed::Written => None,
                    Committed::Refused(failed) => Some(failed.index),
                };
                prop_assert_eq!(refused, failed);
                if committed.is_written() {
                    ops.iter().for_each(|op| apply(&mut model, op));
                }
            }
            Step::Get(keyspace, keys) => {
                let expected: Vec<_> = keys.iter().map(|key| model.get(&(*keyspace, key.clone())).cloned()).collect();
                prop_assert_eq!(block_on(store.get_many(*keyspace, keys)).unwrap(), expected);
            }
            Step::Scan(scan) => {
                let items = block_on(store.scan_all(scan.clone())).unwrap();
                prop_assert_eq!(items, expected_items(&model, scan));
            }
            Step::Reopen => {
                block_on(store.flush()).unwrap();
                drop(store);
                store = B::open(&place).unwrap();
            }
        }
    }
    for keyspace in SPACES {
        let scan = Scan::new(keyspace, KeyRange::all());
        prop_assert_eq!(block_on(store.scan_all(scan.clone())).unwrap(), expected_items(&model, &scan));
    }
    Ok(())
}

fn apply(model: &mut Model, op: &Op) {
    match op.clone() {
        Op::Put { keyspace, key, value } => drop(model.insert((keyspace, key), value)),
        Op::Delete { keyspace, key } => drop(model.remove(&(keyspace, key))),
        Op::DeleteRange { keyspace, range } => {
            model.retain(|(space, key), _| *space != keyspace || !range.contains(key));
        }
    }
}

fn expected_items(model: &Model, scan: &Scan) -> Vec<(Bytes, Bytes)> {
    let mut items: Vec<_> = model
        .iter()
        .filter(|((keyspace, key), _)| *keyspace == scan.keyspace && scan.range.contains(key))
        .map(|((_, key), value)| (key.clone(), value.clone()))
        .collect();
    if scan.direction == Direction::Backward {
        items.reverse();
    }
    items
}

const SPACES: [Keyspace; 2] = [Keyspace::Rooms, Keyspace::Log];

fn space() -> impl Strategy<Value = Keyspace> {
    prop::sample::select(&SPACES[..])
}

/// Few different bytes and short keys, so that keys meet and are prefixes of each other.
fn key() -> impl Strategy<Value = Bytes> {
    vec(prop::sample::select(&[0u8, 1, b'a', 0xFE, 0xFF][..]), 0..4).prop_map(Bytes::from)
}

fn value() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..4).prop_map(Bytes::from),
        1 => (any::<u8>(), 1_000usize..200_000).prop_map(|(byte, len)| vec![byte; len].into()),
    ]
}

fn range() -> impl Strategy<Value = KeyRange> {
    prop_oneof![
        key().prop_map(KeyRange::prefix),
        (key(), key()).prop_map(|(start, end)| KeyRange::new(start, end)),
        key().prop_map(KeyRange::from),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (space(), key(), value()).prop_map(|(keyspace, key, value)| Op::Put { keyspace, key, value }),
        3 => (space(), key()).prop_map(|(keyspace, key)| Op::Delete { keyspace, key }),
        1 => (space(), range()).prop_map(|(keyspace, range)| Op::DeleteRange { keyspace, range }),
    ]
}

fn guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        4 => (space(), key()).prop_map(|(keyspace, key)| Guard::Absent { keyspace, key }),
        1 => (space(), key(), value()).prop_map(|(keyspace, key, value)| Guard::Equals { keyspace, key, value }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let durability = prop_oneof![Just(Durability::Sync), Just(Durability::Relaxed)];
    let commit = (vec(guard(), 0..2), vec(op(), 0..8), durability).prop_map(|(guards, ops, durability)| Step::Commit {
        guards,
        ops,
        durability,
    });
    let scan = (space(), range(), any::<bool>(), 1usize..6, 0usize..2000).prop_map(
        |(keyspace, range, forward, items, bytes)| {
            let direction = if forward { Direction::Forward } else { Direction::Backward };
            Step::Scan(Scan { keyspace, range, direction, limits: Limits { items, bytes } })
        },
    );
    prop_oneof![
        10 => commit,
        3 => (space(), vec(key(), 0..5)).prop_map(|(keyspace, keys)| Step::Get(keyspace, keys)),
        4 => scan,
        1 => Just(Step::Reopen),
    ]
}
