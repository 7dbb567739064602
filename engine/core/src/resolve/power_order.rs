//! The reverse topological power ordering.

use std::{cmp::Reverse, collections::BinaryHeap};

use hashbrown::HashMap;

use super::{DecidedBy, EventSet, OrderedEvent, Step, index_hash::IndexHashes};
use crate::{
    event_auth::{PowerLevel, sender_power_level},
    graph::{EventGraph, EventIndex},
    id::EventId,
};

/// The comparison relation of the ordering: the sender's power level (greater first), `origin_server_ts`, event id.
pub(super) type PowerKey<'a> = (Reverse<PowerLevel>, i64, &'a EventId);

/// Returns the power events of the full conflicted set, and what they reach along auth edges within it.
///
/// "For each such power event P, enlarge X by adding the events in the auth chain of P which also belong to the full conflicted
/// set." Deployed servers walk only through events of the set; so does this.
pub(super) fn power_events_and_their_auth_chains(graph: &EventGraph, full_conflicted_set: &EventSet) -> EventSet {
    let mut pending: Vec<EventIndex> =
        full_conflicted_set.iter().filter(|index| graph.is_power_event(*index)).collect();
    let mut found = EventSet::default();
    while let Some(index) = pending.pop() {
        if found.insert(index) {
            let auth_events = graph.auth_events(index).iter().copied();
            pending.extend(auth_events.filter(|index| full_conflicted_set.contains(*index)));
        }
    }
    found
}

/// Sorts events by the *reverse topological power ordering*: Kahn's algorithm along auth edges, earliest first, always taking the
/// smallest candidate. O(e log e) for e events and their auth edges.
pub(super) fn reverse_topological_power_order<'a>(
    graph: &'a EventGraph,
    events: &EventSet,
) -> Vec<(PowerKey<'a>, EventIndex)> {
    let mut cited_by: HashMap<EventIndex, Vec<EventIndex>, IndexHashes> = HashMap::default();
    let mut waiting_for: HashMap<EventIndex, usize, IndexHashes> = HashMap::default();
    let mut ready = BinaryHeap::new();
    for index in events.iter() {
        let auth_events: EventSet =
            graph.auth_events(index).iter().copied().filter(|index| events.contains(*index)).collect();
        let mut count = 0;
        for auth_event in auth_events.iter() {
            cited_by.entry(auth_event).or_default().push(index);
            count += 1;
        }
        if count == 0 {
            ready.push(Reverse((power_key(graph, index), index)));
        } else {
            waiting_for.insert(index, count);
        }
    }
    let mut ordered = Vec::new();
    while let Some(Reverse((key, index))) = ready.pop() {
        ordered.push((key, index));
        for citing in cited_by.remove(&index).unwrap_or_default() {
            if let Some(count) = waiting_for.get_mut(&citing) {
                *count -= 1;
                if *count == 0 {
                    ready.push(Reverse((power_key(graph, citing), citing)));
                }
            }
        }
    }
    ordered
}

fn power_key(graph: &EventGraph, index: EventIndex) -> PowerKey<'_> {
    let event = graph.event(index);
    (Reverse(power_level_by_auth_events(graph, index)), event.origin_server_ts_ms, &event.event_id)
}

/// Returns the sender's power level "when looking at their respective auth events".
fn power_level_by_auth_events(graph: &EventGraph, index: EventIndex) -> PowerLevel {
    let Some(create) = graph.create() else { return PowerLevel::Finite(0) };
    let power_levels = graph.power_levels(index).map(|index| &**graph.event(index));
    sender_power_level(graph.rules(), graph.event(create), power_levels, graph.event(index).sender.as_str())
}

pub(super) fn step(graph: &EventGraph, ordered: &[(PowerKey<'_>, EventIndex)]) -> Step {
    let mut previous: Option<&PowerKey<'_>> = None;
    let events = ordered.iter().map(|(key, index)| {
        let decided_by = previous.replace(key).map(|previous| decided_by(previous, key));
        let event_id = graph.event(*index).event_id.clone();
        OrderedEvent { event_id, rank: key.0.0.into(), origin_server_ts_ms: key.1, decided_by }
    });
    Step::PowerOrder { events: events.collect() }
}

fn decided_by(previous: &PowerKey<'_>, key: &PowerKey<'_>) -> DecidedBy {
    if previous > key {
        return DecidedBy::AuthEdges;
    }
    match (previous.0 == key.0, previous.1 == key.1) {
        (false, _) => DecidedBy::PowerLevel,
        (true, false) => DecidedBy::Timestamp,
        (true, true) => DecidedBy::EventId,
    }
}
