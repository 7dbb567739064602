//! The iterative auth checks.

use smallvec::SmallVec;

use super::{PartialState, Phase, Recorder, Step};
use crate::{
    event::Event,
    event_auth::{StateLookup, check_state_dependent},
    graph::{EventGraph, EventIndex},
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
        let event = graph.event(index);
        // An event that was rejected when it was received never gets into the state. Only a peer's state can name it.
        let result = (!graph.is_rejected(index)).then(|| {
            let state = state_for(graph, index, partial);
            check_state_dependent(graph.rules(), event, &state)
        });
        if result == Some(Ok(())) {
            partial.set(key, index);
        }
        recorder.record(|| Step::Check {
            phase,
            event_id: event.event_id.clone(),
            key: graph.state_key(key).clone(),
            result,
        });
    }
}

/// Returns the events that the rules may ask for: those of the partially resolved state, then the event's own auth events, which
/// count only where the state has nothing.
fn state_for<'a>(graph: &'a EventGraph, index: EventIndex, partial: &mut PartialState<'_>) -> FewEvents<'a> {
    let mut state = FewEvents::default();
    for key in graph.auth_keys(index) {
        state.0.extend(partial.get(*key).filter(|index| !graph.is_rejected(*index)).map(|index| &**graph.event(index)));
    }
    if state.0.len() < graph.auth_keys(index).len() {
        let auth_events = graph.auth_events(index).iter().copied().chain(graph.create());
        state.0.extend(auth_events.filter(|index| !graph.is_rejected(*index)).map(|index| &**graph.event(index)));
    }
    state
}

/// A handful of state events; of two with the same key the first counts.
#[derive(Default)]
pub(crate) struct FewEvents<'a>(pub(crate) SmallVec<[&'a Event; 12]>);

impl StateLookup for FewEvents<'_> {
    fn state_event(&self, event_type: &str, state_key: &str) -> Option<&Event> {
        self.0.iter().copied().find(|event| event.is_state(event_type, state_key))
    }
}
