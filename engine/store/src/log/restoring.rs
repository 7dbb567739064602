//! Logs that a backup is being restored into: not for use before all of it is there.

use std::sync::Arc;

use super::{EventLog, LogError, commit, records::key};
use crate::{Batch, Durability, Keyspace, Store, StoreExt};

impl EventLog {
    /// Opens a log as [`open`](Self::open) does, also one whose restore was interrupted.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open) but `Restoring`.
    pub async fn open_to_restore(store: Arc<dyn Store>) -> Result<Self, LogError> {
        Self::open_to_restore_with_progress(store, |_, _| {}).await
    }

    /// Notes, durably, that a restore begins: until [`end_restore`](Self::end_restore), [`open`](Self::open) refuses the log.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn begin_restore(&self) -> Result<(), LogError> {
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, key::RESTORING, &[][..]).durability(Durability::Sync);
        commit(&self.store, batch).await
    }

    /// Makes all that was restored durable, and then notes that it is complete.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn end_restore(&self) -> Result<(), LogError> {
        self.store.flush().await?;
        let mut batch = Batch::new();
        batch.delete(Keyspace::Meta, key::RESTORING).durability(Durability::Sync);
        commit(&self.store, batch).await
    }

    /// Whether a restore began and did not end.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn is_being_restored(&self) -> Result<bool, LogError> {
        Ok(self.store.get(Keyspace::Meta, key::RESTORING).await?.is_some())
    }
}
