//! Memberships that concern two servers: joins, leaves, knocks and invites.
//!
//! A user comes into a room that its server is not in by the help of a server that is, the *resident*: that one is asked for a
//! template of the event (`make_join`), the event is made here and handed back (`send_join`), and the answer is the state of the room.
//! Leaves and knocks go the same way. `template`, `submitted`, `restricted` and `given_out` are what a resident does; `asking`,
//! `entering`, `under_way`, `answer` and `leaving` what the server does that asks; `inviting` and `invited` are the two sides of an invite.
//!
//! Source: server-server API, "Joining Rooms", "Knocking upon a room", "Inviting to a room", "Leaving Rooms".

mod answer;
mod asking;
mod entering;
mod given_out;
mod invited;
mod inviting;
mod leaving;
mod restricted;
mod submitted;
mod template;
mod third_party;
mod under_way;

use ravel_core::{
    pdu::{PduError, SignatureError},
    room_version::RoomVersion,
};

pub(crate) use self::under_way::Joining;
pub use self::{
    asking::{JoinFailure, MembershipError},
    entering::{JOIN_ANSWER_BYTES_MAX, JOIN_TIME_MAX},
    given_out::RoomState,
    template::Template,
    third_party::{BOUND_INVITES_MAX, BoundInvite},
    under_way::{JoinProgress, JoinStage},
};
use crate::rooms::RoomsError;

/// Why another server's request about a membership is refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ResidentError {
    #[error("this server is not in the room")]
    NotInRoom,
    #[error("the user is not one of the server that asks")]
    ForeignUser,
    #[error("the room does not let the server take part")]
    ServerDenied,
    #[error("the room is of version {0}")]
    IncompatibleRoomVersion(RoomVersion),
    #[error("this server can't tell whether the user meets a condition of the room")]
    UnableToAuthoriseJoin,
    #[error("the user meets a condition of the room, and nobody at this server may let it in")]
    UnableToGrantJoin,
    #[error("the user meets no condition of the room")]
    NoConditionMet,
    #[error("there is no such user here")]
    UnknownUser,
    #[error("the user has too many invites that it has not answered")]
    TooManyInvites,
    #[error("the user is in the room")]
    AlreadyJoined,
    #[error("the user is banned from the room")]
    Banned,
    #[error("the create event of the room is missing")]
    NoCreateEvent,
    #[error("the event is not signed")]
    Unsigned,
    #[error("it is no valid event: {0}")]
    Format(#[from] PduError),
    #[error("{0}")]
    Signature(#[from] SignatureError),
    #[error("the event is not what the request is for: {0}")]
    WrongEvent(&'static str),
    #[error(transparent)]
    Rooms(RoomsError),
}
