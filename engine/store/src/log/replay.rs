//! Judging the entries of the log once more, and computing the projections from them.

use std::collections::{BTreeMap, HashMap};

use ravel_core::{
    graph::EventIndex,
    id::{EventId, RoomId},
    pdu::{PduError, VerifiedPdu},
    room::{Effect, PersistEvent, Place, Receipt, Room},
    room_version::{RoomVersion, RoomVersionRules},
};

use super::{
    BATCH_BYTES, Entries, EventLog, Known, LogError, PROJECTIONS,
    append::Projected,
    commit,
    facts::{self, Fact},
    purged_event::PurgedEventRecord,
    records::{Head, LogEntry, PlaceRecord, ProjectedTo, PurgeRecord, RoomRecord, key},
    seal,
};
use crate::{Batch, Durability, KeyRange, Keyspace, StoreExt};

/// Rooms are put aside, to be loaded again when they are needed, once those in memory have more events than this. (Few in this
/// crate's tests.)
const EVENTS_MAX: usize = if cfg!(test) { 60 } else { 500_000 };

/// How large the batch grows by which a rebuild drops the old projections. (Small in this crate's tests.)
const FIRST_BATCH_BYTES: usize = if cfg!(test) { 2 * BATCH_BYTES } else { 32 << 20 };

impl EventLog {
    /// Drops every projection and computes it again from the log; then carries out once more what was purged. Calls `progress` with
    /// the entries done and all entries.
    ///
    /// Signatures were verified on receipt and are not verified again; every event id is computed again. The log is read to its end
    /// before anything is dropped, and a head that is damaged is made anew from it. The old projections are dropped in one batch with
    /// the first of the new ones, so that an engine need not remove what is put again. Killed in between, it goes on when the log is
    /// opened again, and can be run again.
    ///
    /// # Errors
    ///
    /// When the store fails, or the log has an entry that is not usable: then nothing is dropped, unless an event turns out to be
    /// another than the one that was judged, after some tens of thousands. The log is to be opened again then.
    pub async fn rebuild(&mut self, mut progress: impl FnMut(u64, u64)) -> Result<(), LogError> {
        // Kept beside the head, too, so that it outlives damage to that.
        let mut head = Head { standing: seal::recorded_standing(&self.store).await?, ..Head::default() };
        let standing = seal::standing(&self.store, head.standing).await?;
        let total = self.len();
        *self.known() = Known { is_lagging: true, standing, ..Known::default() };
        let mut replay = Replay::default();
        let mut batch = Batch::new();
        for keyspace in PROJECTIONS {
            batch.delete_range(keyspace, KeyRange::all());
        }
        let mut entries = Entries::from(0);
        while batch.size_bytes() < FIRST_BATCH_BYTES
            && let Some((sequence, entry)) = entries.next(self).await?
        {
            head.count_read(sequence, &entry)?;
            replay.take(sequence, &entry)?.project(self, &mut batch, sequence)?;
            progress(head.next_sequence, total);
        }
        let projected = head.next_sequence;
        // The rest is to be usable, too.
        let mut rest = Entries::from(projected);
        while let Some((sequence, entry)) = rest.next(self).await? {
            head.count_read(sequence, &entry)?;
        }
        self.check_head(&head).await?;
        batch.put_record(key::HEAD, &head)?;
        self.known().advance(head);
        self.commit_projected(&mut batch, projected).await?;
        self.catch_up_with(replay, entries, progress).await
    }

    /// Computes the projections of the entries that they are behind. Calls `progress` with the entries done and all entries.
    ///
    /// Each batch has the projections of some entries and how far they reach; so whenever it is killed, it goes on from there.
    ///
    /// # Errors
    ///
    /// When the store fails, or the log has an entry that is not usable.
    pub(super) async fn catch_up(&self, progress: impl FnMut(u64, u64)) -> Result<(), LogError> {
        let Some(from) = self.projected_to().await? else { return Ok(()) };
        self.catch_up_with(Replay::of(self), Entries::from(from), progress).await
    }

