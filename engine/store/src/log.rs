//! The log of events, and the projections that are computed from it.
//!
//! The log is the truth: one entry for each event received or made here, in order of arrival. Everything else (rooms, timelines,
//! snapshot nodes, extremities) is computed from it by the core, stored in the same batch as the entry, and can be dropped and
//! computed again with the same result. `docs/data-layout.md` draws every key and record.

mod append;
mod aside;
mod collect;
mod copy;
mod event_facts;
mod facts;
mod fingerprint;
mod loading;
mod nodes;
mod packed;
mod purge;
mod purged_event;
mod records;
mod replay;
mod replica;
mod resolve;
mod restoring;
mod retention;
mod rooms;
mod seal;
mod server_keys;
mod stale_rooms;
mod stats;
mod verify;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use ravel_core::{
    id::{EventId, RoomId},
    pdu::PduError,
    room::RoomError,
    room_version::RoomVersion,
    state::UnusableNode,
};

use self::{
    append::Appends,
    records::{Head, LogEntry, PurgeRecord, RoomRecord, key},
};
pub use self::{
    collect::{Collected, Collection},
    copy::{Compared, CopyError, LogCopy, RoomFingerprints},
    facts::{Condition, FACT_KEY_BYTES_MAX, FACT_VALUE_BYTES_MAX, Fact, StoredFact},
    loading::Watch,
    purge::Purged,
    replica::Replica,
    resolve::StoredResolution,
    retention::{Expired, RetentionLimits, RetentionPolicy},
    rooms::LoggedEvent,
    seal::{Standing, seal},
    stats::{EventCounts, ResolutionStats, RoomStats, Spread},
    verify::{Finding, Verification},
};
use crate::{Batch, Committed, KeyRange, Keyspace, Limits, Page, Scan, Store, StoreError, StoreExt, codec};

/// Why the log can't do what was asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LogError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("another writer appended to the log; open it again")]
    Overtaken,
    #[error("this database was moved to {to}: go on there")]
    Moved { to: String },
    #[error("this database is an unfinished copy of {of}: finish it by `ravel copy` with the same databases")]
    UnfinishedCopy { of: String },
    #[error("the log has one of the events already")]
    AlreadyThere,
    #[error("the projections are behind the log; `ravel rebuild` computes them")]
    Lagging,
    #[error("{room_id} was last written by a newer program")]
    NewerProjections { room_id: RoomId },
    #[error("a restore was interrupted; run `ravel restore` again")]
    Restoring,
    #[error("{room_id} was purged meanwhile; load it again")]
    Purged { room_id: RoomId },
    #[error("{event_id} has no content to be stored")]
    NoContent { event_id: EventId },
    #[error("the state after {event_id} is not there: it was purged, or never known")]
    NoState { event_id: EventId },
    #[error("{event_id} is to get a place, and is no outlier of the log")]
    NoOutlier { event_id: EventId },
    #[error("a purge of {room_id} is under way; if it was interrupted, `ravel purge --resume` goes on with it")]
    PurgeUnderWay { room_id: RoomId },
    #[error("a fact has a key of {key} bytes and a value of {value}: too long")]
    FactTooLong { key: usize, value: usize },
    #[error("the log is full")]
    Full,
    #[error("{room_id} is of room version {known}, not {given}")]
    OtherRoomVersion { room_id: RoomId, known: String, given: RoomVersion },
    #[error("the store is not empty, and its log has no head")]
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
const PROJECTIONS: [Keyspace; 7] = [
    Keyspace::Rooms,
    Keyspace::Timelines,
    Keyspace::Events,
    Keyspace::EventFacts,
    Keyspace::SnapshotNodes,
    Keyspace::Extremities,
    Keyspace::Facts,
];

/// How many entries of the log are read at a time.
const LOG_PAGE: usize = 1024;

/// A batch is committed when it has grown to this size. (Small in this crate's tests, which want many batches.)
const BATCH_BYTES: usize = if cfg!(test) { 16 << 10 } else { 1 << 20 };

/// The log of a server on a store. There is one writer of a log; a second one is found out when it appends.
pub struct EventLog {
    store: Arc<dyn Store>,
    known: Mutex<Known>,
    appends: Appends,
    /// Held while a stale room is computed again, and while something is purged.
    refreshing: tokio::sync::Mutex<()>,
}

