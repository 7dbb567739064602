//! What another server says of its aliases and rooms, true or not.

use std::sync::{Arc, Mutex};

use serde_json::Value;

use super::*;
use crate::{
    homeserver::Homeserver,
    joining::MembershipError,
    network::NetworkError,
    rooms::SendEvent,
    testing::{Answer, ManualClock, TestNetwork, create_room, open_server, server_name, user_id},
};

/// The server `a`, and what it asks `b`, which answers as it is told to.
struct World {
    server: Homeserver,
    answer: Arc<Mutex<Value>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl World {
    async fn new() -> Self {
        let (network, answer, asked) = (TestNetwork::default(), Arc::<Mutex<Value>>::default(), Arc::default());
        let (says, notes): (_, Arc<Mutex<Vec<String>>>) = (answer.clone(), Arc::clone(&asked));
        network.set("b", move |request| {
            notes.lock().unwrap().push(request.uri().path().to_owned());
            Answer::Json(says.lock().unwrap().clone())
        });
        let clock = Arc::new(ManualClock::default());
        let (server, to_send) = open_server("a", &MemoryStore::new(), clock, Arc::new(network)).await;
        // What is sent is nobody's matter here.
        std::mem::forget(to_send);
        Self { server, answer, asked }
    }

    async fn find(&self, answer: Value) -> Result<RoomOfAlias, DirectoryError> {
        *self.answer.lock().unwrap() = answer;
        self.server.find_alias(&OwnedRoomAliasId::try_from("#x:b").unwrap()).await
    }

    async fn list(&self, answer: Value, limit: Option<u64>) -> Result<RoomList, DirectoryError> {
        *self.answer.lock().unwrap() = answer;
        self.server.list_of(&server_name("b"), ListRequest { limit, ..ListRequest::default() }).await
    }
}

fn is_no_answer<T>(result: &Result<T, DirectoryError>) -> bool {
    matches!(result, Err(DirectoryError::Federation(FederationError::Answer { .. })))
}

fn is_too_large<T>(result: &Result<T, DirectoryError>) -> bool {
    let error =
        |error: &FederationError| matches!(error, FederationError::Network(NetworkError::AnswerTooLarge { .. }));
    matches!(result, Err(DirectoryError::Federation(federation)) if error(federation))
}

#[tokio::test]
async fn sc_092_what_an_alias_is_of_is_checked() {
    let world = World::new().await;
    let found = world.find(json!({ "room_id": "!x:c", "servers": ["c", "b"] })).await.unwrap();
    let servers = vec![server_name("c"), server_name("b")];
    assert_eq!(found, RoomOfAlias { room_id: RoomId::parse("!x:c").unwrap(), servers });
    for wrong in [
        json!([]),
        json!({}),
        json!({ "room_id": 7, "servers": ["b"] }),
        json!({ "room_id": "x", "servers": ["b"] }),
        json!({ "room_id": "#x:b", "servers": ["b"] }),
        json!({ "room_id": "", "servers": ["b"] }),
        json!({ "room_id": format!("!{}:b", "x".repeat(300)), "servers": ["b"] }),
        json!({ "room_id": "!x:b", "servers": "b" }),
        json!({ "room_id": "!x:b", "servers": [7] }),
    ] {
        let found = world.find(wrong.clone()).await;
        assert!(is_no_answer(&found), "{wrong}: {found:?}");
    }
    let servers = |count: u32| (0..count).map(|number| format!("server{number}.org")).collect::<Vec<_>>();
    let found = world.find(json!({ "room_id": "!x:b", "servers": servers(100_000) })).await.unwrap();
    assert_eq!(found.servers.len(), SERVERS_MAX);
    assert!(is_too_large(&world.find(json!({ "room_id": "!x:b", "servers": servers(500_000) })).await));
}

#[tokio::test]
async fn sc_092_an_alias_of_another_server_opens_no_room_of_ours() {
    let world = World::new().await;
    let room_id = create_room(&world.server, "@alice:a", RoomVersion::V11).await;
    let closed = SendEvent {
        event_type: "m.room.join_rules".to_owned(),
        state_key: Some(String::new()),
        content: object(r#"{"join_rule":"invite"}"#),
        redacts: None,
    };
    world.server.rooms.send(&room_id, &user_id("@alice:a"), closed).await.unwrap();
    let found = world.find(json!({ "room_id": room_id.as_str(), "servers": ["b"] })).await.unwrap();
    assert_eq!(found.room_id, room_id);
    let eve = user_id("@eve:a");
    let joined = world.server.join(&eve, &room_id, &found.servers, object("{}")).await;
    assert!(matches!(joined, Err(MembershipError::Rooms(RoomsError::Refused(_)))), "{joined:?}");
    assert_eq!(world.server.rooms.membership(&room_id, &eve).await.unwrap(), None);
    assert_eq!(*world.asked.lock().unwrap(), ["/_matrix/federation/v1/query/directory"]);
}

#[tokio::test]
async fn sc_092_lists_of_rooms_are_bounded() {
    let world = World::new().await;
    let room = |number: u32| {
        let id = format!("!{number}:b");
        json!({ "room_id": id, "num_joined_members": 1, "world_readable": false, "guest_can_join": false })
    };
    let rooms = |count: u32| json!({ "chunk": (0..count).map(room).collect::<Vec<_>>(), "next_batch": "next" });
    for (count, limit, taken) in [(3, None, 3), (5_000, None, 500), (5_000, Some(10), 10), (5_000, Some(1 << 40), 500)]
    {
        let list = world.list(rooms(count), limit).await.unwrap();
        assert_eq!((list.chunk.len(), list.next_batch.as_deref()), (taken, Some("next")));
    }
    assert!(is_too_large(&world.list(rooms(100_000), None).await));
    let mut odd = room(0);
    odd["num_joined_members"] = json!("many");
    for wrong in [json!([]), json!({}), json!({ "chunk": {} }), json!({ "chunk": [7] }), json!({ "chunk": [odd] })] {
        let list = world.list(wrong.clone(), None).await;
        assert!(is_no_answer(&list), "{wrong}: {list:?}");
    }
}
