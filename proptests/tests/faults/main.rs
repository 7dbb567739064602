//! Some faults of each kind below the engines: a sample of what `docs/reliability.md` records long runs of.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests are tests as well")]

use std::{
    env,
    process::{Command, Output},
};

/// Runs the program; a seed in the environment takes the place of the usual one.
fn ravel_faults(command: &str, engine: &str, arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let seed = env::var("RAVEL_SEED").unwrap_or_else(|_| "1".to_owned());
    Command::new(env!("CARGO_BIN_EXE_ravel-faults"))
        .args([command, "--engine", engine, "--seed", &seed, "--small", "--threads", "2", "--keep"])
        .arg(folder.path())
        .args(arguments)
        .output()
        .unwrap()
}

fn check(command: &str, engine: &str, arguments: &[&str]) -> String {
    let output = ravel_faults(command, engine, arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    print!("{out}");
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains(" 0 FAILED") || out.contains("NOT TESTED"), "{out}{err}");
    out.into_owned()
}

/// The checks must be able to fail.
fn notices(engine: &str, arguments: &[&str], expected: &str) {
    let output = ravel_faults("power-cuts", engine, arguments);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}");
    assert!(out.contains(expected), "{out}");
}

macro_rules! on_both {
    ($($name:ident: $command:literal, $arguments:expr;)*) => {
        mod rocksdb { $(#[test] fn $name() { super::check($command, "rocksdb", &$arguments); })* }
        mod sled { $(#[test] fn $name() { super::check($command, "sled", &$arguments); })* }
    };
}

on_both! {
    sc_230_sc_231_keeps_its_promises_when_power_is_lost: "power-cuts", ["--count", "60", "--cuts-per-script", "15"];
    sc_230_sc_231_keeps_its_promises_on_a_real_file_system: "real-disk", ["--count", "6", "--cuts-per-script", "3"];
    sc_235_never_reads_a_flipped_bit_as_something_else: "bit-flips", ["--count", "40", "--flips-per-store", "20"];
    survives_failed_writes: "failing-calls", ["--kind", "writes", "--count", "8", "--faults-per-script", "4"];
    acknowledges_nothing_after_a_failed_sync: "failing-calls", ["--kind", "syncs", "--count", "8", "--faults-per-script", "4"];
    sc_234_tells_of_a_full_disk_and_loses_nothing: "failing-calls", ["--kind", "full-disk", "--count", "8", "--faults-per-script", "4"];
}

/// A damaged file is an error of the server; whether it is noticed at all is seen by how many were in each kind of file.
#[cfg(feature = "postgres")]
#[test]
fn sc_235_postgres_never_reads_a_flipped_bit_as_something_else() {
    let out = check("bit-flips", "postgres", &["--count", "30", "--flips-per-store", "15", "--files", "checked"]);
    let tables = out.lines().find_map(|line| line.trim().strip_prefix("tables: ")).unwrap();
    let (flips, noticed) = tables.strip_suffix(" of them gave an error").unwrap().split_once(", ").unwrap();
    let [flips, noticed] = [flips, noticed].map(|number| number.parse::<u64>().unwrap());
    assert!(flips >= 5 && noticed * 2 > flips, "{out}");
}

#[cfg(feature = "postgres")]
#[test]
fn postgres_without_checksums_is_noticed() {
    let arguments = ["--count", "40", "--flips-per-store", "40", "--files", "checked", "--no-checksums"];
    let output = ravel_faults("bit-flips", "postgres", &arguments);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("scans show something else"), "{output:?}");
}

/// PostgreSQL has no checksums over what became of transactions: rows vanish, as long as it has not noted that with the rows as well.
/// That is known, and so is that VACUUM notes it.
#[cfg(feature = "postgres")]
#[test]
fn flipped_outcomes_of_transactions_are_wrong_answers_of_postgres_until_a_vacuum() {
    let arguments = ["--count", "40", "--flips-per-store", "40", "--files", "outcomes"];
    let output = ravel_faults("bit-flips", "postgres", &arguments);
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{out}{}", String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("pg_xact/0000 byte ") && out.contains("scans show something else"), "{out}");
    check("bit-flips", "postgres", &[&arguments[..], &["--vacuum"]].concat());
}

#[cfg(feature = "postgres")]
#[test]
fn faults_that_postgres_has_not_are_refused() {
    let output = ravel_faults("power-cuts", "postgres", &["--count", "1"]);
    assert_eq!(output.status.code(), Some(2));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.contains("postgres keeps its files itself: there are only bit flips for it"), "{err}");
}

#[test]
fn syncs_that_do_nothing_are_noticed() {
    for engine in ["rocksdb", "sled"] {
        notices(engine, &["--count", "40", "--promises", "nothing"], "acknowledged commits are lost");
    }
}

/// `flush` of sled alone ends in `sync_file_range`, and RocksDB syncs its log with `fdatasync`.
#[test]
fn a_missing_fdatasync_is_noticed() {
    for engine in ["rocksdb", "sled"] {
        notices(engine, &["--count", "60", "--promises", "no-data-sync"], "FAILED");
    }
}

#[test]
fn weaker_commits_that_count_as_durable_are_noticed() {
    for engine in ["rocksdb", "sled"] {
        notices(engine, &["--count", "60", "--relaxed-counts-as-durable"], "acknowledged commits are lost");
    }
}
