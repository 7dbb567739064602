//! In which rooms users of this server are.

use std::collections::{BTreeMap, BTreeSet};

use ravel_core::{
    event::{Membership, StateKey, event_type},
    id::{RoomId, ServerName, UserId},
    room::Room,
};

/// The memberships of the users of a server in the current states of its rooms.
#[derive(Debug)]
pub(super) struct LocalMembers {
    server_name: ServerName,
    users: BTreeMap<UserId, LocalUser>,
    members_of: BTreeMap<RoomId, BTreeSet<UserId>>,
}

#[derive(Debug, Default)]
struct LocalUser {
    rooms: BTreeMap<RoomId, Membership>,
    /// All that is new in these rooms comes before this place in the log.
    news_until: u64,
}

impl LocalMembers {
    pub(super) fn new(server_name: ServerName) -> Self {
        Self { server_name, users: BTreeMap::new(), members_of: BTreeMap::new() }
    }

    /// Takes note of a room that was there already. Costs what its state holds.
    pub(super) fn load(&mut self, room: &Room, length: u64) {
        let keys: Vec<StateKey> = room.current_state().iter().map(|(key, _)| key).collect();
        self.change(room, &keys, length);
    }

    /// Takes note of new events of a room, which changed its current state at some keys; `length` is that of the log with them.
    /// Costs what changed, and the members of this server.
    pub(super) fn change(&mut self, room: &Room, changed: &[StateKey], length: u64) {
        for key in changed.iter().filter(|key| *key.event_type == *event_type::MEMBER) {
            let user = UserId::parse(&key.state_key).ok();
            let Some(user) = user.filter(|user| user.server_name() == self.server_name.as_str()) else { continue };
            let member = room.current_state().get(event_type::MEMBER, user.as_str());
            let membership = member.and_then(|event_id| room.event(&event_id)?.membership());
            let rooms = &mut self.users.entry(user.clone()).or_default().rooms;
            match membership {
                Some(membership) => rooms.insert(room.room_id().clone(), membership),
                None => rooms.remove(room.room_id()),
            };
            self.members_of.entry(room.room_id().clone()).or_default().insert(user);
        }
        for user in self.members_of.get(room.room_id()).into_iter().flatten() {
            if let Some(user) = self.users.get_mut(user) {
                user.news_until = length;
            }
        }
    }

    /// Returns the rooms that a user has a membership in, sorted by id.
    pub(super) fn rooms_of(&self, user: &UserId) -> Vec<(RoomId, Membership)> {
        let rooms = self.users.get(user).into_iter().flat_map(|user| &user.rooms);
        rooms.map(|(room_id, membership)| (room_id.clone(), *membership)).collect()
    }

    /// Whether something may have happened in a user's rooms from some place in the log on.
    pub(super) fn has_news_from(&self, user: &UserId, from: u64) -> bool {
        self.users.get(user).is_some_and(|user| user.news_until > from)
    }
}
