//! Which servers are in a room.

use std::collections::BTreeMap;

use ravel_core::{
    event::{Membership, StateKey, event_type},
    id::{ServerName, UserId},
    room::Room,
    state::{State, StateMap},
};

/// How many users of each server have joined a room, by its current state.
#[derive(Debug, Default)]
pub(super) struct JoinedServers(BTreeMap<ServerName, usize>);

impl JoinedServers {
    /// Costs what the state holds.
    pub(super) fn of(room: &Room) -> Self {
        let mut servers = Self::default();
        let state = room.current_state();
        for user in state.iter().filter(|(key, _)| *key.event_type == *event_type::MEMBER).map(|(key, _)| key.state_key)
        {
            servers.count(server_of_joined(room, state, &user), true);
        }
        servers
    }

    /// Takes note of changes of the current state at some keys. Costs what changed.
    pub(super) fn change(&mut self, room: &Room, before: &StateMap, changed: &[StateKey]) {
        for user in changed.iter().filter(|key| *key.event_type == *event_type::MEMBER).map(|key| &key.state_key) {
            self.count(server_of_joined(room, room.current_state(), user), true);
            self.count(server_of_joined(room, room.state(before), user), false);
        }
    }

    /// Returns how many users are in the room.
    pub(super) fn users(&self) -> usize {
        self.0.values().sum()
    }

    /// Whether a user of the server is in the room.
    pub(super) fn has(&self, server: &ServerName) -> bool {
        self.0.contains_key(server)
    }

    /// Returns the servers, sorted.
    pub(super) fn names(&self) -> impl Iterator<Item = ServerName> {
        self.0.keys().cloned()
    }

    fn count(&mut self, server: Option<ServerName>, joins: bool) {
        let Some(server) = server else { return };
        let users = self.0.entry(server.clone()).or_default();
        *users = if joins { users.saturating_add(1) } else { users.saturating_sub(1) };
        if *users == 0 {
            self.0.remove(&server);
        }
    }
}

/// Returns the server of a user who has joined.
fn server_of_joined(room: &Room, state: State<'_>, user: &str) -> Option<ServerName> {
    let member = state.get(event_type::MEMBER, user)?;
    let has_joined = room.event(&member)?.membership() == Some(Membership::Join);
    let user = UserId::parse(user).ok().filter(|_| has_joined)?;
    ServerName::parse(user.server_name()).ok()
}
