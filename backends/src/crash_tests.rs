//! What a killed process and a damaged file leave, for each engine on disk.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "these are tests")]

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use ravel_store::{Batch, Bytes, Keyspace, Scan, Store, StoreError, StoreExt, block_on, conformance::StoreBuilder};

/// Set in the child process to the place it has to write to.
const CHILD: &str = "RAVEL_STORE_CRASH_CHILD";

/// Lets a child process commit until it is killed; everything it acknowledged has to be there, each batch whole.
///
/// `test` is the full name of the calling test, which is what the child runs. The place is a directory or a connection string.
pub(crate) fn killed_process<S: Store, P: AsRef<Path>>(
    test: &str,
    place: impl FnOnce() -> P,
    open: impl Fn(&Path) -> Result<S, StoreError>,
) {
    if let Some(path) = env::var_os(CHILD) {
        write_forever(&open(Path::new(&path)).unwrap());
    }
    let place = place();
    let mut acknowledged = 0;
    for round in 0..3 {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(CHILD, place.as_ref())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let acknowledgements =
            lines.by_ref().filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
        acknowledged = acknowledgements.take(40 + round * 17).last().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // What was in the pipe when it was killed was acknowledged too.
        acknowledged = lines
            .filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok())
            .last()
            .unwrap_or(acknowledged);

        let store = open(place.as_ref()).unwrap();
        let items = block_on(store.scan_all(Scan::prefix(Keyspace::Log, ""))).unwrap();
        let twins = block_on(store.scan_all(Scan::prefix(Keyspace::Events, ""))).unwrap();
        assert!(items == twins, "half a batch");
        let last = u64::from_be_bytes(items.last().unwrap().0[..].try_into().unwrap());
        assert!(last >= acknowledged, "{acknowledged} was acknowledged, {last} is the last");
        assert_eq!(items.len() as u64, last + 1, "a hole");
    }
    assert!(acknowledged > 100);
}

fn write_forever(store: &impl Store) -> ! {
    let stored = block_on(store.scan_all(Scan::prefix(Keyspace::Log, ""))).unwrap();
    let mut number = stored.len() as u64;
    loop {
        let key = Bytes::copy_from_slice(&number.to_be_bytes());
        // Some of them in chunks, where the engine does that.
        let value = Bytes::from(vec![number as u8; if number.is_multiple_of(10) { 70_000 } else { 800 }]);
        let mut batch = Batch::new();
        batch.put(Keyspace::Log, key.clone(), value.clone()).put(Keyspace::Events, key, value);
        assert!(block_on(store.commit(batch)).unwrap().is_written());
        println!("acknowledged {number}");
        number += 1;
    }
}

/// Flips one bit at many places of each file of a store: it is opened and read with an error, or all is as it was written.
/// Returns how many of the flips made an error.
pub(crate) fn flipped_bits<B: StoreBuilder>() -> usize {
    let place = B::place();
    let store = B::open(&place).unwrap();
    for number in 0..60u8 {
        let mut batch = Batch::new();
        batch.put(Keyspace::Log, vec![number], vec![number; 700]);
        assert!(block_on(store.commit(batch)).unwrap().is_written());
    }
    drop(store);
    let path = B::directory(&place).unwrap();
    let files = files(path);
    let mut noticed = 0;
    for file in &files {
        let len = fs::metadata(file).unwrap().len() as usize;
        for step in 0..12.min(len) {
            let copy_place = B::place();
            let copy = B::directory(&copy_place).unwrap();
            copy_folder(path, copy);
            let damaged = copy.join(file.strip_prefix(path).unwrap());
            let mut content = fs::read(&damaged).unwrap();
            content[(step * len / 12 + step * 7) % len] ^= 1 << (step % 8);
            fs::write(&damaged, content).unwrap();
            noticed += usize::from(!reads_as_written::<B>(&copy_place));
        }
    }
    noticed
}

/// Tells whether all is as `flipped_bits` wrote it; panics if something is and is wrong.
fn reads_as_written<B: StoreBuilder>(place: &B::Place) -> bool {
    let Ok(store) = B::open(place) else { return false };
    let Ok(items) = block_on(store.scan_all(Scan::prefix(Keyspace::Log, ""))) else { return false };
    for (at, (key, value)) in items.iter().enumerate() {
        assert!(**key == [at as u8] && **value == [at as u8; 700], "silently wrong at {at}");
    }
    assert_eq!(items.len(), 60, "acknowledged commits vanished without an error");
    true
}

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
