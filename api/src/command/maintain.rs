//! `ravel rebuild` and `ravel verify`.

use std::process::ExitCode;

use ravel_core::id::EventId;
use ravel_store::{
    block_on,
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

fn finding_json(finding: &Finding) -> Value {
    let (kind, room_id, event_id) = match finding {
        Finding::Log(_) => ("log", None, None),
        Finding::Projection { room_id, event_id, .. } => ("projection", Some(room_id.as_str()), event_id.as_ref()),
        Finding::Fact { .. } => ("fact", None, None),
        Finding::Record(_) => ("record", None, None),
        Finding::Surplus { .. } => ("surplus", None, None),
    };
    let event_id = event_id.map(EventId::as_str);
    json!({ "kind": kind, "room_id": room_id, "event_id": event_id, "message": finding.to_string() })
}
