//! Each step of resolution on small rooms, and known problems. How rooms and steps are written: [`crate::testing`].

mod known_problems;
mod v1;
mod work;

use crate::{
    room_version::RoomVersion::{self, V2, V6, V10, V11, V12},
    testing::TestGraph,
};

/// The versions with state resolution 2.
const V2_TO_11: [RoomVersion; 4] = [V2, V6, V10, V11];

/// Alice, the creator, and bob, who has power, and carol.
const ROOM: &str = "
    C: alice creates
    A: alice joins
    P: alice power bob=50
    J: alice join_rule public
    B: bob joins
    D: carol joins
";

/// The power levels that alice needs in versions where her power is not infinite.
fn room(version: RoomVersion) -> String {
    let power = if version == V12 { "power bob=50" } else { "power alice=100 bob=50" };
    ROOM.replace("power bob=50", power)
}

/// Resolves the states after some events of a room that goes on from [`ROOM`] with these lines; checks steps and state. Event ids
/// are the names, with `$`.
#[track_caller]
fn check(version: RoomVersion, lines: &str, resolve: &str, steps: &str, state: &str) {
    check_whole(version, &format!("{}{lines}", room(version)), resolve, steps, state);
}

#[track_caller]
fn check_whole(version: RoomVersion, text: &str, resolve: &str, steps: &str, state: &str) {
    let graph = TestGraph::new(version, text);
    // In versions 1 and 2 the ids end with the server.
    let (resolved, found) = graph.resolve(resolve);
    graph.names.check_steps(&found, steps);
    graph.names.check_state(&resolved, state);
}

#[test]
fn conflicted_are_keys_with_several_events_or_absent_from_some_state() {
    for version in V2_TO_11 {
        let lines = "
            T1: bob sets m.room.topic
            S: bob sets m.room.name after T1
            T2: alice sets m.room.topic after D
            U: alice sets org.example key after T2";
        let steps = "
            conflict name: S none
            conflict topic: T1 T2
            conflict org.example/key: U none";
        check(version, lines, "S,U", steps, "create=C @alice=A power_levels=P name=S org.example/key=U");
    }
}

#[test]
fn states_that_agree_are_not_resolved() {
    for version in RoomVersion::ALL {
        let graph = TestGraph::new(version, &format!("{}\nM: bob says hi", room(version)));
        let (state, steps) = graph.resolve("D,M");
        assert_eq!((state, steps), (graph.entries(graph.state_after("D")), vec![]));
        let (none, steps) = graph.resolve_none();
        assert!(none.is_empty() && steps.is_empty());
    }
}

/// The chains of a state hold the state's own events: B is in both states, though only T1 cites it.
#[test]
fn auth_difference_is_of_inclusive_chains() {
    let lines = "
        T1: bob sets m.room.topic after D
        T2: alice sets m.room.topic after D";
    check(V11, lines, "T1,T2", "auth difference:", "");
    let lines = "
        P2: alice power alice=100 bob=60 after D
        P3: alice power alice=100 bob=70
        T1: bob sets m.room.topic
        T2: alice sets m.room.topic after D";
    let steps = "
        conflict power_levels: P P3
        conflict topic: T1 T2
        auth difference: P2";
    check(V11, lines, "T1,T2", steps, "power_levels=P3 topic=T1");
}

/// What the unconflicted state leads to is in every chain: the invite I is cited by T1 alone of the conflicted events, but also by
/// the join E, which both states have.
#[test]
fn auth_difference_excludes_what_shared_state_cites() {
    let lines = "
        I: alice invites erin
        E: erin joins
        T1: erin sets m.room.topic after E auth C,P,I
        T2: alice sets m.room.topic after E";
    check(V11, lines, "T1,T2", "auth difference:", "topic=T2");
    // One step further away: the ban and what it cites are cited by the unban, which is cited by the join.
    let lines = "
        I: alice invites erin
        X: alice bans erin
        Y: alice unbans erin
        E: erin joins
        T1: erin sets m.room.topic after E auth C,P,X
        T2: alice sets m.room.topic after E auth C,P,A";
    check(V11, lines, "T1,T2", "auth difference:", "topic=T2");
    // Not so if the join does not lead there.
    let lines = "
        I: alice invites erin
        X: alice bans erin
        E: erin joins auth C,P,J,I
        T1: erin sets m.room.topic after E auth C,P,X
        T2: alice sets m.room.topic after E auth C,P,A";
    check(V11, lines, "T1,T2", "auth difference: X", "topic=T2 @erin=E");
}

