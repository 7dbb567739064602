use std::{fs, path::PathBuf};

use ravel_store::{
    Durability, KeyRange, StoreExt, block_on,
    conformance::{QUEUE_BYTES_IN_TESTS, StoreBuilder},
};
use tempfile::TempDir;

use super::*;
use crate::crash_tests;

struct RocksDbBuilder;

impl StoreBuilder for RocksDbBuilder {
    type Store = RocksDbStore;
    type Place = TempDir;

    fn place() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn open(place: &TempDir) -> Result<RocksDbStore, StoreError> {
        RocksDbStore::open(place.path(), &small())
    }

    fn directory(place: &TempDir) -> Option<&Path> {
        Some(place.path())
    }
}

ravel_store::conformance_tests!(RocksDbBuilder);

/// Little memory, so that memtables are written out and blocks have to be read.
fn small() -> RocksDbOptions {
    RocksDbOptions {
        block_cache_bytes: 1024 * 1024,
        write_buffer_bytes: 1024 * 1024,
        commit_queue_bytes: QUEUE_BYTES_IN_TESTS,
        ..RocksDbOptions::default()
    }
}

#[test]
fn what_a_killed_process_acknowledged_is_there() {
    crash_tests::killed_process(
        "rocksdb::tests::what_a_killed_process_acknowledged_is_there",
        || tempfile::tempdir().unwrap(),
        |path| RocksDbStore::open(path, &small()),
    );
}

#[test]
fn sc_235_a_flipped_bit_is_never_read_as_a_value() {
    let noticed = crash_tests::flipped_bits::<RocksDbBuilder>();
    assert!(noticed > 0);
}

/// RocksDB's look-up of many keys, told to look no further than memory, answers with an empty value where a key would come behind
/// the end of a block that is in memory, and the next one is not. Filters let one absent key of a hundred get there.
#[test]
fn an_absent_key_is_absent_also_where_the_next_block_is_not_in_memory() {
    let place = RocksDbBuilder::place();
    let key = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
    let (count, gap) = (100, 1000);
    let store = RocksDbBuilder::open(&place).unwrap();
    for number in 0..count {
        let mut batch = Batch::new();
        batch.durability(Durability::Relaxed);
        batch.put(Keyspace::Log, key(number * gap), vec![1; 6_000]);
        assert!(block_on(store.commit(batch)).unwrap().is_written());
    }
    store.db.with(|db| db.0.flush_cf(db.family(Keyspace::Log).unwrap()).unwrap()).unwrap();
    drop(store);
    let store = RocksDbBuilder::open(&place).unwrap();
    for number in 0..count {
        let keys: Vec<Bytes> = (0..90).map(|beside| key(number * gap + beside)).collect();
        for (beside, key) in keys.iter().enumerate() {
            let found = block_on(store.get_many(Keyspace::Log, std::slice::from_ref(key))).unwrap();
            let found = found[0].as_ref().map(Bytes::len);
            assert_eq!(found, (beside == 0).then_some(6_000), "{number}, {beside}");
        }
    }
}

fn commit(store: &RocksDbStore, number: u8, durability: Durability) {
    let mut batch = Batch::new();
    batch.durability(durability);
    batch.put(Keyspace::Log, vec![number], vec![number; 300]).put(Keyspace::Meta, "last", vec![number]);
    assert!(block_on(store.commit(batch)).unwrap().is_written());
}

/// Commits twenty items and returns the one write-ahead log they are in.
fn twenty_commits(place: &TempDir) -> PathBuf {
    let store = RocksDbBuilder::open(place).unwrap();
    (0..20).for_each(|number| commit(&store, number, Durability::Sync));
    drop(store);
    the_log(place)
}

fn the_log(place: &TempDir) -> PathBuf {
    let logs = crash_tests::files(place.path()).into_iter();
    let logs: Vec<_> = logs.filter(|file| file.extension().is_some_and(|extension| extension == "log")).collect();
    assert_eq!(logs.len(), 1);
    logs[0].clone()
}

