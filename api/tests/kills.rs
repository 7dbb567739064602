//! The binary under load, killed with SIGKILL over and over: what it acknowledged is there. `ravel-kills` does the same for hours.
#![allow(clippy::unwrap_used, reason = "tests")]

use ravel_backends::Engine;
use ravel_proptests::kills::{self, Options, Problem, Target};

fn options(target: Target, folder: &tempfile::TempDir) -> Options {
    let binary = env!("CARGO_BIN_EXE_ravel").into();
    Options { cycles: 20, verify_every: 10, ..Options::new(binary, target, folder.path().to_owned()) }
}

#[track_caller]
fn check(target: Target) {
    let folder = tempfile::tempdir().unwrap();
    let result = kills::run(&options(target, &folder), |_| {});
    if result.is_err() {
        // What is left of it may tell more.
        let _ = folder.keep();
    }
    let summary = result.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!((summary.cycles, summary.databases, summary.verified), (20, 1, 2), "{summary}");
    assert!(summary.acknowledged > 100, "{summary}");
}

#[test]
fn sc_230_rocksdb_loses_nothing_that_was_acknowledged_before_a_kill() {
    check(Target::Directory(Engine::RocksDb));
}

#[test]
fn sc_230_sled_loses_nothing_that_was_acknowledged_before_a_kill() {
    check(Target::Directory(Engine::Sled));
}

/// Now and then the server is killed, too.
#[cfg(feature = "postgres")]
#[test]
fn sc_230_postgres_loses_nothing_that_was_acknowledged_before_a_kill() {
    check(Target::Postgres);
}

#[test]
fn what_is_acknowledged_and_not_stored_is_found_missing() {
    for engine in Engine::ALL {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { acknowledge_early: true, ..options(Target::Directory(*engine), &folder) };
        let failure = kills::run(&options, |_| {}).unwrap_err();
        assert!(matches!(*failure.problem, Problem::Lost { .. }), "{failure}");
        assert!(failure.to_string().contains("ravel-kills --engine"), "{failure}");
    }
}
