//! A log that follows another one.

use bytes::Bytes;

use super::{
    BATCH_BYTES, EventLog, LogError, commit,
    records::{Head, LogEntry, key},
    replay::Replay,
};
use crate::{Batch, Durability, Keyspace, codec};

/// A log that takes the entries of another one: a copy, a backup that is restored, a standby.
///
/// It is a valid log with its projections at each moment, a beginning of the other one. So whatever stops it, it goes on from where
/// it is.
pub struct Replica {
    log: EventLog,
    pub(super) replay: Replay,
}

impl Replica {
    /// Makes a log follow another one, from its present end on.
    pub fn new(log: EventLog) -> Self {
        let replay = Replay::of(&log);
        Self { log, replay }
    }

    /// Returns the log.
    pub fn log(&self) -> &EventLog {
        &self.log
    }

    /// Returns the log, which now can be appended to.
    pub fn into_log(self) -> EventLog {
        self.log
    }

    /// Takes the next entries of the other log, as [`EventLog::raw_entries`] gives them; those that are there already are skipped.
    ///
    /// Each is checked, judged once more as on a rebuild, and stored with what follows from it, in batches of a bounded size of
    /// which the last is as durable as `durability` says.
    ///
    /// # Errors
    ///
    /// When the store fails, an entry is damaged or not usable, does not follow the last one, or another writer appended. The
    /// entries before it are kept.
    pub async fn take(&mut self, entries: &[(u64, Bytes)], durability: Durability) -> Result<(), LogError> {
        self.log.resume_purges(|_, _| {}).await?;
        let mut pending = Pending::new(&self.log)?;
        for (sequence, record) in entries {
            if *sequence < pending.head.next_sequence {
                continue;
            }
            if *sequence != pending.head.next_sequence {
                return Err(LogError::BadEntry { sequence: pending.head.next_sequence, problem: "it is missing" });
            }
            let entry: LogEntry = codec::decode(&key::sequence(*sequence), record)?;
            if let Some(room_id) = self.replay.room_to_load(&entry) {
                pending = pending.commit(&self.log, Durability::Relaxed).await?;
                self.replay.load(&self.log, &room_id).await?;
            }
            self.replay.take(*sequence, &entry)?.project(&self.log, &mut pending.batch, *sequence)?;
            pending.entry(record, &entry)?;
            if matches!(entry, LogEntry::HistoryPurged { .. } | LogEntry::RoomPurged { .. }) {
                // What was purged is gone before the room goes on.
                pending = pending.commit(&self.log, Durability::Relaxed).await?;
                self.log.resume_purges(|_, _| {}).await?;
                entry.room().into_iter().for_each(|room| self.replay.forget(room));
            }
            if pending.batch.size_bytes() >= BATCH_BYTES {
                pending = pending.commit(&self.log, Durability::Relaxed).await?;
                self.replay.put_aside();
            }
        }
        pending.commit(&self.log, durability).await.map(|_| ())
    }
}

/// Entries on their way into the log.
struct Pending {
    batch: Batch,
    head: Head,
}

impl Pending {
    fn new(log: &EventLog) -> Result<Self, LogError> {
        let head = log.known().head.clone();
        Ok(Self { batch: head.guarded_batch()?, head })
    }

    fn entry(&mut self, record: &Bytes, entry: &LogEntry) -> Result<(), LogError> {
        let sequence = self.head.take_sequence()?;
        self.batch.put(Keyspace::Log, key::sequence(sequence), record.clone());
        self.head.count_room_of(entry)
    }

    /// Commits, and begins anew.
    async fn commit(mut self, log: &EventLog, durability: Durability) -> Result<Self, LogError> {
        if self.batch.is_empty() {
            return Ok(self);
        }
        self.batch.put_record(key::HEAD, &self.head)?.durability(durability);
        commit(&log.store, self.batch).await?;
        log.known().advance(self.head);
        Self::new(log)
    }
}
