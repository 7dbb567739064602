//! Account data and tags.

use axum::{
    Json, Router,
    extract::State,
    routing::{get, put},
};
use http::StatusCode;
use ravel_core::id::{RoomId, UserId};
use ravel_homeserver::account_data::AccountDataError;
use ruma::api::error::ErrorKind;
use serde_json::{Map, Value, json};

use super::own;
use crate::{
    client::{Authenticated, rooms::parse_room_id},
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{JsonBody, Path, Routes},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .client("/user/{user_id}/account_data/{event_type}", get(get_global).put(set_global))
        .client("/user/{user_id}/rooms/{room_id}/account_data/{event_type}", get(get_of_room).put(set_of_room))
        .client("/user/{user_id}/rooms/{room_id}/tags", get(tags))
        .client("/user/{user_id}/rooms/{room_id}/tags/{tag}", put(set_tag).delete(remove_tag))
}

/// What tags are in account data.
const TAGS: &str = "m.tag";

/// "Servers MUST reject clients from setting account data for event types that the server manages" (client-server API, "Client
/// Config", "Server Behaviour").
const OF_THE_SERVER: [&str; 2] = ["m.fully_read", "m.push_rules"];

/// Source: client-server API, "GET /_matrix/client/v3/user/{userId}/account_data/{type}".
async fn get_global(
    State(app): State<App>,
    sender: Authenticated,
    Path((user_id, data_type)): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    read(&app, &own(&sender, &user_id)?, None, &data_type).await
}

/// Source: client-server API, "PUT /_matrix/client/v3/user/{userId}/account_data/{type}".
async fn set_global(
    State(app): State<App>,
    sender: Authenticated,
    Path((user_id, data_type)): Path<(String, String)>,
    JsonBody(content): JsonBody<Map<String, Value>>,
) -> MatrixResult<Json<Value>> {
    write(&app, &own(&sender, &user_id)?, None, &data_type, content).await
}

/// Source: client-server API, "GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}".
async fn get_of_room(
    State(app): State<App>,
    sender: Authenticated,
    Path((user_id, room_id, data_type)): Path<(String, String, String)>,
) -> MatrixResult<Json<Value>> {
    read(&app, &own(&sender, &user_id)?, Some(&parse_room_id(&room_id)?), &data_type).await
}

/// Source: client-server API, "PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/account_data/{type}".
async fn set_of_room(
    State(app): State<App>,
    sender: Authenticated,
    Path((user_id, room_id, data_type)): Path<(String, String, String)>,
    JsonBody(content): JsonBody<Map<String, Value>>,
) -> MatrixResult<Json<Value>> {
    write(&app, &own(&sender, &user_id)?, Some(&parse_room_id(&room_id)?), &data_type, content).await
}

/// Source: client-server API, "GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags".
async fn tags(
    State(app): State<App>,
    sender: Authenticated,
    Path((user_id, room_id)): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    let content =
        app.homeserver.account_data.get(&own(&sender, &user_id)?, Some(&parse_room_id(&room_id)?), TAGS).await?;
    let tags = content.and_then(|mut content| content.get_mut("tags").map(Value::take));
    Ok(Json(json!({ "tags": tags.unwrap_or_else(|| json!({})) })))
}

/// Source: client-server API, "PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}".
async fn set_tag(
    State(app): State<App>,
    sender: Authenticated,
    Path((user_id, room_id, tag)): Path<(String, String, String)>,
    JsonBody(info): JsonBody<Map<String, Value>>,
) -> MatrixResult<Json<Value>> {
    change_tags(&app, &own(&sender, &user_id)?, &room_id, |tags| {
        tags.insert(tag.clone(), info.clone().into());
    })
    .await
}

/// Source: client-server API, "DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}".
async fn remove_tag(
    State(app): State<App>,
    sender: Authenticated,
    Path((user_id, room_id, tag)): Path<(String, String, String)>,
) -> MatrixResult<Json<Value>> {
    change_tags(&app, &own(&sender, &user_id)?, &room_id, |tags| {
        tags.remove(&tag);
    })
    .await
}

async fn change_tags(
    app: &App,
    user: &UserId,
    room_id: &str,
    change: impl Fn(&mut Map<String, Value>) + Send + std::marker::Sync,
) -> MatrixResult<Json<Value>> {
    let changed = |mut content: Map<String, Value>| {
        let mut tags = match content.remove("tags") {
            Some(Value::Object(tags)) => tags,
            _ => Map::new(),
        };
        change(&mut tags);
        content.insert("tags".to_owned(), tags.into());
        content
    };
    app.homeserver.account_data.update(user, Some(&parse_room_id(room_id)?), TAGS, changed).await?;
    Ok(Json(json!({})))
}

async fn read(app: &App, user: &UserId, room_id: Option<&RoomId>, data_type: &str) -> MatrixResult<Json<Value>> {
    let content = app.homeserver.account_data.get(user, room_id, data_type).await?;
    content.map(Json).ok_or_else(|| MatrixError::not_found("there is no such account data"))
}

async fn write(
    app: &App,
    user: &UserId,
    room_id: Option<&RoomId>,
    data_type: &str,
    content: Map<String, Value>,
) -> MatrixResult<Json<Value>> {
    if OF_THE_SERVER.contains(&data_type) {
        let message = "this account data is set by other requests";
        return Err(MatrixError::new(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::BadJson, message));
    }
    app.homeserver.account_data.set(user, room_id, data_type, content).await?;
    Ok(Json(json!({})))
}

impl From<AccountDataError> for MatrixError {
    fn from(error: AccountDataError) -> Self {
        match error {
            AccountDataError::InvalidType => Self::invalid_param(error.to_string()),
            AccountDataError::TooLarge => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge, error.to_string())
            }
            AccountDataError::Contended => Self::unavailable(error.to_string()),
            AccountDataError::Rooms(error) => error.into(),
            AccountDataError::Log(_) | AccountDataError::Record(_) => Self::log_internal(&error),
        }
    }
}
