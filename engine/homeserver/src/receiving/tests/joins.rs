//! Events that come while a join hangs.

use std::collections::BTreeSet;

use ravel_core::event::event_type;
use tokio::{sync::Semaphore, task::JoinHandle};

use super::*;
use crate::testing::settle;

/// Has a user join a room by the help of `d`, which does not answer; returns once it is asked.
async fn hanging_join(world: &World, user: &'static str, room_id: &RoomId) -> JoinHandle<()> {
    let asked = Arc::new(Semaphore::new(0));
    let is_asked = asked.clone();
    world.network.set("d", move |_| {
        is_asked.add_permits(1);
        Answer::Hangs
    });
    let (server, room_id) = (world.server.clone(), room_id.clone());
    let joining = tokio::spawn(async move {
        let joined = server.join(&user_id(user), &room_id, &[server_name("d")], object("{}")).await;
        panic!("the join ended: {joined:?}");
    });
    drop(asked.acquire().await.unwrap());
    joining
}

/// Has `b` send events.
fn send(world: &World, pdus: Vec<Box<RawValue>>) -> JoinHandle<PduResults> {
    let server = world.server.clone();
    tokio::spawn(async move { server.receive_transaction(&server_name("b"), "1", pdus, Vec::new()).await.unwrap() })
}

#[tokio::test]
async fn a_join_that_hangs_delays_what_is_sent_into_its_room_and_nothing_else() {
    let world = World::new().await;
    let joined = ["!one:d", "!two:d"].map(|room_id| RoomId::parse(room_id).unwrap());
    for room_id in &joined {
        hanging_join(&world, "@alice:a", room_id).await;
    }
    let here = world.says("@user:b", "here").await;
    let elsewhere = joined.iter().flat_map(|room_id| {
        (0..3).map(move |number| RawValue::from_string(json!({ "room_id": room_id.as_str(), "n": number }).to_string()))
    });
    let pdus = elsewhere.map(Result::unwrap).chain([raw(&here)]).collect();
    let sending = send(&world, pdus);
    // The clock stands still.
    world.until_shown(&here).await;
    settle().await;
    assert!(!sending.is_finished(), "what is sent into the others comes after the join");
    world.clock.advance(Duration::from_secs(30));
    let taken = sending.await.unwrap();
    assert_eq!(taken.into_keys().collect::<BTreeSet<_>>(), [here.event_id().clone()].into());
}

#[tokio::test]
async fn a_join_that_hangs_delays_nothing_in_a_room_that_this_server_is_in() {
    let world = World::new().await;
    let rules = r#"{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"!nowhere:d"}]}"#;
    let rules = crate::rooms::SendEvent {
        event_type: event_type::JOIN_RULES.to_owned(),
        state_key: Some(String::new()),
        content: object(rules),
        redacts: None,
    };
    world.server.rooms.send(&world.room_id, &user_id("@alice:a"), rules).await.unwrap();
    // Nobody here can tell whether he may come in.
    hanging_join(&world, "@albert:a", &world.room_id).await;
    let event = world.says("@user:b", "hello").await;
    let sending = send(&world, vec![raw(&event)]);
    world.until_shown(&event).await;
    assert!(sending.await.unwrap()[event.event_id()].is_ok());
}
