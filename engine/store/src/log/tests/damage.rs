//! Damaged logs and projections: what of it is found, and what a rebuild mends.

use super::*;

/// Damages a stored log, and checks what is found and what a rebuild says.
fn check_damage(damage: impl Fn(&mut Batch, &[TestRoom; 2]), expected: &[&str], rebuilt: &str) {
    let (store, rooms) = stored();
    let before = contents(&store);
    write(&store, |batch| damage(batch, &rooms));
    let damaged = contents(&store);
    let id = |room: usize, place: usize| rooms[room].judged[place].event.event_id.to_string();
    let names: Vec<(String, String)> =
        (0..9).flat_map(|n| [(format!("R{n}"), id(0, n)), (format!("S{n}"), id(1, n))]).collect();
    let found: Vec<String> = findings(&store)
        .into_iter()
        .map(|finding| names.iter().fold(finding, |finding, (name, id)| finding.replace(id, name)))
        .collect();
    assert_eq!(found, expected);
    // Looking at it changes nothing, and every room is an error or what it was, but no panic.
    assert!(contents(&store) == damaged);
    if let Ok(log) = block_on(EventLog::open(Arc::new(store.clone()))) {
        for room in &rooms {
            let _ = block_on(log.load_room(room.room.room_id()));
        }
    }
    match rebuild(&store) {
        Ok(()) => {
            assert_eq!(rebuilt, "mended");
            assert_eq!(contents(&store), before);
        }
        Err(error) => {
            assert_eq!(error.to_string(), rebuilt);
            assert!(contents(&store) == damaged, "the rebuild dropped what it can't compute");
        }
    }
}

fn flip(batch: &mut Batch, keyspace: Keyspace, key: impl Into<Bytes>) {
    let (store, _) = stored();
    let key = key.into();
    let mut value = block_on(store.get(keyspace, key.clone())).unwrap().unwrap().to_vec();
    value[1] ^= 4;
    batch.put(keyspace, key, value);
}

#[test]
fn damage_of_the_log_is_found_and_not_hidden_by_a_rebuild() {
    let entry = |sequence: u64| key::sequence(sequence);
    check_damage(
        |batch, _| flip(batch, Keyspace::Log, entry(9)),
        &[
            "corrupt log at 0x0000000000000009: expected a record with a right checksum",
            "!r:a: forward extremities or current state differ",
        ],
        "corrupt log at 0x0000000000000009: expected a record with a right checksum",
    );
    check_damage(
        |batch, _| {
            batch.delete(Keyspace::Log, entry(3));
        },
        &["log entry 3 is not usable: it is missing", "log entry 4 is not usable: its event comes before its parents"],
        "log entry 3 is not usable: it is missing",
    );
    check_damage(
        |batch, _| {
            batch.delete(Keyspace::Log, entry(19));
        },
        &["the log has 19 entries, and its head says 20", "!s:a: forward extremities or current state differ"],
        "the log has 19 entries, and its head says 20",
    );
    check_damage(
        |batch, _| {
            batch.put(Keyspace::Log, entry(u64::MAX), codec::encode(&opened(7, "!x:a", "11")).unwrap());
        },
        &[
            "log entry 20 is not usable: it is missing",
            "!x:a: the room's record differs",
            "the log has 18446744073709551615 entries, and its head says 20",
        ],
        "log entry 20 is not usable: it is missing",
    );
    check_damage(
        |batch, _| {
            batch.put(Keyspace::Log, &b"short"[..], &b""[..]);
        },
        &["corrupt log at 0x73686f7274: expected a key of 8 bytes"],
        "corrupt log at 0x73686f7274: expected a key of 8 bytes",
    );
    check_damage(
        |batch, _| {
            batch.delete(Keyspace::Meta, key::HEAD);
        },
        &["the store is not empty, and its log has no head"],
        "the store is not empty, and its log has no head",
    );
    // The entries say where the log ends.
    check_damage(
        |batch, _| flip(batch, Keyspace::Meta, key::HEAD),
        &["corrupt meta at 0x6c6f672068656164: expected a record with a right checksum"],
        "mended",
    );
}

