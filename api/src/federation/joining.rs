//! Users of other servers who come into rooms of this one, leave them and knock.

use axum::{
    Json, Router,
    extract::{Query, State},
    response::{IntoResponse, Response},
    routing::put,
};
use http::header;
use ravel_core::{
    canonical_json::object_to_canonical_bytes,
    event::Membership,
    id::{RoomId, UserId},
};
use ravel_homeserver::joining::{ResidentError, RoomState, Template};
use ruma::{
    RoomVersionId,
    api::{
        error::{ErrorKind, IncompatibleRoomVersionErrorData},
        federation::membership::{prepare_join_event, prepare_knock_event, prepare_leave_event},
    },
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{Signed, origin::SignedJson};
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
    typed::{Routes, RumaResponse},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<prepare_join_event::v1::Request, _, _>(make_join)
        .ruma::<prepare_leave_event::v1::Request, _, _>(make_leave)
        .ruma::<prepare_knock_event::v1::Request, _, _>(make_knock)
        .route("/_matrix/federation/v1/send_join/{room_id}/{event_id}", put(send_join_v1))
        .route("/_matrix/federation/v2/send_join/{room_id}/{event_id}", put(send_join))
        .route("/_matrix/federation/v1/send_leave/{room_id}/{event_id}", put(send_leave_v1))
        .route("/_matrix/federation/v2/send_leave/{room_id}/{event_id}", put(send_leave))
        .route("/_matrix/federation/v1/send_knock/{room_id}/{event_id}", put(send_knock))
}

/// Source: server-server API, "GET /_matrix/federation/v1/make_join/{roomId}/{userId}".
async fn make_join(
    State(app): State<App>,
    request: Signed<prepare_join_event::v1::Request>,
) -> MatrixResult<RumaResponse<prepare_join_event::v1::Response>> {
    let template = make(&app, &request, (&request.room_id, &request.user_id), Membership::Join, Some(&request.ver));
    let (room_version, event) = written(&template.await?)?;
    let mut response = prepare_join_event::v1::Response::new(event);
    response.room_version = Some(room_version);
    Ok(RumaResponse(response))
}

/// Source: server-server API, "GET /_matrix/federation/v1/make_leave/{roomId}/{userId}".
async fn make_leave(
    State(app): State<App>,
    request: Signed<prepare_leave_event::v1::Request>,
) -> MatrixResult<RumaResponse<prepare_leave_event::v1::Response>> {
    let template = make(&app, &request, (&request.room_id, &request.user_id), Membership::Leave, None);
    let (room_version, event) = written(&template.await?)?;
    Ok(RumaResponse(prepare_leave_event::v1::Response::new(Some(room_version), event)))
}

/// Source: server-server API, "GET /_matrix/federation/v1/make_knock/{roomId}/{userId}".
async fn make_knock(
    State(app): State<App>,
    request: Signed<prepare_knock_event::v1::Request>,
) -> MatrixResult<RumaResponse<prepare_knock_event::v1::Response>> {
    let template = make(&app, &request, (&request.room_id, &request.user_id), Membership::Knock, Some(&request.ver));
    let (room_version, event) = written(&template.await?)?;
    Ok(RumaResponse(prepare_knock_event::v1::Response::new(room_version, event)))
}

async fn make<T>(
    app: &App,
    request: &Signed<T>,
    (room_id, user_id): (&ruma::RoomId, &ruma::UserId),
    membership: Membership,
    versions: Option<&[RoomVersionId]>,
) -> MatrixResult<Template> {
    let room_id = parsed(RoomId::parse(room_id.as_str()))?;
    let user_id = parsed(UserId::parse(user_id.as_str()))?;
    let versions: Option<Vec<&str>> = versions.map(|versions| versions.iter().map(RoomVersionId::as_str).collect());
    let (homeserver, origin) = (&app.homeserver, &request.origin);
    Ok(homeserver.make_membership(origin, &room_id, &user_id, membership, versions.as_deref()).await?)
}

fn written(template: &Template) -> MatrixResult<(RoomVersionId, Box<RawValue>)> {
    let event = serde_json::from_slice(&object_to_canonical_bytes(&template.event));
    let event = event.map_err(|error| MatrixError::log_internal(&error))?;
    Ok((
        RoomVersionId::try_from(template.room_version.as_str()).map_err(|error| MatrixError::log_internal(&error))?,
        event,
    ))
}

