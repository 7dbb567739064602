//! Ravel's events and states as ruma-state-res takes them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use ravel_core::{
    canonical_json::{CanonicalJsonObject, get_object, get_str, object_to_canonical_bytes},
    event::{Event, StateKey},
    id::EventId,
    room_version::RoomVersion,
};
use ravel_proptests::plain;
use ruma_common::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId,
    room_version_rules::RoomVersionRules,
};
use ruma_events::{StateEventType, TimelineEventType};
use ruma_state_res::{StateMap, check_state_dependent_auth_rules, utils::event_id_set::EventIdSet};
use serde_json::value::RawValue;

/// An event.
pub(crate) struct Pdu {
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
pub(crate) struct Room {
    pub(crate) rules: RoomVersionRules,
    pub(crate) events: HashMap<OwnedEventId, Arc<Pdu>>,
}

pub(crate) fn event_id(id: &EventId) -> OwnedEventId {
    OwnedEventId::try_from(id.as_str()).unwrap()
}

pub(crate) fn rules(version: RoomVersion) -> RoomVersionRules {
    RoomVersionId::try_from(version.as_str()).unwrap().rules().unwrap()
}

impl Pdu {
    fn new(json: &CanonicalJsonObject, event: &Event, rejected: bool) -> Self {
        let since_1970 = Duration::from_millis(event.origin_server_ts_ms.try_into().unwrap());
        let content = object_to_canonical_bytes(get_object(json, "content").unwrap());
        Self {
            event_id: event_id(&event.event_id),
            room_id: get_str(json, "room_id").map(|id| id.try_into().unwrap()),
            sender: event.sender.as_str().try_into().unwrap(),
            origin_server_ts: MilliSecondsSinceUnixEpoch::from_system_time(UNIX_EPOCH + since_1970).unwrap(),
            event_type: TimelineEventType::from(&*event.event_type),
            state_key: event.state_key.as_deref().map(str::to_owned),
            content: RawValue::from_string(String::from_utf8(content).unwrap()).unwrap(),
            prev_events: event.prev_events.iter().map(event_id).collect(),
            auth_events: event.auth_events.iter().map(event_id).collect(),
            rejected,
        }
    }
}

impl Room {
    pub(crate) fn new<'a>(
        version: RoomVersion,
        events: impl IntoIterator<Item = (&'a CanonicalJsonObject, &'a Event, bool)>,
    ) -> Self {
        let pdus = events.into_iter().map(|(json, event, rejected)| Arc::new(Pdu::new(json, event, rejected)));
        Self { rules: rules(version), events: pdus.map(|pdu| (pdu.event_id.clone(), pdu)).collect() }
    }

    /// Resolves states. `plain` gives the auth chains and the conflicted state subgraph, which ruma leaves to its callers.
    pub(crate) fn resolve(
        &self,
        plain: &plain::Room<'_>,
        states: &[plain::State],
    ) -> ruma_state_res::Result<plain::State> {
        let state_maps: Vec<StateMap<OwnedEventId>> = states.iter().map(state_map).collect();
        let auth_chains = states.iter().map(|state| set(&plain.full_auth_chain(state))).collect();
        let resolved = ruma_state_res::resolve(
            &self.rules.authorization,
            self.rules.state_res.v2_rules().unwrap(),
            &state_maps,
            auth_chains,
            |id| self.events.get(id).cloned(),
            |conflicted| {
                let conflicted = conflicted.values().flatten().map(|id| EventId::parse(id.as_str()).unwrap()).collect();
                Some(set(&plain.conflicted_state_subgraph(&conflicted)))
            },
        )?;
        let entry = |((event_type, state_key), id): ((StateEventType, String), OwnedEventId)| {
            (StateKey::new(event_type.to_string(), state_key), EventId::parse(id.as_str()).unwrap())
        };
        Ok(resolved.into_iter().map(entry).collect())
    }

    /// Whether ruma's authorization rules allow an event in a state.
    pub(crate) fn allows(&self, event: &Event, state: &plain::Lookup<'_>) -> bool {
        let state: BTreeMap<(String, String), &Arc<Pdu>> = state
            .0
            .iter()
            .map(|(key, event)| {
                ((key.event_type.to_string(), key.state_key.to_string()), &self.events[&event_id(&event.event_id)])
            })
            .collect();
        let pdu = &self.events[&event_id(&event.event_id)];
        check_state_dependent_auth_rules(&self.rules.authorization, pdu, |event_type, state_key| {
            state.get(&(event_type.to_string(), state_key.to_owned())).map(|pdu| Arc::clone(pdu))
        })
        .is_ok()
    }
}

fn state_map(state: &plain::State) -> StateMap<OwnedEventId> {
    let key = |key: &StateKey| (StateEventType::from(&*key.event_type), key.state_key.to_string());
    state.iter().map(|(state_key, id)| (key(state_key), event_id(id))).collect()
}

fn set(ids: &BTreeSet<EventId>) -> EventIdSet<OwnedEventId> {
    ids.iter().map(event_id).collect()
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
