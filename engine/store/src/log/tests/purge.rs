//! Purging history and whole rooms.

mod neighbors;

use std::collections::{BTreeMap, BTreeSet};

use ravel_core::room::Remains;

use super::{collect::branching_room, *};
use crate::{
    Limits,
    log::{Purged, Replica},
};

fn store_of(rooms: &[&TestRoom]) -> MemoryStore {
    let store = MemoryStore::new();
    let log = open(&store);
    for room in rooms {
        room.append_to(&log).unwrap();
    }
    store
}

fn purge(log: &EventLog, room: &TestRoom, before: usize) -> Purged {
    let event_id = &room.judged[before].event.event_id;
    block_on(log.purge_history(room.room.room_id(), event_id, |_, _| {})).unwrap().unwrap()
}

fn purge_room(log: &EventLog, room: &TestRoom) -> Purged {
    block_on(log.purge_room(room.room.room_id(), |_, _| {})).unwrap().unwrap()
}

fn raw_entries(store: &MemoryStore) -> Vec<(u64, Bytes)> {
    block_on(open(store).raw_entries(0, Limits { items: 100_000, bytes: 1 << 30 })).unwrap()
}

/// What is left of each event, by the rules in words: told from the room in memory.
fn expected(room: &TestRoom, before: usize) -> Vec<Remains> {
    let extremities = room.room.forward_extremities();
    let stays = |place: usize| place >= before || extremities.contains(&room.judged[place].event.event_id);
    let mut kept: BTreeSet<EventId> = BTreeSet::new();
    for (_, event) in room.judged.iter().enumerate().filter(|(place, _)| stays(*place)) {
        let id = &event.event.event_id;
        kept.insert(id.clone());
        for state in [room.room.state_before(id), room.room.state_after(id)].into_iter().flatten() {
            kept.extend(state.iter().map(|(_, held)| held));
        }
    }
    kept.extend(room.room.current_state().iter().map(|(_, held)| held));
    for event in room.judged.iter().rev() {
        if kept.contains(&event.event.event_id) {
            kept.extend(event.event.auth_events.iter().cloned());
        }
    }
    let remains = |(place, event): (usize, &PersistEvent)| match kept.contains(&event.event.event_id) {
        _ if stays(place) => Remains::Everything,
        true => Remains::Content,
        false => Remains::Skeleton,
    };
    room.judged.iter().enumerate().map(remains).collect()
}

/// Checks a store in which the history of a room was purged: that what has to be left is left, and can be computed again.
#[track_caller]
fn check_purged(store: &MemoryStore, room: &TestRoom, before: usize) {
    assert_eq!(findings(store), [""; 0]);
    let log = open(store);
    assert_eq!(log.rooms_being_purged(), []);
    let loaded = block_on(log.load_room(room.room.room_id())).unwrap().unwrap();
    assert_eq!(loaded.forward_extremities(), room.room.forward_extremities());
    assert_eq!(loaded.current_state(), room.room.current_state());
    let expected = expected(room, before);
    for (event, remains) in room.judged.iter().zip(&expected) {
        let id = &event.event.event_id;
        assert_eq!(loaded.remains(id), Some(*remains), "{event:?}");
        assert_eq!((loaded.outcome(id), loaded.reason(id)), (room.room.outcome(id), room.room.reason(id)));
        let states = [loaded.state_before(id), loaded.state_after(id)];
        let whole = [room.room.state_before(id), room.room.state_after(id)];
        assert_eq!(states, if *remains == Remains::Everything { whole } else { [None, None] });
        assert_eq!(loaded.event(id).unwrap().prev_events, event.event.prev_events);
        assert_eq!(loaded.event(id).unwrap().auth_events, event.event.auth_events);
    }
    // The log has neither more nor less.
    for (sequence, record) in raw_entries(store) {
        let (event_id, is_whole) = match codec::decode(&key::sequence(sequence), &record).unwrap() {
            LogEntry::Event { event_id, .. } => (event_id, true),
            LogEntry::PurgedEvent(purged) => (purged.fields.event_id, false),
            _ => continue,
        };
        if let Some(place) = room.judged.iter().position(|event| event.event.event_id.as_str() == event_id) {
            assert_eq!(is_whole, expected[place] > Remains::Skeleton, "{sequence}");
        }
    }
    // There is nothing more to collect, and whatever computes it again comes to the same.
    assert_eq!(block_on(log.collect(room.room.room_id())).unwrap().unwrap().deleted, 0);
    let bytes = contents(store);
    rebuild(store).unwrap();
    assert!(contents(store) == bytes, "rebuilt");
    for step in [1, 10, 1_000] {
        let copy = MemoryStore::new();
        for entries in raw_entries(store).chunks(step) {
            // Each time as after a restart.
            let mut replica = Replica::new(open(&copy));
            block_on(replica.take(entries, Durability::Sync)).unwrap();
        }
        assert!(contents(&copy) == bytes, "copied {step} at a time");
    }
}