/// Returns a copy of a place whose write-ahead log has another content.
fn with_log(place: &TempDir, log: &Path, content: &[u8]) -> TempDir {
    let copy = RocksDbBuilder::place();
    crash_tests::copy_folder(place.path(), copy.path());
    fs::write(copy.path().join(log.strip_prefix(place.path()).unwrap()), content).unwrap();
    copy
}

fn accepting(place: &TempDir) -> RocksDbStore {
    RocksDbStore::open(place.path(), &RocksDbOptions { lost_commits: LostCommits::Accept, ..small() }).unwrap()
}

/// Returns how many of the twenty are there, all from the first on and each batch whole.
fn count_items(store: &RocksDbStore) -> usize {
    let items = block_on(store.scan_all(Scan::new(Keyspace::Log, KeyRange::all()))).unwrap();
    for (at, (key, value)) in items.iter().enumerate() {
        assert!(**key == [at as u8] && **value == [at as u8; 300]);
    }
    let last = block_on(store.get(Keyspace::Meta, "last")).unwrap();
    assert_eq!(last.map(|last| usize::from(last[0]) + 1).unwrap_or(0), items.len());
    items.len()
}

/// A crash in the middle of an append leaves a part of the last batch: all before it are there, of it nothing.
#[test]
fn sc_231_a_torn_end_of_the_log_takes_only_what_is_torn() {
    let place = RocksDbBuilder::place();
    let log = twenty_commits(&place);
    let content = fs::read(&log).unwrap();
    let mut counts = Vec::new();
    for cut in (0..content.len()).rev().step_by(97) {
        let copy = with_log(&place, &log, &content[..cut]);
        // Here what is torn was acknowledged, so it takes more than a crash to get there.
        assert!(matches!(RocksDbBuilder::open(&copy), Err(StoreError::Corrupt { .. })));
        counts.push(count_items(&accepting(&copy)));
        assert_eq!(count_items(&RocksDbBuilder::open(&copy).unwrap()), *counts.last().unwrap());
    }
    assert!(counts.is_sorted_by(|a, b| a >= b), "{counts:?}");
    assert_eq!((counts[0], *counts.last().unwrap()), (19, 0));
}

/// What a crash may leave of commits nobody was promised, in whatever order the disk wrote it.
#[test]
fn damage_to_what_was_not_acknowledged_is_cut_off() {
    let place = RocksDbBuilder::place();
    let log = twenty_commits(&place);
    let acknowledged = fs::read(&log).unwrap().len();
    // Opening again starts another log, so all are written in one go, the same twenty first.
    let place = RocksDbBuilder::place();
    let store = RocksDbBuilder::open(&place).unwrap();
    (0..20).for_each(|number| commit(&store, number, Durability::Sync));
    (20..30).for_each(|number| commit(&store, number, Durability::Relaxed));
    drop(store);
    let log = the_log(&place);
    let content = fs::read(&log).unwrap();
    let tail = content.len() - acknowledged;
    assert!(tail > 3000);
    for (start, len) in [(0, tail), (0, 100), (1, 400), (334, 334), (500, 1000), (tail - 350, 350), (tail - 200, 200)] {
        let mut content = content.clone();
        content[acknowledged + start..acknowledged + start + len].fill(0);
        let copy = with_log(&place, &log, &content);
        let count = count_items(&RocksDbBuilder::open(&copy).unwrap());
        assert!((20..30).contains(&count), "{count} after a hole of {len} at {start}");
    }
}

/// A crash may leave the file longer than what was written to it.
#[test]
fn zeros_behind_the_log_are_no_damage() {
    let place = RocksDbBuilder::place();
    let log = twenty_commits(&place);
    let content = fs::read(&log).unwrap();
    for zeros in [1, 7, 4096, 100_000] {
        let copy = with_log(&place, &log, &[&content[..], &vec![0; zeros]].concat());
        assert_eq!(count_items(&RocksDbBuilder::open(&copy).unwrap()), 20);
    }
}

