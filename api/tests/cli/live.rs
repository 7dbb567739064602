//! Databases that another process has open: here that is the test.

mod purges;

use std::{
    io::{BufRead, BufReader},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ravel_backends::live;
use ravel_store::{
    block_on,
    log::{EventLog, LogError},
};
use serde_json::json;

use crate::{
    support::{FED, FED_ID, FORGED, Place, corpus, ravel},
    writer::{Writer, entries, judged, long_room, spawn},
};

const ENGINES: [&str; 2] = ["rocksdb", "sled"];

#[test]
fn what_another_process_has_open_can_be_read_and_not_be_written() {
    for engine in ENGINES {
        let (place, database) = Place::filled(engine, &[FED, FORGED]);
        let target = format!("{engine}:{}", place.path("copy").display());
        let reading = [
            &["state", "-d", &database, FED_ID][..],
            &["dag", "-d", &database, FED_ID],
            &["verify", "-d", &database],
            &["copy", "--from", &database, "--to", "memory"],
        ];
        let closed = reading.map(|arguments| ravel(arguments).ok());
        let writer = Writer::open(&place, engine);
        assert_eq!(reading.map(|arguments| ravel(arguments).ok()), closed);
        for arguments in [
            &["rebuild", "-d", &database][..],
            &["replay", "-d", &database, corpus(FED).to_str().unwrap()],
            &["copy", "--from", &target, "--to", &database],
        ] {
            if arguments[0] == "copy" {
                ravel(&["copy", "--from", &database, "--to", &target]).ok();
            }
            ravel(arguments).fails(2, &["is in use by another process"]);
        }
        drop(writer);
        assert!(!place.path(engine).join(live::SOCKET).exists());
    }
}

/// Two commands that only read do not keep each other out.
#[test]
fn commands_that_read_at_once_all_succeed() {
    for engine in ENGINES {
        let (_place, database) = Place::filled(engine, &[FED, FORGED]);
        let all: Vec<Child> = (0..6).map(|_| spawn(&["verify", "-d", &database])).collect();
        let mut done = 0;
        for child in all {
            let output = child.wait_with_output().unwrap();
            // The one that has it open may end while another reads through it; that is told.
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() || said.contains("has ended or does not answer"), "{said}");
            done += usize::from(output.status.success());
        }
        assert!(done > 0);
    }
}

#[test]
fn verify_and_copy_agree_while_events_arrive() {
    let place = Place::new();
    let (room, events) = judged(&long_room(&place, 4000));
    let writer = Writer::open(&place, "rocksdb");
    let (from, to) = (place.database("rocksdb"), place.database("sled"));
    let acknowledged = AtomicU64::new(0);
    thread::scope(|scope| {
        scope.spawn(|| writer.append(&room, &events, &acknowledged));
        let mut copied = Vec::new();
        while acknowledged.load(Ordering::SeqCst) < events.len() as u64 {
            // What was acknowledged before a command began is in what it sees.
            let least = acknowledged.load(Ordering::SeqCst);
            assert!(entries(&from) >= least);
            let least = acknowledged.load(Ordering::SeqCst);
            let copy = ravel(&["copy", "--from", &from, "--to", &to, "--json"]).json();
            assert_eq!(copy["equal"], json!(true));
            assert!(copy["entries"].as_u64().unwrap() >= least);
            copied.push(copy["copied"].as_u64().unwrap());
        }
        assert!(copied.len() > 1, "it was too fast to see anything");
    });
    ravel(&["copy", "--from", &from, "--to", &to]).ok();
    assert_eq!(entries(&to), events.len() as u64 + 1);
    assert_eq!(ravel(&["state", "-d", &from, "!made:a"]).ok(), ravel(&["state", "-d", &to, "!made:a"]).ok());
}

/// A copy is killed again and again, each time goes on, and at last is switched to: the writer hears where to, and no event that was
/// acknowledged is missing.
#[test]
fn a_copy_is_killed_and_finished_and_switched_to() {
    for (from_engine, to_engine) in [("rocksdb", "sled"), ("sled", "rocksdb")] {
        let place = Place::new();
        let (room, events) = judged(&long_room(&place, 3000));
        let writer = Writer::open(&place, from_engine);
        let (from, to) = (place.database(from_engine), place.database(to_engine));
        let acknowledged = AtomicU64::new(0);
        thread::scope(|scope| {
            let appending = scope.spawn(|| writer.append(&room, &events, &acknowledged));
            for milliseconds in [30, 60, 90, 120, 150] {
                let mut copy = spawn(&["copy", "--from", &from, "--to", &to, "--switch"][..5]);
                thread::sleep(Duration::from_millis(milliseconds));
                copy.kill().unwrap();
                copy.wait().unwrap();
            }
            let switched = ravel(&["copy", "--from", &from, "--to", &to, "--switch"]).ok();
            assert!(switched.ends_with(&format!("{from} was moved to {to}: go on there\n")), "{switched}");
            let refused = appending.join().unwrap().expect("all was written before the switch");
            assert_eq!(refused.to_string(), format!("this database was moved to {to}: go on there"));
        });
        let acknowledged = acknowledged.load(Ordering::SeqCst);
        assert!(acknowledged > 0 && acknowledged < events.len() as u64);
        // The entry that is no event opens the room. What the refused append had written before is not there.
        assert_eq!(entries(&to), acknowledged + 1);
        assert_eq!(entries(&from), acknowledged + 1);
        // Again is the same, nothing is written to the old one any more, and the new one goes on.
        ravel(&["copy", "--from", &from, "--to", &to, "--switch"]).ok();
        drop(writer);
        let file = long_room(&place, 3000);
        let replay = |database: &str| ravel(&["replay", "-d", database, file.to_str().unwrap()]);
        replay(&from).fails(2, &[&format!("ravel: this database was moved to {to}: go on there")]);
        replay(&to).ok();
        assert_eq!(entries(&to), events.len() as u64 + 1);
    }
}

