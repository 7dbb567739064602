use std::collections::BTreeMap;

use super::*;
use crate::{
    event::{Content, Event},
    id::{RoomId, UserId},
    room_version::RoomVersion,
};

/// How many keys there are.
const KEYS: u32 = 2500;

/// An event that sets one of the keys; several set the same one.
fn event(number: u32) -> Event {
    let key = number % KEYS;
    Event {
        event_id: EventId::parse(&format!("$event{number}")).unwrap(),
        room_id: RoomId::parse("!room:a").unwrap(),
        carries_room_id: true,
        sender: UserId::parse("@user:a").unwrap(),
        event_type: if key.is_multiple_of(3) { "m.room.avatar" } else { "org.example" }.into(),
        state_key: Some(format!("key {key}").into()),
        origin_server_ts_ms: 0,
        depth: 0,
        prev_events: Box::default(),
        auth_events: Box::default(),
        content: Content::Other,
        oversized_field: false,
    }
}

/// A graph in which event `n` sets key `n % KEYS`, for `n` below twice as many.
fn graph() -> EventGraph {
    let mut graph = EventGraph::new(RoomVersion::V11.rules());
    for number in 0..2 * KEYS {
        graph.insert(&event(number), None, false).unwrap();
    }
    graph
}

fn index(graph: &EventGraph, number: u32) -> EventIndex {
    graph.index_of(&event(number).event_id).unwrap()
}

fn key(graph: &EventGraph, number: u32) -> KeyIndex {
    graph.key(index(graph, number)).unwrap()
}

fn state(graph: &EventGraph, numbers: impl IntoIterator<Item = u32>) -> StateMap {
    StateMap::of_events(graph, numbers.into_iter().map(|number| index(graph, number)))
}

fn without(graph: &EventGraph, state: &StateMap, number: u32) -> StateMap {
    state.with_edits(graph, vec![(key(graph, number), None)])
}

fn with(graph: &EventGraph, state: &StateMap, number: u32) -> StateMap {
    state.insert(graph, key(graph, number), index(graph, number))
}

/// A store of node records.
#[derive(Default)]
struct Records {
    nodes: BTreeMap<NodeIndex, NodeRecord>,
    numbers: NodeNumbers,
    reads: usize,
}

impl Records {
    /// Stores what is new of a state; returns how many nodes that is.
    fn put(&mut self, graph: &EventGraph, state: &StateMap) -> usize {
        let mut records = Vec::new();
        state.number_nodes(graph, &mut self.numbers, &mut records).unwrap();
        let count = records.len();
        self.nodes.extend(records);
        count
    }

    fn load(
        &mut self,
        graph: &EventGraph,
        root: Option<NodeIndex>,
        cache: &mut NodeCache,
    ) -> Result<StateMap, UnusableNode> {
        let mut loader = StateLoader::new(root, cache);
        while !loader.wanted().is_empty() {
            self.reads += loader.wanted().len();
            let records = loader.wanted().iter().map(|number| self.nodes.get(number).cloned()).collect();
            loader.supply(records, cache)?;
        }
        loader.finish(graph, cache)
    }
}

#[test]
fn the_shape_depends_on_the_content_alone() {
    let graph = graph();
    let at_once = state(&graph, 0..500);
    let one_by_one = (0..500).rev().fold(StateMap::new(), |state, number| with(&graph, &state, number));
    let with_detours = (500..600).fold(state(&graph, 0..600), |state, number| without(&graph, &state, number));
    assert_eq!(at_once.fingerprint(&graph), one_by_one.fingerprint(&graph));
    assert_eq!(at_once.fingerprint(&graph), with_detours.fingerprint(&graph));
    let entries = |state: &StateMap| state.iter().collect::<Vec<_>>();
    assert_eq!(entries(&with_detours), entries(&at_once), "leaf by leaf");
    assert_eq!(at_once.len(), 500);
    assert_ne!(at_once.fingerprint(&graph), state(&graph, 1..501).fingerprint(&graph));
}

