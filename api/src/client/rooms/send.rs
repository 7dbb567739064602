//! Sending events.

use axum::{
    Json, Router,
    extract::State,
    routing::{post, put},
};
use http::StatusCode;
use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, parse_object},
    id::EventId,
};
use ravel_homeserver::rooms::{SendEvent, Transaction};
use ruma::{
    api::client::{message::send_message_event, redact::redact_event, state::send_state_event},
    events::StateEventType,
};

use serde_json::{Value, json};

use super::{content, event_id, parse_room_id, room_id, ruma_event_id};
use crate::{
    client::Authenticated,
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{Path, RawBody, Routes, Ruma, RumaResponse},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<send_message_event::v3::Request, _, _>(send)
        .client("/rooms/{room_id}/send/{event_type}", post(send_again))
        .ruma::<send_state_event::v3::Request, _, _>(set)
        .ruma::<redact_event::v3::Request, _, _>(redact)
        .client("/rooms/{room_id}/redact/{event_id}", post(redact_again))
        // Where the state key is empty, "the trailing slash on this endpoint is optional"; ruma's paths have a state key.
        .route("/_matrix/client/r0/rooms/{room_id}/state/{event_type}", put(set))
        .route("/_matrix/client/r0/rooms/{room_id}/state/{event_type}/", put(set))
        .route("/_matrix/client/v3/rooms/{room_id}/state/{event_type}", put(set))
        .route("/_matrix/client/v3/rooms/{room_id}/state/{event_type}/", put(set))
}

/// Sends an event once for each transaction id of a device.
async fn once(
    app: &App,
    sender: &Authenticated,
    room: &ruma::RoomId,
    path: String,
    transaction_id: &ruma::TransactionId,
    event: SendEvent,
) -> MatrixResult<ruma::OwnedEventId> {
    let (device_id, transaction_id) = (sender.device_id.to_string(), transaction_id.to_string());
    let transaction = Transaction { device_id, path, transaction_id };
    ruma_event_id(&app.rooms.send_once(&room_id(room)?, &sender.user_id, &transaction, event).await?)
}

/// Source: client-server API, "PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}/{txnId}".
async fn send(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<send_message_event::v3::Request>,
) -> MatrixResult<RumaResponse<send_message_event::v3::Response>> {
    let (event_type, path) = (request.event_type.to_string(), format!("{} {}", request.room_id, request.event_type));
    let event = SendEvent { event_type, state_key: None, content: content(&request.request.body)?, redacts: None };
    let sent = once(&app, &sender, &request.room_id, path, &request.txn_id, event).await?;
    Ok(RumaResponse(send_message_event::v3::Response::new(sent)))
}

/// As [`send`] before there were transaction ids: each request sends an event.
async fn send_again(
    State(app): State<App>,
    sender: Authenticated,
    Path((room, event_type)): Path<(String, String)>,
    RawBody(body): RawBody,
) -> MatrixResult<Json<Value>> {
    let room_id = parse_room_id(&room)?;
    let content = parse_object(&body, JsonMode::Strict).map_err(|error| MatrixError::bad_json(error.to_string()))?;
    let event = SendEvent { event_type, state_key: None, content, redacts: None };
    let sent = app.rooms.send(&room_id, &sender.user_id, event).await?;
    Ok(Json(json!({ "event_id": sent.as_str() })))
}

/// Source: client-server API, "PUT /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}".
async fn set(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<send_state_event::v3::Request>,
) -> MatrixResult<RumaResponse<send_state_event::v3::Response>> {
    if request.event_type == StateEventType::RoomMember {
        sender.no_guest()?;
    }
    let (event_type, state_key) = (request.event_type.to_string(), Some(request.state_key.clone()));
    let event = SendEvent { event_type, state_key, content: content(&request.request.body)?, redacts: None };
    let room_id = room_id(&request.room_id)?;
    if request.event_type == StateEventType::RoomCanonicalAlias {
        app.homeserver.check_canonical_alias(&room_id, &event.content).await?;
    }
    let sent = app.rooms.set_state(&room_id, &sender.user_id, event).await?;
    Ok(RumaResponse(send_state_event::v3::Response::new(ruma_event_id(&sent)?)))
}

/// Source: client-server API, "PUT /_matrix/client/v3/rooms/{roomId}/redact/{eventId}/{txnId}".
async fn redact(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<redact_event::v3::Request>,
) -> MatrixResult<RumaResponse<redact_event::v3::Response>> {
    sender.no_guest()?;
    let reason = request.reason.clone().map(|reason| ("reason".into(), reason.into()));
    let event = redaction(event_id(&request.event_id)?, CanonicalJsonObject::from_iter(reason));
    let path = format!("{} redacts {}", request.room_id, request.event_id);
    let sent = match once(&app, &sender, &request.room_id, path, &request.txn_id, event).await {
        Err(error) if error.status == StatusCode::NOT_FOUND && is_elsewhere(&app, &request.event_id).await? => {
            return Err(MatrixError::invalid_param("the event is of another room"));
        }
        sent => sent?,
    };
    Ok(RumaResponse(redact_event::v3::Response::new(sent)))
}

/// As [`redact`] before there were transaction ids.
async fn redact_again(
    State(app): State<App>,
    sender: Authenticated,
    Path((room, redacted)): Path<(String, String)>,
    RawBody(body): RawBody,
) -> MatrixResult<Json<Value>> {
    sender.no_guest()?;
    let room_id = parse_room_id(&room)?;
    let redacted = EventId::parse(&redacted).map_err(|_| MatrixError::invalid_param("the event id is invalid"))?;
    let body = if body.is_empty() { &b"{}"[..] } else { &body[..] };
    let mut content = parse_object(body, JsonMode::Strict).map_err(|error| MatrixError::bad_json(error.to_string()))?;
    content.retain(|field, _| &**field == "reason");
    let sent = app.rooms.send(&room_id, &sender.user_id, redaction(redacted, content)).await?;
    Ok(Json(json!({ "event_id": sent.as_str() })))
}

fn redaction(redacts: EventId, content: CanonicalJsonObject) -> SendEvent {
    SendEvent { event_type: "m.room.redaction".to_owned(), state_key: None, content, redacts: Some(redacts) }
}

/// Whether some room has an event.
async fn is_elsewhere(app: &App, id: &ruma::EventId) -> MatrixResult<bool> {
    let rooms = app.homeserver.log.rooms_with_event(&event_id(id)?).await;
    Ok(!rooms.map_err(|error| MatrixError::log_internal(&error))?.is_empty())
}
