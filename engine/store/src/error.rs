use std::{error::Error, fmt, io, path::PathBuf, sync::Arc};

use crate::Keyspace;

/// What an engine or the operating system said; shared, as one failed sync is the answer to many commits.
pub type Source = Arc<dyn Error + Send + Sync>;

/// What went wrong in a store.
///
/// A guard that does not hold is no error but an outcome: [`Committed::Refused`](crate::Committed::Refused).
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The directory or database is not this backend's; nothing in it was touched.
    #[error("{path} is not a store of this engine and was not touched: {reason}")]
    Foreign {
        /// The directory that was to be opened, or the name of the database.
        path: PathBuf,
        /// What about it is not ours.
        reason: ForeignReason,
    },
    /// The directory or database was written by a newer program; nothing in it was touched.
    #[error("{path} has layout {found} of a newer program (this one knows up to {known}) and was not touched")]
    NewerFormat {
        /// The directory that was to be opened, or the name of the database.
        path: PathBuf,
        /// Layout version in its marker.
        found: u32,
        /// Newest layout version this program knows.
        known: u32,
    },
    /// Another process, or another store of this one, has the directory open.
    #[error("{path} is in use by another process")]
    Locked {
        /// The directory that was to be opened.
        path: PathBuf,
    },
    /// The disk or the quota is full.
    #[error("no space left to {operation}")]
    Full {
        /// What was being done.
        operation: Operation,
        /// What the engine said.
        #[source]
        source: Source,
    },
    /// What was read is not what was written.
    #[error("corrupt {}: expected {expected}", place(*.keyspace, .key.as_ref()))]
    Corrupt {
        /// Where it was read, `None` if the engine cannot say.
        keyspace: Option<Keyspace>,
        /// Under which key, `None` if the engine cannot say.
        key: Option<ShortKey>,
        /// What should have been there.
        expected: &'static str,
        /// What the engine said, if it was the engine that noticed.
        #[source]
        source: Option<Source>,
    },
    /// A record has a version this program does not know.
    #[error("{} is a record of version {found}, this program knows version {known}", place(Some(*.keyspace), Some(.key)))]
    RecordVersion {
        /// Where it was read.
        keyspace: Keyspace,
        /// Under which key.
        key: ShortKey,
        /// Version in the record's first byte.
        found: u8,
        /// Version this program reads and writes.
        known: u8,
    },
    /// Something handed in is over a bound; nothing was done.
    #[error("{what} of {size} is over the bound of {max}")]
    TooLarge {
        /// Which bound.
        what: BoundedBy,
        /// What was handed in, in bytes (keys of a look-up: their count).
        size: usize,
        /// The bound, in the same unit.
        max: usize,
    },
    /// A record could not be encoded.
    #[error("cannot encode a record of {keyspace}")]
    Encode {
        /// The record's keyspace.
        keyspace: Keyspace,
        /// What the codec said.
        #[source]
        source: Source,
    },
    /// An earlier failure left it open what is on disk: the store takes nothing more until it is opened again.
    #[error("the store stopped after an earlier failed write or sync and must be opened again")]
    Halted,
    /// Another process opened the store later and writes to it now; nothing was written.
    #[error("another process took the store over from opening {epoch}; nothing was written")]
    Overtaken {
        /// Which opening of the store this one was, from 1.
        epoch: u64,
    },
    /// The connection was lost while a commit was under way: it was written whole or not at all, and nobody here knows which.
    #[error("the connection was lost during a commit, and it is not known whether it was written")]
    OutcomeUnknown {
        /// Why that could not be found out.
        #[source]
        source: Source,
    },
    /// The store was opened for reading only; nothing was written.
    #[error("the store was opened for reading only")]
    ReadOnly,
    /// The store was closed.
    #[error("the store was closed")]
    Closed,
    /// The engine or the operating system failed.
    #[error("cannot {operation} {}", place(*.keyspace, .key.as_ref()))]
    Io {
        /// What was being done.
        operation: Operation,
        /// In which keyspace, `None` if in several or in none.
        keyspace: Option<Keyspace>,
        /// At which key, `None` if at several or at none.
        key: Option<ShortKey>,
        /// What the engine or the operating system said.
        #[source]
        source: Source,
    },
}

impl StoreError {
    /// Wraps an error of the operating system: `Full` if the disk is, `Io` otherwise.
    pub fn from_io(operation: Operation, error: io::Error) -> Self {
        let full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        let source: Source = Arc::new(error);
        if full { Self::Full { operation, source } } else { Self::io(operation, source) }
    }

    /// Wraps what an engine said, without a place.
    pub fn io(operation: Operation, source: Source) -> Self {
        Self::Io { operation, keyspace: None, key: None, source }
    }

    /// Makes the error for a record that is not what was written.
    pub fn corrupt(keyspace: Keyspace, key: &[u8], expected: &'static str) -> Self {
        Self::Corrupt { keyspace: Some(keyspace), key: Some(ShortKey::new(key)), expected, source: None }
    }

