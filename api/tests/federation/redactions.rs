//! Redactions that other servers send.

use ravel_core::room_version::RoomVersion::{V5, V11};
use serde_json::{Value, json};

use crate::{member::Local, receiving::Scene};

fn redaction(redacts: &str) -> Value {
    json!({ "type": "m.room.redaction", "redacts": redacts, "content": { "redacts": redacts } })
}

fn event(scene: &Scene, alice: &Local<'_>, room: &str, event_id: &str) -> Value {
    scene.ravel.get(&format!("v3/rooms/{room}/event/{event_id}"), Some(&alice.token)).ok()
}

#[test]
fn a_redaction_that_its_sender_may_not_make_is_as_if_it_was_not_there() {
    let scene = Scene::new();
    for version in [V5, V11] {
        let (alice, room, bob) = scene.room(version);
        let said = alice.say(&room, "hers");
        let (forged, pdu) = bob.event(&redaction(&said));
        bob.send(&scene.ravel, &format!("{version:?}-1"), &[&pdu]);
        assert_eq!(event(&scene, &alice, &room, &said)["content"]["body"], "hers");
        let path = format!("v3/rooms/{room}/event/{forged}");
        scene.ravel.get(&path, Some(&alice.token)).fails(404, "M_NOT_FOUND");
        assert!(alice.events(&room).iter().all(|event| event["event_id"] != forged.as_str()));

        let path = format!("v3/rooms/{room}/redact/{said}/{version:?}");
        let redacted_by = scene.ravel.ask("PUT", &path, Some(&alice.token), b"{}").ok()["event_id"].clone();
        let (_, pdu) = bob.event(&json!({ "content": { "body": "again" } }));
        let (_, again) = bob.event(&redaction(&said));
        bob.send(&scene.ravel, &format!("{version:?}-2"), &[&pdu, &again]);
        let shown = event(&scene, &alice, &room, redacted_by.as_str().unwrap());
        assert_eq!(
            (&shown["redacts"], &shown["content"]["redacts"]),
            (&json!(said), &json!(said)),
            "old and new clients"
        );
        let redacted = event(&scene, &alice, &room, &said);
        assert_eq!((&redacted["content"], &redacted["unsigned"]["redacted_by"]), (&json!({}), &redacted_by));
    }
}

#[test]
fn a_redaction_of_an_event_of_another_room_is_not_shown() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let (other_alice, other_room, mut other_bob) = scene.room(V11);
    let (said, pdu) = bob.say("mine");
    bob.send(&scene.ravel, "1", &[&pdu]);
    let (elsewhere, pdu) = other_bob.event(&redaction(&said));
    let (_, after) = other_bob.say("after");
    other_bob.send(&scene.ravel, "2", &[&pdu, &after]);
    assert_eq!(other_alice.texts(&other_room), ["after"]);
    assert!(other_alice.events(&other_room).iter().all(|event| event["event_id"] != elsewhere.as_str()));
    assert_eq!(event(&scene, &alice, &room, &said)["content"]["body"], "mine");
}

/// It may come before the event that it redacts.
#[test]
fn a_redaction_is_shown_once_what_it_redacts_is_there() {
    let scene = Scene::new();
    let (alice, room, mut bob) = scene.room(V11);
    let said = bob.event(&json!({ "content": { "body": "mine" } }));
    let (redaction, pdu) = bob.event(&redaction(&said.0));
    bob.send(&scene.ravel, "1", &[&pdu]);
    let path = format!("v3/rooms/{room}/event/{redaction}");
    scene.ravel.get(&path, Some(&alice.token)).fails(404, "M_NOT_FOUND");
    bob.send(&scene.ravel, "2", &[&said.1]);
    assert_eq!(event(&scene, &alice, &room, &redaction)["content"]["redacts"], said.0.as_str());
    assert_eq!(event(&scene, &alice, &room, &said.0)["content"], json!({}));
    let (_, last) = bob.say("last");
    bob.send(&scene.ravel, "3", &[&last]);
    assert_eq!(alice.texts(&room), ["last"]);
}
