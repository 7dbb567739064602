use ravel_store::{
    KEY_BYTES_MAX, StoreExt, block_on,
    conformance::{QUEUE_BYTES_IN_TESTS, StoreBuilder},
};
use tempfile::TempDir;

use super::*;
use crate::crash_tests;

struct SledBuilder;

impl StoreBuilder for SledBuilder {
    type Store = SledStore;
    type Place = TempDir;

    fn place() -> TempDir {
        tempfile::tempdir().unwrap()
    }

    fn open(place: &TempDir) -> Result<SledStore, StoreError> {
        SledStore::open(
            place.path(),
            &SledOptions {
                cache_bytes: 16 * 1024 * 1024,
                commit_queue_bytes: QUEUE_BYTES_IN_TESTS,
                ..SledOptions::default()
            },
        )
    }

    fn directory(place: &TempDir) -> Option<&Path> {
        Some(place.path())
    }
}

ravel_store::conformance_tests!(SledBuilder);

#[test]
fn what_a_killed_process_acknowledged_is_there() {
    crash_tests::killed_process(
        "sled::tests::what_a_killed_process_acknowledged_is_there",
        || tempfile::tempdir().unwrap(),
        |path| SledStore::open(path, &SledOptions::default()),
    );
}

#[test]
fn the_lock_of_an_engine_that_was_just_closed_is_waited_for() {
    let place = SledBuilder::place();
    let data = SledBuilder::open(&place).unwrap().directory.data();
    // What threads of sled's own do now and then.
    let lock = File::open(data.join("db")).unwrap();
    lock.lock().unwrap();
    let holder = thread::spawn(move || {
        thread::sleep(Duration::from_millis(200));
        drop(lock);
    });
    SledBuilder::open(&place).unwrap();
    holder.join().unwrap();
}

#[test]
fn sc_235_a_flipped_bit_is_never_read_as_a_value() {
    let noticed = crash_tests::flipped_bits::<SledBuilder>();
    assert!(noticed > 0);
}

/// The worst leaves there can be: long keys, values as large as an item takes.
#[test]
fn no_blob_is_ever_written() {
    let place = SledBuilder::place();
    let store = SledBuilder::open(&place).unwrap();
    let key = |number: u32| -> Bytes {
        let mut key = vec![0xFF; KEY_BYTES_MAX - 4];
        key.extend_from_slice(&number.to_be_bytes());
        key.into()
    };
    let write = |numbers: &mut dyn Iterator<Item = u32>, value_bytes: Option<usize>| {
        let mut batch = Batch::new();
        batch.durability(ravel_store::Durability::Relaxed);
        for number in numbers {
            match value_bytes {
                Some(len) => batch.put(Keyspace::Log, key(number), vec![number as u8; len]),
                None => batch.delete(Keyspace::Log, key(number)),
            };
        }
        assert!(block_on(store.commit(batch)).unwrap().is_written());
        let blobs: Vec<_> = fs::read_dir(place.path().join("data/blobs")).unwrap().collect();
        assert!(blobs.is_empty(), "{blobs:?}");
    };
    let numbers = || (0..600u32).map(|number| number * 37 % 601);
    write(&mut numbers(), Some(CHUNK_BYTES_MAX));
    for number in numbers().take(200) {
        write(&mut [number].into_iter(), Some(CHUNK_BYTES_MAX - 1));
    }
    // Leaves that lost most of their items are merged with their neighbors, the fullest first.
    write(&mut numbers().filter(|number| number % 9 > 2), None);
    write(&mut numbers().filter(|number| number % 9 > 2), Some(CHUNK_BYTES_MAX));
    write(&mut (0..40), Some(VALUE_BYTES_MAX));
    block_on(store.flush()).unwrap();
    assert_eq!(block_on(store.get(Keyspace::Log, key(3))).unwrap().map(|value| value.len()), Some(VALUE_BYTES_MAX));
}

#[test]
fn chunks_of_replaced_values_are_removed() {
    let place = SledBuilder::place();
    let store = SledBuilder::open(&place).unwrap();
    let commit = |build: &dyn Fn(&mut Batch)| {
        let mut batch = Batch::new();
        build(&mut batch);
        assert!(block_on(store.commit(batch)).unwrap().is_written());
        // One is the number of the batch.
        store.engine.tree.len() - 1
    };
    let put = |len: usize| {
        commit(&|batch| {
            batch.put(Keyspace::Log, "key", vec![7; len]);
        })
    };
    assert_eq!(put(CHUNK_BYTES_MAX), 1);
    assert_eq!(put(CHUNK_BYTES_MAX + 1), 3);
    assert_eq!(put(CHUNK_BYTES_MAX * 5), 6);
    assert_eq!(put(CHUNK_BYTES_MAX * 2), 3);
    assert_eq!(put(0), 1);
    assert_eq!(put(CHUNK_BYTES_MAX * 3), 4);
    let left = commit(&|batch| {
        batch.delete_range(Keyspace::Log, KeyRange::all());
    });
    assert_eq!(left, 0);
}

