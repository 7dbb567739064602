//! Rooms that a server enters late: given states, outliers, and history that is asked for afterwards.

use super::room;
use crate::{
    id::EventId,
    room::{Arrival, Check, Effect, Judged, Outcome, Place, Receipt, Room, RoomError, StoredPosition},
    room_version::RoomVersion::{self, V1, V2, V6, V10, V11, V12},
    testing::TestRoom,
};

/// Erin's server enters by E; what follows comes to it as it is sent.
const LINES: &str = "
    P2: alice power bob=50 invite=50
    T: bob sets m.room.topic
    M: bob says hi
    X: alice bans carol
    E: erin joins
    N: bob says hi
    F: alice sets m.room.topic after E
    O: erin says hi after N,F
";

fn judged(receipt: Receipt) -> Judged {
    let Receipt::Judged(judged) = receipt else { panic!("{receipt:?}") };
    *judged
}

/// Returns the ids of the state before an event.
fn state_before(room: &TestRoom, name: &str) -> Vec<EventId> {
    room.room.state_before(&room.names.id(name)).unwrap().to_map().into_values().collect()
}

/// Hands over a state and its auth chains as outliers.
fn give(room: &TestRoom, into: &mut Room, state: &[EventId]) {
    let mut chain = state.to_vec();
    let mut wanted = chain.clone();
    while let Some(id) = wanted.pop() {
        for cited in &room.room.event(&id).unwrap().auth_events {
            if !chain.contains(cited) {
                chain.push(cited.clone());
                wanted.push(cited.clone());
            }
        }
    }
    chain.retain(|id| into.event(id).is_none());
    for pdu in room.pdus.iter().filter(|pdu| chain.contains(pdu.event_id())) {
        let judged = judged(into.handle_outlier(pdu).unwrap());
        let [Effect::Persist(persist)] = &judged.effects[..] else { panic!("it is not shown: {:?}", judged.effects) };
        assert_eq!((&persist.place, persist.forward_extremities.is_some()), (&Place::Outlier, false));
    }
}

/// Returns the room as erin's server has it once it entered.
fn entered(room: &TestRoom) -> Room {
    let mut late = room.empty_room();
    let state = state_before(room, "E");
    give(room, &mut late, &state);
    assert!(late.forward_extremities().is_empty() && late.current_state().is_empty());
    let judged = judged(late.handle(room.pdu("E"), Arrival::Entry, Some(&state)).unwrap());
    assert!(matches!(judged.effects[..], [Effect::Persist(_), Effect::Publish(_)]));
    late
}

/// Makes one more event, and hands it to the room.
fn add(room: &mut TestRoom, line: &str) -> EventId {
    let pdu = room.pdu_of(line);
    judged(room.room.handle_pdu(&pdu).unwrap());
    room.pdus.push(pdu.clone());
    pdu.event_id().clone()
}

fn has_same_states(late: &Room, room: &TestRoom, names: &[&str]) {
    for name in names {
        let id = room.names.id(name);
        assert_eq!(late.outcome(&id), room.room.outcome(&id), "{name}");
        assert_eq!(late.state_before(&id).unwrap().to_map(), room.room.state_before(&id).unwrap().to_map(), "{name}");
        assert_eq!(late.state_after(&id).unwrap().to_map(), room.room.state_after(&id).unwrap().to_map(), "{name}");
    }
}

const VERSIONS: [RoomVersion; 6] = [V1, V2, V6, V10, V11, V12];

#[test]
fn a_server_that_enters_late_has_the_same_states() {
    for version in VERSIONS {
        let room = room(version, LINES);
        let mut late = entered(&room);
        assert_eq!(late.forward_extremities(), [room.names.id("E")]);
        for name in ["N", "F", "O"] {
            assert_eq!(judged(late.handle_pdu(room.pdu(name)).unwrap()).verdict.record(version).0, Outcome::Accepted);
        }
        has_same_states(&late, &room, &["E", "N", "F", "O"]);
        assert_eq!(late.current_state().to_map(), room.room.current_state().to_map());
        assert_eq!(late.forward_extremities(), room.room.forward_extremities());
        assert!(late.is_outlier(&room.names.id("T")) && !late.is_outlier(&room.names.id("E")));
    }
}

