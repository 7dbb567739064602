//! In which rooms users of this server are.

use std::collections::{BTreeMap, BTreeSet};

use ravel_core::{
    event::{Membership, event_type},
    id::{RoomId, ServerName, UserId},
    room::Room,
};

/// The memberships of the users of a server in the current states of its rooms.
#[derive(Debug, Default)]
pub(super) struct LocalMembers {
    rooms_of: BTreeMap<UserId, BTreeMap<RoomId, Membership>>,
    members_of: BTreeMap<RoomId, BTreeSet<UserId>>,
}

impl LocalMembers {
    /// Takes note of a room as it is now. O(members of the room).
    pub(super) fn update(&mut self, server_name: &ServerName, room: &Room) {
        let state = room.current_state();
        let mut now: BTreeMap<UserId, Membership> = BTreeMap::new();
        for (key, event_id) in state.iter().filter(|(key, _)| *key.event_type == *event_type::MEMBER) {
            let membership = room.event(&event_id).and_then(|event| event.membership());
            let user = UserId::parse(&key.state_key).ok().filter(|user| user.server_name() == server_name.as_str());
            now.extend(user.zip(membership));
        }
        let before = self.members_of.remove(room.room_id()).unwrap_or_default();
        for user in before.iter().filter(|user| !now.contains_key(*user)) {
            if let Some(rooms) = self.rooms_of.get_mut(user) {
                rooms.remove(room.room_id());
            }
        }
        for (user, membership) in &now {
            self.rooms_of.entry(user.clone()).or_default().insert(room.room_id().clone(), *membership);
        }
        self.members_of.insert(room.room_id().clone(), now.into_keys().collect());
    }

    /// Returns the rooms that a user has a membership in, sorted by id.
    pub(super) fn rooms_of(&self, user: &UserId) -> Vec<(RoomId, Membership)> {
        let rooms = self.rooms_of.get(user).into_iter().flatten();
        rooms.map(|(room_id, membership)| (room_id.clone(), *membership)).collect()
    }
}
