//! sled 0.34: the second engine, pure Rust.
//!
//! sled's batch is atomic within one tree only, so there is one tree, and each key begins with its keyspace's byte.
//!
//! sled writes whole leaves of its tree into its log, and puts what does not fit into a quarter of a segment into a file of its
//! own ("blob") that it never syncs. A leaf is split when it has more than 16 items, so what matters is not the size of one value
//! but that of a full leaf. Hence segments of 4 MiB (a quarter holds 32 items and their keys) and values in chunks of at most
//! [`CHUNK_BYTES_MAX`]: no blob is ever written.
//!
//! `flush` of sled ends in `sync_file_range`, which survives no power loss; here it is followed by `fdatasync` of its file.
//!
//! Reads run where they are polled: sled does not say whether it would have to wait for the disk.

mod snapshots;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    ops::{Bound, Range},
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ravel_store::{
    Batch, Committed, Description, Direction, KeyRange, Keyspace, Op, Operation, Page, PageBuilder, Scan, Store,
    StoreError, StoreFuture, VALUE_BYTES_MAX, Watch, check_keys,
    directory::{StoreDirectory, sync_directory},
    watch::Watchers,
};
use sled::{Db, IVec, Tree};

use crate::{
    committer::{Committer, Writer, caught},
    queue_bound::COMMIT_QUEUE_BYTES,
    synced::{LostCommits, SyncedMark, check_recovered},
};

/// Name of the engine in markers and on the command line.
pub const ENGINE: &str = "sled";

/// Longest piece of a value that is stored in one item of sled, in bytes.
pub const CHUNK_BYTES_MAX: usize = 28 * 1024;

/// How long to wait for the lock of an engine that was just closed.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);

/// How much memory sled may use, and how it opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SledOptions {
    /// Bytes of its page cache, roughly; 128 MiB by default.
    pub cache_bytes: u64,
    /// What to do when acknowledged commits are gone, as the log is damaged.
    pub lost_commits: LostCommits,
    /// Bytes of batches that may wait to be committed, see "Back-pressure" of [`Store`]; 64 MiB by default.
    pub commit_queue_bytes: usize,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 128 * 1024 * 1024,
            lost_commits: LostCommits::default(),
            commit_queue_bytes: COMMIT_QUEUE_BYTES,
        }
    }
}

/// A store on sled.
#[derive(Debug)]
pub struct SledStore {
    // The order matters: the thread ends before the engine closes, and that before the directory is unlocked.
    committer: Committer,
    engine: Arc<SledEngine>,
    _last: LastHandle,
    watchers: Arc<Watchers>,
    directory: StoreDirectory,
}

/// Outlives all other handles to sled, as sled panics if it can't sync when the last one is dropped.
#[derive(Debug)]
struct LastHandle {
    db: Option<Db>,
    data: PathBuf,
}

impl Drop for LastHandle {
    fn drop(&mut self) {
        let last = self.db.take();
        // Nothing that is acknowledged depends on this sync.
        if caught(|| drop(last)).is_err() {
            note_failed_sync(&self.data);
        }
    }
}

impl SledStore {
    /// Opens a directory; creates it if it is missing or empty.
    ///
    /// # Errors
    /// `Foreign`, `NewerFormat`, `Locked`, `Corrupt`, `Full`, `Io`.
    pub fn open(path: &Path, options: &SledOptions) -> Result<Self, StoreError> {
        let directory = StoreDirectory::open(path, ENGINE)?;
        let data = directory.data();
        let (mut mark, synced) = SyncedMark::open(&directory)?;
        remove_unfinished(&data, synced.is_none()).map_err(open_error)?;
        write_again_after_failed_sync(&data).map_err(open_error)?;
        snapshots::restore(&data).and_then(|()| snapshots::keep(&data)).map_err(open_error)?;
        let engine = SledEngine::open(&data, options)?;
        let last = LastHandle { db: Some(engine.db.clone()), data: data.clone() };
        let engine = Arc::new(engine);
        sync_all(&data).and_then(|()| snapshots::keep(&data)).map_err(open_error)?;
        let file = File::open(data.join("db")).map_err(open_error)?;
        let position = engine.read(Operation::Open, || engine.position())?;
        check_recovered(position, synced, options.lost_commits)?;
        mark.begin(&directory, position)?;
        let watchers = Arc::new(Watchers::default());
        let writer = SledWriter { engine: Arc::clone(&engine), file, data, position, mark };
        let committer = Committer::start(ENGINE, writer, Arc::clone(&watchers), options.commit_queue_bytes)?;
        Ok(Self { committer, engine, _last: last, watchers, directory })
    }
}

