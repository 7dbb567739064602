//! What a graph keeps of an event: what the rules read, in 40 bytes, with the room's numbers for strings.

use super::{EventIndex, KeyIndex, NameIndex, column::Span, number::dense_number};
use crate::{
    event::{
        InvalidPowerLevels, JoinRule, Membership, NamedLevel, PowerLevels, ThirdPartyInvite, ThirdPartyInviteContent,
    },
    id::EventId,
    work::count,
};

dense_number! {
    /// Where the graph keeps what only few events have.
    pub(super) ExtraIndex
}

/// The facts of an event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) origin_server_ts_ms: i64,
    pub(super) sender: NameIndex,
    pub(super) event_type: NameIndex,
    /// The key that the event holds in a state; `None` for message events.
    pub(super) key: Option<KeyIndex>,
    /// The power levels among its auth events.
    pub(super) power_levels: Option<EventIndex>,
    /// Where the auth events are, in the order of the event.
    pub(super) auth_start: u32,
    pub(super) auth_len: u16,
    pub(super) flags: Flags,
    pub(super) content: Content,
}

impl Facts {
    /// Those of an event that is not in memory.
    pub(super) const ABSENT: Self = Self {
        origin_server_ts_ms: 0,
        sender: NameIndex::EMPTY,
        event_type: NameIndex::EMPTY,
        key: None,
        power_levels: None,
        auth_start: 0,
        auth_len: 0,
        flags: Flags(0),
        content: Content::Other,
    };

    pub(super) fn auth_events(&self) -> Span {
        Span { start: self.auth_start, len: self.auth_len.into() }
    }
}

/// Yes or no, a bit each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u8);

impl Flags {
    pub(super) const REJECTED: Self = Self(1);
    pub(super) const POWER_EVENT: Self = Self(2);
    /// The state key is the sender.
    pub(super) const OWN_STATE_KEY: Self = Self(4);
    /// The state key begins with `@` and is not the sender.
    pub(super) const STATE_KEY_OF_ANOTHER_USER: Self = Self(8);
    /// The state key is a user id.
    pub(super) const STATE_KEY_IS_USER: Self = Self(16);
    /// There are redacted facts that differ.
    pub(super) const DIFFERS_REDACTED: Self = Self(32);

    pub(super) fn has(self, flag: Self) -> bool {
        self.0 & flag.0 != 0
    }

    pub(super) fn set(&mut self, flag: Self, value: bool) {
        if value { self.0 |= flag.0 } else { self.0 &= !flag.0 }
    }
}

/// What the rules need of `content`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    Member(Option<Membership>, Option<ExtraIndex>),
    JoinRules(JoinRule),
    /// What only few events have.
    Extra(ExtraIndex),
    Other,
}

/// Content that does not fit in with the other facts.
#[derive(Debug)]
pub(super) enum Extra {
    Create(CreateFacts),
    Member(MemberExtra),
    PowerLevels(Result<LevelFacts, InvalidPowerLevels>),
    ThirdPartyInvite(ThirdPartyInviteContent),
    Redaction(EventId),
}

/// `content` of a create event.
#[derive(Debug)]
pub(crate) struct CreateFacts {
    /// `m.federate`.
    pub(crate) federate: bool,
    /// The room's creator: `content.creator` up to room version 10, then the sender. `None` if it is not named.
    pub(crate) creator: Option<NameIndex>,
    /// The creators of room version 12, who have infinite power: the sender, then `additional_creators`. Empty before.
    pub(crate) creators_with_infinite_power: Box<[NameIndex]>,
}

/// What only few member events have.
#[derive(Debug)]
pub(crate) struct MemberExtra {
    /// The only prev event, if it is a create event.
    pub(crate) follows_create: Option<EventIndex>,
    /// `join_authorised_via_users_server`.
    pub(crate) authorizing_user: Option<NameIndex>,
    /// `third_party_invite`, and the key of the event that its token names.
    pub(crate) third_party_invite: Option<(ThirdPartyInvite, Option<KeyIndex>)>,
}

/// `content` of `m.room.power_levels`; only what the event gives.
#[derive(Debug)]
pub(crate) struct LevelFacts {
    /// By [`NamedLevel`].
    named: [Option<i64>; NamedLevel::ALL.len()],
    pub(crate) users: LevelMap,
    pub(crate) events: LevelMap,
    pub(crate) notifications: LevelMap,
}

/// Levels by name. Invariant: sorted by name, each once.
#[derive(Debug)]
pub(crate) struct LevelMap(Box<[(NameIndex, i64)]>);

impl LevelFacts {
    /// Takes power levels over; `intern` gives strings their numbers, `None` if there are none left.
    pub(super) fn of(levels: &PowerLevels, mut intern: impl FnMut(&str) -> Option<NameIndex>) -> Option<Self> {
        let mut map = |map: &std::collections::BTreeMap<std::sync::Arc<str>, i64>| {
            let entries = map.iter().map(|(name, level)| Some((intern(name)?, *level)));
            let mut entries: Box<[_]> = entries.collect::<Option<_>>()?;
            entries.sort_unstable();
            Some(LevelMap(entries))
        };
        Some(Self {
            named: NamedLevel::ALL.map(|level| levels.named.get(&level).copied()),
            users: map(&levels.users)?,
            events: map(&levels.events)?,
            notifications: map(&levels.notifications)?,
        })
    }

    /// Returns one of the seven levels, if the event gives it.
    pub(crate) fn given(&self, level: NamedLevel) -> Option<i64> {
        self.named.get(level as usize).copied().flatten()
    }

    /// Returns one of the seven levels, or its default.
    pub(crate) fn named(&self, level: NamedLevel) -> i64 {
        self.given(level).unwrap_or(level.default_level())
    }

    /// Returns the level of a user: of `users`, else `users_default`. O(log u) for u users.
    pub(crate) fn user(&self, user: NameIndex) -> i64 {
        self.users.get(user).unwrap_or_else(|| self.named(NamedLevel::UsersDefault))
    }
}

impl LevelMap {
    pub(crate) fn get(&self, name: NameIndex) -> Option<i64> {
        let place = self.0.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        self.0.get(place).map(|(_, level)| *level)
    }

    /// Returns the entries that `other` has with another level or not at all. O(n) for both together.
    pub(crate) fn altered<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (NameIndex, i64)> {
        count(self.0.len() + other.0.len());
        let mut others = other.0.iter().copied().peekable();
        self.0.iter().copied().filter(move |(name, level)| {
            while others.next_if(|(other, _)| other < name).is_some() {}
            others.peek() != Some(&(*name, *level))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Facts;

    #[test]
    fn facts_are_small() {
        assert_eq!(size_of::<Facts>(), 40);
    }
}
