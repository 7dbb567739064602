//! Servers that lie.

use ravel_core::{event::Membership, id::EventId, room_version::RoomVersion};
use ravel_homeserver::{
    joining::{JoinFailure, MembershipError, ResidentError},
    rooms::Preset,
};
use serde_json::{Value, json};

use super::world::{Server, World, change_json, made, object};

/// Checks that a server with users in no room shows nothing of any.
async fn has_nothing(server: &Server, user: &ravel_core::id::UserId) {
    assert!(server.app.rooms.joined_rooms(user).is_empty());
    assert!(server.sync(user, None).await.0.is_empty());
}

#[tokio::test]
async fn sc_084_an_answer_to_a_join_is_checked() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    type Lie = fn(&mut Value);
    fn without(json: &mut Value, event_type: &str) {
        for field in ["state", "auth_chain"] {
            json[field].as_array_mut().unwrap().retain(|event| event["type"] != event_type);
        }
    }
    let lies: [(&str, Lie); 6] = [
        ("no create event", |json| without(json, "m.room.create")),
        ("no create event in the state", |json| {
            json["state"].as_array_mut().unwrap().retain(|event| event["type"] != "m.room.create");
        }),
        ("another version", |json| {
            let state = json["state"].as_array_mut().unwrap();
            let create = state.iter_mut().find(|event| event["type"] == "m.room.create").unwrap();
            create["content"]["room_version"] = "9".into();
        }),
        ("no auth chain", |json| without(json, "m.room.power_levels")),
        ("members left out", |json| json["members_omitted"] = true.into()),
        ("no lists", |json| *json = json!({ "state": {}, "auth_chain": 7 })),
    ];
    for (what, lie) in lies {
        let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
        world.tamper(move |_, path, answer| {
            if path.contains("send_join") {
                change_json(answer, lie);
            }
        });
        let joined = b.app.homeserver.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await;
        assert!(joined.is_err(), "{what}");
        has_nothing(&b, &bob).await;
        world.be_honest();
        b.app.homeserver.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await.unwrap();
        assert_eq!(b.state(&room_id, &bob).await, a.state(&room_id, &alice).await, "{what}");
        b.app.homeserver.leave(&bob, &room_id, object("{}")).await.unwrap();
    }
}

/// A room is never held without its members: who leaves them out is no help, and somebody else is asked.
#[tokio::test]
async fn sc_070_a_state_without_members_is_neither_asked_for_nor_taken() {
    let world = World::default();
    let (a, b, c) = (world.server("a.org").await, world.server("b.org").await, world.server("c.org").await);
    let (alice, bob, carol) = (a.user("alice").await, b.user("bob").await, c.user("carol").await);
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
    c.app.homeserver.join(&carol, &room_id, std::slice::from_ref(&a.name), object("{}")).await.unwrap();
    world.tamper(|server, path, answer| {
        if server == "a.org" && path.contains("send_join") {
            change_json(answer, |json| {
                let is_kept = |event: &Value| event["type"] != "m.room.member" || event["sender"] == "@alice:a.org";
                json["state"].as_array_mut().unwrap().retain(is_kept);
                json["members_omitted"] = true.into();
                json["servers_in_room"] = json!(["a.org", "c.org"]);
            });
        }
    });
    let refused = b.app.homeserver.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await;
    assert!(matches!(refused, Err(MembershipError::Failed(JoinFailure::Answer(_)))), "{refused:?}");
    has_nothing(&b, &bob).await;
    assert!(!b.app.rooms.is_known(&room_id));
    let via = [a.name.clone(), c.name.clone()];
    b.app.homeserver.join(&bob, &room_id, &via, object("{}")).await.unwrap();
    for user in [&alice, &bob, &carol] {
        assert_eq!(b.membership(&room_id, user).await, Some(Membership::Join));
    }
    assert_eq!((world.asked(&a, "send_join"), world.asked(&c, "send_join")), (3, 1));
    assert_eq!(world.asked(&a, "omit_members=true") + world.asked(&c, "omit_members=true"), 0);
}