/// Leaves that are stored as changes of one that is in no state any more need it, but what it held is nobody's.
#[test]
fn a_leaf_that_others_are_changes_of_stays_without_its_events() {
    let mut room = TestRoom::forked("!r:a");
    let mut last = room.judged.last().unwrap().event.event_id.clone();
    for number in 0..210 {
        last = room.event("@a:a", "org.example", Some(&(number % 60).to_string()), "{}", &[&last]);
    }
    let before = room.judged.len() - 2;
    let store = store_of(&[&room]);
    purge(&open(&store), &room, before);
    check_purged(&store, &room, before);

    let nodes: BTreeMap<u32, &NodeContent> = room
        .judged
        .iter()
        .flat_map(|event| &event.nodes)
        .map(|(number, node)| (number.number(), &node.content))
        .collect();
    let (mut in_states, mut changed) = (BTreeSet::new(), BTreeSet::new());
    let roots = room.judged[before..].iter().flat_map(|event| [event.state_before, event.state_after]);
    let mut pending: Vec<u32> = roots.flatten().map(NodeIndex::number).collect();
    while let Some(number) = pending.pop() {
        in_states.insert(number);
        match nodes[&number] {
            NodeContent::Leaf(_) => {}
            NodeContent::Change(change) => drop(changed.insert(change.of.number())),
            NodeContent::Branch { children } => pending.extend(children.iter().flatten().map(|child| child.number())),
        }
    }
    let only_changed: Vec<u32> = changed.difference(&in_states).copied().collect();
    assert!(only_changed.len() > 3, "{only_changed:?}");
    let stored = block_on(store.scan_all(Scan::prefix(Keyspace::SnapshotNodes, key::room(0)))).unwrap();
    let stored: BTreeSet<u32> = stored.iter().map(|(key, _)| key::node_number(key).unwrap()).collect();
    assert_eq!(stored, &in_states | &changed);
}

#[test]
fn the_history_before_an_event_is_purged() {
    let room = branching_room("!r:a", 10);
    let other = TestRoom::forked("!s:a");
    for before in [1, 4, 60, 74, 75, 79, 81, 100, room.judged.len() - 1] {
        let store = store_of(&[&room, &other]);
        let whole = contents(&store);
        let purged = purge(&open(&store), &room, before);
        let expected = expected(&room, before);
        let count = |remains| expected.iter().filter(|other| **other <= remains).count() as u64;
        assert_eq!((purged.events, purged.states), (count(Remains::Skeleton), count(Remains::Content)));
        assert!(before < 75 || purged.nodes.deleted > 70, "{purged:?}");
        let bytes = |contents: &[(Keyspace, Bytes, Bytes)]| {
            contents.iter().filter(|(keyspace, ..)| *keyspace == Keyspace::Log).map(|(_, _, value)| value.len()).sum()
        };
        let (before_bytes, after_bytes): (usize, usize) = (bytes(&whole), bytes(&contents(&store)));
        assert!(purged.events == 0 || after_bytes < before_bytes, "{before_bytes} {after_bytes}");
        check_purged(&store, &room, before);
        check_loaded(&open(&store), &other);
    }
}

#[test]
fn a_purge_of_nothing_leaves_everything() {
    let room = branching_room("!r:a", 3);
    let store = store_of(&[&room]);
    let bytes = contents(&store);
    let log = open(&store);
    assert_eq!(purge(&log, &room, 0), Purged::default());
    let unknown = EventId::parse("$unknown").unwrap();
    assert_eq!(block_on(log.purge_history(room.room.room_id(), &unknown, |_, _| {})).unwrap(), None);
    let no_room = RoomId::parse("!unknown:a").unwrap();
    assert_eq!(block_on(log.purge_history(&no_room, &unknown, |_, _| {})).unwrap(), None);
    assert_eq!(block_on(log.purge_room(&no_room, |_, _| {})).unwrap(), None);
    assert_eq!(block_on(log.purge_older_than(&no_room, 0, |_, _| {})).unwrap(), None);
    assert!(contents(&store) == bytes);
    // To the same point or an earlier one: it is purged already.
    purge(&log, &room, 80);
    let bytes = contents(&store);
    for before in [80, 79, 3] {
        assert_eq!(purge(&log, &room, before), Purged::default());
    }
    assert!(contents(&store) == bytes);
}

