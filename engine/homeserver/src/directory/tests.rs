//! Aliases and the list of rooms, by the functions that clients' requests call.

mod remote;

use ravel_core::{event::Membership, room_version::RoomVersion};
use ravel_store::MemoryStore;
use ruma::{OwnedRoomAliasId, directory::Filter};
use serde_json::json;

use super::{alias::canonical_alias_event, *};
use crate::rooms::{
    CreateRoom, Preset,
    tests::{member, object, open, set, user, wanted},
};

async fn directory(store: &MemoryStore) -> Directory {
    let rooms = open(store).await;
    Directory::new(rooms.log().clone(), rooms)
}

fn alias(name: &str) -> OwnedRoomAliasId {
    OwnedRoomAliasId::try_from(format!("#{name}:a")).unwrap()
}

async fn room(directory: &Directory, name: &str) -> RoomId {
    let mut wanted = wanted(RoomVersion::V11, Preset::PublicChat);
    wanted.name = Some(name.to_owned());
    directory.rooms.create(&user("alice"), wanted).await.unwrap()
}

#[tokio::test]
async fn an_alias_is_one_rooms_and_its_makers() {
    let store = MemoryStore::new();
    let directory = directory(&store).await;
    let (first, second) = (room(&directory, "first").await, room(&directory, "second").await);
    let (alice, bob) = (user("alice"), user("bob"));
    directory.add(&alias("x"), &first, &bob).await.unwrap();
    let taken = directory.add(&alias("x"), &second, &alice).await;
    assert!(matches!(taken, Err(DirectoryError::InUse)));
    let elsewhere = OwnedRoomAliasId::try_from("#x:b").unwrap();
    assert!(matches!(directory.add(&elsewhere, &first, &alice).await, Err(DirectoryError::NotOurs)));
    assert!(matches!(directory.remove(&elsewhere, &alice, true).await, Err(DirectoryError::NotOurs)));
    let found = directory.room_of(&alias("x")).await.unwrap().unwrap();
    assert_eq!(found, RoomOfAlias { room_id: first.clone(), servers: vec![ServerName::parse("a").unwrap()] });
    assert_eq!(directory.aliases_of(&first).await.unwrap(), [alias("x")]);
    assert!(directory.aliases_of(&second).await.unwrap().is_empty());
    // Who neither made it nor has power in the room may not remove it; who made it needs no power.
    let others = directory.remove(&alias("x"), &user("carol"), false).await;
    assert!(matches!(others, Err(DirectoryError::Forbidden)));
    directory.remove(&alias("x"), &bob, false).await.unwrap();
    assert!(matches!(directory.remove(&alias("x"), &bob, false).await, Err(DirectoryError::NoSuchAlias)));
    assert!(directory.aliases_of(&first).await.unwrap().is_empty());
    directory.add(&alias("x"), &second, &bob).await.unwrap();
    directory.remove(&alias("x"), &alice, false).await.unwrap();
    // Of many who want it at once one gets it.
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let (directory, room_id, alice) = (directory.clone(), first.clone(), alice.clone());
            tokio::spawn(async move { directory.add(&alias("y"), &room_id, &alice).await.is_ok() })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.unwrap());
    }
    assert_eq!(made, 1);
    directory.add(&alias("z"), &first, &bob).await.unwrap();
    directory.move_aliases(&first, &second).await.unwrap();
    assert!(directory.aliases_of(&first).await.unwrap().is_empty());
    let directory = self::directory(&store).await;
    assert_eq!(directory.aliases_of(&second).await.unwrap(), [alias("y"), alias("z")]);
    assert_eq!(directory.alias(&alias("z")).await.unwrap(), Some(Alias { room_id: second, creator: bob }));
}

