//! Rooms of which history was purged.

use std::collections::BTreeSet;

use super::{room, stored_position};
use crate::{
    graph::EventIndex,
    id::EventId,
    room::{Arrival, Effect, Outcome, PersistEvent, PurgedEvent, Receipt, Remains, Room, RoomError},
    room_version::RoomVersion::{self, V1, V2, V6, V10, V11, V12},
    testing::TestRoom,
};

/// Forks, a merge, redacted power levels, and events that are soft-failed and rejected.
const LINES: &str = "
    P2: alice power bob=50 invite=50
    M: bob says hi
    R: bob redacts P2 after M
    I: bob invites erin after R
    X: alice bans carol after R
    S: carol sets m.room.name after I
    T: carol sets m.room.topic after X
    U: alice sets m.room.topic after S,X
    V: bob sets m.room.name after M
    W: alice says hi after U,V
    N: bob says hi after W";

fn purged(room: &Room, event_id: &EventId, pdu: &crate::pdu::VerifiedPdu) -> PurgedEvent {
    let numbers = |ids: &[EventId]| ids.iter().map(|id| room.graph().index_of(id).unwrap()).collect::<Vec<_>>();
    let event = room.event(event_id).unwrap();
    PurgedEvent::of(
        pdu,
        room.outcome(event_id).unwrap(),
        Arrival::New,
        numbers(&event.prev_events),
        numbers(&event.auth_events),
    )
    .unwrap()
}

fn persisted(receipt: Receipt) -> Box<PersistEvent> {
    let Receipt::Judged(judged) = receipt else { panic!("{receipt:?}") };
    let persist = judged.effects.into_iter().find_map(|effect| match effect {
        Effect::Persist(persist) => Some(persist),
        Effect::Publish(_) => None,
    });
    persist.unwrap()
}

/// Whatever subset is purged, a replay gives what there was, but for the JSON, and what comes later is judged alike.
#[test]
fn a_replay_with_purged_events_gives_the_same_states_and_numbers() {
    for version in [V1, V2, V6, V10, V11, V12] {
        let mut room = room(version, LINES);
        let invite = room.pdu_of("L: bob invites fred after N");
        // Every event by itself, all but each, the first ones and all of them.
        let count = room.pdus.len();
        let one = (0..count).map(|place| BTreeSet::from([place]));
        let others = (0..count).map(|place| (0..count).filter(|other| *other != place).collect());
        let first = (0..=count).map(|end| (0..end).collect());
        for chosen in one.chain(others).chain(first) {
            let (mut whole, mut replayed) = (room.empty_room(), room.empty_room());
            for (place, pdu) in room.pdus.iter().enumerate() {
                let expected = persisted(whole.handle_pdu(pdu).unwrap());
                let persist = if chosen.contains(&place) {
                    let purged = purged(&whole, pdu.event_id(), pdu);
                    let (outcome, reason) = (expected.outcome, expected.reason.clone());
                    let persist = replayed.replay_purged(&purged, outcome, reason).unwrap();
                    assert!(persist.json.is_empty());
                    assert_eq!(replayed.remains(pdu.event_id()), Some(Remains::Skeleton));
                    PersistEvent {
                        json: pdu.json().clone(),
                        content_hash_matched: pdu.content_hash_matched(),
                        authorising_user_signed: pdu.authorising_user_signed(),
                        ..persist
                    }
                } else {
                    *persisted(replayed.handle_pdu(pdu).unwrap())
                };
                assert_eq!(format!("{persist:?}"), format!("{expected:?}"), "version {version}, {chosen:?}");
            }
            assert_eq!(replayed.history_fingerprint(), whole.history_fingerprint());
            let expected = persisted(whole.handle_pdu(&invite).unwrap());
            assert_eq!(format!("{:?}", persisted(replayed.handle_pdu(&invite).unwrap())), format!("{expected:?}"));
        }
    }
}

/// Restores a room of which the states of these events were purged, but for those of forward extremities, and the content of
/// `skeletons`.
fn restore(room: &TestRoom, without_states: &[&str], skeletons: &[&str]) -> Room {
    let named = |names: &[&str], id: &EventId| names.contains(&room.names.name(id));
    let mut restored = room.empty_room();
    for pdu in &room.pdus {
        let id = pdu.event_id();
        let mut position = stored_position(&room.room, id);
        let without = named(without_states, id) && !room.room.forward_extremities().contains(id);
        if without {
            position.state_before = None;
        }
        if named(skeletons, id) {
            restored.restore_purged(&purged(&room.room, id, pdu), position).unwrap();
        } else {
            restored.restore_event(pdu, position).unwrap();
        }
        let after = room.room.state_after(id).unwrap().map().clone();
        assert_eq!(restored.restore_state_after(id, &after), !without);
    }
    restored.restore_current_state(room.room.current_state().map().clone(), 1_000, 1);
    restored
}

const OLD: [&str; 15] = ["C", "A", "P", "J", "B", "D", "P2", "M", "R", "I", "X", "S", "T", "U", "V"];

