//! Invites of users of this server by users of others.

use axum::{Router, extract::State, response::Response, routing::put};
use ravel_core::room_version::RoomVersion;
use ruma::{
    RoomVersionId,
    api::error::{ErrorKind, IncompatibleRoomVersionErrorData},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    joining::{in_json, named},
    origin::SignedJson,
};
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/_matrix/federation/v1/invite/{room_id}/{event_id}", put(invite_v1))
        .route("/_matrix/federation/v2/invite/{room_id}/{event_id}", put(invite))
}

/// An invite, with what tells the invited user about the room.
#[derive(Deserialize)]
struct Invite {
    room_version: String,
    event: Box<RawValue>,
    #[serde(default)]
    invite_room_state: Vec<Box<RawValue>>,
}

/// What the old form has besides the event itself.
#[derive(Default, Deserialize)]
struct OldInvite {
    #[serde(default)]
    unsigned: OldUnsigned,
}

#[derive(Default, Deserialize)]
struct OldUnsigned {
    #[serde(default)]
    invite_room_state: Vec<Box<RawValue>>,
}

/// What a create event of the old form may say.
#[derive(Deserialize)]
struct Create {
    #[serde(rename = "type")]
    event_type: String,
    content: CreateContent,
}

#[derive(Deserialize)]
struct CreateContent {
    room_version: Option<String>,
}

/// Source: server-server API, "PUT /_matrix/federation/v2/invite/{roomId}/{eventId}".
async fn invite(State(app): State<App>, request: SignedJson<Invite>) -> MatrixResult<Response> {
    let Invite { room_version, event, invite_room_state } = &request.body;
    let Some(version) = RoomVersion::parse(room_version) else { return Err(unknown_version(room_version)) };
    let signed = signed(&app, &request, event, version, invite_room_state).await?;
    Ok(in_json([b"{\"event\":", &signed[..], b"}"].concat()))
}

/// Source: server-server API, "PUT /_matrix/federation/v1/invite/{roomId}/{eventId}".
async fn invite_v1(State(app): State<App>, request: SignedJson<Box<RawValue>>) -> MatrixResult<Response> {
    // What describes the room is not needed, so it is as if it was not there if it is not as it should be.
    let OldInvite { unsigned } = serde_json::from_str(request.body.get()).unwrap_or_default();
    let state = unsigned.invite_room_state;
    let creates = state.iter().filter_map(|event| serde_json::from_str::<Create>(event.get()).ok());
    let create = creates.into_iter().find(|create| create.event_type == "m.room.create");
    let is_second = create.is_some_and(|create| create.content.room_version.as_deref() == Some("2"));
    let version = if is_second { RoomVersion::V2 } else { RoomVersion::V1 };
    let signed = signed(&app, &request, &request.body, version, &state).await?;
    Ok(in_json([b"[200,{\"event\":", &signed[..], b"}]"].concat()))
}

async fn signed<T>(
    app: &App,
    request: &SignedJson<T>,
    event: &RawValue,
    version: RoomVersion,
    state: &[Box<RawValue>],
) -> MatrixResult<Vec<u8>> {
    let (room_id, event_id) = named(&request.arguments)?;
    let (origin, event) = (&request.origin, event.get().as_bytes());
    Ok(app.homeserver.receive_invite(origin, &room_id, event_id, event, version, state).await?)
}

fn unknown_version(version: &str) -> MatrixError {
    let message = "this server does not know the room version";
    match RoomVersionId::try_from(version) {
        Ok(version) => {
            let data = IncompatibleRoomVersionErrorData::new(version);
            MatrixError::bad_request(ErrorKind::IncompatibleRoomVersion(data), message)
        }
        Err(_) => MatrixError::invalid_param(message),
    }
}
