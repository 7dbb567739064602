//! The room reducer on small rooms. How they are written: [`crate::testing`].

mod compose;
mod place;
mod purged;
mod redactions;
mod security_cases;

use std::{collections::BTreeMap, sync::Arc};

use super::{Arrival, Effect, Outcome, Receipt, Room, RoomError, StoredPosition};
use crate::{
    id::{EventId, RoomId},
    pdu::VerifiedPdu,
    room_version::RoomVersion::{self, V1, V2, V6, V10, V11, V12},
    state::StateMap,
    testing::TestRoom,
};

/// Alice, the creator, and bob, who has power, and carol.
const ROOM: &str = "
    C: alice creates => accepted
    A: alice joins => accepted
    P: alice power bob=50 => accepted
    J: alice join_rule public => accepted
    B: bob joins => accepted
    D: carol joins => accepted
";

/// Makes the room [`ROOM`] and goes on with these lines, checking what they say of the outcomes. In versions where creators have no
/// infinite power, the power levels give alice 100.
#[track_caller]
fn room(version: RoomVersion, lines: &str) -> TestRoom {
    let text = format!("{ROOM}{lines}");
    TestRoom::new(version, &if version == V12 { text } else { text.replace(" power", " power alice=100") })
}

#[test]
fn rejected_by_the_auth_events() {
    for version in RoomVersion::ALL {
        let room = room(
            version,
            "
            T1: bob sets m.room.topic => accepted
            T2: carol sets m.room.topic => rejected 4 required_power_level
            M: carol says hi => accepted
            X: dave says hi after M => rejected 4 sender_not_joined
            Y: carol says hi after M cites J => rejected 4 auth_events_unexpected
            Z: carol says hi after M auth - => rejected 4 WHY"
                .replace("WHY", if version == V12 { "sender_not_joined" } else { "auth_events_no_create" })
                .as_str(),
        );
        room.check("T2", "topic=T1");
        room.check("now", "topic=T1 @carol=D @dave=-");
        assert_eq!(room.extremities(), "M,T1");
    }
}

/// By its auth events an event may be allowed and yet not be, in the state before it.
#[test]
fn rejected_by_the_state_before() {
    for version in RoomVersion::ALL {
        let room = room(
            version,
            "
            P2: alice power
            T: bob sets m.room.topic auth C,P,B => rejected 5 required_power_level
            X: alice bans carol after P2
            M: carol says hi auth C,P2,D => rejected 5 sender_not_joined
            N: carol says hi after P2 => soft-failed sender_not_joined"
                .replace("auth C,", if version == V12 { "auth " } else { "auth C," })
                .as_str(),
        );
        room.check("T", "topic=- power_levels=P2");
        room.check("M", "@carol=X");
        room.check("N", "@carol=D");
    }
}

/// A soft-failed event is part of the states after it, and not of the current one.
#[test]
fn soft_failed_by_the_current_state() {
    for version in RoomVersion::ALL {
        let room = room(
            version,
            "
            X: alice bans bob => accepted
            T: bob sets m.room.topic after D => soft-failed sender_not_joined
            U: alice sets m.room.name after T => accepted
            V: alice says hi after U,X => accepted",
        );
        room.check("T", "topic=T @bob=B");
        room.check("U", "topic=T @bob=B name=U");
        // In version 12 what is not resolved counts by its auth events; the ban is resolved first, so bob is no member in either.
        let topic = if version == V1 { "topic=T" } else { "topic=-" };
        room.check("V", &format!("{topic} @bob=X name=U"));
        assert_eq!(room.extremities(), "V");
    }
}

/// What builds on rejected events is judged on its own: the state goes through them unchanged.
#[test]
fn events_build_on_rejected_ones() {
    for version in RoomVersion::ALL {
        let room = room(
            version,
            "
            R: carol sets m.room.topic => rejected 4 required_power_level
            S: carol sets m.room.name => rejected 4 required_power_level
            M: carol says hi => accepted",
        );
        room.check("M", "topic=- name=- @carol=D");
        // Deployed servers leave the extremity behind the rejected events where it is.
        assert_eq!(room.extremities(), "D,M");
    }
}

