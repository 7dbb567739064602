//! Joins of rooms of a whole server, whose answer is made before.

use ravel_core::{canonical_json::object_to_canonical_bytes, id::KeyId, room_version::RoomVersion};
use ravel_store::MemoryStore;
use serde_json::json;
use tokio::sync::Semaphore;

use super::*;
use crate::testing::{
    Answer, ManualClock, TestNetwork, create_room, foreign_event, join_from, key_document, object, open_server,
    server_name, settle, user_id,
};

/// More than are asked for their keys at once.
const SILENT: usize = 150;

/// All servers of members are asked for their keys, however long the first ones take.
#[tokio::test]
async fn members_of_servers_whose_turn_comes_late_are_not_lost() {
    let (clock, network) = (Arc::<ManualClock>::default(), Arc::<TestNetwork>::default());
    let [(a, _to_send_a), (b, _to_send_b)] = [
        open_server("a", &MemoryStore::new(), clock.clone(), network.clone()).await,
        open_server("b", &MemoryStore::new(), clock.clone(), network.clone()).await,
    ];
    let room_id = create_room(&a, "@alice:a", RoomVersion::V11).await;
    let (asked, answers) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    for number in 0..SILENT {
        let name = format!("silent{number}");
        join_from(&a, &room_id, &format!("@user:{name}")).await;
        let (is_asked, answers) = (asked.clone(), answers.clone());
        network.set(&name, move |_| {
            is_asked.add_permits(1);
            Answer::Held(answers.clone())
        });
    }
    for user in ["@user:y", "@other:y", "@user:z"] {
        join_from(&a, &room_id, user).await;
    }
    // It did not answer lately, and is left alone otherwise.
    let of_y = [(server_name("y"), [(KeyId::parse("ed25519:1").unwrap(), 0)].into())].into();
    b.keys.keys_for(&of_y).await.unwrap();
    clock.advance(Duration::from_millis(3_500));
    assert!(b.client.backing_off_until_ms(&server_name("y")).is_some());
    for name in ["b", "y", "z"] {
        network.set(name, move |_| Answer::Json(key_document(name, 0)));
    }
    let bob = user_id("@bob:b");
    let template = a.make_membership(&server_name("b"), &room_id, &bob, Membership::Join, None).await.unwrap();
    let template = raw_json(&object_to_canonical_bytes(&template.event)).unwrap();
    // Another join than that which will be made, with the same state before it.
    let join =
        foreign_event(&a, &room_id, bob.as_str(), "m.room.member", Some(bob.as_str()), r#"{"membership":"join"}"#);
    let join = join.await;
    let told = a.send_join(&server_name("b"), &room_id, join.event_id().as_str(), join.json(), false).await.unwrap();
    let told = told.to_json(&server_name("a"));
    network.set("a", move |request| match request.uri().path() {
        "/_matrix/key/v2/server" => Answer::Json(key_document("a", 0)),
        path if path.contains("/make_join/") => Answer::Json(json!({ "room_version": "11", "event": template })),
        _ => Answer::Raw(http::Response::new(told.clone().into())),
    });

    let (joining, joined) = (b.clone(), room_id.clone());
    let joining =
        tokio::spawn(async move { joining.join(&user_id("@bob:b"), &joined, &[server_name("a")], object("{}")).await });
    let at_once = asked.acquire_many(100).await.unwrap();
    assert!(asked.available_permits() + 100 < SILENT);
    drop(at_once);
    // They take longer than servers are asked otherwise.
    clock.advance(Duration::from_secs(9 * 60));
    settle().await;
    answers.add_permits(SILENT);
    joining.await.unwrap().unwrap();
    let joined = Some(Membership::Join);
    for (user, membership) in [("@user:y", joined), ("@user:z", joined), ("@user:silent0", None)] {
        assert_eq!(b.rooms.membership(&room_id, &user_id(user)).await.unwrap(), membership, "{user}");
    }
    assert_eq!(asked.available_permits(), SILENT, "each was asked");
}
