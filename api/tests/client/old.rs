//! Upgrades, spaces, OpenID, and what old clients ask for.

use serde_json::{Value, json};

use crate::{
    rooms::{create, put, user},
    server::Server,
};

#[test]
fn a_room_is_upgraded() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let wanted = json!({
        "room_version": "10", "visibility": "public", "name": "old", "room_alias_name": "tea", "invite": ["@bob:example.org"],
    });
    let old = create(&server, &alice, &wanted);
    server.post(&format!("v3/join/{old}"), Some(&bob), &json!({})).ok();
    let upgrade = |token: &str, room: &str, version: &str| {
        server.post(&format!("v3/rooms/{room}/upgrade"), Some(token), &json!({ "new_version": version }))
    };
    upgrade(&bob, &old, "11").fails(403, "M_FORBIDDEN");
    upgrade(&alice, &old, "my_bad_version").fails(400, "M_UNSUPPORTED_ROOM_VERSION");
    upgrade(&alice, "!nowhere:example.org", "11").fails(404, "M_NOT_FOUND");
    let new = upgrade(&alice, &old, "11").ok()["replacement_room"].as_str().unwrap().to_owned();
    let state = |room: &str, kind: &str| server.get(&format!("v3/rooms/{room}/state/{kind}"), Some(&alice)).ok();
    assert_eq!(state(&old, "m.room.tombstone")["replacement_room"], json!(new));
    assert_eq!(state(&new, "m.room.create")["predecessor"]["room_id"], json!(old));
    assert_eq!(state(&new, "m.room.name"), json!({ "name": "old" }));
    assert_eq!(server.get("v3/directory/room/%23tea:example.org", None).ok()["room_id"], json!(new));
    let list = server.get("v3/publicRooms", Some(&alice)).ok();
    assert_eq!((&list["chunk"][0]["room_id"], list["chunk"].as_array().unwrap().len()), (&json!(new), 1));
    let said = put(&server, &bob, &format!("v3/rooms/{old}/send/m.room.message/1"), &json!({ "body": "late" }));
    said.fails(403, "M_FORBIDDEN");
}

#[test]
fn a_space_shows_its_rooms() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let space_type = json!({ "type": "m.space" });
    let space = create(&server, &alice, &json!({ "preset": "public_chat", "creation_content": space_type }));
    let child = create(&server, &alice, &json!({ "preset": "public_chat", "name": "child" }));
    let hidden = create(&server, &alice, &json!({}));
    for room in [&child, &hidden] {
        let path = format!("v3/rooms/{space}/state/m.space.child/{room}");
        put(&server, &alice, &path, &json!({ "via": ["example.org"] })).ok();
    }
    let tree =
        |token: &str, room: &str, query: &str| server.get(&format!("v1/rooms/{room}/hierarchy{query}"), Some(token));
    let all = tree(&alice, &space, "").ok();
    assert_eq!(all["rooms"].as_array().unwrap().len(), 3);
    assert_eq!(all["rooms"][0]["children_state"].as_array().unwrap().len(), 2);
    let first = tree(&bob, &space, "?limit=1").ok();
    assert_eq!(first["rooms"][0]["room_id"], json!(space));
    let next = first["next_batch"].as_str().unwrap();
    let second = tree(&bob, &space, &format!("?limit=1&from={next}")).ok();
    assert_eq!((&second["rooms"][0]["name"], second.get("next_batch")), (&json!("child"), None));
    tree(&bob, &hidden, "").fails(403, "M_FORBIDDEN");
    tree(&bob, &space, "?from=nonsense").fails(400, "M_INVALID_PARAM");
}

#[test]
fn users_prove_who_they_are() {
    let server = Server::open(&[]);
    let alice = user(&server, "alice");
    let request = |name: &str| {
        server.post(&format!("v3/user/@{name}:example.org/openid/request_token"), Some(&alice), &json!({}))
    };
    request("bob").fails(403, "M_FORBIDDEN");
    let granted = request("alice").ok();
    assert_eq!((&granted["matrix_server_name"], &granted["token_type"]), (&json!("example.org"), &json!("Bearer")));
    let ask = |token: &str| server.get(&format!("/_matrix/federation/v1/openid/userinfo?access_token={token}"), None);
    assert_eq!(ask(granted["access_token"].as_str().unwrap()).ok(), json!({ "sub": "@alice:example.org" }));
    ask("nonsense").fails(401, "M_UNKNOWN_TOKEN");
    ask(&alice).fails(401, "M_UNKNOWN_TOKEN");
}

