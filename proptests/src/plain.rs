//! State resolution as the specification tells it, word by word: sets and maps of event ids, every auth chain walked anew, nothing
//! shared and nothing remembered. Slow, and written to be compared with the text, not with the product.
//!
//! What an event needs in a state is asked of the caller ([`Room::allows`]), so that the authorization rules of somebody else can
//! stand in.
//!
//! Source: "State resolution" of the room versions 1, 2 and 12, v1.19. Where the text leaves room, or deployed servers read it
//! in another way, this follows the readings that `ravel_core::resolve` documents, each marked READING.

mod v1;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ravel_core::{
    event::{Event, Membership, StateKey, event_type},
    event_auth::{PowerLevel, StateLookup, auth_types_for_event, check_state_dependent, sender_power_level},
    graph::EventGraph,
    id::EventId,
    room_version::{RoomVersionRules, StateResolution},
    state::StateMap,
};

/// A room state.
pub type State = BTreeMap<StateKey, EventId>;

/// Returns a state by the numbers of a graph that has its events.
///
/// # Panics
///
/// If the graph lacks one.
pub fn number(graph: &EventGraph, state: &State) -> StateMap {
    StateMap::of_events(
        graph,
        state.values().map(|event_id| graph.index_of(event_id).expect("the graph has the event")),
    )
}

/// Some events of a state, for the authorization rules.
pub struct Lookup<'a>(pub BTreeMap<StateKey, &'a Event>);

impl StateLookup for Lookup<'_> {
    fn state_event(&self, event_type: &str, state_key: &str) -> Option<&Event> {
        self.0.get(&StateKey::new(event_type, state_key)).copied()
    }
}

/// Whether the authorization rules allow an event in a state.
pub type Allows<'a> = &'a dyn Fn(&Event, &Lookup<'_>) -> bool;

/// The events of a room, and by which rules they are judged.
#[derive(Clone)]
pub struct Room<'a> {
    /// The rules of its version.
    pub rules: &'static RoomVersionRules,
    /// Its events.
    pub events: BTreeMap<EventId, Arc<Event>>,
    /// Those of them that were rejected when they were received.
    pub rejected: BTreeSet<EventId>,
    /// The room's create event.
    pub create: EventId,
    /// The authorization rules.
    pub allows: Allows<'a>,
    /// READING: a rejected event never becomes part of a state. Others ask only whether the rules allow it now.
    pub rejected_never_apply: bool,
}

impl<'a> Room<'a> {
    /// Returns a room of events of which the first is the create event.
    pub fn new(
        rules: &'static RoomVersionRules,
        events: impl IntoIterator<Item = Arc<Event>>,
        allows: Allows<'a>,
    ) -> Self {
        let mut events = events.into_iter().peekable();
        let create = events.peek().unwrap().event_id.clone();
        let events = events.map(|event| (event.event_id.clone(), event)).collect();
        Self { rules, events, rejected: BTreeSet::new(), create, allows, rejected_never_apply: true }
    }

    /// Resolves states.
    pub fn resolve(&self, states: &[State]) -> State {
        match self.rules.state_resolution {
            StateResolution::V1 => v1::resolve(self, states),
            StateResolution::V2 => self.resolve_v2(states, false),
            StateResolution::V2_1 => self.resolve_v2(states, true),
        }
    }

    fn resolve_v2(&self, states: &[State], is_v2_1: bool) -> State {
        let (unconflicted_state_map, conflicted_state_set) = split(states);
        let mut full_conflicted_set = conflicted_state_set.clone();
        full_conflicted_set.extend(self.auth_difference(states));
        if is_v2_1 {
            full_conflicted_set.extend(self.conflicted_state_subgraph(&conflicted_state_set));
        }
        // 1.
        let mut x: BTreeSet<EventId> =
            full_conflicted_set.iter().filter(|id| is_power_event(self.event(id))).cloned().collect();
        x.extend(self.auth_chains_within(&x, &full_conflicted_set));
        let power_events = self.reverse_topological_power_ordering(&x);
        // 2.
        let initial = if is_v2_1 { State::new() } else { unconflicted_state_map.clone() };
        let partial = self.iterative_auth_checks(initial, &power_events);
        // 3.
        let remaining = full_conflicted_set.difference(&x).cloned().collect();
        let power_levels = partial.get(&StateKey::new(event_type::POWER_LEVELS, ""));
        let remaining = self.mainline_ordering(power_levels, remaining);
        // 4.
        let mut resolved = self.iterative_auth_checks(partial, &remaining);
        // 5.
        resolved.extend(unconflicted_state_map);
        resolved
    }

