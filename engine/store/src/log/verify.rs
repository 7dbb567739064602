//! Comparing what is stored with what a replay of the log gives.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ravel_core::{
    graph::EventIndex,
    id::{EventId, RoomId},
    room::{PersistEvent, Place, Room},
    state::{NodeIndex, NodeRecord},
};

use super::{
    EventLog, LogEntry, LogError,
    event_facts::EventFactsRecord,
    nodes::NodeWalk,
    records::{
        EventRecord, ExtremitiesRecord, FactRecord, Head, PurgeRecord, RoomRecord, SnapshotNodeRecord, StatesRecord,
        TimelineRecord, key,
    },
    replay::{Replay, Replayed},
    server_keys,
};
use crate::{KeyRange, Keyspace, Record, Scan, StoreError, StoreExt, codec};

/// What a comparison of a store with a replay of its log gave.
#[derive(Debug)]
pub struct Verification {
    /// The entries of the log.
    pub entries: u64,
    /// The rooms that the log opens.
    pub rooms: usize,
    /// What is wrong; nothing if all is right.
    pub findings: Vec<Finding>,
}

/// Something that is wrong with a store.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Finding {
    /// An entry of the log, its order or its end is damaged; a room could not be replayed further.
    Log(LogError),
    /// A record of a projection is missing, damaged or not what a replay gives.
    Projection { room_id: RoomId, event_id: Option<EventId>, what: &'static str },
    /// A fact is missing or another than the log says. Its key is that of the record: its kind first.
    Fact { key: Bytes },
    /// A record that can't be decoded.
    Record(StoreError),
    /// A projection has a record that a replay does not give.
    Surplus { keyspace: Keyspace, records: u64 },
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::Projection { room_id, event_id: Some(event_id), what } => write!(f, "{room_id}, {event_id}: {what}"),
            Self::Projection { room_id, event_id: None, what } => write!(f, "{room_id}: {what}"),
            Self::Fact { key } => write!(f, "the fact {} differs", key.escape_ascii()),
            Self::Record(error) => error.fmt(f),
            Self::Surplus { keyspace, records } => {
                write!(f, "{records} records in {keyspace} that a replay of the log does not give")
            }
        }
    }
}

/// What a replay gave, to be compared in the end.
#[derive(Default)]
struct Expected {
    /// The keys, for each projection, to find what is too much.
    keys: BTreeMap<Keyspace, BTreeSet<Bytes>>,
    rooms: BTreeMap<u32, ExpectedRoom>,
    /// Rooms that were purged as a whole, which is not carried out yet.
    going: BTreeSet<u32>,
    /// Outliers that have a place by their records: room, the entry that gives it, the event. What is left has no such entry.
    placed: BTreeMap<(u32, u64), EventId>,
    /// By the keys of their records: the entry and the value, `None` if there is none any more.
    facts: BTreeMap<Bytes, Option<(u64, Bytes)>>,
}

#[derive(Clone)]
struct ExpectedRoom {
    room_id: RoomId,
    record: RoomRecord,
    /// The states around events before this entry were purged, but for those of `extremities`.
    before: u64,
    extremities: Vec<u64>,
    /// That is carried out.
    is_purged: bool,
    /// Nodes that are not there, each with the event that came with it. It may be that nothing refers to them any more.
    missing: Vec<(NodeIndex, EventId)>,
}

impl ExpectedRoom {
    fn new(room_id: RoomId, record: RoomRecord) -> Self {
        let (extremities, missing) = (Vec::new(), Vec::new());
        Self { room_id, record, before: 0, extremities, is_purged: true, missing }
    }

    fn purges_states(&self, sequence: u64) -> bool {
        sequence < self.before && !self.extremities.contains(&sequence)
    }
}

/// Where in the log an event came.
#[derive(Clone, Copy)]
struct EntryOf {
    sequence: u64,
    /// The entry by which it came as an outlier before.
    outlier: Option<u64>,
}

/// How often what belongs to the end of the log is compared, while that moves on.
const ATTEMPTS_MAX: u32 = 5;

