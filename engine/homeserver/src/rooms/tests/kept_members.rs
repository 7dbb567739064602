//! Who of the server is in which room, after it was started again.

use ravel_store::{
    Durability, Operation,
    faulty::{Fault, FaultyStore},
    log::Fact,
};

use super::{
    super::{kept_members::KeptMember, members::LocalMember},
    *,
};
use crate::{
    fact_kind,
    record::{encode, key},
};

/// Changes what is kept of a member behind the server's back: whoever reads it has not loaded the room.
async fn forge(rooms: &Rooms, room_id: &RoomId, localpart: &str) {
    let forged = LocalMember { membership: Membership::Leave, event_id: EventId::parse("$forged").unwrap() };
    let value = encode(&KeptMember::of(&forged)).unwrap();
    let key = key(&[room_id.as_str(), localpart]);
    let fact = Fact { kind: fact_kind::LOCAL_MEMBER, key, value: Some(value) };
    rooms.log().put_facts(&[fact], &[], Durability::Sync).await.unwrap();
}

fn memberships(rooms: &Rooms, name: &str) -> Vec<Membership> {
    rooms.rooms_of(&user(name)).into_iter().map(|(_, membership)| membership).collect()
}

#[tokio::test]
async fn a_room_is_loaded_at_the_start_only_if_its_state_has_changed() {
    let store = MemoryStore::new();
    let rooms = open(&store).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    rooms.keep_members().await.unwrap();
    let length = rooms.log().len();
    rooms.keep_members().await.unwrap();
    assert_eq!(rooms.log().len(), length, "nothing has changed");
    say(&rooms, &room_id, "alice", "a message changes no state").await.unwrap();
    rooms.keep_members().await.unwrap();
    forge(&rooms, &room_id, "bob").await;

    let rooms = open(&store).await;
    assert_eq!(memberships(&rooms, "alice"), [Membership::Join]);
    assert_eq!(memberships(&rooms, "bob"), [Membership::Leave], "as it was kept");
    set(&rooms, &room_id, "alice", "m.room.topic", r#"{"topic":"another state"}"#).await.unwrap();

    let rooms = open(&store).await;
    assert_eq!(memberships(&rooms, "bob"), [Membership::Join], "as it is");
    rooms.keep_members().await.unwrap();

    let rooms = open(&store).await;
    assert_eq!(memberships(&rooms, "bob"), [Membership::Join], "as it was kept when the server had started");
    assert_eq!(rooms.joined_rooms(&user("alice")), [room_id]);
}

#[tokio::test]
async fn who_is_no_member_any_more_is_not_kept() {
    let store = MemoryStore::new();
    let rooms = open(&store).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    rooms.keep_members().await.unwrap();
    // As after a resolution by which the state has no such entry any more.
    forge(&rooms, &room_id, "nobody").await;
    set(&rooms, &room_id, "alice", "m.room.topic", r#"{"topic":"another state"}"#).await.unwrap();
    let rooms = open(&store).await;
    rooms.keep_members().await.unwrap();
    let rooms = open(&store).await;
    assert_eq!(memberships(&rooms, "nobody"), []);
    assert_eq!(memberships(&rooms, "alice"), [Membership::Join]);
}

#[tokio::test]
async fn a_forgotten_room_stays_forgotten_until_the_user_is_back() {
    let store = MemoryStore::new();
    let rooms = open(&store).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    for membership in [Membership::Join, Membership::Leave] {
        member(&rooms, &room_id, "bob", "bob", membership).await.unwrap();
    }
    rooms.forget(&room_id, &user("bob")).await.unwrap();
    rooms.keep_members().await.unwrap();
    let rooms = open(&store).await;
    assert_eq!(memberships(&rooms, "bob"), []);
    member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    rooms.keep_members().await.unwrap();
    let rooms = open(&store).await;
    assert_eq!(memberships(&rooms, "bob"), [Membership::Join]);
}

#[tokio::test]
async fn what_could_not_be_kept_is_kept_the_next_time() {
    let faulty = Arc::new(FaultyStore::new(MemoryStore::new()));
    let rooms = open_on(faulty.clone()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    faulty.fail(Operation::Commit, 1, Fault::Failed);
    rooms.keep_members().await.unwrap_err();
    // Only its fingerprint is new since; the members are what was not kept.
    set(&rooms, &room_id, "alice", "m.room.topic", r#"{"topic":"another state"}"#).await.unwrap();
    rooms.keep_members().await.unwrap();
    let kept = rooms.log().facts(fact_kind::LOCAL_MEMBER, room_id.as_str().as_bytes(), None, 10).await.unwrap();
    assert_eq!(kept.len(), 1, "alice");
}
