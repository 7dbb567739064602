//! The same rooms for ruma-state-res, to compare answers and times with.

use std::collections::HashMap;

use ravel_core::{event::StateKey, id::EventId};
use ruma_common::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    room_version_rules::{RoomVersionRules, StateResolutionVersion},
};
use ruma_events::{StateEventType, TimelineEventType};
use ruma_state_res::{Event, StateMap, utils::event_id_set::EventIdSet};
use serde_json::value::RawValue;

use super::rooms::{GeneratedEvent, GeneratedRoom};

/// An event as ruma-state-res asks for it.
#[derive(Debug)]
struct RumaEvent {
    event_id: OwnedEventId,
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    event_type: TimelineEventType,
    state_key: Option<String>,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    content: Box<RawValue>,
}

impl Event for RumaEvent {
    type Id = OwnedEventId;

    fn event_id(&self) -> &Self::Id {
        &self.event_id
    }
    fn room_id(&self) -> Option<&RoomId> {
        self.room_id.as_deref()
    }
    fn sender(&self) -> &UserId {
        &self.sender
    }
    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }
    fn event_type(&self) -> &TimelineEventType {
        &self.event_type
    }
    fn content(&self) -> &RawValue {
        &self.content
    }
    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &Self::Id> + '_> {
        Box::new(self.auth_events.iter())
    }
    fn redacts(&self) -> Option<&Self::Id> {
        None
    }
    fn rejected(&self) -> bool {
        false
    }
}

type Id = OwnedEventId;

/// A room as ruma-state-res takes it: events by id, a state map and an auth chain for each fork.
pub struct RumaRoom {
    rules: RoomVersionRules,
    events: HashMap<OwnedEventId, RumaEvent>,
    states: Vec<StateMap<Id>>,
    auth_chains: Vec<EventIdSet<Id>>,
}

impl RumaRoom {
    /// Translates a generated room. `None` if ruma-state-res does not do its version.
    pub fn new(room: &GeneratedRoom) -> Option<Self> {
        let rules = RoomVersionId::try_from(room.rules.version.as_str()).ok()?.rules()?;
        let events: Option<HashMap<_, _>> =
            room.events.iter().map(|event| Some((owned(&event.event.event_id)?, translate(event)?))).collect();
        let events = events?;
        let shared = state_map(&events, &room.shared)?;
        let mut states = Vec::new();
        let mut auth_chains = Vec::new();
        for fork in &room.forks {
            let mut state = shared.clone();
            state.extend(state_map(&events, fork)?);
            auth_chains.push(auth_chain(&events, &state));
            states.push(state);
        }
        Some(Self { rules, events, states, auth_chains })
    }

    /// Returns the auth chains for one run: ruma-state-res takes them, so they are cloned outside of what is timed.
    pub fn prepare(&self) -> Vec<EventIdSet<Id>> {
        self.auth_chains.clone()
    }

    /// Runs ruma-state-res.
    ///
    /// # Errors
    ///
    /// When it fails.
    pub fn resolve(&self, auth_chains: Vec<EventIdSet<Id>>) -> Result<StateMap<Id>, ruma_state_res::Error> {
        let StateResolutionVersion::V2(v2) = &self.rules.state_res else {
            unreachable!("only rooms of version 2 and later are translated")
        };
        ruma_state_res::resolve(
            &self.rules.authorization,
            v2,
            &self.states,
            auth_chains,
            |event_id| self.events.get(event_id),
            |conflicted| Some(self.subgraph(conflicted)),
        )
    }

    /// Returns the conflicted state subgraph, which ruma-state-res leaves to its caller.
    fn subgraph(&self, conflicted: &StateMap<Vec<Id>>) -> EventIdSet<Id> {
        let set: EventIdSet<Id> = conflicted.values().flatten().cloned().collect();
        let mut leads: HashMap<Id, bool> = HashMap::new();
        for id in set.iter() {
            self.leads_to_conflicted(id, &set, &mut leads);
        }
        leads.into_iter().filter(|(_, leads)| *leads).map(|(id, _)| id).collect()
    }

    /// Fills in, for an event and its auth chain, whether it is or leads to a conflicted event.
    fn leads_to_conflicted(&self, id: &Id, conflicted: &EventIdSet<Id>, leads: &mut HashMap<Id, bool>) {
        let mut pending = vec![(id.clone(), false)];
        while let Some((id, expanded)) = pending.pop() {
            let Some(event) = self.events.get(&id) else { continue };
            if expanded {
                let leading = conflicted.contains(&id)
                    || event.auth_events.iter().any(|auth| leads.get(auth).copied().unwrap_or(false));
                leads.insert(id, leading);
            } else if !leads.contains_key(&id) {
                leads.insert(id.clone(), false);
                pending.push((id, true));
                pending.extend(event.auth_events.iter().map(|auth| (auth.clone(), false)));
            }
        }
    }
}

/// Whether an answer is the one given.
pub fn is_equal(answer: &StateMap<Id>, entries: &[(StateKey, EventId)]) -> bool {
    answer.len() == entries.len()
        && entries.iter().all(|(key, event_id)| {
            let key = (StateEventType::from(&*key.event_type), key.state_key.to_string());
            answer.get(&key).is_some_and(|found| found.as_str() == event_id.as_str())
        })
}

fn owned(event_id: &EventId) -> Option<OwnedEventId> {
    OwnedEventId::try_from(event_id.as_str()).ok()
}

fn translate(generated: &GeneratedEvent) -> Option<RumaEvent> {
    let event = &generated.event;
    let ids = |ids: &[EventId]| ids.iter().map(owned).collect::<Option<Vec<Id>>>();
    Some(RumaEvent {
        event_id: owned(&event.event_id)?,
        room_id: if event.carries_room_id { Some(OwnedRoomId::try_from(event.room_id.as_str()).ok()?) } else { None },
        sender: OwnedUserId::try_from(event.sender.as_str()).ok()?,
        origin_server_ts: MilliSecondsSinceUnixEpoch(event.origin_server_ts_ms.try_into().ok()?),
        event_type: TimelineEventType::from(&*event.event_type),
        state_key: event.state_key.as_deref().map(str::to_owned),
        prev_events: ids(&event.prev_events)?,
        auth_events: ids(&event.auth_events)?,
        content: generated.content.clone(),
    })
}

fn state_map<'a>(
    events: &HashMap<OwnedEventId, RumaEvent>,
    entries: impl IntoIterator<Item = (&'a StateKey, &'a EventId)>,
) -> Option<StateMap<Id>> {
    let entries = entries.into_iter().map(|(key, event_id)| {
        let event = events.get(&owned(event_id)?)?;
        Some(((StateEventType::from(&*key.event_type), key.state_key.to_string()), event.event_id.clone()))
    });
    entries.collect()
}

/// Returns the auth chain of a state, its own events included.
fn auth_chain(events: &HashMap<OwnedEventId, RumaEvent>, state: &StateMap<Id>) -> EventIdSet<Id> {
    let mut chain = EventIdSet::new();
    let mut pending: Vec<Id> = state.values().cloned().collect();
    while let Some(id) = pending.pop() {
        if chain.insert(id.clone())
            && let Some(event) = events.get(&id)
        {
            pending.extend(event.auth_events.iter().cloned());
        }
    }
    chain
}
