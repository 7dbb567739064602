//! What other servers may read of rooms.

use std::collections::BTreeSet;

use ravel_core::{pdu::ParsedPdu, room_version::RoomVersion};
use serde_json::{Value, json};

use crate::{
    remote::{Authority, escaped},
    server::Server,
};

/// A room of alice's, and what she says in it.
struct Room<'s> {
    ravel: &'s Server,
    alice: String,
    id: String,
}

impl<'s> Room<'s> {
    fn new(ravel: &'s Server) -> Self {
        let body = json!({ "username": "alice", "password": "secret", "auth": { "type": "m.login.dummy" } });
        let alice = ravel.post("v3/register", None, &body).ok()["access_token"].as_str().unwrap().to_owned();
        let mut room = Self { ravel, alice, id: String::new() };
        room.id = room.another();
        room
    }

    /// Makes another room, and returns its id.
    fn another(&self) -> String {
        let public = json!({ "preset": "public_chat", "room_version": "11" });
        let made = self.ravel.post("v3/createRoom", Some(&self.alice), &public).ok();
        made["room_id"].as_str().unwrap().to_owned()
    }

    fn put(&self, path: &str, content: &Value) -> String {
        let path = format!("v3/rooms/{}/{path}", self.id);
        let sent = self.ravel.ask("PUT", &path, Some(&self.alice), content.to_string().as_bytes()).ok();
        sent["event_id"].as_str().unwrap().to_owned()
    }

    /// Says something, and returns the event's id.
    fn say(&self, text: &str) -> String {
        self.put(&format!("send/m.room.message/{text}"), &json!({ "body": text }))
    }
}

/// Returns the ids of events as they come over the wire.
fn ids(events: &Value) -> BTreeSet<String> {
    let id = |event: &Value| {
        assert_eq!(event.get("unsigned"), None);
        let pdu = ParsedPdu::parse(event.to_string().as_bytes(), RoomVersion::V11.rules()).unwrap();
        pdu.event().event_id.to_string()
    };
    events.as_array().unwrap().iter().map(id).collect()
}

fn id_set(ids: &Value) -> BTreeSet<String> {
    ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect()
}

/// Every room-scoped question.
fn questions(room: &str, event: &str) -> [(&'static str, String, Option<Value>); 6] {
    let wanted = json!({ "latest_events": [event], "earliest_events": [], "limit": 10 });
    [
        ("GET", format!("v1/event_auth/{room}/{event}"), None),
        ("GET", format!("v1/state/{room}?event_id={event}"), None),
        ("GET", format!("v1/state_ids/{room}?event_id={event}"), None),
        ("GET", format!("v1/backfill/{room}?v={event}&limit=10"), None),
        ("POST", format!("v1/get_missing_events/{room}"), Some(wanted)),
        ("GET", format!("v1/timestamp_to_event/{room}?ts=0&dir=f"), None),
    ]
}

#[test]
fn a_server_in_the_room_reads_it() {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel(), authority.remote());
    let room = Room::new(&ravel);
    room.say("before");
    let (_, join) = remote.join(&ravel, &room.id, "bob");
    let [one, two] = [room.say("one"), room.say("two")];
    let [event_auth, state, state_ids, backfill, missing, timestamp] =
        questions(&room.id, &two).map(|(method, path, body)| remote.ask(&ravel, method, &path, body.as_ref()).ok());

    assert!(ids(&state["pdus"]).contains(&join));
    assert_eq!(ids(&state["pdus"]), id_set(&state_ids["pdu_ids"]));
    assert_eq!(ids(&state["auth_chain"]), id_set(&state_ids["auth_chain_ids"]));
    assert!(ids(&state["auth_chain"]).is_superset(&ids(&event_auth["auth_chain"])));
    assert_eq!(event_auth["auth_chain"][0]["type"], "m.room.create");
    assert_eq!(backfill["origin"], "example.org");
    let bodies = |events: &Value| -> Vec<String> {
        let bodies = events.as_array().unwrap().iter().map(|event| &event["content"]["body"]);
        bodies.map(|body| body.as_str().unwrap_or("-").to_owned()).collect()
    };
    assert_eq!(bodies(&backfill["pdus"])[..4], ["two", "one", "-", "before"]);
    assert!(bodies(&missing["events"]).ends_with(&["before", "-", "one"].map(str::to_owned)), "{missing}");
    let create = state["pdus"].as_array().unwrap().iter().find(|event| event["type"] == "m.room.create").unwrap();
    assert_eq!(timestamp["origin_server_ts"], create["origin_server_ts"]);
    let event = remote.get(&ravel, &format!("v1/event/{one}")).ok();
    assert_eq!((bodies(&event["pdus"]), ids(&event["pdus"])), (vec!["one".to_owned()], [one].into()));

    remote.get(&ravel, &format!("v1/state/{}", room.id)).fails(400, "M_MISSING_PARAM");
    let many = "&v=$unknown".repeat(101);
    remote.get(&ravel, &format!("v1/backfill/{}?limit=1{many}", room.id)).fails(400, "M_INVALID_PARAM");
    let join = format!("v2/send_join/{}/{}?omit_members=1", room.id, escaped("$join"));
    remote.put(&ravel, &join, &json!({})).fails(400, "M_INVALID_PARAM");
}

