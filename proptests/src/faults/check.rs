//! Whether a store holds what it has to.

use std::{collections::BTreeSet, fmt::Write, path::Path, sync::Arc};

use ravel_backends::Engine;
use ravel_store::{Batch, Bytes, KeyRange, Keyspace, Scan, Store, StoreError, StoreExt, block_on};

use crate::faults::{
    run::Progress,
    script::{Contents, Expected, check_log, item_sum},
};

/// How much is looked at beside what every check looks at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Depth {
    /// Load all rooms.
    pub rooms: bool,
    /// Replay the log and compare the projections.
    pub verify: bool,
    /// Commit another batch, close, open and read again.
    pub goes_on: bool,
}

/// Opens a store after a fault and reads everything: all that was promised must be there, and in all a beginning of the commits,
/// each whole. Returns how many batches there are.
///
/// # Errors
///
/// What is wrong, in words.
pub fn check(
    engine: Engine,
    path: &Path,
    expected: &Expected,
    progress: &Progress,
    depth: Depth,
) -> Result<u64, String> {
    let store = open(engine, path, "")?;
    let (sum, _) = read_all(&store).map_err(|error| format!("cannot be read: {}", full(&error)))?;
    let Some(number) = expected.find(sum, progress.durable, progress.issued) else {
        return Err(describe_difference(&store, expected, progress));
    };
    if depth.rooms {
        check_log(&store, depth.verify)?;
    }
    if depth.goes_on {
        let mut batch = Batch::new();
        batch.put(Keyspace::Meta, AFTER.0, AFTER.1);
        let committed = block_on(store.commit(batch));
        let committed =
            committed.map_err(|error| format!("takes no commits after {number} batches: {}", full(&error)))?;
        if !committed.is_written() {
            return Err("a batch without guards was refused".to_owned());
        }
        drop(store);
        let store = open(engine, path, "a second time ")?;
        let (sum_after, _) = read_all(&store).map_err(|error| format!("cannot be read again: {}", full(&error)))?;
        if sum_after != sum.wrapping_add(item_sum(Keyspace::Meta, AFTER.0.as_bytes(), AFTER.1.as_bytes())) {
            return Err(format!("after {number} batches, another commit and opening again, something else is there"));
        }
    }
    Ok(number)
}

/// The item that is put after a fault.
const AFTER: (&str, &str) = ("after the fault", "all goes on");

fn open(engine: Engine, path: &Path, again: &str) -> Result<Arc<dyn Store>, String> {
    engine.open(path).map_err(|error| format!("does not open {again}any more: {}", full(&error)))
}

/// Reads all items; returns their sum and how many there are.
///
/// # Errors
///
/// Those of the store.
pub fn read_all(store: &Arc<dyn Store>) -> Result<(u64, u64), StoreError> {
    let (mut sum, mut count) = (0u64, 0);
    for keyspace in Keyspace::ALL {
        let mut scan = Some(Scan::new(*keyspace, KeyRange::all()));
        while let Some(asked) = scan.take() {
            let page = block_on(store.scan(asked.clone()))?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            for (key, value) in page.items {
                sum = sum.wrapping_add(item_sum(*keyspace, &key, &value));
                count += 1;
            }
        }
    }
    Ok((sum, count))
}

/// Returns an error with all its sources.
pub fn full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

/// Tells which number of batches what is there is nearest to, and how it differs.
pub(crate) fn describe_difference(store: &Arc<dyn Store>, expected: &Expected, progress: &Progress) -> String {
    let Ok(found) = contents(store) else { return "cannot be read a second time".to_owned() };
    let sum =
        found.iter().fold(0u64, |sum, ((keyspace, key), value)| sum.wrapping_add(item_sum(*keyspace, key, value)));
    if let Some(number) = expected.find(sum, 0, expected.len()) {
        return format!("holds {number} batches, but {progress:?}: acknowledged commits are lost");
    }
    let differing = |number: u64| {
        let wanted = expected.contents(number);
        let keys: BTreeSet<_> = wanted.keys().chain(found.keys()).collect();
        keys.into_iter().filter(|key| wanted.get(*key) != found.get(*key)).cloned().collect::<Vec<_>>()
    };
    let nearest = (0..=expected.len()).map(|number| (differing(number), number));
    let (keys, number) = nearest.min_by_key(|(keys, _)| keys.len()).unwrap_or_default();
    let wanted = expected.contents(number);
    let bytes = |value: Option<&Bytes>| value.map_or("nothing".to_owned(), |value| format!("{} bytes", value.len()));
    let shown = keys.iter().take(4).map(|place| {
        let (found, wanted) = (bytes(found.get(place)), bytes(wanted.get(place)));
        let wrote = expected.last_write(place, number);
        format!("{} {:?} has {found}, not {wanted} of batch {wrote}", place.0, place.1)
    });
    let shown: Vec<_> = shown.collect();
    format!(
        "holds no beginning of the commits ({progress:?}): {} items differ from those after {number} batches: {}",
        keys.len(),
        shown.join(", ")
    )
}

fn contents(store: &Arc<dyn Store>) -> Result<Contents, StoreError> {
    let mut contents = Contents::new();
    for keyspace in Keyspace::ALL {
        let items: Vec<(Bytes, Bytes)> = block_on(store.scan_all(Scan::new(*keyspace, KeyRange::all())))?;
        contents.extend(items.into_iter().map(|(key, value)| ((*keyspace, key), value)));
    }
    Ok(contents)
}
