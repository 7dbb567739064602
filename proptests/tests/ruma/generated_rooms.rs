//! Resolution on the rooms that are measured, in small: Ravel, the plain reading of the text, and ruma-state-res answer alike.

use std::{cell::Cell, collections::BTreeSet};

use proptest::prelude::*;
use ravel_core::{
    event::StateKey,
    resolve::{Silent, Step, Steps, resolve},
    room_version::RoomVersion::{V2, V6, V10, V11, V12},
    state::{State, StateMap},
};
use ravel_proptests::{
    plain,
    rooms::{GeneratedRoom, Shape},
    ruma,
    seed::{self, Choices},
};

use crate::resolution::VERSIONS_2_TO_12;

/// The table of `ravel bench resolve` in small: members, forks, conflicted events, users in the power levels, changes of power
/// levels by each fork.
const TABLE: [[usize; 5]; 9] = [
    [30, 2, 22, 10, 1],
    [60, 2, 22, 10, 1],
    [120, 2, 22, 10, 1],
    [300, 2, 22, 10, 1],
    [300, 20, 20, 10, 1],
    [120, 2, 100, 10, 1],
    [300, 2, 300, 10, 1],
    [150, 2, 100, 60, 1],
    [120, 2, 60, 10, 40],
];

/// How many random shapes are compared.
const RANDOM_SHAPES: u64 = 100;

/// What came up in the rooms that were compared.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    rooms: u64,
    conflicted_events: usize,
    /// Rooms in which the auth difference has more than the conflicted events.
    with_auth_difference: u64,
    /// Rooms in which an event was refused.
    with_refusals: u64,
    /// The most rounds in which a resolution asked for records.
    rounds_max: u64,
}

/// Lets all forks have one fork's event at some of the keys. So the states share events that cite what only that fork had: that
/// is not in the auth difference then, though conflicted events lead to it.
fn agree(room: &mut GeneratedRoom, choices: &mut Choices) {
    let keys: BTreeSet<StateKey> = room.forks.iter().flat_map(|changes| changes.keys().cloned()).collect();
    for key in keys {
        let fork = choices.below(3 * room.forks.len());
        let Some(agreed) = room.forks.get(fork).and_then(|changes| changes.get(&key)).cloned() else { continue };
        for changes in &mut room.forks {
            changes.insert(key.clone(), agreed.clone());
        }
    }
}

impl Met {
    /// Resolves a room in three ways, as it is and where the forks agree in part; panics if the answers differ.
    #[track_caller]
    fn compare(&mut self, shape: &Shape) {
        let mut room = shape.generate().unwrap();
        self.compare_room(&room, shape);
        agree(&mut room, &mut Choices::new(shape.seed));
        self.compare_room(&room, shape);
    }

    #[track_caller]
    fn compare_room(&mut self, room: &GeneratedRoom, shape: &Shape) {
        let states: Vec<plain::State> = room.states().collect();
        let (graph, shared, owned_maps) = room.numbered_with_shared().unwrap();
        let maps: Vec<&StateMap> = owned_maps.iter().collect();
        let entries = |map: &StateMap| State::new(&graph, map).to_map();
        let mut steps = Steps::default();
        let ravel = entries(&resolve(&graph, &maps, &mut Silent));
        assert_eq!(entries(&resolve(&graph, &maps, &mut steps)), ravel, "with and without a recorder: {shape:?}");
        let reversed: Vec<&StateMap> = maps.iter().rev().copied().collect();
        assert_eq!(entries(&resolve(&graph, &reversed, &mut Silent)), ravel, "in another order: {shape:?}");
        let allows = plain::ravel_allows(room.rules);
        let plain = plain::Room::new(room.rules, room.events.iter().map(|event| event.event.clone()), &allows);
        assert_eq!(plain.resolve(&states), ravel, "the text and Ravel: {shape:?}");
        assert_eq!(ruma::Room::of_generated(room).resolve(&states).unwrap(), ravel, "ruma and Ravel: {shape:?}");

        let resolved = resolve(&graph, &maps, &mut Silent);
        let differences = resolved.differences(&graph, maps[0]).into_iter();
        let differences: Vec<_> = differences.map(|difference| (difference.key, difference.left)).collect();
        let from_records = room.resolve_from_records(&graph, &shared, &owned_maps);
        assert_eq!(from_records.edits, differences, "from records and in memory: {shape:?}");
        self.rounds_max = self.rounds_max.max(from_records.rounds);

        let conflicted: usize = plain::split(&states).1.len();
        assert_eq!(room.conflicted_events().len(), conflicted, "{shape:?}");
        let any = |wanted: &dyn Fn(&Step) -> bool| u64::from(steps.0.iter().any(wanted));
        self.rooms += 1;
        self.conflicted_events += conflicted;
        self.with_auth_difference += any(&|step| matches!(step, Step::AuthDifference { events } if !events.is_empty()));
        self.with_refusals += any(&|step| matches!(step, Step::Check { result: Some(Err(_)), .. }));
    }
}