impl Store for SledStore {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
        Box::pin(self.committer.commit(batch))
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.committer.flush())
    }

    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
        Box::pin(async move {
            check_keys(keys)?;
            self.engine
                .read(Operation::Get, || keys.iter().map(|key| self.engine.get(&item_key(keyspace, key))).collect())
        })
    }

    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
        Box::pin(async move {
            scan.range.check_bounds()?;
            if scan.range.is_empty() {
                return Ok(Page::default());
            }
            self.engine.read(Operation::Scan, || self.engine.page(&scan))
        })
    }

    fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
        self.watchers.watch(keyspace, prefix)
    }

    fn describe(&self) -> StoreFuture<'_, Description> {
        Box::pin(async move {
            Ok(Description {
                engine: ENGINE,
                layout: Some(self.directory.layout()),
                size_on_disk: self.directory.size_on_disk()?,
            })
        })
    }
}

#[derive(Debug)]
struct SledEngine {
    tree: Tree,
    /// sled's scans and look-ups see half-applied batches; under this they do not.
    batches: RwLock<()>,
    /// Set when a batch may have been applied in part: from then on nothing is read either.
    torn: AtomicBool,
    db: Db,
}

impl SledEngine {
    fn open(path: &Path, options: &SledOptions) -> Result<Self, StoreError> {
        let config = engine_config(path, options);
        let (db, tree) = caught(|| {
            let db = open_unlocked(&config)?;
            let tree = db.open_tree(TREE)?;
            Ok((db, tree))
        })?
        .map_err(|error| store_error(Operation::Open, error))?;
        Ok(Self { tree, batches: RwLock::default(), torn: AtomicBool::new(false), db })
    }