#[test]
fn auth_difference_of_more_than_64_states() {
    let mut lines = String::from("P2: alice power alice=100 bob=60\nP3: alice power alice=100 bob=50 after P2\n");
    for number in 0..70 {
        lines += &format!("T{number}: alice sets m.room.topic after {}\n", if number == 69 { "P3" } else { "D" });
    }
    let names: Vec<String> = (0..70).map(|number| format!("T{number}")).collect();
    check(V11, &lines, &names.join(","), "auth difference: P2", "power_levels=P3 topic=T69");
}

/// P2 is in all chains, as S cites it in both states; but it stands on the path from P3 to P.
#[test]
fn conflicted_state_subgraph_is_the_paths_between_conflicted_events() {
    let lines = "
        P2: alice power bob=60
        S: bob sets m.room.name
        P3: alice power bob=70
        T: carol leaves";
    for (version, subgraph, state) in [(V11, "", "power_levels=P3"), (V12, "subgraph: P P2 P3", "power_levels=P3")] {
        let lines = if version == V12 { lines.to_owned() } else { lines.replace("power bob", "power alice=100 bob") };
        let graph = TestGraph::new(version, &format!("{}{lines}", room(version)));
        let other = graph.state_with("T", "P");
        let (resolved, steps) = graph.resolve_states(&[graph.state_after("T"), &other]);
        graph.names.check_steps(&steps, &format!("conflict power_levels: P P3\nauth difference:\n{subgraph}"));
        graph.names.check_state(&resolved, state);
    }
    // An event that leads to a conflicted one, but to which none leads, is not part of it; nor is the other way round.
    let lines = "
        P2: alice power bob=60
        T1: bob sets m.room.topic after P2
        T2: alice sets m.room.topic after P2";
    check(V12, lines, "T1,T2", "subgraph: T1 T2", "topic=T2");
}

#[test]
fn power_order_takes_more_power_then_the_earlier_then_the_smaller_id() {
    let lines = "
        X1: bob bans erin after D ts 5
        X2: alice bans frank after D ts 9
        X3: alice bans grace after D ts 9
        X4: alice bans heidi after D ts 8";
    let steps = "power order: X4[100 @8] X2[100 @9 timestamp] X3[100 @9 id] X1[50 @5 power]";
    let state = "@erin=X1 @frank=X2 @grace=X3 @heidi=X4";
    check(V11, lines, "X1,X2,X3,X4", steps, state);
    let steps = "power order: X4[infinite @8] X2[infinite @9 timestamp] X3[infinite @9 id] X1[50 @5 power]";
    check(V12, lines, "X1,X2,X3,X4", steps, state);
}

#[test]
fn power_order_follows_auth_edges_first() {
    // Alice's ban would come first, but cites bob's unban, and that his ban.
    let lines = "
        X: bob bans erin after D ts 50
        Y: bob unbans erin ts 40
        Z: alice bans erin ts 30
        W: alice bans frank after D ts 60";
    let steps = "power order: W[100 @60] X[50 @50 power] Y[50 @40 auth edges] Z[100 @30 auth edges]";
    check(V11, lines, "Z,W", steps, "@erin=Z @frank=W");
}

/// The power level is that of the event's own auth events, whatever the room's power levels are.
#[test]
fn power_order_goes_by_the_auth_events() {
    let lines = "
        P2: alice power alice=100 bob=90 dave=90
        X1: bob bans erin after P2 auth C,P,B ts 1
        X2: bob bans frank after P2 ts 2";
    let steps = "power order: X2[90 @2] X1[50 @1 power]";
    check(V11, lines, "X1,X2", steps, "@erin=X1 @frank=X2");
    // Without power levels the creator has 100 and all others 0; in version 12 power without end.
    let room = "
        C: alice creates
        A: alice joins
        X1: alice kicks erin after A ts 2
        X2: bob kicks frank after A auth C ts 1";
    check_whole(V11, room, "X1,X2", "power order: X1[100 @2] X2[0 @1 power]", "@erin=X1 @frank=-");
    let room = room.replace("auth C ", "auth - ");
    check_whole(V12, &room, "X1,X2", "power order: X1[infinite @2] X2[0 @1 power]", "@erin=X1 @frank=-");
}

#[test]
fn power_events_are_power_levels_join_rules_and_what_is_done_to_others() {
    let lines = "
        X1: bob bans erin after D
        X2: bob kicks frank after D
        L: carol leaves after D
        J2: alice join_rule invite after D
        P2: alice power alice=100 after D
        T: alice sets m.room.topic after D
        Q: alice sets m.room.power_levels elsewhere after D
        K: alice sets m.room.join_rules elsewhere after D
        I: alice invites grace after D";
    let steps = "
        power check P: ok
        power check J: ok
        power check J2: ok
        power check P2: ok
        power check X1: ban_level
        power check X2: kick_level
        check D: join_not_invited
        check L: ok
        check T: ok
        check Q: ok
        check K: ok
        check I: ok";
    check(V11, lines, "X1,X2,L,J2,P2,T,Q,K,I", steps, "join_rules=J2 power_levels=P2 @carol=L");
}

