//! Messages both ways: over a link that is cut, and by a server that is stopped.

use ravel_core::{
    id::{EventId, RoomId, UserId},
    room_version::RoomVersion,
};
use ravel_homeserver::rooms::Preset;
use ravel_store::MemoryStore;

use super::world::{Server, World, object};

impl Server {
    /// Waits until the room has these events here.
    async fn gets(&self, room_id: &RoomId, user: &UserId, events: &[EventId]) {
        for event_id in events {
            self.until(async || self.app.rooms.event(room_id, user, event_id).await.ok()).await;
        }
    }
}

/// Says something in a room so many times.
async fn say(server: &Server, room_id: &RoomId, user: &UserId, count: usize) -> Vec<EventId> {
    let mut said = Vec::with_capacity(count);
    for number in 0..count {
        said.push(server.say(room_id, user, &number.to_string()).await);
    }
    said
}

#[tokio::test]
async fn a_cut_link_heals_without_loss() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
    b.app.homeserver.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await.unwrap();
    let of_a = say(&a, &room_id, &alice, 5).await;
    b.gets(&room_id, &bob, &of_a).await;
    let of_b = say(&b, &room_id, &bob, 5).await;
    a.gets(&room_id, &alice, &of_b).await;
    world.cut(&a, true);
    world.cut(&b, true);
    // More than a transaction has, and than comes by asking for what is missing.
    let (of_a, of_b) = (say(&a, &room_id, &alice, 120).await, say(&b, &room_id, &bob, 120).await);
    a.until(async || a.app.homeserver.client.backing_off_until_ms(&b.name)).await;
    b.until(async || b.app.homeserver.client.backing_off_until_ms(&a.name)).await;
    world.cut(&a, false);
    world.cut(&b, false);
    // Either is told by the other one's first request that it is there again.
    assert!(a.app.homeserver.client.sign_of_life(&b.name));
    b.gets(&room_id, &bob, &of_a).await;
    a.gets(&room_id, &alice, &of_b).await;
    assert_eq!(a.state(&room_id, &alice).await, b.state(&room_id, &bob).await);
}

#[tokio::test]
async fn what_was_said_before_a_stop_is_told_after_the_next_start() {
    let world = World::default();
    let store = MemoryStore::new();
    let (a, b) = (world.server_on("a.org", store.clone()).await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
    b.app.homeserver.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await.unwrap();
    let first = say(&a, &room_id, &alice, 5).await;
    b.gets(&room_id, &bob, &first).await;
    world.cut(&b, true);
    let missed = say(&a, &room_id, &alice, 60).await;
    a.app.homeserver.stop().await;
    let unsent = say(&a, &room_id, &alice, 5).await;
    drop(a);
    world.cut(&b, false);
    let a = world.server_on("a.org", store).await;
    b.gets(&room_id, &bob, &missed).await;
    b.gets(&room_id, &bob, &unsent).await;
    let last = say(&a, &room_id, &alice, 1).await;
    b.gets(&room_id, &bob, &last).await;
}
