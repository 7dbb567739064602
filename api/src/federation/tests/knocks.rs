//! Knocks.

use ravel_core::{event::Membership, room_version::RoomVersion};
use ravel_homeserver::rooms::Preset;

use super::world::{World, object};

#[tokio::test]
async fn knocks_are_taken_back_or_answered_in_every_version_that_has_them() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    for version in RoomVersion::ALL {
        let room_id = a.room(&alice, version, Preset::PrivateChat).await;
        let (a_side, b_side, via) = (&a.app.homeserver, &b.app.homeserver, [a.name.clone()]);
        assert!(b_side.knock(&bob, &room_id, &via, object("{}")).await.is_err(), "nobody may, yet");
        if !version.rules().knock_join_rule {
            continue;
        }
        a.set(&room_id, &alice, "m.room.join_rules", r#"{"join_rule":"knock"}"#).await;
        let since = b.sync(&bob, None).await.1;
        b_side.knock(&bob, &room_id, &via, object(r#"{"reason":"please"}"#)).await.unwrap();
        assert_eq!(a.membership(&room_id, &bob).await, Some(Membership::Knock), "version {version}");
        let (news, since) = b.sync(&bob, Some(since)).await;
        assert!(news.knocked[&room_id].iter().any(|event| event.json["content"]["name"] == "a room"));

        b_side.leave(&bob, &room_id, object("{}")).await.unwrap();
        assert_eq!(a.membership(&room_id, &bob).await, Some(Membership::Leave), "version {version}");
        let (news, since) = b.sync(&bob, Some(since)).await;
        assert!(news.left.contains_key(&room_id) && b.sync(&bob, None).await.0.knocked.is_empty());

        b_side.knock(&bob, &room_id, &via, object("{}")).await.unwrap();
        a_side.invite(&alice, &room_id, &bob, object("{}")).await.unwrap();
        let (news, _) = b.sync(&bob, Some(since)).await;
        assert!(news.invited.contains_key(&room_id) && news.knocked.is_empty(), "version {version}");
        b_side.join(&bob, &room_id, &via, object("{}")).await.unwrap();
        assert_eq!(b.state(&room_id, &bob).await, a.state(&room_id, &alice).await);
    }
}