    /// Adds where it happened, if the error can say that and does not say it yet.
    #[must_use]
    pub fn at(mut self, at_keyspace: Keyspace, at_key: Option<&[u8]>) -> Self {
        if let Self::Io { keyspace, key, .. } | Self::Corrupt { keyspace, key, .. } = &mut self
            && keyspace.is_none()
        {
            *keyspace = Some(at_keyspace);
            *key = at_key.map(ShortKey::new);
        }
        self
    }
}

/// What a store was doing when it failed; reads as a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Opening or creating the store.
    Open,
    /// Committing a batch.
    Commit,
    /// Making commits durable.
    Flush,
    /// Looking up keys.
    Get,
    /// Reading a page of a range.
    Scan,
    /// Describing the store.
    Describe,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open",
            Self::Commit => "commit to",
            Self::Flush => "flush",
            Self::Get => "read from",
            Self::Scan => "scan",
            Self::Describe => "describe",
        })
    }
}

/// The bound that something is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BoundedBy {
    /// Length of a key, [`KEY_BYTES_MAX`](crate::KEY_BYTES_MAX).
    Key,
    /// Length of a value, [`VALUE_BYTES_MAX`](crate::VALUE_BYTES_MAX).
    Value,
    /// Size of a batch, [`BATCH_BYTES_MAX`](crate::BATCH_BYTES_MAX).
    Batch,
    /// Count of keys in one look-up, [`GET_KEYS_MAX`](crate::GET_KEYS_MAX).
    Keys,
}

impl fmt::Display for BoundedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "a key's length",
            Self::Value => "a value's length",
            Self::Batch => "a batch's size",
            Self::Keys => "a count of keys",
        })
    }
}

/// Why a directory or a database is not this backend's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForeignReason {
    /// It holds files, but no marker.
    #[error("it is not empty and has no {}", crate::directory::MARKER)]
    NoMarker,
    /// The marker is not one of ours.
    #[error("its {} is not one this program writes", crate::directory::MARKER)]
    UnreadableMarker,
    /// Another engine wrote it.
    #[error("it belongs to the engine {found}, not to {expected}")]
    OtherEngine {
        /// Engine in the marker.
        found: String,
        /// Engine that was to open it.
        expected: &'static str,
    },
    /// It is a file.
    #[error("it is not a directory")]
    NotADirectory,
    /// It is a database with tables in it, but without a marker.
    #[error("it has tables, but none with the marker of this program")]
    NoMarkerTable,
    /// The database's marker is not one of ours.
    #[error("its table with the marker is not one this program writes")]
    UnreadableMarkerTable,
    /// It was to be read only, and there is nothing in it.
    #[error("it is empty")]
    Empty,
}

/// A key in an error: the first 24 bytes in hex, and the length if there are more.
#[derive(Clone, PartialEq, Eq)]
pub struct ShortKey {
    start: Box<[u8]>,
    len: usize,
}

impl ShortKey {
    /// Shortens a key.
    pub fn new(key: &[u8]) -> Self {
        Self::from_parts(key, key.len())
    }

    /// Makes one of the start of a key, and its length in bytes.
    pub fn from_parts(start: &[u8], len: usize) -> Self {
        Self { start: start.iter().copied().take(24).collect(), len: len.max(start.len()) }
    }

    /// Returns the key's first bytes, 24 at most.
    pub fn start(&self) -> &[u8] {
        &self.start
    }

    /// Returns the key's length, in bytes.
    pub fn len_bytes(&self) -> usize {
        self.len
    }
}

impl fmt::Display for ShortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        for byte in &self.start {
            write!(f, "{byte:02x}")?;
        }
        if self.len > self.start.len() {
            write!(f, "... ({} bytes)", self.len)?;
        }
        Ok(())
    }
}

impl fmt::Debug for ShortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn place(keyspace: Option<Keyspace>, key: Option<&ShortKey>) -> String {
    match (keyspace, key) {
        (Some(keyspace), Some(key)) => format!("{keyspace} at {key}"),
        (Some(keyspace), None) => keyspace.to_string(),
        (None, Some(key)) => format!("store at {key}"),
        (None, None) => "the store".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_name_the_place() {
        let error = StoreError::corrupt(Keyspace::Log, &[0, 255], "a checksum");
        assert_eq!(error.to_string(), "corrupt log at 0x00ff: expected a checksum");
        let io = StoreError::from_io(Operation::Get, io::Error::other("x")).at(Keyspace::Meta, Some(&[7; 30]));
        assert_eq!(io.to_string(), format!("cannot read from meta at 0x{}... (30 bytes)", "07".repeat(24)));
        assert_eq!(io.source().map(ToString::to_string), Some("x".to_owned()));
        let full = StoreError::from_io(Operation::Commit, io::ErrorKind::StorageFull.into());
        assert_eq!(full.to_string(), "no space left to commit to");
    }
}
