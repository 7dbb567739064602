//! State resolution of room version 1.

use std::{cmp::Reverse, collections::BTreeMap};

use ravel_core::{
    event::{StateKey, event_type},
    event_auth::auth_types_for_event,
    id::EventId,
};
use sha1::{Digest, Sha1};

use super::{Lookup, Room, State};

pub(super) fn resolve(room: &Room<'_>, states: &[State]) -> State {
    let mut candidates: BTreeMap<&StateKey, Vec<&EventId>> = BTreeMap::new();
    for (key, event_id) in states.iter().flatten() {
        let events = candidates.entry(key).or_default();
        if !events.contains(&event_id) {
            events.push(event_id);
        }
    }
    // "Start by setting R to the union of the states to be resolved, excluding any conflicting events."
    let mut r = State::new();
    let mut conflicts: BTreeMap<&StateKey, Vec<&EventId>> = BTreeMap::new();
    for (key, mut events) in candidates {
        if let [only] = &*events {
            r.insert(key.clone(), (*only).clone());
        } else {
            // "Sort the list by ascending depth then descending sha1(event_id)."
            events.sort_by_key(|id| (room.event(id).depth, Reverse(sha1(id))));
            conflicts.insert(key, events);
        }
    }
    for kind in [event_type::POWER_LEVELS, event_type::JOIN_RULES, event_type::MEMBER] {
        // READING: power levels of other state keys are like any other event.
        let is_of_kind =
            |key: &StateKey| *key.event_type == *kind && (kind != event_type::POWER_LEVELS || key.state_key.is_empty());
        // READING: conflicts of one kind are resolved each by itself, none sees another's result.
        let before = r.clone();
        for (key, events) in conflicts.iter().filter(|(key, _)| is_of_kind(key)) {
            // "Add the first event in the list to R."
            let mut with_this = before.clone();
            with_this.insert((*key).clone(), events[0].clone());
            for id in &events[1..] {
                if !is_allowed(room, &with_this, id) {
                    break;
                }
                with_this.insert((*key).clone(), (*id).clone());
            }
            r.insert((*key).clone(), with_this[*key].clone());
        }
        conflicts.retain(|key, _| !is_of_kind(key));
    }
    // "For all other conflicts, just pick the event with the highest depth and lowest sha1(event_id) that passes authentication
    // in R and add it to R." READING: if none passes, the one of least depth.
    let before = r.clone();
    for (key, events) in conflicts {
        let passing = events.iter().rev().find(|id| is_allowed(room, &before, id));
        r.insert(key.clone(), (*passing.unwrap_or(&events[0])).clone());
    }
    r
}

fn sha1(event_id: &EventId) -> [u8; 20] {
    Sha1::digest(event_id.as_str()).into()
}

fn is_allowed(room: &Room<'_>, r: &State, event_id: &EventId) -> bool {
    let event = room.event(event_id);
    let wanted = auth_types_for_event(room.rules, event);
    let found = wanted.into_iter().filter_map(|key| Some((key.clone(), room.event(r.get(&key)?))));
    (room.allows)(event, &Lookup(found.collect()))
}
