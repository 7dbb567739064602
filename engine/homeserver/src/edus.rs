//! What other servers tell beside events: who types, who has read what, who is there, what is for devices.
//!
//! Each EDU is believed as far as it is about users of the server that sent it. What is wrong with one is no matter of the others.
//!
//! Source: server-server API, "EDUs".

mod devices;
mod presence;
mod receipts;
mod to_device;
mod typing;

use std::borrow::Cow;

use ravel_core::{
    event::Membership,
    id::{EventId, InvalidId, RoomId, ServerName, UserId},
};
use ruma::{OwnedEventId, api::federation::transactions::edu::PresenceUpdate, events::receipt::Receipt};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    ephemeral::{self, EphemeralError, Presence, PresenceState, ReceiptKind},
    homeserver::Homeserver,
    record::RecordError,
    rooms::RoomsError,
    to_device::{ToDeviceError, ToDeviceMessage},
};

/// The longest EDU that is read, in bytes.
const EDU_BYTES_MAX: usize = 1 << 20;

/// How many users, devices or rooms of one EDU are looked at.
const ENTRIES_MAX: usize = 1_000;

/// How many users of one transaction may be in no room that is known here before the rest is not looked at: all rooms are searched for
/// each of them.
const STRANGERS_MAX: usize = 20;

const RECEIVED: &str = "ravel_edus_received_total";

/// What an EDU says that is to be believed.
#[derive(Clone, Debug)]
pub enum Told {
    /// A user types in a room that it is in, or has stopped to.
    #[allow(missing_docs)]
    Typing { room_id: RoomId, user_id: UserId, is_typing: bool },
    /// A user has read a room that it is in up to an event.
    #[allow(missing_docs)]
    Read { room_id: RoomId, user_id: UserId, event_id: OwnedEventId, receipt: Receipt },
    /// Whether a user is there who is in a room with us.
    #[allow(missing_docs)]
    Presence { user_id: UserId, update: Box<PresenceUpdate> },
    /// The devices or the keys of a user have changed, who is in a room with us.
    #[allow(missing_docs)]
    DevicesChanged { user_id: UserId },
    /// A message of a user to devices of this server.
    ToDevice(Box<ToDeviceMessage>),
}

/// Why an EDU, or a part of it, is not believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EduRefusal {
    #[error("it is longer than {EDU_BYTES_MAX} bytes")]
    TooLong,
    #[error("it can't be read: {0}")]
    Format(#[from] serde_json::Error),
    #[error(transparent)]
    Id(#[from] InvalidId),
    #[error("it is about a user of another server")]
    OtherServer,
    #[error("the user is not in the room")]
    NotInRoom,
    #[error("the server may not take part in the room")]
    NotAllowed,
    #[error("the user is in no room that is known here")]
    Stranger,
    #[error("it names no event")]
    NoEvent,
    #[error("there is no such type of EDUs")]
    UnknownType,
    #[error(transparent)]
    ToDevice(#[from] ToDeviceError),
    #[error(transparent)]
    Rooms(RoomsError),
}

impl From<RoomsError> for EduRefusal {
    fn from(error: RoomsError) -> Self {
        match error {
            RoomsError::NoSuchRoom => Self::NotInRoom,
            error => Self::Rooms(error),
        }
    }
}

/// What became of the parts of an EDU.
type Parts = Vec<Result<Told, EduRefusal>>;

#[derive(Deserialize)]
struct Edu<'a> {
    edu_type: Cow<'a, str>,
    #[serde(borrow)]
    content: &'a RawValue,
}

impl Homeserver {
    /// Takes the EDUs of a transaction of another server. What can't be believed is dropped, and the rest taken.
    pub async fn receive_edus(&self, origin: &ServerName, edus: Vec<Box<RawValue>>) {
        let mut checks = Checks::new(self, origin);
        for edu in edus {
            for part in checks.edu(edu.get()).await {
                let result = if part.is_ok() { "taken" } else { "dropped" };
                metrics::counter!(RECEIVED, "result" => result).increment(1);
                match part {
                    Ok(told) => {
                        if let Err(error) = self.take_told(told).await {
                            tracing::error!(%origin, error = &error as &dyn std::error::Error, "an EDU can't be taken");
                        }
                    }
                    Err(EduRefusal::Rooms(error)) => {
                        tracing::error!(%origin, error = &error as &dyn std::error::Error, "an EDU can't be checked");
                    }
                    Err(refusal) => tracing::debug!(%origin, %refusal, "an EDU was dropped"),
                }
            }
        }
    }

    async fn take_told(&self, told: Told) -> Result<(), EphemeralError> {
        match told {
            Told::Typing { room_id, user_id, is_typing } => self.ephemeral.typing(&room_id, &user_id, is_typing),
            Told::Read { room_id, user_id, event_id, receipt } => {
                let event_id = EventId::parse(event_id.as_str()).map_err(RecordError::from)?;
                let thread = receipt.thread.as_str().map(str::to_owned);
                let ts_ms = receipt.ts.map_or(0, |ts| i64::from(ts.get()));
                let receipt = ephemeral::Receipt { kind: ReceiptKind::Read, event_id, thread, ts_ms };
                self.ephemeral.receipt(&room_id, &user_id, receipt).await?;
            }
            Told::Presence { user_id, update } => {
                let Some(state) = PresenceState::parse(update.presence.as_str()) else { return Ok(()) };
                let ago_ms = i64::from(update.last_active_ago);
                let presence = Presence {
                    state,
                    status_msg: update.status_msg,
                    last_active_ms: self.clock.now_ms().saturating_sub(ago_ms),
                    currently_active: update.currently_active,
                };
                self.ephemeral.presence(&user_id, presence);
            }
            Told::ToDevice(message) => {
                if let Err(error) = self.to_device.keep(&message).await {
                    tracing::error!(error = &error as &dyn std::error::Error, "a message to devices is lost");
                }
            }
            // Nobody reads these yet.
            Told::DevicesChanged { .. } => {}
        }
        Ok(())
    }
}

/// What is checked of the EDUs of one transaction.
struct Checks<'s> {
    server: &'s Homeserver,
    origin: &'s ServerName,
    /// How many more users may be looked for in vain.
    strangers_left: usize,
}