#[test]
fn the_fingerprint_does_not_depend_on_the_numbers_of_events_and_keys() {
    let ascending = graph();
    let mut descending = EventGraph::new(RoomVersion::V11.rules());
    for number in (0..300).rev() {
        descending.insert(&event(number), None, false).unwrap();
    }
    let fingerprint = |graph: &EventGraph| state(graph, 100..300).fingerprint(graph);
    assert_eq!(fingerprint(&ascending), fingerprint(&descending));
}

#[test]
fn removing_everything_leaves_the_empty_state() {
    let graph = graph();
    let emptied = (0..100).fold(state(&graph, 0..100), |state, number| without(&graph, &state, number));
    assert!(emptied.is_empty());
    assert_eq!(emptied.fingerprint(&graph), Fingerprint::of_empty());
    assert_eq!(without(&graph, &emptied, 1).fingerprint(&graph), Fingerprint::of_empty());
}

#[test]
fn entries_are_found_replaced_and_removed() {
    let graph = graph();
    let before = state(&graph, 0..200);
    let edits = vec![
        (key(&graph, 7), Some(index(&graph, 7 + KEYS))),
        (key(&graph, 8), Some(index(&graph, 8 + KEYS))),
        (key(&graph, 8), None),
        (key(&graph, 200), Some(index(&graph, 200))),
    ];
    let after = before.with_edits(&graph, edits);
    let expected: BTreeMap<_, _> = (0..201)
        .filter(|number| *number != 8)
        .map(|number| event(if number == 7 { number + KEYS } else { number }))
        .map(|event| (event.state_key().unwrap(), event.event_id))
        .collect();
    assert_eq!(State::new(&graph, &after).to_map(), expected);
    assert_eq!(State::new(&graph, &after).len(), 200);
    assert_eq!(State::new(&graph, &before).get("org.example", "key 7"), Some(event(7).event_id));
    assert_eq!(State::new(&graph, &after).get("org.example", "key 8"), None);
    assert_eq!(State::new(&graph, &after).get("org.example", "no such key"), None);
}

#[test]
fn differences_name_each_key_once_with_both_sides() {
    let graph = graph();
    let left = without(&graph, &with(&graph, &state(&graph, 0..300), 5 + KEYS), 6);
    let right = with(&graph, &state(&graph, 0..300), 301);
    let id = |number| Some(event(number).event_id);
    let mut expected = vec![
        Difference { key: event(5).state_key().unwrap(), left: id(5 + KEYS), right: id(5) },
        Difference { key: event(6).state_key().unwrap(), left: None, right: id(6) },
        Difference { key: event(301).state_key().unwrap(), left: None, right: id(301) },
    ];
    expected.sort_by(|a, b| a.key.cmp(&b.key));
    assert_eq!(left.differences(&graph, &right), expected);
    assert_eq!(left.differences(&graph, &left.clone()), []);
}

#[test]
fn differences_of_small_states_are_those_of_their_entries() {
    let graph = graph();
    for bits in 0..64_u32 {
        let pick = |bits: u32| state(&graph, (0..3).filter(|number| bits >> number & 1 == 1));
        let (left, right) = (pick(bits & 7), pick(bits >> 3));
        let keys: Vec<_> = left.differences(&graph, &right).into_iter().map(|difference| difference.key).collect();
        let differing = (0..3).filter(|number| (bits ^ bits >> 3) >> number & 1 == 1);
        let mut expected: Vec<_> = differing.map(|number| event(number).state_key().unwrap()).collect();
        expected.sort();
        assert_eq!(keys, expected, "{bits:06b}");
    }
}

