//! Memberships of users of this server in rooms that it is not in: they are invited, have knocked, or have turned an invite down.
//!
//! They are facts of the log, as the events are of rooms that are not here. Once the server is in the room, the room's state counts.

use ravel_core::{
    event::Membership,
    id::{EventId, RoomId, ServerName, UserId},
};
use ravel_store::{
    Durability,
    log::{EventLog, Fact},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ClientEvent, LeftRoom, Rooms, RoomsError, Sync, read::CLIENT_FIELDS};
use crate::{
    fact_kind,
    record::{RecordError, all_facts, decode_json, encode_json, key, key_parts},
};

/// A user's membership in a room that this server is not in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Outside {
    /// `invite`, `knock` or `leave`.
    pub(crate) membership: OutsideMembership,
    /// The id of the member event.
    pub(crate) event_id: String,
    /// The member event, as servers exchange it.
    pub(crate) event: Map<String, Value>,
    /// State events in stripped form that tell what room it is.
    pub(crate) state: Vec<Map<String, Value>>,
    /// Servers that may know the room.
    pub(crate) servers: Vec<String>,
    /// The version of the room, if it is known.
    #[serde(default)]
    pub(crate) room_version: String,
}

/// The memberships that somebody can have from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OutsideMembership {
    Invite,
    Knock,
    Leave,
}

impl Outside {
    /// Returns the servers that may know the room.
    pub(crate) fn servers(&self) -> impl Iterator<Item = ServerName> {
        self.servers.iter().filter_map(|server| ServerName::parse(server).ok())
    }

    fn member_event(&self, room_id: &RoomId, sequence: u64) -> Option<ClientEvent> {
        let event_id = EventId::parse(&self.event_id).ok()?;
        let mut json = self.event.clone();
        json.retain(|field, _| CLIENT_FIELDS.contains(&field.as_str()));
        json.insert("event_id".to_owned(), event_id.as_str().into());
        json.insert("room_id".to_owned(), room_id.as_str().into());
        Some(ClientEvent { sequence, event_id, json })
    }

    /// Returns what is shown of the room. The events have no ids; that of the member event stands in.
    fn description(&self, member: &ClientEvent) -> Vec<ClientEvent> {
        let of = |json: &Map<String, Value>| ClientEvent { json: json.clone(), ..member.clone() };
        self.state.iter().map(of).chain([member.clone()]).collect()
    }
}

fn decode(bytes: &[u8]) -> Result<Outside, RecordError> {
    Ok(serde_json::from_value(decode_json(bytes)?)?)
}

/// Returns all memberships from outside with the places of their facts in the log.
pub(super) async fn all(
    log: &EventLog,
    server_name: &ServerName,
) -> Result<Vec<(UserId, RoomId, OutsideMembership, u64)>, RoomsError> {
    let facts = all_facts(log, fact_kind::OUTSIDE_MEMBERSHIP, b"").await?.into_iter().map(|fact| {
        let [localpart, room_id] = key_parts(&fact.key)?;
        let user = UserId::parse(&format!("@{localpart}:{server_name}"))?;
        Ok((user, RoomId::parse(room_id)?, decode(&fact.value)?.membership, fact.sequence))
    });
    facts.collect::<Result<_, RecordError>>().map_err(RoomsError::from)
}

impl Rooms {
    /// Returns a user's membership in a room that this server is not in; `None` if it is in the room, and if there is none.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub(crate) async fn outside(&self, room_id: &RoomId, user: &UserId) -> Result<Option<Outside>, RoomsError> {
        if self.0.members().outside(user, room_id).is_none() {
            return Ok(None);
        }
        let key = key(&[user.localpart(), room_id.as_str()]);
        let fact = self.0.log.fact(fact_kind::OUTSIDE_MEMBERSHIP, &key).await?;
        Ok(fact.map(|fact| decode(&fact.value)).transpose()?)
    }

    /// Returns the number of invites of a user to rooms that this server is not in.
    pub(crate) fn invites_from_outside(&self, user: &UserId) -> usize {
        let all = self.0.members().outside_of(user);
        all.iter().filter(|(_, membership, _)| *membership == OutsideMembership::Invite).count()
    }

    /// Sets a user's membership in a room that this server is not in, or takes it away; returns once it is durable.
    ///
    /// Goes on to its end if the caller does not wait for it.
    ///
    /// # Errors
    ///
    /// When the log can't be written.
    pub(crate) async fn set_outside(
        &self,
        room_id: &RoomId,
        user: &UserId,
        outside: Option<&Outside>,
    ) -> Result<(), RoomsError> {
        let membership = outside.map(|outside| outside.membership);
        let value = outside.map(serde_json::to_value).transpose().map_err(RecordError::from)?;
        let value = value.as_ref().map(encode_json).transpose()?;
        let key = key(&[user.localpart(), room_id.as_str()]);
        let fact = Fact { kind: fact_kind::OUTSIDE_MEMBERSHIP, key, value };
        let (rooms, room_id, user) = (self.clone(), room_id.clone(), user.clone());
        let set = tokio::spawn(async move {
            let inner = &rooms.0;
            let _under_way = inner.progress.begin(|| inner.log.len());
            let end = inner.log.put_facts(&[fact], &[], Durability::Sync).await?.unwrap_or_default();
            inner.members().set_outside(&user, &room_id, membership.map(|it| (it, end.saturating_sub(1))), end);
            Ok(())
        });
        set.await.map_err(|_| RoomsError::Panicked)?
    }

    /// Takes the memberships from outside of all users in a room away, since the server is in it now and its state counts.
    ///
    /// # Errors
    ///
    /// When the log can't be written.
    pub(crate) async fn end_outside(&self, room_id: &RoomId) -> Result<(), RoomsError> {
        let users = self.0.members().users_outside(room_id);
        for user in users {
            self.set_outside(room_id, &user, None).await?;
        }
        Ok(())
    }

    /// Adds to a sync what is new of a user's memberships in rooms that this server is not in.
    pub(super) async fn add_outside(
        &self,
        user: &UserId,
        since: Option<u64>,
        now: u64,
        sync: &mut Sync,
    ) -> Result<(), RoomsError> {
        let from = since.map_or(0, |since| since.min(now));
        let all = self.0.members().outside_of(user);
        for (room_id, _, sequence) in all.into_iter().filter(|(.., sequence)| (from..now).contains(sequence)) {
            let Some(outside) = self.outside(&room_id, user).await? else { continue };
            let Some(member) = outside.member_event(&room_id, sequence) else { continue };
            match outside.membership {
                OutsideMembership::Invite => drop(sync.invited.insert(room_id, outside.description(&member))),
                OutsideMembership::Knock => drop(sync.knocked.insert(room_id, outside.description(&member))),
                OutsideMembership::Leave if since.is_some() => {
                    sync.left.insert(room_id, LeftRoom { timeline: vec![member], ..LeftRoom::default() });
                }
                OutsideMembership::Leave => {}
            }
        }
        Ok(())
    }
}

impl From<OutsideMembership> for Membership {
    fn from(membership: OutsideMembership) -> Self {
        match membership {
            OutsideMembership::Invite => Self::Invite,
            OutsideMembership::Knock => Self::Knock,
            OutsideMembership::Leave => Self::Leave,
        }
    }
}
