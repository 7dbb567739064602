use std::{path::Path, time::Instant};

use ravel_store::{
    Durability, ForeignReason, KeyRange, StoreExt, block_on,
    conformance::{QUEUE_BYTES_IN_TESTS, StoreBuilder},
};

use super::{
    testing::{Cluster, shared_cluster},
    *,
};

mod failover;
mod failures;
mod proxy;

struct PostgresBuilder;

/// A schema of the shared server, by its connection string.
struct Place(Arc<Cluster>, String);

impl AsRef<Path> for Place {
    fn as_ref(&self) -> &Path {
        Path::new(&self.1)
    }
}

impl StoreBuilder for PostgresBuilder {
    type Store = PostgresStore;
    type Place = Place;

    fn place() -> Place {
        let cluster = shared_cluster();
        let url = cluster.new_place();
        Place(cluster, url)
    }

    fn open(Place(_, url): &Place) -> Result<PostgresStore, StoreError> {
        let options = PostgresOptions { commit_queue_bytes: QUEUE_BYTES_IN_TESTS, ..PostgresOptions::default() };
        PostgresStore::open(url, &options)
    }

    fn is_on_disk(_: &Place) -> bool {
        true
    }
}

ravel_store::conformance_tests!(PostgresBuilder);

fn with_schema(test: impl FnOnce(&Cluster, &str)) {
    let Place(cluster, url) = PostgresBuilder::place();
    test(&cluster, &url);
}

fn open(url: &str) -> PostgresStore {
    PostgresStore::open(url, &PostgresOptions::default()).unwrap()
}

fn open_to_read(url: &str) -> Result<PostgresStore, StoreError> {
    PostgresStore::open(url, &PostgresOptions { access: Access::Read, ..PostgresOptions::default() })
}

fn put(key: impl Into<Bytes>, value: &'static str) -> Batch {
    let mut batch = Batch::new();
    batch.put(Keyspace::Log, key, value);
    batch
}

fn commit(store: &impl Store, batch: Batch) -> Result<Committed, StoreError> {
    block_on(store.commit(batch))
}

fn write(store: &impl Store, batch: Batch) {
    assert_eq!(commit(store, batch).unwrap(), Committed::Written);
}

fn keys(store: &impl Store) -> Vec<String> {
    let items = block_on(store.scan_all(Scan::new(Keyspace::Log, KeyRange::all()))).unwrap();
    items.iter().map(|(key, _)| String::from_utf8_lossy(key).into_owned()).collect()
}

/// Waits for a watch that another thread wakes; a wake-up that never comes fails the test instead of hanging it.
fn is_woken(watch: &Watch) -> bool {
    let began = Instant::now();
    while !watch.has_changed() && began.elapsed() < Duration::from_secs(20) {
        thread::sleep(Duration::from_millis(5));
    }
    watch.has_changed()
}

#[test]
fn who_opens_later_shuts_the_earlier_writer_out() {
    with_schema(|_, url| {
        let first = open(url);
        write(&first, put("a", "1"));
        let second = open(url);
        for _ in 0..2 {
            let error = commit(&first, put("b", "1")).unwrap_err();
            assert!(matches!(error, StoreError::Overtaken { epoch: 1 }), "{error}");
        }
        assert!(matches!(block_on(first.flush()), Err(StoreError::Overtaken { .. })));
        let watch = first.watch(Keyspace::Log, b"c");
        write(&second, put("c", "1"));
        assert_eq!(keys(&second), ["a", "c"]);
        // It can still read what the other writes, and hears of it.
        assert!(is_woken(&watch));
        assert_eq!(keys(&first), ["a", "c"]);
        // It comes back only by opening again.
        drop(first);
        let third = open(url);
        write(&third, put("d", "1"));
        assert!(matches!(commit(&second, put("e", "1")), Err(StoreError::Overtaken { epoch: 2 })));
        assert_eq!(keys(&third), ["a", "c", "d"]);
    });
}

