//! The conflicts whose work is counted.

use super::{
    Conflict, check_doubling, check_members,
    room::{ALICE, BOB, Room, What, change, user},
};
use crate::{
    event::Membership::Join,
    graph::EventIndex,
    resolve::{Step, Steps, resolve},
    room_version::RoomVersion::{self, V10, V12},
    state::StateMap,
};

/// Members of a room where that is not what grows.
const MEMBERS: usize = 1_000;

/// Lengths of chains.
const DOUBLING: [usize; 4] = [625, 1_250, 2_500, 5_000];

/// Changes the memberships of so many users, from all over the room, in ways that differ by `fork`.
fn change_members(room: &mut Room, state: &mut StateMap, fork: usize, members: usize, keys: usize) {
    for key in 0..keys {
        let target = user(key * members / keys);
        let (sender, what) = change(fork + key, &target);
        room.send(state, sender, what);
    }
}

/// Forks that each change the power levels, then the same memberships.
fn forks(version: RoomVersion, members: usize, forks: usize, keys: usize) -> Conflict {
    let (mut room, shared) = Room::with_members(version, members);
    let states = (0..forks).map(|fork| {
        let mut state = shared.clone();
        room.send(&mut state, ALICE, What::Power);
        change_members(&mut room, &mut state, fork, members, keys);
        state
    });
    let states = states.collect();
    Conflict { room, states }
}

#[test]
fn two_forks() {
    check_doubling("keys", &[150, 300, 625, 1_250, 2_500, 5_000], |version, keys| forks(version, 5_000, 2, keys));
    check_members("10 keys", 0, |version, members| forks(version, members, 2, 10));
    check_members("1 key", 2, |version, members| forks(version, members, 2, 1));
}

#[test]
fn many_forks() {
    check_doubling("keys, 20 forks", &[10, 20, 40, 80], |version, keys| forks(version, MEMBERS, 20, keys));
    let counts = [2, 4, 8, 16, 32, 64, 100, 200];
    check_doubling("forks, 20 keys", &counts, |version, count| forks(version, MEMBERS, count, 20));
    check_members("20 forks, 20 keys", 0, |version, members| forks(version, members, 20, 20));
    assert_eq!(forks(V10, MEMBERS, 1, 20).work("no conflict").0, 0);
}

/// Each fork forks again, so many times, and changes the same power levels and memberships on the way. All are resolved at once.
#[test]
fn forks_in_forks() {
    let conflict = |version, members, levels, keys| {
        let (mut room, shared) = Room::with_members(version, members);
        let mut states = vec![shared];
        for _ in 0..levels {
            states = states.iter().flat_map(|state| [state.clone(), state.clone()]).collect();
            for (fork, state) in states.iter_mut().enumerate() {
                room.send(state, ALICE, What::Power);
                change_members(&mut room, state, fork, members, keys);
            }
        }
        Conflict { room, states }
    };
    check_doubling("levels of forks", &[3, 4, 5, 6, 7], |version, levels| conflict(version, MEMBERS, levels, 5));
    check_doubling("keys, 16 forks of forks", &[4, 8, 16, 32], |version, keys| conflict(version, MEMBERS, 4, keys));
    check_members("32 forks of forks, 5 keys", 0, |version, members| conflict(version, members, 5, 5));
}

/// Forks that fork again and are then resolved two by two, up to the first.
#[test]
fn forks_in_forks_that_meet_one_by_one() {
    for version in [V10, V12] {
        let (mut room, shared) = Room::with_members(version, MEMBERS);
        let mut states = vec![shared; 64];
        for (fork, state) in states.iter_mut().enumerate() {
            for level in 0..6 {
                room.send(state, ALICE, What::Power);
                change_members(&mut room, state, fork >> level, MEMBERS, 5);
            }
        }
        while states.len() > 1 {
            let pairs = states.chunks(2).map(<[_]>::to_vec).collect::<Vec<_>>();
            states.clear();
            for pair in pairs {
                let conflict = Conflict { room, states: pair };
                conflict.work(&format!("version {version}, two of the forks"));
                let pair: Vec<&StateMap> = conflict.states.iter().collect();
                states.push(resolve(&conflict.room.graph, &pair, &mut Steps::default()));
                room = conflict.room;
            }
        }
    }
}

/// One side still has what the other changed, long ago: the conflicted events lie all over the room.
#[test]
fn old_conflicted_events() {
    let conflict = |version, members| {
        let (mut room, shared) = Room::with_members(version, members);
        let mut changed = shared.clone();
        change_members(&mut room, &mut changed, 0, members, 20);
        Conflict { room, states: vec![changed, shared] }
    };
    check_members("20 old events", 16, conflict);
}

