//! Runs the test vectors of `data/vectors.json`, every one of the groups that this crate has to meet.

// The lints know tests by their attribute; here the helpers are tests as well.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use ravel_core::{
    canonical_json::{
        self, CanonicalJsonObject, CanonicalJsonValue, JsonMode, object_to_canonical_bytes, parse_object,
        to_canonical_bytes,
    },
    event::{Content, NamedLevel},
    id::{KeyId, RoomId, ServerName, UserId},
    pdu::ParsedPdu,
    redaction::redact,
    room_version::{RoomVersion, RoomVersionRules},
    signing::{
        KeyRing, PublishedKey, SigningKey, VerifyKey, decode_base64, encode_base64, encode_base64_url_safe,
        hash_and_sign_event, reference_hash, sign_json, signed_bytes, verify_json,
    },
};
use serde_json::Value;

/// Runs a check on every vector of a group, of which there must be this many.
fn each(group: &str, count: usize, check: impl Fn(&Value)) {
    let groups: BTreeMap<String, Vec<Value>> = serde_json::from_str(include_str!("data/vectors.json")).unwrap();
    let vectors = &groups[group];
    assert_eq!(vectors.len(), count, "{group}");
    for vector in vectors {
        check(vector);
    }
}

fn str<'a>(vector: &'a Value, key: &str) -> &'a str {
    vector[key].as_str().unwrap_or_else(|| panic!("no string {key} in {vector}"))
}

fn object(value: &Value) -> CanonicalJsonObject {
    parse_object(value.to_string().as_bytes(), JsonMode::Lenient).unwrap()
}

fn text(object: &CanonicalJsonObject) -> String {
    String::from_utf8(object_to_canonical_bytes(object)).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The key of group `signing_key`, which the others are signed with.
fn key() -> SigningKey {
    let seed = decode_base64("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").unwrap();
    SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &seed.try_into().unwrap())
}

fn domain() -> ServerName {
    ServerName::parse("domain").unwrap()
}

fn keys() -> KeyRing {
    let mut ring = KeyRing::new();
    let key = PublishedKey { key: key().verify_key(), valid_until_ts_ms: 2_000_000_000_000, expired_ts_ms: None };
    ring.insert(domain(), KeyId::parse("ed25519:1").unwrap(), key);
    ring
}

fn rules(version: &str) -> &'static RoomVersionRules {
    RoomVersion::parse(version).unwrap().rules()
}

/// Turns `"1-9"` into those versions.
fn versions(range: &str) -> impl Iterator<Item = RoomVersion> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let [first, last] = [first, last].map(|version| RoomVersion::parse(version).unwrap());
    RoomVersion::ALL.into_iter().filter(move |version| (first..=last).contains(version))
}

#[test]
fn server_name() {
    each("server_name", 15, |vector| match &vector["expected"] {
        expected if expected == "different servers" => {
            let [a, b] = [0, 1].map(|index| ServerName::parse(vector["input"][index].as_str().unwrap()).unwrap());
            assert_ne!(a, b);
        }
        expected => assert_eq!(ServerName::parse(str(vector, "input")).is_ok(), expected == "valid", "{vector}"),
    });
}

#[test]
fn user_id() {
    each("user_id", 9, |vector| {
        assert_eq!(UserId::parse(str(vector, "input")).is_ok(), vector["expected"] != "invalid", "{vector}");
    });
}

#[test]
fn room_id() {
    each("room_id", 6, |vector| {
        if vector["expected"] == "different rooms" {
            let (a, b) = str(vector, "input").split_once(" vs ").unwrap();
            assert_ne!(RoomId::parse(a).unwrap(), RoomId::parse(b).unwrap());
            return;
        }
        for version in versions(str(vector, "room_versions")) {
            let valid = RoomId::parse(str(vector, "input")).is_ok_and(|room_id| room_id.has_form_of(version.rules()));
            assert_eq!(valid, vector["expected"] == "valid", "{version} {vector}");
        }
    });
}

#[test]
fn canonical_json() {
    each("canonical_json", 14, |vector| {
        let value = canonical_json::parse(str(vector, "input_json_text").as_bytes(), JsonMode::Lenient).unwrap();
        let written = to_canonical_bytes(&value);
        assert_eq!(String::from_utf8_lossy(&written), str(vector, "expected"));
        assert_eq!(hex(&written), str(vector, "expected_utf8_hex"));
    });
}

#[test]
fn canonical_json_reject_v6_plus() {
    each("canonical_json_reject_v6_plus", 7, |vector| {
        let input = str(vector, "input_json_text");
        assert!(canonical_json::parse(input.as_bytes(), JsonMode::Strict).is_err(), "{vector}");
        let kept = canonical_json::parse(input.as_bytes(), JsonMode::ByteExact).unwrap();
        assert_eq!(to_canonical_bytes(&kept), input.as_bytes());
    });
}

