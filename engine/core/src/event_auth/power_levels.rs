//! Rule 10: who may change which power level.

use std::sync::Arc;

use super::{PowerLevel, PowerLevelsRule, Refusal, power::Levels};
use crate::{
    event::NamedLevel,
    graph::{EventGraph, EventView, LevelFacts, LevelMap, NameIndex},
};

/// Rule 10, where `levels` are those of the state.
pub(super) fn check(event: EventView<'_>, create: EventView<'_>, levels: &Levels<'_>) -> Result<(), Refusal> {
    // 10.1 to 10.3. If a value is not what the room version allows, reject.
    let new = match event.levels() {
        Some(Ok(new)) => new,
        Some(Err(invalid)) => return Err(PowerLevelsRule::Invalid(invalid.clone()).into()),
        None => return Err(Refusal::UndecodedPowerLevels { event_id: event.event_id() }),
    };
    let graph = event.graph();
    // 10.4. From version 12 on: if users contains a creator, reject.
    let creators = create.create().map_or(&[][..], |create| &create.creators_with_infinite_power);
    if let Some(creator) = creators.iter().find(|creator| new.users.get(**creator).is_some()) {
        return Err(PowerLevelsRule::ListsCreator { user: graph.name(*creator).into() }.into());
    }
    // 10.5. If there is no previous m.room.power_levels event in the room, allow.
    let Some(current) = levels.content else { return Ok(()) };
    Ok(check_changes(graph, event.sender(), levels.user(event.sender()), current, new)?)
}

/// Rules 10.6 to 10.10.
fn check_changes(
    graph: &EventGraph,
    sender: NameIndex,
    sender_level: PowerLevel,
    current: &LevelFacts,
    new: &LevelFacts,
) -> Result<(), PowerLevelsRule> {
    // 10.6. For each of the seven levels that was added, changed or removed:
    for level in NamedLevel::ALL {
        let (current, new) = (current.given(level), new.given(level));
        if current == new {
            continue;
        }
        // 10.6.1. If the current value is greater than the sender's current power level, reject.
        if let Some(value) = current.filter(|value| *value > sender_level) {
            return Err(PowerLevelsRule::NamedCurrent { level, value, sender_level });
        }
        // 10.6.2. If the new value is greater than the sender's current power level, reject.
        if let Some(value) = new.filter(|value| *value > sender_level) {
            return Err(PowerLevelsRule::NamedNew { level, value, sender_level });
        }
    }
    let events = ("events", &current.events, &new.events);
    let notifications = ("notifications", &current.notifications, &new.notifications);
    let limited = [Some(events), graph.rules().limit_notifications_power_levels.then_some(notifications)];
    // 10.7. For each entry being changed in, or removed from, events or notifications:
    // 10.7.1. If the current value is greater than the sender's current power level, reject.
    for (map, current, new) in limited.into_iter().flatten() {
        if let Some((key, value)) = first_altered(graph, current, new, |_, value| value > sender_level) {
            return Err(PowerLevelsRule::EntryCurrent { map, key, value, sender_level });
        }
    }
    // 10.8. For each entry being added to, or changed in, events or notifications:
    // 10.8.1. If the new value is greater than the sender's current power level, reject.
    for (map, current, new) in limited.into_iter().flatten() {
        if let Some((key, value)) = first_altered(graph, new, current, |_, value| value > sender_level) {
            return Err(PowerLevelsRule::EntryNew { map, key, value, sender_level });
        }
    }
    // 10.9. For each entry being changed in, or removed from, users, other than the sender's own entry:
    // 10.9.1. If the current value is greater than or equal to the sender's current power level, reject.
    let too_high = |user, value| user != sender && value >= sender_level;
    if let Some((user, value)) = first_altered(graph, &current.users, &new.users, too_high) {
        return Err(PowerLevelsRule::UserCurrent { user, value, sender_level });
    }
    // 10.10. For each entry being added to, or changed in, users:
    // 10.10.1. If the new value is greater than the sender's current power level, reject.
    if let Some((user, value)) = first_altered(graph, &new.users, &current.users, |_, value| value > sender_level) {
        return Err(PowerLevelsRule::UserNew { user, value, sender_level });
    }
    // Otherwise, allow.
    Ok(())
}

/// Returns the entry of `levels` that `others` has with another value or not at all, and that is `refused`; of several the first
/// by name, so that every server gives the same reason.
fn first_altered(
    graph: &EventGraph,
    levels: &LevelMap,
    others: &LevelMap,
    refused: impl Fn(NameIndex, i64) -> bool,
) -> Option<(Arc<str>, i64)> {
    let refused = levels.altered(others).filter(|(name, value)| refused(*name, *value));
    let (name, value) = refused.map(|(name, value)| (graph.name(name), value)).min()?;
    Some((name.into(), value))
}
