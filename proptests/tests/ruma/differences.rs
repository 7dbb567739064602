//! Where ruma-state-res and Ravel answer differently, with both answers; and where one might expect it, but they agree.
//!
//! `resolution` explains the results that differ with [`Difference`](crate::resolution::Difference); the others here need events
//! that its random rooms do not have.

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, object_to_canonical_bytes},
    event::{Event, StateKey},
    event_auth::{CitedAuthEvent, check_state_independent},
    graph::EventGraph,
    pdu::ParsedPdu,
    resolve::{Silent, resolve},
    room_version::RoomVersion::{self, V2, V5, V6, V9, V10, V12},
    state::{State, StateMap},
};
use ravel_proptests::{draft::json_object, plain};
use ruma_state_res::check_state_independent_auth_rules;

use crate::{
    adapter,
    resolution::Difference::{self, DefaultOfNamedLevel, NoJoinRules},
};

const ALICE: &str = "@alice:ash.example";
const BOB: &str = "@bob:birch.example";
const CREATE: &str = "m.room.create";
const MEMBER: &str = "m.room.member";
const LEVELS: &str = "m.room.power_levels";
const JOIN_RULES: &str = "m.room.join_rules";

/// An event: who, type, state key (`-` for none), content.
type Line<'a> = (&'a str, &'a str, &'a str, &'a str);

/// A room that is written down event by event, each citing those that it names by their places.
struct Written {
    version: RoomVersion,
    events: Vec<(CanonicalJsonObject, Event, bool)>,
}

impl Written {
    fn new(version: RoomVersion) -> Self {
        Self { version, events: Vec::new() }
    }