/// Damage before the end would cut off what was acknowledged: that is not done unasked.
#[test]
fn damage_to_acknowledged_commits_is_refused_unless_accepted() {
    let place = RocksDbBuilder::place();
    let log = twenty_commits(&place);
    let mut content = fs::read(&log).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 0x10;
    let flipped = with_log(&place, &log, &content);
    content[middle - 200..middle + 200].fill(0);
    let zeroed = with_log(&place, &log, &content);
    for copy in [flipped, zeroed] {
        for _ in 0..2 {
            let error = RocksDbBuilder::open(&copy).unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        }
        let count = count_items(&accepting(&copy));
        assert!((5..15).contains(&count), "{count}");
        assert_eq!(count_items(&RocksDbBuilder::open(&copy).unwrap()), count);
    }
}

#[test]
fn what_is_not_in_memory_is_read_by_a_thread() {
    let place = RocksDbBuilder::place();
    let store = RocksDbBuilder::open(&place).unwrap();
    let key = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
    // Eight times the cache, of what does not compress.
    let value = |number: u32| -> Bytes {
        (0..8192u32).map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(number * 40_503) >> 13) as u8).collect()
    };
    for number in 0..1000 {
        let mut batch = Batch::new();
        batch.durability(Durability::Relaxed).put(Keyspace::Events, key(number), value(number));
        assert!(block_on(store.commit(batch)).unwrap().is_written());
    }
    drop(store);
    let store = RocksDbBuilder::open(&place).unwrap();
    let in_memory = |number| {
        store.db.with(|db| db.get_many(Keyspace::Events, &[key(number)], ReadTier::BlockCache).is_ok()).unwrap()
    };
    assert!((0..1000).any(|number| !in_memory(number)));
    for number in (0..1000).rev() {
        assert!(block_on(store.get(Keyspace::Events, key(number))).unwrap() == Some(value(number)));
        assert!(in_memory(number), "once read it is in memory");
    }
    let items = block_on(store.scan_all(Scan::prefix(Keyspace::Events, ""))).unwrap();
    assert!(items.into_iter().eq((0..1000).map(|number| (key(number), value(number)))));
}

fn data_files(place: &TempDir, extension: &str) -> Vec<PathBuf> {
    let files = crash_tests::files(place.path()).into_iter();
    files.filter(|file| file.extension().is_some_and(|found| found == extension)).collect()
}

/// Commits, without a sync, until they are in three files of the write-ahead log; returns how many commits, and a copy of the files.
fn three_unsynced_logs() -> (usize, TempDir) {
    let place = RocksDbBuilder::place();
    let store = RocksDbBuilder::open(&place).unwrap();
    for number in 0..u8::MAX {
        let mut batch = Batch::new();
        batch.durability(Durability::Relaxed).put(Keyspace::Log, vec![number], vec![number; 300]);
        batch.put(Keyspace::Meta, "last", vec![number]).put(Keyspace::Events, vec![number], vec![number; 200_000]);
        assert!(block_on(store.commit(batch)).unwrap().is_written());
        let logs = data_files(&place, "log");
        let written = logs.iter().filter(|log| fs::metadata(log).unwrap().len() > 300).count();
        if written >= 3 {
            let copy = RocksDbBuilder::place();
            crash_tests::copy_folder(place.path(), copy.path());
            return (usize::from(number) + 1, copy);
        }
    }
    panic!("the log stays in one file");
}

/// Loss of power may take an older file of the log and leave a newer one.
#[test]
fn a_hole_between_two_logs_is_not_read_over() {
    // Memtables are written out meanwhile, so that the files vary.
    for _ in 0..3 {
        let (commits, place) = three_unsynced_logs();
        let logs = data_files(&place, "log");
        let lost = &logs[logs.len() - 2];
        fs::write(lost, "").unwrap();
        match RocksDbBuilder::open(&place) {
            Ok(store) => {
                let count = count_items(&store);
                assert!(count < commits, "{count} of {commits}");
            }
            // The lost file may have been synced by then, as memtables were written out: it takes more than a crash to get there.
            Err(error) => assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}"),
        }
    }
}

