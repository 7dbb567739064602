use std::{future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;

use crate::{
    Batch, BoundedBy, Committed, GET_KEYS_MAX, KEY_BYTES_MAX, Keyspace, Page, Record, Scan, StoreError, Watch,
    batch::check, codec,
};

/// What the methods of a store return; does nothing until it is polled, needs no particular runtime.
pub type StoreFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Ordered keys and values in named keyspaces, with atomic, guarded and durable batches.
///
/// The module `conformance` (feature `testing`) tests each of the duties below.
///
/// # Atomicity
/// A batch is written whole or not at all: for every reader, after every crash, after every error. Its operations take
/// effect in the order they were added; a range delete removes what was put before it in the same batch, and not what is put
/// after it. Its guards are checked against the state just before the batch, with no other commit in between. A guard that
/// does not hold is no error: nothing is written and [`Committed::Refused`] names the first such guard.
///
/// # Durability on return
/// When [`commit`](Self::commit) of a batch with [`Durability::Sync`](crate::Durability::Sync), the default, has returned
/// `Written`, the batch survives `kill -9` of the process and loss of power, as long as the disk keeps what it acknowledged;
/// a `Refused` speaks of a state that is durable too. After `Relaxed` it may be lost until a later `Sync` commit or
/// [`flush`](Self::flush) has returned, whoever asked for it. What a crash takes is always the newest end: a commit survives
/// only together with all commits before it. Commits that wait at the same time share one sync.
///
/// # Visibility
/// A read that starts after a commit returned sees it. Commits have one order, the same for all readers. A read may see a
/// commit a moment before it is durable: who promises something to the outside waits for his own commit, or bounds his
/// reading by a log position he knows to be committed.
///
/// # Order of scans
/// Keys are compared byte by byte as unsigned numbers, a key before all that extend it. A forward scan ascends, a backward
/// scan descends through the very same items.
///
/// # Pages and commits between them
/// One page, and one look-up of many keys, shows one moment between two commits. Two pages of one scan may show different
/// moments: a key that is there all the while is seen exactly once; a key that is put or deleted between two pages may or
/// may not be seen, but no key is seen twice or out of order. A page ends at its limits; [`Page::next`] is `None` exactly
/// if nothing was left then.
///
/// # Errors lose nothing
/// An error of a read changes nothing. When `commit` returns an error, the batch was written whole or not at all, and nobody
/// knows which until the store is opened again; everything committed earlier is untouched. If the error leaves it open
/// whether earlier commits are durable (a failed sync), the store takes no more commits
/// ([`StoreError::Halted`]) rather than acknowledge one it cannot vouch for. Bounds are checked first: nothing that is
/// `TooLarge` reaches the engine.
///
/// # Cancellation
/// A commit that was never polled does nothing. One that is dropped later is written whole or not at all.
///
/// # Back-pressure
/// A backend that queues commits bounds the queue in bytes (its option `commit_queue_bytes`): a commit that does not fit waits,
/// in the order in which commits were first polled, until those before it are done. A batch that is larger than the bound is
/// let in once the queue is empty. Dropping a commit that waits gives up its place, and nothing of it is written. A commit that
/// was polled once has to be polled on or dropped: those behind it wait for it.
///
/// # Blocking
/// Futures are ready at once for what is in memory. Backends on disk wait for syncs on a thread of their own.
pub trait Store: Send + Sync + 'static {
    /// Writes a batch if its guards hold; waits before that while too much is queued (see "Back-pressure").
    ///
    /// # Errors
    /// `TooLarge` before anything is done; `Full`, `Io`, `Halted`, `Corrupt` as under "Errors lose nothing". From stores on
    /// other machines also `Overtaken`, `OutcomeUnknown`, `ReadOnly`.
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed>;

    /// Makes all commits that returned before this call durable.
    ///
    /// # Errors
    /// `Full`, `Io`, `Halted`.
    fn flush(&self) -> StoreFuture<'_, ()>;

    /// Returns the values of `keys`, in the order of the keys, `None` where nothing is stored; a key may occur twice.
    ///
    /// # Errors
    /// `TooLarge` for more than [`GET_KEYS_MAX`] keys or too long a key; `Io`, `Corrupt`.
    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>>;

    /// Returns one page of a range.
    ///
    /// # Errors
    /// `TooLarge` for too long an end of the range; `Io`, `Corrupt`.
    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page>;

    /// Returns a handle that tells of commits, from this call on, that touch a key starting with `prefix`.
    ///
    /// What the watcher reads after it was woken includes the commit that woke it.
    fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch;

    /// Returns what kind of store this is and how large.
    ///
    /// # Errors
    /// `Io`.
    fn describe(&self) -> StoreFuture<'_, Description>;

    /// Gives the space of what was deleted and replaced back to the disk now, where the engine would only do it in time; nothing
    /// where it has no such thing. May take as long as writing everything once. Reads and commits go on.
    ///
    /// # Errors
    /// `Io`, `Full`.
    fn compact(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// What kind of store it is and how large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Name of the engine, as in the marker of its directory.
    pub engine: &'static str,
    /// Layout version of its directory, `None` if it keeps none.
    pub layout: Option<u32>,
    /// Bytes on disk, as far as the engine knows; 0 for a store in memory.
    pub size_on_disk: u64,
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
        (**self).commit(batch)
    }
    fn flush(&self) -> StoreFuture<'_, ()> {
        (**self).flush()
    }
    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
        (**self).get_many(keyspace, keys)
    }
    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
        (**self).scan(scan)
    }
    fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
        (**self).watch(keyspace, prefix)
    }
    fn describe(&self) -> StoreFuture<'_, Description> {
        (**self).describe()
    }
    fn compact(&self) -> StoreFuture<'_, ()> {
        (**self).compact()
    }
}

