//! Rooms of signed PDUs.

use serde_json::Value;

use super::{Author, Entries, Line, Names, unsigned_event};
use crate::{
    canonical_json::{JsonMode, object_to_canonical_bytes, parse_object},
    id::{EventId, KeyId, RoomId, ServerName},
    pdu::{ParsedPdu, VerifiedPdu},
    resolve::{Silent, resolve},
    room::{Check, Outcome, Receipt, RecordedReason, Room},
    room_version::RoomVersion,
    signing::{KeyRing, PublishedKey, SigningKey, hash_and_sign_event, sign_event},
    state::{State, StateMap},
};

/// A room with its PDUs.
#[derive(Debug)]
pub(crate) struct TestRoom {
    version: RoomVersion,
    pub(crate) room: Room,
    /// In the order of the text.
    pub(crate) pdus: Vec<VerifiedPdu>,
    pub(crate) names: Names,
}

impl TestRoom {
    /// Makes the PDUs and hands them to the room in the order of the text, checking what the text says of the outcome.
    #[track_caller]
    pub(crate) fn new(version: RoomVersion, text: &str) -> Self {
        let room_id = RoomId::parse("!room:a").expect("a room id");
        let room = Room::new(room_id, version.rules());
        let mut room = Self { version, room, pdus: Vec::new(), names: Names::default() };
        for line in Line::all(text) {
            let pdu = room.make(&line);
            if room.pdus.is_empty() && version == RoomVersion::V12 {
                room.room = Room::new(pdu.event().room_id.clone(), version.rules());
            }
            let receipt = room.room.handle_pdu(&pdu).expect("no broken invariant");
            assert!(matches!(receipt, Receipt::Judged(_)), "{}: {receipt:?}", line.name);
            let outcome = room.outcome(line.name);
            if let Some(expected) = line.outcome {
                assert_eq!(outcome, expected, "version {version}, {}", line.name);
            }
            room.pdus.push(pdu);
        }
        room
    }

    /// Makes the PDU of a line, without handing it to the room.
    pub(crate) fn pdu_of(&mut self, line: &str) -> VerifiedPdu {
        self.make(&Line::parse(line))
    }

    fn make(&mut self, line: &Line<'_>) -> VerifiedPdu {
        let ts = i64::try_from(self.names.ids.len()).expect("a small number") + 1;
        let event = unsigned_event(self, line, ts);
        let own = [line.server()];
        let servers: Vec<&str> = match &line.signed_by {
            Some(servers) => servers.clone(),
            None => own.iter().map(String::as_str).collect(),
        };
        let json = self.sign(&event.into(), &servers).expect("canonical JSON");
        let pdu = self.receive(&json).unwrap_or_else(|| panic!("{} is dropped", line.name));
        self.names.put(line.name, pdu.event_id());
        pdu
    }

    /// Returns an event with its content hash and the signatures of servers; `None` if it is not canonical.
    pub(crate) fn sign(&self, event: &Value, servers: &[&str]) -> Option<Vec<u8>> {
        let rules = self.version.rules();
        let mode = if rules.strict_canonical_json { JsonMode::Strict } else { JsonMode::ByteExact };
        let mut event = parse_object(event.to_string().as_bytes(), mode).ok()?;
        for (number, server) in servers.iter().enumerate() {
            let (name, key) = (ServerName::parse(server).ok()?, key_of(server));
            if number == 0 {
                event = hash_and_sign_event(event, rules, &name, &key).ok()?;
            } else {
                sign_event(&mut event, rules, &name, &key).ok()?;
            }
        }
        Some(object_to_canonical_bytes(&event))
    }

    /// Takes an event in as if it came from another server: checks 1 to 3. `None` if it is dropped.
    pub(crate) fn receive(&self, json: &[u8]) -> Option<VerifiedPdu> {
        ParsedPdu::parse(json, self.version.rules()).ok()?.verify(&ring(), 0).ok()
    }

    /// Returns a room that has no events yet.
    pub(crate) fn empty_room(&self) -> Room {
        Room::new(self.room.room_id().clone(), self.version.rules())
    }

    /// Returns the PDU of an event.
    pub(crate) fn pdu(&self, name: &str) -> &VerifiedPdu {
        self.pdus.iter().find(|pdu| *pdu.event_id() == self.names.id(name)).expect("a PDU of the text")
    }

    /// Returns the outcome of an event as the text writes it.
    pub(crate) fn outcome(&self, name: &str) -> String {
        let event_id = self.names.id(name);
        outcome_text(self.room.outcome(&event_id).expect("a known event"), self.room.reason(&event_id))
    }

    /// Returns the names of the forward extremities, sorted.
    pub(crate) fn extremities(&self) -> String {
        let extremities = self.room.forward_extremities();
        let mut names: Vec<_> = extremities.iter().map(|id| self.names.name(id)).collect();
        names.sort_unstable();
        names.join(",")
    }

    /// Checks the state after an event, or the current state (`now`).
    #[track_caller]
    pub(crate) fn check(&self, after: &str, expected: &str) {
        let state = match after {
            "now" => self.room.current_state(),
            name => self.room.state_after(&self.names.id(name)).expect("a known event"),
        };
        self.names.check_state(&state.to_map(), expected);
    }
}

/// Returns an outcome as the text writes it.
pub(crate) fn outcome_text(outcome: Outcome, reason: Option<&RecordedReason>) -> String {
    match (outcome, reason) {
        (Outcome::Accepted, None) => "accepted".to_owned(),
        (Outcome::SoftFailed, Some(RecordedReason { check: Check::CurrentState, code, .. })) => {
            format!("soft-failed {code}")
        }
        (Outcome::Rejected, Some(RecordedReason { check: Check::AuthEvents, code, .. })) => {
            format!("rejected 4 {code}")
        }
        (Outcome::Rejected, Some(RecordedReason { check: Check::StateBefore, code, .. })) => {
            format!("rejected 5 {code}")
        }
        other => panic!("an outcome without its reason: {other:?}"),
    }
}

/// The key `ed25519:1` of a server, made of its name.
fn key_of(server: &str) -> SigningKey {
    let mut seed = [0; 32];
    seed[..server.len()].copy_from_slice(server.as_bytes());
    SigningKey::from_seed(KeyId::parse("ed25519:1").expect("a key id"), &seed)
}

/// The keys of the servers `a` to `z`.
fn ring() -> KeyRing {
    let mut ring = KeyRing::new();
    for server in 'a'..='z' {
        let key = key_of(&server.to_string());
        let published = PublishedKey { key: key.verify_key(), valid_until_ts_ms: i64::MAX, expired_ts_ms: None };
        ring.insert(ServerName::parse(&server.to_string()).expect("a name"), key.key_id().clone(), published);
    }
    ring
}

impl Author for TestRoom {
    fn version(&self) -> RoomVersion {
        self.version
    }

    fn names(&self) -> &Names {
        &self.names
    }

    fn depth(&self, event_id: &EventId) -> Option<i64> {
        self.room.depth(event_id)
    }

    fn state_before(&self, prev_events: &[EventId]) -> Entries {
        let states = prev_events.iter().filter_map(|id| self.room.state_after(id));
        let states: Vec<&StateMap> = states.map(|state| state.map()).collect();
        State::new(self.room.graph(), &resolve(self.room.graph(), &states, &mut Silent)).to_map()
    }
}
