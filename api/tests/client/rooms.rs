//! Rooms, by what clients ask.

use serde_json::{Value, json};

use crate::server::{Answer, Server};

/// Registers a user and returns its access token.
pub(crate) fn user(server: &Server, name: &str) -> String {
    let body = json!({ "username": name, "password": "correct horse", "auth": { "type": "m.login.dummy" } });
    let answer = server.post("v3/register", None, &body).ok();
    assert_eq!(answer["user_id"], format!("@{name}:example.org"));
    answer["access_token"].as_str().unwrap().to_owned()
}

pub(crate) fn create(server: &Server, token: &str, body: &Value) -> String {
    server.post("v3/createRoom", Some(token), body).ok()["room_id"].as_str().unwrap().to_owned()
}

pub(crate) fn put(server: &Server, token: &str, path: &str, body: &Value) -> Answer {
    server.ask("PUT", path, Some(token), body.to_string().as_bytes())
}

pub(crate) fn bodies(events: &Value) -> Vec<&str> {
    events.as_array().unwrap().iter().filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[test]
fn two_users_talk() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room = create(&server, &alice, &json!({ "name": "a room", "invite": ["@bob:example.org"] }));
    let at = |path: &str| format!("v3/rooms/{room}/{path}");
    let send = |token: &str, txn: &str, text: &str| {
        put(&server, token, &at(&format!("send/m.room.message/{txn}")), &json!({ "msgtype": "m.text", "body": text }))
    };
    send(&bob, "1", "too early").fails(403, "M_FORBIDDEN");

    let invited = server.get("v3/sync", Some(&bob)).ok();
    let invite = invited["rooms"]["invite"][&room]["invite_state"]["events"].as_array().unwrap();
    assert!(invite.iter().any(|event| event["content"]["name"] == "a room"), "{invited}");
    server.post(&format!("v3/join/{room}"), Some(&bob), &json!({})).ok();
    server.post(&at("join"), Some(&bob), &json!({})).ok();
    assert_eq!(server.get("v3/joined_rooms", Some(&bob)).ok()["joined_rooms"], json!([room]));

    let first = send(&bob, "1", "hi").ok();
    assert_eq!(send(&bob, "1", "hi").ok(), first, "once for each transaction");
    let news = server.get(&format!("v3/sync?since={}", invited["next_batch"].as_str().unwrap()), Some(&bob)).ok();
    let joined = &news["rooms"]["join"][&room];
    assert_eq!(bodies(&joined["timeline"]["events"]), ["hi"]);
    assert_eq!(joined["summary"]["m.joined_member_count"], 2);
    let event_id = first["event_id"].as_str().unwrap();
    let event = server.get(&at(&format!("event/{event_id}")), Some(&alice)).ok();
    assert_eq!((&event["sender"], &event["room_id"]), (&json!("@bob:example.org"), &json!(room)));
    let filter = "%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A1%7D%7D%7D";
    let limited = server.get(&format!("v3/sync?filter={filter}"), Some(&alice)).ok();
    let timeline = &limited["rooms"]["join"][&room]["timeline"];
    assert_eq!((bodies(&timeline["events"]), &timeline["limited"]), (vec!["hi"], &json!(true)));
    let before = timeline["prev_batch"].as_str().unwrap();
    let earlier = server.get(&at(&format!("messages?dir=b&from={before}&limit=3")), Some(&alice)).ok();
    assert_eq!(earlier["chunk"][0]["content"]["membership"], "join");
    let page =
        server.get(&at(&format!("messages?dir=b&from={}&limit=100", earlier["end"].as_str().unwrap())), Some(&alice));
    assert_eq!(page.ok()["chunk"].as_array().unwrap().last().unwrap()["type"], "m.room.create");

    put(&server, &alice, &at(&format!("redact/{event_id}/2")), &json!({ "reason": "rude" })).ok();
    assert_eq!(server.get(&at(&format!("event/{event_id}")), Some(&bob)).ok()["content"], json!({}));
    put(&server, &bob, &at("state/m.room.name/"), &json!({ "name": "mine" })).fails(403, "M_FORBIDDEN");
    put(&server, &alice, &at("state/m.room.topic"), &json!({ "topic": "talk" })).ok();
    let state = server.get(&at("state"), Some(&bob)).ok();
    assert!(state.as_array().unwrap().iter().any(|event| event["content"]["topic"] == "talk"));

    assert_eq!(server.get(&at("state/m.room.topic"), Some(&bob)).ok(), json!({ "topic": "talk" }));
    assert_eq!(server.get(&at("state/m.room.topic/?format=event"), Some(&bob)).ok()["sender"], "@alice:example.org");
    let own = server.get(&at("state/m.room.member/@bob:example.org"), Some(&bob)).ok();
    assert_eq!(own["membership"], "join");
    server.get(&at("state/m.room.nothing/"), Some(&bob)).fails(404, "M_NOT_FOUND");
    // Bob may redact what he said, and nothing else.
    let said = send(&alice, "4", "mine").ok()["event_id"].as_str().unwrap().to_owned();
    put(&server, &bob, &at(&format!("redact/{said}/5")), &json!({})).fails(403, "M_FORBIDDEN");
    put(&server, &bob, &at("redact/$nothing/6"), &json!({})).fails(404, "M_NOT_FOUND");
    let said = send(&bob, "7", "mine").ok()["event_id"].as_str().unwrap().to_owned();
    put(&server, &bob, &at(&format!("redact/{said}/8")), &json!({})).ok();
    // As old clients do it.
    let said = send(&bob, "9", "mine").ok()["event_id"].as_str().unwrap().to_owned();
    let redaction = server.post(&at(&format!("redact/{said}")), Some(&bob), &json!({ "reason": "old" })).ok();
    let redaction = server.get(&at(&format!("event/{}", redaction["event_id"].as_str().unwrap())), Some(&alice)).ok();
    assert_eq!((&redaction["type"], &redaction["content"]["reason"]), (&json!("m.room.redaction"), &json!("old")));
    assert_eq!(server.get(&at(&format!("event/{said}")), Some(&alice)).ok()["content"], json!({}));

    let kick = json!({ "user_id": "@bob:example.org", "reason": "rude" });
    server.post(&at("kick"), Some(&bob), &json!({ "user_id": "@alice:example.org" })).fails(403, "M_FORBIDDEN");
    server.post(&at("ban"), Some(&alice), &kick).ok();
    server.post(&at("kick"), Some(&alice), &kick).fails(403, "M_FORBIDDEN");
    server.post(&at("join"), Some(&bob), &json!({})).fails(403, "M_FORBIDDEN");
    server.post(&at("unban"), Some(&alice), &kick).ok();
    server.post(&at("unban"), Some(&alice), &kick).fails(403, "M_FORBIDDEN");
    server.post(&at("invite"), Some(&alice), &kick).ok();
    server.post(&at("leave"), Some(&bob), &json!({})).ok();
    server.post(&at("leave"), Some(&bob), &json!({})).ok();
    send(&alice, "3", "alone").ok();
    let state = server.get(&at("state"), Some(&bob));
    state.fails(403, "M_FORBIDDEN");
}

