//! Aliases and published rooms, by what clients ask.

use serde_json::{Value, json};

use crate::{
    rooms::{create, put, user},
    server::Server,
};

fn names(list: &Value) -> Vec<&str> {
    list["chunk"].as_array().unwrap().iter().map(|room| room["name"].as_str().unwrap()).collect()
}

#[test]
fn aliases_lead_to_rooms() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room = create(&server, &alice, &json!({ "preset": "public_chat", "room_alias_name": "tea" }));
    server.post("v3/createRoom", Some(&bob), &json!({ "room_alias_name": "tea" })).fails(400, "M_ROOM_IN_USE");
    server.post("v3/createRoom", Some(&bob), &json!({ "room_alias_name": "a b" })).fails(400, "M_INVALID_PARAM");
    let found = server.get("v3/directory/room/%23tea:example.org", None).ok();
    assert_eq!(found, json!({ "room_id": room, "servers": ["example.org"] }));
    let state = format!("v3/rooms/{room}/state/m.room.canonical_alias");
    assert_eq!(server.get(&state, Some(&alice)).ok(), json!({ "alias": "#tea:example.org" }));
    let alias = |name: &str| format!("v3/directory/room/%23{name}:example.org");
    put(&server, &bob, &alias("coffee"), &json!({ "room_id": room })).fails(403, "M_FORBIDDEN");
    assert_eq!(server.post("v3/join/%23tea:example.org", Some(&bob), &json!({})).ok(), json!({ "room_id": room }));
    put(&server, &bob, &alias("coffee"), &json!({ "room_id": room })).ok();
    put(&server, &alice, &alias("coffee"), &json!({ "room_id": room })).fails(409, "M_UNKNOWN");
    put(&server, &alice, "v3/directory/room/%23x:else.where", &json!({ "room_id": room }))
        .fails(400, "M_INVALID_PARAM");
    let aliases = server.get(&format!("v3/rooms/{room}/aliases"), Some(&bob)).ok();
    assert_eq!(aliases["aliases"], json!(["#coffee:example.org", "#tea:example.org"]));
    // What the room says of them has to be so.
    for (content, errcode) in [
        (json!({ "alias": "%tea:example.org" }), "M_INVALID_PARAM"),
        (json!({ "alias": "#milk:example.org" }), "M_BAD_ALIAS"),
        (json!({ "alias": "#tea:example.org", "alt_aliases": ["#milk:example.org"] }), "M_BAD_ALIAS"),
    ] {
        put(&server, &alice, &state, &content).fails(400, errcode);
    }
    put(&server, &alice, &state, &json!({ "alias": "#tea:example.org", "alt_aliases": ["#coffee:example.org"] })).ok();
    let other = create(&server, &bob, &json!({}));
    let wrong = json!({ "alias": "#tea:example.org" });
    put(&server, &bob, &format!("v3/rooms/{other}/state/m.room.canonical_alias"), &wrong).fails(400, "M_BAD_ALIAS");
    server.ask("DELETE", &alias("tea"), Some(&bob), b"").fails(403, "M_FORBIDDEN");
    server.ask("DELETE", &alias("milk"), Some(&bob), b"").fails(404, "M_NOT_FOUND");
    server.ask("DELETE", &alias("tea"), Some(&alice), b"").ok();
    server.get(&alias("tea"), None).fails(404, "M_NOT_FOUND");
    server.post("v3/join/%23tea:example.org", Some(&bob), &json!({})).fails(404, "M_NOT_FOUND");
    assert_eq!(server.get(&state, Some(&alice)).ok(), json!({ "alt_aliases": ["#coffee:example.org"] }));
    let stranger = user(&server, "carol");
    server.get(&format!("v3/rooms/{room}/aliases"), Some(&stranger)).fails(403, "M_FORBIDDEN");
}

#[test]
fn rooms_are_published_by_those_who_may() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room = create(&server, &alice, &json!({ "visibility": "public", "name": "open", "topic": "tea" }));
    let hidden = create(&server, &alice, &json!({ "preset": "public_chat", "name": "hidden" }));
    server.post(&format!("v3/join/{room}"), Some(&bob), &json!({})).ok();
    server.get("v3/publicRooms", None).fails(401, "M_MISSING_TOKEN");
    let list = server.get("v3/publicRooms", Some(&bob)).ok();
    assert_eq!((names(&list), &list["total_room_count_estimate"]), (vec!["open"], &json!(1)));
    assert_eq!((&list["chunk"][0]["num_joined_members"], &list["chunk"][0]["topic"]), (&json!(2), &json!("tea")));
    let visibility = |room: &str| format!("v3/directory/list/room/{room}");
    assert_eq!(server.get(&visibility(&hidden), None).ok(), json!({ "visibility": "private" }));
    server.get(&visibility("!nowhere:example.org"), None).fails(404, "M_NOT_FOUND");
    put(&server, &bob, &visibility(&hidden), &json!({ "visibility": "public" })).fails(403, "M_FORBIDDEN");
    put(&server, &alice, &visibility(&hidden), &json!({ "visibility": "public" })).ok();
    let find = |body: Value| server.post("v3/publicRooms", Some(&bob), &body).ok();
    assert_eq!(names(&find(json!({ "filter": { "generic_search_term": "HID" } }))), ["hidden"]);
    let first = find(json!({ "limit": 1 }));
    assert_eq!(names(&first), ["open"]);
    assert_eq!(names(&find(json!({ "limit": 1, "since": first["next_batch"] }))), ["hidden"]);
    let here = server.get("v3/publicRooms?server=example.org&limit=1", Some(&bob)).ok();
    assert_eq!(names(&here), ["open"]);
    put(&server, &alice, &visibility(&room), &json!({ "visibility": "private" })).ok();
    // The configuration decides who sees the list, and whether there is one.
    let variables =
        [("RAVEL_ROOMS__PUBLIC_DIRECTORY_WITHOUT_AUTH", "true"), ("RAVEL_ROOMS__ALLOW_PUBLISHING", "false")];
    let server = server.restarted(&variables);
    assert_eq!(names(&server.get("v3/publicRooms", None).ok()), ["hidden"]);
    put(&server, &alice, &visibility(&room), &json!({ "visibility": "public" })).fails(403, "M_FORBIDDEN");
    server.post("v3/createRoom", Some(&alice), &json!({ "visibility": "public" })).fails(403, "M_FORBIDDEN");
}
