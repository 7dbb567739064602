//! [`StateMap`] in step with a [`BTreeMap`].

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use ravel_core::{
    event::{Content, Event, StateKey},
    graph::{EventGraph, EventIndex, KeyIndex},
    id::{EventId, RoomId, UserId},
    room_version::RoomVersion,
    state::{
        Difference, Fingerprint, NodeCache, NodeContent, NodeIndex, NodeNumbers, NodeRecord, State, StateLoader,
        StateMap,
    },
};
use ravel_proptests::seed;
use sha2::{Digest, Sha256};

type Model = BTreeMap<StateKey, EventId>;

/// One edit of one of two maps: the key, and the event or nothing. `copy` makes the other map a copy first.
#[derive(Clone, Debug)]
struct Edit {
    right: bool,
    copy: bool,
    key: u16,
    event: Option<u8>,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    // Enough keys for leaves that split, and enough that are met again.
    let keys = prop_oneof![1 => 0..24u16, 3 => 0..200u16, 1 => any::<u16>()];
    let edit = (any::<bool>(), prop::bool::weighted(0.02), keys, prop::option::weighted(0.8, 0..4u8));
    vec(edit.prop_map(|(right, copy, key, event)| Edit { right, copy, key, event }), 0..400)
}

fn key(number: u16) -> StateKey {
    // Type and state key are joined to be hashed; "ab" + "c" must not be "a" + "bc".
    StateKey::new("t".repeat(usize::from(number % 3)), format!("{}{}", "t".repeat(usize::from(number % 2)), number / 3))
}

/// A graph with an event for each key and number that an edit names.
fn graph(edits: &[Edit]) -> EventGraph {
    let mut graph = EventGraph::new(RoomVersion::V11.rules());
    for edit in edits {
        for number in [0, edit.event.unwrap_or(0)] {
            let key = key(edit.key);
            let event = Event {
                event_id: event_id(edit.key, number),
                room_id: RoomId::parse("!room:a").unwrap(),
                carries_room_id: true,
                sender: UserId::parse("@user:a").unwrap(),
                event_type: key.event_type,
                state_key: Some(key.state_key),
                origin_server_ts_ms: 0,
                depth: 0,
                prev_events: Box::default(),
                auth_events: Box::default(),
                content: Content::Other,
                oversized_field: false,
            };
            // Several edits name the same event.
            let _ = graph.insert(&event, None, false);
        }
    }
    graph
}

fn event_id(key: u16, number: u8) -> EventId {
    EventId::parse(&format!("$event{key}_{number}")).unwrap()
}

fn numbers(graph: &EventGraph, key: u16, number: Option<u8>) -> (KeyIndex, Option<EventIndex>) {
    let index = |number| graph.index_of(&event_id(key, number)).unwrap();
    (graph.key(index(0)).unwrap(), number.map(index))
}

fn apply(graph: &EventGraph, state: &StateMap, model: &mut Model, edit: &Edit) -> StateMap {
    let key = key(edit.key);
    match edit.event {
        Some(number) => drop(model.insert(key, event_id(edit.key, number))),
        None => drop(model.remove(&key)),
    }
    state.with_edits(graph, vec![numbers(graph, edit.key, edit.event)])
}

fn assert_is(graph: &EventGraph, state: &StateMap, model: &Model) {
    let state = State::new(graph, state);
    assert_eq!((state.len(), state.is_empty()), (model.len(), model.is_empty()));
    assert!(state.sorted_entries().iter().map(|(key, id)| (key, id)).eq(model.iter()));
    for (key, event_id) in model {
        assert_eq!(state.get(&key.event_type, &key.state_key).as_ref(), Some(event_id));
    }
}

fn differences(left: &Model, right: &Model) -> Vec<Difference> {
    let keys: std::collections::BTreeSet<&StateKey> = left.keys().chain(right.keys()).collect();
    let differing = keys.into_iter().filter(|key| left.get(key) != right.get(key));
    differing
        .map(|key| Difference { key: key.clone(), left: left.get(key).cloned(), right: right.get(key).cloned() })
        .collect()
}

#[test]
fn edits_look_ups_and_differences_are_those_of_a_map() {
    seed::check(600, &edits(), |edits| {
        let graph = graph(&edits);
        let mut states = [StateMap::new(), StateMap::new()];
        let mut models = [Model::new(), Model::new()];
        for edit in &edits {
            let side = usize::from(edit.right);
            if edit.copy {
                states[1 - side] = states[side].clone();
                models[1 - side] = models[side].clone();
            }
            let before = (states[side].clone(), models[side].clone());
            states[side] = apply(&graph, &states[side], &mut models[side], edit);
            assert_is(&graph, &before.0, &before.1);
            assert_is(&graph, &states[side], &models[side]);
            assert_eq!(State::new(&graph, &states[side]).get("t", "nowhere"), None);
        }
        assert_eq!(states[0].differences(&graph, &states[1]), differences(&models[0], &models[1]));
        let fingerprints = [states[0].fingerprint(&graph), states[1].fingerprint(&graph)];
        assert_eq!(fingerprints[0] == fingerprints[1], models[0] == models[1]);
        assert_eq!(states[0].is_same(&states[1]), models[0] == models[1], "fingerprints are known now");
        // All edits at once, of which the last of each key counts.
        let all = edits.iter().map(|edit| numbers(&graph, edit.key, edit.event)).collect();
        let mut model = Model::new();
        edits.iter().for_each(|edit| drop(apply(&graph, &StateMap::new(), &mut model, edit)));
        assert_is(&graph, &StateMap::new().with_edits(&graph, all), &model);
    });
}

