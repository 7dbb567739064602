//! Rooms for state resolution: events without PDUs, whose ids are the names of their lines.

use std::collections::BTreeMap;

use super::{Author, Entries, Line, Names, decode, unsigned_event};
use crate::{
    event::Event,
    graph::EventGraph,
    id::EventId,
    resolve::{Silent, Step, Steps, resolve},
    room_version::RoomVersion,
    signing::room_id_of_create,
    state::{State, StateMap},
};

/// A graph with the states after its events.
#[derive(Debug)]
pub(crate) struct TestGraph {
    version: RoomVersion,
    pub(crate) graph: EventGraph,
    pub(crate) names: Names,
    events: BTreeMap<EventId, Event>,
    states_after: BTreeMap<EventId, StateMap>,
}

impl TestGraph {
    pub(crate) fn new(version: RoomVersion, text: &str) -> Self {
        let graph = EventGraph::new(version.rules());
        let names = Names::default();
        let mut room = Self { version, graph, names, events: BTreeMap::new(), states_after: BTreeMap::new() };
        for line in Line::all(text) {
            room.add(&line);
        }
        room
    }

    fn add(&mut self, line: &Line<'_>) {
        let ts = i64::try_from(self.graph.len()).expect("a small number") + 1;
        let mut event = decode(self.version, &unsigned_event(self, line, ts));
        if self.version > RoomVersion::V2 {
            event.event_id = EventId::parse(&format!("${}", line.name)).expect("an event id");
        }
        if self.version == RoomVersion::V12 && line.verb == "creates" {
            event.room_id = room_id_of_create(&event.event_id).expect("a room id");
        }
        let state_before = self.resolve_silently(&event.prev_events);
        self.names.put(line.name, &event.event_id);
        let event_id = event.event_id.clone();
        let index = self.graph.insert(&event, None, line.rejected).expect("the auth events come before");
        let state_after = match self.graph.key(index) {
            Some(key) if !line.rejected => state_before.insert(&self.graph, key, index),
            _ => state_before,
        };
        self.states_after.insert(event_id.clone(), state_after);
        self.events.insert(event_id, event);
    }

    /// Returns the state after an event.
    pub(crate) fn state_after(&self, name: &str) -> &StateMap {
        &self.states_after[&self.names.id(name)]
    }

    /// Returns the state after an event with one more event in it, as another server might give it.
    pub(crate) fn state_with(&self, after: &str, name: &str) -> StateMap {
        let index = self.graph.index_of(&self.names.id(name)).expect("a known event");
        self.state_after(after).insert(&self.graph, self.graph.key(index).expect("a state event"), index)
    }

    /// Resolves the states after some events (`X,Y`); returns the state and the steps.
    pub(crate) fn resolve(&self, names: &str) -> (Entries, Vec<Step>) {
        self.resolve_states(&names.split(',').map(|name| self.state_after(name)).collect::<Vec<_>>())
    }

    /// Resolves no states at all.
    pub(crate) fn resolve_none(&self) -> (Entries, Vec<Step>) {
        let mut steps = Steps::default();
        (self.entries(&resolve(&self.graph, &[], &mut steps)), steps.0)
    }

    /// Resolves states; returns the state and the steps.
    pub(crate) fn resolve_states(&self, states: &[&StateMap]) -> (Entries, Vec<Step>) {
        let mut steps = Steps::default();
        let resolved = self.entries(&resolve(&self.graph, states, &mut steps));
        // The order of the states has no influence, nor has the recorder, nor a state that is there twice.
        let reversed: Vec<&StateMap> = states.iter().rev().chain(&states[..1]).copied().collect();
        assert_eq!(self.entries(&resolve(&self.graph, &reversed, &mut Silent)), resolved, "in another order");
        (resolved, steps.0)
    }

    /// Returns the entries of a state.
    pub(crate) fn entries(&self, state: &StateMap) -> Entries {
        State::new(&self.graph, state).to_map()
    }

    fn resolve_silently(&self, prev_events: &[EventId]) -> StateMap {
        let states: Vec<&StateMap> = prev_events.iter().map(|id| &self.states_after[id]).collect();
        resolve(&self.graph, &states, &mut Silent)
    }
}

impl Author for TestGraph {
    fn version(&self) -> RoomVersion {
        self.version
    }

    fn names(&self) -> &Names {
        &self.names
    }

    fn depth(&self, event_id: &EventId) -> Option<i64> {
        self.events.get(event_id).map(|event| event.depth)
    }

    fn state_before(&self, prev_events: &[EventId]) -> Entries {
        self.entries(&self.resolve_silently(prev_events))
    }
}