#[test]
fn forward_extremities_go_through_soft_failed_events_and_not_through_rejected_ones() {
    let lines = "
        X: alice bans carol => accepted
        E: bob says hi after D => accepted
        S1: carol says hi after E => soft-failed sender_not_joined
        S2: carol says hi after S1 => soft-failed sender_not_joined";
    for (more, expected) in [
        ("", "E,X"),
        ("N: bob says hi after S2 => accepted", "N,X"),
        ("N: bob says hi after S2,X => accepted", "N"),
        (
            "N: bob says hi after S2 => accepted\nO: bob says hi after S2 => accepted\nQ: bob says hi after S1",
            "N,O,Q,X",
        ),
        (
            "R: carol says hi after E auth - => rejected 4 auth_events_no_create\nN: bob says hi after R => accepted",
            "E,N,X",
        ),
        ("R: carol says hi after S2 auth -\nN: bob says hi after R\nO: bob says hi after N,S2", "O,X"),
        ("N: bob says hi after D => accepted", "E,N,X"),
    ] {
        assert_eq!(room(V11, &format!("{lines}\n{more}")).extremities(), expected, "{more}");
    }
}

#[test]
fn a_merge_of_all_extremities_takes_the_current_state() {
    for version in RoomVersion::ALL {
        let room = room(
            version,
            "
            T: alice sets m.room.topic after D
            S: bob sets m.room.name after D
            U: alice sets m.room.topic after D
            M: alice says hi after T,S,U",
        );
        assert_eq!(room.room.state_before(&room.names.id("M")), Some(room.room.current_state()));
    }
}

#[test]
fn effects_say_what_to_store_and_to_show() {
    let room = room(
        V11,
        "
        X: alice bans carol
        S: carol says hi after D
        R: carol sets m.room.topic after D",
    );
    let mut again = room.empty_room();
    let mut roots = BTreeMap::new();
    for pdu in &room.pdus {
        let Receipt::Judged(judged) = again.handle_pdu(pdu).unwrap() else { panic!("judged") };
        let accepted = again.outcome(pdu.event_id()) == Some(Outcome::Accepted);
        let [Effect::Persist(persist), publish @ ..] = &judged.effects[..] else { panic!("{:?}", judged.effects) };
        assert_eq!((&persist.event, &persist.json), (pdu.event(), pdu.json()));
        assert_eq!(persist.state_before, judged.state_before.root_number());
        assert_eq!(persist.state_after, judged.state_after.root_number());
        assert_eq!(persist.current_state, again.current_state().map().root_number());
        assert_eq!(persist.current_state_fingerprint, again.current_state().fingerprint());
        for (number, record) in &persist.nodes {
            assert!(number.number() < persist.nodes_numbered);
            roots.insert(Some(*number), record.root_check);
        }
        for state in [&judged.state_before, &judged.state_after, again.current_state().map()] {
            let check = state.fingerprint(again.graph()).0.first_chunk().copied();
            let stored = roots.get(&state.root_number()).copied();
            assert_eq!(stored, (!state.is_empty()).then_some(check), "each root was stored");
        }
        assert_eq!(persist.forward_extremities, accepted.then(|| again.forward_extremities()));
        assert_eq!(persist.reason.as_ref(), again.reason(pdu.event_id()));
        let shown = publish.iter().all(|effect| matches!(effect, Effect::Publish(id) if id == pdu.event_id()));
        assert!(shown && publish.len() == usize::from(accepted), "{:?}", judged.effects);
    }
    assert_eq!(again.history_fingerprint(), room.room.history_fingerprint());
}

#[test]
fn missing_events_are_named_and_nothing_changes() {
    let room = room(V11, "M: bob says hi\nN: bob says hi");
    let mut other = room.empty_room();
    for name in ["C", "A", "P"] {
        other.handle_pdu(room.pdu(name)).unwrap();
    }
    let before = other.history_fingerprint();
    let mut missing: Vec<EventId> = ["B", "M"].map(|name| room.names.id(name)).into();
    missing.sort_unstable();
    let Receipt::NeedEvents(needed) = other.handle_pdu(room.pdu("N")).unwrap() else { panic!("it can't be judged") };
    assert_eq!(needed, missing);
    assert_eq!(other.missing_events(room.pdu("N").event()), missing);
    assert_eq!((other.len(), other.history_fingerprint()), (3, before));
}

