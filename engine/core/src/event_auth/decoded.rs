//! The rules for decoded events that are in no graph: a small graph is made of those that are asked for.

use super::{
    AuthState, Levels, PowerLevel, Refusal, auth_keys_for_event, can_redact_any, check_in_state, takes_effect,
};
use crate::{
    event::{Event, event_type},
    graph::{EventGraph, EventIndex, EventView, KeyIndex},
    room_version::RoomVersionRules,
};

/// A room state, as far as the rules ask for it.
///
/// The rules ask for the keys that [`auth_types_for_event`](super::auth_types_for_event) selects and for `("m.room.create", "")`,
/// and for no other key.
pub trait StateLookup {
    /// Returns the event of the state with this type and state key.
    fn state_event(&self, event_type: &str, state_key: &str) -> Option<&Event>;
}

/// A handful of events; of two with the same key the first counts.
impl StateLookup for Vec<&Event> {
    fn state_event(&self, event_type: &str, state_key: &str) -> Option<&Event> {
        self.iter().copied().find(|event| event.is_state(event_type, state_key))
    }
}

/// Checks an event against a room state: rules 4 to 11.
///
/// `state` must have the create event under `("m.room.create", "")`, in room version 12 too.
///
/// # Errors
///
/// The first rule that refuses the event. Cost: the small graph, some microseconds; then a few look-ups; for
/// `m.room.power_levels` linear in both events, for an invite with `third_party_invite` up to 1,024 signature checks.
pub fn check_state_dependent(
    rules: &RoomVersionRules,
    event: &Event,
    state: &(impl StateLookup + ?Sized),
) -> Result<(), Refusal> {
    let mut few = FewEvents::new(rules);
    let create = (event_type::CREATE, "");
    let others = auth_keys_for_event(rules, event).filter(|key| *key != create);
    for (event_type, state_key) in std::iter::once(create).chain(others) {
        if let Some(held) = state.state_event(event_type, state_key) {
            few.add(held)?;
        }
    }
    let index = few.graph.insert_citing(event, &[]).ok_or(Refusal::OversizedField)?;
    check_in_state(few.graph.event(index), &mut FewEventsState(&few))
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
    let no_power = PowerLevel::Finite(i64::MIN);
    let mut few = FewEvents::new(rules);
    let Ok((create, power_levels)) = few.add_room(create, power_levels) else { return no_power };
    let Some(user) = few.graph.intern_name(user) else { return no_power };
    Levels::of_user(few.graph.event(create), power_levels.map(|index| few.graph.event(index)), user)
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
    let mut few = FewEvents::new(rules);
    let Ok((create, power_levels)) = few.add_room(create, power_levels) else { return false };
    let Some(sender) = few.graph.intern_name(sender) else { return false };
    can_redact_any(few.graph.event(create), power_levels.map(|index| few.graph.event(index)), sender)
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
    let mut few = FewEvents::new(rules);
    let (Ok(redaction_index), Ok(index)) = (few.add(redaction), few.add(event)) else { return false };
    redaction.room_id == event.room_id
        && takes_effect(may_redact_any, few.graph.event(redaction_index), few.graph.event(index))
}

/// A graph of a few events, without edges.
struct FewEvents {
    graph: EventGraph,
    held: Vec<(KeyIndex, EventIndex)>,
}

impl FewEvents {
    fn new(rules: &RoomVersionRules) -> Self {
        Self { graph: EventGraph::new(rules.version.rules()), held: Vec::new() }
    }

    /// Adds an event. A graph has no room for strings of more than 64 KiB, which no PDU has.
    fn add(&mut self, event: &Event) -> Result<EventIndex, Refusal> {
        let index = self.graph.insert_citing(event, &[]).ok_or(Refusal::OversizedField)?;
        self.held.extend(self.graph.key(index).map(|key| (key, index)));
        Ok(index)
    }

    fn add_room(
        &mut self,
        create: &Event,
        power_levels: Option<&Event>,
    ) -> Result<(EventIndex, Option<EventIndex>), Refusal> {
        Ok((self.add(create)?, power_levels.map(|event| self.add(event)).transpose()?))
    }
}

/// The events as a state; of two with the same key the first counts.
struct FewEventsState<'g>(&'g FewEvents);

impl<'g> AuthState<'g> for FewEventsState<'g> {
    fn event(&mut self, key: KeyIndex) -> Option<EventView<'g>> {
        let held = self.0.held.iter().find(|(held, _)| *held == key);
        held.map(|(_, index)| self.0.graph.event(*index))
    }
}