#[test]
fn a_message_keeps_the_prev_events_that_are_not_here() {
    for version in VERSIONS {
        let room = room(version, "M: bob says hi\nN: bob says hi");
        let mut late = room.empty_room();
        let state = state_before(&room, "N");
        give(&room, &mut late, &state);
        judged(late.handle(room.pdu("N"), Arrival::Entry, Some(&state)).unwrap());
        assert_eq!(late.event(&room.names.id("N")).as_ref(), Some(room.pdu("N").event()));
    }
}

#[test]
fn history_gets_its_place_and_changes_nothing_else() {
    for version in VERSIONS {
        let room = room(version, LINES);
        let mut late = entered(&room);
        let before = (late.current_state().to_map(), late.forward_extremities());
        // The oldest of what is asked for is judged by a state that is given, the others by what they build on.
        let state = state_before(&room, "T");
        give(&room, &mut late, &state);
        let persist = |receipt| {
            let judged = judged(receipt);
            let [Effect::Persist(persist)] = &judged.effects[..] else { panic!("it is not shown") };
            persist.place.clone()
        };
        let Place::Placed { arrival: Arrival::History, given_state: Some(given), was_outlier: true } =
            persist(late.handle(room.pdu("T"), Arrival::History, Some(&state)).unwrap())
        else {
            panic!("it was an outlier")
        };
        assert!(given.is_sorted() && given.len() == state.len());
        for (name, was_outlier) in [("M", false), ("X", true)] {
            let place = persist(late.handle(room.pdu(name), Arrival::History, None).unwrap());
            assert_eq!(place, Place::Placed { arrival: Arrival::History, given_state: None, was_outlier }, "{name}");
        }
        has_same_states(&late, &room, &["T", "M", "X", "E"]);
        assert_eq!((late.current_state().to_map(), late.forward_extremities()), before);
        let again = late.handle(room.pdu("X"), Arrival::History, None).unwrap();
        assert!(matches!(again, Receipt::AlreadyKnown(Outcome::Accepted)), "{again:?}");
    }
}

#[test]
fn what_builds_on_an_outlier_needs_a_state() {
    let mut room = room(V11, LINES);
    let mut late = entered(&room);
    let fork = room.pdu_of("G: bob says hi after X,M");
    let Receipt::NeedEvents(missing) = late.handle_pdu(&fork).unwrap() else { panic!("M is not there") };
    assert_eq!(missing, [room.names.id("M")]);
    let fork = room.pdu_of("G: bob says hi after X");
    let Receipt::NeedState(without) = late.handle_pdu(&fork).unwrap() else { panic!("X has no state") };
    assert_eq!(without, [room.names.id("X")]);
    let lacking = [room.names.id("M")];
    let Receipt::NeedEvents(missing) = late.handle(&fork, Arrival::New, Some(&lacking)).unwrap() else {
        panic!("the state has what is not there")
    };
    assert_eq!(missing, lacking);
    // M holds no key and is left out; the topic is given twice, and the newer one counts.
    let mut state = state_before(&room, "E");
    late.handle_pdu(room.pdu("F")).unwrap();
    state.push(room.names.id("F"));
    let judged = judged(late.handle(&fork, Arrival::New, Some(&state)).unwrap());
    assert_eq!(judged.verdict.record(V11).0, Outcome::Accepted);
    let topic = late.state_before(fork.event_id()).unwrap();
    assert!(topic.to_map().into_values().any(|id| id == room.names.id("F")));
    let mut extremities = vec![room.names.id("F"), fork.event_id().clone()];
    extremities.sort_unstable();
    assert_eq!(late.forward_extremities(), extremities);
}

