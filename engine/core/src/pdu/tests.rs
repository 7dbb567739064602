mod policy_server;

use super::{ParsedPdu, PduError, SignatureError, VerifiedPdu, verify_batch};
use crate::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, JsonMode, object_to_canonical_bytes, parse_object},
    event::{Content, JoinRule},
    id::{KeyId, ServerName},
    room_version::RoomVersion::{self, V1, V2, V3, V5, V6, V8, V9, V10, V11, V12},
    signing::{KEY_LIFETIME_MAX_MS, KeyRing, PublishedKey, SigningKey, hash_and_sign_event, sign_event},
};

const NOW: i64 = 1_700_000_000_000;

fn server(name: &str) -> ServerName {
    ServerName::parse(name).unwrap()
}

/// The key `ed25519:1` of a server, made of its name.
fn key_of(name: &str) -> SigningKey {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &seed)
}

fn published(name: &str) -> PublishedKey {
    PublishedKey { key: key_of(name).verify_key(), valid_until_ts_ms: NOW, expired_ts_ms: None }
}

/// The keys of the servers `a`, `b` and `c`.
fn ring() -> KeyRing {
    let mut ring = KeyRing::new();
    for name in ["a", "b", "c"] {
        ring.insert(server(name), KeyId::parse("ed25519:1").unwrap(), published(name));
    }
    ring
}

