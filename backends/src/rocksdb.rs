//! RocksDB: the engine to run a server on.
//!
//! Each keyspace is a column family of its name: the log, which only grows, and the nodes of trees, which are looked up by
//! number, get memtables, levels and sizes of their own, and a projection can be dropped as a whole. All share one write-ahead
//! log, which makes a batch over several of them atomic; `atomic_flush` is needed only where that log is switched off.

mod files;

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, mpsc},
    thread,
    time::Duration,
};

use bytes::Bytes;
use ravel_store::{
    Batch, Committed, Description, Direction, KEY_BYTES_MAX, Keyspace, Op, Operation, Page, PageBuilder, Scan, Store,
    StoreError, StoreFuture, Watch, check_keys,
    directory::{StoreDirectory, sync_directory},
    watch::Watchers,
};
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    DBCompressionType, DBPath, DBRecoveryMode, Error, ErrorKind, LogLevel, Options, ReadOptions, ReadTier, WriteBatch,
    WriteOptions,
};

use self::files::{links_logs, mend_manifest, name_existing_manifest};
use crate::{
    committer::{Committer, Writer},
    queue_bound::COMMIT_QUEUE_BYTES,
    readers::Readers,
    synced::{LostCommits, SyncedMark, check_recovered},
};

/// Name of the engine in markers and on the command line.
pub const ENGINE: &str = "rocksdb";

/// How much memory RocksDB may use, and how it opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RocksDbOptions {
    /// Bytes of the cache of blocks, indexes and filters, for all keyspaces together; 128 MiB by default.
    pub block_cache_bytes: usize,
    /// Bytes of all memtables together before the largest is written out; 64 MiB by default.
    pub write_buffer_bytes: usize,
    /// Most files kept open; 512 by default.
    pub open_files_max: i32,
    /// Threads that read from the disk; by default one for each processor, four at most.
    pub reader_threads: usize,
    /// What to do when acknowledged commits are gone, as the write-ahead log is damaged.
    pub lost_commits: LostCommits,
    /// Bytes of batches that may wait to be committed, see "Back-pressure" of [`Store`]; 64 MiB by default.
    pub commit_queue_bytes: usize,
}

impl Default for RocksDbOptions {
    fn default() -> Self {
        Self {
            block_cache_bytes: 128 * 1024 * 1024,
            write_buffer_bytes: 64 * 1024 * 1024,
            open_files_max: 512,
            reader_threads: thread::available_parallelism().map_or(2, usize::from).min(4),
            lost_commits: LostCommits::default(),
            commit_queue_bytes: COMMIT_QUEUE_BYTES,
        }
    }
}

/// A store on RocksDB.
#[derive(Debug)]
pub struct RocksDbStore {
    // The order matters: the threads end before the engine closes, and that before the directory is unlocked.
    committer: Committer,
    readers: Readers,
    db: Arc<Shared>,
    watchers: Arc<Watchers>,
    directory: StoreDirectory,
}

impl RocksDbStore {
    /// Opens a directory; creates it if it is missing or empty.
    ///
    /// # Errors
    /// `Foreign`, `NewerFormat`, `Locked`, `Corrupt`, `Full`, `Io`.
    pub fn open(path: &Path, options: &RocksDbOptions) -> Result<Self, StoreError> {
        let directory = StoreDirectory::open(path, ENGINE)?;
        let (mut mark, synced) = SyncedMark::open(&directory)?;
        name_existing_manifest(&directory.data(), synced.is_some())
            .map_err(|error| StoreError::from_io(Operation::Open, error))?;
        let db = Db::open(&directory.data(), options, synced)?;
        sync_directory(&directory.data()).map_err(|error| StoreError::from_io(Operation::Open, error))?;
        // What RocksDB recovered from its log is in synced files by now.
        mark.begin(&directory, db.position())?;
        let db = Arc::new(Shared { db: RwLock::new(Some(db)), data: directory.data(), options: options.clone() });
        let watchers = Arc::new(Watchers::default());
        let writer = RocksDbWriter { db: Arc::clone(&db), mark };
        let committer = Committer::start(ENGINE, writer, Arc::clone(&watchers), options.commit_queue_bytes)?;
        let readers = Readers::start(ENGINE, options.reader_threads)?;
        Ok(Self { committer, readers, db, watchers, directory })
    }