#[test]
fn the_event_stream_of_old_clients_tells_what_is_new() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let content = json!({ "room_version": "99", "creator": "@bob:example.org", "com.example.kind": "test" });
    let room = create(&server, &alice, &json!({ "room_version": "10", "creation_content": content }));
    let created = server.get(&format!("v3/rooms/{room}/state/m.room.create"), Some(&alice)).ok();
    let expected = json!({ "room_version": "10", "creator": "@alice:example.org", "com.example.kind": "test" });
    assert_eq!(created, expected);

    let now = server.get("r0/events?timeout=0", Some(&bob)).ok();
    assert_eq!((&now["chunk"], &now["start"]), (&json!([]), &now["end"]));
    server.get("r0/events?from=here", Some(&bob)).fails(400, "M_INVALID_PARAM");
    let next = |from: &Value| {
        let news =
            server.get(&format!("r0/events?timeout=60000&from={}", from["end"].as_str().unwrap()), Some(&bob)).ok();
        assert_eq!(news["start"], from["end"]);
        news
    };
    server.post(&format!("v3/rooms/{room}/invite"), Some(&alice), &json!({ "user_id": "@bob:example.org" })).ok();
    let invited = next(&now);
    let event = &invited["chunk"][0];
    assert_eq!((&event["content"]["membership"], &event["room_id"]), (&json!("invite"), &json!(room)));
    server.post(&format!("v3/join/{room}"), Some(&bob), &json!({})).ok();
    let joined = next(&invited);
    let path = format!("v3/rooms/{room}/send/m.room.message/1");
    put(&server, &alice, &path, &json!({ "body": "hello" })).ok();
    let said = next(&joined);
    assert_eq!((bodies(&said["chunk"]), &said["chunk"][0]["room_id"]), (vec!["hello"], &json!(room)));
}

