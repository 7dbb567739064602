//! A room of another server, made up: its state, and what a resident answers about it.

use bytes::Bytes;
use ravel_core::{
    canonical_json::{JsonMode, object_to_canonical_bytes, parse_object},
    id::{KeyId, RoomId, ServerName},
    pdu::ParsedPdu,
    room_version::RoomVersion,
    signing::{KEY_LIFETIME_MAX_MS, KeyRing, PublishedKey, SigningKey, hash_and_sign_event},
};
use serde_json::{Value, json};

const VERSION: RoomVersion = RoomVersion::V11;

/// When all happened, a while ago.
const NOW_MS: i64 = 1_790_000_000_000;

/// The room.
pub(crate) struct GivenRoom {
    pub(crate) room_id: RoomId,
    pub(crate) resident: ServerName,
    servers: Vec<(ServerName, SigningKey)>,
    /// The events of the state; the first four authorize the others.
    state: Vec<String>,
    auth_events: Vec<String>,
    last: String,
}

impl GivenRoom {
    pub(crate) fn new(members: usize, servers: usize) -> Self {
        let server = |number: usize| {
            let mut seed = [7; 32];
            seed[..8].copy_from_slice(&number.to_le_bytes());
            let name = ServerName::parse(&format!("server{number}.test")).unwrap();
            (name, SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &seed))
        };
        let servers: Vec<_> = (0..servers.max(1)).map(server).collect();
        let resident = servers[0].0.clone();
        let room_id = RoomId::parse(&format!("!large:{resident}")).unwrap();
        let mut room =
            Self { room_id, resident, servers, state: Vec::new(), auth_events: Vec::new(), last: String::new() };
        let creator = format!("@creator:{}", room.resident);
        let create = room.add(0, "m.room.create", &creator, "", &json!({ "room_version": VERSION.as_str() }), &[]);
        let member = json!({ "membership": "join", "displayname": "Creator" });
        let creator_joins = room.add(0, "m.room.member", &creator, &creator, &member, &[&create]);
        let levels = json!({ "users": { creator.as_str(): 100 } });
        let of_creator = [create.as_str(), creator_joins.as_str()];
        let levels = room.add(0, "m.room.power_levels", &creator, "", &levels, &of_creator);
        let of_creator = [create.as_str(), creator_joins.as_str(), levels.as_str()];
        let rules = room.add(0, "m.room.join_rules", &creator, "", &json!({ "join_rule": "public" }), &of_creator);
        let auth_events = [create.as_str(), levels.as_str(), rules.as_str()];
        for number in 1..members {
            let server = number % room.servers.len();
            let user = format!("@user{number}:{}", room.servers[server].0);
            let content = json!({
                "membership": "join", "displayname": format!("User {number}"),
                "avatar_url": format!("mxc://{}/abcdefghijklmnopqrstuvwx", room.servers[server].0),
            });
            room.add(server, "m.room.member", &user, &user, &content, &auth_events);
        }
        room.auth_events = auth_events.map(str::to_owned).into();
        room
    }

    /// Adds an event to the state; returns its id.
    fn add(
        &mut self,
        server: usize,
        event_type: &str,
        sender: &str,
        state_key: &str,
        content: &Value,
        auth_events: &[&str],
    ) -> String {
        let prev_events: Vec<&str> = if self.last.is_empty() { Vec::new() } else { vec![&self.last] };
        let event = json!({
            "type": event_type, "room_id": self.room_id.as_str(), "sender": sender, "state_key": state_key,
            "content": content, "origin_server_ts": NOW_MS, "depth": self.state.len() + 1,
            "prev_events": prev_events, "auth_events": auth_events,
        });
        let event = parse_object(event.to_string().as_bytes(), JsonMode::Strict).unwrap();
        let (name, key) = &self.servers[server];
        let json = object_to_canonical_bytes(&hash_and_sign_event(event, VERSION.rules(), name, key).unwrap());
        self.last = ParsedPdu::parse(&json, VERSION.rules()).unwrap().event().event_id.to_string();
        self.state.push(String::from_utf8(json).unwrap());
        self.last.clone()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.state.iter().map(String::len).sum()
    }

    /// Returns the keys of all servers.
    pub(crate) fn keys(&self) -> KeyRing {
        let mut keys = KeyRing::new();
        for (name, key) in &self.servers {
            let valid_until_ts_ms = NOW_MS + 10 * KEY_LIFETIME_MAX_MS;
            let published = PublishedKey { key: key.verify_key(), valid_until_ts_ms, expired_ts_ms: None };
            keys.insert(name.clone(), key.key_id().clone(), published);
        }
        keys
    }

    /// Returns the answer to `make_join`.
    pub(crate) fn template(&self, user: &str) -> Bytes {
        let user = user.replace("%40", "@").replace("%3A", ":");
        let event = json!({
            "type": "m.room.member", "room_id": self.room_id.as_str(), "sender": user, "state_key": user,
            "content": { "membership": "join" }, "depth": self.state.len() + 1,
            "prev_events": [self.last], "auth_events": self.auth_events,
        });
        json!({ "room_version": VERSION.as_str(), "event": event }).to_string().into()
    }

    /// Returns the answer to `send_join`.
    pub(crate) fn answer(&self, join: &[u8]) -> Bytes {
        let (state, auth_chain) = (self.state.join(","), self.state[..4].join(","));
        let join = String::from_utf8_lossy(join);
        format!(r#"{{"event":{join},"state":[{state}],"auth_chain":[{auth_chain}]}}"#).into()
    }
}