#[tokio::test]
async fn sc_001_sc_003_sc_084_forged_events_of_an_answer_are_dropped() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
    a.set(&room_id, &alice, "m.room.topic", r#"{"topic":"true"}"#).await;
    world.tamper(|_, path, answer| {
        if path.contains("send_join") {
            change_json(answer, |json| {
                let state = json["state"].as_array_mut().unwrap();
                let topic = state.iter_mut().find(|event| event["type"] == "m.room.topic").unwrap();
                let mut forged = topic.clone();
                forged["type"] = "m.room.forged".into();
                // An event of b's own user that b never made.
                let mut own = topic.clone();
                own["sender"] = "@bob:b.org".into();
                // Its content does not fit its hash: it is redacted.
                topic["content"]["topic"] = "false".into();
                state.extend([forged, own, json!(7), json!({ "type": "m.room.name" })]);
                json["event"] = json["state"][0].clone();
            });
        }
    });
    b.app.homeserver.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await.unwrap();
    assert_eq!(b.state(&room_id, &bob).await, a.state(&room_id, &alice).await);
    let topic = b.app.rooms.state_event(&room_id, &bob, "m.room.topic", "").await.unwrap();
    assert_eq!(topic.json["content"], json!({}));
}

#[tokio::test]
async fn sc_081_a_template_is_not_trusted() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
    a.app.homeserver.invite(&alice, &room_id, &bob, object("{}")).await.unwrap();
    let lies: [(&str, Value); 7] = [
        ("/event/type", json!("m.room.power_levels")),
        ("/event/sender", json!("@ben:b.org")),
        ("/event/state_key", json!("@alice:a.org")),
        ("/event/room_id", json!("!other:a.org")),
        ("/event/content/membership", json!("ban")),
        ("/event/prev_events", json!({})),
        ("/room_version", json!("odd")),
    ];
    for (pointer, lie) in lies {
        world.tamper(move |_, path, answer| {
            if path.contains("/make_") {
                change_json(answer, |json| *json.pointer_mut(pointer).unwrap() = lie.clone());
            }
        });
        assert!(
            b.app.homeserver.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await.is_err(),
            "{pointer}"
        );
        assert_eq!((world.asked(&a, "send_join"), world.asked(&a, "send_leave")), (0, 0), "{pointer}");
    }
    // Turning an invite down works all the same, without anything signed.
    b.app.homeserver.leave(&bob, &room_id, object("{}")).await.unwrap();
    assert_eq!(world.asked(&a, "send_leave"), 0);
    assert_eq!(a.membership(&room_id, &bob).await, Some(Membership::Invite));
    // What else the template says is left out.
    world.tamper(|_, path, answer| {
        if path.contains("/make_") {
            change_json(answer, |json| {
                json["event"]["content"]["displayname"] = "Mallory".into();
                json["event"]["redacts"] = "$x".into();
                json["event"]["origin_server_ts"] = 1.into();
            });
        }
    });
    b.app.homeserver.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await.unwrap();
    let member = a.app.rooms.state_event(&room_id, &alice, "m.room.member", bob.as_str()).await.unwrap();
    assert_eq!(member.json["content"], json!({ "membership": "join" }));
    assert!(!member.json.contains_key("redacts") && member.json["origin_server_ts"] != 1);
}

