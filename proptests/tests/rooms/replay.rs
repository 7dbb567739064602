//! Delivering events to a room.

use std::collections::{BTreeMap, BTreeSet};

use ravel_core::{
    event::StateKey,
    id::EventId,
    pdu::VerifiedPdu,
    room::{Effect, Outcome, PersistEvent, Receipt, Room},
    state::{Fingerprint, State},
};
use ravel_proptests::draft::Draft;

/// Returns the room of a draft, without events.
pub(crate) fn empty_room(draft: &Draft) -> Room {
    Room::new(draft.room_id.clone(), draft.rules())
}

/// Returns the room after these events, each after those that it cites.
pub(crate) fn delivered(draft: &Draft, pdus: &[VerifiedPdu]) -> Room {
    let mut room = empty_room(draft);
    for pdu in pdus {
        persist(&mut room, pdu);
    }
    room
}

/// Judges a new event whose parents are there, and returns what is to be stored.
pub(crate) fn persist(room: &mut Room, pdu: &VerifiedPdu) -> PersistEvent {
    let Receipt::Judged(judged) = room.handle_pdu(pdu).unwrap() else { panic!("{} is not new", pdu.event_id()) };
    assert!(!room.forward_extremities().is_empty(), "the create event is accepted, and from then on there is one");
    let persist = judged.effects.into_iter().find_map(|effect| match effect {
        Effect::Persist(persist) => Some(*persist),
        Effect::Publish(_) => None,
    });
    persist.unwrap()
}

/// Delivers events one by one in any order, those that have to wait again as soon as what they miss is there.
///
/// An event that comes too early must be answered with exactly what is missing, and change nothing.
pub(crate) fn deliver_in_any_order(draft: &Draft, pdus: &[&VerifiedPdu]) -> Room {
    let mut room = empty_room(draft);
    let mut waiting: Vec<&VerifiedPdu> = Vec::new();
    for pdu in pdus {
        waiting.push(pdu);
        while let Some(index) = waiting.iter().position(|pdu| handle(&mut room, pdu)) {
            waiting.remove(index);
        }
    }
    assert!(waiting.is_empty());
    room
}

/// Delivers an event once; returns whether it is in the room now.
pub(crate) fn handle(room: &mut Room, pdu: &VerifiedPdu) -> bool {
    let event = pdu.event();
    let cited: BTreeSet<&EventId> = event.prev_events.iter().chain(&event.auth_events).collect();
    let missing: Vec<EventId> = cited.into_iter().filter(|id| !room.has(id)).cloned().collect();
    let (known, before) = (room.outcome(&event.event_id), Everything::of(room));
    match room.handle_pdu(pdu).unwrap() {
        Receipt::Judged(judged) => {
            assert!(missing.is_empty() && known.is_none());
            assert_eq!(room.outcome(&event.event_id), Some(judged.verdict.record(room.rules().version).0));
            let state = |map| Some(State::new(room.graph(), map));
            assert_eq!(room.state_before(&event.event_id), state(&judged.state_before));
            assert_eq!(room.state_after(&event.event_id), state(&judged.state_after));
            return true;
        }
        Receipt::AlreadyKnown(outcome) => assert_eq!(Some(outcome), known),
        Receipt::NeedEvents(need) => assert_eq!((need, None), (missing, known)),
        receipt @ (Receipt::OtherRoom(_) | Receipt::NeedState(_)) => panic!("{receipt:?}"),
    }
    assert_eq!(Everything::of(room), before, "nothing may change");
    known.is_some()
}

/// All that can be seen of a room, by order of arrival.
#[derive(Debug, PartialEq)]
pub(crate) struct Everything {
    history: Fingerprint,
    outcomes: Vec<(EventId, Outcome)>,
    forward_extremities: Vec<EventId>,
    current_state: Fingerprint,
}

impl Everything {
    pub(crate) fn of(room: &Room) -> Self {
        Self {
            history: room.history_fingerprint(),
            outcomes: room.events().map(|(event, outcome)| (event.event_id.clone(), outcome)).collect(),
            forward_extremities: room.forward_extremities(),
            current_state: room.current_state().fingerprint(),
        }
    }
}

/// What the DAG alone decides of an event: whether it is rejected, and by which rule; the states before and after it.
type Decided = (bool, Option<String>, BTreeMap<StateKey, EventId>, BTreeMap<StateKey, EventId>);

pub(crate) fn decided_by_the_dag(room: &Room) -> BTreeMap<EventId, Decided> {
    let of_event = |id: &EventId, outcome| {
        let rejected = outcome == Outcome::Rejected;
        let rule = room.reason(id).filter(|_| rejected).map(|reason| format!("{reason:?}"));
        (rejected, rule, room.state_before(id).unwrap().to_map(), room.state_after(id).unwrap().to_map())
    };
    room.events().map(|(event, outcome)| (event.event_id.clone(), of_event(&event.event_id, outcome))).collect()
}

/// Asserts that two rooms with the same events agree as far as they have to; returns whether they have to in everything.
pub(crate) fn assert_agree(left: &Room, right: &Room) -> bool {
    assert_eq!(decided_by_the_dag(left), decided_by_the_dag(right));
    let soft_failed = |room: &Room| room.events().any(|(_, outcome)| outcome == Outcome::SoftFailed);
    let all = !soft_failed(left) && !soft_failed(right);
    if all {
        assert_eq!(left.forward_extremities(), right.forward_extremities());
        assert_eq!(left.current_state(), right.current_state());
    }
    all
}
