//! Invites.

use ravel_core::{
    canonical_json::CanonicalJsonValue,
    event::Membership,
    id::{EventId, RoomId, UserId},
    room_version::RoomVersion,
};
use ravel_homeserver::{
    joining::ResidentError,
    rooms::{CreateRoom, Preset},
};
use serde_json::{Value, json, value::RawValue};

use super::world::{Server, World, made, object, wanted};

#[tokio::test]
async fn invites_of_every_version_are_turned_down_or_taken() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    for version in RoomVersion::ALL {
        let room_id = a.room(&alice, version, Preset::PrivateChat).await;
        let (a_side, b_side) = (&a.app.homeserver, &b.app.homeserver);
        let refused = b_side.join(&bob, &room_id, std::slice::from_ref(&a.name), object("{}")).await;
        assert!(refused.is_err(), "version {version}");

        let since = b.sync(&bob, None).await.1;
        a_side.invite(&alice, &room_id, &bob, object(r#"{"reason":"come"}"#)).await.unwrap();
        assert_eq!(a.membership(&room_id, &bob).await, Some(Membership::Invite));
        let (news, since) = b.sync(&bob, Some(since)).await;
        let events = &news.invited[&room_id];
        let about = |event_type: &str| events.iter().find(|event| event.json["type"] == event_type).unwrap();
        assert_eq!(about("m.room.name").json["content"]["name"], "a room", "version {version}");
        assert_eq!(about("m.room.member").json["state_key"], alice.as_str(), "who invites");
        assert_eq!(events.last().unwrap().json["content"]["reason"], "come");
        assert!(b.sync(&bob, None).await.0.invited.contains_key(&room_id));

        b_side.leave(&bob, &room_id, object("{}")).await.unwrap();
        assert_eq!(a.membership(&room_id, &bob).await, Some(Membership::Leave), "version {version}");
        let (news, since) = b.sync(&bob, Some(since)).await;
        assert_eq!(news.left[&room_id].timeline[0].json["content"]["membership"], "leave");
        assert!(news.invited.is_empty() && b.sync(&bob, None).await.0.invited.is_empty());
        b_side.leave(&bob, &room_id, object("{}")).await.unwrap();

        a_side.invite(&alice, &room_id, &bob, object("{}")).await.unwrap();
        // The invite tells where to ask.
        b_side.join(&bob, &room_id, &[], object("{}")).await.unwrap();
        let (news, _) = b.sync(&bob, Some(since)).await;
        assert!(news.joined.contains_key(&room_id) && news.invited.is_empty(), "version {version}");
        assert_eq!(b.state(&room_id, &bob).await, a.state(&room_id, &alice).await, "version {version}");
    }
}

#[tokio::test]
async fn whoever_makes_a_room_invites_users_of_other_servers() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob, carol) = (a.user("alice").await, b.user("bob").await, a.user("carol").await);
    let nobody = UserId::parse("@nobody:b.org").unwrap();
    for version in [RoomVersion::V1, RoomVersion::V12] {
        let invite = vec![bob.clone(), nobody.clone(), carol.clone()];
        let wanted = CreateRoom { invite, is_direct: true, ..wanted(version, Preset::TrustedPrivateChat) };
        let room_id = a.app.homeserver.create_room(&alice, wanted).await.unwrap();
        let of = async |user| a.membership(&room_id, user).await;
        let memberships = [of(&bob).await, of(&carol).await, of(&nobody).await];
        assert_eq!(memberships, [Some(Membership::Invite), Some(Membership::Invite), None], "version {version}");
        let (news, _) = b.sync(&bob, None).await;
        assert_eq!(news.invited[&room_id].last().unwrap().json["content"]["is_direct"], true);
    }
}

#[tokio::test]
async fn an_invite_that_is_withdrawn_is_gone() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    for (version, membership) in [(RoomVersion::V1, Membership::Leave), (RoomVersion::V12, Membership::Ban)] {
        let room_id = a.room(&alice, version, Preset::PrivateChat).await;
        a.app.homeserver.invite(&alice, &room_id, &bob, object("{}")).await.unwrap();
        let (news, since) = b.sync(&bob, None).await;
        assert!(news.invited.contains_key(&room_id));
        a.member(&room_id, &alice, &bob, membership).await;
        let left = b.until(async || b.sync(&bob, Some(since)).await.0.left.remove(&room_id)).await;
        assert_eq!(left.timeline[0].json["sender"], alice.as_str());
        assert!(b.sync(&bob, None).await.0.invited.is_empty());
    }
}

