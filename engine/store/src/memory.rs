use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
};

use bytes::Bytes;

use crate::{
    Batch, Committed, Description, Direction, KeyRange, Keyspace, Op, Page, PageBuilder, Scan, Store, StoreError,
    StoreFuture, Watch, check_keys, watch::Watchers,
};

/// The store in memory: the reference the others are compared with, and what most tests run on.
///
/// Nothing survives the process. Clones are handles to the same data; that is what "opening again" means here.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

impl MemoryStore {
    /// Makes an empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn read<T>(&self, keyspace: Keyspace, read: impl FnOnce(&BTreeMap<Bytes, Bytes>) -> T) -> T {
        let spaces = self.shared.spaces.read().unwrap_or_else(PoisonError::into_inner);
        read(spaces.get(&keyspace).unwrap_or(&BTreeMap::new()))
    }

    fn commit_now(&self, batch: &Batch) -> Result<Committed, StoreError> {
        batch.check_bounds()?;
        let mut spaces = self.shared.spaces.write().unwrap_or_else(PoisonError::into_inner);
        let failed =
            batch.failed_guard(|keyspace, key| Ok(spaces.get(&keyspace).and_then(|space| space.get(key).cloned())))?;
        if let Some(failed) = failed {
            return Ok(Committed::Refused(failed));
        }
        for op in batch.ops() {
            match op {
                Op::Put { keyspace, key, value } => {
                    // Copies, so that a small value does not keep alive the large buffer it is a slice of.
                    let item = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                    spaces.entry(*keyspace).or_default().extend([item]);
                }
                Op::Delete { keyspace, key } => {
                    spaces.entry(*keyspace).or_default().remove(key);
                }
                Op::DeleteRange { keyspace, range } => delete_range(spaces.entry(*keyspace).or_default(), range),
            }
        }
        drop(spaces);
        self.shared.watchers.notify(batch);
        Ok(Committed::Written)
    }

    fn page(&self, scan: &Scan) -> Result<Page, StoreError> {
        scan.range.check_bounds()?;
        let mut page = PageBuilder::new(scan.limits);
        if scan.range.is_empty() {
            return Ok(page.finish());
        }
        self.read(scan.keyspace, |space| {
            let mut items = space.range::<[u8], _>(scan.range.bounds());
            while let Some((key, value)) = match scan.direction {
                Direction::Forward => items.next(),
                Direction::Backward => items.next_back(),
            } {
                if !page.fits(key.len(), value.len()) {
                    break;
                }
                page.push(key.clone(), value.clone());
            }
        });
        Ok(page.finish())
    }
}

impl Store for MemoryStore {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
        Box::pin(async move { self.commit_now(&batch) })
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
        Box::pin(async move {
            check_keys(keys)?;
            Ok(self.read(keyspace, |space| keys.iter().map(|key| space.get(key).cloned()).collect()))
        })
    }

    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
        Box::pin(async move { self.page(&scan) })
    }

    fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
        self.shared.watchers.watch(keyspace, prefix)
    }

    fn describe(&self) -> StoreFuture<'_, Description> {
        Box::pin(async { Ok(Description { engine: "memory", layout: None, size_on_disk: 0 }) })
    }
}

#[derive(Debug, Default)]
struct Shared {
    spaces: RwLock<BTreeMap<Keyspace, BTreeMap<Bytes, Bytes>>>,
    watchers: Watchers,
}

fn delete_range(space: &mut BTreeMap<Bytes, Bytes>, range: &KeyRange) {
    if range.is_empty() {
        return;
    }
    let mut tail = space.split_off(&range.start);
    if let Some(end) = &range.end {
        space.append(&mut tail.split_off(end));
    }
}

#[cfg(all(test, feature = "testing"))]
mod tests {
    use super::*;
    use crate::conformance::StoreBuilder;

    struct MemoryBuilder;

    impl StoreBuilder for MemoryBuilder {
        type Store = MemoryStore;
        type Place = MemoryStore;

        fn place() -> MemoryStore {
            MemoryStore::new()
        }

        fn open(place: &MemoryStore) -> Result<MemoryStore, StoreError> {
            Ok(place.clone())
        }
    }

    crate::conformance_tests!(MemoryBuilder);
}