#[test]
fn history_is_purged_again_and_again() {
    let room = branching_room("!r:a", 10);
    let store = MemoryStore::new();
    let mut done = 0;
    // Between the purges the room goes on, each time loaded anew.
    for (before, end) in [(30, 74), (76, 90), (88, 91), (110, 125), (124, 125), (135, room.judged.len())] {
        let log = open(&store);
        let mut so_far = match block_on(log.load_room(room.room.room_id())).unwrap() {
            Some(loaded) => TestRoom { room: loaded, judged: Vec::new() },
            None => TestRoom::new("!r:a"),
        };
        for event in &room.judged[done..end] {
            let pdu = VerifiedPdu::restore(&event.json, rules(), None, true).unwrap();
            let Receipt::Judged(judged) = so_far.room.handle_pdu(&pdu).unwrap() else { panic!("not judged") };
            let Some(Effect::Persist(persist)) = judged.effects.into_iter().next() else { panic!() };
            assert_eq!((&persist.nodes, persist.state_after), (&event.nodes, event.state_after));
            so_far.judged.push(*persist);
        }
        so_far.append_to(&log).unwrap();
        done = end;
        purge(&log, &room, before);
        let mut whole = TestRoom::new("!r:a");
        for event in &room.judged[..end] {
            let pdu = VerifiedPdu::restore(&event.json, rules(), None, true).unwrap();
            whole.room.handle_pdu(&pdu).unwrap();
            whole.judged.push(event.clone());
        }
        check_purged(&store, &whole, before);
    }
}

/// A log that was copied before a purge and goes on after it has the same bytes as one that was copied later.
#[test]
fn a_replica_purges_what_its_source_purged() {
    let room = branching_room("!r:a", 6);
    let store = store_of(&[&room]);
    let old = raw_entries(&store);
    purge(&open(&store), &room, 50);
    let middle = raw_entries(&store);
    purge(&open(&store), &room, 90);
    let new = raw_entries(&store);
    let bytes = contents(&store);
    for (first, end) in [(&old, 0), (&old, 40), (&old, old.len()), (&middle, 60), (&middle, middle.len()), (&new, 20)] {
        for then in [&middle, &new] {
            let copy = MemoryStore::new();
            for entries in [&first[..end], then, &new] {
                let mut replica = Replica::new(open(&copy));
                block_on(replica.take(entries, Durability::Sync)).unwrap();
                assert_eq!(findings(&copy), [""; 0]);
            }
            assert!(contents(&copy) == bytes, "{end}");
        }
    }
}

#[test]
fn rooms_loaded_before_a_purge_are_not_appended_to() {
    let room = branching_room("!r:a", 5);
    let count = room.judged.len();
    let store = MemoryStore::new();
    let log = open(&store);
    let room_id = room.room.room_id();
    block_on(log.append(room_id, rules(), &room.judged[..count - 2], Durability::Sync)).unwrap();
    purge(&log, &room, count - 4);
    let rest = &room.judged[count - 2..];
    let result = block_on(log.append(room_id, rules(), rest, Durability::Sync));
    assert_eq!(result.unwrap_err().to_string(), "!r:a was purged meanwhile; load it again");
    // Loaded again it takes them.
    let mut loaded = block_on(log.load_room(room_id)).unwrap().unwrap();
    for event in rest {
        let pdu = VerifiedPdu::restore(&event.json, rules(), None, true).unwrap();
        let Receipt::Judged(judged) = loaded.handle_pdu(&pdu).unwrap() else { panic!("not judged") };
        let Some(Effect::Persist(persist)) = judged.effects.into_iter().next() else { panic!() };
        block_on(log.append(room_id, rules(), &[*persist], Durability::Sync)).unwrap();
    }
    assert_eq!(loaded.current_state(), room.room.current_state());
    // An event without content is none to be stored.
    let empty = PersistEvent { json: Arc::from([]), ..rest[0].clone() };
    assert!(matches!(
        block_on(log.append(room_id, rules(), &[empty], Durability::Sync)),
        Err(LogError::NoContent { .. })
    ));
    // Nothing can be resolved after what was purged.
    let purged = room.judged[70].event.event_id.clone();
    let result = block_on(log.resolve_stored(room_id, &[purged]));
    assert!(matches!(result, Err(LogError::NoState { .. })));
    // A whole room likewise.
    purge_room(&log, &room);
    let result = block_on(log.append(room_id, rules(), rest, Durability::Sync));
    assert!(matches!(result, Err(LogError::Purged { .. })));
    room.append_to(&log).unwrap();
    check_loaded(&open(&store), &room);
    assert_eq!(findings(&store), [""; 0]);
}