#[test]
fn of_many_writers_at_once_only_the_latest_goes_on() {
    with_schema(|_, url| {
        let written: Vec<_> = thread::scope(|scope| {
            let writers: Vec<_> = (0..6)
                .map(|writer| {
                    scope.spawn(move || {
                        let store = open(url);
                        (0..50)
                            .map_while(|number| {
                                let key = format!("{writer}.{number:02}");
                                match commit(&store, put(key.clone(), "")) {
                                    Ok(committed) => Some((key, committed)),
                                    Err(StoreError::Overtaken { .. }) => None,
                                    Err(error) => panic!("{error}"),
                                }
                            })
                            .map(|(key, committed)| {
                                assert!(committed.is_written());
                                key
                            })
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        // Each was opened, the last one has written all it had; what was acknowledged is there, and nothing else.
        assert!(written.iter().any(|keys| keys.len() == 50));
        let mut acknowledged: Vec<_> = written.into_iter().flatten().collect();
        acknowledged.sort();
        assert_eq!(keys(&open_to_read(url).unwrap()), acknowledged);
    });
}

#[test]
fn who_reads_changes_nothing_and_hears_of_commits() {
    with_schema(|cluster, url| {
        let error = open_to_read(url).unwrap_err();
        assert!(matches!(error, StoreError::Foreign { reason: ForeignReason::Empty, .. }), "{error}");
        assert_eq!(cluster.sql(url, TABLES), "");
        let writer = open(url);
        let reader = open_to_read(url).unwrap();
        assert!(matches!(commit(&reader, put("a", "1")), Err(StoreError::ReadOnly)));
        let (touched, elsewhere) = (reader.watch(Keyspace::Log, b"ro"), reader.watch(Keyspace::Log, b"x"));
        write(&writer, put("room", "1"));
        assert!(is_woken(&touched));
        assert!(!elsewhere.has_changed());
        assert_eq!(keys(&reader), ["room"]);
        let mut batch = Batch::new();
        batch.delete_range(Keyspace::Log, KeyRange::new("y", "z"));
        write(&writer, batch);
        assert!(is_woken(&elsewhere));
    });
}

#[test]
fn sc_232_a_foreign_or_newer_database_is_refused_and_left_alone() {
    let check = |setup: &str, expected: fn(&StoreError) -> bool| {
        with_schema(|cluster, url| {
            cluster.sql(url, setup);
            let before = (cluster.sql(url, TABLES), cluster.sql(url, COLUMNS));
            for access in [Access::Write, Access::Read] {
                let options = PostgresOptions { access, ..PostgresOptions::default() };
                let error = PostgresStore::open(url, &options).expect_err(setup);
                assert!(expected(&error), "{setup}: {error}");
                assert!(!error.to_string().contains("secret"));
            }
            assert_eq!((cluster.sql(url, TABLES), cluster.sql(url, COLUMNS)), before);
        });
    };
    let made = schema::create_sql();
    check("CREATE TABLE letters (reader text)", |error| {
        matches!(error, StoreError::Foreign { reason: ForeignReason::NoMarkerTable, .. })
    });
    check("CREATE TABLE ravel_store (id bigint, name text)", |error| {
        matches!(error, StoreError::Foreign { reason: ForeignReason::UnreadableMarkerTable, .. })
    });
    check(&format!("{made}; UPDATE ravel_store SET engine = 'clay-tablets'"), |error| {
        matches!(error, StoreError::Foreign { reason: ForeignReason::OtherEngine { .. }, .. })
    });
    check(&format!("{made}; UPDATE ravel_store SET layout = 0"), |error| {
        matches!(error, StoreError::Foreign { reason: ForeignReason::UnreadableMarkerTable, .. })
    });
    check(&format!("{made}; UPDATE ravel_store SET layout = layout + 1"), |error| {
        matches!(error, StoreError::NewerFormat { known: ravel_store::directory::LAYOUT, .. })
    });
    check(&format!("{made}; DELETE FROM ravel_store; INSERT INTO ravel_items VALUES (1, 'a', 'b')"), |error| {
        matches!(error, StoreError::Foreign { reason: ForeignReason::UnreadableMarkerTable, .. })
    });
}

#[test]
fn a_store_that_was_left_unfinished_is_finished() {
    for left in ["DELETE FROM ravel_store", "DELETE FROM ravel_store; DROP TABLE ravel_items"] {
        with_schema(|cluster, url| {
            cluster.sql(url, &format!("{}; {left}", schema::create_sql()));
            let store = open(url);
            write(&store, put("a", "1"));
            assert_eq!(keys(&store), ["a"]);
        });
    }
}

#[test]
fn stores_that_are_made_at_once_are_one() {
    with_schema(|_, url| {
        thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| open(url));
            }
        });
        write(&open(url), put("a", "1"));
    });
}

#[test]
fn a_server_that_is_not_there_is_told_at_once() {
    let began = Instant::now();
    let error = PostgresStore::open("postgres://ravel:secret@127.0.0.1:1/db", &PostgresOptions::default()).unwrap_err();
    assert!(matches!(error, StoreError::Io { operation: Operation::Open, .. }), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(PostgresStore::open("a sentence", &PostgresOptions::default()).is_err());
    let server =
        Server::new("postgres://ravel:secret@host:77/db?sslmode=require", &PostgresOptions::default()).unwrap();
    assert_eq!(server.name().display().to_string(), "postgres://host:77/db");
}

/// What is taken to be absent is made sure of in the statement that writes.
#[test]
fn a_key_that_is_there_is_noticed_though_nothing_was_known_of_it() {
    with_schema(|_, url| {
        write(&open(url), put("there", "1"));
        let store = open(url);
        let guarded = |keys: &[&'static str], new: &'static str| {
            let mut batch = put(new, "");
            for key in keys {
                batch.guard_absent(Keyspace::Log, *key);
            }
            commit(&store, batch).unwrap()
        };
        let refused = guarded(&["a", "there", "b"], "a");
        assert!(
            matches!(&refused, Committed::Refused(failed) if failed.index == 1 && failed.found == Some("1".into()))
        );
        assert_eq!(guarded(&["a", "b"], "a"), Committed::Written);
        assert!(!guarded(&["a"], "c").is_written());
        let mut batch = put("c", "");
        batch.guard_equals(Keyspace::Log, "there", "1").guard_absent(Keyspace::Log, "c");
        assert_eq!(commit(&store, batch).unwrap(), Committed::Written);
        assert_eq!(keys(&store), ["a", "c", "there"]);
    });
}

/// A batch of the largest size goes through in several statements.
#[test]
fn a_batch_as_large_as_can_be_is_one_commit() {
    with_schema(|cluster, url| {
        let store = open(url);
        let value = Bytes::from(vec![7; ravel_store::VALUE_BYTES_MAX]);
        let mut batch = Batch::new();
        for number in 0..60 {
            batch.put(Keyspace::Log, format!("{number:02}"), value.clone());
        }
        write(&store, batch);
        let count = "SELECT count(*), (SELECT commits FROM ravel_store) FROM ravel_items";
        assert_eq!(cluster.sql(url, count), "60|1");
    });
}

const TABLES: &str =
    "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY 1";
const COLUMNS: &str = "SELECT table_name, column_name, data_type FROM information_schema.columns \
                       WHERE table_schema = current_schema() ORDER BY 1, 2";
