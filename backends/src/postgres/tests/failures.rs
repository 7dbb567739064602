//! Lost connections, restarts and crashes of the server: nothing acknowledged is lost, nothing is written twice.

use std::{
    env,
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::crash_tests::killed_process;

use super::{
    proxy::{Fault, Proxy},
    *,
};

/// A server that the test may stop and kill.
pub(super) fn with_server(test: impl FnOnce(&Cluster, &str)) {
    let cluster = Cluster::start();
    let url = cluster.new_place();
    test(&cluster, &url);
}

pub(super) fn impatient() -> PostgresOptions {
    PostgresOptions {
        patience: Duration::from_secs(1),
        answer_limit: Duration::from_secs(2),
        ..PostgresOptions::default()
    }
}

/// Appends a number where the one before is the guard, as the log does with its head.
pub(super) fn append(number: usize) -> Batch {
    let mut batch = Batch::new();
    match number.checked_sub(1) {
        None => batch.guard_absent(Keyspace::Meta, "head"),
        Some(before) => batch.guard_equals(Keyspace::Meta, "head", before.to_string()),
    };
    batch.put(Keyspace::Meta, "head", number.to_string()).put(Keyspace::Log, format!("{number:04}"), "");
    batch
}

#[test]
fn a_restarted_server_is_found_again() {
    with_server(|cluster, url| {
        let store = open(url);
        let watch = store.watch(Keyspace::Log, b"");
        let reader = open_to_read(url).unwrap();
        let mut seen = reader.watch(Keyspace::Log, b"0003");
        write(&store, append(0));
        assert_eq!(keys(&reader), ["0000"]);
        cluster.restart();
        assert_eq!(keys(&store), ["0000"]);
        assert_eq!(keys(&reader), ["0000"]);
        write(&store, append(1));
        cluster.restart();
        write(&store, append(2));
        block_on(store.flush()).unwrap();
        assert_eq!(keys(&store), ["0000", "0001", "0002"]);
        assert!(watch.has_changed());
        // Whoever listens again may have missed something, and is told so; after that each commit is heard again.
        assert!(is_woken(&seen));
        thread::sleep(Duration::from_millis(200));
        while seen.has_changed() {
            block_on(seen.changed()).unwrap();
        }
        write(&store, append(3));
        assert!(is_woken(&seen));
    });
}

#[test]
fn a_server_that_stays_away_is_an_error_and_no_end() {
    with_server(|cluster, url| {
        let store = PostgresStore::open(url, &impatient()).unwrap();
        write(&store, append(0));
        cluster.stop();
        let error = commit(&store, append(1)).unwrap_err();
        assert!(matches!(error, StoreError::Io { operation: Operation::Commit, .. }), "{error}");
        assert!(matches!(
            block_on(store.get(Keyspace::Log, "0000")),
            Err(StoreError::Io { operation: Operation::Get, .. })
        ));
        assert!(block_on(store.flush()).is_err());
        cluster.start_again();
        assert_eq!(keys(&store), ["0000"]);
        write(&store, append(1));
        assert_eq!(keys(&store), ["0000", "0001"]);
    });
}

#[test]
fn sc_230_what_a_killed_server_acknowledged_is_there() {
    with_server(|cluster, url| {
        let store = open(url);
        let acknowledged = AtomicUsize::new(0);
        let total = AtomicUsize::new(0);
        for round in 0..3 {
            let goal = total.load(Ordering::Relaxed) + 60 + round * 17;
            thread::scope(|scope| {
                for writer in 0..4 {
                    let (store, acknowledged, total) = (&store, &acknowledged, &total);
                    scope.spawn(move || {
                        // Goes on through the crash: the store finds the server again, and what became of its commits.
                        for number in 0.. {
                            let mut batch = Batch::new();
                            let key = format!("{round}.{writer}.{number:05}");
                            batch.guard_absent(Keyspace::Log, key.clone());
                            batch.put(Keyspace::Log, key.clone(), "").put(Keyspace::Events, key, "");
                            write(store, batch);
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                            if total.fetch_add(1, Ordering::Relaxed) >= goal + 40 {
                                break;
                            }
                        }
                    });
                }
                while total.load(Ordering::Relaxed) < goal {
                    thread::sleep(Duration::from_millis(1));
                }
                cluster.kill();
                cluster.start_again();
            });
            let items = keys(&store);
            assert_eq!(items.len(), acknowledged.load(Ordering::Relaxed));
            let twins = block_on(store.scan_all(Scan::new(Keyspace::Events, KeyRange::all()))).unwrap();
            assert_eq!(twins.len(), items.len(), "half a batch");
        }
    });
}

/// The process that writes is killed in the middle of a commit: the next one finds all that it acknowledged.
#[test]
fn what_a_killed_client_acknowledged_is_there() {
    killed_process(
        "postgres::tests::failures::what_a_killed_client_acknowledged_is_there",
        PostgresBuilder::place,
        |url| PostgresStore::open(url.to_str().unwrap(), &PostgresOptions::default()),
    );
}

#[test]
fn a_server_that_lost_what_it_acknowledged_halts_the_store() {
    with_server(|cluster, url| {
        // So that nothing but a commit with sync writes its log.
        cluster.sql(url, "ALTER SYSTEM SET wal_writer_delay = '10s'");
        cluster.restart();
        let store = open(url);
        write(&store, append(0));
        let mut relaxed = append(1);
        relaxed.durability(Durability::Relaxed);
        write(&store, relaxed);
        cluster.kill();
        cluster.start_again();
        let flushed = block_on(store.flush());
        assert!(matches!(flushed, Err(StoreError::Halted)), "{flushed:?}");
        assert!(matches!(commit(&store, append(2)), Err(StoreError::Halted)));
        drop(store);
        let store = open(url);
        assert_eq!(keys(&store), ["0000"]);
        // What is flushed stays.
        let mut relaxed = append(1);
        relaxed.durability(Durability::Relaxed);
        write(&store, relaxed);
        block_on(store.flush()).unwrap();
        cluster.kill();
        cluster.start_again();
        write(&store, append(2));
        assert_eq!(keys(&store), ["0000", "0001", "0002"]);
    });
}

#[test]
fn a_server_without_fsync_is_refused() {
    with_server(|cluster, url| {
        cluster.sql(url, "ALTER SYSTEM SET fsync = off");
        cluster.restart();
        let error = PostgresStore::open(url, &PostgresOptions::default()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("fsync = off"), "{source}");
        assert_eq!(cluster.sql(url, TABLES), "");
    });
}

/// Set in a child process to the connection string it has to use.
const CHILD: &str = "RAVEL_POSTGRES_TLS_CHILD";

#[test]
fn tls_checks_certificate_and_name() {
    if let Ok(url) = env::var(CHILD) {
        write(&open(&url), append(0));
        return;
    }
    with_server(|cluster, url| {
        let certificate = cluster.use_tls();
        let url = url.replace("127.0.0.1", "localhost").replace("sslmode=disable", "sslmode=require");
        // Which certificates are trusted is said by the environment, so it takes a process of its own.
        let writes = |url: &str, trusted: Option<&Path>| {
            let mut child = Command::new(env::current_exe().unwrap());
            child.args(["--exact", "postgres::tests::failures::tls_checks_certificate_and_name"]).env(CHILD, url);
            child.env_remove("SSL_CERT_DIR").env_remove("SSL_CERT_FILE");
            if let Some(trusted) = trusted {
                child.env("SSL_CERT_FILE", trusted);
            }
            child.output().unwrap().status.success()
        };
        assert!(!writes(&url, None), "a certificate nobody vouches for");
        assert!(!writes(&url.replace("localhost", "127.0.0.1"), Some(&certificate)), "a certificate for another name");
        assert!(!writes(&url.replace("require", "prefer"), None), "no TLS in spite of an offer");
        assert_eq!(cluster.sql(&url, TABLES), "");
        assert!(writes(&url, Some(&certificate)));
        assert_eq!(cluster.sql(&url, "SELECT count(*) FROM ravel_items"), "2");
    });
}

/// Returns the connection string that leads through a proxy.
fn through(proxy: &Proxy, cluster: &Cluster, url: &str) -> String {
    url.replace(&format!(":{}/", cluster.port()), &format!(":{}/", proxy.port))
}

/// Runs a test with a store behind a proxy, after one commit.
fn with_proxy(options: &PostgresOptions, test: impl FnOnce(&PostgresStore, &Proxy, &str)) {
    with_schema(|cluster, url| {
        let proxy = Proxy::start(cluster.port());
        let store = PostgresStore::open(&through(&proxy, cluster, url), options).unwrap();
        write(&store, append(0));
        test(&store, &proxy, url);
        assert!(proxy.faults() > 0);
    });
}

#[test]
fn a_commit_whose_answer_is_lost_is_written_once() {
    let delay = Duration::from_millis(200);
    let options = PostgresOptions { answer_limit: Duration::from_secs(2), ..PostgresOptions::default() };
    for fault in [Fault::CutAfter, Fault::CutBefore, Fault::Delay(delay), Fault::SilenceAfter, Fault::SilenceBefore] {
        with_proxy(&options, |store, proxy, _| {
            proxy.arm(fault, false);
            // Written twice, the second would be refused.
            assert_eq!(commit(store, append(1)).unwrap(), Committed::Written, "{fault:?}");
            write(store, append(2));
            assert_eq!(keys(store), ["0000", "0001", "0002"], "{fault:?}");
            // What one statement cannot say.
            proxy.arm(fault, false);
            let mut batch = append(3);
            batch.delete(Keyspace::Log, "0001");
            assert_eq!(commit(store, batch).unwrap(), Committed::Written, "{fault:?}");
            write(store, append(4));
            assert_eq!(keys(store), ["0000", "0002", "0003", "0004"], "{fault:?}");
        });
    }
}

#[test]
fn a_commit_whose_outcome_cannot_be_found_out_says_so() {
    for (fault, written) in
        [(Fault::CutAfter, true), (Fault::CutBefore, false), (Fault::SilenceAfter, true), (Fault::SilenceBefore, false)]
    {
        with_proxy(&impatient(), |store, proxy, _| {
            proxy.arm(fault, true);
            let began = Instant::now();
            let error = commit(store, append(1)).unwrap_err();
            assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{fault:?}: {error}");
            assert!(began.elapsed() < Duration::from_secs(10), "{fault:?}: {:?}", began.elapsed());
            // From the next one on it is certain again that nothing was sent.
            let error = commit(store, append(1)).unwrap_err();
            assert!(matches!(error, StoreError::Io { .. }), "{fault:?}: {error}");
            proxy.open();
            assert_eq!(commit(store, append(1)).unwrap().is_written(), !written, "{fault:?}");
            write(store, append(2));
            assert_eq!(keys(store), ["0000", "0001", "0002"], "{fault:?}");
        });
    }
}

/// The writer was cut off in the middle of a commit, and another took over before it came back.
#[test]
fn a_commit_in_doubt_when_another_takes_over_stays_in_doubt() {
    with_proxy(&PostgresOptions::default(), |store, proxy, url| {
        proxy.arm(Fault::CutBefore, true);
        thread::scope(|scope| {
            let doubtful = scope.spawn(|| commit(store, append(1)));
            while proxy.faults() == 0 {
                thread::sleep(Duration::from_millis(5));
            }
            let other = open(url);
            proxy.open();
            let error = doubtful.join().unwrap().unwrap_err();
            assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{error}");
            assert!(matches!(commit(store, append(1)), Err(StoreError::Overtaken { .. })));
            write(&other, append(1));
        });
    });
}

/// The whole server stands still: commits and reads end with an error, and go on with it.
#[test]
fn a_server_that_stands_still_is_an_error_and_no_end() {
    with_server(|cluster, url| {
        let store = PostgresStore::open(url, &impatient()).unwrap();
        write(&store, append(0));
        assert_eq!(keys(&store), ["0000"]);
        cluster.stand_still(true);
        let began = Instant::now();
        let error = commit(&store, append(1)).unwrap_err();
        // It will be written when the server goes on, unless it finds out before that the connection is closed.
        assert!(matches!(error, StoreError::OutcomeUnknown { .. }), "{error}");
        let error = commit(&store, append(1)).unwrap_err();
        assert!(matches!(error, StoreError::Io { operation: Operation::Commit, .. }), "{error}");
        let error = block_on(store.get(Keyspace::Log, "0000")).unwrap_err();
        assert!(matches!(error, StoreError::Io { operation: Operation::Get, .. }), "{error}");
        assert!(PostgresStore::open(url, &impatient()).is_err());
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        cluster.stand_still(false);
        // Refused if the first one was written.
        let _ = commit(&store, append(1)).unwrap();
        write(&store, append(2));
        assert_eq!(keys(&store), ["0000", "0001", "0002"]);
    });
}

/// CockroachDB is such a server, and a standby of PostgreSQL.
#[test]
fn where_there_is_no_listen_commits_are_asked_for() {
    with_schema(|cluster, url| {
        let proxy = Proxy::start(cluster.port());
        proxy.hide_listen();
        let url = through(&proxy, cluster, url);
        let writer = open(&url);
        write(&writer, append(0));
        let reader = open_to_read(&url).unwrap();
        let (heard, own) = (reader.watch(Keyspace::Log, b"0001"), writer.watch(Keyspace::Log, b"x"));
        thread::sleep(Duration::from_millis(1_200));
        assert!(!heard.has_changed(), "nothing was committed");
        write(&writer, append(1));
        assert!(is_woken(&heard));
        thread::sleep(Duration::from_millis(1_200));
        assert!(!own.has_changed(), "own commits are known");
        // Whoever was overtaken hears of the new writer, too.
        let other = open(&url);
        write(&other, append(2));
        assert!(is_woken(&own));
    });
}