/// The second of a transaction may come while the first is under way.
#[test]
fn a_transaction_sends_once() {
    let server = Server::open(&[]);
    let alice = user(&server, "alice");
    let room = create(&server, &alice, &json!({}));
    let path = format!("v3/rooms/{room}/send/m.room.message/1");
    let sent: Vec<Value> = std::thread::scope(|scope| {
        let send = || put(&server, &alice, &path, &json!({ "body": "once" })).ok();
        let all: Vec<_> = (0..20).map(|_| scope.spawn(send)).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(sent.iter().all(|one| *one == sent[0]), "{sent:?}");
    let page = server.get(&format!("v3/rooms/{room}/messages?dir=b&limit=100"), Some(&alice)).ok();
    assert_eq!(bodies(&page["chunk"]), ["once"]);
}

#[test]
fn what_was_sent_is_there_after_a_kill() {
    let server = Server::open(&[]);
    let alice = user(&server, "alice");
    let room = create(&server, &alice, &json!({ "preset": "public_chat", "room_version": "11" }));
    let path = format!("v3/rooms/{room}/send/m.room.message/1");
    let sent = put(&server, &alice, &path, &json!({ "body": "still here" })).ok();
    let server = server.restarted(&[("RAVEL_REGISTRATION__ENABLED", "true")]);
    let event = format!("v3/rooms/{room}/event/{}", sent["event_id"].as_str().unwrap());
    assert_eq!(server.get(&event, Some(&alice)).ok()["content"]["body"], "still here");
    let bob = user(&server, "bob");
    server.post(&format!("v3/rooms/{room}/join"), Some(&bob), &json!({})).ok();
    let news = server.get("v3/sync", Some(&bob)).ok();
    assert!(bodies(&news["rooms"]["join"][&room]["timeline"]["events"]).contains(&"still here"));
}

#[test]
fn wrong_requests_are_told_what_is_wrong() {
    let server = Server::open(&[]);
    let alice = user(&server, "alice");
    let room = create(&server, &alice, &json!({}));
    let at = |path: &str| format!("v3/rooms/{room}/{path}");
    server.post("v3/createRoom", None, &json!({})).fails(401, "M_MISSING_TOKEN");
    server
        .post("v3/createRoom", Some(&alice), &json!({ "room_version": "99" }))
        .fails(400, "M_UNSUPPORTED_ROOM_VERSION");
    server.post("v3/createRoom", Some(&alice), &json!({ "preset": "odd" })).fails(400, "M_INVALID_PARAM");
    put(&server, &alice, &at("send/m.room.message/1"), &json!({ "body": 1.5 })).fails(400, "M_BAD_JSON");
    server.ask("PUT", &at("send/m.room.message/2"), Some(&alice), b"{").fails(400, "M_NOT_JSON");
    let long = json!({ "body": "x".repeat(70_000) });
    put(&server, &alice, &at("send/m.room.message/3"), &long).fails(400, "M_BAD_JSON");
    server.get("v3/sync?since=nonsense", Some(&alice)).fails(400, "M_INVALID_PARAM");
    server.get(&at("messages?dir=b&from=t1"), Some(&alice)).fails(400, "M_INVALID_PARAM");
    server.get("v3/rooms/!nowhere:example.org/state", Some(&alice)).fails(403, "M_FORBIDDEN");
    server.post("v3/join/!nowhere:example.org", Some(&alice), &json!({})).fails(404, "M_NOT_FOUND");
    server.get(&at("event/$nothing"), Some(&alice)).fails(404, "M_NOT_FOUND");
}
