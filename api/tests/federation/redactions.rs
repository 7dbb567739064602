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

/// Returns everything that a local user and the other server can read of a room, by its last event.
fn all_reads(scene: &Scene, alice: &Local<'_>, room: &str, since: &str, [said, set, last]: [&str; 3]) -> String {
    let client = |path: &str| scene.ravel.get(&format!("v3/{path}"), Some(&alice.token)).ok().to_string();
    let in_room = |path: &str| client(&format!("rooms/{room}/{path}"));
    let server = |path: &str| scene.remote.get(&scene.ravel, &format!("v1/{path}")).ok().to_string();
    let missing = json!({ "latest_events": [last], "earliest_events": [], "limit": 20 });
    let missing = scene.remote.post(&scene.ravel, &format!("v1/get_missing_events/{room}"), &missing).ok().to_string();
    let reads = [
        in_room(&format!("event/{said}")),
        in_room(&format!("event/{set}")),
        in_room(&format!("context/{said}?limit=10")),
        in_room(&format!("context/{set}?limit=0")),
        in_room(&format!("context/{last}?limit=10")),
        in_room("messages?dir=b&limit=50"),
        in_room("messages?dir=f&limit=50"),
        in_room("state"),
        in_room("state/test.state/"),
        in_room("initialSync?limit=20"),
        client("sync"),
        client(&format!("sync?since={since}")),
        server(&format!("event/{said}")),
        server(&format!("event/{set}")),
        server(&format!("backfill/{room}?v={last}&limit=50")),
        server(&format!("state/{room}?event_id={last}")),
        missing,
    ];
    reads.map(|read| format!("{read}\n")).concat()
}

#[test]
fn sc_046_a_redacted_event_is_read_in_its_redacted_form_everywhere() {
    let scene = Scene::new();
    for version in [V5, V11] {
        let (alice, room, mut bob) = scene.room(version);
        let since = scene.ravel.get("v3/sync", Some(&alice.token)).ok()["next_batch"].as_str().unwrap().to_owned();
        let set = alice.set(&room, "test.state", &json!({ "text": "secret" }));
        let (said, pdu) = bob.say("secret");
        bob.send(&scene.ravel, &format!("{version:?}-1"), &[&pdu]);
        let last = alice.say(&room, "last");
        let read = || all_reads(&scene, &alice, &room, &since, [&said, &set, &last]);
        for line in read().lines() {
            assert!(line.contains("secret"), "it is read here before it is redacted: {line}");
        }
        // One by the local user, of her own state, and one by the other server, of his own message.
        let path = format!("v3/rooms/{room}/redact/{set}/{version:?}");
        scene.ravel.ask("PUT", &path, Some(&alice.token), b"{}").ok();
        let (_, pdu) = bob.event(&redaction(&said));
        bob.send(&scene.ravel, &format!("{version:?}-2"), &[&pdu]);
        for line in read().lines() {
            assert!(!line.contains("secret"), "{line}");
        }
        // Who joins now is not told either.
        let (answer, _) = scene.remote.join(&scene.ravel, &room, "ben");
        assert!(answer["state"].as_array().unwrap().iter().any(|event| event["type"] == "test.state"));
        assert!(!answer.to_string().contains("secret"));
    }
}
