//! Copying a log into another store while it is appended to, and proving the copy.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use ravel_core::{id::RoomId, room::Room, state::Fingerprint};

use super::{
    EventLog, LogError, Replica,
    records::{LogEntry, key},
    seal::{self, Standing},
};
use crate::{Batch, Durability, KeyRange, Keyspace, Limits, Op, Scan, Store, StoreError, codec};

/// Why a log can't be copied.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum CopyError {
    #[error("the source: {0}")]
    Source(#[source] LogError),
    #[error("the target: {0}")]
    Target(#[source] LogError),
    #[error(
        "the target has events of its own: its entry {sequence} is not that of the source. Name an empty target, or the one of an \
         earlier copy"
    )]
    NotACopy { sequence: u64 },
    #[error(
        "the target has {target} entries, and the source only {source_entries} of them: it was written to since it was copied"
    )]
    Ahead { target: u64, source_entries: u64 },
}

/// A log on its way into another store.
///
/// The copy follows the log: entry by entry it is checked, judged once more and stored with what follows from it. So it is a beginning
/// of the source at each moment, with its projections, and goes on from where it is whatever stops it. Until it is
/// [finished](Self::finish), nobody else can append to it.
pub struct LogCopy {
    source: EventLog,
    replica: Replica,
    compared: BTreeMap<RoomId, Compared>,
}

/// Fingerprints of a room in source and copy, when both had the same entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// How many entries that were.
    pub position: u64,
    /// Of the source.
    pub source: Option<RoomFingerprints>,
    /// Of the copy.
    pub copy: Option<RoomFingerprints>,
}

/// A room's fingerprints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoomFingerprints {
    /// Of its current state.
    pub current_state: Fingerprint,
    /// Over all its events, their outcomes and the states before them.
    pub history: Fingerprint,
}

impl RoomFingerprints {
    pub(super) fn of(room: &Room) -> Self {
        Self { current_state: room.current_state().fingerprint(), history: room.history_fingerprint() }
    }
}

impl Compared {
    /// Whether the room is there on both sides, and the same.
    pub fn is_equal(&self) -> bool {
        self.source.is_some() && self.source == self.copy
    }
}

impl LogCopy {
    /// Begins a copy, or goes on with one. The target must be empty, or have a beginning of the source's log and nothing else.
    ///
    /// `of` names the source to whoever finds the unfinished copy. The source is only read from, and may be appended to meanwhile.
    ///
    /// # Errors
    ///
    /// `NotACopy` or `Ahead`, and then nothing was written; when either log can't be opened.
    pub async fn begin(source: Arc<dyn Store>, target: Arc<dyn Store>, of: &str) -> Result<Self, CopyError> {
        let source = EventLog::open(source).await.map_err(CopyError::Source)?;
        if let unfinished @ Standing::UnfinishedCopy { .. } = source.standing() {
            unfinished.check().map_err(CopyError::Source)?;
        }
        let log = EventLog::open(target.clone()).await.map_err(CopyError::Target)?;
        check_beginning(&source, &log).await?;
        // From here on the head is the copy's.
        drop(log);
        seal::begin_copy(&target, of).await.map_err(CopyError::Target)?;
        let log = EventLog::open(target).await.map_err(CopyError::Target)?;
        // There may be nothing more to copy, and one that was stopped had not done with the last entry.
        log.resume_purges(|_, _| {}).await.map_err(CopyError::Target)?;
        Ok(Self { source, replica: Replica::new(log), compared: BTreeMap::new() })
    }

    /// Checks that a target is empty, or has a beginning of the source's log and nothing else; writes nothing.
    ///
    /// # Errors
    ///
    /// `NotACopy`, `Ahead`; when either log can't be opened.
    pub async fn check(source: Arc<dyn Store>, target: Arc<dyn Store>) -> Result<(), CopyError> {
        let source = EventLog::open(source).await.map_err(CopyError::Source)?;
        let target = EventLog::open(target).await.map_err(CopyError::Target)?;
        check_beginning(&source, &target).await
    }