    /// As [`catch_up`](Self::catch_up), with the rooms and the entries at hand.
    async fn catch_up_with(
        &self,
        mut replay: Replay,
        mut entries: Entries,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<(), LogError> {
        let total = self.len();
        let mut batch = Batch::new();
        while let Some((sequence, entry)) = entries.next(self).await? {
            if let Some(room_id) = replay.room_to_load(&entry) {
                // What is read has to hold all that comes before this entry.
                self.commit_projected(&mut batch, sequence).await?;
                replay.load(self, &room_id).await?;
            }
            replay.take(sequence, &entry)?.project(self, &mut batch, sequence)?;
            progress(sequence.saturating_add(1), total);
            if batch.size_bytes() >= BATCH_BYTES {
                self.commit_projected(&mut batch, sequence.saturating_add(1)).await?;
                replay.put_aside();
            }
        }
        // Durable together with all that was written before it.
        batch.delete(Keyspace::Meta, key::PROJECTED_TO).durability(Durability::Sync);
        commit(&self.store, batch).await?;
        self.known().is_lagging = false;
        self.resume_purges(|_, _| {}).await.map(|_| ())
    }

    async fn commit_projected(&self, batch: &mut Batch, sequence: u64) -> Result<(), LogError> {
        if batch.is_empty() {
            return Ok(());
        }
        batch.put_record(key::PROJECTED_TO, &ProjectedTo { sequence })?.durability(Durability::Relaxed);
        commit(&self.store, std::mem::take(batch)).await
    }

    /// Returns the first entry that the projections lack, `None` if they are those of the whole log.
    pub(super) async fn projected_to(&self) -> Result<Option<u64>, LogError> {
        let record: Option<ProjectedTo> = self.store.get_record(key::PROJECTED_TO).await?;
        Ok(record.map(|record| record.sequence))
    }
}

/// Rooms on the way from entry to entry.
#[derive(Default)]
pub(super) struct Replay {
    rooms: BTreeMap<u32, OpenRoom>,
    /// Rooms that are in the projections, by number.
    stored: HashMap<u32, RoomId>,
    /// Counts entries, to find the room that was not used for longest.
    now: u64,
    /// Events of all open rooms.
    events: usize,
}

struct OpenRoom {
    room: Room,
    used: u64,
}

/// What an entry of the log is once replayed.
pub(super) enum Replayed {
    Room {
        room_id: RoomId,
        record: RoomRecord,
    },
    Event {
        room: u32,
        persist: Box<PersistEvent>,
        /// The entry by which it came as an outlier.
        outlier: Option<u64>,
    },
    /// History was purged, as far as this is carried out.
    HistoryPurged {
        room_id: RoomId,
        room: u32,
        purge: PurgeRecord,
    },
    /// A room was purged, of which there are entries yet.
    RoomPurged {
        room_id: RoomId,
        room: u32,
    },
    Fact(Fact),
    /// Nothing follows from it.
    Nothing,
}

impl Replay {
    /// Begins where the projections of a log are.
    pub(super) fn of(log: &EventLog) -> Self {
        let known = log.known();
        let stored = known.rooms.iter().map(|(room_id, record)| (record.number, room_id.clone()));
        Self { stored: stored.collect(), ..Self::default() }
    }

    /// Opens a room without events.
    pub(super) fn open(&mut self, number: u32, room_id: RoomId, version: RoomVersion) {
        let room = Room::new(room_id.clone(), version.rules());
        self.stored.insert(number, room_id);
        self.rooms.insert(number, OpenRoom { room, used: self.now });
    }

    /// Returns the room that has to be loaded before this entry is taken.
    pub(super) fn room_to_load(&self, entry: &LogEntry) -> Option<RoomId> {
        if !matches!(entry, LogEntry::Event { .. } | LogEntry::PurgedEvent(_)) {
            return None;
        }
        let room = entry.room()?;
        if self.rooms.contains_key(&room) { None } else { self.stored.get(&room).cloned() }
    }

    /// Puts rooms aside that were not used for longest, if there is too much. What follows from all entries that were taken has to
    /// be in the projections.
    pub(super) fn put_aside(&mut self) {
        if self.events <= EVENTS_MAX {
            return;
        }
        let mut rooms: Vec<(u64, u32)> = self.rooms.iter().map(|(number, open)| (open.used, *number)).collect();
        rooms.sort_unstable();
        for (_, number) in rooms {
            // Half is left, so that this is not done for each entry.
            if self.events <= EVENTS_MAX / 2 {
                break;
            }
            self.forget(number);
        }
    }

    /// Loads a room from the projections.
    pub(super) async fn load(&mut self, log: &EventLog, room_id: &RoomId) -> Result<(), LogError> {
        let record = log.known().rooms.get(room_id).cloned();
        let Some(record) = record else { return Ok(()) };
        let room = log.load(room_id, &record).await?;
        self.events = self.events.saturating_add(room.len());
        self.rooms.insert(record.number, OpenRoom { room, used: self.now });
        Ok(())
    }

