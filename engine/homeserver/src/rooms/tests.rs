//! Rooms of one server, by the functions that clients' requests call.

mod aside;
mod clients;
mod entering;
mod kept_members;
mod open_rooms;
mod transactions;
mod turns;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, parse_object},
    event::Membership,
    id::{EventId, KeyId, RoomId, ServerName, UserId},
    room_version::RoomVersion,
    signing::SigningKey,
};
use ravel_store::{MemoryStore, Store, log::EventLog};
use serde_json::json;

use super::{
    ClientEvent, CreateRoom, MemberCounts, MembershipChange, Page, Preset, Rooms, RoomsError, SendEvent, Sync,
    SyncFilter, SyncToken, TimelineToken,
};
use crate::{
    accounts::{Accounts, AccountsConfig},
    clock::Clock,
    federation::{FederationClient, Pauses, ServerFilter},
    random::OsRandom,
    testing::TestNetwork,
};

/// Moves on by a second whenever it is looked at, and never waits.
#[derive(Default)]
pub(crate) struct TestClock(AtomicI64);

impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1000, Ordering::Relaxed)
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        if time.is_zero() { Box::pin(std::future::ready(())) } else { Box::pin(std::future::pending()) }
    }
}

pub(crate) async fn open(store: &MemoryStore) -> Rooms {
    open_on(Arc::new(store.clone())).await
}

async fn open_on(store: Arc<dyn Store>) -> Rooms {
    let log = Arc::new(EventLog::open(store).await.unwrap());
    let key = SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[7; 32]);
    let (name, clock, random) = (ServerName::parse("a").unwrap(), Arc::new(TestClock::default()), Arc::new(OsRandom));
    let network = Arc::new(TestNetwork::default());
    let (ours, signing_key, servers) = (name.clone(), key.clone(), ServerFilter::default());
    let (of_clock, of_random, pauses) = (clock.clone(), random.clone(), Pauses::default());
    let client = FederationClient::new(network, of_clock, of_random, ours, signing_key, pauses, servers);
    let outbox = tokio::sync::mpsc::channel(1_000).0;
    Rooms::open(name, key, log, clock, random, client, outbox).await.unwrap()
}

/// Returns the accounts of the server that has some rooms.
fn accounts_of(rooms: &Rooms) -> Accounts {
    let config = AccountsConfig { server_name: rooms.server_name().clone(), cheap_password_hashes: true };
    Accounts::new(rooms.log().clone(), Arc::new(TestClock::default()), Arc::new(OsRandom), config)
}

pub(crate) fn user(name: &str) -> UserId {
    UserId::parse(&format!("@{name}:a")).unwrap()
}

pub(crate) fn object(json: &str) -> CanonicalJsonObject {
    parse_object(json.as_bytes(), JsonMode::Strict).unwrap()
}

pub(crate) fn wanted(room_version: RoomVersion, preset: Preset) -> CreateRoom {
    CreateRoom {
        room_version,
        preset,
        creation_content: object("{}"),
        power_level_content_override: object("{}"),
        initial_state: Vec::new(),
        name: Some("the room".to_owned()),
        topic: None,
        invite: Vec::new(),
        is_direct: false,
        member_content: object("{}"),
    }
}

