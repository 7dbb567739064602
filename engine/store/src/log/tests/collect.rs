//! Collecting nodes, with appends in between.

use ravel_core::state::UnusableNode;

use super::*;
use crate::log::Collected;

/// A room of many members whose branches are merged again and again: each merge leaves current states behind that no event has.
pub(super) fn branching_room(room_id: &str, rounds: usize) -> TestRoom {
    let mut room = TestRoom::new(room_id);
    // Rooms are made by users of the server that their ids name.
    let creator = &format!("@a:{}", room_id.split_once(':').unwrap().1);
    let join = r#"{"membership":"join"}"#;
    let mut last = room.event(creator, "m.room.create", Some(""), r#"{"room_version":"11"}"#, &[]);
    last = room.event(creator, "m.room.member", Some(creator), join, &[&last]);
    let levels = format!(r#"{{"users":{{"{creator}":100}},"events":{{"m.room.topic":0}}}}"#);
    last = room.event(creator, "m.room.power_levels", Some(""), &levels, &[&last]);
    last = room.event(creator, "m.room.join_rules", Some(""), r#"{"join_rule":"public"}"#, &[&last]);
    for number in 0..70 {
        let user = format!("@m{number}:b");
        last = room.event(&user, "m.room.member", Some(&user), join, &[&last]);
    }
    for round in 0..rounds {
        let user = format!("@m{}:b", round % 70);
        let topic = |side: &str| format!(r#"{{"topic":"{side} of {round}"}}"#);
        let left = room.event(creator, "m.room.topic", Some(""), &topic("left"), &[&last]);
        let right = room.event(&user, "m.room.topic", Some(""), &topic("right"), &[&last]);
        let ban = room.event(creator, "m.room.member", Some(&user), r#"{"membership":"ban"}"#, &[&left]);
        // Soft-failed: the ban is in the current state.
        let name = format!(r#"{{"membership":"join","displayname":"{round}"}}"#);
        room.event(&user, "m.room.member", Some(&user), &name, &[&right]);
        // Rejected.
        room.event("@x:x", "m.room.topic", Some(""), &topic("outside"), &[&ban]);
        let third = room.event(creator, "m.room.name", Some(""), &format!(r#"{{"name":"{round}"}}"#), &[&right]);
        last = room.event(creator, "m.room.message", None, r#"{"body":"merge"}"#, &[&ban, &third]);
        if round % 3 == 0 {
            let redaction = format!(r#"{{"redacts":"{}"}}"#, third.as_str());
            last = room.event(creator, "m.room.redaction", None, &redaction, &[&last]);
        }
    }
    room
}

fn append(log: &EventLog, room: &TestRoom, from: usize, to: usize) {
    block_on(log.append(room.room.room_id(), rules(), &room.judged[from..to], Durability::Sync)).unwrap();
}

fn collect(log: &EventLog, room: &TestRoom) -> Collected {
    block_on(log.collect(room.room.room_id())).unwrap().unwrap()
}

#[test]
fn what_no_state_refers_to_is_deleted_and_nothing_else() {
    let room = branching_room("!r:a", 12);
    let (store, other) = (MemoryStore::new(), TestRoom::forked("!s:a"));
    let log = open(&store);
    room.append_to(&log).unwrap();
    other.append_to(&log).unwrap();
    let before = contents(&store);
    let collected = collect(&log, &room);
    assert!(collected.deleted > 10 && collected.kept > 50, "{collected:?}");
    let after = contents(&store);
    assert_eq!((before.len() - after.len()) as u64, collected.deleted);
    let bytes = |contents: &[(Keyspace, Bytes, Bytes)]| {
        contents.iter().map(|(_, key, value)| (key.len() + value.len()) as u64).sum::<u64>()
    };
    assert_eq!(bytes(&before) - bytes(&after), collected.deleted_bytes);
    for log in [&log, &open(&store)] {
        check_loaded(log, &room);
        check_loaded(log, &other);
    }
    assert_eq!(findings(&store), [""; 0]);
    assert_eq!(collect(&log, &room), Collected { kept: collected.kept, ..Collected::default() });
    assert!(contents(&store) == after);
    // A rebuild makes the garbage again.
    rebuild(&store).unwrap();
    assert!(contents(&store) == before);
    let unknown = RoomId::parse("!unknown:a").unwrap();
    assert_eq!(block_on(log.collect(&unknown)).unwrap(), None);
    block_on(log.append(&unknown, rules(), &[], Durability::Sync)).unwrap();
    assert_eq!(block_on(log.collect(&unknown)).unwrap(), Some(Collected::default()));
}

/// Where there are several forward extremities, no event has the current state.
#[test]
fn the_current_state_is_kept_though_no_event_has_it() {
    let room = branching_room("!r:a", 2);
    for end in 74..=room.judged.len() {
        let store = MemoryStore::new();
        let log = open(&store);
        append(&log, &room, 0, end);
        collect(&log, &room);
        assert_eq!(findings(&store), [""; 0], "after {end} events");
        assert!(block_on(log.load_room(room.room.room_id())).unwrap().is_some());
    }
}

/// Events are appended between any two steps, by a room that goes on and by one that is loaded anew.
#[test]
fn appends_may_come_between_any_steps() {
    let room = branching_room("!r:a", 12);
    let all = room.judged.len();
    for start in (75..all).step_by(11) {
        for pause in 0..6 {
            for batch in [1, 60] {
                let store = MemoryStore::new();
                let log = open(&store);
                append(&log, &room, 0, start);
                let mut collection = block_on(log.collection(room.room.room_id())).unwrap().unwrap();
                let (mut step, mut next) = (0, start);
                loop {
                    // From the pause on, some events after each step.
                    if step >= pause && next < all {
                        let end = (next + batch).min(all);
                        append(&log, &room, next, end);
                        next = end;
                    }
                    step += 1;
                    if !block_on(collection.step()).unwrap() {
                        break;
                    }
                }
                assert!(step >= 3, "{step}");
                assert_eq!(findings(&store), [""; 0], "from {start}, pause {pause}, {batch} at a time");
                let loaded = block_on(log.load_room(room.room.room_id())).unwrap().unwrap();
                let mut loaded = TestRoom { room: loaded, judged: Vec::new() };
                // What is loaded goes on with nodes that are there.
                for event in &room.judged[next..] {
                    let pdu = VerifiedPdu::restore(&event.json, rules(), None, true).unwrap();
                    let Receipt::Judged(judged) = loaded.room.handle_pdu(&pdu).unwrap() else { panic!("not judged") };
                    let Some(Effect::Persist(persist)) = judged.effects.into_iter().next() else { panic!() };
                    assert_eq!(format!("{persist:?}"), format!("{event:?}"));
                    loaded.judged.push(*persist);
                }
                loaded.append_to(&log).unwrap();
                check_loaded(&open(&store), &room);
                collect(&log, &room);
                assert_eq!(findings(&store), [""; 0]);
            }
        }
    }
}

#[test]
fn a_missing_node_that_is_referred_to_is_an_error_and_nothing_is_deleted() {
    let room = branching_room("!r:a", 3);
    let store = MemoryStore::new();
    let log = open(&store);
    room.append_to(&log).unwrap();
    let root = room.judged[40].state_before.unwrap();
    write(&store, |batch| {
        batch.delete(Keyspace::SnapshotNodes, key::node(0, root));
    });
    let before = contents(&store);
    let error = block_on(log.collect(room.room.room_id())).unwrap_err();
    assert!(
        matches!(&error, LogError::BadSnapshot { source: UnusableNode::Missing(node), .. } if *node == root),
        "{error}"
    );
    assert!(contents(&store) == before);
    let found = findings(&store);
    assert!(found.len() == 1 && found[0].ends_with("a snapshot node is missing"), "{found:?}");
}

/// So it is for a leaf that is needed only because others are changes of it.
#[test]
fn a_missing_leaf_that_others_are_changes_of_is_an_error_too() {
    let room = branching_room("!r:a", 3);
    let store = MemoryStore::new();
    let log = open(&store);
    room.append_to(&log).unwrap();
    let nodes = room.judged.iter().flat_map(|event| &event.nodes);
    let of = nodes.rev().find_map(|(_, node)| match &node.content {
        NodeContent::Change(change) => Some(change.of),
        _ => None,
    });
    let of = of.unwrap();
    write(&store, |batch| {
        batch.delete(Keyspace::SnapshotNodes, key::node(0, of));
    });
    let error = block_on(log.collect(room.room.room_id())).unwrap_err();
    assert!(
        matches!(&error, LogError::BadSnapshot { source: UnusableNode::Missing(node), .. } if *node == of),
        "{error}"
    );
    block_on(log.load_room(room.room.room_id())).unwrap_err();
    let found = findings(&store);
    assert!(found.len() == 1 && found[0].ends_with("a snapshot node is missing"), "{found:?}");
}

/// A collection that began before a rebuild does not delete what the rebuild wrote.
#[test]
fn nothing_is_deleted_while_projections_are_computed_again() {
    let room = branching_room("!r:a", 3);
    let store = MemoryStore::new();
    let log = open(&store);
    room.append_to(&log).unwrap();
    write(&store, |batch| {
        batch.put_record(key::PROJECTED_TO, &ProjectedTo { sequence: 7 }).unwrap();
    });
    assert!(matches!(block_on(log.collect(room.room.room_id())), Err(LogError::Lagging)));
}