/// A state may be a lie; then it is the current state that an event fails in, or the state itself.
#[test]
fn a_given_state_does_not_get_around_the_checks() {
    let mut room = room(V11, LINES);
    let mut late = entered(&room);
    let carol = room.pdu_of("H: carol says hi after M auth C,P2,D");
    let before_ban = state_before(&room, "X");
    give(&room, &mut late, &before_ban);
    let soft = judged(late.handle(&carol, Arrival::New, Some(&before_ban)).unwrap());
    assert_eq!(soft.verdict.record(V11).0, Outcome::SoftFailed);
    let dave = room.pdu_of("I: dave says hi after M auth C,P2");
    let rejected = judged(late.handle(&dave, Arrival::New, Some(&before_ban)).unwrap());
    assert_eq!(rejected.verdict.record(V11).0, Outcome::Rejected);
    // What its auth events refuse is no part of any state.
    let forged = room.pdu_of("K: carol sets m.room.topic after M auth C,P2,D");
    assert_eq!(judged(late.handle_outlier(&forged).unwrap()).verdict.record(V11).0, Outcome::Rejected);
    let state = [before_ban, vec![forged.event_id().clone()]].concat();
    let bob = room.pdu_of("L: bob says hi after M auth C,P2,B");
    judged(late.handle(&bob, Arrival::History, Some(&state)).unwrap());
    let topic = late.state_before(bob.event_id()).unwrap().to_map();
    assert!(!topic.into_values().any(|id| id == *forged.event_id()));
}

#[test]
fn sc_145_what_the_policy_server_has_not_signed_is_soft_failed() {
    let mut room = room(V11, LINES);
    let mut late = entered(&room);
    for name in ["N", "F", "O"] {
        late.handle_pdu(room.pdu(name)).unwrap();
    }
    let stood = (late.current_state().to_map(), late.forward_extremities());
    let unsigned = room.pdu_of("S: alice sets m.room.topic after O");
    let soft = judged(late.handle(&unsigned, Arrival::Unsigned, None).unwrap());
    let (outcome, reason) = soft.verdict.record(V11);
    assert_eq!((outcome, reason.unwrap().check), (Outcome::SoftFailed, Check::PolicyServer));
    assert!(matches!(soft.effects[..], [Effect::Persist(_)]), "it is not shown: {:?}", soft.effects);
    assert_eq!((late.current_state().to_map(), late.forward_extremities()), stood);
    // It takes part in resolution, and what builds on it takes its place.
    let signed = room.pdu_of("H: alice says hi after S auth C,P2,A");
    judged(late.handle_pdu(&signed).unwrap());
    assert_eq!(late.forward_extremities(), [signed.event_id().clone()]);
    assert!(late.current_state().to_map().into_values().any(|id| id == *unsigned.event_id()));
    // The rules come first.
    let refused = room.pdu_of("K: dave says hi after O");
    let verdict = judged(late.handle(&refused, Arrival::Unsigned, None).unwrap()).verdict;
    assert_eq!(verdict.record(V11).0, Outcome::Rejected);
    // Of the past, it changes nothing either.
    let state = state_before(&room, "T");
    give(&room, &mut late, &state);
    let past = judged(late.handle(room.pdu("T"), Arrival::Unsigned, Some(&state)).unwrap());
    assert_eq!(past.verdict.record(V11).0, Outcome::SoftFailed);
    assert_eq!(late.forward_extremities(), [signed.event_id().clone()]);
}

/// An outlier that its auth events allow stays what it is if a state refuses it: others may hold it in theirs.
#[test]
fn an_outlier_is_not_rejected_later() {
    let room = room(V11, LINES);
    let mut late = entered(&room);
    let before_bob = state_before(&room, "B");
    let receipt = late.handle(room.pdu("T"), Arrival::History, Some(&before_bob)).unwrap();
    assert!(matches!(receipt, Receipt::AlreadyKnown(Outcome::Accepted)), "{receipt:?}");
    assert!(late.is_outlier(&room.names.id("T")));
}

