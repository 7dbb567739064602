//! Databases by name, as they are given on the command line.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use ravel_backends::Engine;
#[cfg(unix)]
use ravel_backends::live::{self, RemoteStore};
#[cfg(feature = "postgres")]
use ravel_backends::{Access, PostgresOptions, PostgresStore};
#[cfg(feature = "postgres")]
use ravel_store::ForeignReason;
use ravel_store::{MemoryStore, Store, StoreError, block_on};

use crate::command::Failure;

/// `rocksdb:DIR`, `sled:DIR`, `memory`, or built with the feature `postgres` also `postgres://USER@HOST/DATABASE`.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseName {
    /// In this process's memory, gone when it ends.
    Memory,
    /// A directory.
    Directory(Engine, PathBuf),
    /// A schema of a PostgreSQL database, by its connection string, which may have a password in it.
    #[cfg(feature = "postgres")]
    Postgres(String),
}

/// What names are expected.
#[cfg(not(feature = "postgres"))]
const EXPECTED: &str = "rocksdb:DIR, sled:DIR or memory";
/// What names are expected.
#[cfg(feature = "postgres")]
const EXPECTED: &str = "rocksdb:DIR, sled:DIR, postgres://USER@HOST/DATABASE or memory";

/// Not the name of a database.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum InvalidName {
    #[error("expected {EXPECTED}")]
    NoEngine,
    #[error("there is no engine {0:?}; expected {EXPECTED}")]
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

/// A database opened for reading.
pub enum Reading {
    /// By this process, which could write to it, too.
    Here(Arc<dyn Store>),
    /// By another process, which answers over its socket.
    #[cfg(unix)]
    There(Arc<RemoteStore>),
}

impl Reading {
    /// Returns the store.
    pub fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Here(store) => store.clone(),
            #[cfg(unix)]
            Self::There(store) => store.clone(),
        }
    }
}

/// How long a process that opened a directory may take until it answers at its socket.
const SOCKET_WAIT: Duration = Duration::from_millis(500);

