//! Who may append to a log: its own server, or nobody, as the database was moved, or is a copy that is not finished yet.
//!
//! The head says it, and every append compares the head: so of an append and a seal at the same time one comes first, and an append
//! that comes second is refused. The other database's name is in a record beside the head.

use std::sync::Arc;

use super::{
    EventLog, LogError,
    records::{Head, OtherDatabase, StandingRecord, key},
};
use crate::{Batch, Keyspace, Store, StoreError, StoreExt, codec};

/// Who may append to a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// The server of this database.
    #[default]
    Own,
    /// Nobody: the database was moved.
    Moved {
        /// Where to, by name.
        to: String,
    },
    /// Nobody but the copy that makes it.
    UnfinishedCopy {
        /// Of what, by name.
        of: String,
    },
}

impl Standing {
    /// Returns the error of an append.
    pub(super) fn check(&self) -> Result<(), LogError> {
        match self {
            Self::Own => Ok(()),
            Self::Moved { to } => Err(LogError::Moved { to: to.clone() }),
            Self::UnfinishedCopy { of } => Err(LogError::UnfinishedCopy { of: of.clone() }),
        }
    }

    fn record(&self) -> StandingRecord {
        match self {
            Self::Own => StandingRecord::Own,
            Self::Moved { .. } => StandingRecord::Moved,
            Self::UnfinishedCopy { .. } => StandingRecord::Copy,
        }
    }
}

impl EventLog {
    /// Returns who may append, as it was when the log was opened.
    pub fn standing(&self) -> Standing {
        self.known().standing.clone()
    }

    /// Checks that this log takes appends, for those who would rather know before they begin.
    ///
    /// # Errors
    ///
    /// `Moved`, `UnfinishedCopy`.
    pub fn check_appendable(&self) -> Result<(), LogError> {
        self.known().standing.check()
    }
}

/// Makes a log take no more appends, as its database is moved to another, durably; nothing if that was done before. Returns the
/// number of its entries, which stays as it is from now on.
///
/// # Errors
///
/// When the store fails, the log was moved elsewhere, or it is a copy that is not finished.
pub async fn seal(store: &Arc<dyn Store>, to: &str) -> Result<u64, LogError> {
    let moved = Standing::Moved { to: to.to_owned() };
    change(store, &moved, |now| match now {
        Standing::Own => Ok(()),
        Standing::Moved { to: elsewhere } if elsewhere != to => Err(LogError::Moved { to: elsewhere.clone() }),
        Standing::Moved { .. } => Ok(()),
        Standing::UnfinishedCopy { of } => Err(LogError::UnfinishedCopy { of: of.clone() }),
    })
    .await
}

/// Makes an empty log, or one that is such a copy already, take no other entries than those of another log.
///
/// # Errors
///
/// When the store fails; `Overtaken` if it has entries of its own, which a copy may not mix with others.
pub(super) async fn begin_copy(store: &Arc<dyn Store>, of: &str) -> Result<u64, LogError> {
    let copy = Standing::UnfinishedCopy { of: of.to_owned() };
    change(store, &copy, |_| Ok(())).await
}

/// Makes a copy that is whole a log of its own.
///
/// # Errors
///
/// When the store fails.
pub(super) async fn end_copy(store: &Arc<dyn Store>) -> Result<u64, LogError> {
    change(store, &Standing::Own, |_| Ok(())).await
}

/// Changes the standing, unless `check` refuses the one that is found.
async fn change(
    store: &Arc<dyn Store>,
    to: &Standing,
    check: impl Fn(&Standing) -> Result<(), LogError>,
) -> Result<u64, LogError> {
    loop {
        let stored = store.get(Keyspace::Meta, key::HEAD).await?;
        let head = match &stored {
            Some(bytes) => codec::decode::<Head>(key::HEAD, bytes)?,
            None => Head::default(),
        };
        let now = standing(store, head.standing).await?;
        check(&now)?;
        if now == *to {
            // What is found may not be durable yet.
            store.flush().await?;
            return Ok(head.next_sequence);
        }
        let mut batch = Batch::new();
        match stored {
            Some(bytes) => batch.guard_equals(Keyspace::Meta, key::HEAD, bytes),
            None => batch.guard_absent(Keyspace::Meta, key::HEAD),
        };
        let changed = Head { standing: to.record(), ..head.clone() };
        if changed == Head::default() {
            batch.delete(Keyspace::Meta, key::HEAD);
        } else {
            batch.put_record(key::HEAD, &changed)?;
        }
        batch.delete(Keyspace::Meta, key::MOVED_TO).delete(Keyspace::Meta, key::COPY_OF);
        match to {
            Standing::Own => {}
            Standing::Moved { to } => {
                batch.put_record(key::MOVED_TO, &OtherDatabase { name: to.clone() })?;
            }
            Standing::UnfinishedCopy { of } => {
                batch.put_record(key::COPY_OF, &OtherDatabase { name: of.clone() })?;
            }
        }
        // Appends may come first for a while: each is an event more, so they do not go on for ever unless events do.
        if store.commit(batch).await?.is_written() {
            return Ok(head.next_sequence);
        }
    }
}

/// Completes what the head says by the other database's name.
pub(super) async fn standing(store: &Arc<dyn Store>, record: StandingRecord) -> Result<Standing, StoreError> {
    let key = match record {
        StandingRecord::Own => return Ok(Standing::Own),
        StandingRecord::Moved => key::MOVED_TO,
        StandingRecord::Copy => key::COPY_OF,
    };
    let other = store.get_record::<OtherDatabase>(key).await?;
    let name = other.map_or_else(|| "another database".to_owned(), |other| other.name);
    Ok(match record {
        StandingRecord::Copy => Standing::UnfinishedCopy { of: name },
        _ => Standing::Moved { to: name },
    })
}

/// Returns what the records beside the head say, for a head that is made anew.
pub(super) async fn recorded_standing(store: &Arc<dyn Store>) -> Result<StandingRecord, StoreError> {
    Ok(if store.get(Keyspace::Meta, key::MOVED_TO).await?.is_some() {
        StandingRecord::Moved
    } else if store.get(Keyspace::Meta, key::COPY_OF).await?.is_some() {
        StandingRecord::Copy
    } else {
        StandingRecord::Own
    })
}

/// Returns who may append by the head that an append found instead of the one it knew: if it is its own log, another writer was
/// faster.
pub(super) async fn found_standing(store: &Arc<dyn Store>, found: Option<&[u8]>) -> Result<Standing, StoreError> {
    match found {
        Some(found) => standing(store, codec::decode::<Head>(key::HEAD, found)?.standing).await,
        None => Ok(Standing::Own),
    }
}