#[test]
fn newer_entries_are_found_without_the_others() {
    let graph = graph();
    let state = with(&graph, &with(&graph, &state(&graph, 0..1000), 17 + KEYS), 1001);
    let newer: Vec<_> = state.entries_since(&graph, index(&graph, 1000)).map(|(_, event)| event).collect();
    let mut expected = [index(&graph, 1001), index(&graph, 17 + KEYS)];
    let mut found = newer;
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn an_edit_that_changes_nothing_makes_no_node() {
    let graph = graph();
    for count in [1, 50, 2000] {
        let base = state(&graph, 0..count);
        let same = base.with_edits(&graph, vec![(key(&graph, 0), Some(index(&graph, 0))), (key(&graph, 2200), None)]);
        assert!(base.is_same(&same), "{count} entries");
    }
}

#[test]
fn an_edit_stores_only_the_nodes_on_its_way() {
    let graph = graph();
    let mut records = Records::default();
    let base = state(&graph, 0..2000);
    let all = records.put(&graph, &base);
    assert!((2000 / 64..2000 / 4).contains(&all), "{all} nodes");
    let edited = with(&graph, &base, 77 + KEYS);
    let new = records.put(&graph, &edited);
    assert!(new <= 4, "{new} nodes for one edit");
    assert_eq!(records.put(&graph, &edited), 0);

    let mut cache = NodeCache::default();
    let loaded = records.load(&graph, edited.root_number(), &mut cache).unwrap();
    assert_eq!(State::new(&graph, &loaded), State::new(&graph, &edited));
    assert_eq!(records.put(&graph, &loaded), 0, "what was loaded has its numbers");
    let reads_before = records.reads;
    let base_again = records.load(&graph, base.root_number(), &mut cache).unwrap();
    assert_eq!(base_again.len(), 2000);
    assert!(records.reads - reads_before <= 4, "shared nodes are read once");
}

#[test]
fn every_state_of_a_history_can_be_loaded() {
    let graph = graph();
    let mut records = Records::default();
    let mut history = vec![StateMap::new()];
    for number in 0..200 {
        let last = history.last().unwrap();
        let next = if number % 5 == 4 { without(&graph, last, number / 2) } else { with(&graph, last, number) };
        records.put(&graph, &next);
        history.push(next);
    }
    for state in &history {
        let loaded = records.load(&graph, state.root_number(), &mut NodeCache::default()).unwrap();
        assert_eq!(State::new(&graph, &loaded).to_map(), State::new(&graph, state).to_map());
    }
}

#[test]
fn missing_forged_and_foreign_nodes_are_refused() {
    let graph = graph();
    let mut records = Records::default();
    let base = state(&graph, 0..500);
    records.put(&graph, &base);
    let root = base.root_number();
    let load = |records: &mut Records, graph: &EventGraph| {
        records.load(graph, root, &mut NodeCache::default()).map(|state| state.len())
    };
    assert_eq!(load(&mut records, &graph), Ok(500));
    let foreign = EventGraph::new(RoomVersion::V11.rules());
    assert!(matches!(load(&mut records, &foreign), Err(UnusableNode::NoStateEvent(_))));

    let leaf = NodeIndex::FIRST;
    let right = records.nodes.remove(&leaf).unwrap();
    assert_eq!(load(&mut records, &graph), Err(UnusableNode::Missing(leaf)));
    let NodeContent::Leaf(entries) = &right.content else { panic!("the first node is a leaf") };
    let mut forge = |root_check: Option<RootCheck>, content: NodeContent| {
        records.nodes.insert(leaf, NodeRecord { root_check, content });
        load(&mut records, &graph)
    };
    // One entry less, another event at a key: both could be, but the root tells.
    let another = EventIndex::from_number(entries[0].event.number() + KEYS).unwrap();
    let replaced = EntryRecord { event: another, ..entries[0] };
    for entries in [entries[1..].to_vec(), [&[replaced], &entries[1..]].concat()] {
        assert_eq!(forge(None, NodeContent::Leaf(entries)), Err(UnusableNode::Corrupt(root.unwrap())));
    }
    // No entries, itself as a child, too few entries for a branch, a change of itself.
    let change = LeafChange { of: leaf, replaced: vec![], added: vec![] };
    for content in [
        NodeContent::Leaf(vec![]),
        NodeContent::Branch { children: [Some(leaf); 16] },
        NodeContent::Branch { children: [None; 16] },
        NodeContent::Change(change),
    ] {
        assert_eq!(forge(None, content.clone()), Err(UnusableNode::Corrupt(leaf)), "{content:?}");
    }
    // What is no root has no fingerprint.
    assert_eq!(forge(Some([0; 4]), right.content.clone()), Err(UnusableNode::Corrupt(leaf)));
    assert_eq!(forge(None, right.content.clone()), Ok(500));
    // And a root has its own.
    let root = root.unwrap();
    let right = records.nodes[&root].clone();
    for root_check in [None, right.root_check.map(|check| [check[0], check[1], check[2], !check[3]])] {
        records.nodes.insert(root, NodeRecord { root_check, content: right.content.clone() });
        assert_eq!(load(&mut records, &graph), Err(UnusableNode::Corrupt(root)));
    }
}

/// The leaf of a state that has no more entries than one has.
fn only_leaf<'a>(records: &'a Records, state: &StateMap) -> &'a NodeContent {
    &records.nodes[&state.root_number().unwrap()].content
}

