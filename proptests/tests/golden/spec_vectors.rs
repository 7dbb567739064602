//! Test vectors of the specification about resolution and the event graph, and that the copies of all vectors are true.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use ravel_core::{
    event::{Event, StateKey},
    graph::EventGraph,
    id::EventId,
    pdu::ParsedPdu,
    resolve::{Silent, resolve},
    room::{Outcome, Receipt, Room},
    room_version::{RoomVersion, StateResolution},
    state::{State, StateMap},
};
use ravel_proptests::{
    draft::Draft,
    plain,
    plan::{Action, Parents, Plan, Preset, Step},
};
use serde_json::{Value, json};

type Groups = BTreeMap<String, Vec<Value>>;

fn groups(path: &Path) -> Groups {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Returns a group of which there must be this many vectors.
fn group(name: &str, count: usize) -> Vec<Value> {
    let vectors = groups(&crate::corpus("vectors.json")).remove(name).unwrap();
    assert_eq!(vectors.len(), count, "{name}");
    vectors
}

#[test]
fn copies_are_equal_to_the_originals() {
    let Some(original) = crate::shared("spec/vectors.json") else { return };
    let mut original: Value = serde_json::from_str(&fs::read_to_string(original).unwrap()).unwrap();
    let original = &mut original["groups"];
    let core = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/core/tests/data/vectors.json");
    for (name, copies) in groups(&core).into_iter().chain(groups(&crate::corpus("vectors.json"))) {
        // The place in the specification's folders is left out.
        let mut vectors = original[&name].as_array().unwrap().clone();
        vectors.iter_mut().for_each(|vector| drop(vector.as_object_mut().unwrap().remove("section")));
        assert_eq!(copies, vectors, "{name}");
    }
}

/// Returns the events of a vector by their names, oldest first.
fn events_of(vector: &Value, version: RoomVersion) -> Vec<(String, Arc<Event>)> {
    let read = |(name, event): (&String, &Value)| {
        let mut pdu = event["pdu"].clone();
        pdu["signatures"] = json!({});
        let parsed = ParsedPdu::parse(pdu.to_string().as_bytes(), version.rules()).unwrap();
        assert_eq!(parsed.event().event_id.as_str(), event["event_id"], "{name}");
        (name.clone(), Arc::new(parsed.event().clone()))
    };
    let mut events: Vec<_> = vector["events"].as_object().unwrap().iter().map(read).collect();
    events.sort_by_key(|(_, event)| event.depth);
    events
}

#[test]
fn state_resolution() {
    for vector in group("state_resolution", 8) {
        let version = RoomVersion::parse(vector["room_version"].as_str().unwrap()).unwrap();
        let events = events_of(&vector, version);
        let ids: BTreeMap<&str, &EventId> = events.iter().map(|(name, event)| (&**name, &event.event_id)).collect();
        let state = |state: &Value| -> plain::State {
            let entries = state.as_object().unwrap().iter().map(|(key, name)| {
                let (event_type, state_key) = key.split_once('|').unwrap();
                (StateKey::new(event_type, state_key), ids[name.as_str().unwrap()].clone())
            });
            entries.collect()
        };
        let mut states: Vec<plain::State> = vector["state_sets"].as_object().unwrap().values().map(state).collect();
        let expected = state(&vector["expected_resolved_state"]);

        let allows = plain::ravel_allows(version.rules());
        let plain = plain::Room::new(version.rules(), events.iter().map(|(_, event)| event.clone()), &allows);
        assert_eq!(plain.resolve(&states), expected, "{}", vector["id"]);

        let mut graph = EventGraph::new(version.rules());
        for (_, event) in &events {
            graph.insert(event, None, false).unwrap();
        }
        for _ in 0..states.len() {
            states.rotate_left(1);
            let maps: Vec<StateMap> = states.iter().map(|state| plain::number(&graph, state)).collect();
            let resolved = resolve(&graph, &maps.iter().collect::<Vec<_>>(), &mut Silent);
            assert_eq!(State::new(&graph, &resolved).to_map(), expected, "{}", vector["id"]);
        }
    }
}

/// Returns a room that begins with its create event and the creator's join; with `members`, also power levels, public join rules,
/// and the joins of as many others.
fn room(version: RoomVersion, members: u8, steps: &[Step]) -> Draft {
    let mut plan = Plan::written(version, members, steps);
    if members == 0 {
        plan.preset = Preset { power_levels: false, join_rules: false, ..plan.preset };
    }
    Draft::of(&plan)
}

/// Checks that the events with these names have the edges that the vector gives.
fn assert_edges(draft: &Draft, vector: &Value, names: &BTreeMap<&str, usize>) {
    let mut edges = Vec::new();
    for (child, place) in names {
        for prev in &draft.events[*place].event.prev_events {
            let parent = names.iter().find(|(_, place)| draft.event_id(**place) == prev);
            edges.extend(parent.map(|(parent, _)| json!([child, parent])));
        }
    }
    let mut expected = vector["edges_child_to_parent"].as_array().unwrap().clone();
    expected.sort_by_key(ToString::to_string);
    edges.sort_by_key(ToString::to_string);
    assert_eq!(edges, expected, "{}", vector["id"]);
}

/// Delivers events to a room, in the order given.
fn deliver(draft: &Draft, places: impl IntoIterator<Item = usize>) -> Room {
    let pdus = draft.verified();
    let mut room = Room::new(draft.room_id.clone(), draft.rules());
    for place in places {
        assert!(matches!(room.handle_pdu(&pdus[place]).unwrap(), Receipt::Judged(_)));
    }
    room
}

fn names<'a>(names: &[&'a str], first: usize) -> BTreeMap<&'a str, usize> {
    names.iter().copied().zip(first..).collect()
}

