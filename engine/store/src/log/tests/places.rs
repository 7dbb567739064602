//! Rooms that were entered in their midst: outliers, given states, and history that came later.

use std::sync::Arc;

use ravel_core::{
    id::EventId,
    pdu::VerifiedPdu,
    room::{Arrival, Effect, Outcome, PersistEvent, Place, Receipt, Room},
};

use super::{
    BATCH_BYTES, Durability, EventLog, Keyspace, LogEntry, LogError, MemoryStore, PROJECTIONS, TestRoom, block_on,
    contents, findings, open, rebuild, rules,
};
use crate::{
    KeyRange, Limits, StoreExt,
    log::{Replica, records::key},
};

/// A room as a server has it that entered at some event, and what it stored.
struct Late {
    source: TestRoom,
    room: Room,
    store: MemoryStore,
    /// Whether an event was appended with those before it.
    pending: Vec<PersistEvent>,
}

impl Late {
    fn new() -> Self {
        let mut source = TestRoom::forked("!p:a");
        let merge = source.judged[8].event.event_id.clone();
        let next = source.event("@a:a", "m.room.message", None, r#"{"body":"next"}"#, &[&merge]);
        let last = source.event("@a:a", "m.room.topic", Some(""), r#"{"topic":"last"}"#, &[&next]);
        source.event("@a:a", "m.room.message", None, r#"{"body":"unsigned"}"#, &[&last]);
        let room = Room::new(source.room.room_id().clone(), rules());
        Self { source, room, store: MemoryStore::new(), pending: Vec::new() }
    }

    fn id(&self, place: usize) -> EventId {
        self.source.judged[place].event.event_id.clone()
    }

    fn pdu(&self, place: usize) -> VerifiedPdu {
        VerifiedPdu::restore(&self.source.judged[place].json, rules(), None, true).unwrap()
    }

    fn state_before(&self, place: usize) -> Vec<EventId> {
        self.source.room.state_before(&self.id(place)).unwrap().to_map().into_values().collect()
    }

    fn take(&mut self, receipt: Receipt) -> Place {
        let Receipt::Judged(judged) = receipt else { panic!("{receipt:?}") };
        self.pending.extend(judged.effects.into_iter().filter_map(|effect| match effect {
            Effect::Persist(event) => Some(*event),
            Effect::Publish(_) => None,
        }));
        judged.place
    }

    fn outlier(&mut self, place: usize) {
        let receipt = self.room.handle_outlier(&self.pdu(place)).unwrap();
        assert_eq!(self.take(receipt), Place::Outlier);
    }

    fn event(&mut self, place: usize, arrival: Arrival, given_state: Option<&[EventId]>) -> bool {
        let receipt = self.room.handle(&self.pdu(place), arrival, given_state).unwrap();
        matches!(self.take(receipt), Place::Placed { was_outlier: true, .. })
    }

    fn append(&mut self) {
        let log = open(&self.store);
        block_on(log.append(self.room.room_id(), rules(), &self.pending, Durability::Sync)).unwrap();
        self.pending.clear();
    }

    /// Enters at the merge, takes what follows, and asks for what came before. `step` is called whenever something may be stored.
    fn run(&mut self, mut step: impl FnMut(&mut Self)) {
        for place in [0, 1, 2, 3, 4, 5] {
            self.outlier(place);
            step(self);
        }
        let state = self.state_before(8);
        assert!(!self.event(8, Arrival::Entry, Some(&state)));
        step(self);
        assert!(!self.event(9, Arrival::New, None));
        step(self);
        let state = self.state_before(3);
        assert!(self.event(3, Arrival::History, Some(&state)));
        step(self);
        assert!(self.event(4, Arrival::History, None));
        step(self);
        assert!(!self.event(6, Arrival::History, None), "soft-failed elsewhere");
        step(self);
        assert!(!self.event(10, Arrival::New, None));
        step(self);
        assert!(self.event(5, Arrival::History, None));
        step(self);
        assert!(!self.event(11, Arrival::Unsigned, None));
        assert_eq!(self.room.outcome(&self.id(11)), Some(Outcome::SoftFailed));
        step(self);
    }

    fn stored() -> Self {
        let mut late = Self::new();
        late.run(Self::append);
        late
    }
}

fn same(loaded: &Room, room: &Room) {
    assert_eq!(loaded.history_fingerprint(), room.history_fingerprint());
    assert_eq!(loaded.forward_extremities(), room.forward_extremities());
    assert_eq!(loaded.current_state(), room.current_state());
    for (event, outcome) in room.events() {
        assert_eq!(loaded.outcome(&event.event_id), Some(outcome));
        assert_eq!(loaded.reason(&event.event_id), room.reason(&event.event_id));
        assert_eq!(loaded.is_outlier(&event.event_id), room.is_outlier(&event.event_id));
        assert_eq!(loaded.state_after(&event.event_id), room.state_after(&event.event_id));
    }
}

#[test]
fn a_late_room_is_loaded_as_it_was_stored() {
    let mut late = Late::new();
    let mut fingerprints = Vec::new();
    late.run(|late| {
        late.append();
        let log = open(&late.store);
        same(&block_on(log.load_room(late.room.room_id())).unwrap().unwrap(), &late.room);
        fingerprints.push((log.len(), late.room.history_fingerprint(), late.room.forward_extremities()));
    });
    let log = open(&late.store);
    for (position, fingerprint, extremities) in fingerprints {
        let room = block_on(log.load_room_at(late.room.room_id(), position)).unwrap().unwrap();
        assert_eq!((room.history_fingerprint(), room.forward_extremities()), (fingerprint, extremities), "{position}");
    }
    // States are those of the server that was there all the time.
    for place in [3, 4, 5, 8, 9, 10] {
        let id = late.id(place);
        let of = |room: &Room| room.state_before(&id).unwrap().to_map();
        assert_eq!(of(&late.room), of(&late.source.room), "{place}");
    }
    assert_eq!(late.room.current_state().to_map(), late.source.room.current_state().to_map());
    assert_eq!(findings(&late.store), [""; 0]);
}

#[test]
fn a_late_room_is_the_same_in_one_batch() {
    let (mut at_once, one_by_one) = (Late::new(), Late::stored());
    at_once.run(|_| {});
    at_once.append();
    assert_eq!(contents(&at_once.store), contents(&one_by_one.store));
}

#[test]
fn a_rebuild_of_a_late_room_gives_the_same_bytes() {
    let late = Late::stored();
    let before = contents(&late.store);
    for keyspace in PROJECTIONS {
        super::write(&late.store, |batch| {
            batch.delete_range(keyspace, KeyRange::all());
        });
        rebuild(&late.store).unwrap();
        assert_eq!(contents(&late.store), before, "{keyspace}");
    }
}

#[test]
fn a_late_room_is_copied() {
    let late = Late::stored();
    let limits = Limits { items: 1000, bytes: BATCH_BYTES << 8 };
    let entries = block_on(open(&late.store).raw_entries(0, limits)).unwrap();
    let copy = MemoryStore::new();
    let mut replica = Replica::new(block_on(EventLog::open(Arc::new(copy.clone()))).unwrap());
    for entry in &entries {
        block_on(replica.take(std::slice::from_ref(entry), Durability::Sync)).unwrap();
    }
    assert_eq!(contents(&copy), contents(&late.store));
}

#[test]
fn a_place_that_is_lost_is_found() {
    let late = Late::stored();
    let key = key::timeline(0, 4);
    let stored: Option<super::TimelineRecord> = block_on(late.store.get_record(key.clone())).unwrap();
    super::write(&late.store, |batch| {
        batch.put_record(key, &stored.unwrap().before_it_was_placed()).unwrap();
    });
    let expected = format!("!p:a, {}: the state before or after it differs", late.id(3));
    assert_eq!(findings(&late.store), [expected]);
    rebuild(&late.store).unwrap();
    assert_eq!(findings(&late.store), [""; 0]);
}

#[test]
fn a_place_that_no_entry_gives_is_found() {
    let late = Late::stored();
    let key = key::timeline(0, 3);
    let stored: Option<super::TimelineRecord> = block_on(late.store.get_record(key.clone())).unwrap();
    super::write(&late.store, |batch| {
        batch.put_record(key, &super::TimelineRecord { placed: Some(99), ..stored.unwrap() }).unwrap();
    });
    let expected = format!("!p:a, {}: it has a place that no entry gives", late.id(2));
    assert_eq!(findings(&late.store), [expected]);
}

#[test]
fn what_is_no_outlier_gets_no_place() {
    let late = Late::stored();
    let mut other = Late::new();
    other.run(|_| {});
    let log = open(&MemoryStore::new());
    let placed: Vec<PersistEvent> = other
        .pending
        .iter()
        .filter(|event| matches!(event.place, Place::Placed { was_outlier: true, .. }))
        .cloned()
        .collect();
    let result = block_on(log.append(late.room.room_id(), rules(), &placed[..1], Durability::Sync));
    assert!(matches!(result, Err(LogError::NoOutlier { event_id }) if event_id == late.id(3)));
}

#[test]
fn history_of_a_late_room_is_purged() {
    let late = Late::stored();
    let log = open(&late.store);
    block_on(log.purge_history(late.room.room_id(), &late.id(10), |_, _| {})).unwrap().unwrap();
    let room = block_on(open(&late.store).load_room(late.room.room_id())).unwrap().unwrap();
    assert_eq!(room.current_state().to_map(), late.room.current_state().to_map());
    assert!(room.state_before(&late.id(9)).is_none());
    assert_eq!(findings(&late.store), [""; 0]);
    let before = contents(&late.store);
    rebuild(&late.store).unwrap();
    assert_eq!(contents(&late.store), before);
}

#[test]
fn a_late_room_is_purged_as_a_whole() {
    let late = Late::stored();
    let log = open(&late.store);
    block_on(log.purge_room(late.room.room_id(), |_, _| {})).unwrap().unwrap();
    let entries = contents(&late.store).into_iter().filter(|(keyspace, ..)| *keyspace == Keyspace::Log);
    let entries: Vec<LogEntry> = entries.map(|(_, key, value)| crate::codec::decode(&key, &value).unwrap()).collect();
    let (last, others) = entries.split_last().unwrap();
    assert!(matches!(last, LogEntry::RoomPurged { .. }));
    assert!(others.iter().all(|entry| matches!(entry, LogEntry::Gone { .. })), "{others:?}");
    assert_eq!(findings(&late.store), [""; 0]);
}

#[test]
fn several_events_are_read_at_once_in_the_order_asked_for() {
    let late = Late::stored();
    let (log, room_id) = (open(&late.store), late.room.room_id());
    let nowhere = EventId::parse("$nowhere").unwrap();
    let ids = [late.id(8), nowhere, late.id(0), late.id(3)];
    let read = block_on(log.logged_events_of(room_id, &ids)).unwrap();
    let one = |id: &EventId| block_on(log.logged_event(room_id, id)).unwrap();
    assert_eq!(read, ids.iter().filter_map(one).collect::<Vec<_>>());
    assert_eq!(read.iter().map(|event| event.is_outlier).collect::<Vec<_>>(), [false, true, false]);
}