/// The fingerprint as the documentation of [`Fingerprint`] defines it.
fn plain_fingerprint(model: &Model) -> Fingerprint {
    let sha256 = |parts: &[&[u8]]| <[u8; 32]>::from(Sha256::digest(parts.concat()));
    let length = |text: &str| u32::try_from(text.len()).unwrap().to_be_bytes();
    fn below(entries: &[(String, [u8; 32])], depth: usize) -> [u8; 32] {
        if let [(_, alone)] = entries {
            return *alone;
        }
        let (mut bitmap, mut children) = (0_u16, Vec::new());
        for digit in 0..16_u32 {
            let of_child =
                |(path, _): &&(String, [u8; 32])| path.as_bytes()[depth] == b"0123456789abcdef"[digit as usize];
            let child: Vec<_> = entries.iter().filter(of_child).cloned().collect();
            if !child.is_empty() {
                bitmap |= 1 << digit;
                children.extend(below(&child, depth + 1));
            }
        }
        Sha256::digest([&[1][..], &bitmap.to_be_bytes(), &children].concat()).into()
    }
    if model.is_empty() {
        return Fingerprint(sha256(&[&[2]]));
    }
    let entries = model.iter().map(|(StateKey { event_type, state_key }, event_id)| {
        let path = sha256(&[&length(event_type), event_type.as_bytes(), state_key.as_bytes()]);
        let typed = [&length(event_type)[..], event_type.as_bytes()].concat();
        let keyed = [&length(state_key)[..], state_key.as_bytes()].concat();
        (Fingerprint(path).to_string(), sha256(&[&[0], &typed, &keyed, event_id.as_str().as_bytes()]))
    });
    Fingerprint(below(&entries.collect::<Vec<_>>(), 0))
}

#[test]
fn a_fingerprint_tells_the_content_and_not_the_history() {
    seed::check(600, &(edits(), any::<u64>()), |(edits, order)| {
        let graph = graph(&edits);
        let (mut state, mut model) = (StateMap::new(), Model::new());
        for edit in &edits {
            state = apply(&graph, &state, &mut model, edit);
        }
        // The same content put in by another order, and nothing else.
        let mut entries: Vec<_> = model.clone().into_iter().collect();
        let length = entries.len().max(1);
        entries.rotate_left(usize::try_from(order % length as u64).unwrap());
        if order.is_multiple_of(2) {
            entries.reverse();
        }
        let index = |event_id| graph.index_of(event_id).unwrap();
        let again = entries
            .iter()
            .map(|(_, event_id)| index(event_id))
            .fold(StateMap::new(), |state, event| state.insert(&graph, graph.key(event).unwrap(), event));
        assert_eq!(again.fingerprint(&graph), state.fingerprint(&graph));
        assert_eq!(again.fingerprint(&graph), plain_fingerprint(&model));
        assert!(again.iter().eq(state.iter()), "the same tree");
        let emptied = model
            .values()
            .fold(state, |state, event_id| state.with_edits(&graph, vec![(graph.key(index(event_id)).unwrap(), None)]));
        assert_eq!((emptied.fingerprint(&graph), emptied.is_empty()), (Fingerprint::of_empty(), true));
    });
}

/// Loads a state from stored nodes, as a store does: round by round.
fn load(
    graph: &EventGraph,
    root: Option<NodeIndex>,
    stored: &BTreeMap<NodeIndex, NodeRecord>,
    cache: &mut NodeCache,
) -> StateMap {
    let mut loader = StateLoader::new(root, cache);
    while !loader.wanted().is_empty() {
        assert!(loader.wanted().is_sorted());
        let records = loader.wanted().iter().map(|node| stored.get(node).cloned()).collect();
        loader.supply(records, cache).unwrap();
    }
    loader.finish(graph, cache).unwrap()
}

#[test]
fn a_state_is_loaded_from_the_nodes_that_were_new() {
    seed::check(300, &edits(), |edits| {
        let graph = graph(&edits);
        let (mut stored, mut numbers) = (BTreeMap::new(), NodeNumbers::default());
        let mut states = vec![(StateMap::new(), Model::new())];
        for edit in &edits {
            let (before, mut model) = states.last().unwrap().clone();
            let state = apply(&graph, &before, &mut model, edit);
            let mut new = Vec::new();
            state.number_nodes(&graph, &mut numbers, &mut new).unwrap();
            // What a node names comes before it, so that whoever reads what was written so far finds whole subtrees.
            for (number, record) in new {
                match &record.content {
                    NodeContent::Branch { children } => {
                        assert!(children.iter().flatten().all(|child| stored.contains_key(child)));
                    }
                    NodeContent::Change(change) => {
                        let of: Option<&NodeRecord> = stored.get(&change.of);
                        assert!(of.is_some_and(|of| matches!(of.content, NodeContent::Leaf(_))));
                    }
                    NodeContent::Leaf(_) => {}
                }
                assert!(stored.insert(number, record).is_none(), "a number is given once");
            }
            states.push((state, model));
        }
        let mut shared = NodeCache::default();
        for (state, model) in &states {
            for cache in [&mut NodeCache::default(), &mut shared] {
                let loaded = load(&graph, state.root_number(), &stored, cache);
                assert_eq!(loaded.fingerprint(&graph), state.fingerprint(&graph));
                assert_eq!(loaded.root_number(), state.root_number());
                assert_is(&graph, &loaded, model);
            }
        }
    });
}
