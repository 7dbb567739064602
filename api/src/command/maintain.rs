//! `ravel rebuild`, `ravel verify` and `ravel copy`.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc};

use ravel_core::{
    id::{EventId, RoomId},
    state::Fingerprint,
};
use ravel_store::{
    KeyRange, Keyspace, Scan, Store, block_on,
    log::{EventLog, Finding, Verification},
};
use serde_json::{Value, json};

use super::{Failure, count, disagreement};
use crate::{database::DatabaseName, output::Output};

/// Drops every projection and replays the log.
pub fn rebuild(database: &DatabaseName, output: &mut Output) -> Result<ExitCode, Failure> {
    let mut log = block_on(EventLog::open_to_repair(database.open_existing()?))?;
    let progress = output.progress(log.len(), "rebuilding", "entries");
    let rebuilt = block_on(log.rebuild(|done, _| progress.set_position(done)));
    progress.finish_and_clear();
    rebuilt?;
    let (entries, rooms) = (log.len(), log.rooms().len());
    if output.is_json() {
        output.value(&json!({ "entries": entries, "rooms": rooms }));
    } else {
        output.line(format_args!("rebuilt {} from {}", count(rooms as u64, "room"), count(entries, "log entry")));
    }
    Ok(ExitCode::SUCCESS)
}

/// Compares what is stored with a replay of the log; exit code 1 and a list if something is wrong.
pub fn verify(database: &DatabaseName, output: &mut Output) -> Result<ExitCode, Failure> {
    let log = block_on(EventLog::open_to_repair(database.open_to_read()?))?;
    let progress = output.progress(log.len(), "verifying", "entries");
    let verification = block_on(log.verify(|done, _| progress.set_position(done)));
    progress.finish_and_clear();
    let Verification { entries, rooms, findings } = verification?;
    if output.is_json() {
        let findings: Vec<Value> = findings.iter().map(finding_json).collect();
        output.value(&json!({ "entries": entries, "rooms": rooms, "findings": findings }));
    } else {
        for finding in &findings {
            output.line(finding);
        }
        let result = if findings.is_empty() {
            "all is well".to_owned()
        } else {
            format!("{} wrong", count(findings.len() as u64, "thing"))
        };
        output.line(format_args!("{}, {}: {result}", count(rooms as u64, "room"), count(entries, "log entry")));
    }
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { disagreement() })
}

/// Copies a database into an empty one, and compares the rooms' fingerprints.
pub fn copy(from: &DatabaseName, to: &DatabaseName, output: &mut Output) -> Result<ExitCode, Failure> {
    if from == to && *from != DatabaseName::Memory {
        return Err(Failure::CopyToItself);
    }
    let source = from.open_to_read()?;
    // A log that can't be opened is not copied.
    let before = fingerprints(&source, output)?;
    let target = to.open_or_create()?;
    let progress = output.progress(0, "copying", "records");
    if !progress.is_hidden() {
        progress.set_length(count_items(&source)?);
    }
    let copied = block_on(ravel_store::copy_with_progress(&*source, &*target, |report| {
        progress.set_position(report.items.values().sum());
    }));
    progress.finish_and_clear();
    let copied = copied?;
    let after = fingerprints(&target, output)?;
    let equal = before == after;
    let items: u64 = copied.items.values().sum();
    if output.is_json() {
        let rooms: BTreeMap<String, String> =
            after.iter().map(|(room_id, [current, _])| (room_id.to_string(), current.to_string())).collect();
        output.value(
            &json!({ "items": items, "bytes": copied.bytes, "equal": equal, "current_state_fingerprints": rooms }),
        );
    } else {
        for (room_id, fingerprints) in &before {
            let equal = if after.get(room_id) == Some(fingerprints) { "equal" } else { "DIFFERENT" };
            output.line(format_args!("{}  {equal}  {room_id}", fingerprints[0]));
        }
        let result = if equal { "every room's fingerprints are equal" } else { "the copy is NOT equal" };
        output.line(format_args!("{}, {}: {result}", count(items, "record"), count(copied.bytes, "byte")));
    }
    Ok(if equal { ExitCode::SUCCESS } else { disagreement() })
}

/// Returns for each room the fingerprint of its current state, and one over the states before all its events.
fn fingerprints(store: &Arc<dyn Store>, output: &Output) -> Result<BTreeMap<RoomId, [Fingerprint; 2]>, Failure> {
    let log = block_on(EventLog::open(store.clone()))?;
    let room_ids: Vec<RoomId> = log.rooms().into_iter().map(|(room_id, _)| room_id).collect();
    let progress = output.progress(room_ids.len() as u64, "fingerprints", "rooms");
    let mut fingerprints = BTreeMap::new();
    for room_id in room_ids {
        if let Some(room) = block_on(log.load_room(&room_id))? {
            fingerprints.insert(room_id, [room.current_state().fingerprint(), room.history_fingerprint()]);
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(fingerprints)
}

fn count_items(store: &Arc<dyn Store>) -> Result<u64, Failure> {
    let mut count = 0;
    for keyspace in Keyspace::ALL {
        let mut scan = Some(Scan::new(*keyspace, KeyRange::all()));
        while let Some(asked) = scan.take() {
            let page = block_on(store.scan(asked.clone()))?;
            count += page.items.len() as u64;
            scan = page.next.map(|cursor| asked.after(&cursor));
        }
    }
    Ok(count)
}

fn finding_json(finding: &Finding) -> Value {
    let (kind, room_id, event_id) = match finding {
        Finding::Log(_) => ("log", None, None),
        Finding::Projection { room_id, event_id, .. } => ("projection", Some(room_id.as_str()), event_id.as_ref()),
        Finding::Record(_) => ("record", None, None),
        Finding::Surplus { .. } => ("surplus", None, None),
    };
    let event_id = event_id.map(EventId::as_str);
    json!({ "kind": kind, "room_id": room_id, "event_id": event_id, "message": finding.to_string() })
}
