//! The engines without Ravel: what they do with the same keys and bytes.

#[cfg(feature = "postgres")]
pub(super) mod postgres;
pub(super) mod rocksdb;
pub(super) mod sled;

use ravel_store::{Bytes, KeyRange, Keyspace, Op};

use crate::command::Failure;

/// A bare engine, open.
pub(super) trait RawEngine: Sync {
    /// Returns what one thread writes by.
    fn writer(&self) -> Result<Box<dyn RawWriter>, Failure>;

    /// Looks up a key.
    fn get(&self, keyspace: Keyspace, key: &Bytes) -> Result<(), Failure>;

    /// Reads the last items of a range of a timeline, and the log entries that they name.
    fn page(&self, range: &KeyRange, items: usize) -> Result<(), Failure>;

    /// Reads all entries of the log; returns how many there are.
    fn read_log(&self) -> Result<usize, Failure>;
}

/// Writes to a bare engine.
pub(super) trait RawWriter: Send {
    /// Durable on return, as is all that was written before.
    fn write(&mut self, ops: &[Op]) -> Result<(), Failure>;

    /// Not durable until something is that is written later.
    fn write_relaxed(&mut self, ops: &[Op]) -> Result<(), Failure>;
}

/// Returns what is put.
fn puts(ops: &[Op]) -> impl Iterator<Item = (Keyspace, &Bytes, &Bytes)> {
    ops.iter().filter_map(|op| match op {
        Op::Put { keyspace, key, value } => Some((*keyspace, key, value)),
        // An append has no others.
        Op::Delete { .. } | Op::DeleteRange { .. } => None,
    })
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::BareEngine(Box::new(error))
}

/// Something that was written is not there.
#[derive(Debug, thiserror::Error)]
#[error("a key that was written is not there")]
struct Missing;
