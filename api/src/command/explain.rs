//! `ravel explain`: how the state before an event came about, in words that a room administrator can follow.

mod text;

use std::process::ExitCode;

use ravel_core::{
    event::StateKey,
    event_auth::{PowerLevel, Refusal},
    id::EventId,
    resolve::{DecidedBy, OrderedEvent, Rank, Step},
    room::{Check, Explanation, Room, RoomError},
};
use serde_json::{Value, json};

pub(super) use self::text::{name_membership, text};
use super::{Failure, event_of, open_room, outcome_code};
use crate::{database::DatabaseName, output::Output};

/// Prints the explanation of an event.
pub fn run(database: &DatabaseName, room: &str, event: &str, output: &mut Output) -> Result<ExitCode, Failure> {
    let room = open_room(database, room)?;
    let event_id = event_of(&room, event)?;
    let missing = || Failure::NoSuchEvent { room_id: room.room_id().clone(), event_id: event_id.clone() };
    let explanation = match room.explain(&event_id) {
        Err(RoomError::NoState(_)) => return Err(Failure::HistoryPurged { event_id }),
        explained => explained?.ok_or_else(missing)?,
    };
    if output.is_json() {
        output.value(&to_json(&room, &explanation));
    } else {
        for line in text(&room, &explanation) {
            output.line(line);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn to_json(room: &Room, explanation: &Explanation) -> Value {
    let ids = |events: &[EventId]| events.iter().map(EventId::as_str).map(Value::from).collect::<Vec<_>>();
    let key = |key: &StateKey| json!([key.event_type, key.state_key]);
    let steps: Vec<Value> = explanation
        .steps
        .iter()
        .map(|step| match step {
            Step::Conflict { key: at, candidates, absent_from_some } => json!({
                "step": "conflict", "key": key(at), "candidates": ids(candidates), "absent_from_some": absent_from_some,
            }),
            Step::AuthDifference { events } => json!({ "step": "auth_difference", "events": ids(events) }),
            Step::ConflictedStateSubgraph { events } => {
                json!({ "step": "conflicted_state_subgraph", "events": ids(events) })
            }
            Step::PowerOrder { events } => json!({ "step": "power_order", "events": order_json(events) }),
            Step::Mainline { events } => json!({ "step": "mainline", "events": ids(events) }),
            Step::MainlineOrder { events } => json!({ "step": "mainline_order", "events": order_json(events) }),
            Step::DepthOrder { key: at, events } => {
                json!({ "step": "depth_order", "key": key(at), "events": order_json(events) })
            }
            Step::Check { event_id, key: at, result, .. } => {
                let refusal = result.as_ref().and_then(|result| result.as_ref().err());
                json!({
                    "step": "check",
                    "event_id": event_id.as_str(),
                    "key": key(at),
                    "allowed": *result == Some(Ok(())),
                    "code": refusal.map(Refusal::code),
                    "rule": refusal.map(|refusal| refusal.rule_number(room.rules().version)),
                    "reason": refusal.map(ToString::to_string),
                })
            }
            Step::Outcome { key: at, event_id } => {
                json!({ "step": "outcome", "key": key(at), "event_id": event_id.as_ref().map(EventId::as_str) })
            }
        })
        .collect();
    let reason = explanation.reason.as_ref().map(|reason| {
        json!({
            "check": match reason.check {
                Check::AuthEvents => "auth_events",
                Check::StateBefore => "state_before",
                Check::CurrentState => "current_state",
                Check::PolicyServer => "policy_server",
            },
            "code": reason.code,
            "rule": reason.rule,
            "sentence": reason.sentence,
        })
    });
    json!({
        "event_id": explanation.event_id.as_str(),
        "prev_events": explanation.prev_events.iter().map(|(prev, fingerprint)| json!({
            "event_id": prev.as_str(), "state_after_fingerprint": fingerprint.to_string(),
        })).collect::<Vec<_>>(),
        "steps": steps,
        "state_before_fingerprint": room.state_before(&explanation.event_id).map(|state| state.fingerprint().to_string()),
        "outcome": outcome_code(explanation.outcome),
        "reason": reason,
    })
}

fn order_json(events: &[OrderedEvent]) -> Vec<Value> {
    let order = events.iter().map(|event| {
        let (rank, value) = match event.rank {
            Rank::PowerLevel(PowerLevel::Finite(level)) => ("power_level", json!(level)),
            Rank::PowerLevel(PowerLevel::Infinite) => ("power_level", json!("infinite")),
            Rank::MainlinePosition(position) => ("mainline_position", json!(position)),
            Rank::Depth(depth) => ("depth", json!(depth)),
        };
        let decided_by = event.decided_by.map(|decided_by| match decided_by {
            DecidedBy::AuthEdges => "auth_edges",
            DecidedBy::PowerLevel => "power_level",
            DecidedBy::MainlinePosition => "mainline_position",
            DecidedBy::Depth => "depth",
            DecidedBy::Timestamp => "origin_server_ts",
            DecidedBy::EventId => "event_id",
        });
        json!({
            "event_id": event.event_id.as_str(),
            rank: value,
            "origin_server_ts": event.origin_server_ts_ms,
            "decided_by": decided_by,
        })
    });
    order.collect()
}