#[tokio::test]
async fn an_invite_is_withdrawn_behind_other_events_of_a_room_that_was_left() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob, dave) = (a.user("alice").await, b.user("bob").await, b.user("dave").await);
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
    let server = &b.app.homeserver;
    server.join(&dave, &room_id, std::slice::from_ref(&a.name), object("{}")).await.unwrap();
    server.leave(&dave, &room_id, object("{}")).await.unwrap();
    a.sees(&room_id, &dave, Membership::Leave).await;
    a.app.homeserver.invite(&alice, &room_id, &bob, object("{}")).await.unwrap();
    assert!(b.sync(&bob, None).await.0.invited.contains_key(&room_id));
    world.cut(&b, true);
    a.set(&room_id, &alice, "m.room.topic", r#"{"topic":"new"}"#).await;
    a.member(&room_id, &alice, &bob, Membership::Leave).await;
    let log = ravel_store::log::EventLog::open(a.app.store.clone()).await.unwrap();
    let mut pdus = Vec::new();
    for (event_type, state_key) in [("m.room.topic", ""), ("m.room.member", bob.as_str())] {
        let event = a.app.rooms.state_event(&room_id, &alice, event_type, state_key).await.unwrap();
        let logged = log.logged_event(&room_id, &event.event_id).await.unwrap().unwrap();
        pdus.push(RawValue::from_string(String::from_utf8(logged.json.unwrap().to_vec()).unwrap()).unwrap());
    }
    world.cut(&b, false);
    server.receive_transaction(&a.name, "1", pdus, Vec::new()).await.unwrap();
    assert!(b.sync(&bob, None).await.0.invited.is_empty());
}

