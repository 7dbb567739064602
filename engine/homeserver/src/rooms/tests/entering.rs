//! Rooms of other servers that are stored while this one goes on.

use ravel_core::{
    pdu::VerifiedPdu,
    room::{Effect, PersistEvent, Receipt, Room},
};
use ravel_store::{Operation, faulty::FaultyStore};

use super::*;
use crate::testing::{settle, until};

/// What a message of the large room says: some of them are more than the log writes at once.
const TEXT_BYTES: usize = 60_000;
const MESSAGES: usize = 100;

/// Makes a room elsewhere that takes many commits to store; its last event lets alice in.
async fn large_room() -> (Room, Vec<PersistEvent>) {
    let elsewhere = open(&MemoryStore::new()).await;
    let room_id = elsewhere.create(&user("bob"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    for _ in 0..MESSAGES {
        say(&elsewhere, &room_id, "bob", &"x".repeat(TEXT_BYTES)).await.unwrap();
    }
    member(&elsewhere, &room_id, "alice", "alice", Membership::Join).await.unwrap();
    let whole = elsewhere.log().load_room(&room_id).await.unwrap().unwrap();
    let ids: Vec<EventId> = whole.events().map(|(event, _)| event.event_id.clone()).collect();
    let rules = RoomVersion::V11.rules();
    let (mut room, mut events) = (Room::new(room_id.clone(), rules), Vec::new());
    for json in elsewhere.pdus(&room_id, &ids).await.unwrap() {
        let pdu = VerifiedPdu::restore(&json, rules, None, true).unwrap();
        let Receipt::Judged(judged) = room.handle_pdu(&pdu).unwrap() else { panic!("it is new") };
        events.extend(judged.effects.into_iter().filter_map(|effect| match effect {
            Effect::Persist(event) => Some(*event),
            Effect::Publish(_) => None,
        }));
    }
    (room, events)
}

#[tokio::test]
async fn nobody_waits_while_a_large_room_is_stored() {
    let (room, events) = large_room().await;
    let large = room.room_id().clone();
    let store = Arc::new(FaultyStore::new(MemoryStore::new()));
    let rooms = open_on(store.clone()).await;
    let room_id = rooms.create(&user("carol"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    let (_, since) = sync(&rooms, "carol", None, 10).await;

    let commits = store.hold(Operation::Commit);
    let of_entering = rooms.clone();
    let entering = tokio::spawn(async move { of_entering.take_over(room, events).await.unwrap() });
    commits.let_through(1);
    // The first part is written, the second one is under way.
    commits.come(2).await;
    let (of_sending, other) = (rooms.clone(), room_id.clone());
    let sending = tokio::spawn(async move { say(&of_sending, &other, "carol", "meanwhile").await.unwrap() });
    settle().await;
    commits.let_through(1);
    // What was waiting is in the next commit, and all that concerns it follows from that.
    commits.come(3).await;
    commits.let_through(1);
    until("it is sent", || sending.is_finished()).await;
    let (news, _) = sync(&rooms, "carol", since, 10).await;
    assert_eq!(told(&news.joined[&room_id].timeline), ["meanwhile"]);
    assert_eq!(rooms.membership(&room_id, &user("carol")).await.unwrap(), Some(Membership::Join));
    let (of_alice, _) = sync(&rooms, "alice", None, 10).await;
    assert!(of_alice.joined.is_empty());
    assert!(!entering.is_finished(), "most of the large room is still to be written");

    commits.let_through(1_000);
    assert!(entering.await.unwrap());
    let (of_alice, _) = sync(&rooms, "alice", None, 1).await;
    assert!(of_alice.joined.contains_key(&large));
}
