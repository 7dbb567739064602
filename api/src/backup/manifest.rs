//! The manifest: what a backup consists of, written last.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    BackupError, Damage, Place,
    segment::{self, Chain, PLAIN_BYTES_MAX, STORED_BYTES_MAX},
};

/// The newest format of backups.
pub const FORMAT: u32 = 1;

/// The largest manifest that is written and read.
pub(super) const MANIFEST_BYTES_MAX: usize = 256 << 20;

/// The object that names the newest manifest.
pub(super) const LATEST: &str = "latest";
const LATEST_BYTES_MAX: usize = 4096;

/// What a backup consists of, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The format of everything beside it.
    pub format: u32,
    /// The layout version of the store that the entries come from.
    pub layout: u32,
    /// Counts how often a backup was begun anew in this place, from 1.
    pub series: u64,
    /// How many entries of the log are in the backup.
    pub position: u64,
    /// When it was made, in milliseconds since 1970.
    pub made_ts_ms: u64,
    /// Whether all but manifests is encrypted with age.
    pub encrypted: bool,
    /// The entries, in order.
    pub segments: Vec<StoredSegment>,
    /// The keys that servers have published.
    pub server_keys: Vec<StoredObject>,
    /// By the room's number in the log, how it was at the position.
    pub rooms: BTreeMap<u32, RoomFingerprints>,
}

/// An object with entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSegment {
    /// The sequence number of its first entry.
    pub first: u64,
    /// That of its last one.
    pub last: u64,
    /// The running hash over all entries up to its last one, in hexadecimal.
    pub chain: String,
    /// Where it is.
    #[serde(flatten)]
    pub object: StoredObject,
}

/// An object, compressed and perhaps encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Its name in the place.
    pub name: String,
    /// Bytes as stored.
    pub stored_bytes: u64,
    /// SHA-256 of the bytes as stored, in hexadecimal.
    pub stored_sha256: String,
    /// Bytes decrypted and decompressed.
    pub plain_bytes: u64,
    /// SHA-256 of these, in hexadecimal.
    pub plain_sha256: String,
}

/// What a room is compared by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomFingerprints {
    /// How many events it has.
    pub events: u64,
    /// The sequence number of the last of them.
    pub last: u64,
    /// The fingerprint of its current state.
    pub current_state: String,
    /// The fingerprint over all its events, verdicts and states.
    pub history: String,
}

/// Which manifest is the newest.
#[derive(Debug, Serialize, Deserialize)]
struct Latest {
    format: u32,
    manifest: String,
    bytes: u64,
    sha256: String,
}

/// Enough of a manifest to tell whether the rest can be read.
#[derive(Deserialize)]
struct Format {
    format: u32,
    #[serde(default)]
    layout: u32,
}

impl Manifest {
    /// Reads the newest manifest, with its name; `None` if there is none.
    pub(super) fn find(place: &Place) -> Result<Option<(String, Self)>, BackupError> {
        let Some(bytes) = place.find(LATEST, LATEST_BYTES_MAX)? else { return Ok(None) };
        let latest: Latest = parse(place, LATEST, &bytes)?;
        let damaged = |damage| BackupError::Damaged { object: latest.manifest.clone(), damage };
        let bytes = place.get(&latest.manifest, MANIFEST_BYTES_MAX)?;
        if bytes.len() as u64 != latest.bytes {
            return Err(damaged(Damage::Size { expected: latest.bytes, found: bytes.len() as u64 }));
        }
        let found = segment::sha256(&bytes);
        if found != latest.sha256 {
            return Err(damaged(Damage::Hash { expected: latest.sha256, found }));
        }
        let manifest: Self = parse(place, &latest.manifest, &bytes)?;
        manifest.check().map_err(damaged)?;
        Ok(Some((latest.manifest, manifest)))
    }

    /// Writes the manifest, and then that it is the newest; returns its name.
    pub(super) fn publish(&self, place: &Place) -> Result<String, BackupError> {
        let bytes = self.to_bytes()?;
        let sha256 = segment::sha256(&bytes);
        let (prefix, position) = (series_prefix(self.series), self.position);
        // With some of its hash: none is ever written over, as it may be the newest one.
        let name = format!("{prefix}manifest-{position:020}-{}.json", distinct(&sha256));
        let latest = Latest { format: FORMAT, manifest: name.clone(), bytes: bytes.len() as u64, sha256 };
        place.put(&name, bytes)?;
        place.put(LATEST, to_json(&latest)?)?;
        Ok(name)
    }

