//! Events that are made here are what every other server accepts.

use crate::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, JsonMode, object_to_canonical_bytes, parse_object},
    event::event_type,
    id::{EventId, KeyId, RoomId, ServerName, UserId},
    pdu::{ParsedPdu, PduError, VerifiedPdu},
    room::{NewEvent, Outcome, Receipt, Room, compose_create},
    room_version::{EventIdFormat, RoomVersion, RoomVersionRules},
    signing::{KeyRing, PublishedKey, SigningKey, hash_and_sign_event, room_id_of_create},
};

fn key() -> SigningKey {
    SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[7; 32])
}

/// Signs an event as server `a` and takes it in as another server does.
fn sent(event: CanonicalJsonObject, rules: &RoomVersionRules) -> VerifiedPdu {
    let server = ServerName::parse("a").unwrap();
    let signed = hash_and_sign_event(event, rules, &server, &key()).unwrap();
    let mut ring = KeyRing::default();
    let published = PublishedKey { key: key().verify_key(), valid_until_ts_ms: i64::MAX, expired_ts_ms: None };
    ring.insert(server, key().key_id().clone(), published);
    let pdu = ParsedPdu::parse(&object_to_canonical_bytes(&signed), rules).unwrap();
    let pdu = pdu.verify(&ring, 0).unwrap();
    assert!(pdu.content_hash_matched());
    pdu
}

fn content(json: &str) -> CanonicalJsonObject {
    parse_object(json.as_bytes(), JsonMode::Strict).unwrap()
}

struct Making {
    room: Room,
    alice: UserId,
    made: i64,
}

impl Making {
    fn new(version: RoomVersion) -> Self {
        let (rules, alice) = (version.rules(), UserId::parse("@alice:a").unwrap());
        let given = RoomId::parse("!given:a").unwrap();
        let json = format!(r#"{{"room_version":"{version}","creator":"@alice:a"}}"#);
        let create = compose_create(rules, Some(&given), &alice, content(&json), 1, "$create:a").unwrap();
        let create = sent(create, rules);
        let room_id = create.event().room_id.clone();
        if rules.room_id_is_create_hash {
            assert_eq!(room_id, room_id_of_create(create.event_id()).unwrap());
        } else {
            assert_eq!(room_id, given);
        }
        let mut room = Room::new(room_id, rules);
        assert!(matches!(room.handle_pdu(&create).unwrap(), Receipt::Judged(_)));
        Self { room, alice, made: 1 }
    }

    fn compose(
        &mut self,
        event_type: &str,
        state_key: Option<&str>,
        json: &str,
        redacts: Option<&EventId>,
    ) -> Result<CanonicalJsonObject, PduError> {
        self.made += 1;
        let event_id = format!("${}:a", self.made);
        self.room.compose(&NewEvent {
            sender: &self.alice,
            event_type,
            state_key,
            content: content(json),
            redacts,
            origin_server_ts_ms: self.made,
            event_id: &event_id,
        })
    }

    fn send(&mut self, event_type: &str, state_key: Option<&str>, json: &str, redacts: Option<&EventId>) -> EventId {
        let event = self.compose(event_type, state_key, json, redacts).unwrap();
        let pdu = sent(event, self.room.rules());
        let receipt = self.room.handle_pdu(&pdu).unwrap();
        assert!(matches!(receipt, Receipt::Judged(_)), "{receipt:?}");
        assert_eq!(
            self.room.outcome(pdu.event_id()),
            Some(Outcome::Accepted),
            "{:?}",
            self.room.reason(pdu.event_id())
        );
        pdu.event_id().clone()
    }
}

#[test]
fn a_room_is_made_in_every_version() {
    for version in RoomVersion::ALL {
        let mut making = Making::new(version);
        let alice = making.alice.to_string();
        making.send(event_type::MEMBER, Some(&alice), r#"{"membership":"join"}"#, None);
        let levels = if version == RoomVersion::V12 { r#"{"users":{}}"# } else { r#"{"users":{"@alice:a":100}}"# };
        making.send(event_type::POWER_LEVELS, Some(""), levels, None);
        making.send(event_type::JOIN_RULES, Some(""), r#"{"join_rule":"invite"}"#, None);
        let message = making.send("m.room.message", None, r#"{"body":"hi"}"#, None);
        let invite = making.send(event_type::MEMBER, Some("@bob:b"), r#"{"membership":"invite"}"#, None);
        let redaction = making.send(event_type::REDACTION, None, r#"{"reason":"oh"}"#, Some(&message));
        let of = |id: &EventId| making.room.event(id).unwrap().clone();
        assert_eq!((of(&redaction).depth, of(&redaction).prev_events.to_vec()), (7, vec![invite.clone()]));
        let create_is_cited = usize::from(version != RoomVersion::V12);
        assert_eq!(of(&message).auth_events.len(), 2 + create_is_cited, "levels and member");
        assert_eq!(of(&invite).auth_events.len(), 3 + create_is_cited, "the join rules, too");
        let event = making.compose("m.room.message", None, "{}", Some(&message)).unwrap();
        let redacts = |object: &CanonicalJsonObject| object.contains_key("redacts");
        let in_content = event["content"].as_object().is_some_and(redacts);
        assert_eq!((redacts(&event), in_content), (version < RoomVersion::V11, version >= RoomVersion::V11));
        let carries_id = version.rules().event_id_format == EventIdFormat::Carried;
        assert_eq!(event.contains_key("event_id"), carries_id);
        let pairs = event["prev_events"].as_array().unwrap();
        assert!(pairs.iter().all(|reference| reference.as_array().is_some() == carries_id));
    }
}

#[test]
fn an_event_builds_on_the_twenty_deepest_ends() {
    let mut making = Making::new(RoomVersion::V11);
    let alice = making.alice.to_string();
    making.send(event_type::MEMBER, Some(&alice), r#"{"membership":"join"}"#, None);
    let deep = making.send("m.room.message", None, "{}", None);
    let forks: Vec<_> = (0..25)
        .map(|number| {
            let event = making.compose("m.room.message", None, &format!(r#"{{"fork":{number}}}"#), None).unwrap();
            sent(event, making.room.rules())
        })
        .collect();
    for fork in &forks {
        making.room.handle_pdu(fork).unwrap();
    }
    assert_eq!(making.room.forward_extremities().len(), 25);
    let next = making.send("m.room.message", None, "{}", None);
    assert_eq!(making.room.event(&next).unwrap().prev_events.len(), 20);
    assert_eq!(making.room.forward_extremities().len(), 6);
    let last = making.send("m.room.message", None, "{}", None);
    assert_eq!(making.room.forward_extremities(), std::slice::from_ref(&last));
    let [first, ..] = &making.room.event(&last).unwrap().prev_events[..] else { panic!("it builds on six") };
    assert_eq!((first, *first != deep), (&next, true), "the deepest first");
}

#[test]
fn what_is_no_event_is_an_error() {
    let mut making = Making::new(RoomVersion::V11);
    let long = format!(r#"{{"body":"{}"}}"#, "x".repeat(70_000));
    assert!(matches!(making.compose("m.room.message", None, &long, None), Err(PduError::TooLarge { .. })));
    assert!(making.compose(&"t".repeat(300), None, "{}", None).is_err());
    let content = CanonicalJsonObject::from([("room_version".into(), CanonicalJsonValue::from("x".repeat(70_000)))]);
    let rules = RoomVersion::V11.rules();
    let room_id = RoomId::parse("!r:a").unwrap();
    let create = compose_create(rules, Some(&room_id), &making.alice, content, 1, "");
    assert!(matches!(create, Err(PduError::TooLarge { .. })));
}