    /// Answers from memory if all that is needed is there, from a thread that may wait for the disk otherwise.
    async fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&Db, ReadTier) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, StoreError> {
        match self.db.with(|db| read(db, ReadTier::BlockCache))? {
            Ok(read) => Ok(read),
            Err(ReadError::NotInMemory) => {
                let db = Arc::clone(&self.db);
                self.readers
                    .read(move || match db.with(|db| read(db, ReadTier::All))? {
                        Ok(read) => Ok(read),
                        Err(ReadError::Failed(error)) => Err(error),
                        Err(ReadError::NotInMemory) => unreachable!("the disk was asked too"),
                    })
                    .await
            }
            Err(ReadError::Failed(error)) => Err(error),
        }
    }
}

impl Store for RocksDbStore {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
        Box::pin(self.committer.commit(batch))
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        Box::pin(self.committer.flush())
    }

    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
        Box::pin(async move {
            check_keys(keys)?;
            let keys: Arc<[Bytes]> = keys.into();
            self.read(move |db, tier| db.get_many(keyspace, &keys, tier)).await
        })
    }

    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
        Box::pin(async move {
            scan.range.check_bounds()?;
            if scan.range.is_empty() {
                return Ok(Page::default());
            }
            self.read(move |db, tier| db.page(&scan, tier)).await
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

    fn compact(&self) -> StoreFuture<'_, ()> {
        let db = Arc::clone(&self.db);
        Box::pin(self.readers.read(move || db.with(Db::compact)?))
    }
}

/// The open engine, which is closed and opened again after the disk was full.
#[derive(Debug)]
struct Shared {
    /// Nothing only if it could be opened neither to write nor to read.
    db: RwLock<Option<Db>>,
    data: PathBuf,
    options: RocksDbOptions,
}

impl Shared {
    fn with<T>(&self, call: impl FnOnce(&Db) -> T) -> Result<T, StoreError> {
        self.db.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(call).ok_or(StoreError::Halted)
    }

    /// Opens the engine again, if there is room for what it will write. If that fails, reads go on. Commits up to the position `synced`
    /// were acknowledged.
    fn reopen(&self, synced: Option<u64>) -> Result<(), StoreError> {
        let open_error = |error| StoreError::from_io(Operation::Open, error);
        // Nothing is in memory if an earlier attempt left it closed.
        let in_memory = self.with(Db::memtable_bytes).unwrap_or(0);
        self.make_room(in_memory.saturating_add(ROOM_BYTES)).map_err(open_error)?;
        let mut db = self.db.write().unwrap_or_else(PoisonError::into_inner);
        // The engine locks its folder, so there can't be two: unless it is closed, opening fails.
        close(db.take());
        match Db::open(&self.data, &self.options, synced) {
            Ok(opened) => {
                *db = Some(opened);
                sync_directory(&self.data).map_err(open_error)
            }
            Err(error) => {
                *db = Db::open_read_only(&self.data, &self.options).ok();
                Err(error)
            }
        }
    }

    /// Finds out whether there is room for so many bytes by writing them.
    fn make_room(&self, bytes: u64) -> io::Result<()> {
        let path = self.data.join(ROOM);
        let written = File::create(&path).and_then(|mut file| {
            io::copy(&mut io::Read::take(io::repeat(0xFF), bytes), &mut file)?;
            file.sync_all()
        });
        fs::remove_file(&path)?;
        written
    }
}

#[derive(Debug)]
struct Db(DB);

#[derive(Debug)]
enum ReadError {
    NotInMemory,
    Failed(StoreError),
}

impl Db {
    /// Opens the engine's folder, where commits up to the position `synced` were acknowledged.
    ///
    /// An unfinished record at the end of the write-ahead log is what a crash leaves; RocksDB cuts it off. For other damage, and for
    /// a hole between two of its files, it is first found out, without a change to any file, whether what lies before it holds all
    /// that was acknowledged.
    fn open(path: &Path, options: &RocksDbOptions, synced: Option<u64>) -> Result<Self, StoreError> {
        if !mend_manifest(path).map_err(|error| StoreError::from_io(Operation::Open, error))? {
            let expected = "a manifest of RocksDB as it wrote it";
            return Err(StoreError::Corrupt { keyspace: None, key: None, expected, source: None });
        }
        let opened = Self::open_files(path, options, DBRecoveryMode::TolerateCorruptedTailRecords);
        let db = match opened {
            Err(damage @ StoreError::Corrupt { .. }) => {
                if options.lost_commits == LostCommits::Refuse {
                    match Self::recoverable(path, options) {
                        Ok(recoverable) if synced.is_some_and(|synced| recoverable >= synced) => {}
                        _ => return Err(damage),
                    }
                }
                Self::open_files(path, options, DBRecoveryMode::PointInTime)?
            }
            opened => opened?,
        };
        check_recovered(db.position(), synced, options.lost_commits)?;
        Ok(db)
    }

