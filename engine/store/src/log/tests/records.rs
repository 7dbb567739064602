//! Records and keys, byte by byte.

use super::*;

/// The stored format. A change here is a change of every store there is: it needs another record version.
#[test]
fn the_bytes_of_every_record_are_as_documented() {
    fn check<R: Record + PartialEq + std::fmt::Debug>(record: &R, expected: &str) {
        let bytes = codec::encode(record).unwrap();
        let (body, _) = bytes.split_last_chunk::<4>().unwrap();
        assert_eq!(hex(body), expected.replace(' ', ""), "{record:?}");
        assert_eq!(codec::decode::<R>(b"", &bytes).unwrap(), *record);
    }
    let eights = "08".repeat(32);
    check(&Head { next_sequence: 300, next_room: 2, standing: StandingRecord::Moved }, "02 fb2c01 02 01");
    check(&OtherDatabase { name: "sled:/x".into() }, "01 07 736c65643a2f78");
    check(&opened(1, "!r", "11"), "01 00 01 02 2172 02 3131");
    let event_at = |authorising_user_signed, place| LogEntry::Event {
        room: 1,
        event_id: "$e".into(),
        json: b"{}".to_vec(),
        content_hash_matched: true,
        authorising_user_signed,
        place,
    };
    let event = |authorising_user_signed| event_at(authorising_user_signed, PlaceRecord::Follows);
    check(&event(None), "01 01 01 02 2465 02 7b7d 01 00 00");
    check(&event(Some(false)), "01 01 01 02 2465 02 7b7d 01 01 00 00");
    check(&event(Some(true)), "01 01 01 02 2465 02 7b7d 01 01 01 00");
    check(&event_at(None, PlaceRecord::Outlier), "01 01 01 02 2465 02 7b7d 01 00 01");
    let arrivals = [ArrivalRecord::New, ArrivalRecord::Entry, ArrivalRecord::History, ArrivalRecord::Unsigned];
    for (byte, arrival) in arrivals.into_iter().enumerate() {
        let place = PlaceRecord::Placed { arrival, given_state: None, outlier: None };
        check(&event_at(None, place), &format!("01 01 01 02 2465 02 7b7d 01 00 02 0{byte} 00 00"));
    }
    let place = PlaceRecord::Placed { arrival: ArrivalRecord::New, given_state: Some(vec![1, 300]), outlier: Some(7) };
    check(&event_at(None, place), "01 01 01 02 2465 02 7b7d 01 00 02 00 01 02 01 fb2c01 01 07");
    check(&RoomRecord::new(251, RoomVersion::V12, 7), "02 fbfb00 02 3132 07 00 05 04 02 01 03 03");
    let mut purged_twice = RoomRecord::new(1, RoomVersion::V12, 7);
    purged_twice.purges = vec![8, 300];
    check(&purged_twice, "02 01 02 3132 07 02 08 fb2c01 05 04 02 01 03 03");
    check(&LogEntry::HistoryPurged { room: 1, before: 300, extremities: vec![7] }, "01 03 01 fb2c01 01 07");
    check(&LogEntry::RoomPurged { room: 1 }, "01 04 01");
    check(&LogEntry::Gone { room: 1 }, "01 05 01");
    check(&LogEntry::Fact { kind: 7, key: b"k".to_vec(), value: Some(b"v".to_vec()) }, "01 06 07 01 6b 01 01 76");
    check(&LogEntry::Fact { kind: 7, key: b"k".to_vec(), value: None }, "01 06 07 01 6b 00");
    check(&FactRecord { sequence: 300, value: b"v".to_vec() }, "01 fb2c01 01 76");
    check(&PurgeRecord::History { decided: 9, before: 8, extremities: vec![7] }, "01 00 09 08 01 07");
    check(&PurgeRecord::Room { opened: 9, purges: vec![10] }, "01 01 09 01 0a");
    check(&ProjectedTo { sequence: 300 }, "01 fb2c01");
    let key = ServerKeyRecord { key: [8; 32], valid_until_ts_ms: 1, expired_ts_ms: Some(-1) };
    check(&key, &format!("01 {eights} 02 01 01"));
    check(&EventRecord { sequence: 65_536, number: 300 }, "02 fc00000100 fb2c01");
    let roots = StatesRecord::Roots { before: None, after: Some(300) };
    let timeline = TimelineRecord {
        outcome: 0,
        reason: None,
        may_redact_any: false,
        states: roots,
        nodes_numbered: 301,
        arrival: Some(ArrivalRecord::New),
        in_given_state: false,
        placed: None,
    };
    check(&timeline, "04 00 00 00 00 00 01fb2c01 fb2d01 01 00 00 00");
    let purged = TimelineRecord { states: StatesRecord::Purged, may_redact_any: true, ..timeline.clone() };
    check(&purged, "04 00 00 01 01 fb2d01 01 00 00 00");
    let placed = TimelineRecord { in_given_state: true, placed: Some(7), ..timeline.clone() };
    check(&placed, "04 00 00 00 00 00 01fb2c01 fb2d01 01 00 01 01 07");
    let reason = RecordedReason {
        check: Check::StateBefore,
        code: "join_while_banned".into(),
        rule: "5.3".into(),
        sentence: "no".into(),
    };
    check(
        &TimelineRecord { outcome: 2, reason: Some(ReasonRecord::of(&reason)), ..timeline },
        "04 02 01 05 11 6a6f696e5f7768696c655f62616e6e6564 03 352e33 02 6e6f 00 00 00 01fb2c01 fb2d01 01 00 00 00",
    );
    let node = |root_check, content| SnapshotNodeRecord { root_check, content };
    let leaf = NodeContentRecord::Leaf(vec![0x83, 2, 1, 0x56, 0x78]);
    check(&node(None, leaf), "03 00 00 05 8302 01 56 78");
    let change = NodeContentRecord::Change { back: 300, replaced: vec![7, 0x10], added: vec![9, 0x56] };
    check(&node(Some([1, 2, 3, 4]), change), "03 01 01020304 01 fb2c01 02 07 10 02 09 56");
    let branch = NodeContentRecord::Branch { bitmap: 0x8001, children: vec![[0, 0, 0, 7], [0, 0, 1, 0]] };
    check(&node(None, branch), "03 00 02 fb0180 02 00000007 00000100");
    let extremities = ExtremitiesRecord {
        forward_extremities: vec!["$e".into()],
        current_state: Some(8),
        fingerprint: [8; 32],
        create: Some(0),
    };
    check(&extremities, &format!("03 01 02 2465 01 08 {eights} 01 00"));
}

