//! Syncs, account data, filters and profiles, by the functions that clients' requests call.

use std::{sync::Arc, time::Duration};

use ravel_core::{event::Membership, id::RoomId, room_version::RoomVersion};
use ravel_store::MemoryStore;
use serde_json::{Map, Value, json};

use super::{News, NextBatch, SyncRequest, Syncs};
use crate::{
    account_data::{AccountData, AccountDataError, CONTENT_BYTES_MAX},
    accounts::{Accounts, AccountsConfig},
    ephemeral::Ephemeral,
    filters::{FilterError, Filters},
    profiles::{ProfileError, Profiles},
    random::OsRandom,
    rooms::{
        Preset, Rooms,
        tests::{TestClock, member, open, say, told, user, wanted},
    },
    testing::server_name,
    to_device::ToDevice,
};

/// What a server has for its clients.
struct Server {
    rooms: Rooms,
    account_data: AccountData,
    profiles: Profiles,
    filters: Filters,
    syncs: Syncs,
}

impl Server {
    async fn open(store: &MemoryStore) -> Self {
        let rooms = open(store).await;
        let log = rooms.log().clone();
        let account_data = AccountData::new(log.clone(), rooms.clone());
        let (profiles, filters) = (Profiles::new(log.clone(), rooms.clone()), Filters::new(log));
        let clock = Arc::new(TestClock::default());
        let ephemeral = Ephemeral::new(rooms.log().clone(), rooms.clone(), clock.clone());
        let config = AccountsConfig { server_name: server_name("a"), cheap_password_hashes: true };
        let accounts = Accounts::new(rooms.log().clone(), clock.clone(), Arc::new(OsRandom), config);
        let random = Arc::new(OsRandom);
        let to_device = ToDevice::new(rooms.log().clone(), rooms.clone(), accounts, clock.clone(), random);
        let syncs = Syncs::new(rooms.clone(), account_data.clone(), ephemeral, Arc::new(to_device), clock);
        Self { rooms, account_data, profiles, filters, syncs }
    }

    async fn room(&self) -> RoomId {
        self.rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap()
    }

    async fn sync(&self, name: &str, since: Option<NextBatch>, filter: Value) -> News {
        let request = SyncRequest { since, filter: serde_json::from_value(filter).unwrap(), ..SyncRequest::default() };
        self.syncs.sync(&user(name), request).await.unwrap()
    }

    async fn set_data(&self, room_id: Option<&RoomId>, data_type: &str, value: u32) {
        let content = Map::from_iter([("value".to_owned(), value.into())]);
        self.account_data.set(&user("alice"), room_id, data_type, content).await.unwrap();
    }
}

fn event(data_type: &str, value: u32) -> Map<String, Value> {
    json!({ "type": data_type, "content": { "value": value } }).as_object().unwrap().clone()
}

#[test]
fn places_are_read_as_they_were_written() {
    let place = NextBatch { log: 17, ephemeral: 4 };
    assert_eq!(NextBatch::parse(&place.to_string()), Some(place));
    assert_eq!(NextBatch::parse("s17"), Some(NextBatch { log: 17, ephemeral: 0 }));
    assert_eq!(["17", "s", "s-1", "t17", "s1x", "s1_", "s_1", "s1_1_1"].map(NextBatch::parse), [None; 8]);
}

