//! As a resident: what a server is told about a room that its user joins.

use std::collections::BTreeSet;

use ravel_core::{
    event::{Membership, event_type},
    id::{EventId, RoomId, ServerName, UserId},
    pdu::VerifiedPdu,
    room::Room,
};

use super::ResidentError;
use crate::homeserver::Homeserver;

/// The state of a room before a join, with the events that authorize it, each in its JSON as servers exchange it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoomState {
    /// The state.
    pub state: Vec<Vec<u8>>,
    /// The auth chains of the state and of the join.
    pub auth_chain: Vec<Vec<u8>>,
    /// The join, with our signature if it needs one.
    pub event: Vec<u8>,
    /// Members are left out of the state.
    pub members_omitted: bool,
    /// The servers that were in the room, if members are left out.
    pub servers_in_room: Option<Vec<ServerName>>,
}

impl RoomState {
    /// Writes the answer to `send_join`.
    ///
    /// Source: server-server API, "PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}".
    pub fn to_json(&self, origin: &ServerName) -> Vec<u8> {
        let size: usize = self.state.iter().chain(&self.auth_chain).map(|event| event.len() + 1).sum();
        let mut json = Vec::with_capacity(size + self.event.len() + 1024);
        json.extend_from_slice(b"{\"origin\":\"");
        // A server name has no character that needs an escape.
        json.extend_from_slice(origin.as_str().as_bytes());
        json.extend_from_slice(b"\",\"event\":");
        json.extend_from_slice(&self.event);
        let members_omitted = format!(",\"members_omitted\":{}", self.members_omitted);
        json.extend_from_slice(members_omitted.as_bytes());
        if let Some(servers) = &self.servers_in_room {
            json.extend_from_slice(b",\"servers_in_room\":");
            let names = servers.iter().map(|server| format!("\"{server}\"").into_bytes());
            write_array(&mut json, names);
        }
        for (field, events) in [("state", &self.state), ("auth_chain", &self.auth_chain)] {
            json.extend_from_slice(format!(",\"{field}\":").as_bytes());
            write_array(&mut json, events);
        }
        json.push(b'}');
        json
    }
}

fn write_array(json: &mut Vec<u8>, items: impl IntoIterator<Item: AsRef<[u8]>>) {
    json.push(b'[');
    for (number, item) in items.into_iter().enumerate() {
        if number > 0 {
            json.push(b',');
        }
        json.extend_from_slice(item.as_ref());
    }
    json.push(b']');
}

/// Which events a server is told of.
struct Told {
    state: Vec<EventId>,
    auth_chain: Vec<EventId>,
    servers: Option<Vec<ServerName>>,
}

impl Homeserver {
    /// Returns what is told about a room to the server whose user joined by `join`, which is part of the room.
    ///
    /// Costs what the state holds.
    pub(super) async fn room_state_before(
        &self,
        room_id: &RoomId,
        join: &VerifiedPdu,
        omit_members: bool,
    ) -> Result<RoomState, ResidentError> {
        let told = self.rooms.look(room_id, |room| told(room, join, omit_members)).await?;
        let Told { state, auth_chain, servers } = told.ok_or(ResidentError::NotInRoom)?;
        let state = self.rooms.pdus(room_id, &state).await?;
        let auth_chain = self.rooms.pdus(room_id, &auth_chain).await?;
        let event = join.json().to_vec();
        Ok(RoomState { state, auth_chain, event, members_omitted: servers.is_some(), servers_in_room: servers })
    }
}

fn told(room: &Room, join: &VerifiedPdu, omit_members: bool) -> Option<Told> {
    let before = room.state_before(join.event_id())?;
    let all = before.sorted_entries();
    if !omit_members {
        let state: Vec<EventId> = all.into_iter().map(|(_, event_id)| event_id).collect();
        let auth_chain = auth_chain(room, state.iter().chain([join.event_id()]), &BTreeSet::new());
        return Some(Told { state, auth_chain, servers: None });
    }
    let (members, mut state): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|(key, _)| *key.event_type == *event_type::MEMBER);
    let servers: BTreeSet<ServerName> = members
        .iter()
        .filter(|(_, event_id)| membership(room, event_id) == Some(Membership::Join))
        .filter_map(|(key, _)| ServerName::parse(UserId::parse(&key.state_key).ok()?.server_name()).ok())
        .collect();
    let has_name = before.get("m.room.name", "").or_else(|| before.get("m.room.canonical_alias", "")).is_some();
    if !has_name {
        let joined_or_invited =
            |event_id: &EventId| matches!(membership(room, event_id), Some(Membership::Join | Membership::Invite));
        let joiner = join.event().sender.as_str();
        let heroes =
            members.into_iter().filter(|(key, event_id)| *key.state_key != *joiner && joined_or_invited(event_id));
        state.extend(heroes.take(HEROES_MAX));
    }
    let state: Vec<EventId> = state.into_iter().map(|(_, event_id)| event_id).collect();
    let given: BTreeSet<&EventId> = state.iter().collect();
    let auth_chain = auth_chain(room, state.iter().chain([join.event_id()]), &given);
    Some(Told { state, auth_chain, servers: Some(servers.into_iter().collect()) })
}

/// How many members stand for the name of a room that has none.
///
/// Source: client-server API, "GET /_matrix/client/v3/sync", `m.heroes`.
const HEROES_MAX: usize = 5;

fn membership(room: &Room, event_id: &EventId) -> Option<Membership> {
    room.event(event_id)?.membership()
}

/// Returns the auth chains of some events together, parents before children, without the events of `without`.
fn auth_chain<'e>(
    room: &Room,
    of: impl IntoIterator<Item = &'e EventId>,
    without: &BTreeSet<&EventId>,
) -> Vec<EventId> {
    let graph = room.graph();
    let chain = graph.auth_chain(of.into_iter().filter_map(|event_id| graph.index_of(event_id))).into_iter();
    chain.map(|index| graph.event_id(index)).filter(|event_id| !without.contains(event_id)).collect()
}
