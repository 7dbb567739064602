//! Invites, knocks, leaves and bans.

use serde_json::{Value, json};

use crate::{
    VERSIONS,
    user::{User, refused},
    world::{World, same_state},
};

fn membership(user: &User, room: &str, of: &User) -> Value {
    user.state(room)[&("m.room.member".to_owned(), of.id.clone())]["content"]["membership"].clone()
}

pub(crate) fn invites_are_accepted_and_rejected(world: &World) {
    world.for_each(&VERSIONS, |version, near, far| {
        let (alice, bob, carol, dan) =
            (User::register(near), User::register(far), User::register(far), User::register(far));
        let room = alice.create(&json!({ "preset": "private_chat", "room_version": version, "name": "a room" }));
        refused(&bob.try_join(&room, near));
        // Into a room that the other server is not in.
        alice.change(&room, "invite", &carol);
        carol.until_room(&room, "invite");
        carol.leave(&room);
        carol.until_room(&room, "leave");
        alice.until_member(&room, &carol, "leave");
        alice.change(&room, "invite", &bob);
        bob.until_room(&room, "invite");
        bob.join(&room, near);
        alice.until_member(&room, &bob, "join");
        // Into a room that it is in.
        alice.change(&room, "invite", &dan);
        dan.until_room(&room, "invite");
        dan.leave(&room);
        alice.until_member(&room, &dan, "leave");
        // And by the one who was invited.
        let erin = User::register(near);
        bob.change(&room, "invite", &erin);
        erin.until_room(&room, "invite");
        erin.join(&room, far);
        bob.until_member(&room, &erin, "join");
        same_state(&room, &alice, &bob);
        same_state(&room, &erin, &bob);
    });
}

pub(crate) fn an_invite_is_withdrawn(world: &World) {
    world.for_each(&["6", "12"], |version, near, far| {
        let (alice, bob) = (User::register(near), User::register(far));
        let room = alice.create(&json!({ "preset": "private_chat", "room_version": version }));
        alice.change(&room, "invite", &bob);
        bob.until_room(&room, "invite");
        alice.change(&room, "kick", &bob);
        bob.until_room(&room, "leave");
        refused(&bob.try_join(&room, near));
    });
}

pub(crate) fn knocks_are_accepted_refused_and_withdrawn(world: &World) {
    world.for_each(&["7", "8", "9", "10", "11", "12"], |version, near, far| {
        let (alice, bob, carol, dan) =
            (User::register(near), User::register(far), User::register(far), User::register(far));
        let rules = json!([{ "type": "m.room.join_rules", "state_key": "", "content": { "join_rule": "knock" } }]);
        let room = alice.create(&json!({ "preset": "private_chat", "room_version": version, "initial_state": rules }));
        for user in [&bob, &carol, &dan] {
            user.knock(&room, near);
            user.until_room(&room, "knock");
            alice.until_member(&room, user, "knock");
        }
        // Synapse tells nothing of that to a server that is not in the room.
        alice.change(&room, "kick", &carol);
        dan.leave(&room);
        dan.until_room(&room, "leave");
        // Synapse withdraws a knock for itself alone.
        let told = !world.is_synapse(far);
        if told {
            alice.until_member(&room, &dan, "leave");
        }
        alice.change(&room, "invite", &bob);
        bob.until_room(&room, "invite");
        bob.join(&room, near);
        alice.until_member(&room, &bob, "join");
        same_state(&room, &alice, &bob);
        assert_eq!(membership(&bob, &room, &carol), "leave");
        assert_eq!(membership(&bob, &room, &dan), if told { "leave" } else { "knock" });
    });
}

pub(crate) fn who_is_banned_stays_out(world: &World) {
    world.for_each(&VERSIONS, |version, near, far| {
        let (alice, bob, carol) = (User::register(near), User::register(far), User::register(far));
        let room = alice.create_public(version);
        for user in [&bob, &carol] {
            user.join(&room, near);
            // A first sync would not tell of a room that the user is not in any more.
            user.until_room(&room, "join");
            alice.until_member(&room, user, "join");
        }
        alice.change(&room, "ban", &bob);
        carol.until_member(&room, &bob, "ban");
        bob.until_room(&room, "leave");
        refused(&bob.try_join(&room, near));
        refused(&bob.try_set(&room, "interop.test", "", &json!({})));
        alice.change(&room, "kick", &carol);
        carol.until_room(&room, "leave");
        carol.join(&room, near);
        alice.until_member(&room, &carol, "join");
        alice.change(&room, "unban", &bob);
        carol.until_member(&room, &bob, "leave");
        bob.join(&room, near);
        alice.until_member(&room, &bob, "join");
        same_state(&room, &alice, &bob);
        same_state(&room, &alice, &carol);
    });
}