#[test]
fn sc_021_redaction() {
    each("redaction", 8, |vector| {
        for case in vector["expected_by_version"].as_array().unwrap() {
            for version in case["room_versions"].as_array().unwrap() {
                let rules = rules(version.as_str().unwrap());
                let redacted = redact(object(&vector["input"]), &rules.redaction);
                assert_eq!(text(&redacted), text(&object(&case["expected"])), "{version} {}", vector["id"]);
                assert_eq!(text(&redact(redacted.clone(), &rules.redaction)), text(&redacted));
            }
        }
    });
}

#[test]
fn unpadded_base64() {
    each("unpadded_base64", 7, |vector| {
        let (input, expected) = (str(vector, "input_utf8"), str(vector, "expected"));
        assert_eq!(encode_base64(input.as_bytes()), expected);
        assert_eq!(decode_base64(expected).unwrap(), input.as_bytes());
    });
}

#[test]
fn url_safe_base64() {
    each("url_safe_base64", 1, |vector| {
        for encoded in [str(vector, "standard_unpadded"), str(vector, "expected")] {
            let bytes = decode_base64(encoded).unwrap();
            assert_eq!(hex(&bytes), str(vector, "input_hex"));
            assert_eq!(decode_base64(&format!("{encoded}=")).unwrap(), bytes);
            assert_eq!(encode_base64(&bytes), str(vector, "standard_unpadded"));
            assert_eq!(encode_base64_url_safe(&bytes), str(vector, "expected"));
        }
    });
}

#[test]
fn signing_key() {
    each("signing_key", 1, |vector| {
        let seed = decode_base64(str(vector, "seed_unpadded_base64")).unwrap();
        assert_eq!(hex(&seed), str(vector, "seed_hex"));
        assert_eq!(key().verify_key(), VerifyKey::from_base64(str(vector, "verify_key_unpadded_base64")).unwrap());
        assert_eq!(key().key_id().as_str(), str(vector, "key_id"));
        assert_eq!(domain().as_str(), str(vector, "server_name"));
    });
}

/// Signs an object as `domain` and checks that the signature is right, and wrong for another object.
fn sign(input: &Value) -> CanonicalJsonObject {
    let mut signed = object(input);
    sign_json(&mut signed, &domain(), &key()).unwrap();
    let verify = |object: &CanonicalJsonObject| verify_json(object, "domain", "ed25519:1", &key().verify_key());
    assert_eq!(verify(&signed), Ok(()));
    let mut changed = signed.clone();
    changed.insert("changed".into(), CanonicalJsonValue::Null);
    assert!(verify(&changed).is_err());
    changed.remove("changed");
    changed.insert("unsigned".into(), CanonicalJsonValue::Null);
    assert_eq!(verify(&changed), Ok(()));
    signed
}

#[test]
fn json_signing() {
    each("json_signing", 3, |vector| {
        if let Some(bytes) = vector.get("signed_bytes_utf8") {
            assert_eq!(String::from_utf8(signed_bytes(&object(&vector["input"]))).unwrap(), *bytes);
        }
        assert_eq!(text(&sign(&vector["input"])), text(&object(&vector["expected"])));
    });
}

#[test]
fn server_keys() {
    each("server_keys", 1, |vector| {
        assert_eq!(text(&sign(&vector["input"])), text(&object(&vector["expected"])));
    });
}

fn signature(object: &CanonicalJsonObject) -> &str {
    let of_domain = canonical_json::get_object(object, "signatures").unwrap()["domain"].as_object().unwrap();
    canonical_json::get_str(of_domain, "ed25519:1").unwrap()
}

#[test]
fn request_authentication() {
    each("request_authentication", 2, |vector| {
        let request = object(&vector["signed_object"]);
        assert_eq!(String::from_utf8(signed_bytes(&request)).unwrap(), str(vector, "signed_bytes_utf8"));
        assert_eq!(signature(&sign(&vector["signed_object"])), str(vector, "expected_signature"));
    });
}

#[test]
fn third_party_invite_signed() {
    each("third_party_invite_signed", 1, |vector| {
        assert_eq!(signature(&sign(&vector["input"])), str(vector, "expected_signature"));
        assert_eq!(VerifyKey::from_base64(str(vector, "public_key")).unwrap(), key().verify_key());
    });
}

#[test]
fn event_signing() {
    each("event_signing", 2, |vector| {
        let input = object(&vector["input"]);
        for version in versions("1-10") {
            let signed = hash_and_sign_event(input.clone(), version.rules(), &domain(), &key()).unwrap();
            assert_eq!(text(&signed), text(&object(&vector["expected"])), "{version}");
            let mut redacted = redact(signed, &version.rules().redaction);
            redacted.remove("signatures");
            assert_eq!(text(&redacted), str(vector, "signed_bytes_utf8"), "{version}");
        }
        let mut hashed = input;
        for key in ["hashes", "signatures", "unsigned"] {
            hashed.remove(key);
        }
        assert_eq!(text(&hashed), str(vector, "content_hash_input_utf8"));
    });
}