/// A power event takes the events of the full conflicted set that it cites along into the first list.
#[test]
fn power_events_bring_their_auth_chain() {
    let lines = "
        E: erin joins after D
        X: bob bans erin after E
        F: frank joins after D";
    let steps = "
        power order: E[0 @7] X[50 @8 auth edges]
        mainline order: F[0 @9]";
    check(V11, lines, "X,F", steps, "@erin=X @frank=F");
}

#[test]
fn mainline_order_takes_older_power_levels_first_then_the_earlier_then_the_smaller_id() {
    let lines = "
        P2: alice power alice=100 bob=60
        T0: alice sets m.room.topic after P2 auth C,A,P2 ts 1
        T1: alice sets m.room.topic after P2 auth C,A,P ts 2
        T2: alice sets m.room.topic after P2 auth C,A,P ts 3
        T3: alice sets m.room.topic after P2 auth C,A,P ts 3
        T4: alice sets m.room.topic after P2 auth C,A ts 9";
    let steps = "
        mainline: P2 P
        mainline order: T4[infinite @9] T1[1 @2 position] T2[1 @3 timestamp] T3[1 @3 id] T0[0 @1 position]
        outcome topic: T0";
    check(V11, lines, "T0,T1,T2,T3,T4", steps, "topic=T0");
    // In version 12 power levels that are not in conflict are not part of the partially resolved state: no mainline.
    let steps = "
        mainline:
        mainline order: T0[infinite @1] T1[infinite @2 timestamp] T2[infinite @3 timestamp] T3[infinite @3 id] T4[infinite @9 timestamp]
        outcome topic: T4";
    check(V12, &lines.replace("alice=100 ", "").replace("auth C,", "auth "), "T0,T1,T2,T3,T4", steps, "topic=T4");
}

/// The position is that of the first event on the mainline, however far down; power levels off the mainline are passed.
#[test]
fn mainline_positions_are_found_through_other_power_levels() {
    let lines = "
        P2: alice power alice=100 bob=60 after D ts 10
        P3: alice power alice=100 bob=70 after P2 ts 30
        Q2: alice power alice=100 bob=61 after D ts 20
        Q3: alice power alice=100 bob=71 after Q2 ts 21
        S: alice sets m.room.name after Q3 auth C,A,Q3 ts 1
        T: alice sets m.room.topic after P3 auth C,A,P2 ts 2";
    let steps = "
        auth difference: P2 Q2
        power order: P2[100 @10] Q2[100 @20 timestamp] Q3[100 @21 timestamp] P3[100 @30 timestamp]
        mainline: P3 P2 P
        mainline order: S[2 @1] T[1 @2 position]";
    check(V11, lines, "S,T", steps, "power_levels=P3 name=S topic=T");
}

/// Version 12 starts from nothing, so that an event is checked by what it cites where nothing else is resolved.
#[test]
fn auth_checks_fall_back_to_auth_events() {
    let lines = "
        P2: alice power alice=100
        T1: bob sets m.room.topic after P2 auth C,P,B ts 2
        T2: alice sets m.room.topic after P2 ts 1";
    let steps = "
        check T2: ok
        check T1: required_power_level";
    let ordered_by_position = "
        check T1: required_power_level
        check T2: ok";
    check(V11, lines, "T1,T2", ordered_by_position, "topic=T2");
    let lines = lines.replace("alice=100", "").replace("auth C,", "auth ");
    let from_nothing = steps.replace("required_power_level", "ok");
    check(V12, &lines, "T1,T2", &from_nothing, "topic=T1");
}

#[test]
fn auth_checks_do_not_fall_back_to_rejected_auth_events() {
    let lines = "
        P2: alice power bob=90 rejected
        T1: bob sets m.room.topic after D auth P2,B ts 1
        T2: alice sets m.room.topic after D ts 2";
    check(V12, lines, "T1,T2", "check T1: required_power_level\ncheck T2: ok", "topic=T2");
    check(V12, &lines.replace(" rejected", ""), "T1,T2", "check T2: ok\ncheck T1: ok", "topic=T1");
}

