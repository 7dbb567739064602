//! Comparing a replayed room with what was recorded.

use std::collections::{BTreeMap, BTreeSet};

use ravel_core::{
    event::StateKey,
    id::EventId,
    room::{Outcome, Room},
    state::State,
};

use super::report::{Disagreement, RoomReport, ServerReport, Verdicts};
use crate::{
    command::{Failure, explain},
    recorded_room::{RecordedEvent, RecordedRoom, Seen},
};

/// How many differing entries of a state are named.
const ENTRIES_NAMED_MAX: usize = 20;

/// Compares the state before each event with several prev events; with `server`, only the answers that it gave.
pub(super) fn merges(
    room: &Room,
    recorded: &RecordedRoom,
    server: Option<&str>,
    report: &mut RoomReport,
) -> Result<(), Failure> {
    for merge in &recorded.merges {
        if server.is_some_and(|server| !merge.servers.iter().any(|name| name == server)) {
            continue;
        }
        report.merges += 1;
        let state = room.state_before(&merge.event_id);
        if state.is_some_and(|state| is_equal(state, &merge.state)) {
            report.agree += 1;
            continue;
        }
        report.disagree += 1;
        if report.first_disagreement.is_none() {
            let what = match state {
                None => "the event was not judged".to_owned(),
                Some(state) => differences(state, &merge.state),
            };
            let explanation = match room.explain(&merge.event_id)? {
                Some(explanation) => explain::text(room, &explanation),
                None => Vec::new(),
            };
            report.first_disagreement =
                Some(Disagreement { line: merge.line, event_id: merge.event_id.clone(), what, explanation });
        }
    }
    Ok(())
}

fn is_equal(ours: State<'_>, recorded: &BTreeMap<StateKey, EventId>) -> bool {
    ours.len() == recorded.len()
        && recorded.iter().all(|(key, event_id)| ours.get(&key.event_type, &key.state_key).as_ref() == Some(event_id))
}

fn differences(ours: State<'_>, recorded: &BTreeMap<StateKey, EventId>) -> String {
    let ours = ours.to_map();
    let keys: BTreeSet<&StateKey> = ours.keys().chain(recorded.keys()).collect();
    let differing: Vec<&StateKey> = keys.into_iter().filter(|key| ours.get(*key) != recorded.get(*key)).collect();
    let name = |event_id: Option<&EventId>| event_id.map_or("nothing".to_owned(), ToString::to_string);
    let named = differing.iter().take(ENTRIES_NAMED_MAX).map(|key| {
        let (ours, recorded) = (name(ours.get(*key)), name(recorded.get(*key)));
        format!("{} {:?}: {ours} here, {recorded} recorded", key.event_type, key.state_key)
    });
    let mut lines: Vec<String> = named.collect();
    if differing.len() > ENTRIES_NAMED_MAX {
        lines.push(format!("and {} more", differing.len() - ENTRIES_NAMED_MAX));
    }
    lines.join("; ")
}

/// Returns the events in the order in which a server stored them, without the history that it fetched.
pub(super) fn arrivals<'a>(recorded: &'a RecordedRoom, server: &str) -> Vec<&'a RecordedEvent> {
    let mut arrivals: Vec<(i64, &RecordedEvent)> = recorded
        .events
        .iter()
        .filter_map(|event| {
            let seen = event.seen.get(server)?;
            arrived(seen).then_some((seen.order, event))
        })
        .collect();
    arrivals.sort_by_key(|(order, event)| (*order, event.line));
    arrivals.into_iter().map(|(_, event)| event).collect()
}

fn arrived(seen: &Seen) -> bool {
    seen.order >= 0 && !seen.outlier
}

/// Compares verdicts, forward extremities and current state with those of a server.
pub(super) fn server(room: &Room, recorded: &RecordedRoom, server: &str, report: &mut RoomReport) {
    let mut compared = ServerReport { server: server.to_owned(), ..ServerReport::default() };
    for event in arrivals(recorded, server) {
        let Some(seen) = event.seen.get(server) else { continue };
        let theirs = match (&seen.rejected, seen.soft_failed) {
            (Some(_), _) => Outcome::Rejected,
            (None, true) => Outcome::SoftFailed,
            (None, false) => Outcome::Accepted,
        };
        compared.verdicts += 1;
        let ours = room.outcome(&event.event_id);
        if ours != Some(theirs) {
            let reason = room.reason(&event.event_id).map(|reason| reason.sentence.clone());
            compared.differing.push(Verdicts {
                line: event.line,
                event_id: event.event_id.clone(),
                ours,
                theirs,
                reason,
            });
        }
    }
    if let Some(view) = recorded.finals.iter().find(|view| view.servers.iter().any(|name| name == server)) {
        compared.forward_extremities = Some(view.forward_extremities == room.forward_extremities());
        compared.current_state = Some(is_equal(room.current_state(), &view.state));
        if compared.current_state == Some(false) {
            compared.state_differences = differences(room.current_state(), &view.state);
        }
    }
    report.server = Some(compared);
}