/// What the query of `send_join` says.
#[derive(Deserialize)]
struct Omitting {
    #[serde(default)]
    omit_members: bool,
}

/// Source: server-server API, "PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}".
async fn send_join(State(app): State<App>, request: SignedJson<Box<RawValue>>) -> MatrixResult<Response> {
    let query = Query::<Omitting>::try_from_uri(&request.uri);
    let Query(Omitting { omit_members }) = query.map_err(|error| MatrixError::invalid_param(error.body_text()))?;
    Ok(in_json(join(&app, &request, omit_members).await?))
}

/// Source: server-server API, "PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}".
async fn send_join_v1(State(app): State<App>, request: SignedJson<Box<RawValue>>) -> MatrixResult<Response> {
    let state = join(&app, &request, false).await?;
    Ok(in_json([b"[200,", &state[..], b"]"].concat()))
}

async fn join(app: &App, request: &SignedJson<Box<RawValue>>, omit_members: bool) -> MatrixResult<Vec<u8>> {
    let (room_id, event_id) = named(&request.arguments)?;
    let pdu = request.body.get().as_bytes();
    let state = app.homeserver.send_join(&request.origin, &room_id, event_id, pdu, omit_members).await?;
    Ok(RoomState::to_json(&state, app.server_name()))
}

/// Source: server-server API, "PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}".
async fn send_leave(State(app): State<App>, request: SignedJson<Box<RawValue>>) -> MatrixResult<Json<Value>> {
    let (room_id, event_id) = named(&request.arguments)?;
    app.homeserver.send_leave(&request.origin, &room_id, event_id, request.body.get().as_bytes()).await?;
    Ok(Json(json!({})))
}

/// Source: server-server API, "PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}".
async fn send_leave_v1(app: State<App>, request: SignedJson<Box<RawValue>>) -> MatrixResult<Json<Value>> {
    let Json(left) = send_leave(app, request).await?;
    Ok(Json(json!([200, left])))
}

/// Source: server-server API, "PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}".
async fn send_knock(State(app): State<App>, request: SignedJson<Box<RawValue>>) -> MatrixResult<Response> {
    let (room_id, event_id) = named(&request.arguments)?;
    let pdu = request.body.get().as_bytes();
    let state = app.homeserver.send_knock(&request.origin, &room_id, event_id, pdu).await?;
    Ok(in_json([b"{\"knock_room_state\":[", &state.join(&b","[..])[..], b"]}"].concat()))
}

/// Reads the ids of a path. What is wrong with the event is told before what is wrong with its id.
pub(super) fn named(arguments: &[String]) -> MatrixResult<(RoomId, &str)> {
    let [room_id, event_id] = arguments else { return Err(MatrixError::unknown_path()) };
    Ok((parsed(RoomId::parse(room_id))?, event_id))
}

pub(super) fn parsed<T>(id: Result<T, ravel_core::id::InvalidId>) -> MatrixResult<T> {
    id.map_err(|error| MatrixError::invalid_param(error.to_string()))
}

pub(super) fn in_json(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

impl From<ResidentError> for MatrixError {
    fn from(error: ResidentError) -> Self {
        let text = error.to_string();
        match error {
            ResidentError::NotInRoom | ResidentError::UnknownUser => Self::not_found(text),
            ResidentError::ForeignUser
            | ResidentError::ServerDenied
            | ResidentError::NoConditionMet
            | ResidentError::AlreadyJoined
            | ResidentError::Banned
            | ResidentError::TooManyInvites
            | ResidentError::Unsigned
            | ResidentError::Signature(_) => Self::forbidden(text),
            ResidentError::IncompatibleRoomVersion(version) => match RoomVersionId::try_from(version.as_str()) {
                Ok(version) => {
                    let data = IncompatibleRoomVersionErrorData::new(version);
                    Self::bad_request(ErrorKind::IncompatibleRoomVersion(data), text)
                }
                Err(error) => Self::log_internal(&error),
            },
            ResidentError::UnableToAuthoriseJoin => Self::bad_request(ErrorKind::UnableToAuthorizeJoin, text),
            ResidentError::UnableToGrantJoin => Self::bad_request(ErrorKind::UnableToGrantJoin, text),
            ResidentError::Format(_) => Self::bad_json(text),
            ResidentError::NoCreateEvent | ResidentError::WrongEvent(_) => Self::invalid_param(text),
            ResidentError::Rooms(error) => error.into(),
        }
    }
}
