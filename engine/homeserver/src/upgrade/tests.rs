//! Rooms that are replaced.

use std::sync::Arc;

use ravel_store::MemoryStore;
use ruma::OwnedRoomAliasId;

use super::*;
use crate::testing::{ManualClock, TestNetwork, object, open_server, user_id};

const ALICE: &str = "@alice:a";

async fn server() -> Homeserver {
    open_server("a", &MemoryStore::new(), Arc::new(ManualClock::default()), Arc::new(TestNetwork::default())).await.0
}

async fn room(server: &Homeserver, version: RoomVersion) -> RoomId {
    let wanted = CreateRoom {
        room_version: version,
        preset: Preset::PublicChat,
        creation_content: object(r#"{"m.federate":false,"type":"m.space"}"#),
        power_level_content_override: object(r#"{"users":{"@alice:a":500,"@bob:a":40}}"#),
        initial_state: Vec::new(),
        name: Some("the room".to_owned()),
        topic: None,
        invite: Vec::new(),
        is_direct: false,
        member_content: object("{}"),
    };
    server.rooms.create(&user_id(ALICE), wanted).await.unwrap()
}

async fn put(server: &Homeserver, room_id: &RoomId, event_type: &str, state_key: &str, content: &str) {
    let (event_type, state_key) = (event_type.to_owned(), Some(state_key.to_owned()));
    let event = SendEvent { event_type, state_key, content: object(content), redacts: None };
    server.rooms.send(room_id, &user_id(ALICE), event).await.unwrap();
}

async fn content(server: &Homeserver, room_id: &RoomId, event_type: &str, state_key: &str) -> CanonicalJsonObject {
    server.rooms.state_content(room_id, event_type, state_key).await.unwrap().unwrap_or_default()
}

#[tokio::test]
async fn a_room_goes_on_in_another_version() {
    let server = server().await;
    let old = room(&server, RoomVersion::V6).await;
    let alias = OwnedRoomAliasId::try_from("#x:a").unwrap();
    server.directory.add(&alias, &old, &user_id(ALICE)).await.unwrap();
    server.directory.publish(&old, true).await.unwrap();
    put(&server, &old, CANONICAL_ALIAS, "", r##"{"alias":"#x:a"}"##).await;
    put(&server, &old, event_type::MEMBER, "@eve:b", r#"{"membership":"ban","reason":"rude"}"#).await;
    put(&server, &old, "m.space.child", "!child:b", r#"{"via":["b"]}"#).await;
    put(&server, &old, "org.other", "", r#"{"a":1}"#).await;
    let levels = content(&server, &old, event_type::POWER_LEVELS, "").await;
    let new = server.upgrade_room(&user_id(ALICE), &old, RoomVersion::V11, &[]).await.unwrap();
    let create = content(&server, &new, event_type::CREATE, "").await;
    let end = server.rooms.state_event(&old, &user_id(ALICE), TOMBSTONE, "").await.unwrap();
    assert_eq!(end.json["content"]["replacement_room"], new.as_str());
    let expected = format!(r#"{{"event_id":"{}","room_id":"{old}"}}"#, end.event_id);
    assert_eq!(get_object(&create, "predecessor"), Some(&object(&expected)));
    assert_eq!((create.get("m.federate"), create.get("creator")), (Some(&false.into()), None));
    assert_eq!(create.get("type"), Some(&"m.space".into()));
    assert_eq!(content(&server, &new, event_type::POWER_LEVELS, "").await, levels);
    for (event_type, key, expected) in [
        ("m.room.name", "", r#"{"name":"the room"}"#),
        (event_type::JOIN_RULES, "", r#"{"join_rule":"public"}"#),
        (event_type::MEMBER, "@eve:b", r#"{"membership":"ban","reason":"rude"}"#),
        ("m.space.child", "!child:b", r#"{"via":["b"]}"#),
        (CANONICAL_ALIAS, "", r##"{"alias":"#x:a"}"##),
        ("org.other", "", "{}"),
    ] {
        assert_eq!(content(&server, &new, event_type, key).await, object(expected), "{event_type}");
    }
    // The old room is over.
    assert!(content(&server, &old, CANONICAL_ALIAS, "").await.is_empty());
    let levels = content(&server, &old, event_type::POWER_LEVELS, "").await;
    assert_eq!((get_i64(&levels, "events_default"), get_i64(&levels, "invite")), (Some(50), Some(50)));
    let directory = &server.directory;
    assert_eq!(directory.alias(&alias).await.unwrap().unwrap().room_id, new);
    assert_eq!(
        (directory.is_published(&old).await.unwrap(), directory.is_published(&new).await.unwrap()),
        (false, true)
    );
}

#[tokio::test]
async fn creators_of_version_12_are_named_once() {
    let server = server().await;
    let old = room(&server, RoomVersion::V10).await;
    let carol = user_id("@carol:a");
    let new = server.upgrade_room(&user_id(ALICE), &old, RoomVersion::V12, &[carol]).await.unwrap();
    let create = content(&server, &new, event_type::CREATE, "").await;
    let expected = format!(r#"{{"room_id":"{old}"}}"#);
    assert_eq!(get_object(&create, "predecessor"), Some(&object(&expected)));
    assert_eq!(create["additional_creators"], vec![CanonicalJsonValue::from("@carol:a")].into());
    let levels = content(&server, &new, event_type::POWER_LEVELS, "").await;
    assert_eq!(get_object(&levels, "users"), Some(&object(r#"{"@bob:a":40}"#)));
    let end = server.rooms.state_event(&old, &user_id(ALICE), TOMBSTONE, "").await.unwrap();
    assert_eq!(end.json["content"]["replacement_room"], new.as_str());
}

#[tokio::test]
async fn who_may_not_end_a_room_does_not_replace_it() {
    let server = server().await;
    let old = room(&server, RoomVersion::V11).await;
    let refused = server.upgrade_room(&user_id("@bob:a"), &old, RoomVersion::V11, &[]).await;
    assert!(matches!(refused, Err(UpgradeError::Rooms(RoomsError::Refused(_)))), "{refused:?}");
    assert!(server.rooms.joined_rooms(&user_id("@bob:a")).is_empty());
    assert!(content(&server, &old, TOMBSTONE, "").await.is_empty());
}

#[test]
fn what_little_power_can_do_ends() {
    let closed = |json: &str| closed(&object(json));
    assert_eq!(closed("{}"), object(r#"{"events_default":50,"invite":50}"#));
    let unusual = closed(r#"{"users_default":80,"invite":90}"#);
    assert_eq!(unusual, object(r#"{"users_default":80,"events_default":81,"invite":90}"#));
    assert_eq!(greatest(&object(r#"{"ban":50,"users":{"@a:b":500,"@c:d":1},"events":{"x":7}}"#)), 500);
}

#[tokio::test]
async fn account_data_follows_those_who_follow() {
    let server = server().await;
    let old = room(&server, RoomVersion::V10).await;
    let bob = user_id("@bob:a");
    let join = async |room_id: &RoomId| server.join(&bob, room_id, &[], object("{}")).await.unwrap();
    join(&old).await;
    let data = |json: serde_json::Value| json.as_object().unwrap().clone();
    let set = async |user: &UserId, room_id: Option<&RoomId>, kind: &str, json| {
        server.account_data.set(user, room_id, kind, data(json)).await.unwrap();
    };
    let tags = serde_json::json!({ "tags": { "u.x": {} } });
    set(&bob, Some(&old), "m.tag", tags.clone()).await;
    set(&bob, None, "m.direct", serde_json::json!({ ALICE: [old.as_str()], "@eve:b": ["!other:b"] })).await;
    set(&user_id(ALICE), None, "m.direct", serde_json::json!({ "@bob:a": [old.as_str()] })).await;
    let new = server.upgrade_room(&user_id(ALICE), &old, RoomVersion::V11, &[]).await.unwrap();
    let get = async |user: &UserId, room_id: Option<&RoomId>, kind: &str| {
        server.account_data.get(user, room_id, kind).await.unwrap()
    };
    let both = serde_json::json!([old.as_str(), new.as_str()]);
    assert_eq!(get(&user_id(ALICE), None, "m.direct").await.unwrap()["@bob:a"], both);
    assert_eq!(get(&bob, Some(&new), "m.tag").await, None);
    server
        .rooms
        .send(&new, &user_id(ALICE), state(event_type::JOIN_RULES, object(r#"{"join_rule":"public"}"#)))
        .await
        .unwrap();
    join(&new).await;
    assert_eq!(get(&bob, Some(&new), "m.tag").await, Some(tags));
    let expected = serde_json::json!({ ALICE: both, "@eve:b": ["!other:b"] });
    assert_eq!(get(&bob, None, "m.direct").await, Some(expected));
    // A room that only says so replaces nothing.
    let alias = OwnedRoomAliasId::try_from("#x:a").unwrap();
    server.directory.add(&alias, &new, &bob).await.unwrap();
    let claim = object(&format!(r#"{{"predecessor":{{"room_id":"{new}"}}}}"#));
    let wanted = CreateRoom {
        room_version: RoomVersion::V11,
        preset: Preset::PublicChat,
        creation_content: claim,
        power_level_content_override: object("{}"),
        initial_state: Vec::new(),
        name: None,
        topic: None,
        invite: Vec::new(),
        is_direct: false,
        member_content: object("{}"),
    };
    let claimed = server.rooms.create(&user_id("@eve:a"), wanted).await.unwrap();
    join(&claimed).await;
    assert_eq!(server.directory.alias(&alias).await.unwrap().unwrap().room_id, new);
}