/// What the writer of a log knows of it without reading.
#[derive(Debug, Default)]
struct Known {
    /// As it is stored.
    head: Head,
    /// What the head says of who may append, with the other database's name.
    standing: Standing,
    rooms: BTreeMap<RoomId, RoomRecord>,
    /// The number of the next room; higher than the head's while rooms have a number and no entry yet.
    next_room: u32,
    /// Those rooms.
    opening: BTreeMap<RoomId, u32>,
    /// The purges that are under way, by the number of the room.
    purging: BTreeMap<u32, PurgeRecord>,
    /// The projections are not those of the whole log: nothing is read from them and nothing is appended.
    is_lagging: bool,
}

impl Known {
    fn at(head: Head) -> Self {
        Self { next_room: head.next_room, head, ..Self::default() }
    }

    /// Goes on to another head, after entries were written.
    fn advance(&mut self, head: Head) {
        self.next_room = self.next_room.max(head.next_room);
        self.head = head;
    }

    /// Returns the room of a number.
    fn room_of(&self, number: u32) -> Option<(&RoomId, &RoomRecord)> {
        self.rooms.iter().find(|(_, record)| record.number == number)
    }

    /// Whether a room that was loaded, or begun, when history of it had been purged so often can be appended to.
    fn takes(&self, room_id: &RoomId, number: u32, purges: u32) -> bool {
        match self.rooms.get(room_id) {
            Some(room) => {
                room.number == number && room.purge_count() == purges && !self.purging.contains_key(&room.number)
            }
            None => self.opening.get(room_id) == Some(&number),
        }
    }
}

impl EventLog {
    /// Opens the log of a store; an empty store has an empty log. Projections that are behind the log catch up with it first.
    ///
    /// # Errors
    ///
    /// When the store can't be read or its records are damaged; if projections are behind the log, those of
    /// [`rebuild`](Self::rebuild), and `Lagging` if the store is open for reading only; `Restoring` if a restore was interrupted.
    pub async fn open(store: Arc<dyn Store>) -> Result<Self, LogError> {
        Self::open_with_progress(store, |_, _| {}).await
    }

    /// Opens as [`open`](Self::open) does, and calls `progress` with the entries done and all entries while projections catch up.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open).
    pub async fn open_with_progress(store: Arc<dyn Store>, progress: impl FnMut(u64, u64)) -> Result<Self, LogError> {
        let log = Self::open_to_restore_with_progress(store, progress).await?;
        if log.is_being_restored().await? { Err(LogError::Restoring) } else { Ok(log) }
    }

    async fn open_to_restore_with_progress(
        store: Arc<dyn Store>,
        progress: impl FnMut(u64, u64),
    ) -> Result<Self, LogError> {
        let log = Self::new(store, Head::default());
        let is_lagging = log.projected_to().await?.is_some();
        let head = match log.store.get_record(key::HEAD).await? {
            Some(head) => head,
            // Without a head an append would write over what is there.
            None if !log.is_untouched().await? => return Err(LogError::NoHead),
            None => Head::default(),
        };
        let standing = seal::standing(&log.store, head.standing).await?;
        let rooms = log.read_rooms().await?;
        stale_rooms::refuse_newer(&rooms)?;
        let purging = log.read_purges().await?;
        *log.known() = Known { rooms, purging, is_lagging, standing, ..Known::at(head) };
        if is_lagging {
            match log.catch_up(progress).await {
                Err(LogError::Store(StoreError::ReadOnly)) => return Err(LogError::Lagging),
                caught_up => caught_up?,
            }
        }
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
        let log = Self::new(store, head);
        log.known().is_lagging = true;
        Ok(log)
    }

    fn new(store: Arc<dyn Store>, head: Head) -> Self {
        let known = Mutex::new(Known::at(head));
        Self { store, known, appends: Appends::default(), refreshing: tokio::sync::Mutex::default() }
    }

    /// Returns the store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Returns the number of entries: the sequence number of the next one.
    pub fn len(&self) -> u64 {
        self.known().head.next_sequence
    }