#[tokio::test]
async fn sc_090_an_invite_of_a_dead_server_is_turned_down() {
    let world = World::default();
    let store = ravel_store::MemoryStore::new();
    let (a, b) = (world.server("a.org").await, world.server_on("b.org", store.clone()).await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PrivateChat).await;
    a.app.homeserver.invite(&alice, &room_id, &bob, object("{}")).await.unwrap();
    world.cut(&a, true);
    // It is kept over a restart.
    drop(b);
    let b = world.server_on("b.org", store.clone()).await;
    let (news, since) = b.sync(&bob, None).await;
    assert!(news.invited.contains_key(&room_id));
    b.app.homeserver.leave(&bob, &room_id, object(r#"{"reason":"no"}"#)).await.unwrap();
    let (news, since) = b.sync(&bob, Some(since)).await;
    let leave = &news.left[&room_id].timeline[0].json;
    assert_eq!((&leave["sender"], &leave["content"]["reason"]), (&bob.as_str().into(), &"no".into()));
    b.app.rooms.forget(&room_id, &bob).await.unwrap();
    drop(b);
    let b = world.server_on("b.org", store).await;
    assert!(b.sync(&bob, None).await.0.invited.is_empty());
    assert!(b.sync(&bob, Some(since)).await.0.is_empty());
    // Who was never invited can't leave.
    let nowhere = RoomId::parse("!nowhere:a.org").unwrap();
    assert!(b.app.homeserver.leave(&bob, &nowhere, object("{}")).await.is_err());
}

/// An invite of a user of `b` into a room that only `a` says that it is there, with a change.
pub(super) fn forged(
    a: &Server,
    version: RoomVersion,
    change: impl FnOnce(&mut std::collections::BTreeMap<Box<str>, CanonicalJsonValue>),
) -> (EventId, Vec<u8>) {
    let room_id = if version == RoomVersion::V12 { "!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ" } else { "!r:a.org" };
    let event = json!({
        "type": "m.room.member", "room_id": room_id, "sender": "@eve:a.org", "state_key": "@bob:b.org",
        "content": { "membership": "invite" }, "origin_server_ts": 1_700_000_000_000_i64, "depth": 3,
        "prev_events": ["$p"], "auth_events": ["$a"],
    });
    made(a, version, object(&event.to_string()), change)
}

#[tokio::test]
async fn sc_080_sc_082_nothing_but_an_invite_is_signed() {
    let world = World::default();
    let (a, b, c) = (world.server("a.org").await, world.server("b.org").await, world.server("c.org").await);
    let bob = b.user("bob").await;
    let room_id = RoomId::parse("!r:a.org").unwrap();
    let set = |field: &'static str, value: &'static str| {
        move |event: &mut std::collections::BTreeMap<Box<str>, CanonicalJsonValue>| {
            event.insert(field.into(), value.into());
        }
    };
    let version = RoomVersion::V11;
    let invite = async |origin: &Server, room_id: &RoomId, (event_id, pdu): (EventId, Vec<u8>)| {
        b.app.homeserver.receive_invite(&origin.name, room_id, event_id.as_str(), &pdu, version, &[]).await
    };
    for (event, what) in [
        (forged(&a, version, set("type", "m.room.power_levels")), "type"),
        (forged(&a, version, set("state_key", "@bob:c.org")), "somebody else's user"),
        (forged(&a, version, set("state_key", "bob")), "no user"),
        (forged(&a, version, set("sender", "@bob:b.org")), "a sender of ours"),
        (forged(&a, version, set("sender", "@carol:c.org")), "a sender of a third server"),
        (forged(&a, version, set("room_id", "!other:a.org")), "another room"),
        (forged(&a, version, set("state_key", "@nobody:b.org")), "nobody"),
        (
            forged(&a, version, |event| {
                let join = object(r#"{"membership":"join"}"#);
                event.insert("content".into(), join.into());
            }),
            "a join",
        ),
    ] {
        let refused = invite(&a, &room_id, event).await;
        assert!(refused.is_err(), "{what}");
    }
    let (event_id, pdu) = forged(&a, version, |_| {});
    let other_id = EventId::parse("$8yif6p8EqgoSten2BLje9ntKm720NyFLWQv9tn8memc").unwrap();
    assert!(matches!(invite(&a, &room_id, (other_id, pdu.clone())).await, Err(ResidentError::WrongEvent(_))));
    assert!(matches!(invite(&c, &room_id, (event_id.clone(), pdu.clone())).await, Err(ResidentError::ForeignUser)));
    // Changed on the way: its hash is wrong.
    let mut changed: Value = serde_json::from_slice(&pdu).unwrap();
    changed["content"]["displayname"] = "Bob".into();
    let changed = (event_id.clone(), changed.to_string().into_bytes());
    assert!(matches!(invite(&a, &room_id, changed).await, Err(ResidentError::WrongEvent(_))));
    assert!(b.sync(&bob, None).await.0.invited.is_empty());

    let signed = invite(&a, &room_id, (event_id, pdu)).await.unwrap();
    let signed: Value = serde_json::from_slice(&signed).unwrap();
    assert!(signed["signatures"]["a.org"].is_object() && signed["signatures"]["b.org"].is_object());
    assert!(b.sync(&bob, None).await.0.invited.contains_key(&room_id));
}

#[tokio::test]
async fn sc_020_sc_080_the_create_event_with_an_invite_is_that_of_the_room() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    b.user("bob").await;
    let (event_id, pdu) = forged(&a, RoomVersion::V12, |_| {});
    let invite = async |state: Vec<Value>, version: RoomVersion, room_id: &str, pdu: &(EventId, Vec<u8>)| {
        let raw = |event: Value| serde_json::value::to_raw_value(&event).unwrap();
        let state: Vec<Box<RawValue>> = state.into_iter().map(raw).collect();
        let room_id = RoomId::parse(room_id).unwrap();
        b.app.homeserver.receive_invite(&a.name, &room_id, pdu.0.as_str(), &pdu.1, version, &state).await
    };
    let twelve = "!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ";
    let pdu = (event_id, pdu);
    let missing = invite(Vec::new(), RoomVersion::V12, twelve, &pdu).await;
    assert!(matches!(missing, Err(ResidentError::NoCreateEvent)), "{missing:?}");
    let create = |version: &str| {
        json!({
            "type": "m.room.create", "state_key": "", "sender": "@eve:a.org", "content": { "room_version": version },
            "origin_server_ts": 1, "depth": 1, "prev_events": [], "auth_events": [],
        })
    };
    let of_another = made(&a, RoomVersion::V12, object(&create("12").to_string()), |_| {}).1;
    let of_another: Value = serde_json::from_slice(&of_another).unwrap();
    let refused = invite(vec![of_another], RoomVersion::V12, twelve, &pdu).await;
    assert!(matches!(refused, Err(ResidentError::WrongEvent(_))), "{refused:?}");
    // All of it is of the room, in full and signed.
    let (create_id, signed) = made(&a, RoomVersion::V12, object(&create("12").to_string()), |_| {});
    let room_id = create_id.as_str().replace('$', "!");
    let signed: Value = serde_json::from_slice(&signed).unwrap();
    let mut name = create("12");
    (name["type"], name["content"], name["room_id"]) =
        (json!("m.room.name"), json!({ "name": "Bank" }), json!(room_id));
    let stripped =
        json!({ "type": "m.room.name", "state_key": "", "sender": "@eve:a.org", "content": name["content"] });
    let name: Value = serde_json::from_slice(&made(&a, RoomVersion::V12, object(&name.to_string()), |_| {}).1).unwrap();
    let (mut changed, mut unsigned) = (name.clone(), signed.clone());
    changed["content"]["name"] = "Bank support".into();
    unsigned["signatures"] = json!({});
    let twelve = forged(&a, RoomVersion::V12, |event| {
        event.insert("room_id".into(), room_id.as_str().into());
    });
    for state in [vec![signed.clone(), stripped], vec![signed.clone(), changed], vec![unsigned]] {
        let refused = invite(state, RoomVersion::V12, &room_id, &twelve).await;
        assert!(matches!(refused, Err(ResidentError::WrongEvent(_))), "{refused:?}");
    }
    invite(vec![signed, name], RoomVersion::V12, &room_id, &twelve).await.unwrap();
    let eleven = forged(&a, RoomVersion::V11, |_| {});
    let refused = invite(vec![create("10")], RoomVersion::V11, "!r:a.org", &eleven).await;
    assert!(matches!(refused, Err(ResidentError::WrongEvent(_))), "{refused:?}");
    invite(vec![create("11")], RoomVersion::V11, "!r:a.org", &eleven).await.unwrap();
}

#[tokio::test]
async fn sc_052_an_invite_of_who_is_banned_is_not_signed() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, dave, bob) = (a.user("alice").await, b.user("dave").await, b.user("bob").await);
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
    let server = &b.app.homeserver;
    server.join(&dave, &room_id, std::slice::from_ref(&a.name), object("{}")).await.unwrap();
    a.member(&room_id, &alice, &bob, Membership::Ban).await;
    b.sees(&room_id, &bob, Membership::Ban).await;
    let (event_id, pdu) = forged(&a, RoomVersion::V11, |event| {
        event.insert("room_id".into(), room_id.as_str().into());
    });
    let refused = server.receive_invite(&a.name, &room_id, event_id.as_str(), &pdu, RoomVersion::V11, &[]).await;
    assert!(matches!(refused, Err(ResidentError::Banned)), "{refused:?}");
}