/// Whoever hears that its database was moved closes it, and the copy is finished without that.
#[test]
fn a_switch_outlives_the_process_that_has_the_source_open() {
    for (from_engine, to_engine) in [("rocksdb", "sled"), ("sled", "rocksdb")] {
        let place = Place::new();
        let (room, events) = judged(&long_room(&place, 3000));
        let (from, to) = (place.database(from_engine), place.database(to_engine));
        let writer = Writer::open(&place, from_engine);
        let acknowledged = AtomicU64::new(0);
        thread::scope(|scope| {
            let appending = scope.spawn(|| {
                let writer = writer;
                writer.append(&room, &events, &acknowledged).expect("all was written before the switch")
            });
            ravel(&["copy", "--from", &from, "--to", &to, "--switch"]).ok();
            assert!(matches!(appending.join().unwrap(), LogError::Moved { .. }));
        });
        assert_eq!(entries(&to), acknowledged.load(Ordering::SeqCst) + 1);
    }
}

/// Killed at any moment of the switch, the same command finishes it.
#[test]
fn a_switch_is_killed_and_finished() {
    for milliseconds in (0..200).step_by(20) {
        let (place, from) = Place::filled("rocksdb", &[FED, FORGED]);
        let to = place.database("sled");
        let mut copy = spawn(&["copy", "--from", &from, "--to", &to, "--switch"]);
        thread::sleep(Duration::from_millis(milliseconds));
        copy.kill().unwrap();
        copy.wait().unwrap();
        let replay = |database: &str| ravel(&["replay", "-d", database, corpus(FED).to_str().unwrap()]);
        // At no time may both be written to, but for a target that was not begun with: then that makes the same first entries.
        if place.path("sled").exists() {
            let writable = [&from, &to].map(|database| replay(database).code == 0);
            assert!(writable != [true, true] || entries(&to) == 97, "{milliseconds} ms");
        }
        ravel(&["copy", "--from", &from, "--to", &to, "--switch"]).ok();
        assert_eq!(entries(&to), 280, "{milliseconds} ms");
        assert_ne!(replay(&from).code, 0);
        replay(&to).ok();
    }
}

#[test]
fn a_copy_follows_until_it_is_stopped() {
    let place = Place::new();
    let (room, events) = judged(&long_room(&place, 300));
    let writer = Writer::open(&place, "rocksdb");
    let (from, to) = (place.database("rocksdb"), place.database("sled"));
    let acknowledged = AtomicU64::new(0);
    assert!(writer.append(&room, &events[..100], &acknowledged).is_none());
    let mut following = spawn(&["copy", "--from", &from, "--to", &to, "--follow"]);
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "following: 101 entries copied, 0 behind, 0/s");
    assert!(writer.append(&room, &events[100..], &acknowledged).is_none());
    let replica = || {
        let store = live::RemoteStore::connect(&place.path("sled")).unwrap().unwrap();
        block_on(EventLog::open(Arc::new(store))).unwrap().len()
    };
    let began = Instant::now();
    while replica() < 303 {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not follow");
        thread::sleep(Duration::from_millis(10));
    }
    following.kill().unwrap();
    following.wait().unwrap();
    // Who would write to it is told what it is.
    let file = place.path("long.jsonl");
    let replay = ravel(&["replay", "-d", &to, file.to_str().unwrap()]);
    replay.fails(2, &[&format!("this database is an unfinished copy of {from}")]);
    ravel(&["copy", "--from", &from, "--to", &to, "--switch"]).ok();
    assert_eq!(entries(&to), 303);
    drop(writer.store);
}

#[test]
fn targets_that_are_no_copies_are_refused_untouched() {
    let (place, from) = Place::filled("rocksdb", &[FED]);
    let (_other_place, other) = Place::filled("sled", &[FORGED]);
    let before = ravel(&["verify", "-d", &other]).ok();
    for switch in [&[][..], &["--switch"]] {
        let arguments = [&["copy", "--from", &from, "--to", &other][..], switch].concat();
        ravel(&arguments).fails(2, &["the target has events of its own: its entry 0 is not that of the source"]);
    }
    assert_eq!(ravel(&["verify", "-d", &other]).ok(), before);
    // The source was not sealed.
    ravel(&["replay", "-d", &from, corpus(FED).to_str().unwrap()]).ok();
    std::fs::create_dir(place.path("photos")).unwrap();
    place.file("photos/cat.jpg", "a cat");
    let photos = format!("sled:{}", place.path("photos").display());
    ravel(&["copy", "--from", &from, "--to", &photos]).fails(2, &["it is not empty and has no ravel.toml"]);
    assert_eq!(std::fs::read_dir(place.path("photos")).unwrap().count(), 1);
    let elsewhere = place.database("sled");
    ravel(&["copy", "--from", &from, "--to", &elsewhere, "--switch"]).ok();
    let third = format!("sled:{}", place.path("third").display());
    let run = ravel(&["copy", "--from", &from, "--to", &third, "--switch"]);
    run.fails(2, &[&format!("this database was moved to {elsewhere}: go on there")]);
}
