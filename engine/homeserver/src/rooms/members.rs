//! In which rooms users of this server are.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ravel_core::{
    event::{Membership, StateKey, event_type},
    id::{EventId, RoomId, ServerName, UserId},
    room::Room,
    state::Fingerprint,
};

use super::OutsideMembership;

/// The memberships of the users of a server in the current states of its rooms.
#[derive(Debug)]
pub(super) struct LocalMembers {
    server_name: ServerName,
    users: BTreeMap<UserId, LocalUser>,
    rooms: BTreeMap<RoomId, LocalRoom>,
    /// The rooms that users forgot, with the member events by which they were out of them.
    ///
    /// Invariant: once all rooms are known, those are in the current states.
    forgotten: HashMap<(UserId, RoomId), EventId>,
    /// What comes before this place in the log may be news to anybody.
    news_before: u64,
}

/// Returns where the current state of a room has memberships of users of a server. Costs what the state holds.
pub(super) fn local_members(room: &Room, server_name: &ServerName) -> Vec<StateKey> {
    let is_of_server =
        |key: &StateKey| UserId::parse(&key.state_key).is_ok_and(|user| user.server_name() == server_name.as_str());
    let members = room.current_state().iter().map(|(key, _)| key).filter(|key| *key.event_type == *event_type::MEMBER);
    members.filter(is_of_server).collect()
}

/// The membership of a user in the current state of a room, with its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalMember {
    pub(super) membership: Membership,
    pub(super) event_id: EventId,
}

/// What is to be kept of a room.
#[derive(Debug)]
pub(super) struct UnsavedRoom {
    pub(super) room_id: RoomId,
    /// The current state.
    pub(super) state: Fingerprint,
    /// The users whose memberships have changed since that was done last, with what they are.
    pub(super) members: Vec<(UserId, Option<LocalMember>)>,
}

#[derive(Debug)]
struct LocalRoom {
    /// Those who have a membership in it, or had one.
    users: BTreeSet<UserId>,
    /// All that is new in it comes before this place in the log.
    news_until: u64,
    /// The current state.
    state: Fingerprint,
    /// The users whose memberships have changed since they were kept; `None` if the state has not changed since.
    unsaved: Option<BTreeSet<UserId>>,
}

impl LocalRoom {
    fn new(state: Fingerprint) -> Self {
        Self { users: BTreeSet::new(), news_until: 0, state, unsaved: None }
    }
}

