#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests, which clippy does not see behind the feature")]

mod append;
mod collect;
mod copy;
mod facts;
mod fingerprint;
mod places;
mod purge;
mod replica;
mod resolve;
mod retention;
mod stale_rooms;
mod stats;

use std::{fmt::Write as _, sync::Arc};

use ravel_core::{
    canonical_json::{JsonMode, object_to_canonical_bytes, parse_object},
    graph::EventIndex,
    id::{EventId, RoomId},
    pdu::VerifiedPdu,
    room::{Check, Effect, Outcome, PersistEvent, Receipt, RecordedReason, Room},
    room_version::{RoomVersion, RoomVersionRules},
    state::{NodeContent, NodeIndex},
};

use super::{
    BATCH_BYTES, EventLog, Finding, LOG_PAGE, LogError, PROJECTIONS, StoredResolution,
    records::{
        ArrivalRecord, EventRecord, ExtremitiesRecord, FactRecord, Head, LogEntry, NodeContentRecord, OtherDatabase,
        PlaceRecord, ProjectedTo, PurgeRecord, ReasonRecord, RoomRecord, ServerKeyRecord, SnapshotNodeRecord,
        StandingRecord, StatesRecord, TimelineRecord, key, outcome_from_byte,
    },
};
use crate::{
    Batch, Bytes, Durability, KeyRange, Keyspace, MemoryStore, Operation, Record, Scan, Store, StoreError, StoreExt,
    block_on, codec,
    faulty::{Fault, FaultyStore},
};

fn rules() -> &'static RoomVersionRules {
    RoomVersion::V11.rules()
}

/// A room of version 11, by itself: what it judged, ready to be stored.
struct TestRoom {
    room: Room,
    judged: Vec<PersistEvent>,
}

impl TestRoom {
    fn new(room_id: &str) -> Self {
        Self { room: Room::new(RoomId::parse(room_id).unwrap(), rules()), judged: Vec::new() }
    }

    /// Makes an event after some others, lets the room judge it, and returns its id.
    fn event(
        &mut self,
        sender: &str,
        kind: &str,
        state_key: Option<&str>,
        content: &str,
        prev: &[&EventId],
    ) -> EventId {
        let list = |ids: Vec<&EventId>| ids.iter().map(|id| format!("{id:?}")).collect::<Vec<_>>().join(",");
        // What authorizes it, in the state after the first event it builds on.
        let state = prev.first().and_then(|prev| self.room.state_after(prev));
        let create_and_levels = [("m.room.create", ""), ("m.room.power_levels", ""), ("m.room.member", sender)];
        let join_rules = content.contains("\"join\"").then_some(("m.room.join_rules", ""));
        let target = state_key.filter(|target| kind == "m.room.member" && *target != sender);
        let target = target.map(|target| ("m.room.member", target));
        let wanted = create_and_levels.into_iter().chain(join_rules).chain(target);
        let auth: Vec<EventId> = wanted.filter_map(|(kind, key)| state?.get(kind, key)).collect();
        let state_key = state_key.map(|key| format!(r#""state_key":"{key}","#)).unwrap_or_default();
        let json = format!(
            r#"{{"auth_events":[{}],"content":{content},"depth":{},"hashes":{{"sha256":"AA"}},"origin_server_ts":{},
                "prev_events":[{}],"room_id":"{}","sender":"{sender}","signatures":{{}},{state_key}"type":"{kind}"}}"#,
            list(auth.iter().collect()),
            self.judged.len() + 1,
            self.judged.len(),
            list(prev.to_vec()),
            self.room.room_id(),
        );
        let object = parse_object(json.as_bytes(), JsonMode::Strict).unwrap();
        let pdu = VerifiedPdu::restore(&object_to_canonical_bytes(&object), rules(), None, true).unwrap();
        let Receipt::Judged(judged) = self.room.handle_pdu(&pdu).unwrap() else { panic!("not judged") };
        self.judged.extend(judged.effects.into_iter().filter_map(|effect| match effect {
            Effect::Persist(event) => Some(*event),
            Effect::Publish(_) => None,
        }));
        pdu.event_id().clone()
    }

