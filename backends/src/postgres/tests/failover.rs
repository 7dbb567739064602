//! The primary is lost for good and its standby takes over: what was acknowledged is there, and nobody writes beside it.

use std::sync::Mutex;

use super::{
    failures::{append, impatient, with_server},
    *,
};

/// Runs a test with a primary and its synchronous standby, and a connection string that leads to whichever takes writes.
fn with_standby(test: impl FnOnce(&Cluster, &Cluster, &str)) {
    with_server(|primary, url| {
        let standby = primary.start_standby();
        let both = format!("127.0.0.1:{},127.0.0.1:{}/", primary.port(), standby.port());
        let both = url.replace(&format!("127.0.0.1:{}/", primary.port()), &both) + "&target_session_attrs=read-write";
        test(primary, &standby, &both);
    });
}

/// The connection string that leads to this server alone, with the schema of another string.
fn only(server: &Cluster, url: &str) -> String {
    server.url(url.split_once("search_path%3D").unwrap().1.split('&').next().unwrap())
}

#[test]
fn nothing_acknowledged_is_lost_when_the_standby_takes_over() {
    with_standby(|primary, standby, url| {
        let older = PostgresStore::open(url, &impatient()).unwrap();
        write(&older, append(0));
        let at_old = PostgresStore::open(&only(primary, url), &impatient()).unwrap();
        write(&at_old, append(1));
        let store = open(url);
        let acknowledged = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for writer in 0..4 {
                let (store, acknowledged) = (&store, &acknowledged);
                scope.spawn(move || {
                    // Goes on through the change: the store finds the new primary, and what became of its commits.
                    for number in 0..150 {
                        let mut batch = Batch::new();
                        let key = format!("w{writer}.{number:05}");
                        batch.guard_absent(Keyspace::Log, key.clone());
                        batch.put(Keyspace::Log, key.clone(), "").put(Keyspace::Events, key.clone(), "");
                        write(store, batch);
                        acknowledged.lock().unwrap().push(key);
                    }
                });
            }
            while acknowledged.lock().unwrap().len() < 150 {
                thread::sleep(Duration::from_millis(1));
            }
            primary.kill();
            standby.promote();
        });
        let mut expected = acknowledged.into_inner().unwrap();
        assert_eq!(expected.len(), 600);
        expected.sort();
        expected.splice(0..0, ["0000".to_owned(), "0001".to_owned()]);
        let check = |store: &PostgresStore, expected: &[String]| {
            assert_eq!(keys(store), expected);
            let twins = block_on(store.scan_all(Scan::new(Keyspace::Events, KeyRange::all()))).unwrap();
            assert_eq!(twins.len(), 600, "half a batch");
        };
        check(&store, &expected);

        // The writer of an earlier opening is shut out on the new primary, too.
        assert!(matches!(commit(&older, append(2)), Err(StoreError::Overtaken { epoch: 1 })));
        // The old primary comes back as if nothing had happened. It waits for its standby, so it acknowledges nothing: neither to
        // who knew only it, nor to who opens it now.
        primary.start_again();
        for _ in 0..2 {
            let committed = commit(&at_old, append(2));
            assert!(committed.is_err(), "{committed:?}");
        }
        assert!(PostgresStore::open(&only(primary, url), &impatient()).is_err());
        check(&open_to_read(&only(standby, url)).unwrap(), &expected);
        write(&store, append(2));
        expected.insert(2, "0002".to_owned());
        check(&store, &expected);
    });
}

/// A writer that knows commits of the new primary goes back to none that does not have them.
#[test]
fn a_writer_does_not_go_back_to_a_server_without_its_commits() {
    with_standby(|primary, standby, url| {
        let store = PostgresStore::open(url, &impatient()).unwrap();
        write(&store, append(0));
        primary.kill();
        standby.promote();
        write(&store, append(1));
        // The old primary takes writes again, on its own, and the new one is gone: two mistakes of who runs them.
        let data = "ALTER SYSTEM RESET synchronous_standby_names";
        primary.start_again();
        primary.sql("", data);
        primary.sql("", "SELECT pg_reload_conf()");
        standby.stop();
        let committed = commit(&store, append(2));
        // If it was sent before the connection was found to be lost, it can't be told that it was not written.
        let refused = matches!(committed, Err(StoreError::Halted | StoreError::OutcomeUnknown { .. }));
        assert!(refused, "{committed:?}");
        assert!(matches!(commit(&store, append(2)), Err(StoreError::Halted)));
        assert!(block_on(store.get(Keyspace::Log, "0000")).is_err(), "nor does it read what is out of date");
        standby.start_again();
        assert_eq!(keys(&open_to_read(&only(standby, url)).unwrap()), ["0000", "0001"]);
        assert_eq!(keys(&open_to_read(&only(primary, url)).unwrap()), ["0000"]);
    });
}

/// An administrator cancels the wait for the standby: PostgreSQL then acknowledges with a warning, and the store does not.
#[test]
fn a_commit_that_is_not_on_the_standby_is_not_acknowledged() {
    with_standby(|primary, standby, url| {
        let store = PostgresStore::open(&only(primary, url), &impatient()).unwrap();
        write(&store, append(0));
        standby.stop();
        assert!(PostgresStore::open(&only(primary, url), &impatient()).is_err(), "opening waits for the standby, too");
        standby.start_again();
        let store = PostgresStore::open(&only(primary, url), &impatient()).unwrap();
        standby.stop();
        let error = thread::scope(|scope| {
            let committing = scope.spawn(|| commit(&store, append(1)));
            let cancel = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            while primary.sql("", cancel) == "0" {
                thread::sleep(Duration::from_millis(5));
            }
            committing.join().unwrap().unwrap_err()
        });
        assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{error}");
        standby.start_again();
        // It was committed, and is on the standby now.
        assert!(!commit(&store, append(1)).unwrap().is_written());
        write(&store, append(2));
        primary.kill();
        standby.promote();
        assert_eq!(keys(&open_to_read(&only(standby, url)).unwrap()), ["0000", "0001", "0002"]);
    });
}

/// A standby takes no LISTEN, so its readers ask for commits.
#[test]
fn a_standby_can_be_read() {
    with_standby(|_, standby, url| {
        let store = open(url);
        write(&store, append(0));
        let reader = open_to_read(&only(standby, url)).unwrap();
        let watch = reader.watch(Keyspace::Log, b"0001");
        write(&store, append(1));
        assert!(is_woken(&watch));
        assert_eq!(keys(&reader), ["0000", "0001"]);
        assert!(PostgresStore::open(&only(standby, url), &PostgresOptions::default()).is_err());
    });
}