#[tokio::test]
async fn sc_087_what_comes_with_an_invite_is_pruned() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let bob = b.user("bob").await;
    let (event_id, pdu) = forged(&a, RoomVersion::V11, |_| {});
    let event =
        |content: Value| json!({ "type": "m.room.name", "state_key": "", "sender": "@eve:a.org", "content": content });
    let mut state = vec![
        json!(7),
        json!({ "type": 7, "state_key": "", "sender": "@eve:a.org", "content": {} }),
        json!({ "type": "m.room.message", "sender": "@eve:a.org", "content": {} }),
        event(json!("name")),
        event(json!({ "name": "x".repeat(1 << 20) })),
        event(json!({ "name": "fine", "odd": [1, null] })),
    ];
    state[5]["unsigned"] = json!({ "age": 1 });
    state.extend((0..10_000).map(|number| event(json!({ "name": number }))));
    let state: Vec<Box<RawValue>> =
        state.into_iter().map(|event| serde_json::value::to_raw_value(&event).unwrap()).collect();
    let room_id = RoomId::parse("!r:a.org").unwrap();
    let (server, version) = (&b.app.homeserver, RoomVersion::V11);
    server.receive_invite(&a.name, &room_id, event_id.as_str(), &pdu, version, &state).await.unwrap();
    let (news, since) = b.sync(&bob, None).await;
    let events = &news.invited[&room_id];
    assert_eq!(events.len(), 31);
    assert_eq!(events[0].json["content"]["name"], "fine");
    assert!(!events[0].json.contains_key("unsigned"));
    server.leave(&bob, &room_id, object("{}")).await.unwrap();
    assert!(b.sync(&bob, Some(since)).await.0.left.contains_key(&room_id));
}