    fn open_files(path: &Path, options: &RocksDbOptions, mode: DBRecoveryMode) -> Result<Self, StoreError> {
        if !links_logs(path) {
            // This makes a first one, so that the next opening can link to it.
            Self::open_files_once(path, options, mode)?;
        }
        Self::open_files_once(path, options, mode)
    }

    fn open_files_once(path: &Path, options: &RocksDbOptions, mode: DBRecoveryMode) -> Result<Self, StoreError> {
        let (mut db_options, family_options) = engine_options(path, options)?;
        db_options.set_wal_recovery_mode(mode);
        DB::open_cf_descriptors(&db_options, path, families(path, &family_options)?)
            .map(Self)
            .map_err(|error| store_error(Operation::Open, error))
    }

    fn compact(&self) -> Result<(), StoreError> {
        // Without this, files that overlap with no other one would be moved down as they are.
        let mut options = CompactOptions::default();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::ForceOptimized);
        for keyspace in Keyspace::ALL {
            let family = self.family(*keyspace)?;
            self.0.flush_cf(&family).map_err(|error| store_error(Operation::Flush, error))?;
            self.0.compact_range_cf_opt(&family, None::<&[u8]>, None::<&[u8]>, &options);
        }
        Ok(())
    }

    /// Returns the position up to which the files hold everything.
    fn recoverable(path: &Path, options: &RocksDbOptions) -> Result<u64, StoreError> {
        Self::open_read_only(path, options).map(|db| db.position())
    }

    fn open_read_only(path: &Path, options: &RocksDbOptions) -> Result<Self, StoreError> {
        let (mut db_options, family_options) = engine_options(path, options)?;
        db_options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        db_options.create_missing_column_families(false);
        DB::open_cf_descriptors_read_only(&db_options, path, families(path, &family_options)?, false)
            .map(Self)
            .map_err(|error| store_error(Operation::Open, error))
    }

    /// Returns the bytes that are in memory and in the write-ahead log only.
    fn memtable_bytes(&self) -> u64 {
        let bytes = |keyspace: &Keyspace| {
            let family = self.family(*keyspace).ok()?;
            self.0.property_int_value_cf(family, "rocksdb.cur-size-all-mem-tables").ok().flatten()
        };
        Keyspace::ALL.iter().filter_map(bytes).sum()
    }

    /// Returns RocksDB's number of the newest write, which grows with each one and is recovered with it.
    fn position(&self) -> u64 {
        self.0.latest_sequence_number()
    }

    fn family(&self, keyspace: Keyspace) -> Result<&ColumnFamily, StoreError> {
        self.0.cf_handle(keyspace.name()).ok_or(StoreError::Corrupt {
            keyspace: Some(keyspace),
            key: None,
            expected: "a column family for the keyspace",
            source: None,
        })
    }

    fn get_many(&self, keyspace: Keyspace, keys: &[Bytes], tier: ReadTier) -> Result<Vec<Option<Bytes>>, ReadError> {
        let family = self.family(keyspace).map_err(ReadError::Failed)?;
        let options = || {
            let mut options = ReadOptions::default();
            options.set_read_tier(tier);
            options.set_verify_checksums(true);
            options
        };
        let found: Vec<_> = match (tier, keys) {
            (ReadTier::BlockCache, [key]) => vec![self.0.get_cf_opt(family, key, &options())],
            // Told to look no further than memory, RocksDB's look-up of many keys answers with empty values where it would have to.
            (ReadTier::BlockCache, _) => {
                let one_moment = self.0.snapshot();
                let mut found = Vec::with_capacity(keys.len());
                for key in keys {
                    found.push(one_moment.get_cf_opt(family, key, options()));
                    // The others are asked for once more with it.
                    if found.last().is_some_and(Result::is_err) {
                        break;
                    }
                }
                found
            }
            _ => self.0.multi_get_cf_opt(keys.iter().map(|key| (family, key)), &options()),
        };
        let read_error = |key: &Bytes, error| ReadError::new(Operation::Get, error).at(keyspace, Some(key));
        keys.iter()
            .zip(found)
            .map(|(key, found)| found.map(|value| value.map(Bytes::from)).map_err(|error| read_error(key, error)))
            .collect()
    }

    /// Writes a batch, waiting while RocksDB takes none because it has too much to write out.
    ///
    /// RocksDB must not do that waiting, which may last for as long as the disk is full. `has_room` tells whether it is meanwhile.
    fn write(&self, batch: &Batch, has_room: impl Fn() -> io::Result<()>) -> Result<(), StoreError> {
        // Not synced here: `sync` does that, once for all that were written meanwhile.
        let mut options = WriteOptions::default();
        options.set_sync(false);
        options.set_no_slowdown(true);
        let mut pauses = 0u32;
        loop {
            match self.0.write_opt(self.writes(batch)?, &options) {
                // One that comes of an error is in its words: what RocksDB has to write out stays, as it has given up.
                Err(error) if error.kind() == ErrorKind::Incomplete && error.as_ref().contains(STOPPED) => {}
                written => return written.map_err(|error| store_error(Operation::Commit, error)),
            }
            let stopped = self.0.property_int_value("rocksdb.is-write-stopped");
            // Where it is only to be slower, RocksDB knows how slow.
            options.set_no_slowdown(stopped.ok().flatten() != Some(0));
            pauses = pauses.saturating_add(1);
            if pauses.is_multiple_of(ROOM_CHECK_PAUSES) {
                has_room().map_err(|error| StoreError::from_io(Operation::Commit, error))?;
            }
            thread::sleep(STOPPED_PAUSE);
        }
    }

    fn writes(&self, batch: &Batch) -> Result<WriteBatch, StoreError> {
        let mut writes = WriteBatch::with_capacity_bytes(batch.size_bytes());
        for op in in_key_order(batch.ops()) {
            match op {
                Op::Put { keyspace, key, value } => writes.put_cf(self.family(*keyspace)?, key, value),
                Op::Delete { keyspace, key } => writes.delete_cf(self.family(*keyspace)?, key),
                Op::DeleteRange { range, .. } if range.is_empty() => {}
                Op::DeleteRange { keyspace, range } => {
                    let family = self.family(*keyspace)?;
                    match &range.end {
                        Some(end) => writes.delete_range_cf(family, &*range.start, &**end),
                        None => writes.delete_range_cf(family, &*range.start, AFTER_ALL_KEYS),
                    }
                }
            }
        }
        Ok(writes)
    }

    fn page(&self, scan: &Scan, tier: ReadTier) -> Result<Page, ReadError> {
        let family = self.family(scan.keyspace).map_err(ReadError::Failed)?;
        let mut options = ReadOptions::default();
        options.set_read_tier(tier);
        options.set_verify_checksums(true);
        options.set_iterate_lower_bound(&*scan.range.start);
        if let Some(end) = &scan.range.end {
            options.set_iterate_upper_bound(&**end);
        }
        let mut items = self.0.raw_iterator_cf_opt(family, options);
        match scan.direction {
            Direction::Forward => items.seek(&scan.range.start),
            Direction::Backward => items.seek_to_last(),
        }
        let mut page = PageBuilder::new(scan.limits);
        while let Some((key, value)) = items.item() {
            if !page.fits(key.len(), value.len()) {
                break;
            }
            page.push(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            match scan.direction {
                Direction::Forward => items.next(),
                Direction::Backward => items.prev(),
            }
        }
        // An iterator that met an error looks like one at its end.
        items.status().map_err(|error| ReadError::new(Operation::Scan, error).at(scan.keyspace, None))?;
        Ok(page.finish())
    }
}

