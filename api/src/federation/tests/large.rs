//! Rooms with many members, and joins that were ended in their midst.

use std::{sync::Arc, time::Instant};

use ravel_core::{
    event::Membership,
    id::{RoomId, UserId},
    pdu::VerifiedPdu,
    room::{Effect, Receipt, Room},
    room_version::RoomVersion,
};
use ravel_homeserver::rooms::Preset;
use ravel_store::{Durability, MemoryStore, log::EventLog};

use super::world::{Server, World, change_json, made, object};

const VERSION: RoomVersion = RoomVersion::V11;

/// Lets users of another server, which is not asked, join a room.
async fn fill(server: &Server, other: &Server, room_id: &RoomId, members: usize) {
    for number in 0..members {
        let user = UserId::parse(&format!("@user{number}:{}", other.name)).unwrap();
        let (homeserver, origin) = (&server.app.homeserver, &other.name);
        let join = homeserver.make_membership(origin, room_id, &user, Membership::Join, None).await.unwrap().event;
        let (_, pdu) = made(other, VERSION, join, |_| {});
        let pdu = VerifiedPdu::restore(&pdu, VERSION.rules(), None, true).unwrap();
        server.app.rooms.take_foreign(room_id, pdu).await.unwrap();
    }
}

/// `RAVEL_TEST_MEMBERS` sets another number, to see how long it takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_room_is_joined() {
    let members = std::env::var("RAVEL_TEST_MEMBERS").ok().and_then(|count| count.parse().ok()).unwrap_or(500);
    let world = World::default();
    let (a, b, c) = (world.server("a.org").await, world.server("b.org").await, world.server("c.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room_id = a.room(&alice, VERSION, Preset::PublicChat).await;
    fill(&a, &c, &room_id, members).await;
    let begun = Instant::now();
    b.app.homeserver.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await.unwrap();
    eprintln!("{members} members joined in {:?}", begun.elapsed());
    assert_eq!(b.state(&room_id, &bob).await, a.state(&room_id, &alice).await);
    assert_eq!(b.app.rooms.servers_in(&room_id).await.unwrap(), [a.name, b.name, c.name]);
}

#[tokio::test]
async fn a_join_that_was_ended_goes_on_with_what_is_there() {
    let world = World::default();
    let (a, b, c) = (world.server("a.org").await, world.server("b.org").await, world.server("c.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room_id = a.room(&alice, VERSION, Preset::PublicChat).await;
    fill(&a, &c, &room_id, 20).await;
    // What a kill in the midst of storing leaves: events of the room, and no state.
    let template = a.app.homeserver.make_membership(&b.name, &room_id, &bob, Membership::Join, None).await.unwrap();
    let (event_id, pdu) = made(&b, VERSION, template.event, |_| {});
    let told = a.app.homeserver.send_join(&b.name, &room_id, event_id.as_str(), &pdu, false).await.unwrap();
    let restore = |json: &Vec<u8>| VerifiedPdu::restore(json, VERSION.rules(), None, true).unwrap();
    let (store, mut room) = (MemoryStore::new(), Room::new(room_id.clone(), VERSION.rules()));
    let mut stored = Vec::new();
    for pdu in told.auth_chain.iter().chain(&told.state).map(restore).take(15) {
        let Receipt::Judged(judged) = room.handle_outlier(&pdu).unwrap() else { continue };
        stored.extend(judged.effects.into_iter().filter_map(|effect| match effect {
            Effect::Persist(event) => Some(*event),
            Effect::Publish(_) => None,
        }));
    }
    let log = EventLog::open(Arc::new(store.clone())).await.unwrap();
    log.append(&room_id, VERSION.rules(), &stored, Durability::Sync).await.unwrap();
    drop(log);
    let b = world.server_on("b.org", store).await;
    let bob = b.user("bob").await;
    assert!(b.app.rooms.joined_rooms(&bob).is_empty() && b.sync(&bob, None).await.0.is_empty());
    assert!(!b.app.rooms.is_resident(&room_id).await.unwrap());
    // The signatures of these are not looked at again.
    let known: Vec<String> =
        told.auth_chain.iter().chain(&told.state).take(15).map(|json| restore(json).event_id().to_string()).collect();
    world.tamper(move |_, path, answer| {
        if path.contains("send_join") {
            change_json(answer, |json| {
                let (mut auth_chain, mut state) = (json["auth_chain"].take(), json["state"].take());
                for event in auth_chain.as_array_mut().unwrap().iter_mut().chain(state.as_array_mut().unwrap()) {
                    let id = VerifiedPdu::restore(event.to_string().as_bytes(), VERSION.rules(), None, true);
                    if id.is_ok_and(|pdu| known.contains(&pdu.event_id().to_string())) {
                        event["signatures"] = serde_json::json!({});
                    }
                }
                (json["auth_chain"], json["state"]) = (auth_chain, state);
            });
        }
    });
    b.app.homeserver.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await.unwrap();
    assert_eq!(b.state(&room_id, &bob).await, a.state(&room_id, &alice).await);
}
