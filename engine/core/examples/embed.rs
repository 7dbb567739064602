//! A room without a server: makes signed events, forks the room, merges it and explains the merge.
#![allow(clippy::print_stdout, reason = "it is there to print")]
use ravel_core::{
    EventId, ParsedPdu, Receipt, Room, RoomId, RoomVersion,
    canonical_json::{JsonMode, object_to_canonical_bytes, parse_object},
    id::{KeyId, ServerName},
    signing::{KeyRing, PublishedKey, SigningKey, hash_and_sign_event},
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Author {
    room: Room,
    key: SigningKey,
    keys: KeyRing,
}

impl Author {
    /// Makes a state event of alice, signs it and hands it to the room as if it came from another server.
    fn send(&mut self, event_type: &str, content: &str, prev: &[&EventId], auth: &[&EventId]) -> Result<EventId> {
        let list = |ids: &[&EventId]| ids.iter().map(|id| format!("{:?}", id.as_str())).collect::<Vec<_>>().join(",");
        let state_key = if event_type == "m.room.member" { "@alice:a" } else { "" };
        let (room_id, depth, prev, auth) = (self.room.room_id().as_str(), self.room.len() + 1, list(prev), list(auth));
        let json = format!(
            r#"{{"type":"{event_type}","state_key":"{state_key}","content":{content},"sender":"@alice:a","depth":{depth},
            "room_id":"{room_id}","origin_server_ts":{depth},"prev_events":[{prev}],"auth_events":[{auth}]}}"#
        );
        let event = parse_object(json.as_bytes(), JsonMode::Strict)?;
        let event = hash_and_sign_event(event, self.room.rules(), &ServerName::parse("a")?, &self.key)?;
        let parsed = ParsedPdu::parse(&object_to_canonical_bytes(&event), self.room.rules())?;
        let verified = parsed.verify(&self.keys, 0)?;
        let Receipt::Judged(judged) = self.room.handle_pdu(&verified)? else { return Err("not judged".into()) };
        println!("{event_type}: {:?}, {} effects", judged.verdict, judged.effects.len());
        Ok(verified.event_id().clone())
    }
}

fn main() -> Result<()> {
    let key = SigningKey::from_seed(KeyId::parse("ed25519:1")?, &[7; 32]);
    let published = PublishedKey { key: key.verify_key(), valid_until_ts_ms: i64::MAX, expired_ts_ms: None };
    let mut keys = KeyRing::new();
    keys.insert(ServerName::parse("a")?, key.key_id().clone(), published);
    let room = Room::new(RoomId::parse("!room:a")?, RoomVersion::V11.rules());
    let mut alice = Author { room, key, keys };

    let create = alice.send("m.room.create", r#"{"room_version":"11"}"#, &[], &[])?;
    let join = alice.send("m.room.member", r#"{"membership":"join"}"#, &[&create], &[&create])?;
    let power = alice.send("m.room.power_levels", r#"{"users":{"@alice:a":100}}"#, &[&join], &[&create, &join])?;
    let auth = [&create, &join, &power];
    // Two join rules that do not know of each other, then a topic that builds on both.
    let public = alice.send("m.room.join_rules", r#"{"join_rule":"public"}"#, &[&power], &auth)?;
    let invite = alice.send("m.room.join_rules", r#"{"join_rule":"invite"}"#, &[&power], &auth)?;
    let merge = alice.send("m.room.topic", r#"{"topic":"Merged"}"#, &[&public, &invite], &auth)?;

    println!("{:#?}", alice.room.current_state());
    alice.room.explain(&merge)?.iter().flat_map(|told| &told.steps).for_each(|step| println!("{step:?}"));
    Ok(())
}