#[test]
fn a_whole_room_is_purged_and_can_be_opened_again() {
    let (room, other) = (branching_room("!r:a", 4), TestRoom::forked("!s:a"));
    for purged_before in [None, Some(80)] {
        let store = store_of(&[&other, &room]);
        let log = open(&store);
        if let Some(before) = purged_before {
            purge(&log, &room, before);
        }
        let entries = log.len();
        let purged = purge_room(&log, &room);
        assert_eq!(purged.events, room.judged.len() as u64);
        assert_eq!(block_on(log.load_room(room.room.room_id())).unwrap().map(|room| room.len()), None);
        assert_eq!(log.rooms().len(), 1);
        for (keyspace, key, value) in contents(&store) {
            let of_room = key.starts_with(&1_u32.to_be_bytes());
            match keyspace {
                Keyspace::Log => {
                    let entry: LogEntry = codec::decode(&key, &value).unwrap();
                    let is_tiny = matches!(entry, LogEntry::Gone { .. } | LogEntry::RoomPurged { .. });
                    assert_eq!(is_tiny, entry.room() == Some(1), "{entry:?}");
                }
                Keyspace::Rooms => assert_eq!(&key[..], b"!s:a"),
                Keyspace::Meta => assert_eq!(&key[..], key::HEAD),
                _ => assert!(!of_room, "{keyspace} {key:?}"),
            }
        }
        let check = || {
            assert_eq!(findings(&store), [""; 0]);
            let bytes = contents(&store);
            rebuild(&store).unwrap();
            assert!(contents(&store) == bytes, "rebuilt");
            let copy = MemoryStore::new();
            let mut replica = Replica::new(open(&copy));
            block_on(replica.take(&raw_entries(&store), Durability::Sync)).unwrap();
            assert!(contents(&copy) == bytes, "copied");
            check_loaded(&open(&store), &other);
        };
        check();
        assert_eq!(open(&store).len(), entries + 1);
        // It comes back under a new number.
        room.append_to(&open(&store)).unwrap();
        check_loaded(&open(&store), &room);
        let record: RoomRecord = block_on(store.get_record("!r:a")).unwrap().unwrap();
        assert_eq!(record.number, 2);
        check();
        purge_room(&open(&store), &room);
        check();
    }
}

/// Stopped at any commit, a purge is carried out to the same end when it is gone on with: by the next load, or on demand.
#[test]
fn an_interrupted_purge_is_gone_on_with() {
    let (room, other) = (branching_room("!r:a", 8), TestRoom::forked("!s:a"));
    for whole_room in [false, true] {
        let run = |log: &EventLog| {
            if whole_room {
                block_on(log.purge_room(room.room.room_id(), |_, _| {})).map(|_| ())
            } else {
                let event_id = &room.judged[90].event.event_id;
                block_on(log.purge_history(room.room.room_id(), event_id, |_, _| {})).map(|_| ())
            }
        };
        let expected = store_of(&[&other, &room]);
        run(&open(&expected)).unwrap();
        let expected = contents(&expected);
        for fault in [Fault::Failed, Fault::DoneButFailed] {
            for n in 1.. {
                let memory = store_of(&[&other, &room]);
                let store = FaultyStore::new(memory.clone());
                store.fail(Operation::Commit, n, fault);
                let failing = block_on(EventLog::open(Arc::new(store))).unwrap();
                if run(&failing).is_ok() {
                    assert!(n > 3, "{n} commits");
                    break;
                }
                drop(failing);
                let log = open(&memory);
                let is_decided = n > 1 || fault == Fault::DoneButFailed;
                assert_eq!(findings(&memory), [""; 0], "{n}");
                // Killed in a rebuild meanwhile, too.
                let rebuilt = MemoryStore::new();
                write(&rebuilt, |batch| {
                    for (keyspace, key, value) in contents(&memory) {
                        batch.put(keyspace, key, value);
                    }
                });
                rebuild(&rebuilt).unwrap();
                match n % 3 {
                    0 => {
                        block_on(log.resume_purges(|_, _| {})).unwrap();
                    }
                    1 if !whole_room => {
                        let loaded = block_on(log.load_room(room.room.room_id())).unwrap().unwrap();
                        assert_eq!(loaded.purges() > 0, is_decided);
                    }
                    // Whoever purges something carries out the rest first.
                    _ => {
                        let _ = block_on(log.purge_room(&RoomId::parse("!unknown:a").unwrap(), |_, _| {})).unwrap();
                        block_on(log.resume_purges(|_, _| {})).unwrap();
                    }
                }
                if is_decided {
                    assert!(contents(&memory) == expected, "{n}");
                    assert!(contents(&rebuilt) == expected, "{n}");
                } else {
                    run(&open(&memory)).unwrap();
                    assert!(contents(&memory) == expected, "{n}");
                }
                check_loaded(&open(&memory), &other);
            }
        }
    }
}