#[test]
fn outcomes_and_checks_keep_their_numbers() {
    let outcomes = [0, 1, 2, 3].map(outcome_from_byte);
    assert_eq!(outcomes, [Some(Outcome::Accepted), Some(Outcome::SoftFailed), Some(Outcome::Rejected), None]);
    let checks = [Check::AuthEvents, Check::StateBefore, Check::CurrentState, Check::PolicyServer];
    for (check, byte) in checks.into_iter().zip(["04", "05", "06", "07"]) {
        let reason = RecordedReason { check, code: "".into(), rule: "".into(), sentence: String::new() };
        let reason_record = Some(ReasonRecord::of(&reason));
        let record = TimelineRecord {
            outcome: 1,
            reason: reason_record,
            may_redact_any: false,
            states: StatesRecord::Purged,
            nodes_numbered: 0,
            arrival: None,
            in_given_state: false,
            placed: None,
        };
        let bytes = codec::encode(&record).unwrap();
        assert_eq!(hex(&bytes[1..9]), format!("0101{byte}0000000001"));
        assert_eq!(ReasonRecord::of(&reason).into_reason(), Some(reason));
    }
}

#[test]
fn the_keys_are_as_documented() {
    assert_eq!(hex(&key::sequence(258)), "0000000000000102");
    assert_eq!(hex(&key::room(258)), "00000102");
    assert_eq!(hex(&key::timeline(1, 2)), "000000010000000000000002");
    assert_eq!(hex(&key::purging(258)), "70757267696e672000000102");
    assert_eq!(key::purging_room(&key::purging(258)).unwrap(), 258);
    key::purging_room(b"purging 12345").unwrap_err();
    assert_eq!(hex(&key::event(1, &EventId::parse("$e").unwrap())), "000000012465");
    assert_eq!(hex(&key::event_facts(1, EventIndex::from_number(258).unwrap())), "0000000100000102");
    assert_eq!(hex(&key::node(1, NodeIndex::from_number(258).unwrap())), "0000000100000102");
    assert_eq!((key::HEAD, key::PROJECTED_TO), (&b"log head"[..], &b"projected to"[..]));
    assert_eq!(key::timeline_sequence(&key::timeline(1, 2)).unwrap(), 2);
    for wrong in [&b""[..], b"12345678", b"1234567890123"] {
        key::timeline_sequence(wrong).unwrap_err();
    }
}

#[test]
fn node_records_are_what_the_core_gives() {
    let mut room = TestRoom::forked("!r:a");
    // Enough entries for branches.
    let mut last = room.judged[3].event.event_id.clone();
    for number in 0..70 {
        last = room.event("@a:a", "org.example", Some(&number.to_string()), "{}", &[&last]);
    }
    let (mut leaves, mut changes, mut branches) = (0, 0, 0);
    for (number, node) in room.judged.iter().flat_map(|event| &event.nodes) {
        match node.content {
            NodeContent::Leaf(_) => leaves += 1,
            NodeContent::Change(_) => changes += 1,
            NodeContent::Branch { .. } => branches += 1,
        }
        assert_eq!(SnapshotNodeRecord::of(*number, node).into_node(*number).as_ref(), Some(node));
    }
    assert!(leaves > 20 && changes > 40 && branches > 2, "{leaves} {changes} {branches}");
    let branch = |(bitmap, children)| NodeContentRecord::Branch { bitmap, children };
    let mut invalid: Vec<_> =
        [(1, vec![]), (1, vec![[0; 4]; 2]), (3, vec![[0; 4]]), (1, vec![[255; 4]])].map(branch).into();
    let none = Vec::new;
    invalid.push(NodeContentRecord::Leaf(vec![255, 255, 255, 255, 15, 7]));
    invalid.push(NodeContentRecord::Leaf(vec![7]));
    // Of a node that would have a number below 0.
    invalid.push(NodeContentRecord::Change { back: 9, replaced: none(), added: none() });
    invalid.push(NodeContentRecord::Change { back: 1, replaced: vec![7], added: none() });
    invalid.push(NodeContentRecord::Change { back: 1, replaced: none(), added: vec![7] });
    for content in invalid {
        let record = SnapshotNodeRecord { root_check: None, content };
        assert_eq!(record.clone().into_node(NodeIndex::from_number(8).unwrap()), None, "{record:?}");
    }
}
