//! Resolutions that read what they need. That they come out right for any room is tested in `proptests`.

use super::*;
use crate::log::event_facts::EventFactsRecord;

/// A room with members and with a history of power levels, forked at its end: one side bans a member and changes power levels and
/// topic, the other changes the topic and the member's name.
fn forked_room(members: u32, power_changes: u32) -> (MemoryStore, TestRoom, [EventId; 2]) {
    let mut room = TestRoom::new("!r:a");
    let join = r#"{"membership":"join"}"#;
    let levels = |number: u32| format!(r#"{{"users":{{"@a:a":100}},"events":{{"e{number}":1,"m.room.topic":0}}}}"#);
    let mut last = room.event("@a:a", "m.room.create", Some(""), r#"{"room_version":"11"}"#, &[]);
    last = room.event("@a:a", "m.room.member", Some("@a:a"), join, &[&last]);
    for number in 0..power_changes {
        last = room.event("@a:a", "m.room.power_levels", Some(""), &levels(number), &[&last]);
    }
    last = room.event("@a:a", "m.room.join_rules", Some(""), r#"{"join_rule":"public"}"#, &[&last]);
    for number in 0..members {
        let user = format!("@m{number}:b");
        last = room.event(&user, "m.room.member", Some(&user), join, &[&last]);
    }
    let mut left = room.event("@a:a", "m.room.power_levels", Some(""), &levels(power_changes), &[&last]);
    left = room.event("@a:a", "m.room.member", Some("@m7:b"), r#"{"membership":"ban"}"#, &[&left]);
    left = room.event("@a:a", "m.room.topic", Some(""), r#"{"topic":"left"}"#, &[&left]);
    let mut right = room.event("@m8:b", "m.room.topic", Some(""), r#"{"topic":"right"}"#, &[&last]);
    right =
        room.event("@m7:b", "m.room.member", Some("@m7:b"), r#"{"membership":"join","displayname":"x"}"#, &[&right]);
    let store = MemoryStore::new();
    room.append_to(&open(&store)).unwrap();
    (store, room, [left, right])
}

fn resolve(store: &MemoryStore, event_ids: &[EventId]) -> Result<Option<StoredResolution>, LogError> {
    block_on(open(store).resolve_stored(&RoomId::parse("!r:a").unwrap(), event_ids))
}

/// Returns reads and rounds of the resolution, which must be that of the room in memory.
fn cost(members: u32, power_changes: u32) -> (u64, u64) {
    let (store, mut room, tips) = forked_room(members, power_changes);
    let resolved = resolve(&store, &tips).unwrap().unwrap();
    let merge = room.event("@a:a", "m.room.message", None, "{}", &[&tips[0], &tips[1]]);
    let before = room.room.state_before(&merge).unwrap();
    let base = room.room.state_after(&tips[0]).unwrap();
    let differences = before.map().differences(room.room.graph(), base.map());
    assert_eq!(resolved.edits, differences.into_iter().map(|it| (it.key, it.left)).collect::<Vec<_>>());
    (resolved.reads, resolved.rounds)
}

#[test]
fn reads_do_not_grow_with_the_room() {
    let (small, small_rounds) = cost(60, 3);
    let (large, large_rounds) = cost(3_000, 3);
    assert!(small > 10 && small <= 60, "{small} reads");
    // A room fifty times as large has trees that are a level or two deeper.
    assert!(large <= small + 16, "{small} reads of 60 members, {large} of 3,000");
    assert!(large_rounds <= small_rounds + 3 && large_rounds <= 14, "{small_rounds} rounds, {large_rounds} rounds");
}

#[test]
fn the_history_of_power_levels_is_not_read_where_both_sides_are_newer() {
    let (few, few_rounds) = cost(60, 3);
    let (many, many_rounds) = cost(60, 2_000);
    assert!(many <= few + 24, "{few} reads after 3 power levels, {many} after 2,000");
    assert!(many_rounds <= few_rounds + 24, "{few_rounds} rounds, {many_rounds} rounds");
}

#[test]
fn one_state_needs_no_resolution() {
    let (store, _, [left, _]) = forked_room(60, 3);
    assert_eq!(resolve(&store, &[left.clone(), left.clone()]).unwrap().unwrap().edits, []);
    assert_eq!(resolve(&store, &[left]).unwrap().unwrap().edits, []);
    assert_eq!(resolve(&store, &[]).unwrap().unwrap().edits, []);
}

#[test]
fn what_is_not_there_is_not_resolved() {
    let (store, _, [left, _]) = forked_room(60, 3);
    let unknown = EventId::parse("$unknown").unwrap();
    assert_eq!(resolve(&store, &[left.clone(), unknown]).unwrap(), None);
    let other_room = block_on(open(&store).resolve_stored(&RoomId::parse("!other:a").unwrap(), &[left]));
    assert_eq!(other_room.unwrap(), None);
}

#[test]
fn damage_is_an_error() {
    let check = |damage: &dyn Fn(&mut Batch, &TestRoom)| {
        let (store, room, tips) = forked_room(100, 3);
        write(&store, |batch| damage(batch, &room));
        resolve(&store, &tips).unwrap_err().to_string()
    };
    let ban = |room: &TestRoom| {
        let banned = room.judged.iter().find(|event| event.json.windows(5).any(|part| part == b"\"ban\"")).unwrap();
        (banned.index, banned.stored.clone())
    };
    let missing = check(&|batch, room| {
        batch.delete(Keyspace::EventFacts, key::event_facts(0, ban(room).0));
    });
    assert!(missing.contains("event_facts") && missing.contains("a record that another one names"), "{missing}");
    // An event that cites itself would be read for ever.
    let circle = check(&|batch, room| {
        let (index, mut stored) = ban(room);
        stored.auth_events.push(index);
        batch.put_record(key::event_facts(0, index), &EventFactsRecord::of(&stored)).unwrap();
    });
    assert!(circle.contains("event_facts"), "{circle}");
    // Power levels that jump to themselves would be climbed for ever.
    let jump = check(&|batch, room| {
        let levels = room.judged.iter().rfind(|event| event.stored.power_chain.is_some()).unwrap();
        let mut stored = levels.stored.clone();
        stored.power_chain.as_mut().unwrap().jump = levels.index;
        batch.put_record(key::event_facts(0, levels.index), &EventFactsRecord::of(&stored)).unwrap();
    });
    assert!(jump.contains("event_facts"), "{jump}");
    let root = |room: &TestRoom| room.judged.last().unwrap().state_after.unwrap();
    let no_node = check(&|batch, room| {
        batch.delete(Keyspace::SnapshotNodes, key::node(0, root(room)));
    });
    assert!(no_node.contains("snapshot_nodes"), "{no_node}");
    let node_in_itself = check(&|batch, room| {
        let children = vec![root(room).number().to_be_bytes(); 16];
        let content = NodeContentRecord::Branch { bitmap: 0xffff, children };
        let record = SnapshotNodeRecord { root_check: None, content };
        batch.put_record(key::node(0, root(room)), &record).unwrap();
    });
    assert!(node_in_itself.contains("not what its fingerprint says"), "{node_in_itself}");
    let no_extremities = check(&|batch, _| {
        batch.delete(Keyspace::Extremities, key::room(0));
    });
    assert!(no_extremities.contains("do not fit together"), "{no_extremities}");
}