    /// Puts a room aside, to be loaded again when it is needed.
    pub(super) fn forget(&mut self, number: u32) {
        let events = self.rooms.remove(&number).map_or(0, |open| open.room.len());
        self.events = self.events.saturating_sub(events);
    }

    /// Returns a room that is open.
    pub(super) fn room(&self, number: u32) -> Option<&Room> {
        self.rooms.get(&number).map(|open| &open.room)
    }

    /// Returns all rooms that are open, by number.
    pub(super) fn rooms(&self) -> impl Iterator<Item = (u32, &Room)> {
        self.rooms.iter().map(|(number, open)| (*number, &open.room))
    }

    /// Judges the event of an entry once more, in the rooms as the entries before it left them.
    pub(super) fn take(&mut self, sequence: u64, entry: &LogEntry) -> Result<Replayed, LogError> {
        let bad = |problem| LogError::BadEntry { sequence, problem };
        self.now += 1;
        match entry {
            LogEntry::RoomOpened { room: number, room_id, room_version } => {
                let room_id = RoomId::parse(room_id).map_err(|_| bad("it opens a room with an invalid id"))?;
                let version =
                    RoomVersion::parse(room_version).ok_or_else(|| bad("it is of an unknown room version"))?;
                if self.stored.contains_key(number) {
                    return Err(bad("it opens a room a second time"));
                }
                self.open(*number, room_id.clone(), version);
                Ok(Replayed::Room { room_id, record: RoomRecord::new(*number, version, sequence) })
            }
            LogEntry::Event { room: number, event_id, json, content_hash_matched, authorising_user_signed, place } => {
                let open = self.rooms.get_mut(number).ok_or_else(|| bad("its room was not opened"))?;
                open.used = self.now;
                let pdu = restore(open.room.rules(), json, *authorising_user_signed, *content_hash_matched)
                    .map_err(|source| LogError::BadEvent { sequence, source })?;
                if pdu.event().event_id.as_str() != event_id {
                    return Err(bad("its event has another id"));
                }
                let (receipt, outlier) = match place {
                    PlaceRecord::Follows => (open.room.handle_pdu(&pdu)?, None),
                    PlaceRecord::Outlier => (open.room.handle_outlier(&pdu)?, None),
                    PlaceRecord::Placed { arrival, given_state, outlier } => {
                        let state = match given_state {
                            Some(numbers) => Some(
                                given_state_of(&open.room, numbers)
                                    .ok_or_else(|| bad("its state has an event that is not there"))?,
                            ),
                            None => None,
                        };
                        (open.room.handle(&pdu, arrival.into_arrival(), state.as_deref())?, *outlier)
                    }
                };
                match receipt {
                    Receipt::Judged(judged) => {
                        let persist = judged.effects.into_iter().find_map(|effect| match effect {
                            Effect::Persist(persist) => Some(persist),
                            Effect::Publish(_) => None,
                        });
                        self.events += 1;
                        let persist = persist.ok_or_else(|| bad("its event is not to be stored"))?;
                        if outlier.is_some() != matches!(persist.place, Place::Placed { was_outlier: true, .. }) {
                            return Err(bad("it names an outlier that is none, or none where it was one"));
                        }
                        Ok(Replayed::Event { room: *number, persist, outlier })
                    }
                    Receipt::AlreadyKnown(_) => Err(bad("its event is there twice")),
                    Receipt::NeedEvents(_) => Err(bad("its event comes before its parents")),
                    Receipt::NeedState(_) => Err(bad("its event builds on events without states")),
                    Receipt::OtherRoom(_) => Err(bad("its event is of another room")),
                }
            }
            LogEntry::PurgedEvent(record) => {
                let open = self.rooms.get_mut(&record.room).ok_or_else(|| bad("its room was not opened"))?;
                open.used = self.now;
                let event = PurgedEventRecord::clone(record).into_event(open.room.room_id());
                let (event, outcome, reason) = event.ok_or_else(|| bad("what is left of its event is invalid"))?;
                let persist = Box::new(open.room.replay_purged(&event, outcome, reason)?);
                self.events += 1;
                Ok(Replayed::Event { room: record.room, persist, outlier: None })
            }
            LogEntry::HistoryPurged { room, before, extremities } => {
                if let Some(open) = self.rooms.get_mut(room) {
                    open.room.note_purge();
                }
                let room_id = self.stored.get(room).cloned().ok_or_else(|| bad("its room was not opened"))?;
                let purge =
                    PurgeRecord::History { decided: sequence, before: *before, extremities: extremities.clone() };
                Ok(Replayed::HistoryPurged { room_id, room: *room, purge })
            }
            LogEntry::RoomPurged { room } => {
                self.forget(*room);
                let room_id = self.stored.remove(room);
                Ok(room_id.map_or(Replayed::Nothing, |room_id| Replayed::RoomPurged { room_id, room: *room }))
            }
            LogEntry::Gone { .. } => Ok(Replayed::Nothing),
            LogEntry::Fact { kind, key, value } => {
                Ok(Replayed::Fact(Fact { kind: *kind, key: key.clone().into(), value: value.clone().map(Into::into) }))
            }
        }
    }
}

impl Replayed {
    /// Adds the projections of the entry to a batch, and takes note of the rooms in it.
    pub(super) fn project(self, log: &EventLog, batch: &mut Batch, sequence: u64) -> Result<(), LogError> {
        let change = self.put(log, batch, sequence)?;
        change.apply(&mut log.known());
        Ok(())
    }

