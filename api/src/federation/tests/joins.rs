//! Joins.

use std::time::Duration;

use futures_util::future::join_all;
use ravel_core::{event::Membership, room_version::RoomVersion};
use ravel_homeserver::{
    joining::{JoinFailure, MembershipError},
    rooms::Preset,
};

use super::world::{World, object};

#[tokio::test]
async fn a_room_of_every_version_is_joined() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob, ben) = (a.user("alice").await, b.user("bob").await, b.user("ben").await);
    for version in RoomVersion::ALL {
        let room_id = a.room(&alice, version, Preset::PublicChat).await;
        a.say(&room_id, &alice, "early").await;
        let since = b.sync(&bob, None).await.1;
        let via = [a.name.clone()];
        b.app.homeserver.join(&bob, &room_id, &via, object(r#"{"displayname":"Bob"}"#)).await.unwrap();
        let joined = b.sync(&bob, Some(since)).await.0.joined.remove(&room_id).unwrap();
        assert!(joined.is_new && joined.limited && joined.prev_batch.is_some());
        let first = &joined.timeline.first().unwrap().json;
        assert_eq!((&first["sender"], &first["content"]["displayname"]), (&bob.as_str().into(), &"Bob".into()));
        assert!(joined.state.iter().any(|event| event.json["type"] == "m.room.create"), "version {version}");

        // The next one needs nobody's help.
        let asked = world.asked(&a, "join");
        b.app.homeserver.join(&ben, &room_id, &[], object("{}")).await.unwrap();
        assert_eq!(world.asked(&a, "join"), asked);
        assert_eq!(a.membership(&room_id, &bob).await, Some(Membership::Join), "version {version}");
        let mut state = b.state(&room_id, &bob).await;
        state.remove(&("m.room.member".to_owned(), ben.to_string())).unwrap();
        let mut of_a = a.state(&room_id, &alice).await;
        of_a.remove(&("m.room.member".to_owned(), ben.to_string()));
        assert_eq!(state, of_a, "version {version}");
        assert_eq!(b.app.rooms.servers_in(&room_id).await.unwrap(), [a.name.clone(), b.name.clone()]);
    }
}

#[tokio::test]
async fn users_who_join_at_once_share_the_way() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let alice = a.user("alice").await;
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
    let via = [a.name.clone()];
    let names: Vec<String> = (0..8).map(|number| format!("user{number}")).collect();
    let joins = names.iter().map(|name| async {
        let user = b.user(name).await;
        b.app.homeserver.join(&user, &room_id, &via, object("{}")).await.unwrap();
    });
    join_all(joins).await;
    assert_eq!((world.asked(&a, "make_join"), world.asked(&a, "send_join")), (1, 1));
    let state = b.state(&room_id, &b.user("user0").await).await;
    assert_eq!(state.keys().filter(|(event_type, _)| event_type == "m.room.member").count(), 9);
    assert!(b.app.homeserver.joins_under_way().is_empty());
}