impl EventLog {
    /// Replays the log and compares every projection with the result: checksums of all records, event ids, outcomes, snapshots,
    /// forward extremities and current states. Writes nothing.
    ///
    /// Calls `progress` with the entries done and all entries. Needs memory for all rooms and for all keys of the projections. Another
    /// process may append meanwhile; if it does so all the time, the end of the log and what belongs to it is not compared.
    ///
    /// # Errors
    ///
    /// When the store can't be read, or the projections are behind the log; damaged records are findings.
    pub async fn verify(&self, mut progress: impl FnMut(u64, u64)) -> Result<Verification, LogError> {
        if self.projected_to().await?.is_some() {
            return Err(LogError::Lagging);
        }
        let mut findings = Vec::new();
        let purging = damaged_log(self.read_purges().await, &mut findings)?.unwrap_or_default();
        let mut expected = Expected::default();
        let is_going =
            |(number, purge): (&u32, &PurgeRecord)| matches!(purge, PurgeRecord::Room { .. }).then_some(*number);
        expected.going = purging.iter().filter_map(is_going).collect();
        let mut replay = Replay::default();
        let mut broken: BTreeSet<u32> = BTreeSet::new();
        let (mut next, mut entries) = (0, 0);
        let mut scan = Some(Scan::new(Keyspace::Log, KeyRange::all()));
        // The last key of the log that was read.
        let mut last = Bytes::new();
        let mut attempts = 0;
        let at_the_end = loop {
            while let Some(asked) = scan.take() {
                let page = self.store.scan(asked.clone()).await?;
                scan = page.next.as_ref().map(|cursor| asked.after(cursor));
                if let Some((key, _)) = page.items.last() {
                    last = key.clone();
                }
                for (key, value) in page.items {
                    let Some(sequence) = damaged(key::sequence_of(&key), &mut findings)? else { continue };
                    if sequence != next {
                        findings.push(Finding::Log(LogError::BadEntry { sequence: next, problem: "it is missing" }));
                    }
                    next = sequence.saturating_add(1);
                    entries += 1;
                    progress(next, self.len());
                    let Some(entry) = damaged(codec::decode(&key, &value), &mut findings)? else { continue };
                    match replay.take(sequence, &entry) {
                        Ok(Replayed::Room { room_id, record }) => {
                            let number = record.number;
                            let mut room = ExpectedRoom::new(room_id, record);
                            room.is_purged = !purging.contains_key(&number);
                            self.read_last_purge(&mut room, &mut findings).await?;
                            expected.rooms.insert(number, room);
                        }
                        Ok(Replayed::HistoryPurged { room, .. }) => {
                            if let Some(room) = expected.rooms.get_mut(&room) {
                                room.record.purges.push(sequence);
                            }
                        }
                        Ok(Replayed::RoomPurged { room, .. }) => {
                            expected.rooms.remove(&room);
                            if !expected.going.contains(&room) {
                                let problem = "it purges a room of which there are entries";
                                findings.push(Finding::Log(LogError::BadEntry { sequence, problem }));
                            }
                        }
                        Ok(Replayed::Event { room, .. }) if expected.going.contains(&room) => {}
                        Ok(Replayed::Event { room, persist, outlier }) => {
                            let entry = EntryOf { sequence, outlier };
                            self.compare(&replay, room, entry, &persist, &mut expected, &mut findings).await?;
                        }
                        Ok(Replayed::Fact(fact)) => {
                            expected
                                .facts
                                .insert(key::fact(fact.kind, &fact.key), fact.value.map(|value| (sequence, value)));
                        }
                        Ok(Replayed::Nothing) => {}
                        Err(error) => {
                            // What follows in a room that lost an event can't be judged: one finding says so.
                            let is_first = match entry {
                                LogEntry::Event { .. } | LogEntry::PurgedEvent(_) => {
                                    entry.room().is_none_or(|room| broken.insert(room))
                                }
                                _ => true,
                            };
                            if is_first {
                                findings.push(Finding::Log(error));
                            }
                        }
                    }
                }
            }
            let mut at_the_end = Vec::new();
            for number in expected.rooms.keys().copied().collect::<Vec<_>>() {
                if !expected.going.contains(&number) {
                    self.compare_room(number, &mut expected, &mut at_the_end).await?;
                }
            }
            for ((number, _), event_id) in &expected.placed {
                let Some(room) = expected.rooms.get(number) else { continue };
                let (room_id, event_id) = (room.room_id.clone(), Some(event_id.clone()));
                at_the_end.push(Finding::Projection { room_id, event_id, what: "it has a place that no entry gives" });
            }
            self.compare_facts(&mut expected, &mut at_the_end).await?;
            self.compare_head(next, &mut at_the_end).await?;
            for (number, room) in replay.rooms() {
                if !broken.contains(&number) && !expected.going.contains(&number) {
                    self.compare_extremities(number, room, &mut expected, &mut at_the_end).await?;
                }
            }
            if findings.is_empty() && at_the_end.is_empty() {
                self.find_surplus(&expected, &mut at_the_end).await?;
            }
            // Another process may have appended meanwhile: then this was compared with another end of the log than it belongs to.
            let grown = Scan::new(Keyspace::Log, KeyRange::all()).after(&last);
            if at_the_end.is_empty() || self.store.scan(grown.clone().items(1)).await?.items.is_empty() {
                break at_the_end;
            }
            attempts += 1;
            if attempts == ATTEMPTS_MAX {
                break Vec::new();
            }
            scan = Some(grown);
        };
        findings.extend(at_the_end);
        self.check_server_keys(&mut findings).await?;
        Ok(Verification { entries, rooms: replay.rooms().count(), findings })
    }

