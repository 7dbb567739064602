//! Making a backup, or adding to it what is new.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{SystemTime, UNIX_EPOCH},
};

use ravel_core::id::RoomId;
use ravel_store::{
    Limits, block_on,
    directory::LAYOUT,
    log::{EventLog, LogError},
};

use super::{
    BackupError, Manifest, Place, Recipients, RoomFingerprints,
    manifest::{FORMAT, StoredObject, StoredSegment, distinct, series_of, series_prefix, unfinished_name},
    segment::{self, Chain, Segment},
    server_keys,
};

/// How to make a backup.
pub struct Options {
    /// Whom to encrypt it to.
    pub recipients: Recipients,
    /// Begin anew, and drop what was there when all is written.
    pub full: bool,
    /// A segment is closed when it has this many entries, or 4 MiB.
    pub segment_entries_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { recipients: Recipients::default(), full: false, segment_entries_max: 4096 }
    }
}

/// What was written.
#[derive(Debug)]
pub struct Made {
    /// What the backup consists of now.
    pub manifest: Manifest,
    /// How many entries were in it before.
    pub position_before: u64,
    /// How many segments were written by this run.
    pub segments_added: u64,
    /// Their bytes.
    pub bytes_added: u64,
}

/// Backs up the entries that the log has now; others may append meanwhile. Calls `progress` with the entries that are in the backup.
///
/// Needs memory for a segment, and for one room at a time.
///
/// # Errors
///
/// When the log or the place fails, the place has something else or the backup of another log, what it has is damaged, or something
/// was purged meanwhile. Then the backup is as it was before; what was written beyond it is taken up by the next run, unless it was
/// purged.
pub fn make(
    log: &EventLog,
    place: &Place,
    options: &Options,
    mut progress: impl FnMut(u64),
) -> Result<Made, BackupError> {
    let position = log.len();
    let (previous, series) = find_previous(place, options.full)?;
    let (previous_name, previous) = previous.unzip();
    let encrypted = !options.recipients.is_empty();
    match &previous {
        Some(previous) if previous.encrypted && !encrypted => {
            return Err(BackupError::RecipientMissing(place.name().clone()));
        }
        Some(previous) if !previous.encrypted && encrypted => {
            return Err(BackupError::NotEncrypted(place.name().clone()));
        }
        _ => {}
    }
    let position_before = previous.as_ref().map_or(0, |previous| previous.position);
    if let Some(previous) = &previous
        && !is_prefix(log, previous, 0)?
    {
        let entries = previous.position;
        return Err(BackupError::OtherLog { place: place.name().clone(), entries, len: position });
    }
    let begun = Manifest { encrypted, ..previous.clone().unwrap_or_else(|| empty(series)) };
    let mut run = Run { place, options, manifest: begun, segments_added: 0, bytes_added: 0 };
    if let Some(unfinished) = Manifest::find_unfinished(place, series)?
        && unfinished.encrypted == encrypted
        && unfinished.position > position_before
        && unfinished.segments.starts_with(&run.manifest.segments)
        && is_prefix(log, &unfinished, run.manifest.segments.len())?
    {
        run.manifest.position = unfinished.position;
        run.manifest.segments = unfinished.segments;
    }
    progress(run.manifest.position);
    run.entries(log, position, &mut progress)?;
    run.server_keys(log)?;
    let name = match previous_name {
        Some(name) if previous.as_ref().is_some_and(|previous| run.has_nothing_new(previous)) => name,
        _ => {
            run.manifest.rooms = fingerprints(log, position, previous.as_ref())?;
            // What was read since then may not fit together: some entries as they were, some as the purge left them, and not itself.
            if block_on(log.has_purges_from(position))? {
                return Err(BackupError::PurgedMeanwhile);
            }
            run.manifest.made_ts_ms = now_ms();
            run.manifest.publish(place)?
        }
    };
    clean_up(place, &run.manifest, &name)?;
    let Run { manifest, segments_added, bytes_added, .. } = run;
    Ok(Made { manifest, position_before, segments_added, bytes_added })
}