impl ReadError {
    fn new(operation: Operation, error: Error) -> Self {
        match error.kind() {
            ErrorKind::Incomplete => Self::NotInMemory,
            _ => Self::Failed(store_error(operation, error)),
        }
    }

    fn at(self, keyspace: Keyspace, key: Option<&[u8]>) -> Self {
        match self {
            Self::NotInMemory => Self::NotInMemory,
            Self::Failed(error) => Self::Failed(error.at(keyspace, key)),
        }
    }
}

/// Returns operations as they do the same, but sorted by key between the removals of ranges: the place of one is found sooner beside
/// that of the one before it, see [`HINTS`].
fn in_key_order(ops: &[Op]) -> impl Iterator<Item = &Op> {
    let is_range = |op: &Op| matches!(op, Op::DeleteRange { .. });
    ops.chunk_by(move |a, b| !is_range(a) && !is_range(b)).flat_map(|ops| {
        let mut ops: Vec<&Op> = ops.iter().collect();
        // Stable, as of several writes of a key the last one counts.
        ops.sort_by(|a, b| place_of(a).cmp(&place_of(b)));
        ops
    })
}

fn place_of(op: &Op) -> (Keyspace, &[u8]) {
    match op {
        Op::Put { keyspace, key, .. } | Op::Delete { keyspace, key } => (*keyspace, key),
        Op::DeleteRange { keyspace, range } => (*keyspace, &range.start),
    }
}

