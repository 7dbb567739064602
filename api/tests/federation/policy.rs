//! A room whose events another server has to sign.

use ravel_core::{
    canonical_json::{CanonicalJsonValue, JsonMode, parse_object, to_canonical_bytes},
    id::KeyId,
    pdu::POLICY_KEY_ID,
    room_version::RoomVersion::{self, V11},
    signing::{SigningKey, encode_base64, sign_event},
};
use serde_json::{Value, json};

use crate::{
    receiving::Scene,
    remote::{Asked, escaped},
};

const VERSION: RoomVersion = V11;

#[test]
fn sc_145_a_policy_server_decides_what_is_shown_and_sent() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(VERSION);
    let key = SigningKey::from_seed(KeyId::parse(POLICY_KEY_ID).unwrap(), &[1; 32]);
    let public_key = encode_base64(key.verify_key().as_bytes());
    let remote = bob.remote;
    let name = remote.name.clone();
    remote.answers(move |asked: &Asked| {
        let is_asked = asked.path == "/_matrix/policy/v1/sign" && asked.method == "POST";
        let mut event = is_asked.then(|| parse_object(&asked.body, JsonMode::Strict).unwrap())?;
        if asked.json()["content"]["body"] == "spam" {
            return Some((400, json!({ "errcode": "M_FORBIDDEN", "error": "no spam here" })));
        }
        sign_event(&mut event, VERSION.rules(), &name, &key).unwrap();
        let signatures = event["signatures"].as_object().unwrap()[name.as_str()].as_object().unwrap();
        // "Only the Policy Server's signature is returned."
        let signature = CanonicalJsonValue::from(signatures[POLICY_KEY_ID].as_str().unwrap());
        let signature: Value = serde_json::from_slice(&to_canonical_bytes(&signature)).unwrap();
        Some((200, json!({ name.as_str(): { POLICY_KEY_ID: signature } })))
    });
    let content = json!({ "via": remote.name.as_str(), "public_keys": { "ed25519": public_key } });
    alice.set(&room, "m.room.policy", &content);

    let pdus = [bob.say("good"), bob.say("spam"), bob.say("better")];
    let results = bob.send(&scene.ravel, "1", &pdus.each_ref().map(|(_, pdu)| pdu));
    for (id, _) in &pdus {
        assert_eq!(results[id], json!({}));
    }
    assert_eq!(alice.texts(&room), ["good", "better"]);

    let send = |text: &str| {
        let body = json!({ "body": text }).to_string();
        let path = format!("v3/rooms/{room}/send/m.room.message/{text}");
        alice.server.ask("PUT", &path, Some(&alice.token), body.as_bytes())
    };
    let refused = send("spam");
    assert_eq!(refused.json["error"], "no spam here");
    refused.fails(400, "M_FORBIDDEN");
    let said = send("fine").ok()["event_id"].as_str().unwrap().to_owned();
    assert_eq!(alice.texts(&room), ["good", "better", "fine"]);

    let policy_signature = |event: &Value| event["signatures"][remote.name.as_str()][POLICY_KEY_ID].clone();
    for id in [&said, &pdus[0].0] {
        let told = remote.get(&scene.ravel, &format!("v1/event/{}", escaped(id))).ok();
        assert!(policy_signature(&told["pdus"][0]).is_string(), "{told}");
    }
    // Who joins by a resident can't know of it: the resident asks.
    let (answer, _) = remote.join(&scene.ravel, &room, "carol");
    assert!(policy_signature(&answer["event"]).is_string(), "{}", answer["event"]);
}