/// What every store can do by means of the few methods it has.
pub trait StoreExt: Store {
    /// Returns the value of one key.
    ///
    /// # Errors
    /// Those of [`Store::get_many`].
    fn get(&self, keyspace: Keyspace, key: impl Into<Bytes>) -> StoreFuture<'_, Option<Bytes>> {
        let key = key.into();
        Box::pin(async move { Ok(self.get_many(keyspace, &[key]).await?.pop().flatten()) })
    }

    /// Returns the record of one key, from the record's keyspace.
    ///
    /// # Errors
    /// Those of [`Store::get_many`] and of [`codec::decode`].
    fn get_record<R: Record>(&self, key: impl Into<Bytes>) -> StoreFuture<'_, Option<R>> {
        let key = key.into();
        Box::pin(async move {
            let value = self.get_many(R::KEYSPACE, std::slice::from_ref(&key)).await?.pop().flatten();
            value.map(|value| codec::decode(&key, &value)).transpose()
        })
    }

    /// Returns all items of a range by reading page after page; for ranges known to be small.
    ///
    /// # Errors
    /// Those of [`Store::scan`].
    fn scan_all(&self, scan: Scan) -> StoreFuture<'_, Vec<(Bytes, Bytes)>> {
        Box::pin(async move {
            let mut items = Vec::new();
            let mut scan = Some(scan);
            while let Some(asked) = scan.take() {
                let page = self.scan(asked.clone()).await?;
                items.extend(page.items);
                scan = page.next.map(|cursor| asked.after(&cursor));
            }
            Ok(items)
        })
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

/// Checks the bounds of a look-up; every backend calls this first.
///
/// # Errors
/// `TooLarge`.
pub fn check_keys(keys: &[Bytes]) -> Result<(), StoreError> {
    check(BoundedBy::Keys, keys.len(), GET_KEYS_MAX)?;
    keys.iter().try_for_each(|key| check(BoundedBy::Key, key.len(), KEY_BYTES_MAX))
}
