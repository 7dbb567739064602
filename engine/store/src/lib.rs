//! Storage of a Matrix homeserver: one small trait, and what all of its backends share.
//!
//! A [`Store`] holds ordered keys and values in a few named [`Keyspace`]s. It takes [`Batch`]es of puts, deletes and range
//! deletes, all or nothing, with guards; it answers look-ups ([`Store::get_many`]) and pages of a [`Scan`]; it wakes those
//! who [`watch`](Store::watch) a prefix. The trait writes down every duty under a heading; the module `conformance`
//! (feature `testing`) tests each, and a backend passes it in one line.
//!
//! [`MemoryStore`] is the reference. The backends on disk live in the crate `ravel-backends`; what they share (the marker
//! file that says whose directory it is, the lock) is in [`directory`].
//!
//! What a value holds is encoded by [`codec`], and the [`log`] has the records and their keys; `docs/data-layout.md` draws both.
#![forbid(unsafe_code)]

pub mod codec;
#[cfg(feature = "testing")]
pub mod conformance;
pub mod directory;
#[cfg(feature = "testing")]
pub mod faulty;
pub mod log;
pub mod watch;

mod batch;
mod error;
mod keyspace;
mod memory;
mod scan;
mod store;

pub use batch::{Batch, Committed, Durability, FailedGuard, Guard, Op};
pub use codec::Record;
pub use error::{BoundedBy, ForeignReason, Operation, ShortKey, Source, StoreError};
pub use keyspace::Keyspace;
pub use memory::MemoryStore;
pub use scan::{Direction, KeyRange, Limits, Page, PageBuilder, Scan};
pub use store::{Description, Store, StoreExt, StoreFuture, check_keys};
pub use watch::Watch;

pub use bytes::Bytes;

/// Waits for a future on the calling thread, for code that runs outside of any runtime (the command line, tests).
///
/// Must not be called on a thread that drives other futures: it would block them.
pub use pollster::block_on;

/// Length of the longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1024;
/// Length of the longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Size of the largest batch, in bytes as [`Batch::size_bytes`] counts them.
pub const BATCH_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Most keys one [`Store::get_many`] takes.
pub const GET_KEYS_MAX: usize = 16_384;
/// Most items one page of a scan holds, whatever was asked for.
pub const PAGE_ITEMS_MAX: usize = 65_536;
/// Most bytes of keys and values one page of a scan holds, whatever was asked for (one item always fits).
pub const PAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