#[derive(Debug, Default)]
struct LocalUser {
    rooms: BTreeMap<RoomId, LocalMember>,
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
        Self { server_name, users: BTreeMap::new(), rooms: BTreeMap::new(), forgotten, news_before }
    }

    /// Takes note of new events of a room, which changed its current state at some keys; `length` is that of the log with them.
    /// Costs what changed, and the members of this server.
    pub(super) fn change(&mut self, room: &Room, changed: &[StateKey], length: u64) {
        let (room_id, state) = (room.room_id(), room.current_state());
        let place = self.rooms.entry(room_id.clone()).or_insert_with(|| LocalRoom::new(Fingerprint::of_empty()));
        let fingerprint = state.fingerprint();
        if place.state != fingerprint {
            place.unsaved.get_or_insert_default();
        }
        (place.state, place.news_until) = (fingerprint, length);
        for key in changed.iter().filter(|key| *key.event_type == *event_type::MEMBER) {
            let user = UserId::parse(&key.state_key).ok();
            let Some(user) = user.filter(|user| user.server_name() == self.server_name.as_str()) else { continue };
            let member = state.get(event_type::MEMBER, user.as_str()).and_then(|event_id| {
                let membership = room.event(&event_id)?.membership()?;
                Some(LocalMember { membership, event_id })
            });
            if let Some(place) = self.rooms.get_mut(room_id) {
                place.unsaved.get_or_insert_default().insert(user.clone());
            }
            self.set(room_id, user, member);
        }
        for user in self.rooms.get(room_id).into_iter().flat_map(|room| &room.users) {
            if let Some(user) = self.users.get_mut(user) {
                user.news_until = length;
            }
        }
    }

    /// Takes note of what was kept of a room in its current state.
    pub(super) fn restore(&mut self, room_id: &RoomId, state: Fingerprint, members: Vec<(UserId, LocalMember)>) {
        self.rooms.insert(room_id.clone(), LocalRoom::new(state));
        for (user, member) in members {
            self.set(room_id, user, Some(member));
        }
    }

    /// Sets what a user is in a room that is known.
    fn set(&mut self, room_id: &RoomId, user: UserId, member: Option<LocalMember>) {
        let place = (user.clone(), room_id.clone());
        if self.forgotten.get(&place) != member.as_ref().map(|member| &member.event_id) {
            self.forgotten.remove(&place);
        }
        let rooms = &mut self.users.entry(user.clone()).or_default().rooms;
        match member {
            Some(member) => rooms.insert(room_id.clone(), member),
            None => rooms.remove(room_id),
        };
        if let Some(room) = self.rooms.get_mut(room_id) {
            room.users.insert(user);
        }
    }

    /// Returns what is not kept yet, and counts it as kept. Costs what all rooms are.
    pub(super) fn take_unsaved(&mut self) -> Vec<UnsavedRoom> {
        let mut rooms = Vec::new();
        for (room_id, room) in &mut self.rooms {
            let Some(users) = room.unsaved.take() else { continue };
            let member = |user: UserId| {
                let member = self.users.get(&user).and_then(|user| user.rooms.get(room_id).cloned());
                (user, member)
            };
            let members = users.into_iter().map(member).collect();
            rooms.push(UnsavedRoom { room_id: room_id.clone(), state: room.state, members });
        }
        rooms
    }

    /// Takes note of what could not be kept.
    pub(super) fn put_back(&mut self, rooms: Vec<UnsavedRoom>) {
        for UnsavedRoom { room_id, members, .. } in rooms {
            let Some(room) = self.rooms.get_mut(&room_id) else { continue };
            room.unsaved.get_or_insert_default().extend(members.into_iter().map(|(user, _)| user));
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
        self.users_in(room_id).any(|user| self.has_joined(user, room_id))
    }

    /// Returns the rooms that a user has a membership in and did not forget, sorted by id. What is newer from outside is not among them.
    pub(super) fn rooms_of(&self, user: &UserId) -> Vec<(RoomId, Membership)> {
        let rooms = self.users.get(user).into_iter().flat_map(|user| &user.rooms);
        let rooms = rooms.filter(|(room_id, _)| !self.has_forgotten(user, room_id));
        let rooms = rooms.filter(|(room_id, _)| self.outside(user, room_id).is_none());
        rooms.map(|(room_id, member)| (room_id.clone(), member.membership)).collect()
    }

    /// Returns the users of this server who have joined a room, sorted.
    pub(super) fn joined(&self, room_id: &RoomId) -> Vec<UserId> {
        self.users_in(room_id).filter(|user| self.has_joined(user, room_id)).cloned().collect()
    }

    fn has_joined(&self, user: &UserId, room_id: &RoomId) -> bool {
        let member = self.users.get(user).and_then(|user| user.rooms.get(room_id));
        member.is_some_and(|member| member.membership == Membership::Join)
    }

    fn users_in(&self, room_id: &RoomId) -> impl Iterator<Item = &UserId> {
        self.rooms.get(room_id).into_iter().flat_map(|room| &room.users)
    }

    /// Whether something may have happened in a room from some place in the log on. Only of rooms that users of this server have a
    /// membership in.
    pub(super) fn room_has_news_from(&self, room_id: &RoomId, from: u64) -> bool {
        from < self.news_before || self.rooms.get(room_id).is_some_and(|room| room.news_until > from)
    }

    /// Whether something may have happened in a user's rooms, or to its account, from some place in the log on.
    pub(super) fn has_news_from(&self, user: &UserId, from: u64) -> bool {
        from < self.news_before || self.users.get(user).is_some_and(|user| user.news_until > from)
    }
}