/// The create event is no auth event in version 12, and is there all the same.
#[test]
fn auth_checks_know_the_create_event_in_version_12() {
    let lines = "
        T1: alice sets m.room.topic after D auth A ts 2
        T2: bob sets m.room.topic after D auth P,B ts 1";
    check(V12, lines, "T1,T2", "check T2: ok\ncheck T1: ok", "topic=T1");
}

#[test]
fn unconflicted_entries_stay_whatever_was_resolved() {
    // P2 comes in by the auth difference and passes, but both states have P.
    let lines = "
        P2: alice power alice=100 bob=60
        T1: bob sets m.room.topic after D auth C,P2,B
        T2: alice sets m.room.topic after D";
    let steps = "
        auth difference: P2
        power check P2: ok
        mainline: P2 P
        outcome topic: T1";
    check(V11, lines, "T1,T2", steps, "power_levels=P topic=T1");
    // Where no state has anything, what was resolved is set.
    let room = "
        C: alice creates
        A: alice joins
        P: alice power alice=100
        T1: alice sets m.room.topic after A auth C,A,P
        T2: alice sets m.room.topic after A";
    let steps = "
        conflict topic: T1 T2
        power check P: ok
        outcome power_levels: P
        outcome topic: T1";
    check_whole(V11, room, "T1,T2", steps, "power_levels=P topic=T1");
}

#[test]
fn a_key_that_no_allowed_event_holds_is_gone() {
    let lines = "
        T1: carol sets m.room.topic after D
        T2: carol sets m.room.topic after D";
    let steps = "
        check T1: required_power_level
        check T2: required_power_level
        outcome topic: none";
    for version in V2_TO_11.into_iter().chain([V12]) {
        check(version, lines, "T1,T2", steps, "topic=-");
    }
}

/// SC-032: a state that another server gave has a rejected event in it.
#[test]
fn sc_032_rejected_events_do_not_come_back_by_resolution() {
    for version in RoomVersion::ALL {
        let lines = "
            T: alice sets m.room.topic after D
            X: carol bans bob rejected
            R: alice sets m.room.topic rejected depth 99";
        let graph = TestGraph::new(version, &format!("{}{lines}", room(version)));
        let given = graph.state_with("D", "R");
        let (resolved, _) = graph.resolve_states(&[graph.state_after("T"), &given]);
        graph.names.check_state(&resolved, "topic=T @bob=B");
        let given = graph.state_with("T", "X");
        let (resolved, steps) = graph.resolve_states(&[graph.state_after("T"), &given]);
        graph.names.check_state(&resolved, "topic=T @bob=B");
        if version != RoomVersion::V1 {
            graph.names.check_steps(&steps, "power check B: ok\npower check X: rejected on receipt");
        }
    }
}

/// SC-067: times that are not true decide ties, as the algorithm says, and nothing else.
#[test]
fn sc_067_times_at_the_edges_decide_ties_only() {
    const LAST: i64 = (1 << 53) - 1;
    let lines = format!(
        "
        P2: alice power alice=100 bob=60 after D ts {LAST}
        P3: alice power alice=100 bob=40 after D ts 0
        P4: bob power alice=100 bob=0 after D ts -{LAST}"
    );
    let steps = format!("power order: P3[100 @0] P2[100 @{LAST} timestamp] P4[50 @-{LAST} power]");
    check(V11, &lines, "P2,P3,P4", &steps, "power_levels=P4");
}

/// SC-069: a chain of power levels as long as you like is walked, not climbed by recursion, and a rejected one is no obstacle.
#[test]
fn sc_069_long_chains_of_power_levels() {
    let mut lines = String::new();
    for number in 0..3_000 {
        lines += &format!("P{number}: alice power bob=50 ban={}\n", number % 50);
    }
    lines += "T1: alice sets m.room.topic after D\nT2: alice sets m.room.topic after P2999\n";
    for version in [V11, V12] {
        let text = if version == V12 { lines.clone() } else { lines.replace("power bob", "power alice=100 bob") };
        let graph = TestGraph::new(version, &format!("{}{text}", room(version)));
        let (resolved, _) = graph.resolve("T1,T2");
        graph.names.check_state(&resolved, "power_levels=P2999 topic=T2");
    }
    let lines = "
        P2: alice power alice=100 bob=60
        P3: alice power alice=100 bob=70 rejected
        S: bob sets m.room.name after P2 auth C,P3,B
        T: bob sets m.room.topic after P2";
    let steps = "
        power check P3: rejected on receipt
        mainline: P2 P
        mainline order: S[0 @9] T[0 @10 timestamp]";
    check(V11, lines, "S,T", steps, "name=S topic=T power_levels=P2");
}