#[test]
fn a_manifest_that_was_not_kept_is_done_without() {
    let place = RocksDbBuilder::place();
    twenty_commits(&place);
    let data = place.path().join("data");
    let before = fs::read_to_string(data.join("CURRENT")).unwrap();
    fs::write(data.join("CURRENT"), "MANIFEST-999999\n").unwrap();
    assert_eq!(count_items(&RocksDbBuilder::open(&place).unwrap()), 20);
    // Without an older one there is nothing to go by.
    fs::remove_file(data.join(fs::read_to_string(data.join("CURRENT")).unwrap().trim_end())).unwrap();
    RocksDbBuilder::open(&place).unwrap_err();
    assert!(before.starts_with("MANIFEST-"));
}

/// What loss of power may leave of an engine that was just being made.
#[test]
fn a_first_manifest_that_was_not_kept_is_made_again_if_nothing_was_acknowledged() {
    let place = RocksDbBuilder::place();
    let data = place.path().join("data");
    drop(RocksDbBuilder::open(&place).unwrap());
    for entry in fs::read_dir(&data).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    fs::write(data.join("CURRENT"), "MANIFEST-000001\n").unwrap();
    assert!(RocksDbBuilder::open(&place).is_err(), "the mark says that something was acknowledged");
    assert!(data.join("CURRENT").exists());
    fs::remove_file(place.path().join("ravel.synced")).unwrap();
    RocksDbBuilder::open(&place).unwrap();
}

#[test]
fn the_end_of_a_manifest_that_never_reached_the_disk_is_cut_off() {
    let place = RocksDbBuilder::place();
    twenty_commits(&place);
    let data = place.path().join("data");
    let manifest = data.join(fs::read_to_string(data.join("CURRENT")).unwrap().trim_end());
    let content = fs::read(&manifest).unwrap();
    // A record whose head is there, and of whose data there are zeros from the next sector on.
    let border = content.len().next_multiple_of(512);
    for (claimed, zeros) in [(600u16, 512), (600, 20), (1300, 700)] {
        let mut torn = content.clone();
        torn.extend_from_slice(&[1, 2, 3, 4]);
        torn.extend_from_slice(&claimed.to_le_bytes());
        torn.push(1);
        torn.resize(border.max(torn.len().next_multiple_of(512)), 7);
        torn.resize(torn.len() + zeros, 0);
        fs::write(&manifest, &torn).unwrap();
        assert!(files::mend_manifest(&data).unwrap());
        assert!(fs::read(&manifest).unwrap() == content);
        assert!(files::mend_manifest(&data).unwrap());
        assert!(fs::read(&manifest).unwrap() == content, "and no further");
    }
    // One whose first bytes are at the end of a sector, as it was before, and are not there.
    let mut torn = content.clone();
    let padding = border + 512 - 3 - content.len();
    let data_of_padding = vec![7; padding - 7];
    let checksum = crc32c::crc32c(&[&[1], &data_of_padding[..]].concat()).rotate_right(15).wrapping_add(0xA282_EAD8);
    torn.extend_from_slice(&checksum.to_le_bytes());
    torn.extend_from_slice(&((padding - 7) as u16).to_le_bytes());
    torn.push(1);
    torn.extend_from_slice(&data_of_padding);
    let sound = torn.clone();
    torn.extend_from_slice(&[0, 0, 0, 9, 50, 0, 1]);
    torn.extend_from_slice(&[7; 50]);
    fs::write(&manifest, &torn).unwrap();
    assert!(files::mend_manifest(&data).unwrap());
    assert!(fs::read(&manifest).unwrap() == sound);
    torn[sound.len()] = 8;
    fs::write(&manifest, &torn).unwrap();
    assert!(!files::mend_manifest(&data).unwrap(), "that is damage");
    assert!(fs::read(&manifest).unwrap() == torn);
    // One of whose last bytes a few are in the next sector, and are not there; and one that ends with zeros, and has a changed bit.
    let end = border + 512 + 3;
    let mut whole = vec![7; end - content.len() - 7];
    let piece = |data: &[u8]| {
        let checksum = crc32c::crc32c(&[&[1], data].concat()).rotate_right(15).wrapping_add(0xA282_EAD8);
        [&content[..], &checksum.to_le_bytes(), &(data.len() as u16).to_le_bytes(), &[1], data].concat()
    };
    let mut torn = piece(&whole);
    torn[end - 3..].fill(0);
    fs::write(&manifest, &torn).unwrap();
    assert!(files::mend_manifest(&data).unwrap());
    assert!(fs::read(&manifest).unwrap() == content);
    let zeros = whole.len() - 3;
    whole[zeros..].fill(0);
    for changed in [content.len(), content.len() + 4, content.len() + 50] {
        let mut flipped = piece(&whole);
        flipped[changed] ^= 4;
        fs::write(&manifest, &flipped).unwrap();
        assert!(!files::mend_manifest(&data).unwrap() || changed == content.len() + 4, "that is damage");
        assert!(fs::read(&manifest).unwrap() == flipped);
    }
    fs::write(&manifest, &content).unwrap();
    assert_eq!(count_items(&RocksDbBuilder::open(&place).unwrap()), 20);
}