#[tokio::test]
async fn a_sync_waits_for_news() {
    let server = Server::open(&MemoryStore::new()).await;
    let room_id = server.room().await;
    let since = Some(server.sync("alice", None, json!({})).await.next);
    let wait = || {
        let (syncs, timeout) = (server.syncs.clone(), Duration::from_secs(60));
        tokio::spawn(async move {
            let request = SyncRequest { since, timeout, ..SyncRequest::default() };
            syncs.sync(&user("alice"), request).await.unwrap()
        })
    };
    let waiting = wait();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    // Of other rooms she hears nothing.
    server.rooms.create(&user("bob"), wanted(RoomVersion::V11, Preset::PrivateChat)).await.unwrap();
    say(&server.rooms, &room_id, "alice", "hi").await.unwrap();
    assert_eq!(told(&waiting.await.unwrap().rooms.joined[&room_id].timeline), ["hi"]);
    let since = server.sync("alice", None, json!({})).await.next;
    let request = SyncRequest { since: Some(since), timeout: Duration::from_secs(60), ..SyncRequest::default() };
    let waiting = tokio::spawn({
        let syncs = server.syncs.clone();
        async move { syncs.sync(&user("alice"), request).await.unwrap() }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    server.set_data(None, "t", 1).await;
    assert_eq!(waiting.await.unwrap().account_data, [event("t", 1)]);
}

#[tokio::test]
async fn account_data_is_told_once_and_kept() {
    let store = MemoryStore::new();
    let server = Server::open(&store).await;
    let room_id = server.room().await;
    server.set_data(None, "a", 1).await;
    server.set_data(Some(&room_id), "b", 2).await;
    let first = server.sync("alice", None, json!({})).await;
    assert_eq!(first.account_data, [event("a", 1)]);
    assert_eq!(first.room_account_data[&room_id], [event("b", 2)]);
    assert_eq!(server.sync("bob", None, json!({})).await.account_data, []);
    let nothing = server.sync("alice", Some(first.next), json!({})).await;
    assert!(nothing.account_data.is_empty() && nothing.room_account_data.is_empty());
    server.set_data(None, "a", 1).await;
    assert_eq!(server.sync("alice", Some(first.next), json!({})).await.next, first.next, "nothing has changed");
    server.set_data(None, "a", 3).await;
    // Of a room that she is not in she hears it when she is.
    let other = server.rooms.create(&user("bob"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    server.set_data(Some(&other), "b", 4).await;
    let filter = json!({ "account_data": { "not_types": ["x"] } });
    let second = server.sync("alice", Some(first.next), filter).await;
    assert_eq!(second.account_data, [event("a", 3)]);
    assert!(second.room_account_data.is_empty());
    let none = server.sync("alice", None, json!({ "account_data": { "types": [] }, "room": { "rooms": [] } })).await;
    assert!(none.account_data.is_empty() && none.room_account_data.is_empty() && none.rooms.is_empty());
    // After a restart the same.
    let server = Server::open(&store).await;
    assert_eq!(server.sync("alice", Some(first.next), json!({})).await.account_data, [event("a", 3)]);
    member(&server.rooms, &other, "alice", "alice", Membership::Join).await.unwrap();
    let third = server.sync("alice", Some(second.next), json!({})).await;
    assert_eq!(third.room_account_data[&other], [event("b", 4)]);
    assert_eq!(server.account_data.get(&user("alice"), None, "a").await.unwrap(), Some(json!({ "value": 3 })));
    assert_eq!(server.account_data.get(&user("alice"), Some(&other), "a").await.unwrap(), None);
}

#[tokio::test]
async fn sc_216_account_data_filters_and_profiles_have_bounds() {
    let server = Server::open(&MemoryStore::new()).await;
    let alice = user("alice");
    let large = |bytes: usize| Map::from_iter([("x".to_owned(), "y".repeat(bytes).into())]);
    let set = async |data_type: &str, content| server.account_data.set(&alice, None, data_type, content).await;
    assert!(matches!(set("t", large(CONTENT_BYTES_MAX)).await, Err(AccountDataError::TooLarge)));
    assert!(matches!(set("", large(1)).await, Err(AccountDataError::InvalidType)));
    assert!(matches!(set(&"t".repeat(256), large(1)).await, Err(AccountDataError::InvalidType)));
    let mut kept = 0;
    while set(&format!("t{kept}"), large(CONTENT_BYTES_MAX - 20)).await.is_ok() {
        kept += 1;
    }
    assert_eq!(kept, 64, "16 MiB");
    set("t0", large(1)).await.unwrap();
    set("t64", large(1)).await.unwrap();

    let filter = |bytes: usize| json!({ "event_fields": ["x".repeat(bytes)] });
    assert!(matches!(server.filters.add(&alice, &filter(66_000)).await, Err(FilterError::TooLarge)));
    for number in 0..1_000 {
        server.filters.add(&alice, &filter(number)).await.unwrap();
    }
    assert!(matches!(server.filters.add(&alice, &filter(1_000)).await, Err(FilterError::TooMany)));
    let filter_id = server.filters.add(&alice, &filter(7)).await.unwrap();
    assert_eq!(server.filters.get(&alice, &filter_id).await.unwrap(), Some(filter(7)));
    assert_eq!(server.filters.get(&user("bob"), &filter_id).await.unwrap(), None);

    let set =
        async |field: &str, bytes: usize| server.profiles.set(&alice, field, Some("x".repeat(bytes).into())).await;
    set("a.b", 40_000).await.unwrap();
    assert!(matches!(set("a.c", 40_000).await, Err(ProfileError::TooLarge)));
    assert!(matches!(set("displayname", 2_000).await, Err(ProfileError::FieldValue)));
    assert!(matches!(set(&"x".repeat(256), 1).await, Err(ProfileError::FieldName)));
}

#[tokio::test]
async fn sc_039_profiles_are_in_member_events_and_nothing_else_of_them() {
    let server = Server::open(&MemoryStore::new()).await;
    let (room_id, alice) = (server.room().await, user("alice"));
    let member_event = async || server.rooms.state_event(&room_id, &alice, "m.room.member", "@alice:a").await.unwrap();
    let content = async || member_event().await.json["content"].clone();
    server.profiles.set(&alice, "displayname", Some("Alice".into())).await.unwrap();
    assert_eq!(content().await, json!({ "membership": "join", "displayname": "Alice" }));
    let before = member_event().await.event_id;
    server.profiles.set(&alice, "displayname", Some("Alice".into())).await.unwrap();
    server.profiles.set(&alice, "m.tz", Some("Europe/Berlin".into())).await.unwrap();
    assert_eq!(member_event().await.event_id, before, "nothing of a room has changed");
    server.profiles.set(&alice, "avatar_url", Some("mxc://a/b".into())).await.unwrap();
    server.profiles.set(&alice, "displayname", None).await.unwrap();
    assert_eq!(content().await, json!({ "membership": "join", "avatar_url": "mxc://a/b" }));
    let profile = server.profiles.get(&alice).await.unwrap();
    assert_eq!(Value::Object(profile), json!({ "avatar_url": "mxc://a/b", "m.tz": "Europe/Berlin" }));
    assert_eq!(server.profiles.member_content(&alice).await.unwrap().len(), 1);
    let elsewhere = ravel_core::id::UserId::parse("@alice:b").unwrap();
    assert!(server.profiles.member_content(&elsewhere).await.unwrap().is_empty());
}

#[tokio::test]
async fn filters_choose_what_is_told() {
    let server = Server::open(&MemoryStore::new()).await;
    let room_id = server.room().await;
    member(&server.rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    for number in 0..30 {
        say(&server.rooms, &room_id, if number == 3 { "bob" } else { "alice" }, &number.to_string()).await.unwrap();
    }
    let timeline = async |filter: Value| {
        let news = server.sync("alice", None, json!({ "room": filter })).await;
        let room = news.rooms.joined[&room_id].clone();
        (told(&room.timeline), room.limited, told(&room.state))
    };
    let (events, limited, _) = timeline(json!({ "timeline": { "limit": 2 } })).await;
    assert_eq!((events, limited), (vec!["28".to_owned(), "29".to_owned()], true));
    let (events, limited, _) = timeline(json!({ "timeline": { "senders": ["@bob:a"], "limit": 1 } })).await;
    assert_eq!((events, limited), (vec!["3".to_owned()], true), "his join is before it");
    let (events, limited, state) =
        timeline(json!({ "timeline": { "types": ["m.room.name"] }, "state": { "types": ["m.room.create"] } })).await;
    assert_eq!((events, limited, state), (vec!["name".to_owned()], false, vec!["create".to_owned()]));
    let lazy = json!({ "timeline": { "limit": 1 }, "state": { "lazy_load_members": true } });
    let (_, _, state) = timeline(lazy).await;
    let members: Vec<&String> = state.iter().filter(|text| text.starts_with("member")).collect();
    assert_eq!(members, ["member@alice:a"]);
    let nothing = timeline(json!({ "timeline": { "limit": 0 } })).await;
    assert_eq!((nothing.0.len(), nothing.1), (0, true));
    assert!(nothing.2.contains(&"member@bob:a".to_owned()), "all of the state is before it");
    // Whoever is made to leave is told by the first sync, too.
    member(&server.rooms, &room_id, "alice", "bob", Membership::Leave).await.unwrap();
    assert!(server.sync("bob", None, json!({})).await.rooms.left.contains_key(&room_id));
    member(&server.rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    // Rooms that were left are told when asked for.
    member(&server.rooms, &room_id, "bob", "bob", Membership::Leave).await.unwrap();
    assert!(server.sync("bob", None, json!({})).await.rooms.left.is_empty());
    let left = server.sync("bob", None, json!({ "room": { "include_leave": true } })).await;
    assert_eq!(left.rooms.left[&room_id].timeline.last().unwrap().json["content"]["membership"], "leave");
}