    /// Returns the number of entries that are stored now: another process may have appended some.
    ///
    /// # Errors
    ///
    /// When the store can't be read.
    pub async fn stored_len(&self) -> Result<u64, LogError> {
        Ok(self.store.get_record::<Head>(key::HEAD).await?.unwrap_or_default().next_sequence)
    }

    /// Whether nothing was ever appended.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the rooms with their versions, sorted by id.
    pub fn rooms(&self) -> Vec<(RoomId, RoomVersion)> {
        let known = self.known();
        let rooms = known.rooms.iter();
        rooms.filter_map(|(id, record)| Some((id.clone(), RoomVersion::parse(&record.room_version)?))).collect()
    }

    /// Returns a page of the log's entries from a sequence number on, as they are stored: their sequence numbers, and records that
    /// [`Replica::take`] understands.
    ///
    /// # Errors
    ///
    /// When the store can't be read.
    pub async fn raw_entries(&self, from: u64, limits: Limits) -> Result<Vec<(u64, Bytes)>, LogError> {
        let page = self.store.scan(Scan { limits, ..entries_from(from) }).await?;
        page.items.into_iter().map(|(key, value)| Ok((key::sequence_of(&key)?, value))).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Nothing in here can panic half-way through a change.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the record of a room, `None` if there is no such room.
    ///
    /// # Errors
    ///
    /// `Lagging` if the projections are not those of the whole log.
    fn room(&self, room_id: &RoomId) -> Result<Option<RoomRecord>, LogError> {
        let known = self.known();
        if known.is_lagging { Err(LogError::Lagging) } else { Ok(known.rooms.get(room_id).cloned()) }
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

    /// Checks that the stored head is that of the entries, if it is not damaged itself.
    ///
    /// # Errors
    ///
    /// When the head says that there are more entries or fewer.
    async fn check_head(&self, of_entries: &Head) -> Result<(), LogError> {
        match self.store.get_record::<Head>(key::HEAD).await {
            Ok(Some(head)) if head.next_sequence == of_entries.next_sequence => Ok(()),
            Ok(Some(head)) => Err(LogError::BadHead { entries: of_entries.next_sequence, head: head.next_sequence }),
            Ok(None) if self.is_untouched().await? => Ok(()),
            Ok(None) => Err(LogError::NoHead),
            Err(StoreError::Corrupt { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
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

/// The entries of a log in order. They are read page by page, and decoded one by one.
struct Entries {
    page: std::vec::IntoIter<(Bytes, Bytes)>,
    next: Option<Scan>,
}

impl Entries {
    fn from(sequence: u64) -> Self {
        Self { page: Vec::new().into_iter(), next: Some(entries_from(sequence).items(LOG_PAGE)) }
    }

    /// Returns the next entry, `None` after the last.
    async fn next(&mut self, log: &EventLog) -> Result<Option<(u64, LogEntry)>, LogError> {
        loop {
            if let Some((key, value)) = self.page.next() {
                return Ok(Some((key::sequence_of(&key)?, codec::decode(&key, &value)?)));
            }
            let Some(asked) = self.next.take() else { return Ok(None) };
            let Page { items, next } = log.store.scan(asked.clone()).await?;
            self.next = next.map(|cursor| asked.after(&cursor));
            self.page = items.into_iter();
        }
    }
}

/// The entries from a sequence number on.
fn entries_from(sequence: u64) -> Scan {
    Scan::new(Keyspace::Log, KeyRange { start: key::sequence(sequence), end: None })
}

async fn commit(store: &Arc<dyn Store>, mut batch: Batch) -> Result<(), LogError> {
    if batch.is_empty() {
        return Ok(());
    }
    // Each event says where its room stands; of those in one batch the last one counts.
    batch.keep_last_puts(Keyspace::Extremities);
    match store.commit(batch).await? {
        Committed::Written => Ok(()),
        Committed::Refused(guard) if guard.key == key::HEAD => {
            let standing = seal::found_standing(store, guard.found.as_deref()).await?;
            Err(standing.check().err().unwrap_or(LogError::Overtaken))
        }
        Committed::Refused(_) => Err(LogError::Overtaken),
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests;