#[tokio::test]
async fn sc_088_what_describes_a_room_is_bounded() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let (alice, bob) = (a.user("alice").await, b.user("bob").await);
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PrivateChat).await;
    let long = "x".repeat(60_000);
    a.set(&room_id, &alice, "m.room.name", &format!(r#"{{"name":"{long}"}}"#)).await;
    a.set(&room_id, &alice, "m.room.topic", &format!(r#"{{"topic":"{long}"}}"#)).await;
    a.set(&room_id, &alice, "m.room.avatar", &format!(r#"{{"url":"{long}"}}"#)).await;
    a.app.homeserver.invite(&alice, &room_id, &bob, object("{}")).await.unwrap();
    let (news, _) = b.sync(&bob, None).await;
    let bytes: usize =
        news.invited[&room_id].iter().map(|event| Value::from(event.json.clone()).to_string().len()).sum();
    assert!(bytes < 100_000, "{bytes}");
    assert!(news.invited[&room_id].iter().any(|event| event.json["type"] == "m.room.create"));
}

#[tokio::test]
async fn an_invite_that_the_other_server_refuses_is_none() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let alice = a.user("alice").await;
    let room_id = a.room(&alice, RoomVersion::V10, Preset::PrivateChat).await;
    let nobody = ravel_core::id::UserId::parse("@nobody:b.org").unwrap();
    assert!(a.app.homeserver.invite(&alice, &room_id, &nobody, object("{}")).await.is_err());
    let bob = b.user("bob").await;
    world.cut(&b, true);
    assert!(a.app.homeserver.invite(&alice, &room_id, &bob, object("{}")).await.is_err());
    world.cut(&b, false);
    // An answer that is not signed, or is another event.
    world.tamper(|_, path, answer| {
        if path.contains("/invite/") {
            super::world::change_json(answer, |json| {
                json["event"]["signatures"].as_object_mut().unwrap().remove("b.org");
            });
        }
    });
    assert!(a.app.homeserver.invite(&alice, &room_id, &bob, object("{}")).await.is_err());
    world.tamper(|_, path, answer| {
        if path.contains("/invite/") {
            super::world::change_json(answer, |json| json["event"]["content"]["membership"] = "join".into());
        }
    });
    assert!(a.app.homeserver.invite(&alice, &room_id, &bob, object("{}")).await.is_err());
    assert_eq!((a.membership(&room_id, &bob).await, a.membership(&room_id, &nobody).await), (None, None));
}

#[tokio::test]
async fn sc_144_the_list_of_a_room_that_was_left_shuts_nobody_out() {
    let world = World::default();
    let (a, b, c) = (world.server("a.org").await, world.server("b.org").await, world.server("c.org").await);
    let (alice, bob, carol) = (a.user("alice").await, b.user("bob").await, c.user("carol").await);
    let room_id = a.room(&alice, RoomVersion::V11, Preset::PublicChat).await;
    let via = [a.name.clone()];
    c.app.homeserver.join(&carol, &room_id, &via, object("{}")).await.unwrap();
    a.set(&room_id, &alice, "m.room.power_levels", r#"{"users":{"@alice:a.org":100},"invite":0}"#).await;
    a.set(&room_id, &alice, "m.room.server_acl", r#"{"allow":["*"],"deny":["c.org"]}"#).await;
    b.app.homeserver.join(&bob, &room_id, &via, object("{}")).await.unwrap();
    b.app.homeserver.leave(&bob, &room_id, object("{}")).await.unwrap();
    a.sees(&room_id, &bob, Membership::Leave).await;
    a.set(&room_id, &alice, "m.room.server_acl", r#"{"allow":["*"]}"#).await;
    let topic = |server: Server, user: ravel_core::id::UserId| {
        let room_id = room_id.clone();
        async move { server.app.rooms.state_event(&room_id, &user, "m.room.server_acl", "").await.ok() }
    };
    c.until(async || topic(c.clone(), carol.clone()).await.filter(|acl| acl.json["content"].get("deny").is_none()))
        .await;
    c.app.homeserver.invite(&carol, &room_id, &bob, object("{}")).await.unwrap();
    assert!(b.sync(&bob, None).await.0.invited.contains_key(&room_id));
}

#[tokio::test]
async fn sc_214_a_user_can_have_so_many_invites() {
    let world = World::default();
    let (a, b) = (world.server("a.org").await, world.server("b.org").await);
    let bob = b.user("bob").await;
    let invite = async |number: usize| {
        let room_id = format!("!r{number}:a.org");
        let (event_id, pdu) = forged(&a, RoomVersion::V11, |event| {
            event.insert("room_id".into(), room_id.as_str().into());
        });
        let room_id = RoomId::parse(&room_id).unwrap();
        let server = &b.app.homeserver;
        server.receive_invite(&a.name, &room_id, event_id.as_str(), &pdu, RoomVersion::V11, &[]).await
    };
    for number in 0..500 {
        invite(number).await.unwrap();
    }
    assert!(matches!(invite(500).await, Err(ResidentError::TooManyInvites)));
    b.app.homeserver.leave(&bob, &RoomId::parse("!r0:a.org").unwrap(), object("{}")).await.unwrap();
    invite(500).await.unwrap();
}