#[test]
fn a_flipped_bit_in_a_manifest_cuts_nothing_off() {
    for part in 0..20 {
        let place = RocksDbBuilder::place();
        twenty_commits(&place);
        let data = place.path().join("data");
        let manifest = data.join(fs::read_to_string(data.join("CURRENT")).unwrap().trim_end());
        let mut flipped = fs::read(&manifest).unwrap();
        let at = flipped.len() * part / 20;
        flipped[at] ^= 1;
        fs::write(&manifest, &flipped).unwrap();
        match RocksDbBuilder::open(&place) {
            Err(StoreError::Corrupt { .. } | StoreError::Io { .. }) => {
                assert!(fs::read(&manifest).unwrap() == flipped, "{at}");
            }
            // Where the record reads as an unfinished end, what it said is found elsewhere.
            Ok(store) => assert_eq!(count_items(&store), 20, "{at}"),
            Err(other) => panic!("{at}: {other}"),
        }
    }
}

#[test]
fn the_note_of_what_was_acknowledged_is_there_from_the_first_opening() {
    let place = RocksDbBuilder::place();
    drop(RocksDbBuilder::open(&place).unwrap());
    assert_eq!(fs::metadata(place.path().join("ravel.synced")).unwrap().len(), 16);
}

#[test]
fn the_engine_is_opened_again_while_the_store_is_open() {
    let place = RocksDbBuilder::place();
    let store = RocksDbBuilder::open(&place).unwrap();
    for round in 0..3 {
        (round * 5..round * 5 + 5).for_each(|number| commit(&store, number, Durability::Sync));
        store.db.reopen(None).unwrap();
        assert_eq!(count_items(&store), usize::from(round) * 5 + 5);
    }
    // Also where an earlier attempt could not open it.
    *store.db.db.write().unwrap() = None;
    assert!(matches!(block_on(store.get(Keyspace::Log, "a")), Err(StoreError::Halted)));
    store.db.reopen(None).unwrap();
    assert_eq!(count_items(&store), 15);
    assert!(data_files(&place, "room").is_empty());
}

/// The folder stays locked by it.
#[test]
fn reads_go_on_while_the_engine_cannot_be_closed() {
    let place = RocksDbBuilder::place();
    let store = RocksDbBuilder::open(&place).unwrap();
    (0..5).for_each(|number| commit(&store, number, Durability::Sync));
    let closing = store.db.db.write().unwrap().take();
    for _ in 0..3 {
        store.db.reopen(None).unwrap_err();
        assert_eq!(count_items(&store), 5);
    }
    drop(closing);
    store.db.reopen(None).unwrap();
    (5..10).for_each(|number| commit(&store, number, Durability::Sync));
    assert_eq!(count_items(&store), 10);
}

