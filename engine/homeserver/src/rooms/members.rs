//! In which rooms users of this server are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ravel_core::{
    event::{Membership, StateKey, event_type},
    id::{EventId, RoomId, ServerName, UserId},
    room::Room,
};

use super::OutsideMembership;

/// The memberships of the users of a server in the current states of its rooms.
#[derive(Debug)]
pub(super) struct LocalMembers {
    server_name: ServerName,
    users: BTreeMap<UserId, LocalUser>,
    members_of: BTreeMap<RoomId, BTreeSet<UserId>>,
    /// The rooms that users forgot, with the member events by which they were out of them.
    ///
    /// Invariant: once all rooms are known, those are in the current states.
    forgotten: HashMap<(UserId, RoomId), EventId>,
    /// What comes before this place in the log may be news to anybody.
    news_before: u64,
}

#[derive(Debug, Default)]
struct LocalUser {
    rooms: BTreeMap<RoomId, Membership>,
    /// Memberships in rooms that this server is not in, or was not when they were set; with the places of their facts in the log.
    outside: BTreeMap<RoomId, (OutsideMembership, u64)>,
    /// All that is new for this user comes before this place in the log.
    news_until: u64,
    /// And its newest facts before this one.
    facts_until: u64,
}

impl LocalMembers {
    /// Makes them for a log of some length, of which no room is known yet.
    pub(super) fn new(
        server_name: ServerName,
        forgotten: HashMap<(UserId, RoomId), EventId>,
        news_before: u64,
    ) -> Self {
        Self { server_name, users: BTreeMap::new(), members_of: BTreeMap::new(), forgotten, news_before }
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
            let place = (user.clone(), room.room_id().clone());
            if self.forgotten.get(&place) != member.as_ref() {
                self.forgotten.remove(&place);
            }
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

    /// Takes note of new facts for a user; `length` is that of the log with them.
    pub(super) fn note_facts(&mut self, user: &UserId, length: u64) {
        let user = self.users.entry(user.clone()).or_default();
        (user.news_until, user.facts_until) = (length, length);
    }

    /// Whether there may be facts for a user from some place in the log on.
    pub(super) fn has_facts_from(&self, user: &UserId, from: u64) -> bool {
        from < self.news_before || self.users.get(user).is_some_and(|user| user.facts_until > from)
    }

    /// Takes note that a user forgot a room in which it has this member event.
    pub(super) fn forget(&mut self, user: &UserId, room_id: &RoomId, member: EventId) {
        self.forgotten.insert((user.clone(), room_id.clone()), member);
    }

    /// Whether a user forgot a room, and was not in it since.
    pub(super) fn has_forgotten(&self, user: &UserId, room_id: &RoomId) -> bool {
        !self.forgotten.is_empty() && self.forgotten.contains_key(&(user.clone(), room_id.clone()))
    }

    /// Sets a user's membership in a room that this server is not in, with the place of its fact; `length` is that of the log with it.
    pub(super) fn set_outside(
        &mut self,
        user: &UserId,
        room_id: &RoomId,
        membership: Option<(OutsideMembership, u64)>,
        length: u64,
    ) {
        let user = self.users.entry(user.clone()).or_default();
        match membership {
            Some(membership) => user.outside.insert(room_id.clone(), membership),
            None => user.outside.remove(room_id),
        };
        user.news_until = length;
    }

    /// Returns a user's membership in a room that this server is not in, with the place of its fact.
    pub(super) fn outside(&self, user: &UserId, room_id: &RoomId) -> Option<(OutsideMembership, u64)> {
        let outside = self.users.get(user)?.outside.get(room_id).copied();
        outside.filter(|_| !self.is_resident(room_id))
    }

    /// Returns a user's memberships in rooms that this server is not in, sorted by id.
    pub(super) fn outside_of(&self, user: &UserId) -> Vec<(RoomId, OutsideMembership, u64)> {
        let all = self.users.get(user).into_iter().flat_map(|user| &user.outside);
        let all = all.filter(|(room_id, _)| !self.is_resident(room_id));
        all.map(|(room_id, (membership, sequence))| (room_id.clone(), *membership, *sequence)).collect()
    }

    /// Returns the users who have a membership in a room from outside, or had one when this server came into it. Costs what all users
    /// are.
    pub(super) fn users_outside(&self, room_id: &RoomId) -> Vec<UserId> {
        self.users.iter().filter(|(_, user)| user.outside.contains_key(room_id)).map(|(id, _)| id.clone()).collect()
    }

    /// Whether a user of this server has joined a room.
    fn is_resident(&self, room_id: &RoomId) -> bool {
        let joined = |user: &UserId| self.users.get(user).and_then(|user| user.rooms.get(room_id));
        let users = self.members_of.get(room_id).into_iter().flatten();
        users.into_iter().any(|user| joined(user) == Some(&Membership::Join))
    }

    /// Returns the rooms that a user has a membership in and did not forget, sorted by id. What is newer from outside is not among them.
    pub(super) fn rooms_of(&self, user: &UserId) -> Vec<(RoomId, Membership)> {
        let rooms = self.users.get(user).into_iter().flat_map(|user| &user.rooms);
        let rooms = rooms.filter(|(room_id, _)| !self.has_forgotten(user, room_id));
        let rooms = rooms.filter(|(room_id, _)| self.outside(user, room_id).is_none());
        rooms.map(|(room_id, membership)| (room_id.clone(), *membership)).collect()
    }

    /// Returns the users of this server who have joined a room, sorted.
    pub(super) fn joined(&self, room_id: &RoomId) -> Vec<UserId> {
        let users = self.members_of.get(room_id).into_iter().flatten();
        let has_joined = |user: &&UserId| {
            let rooms = self.users.get(*user).map(|user| &user.rooms);
            rooms.and_then(|rooms| rooms.get(room_id)) == Some(&Membership::Join)
        };
        users.filter(has_joined).cloned().collect()
    }

    /// Whether something may have happened in a user's rooms, or to its account, from some place in the log on.
    pub(super) fn has_news_from(&self, user: &UserId, from: u64) -> bool {
        from < self.news_before || self.users.get(user).is_some_and(|user| user.news_until > from)
    }
}
