//! Loading a room from its projections.

use std::collections::BTreeMap;

use bytes::Bytes;
use ravel_core::{
    id::{EventId, RoomId},
    pdu::VerifiedPdu,
    room::{Arrival, Outcome, PurgedEvent, Room, StoredPosition},
    room_version::RoomVersion,
    state::{Fingerprint, NodeCache, NodeIndex, StateLoader, StateMap},
};

use super::{
    EventLog, LogError,
    records::{ArrivalRecord, EventRecord, ExtremitiesRecord, LogEntry, RoomRecord, StatesRecord, TimelineRecord, key},
    replay::restore,
};
use crate::{GET_KEYS_MAX, KeyRange, Keyspace, Scan, StoreError, StoreExt, codec};

/// An event as the log has it.
enum Stored {
    Pdu(VerifiedPdu),
    Purged(PurgedEvent),
}

impl Stored {
    fn event_id(&self) -> &EventId {
        match self {
            Self::Pdu(pdu) => pdu.event_id(),
            Self::Purged(purged) => &purged.event.event_id,
        }
    }
}

/// The places that outliers got later, while a room is loaded in the order of its log.
struct Places {
    /// By the entry that gave the place.
    waiting: BTreeMap<u64, (Stored, TimelineRecord)>,
    /// The end of what is loaded.
    position: u64,
    /// Outliers got places after that.
    has_later: bool,
}

impl Places {
    fn until(position: u64) -> Self {
        Self { waiting: BTreeMap::new(), position, has_later: false }
    }

    fn add(&mut self, sequence: u64, stored: Stored, record: TimelineRecord) {
        if sequence < self.position {
            self.waiting.insert(sequence, (stored, record));
        } else {
            self.has_later = true;
        }
    }

    fn take_before(&mut self, sequence: u64) -> Option<(Stored, TimelineRecord)> {
        let first = self.waiting.first_entry().filter(|first| *first.key() < sequence)?;
        Some(first.remove())
    }
}

/// How many events are read at a time.
const TIMELINE_PAGE: usize = 1024;

/// How many events are handed out at a time: 16 MiB at most.
const LOGGED_EVENTS_PAGE: usize = 256;

/// How many events are looked up at once.
const LOGGED_EVENTS_AT_ONCE: usize = 1024;

/// An event as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedEvent {
    /// The number of its entry.
    pub sequence: u64,
    /// Its id.
    pub event_id: EventId,
    /// Its canonical JSON without `unsigned`; redacted if its content hash did not match. `None` if it was purged.
    pub json: Option<Vec<u8>>,
    /// How it was judged.
    pub outcome: Outcome,
    /// Whether its place in the DAG is not known.
    pub is_outlier: bool,
    /// Whether it is of the room's past, and was asked for.
    pub is_history: bool,
}

/// A room's timeline from one sequence number (included) to another (excluded).
fn timeline(room: u32, from: u64, to: u64) -> Scan {
    Scan::new(Keyspace::Timelines, KeyRange::new(key::timeline(room, from), key::timeline(room, to)))
}