#[test]
fn an_old_writer_does_not_purge() {
    let room = branching_room("!r:a", 4);
    let store = store_of(&[&room]);
    let (old, new) = (open(&store), open(&store));
    TestRoom::forked("!s:a").append_to(&new).unwrap();
    let bytes = contents(&store);
    let event_id = &room.judged[80].event.event_id;
    let result = block_on(old.purge_history(room.room.room_id(), event_id, |_, _| {}));
    assert!(matches!(result, Err(LogError::Overtaken)));
    assert!(matches!(block_on(old.purge_room(room.room.room_id(), |_, _| {})), Err(LogError::Overtaken)));
    assert!(contents(&store) == bytes);
    // Refused, it is as if nothing had been asked.
    assert_eq!(old.rooms_being_purged(), []);
    check_loaded(&old, &room);
}

#[test]
fn what_is_older_than_a_time_is_purged() {
    // Events have their place as their time.
    let room = branching_room("!r:a", 6);
    let newest = room.judged.len() - 1;
    for (time_ms, before) in [(0, 0), (80, 80), (90, 90), (i64::MAX, newest)] {
        let store = store_of(&[&room]);
        let log = open(&store);
        let purged = block_on(log.purge_older_than(room.room.room_id(), time_ms, |_, _| {})).unwrap().unwrap();
        let by_event = store_of(&[&room]);
        assert_eq!(purge(&open(&by_event), &room, before), purged);
        assert!(contents(&store) == contents(&by_event));
    }
}

/// A room whose projections are of an older version is computed again with what was purged.
#[test]
fn a_stale_room_with_purged_history_is_refreshed() {
    let room = branching_room("!r:a", 6);
    let store = store_of(&[&room]);
    purge(&open(&store), &room, 90);
    let bytes = contents(&store);
    let record: RoomRecord = block_on(store.get_record("!r:a")).unwrap().unwrap();
    write(&store, |batch| {
        batch.put_record("!r:a", &record.with_projections(vec![1])).unwrap();
    });
    let log = open(&store);
    assert!(block_on(log.load_room(room.room.room_id())).unwrap().is_some());
    assert!(contents(&store) == bytes);
    check_purged(&store, &room, 90);
}

#[test]
fn damage_around_a_purge_is_found() {
    let room = branching_room("!r:a", 6);
    let check = |damage: &dyn Fn(&mut Batch, &EventLog), expected: &str| {
        let store = store_of(&[&room]);
        let log = open(&store);
        purge(&log, &room, 90);
        let bytes = contents(&store);
        write(&store, |batch| damage(batch, &log));
        let found = findings(&store);
        assert!(found.len() == 1 && found[0].contains(expected), "{found:?}, not {expected}");
        rebuild(&store).unwrap();
        assert!(contents(&store) == bytes, "{expected}");
    };
    let timeline = |log: &EventLog, place: u64| {
        let record = block_on(log.store().get_record::<TimelineRecord>(key::timeline(0, place + 1)));
        record.unwrap().unwrap()
    };
    // States that were not purged, and some that were and are said not to be.
    check(
        &|batch, log| {
            let record = TimelineRecord { states: StatesRecord::Purged, ..timeline(log, 95) };
            batch.put_record(key::timeline(0, 96), &record).unwrap();
        },
        "the state before or after it differs",
    );
    check(
        &|batch, log| {
            let states = StatesRecord::Roots { before: None, after: None };
            batch.put_record(key::timeline(0, 81), &TimelineRecord { states, ..timeline(log, 80) }).unwrap();
        },
        "the state before or after it differs",
    );
    check(
        &|batch, log| {
            let record = TimelineRecord { may_redact_any: true, ..timeline(log, 80) };
            batch.put_record(key::timeline(0, 81), &record).unwrap();
        },
        "the state before or after it differs",
    );
    check(
        &|batch, log| {
            let mut roots = timeline(log, 95).states.roots();
            let root = NodeIndex::from_number(roots.next().unwrap()).unwrap();
            batch.delete(Keyspace::SnapshotNodes, key::node(0, root));
        },
        "a snapshot node is missing",
    );
}