/// Returns the backup that is to be continued, and the number of the series that is written.
fn find_previous(place: &Place, full: bool) -> Result<(Option<(String, Manifest)>, u64), BackupError> {
    let objects = place.list()?;
    let newest_series = objects.iter().filter_map(|(name, _)| series_of(name)).max().unwrap_or(0);
    let found = match Manifest::find(place) {
        // What is damaged is replaced.
        Err(BackupError::Damaged { .. }) if full => return Ok((None, newest_series.saturating_add(1))),
        found => found?,
    };
    match found {
        Some((_, found)) if full => Ok((None, found.series.saturating_add(1))),
        Some((name, found)) => {
            let series = found.series;
            Ok((Some((name, found)), series))
        }
        None => {
            if let Some((object, _)) = objects.into_iter().find(|(name, _)| series_of(name).is_none()) {
                return Err(BackupError::Foreign { place: place.name().clone(), object });
            }
            Ok((None, newest_series.max(1)))
        }
    }
}

fn empty(series: u64) -> Manifest {
    Manifest {
        format: FORMAT,
        layout: LAYOUT,
        series,
        position: 0,
        made_ts_ms: 0,
        encrypted: false,
        segments: Vec::new(),
        server_keys: Vec::new(),
        rooms: BTreeMap::new(),
    }
}

/// Whether a backup has the entries that the log has there; those of its first `known` segments are known to be.
///
/// All of the log is read, not its newest part alone: a purge changes entries in the middle, and no backup is to keep what was
/// purged and yet look like one of this log.
fn is_prefix(log: &EventLog, manifest: &Manifest, known: usize) -> Result<bool, BackupError> {
    if manifest.position > log.len() {
        return Ok(false);
    }
    let last_known = known.checked_sub(1).and_then(|last| manifest.segments.get(last));
    let mut chain = last_known.and_then(StoredSegment::chain).unwrap_or_default();
    for segment in manifest.segments.iter().skip(known) {
        let mut next = segment.first;
        while next <= segment.last {
            for (sequence, record) in page(log, next, segment.last + 1)? {
                chain.add(sequence, &record);
                next = sequence + 1;
            }
        }
        if Some(chain) != segment.chain() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the next entries from `from` on and before `end`, at least one.
fn page(log: &EventLog, from: u64, end: u64) -> Result<Vec<(u64, ravel_store::Bytes)>, LogError> {
    let items = usize::try_from(end.saturating_sub(from).min(PAGE_ENTRIES)).unwrap_or(1);
    let entries = block_on(log.raw_entries(from, Limits { items, bytes: PAGE_BYTES }))?;
    let expected = (from..end).zip(&entries).find(|(expected, (sequence, _))| expected != sequence);
    if entries.is_empty() || expected.is_some() {
        let sequence = expected.map_or(from, |(expected, _)| expected);
        return Err(LogError::BadEntry { sequence, problem: "it is missing" });
    }
    Ok(entries)
}

/// A run.
struct Run<'a> {
    place: &'a Place,
    options: &'a Options,
    manifest: Manifest,
    segments_added: u64,
    bytes_added: u64,
}

impl Run<'_> {
    /// Writes the entries from where the backup ends up to `position`.
    fn entries(&mut self, log: &EventLog, position: u64, progress: &mut impl FnMut(u64)) -> Result<(), BackupError> {
        // A manifest whose running hashes are none is not read.
        let last = self.manifest.segments.last().and_then(StoredSegment::chain);
        let mut chain = last.unwrap_or_default();
        let mut next = self.manifest.position;
        let mut segment = Segment::new(next);
        while next < position {
            for (sequence, record) in page(log, next, position)? {
                chain.add(sequence, &record);
                segment.push(sequence, &record);
                next = sequence + 1;
                if segment.is_full(self.options.segment_entries_max) || next == position {
                    self.store(std::mem::replace(&mut segment, Segment::new(next)), chain)?;
                    progress(next);
                }
            }
        }
        Ok(())
    }

    fn store(&mut self, segment: Segment, chain: Chain) -> Result<(), BackupError> {
        let (first, last) = (segment.first, segment.last());
        let object = self.put(&format!("log-{first:020}-{last:020}"), &segment.into_plain())?;
        self.segments_added += 1;
        self.manifest.position = last + 1;
        self.manifest.segments.push(StoredSegment { first, last, chain: chain.to_hex(), object });
        if self.segments_added.is_multiple_of(NOTE_AFTER_SEGMENTS) {
            self.manifest.note_unfinished(self.place)?;
        }
        Ok(())
    }

    /// Writes the keys of servers, as far as they are not there as they are now.
    fn server_keys(&mut self, log: &EventLog) -> Result<(), BackupError> {
        let keys = block_on(log.server_keys())?;
        let contents = server_keys::to_json(&keys).map_err(|error| BackupError::Seal(error.into()))?;
        let known = std::mem::take(&mut self.manifest.server_keys);
        for plain in contents {
            let sha256 = segment::sha256(&plain);
            let object = match known.iter().find(|object| object.plain_sha256 == sha256) {
                Some(object) => object.clone(),
                None => self.put("keys", &plain)?,
            };
            self.manifest.server_keys.push(object);
        }
        Ok(())
    }

    fn put(&mut self, name: &str, plain: &[u8]) -> Result<StoredObject, BackupError> {
        let stored = self.options.recipients.seal(plain)?;
        let stored_sha256 = segment::sha256(&stored);
        let suffix = if self.options.recipients.is_empty() { "" } else { ".age" };
        let prefix = series_prefix(self.manifest.series);
        let object = StoredObject {
            // With some of its hash, so that another run never writes over it: what is encrypted differs each time.
            name: format!("{prefix}{name}-{}.zst{suffix}", distinct(&stored_sha256)),
            stored_bytes: stored.len() as u64,
            stored_sha256,
            plain_bytes: plain.len() as u64,
            plain_sha256: segment::sha256(plain),
        };
        self.place.put(&object.name, stored)?;
        self.bytes_added += object.stored_bytes;
        Ok(object)
    }

    fn has_nothing_new(&self, previous: &Manifest) -> bool {
        previous.position == self.manifest.position && previous.server_keys == self.manifest.server_keys
    }
}