#[test]
fn a_leaf_is_stored_as_a_change_of_a_whole_one_until_a_quarter_differs() {
    let graph = graph();
    let mut records = Records::default();
    let whole = state(&graph, 0..40);
    records.put(&graph, &whole);
    let mut last = whole.clone();
    for count in 1..=25 {
        // Two of three replace, one adds.
        last = if count % 3 == 0 { with(&graph, &last, 40 + count) } else { with(&graph, &last, KEYS + count) };
        assert_eq!(records.put(&graph, &last), 1);
        let changed = count as usize;
        match only_leaf(&records, &last) {
            NodeContent::Change(LeafChange { of, replaced, added }) => {
                assert!(changed * 4 <= last.len(), "{changed} changes");
                assert_eq!((Some(*of), added.len()), (whole.root_number(), changed / 3), "always of the whole one");
                assert_eq!(replaced.len() + added.len(), changed);
            }
            NodeContent::Leaf(entries) => {
                assert_eq!(entries.len(), last.len());
                assert!(changed * 4 > last.len(), "{changed} changes");
                // From here on it is this one that is changed.
                let next = with(&graph, &last, KEYS + 39);
                records.put(&graph, &next);
                let NodeContent::Change(change) = only_leaf(&records, &next) else { panic!("a change") };
                assert_eq!((Some(change.of), change.replaced.len()), (last.root_number(), 1));
                // One whose key is gone is whole.
                let less = without(&graph, &next, 3);
                records.put(&graph, &less);
                assert!(
                    matches!(only_leaf(&records, &less), NodeContent::Leaf(entries) if entries.len() == less.len())
                );
                return;
            }
            NodeContent::Branch { .. } => panic!("a leaf"),
        }
    }
    panic!("none was stored whole");
}

/// What is changed need not be a state that anybody has: it is loaded with the change, and what follows refers to it.
#[test]
fn a_loaded_change_goes_on_as_the_one_that_never_left_the_memory() {
    let graph = graph();
    for count in [40, 500] {
        let mut records = Records::default();
        let base = state(&graph, 0..count);
        records.put(&graph, &base);
        let numbered = base.root_number().map_or(0, |root| root.number() + 1);
        let changed = (0..3).fold(base, |state, number| {
            let next = with(&graph, &state, KEYS + number);
            records.put(&graph, &next);
            next
        });
        let changes = |records: &Records| {
            records.nodes.values().filter(|node| matches!(node.content, NodeContent::Change(_))).count()
        };
        assert_eq!(changes(&records), 3);
        let loaded = records.load(&graph, changed.root_number(), &mut NodeCache::default()).unwrap();
        assert_eq!(State::new(&graph, &loaded), State::new(&graph, &changed));
        let next = |state: &StateMap| {
            let mut numbers = NodeNumbers::after(1_000_000 + numbered);
            let mut records = Vec::new();
            with(&graph, state, KEYS + 5).number_nodes(&graph, &mut numbers, &mut records).unwrap();
            records
        };
        assert_eq!(next(&loaded), next(&changed));
        assert!(matches!(&next(&loaded)[0].1.content, NodeContent::Change(change) if change.of.number() < numbered));
    }
}