/// Lets RocksDB find no room for the next few tables, though for those after them, until what is returned is dropped.
#[cfg(target_os = "linux")]
fn no_room_for_next_tables(place: &TempDir, count: u32) -> impl Drop {
    struct Links(Vec<PathBuf>);

    impl Drop for Links {
        fn drop(&mut self) {
            // RocksDB removes those it met.
            self.0.iter().for_each(|link| drop(fs::remove_file(link)));
        }
    }

    let number = |file: &PathBuf| file.file_stem()?.to_str()?.rsplit('-').next()?.parse::<u32>().ok();
    let last = crash_tests::files(&place.path().join("data")).iter().filter_map(number).max().unwrap();
    let links: Vec<_> = (1..=count).map(|next| place.path().join(format!("data/{:06}.sst", last + next))).collect();
    links.iter().for_each(|link| std::os::unix::fs::symlink("/dev/full", link).unwrap());
    Links(links)
}

/// RocksDB's own attempts to go on after a full disk may keep it from being closed: it must not make any, not even a single one that
/// works.
#[cfg(target_os = "linux")]
#[test]
fn sc_234_after_a_full_disk_the_engine_goes_on_only_if_it_is_opened_again() {
    let place = RocksDbBuilder::place();
    let store = RocksDbBuilder::open(&place).unwrap();
    (0..5).for_each(|number| commit(&store, number, Durability::Sync));
    let _full = no_room_for_next_tables(&place, 2);
    let write = |db: &Db| db.0.put_cf(db.family(Keyspace::Meta).unwrap(), "a", "b");
    let flushed = store.db.with(|db| db.0.flush_cf(db.family(Keyspace::Log).unwrap())).unwrap();
    let error = store_error(Operation::Flush, flushed.unwrap_err());
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    // RocksDB would try after one second.
    thread::sleep(Duration::from_millis(2_500));
    store.db.with(write).unwrap().unwrap_err();
    assert_eq!(count_items(&store), 5);
    store.db.reopen(None).unwrap();
    store.db.with(write).unwrap().unwrap();
    (5..10).for_each(|number| commit(&store, number, Durability::Sync));
    assert_eq!(count_items(&store), 10);
}

/// RocksDB takes writes after that until its memory is full, and then never again: nobody may wait for it.
#[cfg(target_os = "linux")]
#[test]
fn a_compaction_without_room_lets_no_commit_wait_for_ever() {
    let place = RocksDbBuilder::place();
    let store = RocksDbBuilder::open(&place).unwrap();
    let put = |number: u32| {
        let mut batch = Batch::new();
        batch.durability(Durability::Relaxed).put(Keyspace::Log, number.to_be_bytes().to_vec(), vec![7; 20_000]);
        block_on(store.commit(batch))
    };
    for round in 0..2 {
        (0..10 + round).for_each(|number| drop(put(number).unwrap()));
        store.db.with(|db| db.0.flush_cf(db.family(Keyspace::Log).unwrap())).unwrap().unwrap();
    }
    let full = no_room_for_next_tables(&place, 4);
    let range = None::<&[u8]>;
    store.db.with(|db| db.0.compact_range_cf(db.family(Keyspace::Log).unwrap(), range, range)).unwrap();
    drop(full);
    let mut next = 11;
    let error = loop {
        match put(next) {
            Ok(_) => next += 1,
            Err(error) => break error,
        }
        assert!(next < 2_000, "it goes on without a compaction");
    };
    assert!(matches!(error, StoreError::Full { .. }), "{error:?}");
    // After a while, it is opened again.
    thread::sleep(Duration::from_millis(500));
    assert!(put(next).unwrap().is_written());
    let items = block_on(store.scan_all(Scan::new(Keyspace::Log, KeyRange::all()))).unwrap();
    assert_eq!(items.len(), next as usize + 1);
}
