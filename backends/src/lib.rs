//! Storage backends, each behind a feature of its name: `rocksdb` (the one to run a server on) and `sled` on this machine's
//! disk, `postgres` on other machines.
//!
//! Each implements [`ravel_store::Store`], whose documentation lists the duties, and passes the conformance suite.
#![forbid(unsafe_code)]

use std::{fmt, path::Path, str::FromStr, sync::Arc};

use ravel_store::{Store, StoreError, directory};

#[cfg(any(feature = "rocksdb", feature = "sled"))]
mod committer;
#[cfg(all(test, any(feature = "rocksdb", feature = "sled", feature = "postgres")))]
mod crash_tests;
#[cfg(unix)]
pub mod live;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(any(feature = "rocksdb", feature = "sled", feature = "postgres"))]
mod queue_bound;
#[cfg(feature = "rocksdb")]
mod readers;
#[cfg(feature = "rocksdb")]
pub mod rocksdb;
#[cfg(feature = "sled")]
pub mod sled;
#[cfg(any(feature = "rocksdb", feature = "sled"))]
mod synced;

#[cfg(feature = "postgres")]
pub use crate::postgres::{Access, PostgresOptions, PostgresStore};
#[cfg(any(feature = "rocksdb", feature = "sled", feature = "postgres"))]
pub use crate::queue_bound::COMMIT_QUEUE_BYTES;
#[cfg(feature = "rocksdb")]
pub use crate::rocksdb::{RocksDbOptions, RocksDbStore};
#[cfg(feature = "sled")]
pub use crate::sled::{SledOptions, SledStore};
#[cfg(any(feature = "rocksdb", feature = "sled"))]
pub use crate::synced::LostCommits;

/// An engine this program was built with that keeps its data in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Engine {
    /// RocksDB.
    #[cfg(feature = "rocksdb")]
    RocksDb,
    /// sled.
    #[cfg(feature = "sled")]
    Sled,
}

impl Engine {
    /// All of them, the preferred one first.
    pub const ALL: &'static [Engine] = &[
        #[cfg(feature = "rocksdb")]
        Engine::RocksDb,
        #[cfg(feature = "sled")]
        Engine::Sled,
    ];

    /// Returns the name, as it is in the marker of a directory and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "rocksdb")]
            Self::RocksDb => crate::rocksdb::ENGINE,
            #[cfg(feature = "sled")]
            Self::Sled => crate::sled::ENGINE,
        }
    }

    /// Opens a directory with this engine, by its default options; creates it if it is missing or empty.
    ///
    /// # Errors
    /// `Foreign`, `NewerFormat`, `Locked`, `Corrupt`, `Full`, `Io`.
    #[allow(clippy::match_same_arms, unused_variables, reason = "a build without engines has no arms")]
    pub fn open(self, path: &Path) -> Result<Arc<dyn Store>, StoreError> {
        match self {
            #[cfg(feature = "rocksdb")]
            Self::RocksDb => Ok(Arc::new(RocksDbStore::open(path, &RocksDbOptions::default())?)),
            #[cfg(feature = "sled")]
            Self::Sled => Ok(Arc::new(SledStore::open(path, &SledOptions::default())?)),
        }
    }

    /// Returns the engine an existing directory belongs to, `None` if it is missing, empty or only half created.
    ///
    /// # Errors
    /// `Foreign` if it is not a store's; `NewerFormat`; [`OpenError::Unknown`] if its engine is not in this build.
    pub fn of(path: &Path) -> Result<Option<Self>, OpenError> {
        Ok(match directory::engine_of(path)? {
            Some(name) => Some(name.parse()?),
            None => None,
        })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = UnknownEngine;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().copied().find(|engine| engine.name() == name).ok_or_else(|| UnknownEngine(name.to_owned()))
    }
}

/// A name that is no engine's of this build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this build has no storage engine named {0:?}")]
pub struct UnknownEngine(pub String);

/// Why the engine of a directory cannot be told.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// It belongs to an engine that is not in this build.
    #[error(transparent)]
    Unknown(#[from] UnknownEngine),
    /// It is not a store's, or cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}