#[test]
fn known_events_and_those_of_other_rooms_change_nothing() {
    let mut room = room(V11, "R: carol sets m.room.topic");
    let before = room.room.history_fingerprint();
    for (name, outcome) in [("D", Outcome::Accepted), ("R", Outcome::Rejected)] {
        let pdu = room.pdu(name).clone();
        let receipt = room.room.handle_pdu(&pdu).unwrap();
        assert!(matches!(receipt, Receipt::AlreadyKnown(known) if known == outcome), "{receipt:?}");
    }
    let elsewhere = room.pdu_of(r#"M: bob says hi after D with {"room_id":"!elsewhere:a"}"#);
    let receipt = room.room.handle_pdu(&elsewhere).unwrap();
    assert!(matches!(receipt, Receipt::OtherRoom(id) if id == RoomId::parse("!elsewhere:a").unwrap()));
    assert_eq!(room.room.history_fingerprint(), before);
}

/// Hands events over at once; returns the names of those judged, in order, and of those that need events, with what they need.
fn handle_batch(room: &TestRoom, into: &mut Room, pdus: &[VerifiedPdu]) -> (String, Vec<(String, String)>) {
    let (mut judged, mut waiting) = (Vec::new(), Vec::new());
    for (id, receipt) in into.handle_pdus(pdus).unwrap() {
        match receipt {
            Receipt::Judged(_) => judged.push(room.names.name(&id).to_owned()),
            Receipt::NeedEvents(needed) => {
                let mut needed: Vec<_> = needed.iter().map(|id| room.names.name(id)).collect();
                needed.sort_unstable();
                waiting.push((room.names.name(&id).to_owned(), needed.join(",")));
            }
            Receipt::AlreadyKnown(_) => {}
            Receipt::OtherRoom(_) | Receipt::NeedState(_) => panic!("{receipt:?}"),
        }
    }
    (judged.join(","), waiting)
}

#[test]
fn a_batch_is_judged_parents_first() {
    let room = room(V11, "M: bob says hi after J,D\nN: bob says hi");
    let in_order = "C,A,P,J,B,D,M,N";
    let mut pdus = room.pdus.clone();
    assert_eq!(handle_batch(&room, &mut room.empty_room(), &pdus), (in_order.to_owned(), vec![]));
    pdus.reverse();
    let mut other = room.empty_room();
    assert_eq!(handle_batch(&room, &mut other, &pdus), (in_order.to_owned(), vec![]));
    assert_eq!(other.history_fingerprint(), room.room.history_fingerprint());
    // Again, and each twice.
    assert_eq!(handle_batch(&room, &mut other, &pdus), (String::new(), vec![]));
    let twice: Vec<_> = pdus.iter().chain(&pdus).cloned().collect();
    assert_eq!(handle_batch(&room, &mut room.empty_room(), &twice), (in_order.to_owned(), vec![]));
    // What builds on something that is missing waits; the rest does not.
    let missing = room.names.id("B");
    pdus.retain(|pdu| *pdu.event_id() != missing);
    let waiting = [("D", "B"), ("N", "B,M"), ("M", "B,D")].map(|(name, needs)| (name.to_owned(), needs.to_owned()));
    assert_eq!(handle_batch(&room, &mut room.empty_room(), &pdus), ("C,A,P,J".to_owned(), waiting.to_vec()));
}

/// The log has everything that the room is made of.
#[test]
fn a_restored_room_is_the_same() {
    for version in [V1, V2, V6, V10, V11, V12] {
        let lines = "
            X: alice bans carol
            R: bob redacts P after X
            S: carol sets m.room.name after D
            T: carol sets m.room.topic after X
            U: alice sets m.room.topic after S,R
            V: bob sets m.room.name after D,U";
        let mut room = room(version, lines);
        let mut restored = restore(&room);
        let same = |room: &Room, restored: &Room| {
            assert_eq!(restored.history_fingerprint(), room.history_fingerprint());
            assert_eq!(restored.forward_extremities(), room.forward_extremities());
            assert_eq!(restored.current_state(), room.current_state());
            for (event, _) in room.events() {
                assert_eq!(restored.reason(&event.event_id), room.reason(&event.event_id));
                assert_eq!(restored.state_after(&event.event_id), room.state_after(&event.event_id));
            }
        };
        same(&room.room, &restored);
        // It goes on in the same way.
        for line in ["M: bob invites erin after V", "N: carol says hi after S", "O: alice says hi after M,N"] {
            let pdu = room.pdu_of(line);
            room.room.handle_pdu(&pdu).unwrap();
            restored.handle_pdu(&pdu).unwrap();
            same(&room.room, &restored);
        }
    }
}

fn restore(room: &TestRoom) -> Room {
    let mut restored = room.empty_room();
    for pdu in &room.pdus {
        let (id, room) = (pdu.event_id(), &room.room);
        restored.restore_event(pdu, stored_position(room, id)).unwrap();
        assert!(restored.restore_state_after(id, room.state_after(id).unwrap().map()));
    }
    restored.restore_current_state(room.room.current_state().map().clone(), 1_000, 0);
    restored
}

/// What is stored of an event's place; whether the sender of a redaction may redact any event is computed once more.
fn stored_position(room: &Room, id: &EventId) -> StoredPosition {
    let index = room.graph.index_of(id).unwrap();
    let position = room.position(index);
    let before = room.before(room.prev_events(index).into()).unwrap();
    StoredPosition {
        outcome: position.outcome,
        reason: room.reason(id).cloned(),
        may_redact_any: room.may_redact_any(&room.event(id).unwrap(), index, &before),
        state_before: room.state_before(id).map(|state| state.map().clone()),
        arrival: Some(Arrival::New),
        in_given_state: false,
    }
}

#[test]
fn a_stored_state_after_an_event_is_the_one_before_with_the_event_in_it() {
    let room = room(V11, "X: alice bans carol\nM: alice says hi");
    let of = |name: &str| room.room.state_after(&room.names.id(name)).unwrap().map().clone();
    // After the ban: the state before it, one without the ban but with something else, one of long before. After the message:
    // another state than the one before.
    for (name, wrong) in [("X", of("D")), ("X", StateMap::new()), ("X", of("B")), ("M", of("D"))] {
        let mut restored = room.empty_room();
        let mut told = Vec::new();
        for pdu in &room.pdus {
            let id = pdu.event_id();
            restored.restore_event(pdu, stored_position(&room.room, id)).unwrap();
            let is_wrong = *id == room.names.id(name);
            let after = if is_wrong { wrong.clone() } else { room.room.state_after(id).unwrap().map().clone() };
            told.push(restored.restore_state_after(id, &after) == is_wrong);
        }
        assert!(told.iter().all(|wrongly| !wrongly), "{name}: {told:?}");
    }
    assert_eq!(of("X").root_number(), of("M").root_number(), "a message changes no state");
}

#[test]
fn a_log_with_a_child_before_its_parent_is_refused() {
    let room = room(V11, "M: bob says hi");
    let mut restored = room.empty_room();
    let refused = restored.restore_event(room.pdu("M"), stored_position(&room.room, &room.names.id("M")));
    assert!(matches!(refused, Err(RoomError::OutOfOrder { missing, .. }) if missing == room.names.id("D")));
}

#[test]
fn an_explanation_of_a_merge_has_its_steps() {
    let room = room(
        V11,
        "
        P2: alice power after D ts 9
        T: bob sets m.room.topic after D ts 8
        M: alice says hi after P2,T",
    );
    let explanation = room.room.explain(&room.names.id("M")).unwrap().unwrap();
    let steps = "
        conflict power_levels: P P2
        conflict topic: T none
        auth difference:
        power order: P[100 @3] P2[100 @9 timestamp]
        power check P: ok
        power check P2: ok
        mainline: P2 P
        mainline order: T[1 @8]
        check T: required_power_level
        outcome power_levels: P2
        outcome topic: none";
    room.names.check_steps(&explanation.steps, steps);
    let prev_events: Vec<_> = explanation.prev_events.iter().map(|(id, _)| room.names.name(id)).collect();
    assert_eq!((prev_events, explanation.outcome, explanation.reason), (vec!["P2", "T"], Outcome::Accepted, None));
}

#[test]
fn an_explanation_names_the_check_and_the_rule() {
    let room = room(
        V11,
        "
        P2: alice power
        X: alice bans carol
        T: bob sets m.room.topic after P2 auth C,P,B
        S: carol says hi after P2",
    );
    let explain = |name: &str| {
        let explanation = room.room.explain(&room.names.id(name)).unwrap().unwrap();
        assert_eq!(explanation.steps, [], "there is one state");
        let reason = explanation.reason.unwrap();
        (explanation.outcome, format!("{:?}, rule {}: {}", reason.check, reason.rule, reason.sentence))
    };
    let sentence = r#"StateBefore, rule 7: @bob:b has power level 0, sending "m.room.topic" needs 50"#;
    assert_eq!(explain("T"), (Outcome::Rejected, sentence.to_owned()));
    let sentence = "CurrentState, rule 5: @carol:c is not joined to the room";
    assert_eq!(explain("S"), (Outcome::SoftFailed, sentence.to_owned()));
    assert!(room.room.explain(&EventId::parse("$unknown").unwrap()).unwrap().is_none());
}

/// Rooms are held in memory: what an event repeats of others is there once, and the event is the same.
#[test]
fn events_share_the_texts_of_those_near_them() {
    let room = room(V11, "S: alice sets m.room.topic => accepted\nT: alice sets m.room.topic => accepted");
    let [.., before, last] = &*room.pdus else { panic!("two events") };
    let [held_before, held] = [before, last].map(|pdu| room.room.state_event(pdu.event_id()).unwrap());
    assert_eq!(**held, **last.event());
    let same = |a: &str, b: &str| std::ptr::eq(a, b);
    assert!(same(held.prev_events[0].as_str(), held_before.event_id.as_str()));
    assert!(same(held.sender.as_str(), held_before.sender.as_str()));
    assert!(
        same(&held.event_type, &held_before.event_type) && same(held.room_id.as_str(), held_before.room_id.as_str())
    );
    for cited in &held.auth_events {
        assert!(same(cited.as_str(), room.room.state_event(cited).unwrap().event_id.as_str()));
    }
}

/// Most events are messages: what is held of each of them is small, and states are held once for those that follow each other.
#[test]
fn messages_that_follow_each_other_share_their_states() {
    assert_eq!(size_of::<super::Position>(), 48);
    let judged =
        room(V11, "M: bob says hi\nN: alice says hi\nS: bob sets m.room.topic\nO: bob says hi\nP: bob says hi");
    for room in [&judged.room, &restore(&judged)] {
        let states = |name: &str| {
            let index = room.graph.index_of(&judged.names.id(name)).unwrap();
            room.position(index).states.clone().unwrap()
        };
        assert!(Arc::ptr_eq(&states("M"), &states("N")) && Arc::ptr_eq(&states("O"), &states("P")));
        assert!(!Arc::ptr_eq(&states("N"), &states("O")));
    }
}

/// Of messages nothing is held but numbers, and they come out as they went in; of what numbers can't tell, the event is held.
#[test]
fn messages_are_made_of_numbers() {
    for version in RoomVersion::ALL {
        let room = room(
            version,
            "
            M: bob says hi
            N: alice says hi after M,P
            R: bob redacts M
            X: bob says hi after M auth C,P,B,B
            S: bob sets m.room.topic",
        );
        let held: Vec<bool> = room
            .pdus
            .iter()
            .map(|pdu| {
                assert_eq!(*room.room.event(pdu.event_id()).unwrap(), **pdu.event());
                assert_eq!(room.room.depth(pdu.event_id()), Some(pdu.event().depth));
                room.room.position(room.room.graph.index_of(pdu.event_id()).unwrap()).event.is_some()
            })
            .collect();
        let [.., m, n, r, _, s] = &*held else { panic!("five events") };
        assert_eq!([m, n, r, s], [&false, &false, &true, &true], "version {version}");
        assert!(room.room.state_event(room.pdus.first().unwrap().event_id()).is_some());
        assert!(room.room.state_event(&room.names.id("M")).is_none());
    }
    // In more than 255 bytes, which is what its rejection is for.
    let room = room(V10, &format!("O: bob sends {}", "\u{e4}".repeat(200)));
    let pdu = room.pdus.last().unwrap();
    assert!(pdu.event().oversized_field);
    assert_eq!(room.room.event(pdu.event_id()).as_ref(), Some(pdu.event()));
}
