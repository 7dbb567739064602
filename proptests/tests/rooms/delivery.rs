//! The order of delivery: one by one in any topological order, in any order at all, in batches, all at once, some twice.

use std::cell::Cell;

use proptest::prelude::*;
use ravel_core::{
    event::{Content, Event, StateKey, event_type},
    event_auth::{AuthEventsAsState, CitedAuthEvent, check_state_independent},
    pdu::VerifiedPdu,
    room::{Outcome, Receipt, Room},
    room_version::RoomVersion,
};
use ravel_proptests::{
    draft::Draft,
    plain,
    plan::{Flaw, Plan, Style, plans},
    seed::{self, Choices},
};

use crate::replay::{assert_agree, deliver_in_any_order, delivered, empty_room, handle};

/// How many rooms of each style.
const ROOMS: u64 = 400;

fn rooms(style: Style) -> impl Strategy<Value = Plan> {
    plans(&RoomVersion::ALL, style, 1..50)
}

/// Returns the places of events in an order in which each comes after those that it cites, the create event first.
///
/// A room begins with its create event: of two that cite nothing, the first to come is the room's.
fn topological_order(pdus: &[VerifiedPdu], choices: &mut Choices) -> Vec<usize> {
    let mut left: Vec<usize> = (1..pdus.len()).collect();
    let mut order = vec![0];
    while !left.is_empty() {
        let is_ready = |place: &usize| {
            let event = pdus[*place].event();
            let mut cited = event.prev_events.iter().chain(&event.auth_events);
            cited.all(|id| !left.iter().any(|other| pdus[*other].event_id() == id))
        };
        let ready: Vec<usize> = left.iter().copied().filter(is_ready).collect();
        let next = ready[choices.below(ready.len())];
        left.retain(|place| *place != next);
        order.push(next);
    }
    order
}

/// Returns events in any order, the create event first.
fn any_order<'a>(pdus: &'a [VerifiedPdu], choices: &mut Choices) -> Vec<&'a VerifiedPdu> {
    let mut left: Vec<&VerifiedPdu> = pdus[1..].iter().collect();
    let mut order = vec![&pdus[0]];
    while !left.is_empty() {
        order.push(left.swap_remove(choices.below(left.len())));
    }
    order
}

fn check_orders(style: Style) {
    let counts = Cell::new(Counts::default());
    seed::check(ROOMS, &(rooms(style), any::<u64>()), |(plan, choices)| {
        let mut choices = Choices::new(choices);
        let draft = Draft::of(&plan);
        let pdus = draft.verified();
        let reference = delivered(&draft, &pdus);
        counts.set(counts.get().and(&reference));

        // One by one in another topological order, some events twice.
        let mut room = empty_room(&draft);
        let order = topological_order(&pdus, &mut choices);
        for place in &order {
            assert!(handle(&mut room, &pdus[*place]), "what it cites is there");
            if choices.below(3) == 0 {
                let known = order[choices.below(room.len())];
                assert!(handle(&mut room, &pdus[known]));
            }
        }
        let mut in_everything = u64::from(assert_agree(&reference, &room));

        // One by one in any order, and in batches.
        let shuffled = any_order(&pdus, &mut choices);
        in_everything += u64::from(assert_agree(&reference, &deliver_in_any_order(&draft, &shuffled)));
        in_everything += u64::from(assert_agree(&reference, &in_batches(&draft, &shuffled, &mut choices)));
        counts.set(Counts { agree_in_everything: counts.get().agree_in_everything + in_everything, ..counts.get() });
    });
    let counts = counts.get();
    println!("{style:?}: {counts:?}");
    if std::env::var_os(seed::SEED_VARIABLE).is_none() {
        let enough = counts.outcomes[0] > 10 * ROOMS
            && counts.outcomes[1..].iter().all(|count| *count > ROOMS / 10)
            && counts.merges > ROOMS
            && counts.agree_in_everything > ROOMS / 2;
        assert!(enough, "the rooms are too dull: {counts:?}");
    }
}

/// What the rooms were like, so that they cannot become dull unnoticed.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    /// Events by [`Outcome`].
    outcomes: [u64; 3],
    /// Events with several prev events.
    merges: u64,
    /// Deliveries without any soft failure.
    agree_in_everything: u64,
}

impl Counts {
    fn and(mut self, room: &Room) -> Self {
        for (event, outcome) in room.events() {
            self.outcomes[outcome as usize] += 1;
            self.merges += u64::from(event.prev_events.len() > 1);
        }
        self
    }
}

/// Delivers batches in any order, of any size, with what had to wait again in the next one.
fn in_batches(draft: &Draft, pdus: &[&VerifiedPdu], choices: &mut Choices) -> Room {
    let mut room = empty_room(draft);
    let mut pending: Vec<VerifiedPdu> = Vec::new();
    let mut left = pdus;
    while !left.is_empty() {
        let (batch, rest) = left.split_at(left.len().min(1 + choices.below(12)));
        left = rest;
        pending.extend(batch.iter().map(|pdu| (*pdu).clone()));
        // An event may stand in a batch twice.
        pending.extend(batch.first().map(|pdu| (*pdu).clone()));
        let receipts = room.handle_pdus(&pending).unwrap();
        assert_eq!(receipts.len(), pending.len());
        for (event_id, receipt) in receipts {
            match receipt {
                Receipt::NeedEvents(missing) => {
                    let pdu = pending.iter().find(|pdu| *pdu.event_id() == event_id).unwrap();
                    assert_eq!(missing, room.missing_events(pdu.event()));
                    assert!(!missing.is_empty() && room.event(&event_id).is_none());
                }
                Receipt::OtherRoom(other) => panic!("of the room {other}"),
                Receipt::Judged(_) | Receipt::AlreadyKnown(_) => assert!(room.event(&event_id).is_some()),
            }
        }
        pending.retain(|pdu| room.event(pdu.event_id()).is_none());
        pending.dedup_by(|left, right| left.event_id() == right.event_id());
    }
    assert!(pending.is_empty(), "all events are there, so all are judged");
    room
}

