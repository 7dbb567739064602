//! Conflicts that have names.

use super::{check, check_whole, room};
use crate::{
    room_version::RoomVersion::{self, V2, V11, V12},
    testing::TestGraph,
};

/// Alice takes bob's power away while he bans with it: she has more power, so hers is checked first, and his ban no more allowed.
/// The other way round her ban comes first, though his power levels are older.
#[test]
fn ban_against_power_levels() {
    let lines = "
        X: bob bans erin after D ts 1
        P2: alice power alice=100 after D ts 9";
    let steps = "
        power order: P[100 @3] P2[100 @9 timestamp] X[50 @1 power]
        power check P: ok
        power check P2: ok
        power check X: ban_level
        outcome @erin: none
        outcome power_levels: P2";
    check(V11, lines, "X,P2", steps, "");
    let lines = "
        X: alice bans bob after D ts 9
        P2: bob power bob=50 carol=50 after D ts 1";
    let steps = "
        power order: P[100 @3] B[50 @5 power] X[100 @9 auth edges] P2[50 @1 power]
        power check P: ok
        power check B: ok
        power check X: ok
        power check P2: sender_not_joined
        outcome @bob: X
        outcome power_levels: P";
    check(V11, &lines.replace("power bob", "power alice=100 bob"), "X,P2", steps, "");
    // In version 12 J stands on the path from B to P.
    let steps = "
        power order: P[infinite @3] J[infinite @4 timestamp] B[50 @5 power] X[infinite @9 auth edges] P2[50 @1 power]
        outcome @bob: X
        outcome power_levels: P";
    check(V12, lines, "X,P2", steps, "");
}

/// Of two bans the one by whom has more power is checked first.
#[test]
fn ban_against_ban() {
    let room = "
        C: alice creates
        A: alice joins
        P: alice power alice=100 bob=99 carol=98
        J: alice join_rule public
        B: bob joins
        D: carol joins
        X: carol bans erin after D ts 1
        Y: bob bans carol after D ts 2";
    let steps = "
        power order: D[98 @6] Y[99 @2 auth edges] X[98 @1 power]
        power check D: ok
        power check Y: ok
        power check X: ban_sender_not_joined";
    for version in [V2, V11] {
        check_whole(version, room, "X,Y", steps, "@erin=- @carol=Y");
    }
}

/// The room is closed while somebody joins: the join came through an open door on its side, but not in the resolved room.
#[test]
fn join_rules_against_join() {
    let lines = "
        J2: alice join_rule invite after D ts 9
        E: erin joins after D ts 1";
    let steps = "
        power check J: ok
        power check J2: ok
        check E: join_not_invited";
    check(V11, lines, "J2,E", steps, "join_rules=J2 @erin=-");
    // In version 12 the join rules are resolved first too.
    check(V12, lines, "J2,E", steps, "join_rules=J2 @erin=-");
    // Who was in the room before stays, though they change their profile.
    let lines = "
        J2: alice join_rule invite after D
        D2: carol joins after D";
    // By her join at the time, which her event cites: the join itself is not allowed any more.
    check(V11, lines, "J2,D2", "check D: join_not_invited\ncheck D2: ok", "join_rules=J2 @carol=D2");
}

/// MSC4297, problem A: conflicting join rules of somebody who has left by now. The state that another server gave has the old ones.
#[test]
fn sc_060_resolution_starts_from_nothing_in_version_12() {
    let room = "
        C: alice creates
        A: alice joins
        P: alice power bob=100
        J: alice join_rule public
        B: bob joins
        J2: alice join_rule invite
        L: alice leaves";
    for (version, expected, steps) in [
        // The result of version 2 is kept for the rooms that have it: servers that differ would split them.
        (V2, "-", "power check J: sender_not_joined\npower check J2: sender_not_joined\noutcome join_rules: none"),
        (V11, "-", "power check J: sender_not_joined\npower check J2: sender_not_joined\noutcome join_rules: none"),
        (V12, "J2", "power check J: ok\npower check J2: ok\noutcome join_rules: J2"),
    ] {
        let graph = TestGraph::new(version, room);
        let given = graph.state_with("L", "J");
        let (resolved, found) = graph.resolve_states(&[graph.state_after("L"), &given]);
        graph.names.check_steps(&found, steps);
        graph.names.check_state(&resolved, &format!("join_rules={expected} @alice=L @bob=B power_levels=P"));
    }
}

/// MSC4297, problem B: erin's second event cites old power levels, and leads to new ones through her first. The state after it that
/// another server gave has the old ones: then P2, by which bob has his power, is in no state and in every chain.
#[test]
fn sc_061_conflicted_state_subgraph_is_replayed_in_version_12() {
    let room = "
        C: alice creates
        A: alice joins
        P1: alice power ban=50
        J: alice join_rule public
        B: bob joins
        D: carol joins
        P2: alice power ban=50 bob=50
        P3: bob power ban=50 bob=50 carol=50
        E1: erin joins
        E2: erin joins after E1 auth C,P1,J,E1
        Z: zara joins after P3";
    for (version, expected, steps) in [
        (
            V11,
            "power_levels=P1 @erin=E2",
            "auth difference: E1\npower check P1: ok\npower check P3: required_power_level",
        ),
        (
            V12,
            "power_levels=P3 @erin=E1",
            "subgraph: P1 J B P2 P3 E1 E2 Z\npower order: P1[infinite @3] J[infinite @4 timestamp] P2[infinite @7 timestamp] B[0 @5 power] P3[50 @8 auth edges]\nmainline: P3 P2 P1",
        ),
    ] {
        let text = match version {
            V12 => room.replace("auth C,", "auth "),
            _ => room.replace("ban=50", "alice=100 ban=50"),
        };
        let graph = TestGraph::new(version, &text);
        let given = graph.state_with("E2", "P1");
        let (resolved, found) = graph.resolve_states(&[&given, graph.state_after("Z")]);
        graph.names.check_steps(&found, steps);
        graph.names.check_state(&resolved, &format!("{expected} @zara=Z join_rules=J"));
    }
}

/// SC-063: chains with many cross links are walked once, and only as far as they differ.
#[test]
fn sc_063_cross_linked_auth_chains_are_no_trouble() {
    for version in [V2, V11, V12] {
        let mut text = room(version);
        let power = if version == V12 { "power" } else { "power alice=100" };
        for number in 0..500 {
            text += &format!("Q{number}: alice {power} ban={}\nK{number}: alice join_rule public\n", number % 50);
            text += &format!("E{number}: erin joins\n");
        }
        text += "T1: bob sets m.room.topic after D auth C,P,B\nT2: alice sets m.room.topic after E499\n";
        let text = if version == V12 { text.replace("auth C,", "auth ") } else { text };
        let graph = TestGraph::new(version, &text);
        let (resolved, _) = graph.resolve("T1,T2");
        graph.names.check_state(&resolved, "power_levels=Q499 join_rules=K499 @erin=E499 topic=T2");
    }
}

/// SC-064: as many states as branches, each with an entry of its own.
#[test]
fn sc_064_many_states_at_once() {
    for version in RoomVersion::ALL {
        let mut text = room(version);
        let names: Vec<String> = (0..200).map(|number| format!("S{number}")).collect();
        for name in &names {
            text += &format!("{name}: alice sets org.example {name} after D\n");
        }
        let graph = TestGraph::new(version, &text);
        let (resolved, _) = graph.resolve(&names.join(","));
        let expected: String = names.iter().map(|name| format!("org.example/{name}={name} ")).collect();
        graph.names.check_state(&resolved, &expected);
    }
}
