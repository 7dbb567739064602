//! A user of another server in a room of Ravel's, and a local user who watches it.

use ravel_core::{pdu::ParsedPdu, room_version::RoomVersion};
use serde_json::{Value, json};

use crate::{
    remote::{Remote, escaped, now_ms},
    server::Server,
};

/// A user of Ravel's.
pub(crate) struct Local<'s> {
    pub(crate) server: &'s Server,
    pub(crate) token: String,
}

/// A user of another server who has joined a room.
pub(crate) struct Member<'s> {
    pub(crate) remote: &'s Remote,
    pub(crate) version: RoomVersion,
    pub(crate) room: String,
    pub(crate) user: String,
    /// The ids of the create event, the power levels and the member event.
    pub(crate) auth_events: Vec<String>,
    /// The newest event that it knows of, and its depth.
    pub(crate) last: (String, i64),
}

impl<'s> Local<'s> {
    pub(crate) fn register(server: &'s Server, name: &str) -> Self {
        let body = json!({ "username": name, "password": "secret", "auth": { "type": "m.login.dummy" } });
        let token = server.post("v3/register", None, &body).ok()["access_token"].as_str().unwrap().to_owned();
        Self { server, token }
    }

    /// Makes a room that everybody can join.
    pub(crate) fn public_room(&self, version: RoomVersion) -> String {
        let body = json!({ "preset": "public_chat", "room_version": version.as_str() });
        let made = self.server.post("v3/createRoom", Some(&self.token), &body).ok();
        made["room_id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn say(&self, room: &str, text: &str) -> String {
        let transaction = text.replace(' ', "-");
        let path = format!("v3/rooms/{room}/send/m.room.message/{transaction}");
        let body = json!({ "body": text }).to_string();
        let sent = self.server.ask("PUT", &path, Some(&self.token), body.as_bytes()).ok();
        sent["event_id"].as_str().unwrap().to_owned()
    }

    pub(crate) fn set(&self, room: &str, event_type: &str, content: &Value) -> String {
        let (path, body) = (format!("v3/rooms/{room}/state/{event_type}/"), content.to_string());
        let sent = self.server.ask("PUT", &path, Some(&self.token), body.as_bytes()).ok();
        sent["event_id"].as_str().unwrap().to_owned()
    }

    /// Returns the newest events of a room, in order.
    pub(crate) fn events(&self, room: &str) -> Vec<Value> {
        let page = self.server.get(&format!("v3/rooms/{room}/messages?dir=b&limit=200"), Some(&self.token)).ok();
        let mut events = page["chunk"].as_array().unwrap().clone();
        events.reverse();
        events
    }

    /// Returns the texts of a room's messages, in order.
    pub(crate) fn texts(&self, room: &str) -> Vec<String> {
        let text = |event: &Value| Some(event["content"]["body"].as_str()?.to_owned());
        self.events(room).iter().filter_map(text).collect()
    }

    /// Returns the content of a state event, if there is one.
    pub(crate) fn state(&self, room: &str, event_type: &str, state_key: &str) -> Option<Value> {
        let answer = self.server.get(&format!("v3/rooms/{room}/state/{event_type}/{state_key}"), Some(&self.token));
        (answer.status == 200).then_some(answer.json)
    }
}

impl<'s> Member<'s> {
    /// Joins a public room.
    pub(crate) fn join(remote: &'s Remote, server: &Server, room: &str, version: RoomVersion) -> Self {
        let user = remote.user("bob");
        let template = remote.get(server, &format!("v1/make_join/{room}/{user}?ver={}", version.as_str())).ok();
        let mut event = template["event"].clone();
        event["content"] = json!({ "membership": "join" });
        event["origin_server_ts"] = now_ms().into();
        if version <= RoomVersion::V2 {
            event["event_id"] = format!("$join:{}", remote.name).into();
        }
        let (id, json) = remote.sign(version, &event);
        let answer = remote.put(server, &format!("v2/send_join/{room}/{}", escaped(&id)), &json).ok();
        let state = answer["state"].as_array().unwrap();
        let held = ["m.room.create", "m.room.power_levels"].map(|event_type| {
            let event = state.iter().find(|event| event["type"] == event_type).unwrap();
            id_of(version, event)
        });
        // From version 12 on nobody cites the create event.
        let cited = if version == RoomVersion::V12 { &held[1..] } else { &held[..] };
        let auth_events = cited.iter().cloned().chain([id.clone()]).collect();
        let depth = event["depth"].as_i64().unwrap();
        Self { remote, version, room: room.to_owned(), user, auth_events, last: (id, depth) }
    }

    /// Makes an event on top of the newest one, with some fields replaced; it is not the newest one after that.
    pub(crate) fn event(&self, replaced: &Value) -> (String, Value) {
        let mut event = json!({
            "type": "m.room.message",
            "sender": self.user,
            "room_id": self.room,
            "content": { "body": "hello" },
            "origin_server_ts": now_ms(),
            "depth": self.last.1 + 1,
            "prev_events": [self.last.0],
            "auth_events": self.auth_events,
        });
        for (field, value) in replaced.as_object().unwrap() {
            event[field] = value.clone();
        }
        self.remote.sign(self.version, &event)
    }

    /// Makes a message on top of the newest event, which it is after that.
    pub(crate) fn say(&mut self, text: &str) -> (String, Value) {
        let made = self.event(&json!({ "content": { "body": text } }));
        self.last = (made.0.clone(), self.last.1 + 1);
        made
    }

    /// Sends events in one transaction; returns what was answered for each.
    pub(crate) fn send(&self, server: &Server, transaction: &str, pdus: &[&Value]) -> Value {
        let body = json!({ "origin": self.remote.name.as_str(), "origin_server_ts": now_ms(), "pdus": pdus });
        self.remote.put(server, &format!("v1/send/{transaction}"), &body).ok()["pdus"].clone()
    }
}

/// Returns the id of an event.
pub(crate) fn id_of(version: RoomVersion, event: &Value) -> String {
    ParsedPdu::parse(event.to_string().as_bytes(), version.rules()).unwrap().event().event_id.to_string()
}
