//! The iterative auth checks.

use super::{PartialState, Phase, Recorder, Step};
use crate::{
    event_auth::{AuthState, check_in_state},
    graph::{EventGraph, EventIndex, EventView, KeyIndex},
};

/// Applies the *iterative auth checks algorithm*: each event in order that the authorization rules allow in the state so far is
/// put into it.
///
/// "If a (event_type, state_key) key that is required for checking the authorization rules is not present in the state, then the
/// appropriate state event from the event's auth_events is used if the auth event is not rejected." In room version 12 the create
/// event is not among them and is taken from the room id.
pub(super) fn iterative_auth_checks(
    graph: &EventGraph,
    events: impl Iterator<Item = EventIndex>,
    partial: &mut PartialState<'_>,
    phase: Phase,
    recorder: &mut impl Recorder,
) {
    for index in events {
        let Some(key) = graph.key(index) else { continue };
        // An event that was rejected when it was received never gets into the state. Only a peer's state can name it.
        let result = (!graph.is_rejected(index)).then(|| {
            let mut state = StateSoFar { graph, partial, auth_events: graph.auth_events(index) };
            check_in_state(graph.event(index), &mut state)
        });
        if result == Some(Ok(())) {
            partial.set(key, index);
        }
        recorder.record(|| Step::Check { phase, event_id: graph.event_id(index), key: graph.state_key(key), result });
    }
}

/// What the rules may ask for: the partially resolved state, then the event's own auth events, which count only where the state
/// has nothing.
struct StateSoFar<'g, 'p, 'b> {
    graph: &'g EventGraph,
    partial: &'p mut PartialState<'b>,
    auth_events: &'g [EventIndex],
}

impl<'g> AuthState<'g> for StateSoFar<'g, '_, '_> {
    fn event(&mut self, key: KeyIndex) -> Option<EventView<'g>> {
        let graph = self.graph;
        let counts = |index: &EventIndex| !graph.is_rejected(*index);
        let found = self.partial.get(key).filter(counts).or_else(|| {
            let mut auth_events = self.auth_events.iter().copied().chain(graph.create());
            auth_events.find(|index| graph.key(*index) == Some(key) && counts(index))
        });
        found.map(|index| graph.event(index))
    }
}