pub(crate) async fn say(rooms: &Rooms, room_id: &RoomId, name: &str, text: &str) -> Result<EventId, RoomsError> {
    let content = object(&format!(r#"{{"body":"{text}","msgtype":"m.text"}}"#));
    let event = SendEvent { event_type: "m.room.message".to_owned(), state_key: None, content, redacts: None };
    rooms.send(room_id, &user(name), event).await
}

pub(crate) async fn set(
    rooms: &Rooms,
    room_id: &RoomId,
    name: &str,
    kind: &str,
    json: &str,
) -> Result<EventId, RoomsError> {
    let (event_type, content) = (kind.to_owned(), object(json));
    let event = SendEvent { event_type, state_key: Some(String::new()), content, redacts: None };
    rooms.send(room_id, &user(name), event).await
}

pub(crate) async fn member(
    rooms: &Rooms,
    room_id: &RoomId,
    by: &str,
    whom: &str,
    membership: Membership,
) -> Result<EventId, RoomsError> {
    let change = MembershipChange { target: user(whom), membership, content: object("{}") };
    rooms.change_membership(room_id, &user(by), change).await
}

/// Returns what events are about: the text of messages, the type of others with their state key.
pub(crate) fn told(events: &[ClientEvent]) -> Vec<String> {
    let tell = |event: &ClientEvent| match event.json["content"].get("body") {
        Some(body) => body.as_str().unwrap().to_owned(),
        None => match event.json.get("state_key").and_then(|key| key.as_str()) {
            Some(key) => format!("{}{key}", event.json["type"].as_str().unwrap().replace("m.room.", "")),
            None => event.json["type"].as_str().unwrap().to_owned(),
        },
    };
    events.iter().map(tell).collect()
}

fn back(from: Option<TimelineToken>, limit: usize) -> Page {
    Page { from, backward: true, limit }
}

async fn history(rooms: &Rooms, room_id: &RoomId, name: &str) -> Vec<String> {
    told(&rooms.messages(room_id, &user(name), back(None, 100)).await.unwrap().events)
}

/// Returns what is new for a user in its rooms, and where that ends.
async fn sync(rooms: &Rooms, name: &str, since: Option<u64>, limit: u32) -> (Sync, Option<u64>) {
    let now = rooms.position();
    let mut filter = SyncFilter::default();
    filter.room.timeline.limit = Some(limit.into());
    (rooms.news(&user(name), since, now, &filter).await.unwrap(), Some(now))
}

#[tokio::test]
async fn a_room_is_made_in_every_version_and_preset() {
    for version in RoomVersion::ALL {
        for preset in [Preset::PrivateChat, Preset::TrustedPrivateChat, Preset::PublicChat] {
            let rooms = open(&MemoryStore::new()).await;
            let mut wanted = wanted(version, preset);
            wanted.invite.push(user("bob"));
            wanted.initial_state.push(SendEvent {
                event_type: "m.room.encryption".to_owned(),
                state_key: Some(String::new()),
                content: object(r#"{"algorithm":"m.megolm.v1.aes-sha2"}"#),
                redacts: None,
            });
            let room_id = rooms.create(&user("alice"), wanted).await.unwrap();
            let first = rooms
                .messages(&room_id, &user("alice"), Page { from: None, backward: false, limit: 100 })
                .await
                .unwrap()
                .events;
            let expected = [
                "create",
                "member@alice:a",
                "power_levels",
                "join_rules",
                "history_visibility",
                "guest_access",
                "encryption",
                "name",
                "member@bob:a",
            ];
            assert_eq!(told(&first), expected, "version {version}");
            let state: BTreeMap<String, &ClientEvent> = told(&first).into_iter().zip(&first).collect();
            assert_eq!(state["create"].json["content"]["room_version"], version.as_str());
            let rule = if preset == Preset::PublicChat { "public" } else { "invite" };
            assert_eq!(state["join_rules"].json["content"]["join_rule"], rule);
            // With the power of alice, bob can do what she can.
            member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
            let may = set(&rooms, &room_id, "bob", "m.room.server_acl", r#"{"allow":["*"]}"#).await;
            assert_eq!(may.is_ok(), preset == Preset::TrustedPrivateChat, "version {version}: {may:?}");
        }
    }
}

#[tokio::test]
async fn what_a_room_does_not_allow_is_refused_and_changes_nothing() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PrivateChat)).await.unwrap();
    let before = rooms.position();
    let refused =
        |result: Result<EventId, RoomsError>| assert!(matches!(result, Err(RoomsError::Refused(_))), "{result:?}");
    refused(say(&rooms, &room_id, "bob", "hi").await);
    refused(member(&rooms, &room_id, "bob", "bob", Membership::Join).await);
    refused(member(&rooms, &room_id, "bob", "alice", Membership::Ban).await);
    let no_change = member(&rooms, &room_id, "bob", "bob", Membership::Leave).await;
    assert!(matches!(no_change, Err(RoomsError::NoChange)), "{no_change:?}");
    let elsewhere = RoomId::parse("!nowhere:a").unwrap();
    assert!(matches!(say(&rooms, &elsewhere, "alice", "hi").await, Err(RoomsError::NoSuchRoom)));
    assert!(matches!(rooms.state(&room_id, &user("bob")).await, Err(RoomsError::NotInRoom)));
    let hidden = rooms.messages(&room_id, &user("bob"), back(None, 10)).await;
    assert!(matches!(hidden, Err(RoomsError::NotInRoom)));
    assert_eq!(rooms.position(), before);
    say(&rooms, &room_id, "alice", "hi").await.unwrap();
    // A join that another server would have to allow is not stored as a rejected event.
    let public = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    let before = rooms.position();
    let content = object(r#"{"join_authorised_via_users_server":"@alice:b"}"#);
    let change = MembershipChange { target: user("bob"), membership: Membership::Join, content };
    refused(rooms.change_membership(&public, &user("bob"), change).await);
    assert_eq!(rooms.position(), before);
    // A room of which a first event is refused is not there at all.
    let mut wanted = wanted(RoomVersion::V11, Preset::PrivateChat);
    wanted.power_level_content_override = object(r#"{"events":{"m.room.name":200}}"#);
    let length = rooms.position();
    let refused = rooms.create(&user("alice"), wanted).await;
    assert!(matches!(refused, Err(RoomsError::Refused(_))), "{refused:?}");
    let mut joined = vec![room_id, public];
    joined.sort_unstable();
    assert_eq!((rooms.position(), rooms.joined_rooms(&user("alice"))), (length, joined));
}

#[tokio::test]
async fn history_is_seen_by_whom_the_room_says() {
    for (visibility, bob, carol) in [
        ("world_readable", &["early", "middle"][..], &["early", "middle", "late"][..]),
        ("shared", &["early", "middle"], &["early", "middle", "late"]),
        ("invited", &["middle"], &["late"]),
        ("joined", &["middle"], &["late"]),
    ] {
        let rooms = open(&MemoryStore::new()).await;
        let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
        let json = format!(r#"{{"history_visibility":"{visibility}"}}"#);
        set(&rooms, &room_id, "alice", "m.room.history_visibility", &json).await.unwrap();
        say(&rooms, &room_id, "alice", "early").await.unwrap();
        member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
        say(&rooms, &room_id, "alice", "middle").await.unwrap();
        member(&rooms, &room_id, "bob", "bob", Membership::Leave).await.unwrap();
        member(&rooms, &room_id, "carol", "carol", Membership::Join).await.unwrap();
        let late = say(&rooms, &room_id, "alice", "late").await.unwrap();
        let texts = |mut events: Vec<String>| {
            events.retain(|text| ["early", "middle", "late"].contains(&text.as_str()));
            events.reverse();
            events
        };
        assert_eq!(texts(history(&rooms, &room_id, "carol").await), carol, "{visibility}");
        let seen = texts(history(&rooms, &room_id, "bob").await);
        let bob: Vec<&str> = if visibility == "world_readable" { carol.to_vec() } else { bob.to_vec() };
        assert_eq!(seen, bob, "{visibility}");
        let late = rooms.event(&room_id, &user("bob"), &late).await;
        assert_eq!(late.is_ok(), visibility == "world_readable", "{visibility}");
    }
}

#[tokio::test]
async fn redacted_events_lose_their_content() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V10, Preset::PrivateChat)).await.unwrap();
    let event_id = say(&rooms, &room_id, "alice", "oops").await.unwrap();
    let redaction = SendEvent {
        event_type: "m.room.redaction".to_owned(),
        state_key: None,
        content: object("{}"),
        redacts: Some(event_id.clone()),
    };
    let redaction = rooms.send(&room_id, &user("alice"), redaction).await.unwrap();
    let event = rooms.event(&room_id, &user("alice"), &event_id).await.unwrap();
    assert_eq!(event.json["content"], json!({}));
    assert_eq!(event.json["unsigned"]["redacted_by"], redaction.as_str());
    let fields: Vec<&str> = event.json.keys().map(String::as_str).collect();
    assert_eq!(fields, ["content", "event_id", "origin_server_ts", "room_id", "sender", "type", "unsigned"]);
}

#[tokio::test]
async fn a_sync_tells_what_is_new() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PrivateChat)).await.unwrap();
    let (first, position) = sync(&rooms, "alice", None, 3).await;
    let joined = &first.joined[&room_id];
    assert_eq!(told(&joined.timeline), ["history_visibility", "guest_access", "name"]);
    assert_eq!((joined.limited, joined.members), (true, Some(MemberCounts { joined: 1, invited: 0 })));
    let mut state = told(&joined.state);
    state.sort();
    assert_eq!(state, ["create", "join_rules", "member@alice:a", "power_levels"]);
    let before = rooms.messages(&room_id, &user("alice"), back(joined.prev_batch, 10)).await.unwrap();
    assert_eq!(told(&before.events), ["join_rules", "power_levels", "member@alice:a", "create"]);

    let nothing = sync(&rooms, "alice", position, 10).await;
    assert!(nothing.0.is_empty() && nothing.1 == position);
    // An invite, its acceptance, and what the others see of it.
    member(&rooms, &room_id, "alice", "bob", Membership::Invite).await.unwrap();
    let (invited, invited_at) = sync(&rooms, "bob", None, 10).await;
    let shown = ["create", "join_rules", "name", "member@alice:a", "member@bob:a"];
    assert_eq!(told(&invited.invited[&room_id]), shown);
    member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    say(&rooms, &room_id, "bob", "hi").await.unwrap();
    let (bob, bob_at) = sync(&rooms, "bob", invited_at, 2).await;
    let joined = &bob.joined[&room_id];
    assert_eq!((told(&joined.timeline), joined.limited), (vec!["member@bob:a".to_owned(), "hi".to_owned()], true));
    assert_eq!(joined.state.len(), 8, "all of it, as he was not there: {:?}", told(&joined.state));
    let (alice, _) = sync(&rooms, "alice", position, 2).await;
    let joined = &alice.joined[&room_id];
    assert_eq!(told(&joined.timeline), ["member@bob:a", "hi"]);
    assert_eq!(told(&joined.state), ["member@bob:a"], "the invite is not in the timeline");
    // Leaving ends it.
    say(&rooms, &room_id, "alice", "bye").await.unwrap();
    member(&rooms, &room_id, "alice", "bob", Membership::Leave).await.unwrap();
    say(&rooms, &room_id, "alice", "alone").await.unwrap();
    let (bob, bob_at) = sync(&rooms, "bob", bob_at, 10).await;
    assert!(bob.joined.is_empty());
    assert_eq!(told(&bob.left[&room_id].timeline), ["bye", "member@bob:a"]);
    let (later, _) = sync(&rooms, "bob", bob_at, 10).await;
    assert!(later.left.is_empty() && later.joined.is_empty());
}