#[tokio::test]
async fn a_removed_alias_is_not_named_by_its_room_any_more() {
    let directory = directory(&MemoryStore::new()).await;
    let room_id = room(&directory, "a").await;
    for name in ["x", "y", "z"] {
        directory.add(&alias(name), &room_id, &user("alice")).await.unwrap();
    }
    let content = object(r##"{"alias":"#x:a","alt_aliases":["#y:a","#z:a"]}"##);
    directory.rooms.send(&room_id, &user("alice"), canonical_alias_event(content)).await.unwrap();
    let named = async || directory.rooms.state_content(&room_id, "m.room.canonical_alias", "").await.unwrap().unwrap();
    for (name, left) in
        [("y", r##"{"alias":"#x:a","alt_aliases":["#z:a"]}"##), ("x", r##"{"alt_aliases":["#z:a"]}"##), ("z", "{}")]
    {
        directory.remove(&alias(name), &user("alice"), false).await.unwrap();
        assert_eq!(named().await, object(left), "{name}");
    }
}

#[test]
fn what_an_event_names_are_aliases() {
    let names = |json: &str| alias::named(&object(json)).map(|names| names.len());
    assert_eq!(names("{}").unwrap(), 0);
    assert_eq!(names(r##"{"alias":"","alt_aliases":[]}"##).unwrap(), 0);
    assert_eq!(names(r##"{"alias":"#a:b","alt_aliases":["#c:d"]}"##).unwrap(), 2);
    for json in [r#"{"alias":"%a:b"}"#, r#"{"alias":7}"#, r#"{"alt_aliases":"a"}"#, r#"{"alt_aliases":[7]}"#] {
        assert!(matches!(names(json), Err(DirectoryError::Invalid(_))), "{json}");
    }
}

#[tokio::test]
async fn sc_213_the_list_has_the_largest_rooms_first_and_parts_of_its_own_size() {
    let store = MemoryStore::new();
    let directory = directory(&store).await;
    let mut rooms = Vec::new();
    for number in 0..7 {
        let room_id = room(&directory, &format!("room {number}")).await;
        directory.publish(&room_id, true).await.unwrap();
        rooms.push(room_id);
    }
    member(&directory.rooms, &rooms[4], "bob", "bob", Membership::Join).await.unwrap();
    let hidden = room(&directory, "room hidden").await;
    let all = directory.list(&ListRequest { limit: Some(u64::MAX), ..ListRequest::default() }).await.unwrap();
    let ids = |list: &RoomList| list.chunk.iter().map(|room| room.room_id.to_string()).collect::<Vec<_>>();
    assert_eq!((all.chunk.len(), all.next_batch.as_ref(), all.prev_batch.as_ref()), (7, None, None));
    assert_eq!(all.chunk[0].room_id, rooms[4].as_str());
    assert!(!ids(&all).contains(&hidden.to_string()));
    let for_others = directory.list(&ListRequest { is_for_others: true, ..ListRequest::default() }).await.unwrap();
    assert_eq!(ids(&for_others), ids(&all));
    let wanted = CreateRoom {
        creation_content: object(r#"{"m.federate":false}"#),
        ..wanted(RoomVersion::V11, Preset::PublicChat)
    };
    let at_home = directory.rooms.create(&user("alice"), wanted).await.unwrap();
    directory.publish(&at_home, true).await.unwrap();
    let for_others = directory.list(&ListRequest { is_for_others: true, ..ListRequest::default() }).await.unwrap();
    assert_eq!(ids(&for_others), ids(&all));
    directory.publish(&at_home, false).await.unwrap();
    // Forward and back, each room once.
    let page = async |since: Option<String>| {
        directory.list(&ListRequest { limit: Some(3), since, ..ListRequest::default() }).await.unwrap()
    };
    let (mut seen, mut since, mut last) = (Vec::new(), None, None);
    loop {
        let list = page(since).await;
        seen.extend(ids(&list));
        (since, last) = (list.next_batch, list.prev_batch.or(last));
        if since.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids(&all));
    let back = page(last).await;
    assert_eq!(ids(&back), ids(&all)[3..6]);
    let first = page(back.prev_batch).await;
    assert_eq!((ids(&first), first.prev_batch), (ids(&all)[..3].to_vec(), None));
    assert_eq!(page(Some("nonsense".to_owned())).await.chunk.len(), 3);
    // After a restart the same; and what is taken off is not there.
    let directory = self::directory(&store).await;
    directory.publish(&rooms[0], false).await.unwrap();
    let list = directory.list(&ListRequest::default()).await.unwrap();
    assert_eq!((list.chunk.len(), u64::from(list.total)), (6, 6));
}

#[tokio::test]
async fn the_list_tells_what_rooms_are_and_can_be_searched() {
    let directory = directory(&MemoryStore::new()).await;
    let mut wanted = wanted(RoomVersion::V11, Preset::PublicChat);
    wanted.creation_content = object(r#"{"type":"m.space"}"#);
    wanted.topic = Some("All about WOMBLES".to_owned());
    let space = directory.rooms.create(&user("alice"), wanted).await.unwrap();
    let plain = room(&directory, "plain").await;
    for room_id in [&space, &plain] {
        directory.publish(room_id, true).await.unwrap();
    }
    let state = async |kind: &str, json: &str| {
        set(&directory.rooms, &space, "alice", kind, json).await.unwrap();
    };
    state("m.room.guest_access", r#"{"guest_access":"can_join"}"#).await;
    state("m.room.history_visibility", r#"{"history_visibility":"world_readable"}"#).await;
    state("m.room.avatar", r#"{"url":"mxc://a/b"}"#).await;
    state("m.room.join_rules", r#"{"join_rule":"knock"}"#).await;
    let find = async |filter: serde_json::Value| {
        let filter: Filter = serde_json::from_value(filter).unwrap();
        let list = directory.list(&ListRequest { filter, ..ListRequest::default() }).await.unwrap();
        list.chunk.iter().map(|room| serde_json::to_value(room).unwrap()).collect::<Vec<_>>()
    };
    let expected = json!({
        "room_id": space.as_str(), "name": "the room", "topic": "All about WOMBLES", "num_joined_members": 1,
        "world_readable": true, "guest_can_join": true, "avatar_url": "mxc://a/b", "join_rule": "knock",
        "room_type": "m.space",
    });
    assert_eq!(find(json!({ "generic_search_term": "wombles" })).await, std::slice::from_ref(&expected));
    assert_eq!(find(json!({ "room_types": ["m.space"] })).await, std::slice::from_ref(&expected));
    assert_eq!(find(json!({ "room_types": [null] })).await[0]["name"], "plain");
    assert_eq!(find(json!({ "room_types": [null, "m.space"], "generic_search_term": "L" })).await.len(), 2);
    // What changes is seen.
    state("m.room.topic", r#"{"topic":"none"}"#).await;
    assert!(find(json!({ "generic_search_term": "wombles" })).await.is_empty());
    // Rooms that everybody has left are not told.
    member(&directory.rooms, &plain, "alice", "alice", Membership::Leave).await.unwrap();
    assert_eq!(find(json!({})).await.len(), 1);
}
