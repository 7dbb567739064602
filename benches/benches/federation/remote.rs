//! Another server: its keys, and what it has signed.

use std::time::{SystemTime, UNIX_EPOCH};

use ravel_core::{
    canonical_json::{JsonMode, object_to_canonical_bytes, parse, parse_object},
    id::{KeyId, ServerName},
    pdu::ParsedPdu,
    room_version::RoomVersion,
    signing::{KEY_LIFETIME_MAX_MS, PublishedKey, SigningKey, hash_and_sign_event},
};
use ravel_homeserver::federation::x_matrix::{SignedRequest, sign};
use serde_json::{Value, json};

use crate::ravel::{NAME, Ravel};

/// Another server.
pub(crate) struct Remote {
    pub(crate) name: ServerName,
    pub(crate) key: SigningKey,
    http: reqwest::Client,
}

/// A signed transaction.
pub(crate) struct Transaction {
    http: reqwest::Client,
    path: String,
    authorization: String,
    body: String,
}

/// A user of the server in a room.
pub(crate) struct Member {
    room_id: String,
    version: RoomVersion,
    user: String,
    auth_events: Vec<String>,
    last: String,
    depth: i64,
}

impl Remote {
    pub(crate) fn new(name: &str) -> Self {
        let mut seed = [b'.'; 32];
        seed.iter_mut().zip(name.bytes()).for_each(|(byte, letter)| *byte = letter);
        let key = SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &seed);
        Self { name: ServerName::parse(name).unwrap(), key, http: reqwest::Client::new() }
    }

    pub(crate) fn published_key(&self) -> PublishedKey {
        let valid_until_ts_ms = now_ms() + KEY_LIFETIME_MAX_MS;
        PublishedKey { key: self.key.verify_key(), valid_until_ts_ms, expired_ts_ms: None }
    }

    /// Joins a public room of the server.
    pub(crate) async fn join(&self, ravel: &Ravel, room_id: &str, version: RoomVersion) -> Member {
        let user = format!("@bob:{}", self.name);
        let path = format!("/_matrix/federation/v1/make_join/{room_id}/{user}?ver={}", version.as_str());
        let template = self.request("GET", &path, "").send(ravel).await;
        let mut event = template["event"].clone();
        event["content"] = json!({ "membership": "join" });
        event["origin_server_ts"] = now_ms().into();
        let (event_id, json) = self.sign(version, &event);
        let path = format!("/_matrix/federation/v2/send_join/{room_id}/{event_id}");
        let answer = self.request("PUT", &path, &json).send(ravel).await;
        let state = answer["state"].as_array().unwrap_or_else(|| panic!("{answer}"));
        let held = ["m.room.create", "m.room.power_levels"].map(|event_type| {
            let event = state.iter().find(|event| event["type"] == event_type).unwrap();
            ParsedPdu::parse(event.to_string().as_bytes(), version.rules()).unwrap().event().event_id.to_string()
        });
        let auth_events = held.into_iter().chain([event_id.clone()]).collect();
        let depth = event["depth"].as_i64().unwrap();
        Member { room_id: room_id.to_owned(), version, user, auth_events, last: event_id, depth }
    }

    /// Hashes and signs an event; returns its id and its JSON.
    fn sign(&self, version: RoomVersion, event: &Value) -> (String, String) {
        let event = parse_object(event.to_string().as_bytes(), JsonMode::Strict).unwrap();
        let signed = hash_and_sign_event(event, version.rules(), &self.name, &self.key).unwrap();
        let json = object_to_canonical_bytes(&signed);
        let event_id = ParsedPdu::parse(&json, version.rules()).unwrap().event().event_id.to_string();
        (event_id, String::from_utf8(json).unwrap())
    }

    pub(crate) fn transaction(&self, number: usize, pdus: &[String]) -> Transaction {
        let body =
            format!(r#"{{"origin":"{}","origin_server_ts":{},"pdus":[{}]}}"#, self.name, now_ms(), pdus.join(","));
        self.request("PUT", &format!("/_matrix/federation/v1/send/{number}"), &body)
    }

    /// Signs a request.
    fn request(&self, method: &str, path: &str, body: &str) -> Transaction {
        let content = (!body.is_empty()).then(|| parse(body.as_bytes(), JsonMode::Strict).unwrap());
        let request = SignedRequest { method, uri: path, content: content.as_ref() };
        let destination = ServerName::parse(NAME).unwrap();
        let authorization = sign(&request, &self.name, &destination, &self.key).unwrap();
        let authorization = authorization.to_str().unwrap().to_owned();
        Transaction { http: self.http.clone(), path: path.to_owned(), authorization, body: body.to_owned() }
    }
}

impl Transaction {
    /// Sends the request, GET if it has no body; returns the answer, which has to be one of success without any event refused.
    pub(crate) async fn send(self, ravel: &Ravel) -> Value {
        let url = ravel.url(&self.path);
        let request = if self.body.is_empty() { self.http.get(url) } else { self.http.put(url).body(self.body) };
        let answer = request.header("Authorization", self.authorization).send().await.unwrap();
        let status = answer.status();
        let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert!(status.is_success(), "{status}: {body}");
        let results = body["pdus"].as_object().into_iter().flat_map(|results| results.values());
        results.for_each(|result| assert_eq!(*result, json!({})));
        body
    }
}

impl Member {
    /// Returns messages, each on top of the one before, with their ids.
    pub(crate) fn messages(&mut self, remote: &Remote, count: usize) -> Vec<(String, String)> {
        let message = |number| {
            self.depth += 1;
            let event = json!({
                "type": "m.room.message",
                "sender": self.user,
                "room_id": self.room_id,
                "content": { "msgtype": "m.text", "body": format!("This is message {number}, about as long as messages are.") },
                "origin_server_ts": now_ms(),
                "depth": self.depth,
                "prev_events": [self.last],
                "auth_events": self.auth_events,
            });
            let (event_id, json) = remote.sign(self.version, &event);
            self.last.clone_from(&event_id);
            (event_id, json)
        };
        (0..count).map(message).collect()
    }
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}
