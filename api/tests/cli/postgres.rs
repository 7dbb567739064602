//! Databases in PostgreSQL, and moving there and back: a private server is started for these, see `ravel_backends::postgres::testing`.

use std::{
    io::{BufRead, BufReader},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ravel_backends::{
    PostgresOptions, PostgresStore,
    postgres::testing::{Cluster, shared_cluster},
};
use ravel_store::{
    Store, block_on,
    log::{EventLog, LogError},
};
use serde_json::json;

use crate::{
    support::{FED, FORGED, Place, Run, corpus, ravel},
    writer::{Writer, entries, judged, long_room, spawn},
};

/// Opens a database to write to it.
fn writer(url: &str) -> Writer {
    let store: Arc<dyn Store> = Arc::new(PostgresStore::open(url, &PostgresOptions::default()).unwrap());
    let log = block_on(EventLog::open(store.clone())).unwrap();
    Writer { store, log }
}

/// What messages call a database: without parameters, of which one might be a password.
fn name(url: &str) -> &str {
    url.split_once('?').unwrap().0
}

fn replay(database: &str, room: &str) -> Run {
    ravel(&["replay", "-d", database, corpus(room).to_str().unwrap()])
}

fn copy(from: &str, to: &str, more: &[&str]) -> Run {
    ravel(&[&["copy", "--from", from, "--to", to], more].concat())
}

/// Waits until a database has so many entries.
fn wait_for_entries(url: &str, least: u64) {
    let began = Instant::now();
    let access = ravel_backends::Access::Read;
    let store = PostgresStore::open(url, &PostgresOptions { access, ..PostgresOptions::default() }).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    while block_on(EventLog::open(store.clone())).unwrap().len() < least {
        assert!(began.elapsed() < Duration::from_secs(60), "it does not follow");
        thread::sleep(Duration::from_millis(20));
    }
}

/// As `docs/storage.md` tells it: copy, follow, switch, go on there, and the way back; somebody writes all the time.
#[test]
fn a_live_database_moves_to_postgres_and_back() {
    let cluster = shared_cluster();
    for engine in ["rocksdb", "sled"] {
        let place = Place::new();
        let (room, events) = judged(&long_room(&place, 6000));
        let (directory, url) = (place.database(engine), cluster.new_place());
        let acknowledged = AtomicU64::new(0);
        let first = Writer::open(&place, engine);
        thread::scope(|scope| {
            let appending = scope.spawn(|| {
                // It ends when it hears of the switch.
                let first = first;
                slowly(&first, &room, &events, &acknowledged).expect("all was written before the switch")
            });
            while acknowledged.load(Ordering::SeqCst) < 50 {
                thread::sleep(Duration::from_millis(1));
            }
            let copied = copy(&directory, &url, &["--json"]).json();
            assert_eq!((&copied["equal"], &copied["switched"]), (&json!(true), &json!(false)));
            assert!(copied["entries"].as_u64().unwrap() >= 50);

            let mut following = spawn(&["copy", "--from", &directory, "--to", &url, "--follow"]);
            let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
            assert!(lines.next().unwrap().unwrap().starts_with("going on after "));
            wait_for_entries(&url, acknowledged.load(Ordering::SeqCst) + 100);
            following.kill().unwrap();
            following.wait().unwrap();
            replay(&url, FED).fails(2, &[&format!("this database is an unfinished copy of {directory}")]);

            let switched = copy(&directory, &url, &["--switch"]).ok();
            assert!(switched.contains(&format!("{directory} takes no more events, it has ")), "{switched}");
            let end = format!("{directory} was moved to {}: go on there\n", name(&url));
            assert!(switched.ends_with(&end), "{switched}");
            assert!(matches!(appending.join().unwrap(), LogError::Moved { .. }));
        });
        let before = acknowledged.load(Ordering::SeqCst);
        assert!(before < events.len() as u64);
        // One entry opens the room.
        assert_eq!([entries(&directory), entries(&url)], [before + 1; 2]);
        let moved = format!("this database was moved to {}: go on there", name(&url));
        replay(&directory, FED).fails(2, &[&moved]);
        check_equal(&directory, &url);

        let second = writer(&url);
        let rest = &events[before as usize..];
        thread::scope(|scope| {
            let appending = scope.spawn(|| {
                let second = second;
                slowly(&second, &room, rest, &acknowledged).expect("all was written before the switch")
            });
            while acknowledged.load(Ordering::SeqCst) < before + 20 {
                thread::sleep(Duration::from_millis(1));
            }
            let switched = copy(&url, &directory, &["--switch"]).ok();
            assert!(switched.starts_with(&format!("going on after {} entries\n", before + 1)), "{switched}");
            appending.join().unwrap();
        });
        let after = acknowledged.load(Ordering::SeqCst);
        assert!(before + 20 <= after && after < events.len() as u64);
        assert_eq!([entries(&url), entries(&directory)], [after + 1; 2]);
        replay(&url, FED).fails(2, &[&format!("this database was moved to {directory}: go on there")]);
        check_equal(&directory, &url);
        replay(&directory, FED).ok();
    }
}

/// Appends at a rate that a copy can follow.
fn slowly(
    writer: &Writer,
    room: &ravel_core::room::Room,
    events: &[ravel_core::room::PersistEvent],
    acknowledged: &AtomicU64,
) -> Option<LogError> {
    events.chunks(1).find_map(|event| {
        thread::sleep(Duration::from_millis(2));
        writer.append(room, event, acknowledged)
    })
}

/// Both sides of a move show the same room.
fn check_equal(one: &str, other: &str) {
    let [one, other] = [one, other].map(|database| ravel(&["state", "-d", database, "!made:a"]).ok());
    assert_eq!(one, other);
}

/// Killed at any moment, the same command goes on and finishes it, whichever side PostgreSQL is.
#[test]
fn a_switch_is_killed_and_finished() {
    let cluster = shared_cluster();
    for to_postgres in [true, false] {
        for milliseconds in [30, 80, 130, 200, 300, 500] {
            let (place, directory) = Place::filled("rocksdb", &[FED, FORGED]);
            let url = cluster.new_place();
            let (from, to) = if to_postgres { (directory, url) } else { (url, place.database("sled")) };
            if !to_postgres {
                copy(&place.database("rocksdb"), &from, &[]).ok();
            }
            let mut killed = spawn(&["copy", "--from", &from, "--to", &to, "--switch"]);
            thread::sleep(Duration::from_millis(milliseconds));
            killed.kill().unwrap();
            killed.wait().unwrap();
            copy(&from, &to, &["--switch"]).ok();
            assert_eq!([entries(&from), entries(&to)], [280; 2], "{milliseconds} ms");
            replay(&from, FED).fails(2, &["this database was moved to "]);
            replay(&to, FED).ok();
            // Once more changes nothing.
            copy(&from, &to, &["--switch"]).ok();
        }
    }
}

#[test]
fn every_engine_copies_to_postgres_and_from_it() {
    let url = shared_cluster().new_place();
    let (place, first) = Place::filled("rocksdb", &[FED, FORGED]);
    let to = copy(&first, &url, &["--json"]).json();
    let on = place.database("sled");
    let from = copy(&url, &on, &["--json"]).json();
    let in_memory = copy(&url, "memory", &["--json"]).json();
    let again = copy(&url, &shared_cluster().new_place(), &["--json"]).json();
    assert_eq!(to["equal"], json!(true));
    assert_eq!((&to["entries"], &to["copied"]), (&json!(280), &json!(280)));
    for copied in [&from, &in_memory, &again] {
        assert_eq!(*copied, to);
    }
    for database in [&url, &on] {
        assert_eq!(entries(database), 280);
    }
}

#[test]
fn targets_in_postgres_that_are_no_copies_are_refused_untouched() {
    let cluster = shared_cluster();
    let (_place, from) = Place::filled("rocksdb", &[FED]);
    let other = cluster.new_place();
    replay(&other, FORGED).ok();
    // Somebody writes to it, and can go on.
    let writing = writer(&other);
    for switch in [&[][..], &["--switch"]] {
        let run = copy(&from, &other, switch);
        run.fails(2, &["the target has events of its own: its entry 0 is not that of the source"]);
    }
    let mut batch = ravel_store::Batch::new();
    batch.put(ravel_store::Keyspace::Meta, "note", "still here");
    assert!(block_on(writing.store.commit(batch)).unwrap().is_written());
    drop(writing);
    // The source was not sealed.
    replay(&from, FED).ok();

    let letters = cluster.new_place();
    cluster.sql(&letters, "CREATE TABLE letters (reader text); INSERT INTO letters VALUES ('dear')");
    for refused in [copy(&from, &letters, &[]), replay(&letters, FED)] {
        refused.fails(2, &["is not a store of this engine and was not touched"]);
    }
    assert_eq!(tables(&cluster, &letters), "letters");
    assert_eq!(cluster.sql(&letters, "SELECT * FROM letters"), "dear");
}

#[test]
fn databases_that_are_not_there_are_told() {
    let cluster = shared_cluster();
    let (place, from) = Place::filled("rocksdb", &[FED]);
    let empty = cluster.new_place();
    let unknown = empty.replace("/postgres?", "/no_such_database?");
    let nobody = "postgres://ravel:secret@127.0.0.1:1/ravel";
    let to = place.database("sled");
    let check = |run: Run, code: i32, part: &str| {
        let run = run.fails(code, &[part]);
        assert!(!run.stderr.contains("secret"), "{}", run.stderr);
    };
    check(copy(&from, &unknown, &[]), 3, "database \"no_such_database\" does not exist");
    check(copy(&unknown, &to, &[]), 3, "database \"no_such_database\" does not exist");
    let began = Instant::now();
    check(copy(&from, nobody, &[]), 3, "postgres://ravel@127.0.0.1:1/ravel");
    check(copy(nobody, &to, &["--switch"]), 3, "postgres://ravel@127.0.0.1:1/ravel");
    assert!(began.elapsed() < Duration::from_secs(20));
    // A source is not made.
    check(copy(&empty, &to, &[]), 2, &format!("there is no database {}", name(&empty)));
    assert_eq!(tables(&cluster, &empty), "");
    check(copy(&empty, &empty, &[]), 2, "a database can't be copied to itself");
    assert!(!place.path("sled").exists());
    replay(&from, FED).ok();
}

fn tables(cluster: &Cluster, url: &str) -> String {
    let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY 1";
    cluster.sql(url, tables)
}
