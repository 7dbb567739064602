//! Fingerprints of whole logs.

use super::*;

fn fingerprint(store: &MemoryStore) -> String {
    block_on(open(store).fingerprint(|| {})).unwrap().to_string()
}

fn store_of(rooms: &[(&TestRoom, usize)]) -> MemoryStore {
    let store = MemoryStore::new();
    let log = open(&store);
    for (room, events) in rooms {
        block_on(log.append(room.room.room_id(), rules(), &room.judged[..*events], Durability::Sync)).unwrap();
    }
    store
}

#[test]
fn the_fingerprint_is_that_of_the_rooms_whatever_lies_between_their_events() {
    let [one, other] = ["!r:a", "!s:a"].map(TestRoom::forked);
    let whole = store_of(&[(&one, 9), (&other, 9)]);
    let expected = fingerprint(&whole);
    assert_eq!(fingerprint(&store_of(&[(&other, 9), (&one, 9)])), expected);
    let interleaved = store_of(&[(&one, 4), (&other, 9)]);
    block_on(open(&interleaved).append(one.room.room_id(), rules(), &one.judged[4..], Durability::Sync)).unwrap();
    assert_eq!(fingerprint(&interleaved), expected);
    rebuild(&interleaved).unwrap();
    assert_eq!(fingerprint(&interleaved), expected);
    let mut rooms = 0;
    block_on(open(&whole).fingerprint(|| rooms += 1)).unwrap();
    assert_eq!(rooms, 2);
}

#[test]
fn whatever_differs_makes_another_fingerprint() {
    let [one, other, third] = ["!r:a", "!s:a", "!t:a"].map(TestRoom::forked);
    let mut all = vec![
        fingerprint(&MemoryStore::new()),
        fingerprint(&store_of(&[(&one, 9)])),
        fingerprint(&store_of(&[(&other, 9)])),
        fingerprint(&store_of(&[(&one, 9), (&other, 9)])),
        fingerprint(&store_of(&[(&one, 9), (&other, 8)])),
        fingerprint(&store_of(&[(&one, 8), (&other, 9)])),
        fingerprint(&store_of(&[(&one, 9), (&third, 9)])),
    ];
    // The soft-failed event came before the ban: the same events, another history.
    let mut swapped = TestRoom { room: Room::new(RoomId::parse("!r:a").unwrap(), rules()), judged: Vec::new() };
    for place in [0, 1, 2, 3, 4, 6, 5, 7, 8] {
        let pdu = VerifiedPdu::restore(&one.judged[place].json, rules(), None, true).unwrap();
        let Receipt::Judged(judged) = swapped.room.handle_pdu(&pdu).unwrap() else { panic!("not judged") };
        swapped.judged.extend(judged.effects.into_iter().filter_map(|effect| match effect {
            Effect::Persist(event) => Some(*event),
            Effect::Publish(_) => None,
        }));
    }
    all.push(fingerprint(&store_of(&[(&swapped, 9)])));
    // Bytes that no rule reads, as where an id is not a hash.
    let mut changed = one.judged.clone();
    let body =
        String::from_utf8(changed[8].json.to_vec()).unwrap().replace(r#""signatures":{}"#, r#""signatures":{"a":{}}"#);
    changed[8].json = body.into_bytes().into();
    let store = MemoryStore::new();
    block_on(open(&store).append(one.room.room_id(), rules(), &changed, Durability::Sync)).unwrap();
    all.push(fingerprint(&store));
    // The first two events keep their content, so that the states around them are all that is gone.
    for (before, contents) in [(2, 0), (8, 2)] {
        let purged = store_of(&[(&one, 9)]);
        let event_id = &one.judged[before].event.event_id;
        let done = block_on(open(&purged).purge_history(one.room.room_id(), event_id, |_, _| {})).unwrap().unwrap();
        assert_eq!(done.events, contents);
        all.push(fingerprint(&purged));
    }
    let different: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(different.len(), all.len(), "{all:?}");
}