impl EventLog {
    /// Loads a room with all its events and states, `None` if it is not there.
    ///
    /// Reads the room's timeline page by page and each snapshot node once. Costs time and memory in proportion to the room's
    /// events and the nodes of their states.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn load_room(&self, room_id: &RoomId) -> Result<Option<Room>, LogError> {
        let Some(record) = self.fresh_room(room_id).await? else { return Ok(None) };
        self.load(room_id, &record).await.map(Some)
    }

    /// Loads a room as it was when the log had `position` entries, also while others append; `None` if it had no events yet.
    ///
    /// Costs what [`load_room`](Self::load_room) does, and if the room had events since, the resolution of its current state.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn load_room_at(&self, room_id: &RoomId, position: u64) -> Result<Option<Room>, LogError> {
        let Some(record) = self.fresh_room(room_id).await? else { return Ok(None) };
        let room = self.load_at(room_id, &record, position).await?;
        Ok(Some(room).filter(|room| !room.is_empty()))
    }

    /// Returns the record of a room whose projections are as this program makes them.
    pub(super) async fn fresh_room(&self, room_id: &RoomId) -> Result<Option<RoomRecord>, LogError> {
        let mut record = self.room(room_id)?;
        if record.as_ref().is_some_and(RoomRecord::is_stale) {
            self.refresh_room(room_id).await?;
            record = self.room(room_id)?;
        }
        let is_being_purged = |record: &RoomRecord| self.known().purging.contains_key(&record.number);
        if record.as_ref().is_some_and(is_being_purged) {
            match self.resume_purges(|_, _| {}).await {
                Err(LogError::Store(StoreError::ReadOnly)) => {
                    return Err(LogError::PurgeUnderWay { room_id: room_id.clone() });
                }
                resumed => resumed?,
            };
            record = self.room(room_id)?;
        }
        Ok(record)
    }

    pub(super) fn version_of(&self, room_id: &RoomId, record: &RoomRecord) -> Result<RoomVersion, LogError> {
        let corrupt = || StoreError::corrupt(Keyspace::Rooms, room_id.as_str().as_bytes(), "a known room version");
        Ok(RoomVersion::parse(&record.room_version).ok_or_else(corrupt)?)
    }

    /// Loads a room with the events that this log knows of: another process may append to it.
    pub(super) async fn load(&self, room_id: &RoomId, record: &RoomRecord) -> Result<Room, LogError> {
        self.load_at(room_id, record, self.len()).await
    }

    async fn load_at(&self, room_id: &RoomId, record: &RoomRecord, position: u64) -> Result<Room, LogError> {
        let (number, version) = (record.number, self.version_of(room_id, record)?);
        let mut room = Room::new(room_id.clone(), version.rules());
        let mut cache = NodeCache::default();
        let mut scan = Some(timeline(number, 0, position).items(TIMELINE_PAGE));
        let mut nodes_numbered = 0;
        let mut places = Places::until(position);
        while let Some(asked) = scan.take() {
            let page = self.store.scan(asked.clone()).await?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            nodes_numbered = self
                .restore_page(&mut room, number, &mut cache, page.items, &mut places)
                .await?
                .unwrap_or(nodes_numbered);
        }
        let placed = self.restore_places(&mut room, number, &mut cache, &mut places, position).await?;
        nodes_numbered = nodes_numbered.max(placed.unwrap_or(0));
        let extremities = self.store.get_record::<ExtremitiesRecord>(key::room(number)).await?;
        // Looked at after the record was read: if there is nothing later now, the record is that of the position.
        if places.has_later || self.has_events_from(number, position).await? {
            room.restore_current_state_of_extremities(nodes_numbered, record.purge_count())?;
            return Ok(room);
        }
        let current_state = match extremities {
            Some(extremities) => self.load_state(&room, number, extremities.current_state, &mut cache).await?,
            None => StateMap::new(),
        };
        // With a number that is too low, new nodes would be written over those that are there.
        if cache.highest().is_some_and(|highest| highest.number() >= nodes_numbered) {
            return Err(LogError::BadRoom { room_id: room_id.clone() });
        }
        room.restore_current_state(current_state, nodes_numbered, record.purge_count());
        Ok(room)
    }

    /// Returns the number that stands for a room in the log.
    ///
    /// # Errors
    ///
    /// `Lagging` if the projections are not those of the whole log.
    pub fn room_number(&self, room_id: &RoomId) -> Result<Option<u32>, LogError> {
        Ok(self.room(room_id)?.map(|record| record.number))
    }

    /// Returns the fingerprint of a room's current state, `None` if the room is not there. Costs a look-up.
    ///
    /// # Errors
    ///
    /// `Lagging` if the projections are not those of the whole log; when the store fails.
    pub async fn current_state_fingerprint(&self, room_id: &RoomId) -> Result<Option<Fingerprint>, LogError> {
        let Some(RoomRecord { number, .. }) = self.room(room_id)? else { return Ok(None) };
        let extremities = self.store.get_record::<ExtremitiesRecord>(key::room(number)).await?;
        Ok(Some(extremities.map_or_else(Fingerprint::of_empty, |extremities| Fingerprint(extremities.fingerprint))))
    }

    /// Returns the sequence number of a room's last event before `position`, `None` if it has none.
    ///
    /// # Errors
    ///
    /// When the store fails or its keys are damaged.
    pub async fn last_event_before(&self, room_id: &RoomId, position: u64) -> Result<Option<u64>, LogError> {
        let Some(RoomRecord { number, .. }) = self.room(room_id)? else { return Ok(None) };
        let page = self.store.scan(timeline(number, 0, position).backward().items(1)).await?;
        Ok(page.items.first().map(|(key, _)| key::timeline_sequence(key)).transpose()?)
    }

    /// Returns some events of a room, in the order of the log: those from the sequence number `from` on and before `position`,
    /// at most 256 at a time, none when there are no more.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn logged_events(
        &self,
        room_id: &RoomId,
        from: u64,
        position: u64,
    ) -> Result<Vec<LoggedEvent>, LogError> {
        let Some(RoomRecord { number, .. }) = self.room(room_id)? else { return Ok(Vec::new()) };
        self.logged(timeline(number, from, position).items(LOGGED_EVENTS_PAGE)).await
    }

    /// Returns the newest events of a room, the newest first: those before the sequence number `before` and from `from` on, at most
    /// `items` of them and 256.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn logged_events_back(
        &self,
        room_id: &RoomId,
        before: u64,
        from: u64,
        items: usize,
    ) -> Result<Vec<LoggedEvent>, LogError> {
        let Some(RoomRecord { number, .. }) = self.room(room_id)? else { return Ok(Vec::new()) };
        self.logged(timeline(number, from, before).backward().items(items.min(LOGGED_EVENTS_PAGE))).await
    }

    /// Returns an event of a room, `None` if the room does not have it.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn logged_event(&self, room_id: &RoomId, event_id: &EventId) -> Result<Option<LoggedEvent>, LogError> {
        let Some(RoomRecord { number, .. }) = self.room(room_id)? else { return Ok(None) };
        let place: Option<EventRecord> = self.store.get_record(key::event(number, event_id)).await?;
        let Some(EventRecord { sequence }) = place else { return Ok(None) };
        Ok(self.logged(timeline(number, sequence, sequence.saturating_add(1))).await?.pop())
    }

    /// Returns those of some events that a room has, in the order of `event_ids`. All at once they cost a few look-ups of many keys.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn logged_events_of(
        &self,
        room_id: &RoomId,
        event_ids: &[EventId],
    ) -> Result<Vec<LoggedEvent>, LogError> {
        let Some(RoomRecord { number, .. }) = self.room(room_id)? else { return Ok(Vec::new()) };
        let mut logged = Vec::with_capacity(event_ids.len());
        for event_ids in event_ids.chunks(LOGGED_EVENTS_AT_ONCE) {
            let places: Vec<Bytes> = event_ids.iter().map(|event_id| key::event(number, event_id)).collect();
            let mut timeline = Vec::with_capacity(places.len());
            for (key, place) in places.iter().zip(self.store.get_many(Keyspace::Events, &places).await?) {
                let Some(place) = place else { continue };
                let EventRecord { sequence } = codec::decode(key, &place)?;
                timeline.push(key::timeline(number, sequence));
            }
            let records = self.store.get_many(Keyspace::Timelines, &timeline).await?;
            let corrupt = |key: &Bytes| StoreError::corrupt(Keyspace::Timelines, key, "an event of a timeline");
            let items = timeline.into_iter().zip(records);
            let items = items.map(|(key, value)| Ok((key.clone(), value.ok_or_else(|| corrupt(&key))?)));
            logged.extend(self.logged_items(&items.collect::<Result<Vec<_>, StoreError>>()?).await?);
        }
        Ok(logged)
    }

    /// Returns the rooms that have an event of an id, sorted. Ids of room versions 1 and 2 may be those of several events.
    ///
    /// Costs a look-up in each room.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn rooms_with_event(&self, event_id: &EventId) -> Result<Vec<RoomId>, LogError> {
        let rooms: Vec<(RoomId, u32)> =
            self.known().rooms.iter().map(|(room_id, record)| (room_id.clone(), record.number)).collect();
        let mut found = Vec::new();
        for rooms in rooms.chunks(GET_KEYS_MAX) {
            let keys: Vec<Bytes> = rooms.iter().map(|(_, number)| key::event(*number, event_id)).collect();
            let places = self.store.get_many(Keyspace::Events, &keys).await?;
            let there = rooms.iter().zip(places).filter(|(_, place)| place.is_some());
            found.extend(there.map(|((room_id, _), _)| room_id.clone()));
        }
        Ok(found)
    }

    /// Returns the events of a page of a timeline.
    async fn logged(&self, scan: Scan) -> Result<Vec<LoggedEvent>, LogError> {
        self.logged_items(&self.store.scan(scan).await?.items).await
    }

    /// Returns the events of some records of a timeline.
    async fn logged_items(&self, timeline: &[(Bytes, Bytes)]) -> Result<Vec<LoggedEvent>, LogError> {
        let sequences = timeline.iter().map(|(key, _)| key::timeline_sequence(key));
        let sequences: Vec<u64> = sequences.collect::<Result<_, _>>()?;
        let entries = self.entries(&sequences).await?;
        let events = timeline.iter().zip(entries).map(|((key, value), (sequence, entry))| {
            let bad = |problem| LogError::BadEntry { sequence, problem };
            let (event_id, json) = match entry {
                LogEntry::Event { event_id, json, .. } => (event_id, Some(json)),
                LogEntry::PurgedEvent(purged) => (purged.fields.event_id, None),
                _ => return Err(bad("it is not an event, and a timeline names it")),
            };
            let event_id = EventId::parse(&event_id).map_err(|_| bad("its event id is invalid"))?;
            let timeline: TimelineRecord = codec::decode(key, value)?;
            let bad = |what| LogError::BadProjection { event_id: event_id.clone(), what };
            let (outcome, _) = timeline.verdict().ok_or_else(|| bad("unknown verdict"))?;
            let is_outlier = timeline.arrival.is_none();
            let is_history = timeline.arrival.is_some_and(|arrival| arrival.into_arrival() == Arrival::History);
            Ok(LoggedEvent { sequence, event_id, json, outcome, is_outlier, is_history })
        });
        events.collect()
    }

    /// Whether a room has events from a sequence number on; not if it is not known.
    pub(super) async fn has_room_events_from(&self, room_id: &RoomId, sequence: u64) -> Result<bool, LogError> {
        match self.room(room_id)? {
            Some(record) => self.has_events_from(record.number, sequence).await,
            None => Ok(false),
        }
    }

    async fn has_events_from(&self, number: u32, sequence: u64) -> Result<bool, LogError> {
        Ok(!self.store.scan(timeline(number, sequence, u64::MAX).items(1)).await?.items.is_empty())
    }

    /// Reads entries by their sequence numbers, in their order.
    pub(super) async fn entries(&self, sequences: &[u64]) -> Result<Vec<(u64, LogEntry)>, LogError> {
        let keys: Vec<Bytes> = sequences.iter().map(|sequence| key::sequence(*sequence)).collect();
        let found = self.store.get_many(Keyspace::Log, &keys).await?;
        let entries = sequences.iter().zip(&keys).zip(found).map(|((sequence, key), entry)| {
            let entry = entry.ok_or(LogError::BadEntry { sequence: *sequence, problem: "it is missing" })?;
            Ok((*sequence, codec::decode(key, &entry)?))
        });
        entries.collect()
    }

    /// Restores the events of a page; returns how many snapshot nodes the room had with the last of them.
    async fn restore_page(
        &self,
        room: &mut Room,
        number: u32,
        cache: &mut NodeCache,
        timeline: Vec<(Bytes, Bytes)>,
        places: &mut Places,
    ) -> Result<Option<u32>, LogError> {
        let mut nodes_numbered = None;
        let mut sequences = Vec::with_capacity(timeline.len());
        for (key, _) in &timeline {
            sequences.push(key::timeline_sequence(key)?);
        }
        let entries = self.entries(&sequences).await?;
        for ((timeline_key, timeline), (sequence, entry)) in timeline.iter().zip(entries) {
            let bad = |problem| LogError::BadEntry { sequence, problem };
            let stored = match entry {
                LogEntry::Event { json, content_hash_matched, authorising_user_signed, .. } => {
                    let pdu = restore(room.rules(), &json, authorising_user_signed, content_hash_matched);
                    Stored::Pdu(pdu.map_err(|source| LogError::BadEvent { sequence, source })?)
                }
                LogEntry::PurgedEvent(record) => {
                    let event = record.into_event(room.room_id());
                    let (event, ..) = event.ok_or_else(|| bad("what is left of its event is invalid"))?;
                    Stored::Purged(event)
                }
                _ => return Err(bad("it is not an event, and a timeline names it")),
            };
            let record: TimelineRecord = codec::decode(timeline_key, timeline)?;
            let placed = self.restore_places(room, number, cache, places, sequence).await?;
            nodes_numbered = nodes_numbered.max(placed);
            let record = match (record.placed, stored) {
                (None, stored) => {
                    self.restore_event(room, number, cache, &stored, &record, false).await?;
                    record
                }
                (Some(placed), stored) => {
                    let outlier = record.before_it_was_placed();
                    self.restore_event(room, number, cache, &stored, &outlier, false).await?;
                    places.add(placed, stored, record);
                    outlier
                }
            };
            nodes_numbered = nodes_numbered.max(Some(record.nodes_numbered));
        }
        Ok(nodes_numbered)
    }

    /// Gives outliers the places that they got before some entry; returns how many snapshot nodes the room had with the last of them.
    async fn restore_places(
        &self,
        room: &mut Room,
        number: u32,
        cache: &mut NodeCache,
        places: &mut Places,
        sequence: u64,
    ) -> Result<Option<u32>, LogError> {
        let mut nodes_numbered = None;
        while let Some((stored, record)) = places.take_before(sequence) {
            self.restore_event(room, number, cache, &stored, &record, true).await?;
            nodes_numbered = nodes_numbered.max(Some(record.nodes_numbered));
        }
        Ok(nodes_numbered)
    }

    async fn restore_event(
        &self,
        room: &mut Room,
        number: u32,
        cache: &mut NodeCache,
        stored: &Stored,
        record: &TimelineRecord,
        is_there: bool,
    ) -> Result<(), LogError> {
        let bad = |what| LogError::BadProjection { event_id: stored.event_id().clone(), what };
        let (outcome, reason) = record.verdict().ok_or_else(|| bad("unknown verdict"))?;
        let (before, after) = match record.states {
            StatesRecord::Roots { before, after } => (Some(before), Some(after)),
            StatesRecord::Purged => (None, None),
        };
        let state_before = match before {
            Some(root) => Some(self.load_state(room, number, root, cache).await?),
            None => None,
        };
        let arrival = record.arrival.map(ArrivalRecord::into_arrival);
        let (may_redact_any, in_given_state) = (record.may_redact_any, record.in_given_state);
        let position = StoredPosition { outcome, reason, may_redact_any, state_before, arrival, in_given_state };
        match stored {
            Stored::Pdu(pdu) if is_there => room.restore_place(pdu, position)?,
            Stored::Pdu(pdu) => room.restore_event(pdu, position)?,
            Stored::Purged(event) => room.restore_purged(event, position)?,
        }
        if let Some(root) = after {
            let state_after = self.load_state(room, number, root, cache).await?;
            if !room.restore_state_after(stored.event_id(), &state_after) {
                return Err(bad("another state after the event"));
            }
        }
        Ok(())
    }

    /// Loads a state, reading the nodes that `cache` lacks in one look-up for each level of the tree and one for leaves that others
    /// are changes of.
    async fn load_state(
        &self,
        room: &Room,
        number: u32,
        root: Option<u32>,
        cache: &mut NodeCache,
    ) -> Result<StateMap, LogError> {
        let bad = |source| LogError::BadSnapshot { room_id: room.room_id().clone(), source };
        let mut loader = StateLoader::new(root.and_then(NodeIndex::from_number), cache);
        while !loader.wanted().is_empty() {
            let records = self.nodes(number, loader.wanted()).await?;
            loader.supply(records, cache).map_err(bad)?;
        }
        loader.finish(room.graph(), cache).map_err(bad)
    }
}