/// Two sides: on one an event is sent again and again, on the other once, or as often.
fn chain(
    version: RoomVersion,
    members: usize,
    lengths: [usize; 2],
    (sender, what): (&str, What<'_>),
    and_cites: impl Fn(&[EventIndex]) -> Vec<EventIndex>,
) -> Conflict {
    let (mut room, shared) = Room::with_members(version, members);
    let states = lengths.map(|length| {
        let mut state = shared.clone();
        room.send(&mut state, ALICE, What::Other("topic"));
        let mut chain = Vec::new();
        for _ in 0..length {
            let mut cited = room.selected(&state, sender, what);
            cited.extend(and_cites(&chain));
            chain.push(room.send_citing(&mut state, sender, what, &cited));
        }
        state
    });
    Conflict { room, states: states.into() }
}

const POWER: (&str, What<'_>) = (ALICE, What::Power);
const PROFILE: (&str, What<'_>) = (BOB, What::Member(BOB, Join));

/// Checks chains on one side and on both, of events of both kinds. What they cite besides the usual is said of the chain so far.
fn check_chains(name: &str, lengths: &[usize], and_cites: fn(&[EventIndex]) -> Vec<EventIndex>) {
    for (kind, event) in [("power levels", POWER), ("profiles", PROFILE)] {
        for (sides, is_on_both) in [("one side", false), ("both sides", true)] {
            check_doubling(&format!("{kind}, {name}, on {sides}"), lengths, |version, length| {
                chain(version, MEMBERS, [length, if is_on_both { length } else { 1 }], event, and_cites)
            });
        }
    }
}

#[test]
fn deep_chains() {
    check_chains("each citing the one before", &DOUBLING, |_| vec![]);
    check_members("100 power levels on both sides", 0, |version, members| {
        chain(version, members, [100, 100], POWER, |_| vec![])
    });
}

#[test]
fn wide_chains() {
    check_chains("each citing ten", &DOUBLING, |chain| {
        let far = [2, 3, 5, 8, 13, 21, 34, 55, 89, 144];
        far.iter().filter_map(|far| chain.get(chain.len().checked_sub(*far)?)).copied().collect()
    });
}

/// These lengths double the edges.
#[test]
fn everything_cites_everything() {
    let lengths = [100, 141, 200, 283, 400];
    check_chains("each citing all", &lengths, |chain| chain.iter().rev().skip(1).copied().collect());
}

/// The power levels were changed so many times before: nobody has to go through that.
#[test]
fn old_power_levels() {
    let conflict = |version, changes| {
        let (mut room, mut shared) = Room::with_members(version, MEMBERS);
        for _ in 0..changes {
            room.send(&mut shared, ALICE, What::Power);
        }
        let states = [0, 1].map(|fork| {
            let mut state = shared.clone();
            change_members(&mut room, &mut state, fork, MEMBERS, 10);
            state
        });
        Conflict { room, states: states.into() }
    };
    check_members("as many old power levels", 2, conflict);
}

/// Who leads to the events that one side cites, so that they are in no auth difference.
#[derive(Clone, Copy)]
enum Shared {
    /// What all have at the same key.
    SameKey,
    /// What all have at some other key.
    OtherKey,
    Nothing,
}

/// A chain of so many events that one side cites; then so many joins that all have.
fn cited_by_one_side(version: RoomVersion, members: usize, length: usize, joins: usize, by: Shared) -> Conflict {
    const CAROL: &str = "@carol:c";
    let (mut room, mut shared) = Room::with_members(version, members);
    let profile = What::Member(BOB, Join);
    let usual = room.selected(&shared, BOB, profile);
    let chain: Vec<_> = (0..length).map(|_| room.send(&mut shared, BOB, profile)).collect();
    let last = *chain.last().unwrap();
    if !matches!(by, Shared::SameKey) {
        room.send_citing(&mut shared, BOB, profile, &usual);
    }
    let join = What::Member(CAROL, Join);
    let mut cited = room.selected(&shared, CAROL, join);
    cited.extend(Some(last).filter(|_| matches!(by, Shared::OtherKey)));
    room.send_citing(&mut shared, CAROL, join, &cited);
    room.join(&mut shared, (members..members + joins).map(user));

    let [mut left, mut right] = [shared.clone(), shared];
    let topic = What::Other("topic");
    room.send(&mut left, ALICE, topic);
    let mut cited = room.selected(&right, BOB, topic);
    cited.push(last);
    room.send_citing(&mut right, BOB, topic, &cited);
    Conflict { room, states: vec![left, right] }
}

#[test]
fn what_the_shared_state_leads_to_is_in_no_auth_difference() {
    for version in [V10, V12] {
        for joins in [0, 100] {
            for (by, expected) in [(Shared::SameKey, 0), (Shared::OtherKey, 0), (Shared::Nothing, 20)] {
                let conflict = cited_by_one_side(version, 100, 20, joins, by);
                let mut steps = Steps::default();
                resolve(&conflict.room.graph, &conflict.states.iter().collect::<Vec<_>>(), &mut steps);
                let difference = steps.0.iter().find_map(|step| match step {
                    Step::AuthDifference { events } => Some(events.len()),
                    _ => None,
                });
                assert_eq!(difference, Some(expected));
            }
        }
    }
}

#[test]
fn asking_the_shared_state_is_linear_at_the_most() {
    for by in [Shared::SameKey, Shared::OtherKey, Shared::Nothing] {
        check_doubling("events cited by one side", &DOUBLING, |version, length| {
            cited_by_one_side(version, MEMBERS, length, 0, by)
        });
        check_doubling("joins since", &DOUBLING, |version, joins| cited_by_one_side(version, MEMBERS, 10, joins, by));
        check_members("10 events cited by one side, 100 joins since", 8, |version, members| {
            cited_by_one_side(version, members, 10, 100, by)
        });
    }
    check_members("as many joins since", 8, |version, joins| {
        cited_by_one_side(version, 10, 10, joins, Shared::SameKey)
    });
}
