//! The log of events, and the projections that are computed from it.
//!
//! The log is the truth: one entry for each event received or made here, in order of arrival. Everything else (rooms, timelines,
//! snapshot nodes, extremities) is computed from it by the core, stored in the same batch as the entry, and can be dropped and
//! computed again with the same result. `docs/data-layout.md` draws every key and record.

mod event_facts;
mod records;
mod resolve;
mod rooms;
mod verify;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use ravel_core::{
    graph::EventIndex,
    id::{EventId, RoomId},
    pdu::{PduError, VerifiedPdu},
    room::{Effect, PersistEvent, Receipt, Room, RoomError},
    room_version::{RoomVersion, RoomVersionRules},
    state::{NodeIndex, UnusableNode},
};

use self::event_facts::EventFactsRecord;
use self::records::{
    EventRecord, ExtremitiesRecord, Head, LogEntry, RoomRecord, SnapshotNodeRecord, TimelineRecord, key,
};
pub use self::{
    resolve::StoredResolution,
    verify::{Finding, Verification},
};
use crate::{Batch, Committed, Durability, KeyRange, Keyspace, Scan, Store, StoreError, StoreExt, codec};

/// Why the log can't do what was asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LogError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("another writer appended to the log; open it again")]
    Overtaken,
    #[error("the log has one of the events already")]
    AlreadyThere,
    #[error("a rebuild was interrupted; run `ravel rebuild` again")]
    Rebuilding,
    #[error("the log is full")]
    Full,
    #[error("{room_id} is of room version {known}, not {given}")]
    OtherRoomVersion { room_id: RoomId, known: String, given: RoomVersion },
    #[error("the store is not empty, and its log has no head: that is what an unfinished copy leaves")]
    NoHead,
    #[error("the log has {entries} entries, and its head says {head}")]
    BadHead { entries: u64, head: u64 },
    #[error("log entry {sequence} is not usable: {problem}")]
    BadEntry { sequence: u64, problem: &'static str },
    #[error("log entry {sequence} is not the event that it says")]
    BadEvent {
        sequence: u64,
        #[source]
        source: PduError,
    },
    #[error("the records of {room_id} do not fit together; `ravel rebuild` computes them again")]
    BadRoom { room_id: RoomId },
    #[error("{event_id}: {what} in the projections; `ravel rebuild` computes them again")]
    BadProjection { event_id: EventId, what: &'static str },
    #[error("the snapshots of {room_id} are damaged ({source}); `ravel rebuild` computes them again")]
    BadSnapshot {
        room_id: RoomId,
        #[source]
        source: UnusableNode,
    },
    #[error(transparent)]
    Room(#[from] RoomError),
}

/// The projections, each dropped and computed again by [`EventLog::rebuild`].
const PROJECTIONS: [Keyspace; 6] = [
    Keyspace::Rooms,
    Keyspace::Timelines,
    Keyspace::Events,
    Keyspace::EventFacts,
    Keyspace::SnapshotNodes,
    Keyspace::Extremities,
];

/// How many entries of the log are read at a time.
const LOG_PAGE: usize = 1024;

/// A batch is committed when it has grown to this size.
const BATCH_BYTES: usize = 4 << 20;

/// The log of a server on a store.
pub struct EventLog {
    store: Arc<dyn Store>,
    head: Head,
    rooms: BTreeMap<RoomId, RoomRecord>,
    /// The projections are not those of the log: nothing is read from them and nothing is appended.
    rebuilding: bool,
}

impl EventLog {
    /// Opens the log of a store; an empty store has an empty log.
    ///
    /// # Errors
    ///
    /// When the store can't be read, its records are damaged, or a rebuild was interrupted.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, LogError> {
        let mut log = Self { store, head: Head::default(), rooms: BTreeMap::new(), rebuilding: false };
        if log.is_being_rebuilt().await? {
            return Err(LogError::Rebuilding);
        }
        match log.store.get_record(key::HEAD).await? {
            Some(head) => log.head = head,
            // Without a head an append would write over what is there.
            None if !log.is_untouched().await? => return Err(LogError::NoHead),
            None => {}
        }
        log.rooms = log.read_rooms().await?;
        Ok(log)
    }

    /// Opens a log that may be damaged, to [`verify`](Self::verify) or [`rebuild`](Self::rebuild) it: whatever is stored, this
    /// reads no more than it must. Until it is rebuilt, no room is known.
    ///
    /// # Errors
    ///
    /// When the store can't be read.
    pub async fn open_to_repair(store: Arc<dyn Store>) -> Result<Self, LogError> {
        let head = match store.get_record(key::HEAD).await {
            Ok(head) => head.unwrap_or_default(),
            Err(StoreError::Corrupt { .. } | StoreError::RecordVersion { .. }) => Head::default(),
            Err(error) => return Err(error.into()),
        };
        Ok(Self { store, head, rooms: BTreeMap::new(), rebuilding: true })
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Returns the number of entries.
    pub fn len(&self) -> u64 {
        self.head.next_sequence
    }

    /// Whether nothing was ever appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the rooms with their versions, sorted by id.
    pub fn rooms(&self) -> impl Iterator<Item = (&RoomId, RoomVersion)> {
        self.rooms.iter().filter_map(|(id, record)| Some((id, RoomVersion::parse(&record.room_version)?)))
    }

    /// Appends judged events of one room with everything that follows from them, in one batch or several of a bounded size.
    ///
    /// The events are those of [`Effect::Persist`], in their order. When this returns, they are as durable as `durability` says.
    ///
    /// # Errors
    ///
    /// When the store fails, another writer appended meanwhile, or the room has one of the events already. What was appended
    /// before the error stays; the caller drops the [`Room`] and loads it again.
    pub async fn append(
        &mut self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        events: &[PersistEvent],
        durability: Durability,
    ) -> Result<(), LogError> {
        if self.rebuilding {
            return Err(LogError::Rebuilding);
        }
        let mut batch = Append::new(self)?;
        let room = match self.rooms.get(room_id) {
            // By other rules the events would have other ids.
            Some(room) if room.room_version != rules.version.as_str() => {
                let (room_id, known) = (room_id.clone(), room.room_version.clone());
                return Err(LogError::OtherRoomVersion { room_id, known, given: rules.version });
            }
            Some(room) => room.number,
            None => batch.open_room(room_id, rules.version)?,
        };
        for event in events {
            batch.event(room, event)?;
            if batch.batch.size_bytes() >= BATCH_BYTES {
                batch.commit(self, durability).await?;
                batch = Append::new(self)?;
            }
        }
        batch.commit(self, durability).await
    }

    /// Drops every projection and computes it again from the log. Calls `progress` with the entries done and all entries.
    ///
    /// Signatures were verified on receipt and are not verified again; every event id is computed again. The log is read once
    /// before anything is dropped, and a head that is damaged is made anew from it. Killed in between, it can be run again.
    ///
    /// # Errors
    ///
    /// When the store fails, or the log has an entry that is not usable: then nothing is dropped, unless an event turns out to be
    /// another than the one that was judged.
    pub async fn rebuild(&mut self, mut progress: impl FnMut(u64, u64)) -> Result<(), LogError> {
        self.head = self.check_entries().await?;
        self.rebuilding = true;
        self.rooms.clear();
        let mut batch = Batch::new();
        for keyspace in PROJECTIONS {
            batch.delete_range(keyspace, KeyRange::all());
        }
        batch.put_record(key::HEAD, &self.head)?.put(Keyspace::Meta, key::REBUILDING, &[][..]);
        commit(&self.store, batch).await?;

        let mut open: BTreeMap<u32, Room> = BTreeMap::new();
        let mut batch = Batch::new();
        let (mut page, total) = (self.first_entries().await?, self.len());
        while let Some((last, _)) = page.last() {
            let last = *last;
            for (sequence, entry) in page {
                match replay_entry(&mut open, sequence, &entry)? {
                    Replayed::Room { room_id, record } => {
                        batch.put_record(room_id.as_str().to_owned(), &record)?;
                        self.rooms.insert(room_id, record);
                    }
                    Replayed::Event { room, persist } => project(&mut batch, room, sequence, &persist)?,
                }
                progress(sequence.saturating_add(1), total);
                if batch.size_bytes() >= BATCH_BYTES {
                    batch.durability(Durability::Relaxed);
                    commit(&self.store, std::mem::take(&mut batch)).await?;
                }
            }
            page = self.entries_after(last).await?;
        }
        // Durable together with all that was written before it.
        batch.delete(Keyspace::Meta, key::REBUILDING).durability(Durability::Sync);
        commit(&self.store, batch).await?;
        self.rebuilding = false;
        Ok(())
    }

    async fn is_being_rebuilt(&self) -> Result<bool, LogError> {
        Ok(self.store.get(Keyspace::Meta, key::REBUILDING).await?.is_some())
    }

    /// Whether there is neither an entry nor a room.
    async fn is_untouched(&self) -> Result<bool, LogError> {
        for keyspace in [Keyspace::Log, Keyspace::Rooms] {
            if !self.store.scan(Scan::new(keyspace, KeyRange::all()).items(1)).await?.items.is_empty() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads every entry and returns the head that they make up.
    ///
    /// # Errors
    ///
    /// When an entry is damaged or missing, or the head says that there are more or fewer.
    async fn check_entries(&self) -> Result<Head, LogError> {
        let mut found = Head::default();
        let mut page = self.first_entries().await?;
        while let Some((last, _)) = page.last() {
            let last = *last;
            for (sequence, entry) in &page {
                if *sequence != found.next_sequence {
                    return Err(LogError::BadEntry { sequence: found.next_sequence, problem: "it is missing" });
                }
                found.next_sequence = sequence.checked_add(1).ok_or(LogError::Full)?;
                if let LogEntry::RoomOpened { room, .. } = entry {
                    found.next_room = found.next_room.max(room.checked_add(1).ok_or(LogError::Full)?);
                }
            }
            page = self.entries_after(last).await?;
        }
        match self.store.get_record::<Head>(key::HEAD).await {
            Ok(Some(head)) if head.next_sequence == found.next_sequence => Ok(found),
            Ok(Some(head)) => Err(LogError::BadHead { entries: found.next_sequence, head: head.next_sequence }),
            Ok(None) if self.is_untouched().await? => Ok(found),
            Ok(None) => Err(LogError::NoHead),
            Err(StoreError::Corrupt { .. }) => Ok(found),
            Err(error) => Err(error.into()),
        }
    }

    async fn first_entries(&self) -> Result<Vec<(u64, LogEntry)>, LogError> {
        self.entries(Scan::new(Keyspace::Log, KeyRange::all()).items(LOG_PAGE)).await
    }

    async fn entries_after(&self, sequence: u64) -> Result<Vec<(u64, LogEntry)>, LogError> {
        self.entries(Scan::new(Keyspace::Log, KeyRange::all()).items(LOG_PAGE).after(&key::sequence(sequence))).await
    }

    /// Returns a page of the log, in order.
    async fn entries(&self, scan: Scan) -> Result<Vec<(u64, LogEntry)>, LogError> {
        let page = self.store.scan(scan).await?;
        page.items.into_iter().map(|(key, value)| Ok((key::sequence_of(&key)?, codec::decode(&key, &value)?))).collect()
    }

    async fn read_rooms(&self) -> Result<BTreeMap<RoomId, RoomRecord>, LogError> {
        let items = self.store.scan_all(Scan::new(Keyspace::Rooms, KeyRange::all())).await?;
        let rooms = items.into_iter().map(|(key, value)| {
            let corrupt = || StoreError::corrupt(Keyspace::Rooms, &key, "a room id");
            let room_id = std::str::from_utf8(&key).ok().and_then(|id| RoomId::parse(id).ok()).ok_or_else(corrupt)?;
            Ok((room_id, codec::decode(&key, &value)?))
        });
        rooms.collect()
    }
}

async fn commit(store: &Arc<dyn Store>, batch: Batch) -> Result<(), LogError> {
    if batch.is_empty() {
        return Ok(());
    }
    match store.commit(batch).await? {
        Committed::Written => Ok(()),
        Committed::Refused(guard) if guard.keyspace == Keyspace::Events => Err(LogError::AlreadyThere),
        Committed::Refused(_) => Err(LogError::Overtaken),
    }
}

/// Entries on their way into the log.
struct Append {
    batch: Batch,
    head: Head,
    rooms: Vec<(RoomId, RoomRecord)>,
    /// The keys of the events in the batch.
    events: BTreeSet<Bytes>,
}

impl Append {
    fn new(log: &EventLog) -> Result<Self, LogError> {
        let mut batch = Batch::new();
        // First of the guards, so that a writer who was overtaken hears of that and of nothing that follows from it.
        match log.head.next_sequence {
            0 => batch.guard_absent(Keyspace::Meta, key::HEAD),
            _ => batch.guard_equals(Keyspace::Meta, key::HEAD, codec::encode(&log.head)?),
        };
        Ok(Self { batch, head: log.head.clone(), rooms: Vec::new(), events: BTreeSet::new() })
    }

    fn open_room(&mut self, room_id: &RoomId, version: RoomVersion) -> Result<u32, LogError> {
        let number = self.head.next_room;
        self.head.next_room = number.checked_add(1).ok_or(LogError::Full)?;
        let record = RoomRecord { number, room_version: version.as_str().to_owned() };
        self.batch.put_record(room_id.as_str().to_owned(), &record)?;
        self.entry(&LogEntry::RoomOpened {
            room: number,
            room_id: room_id.to_string(),
            room_version: record.room_version.clone(),
        })?;
        self.rooms.push((room_id.clone(), record));
        Ok(number)
    }

    fn event(&mut self, room: u32, event: &PersistEvent) -> Result<(), LogError> {
        let key = key::event(room, &event.event.event_id);
        // The guard knows what was there before the batch, not what the batch itself puts there.
        if !self.events.insert(key.clone()) {
            return Err(LogError::AlreadyThere);
        }
        self.batch.guard_absent(Keyspace::Events, key);
        let sequence = self.entry(&LogEntry::Event {
            room,
            event_id: event.event.event_id.to_string(),
            json: event.json.to_vec(),
            content_hash_matched: event.content_hash_matched,
            authorising_user_signed: event.authorising_user_signed,
        })?;
        project(&mut self.batch, room, sequence, event)
    }

    fn entry(&mut self, entry: &LogEntry) -> Result<u64, LogError> {
        let sequence = self.head.next_sequence;
        self.head.next_sequence = sequence.checked_add(1).ok_or(LogError::Full)?;
        self.batch.put_record(key::sequence(sequence), entry)?;
        Ok(sequence)
    }

    async fn commit(mut self, log: &mut EventLog, durability: Durability) -> Result<(), LogError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.batch.put_record(key::HEAD, &self.head)?.durability(durability);
        commit(&log.store, self.batch).await?;
        log.head = self.head;
        log.rooms.extend(self.rooms);
        Ok(())
    }
}

/// Adds what follows from an event to a batch.
fn project(batch: &mut Batch, room: u32, sequence: u64, event: &PersistEvent) -> Result<(), LogError> {
    batch.put_record(key::timeline(room, sequence), &TimelineRecord::of(event))?;
    batch.put_record(key::event(room, &event.event.event_id), &EventRecord { sequence })?;
    batch.put_record(key::event_facts(room, event.index), &EventFactsRecord::of(&event.stored))?;
    for (number, node) in &event.nodes {
        batch.put_record(key::node(room, *number), &SnapshotNodeRecord::of(node))?;
    }
    if let Some(extremities) = &event.forward_extremities {
        let record = ExtremitiesRecord {
            forward_extremities: extremities.iter().map(ToString::to_string).collect(),
            current_state: event.current_state.map(NodeIndex::number),
            create: event.create.map(EventIndex::number),
        };
        batch.put_record(key::room(room), &record)?;
    }
    Ok(())
}

/// What an entry of the log is once replayed.
enum Replayed {
    Room { room_id: RoomId, record: RoomRecord },
    Event { room: u32, persist: Box<PersistEvent> },
}

/// Judges the event of an entry once more, in the rooms as the entries before it left them.
fn replay_entry(open: &mut BTreeMap<u32, Room>, sequence: u64, entry: &LogEntry) -> Result<Replayed, LogError> {
    let bad = |problem| LogError::BadEntry { sequence, problem };
    match entry {
        LogEntry::RoomOpened { room, room_id, room_version } => {
            let room_id = RoomId::parse(room_id).map_err(|_| bad("it opens a room with an invalid id"))?;
            let version = RoomVersion::parse(room_version).ok_or_else(|| bad("it is of an unknown room version"))?;
            if open.insert(*room, Room::new(room_id.clone(), version.rules())).is_some() {
                return Err(bad("it opens a room a second time"));
            }
            Ok(Replayed::Room { room_id, record: RoomRecord { number: *room, room_version: room_version.clone() } })
        }
        LogEntry::Event { room: number, event_id, json, content_hash_matched, authorising_user_signed } => {
            let room = open.get_mut(number).ok_or_else(|| bad("its room was not opened"))?;
            let pdu = restore(room.rules(), json, *authorising_user_signed, *content_hash_matched)
                .map_err(|source| LogError::BadEvent { sequence, source })?;
            if pdu.event().event_id.as_str() != event_id {
                return Err(bad("its event has another id"));
            }
            match room.handle_pdu(&pdu)? {
                Receipt::Judged(judged) => {
                    let persist = judged.effects.into_iter().find_map(|effect| match effect {
                        Effect::Persist(persist) => Some(persist),
                        Effect::Publish(_) => None,
                    });
                    let persist = persist.ok_or_else(|| bad("its event is not to be stored"))?;
                    Ok(Replayed::Event { room: *number, persist })
                }
                Receipt::AlreadyKnown(_) => Err(bad("its event is there twice")),
                Receipt::NeedEvents(_) => Err(bad("its event comes before its parents")),
                Receipt::OtherRoom(_) => Err(bad("its event is of another room")),
            }
        }
    }
}

fn restore(
    rules: &RoomVersionRules,
    json: &[u8],
    authorising_user_signed: Option<bool>,
    content_hash_matched: bool,
) -> Result<VerifiedPdu, PduError> {
    VerifiedPdu::restore(json, rules, authorising_user_signed, content_hash_matched)
}

#[cfg(all(test, feature = "testing"))]
mod tests;