#[test]
fn a_restored_room_goes_on_after_what_was_purged() {
    for version in [V1, V2, V6, V10, V11, V12] {
        for skeletons in [&[][..], &["M", "R", "I", "S", "T"], &OLD] {
            let mut room = room(version, LINES);
            let mut restored = restore(&room, &OLD, skeletons);
            let id = |name: &str| room.names.id(name);
            assert_eq!(restored.forward_extremities(), room.room.forward_extremities());
            assert_eq!((restored.current_state(), restored.purges()), (room.room.current_state(), 1));
            for (name, remains) in [("M", Remains::Skeleton), ("W", Remains::Everything), ("U", Remains::Skeleton)] {
                let whole = !skeletons.contains(&name) && remains == Remains::Skeleton;
                let remains = if whole { Remains::Content } else { remains };
                assert_eq!(restored.remains(&id(name)), Some(remains), "{name}");
                let known = restored.state_before(&id(name)).is_some();
                assert_eq!(known, remains == Remains::Everything);
                assert_eq!(restored.event(&id(name)).unwrap().event_id, id(name));
            }
            assert!(matches!(restored.explain(&id("W")), Err(RoomError::NoState(_))));
            // The redaction counts though nobody knows any more in which state its sender sent it.
            for line in
                ["I2: bob invites fred after N", "T2: bob sets m.room.topic after N", "O: alice says hi after I2,T2"]
            {
                let pdu = room.pdu_of(line);
                let expected = persisted(room.room.handle_pdu(&pdu).unwrap());
                let persist = persisted(restored.handle_pdu(&pdu).unwrap());
                assert_eq!((persist.outcome, &persist.reason), (expected.outcome, &expected.reason), "{line}");
                assert_eq!((persist.purges, expected.purges), (1, 0));
                assert_eq!(restored.state_after(pdu.event_id()), room.room.state_after(pdu.event_id()));
                assert_eq!(restored.current_state(), room.room.current_state());
            }
        }
    }
}

#[test]
fn a_redaction_that_was_purged_takes_effect() {
    for (version, outcome) in [(V10, Outcome::Accepted), (V11, Outcome::Rejected)] {
        let lines = "
            P2: alice power bob=50 invite=50
            R: alice redacts P2
            N: bob says hi";
        let mut room = room(version, lines);
        let all = ["C", "A", "P", "J", "B", "D", "P2", "R"];
        let mut restored = restore(&room, &all, &all);
        let invite = room.pdu_of("I: carol invites erin after N");
        assert_eq!(persisted(restored.handle_pdu(&invite).unwrap()).outcome, outcome, "version {version}");
    }
}

#[test]
fn what_builds_on_purged_events_is_not_judged() {
    let mut room = room(V11, LINES);
    let mut restored = restore(&room, &OLD, &["M", "R"]);
    let before = restored.history_fingerprint();
    for (line, cited) in [
        ("E1: bob says hi after M", &["M"][..]),
        ("E2: bob says hi after N,R,M,U", &["M", "R", "U"]),
        ("E3: bob says hi after N,V", &["V"]),
    ] {
        let pdu = room.pdu_of(line);
        let mut expected: Vec<EventId> = cited.iter().map(|name| room.names.id(name)).collect();
        expected.sort();
        let receipt = restored.handle_pdu(&pdu).unwrap();
        assert!(matches!(&receipt, Receipt::NeedState(purged) if *purged == expected), "{line}: {receipt:?}");
        assert_eq!(restored.history_fingerprint(), before);
    }
    // What is missing comes first, and what waits for such an event in a batch goes on waiting.
    let on_purged = room.pdu_of("F: bob says hi after M");
    let after = room.pdu_of("G: bob says hi after F,M");
    let receipts = restored.handle_pdus(&[after, on_purged]).unwrap();
    let told: Vec<_> = receipts.iter().map(|(id, receipt)| (room.names.name(id), format!("{receipt:?}"))).collect();
    assert!(told[0].0 == "F" && told[0].1.starts_with("NeedState"), "{told:?}");
    assert!(told[1].0 == "G" && told[1].1.starts_with("NeedEvents"), "{told:?}");
    // As auth events they do: power levels and members that were purged.
    let cites = room.pdu_of("H: bob says hi after N auth C,P2,B");
    assert_eq!(persisted(restored.handle_pdu(&cites).unwrap()).outcome, Outcome::Accepted);
}

#[test]
fn a_purged_event_that_does_not_fit_is_an_error() {
    for version in RoomVersion::ALL {
        let room = room(version, "M: bob says hi");
        let (id, pdu) = (room.names.id("M"), room.pdu("M"));
        let good = purged(&room.room, &id, pdu);
        let far = EventIndex::from_number(6).unwrap();
        let mut restored = room.empty_room();
        for bad in [&PurgedEvent { prev_events: vec![far], ..good.clone() }, &good] {
            let error = restored.replay_purged(bad, Outcome::Accepted, None).unwrap_err();
            assert!(matches!(error, RoomError::UnknownNumber { .. }), "{error}");
            assert!(restored.restore_purged(bad, stored_position(&room.room, &id)).is_err());
        }
        for pdu in &room.pdus {
            restored.handle_pdu(pdu).unwrap();
        }
        assert!(matches!(restored.replay_purged(&good, Outcome::Accepted, None), Err(RoomError::Graph(_))));
        assert!(restored.restore_purged(&good, stored_position(&room.room, &id)).is_err());
        assert_eq!(restored.history_fingerprint(), room.room.history_fingerprint());
    }
}