#[test]
fn damage_to_a_leaf_that_others_are_changes_of_is_noticed() {
    let graph = graph();
    let mut records = Records::default();
    let whole = state(&graph, 0..500);
    records.put(&graph, &whole);
    let first = records.numbers.given();
    let changed = with(&graph, &whole, KEYS);
    records.put(&graph, &changed);
    let load = |records: &mut Records, state: &StateMap, cache: &mut NodeCache| {
        records.load(&graph, state.root_number(), cache).map(|state| state.len())
    };
    let (leaf, right) = records.nodes.range(NodeIndex::from_number(first).unwrap()..).next().unwrap();
    let (leaf, right) = (*leaf, right.clone());
    let NodeContent::Change(change) = &right.content else { panic!("a change") };
    let of = change.of;
    let right_of = records.nodes[&of].clone();
    let NodeContent::Leaf(entries) = &right_of.content else { panic!("a leaf") };
    // Another event at a key of which the change says nothing.
    let place = (0..entries.len()).find(|place| usize::from(change.replaced[0].1) != *place).unwrap();
    let mut forged = entries.clone();
    forged[place].event = EventIndex::from_number(forged[place].event.number() + KEYS).unwrap();
    records.nodes.insert(of, NodeRecord { content: NodeContent::Leaf(forged), ..right_of.clone() });
    let mut shared = NodeCache::default();
    for state in [&changed, &whole] {
        let corrupt = Err(UnusableNode::Corrupt(state.root_number().unwrap()));
        assert_eq!(load(&mut records, state, &mut NodeCache::default()), corrupt);
        assert_eq!(load(&mut records, state, &mut shared), corrupt, "with nodes that were loaded with another state");
    }
    records.nodes.remove(&of);
    assert_eq!(load(&mut records, &changed, &mut NodeCache::default()), Err(UnusableNode::Missing(of)));
    records.nodes.insert(of, right_of.clone());
    assert_eq!(load(&mut records, &changed, &mut NodeCache::default()), Ok(500));

    // A change of a branch, a place that is not there, more entries than a leaf has.
    let branch = whole.root_number().unwrap();
    let added = (500..550).map(|number| EntryRecord { event: index(&graph, number), path: 0 }).collect();
    let (event, _) = change.replaced[0];
    let out_of_it = u8::try_from(entries.len()).unwrap();
    let forged = [
        LeafChange { of: branch, ..change.clone() },
        LeafChange { replaced: vec![(event, out_of_it)], ..change.clone() },
        LeafChange { added, ..change.clone() },
    ];
    for change in forged {
        records.nodes.insert(leaf, NodeRecord { content: NodeContent::Change(change), ..right.clone() });
        let error = load(&mut records, &changed, &mut NodeCache::default()).unwrap_err();
        assert!(matches!(error, UnusableNode::Corrupt(_)), "{error}");
    }
    // A change of a change.
    records.nodes.insert(leaf, right.clone());
    // In the same leaf.
    let alike = entries.iter().map(|entry| entry.event.number()).find(|number| *number > 0).unwrap();
    let again = with(&graph, &changed, KEYS + alike);
    let number = records.numbers.given();
    records.put(&graph, &again);
    let number = NodeIndex::from_number(number).unwrap();
    assert!(matches!(records.nodes[&number].content, NodeContent::Change(_)));
    assert_eq!(load(&mut records, &again, &mut NodeCache::default()), Ok(500));
    let content = NodeContent::Change(LeafChange { of: leaf, ..change.clone() });
    records.nodes.insert(number, NodeRecord { root_check: None, content });
    assert_eq!(load(&mut records, &again, &mut NodeCache::default()), Err(UnusableNode::Corrupt(number)));
}

#[test]
fn the_digest_of_entries_is_that_of_recorded_rooms() {
    let graph = graph();
    let state = state(&graph, [1, 3]);
    let expected = Fingerprint(Sha256::digest("m.room.avatar\0key 3\0$event3\norg.example\0key 1\0$event1\n").into());
    assert_eq!(State::new(&graph, &state).entries_sha256(), expected);
    assert_eq!(Fingerprint::parse(&expected.to_string()), Some(expected));
    assert_eq!(Fingerprint::parse("xy"), None);
}
