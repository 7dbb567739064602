//! Rooms that are put aside, and come back.

use super::{super::open_rooms::EVENTS_MAX, *};

#[tokio::test]
async fn rooms_that_were_not_used_for_longest_are_put_aside_and_come_back() {
    let rooms = open(&MemoryStore::new()).await;
    let mut all = Vec::new();
    let in_memory = async || {
        let mut events = Vec::new();
        for place in rooms.0.open.all() {
            events.push(place.room.read().await.as_ref().map_or(0, |loaded| loaded.room.len()));
        }
        (events.len(), events.iter().sum::<usize>())
    };
    for number in 0..60 {
        let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
        say(&rooms, &room_id, "alice", &format!("in room {number}")).await.unwrap();
        all.push(room_id);
        // The first one is used again and again.
        rooms.membership(&all[0], &user("alice")).await.unwrap();
        let (places, events) = in_memory().await;
        let is_half_left = places == all.len() || events >= EVENTS_MAX / 2 - 10;
        assert!(events <= EVENTS_MAX + 10 && is_half_left, "{places} rooms with {events} events");
    }
    let (places, _) = in_memory().await;
    assert!(places < all.len(), "some are aside");
    let is_loaded = async |room_id| rooms.0.open.place(room_id).room.read().await.is_some();
    assert!(is_loaded(&all[0]).await && !is_loaded(&all[1]).await);
    let position = rooms.position();
    for (number, room_id) in all.iter().enumerate() {
        let page = rooms.messages(room_id, &user("alice"), back(None, 1)).await.unwrap();
        assert_eq!(told(&page.events), [format!("in room {number}")]);
        say(&rooms, room_id, "alice", "again").await.unwrap();
    }
    let news = rooms.news(&user("alice"), Some(position), rooms.position(), &SyncFilter::default()).await.unwrap();
    assert_eq!(news.joined.len(), all.len());
}

#[tokio::test]
async fn a_room_that_somebody_has_is_not_put_aside() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    let held = rooms.0.open.place(&room_id);
    for _ in 0..60 {
        rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    }
    assert!(held.room.read().await.is_some());
    say(&rooms, &room_id, "alice", "still here").await.unwrap();
    assert!(Arc::ptr_eq(&held, &rooms.0.open.place(&room_id)), "there is one place for a room");
}
