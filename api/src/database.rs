//! Databases by name, as they are given on the command line.

use std::{fmt, io, path::PathBuf, str::FromStr, sync::Arc};

use ravel_backends::Engine;
use ravel_store::{MemoryStore, Store, StoreError};

/// `rocksdb:DIR`, `sled:DIR` or `memory`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseName {
    /// In this process's memory, gone when it ends.
    Memory,
    /// A directory.
    Directory(Engine, PathBuf),
}

/// Not the name of a database.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidName {
    #[error("expected rocksdb:DIR, sled:DIR or memory")]
    NoEngine,
    #[error("there is no engine {0:?}; expected rocksdb:DIR, sled:DIR or memory")]
    UnknownEngine(String),
    #[error("the directory is missing after {0}:")]
    NoDirectory(Engine),
}

/// Why a database can't be opened.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum OpenError {
    #[error("{name} can't be opened: {source}")]
    Store {
        name: DatabaseName,
        #[source]
        source: StoreError,
    },
    #[error("there is no database {name}; `ravel replay FILE --database {name}` makes one")]
    Missing { name: DatabaseName },
    #[error("{name} can't be looked at: {source}")]
    Io {
        name: DatabaseName,
        #[source]
        source: io::Error,
    },
    #[error(
        "a database in memory ends with the command that made it, so there is nothing to look at: name a directory"
    )]
    Memory,
}

impl OpenError {
    /// Whether another name might help: there is no such database, or it is not ours to open.
    pub fn is_wrong_name(&self) -> bool {
        match self {
            Self::Store { source, .. } => matches!(
                source,
                StoreError::Foreign { .. } | StoreError::NewerFormat { .. } | StoreError::Locked { .. }
            ),
            Self::Missing { .. } | Self::Io { .. } | Self::Memory => true,
        }
    }
}

impl DatabaseName {
    /// Opens the database, making it if it is not there.
    ///
    /// # Errors
    ///
    /// When the directory is another's or is damaged, or the engine fails.
    pub fn open_or_create(&self) -> Result<Arc<dyn Store>, OpenError> {
        match self {
            Self::Memory => Ok(Arc::new(MemoryStore::new())),
            Self::Directory(engine, path) => {
                engine.open(path).map_err(|source| OpenError::Store { name: self.clone(), source })
            }
        }
    }

    /// Opens a database that must be there.
    ///
    /// # Errors
    ///
    /// As [`open_or_create`](Self::open_or_create), and when it is not there.
    pub fn open_existing(&self) -> Result<Arc<dyn Store>, OpenError> {
        let Self::Directory(_, path) = self else { return Err(OpenError::Memory) };
        let mut entries = match path.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OpenError::Missing { name: self.clone() });
            }
            // A file: the engine refuses it and says why.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => return self.open_or_create(),
            Err(source) => return Err(OpenError::Io { name: self.clone(), source }),
        };
        if entries.next().is_none() {
            return Err(OpenError::Missing { name: self.clone() });
        }
        self.open_or_create()
    }
}

impl FromStr for DatabaseName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        if name == "memory" {
            return Ok(Self::Memory);
        }
        let (engine, directory) = name.split_once(':').ok_or(InvalidName::NoEngine)?;
        let engine: Engine = engine.parse().map_err(|_| InvalidName::UnknownEngine(engine.to_owned()))?;
        if directory.is_empty() {
            return Err(InvalidName::NoDirectory(engine));
        }
        Ok(Self::Directory(engine, directory.into()))
    }
}

impl fmt::Display for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Directory(engine, path) => write!(f, "{engine}:{}", path.display()),
        }
    }
}
