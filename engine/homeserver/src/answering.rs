//! What other servers ask of rooms, and only read.
//!
//! Every question about a room goes through [`Homeserver::may_ask`]: the asking server is in the room now, and its access control
//! list lets it take part. Events are looked up in the room that was asked about and nowhere else. Nothing here holds a room while
//! it reads the log: what is to be answered is chosen by a look at the room, and read afterwards, by [`Pdus`] as it is sent.

mod backfill;
mod event;
mod hierarchy;
mod pdus;
mod state;
mod timestamp;
mod visibility;

use ravel_core::id::{RoomId, ServerName};
use ravel_store::log::LogError;

pub use self::{
    backfill::{EVENTS_MAX, MissingEvents, NAMED_MAX},
    hierarchy::{CHILDREN_MAX, Hierarchy},
    pdus::Pdus,
    state::StateAnswer,
};
use crate::{accounts::AccountError, homeserver::Homeserver, rooms::RoomsError};

/// Why a server is not answered.
#[derive(Debug, thiserror::Error)]
pub enum AnsweringError {
    /// It is not in the room, or the room is not here: who is not in a room does not learn which.
    #[error("the server is not in the room")]
    NotInRoom,
    /// The room's access control list does not let it take part.
    #[error("the server is denied access to the room")]
    Denied,
    /// The room is not here, or the server could neither join nor read it.
    #[error("there is no such room")]
    NoSuchRoom,
    /// There is nothing here that could be answered about the event: it is unknown, of another room, or what is asked about it is
    /// not known.
    #[error("there is no such event in the room")]
    NoSuchEvent,
    /// More events are named than are looked at.
    #[error("more than {max} events are named")]
    TooManyEvents {
        /// How many may be.
        max: usize,
    },
    /// The room or the log failed.
    #[error(transparent)]
    Rooms(#[from] RoomsError),
    /// It can't be found out whose events are to be hidden.
    #[error(transparent)]
    Accounts(#[from] AccountError),
}

impl From<LogError> for AnsweringError {
    fn from(error: LogError) -> Self {
        Self::Rooms(error.into())
    }
}

impl Homeserver {
    /// Whether a server may ask about a room: it is in the room, as is this one, and its access control list allows it.
    ///
    /// Of a room that no user of this server is in any more, what is known is out of date.
    ///
    /// Source: server-server API, "Server Access Control Lists (ACLs)".
    ///
    /// # Errors
    ///
    /// `NotInRoom`, `Denied`, and when the room can't be read.
    pub async fn may_ask(&self, origin: &ServerName, room_id: &RoomId) -> Result<(), AnsweringError> {
        let rooms = &self.rooms;
        if !rooms.has_server(room_id, origin).await? || !rooms.is_resident(room_id).await? {
            return Err(AnsweringError::NotInRoom);
        }
        if rooms.acl_allows(room_id, origin).await? { Ok(()) } else { Err(AnsweringError::Denied) }
    }
}

#[cfg(test)]
mod tests;