#[test]
fn rooms_of_the_table_are_resolved_alike() {
    let mut met = Met::default();
    for (seed, room_version) in (1..).zip([V2, V6, V10, V11, V12]) {
        for [members, forks, conflicted_events, power_users, chained_power_changes] in TABLE {
            for (nested, disputed) in [(false, false), (true, false), (false, true), (true, true)] {
                met.compare(&Shape {
                    room_version,
                    members,
                    power_changes: 10,
                    power_users,
                    forks,
                    chained_power_changes,
                    conflicted_events,
                    nested,
                    disputed,
                    seed,
                });
            }
        }
    }
    println!("{met:?}");
    assert_eq!(met.rooms, 2 * 5 * 9 * 4);
    assert!(met.with_refusals >= met.rooms / 3 && met.with_auth_difference >= met.rooms / 3, "{met:?}");
}

/// A resolution from records asks for them in rounds, and is done again in each: their number is not that of a chain's events.
#[test]
fn long_chains_take_few_rounds() {
    let rounds = |chained_power_changes| {
        let shape = Shape { members: 100, power_changes: 3, chained_power_changes, ..Shape::default() };
        let room = Shape { conflicted_events: 20, ..shape }.generate().unwrap();
        let (graph, shared, states) = room.numbered_with_shared().unwrap();
        room.resolve_from_records(&graph, &shared, &states).rounds
    };
    let (short, long) = (rounds(10), rounds(1_000));
    assert!(long <= short + 20, "{short} rounds for chains of 10, {long} for chains of 1,000");
}

fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (30..=300_usize, 0..=12_usize, 5..=60_usize, 2..=20_usize, 20..=300_usize);
    let chained = prop_oneof![3 => 0..=3_usize, 1 => 1..=40_usize];
    let version = proptest::sample::select(VERSIONS_2_TO_12);
    (version, sizes, chained, any::<[bool; 2]>(), any::<u64>().no_shrink()).prop_map(
        |(room_version, sizes, chained_power_changes, [nested, disputed], seed)| {
            let (members, power_changes, power_users, forks, conflicted_events) = sizes;
            // Where there are too few members for the others, there are as many as it takes.
            let members = members.max(power_users + conflicted_events.div_ceil(forks));
            // The plain reading takes the square of the power events.
            let chained_power_changes = chained_power_changes.min(100 / forks);
            Shape {
                room_version,
                members,
                power_changes,
                power_users,
                forks,
                chained_power_changes,
                conflicted_events,
                nested,
                disputed,
                seed,
            }
        },
    )
}

#[test]
fn rooms_of_random_shapes_are_resolved_alike() {
    let met = Cell::new(Met::default());
    seed::check(RANDOM_SHAPES, &shapes(), |shape| {
        let mut now = met.get();
        now.compare(&shape);
        met.set(now);
    });
    let met = met.get();
    println!("{met:?}");
    if std::env::var_os(seed::SEED_VARIABLE).is_none() {
        assert!(met.rooms >= 2 * RANDOM_SHAPES, "{met:?}");
        assert!(met.with_refusals >= met.rooms / 5 && met.with_auth_difference >= met.rooms / 5, "{met:?}");
    }
}
