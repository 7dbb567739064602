//! A user of a homeserver, by the client-server API.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpStream},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    homeserver::{Homeserver, PATIENCE},
    http::{Answer, exchange},
};

/// A user with an access token.
pub(crate) struct User {
    pub(crate) id: String,
    address: SocketAddr,
    token: String,
    seen: Mutex<Seen>,
}

/// All that syncs have brought so far.
#[derive(Default)]
pub(crate) struct Seen {
    since: Option<String>,
    /// The events of each room's timelines and state, in order of arrival.
    events: BTreeMap<String, Vec<Value>>,
    /// What each room is now: `join`, `invite`, `knock` or `leave`.
    rooms: BTreeMap<String, String>,
}

impl Seen {
    /// Returns what a room's timelines and state have brought.
    pub(crate) fn events(&self, room: &str) -> &[Value] {
        self.events.get(room).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, sync: &Value) {
        self.since = sync["next_batch"].as_str().map(str::to_owned);
        for kind in ["join", "invite", "knock", "leave"] {
            for (room_id, room) in sync["rooms"][kind].as_object().into_iter().flatten() {
                self.rooms.insert(room_id.clone(), kind.to_owned());
                let events = self.events.entry(room_id.clone()).or_default();
                for part in ["state", "timeline"] {
                    events.extend(room[part]["events"].as_array().into_iter().flatten().cloned());
                }
            }
        }
    }
}

impl User {
    /// Registers one under a new name.
    pub(crate) fn register(server: &Homeserver) -> Self {
        static USERS: AtomicU64 = AtomicU64::new(1);
        let name = format!("user{}", USERS.fetch_add(1, Ordering::Relaxed));
        let body = json!({ "username": name, "password": "correct horse", "auth": { "type": "m.login.dummy" } });
        let mut user =
            Self { id: String::new(), address: server.address(), token: String::new(), seen: Mutex::default() };
        let made = user.ok("POST", "register", &body);
        assert_eq!(made["user_id"], format!("@{name}:{}", server.name));
        user.id = format!("@{name}:{}", server.name);
        user.token = made["access_token"].as_str().unwrap().to_owned();
        user
    }