#[test]
fn outliers_need_their_auth_events() {
    let room = room(V11, LINES);
    let mut late = room.empty_room();
    let Receipt::NeedEvents(missing) = late.handle_outlier(room.pdu("P")).unwrap() else { panic!("there is nothing") };
    let mut expected = ["C", "A"].map(|name| room.names.id(name));
    expected.sort_unstable();
    assert_eq!(missing, expected);
    assert!(late.is_empty());
}

/// A server that was away and comes back knows a state that is long out of date.
#[test]
fn an_entry_replaces_what_was_known() {
    let mut room = room(V11, LINES);
    let mut late = entered(&room);
    let gone = add(&mut room, "Q: erin leaves after O");
    let back = add(&mut room, "S: erin joins after Q");
    let state = state_before(&room, "S");
    give(&room, &mut late, &state);
    assert!(!late.is_outlier(&room.names.id("E")) && late.event(&gone).is_some());
    judged(late.handle(room.pdu("S"), Arrival::Entry, Some(&state)).unwrap());
    assert_eq!(late.forward_extremities(), [back]);
    assert_eq!(late.current_state().to_map(), room.room.current_state().to_map());
}

#[test]
fn a_late_room_is_restored() {
    let room = room(V11, LINES);
    let mut late = entered(&room);
    let state = state_before(&room, "T");
    give(&room, &mut late, &state);
    late.handle(room.pdu("T"), Arrival::History, Some(&state)).unwrap();
    for name in ["N", "F", "O"] {
        late.handle_pdu(room.pdu(name)).unwrap();
    }
    let mut restored = room.empty_room();
    let outlier = |outcome| StoredPosition {
        outcome,
        reason: None,
        may_redact_any: false,
        state_before: None,
        arrival: None,
        in_given_state: false,
    };
    let placed = |id: &EventId, arrival, in_given_state| StoredPosition {
        state_before: Some(late.state_before(id).unwrap().map().clone()),
        arrival: Some(arrival),
        in_given_state,
        ..outlier(late.outcome(id).unwrap())
    };
    let pdu_of = |id: &EventId| room.pdus.iter().find(|pdu| pdu.event_id() == id).unwrap();
    let places = |id: &EventId| match room.names.name(id) {
        "E" => Some((Arrival::Entry, true)),
        "T" => Some((Arrival::History, true)),
        "N" | "F" | "O" => Some((Arrival::New, false)),
        _ => None,
    };
    let events: Vec<(EventId, Outcome)> =
        late.events().map(|(event, outcome)| (event.event_id.clone(), outcome)).collect();
    for (id, outcome) in &events {
        match places(id) {
            Some((arrival, in_given_state)) if arrival != Arrival::History => {
                let position = placed(id, arrival, in_given_state);
                restored.restore_event(pdu_of(id), position).unwrap();
                assert!(restored.restore_state_after(id, late.state_after(id).unwrap().map()));
            }
            _ => restored.restore_event(pdu_of(id), outlier(*outcome)).unwrap(),
        }
    }
    let topic = room.names.id("T");
    let position = placed(&topic, Arrival::History, true);
    restored.restore_place(room.pdu("T"), position.clone()).unwrap();
    assert!(restored.restore_state_after(&topic, late.state_after(&topic).unwrap().map()));
    assert!(matches!(restored.restore_place(room.pdu("T"), position), Err(RoomError::NoOutlier(id)) if id == topic));
    restored.restore_current_state(late.current_state().map().clone(), 1_000, 0);
    assert_eq!(restored.history_fingerprint(), late.history_fingerprint());
    assert_eq!(restored.forward_extremities(), late.forward_extremities());
    let next = |room: &mut Room, pdu| judged(room.handle(pdu, Arrival::History, None).unwrap()).state_before.len();
    assert_eq!(next(&mut restored, room.pdu("M")), next(&mut late, room.pdu("M")));
    assert_eq!(restored.history_fingerprint(), late.history_fingerprint());
}
