//! Where to measure: an engine, and empty databases of it.

#[cfg(feature = "postgres")]
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fmt, path::Path, sync::Arc};

use ravel_backends::Engine;
#[cfg(feature = "postgres")]
use ravel_backends::{PostgresOptions, PostgresStore};
use ravel_store::{MemoryStore, Store, StoreError};
use tempfile::TempDir;

use super::raw::{self, RawEngine};
use crate::command::Failure;
#[cfg(feature = "postgres")]
use crate::database::DatabaseName;

/// An engine, and for those on other machines where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Site {
    Memory,
    Directory(Engine),
    /// By the connection string.
    #[cfg(feature = "postgres")]
    Postgres(String),
}

pub(super) fn engine(name: &str) -> Result<Site, String> {
    match name {
        "memory" => Ok(Site::Memory),
        name => name.parse().map(Site::Directory).map_err(|_| "expected memory, rocksdb or sled".to_owned()),
    }
}

#[cfg(feature = "postgres")]
pub(super) fn postgres(name: &str) -> Result<Site, String> {
    match name.parse() {
        Ok(DatabaseName::Postgres(url)) => Ok(Site::Postgres(url)),
        _ => Err("expected postgres://USER@HOST/DATABASE".to_owned()),
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.pad("memory"),
            Self::Directory(engine) => f.pad(engine.name()),
            #[cfg(feature = "postgres")]
            Self::Postgres(_) => f.pad("postgres"),
        }
    }
}

/// An empty place for a database, removed when this is dropped.
pub(super) enum Place {
    Memory,
    Directory(Engine, TempDir),
    #[cfg(feature = "postgres")]
    Schema {
        /// Leads to the schema.
        url: String,
        schema: String,
        database: String,
    },
}

impl Site {
    /// Returns an empty place, in a folder if it is a directory.
    pub(super) fn fresh(&self, folder: &Path) -> Result<Place, Failure> {
        Ok(match self {
            Self::Memory => Place::Memory,
            Self::Directory(engine) => Place::Directory(*engine, tempfile::tempdir_in(folder)?),
            #[cfg(feature = "postgres")]
            Self::Postgres(database) => {
                static PLACES: AtomicU32 = AtomicU32::new(0);
                let number = PLACES.fetch_add(1, Ordering::Relaxed);
                let schema = format!("ravel_bench_{}_{number}", std::process::id());
                raw::postgres::execute(database, &format!("CREATE SCHEMA {schema}"))?;
                let separator = if database.contains('?') { '&' } else { '?' };
                let url = format!("{database}{separator}options=-csearch_path%3D{schema}");
                Place::Schema { url, schema, database: database.clone() }
            }
        })
    }
}

impl Place {
    pub(super) fn open(&self) -> Result<Arc<dyn Store>, Failure> {
        let opened: Result<Arc<dyn Store>, StoreError> = match self {
            Self::Memory => Ok(Arc::new(MemoryStore::new())),
            Self::Directory(engine, folder) => engine.open(&folder.path().join("db")),
            #[cfg(feature = "postgres")]
            Self::Schema { url, .. } => {
                PostgresStore::open(url, &PostgresOptions::default()).map(|store| Arc::new(store) as _)
            }
        };
        Ok(opened?)
    }

    /// Opens the bare engine, if there is one.
    pub(super) fn open_raw(&self) -> Result<Option<Box<dyn RawEngine>>, Failure> {
        Ok(match self {
            Self::Directory(Engine::RocksDb, folder) => Some(Box::new(raw::rocksdb::Raw::open(folder.path())?)),
            Self::Directory(Engine::Sled, folder) => Some(Box::new(raw::sled::Raw::open(folder.path())?)),
            #[cfg(feature = "postgres")]
            Self::Schema { url, .. } => Some(Box::new(raw::postgres::Raw::open(url)?)),
            Self::Memory | Self::Directory(..) => None,
        })
    }

    /// Returns where the database is, if it is a directory.
    pub(super) fn directory(&self) -> Option<(Engine, std::path::PathBuf)> {
        match self {
            Self::Directory(engine, folder) => Some((*engine, folder.path().join("db"))),
            _ => None,
        }
    }
}

#[cfg(feature = "postgres")]
impl Drop for Place {
    fn drop(&mut self) {
        if let Self::Schema { schema, database, .. } = self {
            // What can't be dropped is left to whoever owns the database; its name says what it is.
            let _ = raw::postgres::execute(database, &format!("DROP SCHEMA IF EXISTS {schema} CASCADE"));
        }
    }
}
