//! Replacing rooms by those of another version.

use axum::{Json, Router, extract::State, routing::post};
use ravel_core::{
    id::{RoomId, UserId},
    room_version::RoomVersion,
};
use ravel_homeserver::{rooms::RoomsError, upgrade::UpgradeError};
use ruma::api::error::ErrorKind;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    client::Authenticated,
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{JsonBody, Path, Routes},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new().client("/rooms/{room_id}/upgrade", post(upgrade))
}

/// Not ruma's type, which takes versions that nobody knows for malformed JSON.
#[derive(Deserialize)]
struct Upgrade {
    new_version: String,
    #[serde(default)]
    additional_creators: Vec<String>,
}

/// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/upgrade".
async fn upgrade(
    State(app): State<App>,
    sender: Authenticated,
    Path(room_id): Path<String>,
    JsonBody(wanted): JsonBody<Upgrade>,
) -> MatrixResult<Json<Value>> {
    sender.no_guest()?;
    let unsupported = || {
        let message = "this server does not know the room version";
        MatrixError::bad_request(ErrorKind::UnsupportedRoomVersion, message)
    };
    let version = RoomVersion::parse(&wanted.new_version).ok_or_else(unsupported)?;
    let invalid = |_| MatrixError::invalid_param("an id is invalid");
    let creators = wanted.additional_creators.iter().map(|user| UserId::parse(user)).collect::<Result<Vec<_>, _>>();
    let (creators, old) = (creators.map_err(invalid)?, RoomId::parse(&room_id).map_err(invalid)?);
    let new = match app.homeserver.upgrade_room(&sender.user_id, &old, version, &creators).await {
        Err(UpgradeError::Rooms(RoomsError::NoSuchRoom)) => {
            return Err(MatrixError::not_found("this server does not know the room"));
        }
        new => new?,
    };
    Ok(Json(json!({ "replacement_room": new.as_str() })))
}

impl From<UpgradeError> for MatrixError {
    fn from(error: UpgradeError) -> Self {
        match error {
            UpgradeError::Rooms(error) => error.into(),
            UpgradeError::Directory(error) => error.into(),
            UpgradeError::AccountData(error) => error.into(),
            UpgradeError::Profile(error) => error.into(),
        }
    }
}
