//! Servers that are stopped or killed for a while: nothing that was acknowledged is lost.

use std::thread;

use serde_json::json;

use crate::{
    homeserver::Homeserver,
    user::User,
    world::{World, same_history, same_state},
};

/// A room of a version with a user of each server, who may both do everything.
fn shared_room(version: &str, near: &Homeserver, far: &Homeserver) -> (User, User, String) {
    let (alice, bob) = (User::register(near), User::register(far));
    let room = alice.create_public(version);
    bob.join(&room, near);
    alice.until_member(&room, &bob, "join");
    bob.until_event(&room, &alice.set_power(&room, &[(&bob, 100)]));
    (alice, bob, room)
}

fn say(user: &User, room: &str, what: &str, times: usize) -> Vec<String> {
    (0..times).map(|number| user.send(room, &format!("{what} {number}"))).collect()
}

pub(crate) fn a_server_that_was_stopped_gets_what_it_missed(world: &World) {
    let rooms = [("6", &world.ravel, &world.peer), ("12", &world.peer, &world.ravel)]
        .map(|(version, near, far)| shared_room(version, near, far));
    world.peer.stop();
    let mut missed = Vec::new();
    for (alice, bob, room) in &rooms {
        let ours = if alice.id.ends_with(&world.ravel.name) { alice } else { bob };
        // More than one transaction takes.
        missed.push(say(ours, room, "missed", 70));
        ours.set(room, "m.room.topic", "", &json!({ "topic": "set meanwhile" }));
    }
    world.peer.start();
    for ((alice, bob, room), missed) in rooms.iter().zip(missed) {
        let theirs = if alice.id.ends_with(&world.ravel.name) { bob } else { alice };
        for event in missed {
            theirs.until_event(room, &event);
        }
        same_state(room, alice, bob);
        same_history(room, alice, bob);
        let (first, second) = (alice.send(room, "after"), bob.send(room, "after"));
        bob.until_event(room, &first);
        alice.until_event(room, &second);
    }
}

pub(crate) fn a_ravel_that_was_killed_gets_what_it_missed(world: &World) {
    let rooms = [("6", &world.ravel, &world.peer), ("12", &world.peer, &world.ravel)]
        .map(|(version, near, far)| shared_room(version, near, far));
    // Acknowledged, and not delivered yet.
    world.cut();
    let mut waiting = Vec::new();
    for (alice, bob, room) in &rooms {
        let (ours, theirs) = if alice.id.ends_with(&world.ravel.name) { (alice, bob) } else { (bob, alice) };
        waiting.push((ours, theirs, room, say(ours, room, "not delivered", 20)));
    }
    world.ravel.kill();
    world.heal();
    let missed: Vec<_> = waiting.iter().map(|(_, theirs, room, _)| say(theirs, room, "missed", 70)).collect();
    world.ravel.start();
    for ((ours, theirs, room, waiting), missed) in waiting.into_iter().zip(missed) {
        for event in missed {
            ours.until_event(room, &event);
        }
        for event in waiting {
            theirs.until_event(room, &event);
        }
        same_state(room, ours, theirs);
        same_history(room, ours, theirs);
    }
}

pub(crate) fn a_ravel_that_is_killed_at_work_loses_nothing(world: &World) {
    let (alice, bob, room) = shared_room("11", &world.ravel, &world.peer);
    for round in 0..3 {
        let (theirs, ours) = thread::scope(|scope| {
            let theirs = scope.spawn(|| say(&bob, &room, &format!("round {round} there"), 40));
            let ours = say(&alice, &room, &format!("round {round} here"), 20);
            world.ravel.kill();
            (theirs.join().unwrap(), ours)
        });
        world.ravel.start();
        for event in theirs {
            alice.until_event(&room, &event);
        }
        for event in ours {
            bob.until_event(&room, &event);
        }
    }
    same_state(&room, &alice, &bob);
    same_history(&room, &alice, &bob);
}
