//! State resolution of room version 1. The ids end with the server there: `$T1:a`.

use super::{check, check_whole};
use crate::room_version::RoomVersion::V1;

/// A key that some states lack is not in conflict: the union of the states has it.
#[test]
fn absent_from_some_is_no_conflict() {
    let lines = "
        S: carol sets m.room.name after D
        T: alice sets m.room.topic after D";
    check(V1, lines, "S,T", "", "name=S topic=T");
    // The same with a third state: one has nothing, the others differ.
    let lines = "
        T1: alice sets m.room.topic after D
        T2: bob sets m.room.topic after T1
        S: bob sets m.room.name after D";
    check(V1, lines, "T1,T2,S", "conflict topic: T1 T2 none", "name=S topic=T2");
}

#[test]
fn the_deepest_allowed_event_wins_then_the_smallest_hash() {
    let lines = "
        T1: bob sets m.room.topic after D depth 8
        T2: bob sets m.room.topic after D depth 9
        T3: carol sets m.room.topic after D depth 10";
    let steps = "
        depth order topic: T3[10] T2[9 depth] T1[8 depth]
        check T3: required_power_level
        check T2: ok
        outcome topic: T2";
    check(V1, lines, "T1,T2,T3", steps, "topic=T2");
    // The SHA-1 of $T1:b begins with a6, that of $T2:b with 36.
    let lines = "
        T1: bob sets m.room.topic after D depth 9
        T2: bob sets m.room.topic after D depth 9";
    check(V1, lines, "T1,T2", "depth order topic: T2[9] T1[9 id]\ncheck T2: ok", "topic=T2");
}

#[test]
fn if_none_is_allowed_the_least_deep_is_taken() {
    let lines = "
        T1: carol sets m.room.topic after D depth 8
        T2: carol sets m.room.topic after D depth 9";
    let steps = "
        check T2: required_power_level
        check T1: required_power_level
        outcome topic: T1";
    check(V1, lines, "T1,T2", steps, "topic=T1");
}

/// In the first three passes the first event is taken as it is, and the next ones as long as each is allowed after the one before.
#[test]
fn power_levels_are_taken_in_turn_until_one_is_not_allowed() {
    let lines = "
        P1: alice power alice=100 bob=60 after D depth 7
        P2: alice power alice=100 bob=50 after D depth 8
        P3: bob power alice=100 bob=70 after D depth 9
        P4: alice power alice=100 bob=80 after D depth 10";
    let steps = "
        depth order power_levels: P1[7] P2[8 depth] P3[9 depth] P4[10 depth]
        check P2: ok
        check P3: power_levels_user_new
        outcome power_levels: P2";
    check(V1, lines, "P1,P2,P3,P4", steps, "power_levels=P2");
}

/// Power levels come first, then join rules, then members: each pass knows the results of the ones before.
#[test]
fn passes_see_the_results_of_earlier_ones() {
    let lines = "
        P1: alice power alice=100 after D depth 7
        P2: alice power alice=100 bob=40 after D depth 8
        J1: alice join_rule public after P1 depth 9
        J2: bob join_rule invite after P2 depth 10
        X1: alice bans erin after J1 depth 11
        X2: bob kicks erin after J2 depth 12
        T1: alice sets m.room.topic after X1 depth 13
        T2: bob sets m.room.topic after X2 depth 14";
    let steps = "
        check P2: ok
        check J2: required_power_level
        check X2: unban_level
        check T2: required_power_level
        check T1: ok";
    check(V1, lines, "T1,T2", steps, "power_levels=P2 join_rules=J1 @erin=X1 topic=T1");
}

/// Conflicts of one pass do not see each other: carol's membership is in conflict, so she is no member when her invite is checked.
#[test]
fn conflicts_of_a_pass_do_not_see_each_other() {
    let lines = "
        X1: alice invites erin after D depth 7
        D1: carol joins after X1 depth 8
        X2: carol invites erin after D depth 9";
    let steps = "
        conflict @carol: D D1
        conflict @erin: X1 X2
        check D1: ok
        check X2: invite_sender_not_joined";
    check(V1, lines, "D1,X2", steps, "@erin=X1 @carol=D1");
}

/// Only the empty state key is the room's power levels.
#[test]
fn power_levels_of_another_state_key_are_like_any_event() {
    let lines = "
        Q1: alice sets m.room.power_levels key after D depth 7
        Q2: alice sets m.room.power_levels key after D depth 8";
    check(V1, lines, "Q1,Q2", "depth order power_levels/key: Q2[8] Q1[7 depth]", "power_levels/key=Q2 power_levels=P");
}

#[test]
fn the_same_in_all_states_stays() {
    let room = "
        C: alice creates
        A: alice joins
        T1: alice sets m.room.topic after A
        T2: alice sets m.room.topic after A";
    check_whole(V1, room, "T1,T2", "conflict topic: T1 T2", "create=C @alice=A");
}