    fn event(&self, event_id: &EventId) -> &Event {
        &self.events[event_id]
    }

    /// Auth chain.
    fn auth_chain(&self, event_id: &EventId) -> BTreeSet<EventId> {
        let mut chain = BTreeSet::new();
        let mut pending = self.event(event_id).auth_events.to_vec();
        while let Some(id) = pending.pop() {
            if chain.insert(id.clone()) {
                pending.extend(self.event(&id).auth_events.iter().cloned());
            }
        }
        chain
    }

    /// Auth difference. READING: the chain of a state includes the state's own events.
    fn auth_difference(&self, states: &[State]) -> BTreeSet<EventId> {
        let full_auth_chains: Vec<BTreeSet<EventId>> = states.iter().map(|state| self.full_auth_chain(state)).collect();
        let union: BTreeSet<EventId> = full_auth_chains.iter().flatten().cloned().collect();
        union.into_iter().filter(|id| !full_auth_chains.iter().all(|chain| chain.contains(id))).collect()
    }

    /// Returns the events of a state and their auth chains.
    pub fn full_auth_chain(&self, state: &State) -> BTreeSet<EventId> {
        state.values().flat_map(|id| self.auth_chain(id).into_iter().chain([id.clone()])).collect()
    }

    /// Conflicted state subgraph: what is reached from a conflicted event and leads to one, these included.
    pub fn conflicted_state_subgraph(&self, conflicted_state_set: &BTreeSet<EventId>) -> BTreeSet<EventId> {
        let reached = conflicted_state_set.iter().flat_map(|id| self.auth_chain(id).into_iter().chain([id.clone()]));
        let leads_to_conflicted =
            |id: &EventId| conflicted_state_set.contains(id) || !self.auth_chain(id).is_disjoint(conflicted_state_set);
        reached.collect::<BTreeSet<_>>().into_iter().filter(leads_to_conflicted).collect()
    }

    /// The events in the auth chains of `events` that belong to `set`. READING: only what is reached through events of `set`.
    fn auth_chains_within(&self, events: &BTreeSet<EventId>, set: &BTreeSet<EventId>) -> BTreeSet<EventId> {
        let mut found = BTreeSet::new();
        let mut pending: Vec<EventId> = events.iter().cloned().collect();
        while let Some(id) = pending.pop() {
            for auth_event in self.event(&id).auth_events.iter().filter(|id| set.contains(*id)) {
                if found.insert(auth_event.clone()) {
                    pending.push(auth_event.clone());
                }
            }
        }
        found
    }

    /// Reverse topological power ordering, by Kahn's algorithm. READING: the DAG has the auth edges within the set.
    fn reverse_topological_power_ordering(&self, events: &BTreeSet<EventId>) -> Vec<EventId> {
        let mut left = events.clone();
        let mut ordered = Vec::new();
        while !left.is_empty() {
            let is_candidate = |id: &&EventId| !self.event(id).auth_events.iter().any(|auth| left.contains(auth));
            let smallest = left.iter().filter(is_candidate).min_by_key(|id| {
                let event = self.event(id);
                (Reverse(self.power_level(event)), event.origin_server_ts_ms, (*id).clone())
            });
            let smallest = smallest.unwrap().clone();
            left.remove(&smallest);
            ordered.push(smallest);
        }
        ordered
    }

