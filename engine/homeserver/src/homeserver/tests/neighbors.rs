//! Rooms of which the ids begin with that of another one.

use std::collections::BTreeSet;

use ravel_core::{
    canonical_json::object_to_canonical_bytes,
    event::{Membership, event_type},
    id::{EventId, RoomId},
    pdu::VerifiedPdu,
    room::{Effect, NewEvent, PersistEvent, Receipt as PduReceipt, Room},
    signing::hash_and_sign_event,
};
use ravel_store::log::StoredFact;
use ruma::OwnedRoomAliasId;
use serde_json::{Map, Value, json};

use super::*;
use crate::{
    ephemeral::{EphemeralNews, EphemeralQuery, Receipt, ReceiptKind},
    rooms::{MembershipChange, RoomsError},
    testing::object,
};

const IDS: [&str; 3] = ["!r:b", "!r:bc", "!r:b.c"];

/// Makes a room of another server, which alice has joined.
fn room_of(room_id: &RoomId) -> (Room, Vec<PersistEvent>) {
    let rules = RoomVersion::V11.rules();
    let (mut room, mut events) = (Room::new(room_id.clone(), rules), Vec::new());
    let bob = &format!("@bob:{}", room_id.server_name().unwrap());
    let (join, levels) = (r#"{"membership":"join"}"#, format!(r#"{{"users":{{"{bob}":100}}}}"#));
    for (sender, kind, state_key, content) in [
        (bob.as_str(), event_type::CREATE, "", r#"{"room_version":"11"}"#),
        (bob, event_type::MEMBER, bob, join),
        (bob, event_type::POWER_LEVELS, "", &levels),
        (bob, event_type::JOIN_RULES, "", r#"{"join_rule":"public"}"#),
        ("@alice:a", event_type::MEMBER, "@alice:a", join),
    ] {
        let sender = user_id(sender);
        let new = NewEvent {
            sender: &sender,
            event_type: kind,
            state_key: Some(state_key),
            content: object(content),
            redacts: None,
            origin_server_ts_ms: 1,
            event_id: "",
        };
        let server = sender.server_name();
        let event = room.compose(&new).unwrap();
        let signed = hash_and_sign_event(event, rules, &server_name(server), &key_of(server)).unwrap();
        let pdu = VerifiedPdu::restore(&object_to_canonical_bytes(&signed), rules, None, true).unwrap();
        let PduReceipt::Judged(judged) = room.handle_pdu(&pdu).unwrap() else { panic!("it is new") };
        events.extend(judged.effects.into_iter().filter_map(|effect| match effect {
            Effect::Persist(event) => Some(*event),
            Effect::Publish(_) => None,
        }));
    }
    (room, events)
}

/// Takes a room over, and notes of it whatever is noted of rooms.
async fn fill(server: &Homeserver, room_id: &RoomId, alias: &str) {
    let alice = user_id("@alice:a");
    let (room, events) = room_of(room_id);
    assert!(server.rooms.take_over(room, events).await.unwrap());
    // Others are told of this join by this server, and it is kept that they were not yet.
    join_from(server, room_id, "@dave:d").await;
    for (kind, thread) in [(ReceiptKind::Read, None), (ReceiptKind::Private, None), (ReceiptKind::Read, Some("main"))] {
        let event_id = EventId::parse(&format!("${room_id}")).unwrap();
        let receipt = Receipt { kind, event_id, thread: thread.map(str::to_owned), ts_ms: 1 };
        server.ephemeral.receipt(room_id, &alice, receipt).await.unwrap();
    }
    let content = Map::from_iter([("room".to_owned(), Value::from(room_id.as_str()))]);
    server.account_data.set(&alice, Some(room_id), "m.tag", content).await.unwrap();
    server.directory.add(&OwnedRoomAliasId::try_from(alias).unwrap(), room_id, &alice).await.unwrap();
    server.directory.publish(room_id, true).await.unwrap();
}

/// What a server knows of a room.
#[derive(Debug, PartialEq)]
struct Known {
    /// With their kinds: those of which the key names the room.
    facts: Vec<(u8, StoredFact)>,
    aliases: Vec<OwnedRoomAliasId>,
    news: EphemeralNews,
    tag: Option<Value>,
    membership: Option<Membership>,
    events: usize,
}

async fn known(server: &Homeserver, room_id: &RoomId) -> Known {
    let alice = user_id("@alice:a");
    let mut facts = Vec::new();
    for kind in 0..=u8::MAX {
        let of_kind = server.log.facts(kind, &[], None, 1_000).await.unwrap();
        let names_it =
            |fact: &StoredFact| fact.key.split(|byte| *byte == 0).any(|part| part == room_id.as_str().as_bytes());
        facts.extend(of_kind.into_iter().filter(names_it).map(|fact| (kind, fact)));
    }
    let (joined, new) = ([room_id.clone()], BTreeSet::from([room_id.clone()]));
    let query = EphemeralQuery { user: &alice, since: None, since_log: 0, joined: &joined, new: &new };
    Known {
        facts,
        aliases: server.directory.aliases_of(room_id).await.unwrap(),
        news: server.ephemeral.news(query).await.unwrap(),
        tag: server.account_data.get(&alice, Some(room_id), "m.tag").await.unwrap(),
        membership: server.rooms.membership(room_id, &alice).await.unwrap(),
        events: server.rooms.look(room_id, Room::len).await.unwrap(),
    }
}

#[tokio::test]
async fn sc_178_what_is_kept_of_a_room_stays_when_one_is_gone_whose_id_it_begins_with() {
    let rooms = IDS.map(|id| RoomId::parse(id).unwrap());
    for gone in &rooms {
        let (store, clock, network) =
            (MemoryStore::new(), Arc::<ManualClock>::default(), Arc::<TestNetwork>::default());
        let (server, _to_send) = open_server("a", &store, clock.clone(), network.clone()).await;
        for (number, room_id) in rooms.iter().enumerate() {
            fill(&server, room_id, &format!("#{number}:a")).await;
        }
        server.rooms.keep_members().await.unwrap();
        let mut before = Vec::new();
        for room_id in &rooms {
            let known = known(&server, room_id).await;
            let kinds: BTreeSet<u8> = known.facts.iter().map(|(kind, _)| *kind).collect();
            assert_eq!((kinds.len(), known.facts.len()), (7, 9), "{:?}", known.facts);
            assert_eq!(known.aliases.len(), 1);
            let read = known.news.rooms[room_id][0]["content"].as_object().unwrap();
            assert_eq!(read.keys().collect::<Vec<_>>(), [&format!("${room_id}")]);
            assert_eq!(known.tag, Some(json!({ "room": room_id.as_str() })));
            before.push(known);
        }
        let check = async |server: &Homeserver, what: &str| {
            for (room_id, before) in rooms.iter().zip(&before).filter(|(room_id, _)| *room_id != gone) {
                assert_eq!(known(server, room_id).await, *before, "{room_id} when {gone} {what}");
            }
        };

        let alice = user_id("@alice:a");
        let leave = MembershipChange { target: alice.clone(), membership: Membership::Leave, content: object("{}") };
        server.rooms.change_membership(gone, &alice, leave).await.unwrap();
        server.rooms.forget(gone, &alice).await.unwrap();
        server.rooms.keep_members().await.unwrap();
        check(&server, "was left and forgotten").await;
        server.directory.publish(gone, false).await.unwrap();
        server.directory.move_aliases(gone, &RoomId::parse("!new:a").unwrap()).await.unwrap();
        check(&server, "was replaced").await;

        server.stop().await;
        server.log.purge_room(gone, |_, _| {}).await.unwrap().unwrap();
        let (server, _to_send) = open_server("a", &store, clock, network).await;
        check(&server, "was purged").await;
        let is_gone = server.rooms.look(gone, Room::len).await;
        assert!(matches!(is_gone, Err(RoomsError::NoSuchRoom)), "{is_gone:?}");
    }
}
