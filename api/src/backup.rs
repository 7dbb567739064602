//! Backups of a log: segments of entries in a folder or a bucket, compressed, optionally encrypted, with a manifest.
//!
//! The log is append-only, so a backup is the entries before the position at which it began, whatever is appended meanwhile; a
//! later run adds what is new. `docs/backup.md` describes objects and commands.

mod make;
mod manifest;
mod place;
mod restore;
mod seal;
mod segment;
mod server_keys;

use std::{io, path::PathBuf};

use ravel_store::log::LogError;

pub use self::{
    make::{Made, Options, make},
    manifest::{FORMAT, Manifest, RoomFingerprints},
    place::{InvalidPlace, Place, PlaceName},
    restore::{Backup, Problem, Restored},
    seal::{Identities, InvalidRecipient, Recipients},
};

/// Why a backup can't be made or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum BackupError {
    #[error("{place} can't be used: {source}")]
    Place {
        place: PlaceName,
        #[source]
        source: object_store::Error,
    },
    #[error("{place} can't be used: {source}")]
    Folder {
        place: PlaceName,
        #[source]
        source: io::Error,
    },
    #[error("there is no backup in {0}")]
    NoBackup(PlaceName),
    #[error("{place} has no backup and is not empty: it has {object}")]
    Foreign { place: PlaceName, object: String },
    #[error(
        "the backup in {place} is not one of this database as it is: its {entries} entries are not the first ones of this log of \
         {len}. It is another database's, or was made before a purge: name another place, or begin anew with --full"
    )]
    OtherLog { place: PlaceName, entries: u64, len: u64 },
    #[error("the backup in {place} has format {found} of a newer program (this one knows up to {known})", known = FORMAT)]
    NewerFormat { place: PlaceName, found: u32 },
    #[error(
        "the backup in {place} has entries of store layout {found} of a newer program (this one knows up to {known})",
        known = ravel_store::directory::LAYOUT
    )]
    NewerLayout { place: PlaceName, found: u32 },
    #[error("the backup in {0} is encrypted, so --recipient must be given; or begin anew with --full")]
    RecipientMissing(PlaceName),
    #[error("the backup in {0} is not encrypted: begin anew with --full to have all of it encrypted")]
    NotEncrypted(PlaceName),
    #[error("the backup in {0} is encrypted, so --identity must be given")]
    IdentityMissing(PlaceName),
    #[error("no identity in {} opens the backup in {place}", .path.display())]
    WrongIdentity { place: PlaceName, path: PathBuf },
    #[error("{}: is not a file of age identities: {source}", .path.display())]
    IdentityFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("history was purged while it was backed up, so what was written does not fit together: run it again")]
    PurgedMeanwhile,
    #[error("can't compress or encrypt: {0}")]
    Seal(#[source] io::Error),
    #[error(
        "the database has {len} entries that are not the first ones of the backup's {entries}: restore into an empty database"
    )]
    OtherTarget { entries: u64, len: u64 },
    #[error("{object} is damaged: {damage}")]
    Damaged { object: String, damage: Damage },
    #[error("the manifest would be larger than {max} bytes: begin anew with --full", max = manifest::MANIFEST_BYTES_MAX)]
    ManifestTooLarge,
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What is wrong with an object of a backup.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Damage {
    #[error("it is missing")]
    Missing,
    #[error("it has {found} bytes, not {expected}")]
    Size { expected: u64, found: u64 },
    #[error("it has {found} bytes, and at most {max} are read")]
    TooLarge { max: u64, found: u64 },
    #[error("its SHA-256 is {found}, not {expected}")]
    Hash { expected: String, found: String },
    #[error("its content has the SHA-256 {found}, not {expected}")]
    PlainHash { expected: String, found: String },
    #[error("its entries have the running hash {found}, not {expected}")]
    Chain { expected: String, found: String },
    #[error("it can't be decrypted: {0}")]
    Encryption(String),
    #[error("it can't be decompressed: {0}")]
    Compression(#[source] io::Error),
    #[error("it is not JSON as it should be: {0}")]
    Json(#[source] serde_json::Error),
    #[error("{0}")]
    Content(&'static str),
}

#[cfg(test)]
mod tests;
