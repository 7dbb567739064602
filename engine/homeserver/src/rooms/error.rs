//! Why a room does not do what was asked.

use ravel_core::{event_auth::Refusal, pdu::PduError, room::RoomError, signing::SigningError};
use ravel_store::log::LogError;

use super::PolicyError;
use crate::record::RecordError;

/// Why a room does not do what was asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum RoomsError {
    #[error("there is no such room here")]
    NoSuchRoom,
    #[error("there is no such event, or it is not to be seen")]
    NoSuchEvent,
    #[error("the user is not in the room")]
    NotInRoom,
    #[error("the room does not allow it: {0}")]
    Refused(#[from] Refusal),
    #[error("the room took the event and did not accept it")]
    NotAccepted,
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("the user may not redact this event")]
    MayNotRedact,
    #[error("it would be no valid event: {0}")]
    Invalid(#[from] PduError),
    #[error("it can't be signed: {0}")]
    Signing(#[from] SigningError),
    #[error("what is given for {0} can't be used")]
    BadValue(&'static str),
    #[error("the membership is that already")]
    NoChange,
    #[error("the user is in the room")]
    StillInRoom,
    #[error("the room does not let guests in")]
    GuestsForbidden,
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error("the change was made without events that are in the log")]
    Aside,
    #[error("a task of the server failed")]
    Panicked,
}
