//! Hashes, signatures, event ids and redaction, compared with ruma-signatures on random events of every room version.

use proptest::{prelude::*, sample::select};
use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, get_object, object_to_canonical_bytes, parse_object},
    redaction::redact,
    room_version::{EventIdFormat, RoomVersion},
    signing::{
        content_hash, encode_base64, event_id_of_hash, hash_and_sign_event, reference_hash, sign_json, verify_json,
    },
};
use ravel_proptests::{
    people::{SERVERS, server_of, signing_key},
    random_json::{objects_of, strings, values},
    ruma::rules,
    seed,
};
use ruma_signatures::Ed25519KeyPair;

/// The types that redaction knows, and others.
const TYPES: &[&str] = &[
    "m.room.create",
    "m.room.member",
    "m.room.power_levels",
    "m.room.join_rules",
    "m.room.history_visibility",
    "m.room.aliases",
    "m.room.redaction",
    "m.room.third_party_invite",
    "m.room.server_acl",
    "m.room.message",
];

/// The keys that redaction keeps somewhere in `content`, and others.
const CONTENT_KEYS: &[&str] = &[
    "membership",
    "join_authorised_via_users_server",
    "third_party_invite",
    "signed",
    "creator",
    "room_version",
    "predecessor",
    "m.federate",
    "join_rule",
    "allow",
    "ban",
    "events",
    "events_default",
    "invite",
    "kick",
    "redact",
    "state_default",
    "users",
    "users_default",
    "notifications",
    "aliases",
    "history_visibility",
    "redacts",
    "body",
    "topic",
];

/// Those at the top level.
const EVENT_KEYS: &[&str] = &[
    "state_key",
    "prev_state",
    "origin",
    "membership",
    "redacts",
    "unsigned",
    "age_ts",
    "event_id",
    "room_id",
    "deny",
];

fn keys(keys: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop_oneof![6 => select(keys).prop_map(|key| format!("\"{key}\"")), 1 => strings()]
}

