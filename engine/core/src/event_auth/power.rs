//! Who may do what: the levels of users and actions in a state.

use std::fmt;

use super::{AuthState, Refusal};
use crate::{
    event::NamedLevel,
    graph::{EventView, KeyIndex, LevelFacts, NameIndex},
    id::EventId,
};

/// The power level of a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PowerLevel {
    /// A level.
    Finite(i64),
    /// The power of a creator in room version 12: more than any level, and not more than that of another creator.
    Infinite,
}

impl PartialEq<i64> for PowerLevel {
    fn eq(&self, level: &i64) -> bool {
        *self == Self::Finite(*level)
    }
}

impl PartialOrd<i64> for PowerLevel {
    fn partial_cmp(&self, level: &i64) -> Option<std::cmp::Ordering> {
        self.partial_cmp(&Self::Finite(*level))
    }
}

impl PartialEq<PowerLevel> for i64 {
    fn eq(&self, level: &PowerLevel) -> bool {
        level == self
    }
}

impl PartialOrd<PowerLevel> for i64 {
    fn partial_cmp(&self, level: &PowerLevel) -> Option<std::cmp::Ordering> {
        PowerLevel::Finite(*self).partial_cmp(level)
    }
}

impl fmt::Display for PowerLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Finite(level) => level.fmt(f),
            Self::Infinite => f.write_str("infinite"),
        }
    }
}

/// Whether the sender of a redaction has the redact level, so that it may redact the events of others.
///
/// Source: "Handling redactions" of room version 3, condition 1.
pub(crate) fn can_redact_any(create: EventView<'_>, power_levels: Option<EventView<'_>>, sender: NameIndex) -> bool {
    Levels::of(create, power_levels).is_ok_and(|levels| levels.user(sender) >= levels.named(NamedLevel::Redact))
}

/// Whether an accepted redaction takes effect on an event of its room. `may_redact_any` is what [`can_redact_any`] says of its
/// sender in the state before it.
///
/// It does if it names that event, and its sender has the redact level or is of the same domain as the sender of the event (room
/// versions 1 and 2: the ids of both events are of the same domain). A create event is never redacted: its room version and
/// creators would be gone.
///
/// Source: "Handling redactions" of room version 3, rule 11 of room version 1.
pub(crate) fn takes_effect(may_redact_any: bool, redaction: EventView<'_>, event: EventView<'_>) -> bool {
    let Some(redacts) = redaction.redacts() else { return false };
    let event_id = event.event_id();
    if *redacts != event_id || event.event_type() == NameIndex::CREATE {
        return false;
    }
    let same_domain = if event.graph().rules().redaction_auth_rule {
        have_same_server(&redaction.event_id(), &event_id)
    } else {
        redaction.sender_server() == event.sender_server()
    };
    same_domain || may_redact_any
}

/// The levels of a state.
#[derive(Clone, Copy)]
pub(crate) struct Levels<'g> {
    create: EventView<'g>,
    /// `None` if the state has no power levels.
    pub(super) content: Option<&'g LevelFacts>,
}

impl<'g> Levels<'g> {
    pub(super) fn of_state(create: EventView<'g>, state: &mut impl AuthState<'g>) -> Result<Self, Refusal> {
        Self::of(create, state.event(KeyIndex::POWER_LEVELS))
    }

    fn of(create: EventView<'g>, power_levels: Option<EventView<'g>>) -> Result<Self, Refusal> {
        let content = match power_levels.map(|event| (event, event.levels())) {
            None => None,
            Some((_, Some(Ok(content)))) => Some(content),
            Some((event, _)) => return Err(Refusal::UndecodedPowerLevels { event_id: event.event_id() }),
        };
        Ok(Self { create, content })
    }

    /// Returns the power level of a user where `power_levels` is the room's `m.room.power_levels` event, if it has one.
    ///
    /// If that event is not what the room version allows, which no accepted one is, nobody but the creators of room version 12
    /// has any power: the lowest level.
    pub(crate) fn of_user(create: EventView<'_>, power_levels: Option<EventView<'_>>, user: NameIndex) -> PowerLevel {
        match Levels::of(create, power_levels) {
            Ok(levels) => levels.user(user),
            Err(_) if has_infinite_power(create, user) => PowerLevel::Infinite,
            Err(_) => PowerLevel::Finite(i64::MIN),
        }
    }

    /// Returns the power level of a user.
    pub(super) fn user(&self, user: NameIndex) -> PowerLevel {
        if has_infinite_power(self.create, user) {
            return PowerLevel::Infinite;
        }
        PowerLevel::Finite(match self.content {
            Some(content) => content.user(user),
            // "If the room contains no m.room.power_levels event, the room's creator has a power level of 100, and all
            // other users have a power level of 0."
            None if self.create.create().and_then(|create| create.creator) == Some(user) => 100,
            None => 0,
        })
    }

    /// Returns one of the seven levels, or its default.
    pub(super) fn named(&self, level: NamedLevel) -> i64 {
        self.content.map_or(level.default_level(), |content| content.named(level))
    }

    /// Returns the *required power level* of an event type.
    pub(super) fn required(&self, event_type: NameIndex, is_state: bool) -> i64 {
        let listed = self.content.and_then(|content| content.events.get(event_type));
        let default = if is_state { NamedLevel::StateDefault } else { NamedLevel::EventsDefault };
        listed.unwrap_or_else(|| self.named(default))
    }
}

/// Whether a user is a creator in room version 12.
fn has_infinite_power(create: EventView<'_>, user: NameIndex) -> bool {
    create.graph().rules().creators_have_infinite_power
        && create.create().is_some_and(|create| create.creators_with_infinite_power.contains(&user))
}

/// Whether two event ids of room versions 1 and 2 are of the same server.
pub(super) fn have_same_server(left: &EventId, right: &EventId) -> bool {
    left.server_name().is_some_and(|server_name| right.server_name() == Some(server_name))
}
