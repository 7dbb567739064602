//! sled, with the options that Ravel gives it, in one tree, which is what makes a batch atomic.

use std::{fs::File, path::Path};

use ravel_backends::{SledOptions, sled::engine_config};
use ravel_store::{Bytes, KeyRange, Keyspace, Op};
use sled::{Batch, Db, Tree};

use super::{Missing, RawEngine, RawWriter, failed, puts};
use crate::command::{Failure, bench::storage::workload::log_key};

pub(in crate::command::bench::storage) struct Raw {
    tree: Tree,
    /// sled's own sync survives no loss of power.
    file: File,
    _db: Db,
}

impl Raw {
    pub(in crate::command::bench::storage) fn open(path: &Path) -> Result<Self, Failure> {
        let path = path.join("raw");
        let db = engine_config(&path, &SledOptions::default()).open().map_err(failed)?;
        let tree = db.open_tree("raw").map_err(failed)?;
        Ok(Self { tree, file: File::open(path.join("db"))?, _db: db })
    }
}

fn item_key(keyspace: Keyspace, key: &[u8]) -> Vec<u8> {
    [&[keyspace.byte()], key].concat()
}

impl RawEngine for Raw {
    fn writer(&self) -> Result<Box<dyn RawWriter>, Failure> {
        Ok(Box::new(Writer { tree: self.tree.clone(), file: self.file.try_clone()? }))
    }

    fn get(&self, keyspace: Keyspace, key: &Bytes) -> Result<(), Failure> {
        let found = self.tree.get(item_key(keyspace, key)).map_err(failed)?;
        found.map(|value| value.to_vec()).map(drop).ok_or_else(|| failed(Missing))
    }

    fn page(&self, range: &KeyRange, items: usize) -> Result<(), Failure> {
        let end = range.end.as_deref().unwrap_or_default();
        let [start, end] = [&*range.start, end].map(|key| item_key(Keyspace::Timelines, key));
        for item in self.tree.range(start..end).rev().take(items) {
            let (key, value) = item.map_err(failed)?;
            let (key, _value) = (Bytes::copy_from_slice(&key), value.to_vec());
            self.get(Keyspace::Log, &log_key(&key))?;
        }
        Ok(())
    }

    fn read_log(&self) -> Result<usize, Failure> {
        let mut entries = 0;
        for item in self.tree.scan_prefix(item_key(Keyspace::Log, &[])) {
            drop(Bytes::copy_from_slice(&item.map_err(failed)?.1));
            entries += 1;
        }
        Ok(entries)
    }
}

struct Writer {
    tree: Tree,
    file: File,
}

impl RawWriter for Writer {
    fn write(&mut self, ops: &[Op]) -> Result<(), Failure> {
        self.write_relaxed(ops)?;
        self.tree.flush().map_err(failed)?;
        Ok(self.file.sync_data()?)
    }

    fn write_relaxed(&mut self, ops: &[Op]) -> Result<(), Failure> {
        let mut batch = Batch::default();
        for (keyspace, key, value) in puts(ops) {
            batch.insert(item_key(keyspace, key), &**value);
        }
        self.tree.apply_batch(batch).map_err(failed)
    }
}
