//! What users of this server do, as other servers are told of it.
//!
//! Source: server-server API, "Typing Notifications", "Receipts", "Presence".

use std::{collections::BTreeSet, sync::Weak};

use ravel_core::id::{RoomId, ServerName, UserId};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::{EphemeralError, LocalEdu, Presence};
use crate::{
    homeserver::{Homeserver, Parts},
    record::RecordError,
    sending::Edu,
};

impl Homeserver {
    /// Tells other servers what users of this one do, until the server is dropped.
    pub(crate) async fn send_local_edus(parts: Weak<Parts>) {
        let Some(mut edus) = Self::upgrade(&parts).map(|server| server.ephemeral.local_edus()) else { return };
        loop {
            let edu = match edus.recv().await {
                Ok(edu) => edu,
                // It passes.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            };
            let Some(server) = Self::upgrade(&parts) else { return };
            if let Err(error) = server.send_local_edu(edu).await {
                tracing::warn!(%error, "other servers are not told what a user does");
            }
        }
    }

    async fn send_local_edu(&self, edu: LocalEdu) -> Result<(), EphemeralError> {
        let (destinations, edu) = match edu {
            LocalEdu::Typing { room_id, user_id, typing } => {
                let about = format!("{room_id} {user_id}");
                let content = json!({ "room_id": room_id.as_str(), "user_id": user_id.as_str(), "typing": typing });
                (self.servers_in(&room_id).await?, Edu::new("m.typing", &content, Some(about)))
            }
            LocalEdu::Receipt { room_id, user_id, receipt } => {
                let about = format!("{room_id} {user_id} {}", receipt.thread.as_deref().unwrap_or_default());
                let mut data = json!({ "ts": receipt.ts_ms });
                if let (Some(thread), Some(data)) = (receipt.thread, data.as_object_mut()) {
                    data.insert("thread_id".to_owned(), thread.into());
                }
                let of_user = json!({ "event_ids": [receipt.event_id.as_str()], "data": data });
                let content = json!({ room_id.as_str(): { receipt.kind.as_str(): { user_id.as_str(): of_user } } });
                (self.servers_in(&room_id).await?, Edu::new("m.receipt", &content, Some(about)))
            }
            LocalEdu::Presence { user_id, presence, last_active_ago_ms } => {
                let mut destinations = BTreeSet::new();
                for room_id in self.rooms.joined_rooms(&user_id) {
                    destinations.extend(self.servers_in(&room_id).await?);
                }
                let content = presence_content(&user_id, &presence, last_active_ago_ms);
                (destinations, Edu::new("m.presence", &content, Some(user_id.to_string())))
            }
        };
        self.send_edu(destinations, edu.map_err(RecordError::from)?);
        Ok(())
    }

    async fn servers_in(&self, room_id: &RoomId) -> Result<BTreeSet<ServerName>, EphemeralError> {
        Ok(self.rooms.servers_in(room_id).await?.into_iter().collect())
    }
}

pub(super) fn presence_content(user: &UserId, presence: &Presence, last_active_ago_ms: i64) -> Value {
    let mut told = json!({
        "user_id": user.as_str(),
        "presence": presence.state.as_str(),
        "last_active_ago": last_active_ago_ms,
        "currently_active": presence.currently_active,
    });
    if let (Some(text), Some(told)) = (&presence.status_msg, told.as_object_mut()) {
        told.insert("status_msg".to_owned(), text.as_str().into());
    }
    json!({ "push": [told] })
}
