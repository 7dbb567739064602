//! What users keep at their server, and who is in rooms, by what clients ask.

use serde_json::{Value, json};

use crate::{
    rooms::{create, put, user},
    server::Server,
};

#[test]
fn profiles_are_public_and_their_users_change_them() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let path = "v3/profile/@alice:example.org";
    let at = |field: &str| format!("{path}/{field}");
    assert_eq!(server.get(&at("displayname"), None).ok(), json!({}));
    put(&server, &alice, &at("displayname"), &json!({ "displayname": "Alice" })).ok();
    put(&server, &alice, &at("avatar_url"), &json!({ "avatar_url": "mxc://example.org/a" })).ok();
    let room = create(&server, &alice, &json!({ "preset": "public_chat", "invite": ["@bob:example.org"] }));
    put(&server, &bob, &at("displayname"), &json!({ "displayname": "Eve" })).fails(403, "M_FORBIDDEN");
    put(&server, &alice, &at("displayname"), &json!({ "name": "Eve" })).fails(400, "M_MISSING_PARAM");
    put(&server, &alice, &at("displayname"), &json!({ "displayname": 7 })).fails(400, "M_INVALID_PARAM");
    put(&server, &alice, &at("a.b"), &json!({ "a.b": "x".repeat(70_000) })).fails(400, "M_PROFILE_TOO_LARGE");
    server.get("v3/profile/@nobody:example.org", None).fails(404, "M_NOT_FOUND");
    server.get(&at("m.tz"), None).fails(404, "M_NOT_FOUND");
    let whole = json!({ "displayname": "Alice", "avatar_url": "mxc://example.org/a" });
    assert_eq!(server.get(path, None).ok(), whole);
    assert_eq!(server.get(&at("displayname"), None).ok(), json!({ "displayname": "Alice" }));
    // What a room says of its members.
    put(&server, &bob, "v3/profile/@bob:example.org/displayname", &json!({ "displayname": "Bob" })).ok();
    server.post(&format!("v3/join/{room}"), Some(&bob), &json!({})).ok();
    let joined = server.get(&format!("v3/rooms/{room}/joined_members"), Some(&alice)).ok();
    let expected = json!({
        "@alice:example.org": { "display_name": "Alice", "avatar_url": "mxc://example.org/a" },
        "@bob:example.org": { "display_name": "Bob", "avatar_url": null },
    });
    assert_eq!(joined["joined"], expected);
    server.ask("DELETE", &at("displayname"), Some(&alice), b"").ok();
    let own = server.get(&format!("v3/rooms/{room}/state/m.room.member/@alice:example.org"), Some(&bob)).ok();
    assert_eq!(own, json!({ "membership": "join", "avatar_url": "mxc://example.org/a" }));
    let members = |query: &str| {
        let answer = server.get(&format!("v3/rooms/{room}/members{query}"), Some(&alice)).ok();
        answer["chunk"].as_array().unwrap().len()
    };
    server.post(&format!("v3/rooms/{room}/leave"), Some(&bob), &json!({})).ok();
    assert_eq!((members(""), members("?membership=leave"), members("?not_membership=leave")), (2, 1, 1));
}