    /// Compares the newest value of each fact.
    async fn compare_facts(&self, expected: &mut Expected, findings: &mut Vec<Finding>) -> Result<(), LogError> {
        for (key, fact) in expected.facts.clone() {
            let Some((sequence, value)) = fact else { continue };
            let stored: Option<Option<FactRecord>> = self.stored(key.clone(), expected, findings).await?;
            let wanted = FactRecord { sequence, value: value.to_vec() };
            if stored.is_some_and(|stored| stored.as_ref() != Some(&wanted)) {
                findings.push(Finding::Fact { key });
            }
        }
        Ok(())
    }

    async fn compare_head(&self, entries: u64, findings: &mut Vec<Finding>) -> Result<(), LogError> {
        let stored = self.store.get_record::<Head>(key::HEAD).await;
        let finding = match damaged(stored, findings)? {
            Some(Some(Head { next_sequence: head, .. })) if head != entries => LogError::BadHead { entries, head },
            Some(None) if !self.is_untouched().await? => LogError::NoHead,
            _ => return Ok(()),
        };
        findings.push(Finding::Log(finding));
        Ok(())
    }

    async fn check_server_keys(&self, findings: &mut Vec<Finding>) -> Result<(), LogError> {
        for (key, value) in self.store.scan_all(Scan::new(Keyspace::ServerKeys, KeyRange::all())).await? {
            damaged(server_keys::decode(&key, &value), findings)?;
        }
        Ok(())
    }

    /// Reads what the record of a room says of the last purge of its history. Whether that is right is found out in the end.
    async fn read_last_purge(&self, room: &mut ExpectedRoom, findings: &mut Vec<Finding>) -> Result<(), LogError> {
        let stored: Result<Option<RoomRecord>, _> = self.store.get_record(room.room_id.as_str().to_owned()).await;
        let Some(decided) = stored.ok().flatten().and_then(|record| record.purges.last().copied()) else {
            return Ok(());
        };
        let entry = self.store.get_record::<LogEntry>(key::sequence(decided)).await;
        if let Some(Some(LogEntry::HistoryPurged { before, extremities, .. })) = damaged(entry, findings)? {
            (room.before, room.extremities) = (before, extremities);
        }
        Ok(())
    }