#[test]
fn sc_021_event_ids() {
    each("event_ids", 11, |vector| {
        if vector["id"] == "event-id-v3-vs-v4" {
            let json = object_to_canonical_bytes(&object(&vector["input"]));
            let id = |version: RoomVersion| {
                let pdu = ParsedPdu::parse(&json, version.rules()).unwrap().verify(&keys(), 1_000_000).unwrap();
                assert!(pdu.content_hash_matched());
                pdu.event_id().to_string()
            };
            assert_eq!(id(RoomVersion::V3), str(vector, "expected_event_id_v3"));
            for version in versions("4-10") {
                assert_eq!(id(version), str(vector, "expected_event_id_v4_to_v10"));
            }
            return;
        }
        let rules = rules(str(vector, "room_version"));
        let signed = hash_and_sign_event(object(&vector["input"]), rules, &domain(), &key()).unwrap();
        assert_eq!(signed["hashes"], object(&vector["expected_hashes"]).into());
        assert_eq!(signed["signatures"], object(&vector["expected_signatures"]).into());
        let mut redacted = redact(signed.clone(), &rules.redaction);
        redacted.remove("signatures");
        assert_eq!(text(&redacted), str(vector, "reference_hash_input_utf8"));
        assert_eq!(hex(&reference_hash(&signed, rules)), str(vector, "reference_hash_hex"));
        let pdu = ParsedPdu::parse(&object_to_canonical_bytes(&signed), rules).unwrap();
        assert_eq!(pdu.event().event_id.as_str(), str(vector, "expected_event_id"));
        assert!(pdu.verify(&keys(), 1_000_000).unwrap().content_hash_matched());
    });
}

#[test]
fn sc_021_room_id_v12() {
    each("room_id_v12", 1, |vector| {
        let rules = RoomVersion::V12.rules();
        let signed = hash_and_sign_event(object(&vector["input"]), rules, &domain(), &key()).unwrap();
        assert_eq!(signed["hashes"], object(&vector["expected_hashes"]).into());
        assert_eq!(signed["signatures"], object(&vector["expected_signatures"]).into());
        let pdu = ParsedPdu::parse(&object_to_canonical_bytes(&signed), rules).unwrap();
        let pdu = pdu.verify(&keys(), 1_000_000).unwrap();
        assert_eq!(pdu.event_id().as_str(), str(vector, "expected_event_id"));
        assert_eq!(pdu.event().room_id.as_str(), str(vector, "expected_room_id"));
        assert!(!pdu.event().carries_room_id);
    });
}

/// Reads a level (JSON text) in power levels of a room version. `None`: the event is dropped, or its power levels are invalid.
fn level(version: RoomVersion, level: &str) -> Option<i64> {
    let event_id = if version <= RoomVersion::V2 { r#""event_id":"$x:domain","# } else { "" };
    let json = format!(
        r#"{{"auth_events":[],"content":{{"ban":{level},"users":{{"@a:domain":{level}}}}},"depth":1,{event_id}
            "hashes":{{"sha256":""}},"origin_server_ts":1,"prev_events":[],"room_id":"!r:domain","sender":"@a:domain",
            "signatures":{{}},"state_key":"","type":"m.room.power_levels"}}"#
    );
    let pdu = ParsedPdu::parse(json.as_bytes(), version.rules()).ok()?;
    let Content::PowerLevels(levels) = &pdu.event().content else { panic!("not power levels") };
    let levels = levels.as_ref().ok()?;
    assert_eq!(levels.named(NamedLevel::Ban), levels.user("@a:domain"));
    Some(levels.named(NamedLevel::Ban))
}

#[test]
fn power_level_strings_v1_to_v9() {
    each("power_level_strings_v1_to_v9", 12, |vector| {
        for version in versions(str(vector, "room_versions")) {
            let read = level(version, &vector["input"].to_string());
            assert_eq!(read, vector["expected"].as_i64(), "{version} {vector}");
        }
    });
}

#[test]
fn power_level_floats_v1_to_v5() {
    each("power_level_floats_v1_to_v5", 6, |vector| {
        for version in versions(str(vector, "room_versions")) {
            let read = level(version, str(vector, "input_json"));
            assert_eq!(read, vector["expected"].as_i64(), "{version} {vector}");
        }
    });
}

#[test]
fn power_level_v10_plus() {
    each("power_level_v10_plus", 5, |vector| {
        for version in versions(str(vector, "room_versions")) {
            let read = level(version, str(vector, "input_json"));
            assert_eq!(read.is_some(), vector["expected"] == "accept", "{version} {vector}");
        }
    });
}