#[test]
fn damage_of_projections_is_found_and_mended() {
    check_damage(
        |batch, _| flip(batch, Keyspace::Rooms, &b"!r:a"[..]),
        &["corrupt rooms at 0x21723a61: expected a record with a right checksum"],
        "mended",
    );
    check_damage(
        |batch, _| {
            batch.delete(Keyspace::Rooms, &b"!r:a"[..]);
        },
        &["!r:a: the room's record differs"],
        "mended",
    );
    check_damage(
        |batch, _| {
            batch.put(Keyspace::Rooms, &b"\xff"[..], &b""[..]);
        },
        &["1 records in rooms that a replay of the log does not give"],
        "mended",
    );
    check_damage(
        |batch, _| flip(batch, Keyspace::Timelines, key::timeline(0, 7)),
        &["corrupt timelines at 0x000000000000000000000007: expected a record with a right checksum"],
        "mended",
    );
    check_damage(
        |batch, _| {
            batch.delete(Keyspace::Timelines, key::timeline(1, 12));
        },
        &["!s:a, S1: it is missing in the timeline"],
        "mended",
    );
    check_damage(
        |batch, _| {
            let record = TimelineRecord {
                outcome: 2,
                reason: None,
                may_redact_any: false,
                states: StatesRecord::Roots { before: Some(7), after: None },
                nodes_numbered: 0,
                arrival: Some(ArrivalRecord::New),
                in_given_state: false,
                placed: None,
            };
            batch.put_record(key::timeline(0, 4), &record).unwrap();
        },
        &["!r:a, R3: its verdict differs", "!r:a, R3: the state before or after it differs"],
        "mended",
    );
    check_damage(
        |batch, rooms| {
            let event_id = &rooms[0].judged[2].event.event_id;
            batch.put_record(key::event(0, event_id), &EventRecord { sequence: 3, number: 8 }).unwrap();
            batch.delete(Keyspace::Events, key::event(0, &rooms[0].judged[3].event.event_id));
        },
        &["!r:a, R2: its place in the log differs", "!r:a, R3: its place in the log differs"],
        "mended",
    );
    check_damage(
        |batch, rooms| {
            let (leaf, _) = rooms[0].judged[0].nodes.first().unwrap();
            flip(batch, Keyspace::SnapshotNodes, key::node(0, *leaf));
            let (node, _) = rooms[0].judged[1].nodes.first().unwrap();
            batch.delete(Keyspace::SnapshotNodes, key::node(0, *node));
            let (node, _) = rooms[1].judged[1].nodes.first().unwrap();
            let content = NodeContentRecord::Branch { bitmap: 3, children: vec![[0; 4]; 2] };
            let record = SnapshotNodeRecord { root_check: None, content };
            batch.put_record(key::node(1, *node), &record).unwrap();
        },
        &[
            &format!(
                "corrupt snapshot_nodes at 0x{}: expected a record with a right checksum",
                hex(&key::node(0, TestRoom::forked("!r:a").judged[0].nodes.first().unwrap().0)),
            ),
            "!s:a, S1: a snapshot node differs",
            "!r:a, R1: a snapshot node is missing",
        ],
        "mended",
    );
    check_damage(
        |batch, _| {
            let forward_extremities = vec!["$x".into()];
            let record =
                ExtremitiesRecord { forward_extremities, current_state: Some(1), fingerprint: [0; 32], create: None };
            batch.put_record(key::room(0), &record).unwrap();
            batch.delete(Keyspace::Extremities, key::room(1));
        },
        &["!r:a: forward extremities or current state differ", "!s:a: forward extremities or current state differ"],
        "mended",
    );
    check_damage(
        |batch, _| {
            batch.put(Keyspace::SnapshotNodes, &b"surplus"[..], &b"x"[..]);
            batch.put(Keyspace::Timelines, key::timeline(0, 900), &b"x"[..]);
        },
        &[
            "1 records in timelines that a replay of the log does not give",
            "1 records in snapshot_nodes that a replay of the log does not give",
        ],
        "mended",
    );
}

#[test]
fn what_an_unfinished_copy_leaves_is_refused() {
    let (store, _) = stored();
    let no_head = "the store is not empty, and its log has no head";
    write(&store, |batch| {
        batch.delete(Keyspace::Meta, key::HEAD);
    });
    assert_eq!(error_of_open(&store), no_head);
    // Rooms are copied first.
    write(&store, |batch| {
        batch.delete_range(Keyspace::Log, KeyRange::all());
    });
    assert_eq!(error_of_open(&store), no_head);
    assert_eq!(rebuild(&store).unwrap_err().to_string(), no_head);
}