    async fn compare_room(
        &self,
        number: u32,
        expected: &mut Expected,
        findings: &mut Vec<Finding>,
    ) -> Result<(), LogError> {
        let Some(ExpectedRoom { room_id, record, missing, .. }) = expected.rooms.get(&number).cloned() else {
            return Ok(());
        };
        let key = Bytes::copy_from_slice(room_id.as_str().as_bytes());
        let stored: Option<Option<RoomRecord>> = self.stored(key, expected, findings).await?;
        if stored.is_some_and(|stored| stored.as_ref() != Some(&record)) {
            let what = "the room's record differs";
            findings.push(Finding::Projection { room_id: room_id.clone(), event_id: None, what });
        }
        if missing.is_empty() {
            return Ok(());
        }
        // Where the walk ends at damage, which was found before, nothing is known to be needless.
        let wanted = self.missing_nodes(number).await;
        let wanted = damaged_log(wanted, &mut Vec::new())?;
        for (node, event_id) in missing {
            if wanted.as_ref().is_none_or(|wanted| wanted.contains(&node)) {
                let what = "a snapshot node is missing";
                findings.push(Finding::Projection { room_id: room_id.clone(), event_id: Some(event_id), what });
            }
        }
        Ok(())
    }

    /// Returns the nodes of a room that are referred to and not there.
    async fn missing_nodes(&self, number: u32) -> Result<BTreeSet<NodeIndex>, LogError> {
        let mut missing = BTreeSet::new();
        let mut walk = NodeWalk::new(number, u32::MAX);
        let extremities: Option<ExtremitiesRecord> = self.store.get_record(key::room(number)).await?;
        let mut roots: Vec<u32> = extremities.and_then(|extremities| extremities.current_state).into_iter().collect();
        let mut scan = Some(Scan::prefix(Keyspace::Timelines, key::room(number)));
        while let Some(asked) = scan.take() {
            let page = self.store.scan(asked.clone()).await?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            for (key, value) in &page.items {
                roots.extend(codec::decode::<TimelineRecord>(key, value)?.states.roots());
            }
            let on_node = |node, record: Option<&NodeRecord>| {
                if record.is_none() {
                    missing.insert(node);
                }
            };
            walk.visit(self, roots.drain(..), on_node).await?;
        }
        Ok(missing)
    }