struct RocksDbWriter {
    db: Arc<Shared>,
    mark: SyncedMark,
}

impl Writer for RocksDbWriter {
    // A batch that could not be appended to the write-ahead log does not reach the memtables.
    const WRITE_ERRORS_HALT: bool = false;

    fn get(&self, keyspace: Keyspace, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let error = |error| store_error(Operation::Commit, error).at(keyspace, Some(key));
        self.db.with(|db| Ok(db.0.get_cf(db.family(keyspace)?, key).map_err(error)?.map(Bytes::from)))?
    }

    fn write(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.db.with(|db| db.write(batch, || self.db.make_room(ROOM_BYTES)))?
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        let position = self.db.with(|db| {
            let position = db.position();
            db.0.flush_wal(true).map_err(|error| store_error(Operation::Flush, error)).map(|()| position)
        })??;
        self.mark.set(position);
        Ok(())
    }

    fn recover(&mut self) -> Result<(), StoreError> {
        self.db.reopen(self.mark.position())
    }
}

/// Closes the engine, and waits for that, though not for ever: a disk that doesn't answer must not take the reads of others with it.
fn close(db: Option<Db>) {
    let Some(db) = db else { return };
    let (closed, waiting) = mpsc::channel();
    let closing = thread::Builder::new().name(format!("{ENGINE} close")).spawn(move || {
        drop(db);
        let _ = closed.send(());
    });
    // Without a thread, it was closed here.
    if closing.is_ok() {
        let _ = waiting.recv_timeout(CLOSE_TIME_MAX);
    }
}

fn families(path: &Path, options: &FamilyOptions) -> Result<impl Iterator<Item = ColumnFamilyDescriptor>, StoreError> {
    // RocksDB insists on this one; it stays empty.
    let mut default = Options::default();
    // This turns off that RocksDB goes on by itself after a full disk: there is no option for it, but it does so only where all is in
    // one folder, and for that it counts a folder twice that is named twice. The thread with which it does so may end without waking
    // whoever closes the engine meanwhile, who then waits for ever.
    let folder = DBPath::new(path, u64::MAX).map_err(|error| store_error(Operation::Open, error))?;
    default.set_cf_paths(&[folder]);
    Ok(Keyspace::ALL
        .iter()
        .map(|keyspace| ColumnFamilyDescriptor::new(keyspace.name(), options.of(*keyspace).clone()))
        .chain([ColumnFamilyDescriptor::new("default", default)]))
}

