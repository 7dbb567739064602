//! EDUs of other servers, honest and not.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use ravel_core::room_version::RoomVersion;
use ravel_store::MemoryStore;
use serde_json::{Value, json};

use super::*;
use crate::{
    rooms::SendEvent,
    testing::{
        Answer, ManualClock, TestNetwork, create_room, join_from, object, open_server, server_name, settle, user_id,
    },
};

/// A server with a room that `@user:b` is in, and one that `@user:c` is in, who has no room with `b`.
async fn world() -> (Homeserver, RoomId, RoomId) {
    world_on(TestNetwork::default()).await
}

async fn world_on(network: TestNetwork) -> (Homeserver, RoomId, RoomId) {
    let clock = Arc::new(ManualClock::default());
    let (server, to_send) = open_server("a", &MemoryStore::new(), clock, Arc::new(network)).await;
    // What is sent is nobody's matter here.
    std::mem::forget(to_send);
    let shared = create_room(&server, "@alice:a", RoomVersion::V11).await;
    join_from(&server, &shared, "@user:b").await;
    let other = create_room(&server, "@alice:a", RoomVersion::V11).await;
    join_from(&server, &other, "@user:c").await;
    (server, shared, other)
}

/// Returns what is believed of an EDU of `b`, in words, and how much is not.
async fn told(server: &Homeserver, edu_type: &str, content: Value) -> (Vec<String>, usize) {
    let edu = json!({ "edu_type": edu_type, "content": content }).to_string();
    let origin = server_name("b");
    let parts = Checks::new(server, &origin).edu(&edu).await;
    let (told, refused): (Vec<_>, Vec<_>) = parts.into_iter().partition(Result::is_ok);
    let words = told.into_iter().map(|told| match told.unwrap() {
        Told::Typing { user_id, is_typing, .. } => format!("{user_id} types: {is_typing}"),
        Told::Read { user_id, event_id, .. } => format!("{user_id} read {event_id}"),
        Told::Presence { user_id, update } => format!("{user_id} is {}", update.presence),
        Told::DevicesChanged { user_id } => format!("{user_id} has other devices"),
        Told::ToDevice(message) => {
            let to: Vec<&str> = message.messages.keys().map(UserId::as_str).collect();
            format!("{} to {}", message.sender, to.join(", "))
        }
    });
    (words.collect(), refused.len())
}

async fn check(server: &Homeserver, edu_type: &str, content: Value, expected: &[&str], refused: usize) {
    let (told, refusals) = told(server, edu_type, content.clone()).await;
    assert_eq!(
        (told.iter().map(String::as_str).collect::<Vec<_>>(), refusals),
        (expected.to_vec(), refused),
        "{content}"
    );
}

