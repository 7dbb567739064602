//! Joins, and what whoever has joined finds.

use serde_json::json;

use crate::{
    VERSIONS,
    user::{User, refused},
    world::{World, same_history, same_state},
};

pub(crate) fn rooms_of_every_version_are_joined_from_either_side(world: &World) {
    world.for_each(&VERSIONS, |version, near, far| {
        let (alice, bob) = (User::register(near), User::register(far));
        let room = alice.create_public(version);
        let create = alice.state(&room)[&("m.room.create".to_owned(), String::new())].clone();
        assert_eq!(create["content"]["room_version"].as_str().unwrap_or("1"), version);
        bob.join(&room, near);
        alice.until_member(&room, &bob, "join");
        bob.until_member(&room, &bob, "join");
        // Each hears what the other says.
        for (speaker, listener) in [(&alice, &bob), (&bob, &alice), (&alice, &bob)] {
            let said = speaker.send(&room, "hello");
            listener.until_event(&room, &said);
        }
        let topic = alice.set(&room, "m.room.topic", "", &json!({ "topic": "interop" }));
        bob.until_event(&room, &topic);
        same_state(&room, &alice, &bob);
        same_history(&room, &alice, &bob);
        bob.leave(&room);
        alice.until_member(&room, &bob, "leave");
        bob.join(&room, near);
        alice.until_member(&room, &bob, "join");
        same_state(&room, &alice, &bob);
    });
}

pub(crate) fn history_from_before_a_join_is_found(world: &World) {
    world.for_each(&["1", "11"], |version, near, far| {
        let (alice, bob) = (User::register(near), User::register(far));
        let room = alice.create_public(version);
        let said: Vec<_> = (0..120).map(|number| alice.send(&room, &format!("message {number}"))).collect();
        bob.join(&room, near);
        bob.until_member(&room, &bob, "join");
        same_history(&room, &alice, &bob);
        let found = bob.history(&room);
        let found: Vec<_> = found.iter().rev().filter(|event| event["type"] == "m.room.message").collect();
        let ids: Vec<_> = found.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
        assert_eq!(ids, said, "in order");
    });
}

pub(crate) fn restricted_rooms_let_in_who_is_in_another_room(world: &World) {
    world.for_each(&["8", "9", "10", "11", "12"], |version, near, far| {
        let (alice, bob, eve) = (User::register(near), User::register(far), User::register(far));
        let space = alice.create_public(version);
        let allow = json!([{ "type": "m.room_membership", "room_id": space }]);
        let rules = json!({ "join_rule": "restricted", "allow": allow });
        let state = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rules }]);
        let room = alice.create(&json!({ "preset": "private_chat", "room_version": version, "initial_state": state }));
        refused(&bob.try_join(&room, near));
        bob.join(&space, near);
        bob.join(&room, near);
        alice.until_member(&room, &bob, "join");
        let member = bob.state(&room)[&("m.room.member".to_owned(), bob.id.clone())].clone();
        assert_eq!(member["content"]["join_authorised_via_users_server"], json!(alice.id));
        refused(&eve.try_join(&room, near));
        // By now bob's server is in the room, where nobody may invite but alice.
        eve.join(&space, near);
        eve.join(&room, near);
        alice.until_member(&room, &eve, "join");
        same_state(&room, &alice, &bob);
    });
}
