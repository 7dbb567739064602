//! Whatever comes over the wire, the first checks answer; they never panic.

use proptest::{collection::vec, prelude::*};
use ravel_core::{
    canonical_json::{
        CanonicalJsonObject, CanonicalJsonValue, JsonMode, get_object, get_str, object_to_canonical_bytes, parse,
    },
    event::Event,
    pdu::{ParsedPdu, VerifiedPdu},
    redaction::redact,
    room_version::RoomVersion,
    signing::{content_hash, decode_base64, hash_and_sign_event},
};
use ravel_proptests::{
    draft::Draft,
    people::{NOW_MS, SERVERS, key_ring, server_of, signing_key},
    plan::{Style, plans},
    random_json::{objects_of, strings, values},
    seed::{self, Choices},
};

use crate::replay::delivered;

/// Takes bytes as far as they get. What is verified must come back from the log as it is.
fn receive(bytes: &[u8], version: RoomVersion) -> Option<VerifiedPdu> {
    let rules = version.rules();
    let parsed = ParsedPdu::parse(bytes, rules).ok()?;
    let (event, json): (Event, CanonicalJsonObject) = (parsed.event().clone(), parsed.json().clone());
    assert!(parsed.wanted_keys().all(|(server, key_id)| !server.is_empty() && key_id.starts_with("ed25519:")));
    let pdu = parsed.verify(&key_ring(), NOW_MS).ok()?;
    assert_eq!(event.event_id, *pdu.event_id(), "redacted or not, the id is the same");
    let claimed = get_object(&json, "hashes").and_then(|hashes| decode_base64(get_str(hashes, "sha256")?));
    let matches = claimed.is_some_and(|claimed| claimed == content_hash(&json));
    assert_eq!(pdu.content_hash_matched(), matches);
    let kept = if matches { json } else { redact(json, &rules.redaction) };
    assert_eq!(**pdu.json(), *object_to_canonical_bytes(&kept), "whose content hash is wrong is redacted");
    assert_eq!(pdu.redacted_event().unwrap().event_id, event.event_id);
    let restored =
        VerifiedPdu::restore(pdu.json(), rules, pdu.authorising_user_signed(), pdu.content_hash_matched()).unwrap();
    assert_eq!(restored, pdu);
    Some(pdu)
}

#[test]
fn random_bytes_are_answered() {
    const TOKENS: &[&[u8]] =
        &[b"{", b"}", b"[", b"]", b":", b",", b"\"", b"\\u", b"\\ud800", b"1e9", b"-", b"0", b"\xf0\x9f"];
    let pieces = prop_oneof![
        3 => any::<u8>().prop_map(|byte| vec![byte]),
        3 => values().prop_map(String::into_bytes),
        2 => prop::sample::select(TOKENS).prop_map(<[u8]>::to_vec),
    ];
    seed::check(2_000, &vec(pieces, 0..40), |pieces| {
        let bytes = pieces.concat();
        for version in RoomVersion::ALL {
            assert!(receive(&bytes, version).is_none(), "nobody signed that");
        }
        let as_content = [br#"{"type":"m.room.member","content":"#, &bytes[..], b"}"].concat();
        assert!(receive(&as_content, RoomVersion::V10).is_none());
    });
}

#[test]
fn random_objects_are_answered() {
    const KEYS: &[&str] = &[
        "auth_events",
        "content",
        "depth",
        "event_id",
        "hashes",
        "origin_server_ts",
        "prev_events",
        "room_id",
        "sender",
        "signatures",
        "state_key",
        "type",
        "unsigned",
        "redacts",
        "sha256",
        "membership",
        "users",
    ];
    let keys = || prop_oneof![9 => prop::sample::select(KEYS).prop_map(|key| format!("\"{key}\"")), 1 => strings()];
    seed::check(2_000, &objects_of(keys(), prop_oneof![values(), objects_of(keys(), values(), 0..5)], 0..16), |json| {
        for version in RoomVersion::ALL {
            assert!(receive(json.as_bytes(), version).is_none());
        }
    });
}

#[test]
fn real_events_with_changed_bytes_are_answered() {
    seed::check(300, &(plans(&RoomVersion::ALL, Style::Hostile, 1..12), any::<u64>()), |(plan, choices)| {
        let mut choices = Choices::new(choices);
        for event in Draft::of(&plan).signed() {
            let bytes = object_to_canonical_bytes(&event);
            assert!(receive(&bytes, plan.version).is_some());
            for _ in 0..8 {
                let mut bytes = bytes.clone();
                for _ in 0..=choices.below(3) {
                    change_bytes(&mut bytes, &mut choices);
                }
                receive(&bytes, plan.version);
            }
        }
    });
}

fn change_bytes(bytes: &mut Vec<u8>, choices: &mut Choices) {
    let place = choices.below(bytes.len());
    let end = (place + choices.below(20)).min(bytes.len());
    match choices.below(6) {
        0 => bytes.truncate(place),
        1 => drop(bytes.drain(place..end)),
        2 => bytes.extend_from_within(place..end),
        3 => bytes.insert(place, b"\"\\{}[],:0-eE.\xff"[choices.below(14)]),
        _ => {
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1 << choices.below(8);
            }
        }
    }
}