    /// Adds the projections of the entry to a batch. Returns what is known once it is written.
    pub(super) fn put(self, log: &EventLog, batch: &mut Batch, sequence: u64) -> Result<Change, LogError> {
        let record_of = |room_id: &RoomId| {
            let record = log.known().rooms.get(room_id).cloned();
            record.ok_or(LogError::BadEntry { sequence, problem: "its room was not opened" })
        };
        match self {
            Self::Room { room_id, record } => {
                batch.put_record(room_id.as_str().to_owned(), &record)?;
                Ok(Change { room: Some((room_id, Some(record))), purging: None })
            }
            Self::Event { room, persist, outlier } => {
                Projected::of(room, &persist)?.put(batch, room, sequence, outlier)?;
                Ok(Change::default())
            }
            Self::HistoryPurged { room_id, room, purge } => {
                let mut record = record_of(&room_id)?;
                record.purges.push(sequence);
                batch.put_record(room_id.as_str().to_owned(), &record)?.put_record(key::purging(room), &purge)?;
                Ok(Change { room: Some((room_id, Some(record))), purging: Some((room, purge)) })
            }
            Self::RoomPurged { room_id, room } => {
                let RoomRecord { opened, purges, .. } = record_of(&room_id)?;
                let purge = PurgeRecord::Room { opened, purges };
                batch.delete(Keyspace::Rooms, room_id.as_str().to_owned());
                // The timeline tells where the entries are that are still to be replaced.
                for keyspace in [Keyspace::Events, Keyspace::EventFacts, Keyspace::SnapshotNodes, Keyspace::Extremities]
                {
                    batch.delete_range(keyspace, KeyRange::prefix(key::room(room)));
                }
                batch.put_record(key::purging(room), &purge)?;
                Ok(Change { room: Some((room_id, None)), purging: Some((room, purge)) })
            }
            Self::Fact(fact) => {
                facts::put(batch, &fact, sequence)?;
                Ok(Change::default())
            }
            Self::Nothing => Ok(Change::default()),
        }
    }
}

/// What an entry changes of what is known.
#[derive(Default)]
pub(super) struct Change {
    /// The room's record; `None` if the room is gone.
    room: Option<(RoomId, Option<RoomRecord>)>,
    purging: Option<(u32, PurgeRecord)>,
}

impl Change {
    pub(super) fn apply(self, known: &mut Known) {
        match self.room {
            Some((room_id, Some(record))) => {
                known.rooms.insert(room_id, record);
            }
            Some((room_id, None)) => {
                known.rooms.remove(&room_id);
            }
            None => {}
        }
        known.purging.extend(self.purging);
    }
}

/// Returns the ids of the events of a given state; `None` if the room lacks one.
fn given_state_of(room: &Room, numbers: &[u32]) -> Option<Vec<EventId>> {
    let event_id = |number: &u32| {
        let index = EventIndex::from_number(*number).filter(|index| room.graph().has(*index))?;
        Some(room.graph().event_id(index))
    };
    numbers.iter().map(event_id).collect()
}

pub(super) fn restore(
    rules: &RoomVersionRules,
    json: &[u8],
    authorising_user_signed: Option<bool>,
    content_hash_matched: bool,
) -> Result<VerifiedPdu, PduError> {
    VerifiedPdu::restore(json, rules, authorising_user_signed, content_hash_matched)
}
