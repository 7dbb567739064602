//! Rooms that are for the members of other rooms.

use http::StatusCode;
use ravel_core::{event::Membership, id::RoomId, room_version::RoomVersion};
use ravel_homeserver::{
    federation::FederationError,
    joining::{JoinFailure, MembershipError, ResidentError},
    rooms::Preset,
};

use super::world::{World, made, object};

fn for_members_of(room_id: &RoomId) -> String {
    let condition = format!(r#"{{"type":"m.room_membership","room_id":"{room_id}"}}"#);
    format!(r#"{{"join_rule":"restricted","allow":[7,{{"type":"m.odd"}},{condition}]}}"#)
}

#[tokio::test]
async fn sc_038_members_of_another_room_join_and_others_do_not() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob, ben) = (a.user("alice").await, b.user("bob").await, b.user("ben").await);
    let anna = a.user("anna").await;
    let via = [a.name.clone()];
    for version in RoomVersion::ALL.into_iter().filter(|version| version.rules().restricted_join_rule) {
        let club = a.room(&alice, version, Preset::PublicChat).await;
        b.app.homeserver.join(&bob, &club, &via, object("{}")).await.unwrap();
        a.app.homeserver.join(&anna, &club, &[], object("{}")).await.unwrap();
        let room_id = a.room(&alice, version, Preset::PrivateChat).await;
        a.set(&room_id, &alice, "m.room.join_rules", &for_members_of(&club)).await;

        let refused = b.app.homeserver.join(&ben, &room_id, &via, object("{}")).await;
        let Err(MembershipError::Failed(JoinFailure::Federation(FederationError::Remote(error)))) = &refused else {
            panic!("version {version}: {refused:?}")
        };
        assert_eq!((error.status, error.errcode.as_deref()), (StatusCode::FORBIDDEN, Some("M_FORBIDDEN")));
        // What a user says about who lets it in does not count.
        let content = object(r#"{"join_authorised_via_users_server":"@eve:b.org"}"#);
        b.app.homeserver.join(&bob, &room_id, &via, content).await.unwrap();
        let state = b.state(&room_id, &bob).await;
        assert_eq!(state, a.state(&room_id, &alice).await, "version {version}");

        // Here, too.
        a.app.homeserver.join(&anna, &room_id, &[], object("{}")).await.unwrap();
        let nora = a.user("nora").await;
        let refused = a.app.homeserver.join(&nora, &room_id, &[], object("{}")).await;
        assert!(matches!(refused, Err(MembershipError::Condition(ResidentError::NoConditionMet))), "{refused:?}");
        a.member(&room_id, &alice, &nora, Membership::Invite).await;
        a.app.homeserver.join(&nora, &room_id, &[], object("{}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_may_not_let_users_in_sends_them_to_another() {
    let world = World::default();
    let (a, b, c) = (world.server("a.org").await, world.server("b.org").await, world.server("c.org").await);
    let (alice, bob, carol) = (a.user("alice").await, b.user("bob").await, c.user("carol").await);
    let via = [a.name.clone()];
    let club = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
    b.app.homeserver.join(&bob, &club, &via, object("{}")).await.unwrap();
    c.app.homeserver.join(&carol, &club, &via, object("{}")).await.unwrap();
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PrivateChat).await;
    a.set(&room_id, &alice, "m.room.join_rules", &for_members_of(&club)).await;
    let levels = r#"{"users":{"@alice:a.org":100},"invite":50}"#;
    a.set(&room_id, &alice, "m.room.power_levels", levels).await;
    b.app.homeserver.join(&bob, &room_id, &via, object("{}")).await.unwrap();

    // Nobody at b may invite; and c's user is not known to be in the club there.
    let versions = Some(&["11"][..]);
    let asked = b.app.homeserver.make_membership(&c.name, &room_id, &carol, Membership::Join, versions).await;
    assert!(matches!(asked, Err(ResidentError::UnableToGrantJoin | ResidentError::NoConditionMet)), "{asked:?}");
    let both = [b.name.clone(), a.name.clone()];
    c.app.homeserver.join(&carol, &room_id, &both, object("{}")).await.unwrap();
    assert_eq!(a.membership(&room_id, &carol).await, Some(Membership::Join));
    // A user of b that is in the club is let in by a, though b is in the room.
    let ben = b.user("ben").await;
    b.app.homeserver.join(&ben, &club, &[], object("{}")).await.unwrap();
    let asked = world.asked(&a, "send_join");
    b.app.homeserver.join(&ben, &room_id, &[], object("{}")).await.unwrap();
    assert_eq!(world.asked(&a, "send_join"), asked + 1);
    assert_eq!(a.membership(&room_id, &ben).await, Some(Membership::Join));
    assert_eq!(b.state(&room_id, &bob).await, a.state(&room_id, &alice).await);
    // A room that the resident does not know.
    let unknown = RoomId::parse("!unknown:d.org").unwrap();
    a.set(&room_id, &alice, "m.room.join_rules", &for_members_of(&unknown)).await;
    let berta = b.user("berta").await;
    let asked = a.app.homeserver.make_membership(&b.name, &room_id, &berta, Membership::Join, versions).await;
    assert!(matches!(asked, Err(ResidentError::UnableToAuthoriseJoin)), "{asked:?}");
    // Nor is anything signed for it that is sent without asking.
    a.set(&room_id, &alice, "m.room.join_rules", r#"{"join_rule":"public"}"#).await;
    let template = a.app.homeserver.make_membership(&b.name, &room_id, &berta, Membership::Join, versions).await;
    a.set(&room_id, &alice, "m.room.join_rules", &for_members_of(&unknown)).await;
    let (event_id, pdu) = made(&b, RoomVersion::V11, template.unwrap().event, |event| {
        let content = r#"{"membership":"join","join_authorised_via_users_server":"@alice:a.org"}"#;
        event.insert("content".into(), object(content).into());
    });
    let sent = a.app.homeserver.send_join(&b.name, &room_id, event_id.as_str(), &pdu, false).await;
    assert!(matches!(sent, Err(ResidentError::UnableToAuthoriseJoin)), "{sent:?}");
}