impl DatabaseName {
    /// Opens the database, making it if it is not there. Other processes can read it from now on.
    ///
    /// # Errors
    ///
    /// When the directory is another's or is damaged, or the engine fails.
    pub fn open_or_create(&self) -> Result<Arc<dyn Store>, OpenError> {
        match self {
            Self::Memory => Ok(Arc::new(MemoryStore::new())),
            Self::Directory(engine, path) => {
                let store = self.open_directory(*engine, path)?;
                Ok(serve(&store, path).unwrap_or_else(|why| {
                    // Whoever only reads is not told: for him it makes no difference.
                    eprintln!("ravel: note: {why}");
                    store
                }))
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => open_postgres(self, url, Access::Write),
        }
    }

    /// Returns the name that is the same wherever this process runs: directories from the root on.
    pub fn absolute(&self) -> Self {
        match self {
            // There is none only for an empty path.
            Self::Directory(engine, path) => {
                Self::Directory(*engine, std::path::absolute(path).unwrap_or_else(|_| path.clone()))
            }
            other => other.clone(),
        }
    }

    /// Whether both name the same database. Of those in memory, each has its own.
    pub fn is_same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Memory, _) => false,
            (Self::Directory(_, one), Self::Directory(_, another)) => {
                let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
                resolved(one) == resolved(another)
            }
            _ => self == other,
        }
    }

    /// Where opening for writing shuts out whoever writes, which is so in PostgreSQL: hands what is there to `check` before that is done.
    ///
    /// # Errors
    ///
    /// Those of `check`, and when it can't be opened for reading.
    pub fn check_before_taking_over<E>(
        &self,
        check: impl FnOnce(Arc<dyn Store>) -> Result<(), E>,
    ) -> Result<(), Failure>
    where
        Failure: From<E>,
    {
        if matches!(self, Self::Memory | Self::Directory(..)) {
            return Ok(());
        }
        match self.open_to_read() {
            Ok(store) => Ok(check(store)?),
            Err(OpenError::Missing { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes the log of this database, which is open for reading, take no more appends; see [`ravel_store::log::seal`]. Returns the
    /// number of its entries.
    ///
    /// # Errors
    ///
    /// Those of the seal; in PostgreSQL, when it can't be opened for writing.
    pub fn seal(&self, reading: &Reading, to: &str) -> Result<u64, Failure> {
        let store = match (self, reading) {
            #[cfg(unix)]
            (_, Reading::There(remote)) => return Ok(remote.seal(to)?),
            (Self::Memory | Self::Directory(..), Reading::Here(store)) => store.clone(),
            #[cfg(feature = "postgres")]
            (Self::Postgres(_), Reading::Here(_)) => self.open_or_create()?,
        };
        Ok(block_on(ravel_store::log::seal(&store, to))?)
    }

    fn open_directory(&self, engine: Engine, path: &Path) -> Result<Arc<dyn Store>, OpenError> {
        engine.open(path).map_err(|source| OpenError::Store { name: self.clone(), source })
    }

    /// Opens a database that must be there, to read it, while others may write to it: in PostgreSQL, or through the process that
    /// has the directory open.
    ///
    /// # Errors
    ///
    /// As [`open_or_create`](Self::open_or_create), and when it is not there.
    pub fn open_to_read(&self) -> Result<Arc<dyn Store>, OpenError> {
        Ok(self.open_reading()?.store())
    }

    /// As [`open_to_read`](Self::open_to_read), and tells who has the database open.
    ///
    /// # Errors
    ///
    /// Those of [`open_to_read`](Self::open_to_read).
    pub fn open_reading(&self) -> Result<Reading, OpenError> {
        let (engine, path) = match self {
            Self::Memory => return Err(OpenError::Memory),
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => return Ok(Reading::Here(open_postgres(self, url, Access::Read)?)),
            Self::Directory(engine, path) => (engine, path),
        };
        self.check_is_there(path)?;
        let began = Instant::now();
        loop {
            let locked = match self.open_directory(*engine, path) {
                Ok(store) => return Ok(Reading::Here(serve(&store, path).unwrap_or(store))),
                Err(error @ OpenError::Store { source: StoreError::Locked { .. }, .. }) => error,
                Err(error) => return Err(error),
            };
            #[cfg(unix)]
            match RemoteStore::connect(path) {
                Ok(Some(remote)) => return Ok(Reading::There(Arc::new(remote))),
                Ok(None) => {}
                Err(source) => return Err(OpenError::Store { name: self.clone(), source }),
            }
            // It may be about to listen, or to end.
            if began.elapsed() >= SOCKET_WAIT {
                return Err(locked);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Opens a database that must be there, to write to it. One in PostgreSQL is taken over from its writer.
    ///
    /// # Errors
    ///
    /// As [`open_or_create`](Self::open_or_create), and when it is not there.
    pub fn open_existing(&self) -> Result<Arc<dyn Store>, OpenError> {
        let path = match self {
            Self::Memory => return Err(OpenError::Memory),
            Self::Directory(_, path) => path,
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => {
                // First without making anything.
                open_postgres(self, url, Access::Read)?;
                return self.open_or_create();
            }
        };
        self.check_is_there(path)?;
        self.open_or_create()
    }

    /// Checks that there is something under a path, without making anything.
    fn check_is_there(&self, path: &Path) -> Result<(), OpenError> {
        match path.read_dir() {
            Ok(mut entries) => match entries.next() {
                Some(_) => Ok(()),
                None => Err(OpenError::Missing { name: self.clone() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(OpenError::Missing { name: self.clone() }),
            // A file: the engine refuses it and says why.
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => Ok(()),
            Err(source) => Err(OpenError::Io { name: self.clone(), source }),
        }
    }
}

/// Lets other processes read the database of a directory.
#[cfg(unix)]
fn serve(store: &Arc<dyn Store>, path: &Path) -> Result<Arc<dyn Store>, live::ServeError> {
    Ok(Arc::new(live::serve(store.clone(), path)?))
}

/// Lets other processes read the database of a directory: not on this system.
#[cfg(not(unix))]
fn serve(store: &Arc<dyn Store>, _path: &Path) -> Result<Arc<dyn Store>, std::convert::Infallible> {
    Ok(store.clone())
}

#[cfg(feature = "postgres")]
fn open_postgres(name: &DatabaseName, url: &str, access: Access) -> Result<Arc<dyn Store>, OpenError> {
    let options = PostgresOptions { access, ..PostgresOptions::default() };
    match PostgresStore::open(url, &options) {
        Ok(store) => Ok(Arc::new(store)),
        Err(StoreError::Foreign { reason: ForeignReason::Empty, .. }) => Err(OpenError::Missing { name: name.clone() }),
        Err(source) => Err(OpenError::Store { name: name.clone(), source }),
    }
}

impl FromStr for DatabaseName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        if name == "memory" {
            return Ok(Self::Memory);
        }
        #[cfg(feature = "postgres")]
        if name.starts_with("postgres://") || name.starts_with("postgresql://") {
            return Ok(Self::Postgres(name.to_owned()));
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
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => f.write_str(&without_secrets(url)),
        }
    }
}

impl fmt::Debug for DatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns a connection string without the user's password and without parameters, which may have one, too.
#[cfg(feature = "postgres")]
fn without_secrets(url: &str) -> String {
    let url = url.split_once('?').map_or(url, |(url, _)| url);
    let Some((scheme, rest)) = url.split_once("://") else { return "postgres".to_owned() };
    match rest.rsplit_once('@') {
        Some((user, rest)) => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{scheme}://{user}@{rest}")
        }
        None => url.to_owned(),
    }
}

#[cfg(all(test, feature = "postgres"))]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("postgres://host/db", "postgres://host/db"),
            ("postgres://user:p@ss:w/rd@host:77/db?password=x", "postgres://user@host:77/db"),
            ("postgresql://user@/db?host=/run", "postgresql://user@/db"),
        ] {
            let name: DatabaseName = url.parse().unwrap();
            assert_eq!((name.to_string().as_str(), format!("{name:?}").as_str()), (shown, shown));
        }
        assert!(matches!("postgres:x".parse::<DatabaseName>(), Err(InvalidName::UnknownEngine(_))));
    }
}
