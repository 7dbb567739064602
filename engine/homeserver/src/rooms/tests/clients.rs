//! Members, guests, rooms that were forgotten, what was around an event.

use super::*;
use crate::accounts::{Registration, Role};

async fn guest(rooms: &Rooms) -> UserId {
    let guest = Registration { username: None, password: None, role: Role::Guest, device: None };
    accounts_of(rooms).register(guest).await.unwrap().user_id
}

#[tokio::test]
async fn guests_are_where_the_room_lets_them() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    let guest = guest(&rooms).await;
    let join = async || {
        let change = MembershipChange { target: guest.clone(), membership: Membership::Join, content: object("{}") };
        rooms.change_membership(&room_id, &guest, change).await
    };
    let access = async |value: &str| {
        let json = format!(r#"{{"guest_access":"{value}"}}"#);
        set(&rooms, &room_id, "alice", "m.room.guest_access", &json).await.unwrap()
    };
    assert!(matches!(join().await, Err(RoomsError::GuestsForbidden)));
    access("can_join").await;
    join().await.unwrap();
    member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    access("forbidden").await;
    assert_eq!(rooms.membership(&room_id, &guest).await.unwrap(), Some(Membership::Leave));
    assert_eq!(rooms.membership(&room_id, &user("bob")).await.unwrap(), Some(Membership::Join));
    assert!(matches!(join().await, Err(RoomsError::GuestsForbidden)));
}

#[tokio::test]
async fn a_forgotten_room_is_not_there_until_the_user_is_in_it_again() {
    let store = MemoryStore::new();
    let rooms = open(&store).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    assert!(matches!(rooms.forget(&room_id, &user("bob")).await, Err(RoomsError::StillInRoom)));
    rooms.forget(&room_id, &user("carol")).await.unwrap();
    member(&rooms, &room_id, "bob", "bob", Membership::Leave).await.unwrap();
    let sees = async |rooms: &Rooms| {
        let mut filter = SyncFilter::default();
        filter.room.include_leave = true;
        let news = rooms.news(&user("bob"), None, rooms.position(), &filter).await.unwrap();
        let state = rooms.state(&room_id, &user("bob")).await.is_ok();
        let history = rooms.messages(&room_id, &user("bob"), back(None, 10)).await.is_ok();
        let members = rooms.members(&room_id, &user("bob"), None).await.is_ok();
        assert_eq!((state, history, members), (state, state, state));
        assert_eq!(news.left.contains_key(&room_id), state);
        state
    };
    assert!(sees(&rooms).await);
    rooms.forget(&room_id, &user("bob")).await.unwrap();
    assert!(!sees(&rooms).await);
    let rooms = open(&store).await;
    assert!(!sees(&rooms).await);
    member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    assert!(rooms.state(&room_id, &user("bob")).await.is_ok());
    member(&rooms, &room_id, "bob", "bob", Membership::Leave).await.unwrap();
    assert!(sees(&rooms).await);
    assert!(sees(&open(&store).await).await);
}

#[tokio::test]
async fn who_has_left_pages_back_from_there_and_who_is_banned_sees_no_state() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    for name in ["bob", "carol"] {
        member(&rooms, &room_id, name, name, Membership::Join).await.unwrap();
    }
    say(&rooms, &room_id, "alice", "before").await.unwrap();
    member(&rooms, &room_id, "bob", "bob", Membership::Leave).await.unwrap();
    member(&rooms, &room_id, "alice", "carol", Membership::Ban).await.unwrap();
    for number in 0..5 {
        say(&rooms, &room_id, "alice", &number.to_string()).await.unwrap();
    }
    let page = rooms.messages(&room_id, &user("bob"), back(None, 2)).await.unwrap();
    assert_eq!(told(&page.events), ["member@bob:a", "before"]);
    let page = rooms.messages(&room_id, &user("carol"), back(None, 1)).await.unwrap();
    assert_eq!(told(&page.events), ["member@carol:a"]);
    assert!(rooms.state(&room_id, &user("bob")).await.is_ok());
    assert!(matches!(rooms.state(&room_id, &user("carol")).await, Err(RoomsError::NotInRoom)));
}

