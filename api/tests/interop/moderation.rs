//! Power levels and redactions.

use serde_json::{Value, json};

use crate::{
    VERSIONS,
    user::{User, refused, wait_until},
    world::{World, same_history, same_state},
};

pub(crate) fn power_is_given_and_used_on_the_other_server(world: &World) {
    world.for_each(&VERSIONS, |version, near, far| {
        let (alice, bob, carol) = (User::register(near), User::register(far), User::register(near));
        let room = alice.create_public(version);
        bob.join(&room, near);
        carol.join(&room, near);
        alice.until_member(&room, &bob, "join");
        bob.until_member(&room, &carol, "join");
        let topic = json!({ "topic": "mine" });
        refused(&bob.try_set(&room, "m.room.topic", "", &topic));
        let powers = alice.set_power(&room, &[(&bob, 100)]);
        bob.until_event(&room, &powers);
        let topic = bob.set(&room, "m.room.topic", "", &topic);
        alice.until_event(&room, &topic);
        bob.change(&room, "kick", &carol);
        alice.until_member(&room, &carol, "leave");
        // Given up again.
        let powers = bob.set_power(&room, &[(&bob, 0)]);
        alice.until_event(&room, &powers);
        refused(&bob.try_set(&room, "m.room.topic", "", &json!({ "topic": "still mine" })));
        same_state(&room, &alice, &bob);
        same_history(&room, &alice, &bob);
    });
}

pub(crate) fn redactions_reach_both_servers(world: &World) {
    world.for_each(&VERSIONS, |version, near, far| {
        let (alice, bob) = (User::register(near), User::register(far));
        let room = alice.create_public(version);
        bob.join(&room, near);
        alice.until_member(&room, &bob, "join");
        // What one said oneself, and what another one said.
        for (speaker, redactor, listener) in [(&alice, &alice, &bob), (&bob, &bob, &alice), (&bob, &alice, &bob)] {
            let said = speaker.send(&room, "a secret");
            for user in [&alice, &bob] {
                user.until_event(&room, &said);
            }
            let redaction = redactor.redact(&room, &said);
            listener.until_event(&room, &redaction);
            for user in [&alice, &bob] {
                wait_until(|| match user.event(&room, &said)["content"] {
                    Value::Object(ref content) if content.is_empty() => Ok(()),
                    ref content => Err(format!("{} sees {said} redacted, not {content}", user.id)),
                });
            }
        }
        same_history(&room, &alice, &bob);
        same_state(&room, &alice, &bob);
    });
}
