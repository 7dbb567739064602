//! The steps of a resolution as lines of text.

use super::short_key;
use crate::{
    id::EventId,
    resolve::{DecidedBy, OrderedEvent, Phase, Rank, Step},
};

/// Returns a line for each step, with the names of events:
///
/// ```text
/// conflict topic: T1 T2 none
/// auth difference: P2
/// subgraph: P2 T1
/// power order: P1[100 @5] X[100 @6 timestamp]
/// mainline: P2 P1
/// mainline order: T1[infinite @3] T2[1 @2 position]
/// depth order topic: T1[3] T2[4 depth]
/// power check P1: ok
/// check T1: sender_not_joined
/// outcome topic: T2
/// ```
pub(super) fn render(steps: &[Step], name: impl Fn(&EventId) -> String) -> Vec<String> {
    let names = |events: &[EventId]| events.iter().map(|id| format!(" {}", name(id))).collect::<String>();
    let ordered = |events: &[OrderedEvent]| -> String {
        events.iter().map(|event| format!(" {}[{}]", name(&event.event_id), place(event))).collect()
    };
    let step = |step: &Step| match step {
        Step::Conflict { key, candidates, absent_from_some } => {
            let mut candidates: Vec<_> = candidates.iter().map(&name).collect();
            candidates.sort_unstable();
            let none = if *absent_from_some { " none" } else { "" };
            format!("conflict {}: {}{none}", short_key(key), candidates.join(" "))
        }
        Step::AuthDifference { events } => format!("auth difference:{}", names(events)),
        Step::ConflictedStateSubgraph { events } => format!("subgraph:{}", names(events)),
        Step::PowerOrder { events } => format!("power order:{}", ordered(events)),
        Step::Mainline { events } => format!("mainline:{}", names(events)),
        Step::MainlineOrder { events } => format!("mainline order:{}", ordered(events)),
        Step::DepthOrder { key, events } => format!("depth order {}:{}", short_key(key), ordered(events)),
        Step::Check { phase, event_id, result, .. } => {
            let phase = if *phase == Phase::PowerEvents { "power check" } else { "check" };
            let result = match result {
                Some(Ok(())) => "ok",
                Some(Err(refusal)) => refusal.code(),
                None => "rejected on receipt",
            };
            format!("{phase} {}: {result}", name(event_id))
        }
        Step::Outcome { key, event_id } => {
            format!("outcome {}: {}", short_key(key), event_id.as_ref().map_or("none".into(), &name))
        }
    };
    steps.iter().map(step).collect()
}

/// Returns what kind of line this is.
pub(super) fn kind(line: &str) -> &'static str {
    const KINDS: [&str; 10] = [
        "conflict ",
        "auth difference",
        "subgraph",
        "power order",
        "power check ",
        "mainline:",
        "mainline order",
        "depth order ",
        "check ",
        "outcome ",
    ];
    KINDS.into_iter().find(|kind| line.starts_with(kind)).unwrap_or_else(|| panic!("no such step: {line}"))
}

fn place(event: &OrderedEvent) -> String {
    let ts = event.origin_server_ts_ms;
    let rank = match event.rank {
        Rank::PowerLevel(level) => format!("{level} @{ts}"),
        Rank::MainlinePosition(None) => format!("infinite @{ts}"),
        Rank::MainlinePosition(Some(position)) => format!("{position} @{ts}"),
        Rank::Depth(depth) => depth.to_string(),
    };
    let why = match event.decided_by {
        None => "",
        Some(DecidedBy::AuthEdges) => " auth edges",
        Some(DecidedBy::PowerLevel) => " power",
        Some(DecidedBy::MainlinePosition) => " position",
        Some(DecidedBy::Depth) => " depth",
        Some(DecidedBy::Timestamp) => " timestamp",
        Some(DecidedBy::EventId) => " id",
    };
    rank + why
}
