//! Rooms that are stored, loaded and continued, on every backend.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use ravel_backends::Engine;
use ravel_core::{
    pdu::VerifiedPdu,
    room::{PersistEvent, Room},
    room_version::RoomVersion,
};
use ravel_proptests::{
    draft::Draft,
    plan::{Plan, Style, plans},
    seed::{self, Choices},
};
use ravel_store::{
    Bytes, Durability, KeyRange, Keyspace, MemoryStore, Scan, Store, StoreExt, block_on,
    log::{EventLog, LogCopy},
};

use crate::replay::{Everything, decided_by_the_dag, delivered, empty_room, persist};
use crate::stored_resolution;

/// All that a store holds.
type Contents = BTreeMap<Keyspace, Vec<(Bytes, Bytes)>>;

/// Two rooms whose events arrive in turns.
struct Arrivals {
    drafts: [Draft; 2],
    pdus: [Vec<VerifiedPdu>; 2],
    /// Which of the rooms gets its next event.
    turns: Vec<usize>,
}

impl Arrivals {
    fn new(plans: &[Plan; 2], choices: &mut Choices) -> Self {
        let drafts =
            [Draft::in_room(&plans[0], "!first:ash.example"), Draft::in_room(&plans[1], "!second:ash.example")];
        let pdus = [drafts[0].verified(), drafts[1].verified()];
        let mut left = [pdus[0].len(), pdus[1].len()];
        let mut turns = Vec::new();
        let mut turn = 0;
        while left != [0, 0] {
            if choices.below(4) == 0 || left[turn] == 0 {
                turn = 1 - turn;
            }
            if left[turn] > 0 {
                left[turn] -= 1;
                turns.push(turn);
            }
        }
        Self { drafts, pdus, turns }
    }

    /// Appends all events to the log of a store, in batches of any size. Now and then a room is forgotten, loaded again and
    /// continued.
    fn store(&self, store: &Arc<dyn Store>, choices: &mut Choices) -> [Room; 2] {
        let mut log = block_on(EventLog::open(store.clone())).unwrap();
        let mut rooms = [empty_room(&self.drafts[0]), empty_room(&self.drafts[1])];
        let mut pdus = [self.pdus[0].iter(), self.pdus[1].iter()];
        let mut pending: Vec<PersistEvent> = Vec::new();
        for (place, turn) in self.turns.iter().enumerate() {
            pending.push(persist(&mut rooms[*turn], pdus[*turn].next().unwrap()));
            let other_is_next = self.turns.get(place + 1) != Some(turn);
            if other_is_next || choices.below(3) == 0 {
                let draft = &self.drafts[*turn];
                block_on(log.append(&draft.room_id, draft.rules(), &pending, Durability::Relaxed)).unwrap();
                pending.clear();
                if choices.below(6) == 0 {
                    log = block_on(EventLog::open(store.clone())).unwrap();
                    rooms[*turn] = loaded(&log, &rooms[*turn]);
                }
            }
        }
        block_on(store.flush()).unwrap();
        rooms
    }
}

/// Loads a room, which must be the same as the one in memory.
fn loaded(log: &EventLog, room: &Room) -> Room {
    let loaded = block_on(log.load_room(room.room_id())).unwrap().unwrap();
    assert_same(&loaded, room);
    loaded
}

fn assert_same(left: &Room, right: &Room) {
    assert_eq!(Everything::of(left), Everything::of(right));
    assert_eq!(decided_by_the_dag(left), decided_by_the_dag(right));
    for (event, _) in left.events() {
        assert_eq!(left.reason(&event.event_id), right.reason(&event.event_id));
    }
}

fn contents(store: &Arc<dyn Store>) -> Contents {
    let scan = |keyspace: &Keyspace| block_on(store.scan_all(Scan::new(*keyspace, KeyRange::all()))).unwrap();
    Keyspace::ALL.iter().map(|keyspace| (*keyspace, scan(keyspace))).collect()
}

/// Copies a log into an empty store.
async fn copy_log(source: Arc<dyn Store>, target: Arc<dyn Store>) {
    let mut copy = LogCopy::begin(source, target, "memory").await.unwrap();
    while copy.step().await.unwrap() > 0 {}
    copy.finish().await.unwrap();
}

/// Checks what a store holds once the events are in it; returns that.
fn check_store(store: &Arc<dyn Store>, arrivals: &Arrivals, choices: &mut Choices) -> Contents {
    let rooms = arrivals.store(store, choices);
    for (room, (draft, pdus)) in rooms.iter().zip(arrivals.drafts.iter().zip(&arrivals.pdus)) {
        assert_same(room, &delivered(draft, pdus));
    }
    let contents_before = contents(store);
    let mut log = block_on(EventLog::open(store.clone())).unwrap();
    let verified = block_on(log.verify(|_, _| {})).unwrap();
    assert!(verified.findings.is_empty(), "{verified:?}");
    block_on(log.rebuild(|_, _| {})).unwrap();
    assert_eq!(contents(store), contents_before, "a rebuild gives the same bytes");
    let log = block_on(EventLog::open(store.clone())).unwrap();
    for room in &rooms {
        loaded(&log, room);
        stored_resolution::check(&log, room);
    }
    contents_before
}

fn pairs_of_rooms() -> impl Strategy<Value = ([Plan; 2], u64)> {
    let rooms = || {
        prop_oneof![plans(&RoomVersion::ALL, Style::Orderly, 1..40), plans(&RoomVersion::ALL, Style::Hostile, 1..40)]
    };
    // Some have enough state for trees with branches, and some are just at the edge.
    let more_state = prop_oneof![2 => Just(0), 1 => 50..66u8, 1 => 100..160u8];
    let rooms = ([rooms(), rooms()], more_state).prop_map(|(mut plans, more_state)| {
        plans[0].preset.more_state = more_state;
        plans
    });
    (rooms, any::<u64>())
}

#[test]
fn cold_rooms_go_on_as_warm_ones() {
    seed::check(100, &pairs_of_rooms(), |(plans, choices)| {
        let mut choices = Choices::new(choices);
        let arrivals = Arrivals::new(&plans, &mut choices);
        let mut stored = [0, 1].map(|_| {
            let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
            check_store(&store, &arrivals, &mut choices)
        });
        let [first, second] = &mut stored;
        assert_eq!(first, second, "other batches and other reloads, but the same bytes");
    });
}

#[test]
fn every_backend_holds_the_same_bytes() {
    seed::check(16, &pairs_of_rooms(), |(plans, choices)| {
        let mut choices = Choices::new(choices);
        let arrivals = Arrivals::new(&plans, &mut choices);
        let memory: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let expected = check_store(&memory, &arrivals, &mut choices);
        for engine in Engine::ALL {
            let directory = tempfile::tempdir().unwrap();
            let store = engine.open(directory.path()).unwrap();
            assert_eq!(check_store(&store, &arrivals, &mut choices), expected, "{engine}");
            drop(store);
            assert_eq!(contents(&engine.open(directory.path()).unwrap()), expected, "{engine}, opened again");
        }
        // What one engine holds is copied into another.
        let copy: Arc<dyn Store> = Arc::new(MemoryStore::new());
        block_on(copy_log(memory, copy.clone()));
        assert_eq!(contents(&copy), expected);
    });
}