#[tokio::test]
async fn another_server_helps_if_one_does_not() {
    let world = World::default();
    let (a, b, c) = (world.server("a.org").await, world.server("b.org").await, world.server("c.org").await);
    let (alice, bob, carol) = (a.user("alice").await, b.user("bob").await, c.user("carol").await);
    let room_id = a.room(&alice, RoomVersion::V10, Preset::PublicChat).await;
    b.app.homeserver.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await.unwrap();
    world.cut(&a, true);
    let nobody = c.app.homeserver.join(&carol, &room_id, std::slice::from_ref(&a.name), object("{}")).await;
    assert!(matches!(nobody, Err(MembershipError::Failed(JoinFailure::Federation(_)))), "{nobody:?}");
    world.cut(&a, false);
    world.tamper(|server, path, answer| {
        if server == "a.org" && path.contains("make_join") {
            *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
    });
    let via = [a.name.clone(), b.name.clone()];
    c.app.homeserver.join(&carol, &room_id, &via, object("{}")).await.unwrap();
    assert_eq!(b.membership(&room_id, &carol).await, Some(Membership::Join));
    assert_eq!(c.app.rooms.servers_in(&room_id).await.unwrap(), [a.name, b.name, c.name]);
    let elsewhere = ravel_core::id::RoomId::parse("!nowhere").unwrap();
    let nobody = b.app.homeserver.join(&bob, &elsewhere, &[], object("{}")).await;
    assert!(matches!(nobody, Err(MembershipError::NoServer)), "{nobody:?}");
}

#[tokio::test]
async fn a_room_that_everybody_left_is_joined_again() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    for version in [RoomVersion::V1, RoomVersion::V11, RoomVersion::V12] {
        let room_id = a.room(&alice, version, Preset::PublicChat).await;
        let via = [a.name.clone()];
        b.app.homeserver.join(&bob, &room_id, &via, object("{}")).await.unwrap();
        b.app.homeserver.leave(&bob, &room_id, object("{}")).await.unwrap();
        a.sees(&room_id, &bob, Membership::Leave).await;
        a.set(&room_id, &alice, "m.room.topic", r#"{"topic":"meanwhile"}"#).await;
        b.app.homeserver.join(&bob, &room_id, &via, object("{}")).await.unwrap();
        assert_eq!(b.state(&room_id, &bob).await, a.state(&room_id, &alice).await, "version {version}");
    }
}

#[tokio::test]
async fn members_are_left_out_for_who_asks_for_that() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
    let origin = b.name.clone();
    let template = a.app.homeserver.make_membership(&origin, &room_id, &bob, Membership::Join, None).await.unwrap();
    let (event_id, pdu) = super::world::made(&b, RoomVersion::V11, template.event, |_| {});
    let answer = a.app.homeserver.send_join(&origin, &room_id, event_id.as_str(), &pdu, true).await.unwrap();
    assert!(answer.members_omitted);
    assert_eq!(answer.servers_in_room, Some(vec![a.name.clone()]));
    let has = |events: &[Vec<u8>], event_type: &str| {
        events.iter().any(|event| String::from_utf8_lossy(event).contains(&format!("\"type\":\"{event_type}\"")))
    };
    assert!(!has(&answer.state, "m.room.member") && has(&answer.state, "m.room.create"));
    assert!(has(&answer.auth_chain, "m.room.member"), "what the state rests on");
    // The same event again is no error, and in full.
    let answer = a.app.homeserver.send_join(&origin, &room_id, event_id.as_str(), &pdu, false).await.unwrap();
    assert!(has(&answer.state, "m.room.member") && answer.servers_in_room.is_none());
    let json: serde_json::Value = serde_json::from_slice(&answer.to_json(&a.name)).unwrap();
    assert_eq!(json["members_omitted"], false);
    assert_eq!(json["state"].as_array().unwrap().len(), answer.state.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn sc_093_a_busy_room_is_joined() {
    let world = World::default();
    let (a, b, c) = (world.server("a.org").await, world.server("b.org").await, world.server("c.org").await);
    let (alice, bob, carol) = (a.user("alice").await, b.user("bob").await, c.user("carol").await);
    for round in 0..20 {
        let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
        let via = [a.name.clone()];
        c.app.homeserver.join(&carol, &room_id, &via, object("{}")).await.unwrap();
        let talk = async {
            for number in 0..20 {
                let text = number.to_string();
                tokio::join!(a.say(&room_id, &alice, &text), c.say(&room_id, &carol, &text));
            }
        };
        let join = async {
            b.app.homeserver.join(&bob, &room_id, &via, object("{}")).await.unwrap();
            b.say(&room_id, &bob, "here").await
        };
        let both = async { tokio::join!(talk, join) };
        let (_, here) = tokio::time::timeout(Duration::from_secs(30), both).await.expect("no stall");
        let last = a.say(&room_id, &alice, "last").await;
        for (server, user) in [(&a, &alice), (&b, &bob), (&c, &carol)] {
            for event_id in [&last, &here] {
                server.until(async || server.app.rooms.event(&room_id, user, event_id).await.ok()).await;
            }
            assert_eq!(server.membership(&room_id, &bob).await, Some(Membership::Join), "round {round}");
        }
    }
}
