//! Messages that are put aside while their room goes on, and what is asked of them then.

use ravel_core::{
    event::Event,
    graph::Missed,
    pdu::VerifiedPdu,
    room::{Outcome, Room},
    signing::hash_and_sign_event,
};

use ravel_store::log::LogError;

use super::{
    super::{Incoming, Received},
    *,
};

/// Makes a room in which alice said "0", "1" and so on; returns it with the ids of that.
async fn long_room(rooms: &Rooms, version: RoomVersion, count: usize) -> (RoomId, Vec<EventId>) {
    let room_id = rooms.create(&user("alice"), wanted(version, Preset::PublicChat)).await.unwrap();
    let mut said = Vec::new();
    for number in 0..count {
        said.push(say(rooms, &room_id, "alice", &number.to_string()).await.unwrap());
    }
    (room_id, said)
}

/// Returns how many of some events are in memory.
async fn in_memory(rooms: &Rooms, room_id: &RoomId, events: &[EventId]) -> usize {
    let place = rooms.0.open.place(room_id);
    let slot = place.room.read().await;
    let room = &slot.as_ref().unwrap().room;
    let count = events.iter().filter(|event_id| room.has(event_id)).count();
    room.graph().missed(std::mem::take);
    count
}

fn redaction_of(event_id: &EventId) -> SendEvent {
    let event_type = "m.room.redaction".to_owned();
    let content = object(&format!(r#"{{"redacts":"{event_id}"}}"#));
    SendEvent { event_type, state_key: None, content, redacts: Some(event_id.clone()) }
}

#[tokio::test]
async fn a_long_room_has_its_newest_messages_in_memory_and_all_for_who_asks() {
    for version in [RoomVersion::V1, RoomVersion::V11, RoomVersion::V12] {
        let store = MemoryStore::new();
        let mut rooms = open(&store).await;
        let (room_id, said) = long_room(&rooms, version, 200).await;
        let texts: Vec<String> = (0..200).map(|number| number.to_string()).collect();
        for begins_anew in [false, true] {
            if begins_anew {
                rooms = open(&store).await;
            }
            rooms.membership(&room_id, &user("alice")).await.unwrap();
            assert!(in_memory(&rooms, &room_id, &said).await < 20, "version {version}");
            let mut seen = Vec::new();
            let mut from = None;
            loop {
                let page = rooms.messages(&room_id, &user("alice"), back(from, 30)).await.unwrap();
                seen.extend(told(&page.events).into_iter().filter(|text| texts.contains(text)));
                let Some(next) = page.next else { break };
                from = Some(TimelineToken::Position(next));
            }
            seen.reverse();
            assert_eq!(seen, texts);
            let event = rooms.event(&room_id, &user("alice"), &said[3]).await.unwrap();
            assert_eq!(event.json["content"]["body"], "3");
            let context = rooms.context(&room_id, &user("alice"), &said[100], 4, true).await.unwrap();
            assert_eq!(
                (told(&context.before.events), told(&context.after.events)),
                (vec!["99".into(), "98".into()], vec!["101".into(), "102".into()])
            );
            let at = |room: &Room| room.state_after(&said[5]).map(|state| state.sorted_entries().len());
            assert!(rooms.look(&room_id, at).await.unwrap().is_some_and(|len| len >= 6));
            // Once something is said, they go again.
            for _ in 0..6 {
                say(&rooms, &room_id, "alice", "more").await.unwrap();
            }
            assert!(in_memory(&rooms, &room_id, &said).await < 20);
        }
    }
}

#[tokio::test]
async fn a_message_that_was_put_aside_can_be_redacted_and_stays_redacted() {
    let store = MemoryStore::new();
    let mut rooms = open(&store).await;
    let (room_id, said) = long_room(&rooms, RoomVersion::V11, 40).await;
    member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    assert!(in_memory(&rooms, &room_id, &said[..10]).await == 0);
    let redaction = redaction_of(&said[2]);
    let refused = rooms.send(&room_id, &user("bob"), redaction.clone()).await;
    assert!(matches!(refused, Err(RoomsError::MayNotRedact)), "{refused:?}");
    let redaction = rooms.send(&room_id, &user("alice"), redaction).await.unwrap();
    for begins_anew in [false, true] {
        if begins_anew {
            rooms = open(&store).await;
        }
        for _ in 0..8 {
            say(&rooms, &room_id, "alice", "more").await.unwrap();
        }
        assert!(in_memory(&rooms, &room_id, &said[..10]).await == 0);
        let event = rooms.event(&room_id, &user("alice"), &said[2]).await.unwrap();
        assert_eq!(event.json["unsigned"]["redacted_by"], redaction.as_str());
        assert!(event.json["content"].as_object().unwrap().is_empty());
        let event = rooms.event(&room_id, &user("alice"), &said[3]).await.unwrap();
        assert_eq!(event.json["content"]["body"], "3");
    }
}

#[tokio::test]
async fn events_of_other_servers_are_judged_by_what_was_put_aside() {
    let store = MemoryStore::new();
    let mut rooms = open(&store).await;
    let (room_id, said) = long_room(&rooms, RoomVersion::V11, 40).await;
    // Of the server itself, but as if it came from elsewhere: what is judged is the same.
    let pdu = rooms.pdus(&room_id, &said[1..2]).await.unwrap().pop().unwrap();
    let rules = RoomVersion::V11.rules();
    let known = VerifiedPdu::restore(&pdu, rules, None, true).unwrap();
    let mut json = parse_object(&pdu, JsonMode::ByteExact).unwrap();
    json.insert("content".into(), object(r#"{"body":"late"}"#).into());
    json.insert("prev_events".into(), vec![said[0].as_str().into()].into());
    let (name, key) =
        (ServerName::parse("a").unwrap(), SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[7; 32]));
    let signed = hash_and_sign_event(json, rules, &name, &key).unwrap();
    let late = ravel_core::canonical_json::object_to_canonical_bytes(&signed);
    let late = VerifiedPdu::restore(&late, rules, None, true).unwrap();
    for begins_anew in [false, true] {
        if begins_anew {
            rooms = open(&store).await;
        }
        rooms.membership(&room_id, &user("alice")).await.unwrap();
        assert!(in_memory(&rooms, &room_id, &said[..10]).await == 0);
        let received = rooms.receive(&room_id, vec![Incoming::new(known.clone())]).await.unwrap();
        assert_eq!(received, [Received::Known(Outcome::Accepted)]);
        rooms.receive(&room_id, vec![Incoming::new(late.clone())]).await.unwrap();
        let ends = rooms.look(&room_id, Room::forward_extremities).await.unwrap();
        assert_eq!(ends.len(), 2, "the late one is an end as well");
        let page = rooms.messages(&room_id, &user("alice"), back(None, 40)).await.unwrap();
        let texts = told(&page.events);
        let place = texts.iter().position(|text| text == "late").unwrap();
        assert_eq!((&*texts[place - 1], &*texts[place + 1]), ("2", "1"), "it stands where it belongs");
    }
}

#[tokio::test]
async fn events_are_found_by_their_time_wherever_they_are() {
    let store = MemoryStore::new();
    let mut rooms = open(&store).await;
    let (room_id, said) = long_room(&rooms, RoomVersion::V11, 150).await;
    let whole = rooms.log().load_room(&room_id).await.unwrap().unwrap();
    let times: Vec<(i64, EventId)> =
        whole.events().map(|(event, _)| (event.origin_server_ts_ms, event.event_id.clone())).collect();
    for begins_anew in [false, true] {
        if begins_anew {
            rooms = open(&store).await;
        }
        rooms.membership(&room_id, &user("alice")).await.unwrap();
        assert!(in_memory(&rooms, &room_id, &said).await < 20);
        let last = times.last().unwrap().0;
        for ts_ms in (-700..last + 2_000).step_by(1_700) {
            for backward in [false, true] {
                let on_side = times.iter().filter(|(ms, _)| if backward { *ms <= ts_ms } else { *ms >= ts_ms });
                let nearest = on_side.min_by_key(|(ms, _)| ms.abs_diff(ts_ms)).map(|(ms, id)| (id.clone(), *ms));
                assert_eq!(rooms.nearest(&room_id, ts_ms, backward).await.unwrap(), nearest, "{ts_ms} {backward}");
            }
        }
    }
}

#[tokio::test]
async fn a_room_that_was_purged_meanwhile_is_loaded_again() {
    let rooms = open(&MemoryStore::new()).await;
    let (room_id, said) = long_room(&rooms, RoomVersion::V11, 40).await;
    rooms.log().purge_history(&room_id, &said[30], |_, _| {}).await.unwrap().unwrap();
    assert!(in_memory(&rooms, &room_id, &said[..10]).await == 0);
    let purged = rooms.event(&room_id, &user("alice"), &said[3]).await;
    assert!(matches!(purged, Err(RoomsError::Log(LogError::Purged { .. }))), "{purged:?}");
    let purged = rooms.event(&room_id, &user("alice"), &said[3]).await;
    assert!(matches!(purged, Err(RoomsError::NoSuchEvent)), "{purged:?}");
    say(&rooms, &room_id, "alice", "more").await.unwrap();
    let event = rooms.event(&room_id, &user("alice"), &said[32]).await.unwrap();
    assert_eq!(event.json["content"]["body"], "32");
}

#[tokio::test]
async fn a_room_is_loaded_with_what_each_event_asks_for() {
    let rooms = open(&MemoryStore::new()).await;
    let (room_id, said) = long_room(&rooms, RoomVersion::V11, 40).await;
    rooms.send(&room_id, &user("alice"), redaction_of(&said[2])).await.unwrap();
    let mut redactions = 0;
    let mut watch = |room: &mut Room, event: &Event| {
        if let Some(target) = super::super::target(event) {
            redactions += 1;
            assert!(room.has(&target));
        }
        room.put_messages_aside(0)
    };
    let log = rooms.log();
    let mut room = log.load_room_watched(&room_id, &mut watch).await.unwrap().unwrap();
    assert_eq!(redactions, 1);
    assert!(room.graph().aside() >= 38 && !room.has(&said[2]));
    let whole = log.load_room(&room_id).await.unwrap().unwrap();
    let unknown = EventId::parse("$unknown").unwrap();
    let ids = whole.events().map(|(event, _)| event.event_id.clone()).chain([unknown.clone()]);
    let missed = Missed { event_ids: ids.collect(), ..Missed::default() };
    let rest = log.put_back(&mut room, &missed).await.unwrap();
    assert_eq!(rest, Missed { event_ids: [unknown].into(), ..Missed::default() });
    assert_eq!((room.graph().aside(), room.history_fingerprint()), (0, whole.history_fingerprint()));
}

#[tokio::test]
async fn a_change_that_asks_for_what_was_not_put_back_for_it_is_not_made() {
    let rooms = open(&MemoryStore::new()).await;
    let (room_id, said) = long_room(&rooms, RoomVersion::V11, 40).await;
    let change = |about: Vec<EventId>| {
        let asked = said[2].clone();
        rooms.write(room_id.clone(), about, move |writing| {
            let content = object(r#"{"body":"hi"}"#);
            let event = SendEvent { event_type: "m.room.message".into(), state_key: None, content, redacts: None };
            let is_there = writing.room.has(&asked);
            writing.send(&user("alice"), &event).map(|_| is_there)
        })
    };
    let length = rooms.log().len();
    assert!(matches!(change(Vec::new()).await, Err(RoomsError::Aside)));
    assert_eq!(rooms.log().len(), length);
    assert!(change(vec![said[2].clone()]).await.unwrap());
    assert_eq!(rooms.log().len(), length + 1);
}