    /// The power level of an event's sender, "when looking at their respective auth_events". READING: the creator is known even
    /// where the event does not cite the create event.
    fn power_level(&self, event: &Event) -> PowerLevel {
        let power_levels = self.power_levels_of(event).map(|id| self.event(id));
        sender_power_level(self.rules, self.event(&self.create), power_levels, event.sender.as_str())
    }

    fn power_levels_of<'e>(&self, event: &'e Event) -> Option<&'e EventId> {
        event.auth_events.iter().find(|id| self.event(id).is_state(event_type::POWER_LEVELS, ""))
    }

    /// Mainline ordering.
    fn mainline_ordering(&self, power_levels: Option<&EventId>, mut events: Vec<EventId>) -> Vec<EventId> {
        let mut mainline = Vec::new();
        let mut next = power_levels;
        while let Some(id) = next {
            mainline.push(id.clone());
            next = self.power_levels_of(self.event(id));
        }
        let position = |event: &EventId| {
            let mut next = self.power_levels_of(self.event(event));
            while let Some(id) = next {
                if let Some(position) = mainline.iter().position(|on_mainline| on_mainline == id) {
                    return position;
                }
                next = self.power_levels_of(self.event(id));
            }
            usize::MAX
        };
        events.sort_by_key(|id| (Reverse(position(id)), self.event(id).origin_server_ts_ms, id.clone()));
        events
    }

    /// Iterative auth checks.
    fn iterative_auth_checks(&self, mut state: State, events: &[EventId]) -> State {
        for id in events {
            let event = self.event(id);
            // Only state events stand in states; auth events that are none are passed over.
            let Some(key) = event.state_key() else { continue };
            if self.rejected_never_apply && self.rejected.contains(id) {
                continue;
            }
            let mut lookup = Lookup(BTreeMap::new());
            for wanted in
                auth_types_for_event(self.rules, event).into_iter().chain([StateKey::new("m.room.create", "")])
            {
                let of_state = state.get(&wanted).filter(|id| !self.rejected.contains(*id));
                let mut auth_events = event.auth_events.iter().filter(|id| !self.rejected.contains(*id));
                // READING: every event stands on the room's create event, cited or not.
                let found = of_state
                    .or_else(|| auth_events.find(|id| self.event(id).state_key().as_ref() == Some(&wanted)))
                    .or_else(|| Some(&self.create).filter(|_| *wanted.event_type == *event_type::CREATE));
                if let Some(id) = found {
                    lookup.0.insert(wanted, self.event(id));
                }
            }
            if (self.allows)(event, &lookup) {
                state.insert(key, id.clone());
            }
        }
        state
    }
}

/// The product's authorization rules.
pub fn ravel_allows(rules: &'static RoomVersionRules) -> impl Fn(&Event, &Lookup<'_>) -> bool {
    move |event, state| check_state_dependent(rules, event, state).is_ok()
}

/// Unconflicted state map and conflicted state set.
pub fn split(states: &[State]) -> (State, BTreeSet<EventId>) {
    let keys: BTreeSet<&StateKey> = states.iter().flat_map(State::keys).collect();
    let (mut unconflicted, mut conflicted) = (State::new(), BTreeSet::new());
    for key in keys {
        let values: Vec<Option<&EventId>> = states.iter().map(|state| state.get(key)).collect();
        match values[0] {
            Some(value) if values.iter().all(|other| *other == Some(value)) => {
                unconflicted.insert(key.clone(), value.clone());
            }
            _ => conflicted.extend(values.into_iter().flatten().cloned()),
        }
    }
    (unconflicted, conflicted)
}

/// READING: of power levels and join rules only those with an empty state key, and the create event too.
fn is_power_event(event: &Event) -> bool {
    let Some(state_key) = event.state_key.as_deref() else { return false };
    match &*event.event_type {
        "m.room.power_levels" | "m.room.join_rules" | "m.room.create" => state_key.is_empty(),
        "m.room.member" => {
            matches!(event.membership(), Some(Membership::Leave | Membership::Ban))
                && event.sender.as_str() != state_key
        }
        _ => false,
    }
}
