//! Profiles.

use axum::{Json, Router, extract::State, routing::get};
use ravel_core::id::UserId;
use ravel_homeserver::{accounts::Role, federation::FederationError, profiles::ProfileError};
use ruma::api::error::ErrorKind;
use serde_json::{Map, Value, json};

use super::own;
use crate::{
    client::Authenticated,
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{JsonBody, Path, Routes},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .client("/profile/{user_id}", get(whole))
        .client("/profile/{user_id}/{field}", get(field).put(set).delete(remove))
}

/// Source: client-server API, "GET /_matrix/client/v3/profile/{userId}".
async fn whole(State(app): State<App>, Path(user_id): Path<String>) -> MatrixResult<Json<Map<String, Value>>> {
    Ok(Json(profile(&app, &user_id).await?))
}

/// Source: client-server API, "GET /_matrix/client/v3/profile/{userId}/{keyName}". A user without name or avatar is no error, as clients
/// of long ago expect.
async fn field(
    State(app): State<App>,
    Path((user_id, field)): Path<(String, String)>,
) -> MatrixResult<Json<Map<String, Value>>> {
    let value = profile(&app, &user_id).await?.remove(&field);
    match value {
        Some(value) => Ok(Json(Map::from_iter([(field, value)]))),
        None if ["displayname", "avatar_url"].contains(&&*field) => Ok(Json(Map::new())),
        None => Err(MatrixError::not_found("the profile has no such field")),
    }
}

async fn profile(app: &App, user_id: &str) -> MatrixResult<Map<String, Value>> {
    let user = UserId::parse(user_id).map_err(|_| MatrixError::invalid_param("the user id is invalid"))?;
    let profile = app.homeserver.profile_of(&user).await?;
    profile.ok_or_else(|| MatrixError::not_found("there is no such user"))
}

/// Source: client-server API, "PUT /_matrix/client/v3/profile/{userId}/{keyName}".
async fn set(
    State(app): State<App>,
    sender: Authenticated,
    Path((user_id, field)): Path<(String, String)>,
    JsonBody(mut body): JsonBody<Map<String, Value>>,
) -> MatrixResult<Json<Value>> {
    let missing = || MatrixError::missing_param(format!("`{field}` is missing"));
    let value = body.remove(&field).ok_or_else(missing)?;
    // Clients remove their names by it.
    let value = Some(value).filter(|value| !value.is_null());
    change(&app, &sender, &user_id, &field, value).await
}

/// Source: client-server API, "DELETE /_matrix/client/v3/profile/{userId}/{keyName}".
async fn remove(
    State(app): State<App>,
    sender: Authenticated,
    Path((user_id, field)): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    change(&app, &sender, &user_id, &field, None).await
}

async fn change(
    app: &App,
    sender: &Authenticated,
    user_id: &str,
    field: &str,
    value: Option<Value>,
) -> MatrixResult<Json<Value>> {
    let user = own(sender, user_id)?;
    // "Guest users may only modify their display name" (client-server API, "Guest Access").
    if sender.role == Role::Guest && field != "displayname" {
        sender.no_guest()?;
    }
    app.homeserver.profiles.set(&user, field, value).await?;
    Ok(Json(json!({})))
}

impl From<ProfileError> for MatrixError {
    fn from(error: ProfileError) -> Self {
        match error {
            ProfileError::FieldName => Self::bad_request(ErrorKind::KeyTooLarge, error.to_string()),
            ProfileError::FieldValue => Self::invalid_param(error.to_string()),
            ProfileError::TooLarge => Self::bad_request(ErrorKind::ProfileTooLarge, error.to_string()),
            ProfileError::Account(error) => error.into(),
            ProfileError::Federation(error @ FederationError::Denied) => Self::forbidden(error.to_string()),
            ProfileError::Federation(_) => Self::bad_gateway("the other server does not answer"),
            ProfileError::Rooms(error) => error.into(),
            ProfileError::Log(_) | ProfileError::Record(_) => Self::log_internal(&error),
        }
    }
}