    /// Reads between two batches.
    fn read<T>(&self, operation: Operation, read: impl FnOnce() -> Result<T, ItemError>) -> Result<T, StoreError> {
        let _between_batches = self.batches.read().unwrap_or_else(PoisonError::into_inner);
        if self.torn.load(Ordering::Acquire) {
            return Err(StoreError::Halted);
        }
        caught(read)?.map_err(|error| error.into_store_error(operation))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, ItemError> {
        self.tree.get(key)?.map(|item| self.value(key, &item)).transpose()
    }

    fn page(&self, scan: &Scan) -> Result<Page, ItemError> {
        let mut page = PageBuilder::new(scan.limits);
        let mut items = self.tree.range(item_range(scan.keyspace, &scan.range));
        while let Some(item) = match scan.direction {
            Direction::Forward => items.next(),
            Direction::Backward => items.next_back(),
        } {
            let (item_key, item) = item?;
            let key = item_key.get(1..).unwrap_or_default();
            let value_bytes = Stored::parse(&item_key, &item)?.len();
            if !page.fits(key.len(), value_bytes) {
                break;
            }
            page.push(Bytes::copy_from_slice(key), self.value(&item_key, &item)?);
        }
        Ok(page.finish())
    }

    /// Returns the value of an item, put together if it is in chunks.
    fn value(&self, key: &[u8], item: &IVec) -> Result<Bytes, ItemError> {
        let len = match Stored::parse(key, item)? {
            Stored::Whole(value) => return Ok(Bytes::copy_from_slice(value)),
            Stored::InChunks { len } => len,
        };
        let mut value = Vec::with_capacity(len);
        for number in 0..chunk_count(len) {
            let chunk = self.tree.get(chunk_key(key, number))?;
            value.extend_from_slice(&chunk.ok_or_else(|| ItemError::corrupt(key, "all chunks of a value"))?);
        }
        if value.len() == len { Ok(value.into()) } else { Err(ItemError::corrupt(key, "chunks as long as the value")) }
    }

    /// Returns the number of the newest batch, which is written with it.
    fn position(&self) -> Result<u64, ItemError> {
        let Some(number) = self.tree.get(POSITION)? else { return Ok(0) };
        let number =
            <[u8; 8]>::try_from(&*number).map_err(|_| ItemError::corrupt(POSITION, "the number of a batch"))?;
        Ok(u64::from_be_bytes(number))
    }

    /// Turns a batch, which has an order and ranges, into one of sled, which has neither.
    ///
    /// What is stored already is left out, also where the batch removes it first: for sled, that saves most of what a write costs.
    fn resolve(&self, batch: &Batch) -> Result<sled::Batch, ItemError> {
        let mut last: BTreeMap<IVec, Change<'_>> = BTreeMap::new();
        for op in batch.ops() {
            match op {
                Op::Put { keyspace, key, value } => {
                    last.entry(item_key(*keyspace, key).into()).or_default().value = Some(value);
                }
                Op::Delete { keyspace, key } => {
                    last.entry(item_key(*keyspace, key).into()).or_default().value = None;
                }
                Op::DeleteRange { range, .. } if range.is_empty() => {}
                Op::DeleteRange { keyspace, range } => {
                    let Range { start, end } = item_range(*keyspace, range);
                    let items = (Bound::Included(&*start), Bound::Excluded(&*end));
                    last.range_mut::<[u8], _>(items).for_each(|(_, change)| change.value = None);
                    for stored in self.tree.range::<&[u8], _>(items) {
                        let (key, item) = stored?;
                        last.entry(key).or_default().stored = Some(item);
                    }
                }
            }
        }
        let mut resolved = sled::Batch::default();
        for (key, Change { value, stored }) in last {
            let stored = match stored {
                Some(item) => Some(item),
                None => self.tree.get(&key)?,
            };
            let stored = stored.as_ref().map(|item| Stored::parse(&key, item)).transpose()?;
            if let (Some(value), Some(Stored::Whole(stored))) = (value, &stored)
                && value == stored
            {
                continue;
            }
            let chunks_before = match stored {
                Some(Stored::InChunks { len }) => chunk_count(len),
                _ => 0,
            };
            let chunks_now = match value {
                Some(value) => insert(&mut resolved, &key, value),
                None => {
                    resolved.remove(&key);
                    0
                }
            };
            for number in chunks_now..chunks_before {
                resolved.remove(chunk_key(&key, number));
            }
        }
        Ok(resolved)
    }
}

/// What becomes of an item.
#[derive(Default)]
struct Change<'a> {
    /// `None` if it is removed.
    value: Option<&'a Bytes>,
    /// What is stored, if that was found out when a range was removed.
    stored: Option<IVec>,
}

/// Adds a value to a batch of sled and returns its count of chunks.
fn insert(batch: &mut sled::Batch, key: &[u8], value: &[u8]) -> u32 {
    if value.len() <= CHUNK_BYTES_MAX {
        let mut item = Vec::with_capacity(1 + value.len());
        item.push(WHOLE);
        item.extend_from_slice(value);
        batch.insert(key, item);
        return 0;
    }
    let mut item = vec![IN_CHUNKS];
    // No value is longer than 1 MiB.
    item.extend_from_slice(&(value.len() as u32).to_be_bytes());
    batch.insert(key, item);
    for (number, chunk) in (0..).zip(value.chunks(CHUNK_BYTES_MAX)) {
        batch.insert(chunk_key(key, number), chunk);
    }
    chunk_count(value.len())
}

struct SledWriter {
    engine: Arc<SledEngine>,
    /// sled's log, opened once more to sync it.
    file: File,
    data: PathBuf,
    /// Number of the newest batch.
    position: u64,
    mark: SyncedMark,
}

