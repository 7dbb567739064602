#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests, which clippy does not see behind the feature")]

mod append;
mod collect;
mod copy;
mod damage;
mod facts;
mod fingerprint;
mod places;
mod purge;
mod records;
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

fn opened(room: u32, room_id: &str, room_version: &str) -> LogEntry {
    LogEntry::RoomOpened { room, room_id: room_id.into(), room_version: room_version.into() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
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
