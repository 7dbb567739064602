//! Rooms: making them, sending, memberships, reading.

mod create;
pub(crate) mod elsewhere;
mod ephemeral;
mod events;
mod initial_sync;
mod members;
mod membership;
mod read;
mod send;
mod space;
mod sync;
mod upgrade;

use axum::Router;
use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, parse_object},
    id::{EventId, RoomId, UserId},
};
use ravel_homeserver::rooms::{ClientEvent, RoomsError};
use ruma::{OwnedEventId, OwnedRoomId, api::error::ErrorKind, serde::Raw};
use serde_json::value::to_raw_value;

use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
};

pub(super) fn routes() -> Router<App> {
    let routes = Router::new().merge(create::routes()).merge(membership::routes()).merge(read::routes());
    let routes = routes.merge(ephemeral::routes()).merge(events::routes()).merge(members::routes());
    let routes = routes.merge(send::routes()).merge(sync::routes()).merge(initial_sync::routes());
    routes.merge(space::routes()).merge(upgrade::routes())
}

impl From<RoomsError> for MatrixError {
    fn from(error: RoomsError) -> Self {
        match error {
            // What is not here and what is not to be seen look the same.
            RoomsError::NoSuchRoom | RoomsError::NotInRoom => Self::forbidden("you are not in this room"),
            RoomsError::NoSuchEvent => Self::not_found(error.to_string()),
            RoomsError::Refused(_) | RoomsError::NotAccepted | RoomsError::NoChange | RoomsError::MayNotRedact => {
                Self::forbidden(error.to_string())
            }
            RoomsError::Policy(error) => error.into(),
            RoomsError::GuestsForbidden => {
                Self::new(http::StatusCode::FORBIDDEN, ErrorKind::GuestAccessForbidden, error.to_string())
            }
            RoomsError::StillInRoom => Self::bad_request(ErrorKind::Unknown, error.to_string()),
            RoomsError::Invalid(_) => Self::bad_request(ErrorKind::BadJson, error.to_string()),
            RoomsError::BadValue(_) => Self::invalid_param(error.to_string()),
            RoomsError::Signing(_)
            | RoomsError::Log(_)
            | RoomsError::Record(_)
            | RoomsError::Room(_)
            | RoomsError::Aside
            | RoomsError::Panicked => Self::log_internal(&error),
        }
    }
}

pub(crate) fn room_id(id: &ruma::RoomId) -> MatrixResult<RoomId> {
    parse_room_id(id.as_str())
}

/// Reads a room id of a path.
pub(crate) fn parse_room_id(id: &str) -> MatrixResult<RoomId> {
    RoomId::parse(id).map_err(|_| MatrixError::invalid_param("the room id is invalid"))
}

pub(crate) fn event_id(id: &ruma::EventId) -> MatrixResult<EventId> {
    EventId::parse(id.as_str()).map_err(|_| MatrixError::invalid_param("the event id is invalid"))
}

pub(crate) fn user_id(id: &ruma::UserId) -> MatrixResult<UserId> {
    UserId::parse(id.as_str()).map_err(|_| MatrixError::invalid_param("the user id is invalid"))
}

pub(crate) fn ruma_room_id(id: &RoomId) -> MatrixResult<OwnedRoomId> {
    OwnedRoomId::try_from(id.as_str()).map_err(|error| MatrixError::log_internal(&error))
}

pub(crate) fn ruma_event_id(id: &EventId) -> MatrixResult<OwnedEventId> {
    OwnedEventId::try_from(id.as_str()).map_err(|error| MatrixError::log_internal(&error))
}

/// Reads content of an event as a client gives it.
fn content<T>(raw: &Raw<T>) -> MatrixResult<CanonicalJsonObject> {
    let bad = |error| MatrixError::bad_json(format!("the content can't be part of an event: {error}"));
    parse_object(raw.json().get().as_bytes(), JsonMode::Strict).map_err(bad)
}

/// Returns events in the form that ruma's types want.
fn raw<T>(events: Vec<ClientEvent>) -> MatrixResult<Vec<Raw<T>>> {
    let raw = |event: ClientEvent| {
        let json = to_raw_value(&event.json).map_err(|error| MatrixError::log_internal(&error))?;
        Ok(Raw::from_json(json))
    };
    events.into_iter().map(raw).collect()
}
