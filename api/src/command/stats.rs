//! `ravel stats`: what rooms cost.

use std::process::ExitCode;

use ravel_core::id::EventId;
use ravel_store::{
    block_on,
    log::{EventCounts, ResolutionStats, RoomStats, Spread},
};
use serde_json::{Map, Value, json};

use super::{Failure, count, open_log, rooms_of};
use crate::{database::DatabaseName, output::Output};

/// Tells what a room costs, or each room and all together.
pub fn run(
    database: &DatabaseName,
    room: Option<&str>,
    resolutions: bool,
    output: &mut Output,
) -> Result<ExitCode, Failure> {
    let log = open_log(database)?;
    let rooms = rooms_of(&log, room)?;
    let progress = output.progress(rooms.len() as u64, "counting", "rooms");
    let mut total = RoomStats::default();
    let mut counted = Vec::new();
    for (room_id, version) in rooms {
        // Purged as a whole meanwhile, it counts no more.
        let Some(stats) = block_on(log.stats(&room_id))? else { continue };
        let resolutions = if resolutions { block_on(log.resolution_stats(&room_id))? } else { None };
        total.add(&stats);
        counted.push((room_id, version, stats, resolutions));
        progress.inc(1);
    }
    progress.finish_and_clear();
    let on_disk = block_on(log.store().describe())?.size_on_disk;
    if output.is_json() {
        let rooms: Vec<Value> = counted
            .iter()
            .map(|(room_id, version, stats, resolutions)| {
                let mut room = to_json(stats);
                room.insert("room_id".to_owned(), json!(room_id.as_str()));
                room.insert("room_version".to_owned(), json!(version.as_str()));
                if let Some(resolutions) = resolutions {
                    room.insert("resolutions".to_owned(), resolutions_json(resolutions));
                }
                Value::Object(room)
            })
            .collect();
        output.value(&json!({ "rooms": rooms, "total": to_json(&total), "size_on_disk": on_disk }));
        return Ok(ExitCode::SUCCESS);
    }
    for (room_id, version, stats, resolutions) in &counted {
        output.line(format_args!("{room_id} (room version {version})"));
        write(stats, output);
        if let Some(resolutions) = resolutions {
            write_resolutions(resolutions, output);
        }
    }
    if counted.len() != 1 {
        output.line(count(counted.len() as u64, "room"));
        write(&total, output);
    }
    output.line(format_args!("on disk      {}, of all that is in the database", count(on_disk, "byte")));
    Ok(ExitCode::SUCCESS)
}

fn write(stats: &RoomStats, output: &mut Output) {
    let EventCounts { accepted, soft_failed, rejected, purged, without_states } = stats.events;
    let events = stats.event_count();
    output.line(format_args!(
        "  events     {events}: {accepted} accepted, {soft_failed} soft-failed, {rejected} rejected"
    ));
    if without_states > 0 {
        output.line(format_args!(
            "  purged     the content of {}, the states around {}",
            count(purged, "event"),
            count(without_states, "event")
        ));
    }
    let bytes: Vec<String> = stats.bytes.iter().map(|(keyspace, bytes)| format!("{keyspace} {bytes}")).collect();
    output.line(format_args!("  bytes      {}: {}", stats.byte_count(), bytes.join(", ")));
    let (snapshots, nodes, shared) = (stats.snapshots, stats.nodes, stats.shared_nodes);
    output.line(format_args!("  snapshots  {snapshots}, of {}, {shared} of them shared", count(nodes, "node")));
    if stats.unreferenced_nodes > 0 {
        let nodes = count(stats.unreferenced_nodes, "node");
        output.line(format_args!("             and {nodes} that no state has any more, for `ravel collect`"));
    }
    output.line(format_args!(
        "  changes    {}, with {} new nodes each on average",
        count(stats.state_changes, "state change"),
        nodes_per_change(stats).map_or_else(|| "no".to_owned(), |nodes| format!("{nodes:.1}"))
    ));
    output.line(format_args!("  forward extremities  {}", stats.forward_extremities));
}

fn write_resolutions(stats: &ResolutionStats, output: &mut Output) {
    let spread = |Spread { median, p99, max }: Spread| format!("median {median}, 99th percentile {p99}, highest {max}");
    output.line(format_args!("  resolutions  {}", stats.resolutions));
    if stats.unknown > 0 {
        let merges = count(stats.unknown, "more merge");
        output.line(format_args!("               and {merges} of what was purged"));
    }
    if let Some(costliest) = &stats.costliest {
        output.line(format_args!("    state keys in conflict  {}", spread(stats.conflicted)));
        output.line(format_args!("    auth difference         {}", spread(stats.auth_difference)));
        output.line(format_args!("    most of both            before {costliest}"));
    }
}

#[allow(clippy::cast_precision_loss, reason = "an average for people")]
fn nodes_per_change(stats: &RoomStats) -> Option<f64> {
    (stats.state_changes > 0).then(|| stats.nodes_of_state_changes as f64 / stats.state_changes as f64)
}

fn to_json(stats: &RoomStats) -> Map<String, Value> {
    let EventCounts { accepted, soft_failed, rejected, purged, without_states } = stats.events;
    let bytes: Map<String, Value> =
        stats.bytes.iter().map(|(keyspace, bytes)| (keyspace.to_string(), json!(bytes))).collect();
    let fields = [
        (
            "events",
            json!({
                "accepted": accepted, "soft_failed": soft_failed, "rejected": rejected, "purged": purged,
                "without_states": without_states,
            }),
        ),
        ("bytes", Value::Object(bytes)),
        ("snapshots", json!(stats.snapshots)),
        ("nodes", json!(stats.nodes)),
        ("shared_nodes", json!(stats.shared_nodes)),
        ("unreferenced_nodes", json!(stats.unreferenced_nodes)),
        ("state_changes", json!(stats.state_changes)),
        ("nodes_per_state_change", json!(nodes_per_change(stats))),
        ("forward_extremities", json!(stats.forward_extremities)),
    ];
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn resolutions_json(stats: &ResolutionStats) -> Value {
    let spread = |Spread { median, p99, max }: Spread| json!({ "median": median, "p99": p99, "max": max });
    json!({
        "count": stats.resolutions,
        "unknown": stats.unknown,
        "conflicted": spread(stats.conflicted),
        "auth_difference": spread(stats.auth_difference),
        "costliest": stats.costliest.as_ref().map(EventId::as_str),
    })
}