#[test]
fn places_in_the_log_are_read_as_they_were_written() {
    assert_eq!(SyncToken::parse(&SyncToken(17).to_string()), Some(SyncToken(17)));
    assert_eq!(SyncToken::parse("s17_4"), Some(SyncToken(17)), "of a sync");
    assert_eq!(["17", "s", "s-1", "t17", "s1x", "s_1"].map(SyncToken::parse), [None; 6]);
}

#[tokio::test]
async fn rooms_are_there_after_a_restart() {
    let store = MemoryStore::new();
    let rooms = open(&store).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V12, Preset::PrivateChat)).await.unwrap();
    say(&rooms, &room_id, "alice", "hi").await.unwrap();
    let (before, position) = (history(&rooms, &room_id, "alice").await, rooms.position());
    drop(rooms);
    let rooms = open(&store).await;
    assert_eq!((history(&rooms, &room_id, "alice").await, rooms.position()), (before, position));
    assert_eq!(rooms.joined_rooms(&user("alice")), std::slice::from_ref(&room_id));
    say(&rooms, &room_id, "alice", "again").await.unwrap();
}

#[tokio::test]
async fn many_write_at_once() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PrivateChat)).await.unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|number| {
            let (rooms, room_id) = (rooms.clone(), room_id.clone());
            tokio::spawn(async move { say(&rooms, &room_id, "alice", &number.to_string()).await.unwrap() })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let mut numbers: Vec<u32> =
        history(&rooms, &room_id, "alice").await.iter().filter_map(|text| text.parse().ok()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..50).collect::<Vec<_>>());
}
