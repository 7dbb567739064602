//! Rooms that are written down event by event.

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, object_to_canonical_bytes},
    event::Event,
    graph::EventGraph,
    pdu::ParsedPdu,
    resolve::{Silent, resolve},
    room_version::RoomVersion::{self, V2, V12},
    state::{State, StateMap},
};
use ravel_proptests::{
    draft::json_object,
    plain,
    ruma::{self, content_of},
};

pub(crate) const ALICE: &str = "@alice:ash.example";
pub(crate) const BOB: &str = "@bob:birch.example";
pub(crate) const CREATE: &str = "m.room.create";
pub(crate) const MEMBER: &str = "m.room.member";
pub(crate) const LEVELS: &str = "m.room.power_levels";
pub(crate) const JOIN_RULES: &str = "m.room.join_rules";
pub(crate) const CREATOR: &str = r#"{"creator":"@alice:ash.example"}"#;

/// An event: who, type, state key (`-` for none), content.
pub(crate) type Line<'a> = (&'a str, &'a str, &'a str, &'a str);

/// A room that is written down event by event, each citing those that it names by their places.
pub(crate) struct Written {
    version: RoomVersion,
    time_ms: i64,
    pub(crate) events: Vec<(CanonicalJsonObject, Event, bool)>,
}

impl Written {
    pub(crate) fn new(version: RoomVersion) -> Self {
        Self { version, time_ms: 0, events: Vec::new() }
    }

    /// Begins a room in which the creator has joined: the events 0 and 1.
    pub(crate) fn created(version: RoomVersion, content: &str) -> Self {
        let mut room = Self::new(version);
        let content = content.replacen('{', &format!(r#"{{"room_version":"{version}","#), 1);
        room.add((ALICE, CREATE, "", &content), &[]);
        room.add((ALICE, MEMBER, ALICE, r#"{"membership":"join"}"#), &[0]);
        room
    }

    pub(crate) fn add(&mut self, (sender, event_type, state_key, content): Line<'_>, auth_events: &[usize]) -> usize {
        let place = self.events.len();
        let cited: Vec<_> = auth_events.iter().map(|place| self.events[*place].1.event_id.to_string()).collect();
        let carried = self.version <= V2;
        let references = cited.into_iter().map(|id| match carried {
            true => CanonicalJsonValue::Array(vec![id.into(), CanonicalJsonObject::new().into()]),
            false => id.into(),
        });
        let room_id = match self.events.first() {
            Some((_, create, _)) => create.room_id.to_string(),
            None => "!r:ash.example".to_owned(),
        };
        let mut json = json_object(&format!(
            r#"{{"content":{content},"depth":{place},"event_id":"$event{place}:ash.example","hashes":{{"sha256":"AA"}},
                "origin_server_ts":{},"prev_events":[],"room_id":"{room_id}","sender":"{sender}","signatures":{{}},
                "state_key":"{state_key}","type":"{event_type}"}}"#,
            self.time_ms
        ));
        self.time_ms += 1;
        json.insert("auth_events".into(), CanonicalJsonValue::Array(references.collect()));
        if state_key == "-" {
            json.remove("state_key");
        }
        if event_type == CREATE && self.version == V12 {
            json.remove("room_id");
        }
        let event = ParsedPdu::parse(&object_to_canonical_bytes(&json), self.version.rules()).unwrap().event().clone();
        self.events.push((json, event, false));
        place
    }

    /// Sets `origin_server_ts` of the next event.
    pub(crate) fn set_time(&mut self, time_ms: i64) {
        self.time_ms = time_ms;
    }

    pub(crate) fn event(&self, place: usize) -> &Event {
        &self.events[place].1
    }

    pub(crate) fn state(&self, places: &[usize]) -> plain::State {
        places
            .iter()
            .map(|place| (self.event(*place).state_key().unwrap(), self.event(*place).event_id.clone()))
            .collect()
    }

    pub(crate) fn ruma(&self) -> ruma::Room {
        let events = self.events.iter().map(|(json, event, rejected)| (event, content_of(json), *rejected));
        ruma::Room::new(self.version, events).unwrap()
    }

    /// Returns whether Ravel and ruma allow an event in the state that all events before it make up.
    pub(crate) fn last_is_allowed(&self) -> [bool; 2] {
        let (last, before) = self.events.split_last().unwrap();
        let state = before.iter().map(|(_, event, _)| (event.state_key().unwrap(), event));
        let lookup = plain::Lookup(state.collect());
        [plain::ravel_allows(self.version.rules())(&last.1, &lookup), self.ruma().allows(&last.1, &lookup)]
    }

    /// Returns the states that Ravel and ruma resolve.
    pub(crate) fn resolve(&self, states: &[plain::State]) -> (plain::State, ruma_state_res::Result<plain::State>) {
        (self.resolve_by_ravel(states), self.ruma().resolve(states))
    }

    pub(crate) fn resolve_by_ravel(&self, states: &[plain::State]) -> plain::State {
        let mut graph = EventGraph::new(self.version.rules());
        for (_, event, rejected) in &self.events {
            graph.insert(event, None, *rejected).unwrap();
        }
        let maps: Vec<StateMap> = states.iter().map(|state| plain::number(&graph, state)).collect();
        State::new(&graph, &resolve(&graph, &maps.iter().collect::<Vec<_>>(), &mut Silent)).to_map()
    }

    pub(crate) fn resolve_plainly(&self, states: &[plain::State]) -> plain::State {
        let allows = plain::ravel_allows(self.version.rules());
        self.plain(&allows).resolve(states)
    }

    fn plain<'a>(&self, allows: plain::Allows<'a>) -> plain::Room<'a> {
        let events = self.events.iter().map(|(_, event, _)| event.clone().into());
        let mut plain = plain::Room::new(self.version.rules(), events, allows);
        let rejected = self.events.iter().filter(|(.., rejected)| *rejected);
        plain.rejected = rejected.map(|(_, event, _)| event.event_id.clone()).collect();
        plain
    }
}