    /// Begins a room in which the creator has joined: the events 0 and 1.
    fn created(version: RoomVersion, content: &str) -> Self {
        let mut room = Self::new(version);
        let content = content.replacen('{', &format!(r#"{{"room_version":"{version}","#), 1);
        room.add((ALICE, CREATE, "", &content), &[]);
        room.add((ALICE, MEMBER, ALICE, r#"{"membership":"join"}"#), &[0]);
        room
    }

    fn add(&mut self, (sender, event_type, state_key, content): Line<'_>, auth_events: &[usize]) -> usize {
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
                "origin_server_ts":{place},"prev_events":[],"room_id":"{room_id}","sender":"{sender}","signatures":{{}},
                "state_key":"{state_key}","type":"{event_type}"}}"#
        ));
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

    fn event(&self, place: usize) -> &Event {
        &self.events[place].1
    }

    fn state(&self, places: &[usize]) -> plain::State {
        places
            .iter()
            .map(|place| (self.event(*place).state_key().unwrap(), self.event(*place).event_id.clone()))
            .collect()
    }

    fn ruma(&self) -> adapter::Room {
        adapter::Room::new(self.version, self.events.iter().map(|(json, event, rejected)| (json, event, *rejected)))
    }

    /// Returns whether Ravel and ruma allow an event in the state that all events before it make up.
    fn last_is_allowed(&self) -> [bool; 2] {
        let (last, before) = self.events.split_last().unwrap();
        let state = before.iter().map(|(_, event, _)| (event.state_key().unwrap(), event));
        let lookup = plain::Lookup(state.collect());
        [plain::ravel_allows(self.version.rules())(&last.1, &lookup), self.ruma().allows(&last.1, &lookup)]
    }

    /// Returns the states that Ravel and ruma resolve.
    fn resolve(&self, states: &[plain::State]) -> (plain::State, ruma_state_res::Result<plain::State>) {
        let mut graph = EventGraph::new(self.version.rules());
        for (_, event, rejected) in &self.events {
            graph.insert(event.clone().into(), None, *rejected).unwrap();
        }
        let maps: Vec<StateMap> = states.iter().map(|state| plain::number(&graph, state)).collect();
        let ravel = resolve(&graph, &maps.iter().collect::<Vec<_>>(), &mut Silent);
        let ravel = State::new(&graph, &ravel).to_map();
        let allows = plain::ravel_allows(self.version.rules());
        let events = self.events.iter().map(|(_, event, _)| event.clone().into());
        let plain = plain::Room::new(self.version.rules(), events, &allows);
        (ravel, self.ruma().resolve(&plain, states))
    }
}

/// Checks what Ravel and ruma say of the last of these events in the state that the others make up.
#[track_caller]
fn check(version: RoomVersion, create: &str, events: &[Line<'_>], expected: [bool; 2]) {
    let mut room = Written::created(version, create);
    for event in events {
        room.add(*event, &[0]);
    }
    assert_eq!(room.last_is_allowed(), expected, "version {version}: {:?}", events.last());
}

const CREATOR: &str = r#"{"creator":"@alice:ash.example"}"#;

#[test]
fn ruma_lets_nobody_in_where_there_are_no_join_rules() {
    let (invite, join) =
        ((ALICE, MEMBER, BOB, r#"{"membership":"invite"}"#), (BOB, MEMBER, BOB, r#"{"membership":"join"}"#));
    for version in RoomVersion::ALL {
        check(version, CREATOR, &[invite, join], [true, false]);
        check(version, CREATOR, &[join], [false, false]);
        let invite_only = (ALICE, JOIN_RULES, "", r#"{"join_rule":"invite"}"#);
        check(version, CREATOR, &[invite_only, invite, join], [true, true]);
    }
    let mut room = Written::created(V10, CREATOR);
    room.add(invite, &[0]);
    room.add(join, &[0]);
    let state = room.events[..3].iter().map(|(_, event, _)| (event.state_key().unwrap(), event)).collect();
    assert_eq!(Difference::between(room.event(3), &plain::Lookup(state), true), Some(NoJoinRules));
}

#[test]
fn ruma_compares_the_default_of_a_named_level_that_is_added_or_removed() {
    // Bob has 25, and may change power levels.
    let levels = |more: &str| format!(r#"{{"events":{{"{LEVELS}":25}},"users":{{"{BOB}":25}}{more}}}"#);
    let (with, without) = (levels(r#","ban":25"#), levels(""));
    let join = (BOB, MEMBER, BOB, r#"{"membership":"join"}"#);
    for version in RoomVersion::ALL {
        for (current, new) in [(&with, &without), (&without, &with)] {
            check(version, CREATOR, &[join, (ALICE, LEVELS, "", current), (BOB, LEVELS, "", new)], [true, false]);
        }
        let changed = levels(r#","ban":24"#);
        check(version, CREATOR, &[join, (ALICE, LEVELS, "", &with), (BOB, LEVELS, "", &changed)], [true, true]);
    }
    let mut room = Written::created(V10, CREATOR);
    for event in [join, (ALICE, LEVELS, "", &with), (BOB, LEVELS, "", &without)] {
        room.add(event, &[0]);
    }
    let state = room.events[..4].iter().map(|(_, event, _)| (event.state_key().unwrap(), event)).collect();
    assert_eq!(Difference::between(room.event(4), &plain::Lookup(state), true), Some(DefaultOfNamedLevel));
}

#[test]
fn values_of_a_wrong_type_are_read_differently() {
    let topic = (ALICE, "m.room.topic", "", "{}");
    for version in RoomVersion::ALL {
        // `m.federate`: Ravel counts what is no boolean as false, ruma then refuses everything.
        check(version, r#"{"creator":"@alice:ash.example","m.federate":7}"#, &[topic], [true, false]);
        // `membership` of an earlier event: Ravel takes it for none, ruma then refuses what the user does.
        let public = (ALICE, JOIN_RULES, "", r#"{"join_rule":"public"}"#);
        let (odd, join) = ((BOB, MEMBER, BOB, "{}"), (BOB, MEMBER, BOB, r#"{"membership":"join"}"#));
        check(version, CREATOR, &[public, odd, join], [true, false]);
        // `third_party_invite`: null is there for Ravel, and has no `signed`; for ruma it is absent.
        let invite = (ALICE, MEMBER, BOB, r#"{"membership":"invite","third_party_invite":null}"#);
        check(version, CREATOR, &[invite], [false, true]);
        check(
            version,
            CREATOR,
            &[(ALICE, MEMBER, BOB, r#"{"membership":"invite","third_party_invite":7}"#)],
            [false; 2],
        );
    }
    // `notifications`: no rule of versions 1 to 5 looks at them, so Ravel does not either.
    for (version, ravel) in [(V2, true), (V5, true), (V6, false), (V10, false), (V12, false)] {
        check(version, CREATOR, &[(ALICE, LEVELS, "", r#"{"notifications":{"room":null}}"#)], [ravel, false]);
    }
    // Levels: the same spellings in the same versions, but ruma does not take floats.
    let level = |level: &str| format!(r#"{{"ban":{level}}}"#);
    for (version, value, expected) in [
        (V5, "50.5", [true, false]),
        (V5, "1e300", [true, false]),
        (V9, "\" +7 \"", [true, true]),
        (V10, "\"7\"", [false, false]),
        (V10, "7", [true, true]),
    ] {
        check(version, CREATOR, &[(ALICE, LEVELS, "", &level(value))], expected);
    }
}

#[test]
fn ruma_agrees_where_synapse_does_not() {
    for version in RoomVersion::ALL {
        check(version, CREATOR, &[(ALICE, MEMBER, "bob", r#"{"membership":"ban"}"#)], [false, false]);
        let current = (ALICE, LEVELS, "", r#"{"ban":100,"users":{"@bob:birch.example":50}}"#);
        let join = (BOB, MEMBER, BOB, r#"{"membership":"join"}"#);
        let other = (BOB, LEVELS, "other", r#"{"ban":50,"users":{"@bob:birch.example":50}}"#);
        check(version, CREATOR, &[join, current, other], [false, false]);
    }
    // Rule 11 of versions 1 and 2, by somebody without the redact level: a redaction of nothing.
    let join = (BOB, MEMBER, BOB, r#"{"membership":"join"}"#);
    check(V2, CREATOR, &[join, (BOB, "m.room.redaction", "-", "{}")], [false, false]);
}

/// Returns whether Ravel and ruma accept a create event, in a room that has another one already or has none.
fn create_is_accepted(version: RoomVersion, content: &str, second: bool) -> [bool; 2] {
    let mut room = Written::new(version);
    if second {
        room.add((ALICE, CREATE, "", &format!(r#"{{"creator":"{ALICE}","room_version":"{version}"}}"#)), &[]);
    }
    let place = room.add((ALICE, CREATE, "", content), &[]);
    let create = second.then(|| room.event(0));
    let cited: &[CitedAuthEvent<'_>] = &[];
    let ravel = check_state_independent(version.rules(), room.event(place), None, create, cited).is_ok();
    let ruma = room.ruma();
    let pdu = &ruma.events[&adapter::event_id(&room.event(place).event_id)];
    let theirs = check_state_independent_auth_rules(&ruma.rules.authorization, pdu, |id| ruma.events.get(id).cloned());
    [ravel, theirs.is_ok()]
}

#[test]
fn ruma_leaves_more_about_create_events_to_its_callers() {
    let content = r#"{"creator":"@alice:ash.example","room_version":"10"}"#;
    assert_eq!(create_is_accepted(V10, content, false), [true, true]);
    assert_eq!(create_is_accepted(V10, content, true), [false, true], "a second create event");
    assert_eq!(create_is_accepted(V9, content, false), [false, true], "of another version");
    assert_eq!(create_is_accepted(V10, r#"{"creator":7,"room_version":"10"}"#, false), [false, true], "names nobody");
    assert_eq!(create_is_accepted(V10, r#"{"room_version":"10"}"#, false), [false, false], "no creator");
}

#[test]
fn ruma_cannot_resolve_where_an_event_cites_malformed_power_levels() {
    // Such power levels are always rejected, so nothing that is accepted cites them.
    let mut room = Written::created(V10, CREATOR);
    let levels = room.add((ALICE, LEVELS, "", r#"{"users":7}"#), &[0, 1]);
    let rules = room.add((ALICE, JOIN_RULES, "", r#"{"join_rule":"public"}"#), &[0, 1, levels]);
    let [before, after] = [room.state(&[0, 1]), room.state(&[0, 1, rules])];
    let (ravel, ruma) = room.resolve(&[before.clone(), after.clone()]);
    assert_eq!(ravel, before, "who cites malformed power levels has no power");
    assert!(matches!(ruma, Err(ruma_state_res::Error::AuthEvent(_))), "{ruma:?}");
}

#[test]
fn ruma_lets_rejected_events_into_the_state_if_it_allows_them_now() {
    // "Events that have been rejected due to failing auth based on the state at the event [...] are handled as usual": but
    // Ravel never has them in a state.
    for version in [V2, V10, V12] {
        let mut room = Written::created(version, CREATOR);
        let topic = room.add((ALICE, "m.room.topic", "", "{}"), &[0, 1][usize::from(version == V12)..]);
        room.events[topic].2 = true;
        let [before, after] = [room.state(&[0, 1]), room.state(&[0, 1, topic])];
        let (ravel, ruma) = room.resolve(&[before.clone(), after.clone()]);
        assert_eq!((ravel, ruma.unwrap()), (before, after), "version {version}");
    }
}

#[test]
fn ruma_does_not_know_the_creator_of_who_cites_no_create_event() {
    // Two power events by the creator and by a moderator. The creator's cites nothing, so it is rejected whoever looks at it;
    // Ravel orders it by the creator's power all the same, ruma by the default level.
    let mut room = Written::created(V10, CREATOR);
    room.add((BOB, MEMBER, BOB, r#"{"membership":"join"}"#), &[0]);
    let levels =
        room.add((ALICE, LEVELS, "", r#"{"users":{"@alice:ash.example":100,"@bob:birch.example":50}}"#), &[0, 1]);
    let by_bob = room.add((BOB, JOIN_RULES, "", r#"{"join_rule":"public"}"#), &[levels, 2]);
    let by_alice = room.add((ALICE, JOIN_RULES, "", r#"{"join_rule":"invite"}"#), &[1]);
    let [left, right] = [by_bob, by_alice].map(|rules| room.state(&[0, 1, 2, levels, rules]));
    let (ravel, ruma) = room.resolve(&[left, right]);
    let key = StateKey::new(JOIN_RULES, "");
    assert_eq!(ravel[&key], room.event(by_bob).event_id, "the creator's is checked first, the last one allowed wins");
    assert_eq!(ruma.unwrap()[&key], room.event(by_alice).event_id);
}
