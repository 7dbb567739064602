//! Rule 10: who may change which power level.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    PowerLevel, PowerLevelsRule, Refusal,
    power::{Levels, creators},
};
use crate::{
    event::{Content, Event, NamedLevel, PowerLevels},
    room_version::RoomVersionRules,
};

/// Rule 10, where `levels` are those of the state.
pub(super) fn check(
    rules: &RoomVersionRules,
    event: &Event,
    create: &Event,
    levels: &Levels<'_>,
) -> Result<(), Refusal> {
    // 10.1 to 10.3. If a value is not what the room version allows, reject.
    let new = match &event.content {
        Content::PowerLevels(Ok(new)) => &**new,
        Content::PowerLevels(Err(invalid)) => return Err(PowerLevelsRule::Invalid(invalid.clone()).into()),
        _ => return Err(Refusal::UndecodedPowerLevels { event_id: event.event_id.clone() }),
    };
    // 10.4. From version 12 on: if users contains a creator, reject.
    if rules.creators_have_infinite_power
        && let Some(creator) = creators(create).find_map(|creator| new.users.get_key_value(creator))
    {
        return Err(PowerLevelsRule::ListsCreator { user: creator.0.clone() }.into());
    }
    // 10.5. If there is no previous m.room.power_levels event in the room, allow.
    let Some(current) = levels.content else { return Ok(()) };
    let sender = event.sender.as_str();
    Ok(check_changes(rules, sender, levels.user(sender), current, new)?)
}

/// Rules 10.6 to 10.10.
fn check_changes(
    rules: &RoomVersionRules,
    sender: &str,
    sender_level: PowerLevel,
    current: &PowerLevels,
    new: &PowerLevels,
) -> Result<(), PowerLevelsRule> {
    // 10.6. For each of the seven levels that was added, changed or removed:
    for level in NamedLevel::ALL {
        let (current, new) = (current.named.get(&level), new.named.get(&level));
        if current == new {
            continue;
        }
        // 10.6.1. If the current value is greater than the sender's current power level, reject.
        if let Some(&value) = current.filter(|value| **value > sender_level) {
            return Err(PowerLevelsRule::NamedCurrent { level, value, sender_level });
        }
        // 10.6.2. If the new value is greater than the sender's current power level, reject.
        if let Some(&value) = new.filter(|value| **value > sender_level) {
            return Err(PowerLevelsRule::NamedNew { level, value, sender_level });
        }
    }
    let events = ("events", &current.events, &new.events);
    let notifications = ("notifications", &current.notifications, &new.notifications);
    let limited = [Some(events), rules.limit_notifications_power_levels.then_some(notifications)];
    // 10.7. For each entry being changed in, or removed from, events or notifications:
    // 10.7.1. If the current value is greater than the sender's current power level, reject.
    for (map, current, new) in limited.into_iter().flatten() {
        if let Some((key, value)) = altered(current, new).find(|(_, value)| *value > sender_level) {
            return Err(PowerLevelsRule::EntryCurrent { map, key: key.clone(), value, sender_level });
        }
    }
    // 10.8. For each entry being added to, or changed in, events or notifications:
    // 10.8.1. If the new value is greater than the sender's current power level, reject.
    for (map, current, new) in limited.into_iter().flatten() {
        if let Some((key, value)) = altered(new, current).find(|(_, value)| *value > sender_level) {
            return Err(PowerLevelsRule::EntryNew { map, key: key.clone(), value, sender_level });
        }
    }
    // 10.9. For each entry being changed in, or removed from, users, other than the sender's own entry:
    // 10.9.1. If the current value is greater than or equal to the sender's current power level, reject.
    let mut others = altered(&current.users, &new.users).filter(|(user, _)| ***user != *sender);
    if let Some((user, value)) = others.find(|(_, value)| *value >= sender_level) {
        return Err(PowerLevelsRule::UserCurrent { user: user.clone(), value, sender_level });
    }
    // 10.10. For each entry being added to, or changed in, users:
    // 10.10.1. If the new value is greater than the sender's current power level, reject.
    if let Some((user, value)) = altered(&new.users, &current.users).find(|(_, value)| *value > sender_level) {
        return Err(PowerLevelsRule::UserNew { user: user.clone(), value, sender_level });
    }
    // Otherwise, allow.
    Ok(())
}

/// Returns the entries of `levels` that `others` has with another value or not at all.
fn altered<'a>(
    levels: &'a BTreeMap<Arc<str>, i64>,
    others: &'a BTreeMap<Arc<str>, i64>,
) -> impl Iterator<Item = (&'a Arc<str>, i64)> {
    levels.iter().filter(|(key, value)| others.get(*key) != Some(*value)).map(|(key, value)| (key, *value))
}
