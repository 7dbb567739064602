//! Rooms and states as ruma-state-res takes them.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, UNIX_EPOCH},
};

use ravel_core::{
    canonical_json::{CanonicalJsonObject, get_object, object_to_canonical_bytes},
    event::{Event, StateKey},
    id::EventId,
    room_version::RoomVersion,
};
use ruma_common::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    room_version_rules::RoomVersionRules,
};
use ruma_events::{StateEventType, TimelineEventType};
pub use ruma_state_res::Error;
use ruma_state_res::{StateMap, check_state_dependent_auth_rules, utils::event_id_set::EventIdSet};
use serde_json::value::RawValue;

use crate::{plain, rooms::GeneratedRoom};

/// The auth chains of states, each with the state's own events, which ruma-state-res leaves to its callers.
pub type AuthChains = Vec<EventIdSet<OwnedEventId>>;

/// Why a room can't be handed over: ruma has another opinion of what an event may be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ruma can't read {field} of {event_id}")]
pub struct Untranslatable {
    /// The event.
    pub event_id: EventId,
    /// What it can't read.
    pub field: &'static str,
}

/// An event.
#[derive(Debug)]
pub struct Pdu {
    event_id: OwnedEventId,
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    event_type: TimelineEventType,
    state_key: Option<String>,
    content: Box<RawValue>,
    prev_events: Vec<OwnedEventId>,
    auth_events: Vec<OwnedEventId>,
    rejected: bool,
}

/// A room.
#[derive(Debug)]
pub struct Room {
    /// The rules of its version.
    pub rules: RoomVersionRules,
    /// Its events.
    pub events: HashMap<OwnedEventId, Pdu>,
}

/// States to be resolved, with their auth chains.
#[derive(Debug, Default)]
pub struct Input {
    states: Vec<StateMap<OwnedEventId>>,
    auth_chains: AuthChains,
}

/// Returns the rules of a room version.
pub fn rules(version: RoomVersion) -> RoomVersionRules {
    RoomVersionId::try_from(version.as_str()).unwrap().rules().unwrap()
}

/// Returns an event id that ruma has read before.
pub fn event_id(id: &EventId) -> OwnedEventId {
    OwnedEventId::try_from(id.as_str()).unwrap()
}

/// Returns the `content` of an event, as JSON.
pub fn content_of(event: &CanonicalJsonObject) -> String {
    let content = get_object(event, "content").map(object_to_canonical_bytes).unwrap_or_default();
    String::from_utf8(content).unwrap()
}

impl Pdu {
    fn new(event: &Event, content: &str, rejected: bool) -> Result<Self, Untranslatable> {
        let fail = |field| Untranslatable { event_id: event.event_id.clone(), field };
        let ids = |ids: &[EventId], field| {
            let ids = ids.iter().map(|id| OwnedEventId::try_from(id.as_str()).map_err(|_| fail(field)));
            ids.collect::<Result<Vec<_>, _>>()
        };
        let room_id = event.carries_room_id.then(|| OwnedRoomId::try_from(event.room_id.as_str()));
        let since_1970 = event.origin_server_ts_ms.try_into().map(Duration::from_millis).ok();
        let origin_server_ts =
            since_1970.and_then(|time| MilliSecondsSinceUnixEpoch::from_system_time(UNIX_EPOCH + time));
        Ok(Self {
            event_id: OwnedEventId::try_from(event.event_id.as_str()).map_err(|_| fail("event_id"))?,
            room_id: room_id.transpose().map_err(|_| fail("room_id"))?,
            sender: event.sender.as_str().try_into().map_err(|_| fail("sender"))?,
            origin_server_ts: origin_server_ts.ok_or_else(|| fail("origin_server_ts"))?,
            event_type: TimelineEventType::from(&*event.event_type),
            state_key: event.state_key.as_deref().map(str::to_owned),
            content: RawValue::from_string(content.to_owned()).map_err(|_| fail("content"))?,
            prev_events: ids(&event.prev_events, "prev_events")?,
            auth_events: ids(&event.auth_events, "auth_events")?,
            rejected,
        })
    }
}

impl Room {
    /// Translates a room's events, each with its `content` as JSON and whether it was rejected.
    ///
    /// # Errors
    ///
    /// When ruma can't read one.
    pub fn new<'a>(
        version: RoomVersion,
        events: impl IntoIterator<Item = (&'a Event, impl AsRef<str>, bool)>,
    ) -> Result<Self, Untranslatable> {
        let pdus = events.into_iter().map(|(event, content, rejected)| {
            let pdu = Pdu::new(event, content.as_ref(), rejected)?;
            Ok((pdu.event_id.clone(), pdu))
        });
        Ok(Self { rules: rules(version), events: pdus.collect::<Result<_, _>>()? })
    }

    /// Translates a generated room.
    ///
    /// # Panics
    ///
    /// When ruma can't read its events, which are all well-formed.
    pub fn of_generated(room: &GeneratedRoom) -> Self {
        let events = room.events.iter().map(|event| (&*event.event, &event.content, false));
        Self::new(room.rules.version, events).unwrap()
    }