    /// Sends a request for a path below `/_matrix/client/v3/`.
    pub(crate) fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = format!("Authorization: Bearer {}\r\nContent-Length: {}\r\n", self.token, body.len());
        let headers = if self.token.is_empty() { format!("Content-Length: {}\r\n", body.len()) } else { headers };
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        exchange(stream, method, &format!("/_matrix/client/v3/{path}"), &headers, body.as_bytes())
    }

    /// Sends a request that has to succeed.
    #[track_caller]
    pub(crate) fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask(method, path, body);
        assert_eq!(answer.status, 200, "{} {method} {path}: {}", self.id, answer.body);
        answer.json()
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Value {
        self.ok("GET", path, &Value::Null)
    }

    /// Sends a request about a room that has to succeed.
    #[track_caller]
    fn in_room(&self, method: &str, room: &str, path: &str, body: &Value) -> Value {
        self.ok(method, &format!("rooms/{}/{path}", encode(room)), body)
    }

    /// Makes a room and returns its id.
    #[track_caller]
    pub(crate) fn create(&self, body: &Value) -> String {
        self.ok("POST", "createRoom", body)["room_id"].as_str().unwrap().to_owned()
    }

    /// Makes a room of a version that everybody can join.
    #[track_caller]
    pub(crate) fn create_public(&self, version: &str) -> String {
        self.create(&json!({ "preset": "public_chat", "room_version": version }))
    }

    /// Asks to join a room, by way of a server.
    pub(crate) fn try_join(&self, room: &str, via: &Homeserver) -> Answer {
        self.ask("POST", &format!("join/{}?{}", encode(room), via_query(via)), &json!({}))
    }

    /// Joins a room, by way of a server.
    #[track_caller]
    pub(crate) fn join(&self, room: &str, via: &Homeserver) {
        let answer = self.try_join(room, via);
        assert_eq!(answer.status, 200, "{} joins {room}: {}", self.id, answer.body);
    }

    /// Knocks on a room, by way of a server.
    #[track_caller]
    pub(crate) fn knock(&self, room: &str, via: &Homeserver) {
        self.ok("POST", &format!("knock/{}?{}", encode(room), via_query(via)), &json!({}));
    }

    #[track_caller]
    pub(crate) fn leave(&self, room: &str) {
        self.in_room("POST", room, "leave", &json!({}));
    }

    /// Does one of `invite`, `kick`, `ban` and `unban` to a user.
    #[track_caller]
    pub(crate) fn change(&self, room: &str, what: &str, target: &Self) {
        self.in_room("POST", room, what, &json!({ "user_id": target.id }));
    }

    /// Sends a message and returns its event id.
    #[track_caller]
    pub(crate) fn send(&self, room: &str, text: &str) -> String {
        let path = format!("send/m.room.message/{}", transaction());
        event_id(&self.in_room("PUT", room, &path, &json!({ "msgtype": "m.text", "body": text })))
    }

    /// Asks to set a part of the state.
    pub(crate) fn try_set(&self, room: &str, event_type: &str, state_key: &str, content: &Value) -> Answer {
        self.ask("PUT", &format!("rooms/{}/state/{event_type}/{}", encode(room), encode(state_key)), content)
    }

    /// Sets a part of the state and returns the event id.
    #[track_caller]
    pub(crate) fn set(&self, room: &str, event_type: &str, state_key: &str, content: &Value) -> String {
        let answer = self.try_set(room, event_type, state_key, content);
        assert_eq!(answer.status, 200, "{} sets {event_type}: {}", self.id, answer.body);
        event_id(&answer.json())
    }

    /// Gives users power, besides what is set already.
    #[track_caller]
    pub(crate) fn set_power(&self, room: &str, powers: &[(&Self, i64)]) -> String {
        let mut content = self.in_room("GET", room, "state/m.room.power_levels/", &Value::Null);
        for (user, power) in powers {
            content["users"][&user.id] = (*power).into();
        }
        self.set(room, "m.room.power_levels", "", &content)
    }

    #[track_caller]
    pub(crate) fn redact(&self, room: &str, redacted: &str) -> String {
        let path = format!("redact/{}/{}", encode(redacted), transaction());
        event_id(&self.in_room("PUT", room, &path, &json!({ "reason": "to be tested" })))
    }

    /// Asks for an event.
    #[track_caller]
    pub(crate) fn event(&self, room: &str, event_id: &str) -> Value {
        self.in_room("GET", room, &format!("event/{}", encode(event_id)), &Value::Null)
    }

    /// Returns the room's state by event type and state key, with what all servers have to agree on.
    #[track_caller]
    pub(crate) fn state(&self, room: &str) -> BTreeMap<(String, String), Value> {
        let text = |event: &Value, field: &str| event[field].as_str().unwrap().to_owned();
        let state = self.in_room("GET", room, "state", &Value::Null);
        let events = state.as_array().unwrap().iter();
        events.map(|event| ((text(event, "type"), text(event, "state_key")), agreed(event))).collect()
    }

    /// Returns the room's events, latest first, as far as the server tells.
    #[track_caller]
    pub(crate) fn history(&self, room: &str) -> Vec<Value> {
        let mut found = Vec::new();
        let mut from = String::new();
        loop {
            let page = self.in_room("GET", room, &format!("messages?dir=b&limit=50{from}"), &Value::Null);
            found.extend(page["chunk"].as_array().unwrap().iter().map(agreed));
            match page["end"].as_str() {
                Some(end) => from = format!("&from={}", encode(end)),
                None => return found,
            }
        }
    }

    /// Syncs until something holds for all that was seen.
    #[track_caller]
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&Seen) -> bool) {
        let mut seen = self.seen.lock().unwrap();
        let began = Instant::now();
        while !holds(&seen) {
            assert!(began.elapsed() < PATIENCE, "{} has not seen {what} within {PATIENCE:?}", self.id);
            let since = seen.since.as_ref().map(|since| format!("&since={}", encode(since))).unwrap_or_default();
            let filter = encode(r#"{"room":{"timeline":{"limit":200}}}"#);
            seen.add(&self.get(&format!("sync?timeout=2000&filter={filter}{since}")));
        }
    }

    /// Syncs until an event of a room arrives.
    #[track_caller]
    pub(crate) fn until_event(&self, room: &str, event_id: &str) {
        self.until(event_id, |seen| seen.events(room).iter().any(|event| event["event_id"] == event_id));
    }

    /// Syncs until the last membership event of a user is of a kind.
    #[track_caller]
    pub(crate) fn until_member(&self, room: &str, user: &Self, membership: &str) {
        let of_user = |event: &&Value| event["type"] == "m.room.member" && event["state_key"] == user.id;
        self.until(&format!("{membership} of {}", user.id), |seen| {
            let last = seen.events(room).iter().rfind(of_user);
            last.is_some_and(|event| event["content"]["membership"] == membership)
        });
    }

    /// Syncs until a room is among those of a kind: `join`, `invite`, `knock` or `leave`.
    #[track_caller]
    pub(crate) fn until_room(&self, room: &str, kind: &str) {
        self.until(&format!("{room} among {kind}"), |seen| seen.rooms.get(room).is_some_and(|now| now == kind));
    }
}

/// Checks that a request was not allowed. (Synapse's own code for what a ban forbids is `M_BAD_STATE`.)
#[track_caller]
pub(crate) fn refused(answer: &Answer) {
    let (status, errcode) = answer.error();
    assert!(status == 403 && ["M_FORBIDDEN", "M_BAD_STATE"].contains(&errcode.as_str()), "{answer:?}");
}

/// Waits until something that is asked for over and over holds, of which an error says what is missing.
#[track_caller]
pub(crate) fn wait_until(mut holds: impl FnMut() -> Result<(), String>) {
    let began = Instant::now();
    while let Err(missing) = holds() {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {missing}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Returns the parts of an event that all servers have to agree on.
fn agreed(event: &Value) -> Value {
    let parts = ["type", "state_key", "event_id", "sender", "origin_server_ts", "content"];
    let mut event = event.clone();
    // Servers may show it in both of its places, whatever the room version.
    if event["type"] == "m.room.redaction" {
        event["content"].as_object_mut().unwrap().remove("redacts");
    }
    event.as_object_mut().unwrap().retain(|field, _| parts.contains(&field.as_str()));
    event
}

#[track_caller]
fn event_id(answer: &Value) -> String {
    answer["event_id"].as_str().unwrap().to_owned()
}

fn transaction() -> u64 {
    static TRANSACTIONS: AtomicU64 = AtomicU64::new(1);
    TRANSACTIONS.fetch_add(1, Ordering::Relaxed)
}

/// `server_name` is what the parameter was called before v1.12 of the specification.
fn via_query(server: &Homeserver) -> String {
    let name = encode(&server.name);
    format!("via={name}&server_name={name}")
}

/// Returns a text as a part of a path or a query.
pub(crate) fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
