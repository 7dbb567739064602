//! Aliases, the directory of rooms, and profiles.

use serde_json::{Value, json};

use crate::{
    user::{User, encode, wait_until},
    world::{World, same_state},
};

pub(crate) fn rooms_are_found_by_alias_and_in_the_directory(world: &World) {
    for (near, far) in world.pairs() {
        let (alice, bob) = (User::register(near), User::register(far));
        let wanted = json!({
            "preset": "public_chat", "room_version": "10", "visibility": "public", "room_alias_name": "interop",
        });
        let room = alice.create(&wanted);
        let alias = encode(&format!("#interop:{}", near.name));
        let found = bob.get(&format!("directory/room/{alias}"));
        assert_eq!(found["room_id"], room);
        assert!(found["servers"].as_array().unwrap().contains(&json!(near.name)), "{found}");

        // Synapse lists it a little later.
        wait_until(|| {
            let listed = bob.get(&format!("publicRooms?server={}", encode(&near.name)));
            let found = listed["chunk"].as_array().unwrap().iter().any(|listed| listed["room_id"] == room);
            if found { Ok(()) } else { Err(format!("{room} in {listed}")) }
        });

        bob.ok("POST", &format!("join/{alias}"), &json!({}));
        alice.until_member(&room, &bob, "join");
        same_state(&room, &alice, &bob);
        alice.ok("DELETE", &format!("directory/room/{alias}"), &Value::Null);
        assert_eq!(
            bob.ask("GET", &format!("directory/room/{alias}"), &Value::Null).error(),
            (404, "M_NOT_FOUND".to_owned())
        );
    }
}