#[tokio::test]
async fn sc_001_sc_017_sc_047_sc_082_sc_083_sc_140_only_what_a_request_is_for_is_taken() {
    let world = World::default();
    let (a, b, c) = (world.server("a.org").await, world.server("b.org").await, world.server("c.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    c.user("carol").await;
    let version = RoomVersion::V11;
    let room_id = a.room(&alice, version, Preset::PublicChat).await;
    let other = a.room(&alice, version, Preset::PublicChat).await;
    let (server, origin) = (&a.app.homeserver, b.name.clone());
    let template = server.make_membership(&origin, &room_id, &bob, Membership::Join, None).await.unwrap().event;
    let join = |change: &dyn Fn(&mut ravel_core::canonical_json::CanonicalJsonObject)| {
        made(&b, version, template.clone(), |event| change(event))
    };
    let set = |field: &'static str, value: &'static str| {
        join(&move |event| {
            event.insert(field.into(), value.into());
        })
    };
    for (event_id, pdu) in [
        set("type", "m.room.message"),
        set("state_key", "@ben:b.org"),
        set("sender", "@alice:a.org"),
        set("room_id", other.as_str().to_owned().leak()),
        join(&|event| {
            event.remove("state_key");
        }),
        join(&|event| drop(event.insert("content".into(), object(r#"{"membership":"leave"}"#).into()))),
        join(&|event| drop(event.insert("content".into(), object(r#"{"membership":"ban"}"#).into()))),
        join(&|event| {
            let content = r#"{"membership":"join","join_authorised_via_users_server":"@carol:c.org"}"#;
            event.insert("content".into(), object(content).into());
        }),
    ] {
        let refused = server.send_join(&origin, &room_id, event_id.as_str(), &pdu, false).await;
        assert!(refused.is_err(), "{}", String::from_utf8_lossy(&pdu));
        assert!(server.send_knock(&origin, &room_id, event_id.as_str(), &pdu).await.is_err());
    }
    let (event_id, pdu) = join(&|_| {});
    let wrong = EventId::parse("$8yif6p8EqgoSten2BLje9ntKm720NyFLWQv9tn8memc").unwrap();
    let refused = server.send_join(&origin, &room_id, wrong.as_str(), &pdu, false).await;
    assert!(matches!(refused, Err(ResidentError::WrongEvent(_))), "{refused:?}");
    let refused = server.send_join(&origin, &other, event_id.as_str(), &pdu, false).await;
    assert!(matches!(refused, Err(ResidentError::WrongEvent(_))), "{refused:?}");
    let refused = server.send_leave(&origin, &room_id, event_id.as_str(), &pdu).await;
    assert!(matches!(refused, Err(ResidentError::WrongEvent(_))), "{refused:?}");
    let refused = server.send_join(&c.name, &room_id, event_id.as_str(), &pdu, false).await;
    assert!(matches!(refused, Err(ResidentError::ForeignUser)), "{refused:?}");
    // Signed by somebody else.
    let (forged_id, forged) = made(&c, version, template.clone(), |_| {});
    let refused = server.send_join(&origin, &room_id, forged_id.as_str(), &forged, false).await;
    assert!(matches!(refused, Err(ResidentError::Signature(_))), "{refused:?}");
    assert_eq!(a.membership(&room_id, &bob).await, None);
    server.send_join(&origin, &room_id, event_id.as_str(), &pdu, false).await.unwrap();

    // Users of other servers are nobody's to ask for.
    let refused = server.make_membership(&origin, &room_id, &alice, Membership::Join, None).await;
    assert!(matches!(refused, Err(ResidentError::ForeignUser)), "{refused:?}");

    // Servers that the room shuts out get nothing.
    a.set(&room_id, &alice, "m.room.server_acl", r#"{"allow":["*"],"deny":["c.org"]}"#).await;
    let carol = c.user("carol").await;
    let refused = server.make_membership(&c.name, &room_id, &carol, Membership::Join, None).await;
    assert!(matches!(refused, Err(ResidentError::ServerDenied)), "{refused:?}");
    let refused = server.make_membership(&c.name, &room_id, &bob, Membership::Leave, None).await;
    assert!(matches!(refused, Err(ResidentError::ForeignUser)), "{refused:?}");
    let refused = server.make_membership(&origin, &other, &bob, Membership::Join, Some(&["1"])).await;
    assert!(matches!(refused, Err(ResidentError::IncompatibleRoomVersion(RoomVersion::V11))), "{refused:?}");
    let unknown = ravel_core::id::RoomId::parse("!unknown:a.org").unwrap();
    let refused = server.make_membership(&origin, &unknown, &bob, Membership::Join, None).await;
    assert!(matches!(refused, Err(ResidentError::NotInRoom)), "{refused:?}");
}