    /// Translates states of this room, and finds their auth chains.
    pub fn input(&self, states: impl IntoIterator<Item = plain::State>) -> Input {
        let mut input = Input::default();
        for state in states {
            let state = self.state_map(&state);
            input.auth_chains.push(self.full_auth_chain(&state));
            input.states.push(state);
        }
        input
    }

    /// Runs ruma-state-res, which takes the auth chains: see [`Input::auth_chains`].
    ///
    /// # Errors
    ///
    /// When it fails.
    ///
    /// # Panics
    ///
    /// In a room of version 1, whose resolution ruma-state-res does not have.
    pub fn run(&self, input: &Input, auth_chains: AuthChains) -> ruma_state_res::Result<StateMap<OwnedEventId>> {
        ruma_state_res::resolve(
            &self.rules.authorization,
            self.rules.state_res.v2_rules().unwrap(),
            &input.states,
            auth_chains,
            |id| self.events.get(id),
            |conflicted| Some(self.conflicted_state_subgraph(conflicted)),
        )
    }

    /// Resolves states; errors and panics are those of [`run`](Self::run).
    ///
    /// # Errors
    ///
    /// When ruma-state-res fails.
    pub fn resolve(&self, states: &[plain::State]) -> ruma_state_res::Result<plain::State> {
        let input = self.input(states.iter().cloned());
        Ok(plain_state(self.run(&input, input.auth_chains())?))
    }

    /// Whether ruma's authorization rules allow an event in a state.
    pub fn allows(&self, event: &Event, state: &plain::Lookup<'_>) -> bool {
        let state: BTreeMap<(String, String), &Pdu> = state
            .0
            .iter()
            .map(|(key, event)| {
                ((key.event_type.to_string(), key.state_key.to_string()), &self.events[&event_id(&event.event_id)])
            })
            .collect();
        let pdu = &self.events[&event_id(&event.event_id)];
        check_state_dependent_auth_rules(&self.rules.authorization, pdu, |event_type, state_key| {
            state.get(&(event_type.to_string(), state_key.to_owned())).copied()
        })
        .is_ok()
    }

    fn state_map(&self, state: &plain::State) -> StateMap<OwnedEventId> {
        // The ids of the events, not copies of them, in case ruma shares what they are made of.
        let id = |id: &EventId| self.events[&event_id(id)].event_id.clone();
        let key = |key: &StateKey| (StateEventType::from(&*key.event_type), key.state_key.to_string());
        state.iter().map(|(state_key, event_id)| (key(state_key), id(event_id))).collect()
    }

    fn full_auth_chain(&self, state: &StateMap<OwnedEventId>) -> EventIdSet<OwnedEventId> {
        let mut chain = EventIdSet::new();
        let mut pending: Vec<&OwnedEventId> = state.values().collect();
        while let Some(id) = pending.pop() {
            if chain.insert(id.clone()) {
                pending.extend(&self.events[id].auth_events);
            }
        }
        chain
    }

    /// Returns what is reached from a conflicted event and leads to one, these included; ruma leaves this to its callers too.
    fn conflicted_state_subgraph(
        &self,
        conflicted_state_set: &StateMap<Vec<OwnedEventId>>,
    ) -> EventIdSet<OwnedEventId> {
        let conflicted: EventIdSet<OwnedEventId> = conflicted_state_set.values().flatten().cloned().collect();
        // Each event after its auth events.
        let mut leads: HashMap<&OwnedEventId, bool> = HashMap::new();
        let mut pending: Vec<(&OwnedEventId, bool)> = conflicted.iter().map(|id| (id, false)).collect();
        while let Some((id, auth_events_are_done)) = pending.pop() {
            let auth_events = &self.events[id].auth_events;
            if auth_events_are_done {
                let leading = conflicted.contains(id) || auth_events.iter().any(|id| leads.get(id) == Some(&true));
                leads.insert(id, leading);
            } else if !leads.contains_key(id) {
                leads.insert(id, false);
                pending.push((id, true));
                pending.extend(auth_events.iter().map(|id| (id, false)));
            }
        }
        leads.into_iter().filter(|(_, leads)| *leads).map(|(id, _)| id.clone()).collect()
    }
}

impl Input {
    /// Returns the auth chains for one run. They are copied, so that this can be done outside of what is measured.
    pub fn auth_chains(&self) -> AuthChains {
        self.auth_chains.clone()
    }
}

/// Returns an answer of ruma-state-res with the ids and keys of Ravel.
pub fn plain_state(answer: StateMap<OwnedEventId>) -> plain::State {
    let entry = |((event_type, state_key), id): ((StateEventType, String), OwnedEventId)| {
        (StateKey::new(event_type.to_string(), state_key), EventId::parse(id.as_str()).unwrap())
    };
    answer.into_iter().map(entry).collect()
}

impl ruma_state_res::Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
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
    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }
    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }
    fn redacts(&self) -> Option<&OwnedEventId> {
        None
    }
    fn rejected(&self) -> bool {
        self.rejected
    }
}
