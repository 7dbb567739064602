//! Directories: whose they are, of which layout, and who has them open.

use std::{fs, path::Path};

use super::{StoreBuilder, everything, put};
use crate::{
    ForeignReason, StoreError,
    directory::{LAYOUT, MARKER, engine_of, marker_text},
};

/// Each file below a folder, with its content.
fn files(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let entry = entry.unwrap().path();
        if entry.is_dir() {
            files.extend(self::files(&entry));
        } else {
            files.push((entry.display().to_string(), fs::read(&entry).unwrap()));
        }
    }
    files.sort();
    files
}

fn refused<B: StoreBuilder>(place: &B::Place, path: &Path, expected: impl Fn(&StoreError) -> bool) {
    let before = files(path);
    let error = B::open(place).err().expect("a directory that is not ours was opened");
    assert!(expected(&error), "{error}");
    assert!(files(path) == before, "a directory that is not ours was touched");
}

pub fn a_foreign_directory_is_refused_and_left_alone<B: StoreBuilder>() {
    let place = B::place();
    let Some(path) = B::directory(&place) else { return };
    fs::create_dir_all(path).unwrap();
    fs::write(path.join("letter.txt"), "dear reader").unwrap();
    refused::<B>(&place, path, |error| matches!(error, StoreError::Foreign { reason: ForeignReason::NoMarker, .. }));
}

pub fn another_engines_directory_is_refused<B: StoreBuilder>() {
    let place = B::place();
    let Some(path) = B::directory(&place) else { return };
    fs::create_dir_all(path).unwrap();
    fs::write(path.join(MARKER), marker_text("clay-tablets", LAYOUT)).unwrap();
    refused::<B>(&place, path, |error| {
        matches!(error, StoreError::Foreign { reason: ForeignReason::OtherEngine { .. }, .. })
    });
}

pub fn a_newer_directory_is_refused_and_left_alone<B: StoreBuilder>() {
    let place = B::place();
    let Some(path) = B::directory(&place) else { return };
    let store = B::open(&place).unwrap();
    put(&store, "a", "1");
    drop(store);
    let marker = fs::read(path.join(MARKER)).unwrap();
    let engine = engine_of(path).unwrap().unwrap();
    fs::write(path.join(MARKER), marker_text(&engine, LAYOUT + 1)).unwrap();
    refused::<B>(&place, path, |error| matches!(error, StoreError::NewerFormat { known: LAYOUT, .. }));
    fs::write(path.join(MARKER), marker).unwrap();
    assert_eq!(everything(&B::open(&place).unwrap()), "a=1");
}

pub fn the_second_to_open_is_told_so<B: StoreBuilder>() {
    let place = B::place();
    if B::directory(&place).is_none() {
        return;
    }
    let store = B::open(&place).unwrap();
    assert!(matches!(B::open(&place), Err(StoreError::Locked { .. })));
    put(&store, "a", "1");
    drop(store);
    assert_eq!(everything(&B::open(&place).unwrap()), "a=1");
}

pub fn a_missing_directory_is_created<B: StoreBuilder>() {
    let place = B::place();
    let Some(path) = B::directory(&place) else { return };
    if path.exists() {
        fs::remove_dir_all(path).unwrap();
    }
    put(&B::open(&place).unwrap(), "a", "1");
    assert_eq!(everything(&B::open(&place).unwrap()), "a=1");
    let engine = engine_of(path).unwrap().unwrap();
    assert_eq!(fs::read_to_string(path.join(MARKER)).unwrap(), marker_text(&engine, LAYOUT));
}
