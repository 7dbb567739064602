//! What the log has of a room: its events by place, time and id.

use bytes::Bytes;
use ravel_core::{
    id::{EventId, RoomId},
    room::{Arrival, Outcome},
    room_version::RoomVersion,
    state::Fingerprint,
};

use super::{
    EventLog, LogError,
    records::{EventRecord, ExtremitiesRecord, LogEntry, RoomRecord, TimelineRecord, key},
};
use crate::{GET_KEYS_MAX, KeyRange, Keyspace, Scan, StoreError, StoreExt, codec};

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
pub(super) fn timeline(room: u32, from: u64, to: u64) -> Scan {
    Scan::new(Keyspace::Timelines, KeyRange::new(key::timeline(room, from), key::timeline(room, to)))
}

impl EventLog {
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
        let Some(EventRecord { sequence, .. }) = place else { return Ok(None) };
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
                let EventRecord { sequence, .. } = codec::decode(key, &place)?;
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

    pub(super) async fn has_events_from(&self, number: u32, sequence: u64) -> Result<bool, LogError> {
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
}
