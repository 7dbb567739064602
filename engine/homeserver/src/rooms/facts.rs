//! Facts that users see in their next sync, and rooms that they forgot.

use std::collections::HashMap;

use ravel_core::{
    event::Membership,
    id::{EventId, RoomId, ServerName, UserId},
};
use ravel_store::{
    Durability,
    log::{Condition, EventLog, Fact},
};
use serde_json::Value;

use super::{OutsideMembership, Rooms, RoomsError};
use crate::{
    fact_kind,
    record::{RecordError, all_facts, decode_json, encode_json, key, key_parts},
};

impl Rooms {
    /// Puts facts that are news for a user of this server, and wakes its syncs; returns whether the conditions held.
    ///
    /// Goes on to its end if the caller does not wait for it.
    ///
    /// # Errors
    ///
    /// When the log can't be written.
    pub(crate) async fn put_facts_for(
        &self,
        user: UserId,
        facts: Vec<Fact>,
        conditions: Vec<Condition>,
    ) -> Result<bool, RoomsError> {
        let inner = self.0.clone();
        let put = tokio::spawn(async move {
            let _under_way = inner.progress.begin(|| inner.log.len());
            let is_put = inner.log.put_facts(&facts, &conditions, Durability::Sync).await?.is_some();
            if is_put {
                inner.members().note_facts(&user, inner.log.len());
            }
            Ok(is_put)
        });
        put.await.map_err(|_| RoomsError::Panicked)?
    }

    /// Whether there may be facts for a user from some place in the log on.
    pub(crate) fn has_facts_from(&self, user: &UserId, from: u64) -> bool {
        self.0.members().has_facts_from(user, from)
    }

    /// Forgets a room that a user has left or was banned from: it does not see it any more, until it is in it again.
    ///
    /// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/forget".
    ///
    /// # Errors
    ///
    /// `StillInRoom`; `NoSuchRoom`.
    pub async fn forget(&self, room_id: &RoomId, user: &UserId) -> Result<(), RoomsError> {
        match self.outside(room_id, user).await? {
            Some(outside) if outside.membership == OutsideMembership::Leave => {
                return self.set_outside(room_id, user, None).await;
            }
            Some(_) => return Err(RoomsError::StillInRoom),
            None => {}
        }
        let member =
            self.read(room_id, |loaded| loaded.member(user).map(|event| (event.event_id.clone(), event.membership())));
        let member = match member.await? {
            // Who never was there has nothing to forget.
            None => return Ok(()),
            Some((member, Some(Membership::Leave | Membership::Ban))) => member,
            Some(_) => return Err(RoomsError::StillInRoom),
        };
        let fact = Fact {
            kind: fact_kind::FORGOTTEN_ROOM,
            key: key(&[user.localpart(), room_id.as_str()]),
            value: Some(encode_json(&Value::from(member.as_str()))?),
        };
        self.0.log.put_facts(&[fact], &[], Durability::Sync).await?;
        let is_still_so = |event_id: &EventId| *event_id == member;
        // It may have come back meanwhile.
        let now = self.read(room_id, |loaded| loaded.member(user).map(|event| event.event_id.clone())).await?;
        if now.as_ref().is_some_and(is_still_so) {
            self.0.members().forget(user, room_id, member);
        }
        Ok(())
    }
}

/// Returns the rooms that users forgot.
pub(super) async fn forgotten(
    log: &EventLog,
    server_name: &ServerName,
) -> Result<HashMap<(UserId, RoomId), EventId>, RoomsError> {
    let facts = all_facts(log, fact_kind::FORGOTTEN_ROOM, b"").await?.into_iter().map(|fact| {
        let [localpart, room_id] = key_parts(&fact.key)?;
        let user = UserId::parse(&format!("@{localpart}:{server_name}"))?;
        let member = decode_json(&fact.value)?;
        let member = EventId::parse(member.as_str().unwrap_or_default())?;
        Ok(((user, RoomId::parse(room_id)?), member))
    });
    facts.collect::<Result<_, RecordError>>().map_err(RoomsError::from)
}