    /// Compares the records that belong to an event.
    async fn compare(
        &self,
        replay: &Replay,
        number: u32,
        entry: EntryOf,
        persist: &PersistEvent,
        expected: &mut Expected,
        findings: &mut Vec<Finding>,
    ) -> Result<(), LogError> {
        let Some(room) = replay.room(number) else { return Ok(()) };
        expected.placed.remove(&(number, entry.sequence));
        // The timeline has each event once, where it came.
        let sequence = entry.outlier.unwrap_or(entry.sequence);
        let event_id = &persist.event.event_id;
        let find =
            |what| Finding::Projection { room_id: room.room_id().clone(), event_id: Some(event_id.clone()), what };
        let event: Option<Option<EventRecord>> = self.stored(key::event(number, event_id), expected, findings).await?;
        if event.is_some_and(|event| event != Some(EventRecord { sequence, number: persist.index.number() })) {
            findings.push(find("its place in the log differs"));
        }
        let facts: Option<Option<EventFactsRecord>> =
            self.stored(key::event_facts(number, persist.index), expected, findings).await?;
        // They are those of the day when it came.
        let facts = facts.filter(|_| entry.outlier.is_none());
        if facts.is_some_and(|facts| facts != Some(EventFactsRecord::of(&persist.stored))) {
            findings.push(find("what resolution reads of it differs"));
        }
        let timeline: Option<Option<TimelineRecord>> =
            self.stored(key::timeline(number, sequence), expected, findings).await?;
        let expected_timeline = TimelineRecord::of(persist, entry.sequence);
        match timeline {
            // What an outlier was before it got its place is written over; the entry that gave that is to come, and is compared.
            Some(Some(TimelineRecord { placed: Some(placed), .. })) if persist.place == Place::Outlier => {
                expected.placed.insert((number, placed), event_id.clone());
            }
            Some(None) => findings.push(find("it is missing in the timeline")),
            Some(Some(timeline)) => {
                let verdict = |timeline: &TimelineRecord| (timeline.outcome, timeline.reason.clone());
                if verdict(&timeline) != verdict(&expected_timeline) {
                    findings.push(find("its verdict differs"));
                }
                let redacts = |timeline: &TimelineRecord| {
                    (
                        timeline.may_redact_any,
                        timeline.nodes_numbered,
                        timeline.arrival,
                        timeline.in_given_state,
                        timeline.placed,
                    )
                };
                let (is_to_be_purged, is_purged) = expected
                    .rooms
                    .get(&number)
                    .map_or((false, false), |room| (room.purges_states(sequence), room.is_purged));
                let states_are_right = match timeline.states {
                    StatesRecord::Purged if expected_timeline.arrival.is_none() => true,
                    StatesRecord::Purged => is_to_be_purged,
                    roots => roots == expected_timeline.states && !(is_to_be_purged && is_purged),
                };
                if !states_are_right || redacts(&timeline) != redacts(&expected_timeline) {
                    findings.push(find("the state before or after it differs"));
                }
            }
            None => {}
        }
        for (node_number, node) in &persist.nodes {
            let stored: Option<Option<SnapshotNodeRecord>> =
                self.stored(key::node(number, *node_number), expected, findings).await?;
            match stored {
                Some(None) => {
                    if let Some(room) = expected.rooms.get_mut(&number) {
                        room.missing.push((*node_number, event_id.clone()));
                    }
                }
                Some(Some(stored)) if stored != SnapshotNodeRecord::of(*node_number, node) => {
                    findings.push(find("a snapshot node differs"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn compare_extremities(
        &self,
        number: u32,
        room: &Room,
        expected: &mut Expected,
        findings: &mut Vec<Finding>,
    ) -> Result<(), LogError> {
        let stored: Option<Option<ExtremitiesRecord>> = self.stored(key::room(number), expected, findings).await?;
        let forward_extremities: Vec<String> = room.forward_extremities().iter().map(ToString::to_string).collect();
        let current_state = room.current_state().map().root_number().map(NodeIndex::number);
        let fingerprint = room.current_state().fingerprint().0;
        let create = room.graph().create().map(EventIndex::number);
        let right = match stored {
            Some(Some(stored)) => {
                stored == ExtremitiesRecord { forward_extremities, current_state, fingerprint, create }
            }
            Some(None) => forward_extremities.is_empty(),
            None => true,
        };
        if !right {
            let what = "forward extremities or current state differ";
            findings.push(Finding::Projection { room_id: room.room_id().clone(), event_id: None, what });
        }
        Ok(())
    }

    /// Returns the stored record, `None` if it is damaged (which is a finding), `Some(None)` if it is not there.
    async fn stored<R: Record>(
        &self,
        key: Bytes,
        expected: &mut Expected,
        findings: &mut Vec<Finding>,
    ) -> Result<Option<Option<R>>, LogError> {
        expected.keys.entry(R::KEYSPACE).or_default().insert(key.clone());
        damaged(self.store.get_record::<R>(key).await, findings)
    }

    async fn find_surplus(&self, expected: &Expected, findings: &mut Vec<Finding>) -> Result<(), LogError> {
        for keyspace in super::PROJECTIONS {
            let keys = expected.keys.get(&keyspace);
            let is_going = |key: &Bytes| {
                let room = key.first_chunk().map(|room| u32::from_be_bytes(*room));
                keyspace == Keyspace::Timelines && room.is_some_and(|room| expected.going.contains(&room))
            };
            let mut records = 0;
            let mut scan = Some(Scan::new(keyspace, KeyRange::all()));
            while let Some(asked) = scan.take() {
                let page = self.store.scan(asked.clone()).await?;
                scan = page.next.as_ref().map(|cursor| asked.after(cursor));
                let surplus =
                    page.items.iter().filter(|(key, _)| keys.is_none_or(|keys| !keys.contains(key)) && !is_going(key));
                records += surplus.count() as u64;
            }
            if records > 0 {
                findings.push(Finding::Surplus { keyspace, records });
            }
        }
        Ok(())
    }
}

/// As [`damaged`], for what reads several records.
fn damaged_log<T>(result: Result<T, LogError>, findings: &mut Vec<Finding>) -> Result<Option<T>, LogError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(LogError::Store(error)) => damaged(Err(error), findings),
        Err(error) => Err(error),
    }
}

/// Turns a damaged record into a finding; other errors go on.
fn damaged<T>(result: Result<T, StoreError>, findings: &mut Vec<Finding>) -> Result<Option<T>, LogError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error @ (StoreError::Corrupt { .. } | StoreError::RecordVersion { .. })) => {
            findings.push(Finding::Record(error));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