    /// A room with two members, a fork that bans one of them, a merge, and events that are rejected and soft-failed.
    fn forked(room_id: &str) -> Self {
        let mut room = Self::new(room_id);
        let create = room.event("@a:a", "m.room.create", Some(""), r#"{"room_version":"11"}"#, &[]);
        let a = room.event("@a:a", "m.room.member", Some("@a:a"), r#"{"membership":"join"}"#, &[&create]);
        let levels = r#"{"users":{"@a:a":100},"events":{"m.room.topic":0}}"#;
        let levels = room.event("@a:a", "m.room.power_levels", Some(""), levels, &[&a]);
        let rule = room.event("@a:a", "m.room.join_rules", Some(""), r#"{"join_rule":"public"}"#, &[&levels]);
        let b = room.event("@b:b", "m.room.member", Some("@b:b"), r#"{"membership":"join"}"#, &[&rule]);
        let ban = room.event("@a:a", "m.room.member", Some("@b:b"), r#"{"membership":"ban"}"#, &[&b]);
        let topic = room.event("@b:b", "m.room.topic", Some(""), r#"{"topic":"soft-failed"}"#, &[&b]);
        room.event("@c:c", "m.room.topic", Some(""), r#"{"topic":"rejected"}"#, &[&ban]);
        room.event("@a:a", "m.room.message", None, r#"{"body":"merge"}"#, &[&ban, &topic]);
        let outcomes: Vec<Outcome> = room.judged.iter().map(|event| event.outcome).collect();

        assert_eq!(outcomes[6..], [Outcome::SoftFailed, Outcome::Rejected, Outcome::Accepted]);
        room
    }

    fn append_to(&self, log: &EventLog) -> Result<(), LogError> {
        block_on(log.append(self.room.room_id(), rules(), &self.judged, Durability::Sync))
    }
}

fn open(store: &MemoryStore) -> EventLog {
    block_on(EventLog::open(Arc::new(store.clone()))).unwrap()
}

fn error_of_open(store: &MemoryStore) -> String {
    block_on(EventLog::open(Arc::new(store.clone()))).err().map_or_else(|| "none".to_owned(), |error| error.to_string())
}

/// A store with two rooms.
fn stored() -> (MemoryStore, [TestRoom; 2]) {
    let store = MemoryStore::new();
    let rooms = ["!r:a", "!s:a"].map(TestRoom::forked);
    let log = open(&store);
    for room in &rooms {
        room.append_to(&log).unwrap();
    }
    (store, rooms)
}

fn contents(store: &MemoryStore) -> Vec<(Keyspace, Bytes, Bytes)> {
    let all = Keyspace::ALL.iter().flat_map(|keyspace| {
        let items = block_on(store.scan_all(Scan::new(*keyspace, KeyRange::all()))).unwrap();
        items.into_iter().map(|(key, value)| (*keyspace, key, value))
    });
    all.collect()
}

fn write(store: &MemoryStore, change: impl FnOnce(&mut Batch)) {
    let mut batch = Batch::new();
    change(&mut batch);
    assert!(block_on(store.commit(batch)).unwrap().is_written());
}

fn check_loaded(log: &EventLog, room: &TestRoom) {
    let loaded = block_on(log.load_room(room.room.room_id())).unwrap().unwrap();
    assert_eq!(loaded.history_fingerprint(), room.room.history_fingerprint());
    assert_eq!(loaded.forward_extremities(), room.room.forward_extremities());
    assert_eq!(loaded.current_state(), room.room.current_state());
    for (event, outcome) in room.room.events() {
        assert_eq!(loaded.outcome(&event.event_id), Some(outcome));
        assert_eq!(loaded.reason(&event.event_id), room.room.reason(&event.event_id));
        assert_eq!(loaded.state_after(&event.event_id), room.room.state_after(&event.event_id));
    }
}

fn findings(store: &MemoryStore) -> Vec<String> {
    let log = block_on(EventLog::open_to_repair(Arc::new(store.clone()))).unwrap();
    let verification = block_on(log.verify(|_, _| {})).unwrap();
    verification.findings.iter().map(Finding::to_string).collect()
}

fn rebuild(store: &MemoryStore) -> Result<(), LogError> {
    block_on(async {
        let mut log = EventLog::open_to_repair(Arc::new(store.clone())).await?;
        log.rebuild(|_, _| {}).await
    })
}

#[test]
fn what_is_appended_is_loaded() {
    let (store, rooms) = stored();
    let log = open(&store);
    assert_eq!(log.len(), 2 + 2 * 9);
    let listed: Vec<_> = log.rooms().into_iter().map(|(room_id, version)| (room_id.to_string(), version)).collect();
    assert_eq!(listed, [("!r:a".to_owned(), RoomVersion::V11), ("!s:a".to_owned(), RoomVersion::V11)]);
    for room in &rooms {
        check_loaded(&log, room);
    }
    let unknown = RoomId::parse("!unknown:a").unwrap();
    assert!(block_on(log.load_room(&unknown)).unwrap().is_none());
    assert_eq!(findings(&store), [""; 0]);
}

#[test]
fn the_rooms_that_have_an_event_are_found() {
    let (store, rooms) = stored();
    let log = open(&store);
    for room in &rooms {
        let room_id = room.room.room_id().clone();
        assert_eq!(block_on(log.rooms_with_event(&room.judged[2].event.event_id)).unwrap(), [room_id]);
    }
    assert_eq!(block_on(log.rooms_with_event(&EventId::parse("$unknown").unwrap())).unwrap(), []);
}

#[test]
fn an_empty_store_has_an_empty_log() {
    let store = MemoryStore::new();
    let log = open(&store);
    assert!(log.is_empty());
    block_on(log.append(&RoomId::parse("!r:a").unwrap(), rules(), &[], Durability::Sync)).unwrap();
    assert_eq!(findings(&MemoryStore::new()), [""; 0]);
    rebuild(&MemoryStore::new()).unwrap();
}

/// A loaded room goes on as the one that never left the memory.
#[test]
fn a_loaded_room_takes_the_next_event_as_the_first_would() {
    let whole = TestRoom::forked("!r:a");
    for count in 0..whole.judged.len() {
        let store = MemoryStore::new();
        let log = open(&store);
        let room_id = whole.room.room_id();
        block_on(log.append(room_id, rules(), &whole.judged[..count], Durability::Sync)).unwrap();
        let log = open(&store);
        let Some(mut room) = block_on(log.load_room(room_id)).unwrap() else { continue };
        for event in &whole.judged[count..] {
            let pdu = VerifiedPdu::restore(&event.json, rules(), None, true).unwrap();
            let Receipt::Judged(judged) = room.handle_pdu(&pdu).unwrap() else { panic!("not judged") };
            let Some(Effect::Persist(persist)) = judged.effects.into_iter().next() else { panic!("not to be stored") };
            assert_eq!(format!("{persist:?}"), format!("{event:?}"), "after {count} events");
        }
    }
}

#[test]
fn the_second_of_two_writers_is_told_so_and_writes_nothing() {
    for already in [0, 3] {
        let store = MemoryStore::new();
        let (first_room, second_room) = (TestRoom::forked("!r:a"), TestRoom::forked("!s:a"));
        let log = open(&store);
        block_on(log.append(first_room.room.room_id(), rules(), &first_room.judged[..already], Durability::Sync))
            .unwrap();
        let (first, second) = (open(&store), open(&store));
        block_on(first.append(first_room.room.room_id(), rules(), &first_room.judged[already..], Durability::Sync))
            .unwrap();
        let before = contents(&store);
        assert!(matches!(second_room.append_to(&second), Err(LogError::Overtaken)));
        // And so it stays, until it opens the log again.
        assert!(matches!(second_room.append_to(&second), Err(LogError::Overtaken)));
        assert_eq!(contents(&store), before);
        second_room.append_to(&open(&store)).unwrap();
        check_loaded(&open(&store), &first_room);
        check_loaded(&open(&store), &second_room);
    }
}

#[test]
fn long_appends_are_split() {
    let mut room = TestRoom::forked("!r:a");
    let mut last = room.judged.last().unwrap().event.event_id.clone();
    let content = format!(r#"{{"body":"{}"}}"#, "x".repeat(BATCH_BYTES / 20));
    for _ in 0..50 {
        last = room.event("@a:a", "m.room.message", None, &content, &[&last]);
    }
    // The fourth commit fails: what the first three wrote stays.
    let store = FaultyStore::new(MemoryStore::new());
    store.fail(Operation::Commit, 4, Fault::Failed);
    let memory = store.inner().clone();
    let log = block_on(EventLog::open(Arc::new(store))).unwrap();
    assert!(matches!(room.append_to(&log), Err(LogError::Store(StoreError::Io { .. }))));
    let reopened = open(&memory);
    let stored = reopened.len() - 1;
    assert!(stored > room.judged.len() as u64 / 2 && stored < room.judged.len() as u64, "{stored}");
    assert_eq!(reopened.len(), log.len());
    assert_eq!(findings(&memory), [""; 0]);
    // The rest follows.
    let stored = usize::try_from(stored).unwrap();
    block_on(log.append(room.room.room_id(), rules(), &room.judged[stored..], Durability::Sync)).unwrap();
    check_loaded(&open(&memory), &room);
}

#[test]
fn a_failed_commit_leaves_a_log_that_can_be_opened() {
    for (fault, is_there) in [(Fault::Failed, false), (Fault::Full, false), (Fault::DoneButFailed, true)] {
        let (memory, _) = stored();
        let before = contents(&memory);
        let store = FaultyStore::new(memory.clone());
        store.fail(Operation::Commit, 1, fault);
        let log = block_on(EventLog::open(Arc::new(store))).unwrap();
        let room = TestRoom::forked("!t:a");
        assert!(matches!(room.append_to(&log), Err(LogError::Store(_))), "{fault:?}");
        assert_eq!(contents(&memory) != before, is_there, "{fault:?}");
        // A writer that does not know whether its batch was written can't write it a second time.
        assert_eq!(matches!(room.append_to(&log), Err(LogError::Overtaken)), is_there, "{fault:?}");
        check_loaded(&open(&memory), &room);
        assert_eq!(findings(&memory), [""; 0]);
    }
}

/// An event twice would be a log that can't be loaded: whether it is there already or twice in what is appended.
#[test]
fn an_event_is_appended_once() {
    let (store, [room, _]) = stored();
    let before = contents(&store);
    assert!(matches!(room.append_to(&open(&store)), Err(LogError::AlreadyThere)));
    assert_eq!(contents(&store), before);

    let store = MemoryStore::new();
    let log = open(&store);
    let mut twice = TestRoom::forked("!r:a").judged;
    twice.extend(TestRoom::forked("!r:a").judged.into_iter().take(1));
    let result = block_on(log.append(room.room.room_id(), rules(), &twice, Durability::Sync));
    assert!(matches!(result, Err(LogError::AlreadyThere)));
    assert_eq!(contents(&store), []);
    room.append_to(&log).unwrap();
    check_loaded(&open(&store), &room);
}

#[test]
fn a_room_keeps_its_version() {
    let (store, [room, _]) = stored();
    let other = RoomVersion::V10.rules();
    let result = block_on(open(&store).append(room.room.room_id(), other, &room.judged[..1], Durability::Sync));
    assert_eq!(result.unwrap_err().to_string(), "!r:a is of room version 11, not 10");
}

#[test]
fn a_rebuild_gives_the_same_bytes() {
    let (store, rooms) = stored();
    let before = contents(&store);
    for keyspace in Keyspace::ALL.iter().filter(|keyspace| PROJECTIONS.contains(keyspace)) {
        write(&store, |batch| {
            batch.delete_range(*keyspace, KeyRange::all());
            batch.put(*keyspace, &b"nobody's"[..], &b"nothing"[..]);
        });
        rebuild(&store).unwrap();
        assert_eq!(contents(&store), before, "{keyspace}");
    }
    for room in &rooms {
        check_loaded(&open(&store), room);
    }
}

#[test]
fn a_rebuilt_log_is_appended_to() {
    let (store, _) = stored();
    let mut log = block_on(EventLog::open_to_repair(Arc::new(store.clone()))).unwrap();
    let room = TestRoom::forked("!t:a");
    assert!(matches!(room.append_to(&log), Err(LogError::Lagging)));
    assert!(matches!(block_on(log.load_room(room.room.room_id())), Err(LogError::Lagging)));
    let mut steps = Vec::new();
    block_on(log.rebuild(|done, total| steps.push((done, total)))).unwrap();
    assert_eq!(steps, (1..=20).map(|done| (done, 20)).collect::<Vec<_>>());
    room.append_to(&log).unwrap();
    check_loaded(&log, &room);
}

/// Some batches of projections long.
fn stored_in_batches() -> (MemoryStore, TestRoom) {
    let (store, _) = stored();
    let mut room = TestRoom::forked("!t:a");
    let mut last = room.judged.last().unwrap().event.event_id.clone();
    for number in 0..BATCH_BYTES / 200 {
        let content = format!(r#"{{"membership":"join","reason":"{number}"}}"#);
        last = room.event("@a:a", "m.room.member", Some("@a:a"), &content, &[&last]);
    }
    room.append_to(&open(&store)).unwrap();
    (store, room)
}

#[test]
fn an_interrupted_rebuild_goes_on_when_the_log_is_opened() {
    let (memory, room) = stored_in_batches();
    let before = contents(&memory);
    // Fails at each commit in turn, before and after it is done, until there is none left to fail at.
    for fault in [Fault::Failed, Fault::DoneButFailed] {
        for n in 1.. {
            let store = FaultyStore::new(memory.clone());
            store.fail(Operation::Commit, n, fault);
            let mut log = block_on(EventLog::open_to_repair(Arc::new(store))).unwrap();
            if block_on(log.rebuild(|_, _| {})).is_ok() {
                assert!(n > 2, "{n} commits");
                break;
            }
            let is_behind = contents(&memory) != before;
            if is_behind {
                let log = block_on(EventLog::open_to_repair(Arc::new(memory.clone()))).unwrap();
                assert!(matches!(block_on(log.verify(|_, _| {})), Err(LogError::Lagging)));
            }
            let mut steps = Vec::new();
            let opened =
                EventLog::open_with_progress(Arc::new(memory.clone()), |done, total| steps.push((done, total)));
            check_loaded(&block_on(opened).unwrap(), &room);
            assert_eq!(!steps.is_empty(), is_behind, "{n} {fault:?}");
            assert!(contents(&memory) == before, "{n} {fault:?}");
        }
    }
}

#[test]
fn the_log_is_read_page_by_page() {
    let mut room = TestRoom::forked("!r:a");
    let mut last = room.judged.last().unwrap().event.event_id.clone();
    while room.judged.len() <= 2 * LOG_PAGE {
        last = room.event("@a:a", "m.room.message", None, "{}", &[&last]);
    }
    let store = MemoryStore::new();
    room.append_to(&open(&store)).unwrap();
    check_loaded(&open(&store), &room);
    let before = contents(&store);
    rebuild(&store).unwrap();
    assert!(contents(&store) == before);
    assert_eq!(findings(&store), [""; 0]);
}

/// Damages a stored log, and checks what is found and what a rebuild says.
fn check_damage(damage: impl Fn(&mut Batch, &[TestRoom; 2]), expected: &[&str], rebuilt: &str) {
    let (store, rooms) = stored();
    let before = contents(&store);
    write(&store, |batch| damage(batch, &rooms));
    let damaged = contents(&store);
    let id = |room: usize, place: usize| rooms[room].judged[place].event.event_id.to_string();
    let names: Vec<(String, String)> =
        (0..9).flat_map(|n| [(format!("R{n}"), id(0, n)), (format!("S{n}"), id(1, n))]).collect();
    let found: Vec<String> = findings(&store)
        .into_iter()
        .map(|finding| names.iter().fold(finding, |finding, (name, id)| finding.replace(id, name)))
        .collect();
    assert_eq!(found, expected);
    // Looking at it changes nothing, and every room is an error or what it was, but no panic.
    assert!(contents(&store) == damaged);
    if let Ok(log) = block_on(EventLog::open(Arc::new(store.clone()))) {
        for room in &rooms {
            let _ = block_on(log.load_room(room.room.room_id()));
        }
    }
    match rebuild(&store) {
        Ok(()) => {
            assert_eq!(rebuilt, "mended");
            assert_eq!(contents(&store), before);
        }
        Err(error) => {
            assert_eq!(error.to_string(), rebuilt);
            assert!(contents(&store) == damaged, "the rebuild dropped what it can't compute");
        }
    }
}

fn flip(batch: &mut Batch, keyspace: Keyspace, key: impl Into<Bytes>) {
    let (store, _) = stored();
    let key = key.into();
    let mut value = block_on(store.get(keyspace, key.clone())).unwrap().unwrap().to_vec();
    value[1] ^= 4;
    batch.put(keyspace, key, value);
}

#[test]
fn damage_of_the_log_is_found_and_not_hidden_by_a_rebuild() {
    let entry = |sequence: u64| key::sequence(sequence);
    check_damage(
        |batch, _| flip(batch, Keyspace::Log, entry(9)),
        &[
            "corrupt log at 0x0000000000000009: expected a record with a right checksum",
            "!r:a: forward extremities or current state differ",
        ],
        "corrupt log at 0x0000000000000009: expected a record with a right checksum",
    );
    check_damage(
        |batch, _| {
            batch.delete(Keyspace::Log, entry(3));
        },
        &["log entry 3 is not usable: it is missing", "log entry 4 is not usable: its event comes before its parents"],
        "log entry 3 is not usable: it is missing",
    );
    check_damage(
        |batch, _| {
            batch.delete(Keyspace::Log, entry(19));
        },
        &["the log has 19 entries, and its head says 20", "!s:a: forward extremities or current state differ"],
        "the log has 19 entries, and its head says 20",
    );
    check_damage(
        |batch, _| {
            batch.put(Keyspace::Log, entry(u64::MAX), codec::encode(&opened(7, "!x:a", "11")).unwrap());
        },
        &[
            "log entry 20 is not usable: it is missing",
            "!x:a: the room's record differs",
            "the log has 18446744073709551615 entries, and its head says 20",
        ],
        "log entry 20 is not usable: it is missing",
    );
    check_damage(
        |batch, _| {
            batch.put(Keyspace::Log, &b"short"[..], &b""[..]);
        },
        &["corrupt log at 0x73686f7274: expected a key of 8 bytes"],
        "corrupt log at 0x73686f7274: expected a key of 8 bytes",
    );
    check_damage(
        |batch, _| {
            batch.delete(Keyspace::Meta, key::HEAD);
        },
        &["the store is not empty, and its log has no head"],
        "the store is not empty, and its log has no head",
    );
    // The entries say where the log ends.
    check_damage(
        |batch, _| flip(batch, Keyspace::Meta, key::HEAD),
        &["corrupt meta at 0x6c6f672068656164: expected a record with a right checksum"],
        "mended",
    );
}

#[test]
fn damage_of_projections_is_found_and_mended() {
    check_damage(
        |batch, _| flip(batch, Keyspace::Rooms, &b"!r:a"[..]),
        &["corrupt rooms at 0x21723a61: expected a record with a right checksum"],
        "mended",
    );
    check_damage(
        |batch, _| {
            batch.delete(Keyspace::Rooms, &b"!r:a"[..]);
        },
        &["!r:a: the room's record differs"],
        "mended",
    );
    check_damage(
        |batch, _| {
            batch.put(Keyspace::Rooms, &b"\xff"[..], &b""[..]);
        },
        &["1 records in rooms that a replay of the log does not give"],
        "mended",
    );
    check_damage(
        |batch, _| flip(batch, Keyspace::Timelines, key::timeline(0, 7)),
        &["corrupt timelines at 0x000000000000000000000007: expected a record with a right checksum"],
        "mended",
    );
    check_damage(
        |batch, _| {
            batch.delete(Keyspace::Timelines, key::timeline(1, 12));
        },
        &["!s:a, S1: it is missing in the timeline"],
        "mended",
    );
    check_damage(
        |batch, _| {
            let record = TimelineRecord {
                outcome: 2,
                reason: None,
                may_redact_any: false,
                states: StatesRecord::Roots { before: Some(7), after: None },
                nodes_numbered: 0,
                arrival: Some(ArrivalRecord::New),
                in_given_state: false,
                placed: None,
            };
            batch.put_record(key::timeline(0, 4), &record).unwrap();
        },
        &["!r:a, R3: its verdict differs", "!r:a, R3: the state before or after it differs"],
        "mended",
    );
    check_damage(
        |batch, rooms| {
            let event_id = &rooms[0].judged[2].event.event_id;
            batch.put_record(key::event(0, event_id), &EventRecord { sequence: 8 }).unwrap();
            batch.delete(Keyspace::Events, key::event(0, &rooms[0].judged[3].event.event_id));
        },
        &["!r:a, R2: its place in the log differs", "!r:a, R3: its place in the log differs"],
        "mended",
    );
    check_damage(
        |batch, rooms| {
            let (leaf, _) = rooms[0].judged[0].nodes.first().unwrap();
            flip(batch, Keyspace::SnapshotNodes, key::node(0, *leaf));
            let (node, _) = rooms[0].judged[1].nodes.first().unwrap();
            batch.delete(Keyspace::SnapshotNodes, key::node(0, *node));
            let (node, _) = rooms[1].judged[1].nodes.first().unwrap();
            let content = NodeContentRecord::Branch { bitmap: 3, children: vec![[0; 4]; 2] };
            let record = SnapshotNodeRecord { root_check: None, content };
            batch.put_record(key::node(1, *node), &record).unwrap();
        },
        &[
            &format!(
                "corrupt snapshot_nodes at 0x{}: expected a record with a right checksum",
                hex(&key::node(0, TestRoom::forked("!r:a").judged[0].nodes.first().unwrap().0)),
            ),
            "!s:a, S1: a snapshot node differs",
            "!r:a, R1: a snapshot node is missing",
        ],
        "mended",
    );
    check_damage(
        |batch, _| {
            let forward_extremities = vec!["$x".into()];
            let record =
                ExtremitiesRecord { forward_extremities, current_state: Some(1), fingerprint: [0; 32], create: None };
            batch.put_record(key::room(0), &record).unwrap();
            batch.delete(Keyspace::Extremities, key::room(1));
        },
        &["!r:a: forward extremities or current state differ", "!s:a: forward extremities or current state differ"],
        "mended",
    );
    check_damage(
        |batch, _| {
            batch.put(Keyspace::SnapshotNodes, &b"surplus"[..], &b"x"[..]);
            batch.put(Keyspace::Timelines, key::timeline(0, 900), &b"x"[..]);
        },
        &[
            "1 records in timelines that a replay of the log does not give",
            "1 records in snapshot_nodes that a replay of the log does not give",
        ],
        "mended",
    );
}

#[test]
fn what_an_unfinished_copy_leaves_is_refused() {
    let (store, _) = stored();
    let no_head = "the store is not empty, and its log has no head";
    write(&store, |batch| {
        batch.delete(Keyspace::Meta, key::HEAD);
    });
    assert_eq!(error_of_open(&store), no_head);
    // Rooms are copied first.
    write(&store, |batch| {
        batch.delete_range(Keyspace::Log, KeyRange::all());
    });
    assert_eq!(error_of_open(&store), no_head);
    assert_eq!(rebuild(&store).unwrap_err().to_string(), no_head);
}

fn opened(room: u32, room_id: &str, room_version: &str) -> LogEntry {
    LogEntry::RoomOpened { room, room_id: room_id.into(), room_version: room_version.into() }
}

/// Entries with a right checksum that no append writes: errors, not panics.
#[test]
fn entries_that_make_no_sense_are_errors() {
    let check = |entries: &[LogEntry], expected: &str| {
        let store = MemoryStore::new();
        write(&store, |batch| {
            for (sequence, entry) in (0..).zip(entries) {
                batch.put_record(key::sequence(sequence), entry).unwrap();
            }
            let next_room = entries.iter().filter(|entry| matches!(entry, LogEntry::RoomOpened { .. })).count();
            let next_room = u32::try_from(next_room).unwrap();
            batch
                .put_record(key::HEAD, &Head { next_sequence: entries.len() as u64, next_room, ..Head::default() })
                .unwrap();
        });
        assert_eq!(rebuild(&store).unwrap_err().to_string(), expected);
        assert_eq!(error_of_open(&store), expected);
    };
    let room = TestRoom::forked("!r:a");
    let event = |room_number: u32, place: usize, event_id: &str| LogEntry::Event {
        room: room_number,
        event_id: event_id.into(),
        json: room.judged[place].json.to_vec(),
        content_hash_matched: true,
        authorising_user_signed: None,
        place: PlaceRecord::Follows,
    };
    let id = |place: usize| room.judged[place].event.event_id.as_str();
    check(&[opened(0, "r", "11")], "log entry 0 is not usable: it opens a room with an invalid id");
    check(&[opened(0, "!r:a", "13")], "log entry 0 is not usable: it is of an unknown room version");
    check(
        &[opened(0, "!r:a", "11"), opened(0, "!s:a", "11")],
        "log entry 1 is not usable: it opens a room a second time",
    );
    check(&[event(5, 0, id(0))], "log entry 0 is not usable: its room was not opened");
    let first = opened(0, "!r:a", "11");
    check(&[first.clone(), event(0, 0, "$x")], "log entry 1 is not usable: its event has another id");
    check(&[first.clone(), event(0, 1, id(1))], "log entry 1 is not usable: its event comes before its parents");
    check(
        &[first.clone(), event(0, 0, id(0)), event(0, 0, id(0))],
        "log entry 2 is not usable: its event is there twice",
    );
    check(&[opened(0, "!s:a", "11"), event(0, 0, id(0))], "log entry 1 is not usable: its event is of another room");
    for json in [&b"{}"[..], b"", b"{", b"[1]", b"\xff\xff"] {
        let entry = LogEntry::Event {
            room: 0,
            event_id: "$x".into(),
            json: json.to_vec(),
            content_hash_matched: false,
            authorising_user_signed: Some(false),
            place: PlaceRecord::Follows,
        };
        check(&[first.clone(), entry], "log entry 1 is not the event that it says");
    }
}

/// Whatever is under the keys of the log: errors, not panics.
#[test]
fn nothing_read_from_a_store_makes_it_panic() {
    let (store, room) = (MemoryStore::new(), TestRoom::forked("!r:a"));
    room.append_to(&open(&store)).unwrap();
    for (number, (keyspace, key, value)) in contents(&store).into_iter().enumerate() {
        let mut changes: Vec<(Bytes, Option<Vec<u8>>)> = vec![
            (key.clone(), None),
            (key.clone(), Some(Vec::new())),
            (key.clone(), Some(b"garbage".to_vec())),
            (key.slice(..key.len() - 1), Some(value.to_vec())),
            ([&key[..], &[0]].concat().into(), Some(value.to_vec())),
            (Bytes::new(), Some(value.to_vec())),
        ];
        // Bytes of the payload, others in each record, under a checksum that is right again.
        for place in (1 + number % 5..value.len().saturating_sub(4).min(80)).step_by(5) {
            let mut changed = value[..value.len() - 4].to_vec();
            changed[place] ^= 0x81;
            let sum = crc32c::crc32c_append(crc32c::crc32c(&[keyspace.byte()]), &changed);
            changed.extend_from_slice(&sum.to_le_bytes());
            changes.push((key.clone(), Some(changed)));
        }
        for (changed_key, changed) in changes {
            let copy = MemoryStore::new();
            write(&copy, |batch| {
                for (keyspace, key, value) in contents(&store) {
                    batch.put(keyspace, key, value);
                }
                match changed {
                    Some(changed) => batch.put(keyspace, changed_key, changed),
                    None => batch.delete(keyspace, changed_key),
                };
            });
            if let Ok(log) = block_on(EventLog::open(Arc::new(copy.clone()))) {
                let _ = block_on(log.load_room(room.room.room_id()));
            }
            let log = block_on(EventLog::open_to_repair(Arc::new(copy.clone()))).unwrap();
            let _ = block_on(log.verify(|_, _| {}));
            let _ = rebuild(&copy);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The stored format. A change here is a change of every store there is: it needs another record version.
#[test]
fn the_bytes_of_every_record_are_as_documented() {
    fn check<R: Record + PartialEq + std::fmt::Debug>(record: &R, expected: &str) {
        let bytes = codec::encode(record).unwrap();
        let (body, _) = bytes.split_last_chunk::<4>().unwrap();
        assert_eq!(hex(body), expected.replace(' ', ""), "{record:?}");
        assert_eq!(codec::decode::<R>(b"", &bytes).unwrap(), *record);
    }
    let eights = "08".repeat(32);
    check(&Head { next_sequence: 300, next_room: 2, standing: StandingRecord::Moved }, "02 fb2c01 02 01");
    check(&OtherDatabase { name: "sled:/x".into() }, "01 07 736c65643a2f78");
    check(&opened(1, "!r", "11"), "01 00 01 02 2172 02 3131");
    let event_at = |authorising_user_signed, place| LogEntry::Event {
        room: 1,
        event_id: "$e".into(),
        json: b"{}".to_vec(),
        content_hash_matched: true,
        authorising_user_signed,
        place,
    };
    let event = |authorising_user_signed| event_at(authorising_user_signed, PlaceRecord::Follows);
    check(&event(None), "01 01 01 02 2465 02 7b7d 01 00 00");
    check(&event(Some(false)), "01 01 01 02 2465 02 7b7d 01 01 00 00");
    check(&event(Some(true)), "01 01 01 02 2465 02 7b7d 01 01 01 00");
    check(&event_at(None, PlaceRecord::Outlier), "01 01 01 02 2465 02 7b7d 01 00 01");
    let arrivals = [ArrivalRecord::New, ArrivalRecord::Entry, ArrivalRecord::History, ArrivalRecord::Unsigned];
    for (byte, arrival) in arrivals.into_iter().enumerate() {
        let place = PlaceRecord::Placed { arrival, given_state: None, outlier: None };
        check(&event_at(None, place), &format!("01 01 01 02 2465 02 7b7d 01 00 02 0{byte} 00 00"));
    }
    let place = PlaceRecord::Placed { arrival: ArrivalRecord::New, given_state: Some(vec![1, 300]), outlier: Some(7) };
    check(&event_at(None, place), "01 01 01 02 2465 02 7b7d 01 00 02 00 01 02 01 fb2c01 01 07");
    check(&RoomRecord::new(251, RoomVersion::V12, 7), "02 fbfb00 02 3132 07 00 05 04 01 01 03 03");
    let mut purged_twice = RoomRecord::new(1, RoomVersion::V12, 7);
    purged_twice.purges = vec![8, 300];
    check(&purged_twice, "02 01 02 3132 07 02 08 fb2c01 05 04 01 01 03 03");
    check(&LogEntry::HistoryPurged { room: 1, before: 300, extremities: vec![7] }, "01 03 01 fb2c01 01 07");
    check(&LogEntry::RoomPurged { room: 1 }, "01 04 01");
    check(&LogEntry::Gone { room: 1 }, "01 05 01");
    check(&LogEntry::Fact { kind: 7, key: b"k".to_vec(), value: Some(b"v".to_vec()) }, "01 06 07 01 6b 01 01 76");
    check(&LogEntry::Fact { kind: 7, key: b"k".to_vec(), value: None }, "01 06 07 01 6b 00");
    check(&FactRecord { sequence: 300, value: b"v".to_vec() }, "01 fb2c01 01 76");
    check(&PurgeRecord::History { decided: 9, before: 8, extremities: vec![7] }, "01 00 09 08 01 07");
    check(&PurgeRecord::Room { opened: 9, purges: vec![10] }, "01 01 09 01 0a");
    check(&ProjectedTo { sequence: 300 }, "01 fb2c01");
    let key = ServerKeyRecord { key: [8; 32], valid_until_ts_ms: 1, expired_ts_ms: Some(-1) };
    check(&key, &format!("01 {eights} 02 01 01"));
    check(&EventRecord { sequence: 65_536 }, "01 fc00000100");
    let roots = StatesRecord::Roots { before: None, after: Some(300) };
    let timeline = TimelineRecord {
        outcome: 0,
        reason: None,
        may_redact_any: false,
        states: roots,
        nodes_numbered: 301,
        arrival: Some(ArrivalRecord::New),
        in_given_state: false,
        placed: None,
    };
    check(&timeline, "04 00 00 00 00 00 01fb2c01 fb2d01 01 00 00 00");
    let purged = TimelineRecord { states: StatesRecord::Purged, may_redact_any: true, ..timeline.clone() };
    check(&purged, "04 00 00 01 01 fb2d01 01 00 00 00");
    let placed = TimelineRecord { in_given_state: true, placed: Some(7), ..timeline.clone() };
    check(&placed, "04 00 00 00 00 00 01fb2c01 fb2d01 01 00 01 01 07");
    let reason = RecordedReason {
        check: Check::StateBefore,
        code: "join_while_banned".into(),
        rule: "5.3".into(),
        sentence: "no".into(),
    };
    check(
        &TimelineRecord { outcome: 2, reason: Some(ReasonRecord::of(&reason)), ..timeline },
        "04 02 01 05 11 6a6f696e5f7768696c655f62616e6e6564 03 352e33 02 6e6f 00 00 00 01fb2c01 fb2d01 01 00 00 00",
    );
    let node = |root_check, content| SnapshotNodeRecord { root_check, content };
    let leaf = NodeContentRecord::Leaf(vec![0x83, 2, 1, 0x56, 0x78]);
    check(&node(None, leaf), "03 00 00 05 8302 01 56 78");
    let change = NodeContentRecord::Change { back: 300, replaced: vec![7, 0x10], added: vec![9, 0x56] };
    check(&node(Some([1, 2, 3, 4]), change), "03 01 01020304 01 fb2c01 02 07 10 02 09 56");
    let branch = NodeContentRecord::Branch { bitmap: 0x8001, children: vec![[0, 0, 0, 7], [0, 0, 1, 0]] };
    check(&node(None, branch), "03 00 02 fb0180 02 00000007 00000100");
    let extremities = ExtremitiesRecord {
        forward_extremities: vec!["$e".into()],
        current_state: Some(8),
        fingerprint: [8; 32],
        create: Some(0),
    };
    check(&extremities, &format!("03 01 02 2465 01 08 {eights} 01 00"));
}

#[test]
fn outcomes_and_checks_keep_their_numbers() {
    let outcomes = [0, 1, 2, 3].map(outcome_from_byte);
    assert_eq!(outcomes, [Some(Outcome::Accepted), Some(Outcome::SoftFailed), Some(Outcome::Rejected), None]);
    let checks = [Check::AuthEvents, Check::StateBefore, Check::CurrentState, Check::PolicyServer];
    for (check, byte) in checks.into_iter().zip(["04", "05", "06", "07"]) {
        let reason = RecordedReason { check, code: "".into(), rule: "".into(), sentence: String::new() };
        let reason_record = Some(ReasonRecord::of(&reason));
        let record = TimelineRecord {
            outcome: 1,
            reason: reason_record,
            may_redact_any: false,
            states: StatesRecord::Purged,
            nodes_numbered: 0,
            arrival: None,
            in_given_state: false,
            placed: None,
        };
        let bytes = codec::encode(&record).unwrap();
        assert_eq!(hex(&bytes[1..9]), format!("0101{byte}0000000001"));
        assert_eq!(ReasonRecord::of(&reason).into_reason(), Some(reason));
    }
}

#[test]
fn the_keys_are_as_documented() {
    assert_eq!(hex(&key::sequence(258)), "0000000000000102");
    assert_eq!(hex(&key::room(258)), "00000102");
    assert_eq!(hex(&key::timeline(1, 2)), "000000010000000000000002");
    assert_eq!(hex(&key::purging(258)), "70757267696e672000000102");
    assert_eq!(key::purging_room(&key::purging(258)).unwrap(), 258);
    key::purging_room(b"purging 12345").unwrap_err();
    assert_eq!(hex(&key::event(1, &EventId::parse("$e").unwrap())), "000000012465");
    assert_eq!(hex(&key::event_facts(1, EventIndex::from_number(258).unwrap())), "0000000100000102");
    assert_eq!(hex(&key::node(1, NodeIndex::from_number(258).unwrap())), "0000000100000102");
    assert_eq!((key::HEAD, key::PROJECTED_TO), (&b"log head"[..], &b"projected to"[..]));
    assert_eq!(key::timeline_sequence(&key::timeline(1, 2)).unwrap(), 2);
    for wrong in [&b""[..], b"12345678", b"1234567890123"] {
        key::timeline_sequence(wrong).unwrap_err();
    }
}

#[test]
fn node_records_are_what_the_core_gives() {
    let mut room = TestRoom::forked("!r:a");
    // Enough entries for branches.
    let mut last = room.judged[3].event.event_id.clone();
    for number in 0..70 {
        last = room.event("@a:a", "org.example", Some(&number.to_string()), "{}", &[&last]);
    }
    let (mut leaves, mut changes, mut branches) = (0, 0, 0);
    for (number, node) in room.judged.iter().flat_map(|event| &event.nodes) {
        match node.content {
            NodeContent::Leaf(_) => leaves += 1,
            NodeContent::Change(_) => changes += 1,
            NodeContent::Branch { .. } => branches += 1,
        }
        assert_eq!(SnapshotNodeRecord::of(*number, node).into_node(*number).as_ref(), Some(node));
    }
    assert!(leaves > 20 && changes > 40 && branches > 2, "{leaves} {changes} {branches}");
    let branch = |(bitmap, children)| NodeContentRecord::Branch { bitmap, children };
    let mut invalid: Vec<_> =
        [(1, vec![]), (1, vec![[0; 4]; 2]), (3, vec![[0; 4]]), (1, vec![[255; 4]])].map(branch).into();
    let none = Vec::new;
    invalid.push(NodeContentRecord::Leaf(vec![255, 255, 255, 255, 15, 7]));
    invalid.push(NodeContentRecord::Leaf(vec![7]));
    // Of a node that would have a number below 0.
    invalid.push(NodeContentRecord::Change { back: 9, replaced: none(), added: none() });
    invalid.push(NodeContentRecord::Change { back: 1, replaced: vec![7], added: none() });
    invalid.push(NodeContentRecord::Change { back: 1, replaced: none(), added: vec![7] });
    for content in invalid {
        let record = SnapshotNodeRecord { root_check: None, content };
        assert_eq!(record.clone().into_node(NodeIndex::from_number(8).unwrap()), None, "{record:?}");
    }
}