/// Draws the JSON text of an event.
fn events() -> impl Strategy<Value = String> {
    let signed = objects_of(select(&["\"signed\"", "\"other\""][..]).prop_map(str::to_owned), values(), 0..3);
    let content_value = prop_oneof![3 => values(), 1 => signed];
    let content = objects_of(keys(CONTENT_KEYS), content_value, 0..10);
    (select(TYPES), content, objects_of(keys(EVENT_KEYS), values(), 0..6), any::<u32>()).prop_map(
        |(event_type, content, others, ts)| {
            let mut members = vec![
                format!(r#""auth_events":["$a","$b"],"content":{content},"depth":7,"origin_server_ts":{ts}"#),
                format!(r#""prev_events":["$p"],"sender":"@alice:ash.example","type":"{event_type}""#),
            ];
            let others = others[1..others.len() - 1].to_owned();
            if !others.is_empty() {
                members.insert(0, others);
            }
            format!("{{{}}}", members.join(","))
        },
    )
}

fn ravel(json: &str) -> CanonicalJsonObject {
    parse_object(json.as_bytes(), JsonMode::ByteExact).unwrap()
}

fn ruma(json: &str) -> ruma_common::CanonicalJsonObject {
    serde_json::from_str(json).unwrap()
}

fn text(object: &CanonicalJsonObject) -> String {
    String::from_utf8(object_to_canonical_bytes(object)).unwrap()
}

fn key_pair(server: &str) -> Ed25519KeyPair {
    // PKCS #8, version 1: a fixed head and the seed.
    let mut document = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    document.extend(seed_of(server));
    Ed25519KeyPair::from_der(&document, "1".to_owned()).unwrap()
}

/// The seed that [`signing_key`] makes its keys of.
fn seed_of(server: &str) -> [u8; 32] {
    let mut seed = [7; 32];
    seed.iter_mut().zip(server.bytes()).for_each(|(byte, letter)| *byte = letter);
    seed
}

#[test]
fn hashes_signatures_and_redaction_are_those_of_ruma() {
    seed::check(3_000, &(select(&RoomVersion::ALL[..]), events(), select(&SERVERS[..])), |(version, json, server)| {
        let (rules, theirs) = (version.rules(), rules(version));
        assert_eq!(text(&ravel(&json)), serde_json::to_string(&ruma(&json)).unwrap(), "canonical JSON");

        let hash = encode_base64(&content_hash(&ravel(&json)));
        assert_eq!(hash, ruma_signatures::content_hash(&ruma(&json)).unwrap().encode(), "content hash");

        let name = server_of(&format!("@x:{server}"));
        let signed = hash_and_sign_event(ravel(&json), rules, &name, &signing_key(server));
        let mut signed_by_ruma = ruma(&json);
        ruma_signatures::hash_and_sign_event(server, &key_pair(server), &mut signed_by_ruma, &theirs.redaction)
            .unwrap();
        if keeps_odd_third_party_invite(&ravel(&json), version) {
            return;
        }
        let signed = signed.unwrap();
        assert_eq!(text(&signed), serde_json::to_string(&signed_by_ruma).unwrap(), "hashed and signed");

        let reference_hash = reference_hash(&signed, rules);
        let id = match event_id_of_hash(&reference_hash, rules.event_id_format) {
            Some(id) => id.as_str()[1..].to_owned(),
            None => encode_base64(&reference_hash),
        };
        assert_eq!(id, ruma_signatures::reference_hash(&signed_by_ruma, &theirs).unwrap(), "reference hash");
        assert_eq!(rules.event_id_format == EventIdFormat::Carried, version <= RoomVersion::V2);

        let redacted_by_ruma = ruma_common::canonical_json::redact(signed_by_ruma, &theirs.redaction, None).unwrap();
        let redacted = redact(signed, &rules.redaction);
        assert_eq!(text(&redacted), serde_json::to_string(&redacted_by_ruma).unwrap(), "redacted");
    });
}

/// From version 11 on a member event keeps `signed` of `third_party_invite`. Where that is no object, Ravel keeps nothing, as
/// Synapse; ruma keeps the value.
fn keeps_odd_third_party_invite(event: &CanonicalJsonObject, version: RoomVersion) -> bool {
    version >= RoomVersion::V11
        && event["type"].as_str() == Some("m.room.member")
        && get_object(event, "content")
            .and_then(|content| content.get("third_party_invite"))
            .is_some_and(|invite| invite.as_object().is_none())
}

#[test]
fn ruma_keeps_a_third_party_invite_that_is_no_object() {
    let json = r#"{"content":{"membership":"invite","third_party_invite":7},"type":"m.room.member"}"#;
    assert!(keeps_odd_third_party_invite(&ravel(json), RoomVersion::V11));
    let theirs = rules(RoomVersion::V11).redaction;
    let theirs = ruma_common::canonical_json::redact(ruma(json), &theirs, None).unwrap();
    let ours = redact(ravel(json), &RoomVersion::V11.rules().redaction);
    assert_eq!(serde_json::to_string(&theirs).unwrap(), json);
    assert_eq!(text(&ours), r#"{"content":{"membership":"invite"},"type":"m.room.member"}"#);
}

#[test]
fn signed_json_is_that_of_ruma() {
    let objects = objects_of(keys(EVENT_KEYS), values(), 0..6);
    seed::check(1_000, &(objects, select(&SERVERS[..])), |(json, server)| {
        let (name, key) = (server_of(&format!("@x:{server}")), signing_key(server));
        let mut ours = ravel(&json);
        sign_json(&mut ours, &name, &key).unwrap();
        let mut theirs = ruma(&json);
        ruma_signatures::sign_json(server, &key_pair(server), &mut theirs).unwrap();
        assert_eq!(text(&ours), serde_json::to_string(&theirs).unwrap());
        verify_json(&ours, server, "ed25519:1", &key.verify_key()).unwrap();
    });
}