/// Returns the options that a store in this folder gives RocksDB, and those of each of its column families: for measuring it without
/// a store.
///
/// # Errors
/// `Io` if RocksDB does not know one of them.
pub fn engine_options(path: &Path, options: &RocksDbOptions) -> Result<(Options, FamilyOptions), StoreError> {
    let linked_logs = if links_logs(path) { LINKED_LOGS } else { "" };
    let mut db = Options::default()
        .get_options_from_string(format!("{NO_RESUMING}{linked_logs}"))
        .map_err(|error| store_error(Operation::Open, error))?;
    db.create_if_missing(true);
    db.create_missing_column_families(true);
    db.set_paranoid_checks(true);
    db.set_track_and_verify_wals_in_manifest(true);
    db.set_max_open_files(options.open_files_max);
    // The default starts 16 threads for each column family whenever a store is opened.
    db.set_max_file_opening_threads(1);
    db.set_db_write_buffer_size(options.write_buffer_bytes);
    // A keyspace that is hardly written to must not keep the log of all others alive for long.
    db.set_max_total_wal_size(4 * options.write_buffer_bytes as u64);
    db.set_max_background_jobs(2);
    db.set_bytes_per_sync(1024 * 1024);
    db.set_log_level(LogLevel::Warn);
    db.set_keep_log_file_num(4);
    db.set_max_log_file_size(4 * 1024 * 1024);

    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(options.block_cache_bytes));
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_block_size(16 * 1024);
    table.set_bloom_filter(10.0, false);

    let family = |string: &str| -> Result<Options, StoreError> {
        let family = Options::default().get_options_from_string(string);
        let mut family = family.map_err(|error| store_error(Operation::Open, error))?;
        family.set_block_based_table_factory(&table);
        family.set_write_buffer_size((options.write_buffer_bytes / 2).max(1024 * 1024));
        family.set_level_compaction_dynamic_level_bytes(true);
        // On all levels: files of keys that only ascend, as in the log, are moved down as they were written first.
        family.set_compression_type(DBCompressionType::Zstd);
        Ok(family)
    };
    Ok((db, FamilyOptions { log: family(DICTIONARY)?, other: family(HINTS)? }))
}

/// The options of column families.
#[derive(Clone)]
pub struct FamilyOptions {
    log: Options,
    other: Options,
}

impl FamilyOptions {
    /// Returns the options of the column family of a keyspace.
    pub fn of(&self, keyspace: Keyspace) -> &Options {
        match keyspace {
            Keyspace::Log => &self.log,
            _ => &self.other,
        }
    }
}

/// What events have in common is in a dictionary of each file, made of samples of its first megabyte, and not in each block once
/// more: that is a thirteenth of what the log takes. Training the dictionary would save a two-hundredth more, and double the time
/// that writing a file takes. Records of other keyspaces are so short that a dictionary costs what it gains. There is no method for
/// the bound of what is kept in memory for it.
const DICTIONARY: &str = "compression_opts={max_dict_bytes=8192;max_dict_buffer_bytes=1048576};";

/// Where a key goes into the memtable is looked for from where the last one went that begins with the same byte: numbers of rooms all
/// do. A longer prefix would take 200 bytes of each memtable for each room. There is no method for it. The keys of the log only
/// ascend, and need no such thing.
const HINTS: &str = "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.1;";

fn store_error(operation: Operation, error: Error) -> StoreError {
    let kind = error.kind();
    // RocksDB hands over no code of the operating system, only its words.
    let full = error.as_ref().contains("No space left") || error.as_ref().contains("quota exceeded");
    let source = Arc::new(error);
    match kind {
        _ if full => StoreError::Full { operation, source },
        ErrorKind::Corruption => StoreError::Corrupt {
            keyspace: None,
            key: None,
            expected: "files of RocksDB as it wrote them",
            source: Some(source),
        },
        _ => StoreError::io(operation, source),
    }
}

/// Each file of the write-ahead log tells where the one before it ended. Several may be written before they are synced, and loss of
/// power may then take an older one and leave a newer one: without this, RocksDB would read over the hole. There is no method for it.
const LINKED_LOGS: &str = "track_and_verify_wals=true;";

/// After errors that may pass, RocksDB does not go on by itself, see [`families`]. There is no method for it.
const NO_RESUMING: &str = "max_bgerror_resume_count=0;";

/// A file that is written to see whether there is room again, and removed.
const ROOM: &str = "ravel.room";
/// Room that must be there beside that for what is in memory before RocksDB is opened again after the disk was full.
const ROOM_BYTES: u64 = 8 * 1024 * 1024;

/// How long to wait for the engine to close, which ends what it does in the background first.
const CLOSE_TIME_MAX: Duration = Duration::from_secs(30);

/// What RocksDB says when it takes no write because it has too much to write out.
const STOPPED: &str = "Write stall";
/// How long to wait before a write is tried again that RocksDB does not take yet.
const STOPPED_PAUSE: Duration = Duration::from_millis(2);
/// After so many of them it is found out whether the disk is full.
const ROOM_CHECK_PAUSES: u32 = 100;

/// Greater than every key: one byte longer than the longest, all bits set.
const AFTER_ALL_KEYS: &[u8] = &[0xFF; KEY_BYTES_MAX + 1];

#[cfg(test)]
mod tests;