impl Writer for SledWriter {
    const WRITE_ERRORS_HALT: bool = true;

    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let key = item_key(keyspace, key);
        self.engine.get(&key).map_err(|error| error.into_store_error(Operation::Commit))
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let engine = &self.engine;
        let mut resolved = engine.resolve(batch).map_err(|error| error.into_store_error(Operation::Commit))?;
        self.position += 1;
        resolved.insert(POSITION, &self.position.to_be_bytes());
        let _no_reader = engine.batches.write().unwrap_or_else(PoisonError::into_inner);
        let applied = caught(|| engine.tree.apply_batch(resolved));
        if !matches!(applied, Ok(Ok(()))) {
            engine.torn.store(true, Ordering::Release);
        }
        applied?.map_err(|error| store_error(Operation::Commit, error))
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.try_sync().inspect_err(|_| note_failed_sync(&self.data))?;
        self.mark.set(self.position);
        Ok(())
    }
}

impl SledWriter {
    fn try_sync(&self) -> Result<(), StoreError> {
        caught(|| self.engine.tree.flush())?.map_err(|error| store_error(Operation::Flush, error))?;
        // None is ever written (see above); if one were, an acknowledged commit must not depend on it unsynced.
        sync_files(&self.data.join("blobs"))
            .and_then(|()| self.file.sync_data())
            .map_err(|error| StoreError::from_io(Operation::Flush, error))
    }
}

/// What an item of sled says about a value: its first byte tells which.
enum Stored<'a> {
    Whole(&'a [u8]),
    InChunks { len: usize },
}

impl<'a> Stored<'a> {
    fn parse(key: &[u8], item: &'a [u8]) -> Result<Self, ItemError> {
        match item.split_first() {
            Some((&WHOLE, value)) => Ok(Self::Whole(value)),
            Some((&IN_CHUNKS, len)) => {
                let len = <[u8; 4]>::try_from(len).ok().map(|len| u32::from_be_bytes(len) as usize);
                len.filter(|len| (CHUNK_BYTES_MAX..=VALUE_BYTES_MAX).contains(len))
                    .map(|len| Self::InChunks { len })
                    .ok_or_else(|| ItemError::corrupt(key, "the length of a value in chunks"))
            }
            _ => Err(ItemError::corrupt(key, "an item that is whole or in chunks")),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Whole(value) => value.len(),
            Self::InChunks { len } => *len,
        }
    }
}

enum ItemError {
    Engine(sled::Error),
    Corrupt { key: Vec<u8>, expected: &'static str },
}

impl ItemError {
    fn corrupt(key: &[u8], expected: &'static str) -> Self {
        Self::Corrupt { key: key.to_owned(), expected }
    }

