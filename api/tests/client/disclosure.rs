//! What nobody is told who may not know it. Source of the visibility rules: client-server API, "Room History Visibility".

use serde_json::{Value, json};

use crate::{
    rooms::{bodies, create, put, user},
    server::Server,
};

/// Everything that can be read of a room, given one of its events.
fn readings(room: &str, event_id: &str) -> Vec<String> {
    let v3 = [
        "state",
        "state/m.room.name/",
        "members",
        "joined_members",
        "messages?dir=b",
        "messages?dir=f",
        "initialSync",
        "aliases",
        &format!("event/{event_id}"),
        &format!("context/{event_id}"),
    ];
    let v1 = ["timestamp_to_event?ts=0&dir=f", "hierarchy"];
    let paths = v3.map(|path| format!("v3/rooms/{room}/{path}")).into_iter();
    paths.chain(v1.map(|path| format!("v1/rooms/{room}/{path}"))).collect()
}

fn say(server: &Server, token: &str, room: &str, text: &str) -> String {
    let path = format!("v3/rooms/{room}/send/m.room.message/{text}");
    let said = put(server, token, &path, &json!({ "msgtype": "m.text", "body": text })).ok();
    said["event_id"].as_str().unwrap().to_owned()
}

/// Not even whether a room is there: what is answered is the same for one that is not.
#[test]
fn sc_170_sc_171_a_private_room_is_nothing_to_who_is_not_in_it() {
    let server = Server::open(&[]);
    let (alice, mallory) = (user(&server, "alice"), user(&server, "mallory"));
    let body = json!({ "name": "plans", "preset": "private_chat", "initial_state": [history("shared")] });
    let room = create(&server, &alice, &body);
    let said = say(&server, &alice, &room, "secret");
    for (here, nowhere) in readings(&room, &said).iter().zip(readings("!nowhere:example.org", &said)) {
        let (here, nowhere) = (server.get(here, Some(&mallory)), server.get(&nowhere, Some(&mallory)));
        let (status, text) = (here.status, here.json.to_string());
        assert!(matches!(status, 403 | 404), "{status} {text}");
        assert!(!text.contains("plans") && !text.contains("secret"), "{text}");
        assert_eq!((status, here.json["errcode"].clone()), (nowhere.status, nowhere.json["errcode"].clone()));
    }
}

#[test]
fn sc_172_who_joins_reads_nothing_from_before() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    for visibility in ["joined", "invited"] {
        let body = json!({ "preset": "public_chat", "initial_state": [history(visibility)] });
        let room = create(&server, &alice, &body);
        let before = say(&server, &alice, &room, "before");
        server.post(&format!("v3/join/{room}"), Some(&bob), &json!({})).ok();
        let after = say(&server, &alice, &room, "after");

        let at = |path: &str| format!("v3/rooms/{room}/{path}");
        let synced = server.get("v3/sync", Some(&bob)).ok();
        assert_eq!(bodies(&synced["rooms"]["join"][&room]["timeline"]["events"]), ["after"], "{visibility}");
        for direction in ["b", "f"] {
            let page = server.get(&at(&format!("messages?dir={direction}&limit=100")), Some(&bob)).ok();
            assert_eq!(bodies(&page["chunk"]), ["after"], "{visibility}");
        }
        server.get(&at(&format!("event/{before}")), Some(&bob)).fails(404, "M_NOT_FOUND");
        server.get(&at(&format!("context/{before}")), Some(&bob)).fails(404, "M_NOT_FOUND");
        let around = server.get(&at(&format!("context/{after}?limit=100")), Some(&bob)).ok();
        assert!(!around.to_string().contains(&before), "{around}");
        let found = server.get(&format!("v1/rooms/{room}/timestamp_to_event?ts=0&dir=f"), Some(&bob));
        assert!(!found.json.to_string().contains(&before), "{}", found.json);
    }
}

#[test]
fn sc_174_who_has_left_reads_until_then_and_no_further() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let body = json!({ "preset": "public_chat", "initial_state": [history("shared")] });
    let room = create(&server, &alice, &body);
    say(&server, &alice, &room, "before");
    server.post(&format!("v3/join/{room}"), Some(&bob), &json!({})).ok();
    let there = say(&server, &alice, &room, "there");
    server.post(&format!("v3/rooms/{room}/leave"), Some(&bob), &json!({})).ok();
    let gone = say(&server, &alice, &room, "gone");

    let at = |path: &str| format!("v3/rooms/{room}/{path}");
    let page = server.get(&at("messages?dir=b&limit=100"), Some(&bob)).ok();
    assert_eq!(bodies(&page["chunk"]), ["there", "before"]);
    server.get(&at(&format!("event/{there}")), Some(&bob)).ok();
    server.get(&at(&format!("event/{gone}")), Some(&bob)).fails(404, "M_NOT_FOUND");
    let around = server.get(&at(&format!("context/{there}?limit=100")), Some(&bob)).ok();
    assert_eq!(bodies(&around["events_after"]), [""; 0], "{around}");
    put(&server, &alice, &at("state/m.room.name/"), &json!({ "name": "later" })).ok();
    let state = server.get(&at("state"), Some(&bob)).ok();
    assert!(!state.to_string().contains("later"), "the state is that of when bob left: {state}");
}

/// A transaction id is between a client and its server.
#[test]
fn sc_176_transaction_ids_are_not_for_others() {
    let server = Server::open(&[]);
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let room = create(&server, &alice, &json!({ "preset": "public_chat" }));
    server.post(&format!("v3/join/{room}"), Some(&bob), &json!({})).ok();
    let said = say(&server, &alice, &room, "mine");
    for path in readings(&room, &said).iter().map(String::as_str).chain(["v3/sync"]) {
        let answer = server.get(path, Some(&bob)).json.to_string();
        assert!(!answer.contains("transaction_id"), "{path}: {answer}");
    }
}

fn history(visibility: &str) -> Value {
    json!({ "type": "m.room.history_visibility", "content": { "history_visibility": visibility } })
}
