//! Rooms whose projections were made by an older program: each is computed again when it is first needed, or when there is time,
//! while the others are served.

use std::collections::BTreeMap;

use ravel_core::id::RoomId;

use super::{
    BATCH_BYTES, EventLog, LogError, commit,
    records::{RoomRecord, key},
    replay::Replay,
};
use crate::{Batch, Committed, Durability, KeyRange, Keyspace, Scan, StoreError, codec};

/// How many entries of a room are replayed at a time.
const ENTRIES: usize = 256;

impl EventLog {
    /// Returns the rooms whose projections are of an older version, sorted.
    pub fn stale_rooms(&self) -> Vec<RoomId> {
        let known = self.known();
        known.rooms.iter().filter(|(_, record)| record.is_stale()).map(|(room_id, _)| room_id.clone()).collect()
    }

    /// Computes the projections of a stale room again; nothing if it is not stale or not there.
    ///
    /// Other rooms can be read and appended to meanwhile. Killed in between, it begins anew the next time.
    ///
    /// # Errors
    ///
    /// When the store fails, or the log has an entry that is not usable.
    pub async fn refresh_room(&self, room_id: &RoomId) -> Result<(), LogError> {
        // Two at once would compute the same.
        let _one_at_a_time = self.refreshing.lock().await;
        match self.room(room_id)? {
            Some(stale) if stale.is_stale() => self.refresh(room_id, &stale).await,
            _ => Ok(()),
        }
    }

    async fn refresh(&self, room_id: &RoomId, stale: &RoomRecord) -> Result<(), LogError> {
        let room_key = room_id.as_str().to_owned();
        let mut batch = Batch::new();
        // The keys of the timeline tell where the room's events are; they are written over, never taken away.
        for keyspace in [Keyspace::Events, Keyspace::EventFacts, Keyspace::SnapshotNodes, Keyspace::Extremities] {
            batch.delete_range(keyspace, KeyRange::prefix(key::room(stale.number)));
        }
        batch.guard_equals(Keyspace::Rooms, room_key.clone(), codec::encode(stale)?);
        batch.durability(Durability::Relaxed);
        let mut replay = Replay::default();
        let version = self.version_of(room_id, stale)?;
        replay.open(stale.number, room_id.clone(), version);
        let fresh = stale.refreshed();
        let mut scan = Some(Scan::new(Keyspace::Timelines, KeyRange::prefix(key::room(stale.number))).items(ENTRIES));
        while let Some(asked) = scan.take() {
            let page = self.store.scan(asked.clone()).await?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            let sequences = page.items.iter().map(|(key, _)| key::timeline_sequence(key));
            let sequences = sequences.collect::<Result<Vec<u64>, StoreError>>()?;
            for (sequence, entry) in self.entries(&sequences).await? {
                replay.take(sequence, &entry)?.project(self, &mut batch, sequence)?;
                if batch.size_bytes() >= BATCH_BYTES {
                    batch.durability(Durability::Relaxed);
                    commit(&self.store, std::mem::take(&mut batch)).await?;
                }
            }
        }
        batch.guard_equals(Keyspace::Rooms, room_key.clone(), codec::encode(stale)?);
        batch.put_record(room_key, &fresh)?.durability(Durability::Sync);
        let purge = self.last_purge(&fresh).await?;
        if let Some(purge) = &purge {
            batch.put_record(key::purging(stale.number), purge)?;
        }
        match self.store.commit(batch).await? {
            Committed::Written => {
                let mut known = self.known();
                known.rooms.insert(room_id.clone(), fresh);
                known.purging.extend(purge.map(|purge| (stale.number, purge)));
                Ok(())
            }
            Committed::Refused(_) => Err(LogError::Overtaken),
        }
    }
}

/// Refuses projections of a newer program: they may hold what this one would not keep up.
pub(super) fn refuse_newer(rooms: &BTreeMap<RoomId, RoomRecord>) -> Result<(), LogError> {
    match rooms.iter().find(|(_, record)| record.is_newer()) {
        Some((room_id, _)) => Err(LogError::NewerProjections { room_id: room_id.clone() }),
        None => Ok(()),
    }
}
