//! Rooms for counting, made of decoded events: much larger than rooms written in lines.

use std::sync::Arc;

use crate::{
    event::{
        Content, CreateContent, Event, JoinRule, MemberContent,
        Membership::{self, Ban, Join, Leave},
        PowerLevels, event_type,
    },
    graph::{EventGraph, EventIndex},
    id::{EventId, RoomId, UserId},
    room_version::RoomVersion,
    state::StateMap,
};

/// The creator, who has all power.
pub(super) const ALICE: &str = "@alice:a";

/// Who has nearly all power.
pub(super) const BOB: &str = "@bob:b";

/// A member without power.
pub(super) fn user(number: usize) -> String {
    format!("@user{number}:c")
}

/// What an event is, without whom and where it cites.
#[derive(Clone, Copy)]
pub(super) enum What<'t> {
    Create,
    /// The membership of a user.
    Member(&'t str, Membership),
    Power,
    JoinRules,
    /// Some other state event, with a state key.
    Other(&'t str),
}

impl What<'_> {
    fn event_type(self) -> &'static str {
        match self {
            Self::Create => event_type::CREATE,
            Self::Member(..) => event_type::MEMBER,
            Self::Power => event_type::POWER_LEVELS,
            Self::JoinRules => event_type::JOIN_RULES,
            Self::Other(_) => "org.example",
        }
    }

    fn state_key(self) -> String {
        match self {
            Self::Member(user, _) => user.to_owned(),
            Self::Other(key) => key.to_owned(),
            _ => String::new(),
        }
    }
}

pub(super) struct Room {
    pub(super) graph: EventGraph,
    version: RoomVersion,
    room_id: RoomId,
}

impl Room {
    /// Returns a public room of alice and bob and so many others, and its state.
    pub(super) fn with_members(version: RoomVersion, members: usize) -> (Self, StateMap) {
        let room_id = RoomId::parse("!room:a").unwrap();
        let mut room = Self { graph: EventGraph::new(version.rules()), version, room_id };
        let mut state = StateMap::new();
        room.send(&mut state, ALICE, What::Create);
        room.send(&mut state, ALICE, What::Member(ALICE, Join));
        room.send(&mut state, ALICE, What::Power);
        room.send(&mut state, ALICE, What::JoinRules);
        room.send(&mut state, BOB, What::Member(BOB, Join));
        room.join(&mut state, (0..members).map(user));
        (room, state)
    }

    /// Users join.
    pub(super) fn join(&mut self, state: &mut StateMap, users: impl Iterator<Item = String>) {
        let joins: Vec<_> = users
            .map(|user| {
                let what = What::Member(&user, Join);
                let cited = self.selected(state, &user, what);
                let index = self.insert(&user, what, &cited);
                (self.graph.key(index).unwrap(), Some(index))
            })
            .collect();
        *state = state.with_edits(&self.graph, joins);
    }

    /// Sends an event that cites what the state selects for it; the state becomes that after it.
    pub(super) fn send(&mut self, state: &mut StateMap, sender: &str, what: What<'_>) -> EventIndex {
        let cited = self.selected(state, sender, what);
        self.send_citing(state, sender, what, &cited)
    }

    /// Sends an event that cites these; the state becomes that after it.
    pub(super) fn send_citing(
        &mut self,
        state: &mut StateMap,
        sender: &str,
        what: What<'_>,
        cited: &[EventIndex],
    ) -> EventIndex {
        let index = self.insert(sender, what, cited);
        *state = state.insert(&self.graph, self.graph.key(index).unwrap(), index);
        index
    }

    /// Returns what the auth events selection selects from a state.
    pub(super) fn selected(&self, state: &StateMap, sender: &str, what: What<'_>) -> Vec<EventIndex> {
        let mut keys = vec![(event_type::POWER_LEVELS, ""), (event_type::MEMBER, sender)];
        if self.version < RoomVersion::V12 {
            keys.push((event_type::CREATE, ""));
        }
        if let What::Member(target, membership) = what {
            if target != sender {
                keys.push((event_type::MEMBER, target));
            }
            if membership == Join {
                keys.push((event_type::JOIN_RULES, ""));
            }
        }
        let numbers = keys.into_iter().filter_map(|(event_type, key)| self.graph.keys().get(event_type, key));
        numbers.filter_map(|key| state.get(&self.graph, key)).collect()
    }

    fn insert(&mut self, sender: &str, what: What<'_>, cited: &[EventIndex]) -> EventIndex {
        let number = self.graph.len();
        let event = Event {
            event_id: EventId::parse(&format!("${number}")).unwrap(),
            room_id: self.room_id.clone(),
            carries_room_id: true,
            sender: UserId::parse(sender).unwrap(),
            event_type: what.event_type().into(),
            state_key: Some(what.state_key().into()),
            // Mixed up, so that sorting has something to do.
            origin_server_ts_ms: (number as i64).wrapping_mul(0x9e37_79b9) % 1000,
            depth: 1,
            prev_events: Box::new([]),
            auth_events: Box::new([]),
            content: self.content(what),
            oversized_field: false,
        };
        let index = self.graph.insert_citing(&event, cited).unwrap();
        self.graph.judge(index, None, false).unwrap();
        index
    }

    fn content(&self, what: What<'_>) -> Content {
        match what {
            What::Create => Content::Create(CreateContent {
                room_version: Some(self.version),
                creator: Some(ALICE.into()),
                additional_creators: Some(Box::default()),
                federate: true,
            }),
            What::Member(_, membership) => Content::Member(MemberContent {
                membership: Some(membership),
                join_authorised_via_users_server: None,
                third_party_invite: None,
            }),
            What::Power => {
                let mut levels = PowerLevels::default();
                levels.users.insert(BOB.into(), 99);
                if self.version < RoomVersion::V12 {
                    levels.users.insert(ALICE.into(), 100);
                }
                Content::PowerLevels(Ok(Arc::new(levels)))
            }
            What::JoinRules => Content::JoinRules(JoinRule::Public),
            What::Other(_) => Content::Other,
        }
    }
}

/// Returns a change of a user's membership, the kinds in turn, with who makes it.
pub(super) fn change(number: usize, target: &str) -> (&str, What<'_>) {
    match number % 4 {
        0 => (ALICE, What::Member(target, Leave)),
        1 => (BOB, What::Member(target, Ban)),
        2 => (target, What::Member(target, Leave)),
        _ => (target, What::Member(target, Join)),
    }
}