    /// Reads what an interrupted run noted; `None` if that is nothing that can be used.
    pub(super) fn find_unfinished(place: &Place, series: u64) -> Result<Option<Self>, BackupError> {
        let name = unfinished_name(series);
        let Ok(Some(bytes)) = place.find(&name, MANIFEST_BYTES_MAX) else { return Ok(None) };
        let manifest = parse::<Self>(place, &name, &bytes).ok();
        Ok(manifest.filter(|manifest| manifest.series == series && manifest.check().is_ok()))
    }

    /// Notes how far a run came.
    pub(super) fn note_unfinished(&self, place: &Place) -> Result<(), BackupError> {
        place.put(&unfinished_name(self.series), self.to_bytes()?)
    }

    fn to_bytes(&self) -> Result<Vec<u8>, BackupError> {
        let bytes = to_json(self)?;
        if bytes.len() > MANIFEST_BYTES_MAX { Err(BackupError::ManifestTooLarge) } else { Ok(bytes) }
    }

    /// Checks that segments follow each other up to the position, and that no size is over its bound.
    fn check(&self) -> Result<(), Damage> {
        let mut next = 0;
        for segment in &self.segments {
            if segment.chain().is_none() {
                return Err(Damage::Content("a running hash in it is none"));
            }
            if segment.first != next || segment.last < segment.first {
                return Err(Damage::Content("its segments do not follow each other"));
            }
            next = segment.last.checked_add(1).ok_or(Damage::Content("its segments do not end"))?;
            segment.object.check_bounds()?;
        }
        if next != self.position {
            return Err(Damage::Content("its segments do not reach its position"));
        }
        self.server_keys.iter().try_for_each(StoredObject::check_bounds)
    }
}

impl StoredObject {
    fn check_bounds(&self) -> Result<(), Damage> {
        for (size, max) in [(self.stored_bytes, STORED_BYTES_MAX), (self.plain_bytes, PLAIN_BYTES_MAX)] {
            if size > max as u64 {
                return Err(Damage::TooLarge { max: max as u64, found: size });
            }
        }
        Ok(())
    }
}

impl StoredSegment {
    /// Returns the running hash after its last entry, `None` if it is none.
    pub(super) fn chain(&self) -> Option<Chain> {
        Chain::parse(&self.chain)
    }
}

/// Returns the beginning of a hash, to tell objects apart.
pub(super) fn distinct(sha256: &str) -> &str {
    sha256.get(..8).unwrap_or_default()
}

/// What the names of all objects of a series begin with.
pub(super) fn series_prefix(series: u64) -> String {
    format!("series-{series}/")
}

/// Returns the series of an object's name, `None` if it is not in one.
pub(super) fn series_of(name: &str) -> Option<u64> {
    name.strip_prefix("series-")?.split_once('/')?.0.parse().ok()
}

pub(super) fn unfinished_name(series: u64) -> String {
    format!("{}unfinished.json", series_prefix(series))
}

fn parse<T: for<'de> Deserialize<'de>>(place: &Place, object: &str, bytes: &[u8]) -> Result<T, BackupError> {
    let damaged = |error| BackupError::Damaged { object: object.to_owned(), damage: Damage::Json(error) };
    let Format { format, layout } = serde_json::from_slice(bytes).map_err(damaged)?;
    if format > FORMAT {
        return Err(BackupError::NewerFormat { place: place.name().clone(), found: format });
    }
    if format == 0 {
        let damage = Damage::Content("it has no format");
        return Err(BackupError::Damaged { object: object.to_owned(), damage });
    }
    if layout > ravel_store::directory::LAYOUT {
        return Err(BackupError::NewerLayout { place: place.name().clone(), found: layout });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

fn to_json(value: &impl Serialize) -> Result<Vec<u8>, BackupError> {
    serde_json::to_vec_pretty(value).map_err(|error| BackupError::Seal(error.into()))
}
