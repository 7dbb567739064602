//! Reading a backup: into a database, or to check it.

use std::collections::BTreeMap;

use ravel_core::{id::RoomId, signing::KeyRing};
use ravel_store::{
    Bytes, Durability, Limits, block_on,
    log::{EventLog, LogError, Replica},
};

use super::{
    BackupError, Damage, Identities, Manifest, Place, RoomFingerprints,
    manifest::{StoredObject, StoredSegment},
    segment::{self, Chain, STORED_BYTES_MAX},
    server_keys,
};

/// What a restore did.
#[derive(Debug)]
pub struct Restored {
    /// How many entries the log has now.
    pub entries: u64,
    /// How many of them were there before.
    pub entries_before: u64,
    /// How many rooms there are.
    pub rooms: u64,
    /// Rooms whose fingerprints are not those of the backup.
    pub problems: Vec<Problem>,
}

/// Something that is wrong.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error("{object} is damaged: {damage}")]
    Object { object: String, damage: Damage },
    #[error("{room_id} is not the room that was backed up: {what} differs")]
    Room { room_id: RoomId, what: &'static str },
    #[error("room {number} of the backup is missing")]
    RoomMissing { number: u32 },
}

/// A backup that can be read.
pub struct Backup<'a> {
    place: &'a Place,
    identities: &'a Identities,
    manifest: Manifest,
}

impl<'a> Backup<'a> {
    /// Opens the backup in a place: reads its manifest and its last segment.
    ///
    /// # Errors
    ///
    /// When there is no backup, it is damaged or of a newer format, the identity is missing or another's, or the place fails.
    pub fn open(place: &'a Place, identities: &'a Identities) -> Result<Self, BackupError> {
        let (_, manifest) = Manifest::find(place)?.ok_or_else(|| BackupError::NoBackup(place.name().clone()))?;
        if manifest.encrypted && identities.is_empty() {
            return Err(BackupError::IdentityMissing(place.name().clone()));
        }
        Ok(Self { place, identities, manifest })
    }

    /// Returns what the backup consists of.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Reads the last segment: tells before anything is written whether the keys fit.
    ///
    /// # Errors
    ///
    /// When it is damaged, the identity is another's, or the place fails.
    pub fn probe(&self) -> Result<(), BackupError> {
        let Some((last, before)) = self.manifest.segments.split_last() else { return Ok(()) };
        let before = before.last().map_or(Some(Chain::default()), StoredSegment::chain);
        self.read_segment(last, before.unwrap_or_default()).map(drop)
    }

    /// Reads every object and checks it against the manifest. Writes nothing. Calls `progress` with the entries that are checked
    /// and all entries.
    ///
    /// Whether events and states are those that they should be, only a restore tells: into the database `memory`, if need be.
    ///
    /// # Errors
    ///
    /// When the place fails or the identity is another's; what is damaged is returned.
    pub fn verify(&self, mut progress: impl FnMut(u64, u64)) -> Result<Vec<Problem>, BackupError> {
        let mut problems = Vec::new();
        let mut chain = Chain::default();
        for segment in &self.manifest.segments {
            match self.read_segment(segment, chain) {
                Ok((_, after)) => chain = after,
                Err(BackupError::Damaged { object, damage }) => {
                    problems.push(Problem::Object { object, damage });
                    // Behind a damaged segment the running hash goes on from what the manifest says.
                    chain = segment.chain().unwrap_or_default();
                }
                Err(error) => return Err(error),
            }
            progress(segment.last.saturating_add(1), self.manifest.position);
        }
        for object in &self.manifest.server_keys {
            match self.read_server_keys(object) {
                Err(BackupError::Damaged { object, damage }) => problems.push(Problem::Object { object, damage }),
                read => drop(read?),
            }
        }
        Ok(problems)
    }

    /// Restores into a log: an empty one, or one whose entries are the first ones of the backup, such as an interrupted restore
    /// leaves. Every entry is judged once more. Calls `progress` with the entries that are there and all entries.
    ///
    /// From the first entry that is taken over until all rooms are compared, nothing but a restore opens the log.
    ///
    /// # Errors
    ///
    /// When an object is damaged, the place or the log fails, or the log has other entries. What was restored before stays, and
    /// the next run goes on from there.
    pub fn restore(&self, log: EventLog, mut progress: impl FnMut(u64, u64)) -> Result<Restored, BackupError> {
        let total = self.manifest.position;
        let entries_before = log.len();
        let other = || BackupError::OtherTarget { entries: total, len: entries_before };
        if entries_before > total {
            return Err(other());
        }
        let mut is_marked = block_on(log.is_being_restored())?;
        let mut replica = Replica::new(log);
        let mut chain = Chain::default();
        for segment in &self.manifest.segments {
            let end = segment.last.saturating_add(1);
            if end <= entries_before {
                add_stored(replica.log(), segment.first, end, &mut chain)?;
                if chain.to_hex() != segment.chain {
                    return Err(other());
                }
                progress(end, total);
                continue;
            }
            let (entries, after) = self.read_segment(segment, chain)?;
            if segment.first < entries_before {
                let (mut stored, mut expected) = (chain, chain);
                add_stored(replica.log(), segment.first, entries_before, &mut stored)?;
                let there = entries.iter().take_while(|(sequence, _)| *sequence < entries_before);
                there.for_each(|(sequence, record)| expected.add(*sequence, record));
                if stored != expected {
                    return Err(other());
                }
            }
            chain = after;
            // Known by now: all that is there belongs to the backup.
            if !std::mem::replace(&mut is_marked, true) {
                block_on(replica.log().begin_restore())?;
            }
            take_over(&mut replica, &entries, |done| progress(done, total))?;
        }
        for object in &self.manifest.server_keys {
            let keys = self.read_server_keys(object)?;
            block_on(replica.log().put_server_keys(&keys, Durability::Sync))?;
        }
        let log = replica.into_log();
        let problems = compare(&log, &self.manifest)?;
        // With a room that differs the log stays one that is not to be used.
        if problems.is_empty() && is_marked {
            block_on(log.end_restore())?;
        }
        Ok(Restored { entries: log.len(), entries_before, rooms: self.manifest.rooms.len() as u64, problems })
    }