/// Entries with a right checksum that no append writes: errors, not panics.
#[test]
fn entries_that_make_no_sense_are_errors() {
    let check = |entries: &[LogEntry], expected: &str| {
        let store = MemoryStore::new();
        write(&store, |batch| {
            for (sequence, entry) in (0..).zip(entries) {
                batch.put_record(key::sequence(sequence), entry).unwrap();
            }
            let next_room = entries.iter().filter(|entry| matches!(entry, LogEntry::RoomOpened { .. })).count();
            let next_room = u32::try_from(next_room).unwrap();
            batch
                .put_record(key::HEAD, &Head { next_sequence: entries.len() as u64, next_room, ..Head::default() })
                .unwrap();
            batch.put_record(key::PROJECTED_TO, &ProjectedTo { sequence: 0 }).unwrap();
        });
        let before = contents(&store);
        assert_eq!(rebuild(&store).unwrap_err().to_string(), expected);
        assert!(contents(&store) == before);
        assert_eq!(error_of_open(&store), expected);
    };
    let room = TestRoom::forked("!r:a");
    let event = |room_number: u32, place: usize, event_id: &str| LogEntry::Event {
        room: room_number,
        event_id: event_id.into(),
        json: room.judged[place].json.to_vec(),
        content_hash_matched: true,
        authorising_user_signed: None,
        place: PlaceRecord::Follows,
    };
    let id = |place: usize| room.judged[place].event.event_id.as_str();
    check(&[opened(0, "r", "11")], "log entry 0 is not usable: it opens a room with an invalid id");
    check(&[opened(0, "!r:a", "13")], "log entry 0 is not usable: it is of an unknown room version");
    check(
        &[opened(0, "!r:a", "11"), opened(0, "!s:a", "11")],
        "log entry 1 is not usable: it opens a room a second time",
    );
    check(&[event(5, 0, id(0))], "log entry 0 is not usable: its room was not opened");
    let first = opened(0, "!r:a", "11");
    check(&[first.clone(), event(0, 0, "$x")], "log entry 1 is not usable: its event has another id");
    check(&[first.clone(), event(0, 1, id(1))], "log entry 1 is not usable: its event comes before its parents");
    check(
        &[first.clone(), event(0, 0, id(0)), event(0, 0, id(0))],
        "log entry 2 is not usable: its event is there twice",
    );
    check(&[opened(0, "!s:a", "11"), event(0, 0, id(0))], "log entry 1 is not usable: its event is of another room");
    for json in [&b"{}"[..], b"", b"{", b"[1]", b"\xff\xff"] {
        let entry = LogEntry::Event {
            room: 0,
            event_id: "$x".into(),
            json: json.to_vec(),
            content_hash_matched: false,
            authorising_user_signed: Some(false),
            place: PlaceRecord::Follows,
        };
        check(&[first.clone(), entry], "log entry 1 is not the event that it says");
    }
}

/// Whatever is under the keys of the log: errors, not panics.
#[test]
fn nothing_read_from_a_store_makes_it_panic() {
    let (store, room) = (MemoryStore::new(), TestRoom::forked("!r:a"));
    room.append_to(&open(&store)).unwrap();
    for (number, (keyspace, key, value)) in contents(&store).into_iter().enumerate() {
        let mut changes: Vec<(Bytes, Option<Vec<u8>>)> = vec![
            (key.clone(), None),
            (key.clone(), Some(Vec::new())),
            (key.clone(), Some(b"garbage".to_vec())),
            (key.slice(..key.len() - 1), Some(value.to_vec())),
            ([&key[..], &[0]].concat().into(), Some(value.to_vec())),
            (Bytes::new(), Some(value.to_vec())),
        ];
        // Bytes of the payload, others in each record, under a checksum that is right again.
        for place in (1 + number % 5..value.len().saturating_sub(4).min(80)).step_by(5) {
            let mut changed = value[..value.len() - 4].to_vec();
            changed[place] ^= 0x81;
            let sum = crc32c::crc32c_append(crc32c::crc32c(&[keyspace.byte()]), &changed);
            changed.extend_from_slice(&sum.to_le_bytes());
            changes.push((key.clone(), Some(changed)));
        }
        for (changed_key, changed) in changes {
            let copy = MemoryStore::new();
            write(&copy, |batch| {
                for (keyspace, key, value) in contents(&store) {
                    batch.put(keyspace, key, value);
                }
                match changed {
                    Some(changed) => batch.put(keyspace, changed_key, changed),
                    None => batch.delete(keyspace, changed_key),
                };
            });
            if let Ok(log) = block_on(EventLog::open(Arc::new(copy.clone()))) {
                let _ = block_on(log.load_room(room.room.room_id()));
            }
            let log = block_on(EventLog::open_to_repair(Arc::new(copy.clone()))).unwrap();
            let _ = block_on(log.verify(|_, _| {}));
            let _ = rebuild(&copy);
        }
    }
}
