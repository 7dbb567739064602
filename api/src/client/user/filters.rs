//! Filters.

use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use http::StatusCode;
use ravel_homeserver::filters::FilterError;
use ruma::api::{client::filter::FilterDefinition, error::ErrorKind};
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
    Router::new().client("/user/{user_id}/filter", post(add)).client("/user/{user_id}/filter/{filter_id}", get(one))
}

/// Source: client-server API, "POST /_matrix/client/v3/user/{userId}/filter". What is not known of a filter is kept, as clients want to
/// read what they wrote.
async fn add(
    State(app): State<App>,
    sender: Authenticated,
    Path(user_id): Path<String>,
    JsonBody(filter): JsonBody<Map<String, Value>>,
) -> MatrixResult<Json<Value>> {
    let user = own(&sender, &user_id)?;
    let filter = Value::Object(filter);
    let read = serde_json::from_value::<FilterDefinition>(filter.clone());
    read.map_err(|error| MatrixError::bad_json(format!("this is no filter: {error}")))?;
    let filter_id = app.homeserver.filters.add(&user, &filter).await?;
    Ok(Json(json!({ "filter_id": filter_id })))
}

/// Source: client-server API, "GET /_matrix/client/v3/user/{userId}/filter/{filterId}".
async fn one(
    State(app): State<App>,
    sender: Authenticated,
    Path((user_id, filter_id)): Path<(String, String)>,
) -> MatrixResult<Json<Value>> {
    let filter = app.homeserver.filters.get(&own(&sender, &user_id)?, &filter_id).await?;
    filter.map(Json).ok_or_else(|| MatrixError::not_found("there is no such filter"))
}

impl From<FilterError> for MatrixError {
    fn from(error: FilterError) -> Self {
        match error {
            FilterError::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge, error.to_string()),
            FilterError::TooMany => Self::forbidden(error.to_string()),
            FilterError::Log(_) | FilterError::Record(_) => Self::log_internal(&error),
        }
    }
}