    /// Reads a segment and checks all that the manifest says of it; returns the entries, and the running hash after them.
    fn read_segment(
        &self,
        segment: &StoredSegment,
        mut chain: Chain,
    ) -> Result<(Vec<(u64, Bytes)>, Chain), BackupError> {
        let damaged = |damage| BackupError::Damaged { object: segment.object.name.clone(), damage };
        let plain = self.read_object(&segment.object)?;
        let entries = segment::entries(&plain, segment.first, segment.last).map_err(damaged)?;
        for (sequence, record) in &entries {
            chain.add(*sequence, record);
        }
        let found = chain.to_hex();
        if found != segment.chain {
            return Err(damaged(Damage::Chain { expected: segment.chain.clone(), found }));
        }
        Ok((entries, chain))
    }

    fn read_server_keys(&self, object: &StoredObject) -> Result<KeyRing, BackupError> {
        let plain = self.read_object(object)?;
        let damaged = |damage| BackupError::Damaged { object: object.name.clone(), damage };
        server_keys::from_json(&plain).map_err(damaged)
    }

    /// Reads an object, checks its sizes and hashes, decrypts and decompresses it.
    fn read_object(&self, object: &StoredObject) -> Result<Bytes, BackupError> {
        let damaged = |damage| BackupError::Damaged { object: object.name.clone(), damage };
        let stored = self.place.get(&object.name, STORED_BYTES_MAX)?;
        if stored.len() as u64 != object.stored_bytes {
            return Err(damaged(Damage::Size { expected: object.stored_bytes, found: stored.len() as u64 }));
        }
        let found = segment::sha256(&stored);
        if found != object.stored_sha256 {
            return Err(damaged(Damage::Hash { expected: object.stored_sha256.clone(), found }));
        }
        let plain_bytes = usize::try_from(object.plain_bytes).unwrap_or(usize::MAX).min(segment::PLAIN_BYTES_MAX);
        let plain = self.identities.unseal(self.place, &object.name, &stored, self.manifest.encrypted, plain_bytes)?;
        let found = segment::sha256(&plain);
        if found != object.plain_sha256 || plain.len() as u64 != object.plain_bytes {
            return Err(damaged(Damage::PlainHash { expected: object.plain_sha256.clone(), found }));
        }
        Ok(plain)
    }
}

/// Adds the entries of a log from one sequence number (included) to another (excluded) to a running hash.
fn add_stored(log: &EventLog, from: u64, end: u64, chain: &mut Chain) -> Result<(), LogError> {
    let mut next = from;
    while next < end {
        let entries = block_on(log.raw_entries(next, Limits::default()))?;
        if entries.is_empty() {
            return Err(LogError::BadEntry { sequence: next, problem: "it is missing" });
        }
        for (sequence, record) in entries.into_iter().take_while(|(sequence, _)| *sequence < end) {
            chain.add(sequence, &record);
            next = sequence.saturating_add(1);
        }
    }
    Ok(())
}

/// Hands entries to the log in portions, so that progress is seen.
fn take_over(replica: &mut Replica, entries: &[(u64, Bytes)], mut progress: impl FnMut(u64)) -> Result<(), LogError> {
    for entries in entries.chunks(PORTION_ENTRIES) {
        block_on(replica.take(entries, Durability::Relaxed))?;
        progress(replica.log().len());
    }
    Ok(())
}

/// Compares every room with the manifest.
fn compare(log: &EventLog, manifest: &Manifest) -> Result<Vec<Problem>, BackupError> {
    let mut problems = Vec::new();
    let mut expected: BTreeMap<u32, &RoomFingerprints> = manifest.rooms.iter().map(|(n, room)| (*n, room)).collect();
    let room_ids: Vec<RoomId> = log.rooms().into_iter().map(|(room_id, _)| room_id).collect();
    for room_id in room_ids {
        let mut differs = |what| problems.push(Problem::Room { room_id: room_id.clone(), what });
        let Some(last) = block_on(log.last_event_before(&room_id, manifest.position))? else { continue };
        let found = RoomFingerprints::of(log, &room_id, manifest.position, last)?;
        let expected = log.room_number(&room_id)?.and_then(|number| expected.remove(&number));
        match (expected, found) {
            (Some(expected), Some(found)) => {
                for (what, equal) in [
                    ("the number of its events", expected.events == found.events),
                    ("its last event", expected.last == found.last),
                    ("its current state", expected.current_state == found.current_state),
                    ("its history", expected.history == found.history),
                ] {
                    if !equal {
                        differs(what);
                        break;
                    }
                }
            }
            _ => differs("whether it is there"),
        }
    }
    problems.extend(expected.into_keys().map(|number| Problem::RoomMissing { number }));
    Ok(problems)
}

/// How many entries are handed over at a time.
const PORTION_ENTRIES: usize = 512;
