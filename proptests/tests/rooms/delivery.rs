//! The order of delivery: one by one in any topological order, in any order at all, in batches, all at once, some twice.

use std::cell::Cell;

use proptest::prelude::*;
use ravel_core::{
    pdu::VerifiedPdu,
    room::{Receipt, Room},
    room_version::RoomVersion,
};
use ravel_proptests::{
    draft::Draft,
    plan::{Plan, Style, plans},
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
                    assert!(!missing.is_empty() && !room.has(&event_id));
                }
                Receipt::OtherRoom(_) | Receipt::NeedState(_) => panic!("{receipt:?}"),
                Receipt::Judged(_) | Receipt::AlreadyKnown(_) => assert!(room.has(&event_id)),
            }
        }
        pending.retain(|pdu| room.event(pdu.event_id()).is_none());
        pending.dedup_by(|left, right| left.event_id() == right.event_id());
    }
    assert!(pending.is_empty(), "all events are there, so all are judged");
    room
}

#[test]
fn sc_068_orderly_rooms_come_out_the_same_in_any_order() {
    check_orders(Style::Orderly);
}

#[test]
fn sc_068_hostile_rooms_come_out_the_same_in_any_order() {
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