#[test]
fn old_clients_get_all_at_once() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room = create(&server, &alice, &json!({ "preset": "public_chat", "visibility": "public" }));
    let invited = create(&server, &bob, &json!({ "invite": ["@alice:example.org"] }));
    let sent =
        server.post(&format!("v3/rooms/{room}/send/m.room.message"), Some(&alice), &json!({ "body": "hi" })).ok();
    let event_id = sent["event_id"].as_str().unwrap();
    server.post(&format!("v3/rooms/{room}/receipt/m.read/{event_id}"), Some(&alice), &json!({})).ok();
    let status = json!({ "presence": "online" });
    put(&server, &alice, "v3/presence/@alice:example.org/status", &status).ok();
    let all = server.get("v3/initialSync?limit=2", Some(&alice)).ok();
    let rooms = all["rooms"].as_array().unwrap();
    let of = |id: &str| rooms.iter().find(|room| room["room_id"] == id).unwrap();
    let joined = of(&room);
    assert_eq!((&joined["membership"], &joined["visibility"]), (&json!("join"), &json!("public")));
    let chunk = joined["messages"]["chunk"].as_array().unwrap();
    assert_eq!((chunk.len(), &chunk[1]["content"]["body"]), (2, &json!("hi")));
    assert_eq!((&of(&invited)["membership"], &of(&invited)["inviter"]), (&json!("invite"), &json!("@bob:example.org")));
    assert_eq!(all["receipts"][0]["room_id"], json!(room));
    assert_eq!(all["presence"][0]["content"]["user_id"], "@alice:example.org");
    let one = |token: &str, query: &str| server.get(&format!("v3/rooms/{room}/initialSync{query}"), Some(token));
    assert_eq!(one(&alice, "?limit=0").ok()["messages"]["chunk"], json!([]));
    assert_eq!(one(&alice, "").ok()["presence"][0]["content"]["presence"], "online");
    let other = create(&server, &bob, &json!({}));
    put(&server, &bob, &format!("v3/rooms/{other}/redact/{event_id}/1"), &json!({})).fails(400, "M_INVALID_PARAM");
    one(&bob, "").fails(403, "M_FORBIDDEN");
    // What comes after it is in the stream of events.
    let from = all["end"].as_str().unwrap();
    server.post(&format!("v3/rooms/{room}/send/m.room.message"), Some(&alice), &json!({ "body": "again" })).ok();
    let huge = json!({ "body": "x".repeat(3 << 20) });
    for path in [format!("v3/rooms/{room}/send/m.room.message"), format!("v3/rooms/{room}/redact/{event_id}")] {
        server.post(&path, Some(&alice), &huge).fails(413, "M_TOO_LARGE");
    }
    let events = server.get(&format!("v3/events?from={from}"), Some(&alice)).ok();
    let bodies: Vec<&Value> =
        events["chunk"].as_array().unwrap().iter().map(|event| &event["content"]["body"]).collect();
    assert!(bodies.contains(&&json!("again")) && !bodies.contains(&&json!("hi")), "{events}");
    // Who has left sees what was before.
    server.post(&format!("v3/rooms/{room}/join"), Some(&bob), &json!({})).ok();
    server.post(&format!("v3/rooms/{room}/leave"), Some(&bob), &json!({})).ok();
    put(&server, &alice, &format!("v3/rooms/{room}/state/m.room.name"), &json!({ "name": "late" })).ok();
    let left = one(&bob, "?limit=1").ok();
    assert_eq!((&left["membership"], &left["presence"]), (&json!("leave"), &json!([])));
    assert!(!left["state"].as_array().unwrap().iter().any(|event| event["type"] == "m.room.name"));
    let archived = server.get("v3/initialSync?archived=true", Some(&bob)).ok();
    assert!(archived["rooms"].as_array().unwrap().iter().any(|left| left["room_id"] == room.as_str()));
}