#[test]
fn what_is_stored_already_is_not_written_again() {
    let place = SledBuilder::place();
    let store = SledBuilder::open(&place).unwrap();
    let mut batch = Batch::new();
    batch.put(Keyspace::Log, "a", "1").put(Keyspace::Log, "b", "1").put(Keyspace::Meta, "a", "1");
    assert!(block_on(store.commit(batch)).unwrap().is_written());
    let check = |is_removed: bool, puts: &[(&'static str, &'static str)], writes: &dyn Fn(&mut sled::Batch)| {
        let (mut batch, mut expected) = (Batch::new(), sled::Batch::default());
        if is_removed {
            batch.put(Keyspace::Log, "b", "2").delete_range(Keyspace::Log, KeyRange::all());
        }
        for (key, value) in puts {
            batch.put(Keyspace::Log, *key, *value);
        }
        writes(&mut expected);
        let Ok(resolved) = store.engine.resolve(&batch) else { panic!("all is there to be read") };
        // A batch of sled can't be compared otherwise. It has no order: so there is one write at most.
        assert_eq!(format!("{resolved:?}"), format!("{expected:?}"), "{puts:?}");
    };
    let item = |key: &str| item_key(Keyspace::Log, key.as_bytes());
    check(false, &[("a", "1")], &|_| {});
    check(false, &[("a", "2")], &|expected| expected.insert(item("a"), b"\x002"));
    check(true, &[("b", "1"), ("a", "1")], &|_| {});
    check(true, &[("a", "1")], &|expected| expected.remove(item("b")));
    check(true, &[("b", "1"), ("a", "2")], &|expected| expected.insert(item("a"), b"\x002"));
    check(true, &[("b", "1"), ("a", "2"), ("a", "1")], &|_| {});
}

#[test]
fn a_lost_chunk_is_corrupt() {
    let place = SledBuilder::place();
    let store = SledBuilder::open(&place).unwrap();
    let mut batch = Batch::new();
    batch.put(Keyspace::Log, "key", vec![7; CHUNK_BYTES_MAX * 3]);
    assert!(block_on(store.commit(batch)).unwrap().is_written());
    let remove = |number| store.engine.tree.remove(chunk_key(&item_key(Keyspace::Log, b"key"), number)).unwrap();
    assert!(remove(1).is_some());
    for error in [
        block_on(store.get(Keyspace::Log, "key")).unwrap_err(),
        block_on(store.scan(Scan::prefix(Keyspace::Log, ""))).unwrap_err(),
    ] {
        assert_eq!(error.to_string(), "corrupt log at 0x6b6579: expected all chunks of a value");
    }
}

#[test]
fn what_a_crash_leaves_of_a_snapshot_is_removed() {
    let place = SledBuilder::place();
    let mut batch = Batch::new();
    batch.put(Keyspace::Log, "key", "value");
    assert!(block_on(SledBuilder::open(&place).unwrap().commit(batch)).unwrap().is_written());
    // Named so that sled would take it for the newest.
    let unfinished = place.path().join("data/snap.7FFFFFFFFFFFFFFF.generating");
    fs::write(&unfinished, "").unwrap();
    let store = SledBuilder::open(&place).unwrap();
    assert!(!unfinished.exists());
    assert!(block_on(store.get(Keyspace::Log, "key")).unwrap().is_some());
}

/// Each opening makes a snapshot; a loss of power may keep that the old one was removed, and not the new one.
#[test]
fn a_store_opens_without_the_snapshots_that_sled_removed_too_early() {
    let place = SledBuilder::place();
    let put = |store: &SledStore, key: &'static str| {
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, key, "value");
        assert!(block_on(store.commit(batch)).unwrap().is_written());
    };
    for key in ["a", "b", "c"] {
        put(&SledBuilder::open(&place).unwrap(), key);
    }
    let data = place.path().join("data");
    let is_snapshot = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with("snap.");
    let paths: Vec<_> = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path()).collect();
    let removed: Vec<_> = paths.iter().filter(|path| is_snapshot(path)).collect();
    assert_eq!(removed.len(), 1, "{paths:?}");
    fs::remove_file(removed[0]).unwrap();
    snapshots::restore(&data).unwrap();
    assert!(removed[0].exists());
    fs::remove_file(removed[0]).unwrap();
    let store = SledBuilder::open(&place).unwrap();
    for key in ["a", "b", "c"] {
        assert!(block_on(store.get(Keyspace::Meta, key.as_bytes())).unwrap().is_some());
    }
}

#[test]
fn a_configuration_that_was_torn_when_the_store_was_made_is_written_anew() {
    let place = SledBuilder::place();
    drop(SledBuilder::open(&place).unwrap());
    let conf = place.path().join("data/conf");
    assert_eq!(fs::read(&conf).unwrap(), CONF);
    for torn in [&CONF[..CONF.len() - 4], &[0; 63], &CONF[..20]] {
        fs::write(&conf, torn).unwrap();
        // With the note that is durable once the store was open, it is damage.
        assert!(SledBuilder::open(&place).is_err());
        fs::write(place.path().join("ravel.synced"), "").unwrap();
        drop(SledBuilder::open(&place).unwrap());
        assert_eq!(fs::read(&conf).unwrap(), CONF);
    }
}

/// What a failed sync was to write is read from memory until power is lost: the next opening writes it once more.
#[test]
fn after_a_failed_sync_the_next_opening_writes_the_log_again() {
    let place = SledBuilder::place();
    let mut batch = Batch::new();
    batch.put(Keyspace::Log, "key", "value");
    assert!(block_on(SledBuilder::open(&place).unwrap().commit(batch)).unwrap().is_written());
    let data = place.path().join("data");
    let before = fs::read(data.join("db")).unwrap();
    note_failed_sync(&data);
    write_again_after_failed_sync(&data).unwrap();
    assert!(fs::read(data.join("db")).unwrap() == before);
    assert!(!data.join(FAILED_SYNC).exists());
    note_failed_sync(&data);
    let store = SledBuilder::open(&place).unwrap();
    assert!(block_on(store.get(Keyspace::Log, "key")).unwrap().is_some());
    assert!(!data.join(FAILED_SYNC).exists());
}