    /// Goes on from the same source, opened once more: by this process, when the one that had it open has ended.
    ///
    /// # Errors
    ///
    /// When it can't be opened, or the copy is no beginning of it.
    pub async fn reopen_source(&mut self, source: Arc<dyn Store>) -> Result<(), CopyError> {
        let source = EventLog::open(source).await.map_err(CopyError::Source)?;
        check_beginning(&source, self.replica.log()).await?;
        self.source = source;
        Ok(())
    }

    /// Returns how many entries are copied.
    pub fn position(&self) -> u64 {
        self.replica.log().len()
    }

    /// Returns how many entries the source has now.
    ///
    /// # Errors
    ///
    /// When the source can't be read.
    pub async fn source_len(&self) -> Result<u64, CopyError> {
        self.source.stored_len().await.map_err(CopyError::Source)
    }

    /// Copies the next entries, about 4 MiB of them at most; returns their count, 0 if there are none now.
    ///
    /// They are durable on return if they were the last ones.
    ///
    /// # Errors
    ///
    /// When either store fails, or an entry is damaged.
    pub async fn step(&mut self) -> Result<u64, CopyError> {
        let from = self.position();
        let entries = self.source.raw_entries(from, PAGE).await.map_err(CopyError::Source)?;
        let is_last = entries.len() < PAGE.items && size_bytes(&entries) < PAGE.bytes / 2;
        let durability = if is_last { Durability::Sync } else { Durability::Relaxed };
        self.replica.take(&entries, durability).await.map_err(CopyError::Target)?;
        Ok(self.position().saturating_sub(from))
    }

    /// Copies the keys of servers, which are not in the log.
    ///
    /// # Errors
    ///
    /// When either store fails.
    pub async fn copy_server_keys(&self) -> Result<(), CopyError> {
        let mut next = Some(Scan::new(Keyspace::ServerKeys, KeyRange::all()));
        while let Some(scan) = next.take() {
            let page = self.source.store().scan(scan.clone()).await.map_err(source_error)?;
            let mut batch = Batch::new();
            for (key, value) in page.items {
                batch.push(Op::Put { keyspace: Keyspace::ServerKeys, key, value });
            }
            if !batch.is_empty() {
                super::commit(self.replica.log().store(), batch).await.map_err(CopyError::Target)?;
            }
            next = page.next.map(|cursor| scan.after(&cursor));
        }
        Ok(())
    }