#[tokio::test]
async fn sc_121_typing_is_believed_of_a_servers_own_users_in_the_room() {
    let (server, shared, other) = world().await;
    let typing = |room_id: &RoomId, user: &str| json!({ "room_id": room_id.as_str(), "user_id": user, "typing": true });
    check(&server, "m.typing", typing(&shared, "@user:b"), &["@user:b types: true"], 0).await;
    for (room_id, user) in [(&shared, "@alice:a"), (&shared, "@user:c"), (&shared, "@nobody:b"), (&other, "@user:b")] {
        check(&server, "m.typing", typing(room_id, user), &[], 1).await;
    }
    let nowhere = RoomId::parse("!nowhere:a").unwrap();
    check(&server, "m.typing", typing(&nowhere, "@user:b"), &[], 1).await;
    let acl = SendEvent {
        event_type: "m.room.server_acl".to_owned(),
        state_key: Some(String::new()),
        content: object(r#"{"allow":["*"],"deny":["b"]}"#),
        redacts: None,
    };
    server.rooms.send(&shared, &user_id("@alice:a"), acl).await.unwrap();
    check(&server, "m.typing", typing(&shared, "@user:b"), &[], 1).await;
}

#[tokio::test]
async fn sc_120_receipts_are_believed_of_a_servers_own_users_in_the_room() {
    let (server, shared, other) = world().await;
    let receipt = |event_id: &str| json!({ "data": { "ts": 1 }, "event_ids": [event_id] });
    let content = json!({
        shared.as_str(): {
            "m.read": {
                "@user:b": receipt("$1"),
                "@user:c": receipt("$2"),
                "@alice:a": receipt("$3"),
                "@left:b": receipt("$4"),
                "no user": receipt("$5"),
            },
            "m.read.private": { "@user:b": receipt("$6") },
        },
        other.as_str(): { "m.read": { "@user:b": receipt("$7") } },
        "no room": {},
    });
    check(&server, "m.receipt", content, &["@user:b read $1"], 5).await;
    for wrong in [
        json!({ "data": { "ts": 1 }, "event_ids": [] }),
        json!({ "data": { "ts": 1 }, "event_ids": "$1" }),
        json!({ "data": { "ts": "1" }, "event_ids": ["$1"] }),
        json!(1),
    ] {
        check(&server, "m.receipt", json!({ shared.as_str(): { "m.read": { "@user:b": wrong } } }), &[], 1).await;
    }
    check(&server, "m.receipt", json!({ shared.as_str(): { "m.read": ["@user:b"] } }), &[], 1).await;
    check(&server, "m.receipt", json!([1]), &[], 1).await;
}

#[tokio::test]
async fn sc_121_presence_is_believed_of_a_servers_own_users_in_our_rooms() {
    let (server, ..) = world().await;
    let update = |user: &str| json!({ "user_id": user, "presence": "online", "last_active_ago": 5 });
    let push =
        [update("@user:b"), update("@stranger:b"), update("@user:c"), update("@alice:a"), json!({}), update("x")];
    check(&server, "m.presence", json!({ "push": push }), &["@user:b is online"], 5).await;
    check(&server, "m.presence", json!({ "push": {} }), &[], 1).await;
}

#[tokio::test]
async fn sc_122_devices_are_those_of_a_servers_own_users() {
    let (server, ..) = world().await;
    let list = |user: &str| json!({ "user_id": user, "device_id": "D", "stream_id": 1 });
    let keys = |user: &str| json!({ "user_id": user });
    for (user, is_believed) in [("@user:b", true), ("@stranger:b", false), ("@user:c", false), ("@alice:a", false)] {
        let words = format!("{user} has other devices");
        let expected = if is_believed { &[words.as_str()][..] } else { &[] };
        check(&server, "m.device_list_update", list(user), expected, usize::from(!is_believed)).await;
        check(&server, "m.signing_key_update", keys(user), expected, usize::from(!is_believed)).await;
    }
}

#[tokio::test]
async fn sc_123_sc_130_messages_to_devices_are_of_a_servers_own_users() {
    let (server, ..) = world().await;
    let messages = json!({ "@alice:a": { "*": {} }, "@bob:b": { "*": {} }, "no user": { "*": {} } });
    let message = |sender: &str, event_type: &str| json!({ "sender": sender, "type": event_type, "message_id": "1", "messages": messages });
    check(&server, "m.direct_to_device", message("@stranger:b", "m.x"), &["@stranger:b to @alice:a"], 0).await;
    for sender in ["@alice:a", "@user:c", "x"] {
        check(&server, "m.direct_to_device", message(sender, "m.x"), &[], 1).await;
    }
    check(&server, "m.direct_to_device", message("@user:b", &"x".repeat(256)), &[], 1).await;
    check(&server, "m.direct_to_device", json!({ "sender": "@user:b", "type": "m.x", "messages": {} }), &[], 1).await;
}

#[tokio::test]
async fn sc_124_long_lists_are_cut() {
    let (server, shared, _) = world().await;
    let receipt = json!({ "data": {}, "event_ids": ["$1"] });
    let users: serde_json::Map<String, Value> =
        (0..5_000).map(|number| (format!("@{number}:b"), receipt.clone())).collect();
    let content = json!({ shared.as_str(): { "m.read": users } });
    assert_eq!(told(&server, "m.receipt", content).await.1, ENTRIES_MAX);
    let updates: Vec<Value> = (0..5_000)
        .map(|number| json!({ "user_id": format!("@{number}:b"), "presence": "online", "last_active_ago": 1 }))
        .collect();
    assert_eq!(told(&server, "m.presence", json!({ "push": updates })).await, (Vec::new(), ENTRIES_MAX));
    let prev_ids: Vec<u32> = (0..1_000_000).collect();
    let update = json!({ "user_id": "@user:b", "device_id": "D", "stream_id": 1, "prev_id": prev_ids });
    assert_eq!(told(&server, "m.device_list_update", update).await, (Vec::new(), 1));
    let update = json!({ "user_id": "@user:b", "device_id": "D", "stream_id": 1_u64 << 63 });
    assert_eq!(told(&server, "m.device_list_update", update).await, (Vec::new(), 1));
}

#[tokio::test]
async fn sc_125_gaps_in_device_lists_make_nobody_asked() {
    let (network, asked) = (TestNetwork::default(), Arc::new(AtomicUsize::new(0)));
    let counted = asked.clone();
    network.set("b", move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Answer::Status(200, "{}")
    });
    let (server, shared, _) = world_on(network).await;
    let users: Vec<String> = (0..100).map(|number| format!("@user{number}:b")).collect();
    for user in &users {
        join_from(&server, &shared, user).await;
    }
    let update = |user: &String, number: u32| {
        let (stream_id, before) = (10 * number, 10 * number - 1);
        json!({ "user_id": user, "device_id": "D", "stream_id": stream_id, "prev_id": [before], "deleted": false })
    };
    check(&server, "m.device_list_update", update(&users[0], 1), &["@user0:b has other devices"], 0).await;
    let length = server.log.len();
    for number in 1..=10 {
        let edu = |user| json!({ "edu_type": "m.device_list_update", "content": update(user, number) }).to_string();
        let edus = users.iter().map(|user| RawValue::from_string(edu(user)).unwrap()).collect();
        server.receive_transaction(&server_name("b"), &number.to_string(), Vec::new(), edus).await.unwrap();
    }
    settle().await;
    assert_eq!((asked.load(Ordering::SeqCst), server.log.len()), (0, length));
}

#[tokio::test]
async fn one_bad_edu_does_not_stop_others() {
    let (server, shared, _) = world().await;
    for bad in
        ["1", "{}", r#"{"edu_type":"m.typing"}"#, r#"{"edu_type":1,"content":{}}"#, r#"{"edu_type":"x","content":1}"#]
    {
        let origin = server_name("b");
        let parts = Checks::new(&server, &origin).edu(bad).await;
        assert!(matches!(&parts[..], [Err(_)]), "{bad}");
    }
    let raw = |json: String| RawValue::from_string(json).unwrap();
    let typing = json!({ "edu_type": "m.typing", "content": { "room_id": shared.as_str(), "user_id": "@user:b", "typing": true } });
    server.receive_edus(&server_name("b"), vec![raw("1".into()), raw(typing.to_string())]).await;
}
