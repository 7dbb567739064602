//! Invites of third-party identifiers.

use ravel_core::{
    canonical_json::CanonicalJsonObject,
    event::Membership,
    id::{RoomId, ServerName, UserId},
    room_version::RoomVersion,
    signing::{encode_base64, sign_json},
};
use ravel_homeserver::{
    joining::{BoundInvite, ResidentError},
    rooms::{Preset, SendEvent},
};

use super::world::{Server, World, key_of, object};

/// Invites somebody by an address of which an identity server knows the token.
async fn invite_address(server: &Server, room_id: &RoomId, sender: &UserId, token: &str) {
    let key = encode_base64(key_of("id.org").verify_key().as_bytes());
    let content = format!(
        r#"{{"display_name":"Bob","key_validity_url":"https://id.org/","public_key":"{key}",
            "public_keys":[{{"public_key":"{key}"}}]}}"#
    );
    let (event_type, state_key) = ("m.room.third_party_invite".to_owned(), Some(token.to_owned()));
    let event = SendEvent { event_type, state_key, content: object(&content), redacts: None };
    server.app.rooms.send(room_id, sender, event).await.unwrap();
}

/// What the identity server hands out once the address is a user's.
fn signed(user: &UserId, token: &str) -> CanonicalJsonObject {
    let mut signed = object(&format!(r#"{{"mxid":"{user}","token":"{token}"}}"#));
    sign_json(&mut signed, &ServerName::parse("id.org").unwrap(), &key_of("id.org")).unwrap();
    signed
}

#[tokio::test]
async fn whoever_an_address_belongs_to_is_invited() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob, anna) = (a.user("alice").await, b.user("bob").await, a.user("anna").await);
    for version in RoomVersion::ALL {
        let room_id = a.room(&alice, version, Preset::PrivateChat).await;
        invite_address(&a, &room_id, &alice, "t1").await;
        invite_address(&a, &room_id, &alice, "t2").await;
        let invite = |target: &UserId, token: &str| BoundInvite {
            room_id: room_id.clone(),
            sender: alice.clone(),
            target: target.clone(),
            signed: signed(target, token),
        };
        // Of a server that is not in the room, and of one that is.
        b.app.homeserver.third_party_bound(&bob, &[invite(&bob, "t1")]).await.unwrap();
        a.app.homeserver.third_party_bound(&anna, &[invite(&anna, "t2")]).await.unwrap();
        assert_eq!(a.membership(&room_id, &bob).await, Some(Membership::Invite), "version {version}");
        assert_eq!(a.membership(&room_id, &anna).await, Some(Membership::Invite), "version {version}");
        let member = a.app.rooms.state_event(&room_id, &alice, "m.room.member", bob.as_str()).await.unwrap();
        assert_eq!(member.json["content"]["third_party_invite"]["display_name"], "Bob");
        assert!(b.sync(&bob, None).await.0.invited.contains_key(&room_id));
        b.app.homeserver.join(&bob, &room_id, &[], object("{}")).await.unwrap();
        assert_eq!(b.state(&room_id, &bob).await, a.state(&room_id, &alice).await, "version {version}");
    }
}

#[tokio::test]
async fn sc_082_an_exchanged_invite_is_checked() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let eve = b.user("eve").await;
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PrivateChat).await;
    invite_address(&a, &room_id, &alice, "t").await;
    let right =
        BoundInvite { room_id: room_id.clone(), sender: alice.clone(), target: bob.clone(), signed: signed(&bob, "t") };
    let mut unsigned = right.signed.clone();
    unsigned.remove("signatures");
    for (wrong, what) in [
        (BoundInvite { target: eve.clone(), ..right.clone() }, "for somebody else"),
        (BoundInvite { sender: eve.clone(), ..right.clone() }, "by somebody else"),
        (BoundInvite { signed: unsigned, ..right.clone() }, "not signed"),
        (BoundInvite { signed: signed(&bob, "other"), ..right.clone() }, "of no invite"),
        (BoundInvite { room_id: RoomId::parse("!other:a.org").unwrap(), ..right.clone() }, "of no room"),
    ] {
        assert!(a.app.homeserver.exchange_third_party_invite(&b.name, &wrong).await.is_err(), "{what}");
    }
    assert_eq!(a.membership(&room_id, &bob).await, None);
    let event = |room_id: &str, event_type: &str, membership: &str| {
        object(&format!(
            r#"{{"type":"{event_type}","room_id":"{room_id}","sender":"{alice}","state_key":"{bob}",
                "content":{{"membership":"{membership}","third_party_invite":{{"signed":{{"token":"t"}}}}}}}}"#
        ))
    };
    let read = |event: CanonicalJsonObject| BoundInvite::of_event(room_id.clone(), &event);
    assert!(read(event(room_id.as_str(), "m.room.member", "invite")).is_ok());
    for wrong in [
        event("!other:a.org", "m.room.member", "invite"),
        event(room_id.as_str(), "m.room.power_levels", "invite"),
        event(room_id.as_str(), "m.room.member", "join"),
        object("{}"),
    ] {
        assert!(matches!(read(wrong), Err(ResidentError::WrongEvent(_))));
    }
    // Only of users that there are, and each for itself.
    let nobody = UserId::parse("@nobody:b.org").unwrap();
    let refused = b.app.homeserver.third_party_bound(&nobody, &[]).await;
    assert!(matches!(refused, Err(ResidentError::UnknownUser)), "{refused:?}");
    b.app.homeserver.third_party_bound(&eve, &[right]).await.unwrap();
    assert_eq!(world.asked(&a, "exchange"), 0);
}
