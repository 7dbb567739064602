//! Typing, receipts, read markers and presence, by what clients ask.

use serde_json::{Value, json};

use crate::{
    rooms::{create, put, user},
    server::Server,
};

#[test]
fn what_passes_is_told() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room = create(&server, &alice, &json!({ "preset": "public_chat" }));
    let at = |path: &str| format!("v3/rooms/{room}/{path}");
    let typing = json!({ "typing": true, "timeout": 30_000 });
    put(&server, &bob, &at("typing/@bob:example.org"), &typing).fails(403, "M_FORBIDDEN");
    server.post(&at("join"), Some(&bob), &json!({})).ok();
    let sent = put(&server, &alice, &at("send/m.room.message/1"), &json!({ "body": "hi" })).ok();
    let event_id = sent["event_id"].as_str().unwrap();
    let first = server.get("v3/sync", Some(&alice)).ok();
    let since = first["next_batch"].as_str().unwrap();
    let waiting = format!("v3/sync?since={since}&timeout=30000&set_presence=offline");
    let news = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.get(&waiting, Some(&alice)).ok());
        put(&server, &bob, &at("typing/@bob:example.org"), &typing).ok();
        waiting.join().unwrap()
    });
    let events = |news: &Value| news["rooms"]["join"][&room]["ephemeral"]["events"].clone();
    assert_eq!(events(&news), json!([{ "type": "m.typing", "content": { "user_ids": ["@bob:example.org"] } }]));
    put(&server, &bob, &at("typing/@alice:example.org"), &typing).fails(403, "M_FORBIDDEN");
    put(&server, &bob, &at("typing/@bob:example.org"), &json!({ "typing": false })).ok();

    let receipt = |kind: &str, body: &Value| server.post(&at(&format!("receipt/{kind}/{event_id}")), Some(&bob), body);
    receipt("m.read", &json!({})).ok();
    receipt("m.read.private", &json!({ "thread_id": "main" })).ok();
    receipt("not.m.read", &json!({})).fails(400, "M_INVALID_PARAM");
    receipt("m.read", &json!({ "thread_id": "" })).fails(400, "M_INVALID_PARAM");
    let path = at("read_markers");
    server.post(&path, Some(&alice), &json!({ "m.fully_read": event_id, "m.read": event_id })).ok();
    let news = server.get(&format!("v3/sync?since={since}&set_presence=offline"), Some(&alice)).ok();
    let joined = &news["rooms"]["join"][&room];
    let marker = json!([{ "type": "m.fully_read", "content": { "event_id": event_id } }]);
    assert_eq!(joined["account_data"]["events"], marker);
    let events = events(&news);
    assert_eq!(events[0]["content"]["user_ids"], json!([]));
    let readers = events[1]["content"][event_id].as_object().unwrap();
    assert_eq!(readers.keys().collect::<Vec<_>>(), ["m.read"], "what is private is bob's");
    assert_eq!(readers["m.read"].as_object().unwrap().len(), 2);
    // Receipts survive.
    let server = server.restarted(&[("RAVEL_REGISTRATION__ENABLED", "true")]);
    let news = server.get(&format!("v3/sync?since={since}&set_presence=offline"), Some(&bob)).ok();
    let readers = &news["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"][event_id];
    assert_eq!(readers["m.read.private"]["@bob:example.org"]["thread_id"], "main");
}

#[test]
fn presence_is_seen_in_the_same_rooms() {
    let server = Server::open(&[]);
    let (alice, bob, carol) = (user(&server, "alice"), user(&server, "bob"), user(&server, "carol"));
    let room = create(&server, &alice, &json!({ "preset": "public_chat" }));
    server.post(&format!("v3/rooms/{room}/join"), Some(&bob), &json!({})).ok();
    let path = "v3/presence/@alice:example.org/status";
    assert_eq!(server.get(path, Some(&bob)).ok(), json!({ "presence": "offline" }));
    let since = server.get("v3/sync?set_presence=offline", Some(&bob)).ok()["next_batch"].as_str().unwrap().to_owned();
    put(&server, &alice, path, &json!({ "presence": "online", "status_msg": "tea" })).ok();
    put(&server, &bob, path, &json!({ "presence": "online" })).fails(403, "M_FORBIDDEN");
    let seen = server.get(path, Some(&bob)).ok();
    assert_eq!((&seen["presence"], &seen["status_msg"]), (&json!("online"), &json!("tea")));
    server.get(path, Some(&carol)).fails(403, "M_FORBIDDEN");
    let news = server.get(&format!("v3/sync?since={since}&set_presence=offline"), Some(&bob)).ok();
    assert_eq!(news["presence"]["events"][0]["sender"], "@alice:example.org");
    assert_eq!(news["presence"]["events"].as_array().unwrap().len(), 1);
}
