//! A room whose old messages are put aside goes on as one that has all in memory.

use std::collections::BTreeMap;

use ravel_core::{
    event::{Content, Event},
    graph::{EventIndex, Missed},
    id::EventId,
    pdu::VerifiedPdu,
    room::{Judged, Receipt, Room},
};
use ravel_proptests::growing::GrowingRoom;

/// What a store has of a room.
#[derive(Default)]
struct Stored {
    pdus: Vec<VerifiedPdu>,
    numbers: BTreeMap<EventId, EventIndex>,
}

impl Stored {
    fn add(&mut self, pdu: &VerifiedPdu) {
        let index = EventIndex::from_number(self.pdus.len() as u32).unwrap();
        self.numbers.insert(pdu.event_id().clone(), index);
        self.pdus.push(pdu.clone());
    }

    /// Puts back what was missed and is known; returns whether there is something.
    fn put_back(&self, room: &mut Room, missed: &Missed) -> bool {
        let known = missed.event_ids.iter().filter_map(|event_id| self.numbers.get(event_id));
        let known: Vec<EventIndex> = missed.numbers.iter().chain(known).copied().collect();
        for index in &known {
            room.put_back(*index, self.pdus[index.number() as usize].event()).unwrap();
        }
        !known.is_empty()
    }

    /// Looks at a room until nothing is missed that is known.
    fn look<T>(&self, room: &mut Room, look: impl Fn(&Room) -> T) -> T {
        loop {
            let seen = look(room);
            let missed = room.graph().missed(std::mem::take);
            if !self.put_back(room, &missed) {
                return seen;
            }
        }
    }

    fn handle(&self, room: &mut Room, pdu: &VerifiedPdu) -> Judged {
        let event = pdu.event();
        let target = match &event.content {
            Content::Redaction(target) => target.as_ref(),
            _ => None,
        };
        let ids = [&event.event_id].into_iter().chain(&event.prev_events).chain(&event.auth_events).chain(target);
        self.put_back(room, &Missed { event_ids: ids.cloned().collect(), ..Missed::default() });
        let Receipt::Judged(judged) = room.handle_pdu(pdu).unwrap() else { panic!("{event:?}") };
        let missed = room.graph().missed(std::mem::take);
        assert!(
            missed.numbers.is_empty() && missed.event_ids.iter().all(|id| !self.numbers.contains_key(id)),
            "{missed:?}"
        );
        *judged
    }
}

#[test]
fn rooms_whose_messages_are_put_aside_go_on_as_others() {
    for number in 0..12 {
        let growing = GrowingRoom::new(11, number);
        let (mut whole, mut room, mut stored) = (growing.empty(), growing.empty(), Stored::default());
        let mut most_aside = 0;
        for count in 0..400 {
            let pdu = growing.next(&whole);
            let Receipt::Judged(expected) = whole.handle_pdu(&pdu).unwrap() else { panic!("{:?}", pdu.event()) };
            let judged = stored.handle(&mut room, &pdu);
            assert_eq!(format!("{:?}", judged.effects), format!("{:?}", expected.effects), "{number}");
            stored.add(&pdu);
            if count % 3 == 0 {
                room.put_messages_aside(2).unwrap();
                most_aside = most_aside.max(room.graph().aside());
            }
        }
        assert!(most_aside > 50, "{number}: {most_aside}");
        assert_eq!(room.len(), whole.len());
        room.put_messages_aside(0).unwrap();
        // What is asked of single events, with all the others put aside once more.
        for (event_id, index) in &stored.numbers {
            if index.number() % 8 == 0 {
                room.put_messages_aside(0).unwrap();
            }
            let facts = |room: &Room| {
                let (before, after) = (room.state_before(event_id), room.state_after(event_id));
                let states = [before, after].map(|state| state.map(|state| state.map().fingerprint(room.graph())));
                let event: Option<Event> = room.event(event_id).map(|event| Event::clone(&event));
                (states, event, room.outcome(event_id), room.depth(event_id), room.is_redacted(event_id))
            };
            assert_eq!(stored.look(&mut room, facts), facts(&whole), "{number}, {event_id}");
            let explained = |room: &Room| format!("{:?}", room.explain(event_id));
            assert_eq!(stored.look(&mut room, explained), explained(&whole), "{number}, {event_id}");
        }
        let all = Missed { numbers: stored.numbers.values().copied().collect(), ..Missed::default() };
        stored.put_back(&mut room, &all);
        assert_eq!(room.graph().aside(), 0);
        assert_eq!(room.history_fingerprint(), whole.history_fingerprint());
    }
}
