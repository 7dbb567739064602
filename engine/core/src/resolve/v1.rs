//! State resolution of room version 1.
//!
//! Source: room version 1, "State resolution". A conflict here is two different events at a key; a key that some states lack is
//! not in conflict. Where the text is silent, this does what deployed servers do: conflicts of one kind do not see each other's
//! results, and if no event passes the checks, the one with the least depth is taken.

use std::{cmp::Reverse, collections::BTreeMap};

use sha1::{Digest, Sha1};

use super::{DecidedBy, Edits, OrderedEvent, Phase, Recorder, Step, conflict::Conflict, steps};
use crate::{
    event::event_type,
    event_auth::{AuthState, check_in_state},
    graph::{EventGraph, EventIndex, EventView, KeyIndex},
    state::StateMap,
};

pub(super) fn resolve(graph: &EventGraph, mut conflict: Conflict<'_>, recorder: &mut impl Recorder) -> Edits {
    // R starts as the union of the states without the conflicting events.
    let mut edits = BTreeMap::new();
    conflict.retain(|key, values| {
        let events = values.iter().flatten().copied();
        let in_conflict = events.clone().any(|event| Some(event) != events.clone().next());
        edits.insert(key, if in_conflict { None } else { events.clone().next() });
        in_conflict
    });
    let mut resolution = Resolution { graph, base: conflict.base(), edits, conflicts: BTreeMap::new() };
    conflict.record(graph, recorder);
    resolution.conflicts = conflict.iter().map(|(key, values)| (key, resolution.candidates(values))).collect();

    for kind in [event_type::POWER_LEVELS, event_type::JOIN_RULES, event_type::MEMBER] {
        let resolved = resolution.pass(
            |key| is_of_kind(graph, key, kind),
            |key, events| resolution.resolve_auth_events(key, events, recorder),
        );
        resolution.finish_pass(resolved);
    }
    let resolved = resolution.pass(|_| true, |key, events| resolution.resolve_other_events(key, events, recorder));
    resolution.finish_pass(resolved);
    let outcomes: Vec<_> = conflict.keys().iter().map(|key| (*key, resolution.get(*key))).collect();
    steps::record_outcomes(graph, &outcomes, recorder);
    resolution.edits.into_iter().collect()
}

/// Power levels are in conflict only at the empty state key, as deployed servers have it.
fn is_of_kind(graph: &EventGraph, key: KeyIndex, kind: &str) -> bool {
    let (event_type, state_key) = graph.keys().texts(key);
    event_type == kind && (kind != event_type::POWER_LEVELS || state_key.is_empty())
}

/// R, with another event at one key.
struct WithTaken<'r, 'g> {
    resolution: &'r Resolution<'g>,
    key: KeyIndex,
    taken: Option<EventIndex>,
}

impl<'g> AuthState<'g> for WithTaken<'_, 'g> {
    fn event(&mut self, key: KeyIndex) -> Option<EventView<'g>> {
        let found = if key == self.key { self.taken } else { self.resolution.get(key) };
        found.map(|index| self.resolution.graph.event(index))
    }
}

struct Resolution<'a> {
    graph: &'a EventGraph,
    /// R is one of the states, with edits.
    base: &'a StateMap,
    edits: BTreeMap<KeyIndex, Option<EventIndex>>,
    /// The conflicts that are not resolved yet, each with its events by ascending depth, then descending SHA-1 of the event id.
    conflicts: BTreeMap<KeyIndex, Vec<EventIndex>>,
}

impl Resolution<'_> {
    /// Returns what holds a key in R.
    fn get(&self, key: KeyIndex) -> Option<EventIndex> {
        self.edits.get(&key).copied().unwrap_or_else(|| self.base.get(self.graph, key))
    }

    fn candidates(&self, values: &[Option<EventIndex>]) -> Vec<EventIndex> {
        // A peer's state may name events that were rejected when they were received.
        let mut events: Vec<EventIndex> =
            values.iter().flatten().copied().filter(|index| !self.graph.is_rejected(*index)).collect();
        events.sort_by_cached_key(|index| {
            let sha1: [u8; 20] = Sha1::digest(self.graph.event_id_text(*index)).into();
            (self.graph.depth(*index), Reverse(sha1))
        });
        events.dedup();
        events
    }

    /// Resolves the conflicts of one pass, none of which sees the result of another.
    fn pass(
        &self,
        of_pass: impl Fn(KeyIndex) -> bool,
        mut pick: impl FnMut(KeyIndex, &[EventIndex]) -> Option<EventIndex>,
    ) -> Vec<(KeyIndex, Option<EventIndex>)> {
        let conflicts = self.conflicts.iter().filter(|(key, _)| of_pass(**key));
        conflicts.map(|(key, events)| (*key, pick(*key, events))).collect()
    }

    fn finish_pass(&mut self, resolved: Vec<(KeyIndex, Option<EventIndex>)>) {
        for (key, _) in &resolved {
            self.conflicts.remove(key);
        }
        self.edits.extend(resolved);
    }

    /// Takes the first event, and from there on each that is allowed in the state with the last one taken, until one is not.
    fn resolve_auth_events(
        &self,
        key: KeyIndex,
        events: &[EventIndex],
        recorder: &mut impl Recorder,
    ) -> Option<EventIndex> {
        self.record_order(key, events.iter(), recorder);
        let (first, rest) = events.split_first()?;
        let mut taken = *first;
        for index in rest {
            if !self.is_allowed(key, *index, Some(taken), recorder) {
                break;
            }
            taken = *index;
        }
        Some(taken)
    }

    /// Takes the deepest event that is allowed; if none is, the least deep.
    fn resolve_other_events(
        &self,
        key: KeyIndex,
        events: &[EventIndex],
        recorder: &mut impl Recorder,
    ) -> Option<EventIndex> {
        self.record_order(key, events.iter().rev(), recorder);
        let allowed = events.iter().rev().find(|index| self.is_allowed(key, **index, None, recorder));
        allowed.or(events.first()).copied()
    }

    /// Checks an event in R, with `taken` in place of what R has at the key.
    fn is_allowed(
        &self,
        key: KeyIndex,
        index: EventIndex,
        taken: Option<EventIndex>,
        recorder: &mut impl Recorder,
    ) -> bool {
        let graph = self.graph;
        let result = check_in_state(graph.event(index), &mut WithTaken { resolution: self, key, taken });
        let allowed = result.is_ok();
        recorder.record(|| Step::Check {
            phase: Phase::ByDepth,
            event_id: graph.event_id(index),
            key: graph.state_key(key),
            result: Some(result),
        });
        allowed
    }

    fn record_order<'e>(
        &self,
        key: KeyIndex,
        events: impl Iterator<Item = &'e EventIndex>,
        recorder: &mut impl Recorder,
    ) {
        recorder.record(|| {
            let mut previous_depth = None;
            let events = events.map(|index| {
                let depth = self.graph.depth(*index);
                let decided_by = previous_depth
                    .replace(depth)
                    .map(|previous| if previous == depth { DecidedBy::EventId } else { DecidedBy::Depth });
                OrderedEvent {
                    event_id: self.graph.event_id(*index),
                    rank: steps::Rank::Depth(depth),
                    origin_server_ts_ms: self.graph.origin_server_ts_ms(*index),
                    decided_by,
                }
            });
            Step::DepthOrder { key: self.graph.state_key(key), events: events.collect() }
        });
    }
}