/// A message of `@u:a` with some fields replaced; those that become null go.
fn fields(version: RoomVersion, replaced: &str) -> CanonicalJsonObject {
    let pairs = version <= V2;
    let refs = |id: &str| if pairs { format!(r#"[["{id}:a",{{"sha256":"AA"}}]]"#) } else { format!(r#"["{id}"]"#) };
    let room_id = if version == V12 { "!AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA" } else { "!r:a" };
    let event_id = if pairs { r#","event_id":"$x:a""# } else { "" };
    let json = format!(
        r#"{{"auth_events":{},"content":{{"body":"hi"}},"depth":7,"origin_server_ts":{},"prev_events":{},
            "room_id":"{room_id}","sender":"@u:a","type":"m.room.message"{event_id}}}"#,
        refs("$c"),
        NOW - 1000,
        refs("$p"),
    );
    let mut object = parse_object(json.as_bytes(), JsonMode::ByteExact).unwrap();
    for (key, value) in parse_object(replaced.as_bytes(), JsonMode::ByteExact).unwrap() {
        if value == CanonicalJsonValue::Null {
            object.remove(&key);
        } else {
            object.insert(key, value);
        }
    }
    object
}

/// Such an event, hashed and signed by servers.
fn signed(version: RoomVersion, replaced: &str, servers: &[&str]) -> CanonicalJsonObject {
    let mut event = fields(version, replaced);
    event.insert("signatures".into(), CanonicalJsonObject::new().into());
    for (index, name) in servers.iter().enumerate() {
        if index == 0 {
            event = hash_and_sign_event(event, version.rules(), &server(name), &key_of(name)).unwrap();
        } else {
            sign_event(&mut event, version.rules(), &server(name), &key_of(name)).unwrap();
        }
    }
    if servers.is_empty() {
        let hashes = parse_object(br#"{"sha256":"AA"}"#, JsonMode::Strict).unwrap();
        event.insert("hashes".into(), hashes.into());
    }
    event
}

fn parse(version: RoomVersion, event: &CanonicalJsonObject) -> Result<ParsedPdu, PduError> {
    ParsedPdu::parse(&object_to_canonical_bytes(event), version.rules())
}

fn verify(version: RoomVersion, event: &CanonicalJsonObject) -> Result<VerifiedPdu, SignatureError> {
    parse(version, event).unwrap().verify(&ring(), NOW)
}

/// Checks the format of the signed event with some fields replaced.
fn check_format(versions: &[RoomVersion], replaced: &str, expected: &Result<(), PduError>) {
    for version in versions {
        let parsed = parse(*version, &signed(*version, replaced, &["a"]));
        assert_eq!(parsed.map(drop), *expected, "{version}: {replaced}");
    }
}

fn field(field: &'static str, expected: &'static str) -> Result<(), PduError> {
    Err(PduError::Field { field, expected })
}

fn without_room_version_12() -> &'static [RoomVersion] {
    &RoomVersion::ALL[..11]
}

#[test]
fn required_fields_and_their_types() {
    let all = &RoomVersion::ALL;
    check_format(all, "{}", &Ok(()));
    for (name, expected) in [
        ("type", "a string"),
        ("sender", "a string"),
        ("room_id", "a string"),
        ("content", "an object"),
        ("depth", "an integer"),
        ("origin_server_ts", "an integer"),
        ("prev_events", "an array"),
        ("auth_events", "an array"),
    ] {
        check_format(all, &format!("{{\"{name}\":null}}"), &field(name, expected));
        check_format(all, &format!("{{\"{name}\":true}}"), &field(name, expected));
    }
    check_format(all, r#"{"state_key":7}"#, &field("state_key", "a string"));
    check_format(&[V3, V12], r#"{"prev_events":[["$a",{}]]}"#, &field("prev_events", "an array of event ids"));
    for bad in [r#""$a:a""#, r#"["$a:a"]"#, r#"["$a:a",7]"#, r#"["$a:a",{},1]"#, "[7,{}]"] {
        let expected = field("auth_events", "an array of pairs of event id and hashes");
        check_format(&[V1, V2], &format!(r#"{{"auth_events":[{bad}]}}"#), &expected);
    }
    for (hashes, signatures, expected) in [
        ("{}", "{}", "hashes"),
        (r#"{"sha256":1}"#, "{}", "hashes"),
        (r#"{"sha256":"?"}"#, "{}", "hashes"),
        (r#"{"sha256":"AA"}"#, "[]", "signatures"),
    ] {
        let event = fields(V10, &format!(r#"{{"hashes":{hashes},"signatures":{signatures}}}"#));
        assert!(matches!(parse(V10, &event), Err(PduError::Field { field, .. }) if field == expected));
    }
    assert!(matches!(ParsedPdu::parse(b"[]", V10.rules()), Err(PduError::Json(_))));
    for name in ["sender", "room_id"] {
        for version in RoomVersion::ALL {
            let event = signed(version, &format!("{{\"{name}\":\"x\"}}"), &["a"]);
            assert!(matches!(parse(version, &event), Err(PduError::Id { field, .. }) if field == name), "{version}");
        }
    }
}

#[test]
fn sc_033_sc_065_lists_are_bounded() {
    let list = |count: usize| vec![r#""$e""#; count].join(",");
    let event = |field: &str, count: usize| format!(r#"{{"{field}":[{}]}}"#, list(count));
    check_format(&[V3, V12], &event("prev_events", 20), &Ok(()));
    check_format(&[V3, V12], &event("auth_events", 10), &Ok(()));
    let too_many = |field, count| Err(PduError::TooManyEntries { field, count });
    check_format(&[V3, V12], &event("prev_events", 21), &too_many("prev_events", 21));
    check_format(&[V3, V12], &event("auth_events", 11), &too_many("auth_events", 11));
    check_format(&[V3, V12], &event("auth_events", 10_000), &too_many("auth_events", 10_000));
}

#[test]
fn sc_065_history_is_not_checked_against_the_counts_of_today() {
    for (field, count) in [("prev_events", 1_000), ("auth_events", 11)] {
        let event = signed(V3, &format!(r#"{{"{field}":[{}]}}"#, vec![r#""$e""#; count].join(",")), &["a"]);
        assert!(matches!(parse(V3, &event), Err(PduError::TooManyEntries { .. })));
        let pdu = ParsedPdu::parse_history(&object_to_canonical_bytes(&event), V3.rules()).unwrap();
        // And is found again in the log.
        let json = object_to_canonical_bytes(pdu.json());
        let restored = VerifiedPdu::restore(&json, V3.rules(), None, true).unwrap();
        assert_eq!(restored.event().prev_events.len().max(restored.event().auth_events.len()), count);
    }
}

#[test]
fn sc_010_depth_range_by_room_version() {
    let depth = |version: RoomVersion, depth: &str| {
        parse(version, &signed(version, &format!(r#"{{"depth":{depth}}}"#), &["a"])).map(|pdu| pdu.event().depth)
    };
    for version in RoomVersion::ALL {
        assert_eq!(depth(version, "0"), Ok(0));
        assert_eq!(depth(version, "9007199254740991"), Ok((1 << 53) - 1));
        assert_eq!(depth(version, "-1"), Err(PduError::NegativeDepth));
        assert!(depth(version, "1.0").is_err());
        assert!(depth(version, "1e3").is_err());
        assert!(depth(version, "\"1\"").is_err());
        for (large, saturated) in
            [("9007199254740992", 1 << 53), ("9223372036854775807", i64::MAX), ("9223372036854775808", i64::MAX)]
        {
            assert_eq!(depth(version, large).ok(), (version < V6).then_some(saturated), "{version}");
        }
        let late = parse(version, &signed(version, r#"{"origin_server_ts":9007199254740992}"#, &["a"]));
        assert_eq!(late.is_ok(), version < V6, "{version}");
    }
}

#[test]
fn sc_014_field_lengths_in_code_points_and_bytes() {
    /// Checks whether the event is dropped (`None`), or else whether a field is oversized.
    fn check(version: RoomVersion, field: &str, value: &str, expected: Option<bool>) {
        let parsed = parse(version, &signed(version, &format!(r#"{{"{field}":"{value}"}}"#), &["a"]));
        let len = value.len();
        assert_eq!(parsed.map(|pdu| pdu.event().oversized_field).ok(), expected, "{version} {field} of {len} bytes");
    }
    for version in RoomVersion::ALL {
        let lenient = (version < V11).then_some(true);
        for (field, before, after) in [
            ("type", "", ""),
            ("state_key", "", ""),
            ("sender", "@", ":a"),
            ("room_id", "!", ":a"),
            ("event_id", "$", ":a"),
        ] {
            if field == "event_id" && version > V2 {
                continue;
            }
            let value =
                |c: &str, count: usize| format!("{before}{}{after}", c.repeat(count - before.len() - after.len()));
            check(version, field, &value("x", 255), Some(false));
            check(version, field, &value("x", 256), None);
            check(version, field, &value("\u{10000}", 255), lenient);
            check(version, field, &value("\u{10000}", 256), None);
        }
    }
}

#[test]
fn sc_015_size_with_signatures_and_without_unsigned() {
    for version in RoomVersion::ALL {
        let of_size = |bytes: usize| {
            let with_body =
                |len: usize| signed(version, &format!(r#"{{"content":{{"body":"{}"}}}}"#, "x".repeat(len)), &["a"]);
            let overhead = object_to_canonical_bytes(&with_body(0)).len();
            let event = with_body(bytes - overhead);
            assert_eq!(object_to_canonical_bytes(&event).len(), bytes);
            event
        };
        let mut largest = of_size(65_536);
        assert!(verify(version, &largest).is_ok());
        assert_eq!(parse(version, &of_size(65_537)).map(drop), Err(PduError::TooLarge { bytes: 65_537 }));
        largest.insert("unsigned".into(), "x".repeat(1000).into());
        let pdu = parse(version, &largest).unwrap();
        assert!(!pdu.json().contains_key("unsigned"));
        // White space does not count.
        let spaced = [&b" ".repeat(1000)[..], &object_to_canonical_bytes(&largest)].concat();
        assert!(ParsedPdu::parse(&spaced, version.rules()).is_ok());
    }
    assert!(matches!(ParsedPdu::parse(&b" ".repeat(2 << 20), V12.rules()), Err(PduError::TooLarge { .. })));
}

#[test]
fn sc_002_signature_of_the_senders_server_by_a_known_key() {
    let missing = |server: &str| Err(SignatureError::Missing { server: server.into() });
    for version in RoomVersion::ALL {
        assert!(verify(version, &signed(version, "{}", &["a"])).is_ok());
        assert!(verify(version, &signed(version, "{}", &["a", "b"])).is_ok());
        assert_eq!(verify(version, &signed(version, "{}", &["b"])).map(drop), missing("a"));
        assert_eq!(verify(version, &signed(version, "{}", &[])).map(drop), missing("a"));

        // With another key id it is no signature that counts, and it does no harm.
        let rename = |event: &mut CanonicalJsonObject, key_ids: &[&str]| {
            with_signatures(event, "a", |of_server| {
                let signature = of_server.remove("ed25519:1").unwrap();
                for key_id in key_ids {
                    of_server.insert((*key_id).into(), signature.clone());
                }
            });
        };
        for key_id in ["ed25519:2", "rsa:1", "ed25519", "ed25519:policy_server", "ED25519:1"] {
            let mut event = signed(version, "{}", &["a"]);
            rename(&mut event, &[key_id]);
            assert_eq!(verify(version, &event).map(drop), missing("a"), "{key_id}");
            let mut event = signed(version, "{}", &["a"]);
            rename(&mut event, &[key_id, "ed25519:1"]);
            assert!(verify(version, &event).is_ok(), "{key_id}");
        }

        // A wrong signature by a known key.
        for wrong in ["", "AA", "?"].map(CanonicalJsonValue::from).into_iter().chain([CanonicalJsonValue::Null]) {
            let mut event = signed(version, "{}", &["a"]);
            with_signatures(&mut event, "a", |of_server| {
                of_server.insert("ed25519:1".into(), wrong);
            });
            assert!(matches!(verify(version, &event), Err(SignatureError::Invalid { .. })));
        }
        // Signed by b's key in a's name.
        let event = hash_and_sign_event(fields(version, "{}"), version.rules(), &server("a"), &key_of("b")).unwrap();
        assert!(matches!(verify(version, &event), Err(SignatureError::Invalid { .. })));
        // Something that the signature covers was changed.
        let mut event = signed(version, "{}", &["a"]);
        event.insert("depth".into(), CanonicalJsonValue::Integer(8));
        assert!(matches!(verify(version, &event), Err(SignatureError::Invalid { .. })));
    }
}

fn with_signatures(event: &mut CanonicalJsonObject, server: &str, change: impl FnOnce(&mut CanonicalJsonObject)) {
    let Some(CanonicalJsonValue::Object(signatures)) = event.get_mut("signatures") else { panic!("no signatures") };
    let Some(CanonicalJsonValue::Object(of_server)) = signatures.get_mut(server) else { panic!("no {server}") };
    change(of_server);
}

#[test]
fn a_bad_signature_is_not_outweighed_by_a_good_one() {
    let mut keys = ring();
    let second = PublishedKey { key: key_of("b").verify_key(), ..published("a") };
    keys.insert(server("a"), KeyId::parse("ed25519:2").unwrap(), second);
    let mut event = signed(V10, "{}", &["a"]);
    with_signatures(&mut event, "a", |of_server| {
        let signature = of_server["ed25519:1"].clone();
        of_server.insert("ed25519:2".into(), signature);
    });
    assert!(verify(V10, &event).is_ok());
    let verdict = parse(V10, &event).unwrap().verify(&keys, NOW);
    assert_eq!(verdict.map(drop), Err(SignatureError::Invalid { server: "a".into(), key_id: "ed25519:2".into() }));
}

#[test]
fn sc_004_sc_005_keys_count_at_the_time_of_the_event() {
    for version in RoomVersion::ALL {
        let check = |valid_until_ts_ms: i64, expired_ts_ms: Option<i64>, origin_server_ts: i64, expected: bool| {
            let mut keys = ring();
            let key = PublishedKey { valid_until_ts_ms, expired_ts_ms, ..published("a") };
            keys.insert(server("a"), KeyId::parse("ed25519:1").unwrap(), key);
            let event = signed(version, &format!(r#"{{"origin_server_ts":{origin_server_ts}}}"#), &["a"]);
            let verdict = parse(version, &event).unwrap().verify(&keys, NOW);
            assert_eq!(verdict.is_ok(), expected, "{version}: {key:?}");
        };
        let before_5 = version < V5;
        check(NOW, None, NOW, true);
        check(NOW - 1, None, NOW, before_5);
        check(NOW, Some(NOW - 1), NOW - 1, true);
        check(NOW, Some(NOW - 1), NOW, false);
        check(NOW + 2 * KEY_LIFETIME_MAX_MS, None, NOW + KEY_LIFETIME_MAX_MS + 1, before_5);
    }
}

#[test]
fn sc_016_wrong_content_hash_makes_the_redacted_event() {
    for version in RoomVersion::ALL {
        let event = signed(version, r#"{"content":{"join_rule":"public","x":1},"type":"m.room.join_rules"}"#, &["a"]);
        let whole = verify(version, &event).unwrap();
        assert!(whole.content_hash_matched());
        assert_eq!(**whole.json(), *object_to_canonical_bytes(&event));

        let mut changed = event.clone();
        changed.insert(
            "content".into(),
            parse_object(br#"{"join_rule":"public","x":2}"#, JsonMode::Strict).unwrap().into(),
        );
        changed.insert("extra".into(), "x".into());
        let redacted = verify(version, &changed).unwrap();
        assert!(!redacted.content_hash_matched());
        assert_eq!(redacted.event_id(), whole.event_id());
        assert_eq!(redacted.event().content, Content::JoinRules(JoinRule::Public));
        assert_eq!(**redacted.json(), *whole.redacted_json().unwrap());
        assert_eq!(*redacted.event().as_ref(), whole.redacted_event().unwrap());
        let kept = parse_object(redacted.json(), JsonMode::ByteExact).unwrap();
        assert_eq!(object_to_canonical_bytes(kept["content"].as_object().unwrap()), br#"{"join_rule":"public"}"#);
        assert!(!kept.contains_key("extra"));

        // A key that redaction keeps is covered by the signature.
        changed.insert("content".into(), parse_object(br#"{"join_rule":"invite"}"#, JsonMode::Strict).unwrap().into());
        assert!(matches!(verify(version, &changed), Err(SignatureError::Invalid { .. })));
    }
}

#[test]
fn sc_016_redaction_changes_the_decoded_content() {
    let levels = r#"{"content":{"invite":60,"ban":50},"state_key":"","type":"m.room.power_levels"}"#;
    for version in RoomVersion::ALL {
        let pdu = verify(version, &signed(version, levels, &["a"])).unwrap();
        let redacted = pdu.redacted_event().unwrap();
        let Content::PowerLevels(Ok(levels)) = &redacted.content else { panic!("{redacted:?}") };
        assert_eq!(levels.named.len(), if version < V11 { 1 } else { 2 }, "{version}");
        assert_eq!(redacted.event_id, *pdu.event_id());
    }
}

#[test]
fn sc_017_event_id_is_computed_from_version_3_on() {
    for version in RoomVersion::ALL {
        let plain = verify(version, &signed(version, "{}", &["a"])).unwrap();
        let bogus = verify(version, &signed(version, r#"{"event_id":"$bogus:a"}"#, &["a"])).unwrap();
        if version <= V2 {
            assert_eq!(plain.event_id().as_str(), "$x:a");
            assert_eq!(bogus.event_id().as_str(), "$bogus:a");
        } else {
            assert_eq!(bogus.event_id().as_str().len(), 44);
            assert_ne!(bogus.event_id().as_str(), "$bogus:a");
            check_format(&[version], r#"{"event_id":7}"#, &Ok(()));
        }
    }
    check_format(&[V1, V2], r#"{"event_id":null}"#, &field("event_id", "a string"));
    check_format(&[V1, V2], r#"{"event_id":"$x"}"#, &field("event_id", "an id with a domain"));
}

#[test]
fn sc_018_server_of_the_event_id_must_sign_in_versions_1_and_2() {
    let missing = |server: &str| Err(SignatureError::Missing { server: server.into() });
    for version in [V1, V2] {
        let by = |servers| verify(version, &signed(version, r#"{"event_id":"$x:b"}"#, servers)).map(drop);
        assert_eq!(by(&["a"]), missing("b"));
        assert_eq!(by(&["b"]), missing("a"));
        assert_eq!(by(&["a", "b"]), Ok(()));
    }
    assert!(verify(V3, &signed(V3, r#"{"event_id":"$x:b"}"#, &["a"])).is_ok());
}

#[test]
fn sc_048_third_party_invite_needs_no_signature_of_the_senders_server_while_it_is_one() {
    let invite = |invite: &str| {
        format!(
            r#"{{"content":{{"membership":"invite","third_party_invite":{invite}}},"state_key":"@t:b","type":"m.room.member"}}"#
        )
    };
    let complete = invite(r#"{"display_name":"t","signed":{"mxid":"@t:b","signatures":{},"token":"x"}}"#);
    for version in RoomVersion::ALL {
        let event = signed(version, &complete, &["b"]);
        assert!(verify(version, &event).is_ok());
        assert!(verify(version, &signed(version, &complete.replace("\"invite\"", "\"join\""), &["b"])).is_err());
        assert!(verify(version, &signed(version, &invite("{}"), &["b"])).is_err());
        assert!(verify(version, &signed(version, &invite("7"), &["b"])).is_err());

        // With a wrong content hash it becomes, where redaction takes the third-party invite away, an ordinary invite in the
        // name of somebody who did not sign it.
        let mut forged = event.clone();
        forged.insert("extra".into(), "x".into());
        assert_eq!(verify(version, &forged).is_ok(), version >= V11, "{version}");
    }
}

#[test]
fn sc_037_signature_of_the_authorising_users_server_is_recorded() {
    let join = |user: &str| {
        format!(
            r#"{{"content":{{"join_authorised_via_users_server":{user},"membership":"join"}},"state_key":"@u:a","type":"m.room.member"}}"#
        )
    };
    for version in RoomVersion::ALL {
        let recorded = |user: &str, servers: &[&str]| {
            verify(version, &signed(version, &join(user), servers)).unwrap().authorising_user_signed()
        };
        let known = |signed: bool| (version >= V8).then_some(signed);
        assert_eq!(recorded(r#""@v:b""#, &["a", "b"]), known(true));
        assert_eq!(recorded(r#""@v:b""#, &["a"]), known(false));
        assert_eq!(recorded(r#""@v:b""#, &["a", "c"]), known(false));
        assert_eq!(recorded(r#""@v:a""#, &["a"]), known(true));
        assert_eq!(recorded(r#""nobody""#, &["a"]), known(false));
        assert_eq!(recorded("7", &["a"]), known(false));
        assert_eq!(verify(version, &signed(version, "{}", &["a"])).unwrap().authorising_user_signed(), None);

        // Version 8 does not protect the key from redaction.
        let mut changed = signed(version, &join(r#""@v:b""#), &["a", "b"]);
        changed.insert("extra".into(), "x".into());
        let expected = (version >= V9).then_some(true);
        assert_eq!(verify(version, &changed).unwrap().authorising_user_signed(), expected, "{version}");
    }
}

#[test]
fn sc_042_create_event_of_version_12_makes_its_room_id() {
    let create = r#"{"auth_events":[],"content":{"room_version":"12"},"depth":1,"prev_events":[],"state_key":"","type":"m.room.create"}"#;
    let without = create.replace("\"auth", "\"room_id\":null,\"auth");
    let pdu = verify(V12, &signed(V12, &without, &["a"])).unwrap();
    assert_eq!(pdu.event().room_id.as_str()[1..], pdu.event_id().as_str()[1..]);
    assert!(!pdu.event().carries_room_id);
    let carrying = verify(V12, &signed(V12, create, &["a"])).unwrap();
    assert!(carrying.event().carries_room_id);
    assert_ne!(carrying.event().room_id.as_str()[1..], carrying.event_id().as_str()[1..]);
    for version in without_room_version_12() {
        assert!(parse(*version, &signed(*version, &without, &["a"])).is_err());
    }
    check_format(&[V12], &without.replace("m.room.create", "m.room.topic"), &field("room_id", "a string"));
}

#[test]
fn sc_019_unsigned_is_dropped() {
    for version in RoomVersion::ALL {
        let mut event = signed(version, "{}", &["a"]);
        let plain = verify(version, &event).unwrap();
        let unsigned =
            parse_object(br#"{"age":1.5,"prev_content":{},"redacted_because":{}}"#, JsonMode::ByteExact).unwrap();
        event.insert("unsigned".into(), unsigned.into());
        assert_eq!(verify(version, &event).unwrap(), plain);
    }
}

#[test]
fn sc_012_numbers_of_old_rooms_survive_unchanged() {
    let odd = r#"{"content":{"x":[1.0,1e3,-0,-0.0,123456789012345678901234567890]}}"#;
    for version in RoomVersion::ALL {
        let event = signed(version, odd, &["a"]);
        if version < V6 {
            let pdu = verify(version, &event).unwrap();
            assert!(pdu.content_hash_matched());
            assert!(String::from_utf8_lossy(pdu.json()).contains("[1.0,1e3,-0,-0.0,123456789012345678901234567890]"));
        } else {
            assert!(matches!(parse(version, &event), Err(PduError::Json(_))));
        }
    }
}

#[test]
fn restored_event_is_the_same() {
    let join = r#"{"content":{"join_authorised_via_users_server":"@v:b","membership":"join","x":1},"state_key":"@u:a","type":"m.room.member"}"#;
    for version in RoomVersion::ALL {
        let mut event = signed(version, join, &["a", "b"]);
        for _ in 0..2 {
            let pdu = verify(version, &event).unwrap();
            let restore = |json: &[u8]| {
                let (signed, matched) = (pdu.authorising_user_signed(), pdu.content_hash_matched());
                VerifiedPdu::restore(json, version.rules(), signed, matched)
            };
            assert_eq!(restore(pdu.json()), Ok(pdu.clone()));
            let after_redaction = restore(&pdu.redacted_json().unwrap()).unwrap();
            assert_eq!(**after_redaction.event(), pdu.redacted_event().unwrap());
            assert_eq!(after_redaction.event_id(), pdu.event_id());
            assert_eq!(restore(&[&b" "[..], &**pdu.json()].concat()), Err(PduError::NotCanonical));
            event.insert("extra".into(), "wrong hash".into());
        }
    }
}

#[test]
fn sc_085_a_batch_gives_the_verdicts_of_one_by_one() {
    let events = [
        signed(V10, "{}", &["a"]),
        signed(V10, "{}", &["b"]),
        signed(V10, r#"{"depth":9}"#, &["a", "c"]),
        hash_and_sign_event(fields(V10, "{}"), V10.rules(), &server("a"), &key_of("b")).unwrap(),
    ];
    let batch = verify_batch(events.iter().map(|event| parse(V10, event).unwrap()).collect(), &ring(), NOW);
    let single: Vec<_> = events.iter().map(|event| verify(V10, event)).collect();
    assert_eq!(batch, single);
    assert_eq!(batch.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true, false]);
}

#[test]
fn wanted_keys_are_those_of_the_needed_servers() {
    let event = signed(V1, r#"{"event_id":"$x:b"}"#, &["a", "b", "c"]);
    let pdu = parse(V1, &event).unwrap();
    assert_eq!(pdu.wanted_keys().collect::<Vec<_>>(), [("a", "ed25519:1"), ("b", "ed25519:1")]);
    let join = r#"{"content":{"join_authorised_via_users_server":"@v:c","membership":"join"},"state_key":"@u:a","type":"m.room.member"}"#;
    let pdu = parse(V10, &signed(V10, join, &["a", "b", "c"])).unwrap();
    assert_eq!(pdu.wanted_keys().collect::<Vec<_>>(), [("a", "ed25519:1"), ("c", "ed25519:1")]);
}

#[test]
fn redacts_is_where_the_room_version_has_it() {
    let event = r#"{"content":{"redacts":"$in_content"},"redacts":"$on_top","type":"m.room.redaction"}"#;
    for version in RoomVersion::ALL {
        let pdu = parse(version, &signed(version, event, &["a"])).unwrap();
        let Content::Redaction(Some(redacts)) = &pdu.event().content else { panic!("{:?}", pdu.event()) };
        assert_eq!(redacts.as_str(), if version < V11 { "$on_top" } else { "$in_content" });
    }
}
