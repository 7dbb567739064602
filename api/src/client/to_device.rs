//! Messages to devices.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::State, routing::put};
use http::StatusCode;
use ravel_core::id::UserId;
use ravel_homeserver::to_device::{Messages, ToDeviceError, ToDeviceMessage, message_id};
use ruma::api::error::ErrorKind;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    client::Authenticated,
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{JsonBody, Path, Routes},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new().client("/sendToDevice/{event_type}/{txn_id}", put(send))
}

#[derive(Deserialize)]
struct Body {
    messages: BTreeMap<String, BTreeMap<String, Box<RawValue>>>,
}

/// Source: client-server API, "PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}".
async fn send(
    State(app): State<App>,
    sender: Authenticated,
    Path((event_type, txn_id)): Path<(String, String)>,
    JsonBody(body): JsonBody<Body>,
) -> MatrixResult<Json<Value>> {
    let user = |(user_id, contents): (String, _)| {
        let user_id = UserId::parse(&user_id).map_err(|_| MatrixError::invalid_param("not a user id"))?;
        Ok((user_id, contents))
    };
    let messages = body.messages.into_iter().map(user).collect::<MatrixResult<Messages>>()?;
    let message_id = message_id(&sender, &event_type, &txn_id);
    let message = ToDeviceMessage { sender: sender.user_id.clone(), event_type, message_id, messages };
    app.homeserver.send_to_devices(message).await?;
    Ok(Json(json!({})))
}

impl From<ToDeviceError> for MatrixError {
    fn from(error: ToDeviceError) -> Self {
        match error {
            ToDeviceError::TooLarge => Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge, error.to_string()),
            ToDeviceError::InvalidName => Self::invalid_param(error.to_string()),
            ToDeviceError::InvalidContent | ToDeviceError::NotCanonical(_) => Self::bad_json(error.to_string()),
            error => Self::log_internal(&error),
        }
    }
}
