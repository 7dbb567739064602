//! The bound on what waits to be committed, in bytes.

use std::sync::Arc;

use ravel_store::{Batch, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many bytes of batches a store lets wait by default: 64 MiB.
pub const COMMIT_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Lets batches in, in the order in which they ask, for as long as they are not too large together.
#[derive(Debug)]
pub(crate) struct QueueBound {
    bytes: u32,
    free: Arc<Semaphore>,
}

/// What a batch takes of the bound until it is dropped.
#[derive(Debug)]
pub(crate) struct QueuePlace {
    _taken: OwnedSemaphorePermit,
}

impl QueueBound {
    /// `bytes` is at least 1 and below 4 GiB; what is not, counts as the nearest that is.
    pub(crate) fn new(bytes: usize) -> Self {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).max(1);
        // An u32 is an usize wherever RocksDB and the others run.
        Self { bytes, free: Arc::new(Semaphore::new(usize::try_from(bytes).unwrap_or(Semaphore::MAX_PERMITS))) }
    }

    /// Waits until there is room for a batch; one that is larger than the bound takes all of it.
    ///
    /// Dropping the future gives up the place in the order and what was taken.
    ///
    /// # Errors
    /// `Closed`, though nobody closes a bound.
    pub(crate) async fn enter(&self, batch: &Batch) -> Result<QueuePlace, StoreError> {
        let size = batch.size_bytes().saturating_add(REQUEST_BYTES);
        let size = u32::try_from(size).unwrap_or(u32::MAX).min(self.bytes);
        let taken = Arc::clone(&self.free).acquire_many_owned(size).await.map_err(|_| StoreError::Closed)?;
        Ok(QueuePlace { _taken: taken })
    }
}

/// What a batch counts beside its own size, so that empty ones have a bound, too.
const REQUEST_BYTES: usize = 128;