/// What is unknown, and what is of another room, is answered with the same bytes.
#[test]
fn sc_100_sc_106_events_are_of_the_room_that_is_asked_about() {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel(), authority.remote());
    let mut room = Room::new(&ravel);
    remote.join(&ravel, &room.id, "bob");
    let asked_about = room.id.clone();
    room.id = room.another();
    let elsewhere = room.say("elsewhere");
    let answers = |event: &str| {
        questions(&asked_about, event).map(|(method, path, body)| {
            let answer = remote.ask(&ravel, method, &path, body.as_ref());
            let mut json = answer.json;
            // Answers that look like transactions have the time.
            json.as_object_mut().unwrap().remove("origin_server_ts");
            (answer.status, json)
        })
    };
    let unknown = answers("$unknown");
    assert_eq!(answers(&elsewhere), unknown);
    assert_eq!(unknown.map(|(status, _)| status), [404, 404, 404, 200, 200, 200]);
    let event = |event: &str| remote.get(&ravel, &format!("v1/event/{event}")).json;
    assert_eq!(event(&elsewhere), event("$unknown"));
}

#[test]
fn sc_110_who_is_denied_by_the_access_control_list_reads_nothing() {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel(), authority.remote());
    let room = Room::new(&ravel);
    remote.join(&ravel, &room.id, "bob");
    let event = room.say("hello");
    let (host, _) = remote.name.as_str().split_once(':').unwrap();
    room.put("state/m.room.server_acl/", &json!({ "allow": ["*"], "deny": [host] }));
    for (method, path, body) in questions(&room.id, &event) {
        remote.ask(&ravel, method, &path, body.as_ref()).fails(403, "M_FORBIDDEN");
    }
    remote.get(&ravel, &format!("v1/event/{event}")).fails(404, "M_NOT_FOUND");
}

/// Whether a room is not here, or is here and not for the server, makes no difference to it.
#[test]
fn sc_101_sc_103_sc_104_rooms_are_for_servers_in_them() {
    let authority = Authority::new();
    let (ravel, remote) = (authority.ravel(), authority.remote());
    let room = Room::new(&ravel);
    let event = room.say("hello");
    let answers = |room: &str, event: &str| {
        questions(room, event).map(|(method, path, body)| {
            let answer = remote.ask(&ravel, method, &path, body.as_ref());
            let text = answer.json.to_string();
            answer.fails(403, "M_FORBIDDEN");
            text
        })
    };
    assert_eq!(answers(&room.id, &event), answers("!nowhere:example.org", "$unknown"));
    let unknown = remote.get(&ravel, "v1/event/$unknown");
    assert_eq!(remote.get(&ravel, &format!("v1/event/{event}")).json, unknown.json);
    unknown.fails(404, "M_NOT_FOUND");
}