    fn into_store_error(self, operation: Operation) -> StoreError {
        match self {
            Self::Engine(error) => store_error(operation, error),
            Self::Corrupt { key, expected } => {
                match key.split_first().map(|(byte, key)| (Keyspace::from_byte(*byte), key)) {
                    Some((Some(keyspace), key)) => StoreError::corrupt(keyspace, key, expected),
                    _ => StoreError::Corrupt { keyspace: None, key: None, expected, source: None },
                }
            }
        }
    }
}

impl From<sled::Error> for ItemError {
    fn from(error: sled::Error) -> Self {
        Self::Engine(error)
    }
}

fn store_error(operation: Operation, error: sled::Error) -> StoreError {
    match error {
        // Keeps the kind, which tells a full disk from others.
        sled::Error::Io(error) => StoreError::from_io(operation, io::Error::new(error.kind(), error)),
        error @ sled::Error::Corruption { .. } => StoreError::Corrupt {
            keyspace: None,
            key: None,
            expected: "pages of sled as it wrote them",
            source: Some(Arc::new(error)),
        },
        error => StoreError::io(operation, Arc::new(error)),
    }
}

/// Returns the options that a store gives sled: for measuring it without a store.
pub fn engine_config(path: &Path, options: &SledOptions) -> sled::Config {
    sled::Config::new().path(path).cache_capacity(options.cache_bytes).segment_size(SEGMENT_BYTES)
}

/// Opens sled, waiting for the lock of an engine that was closed a moment ago: threads of sled's own hold it for a little longer.
/// Nobody else can have it, as the directory's lock is ours.
fn open_unlocked(config: &sled::Config) -> sled::Result<Db> {
    let began = Instant::now();
    loop {
        match config.open() {
            // sled gives this error no kind of its own.
            Err(sled::Error::Io(error))
                if error.to_string().starts_with("could not acquire lock") && began.elapsed() < LOCK_WAIT_MAX =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

fn open_error(error: io::Error) -> StoreError {
    StoreError::from_io(Operation::Open, error)
}

fn item_key(keyspace: Keyspace, key: &[u8]) -> Vec<u8> {
    let mut item_key = Vec::with_capacity(1 + key.len());
    item_key.push(keyspace.byte());
    item_key.extend_from_slice(key);
    item_key
}

/// The chunks' keys sort behind those of all keyspaces; as the number's length is fixed, no two are the same.
fn chunk_key(item_key: &[u8], number: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + item_key.len() + 4);
    key.push(CHUNKS);
    key.extend_from_slice(item_key);
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn chunk_count(len: usize) -> u32 {
    // No value is longer than 1 MiB.
    len.div_ceil(CHUNK_BYTES_MAX) as u32
}

fn item_range(keyspace: Keyspace, range: &KeyRange) -> Range<Vec<u8>> {
    let end = match &range.end {
        Some(end) => item_key(keyspace, end),
        None => vec![keyspace.byte() + 1],
    };
    item_key(keyspace, &range.start)..end
}

/// Removes what a crash leaves of files that sled does not open with: a snapshot that was being written, which sled takes for the newest
/// one; its configuration, which is written without a sync, if the store was never open (`is_new`).
fn remove_unfinished(data: &Path, is_new: bool) -> io::Result<()> {
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        let is_unfinished = path.extension().is_some_and(|extension| extension == "generating")
            || is_new && path.ends_with("conf") && fs::read(&path)? != CONF;
        if is_unfinished {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Notes that a sync failed, for the next opening.
///
/// What could not be written counts as written from then on, and is read from memory until power is lost: sled would go on behind it.
fn note_failed_sync(data: &Path) {
    // Where that fails, there is nothing to be done, and the store takes no more commits.
    let _ = File::create(data.join(FAILED_SYNC));
}

/// Writes sled's log once more, as it is read, if a sync of it failed.
fn write_again_after_failed_sync(data: &Path) -> io::Result<()> {
    let note = data.join(FAILED_SYNC);
    if !note.exists() {
        return Ok(());
    }
    let mut file = OpenOptions::new().read(true).write(true).open(data.join("db"))?;
    let mut piece = vec![0; SEGMENT_BYTES];
    let mut at = 0;
    loop {
        file.seek(SeekFrom::Start(at))?;
        let len = file.read(&mut piece)?;
        let Some(read) = piece.get(..len).filter(|read| !read.is_empty()) else { break };
        file.seek(SeekFrom::Start(at))?;
        file.write_all(read)?;
        at += len as u64;
    }
    file.sync_all()?;
    fs::remove_file(note)
}

/// Makes the files sled created durable, with their names.
fn sync_all(data: &Path) -> io::Result<()> {
    sync_files(data)?;
    sync_directory(&data.join("blobs"))?;
    sync_directory(data)
}

fn sync_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            match File::open(entry.path()) {
                Ok(file) => file.sync_all()?,
                // sled removes what it no longer needs at any time.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Name of the one tree that holds everything.
const TREE: &str = "ravel";
/// sled refuses to open with another segment size than it was created with: a change is a new layout.
const SEGMENT_BYTES: usize = 4 * 1024 * 1024;
/// What sled writes to its file `conf`: always the same, with a checksum.
const CONF: &[u8] = b"segment_size: 4194304\nuse_compression: false\nversion: 0.34\n\x30\x1b\x64\xdd";
/// The key of the number of the newest batch; its byte is no keyspace's.
const POSITION: &[u8] = &[0];
/// Name of the file that says that a sync failed; in the folder of sled, which doesn't mind.
const FAILED_SYNC: &str = "ravel.failed-sync";
/// First byte of the keys of chunks.
const CHUNKS: u8 = 0xFF;
/// First byte of an item that holds the whole value.
const WHOLE: u8 = 0;
/// First byte of an item that holds the length (four bytes, big-endian) of a value in chunks.
const IN_CHUNKS: u8 = 1;

#[cfg(test)]
mod tests;