#[tokio::test]
async fn what_says_who_sees_is_seen_by_who_does_before_or_after() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    for visibility in ["joined", "invited", "shared"] {
        let json = format!(r#"{{"history_visibility":"{visibility}"}}"#);
        set(&rooms, &room_id, "alice", "m.room.history_visibility", &json).await.unwrap();
        say(&rooms, &room_id, "alice", visibility).await.unwrap();
    }
    member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    let page = rooms.messages(&room_id, &user("bob"), back(None, 7)).await.unwrap().events;
    let visibility = |event: &ClientEvent| event.json["content"].get("history_visibility").cloned();
    let seen: Vec<_> = page.iter().filter_map(visibility).collect();
    assert_eq!(told(&page), ["member@bob:a", "shared", "history_visibility", "history_visibility"]);
    assert_eq!(seen, ["shared", "joined"], "not the one between");
}

#[tokio::test]
async fn members_are_those_of_the_time_that_is_asked_for() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    let early = rooms.position();
    member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    member(&rooms, &room_id, "carol", "carol", Membership::Join).await.unwrap();
    let members = async |name: &str, at: Option<u64>| {
        let mut members = told(&rooms.members(&room_id, &user(name), at).await.unwrap());
        members.sort();
        members
    };
    assert_eq!(members("alice", Some(early)).await, ["member@alice:a"]);
    assert_eq!(members("alice", None).await, ["member@alice:a", "member@bob:a", "member@carol:a"]);
    member(&rooms, &room_id, "carol", "carol", Membership::Leave).await.unwrap();
    let joined = rooms.joined_members(&room_id, &user("alice")).await.unwrap();
    assert_eq!(joined.len(), 2);
    member(&rooms, &room_id, "dave", "dave", Membership::Join).await.unwrap();
    assert_eq!(members("carol", None).await.len(), 3, "dave came when she was gone");
    assert_eq!(members("carol", Some(u64::MAX)).await.len(), 3);
    assert!(matches!(rooms.joined_members(&room_id, &user("carol")).await, Err(RoomsError::NotInRoom)));
    assert!(matches!(rooms.members(&room_id, &user("eve"), None).await, Err(RoomsError::NotInRoom)));
    set(&rooms, &room_id, "alice", "m.room.history_visibility", r#"{"history_visibility":"world_readable"}"#)
        .await
        .unwrap();
    assert_eq!(members("eve", None).await.len(), 4, "everybody may read it now");
}

#[tokio::test]
async fn an_event_is_shown_with_what_was_around_it() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    member(&rooms, &room_id, "bob", "bob", Membership::Join).await.unwrap();
    let mut ids = Vec::new();
    for number in 0..7 {
        ids.push(say(&rooms, &room_id, "alice", &number.to_string()).await.unwrap());
    }
    let found = rooms.context(&room_id, &user("bob"), &ids[3], 4, false).await.unwrap();
    assert_eq!(told(&found.before.events), ["2", "1"]);
    assert_eq!(told(&found.after.events), ["4", "5"]);
    assert_eq!((told(&[found.event]), found.state.len()), (vec!["3".to_owned()], 8));
    let lazy = rooms.context(&room_id, &user("bob"), &ids[3], 0, true).await.unwrap();
    assert!(lazy.before.events.is_empty() && lazy.after.events.is_empty());
    assert!(!told(&lazy.state).contains(&"member@bob:a".to_owned()) && lazy.state.len() == 7);
    let hidden = rooms.context(&room_id, &user("carol"), &ids[3], 4, false).await;
    assert!(matches!(hidden, Err(RoomsError::NotInRoom)));
}

#[tokio::test]
async fn state_that_is_there_already_is_not_sent_again() {
    let rooms = open(&MemoryStore::new()).await;
    let room_id = rooms.create(&user("alice"), wanted(RoomVersion::V11, Preset::PublicChat)).await.unwrap();
    let topic = async |name: &str, text: &str| {
        let content = object(&format!(r#"{{"topic":"{text}"}}"#));
        let (event_type, state_key) = ("m.room.topic".to_owned(), Some(String::new()));
        rooms.set_state(&room_id, &user(name), SendEvent { event_type, state_key, content, redacts: None }).await
    };
    let first = topic("alice", "a").await.unwrap();
    assert_eq!(topic("alice", "a").await.unwrap(), first);
    assert!(topic("bob", "a").await.is_err(), "who may not set it is not told that it is so");
    let second = topic("alice", "b").await.unwrap();
    assert_ne!(second, first);
    assert_ne!(topic("alice", "a").await.unwrap(), first);
}
