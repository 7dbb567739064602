//! Links that are cut, with changes on both sides that contradict each other, and heal.

use serde_json::json;

use crate::{
    VERSIONS,
    homeserver::Homeserver,
    user::User,
    world::{World, same_state},
};

/// Users of one side.
struct Side {
    admin: User,
    moderator: User,
    member: User,
}

impl Side {
    fn register(server: &Homeserver) -> Self {
        Self { admin: User::register(server), moderator: User::register(server), member: User::register(server) }
    }

    fn all(&self) -> [&User; 3] {
        [&self.admin, &self.moderator, &self.member]
    }
}

/// A room that everybody of both sides is in.
struct Room {
    id: String,
    sides: [Side; 2],
}

impl Room {
    fn new(version: &str, near: &Homeserver, far: &Homeserver) -> Self {
        let [here, there] = [Side::register(near), Side::register(far)];
        let id = here.admin.create_public(version);
        for user in [&here.moderator, &here.member, &there.admin, &there.moderator, &there.member] {
            user.join(&id, near);
            here.admin.until_member(&id, user, "join");
        }
        let powers = [(&there.admin, 100), (&here.moderator, 50), (&there.moderator, 50)];
        let powers = here.admin.set_power(&id, &powers);
        there.admin.until_event(&id, &powers);
        Self { id, sides: [here, there] }
    }

    /// Both sides change the same things differently, and take from each other what the other one's changes rest upon.
    /// Returns what the admins said, which is for both.
    fn contradict(&self) -> Vec<String> {
        let [here, there] = &self.sides;
        let mut said = Vec::new();
        for (side, other) in [(here, there), (there, here)] {
            let who = &side.admin.id;
            side.admin.set(&self.id, "m.room.topic", "", &json!({ "topic": who }));
            side.moderator.set(&self.id, "m.room.name", "", &json!({ "name": who }));
            side.moderator.set(&self.id, "interop.test", &side.moderator.id, &json!({ "only": "here" }));
            said.push(side.admin.send(&self.id, "are you there?"));
            side.member.send(&self.id, "is anybody there?");
            side.admin.change(&self.id, "ban", &other.member);
            // What the moderators did over there meanwhile has lost its ground.
            side.admin.set_power(&self.id, &[(&other.moderator, 0), (&side.member, 25)]);
            side.moderator.change(&self.id, "kick", &side.member);
        }
        here.admin.set(&self.id, "m.room.join_rules", "", &json!({ "join_rule": "invite" }));
        there.admin.set(&self.id, "m.room.history_visibility", "", &json!({ "history_visibility": "joined" }));
        said
    }

    /// The states are the same once both sides have heard from each other.
    fn agree(&self, said: &[String]) {
        let [here, there] = &self.sides;
        for event in said {
            here.admin.until_event(&self.id, event);
            there.admin.until_event(&self.id, event);
        }
        for (speaker, listener) in [(here, there), (there, here), (here, there)] {
            let said = speaker.admin.send(&self.id, "there you are");
            listener.admin.until_event(&self.id, &said);
        }
        same_state(&self.id, &here.admin, &there.admin);
        let state = here.admin.state(&self.id);
        for side in &self.sides {
            for user in side.all() {
                assert!(state.contains_key(&("m.room.member".to_owned(), user.id.clone())), "{}", user.id);
            }
        }
    }
}

/// The algorithms of state resolution are those of versions 1, 2 and 12.
pub(crate) fn both_sides_of_a_cut_link_come_to_the_same_state(world: &World) {
    let rooms: Vec<_> = VERSIONS
        .iter()
        .enumerate()
        .map(|(number, version)| {
            let (near, far) = world.pair(number);
            Room::new(version, near, far)
        })
        .collect();
    world.cut();
    let said: Vec<_> = rooms.iter().map(Room::contradict).collect();
    world.heal();
    for (room, said) in rooms.iter().zip(said) {
        room.agree(&said);
    }
}