#[test]
fn account_data_tags_and_filters_are_kept() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room = create(&server, &alice, &json!({}));
    let at = |path: &str| format!("v3/user/@alice:example.org/{path}");
    put(&server, &alice, &at("account_data/m.direct"), &json!({ "@bob:example.org": [] })).ok();
    put(&server, &alice, &at(&format!("rooms/{room}/account_data/a.b")), &json!({ "c": 1 })).ok();
    put(&server, &alice, &at(&format!("rooms/{room}/tags/u.x")), &json!({ "order": 0.5 })).ok();
    put(&server, &alice, &at(&format!("rooms/{room}/tags/u.y")), &json!({})).ok();
    server.ask("DELETE", &at(&format!("rooms/{room}/tags/u.y")), Some(&alice), b"").ok();
    let tags = server.get(&at(&format!("rooms/{room}/tags")), Some(&alice)).ok();
    assert_eq!(tags, json!({ "tags": { "u.x": { "order": 0.5 } } }));
    assert_eq!(server.get(&at("account_data/m.direct"), Some(&alice)).ok(), json!({ "@bob:example.org": [] }));
    server.get(&at("account_data/nothing"), Some(&alice)).fails(404, "M_NOT_FOUND");
    server.get(&at("account_data/m.direct"), Some(&bob)).fails(403, "M_FORBIDDEN");
    put(&server, &bob, &at("account_data/m.direct"), &json!({})).fails(403, "M_FORBIDDEN");
    put(&server, &alice, &at("account_data/m.push_rules"), &json!({})).fails(405, "M_BAD_JSON");

    let filter = json!({ "room": { "timeline": { "limit": 1 }, "account_data": { "types": ["m.tag"] } } });
    let filter_id = server.post(&at("filter"), Some(&alice), &filter).ok()["filter_id"].as_str().unwrap().to_owned();
    assert_eq!(server.get(&at(&format!("filter/{filter_id}")), Some(&alice)).ok(), filter);
    server.get(&at("filter/nothing"), Some(&alice)).fails(404, "M_NOT_FOUND");
    server.post(&at("filter"), Some(&bob), &filter).fails(403, "M_FORBIDDEN");
    server.post(&at("filter"), Some(&alice), &json!({ "room": 7 })).fails(400, "M_BAD_JSON");
    let news = server.get(&format!("v3/sync?filter={filter_id}"), Some(&alice)).ok();
    assert_eq!(news["account_data"]["events"][0]["type"], "m.direct");
    let joined = &news["rooms"]["join"][&room];
    assert_eq!(joined["timeline"]["events"].as_array().unwrap().len(), 1);
    let tag = json!([{ "type": "m.tag", "content": { "tags": { "u.x": { "order": 0.5 } } } }]);
    assert_eq!(joined["account_data"]["events"], tag);
    server.get("v3/sync?filter=nothing", Some(&alice)).fails(400, "M_INVALID_PARAM");
    // One room without events of its own.
    let since = news["next_batch"].as_str().unwrap();
    put(&server, &alice, &at(&format!("rooms/{room}/tags/u.z")), &json!({})).ok();
    let news = server.get(&format!("v3/sync?since={since}"), Some(&alice)).ok();
    assert_eq!(news["rooms"]["join"][&room]["account_data"]["events"].as_array().unwrap().len(), 1);
}

#[test]
fn a_room_is_knocked_on_left_and_forgotten() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let rules = json!({ "type": "m.room.join_rules", "content": { "join_rule": "knock" } });
    let room = create(&server, &alice, &json!({ "initial_state": [rules] }));
    let at = |path: &str| format!("v3/rooms/{room}/{path}");
    let knocked = server.post(&format!("v3/knock/{room}"), Some(&bob), &json!({ "reason": "hello" })).ok();
    assert_eq!(knocked, json!({ "room_id": room }));
    let news = server.get("v3/sync", Some(&bob)).ok();
    assert!(news["rooms"]["knock"][&room]["knock_state"]["events"].as_array().unwrap().len() > 2, "{news}");
    server.post(&at("forget"), Some(&bob), &json!({})).fails(400, "M_UNKNOWN");
    server.post(&at("invite"), Some(&alice), &json!({ "user_id": "@bob:example.org" })).ok();
    server.post(&at("join"), Some(&bob), &json!({})).ok();
    let sent = put(&server, &alice, &at("send/m.room.message/1"), &json!({ "body": "hi" })).ok();
    let event_id = sent["event_id"].as_str().unwrap();
    let context = server.get(&at(&format!("context/{event_id}?limit=2")), Some(&bob)).ok();
    assert_eq!((&context["event"]["content"]["body"], &context["events_after"]), (&json!("hi"), &Value::Null));
    assert_eq!(context["events_before"][0]["content"]["membership"], "join");
    let end = context["end"].as_str().unwrap();
    put(&server, &alice, &at("send/m.room.message/2"), &json!({ "body": "again" })).ok();
    let later = server.get(&at(&format!("messages?dir=f&from={end}")), Some(&bob)).ok();
    assert_eq!(later["chunk"][0]["content"]["body"], "again");
    server.post(&at("leave"), Some(&bob), &json!({})).ok();
    server.get(&at("messages?dir=b"), Some(&bob)).ok();
    server.post(&at("forget"), Some(&bob), &json!({})).ok();
    server.get(&at("messages?dir=b"), Some(&bob)).fails(403, "M_FORBIDDEN");
}

