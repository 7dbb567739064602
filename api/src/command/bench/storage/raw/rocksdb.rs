//! RocksDB, with the options that Ravel gives it.

use std::{path::Path, sync::Arc};

use ravel_backends::{RocksDbOptions, rocksdb::engine_options};
use ravel_store::{Bytes, KeyRange, Keyspace, Op};
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, ReadOptions, WriteBatch, WriteOptions};

use super::{Missing, RawEngine, RawWriter, failed, puts};
use crate::command::{Failure, bench::storage::workload::log_key};

pub(in crate::command::bench::storage) struct Raw(Arc<DB>);

impl Raw {
    pub(in crate::command::bench::storage) fn open(path: &Path) -> Result<Self, Failure> {
        let path = path.join("raw");
        let (db, options) = engine_options(&path, &RocksDbOptions::default())?;
        let family = |keyspace: &Keyspace| ColumnFamilyDescriptor::new(keyspace.name(), options.of(*keyspace).clone());
        let families = Keyspace::ALL.iter().map(family);
        Ok(Self(Arc::new(DB::open_cf_descriptors(&db, path, families).map_err(failed)?)))
    }
}

fn family(db: &DB, keyspace: Keyspace) -> Result<&ColumnFamily, Failure> {
    db.cf_handle(keyspace.name()).ok_or_else(|| failed(Missing))
}

impl RawEngine for Raw {
    fn writer(&self) -> Result<Box<dyn RawWriter>, Failure> {
        Ok(Box::new(Writer(Arc::clone(&self.0))))
    }

    fn get(&self, keyspace: Keyspace, key: &Bytes) -> Result<(), Failure> {
        let found = self.0.get_cf(family(&self.0, keyspace)?, key).map_err(failed)?;
        found.map(drop).ok_or_else(|| failed(Missing))
    }

    fn page(&self, range: &KeyRange, items: usize) -> Result<(), Failure> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(&*range.start);
        options.set_iterate_upper_bound(range.end.as_deref().unwrap_or_default());
        let mut iterator = self.0.raw_iterator_cf_opt(family(&self.0, Keyspace::Timelines)?, options);
        let mut page = Vec::new();
        iterator.seek_to_last();
        while page.len() < items
            && let Some((key, value)) = iterator.item()
        {
            page.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            iterator.prev();
        }
        iterator.status().map_err(failed)?;
        let log = family(&self.0, Keyspace::Log)?;
        for found in self.0.multi_get_cf(page.iter().map(|(key, _)| (log, log_key(key)))) {
            found.map_err(failed)?.ok_or_else(|| failed(Missing))?;
        }
        Ok(())
    }

    fn read_log(&self) -> Result<usize, Failure> {
        let mut iterator = self.0.raw_iterator_cf(family(&self.0, Keyspace::Log)?);
        let mut entries = 0;
        iterator.seek_to_first();
        while let Some((_, value)) = iterator.item() {
            drop(Bytes::copy_from_slice(value));
            entries += 1;
            iterator.next();
        }
        iterator.status().map_err(failed)?;
        Ok(entries)
    }
}

struct Writer(Arc<DB>);

impl RawWriter for Writer {
    fn write(&mut self, ops: &[Op]) -> Result<(), Failure> {
        self.put(ops, true)
    }

    fn write_relaxed(&mut self, ops: &[Op]) -> Result<(), Failure> {
        self.put(ops, false)
    }
}

impl Writer {
    fn put(&self, ops: &[Op], sync: bool) -> Result<(), Failure> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let mut batch = WriteBatch::default();
        for (keyspace, key, value) in puts(ops) {
            batch.put_cf(family(&self.0, keyspace)?, key, value);
        }
        self.0.write_opt(batch, &options).map_err(failed)
    }
}