    /// Compares every room that has events, or was purged, since it was compared last, as it is in the copy now and as it was in the
    /// source with as many entries. Returns the result for all rooms. Calls `progress` with the rooms done and all rooms.
    ///
    /// How a room was before a purge can't be told after it. Where the source has purged more than the copy, the copy takes entries up to
    /// that purge, with the keys of servers, and what changed is compared once more: `progress` begins anew then.
    ///
    /// Loads each of them on both sides, one at a time. A room that is purged faster than it can be loaded is never compared.
    ///
    /// # Errors
    ///
    /// When either can't be read; `PurgeUnderWay` of the source while it carries out a purge that the copy has: compare again
    /// later, which goes on where this was. As [`step`](Self::step).
    pub async fn compare(
        &mut self,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<&BTreeMap<RoomId, Compared>, CopyError> {
        while let Some(purged) = self.compare_rooms(&mut progress).await? {
            while self.position() <= purged {
                if self.step().await? == 0 {
                    let missing = LogError::BadEntry { sequence: self.position(), problem: "it is missing" };
                    return Err(CopyError::Source(missing));
                }
            }
            self.copy_server_keys().await?;
        }
        Ok(&self.compared)
    }

    /// Compares rooms at the present position. Returns the last purge in the source that came between, `None` if all are compared.
    async fn compare_rooms(&mut self, progress: &mut impl FnMut(u64, u64)) -> Result<Option<u64>, CopyError> {
        let position = self.position();
        // Again, for the rooms that were opened meanwhile.
        let source = EventLog::open(self.source.store().clone()).await.map_err(CopyError::Source)?;
        let copy = self.replica.log();
        // A room that was purged and opened again is another one.
        self.compared.retain(|room_id, compared| {
            copy.room(room_id).is_ok_and(|room| room.is_some_and(|room| room.opened < compared.position))
        });
        let rooms = copy.rooms();
        let total = rooms.len() as u64;
        let of = |room: Option<Room>| room.as_ref().map(RoomFingerprints::of);
        let mut doubtful = Vec::new();
        for ((room_id, _), done) in rooms.into_iter().zip(1..) {
            let since = self.compared.get(&room_id).map_or(0, |compared| compared.position);
            let is_changed = copy.has_room_events_from(&room_id, since).await.map_err(CopyError::Target)?
                || copy.is_purged_from(&room_id, since).map_err(CopyError::Target)?;
            if is_changed {
                let there = match source.load_room_at(&room_id, position).await {
                    // A purge has no part in that.
                    Err(error @ LogError::Store(_)) => return Err(CopyError::Source(error)),
                    there => there.map(of),
                };
                let here = copy.load_room_at(&room_id, position).await.map_err(CopyError::Target)?;
                let compared = there.map(|there| Compared { position, source: there, copy: of(here) });
                match compared {
                    Ok(compared) if compared.is_equal() => drop(self.compared.insert(room_id, compared)),
                    compared => doubtful.push((room_id, compared)),
                }
            }
            progress(done, total);
        }
        if doubtful.is_empty() {
            return Ok(None);
        }
        // Looked at after the rooms were read: whatever purge they may have met is there now.
        let purges = source.purges_from(position).await.map_err(CopyError::Source)?;
        let mut last = None;
        for (room_id, compared) in doubtful {
            let number = copy.room_number(&room_id).map_err(CopyError::Target)?;
            match number.and_then(|number| purges.get(&number).copied()) {
                Some(purged) => last = last.max(Some(purged)),
                None => drop(self.compared.insert(room_id, compared.map_err(CopyError::Source)?)),
            }
        }
        Ok(last)
    }

    /// Returns what the last comparison of each room gave.
    pub fn compared(&self) -> &BTreeMap<RoomId, Compared> {
        &self.compared
    }

    /// Makes the copy a log of its own, durably: from now on it takes appends.
    ///
    /// # Errors
    ///
    /// When the target fails.
    pub async fn finish(self) -> Result<(), CopyError> {
        let target = self.replica.into_log();
        seal::end_copy(target.store()).await.map_err(CopyError::Target)?;
        Ok(())
    }
}

/// Checks that a log is a beginning of another one, by its first and its last entry; what lies between is found out when rooms are
/// compared.
async fn check_beginning(source: &EventLog, target: &EventLog) -> Result<(), CopyError> {
    let Some(last) = target.len().checked_sub(1) else { return Ok(()) };
    let source_entries = source.len();
    for sequence in [0, last.min(source_entries.saturating_sub(1))] {
        let key = [key::sequence(sequence)];
        let there = source.store().get_many(Keyspace::Log, &key).await.map_err(source_error)?;
        let here = target.store().get_many(Keyspace::Log, &key).await.map_err(|e| CopyError::Target(e.into()))?;
        if there != here {
            // What was purged in one of them is no other entry.
            let entry = |found: &[Option<Bytes>]| {
                let [key] = &key;
                let record = found.first()?.as_ref()?;
                codec::decode::<LogEntry>(key, record).ok()
            };
            let is_same =
                entry(&there).zip(entry(&here)).is_some_and(|(there, here)| there.is_same_but_for_purges(&here));
            if !is_same {
                return Err(CopyError::NotACopy { sequence });
            }
        }
    }
    if target.len() > source_entries {
        return Err(CopyError::Ahead { target: target.len(), source_entries });
    }
    Ok(())
}

fn source_error(error: StoreError) -> CopyError {
    CopyError::Source(error.into())
}

fn size_bytes(entries: &[(u64, Bytes)]) -> usize {
    entries.iter().map(|(_, record)| record.len()).sum()
}

/// How much is copied at once. (Little in this crate's tests, which want many steps.)
const PAGE: Limits = Limits { items: if cfg!(test) { 40 } else { 8192 }, bytes: 4 * 1024 * 1024 };