#[test]
fn dag_scenarios() {
    for vector in group("dag_scenarios", 3) {
        for version in RoomVersion::ALL {
            match vector["id"].as_str().unwrap() {
                "dag-extremities" => forward_extremities(version, &vector),
                "dag-soft-fail" => soft_failure(version, &vector),
                "dag-two-names" => two_names(version, &vector),
                other => panic!("{other}"),
            }
        }
    }
}

fn forward_extremities(version: RoomVersion, vector: &Value) {
    use Parents::{Back, Newest};
    // E1 creates the room, E2 is the creator's join.
    let parents = [Newest, Newest, Back(2), Newest];
    let draft = room(version, 0, &parents.map(|parents| Step::new(0, Action::Message, parents)));
    let names = names(&["E1", "E2", "E3", "E4", "E5", "E6"], 0);
    assert_edges(&draft, vector, &names);
    let expected = vector["expected"].as_array().unwrap().iter().map(|name| names[name.as_str().unwrap()]);
    let mut expected: Vec<_> = expected.map(|place| draft.event_id(place).clone()).collect();
    expected.sort();
    assert_eq!(deliver(&draft, 0..6).forward_extremities(), expected);
    assert_eq!(deliver(&draft, [0, 1, 4, 2, 5, 3]).forward_extremities(), expected);
}

fn soft_failure(version: RoomVersion, vector: &Value) {
    // A is the second user's join; the creator bans that user in B, who sets the topic in C.
    let ban = Step::new(0, Action::Ban, Parents::Newest);
    let topic = Step::new(1, Action::Topic, Parents::Back(1));
    let merge = Step::new(0, Action::Message, Parents::AllTips);
    let draft = room(version, 1, &[ban, topic, merge]);
    let [a, b, c, d] = [4, 5, 6, 7];
    assert_edges(&draft, vector, &names(&["A", "B", "C"], a));
    let id = |place| draft.event_id(place);

    let first_b = deliver(&draft, (0..=a).chain([b, c]));
    assert_eq!(first_b.outcome(id(c)), Some(Outcome::SoftFailed));
    assert_eq!(first_b.forward_extremities(), [id(b).clone()]);
    let first_c = deliver(&draft, (0..=a).chain([c, b]));
    assert_eq!(first_c.outcome(id(c)), Some(Outcome::Accepted));
    assert_eq!(first_c.forward_extremities().len(), 2);

    for order in [[b, c, d], [c, b, d]] {
        let room = deliver(&draft, (0..=a).chain(order));
        assert_eq!(room.outcome(id(d)), Some(Outcome::Accepted));
        let state = room.state_before(id(d)).unwrap();
        let has_topic = state.get("m.room.topic", "").as_ref() == Some(id(c));
        assert_eq!(has_topic, version.rules().state_resolution == StateResolution::V1, "version {version}");
        assert_eq!(state.get("m.room.member", "@bob:birch.example").as_ref(), Some(id(b)));
        assert_eq!(room.forward_extremities(), [id(d).clone()]);
    }
}

fn two_names(version: RoomVersion, vector: &Value) {
    // E0 is the join rules, E1 the second user's join. The first of the other state events is `m.room.name`.
    let e2 = Step::new(1, Action::Message, Parents::Newest);
    let e3 = Step::new(0, Action::OtherState, Parents::Newest);
    let e4 = Step { value: 8, ..Step::new(0, Action::OtherState, Parents::Back(2)) };
    let e5 = Step::new(0, Action::Message, Parents::AllTips);
    let draft = room(version, 1, &[e2, e3, e4, e5]);
    let names = names(&["E0", "E1", "E2", "E3", "E4", "E5"], 3);
    assert_edges(&draft, vector, &names);
    let id = |name: &str| draft.event_id(names[name]);
    let room = deliver(&draft, 0..draft.events.len());
    let after: Vec<plain::State> = ["E3", "E4"].map(|name| room.state_after(id(name)).unwrap().to_map()).to_vec();
    assert_eq!(after[0][&StateKey::new("m.room.name", "")], *id("E3"));
    assert_eq!(after[1][&StateKey::new("m.room.name", "")], *id("E4"));
    let allows = plain::ravel_allows(version.rules());
    let plain = plain::Room::new(version.rules(), draft.events.iter().map(|event| event.event.clone()), &allows);
    let expected = plain.resolve(&after);
    assert_eq!(room.state_before(id("E5")).unwrap().to_map(), expected, "version {version}");
    // From version 2 on the later one wins; in version 1 the one that is deeper in the graph.
    let winner = if version == RoomVersion::V1 { "E3" } else { "E4" };
    assert_eq!(expected.get(&StateKey::new("m.room.name", "")), Some(id(winner)), "version {version}");
}
