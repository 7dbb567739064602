//! Who may do what: the levels of users and actions in a state.

use std::fmt;

use super::{Refusal, StateLookup};
use crate::{
    event::{Content, Event, NamedLevel, PowerLevels, event_type},
    id::{EventId, UserId},
    room_version::RoomVersionRules,
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

/// Returns the power level of a user where `power_levels` is the room's `m.room.power_levels` event, if it has one.
///
/// If that event is not what the room version allows, which no accepted one is, nobody but the creators of room version 12
/// has any power: the lowest level.
pub fn sender_power_level(
    rules: &RoomVersionRules,
    create: &Event,
    power_levels: Option<&Event>,
    user: &str,
) -> PowerLevel {
    match Levels::of(rules, create, power_levels) {
        Ok(levels) => levels.user(user),
        Err(_) if is_creator_with_infinite_power(rules, create, user) => PowerLevel::Infinite,
        Err(_) => PowerLevel::Finite(i64::MIN),
    }
}

/// Whether the sender of a redaction has the redact level, so that it may redact the events of others.
///
/// Source: "Handling redactions" of room version 3, condition 1.
pub fn can_redact_any_event(
    rules: &RoomVersionRules,
    create: &Event,
    power_levels: Option<&Event>,
    sender: &str,
) -> bool {
    Levels::of(rules, create, power_levels).is_ok_and(|levels| levels.user(sender) >= levels.named(NamedLevel::Redact))
}

/// Whether an accepted redaction takes effect on an event. `may_redact_any` is what [`can_redact_any_event`] says of its sender in
/// the state before it.
///
/// It does if it is in the same room, names that event, and its sender has the redact level or is of the same domain as the
/// sender of the event (room versions 1 and 2: the ids of both events are of the same domain). A create event is never
/// redacted: its room version and creators would be gone.
///
/// Source: "Handling redactions" of room version 3, rule 11 of room version 1.
pub fn redaction_takes_effect(
    rules: &RoomVersionRules,
    may_redact_any: bool,
    redaction: &Event,
    event: &Event,
) -> bool {
    let Content::Redaction(Some(redacts)) = &redaction.content else { return false };
    if *redacts != event.event_id || redaction.room_id != event.room_id || &*event.event_type == event_type::CREATE {
        return false;
    }
    let same_domain = if rules.redaction_auth_rule {
        have_same_server(&redaction.event_id, &event.event_id)
    } else {
        redaction.sender.server_name() == event.sender.server_name()
    };
    same_domain || may_redact_any
}

/// The levels of a state.
pub(super) struct Levels<'a> {
    rules: &'a RoomVersionRules,
    create: &'a Event,
    /// `None` if the state has no power levels.
    pub(super) content: Option<&'a PowerLevels>,
}

impl<'a> Levels<'a> {
    pub(super) fn of_state(
        rules: &'a RoomVersionRules,
        create: &'a Event,
        state: &'a (impl StateLookup + ?Sized),
    ) -> Result<Self, Refusal> {
        Self::of(rules, create, state.state_event(event_type::POWER_LEVELS, ""))
    }

    fn of(rules: &'a RoomVersionRules, create: &'a Event, power_levels: Option<&'a Event>) -> Result<Self, Refusal> {
        let content = match power_levels.map(|event| (event, &event.content)) {
            None => None,
            Some((_, Content::PowerLevels(Ok(content)))) => Some(&**content),
            Some((event, _)) => return Err(Refusal::UndecodedPowerLevels { event_id: event.event_id.clone() }),
        };
        Ok(Self { rules, create, content })
    }

    /// Returns the power level of a user.
    pub(super) fn user(&self, user: &str) -> PowerLevel {
        if is_creator_with_infinite_power(self.rules, self.create, user) {
            return PowerLevel::Infinite;
        }
        PowerLevel::Finite(match self.content {
            Some(content) => content.user(user),
            // "If the room contains no m.room.power_levels event, the room's creator has a power level of 100, and all
            // other users have a power level of 0."
            None if creator(self.rules, self.create) == Some(user) => 100,
            None => 0,
        })
    }

    /// Returns one of the seven levels, or its default.
    pub(super) fn named(&self, level: NamedLevel) -> i64 {
        self.content.map_or(level.default_level(), |content| content.named(level))
    }

    /// Returns the *required power level* of an event type.
    pub(super) fn required(&self, event_type: &str, is_state: bool) -> i64 {
        let listed = self.content.and_then(|content| content.events.get(event_type));
        let default = if is_state { NamedLevel::StateDefault } else { NamedLevel::EventsDefault };
        listed.copied().unwrap_or_else(|| self.named(default))
    }
}

/// Returns the room's creator; `content.creator` up to room version 10, then the sender of the create event.
pub(super) fn creator<'a>(rules: &RoomVersionRules, create: &'a Event) -> Option<&'a str> {
    if rules.implicit_room_creator {
        return Some(create.sender.as_str());
    }
    match &create.content {
        Content::Create(content) => content.creator.as_deref(),
        _ => None,
    }
}

/// Returns the creators of room version 12: the sender of the create event, then `additional_creators`.
pub(super) fn creators<'a>(create: &'a Event) -> impl Iterator<Item = &'a str> + use<'a> {
    let additional = match &create.content {
        Content::Create(content) => content.additional_creators.as_deref().unwrap_or_default(),
        _ => &[],
    };
    std::iter::once(create.sender.as_str()).chain(additional.iter().map(UserId::as_str))
}

fn is_creator_with_infinite_power(rules: &RoomVersionRules, create: &Event, user: &str) -> bool {
    rules.creators_have_infinite_power && creators(create).any(|creator| creator == user)
}

/// Whether two event ids of room versions 1 and 2 are of the same server.
pub(super) fn have_same_server(left: &EventId, right: &EventId) -> bool {
    left.server_name().is_some_and(|server_name| right.server_name() == Some(server_name))
}
