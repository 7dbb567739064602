//! Signatures of policy servers.

use super::{key_of, object_to_canonical_bytes, parse_object, server, signed, verify, with_signatures};
use crate::{
    canonical_json::{JsonMode, get_object, get_str},
    id::KeyId,
    pdu::{POLICY_KEY_ID, PolicyServer, VerifiedPdu},
    room_version::RoomVersion::{self, V11},
    signing::{SigningKey, encode_base64, sign_event},
};

/// The key that a policy server has beside the one that it publishes.
fn policy_key(seed: u8) -> SigningKey {
    SigningKey::from_seed(KeyId::parse(POLICY_KEY_ID).unwrap(), &[seed; 32])
}

fn policy_server(via: &str) -> PolicyServer {
    PolicyServer { via: server(via), key: Some(policy_key(1).verify_key()) }
}

/// Returns the signature of a server by a policy key.
fn signature(version: RoomVersion, pdu: &VerifiedPdu, via: &str, key: &SigningKey) -> String {
    let mut event = parse_object(pdu.json(), JsonMode::ByteExact).unwrap();
    sign_event(&mut event, version.rules(), &server(via), key).unwrap();
    let signatures = get_object(get_object(&event, "signatures").unwrap(), via).unwrap();
    get_str(signatures, POLICY_KEY_ID).unwrap().to_owned()
}

#[test]
fn sc_145_only_the_key_in_the_state_counts() {
    for version in RoomVersion::ALL {
        let (policy, pdu) = (policy_server("b"), verify(version, &signed(version, "{}", &["a", "b"])).unwrap());
        assert!(!policy.has_signed(&pdu), "what b has signed as a server of the room is not its recommendation");
        let by_another_key = signature(version, &pdu, "b", &policy_key(2));
        for wrong in [by_another_key.as_str(), "", "AA", "?"] {
            assert_eq!(policy.add_signature(&pdu, wrong), Ok(None), "{version}: {wrong}");
        }
        let good = signature(version, &pdu, "b", &policy_key(1));
        let with_it = policy.add_signature(&pdu, &good).unwrap().unwrap();
        assert!(policy.has_signed(&with_it));
        assert_eq!((with_it.event(), with_it.content_hash_matched()), (pdu.event(), true));
        // A signature of the same key in another server's name is none, and nothing is valid without a key.
        assert!(!policy_server("c").has_signed(&with_it));
        assert!(!PolicyServer { key: None, ..policy_server("b") }.has_signed(&with_it));
        let event = parse_object(with_it.json(), JsonMode::ByteExact).unwrap();
        // The signatures that there were stay, and no published key is looked for because of this one.
        assert_eq!(get_object(get_object(&event, "signatures").unwrap(), "b").unwrap().len(), 2);
        assert!(get_object(get_object(&event, "signatures").unwrap(), "a").is_some());
        assert_eq!(verify(version, &event).unwrap(), with_it);
    }
}

#[test]
fn a_redacted_event_is_signed_still() {
    let (policy, pdu) = (policy_server("b"), verify(V11, &signed(V11, "{}", &["a"])).unwrap());
    let signature = signature(V11, &pdu, "b", &policy_key(1));
    let pdu = policy.add_signature(&pdu, &signature).unwrap().unwrap();
    let redacted = VerifiedPdu::restore(&pdu.redacted_json().unwrap(), V11.rules(), None, false).unwrap();
    assert!(policy.has_signed(&redacted));
}

#[test]
fn the_published_key_of_the_policy_server_is_asked_for_alone() {
    let mut event = signed(V11, "{}", &["a"]);
    with_signatures(&mut event, "a", |of_server| {
        of_server.insert(POLICY_KEY_ID.into(), "AA".into());
    });
    let pdu = super::parse(V11, &event).unwrap();
    assert_eq!(pdu.wanted_keys().collect::<Vec<_>>(), [("a", "ed25519:1")]);
    assert_eq!(object_to_canonical_bytes(&event), **verify(V11, &event).unwrap().json());
}

#[test]
fn all_but_the_event_that_names_it_is_to_be_signed() {
    for (replaced, expected) in [
        ("{}", true),
        (r#"{"type":"m.room.policy"}"#, true),
        (r#"{"type":"m.room.policy","state_key":""}"#, false),
        (r#"{"type":"m.room.policy","state_key":"x"}"#, true),
        (r#"{"type":"m.room.power_levels","state_key":"","content":{}}"#, true),
    ] {
        let pdu = verify(V11, &signed(V11, replaced, &["a"])).unwrap();
        assert_eq!(PolicyServer::is_to_sign(pdu.event()), expected, "{replaced}");
    }
}

#[test]
fn what_names_no_policy_server_is_told_apart() {
    let of = |content: &str| PolicyServer::of_content(&parse_object(content.as_bytes(), JsonMode::ByteExact).unwrap());
    let key = encode_base64(policy_key(1).verify_key().as_bytes());
    let named = of(&format!(r#"{{"via":"b","public_keys":{{"ed25519":"{key}","other":7}}}}"#));
    assert_eq!(named, Some(policy_server("b")));
    // A text is enough, and one that is no key is the key of nobody.
    for key in ["", "?", "AA", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
        let named = of(&format!(r#"{{"via":"b","public_keys":{{"ed25519":"{key}"}}}}"#));
        assert_eq!(named, Some(PolicyServer { via: server("b"), key: None }), "{key}");
    }
    for content in [
        "{}",
        r#"{"via":"b"}"#,
        r#"{"via":"b","public_key":"AA"}"#,
        r#"{"via":"b","public_keys":"AA"}"#,
        r#"{"via":"b","public_keys":{"ed25519":7}}"#,
        r#"{"via":"b","public_keys":{"ed25518":"AA"}}"#,
        r#"{"via":7,"public_keys":{"ed25519":"AA"}}"#,
        r#"{"via":"@b","public_keys":{"ed25519":"AA"}}"#,
    ] {
        assert_eq!(of(content), None, "{content}");
    }
    assert!(key_of("b").verify_key() != policy_key(1).verify_key());
}