#[test]
fn orderly_rooms_come_out_the_same_in_any_order() {
    check_orders(Style::Orderly);
}

#[test]
fn hostile_rooms_come_out_the_same_in_any_order() {
    check_orders(Style::Hostile);
}

#[test]
fn all_at_once_in_any_order_is_the_same() {
    for style in [Style::Orderly, Style::Hostile] {
        seed::check(ROOMS / 2, &(rooms(style), any::<u64>()), |(plan, choices)| {
            let draft = Draft::of(&plan);
            let pdus = draft.verified();
            let shuffled = any_order(&pdus, &mut Choices::new(choices));
            let shuffled: Vec<VerifiedPdu> = shuffled.into_iter().cloned().collect();
            let mut room = empty_room(&draft);
            let receipts = room.handle_pdus(&shuffled).unwrap();
            assert!(receipts.iter().all(|(_, receipt)| matches!(receipt, Receipt::Judged(_))));
            assert_agree(&delivered(&draft, &pdus), &room);
        });
    }
}

/// The room reducer against the plain reading: states before events by [`plain::Room::resolve`], verdicts by the rules alone.
///
/// Without redactions, and without events whose content hash is wrong: those are received in another form than they were drafted.
#[test]
fn states_and_rejections_are_what_the_text_says() {
    for style in [Style::Orderly, Style::Hostile] {
        seed::check(ROOMS / 2, &rooms(style), |plan| {
            let draft = Draft::of(&plan);
            let is_redaction = |event: &Event| matches!(event.content, Content::Redaction(_));
            if draft.events.iter().any(|event| is_redaction(&event.event) || event.flaw == Flaw::ContentHash) {
                return;
            }
            let pdus = draft.verified();
            check_plainly(&draft, &pdus, &delivered(&draft, &pdus));
        });
    }
}

fn check_plainly(draft: &Draft, pdus: &[VerifiedPdu], room: &Room) {
    let allows = plain::ravel_allows(draft.rules());
    let mut plain = plain::Room::new(draft.rules(), pdus.iter().map(|pdu| pdu.event().clone()), &allows);
    let mut states_after: std::collections::BTreeMap<_, plain::State> = std::collections::BTreeMap::new();
    for pdu in pdus {
        let event = pdu.event();
        let states: Vec<plain::State> = event.prev_events.iter().map(|id| states_after[id].clone()).collect();
        let state_before = plain.resolve(&states);
        let of_room = room.state_before(&event.event_id).unwrap();
        let of_room: plain::State = of_room.iter().map(|(key, id)| (key.clone(), id.clone())).collect();
        assert_eq!(of_room, state_before, "before {event:?}");

        let in_state = plain::Lookup(state_before.iter().map(|(key, id)| (key.clone(), &*plain.events[id])).collect());
        let rejected = !passes_auth_events(pdu, &plain) || !allows(event, &with_create(in_state, &plain));
        assert_eq!(room.outcome(&event.event_id) == Some(Outcome::Rejected), rejected, "{event:?}");
        let mut state_after = state_before.clone();
        if rejected {
            plain.rejected.insert(event.event_id.clone());
        } else if let Some(key) = event.state_key() {
            state_after.insert(key, event.event_id.clone());
        }
        states_after.insert(event.event_id.clone(), state_after);
    }
}

/// Check 4 of the "Checks performed on receipt of a PDU".
fn passes_auth_events(pdu: &VerifiedPdu, plain: &plain::Room<'_>) -> bool {
    let event = pdu.event();
    let create = &plain.events[&plain.create];
    let cited: Vec<CitedAuthEvent<'_>> = event
        .auth_events
        .iter()
        .map(|id| CitedAuthEvent { event: &plain.events[id], rejected: plain.rejected.contains(id) })
        .collect();
    let create = (event.event_id != plain.create).then_some(&**create);
    let rules = plain.rules;
    check_state_independent(rules, event, pdu.authorising_user_signed(), create, &cited).is_ok()
        && ravel_core::event_auth::check_state_dependent(
            rules,
            event,
            &AuthEventsAsState { create, auth_events: &cited },
        )
        .is_ok()
}

/// In room version 12 the create event is not selected, and is asked for all the same.
fn with_create<'a>(mut state: plain::Lookup<'a>, plain: &'a plain::Room<'_>) -> plain::Lookup<'a> {
    if plain.rules.room_id_is_create_hash && !plain.rejected.contains(&plain.create) {
        let create = &*plain.events[&plain.create];
        state.0.entry(StateKey::new(event_type::CREATE, "")).or_insert(create);
    }
    state
}