impl<'s> Checks<'s> {
    fn new(server: &'s Homeserver, origin: &'s ServerName) -> Self {
        Self { server, origin, strangers_left: STRANGERS_MAX }
    }

    /// Returns what of an EDU is to be believed, and what is wrong with the rest.
    async fn edu(&mut self, edu: &str) -> Parts {
        if edu.len() > EDU_BYTES_MAX {
            return vec![Err(EduRefusal::TooLong)];
        }
        let Edu { edu_type, content } = match serde_json::from_str(edu) {
            Ok(edu) => edu,
            Err(error) => return vec![Err(error.into())],
        };
        match &*edu_type {
            "m.typing" => vec![self.typing(content).await],
            "m.receipt" => self.receipts(content).await,
            "m.presence" => self.presence(content).await,
            "m.direct_to_device" => vec![self.direct_to_device(content)],
            "m.device_list_update" => vec![self.device_list_update(content).await],
            "m.signing_key_update" => vec![self.signing_key_update(content).await],
            _ => vec![Err(EduRefusal::UnknownType)],
        }
    }

    /// Returns who tells something about itself in a room: a user of the server that sent it, who is in the room.
    async fn member_of(&self, room_id: &RoomId, user_id: &str) -> Result<UserId, EduRefusal> {
        let user_id = self.user(user_id)?;
        if self.server.rooms.membership(room_id, &user_id).await? != Some(Membership::Join) {
            return Err(EduRefusal::NotInRoom);
        }
        Ok(user_id)
    }

    /// Whether the server may tell something of a room.
    async fn check_room(&self, room_id: &RoomId) -> Result<(), EduRefusal> {
        let rooms = &self.server.rooms;
        if !rooms.is_resident(room_id).await? {
            return Err(EduRefusal::NotInRoom);
        }
        if rooms.acl_allows(room_id, self.origin).await? { Ok(()) } else { Err(EduRefusal::NotAllowed) }
    }

    /// Returns who tells something about itself to whom it may concern: a user of the server that sent it, who is in a room with us.
    async fn neighbor(&mut self, user_id: &str) -> Result<UserId, EduRefusal> {
        let user_id = self.user(user_id)?;
        if self.strangers_left > 0 && self.server.rooms.is_in_open_room(&user_id).await {
            return Ok(user_id);
        }
        self.strangers_left = self.strangers_left.saturating_sub(1);
        Err(EduRefusal::Stranger)
    }

    /// Reads the id of a user of the server.
    fn user(&self, user_id: &str) -> Result<UserId, EduRefusal> {
        let user_id = UserId::parse(user_id)?;
        if user_id.server_name() == self.origin.as_str() { Ok(user_id) } else { Err(EduRefusal::OtherServer) }
    }
}

#[cfg(test)]
mod tests;
