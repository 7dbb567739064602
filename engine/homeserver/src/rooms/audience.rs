//! Which servers an event concerned when it was sent.

use std::collections::BTreeMap;

use ravel_core::{
    event::{Event, Membership, event_type},
    id::{ServerName, UserId},
    room::Room,
};

/// The servers that a room has ever heard of, but for those that only a lost fork had.
pub(super) struct Audience(BTreeMap<ServerName, Users>);

/// The users of a server.
#[derive(Default)]
struct Users {
    /// From this event on, by its number, one of them was in the room ever since.
    there_since: Option<usize>,
    ids: Vec<Box<str>>,
}

impl Audience {
    /// Finds the servers that `is_wanted`. Costs what the room's state holds.
    pub(super) fn of(room: &Room, is_wanted: impl Fn(&str) -> bool) -> Self {
        let mut servers: BTreeMap<ServerName, Users> = BTreeMap::new();
        for (key, member) in room.current_state().iter().filter(|(key, _)| *key.event_type == *event_type::MEMBER) {
            let Ok(user) = UserId::parse(&key.state_key) else { continue };
            let Some(server) = server_of(&user).filter(|server| is_wanted(server.as_str())) else { continue };
            let users = servers.entry(server).or_default();
            users.ids.push(key.state_key.as_ref().into());
            if room.event(&member).and_then(|event| event.membership()) == Some(Membership::Join) {
                let since = room.number_of(&member);
                users.there_since = users.there_since.into_iter().chain(since).min();
            }
        }
        Self(servers)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the servers that were in the room before or after an event, and that of the user whose membership it is; not that of its
    /// sender, who knows it.
    pub(super) fn of_event<'a>(&'a self, room: &'a Room, event: &'a Event) -> impl Iterator<Item = &'a ServerName> {
        let member = server_of_member(event);
        let concerned = self.0.iter().filter(move |(server, users)| {
            !is_of(server, event) && (member.as_ref() == Some(*server) || users.were_in(room, event))
        });
        concerned.map(|(server, _)| server)
    }
}

impl Users {
    fn were_in(&self, room: &Room, event: &Event) -> bool {
        let number = room.number_of(&event.event_id);
        if self.there_since.is_some() && self.there_since < number {
            return true;
        }
        let states = [room.state_before(&event.event_id), room.state_after(&event.event_id)];
        let has_joined = |user: &str| {
            states.iter().flatten().any(|state| {
                let member = state.get(event_type::MEMBER, user).and_then(|member| room.event(&member)?.membership());
                member == Some(Membership::Join)
            })
        };
        self.ids.iter().any(|user| has_joined(user))
    }
}

/// Whether a server has made an event.
pub(super) fn is_of(server: &ServerName, event: &Event) -> bool {
    event.sender.server_name() == server.as_str()
}

/// Returns the server of the user whose membership an event is; not for invites, which it gets before they are part of the room.
pub(super) fn server_of_member(event: &Event) -> Option<ServerName> {
    if event.membership() == Some(Membership::Invite) {
        return None;
    }
    let user = event.state_key.as_deref().filter(|_| *event.event_type == *event_type::MEMBER)?;
    server_of(&UserId::parse(user).ok()?)
}

fn server_of(user: &UserId) -> Option<ServerName> {
    ServerName::parse(user.server_name()).ok()
}