#[test]
fn guests_join_where_they_may() {
    let server = Server::open(&[("RAVEL_REGISTRATION__GUESTS", "true")]);
    let alice = user(&server, "alice");
    let room = create(&server, &alice, &json!({ "preset": "public_chat" }));
    let registered = server.post("v3/register?kind=guest", None, &json!({})).ok();
    let (guest, guest_id) = (registered["access_token"].as_str().unwrap(), registered["user_id"].as_str().unwrap());
    let at = |path: &str| format!("v3/rooms/{room}/{path}");
    server.post("v3/createRoom", Some(guest), &json!({})).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    server.post(&at("join"), Some(guest), &json!({})).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    put(&server, &alice, &at("state/m.room.guest_access"), &json!({ "guest_access": "can_join" })).ok();
    server.post(&at("join"), Some(guest), &json!({})).ok();
    put(&server, guest, &at("send/m.room.message/1"), &json!({ "body": "hi" })).ok();
    let name = json!({ "displayname": "Guest" });
    put(&server, guest, &format!("v3/profile/{guest_id}/displayname"), &name).ok();
    let avatar = json!({ "avatar_url": "mxc://a/b" });
    put(&server, guest, &format!("v3/profile/{guest_id}/avatar_url"), &avatar).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    let member = at(&format!("state/m.room.member/{guest_id}"));
    put(&server, guest, &member, &json!({ "membership": "join" })).fails(403, "M_GUEST_ACCESS_FORBIDDEN");
    assert_eq!(server.get(&member, Some(&alice)).ok(), json!({ "membership": "join", "displayname": "Guest" }));
    // A guest who becomes a user stays.
    let other = server.post("v3/register?kind=guest", None, &json!({})).ok();
    let (token, name) = (other["access_token"].as_str().unwrap(), other["user_id"].as_str().unwrap());
    server.post(&at("join"), Some(token), &json!({})).ok();
    let localpart = &name[1..name.find(':').unwrap()];
    let promote = |localpart: &str, token: &str| {
        let auth = json!({ "type": "m.login.dummy" });
        let body = json!({ "username": localpart, "password": "secret", "guest_access_token": token, "auth": auth });
        server.post("v3/register", None, &body)
    };
    promote(localpart, guest).fails(403, "M_FORBIDDEN");
    promote("alice", &alice).fails(403, "M_FORBIDDEN");
    assert_eq!(promote(localpart, token).ok()["user_id"], name);
    put(&server, &alice, &at("state/m.room.guest_access"), &json!({ "guest_access": "forbidden" })).ok();
    let stays = server.get(&at(&format!("state/m.room.member/{name}")), Some(&alice)).ok();
    assert_eq!(stays["membership"], "join");
    assert_eq!(server.get(&member, Some(&alice)).ok()["membership"], "leave");
}

#[test]
fn capabilities_name_the_room_versions() {
    let server = Server::open(&[]);
    let alice = user(&server, "alice");
    let capabilities = server.get("v3/capabilities", Some(&alice)).ok()["capabilities"].clone();
    let versions = &capabilities["m.room_versions"];
    assert_eq!((versions["default"].as_str(), &versions["available"]["11"]), (Some("12"), &Value::from("stable")));
    server.get("v3/capabilities", None).fails(401, "M_MISSING_TOKEN");
}