/// Some value of an event becomes another, and the event is signed again: that gets as far as the rules.
#[test]
fn real_events_with_changed_values_are_answered() {
    let strategy = (plans(&RoomVersion::ALL, Style::Hostile, 1..16), vec(values(), 8), any::<u64>());
    let judged = std::cell::Cell::new(0);
    seed::check(300, &strategy, |(plan, values, choices)| {
        let mut choices = Choices::new(choices);
        let draft = Draft::of(&plan);
        let mut room = delivered(&draft, &draft.verified());
        for event in draft.signed() {
            let mut changed = CanonicalJsonValue::Object(event.clone());
            for _ in 0..=choices.below(2) {
                let value = parse(values[choices.below(values.len())].as_bytes(), JsonMode::ByteExact).unwrap();
                change_value(&mut changed, value, &mut choices);
            }
            let CanonicalJsonValue::Object(changed) = changed else { continue };
            receive(&object_to_canonical_bytes(&changed), plan.version);
            let Some(signed) = signed_again(changed, &draft) else { continue };
            if let Some(pdu) = receive(&object_to_canonical_bytes(&signed), plan.version) {
                judged.set(judged.get() + 1);
                room.handle_pdu(&pdu).unwrap();
            }
        }
    });
    if std::env::var_os(seed::SEED_VARIABLE).is_none() {
        assert!(judged.get() > 300, "only {} changed events got as far as the rules", judged.get());
    }
}

/// Goes some way down into a value, and puts another there or takes it away.
fn change_value(value: &mut CanonicalJsonValue, new: CanonicalJsonValue, choices: &mut Choices) {
    match value {
        CanonicalJsonValue::Object(object) if !object.is_empty() => {
            let key = object.keys().nth(choices.below(object.len())).unwrap().clone();
            match choices.below(4) {
                0 => drop(object.remove(&key)),
                1 => drop(object.insert(key, new)),
                _ => change_value(object.get_mut(&key).unwrap(), new, choices),
            }
        }
        CanonicalJsonValue::Array(array) if !array.is_empty() => {
            let place = choices.below(array.len());
            match choices.below(4) {
                0 => drop(array.remove(place)),
                1 => array.push(new),
                _ => change_value(&mut array[place], new, choices),
            }
        }
        leaf => *leaf = new,
    }
}

/// Hashes and signs an event by all servers, as far as it can be signed at all.
fn signed_again(mut event: CanonicalJsonObject, draft: &Draft) -> Option<CanonicalJsonObject> {
    event.remove("signatures");
    for server in SERVERS {
        let name = server_of(&format!("@x:{server}"));
        event = hash_and_sign_event(event, draft.rules(), &name, &signing_key(server)).ok()?;
    }
    Some(event)
}