/// Returns how each room was at a position. What had no event since the backup before, and no purge, is taken from there.
fn fingerprints(
    log: &EventLog,
    position: u64,
    previous: Option<&Manifest>,
) -> Result<BTreeMap<u32, RoomFingerprints>, BackupError> {
    let room_ids: Vec<RoomId> = log.rooms().into_iter().map(|(room_id, _)| room_id).collect();
    let mut fingerprints = BTreeMap::new();
    for room_id in room_ids {
        let Some(number) = log.room_number(&room_id)? else { continue };
        let Some(last) = block_on(log.last_event_before(&room_id, position))? else { continue };
        let known = match previous {
            Some(previous) if !log.is_purged_from(&room_id, previous.position)? => previous.rooms.get(&number),
            _ => None,
        };
        let known = known.filter(|known| known.last == last);
        let room = match known {
            Some(known) => known.clone(),
            None => match RoomFingerprints::of(log, &room_id, position, last)? {
                Some(room) => room,
                None => continue,
            },
        };
        fingerprints.insert(number, room);
    }
    Ok(fingerprints)
}

impl RoomFingerprints {
    /// Returns how a room of a log was at a position; `last` is its last event before that.
    pub(super) fn of(log: &EventLog, room_id: &RoomId, position: u64, last: u64) -> Result<Option<Self>, LogError> {
        let room = block_on(log.load_room_at(room_id, position))?;
        Ok(room.map(|room| Self {
            events: room.len() as u64,
            last,
            current_state: room.current_state().fingerprint().to_string(),
            history: room.history_fingerprint().to_string(),
        }))
    }
}

/// Removes earlier series, what the run noted for the case that it ends early, and what earlier runs left behind.
fn clean_up(place: &Place, manifest: &Manifest, manifest_name: &str) -> Result<(), BackupError> {
    let unfinished = unfinished_name(manifest.series);
    let objects = manifest.segments.iter().map(|segment| &segment.object).chain(&manifest.server_keys);
    let named: BTreeSet<&str> = objects.map(|object| object.name.as_str()).chain([manifest_name]).collect();
    let now_s = i64::try_from(now_ms() / 1000).unwrap_or(i64::MAX);
    for (name, meta) in place.list()? {
        let Some(series) = series_of(&name) else { continue };
        let is_old = now_s.saturating_sub(meta.last_modified.timestamp()) > LEFTOVER_AGE_S;
        let is_leftover =
            series == manifest.series && (name == unfinished || (is_old && !named.contains(name.as_str())));
        if series < manifest.series || is_leftover {
            place.delete(&name)?;
        }
    }
    Ok(())
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
    u64::try_from(now).unwrap_or(u64::MAX)
}

const PAGE_ENTRIES: u64 = 4096;
const PAGE_BYTES: usize = 4 << 20;

/// How often a run notes how far it is.
const NOTE_AFTER_SEGMENTS: u64 = 16;

/// What no manifest names may belong to a run that is under way; after a day it does not.
const LEFTOVER_AGE_S: i64 = 24 * 60 * 60;
