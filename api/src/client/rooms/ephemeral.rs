//! Typing, receipts, read markers, presence.

use axum::{Json, Router, extract::State, routing::post};
use ravel_core::{event::Membership, id::RoomId};
use ravel_homeserver::ephemeral::{EphemeralError, PresenceState, Receipt, ReceiptKind, STATUS_BYTES_MAX};
use ruma::{
    EventId,
    api::client::{
        presence::{get_presence::v3 as get_presence, set_presence::v3 as set_presence},
        read_marker::set_read_marker::v3 as read_marker,
        typing::create_typing_event::v3 as typing,
    },
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{event_id, parse_room_id, room_id, user_id};
use crate::{
    client::Authenticated,
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{JsonBody, Path, Routes, Ruma, RumaResponse},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<typing::Request, _, _>(set_typing)
        .client("/rooms/{room_id}/receipt/{receipt_type}/{event_id}", post(receipt))
        .ruma::<read_marker::Request, _, _>(set_markers)
        .ruma::<set_presence::Request, _, _>(put_presence)
        .ruma::<get_presence::Request, _, _>(presence)
}

/// What the read marker is in account data.
const FULLY_READ: &str = "m.fully_read";

/// Source: client-server API, "PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}".
async fn set_typing(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<typing::Request>,
) -> MatrixResult<RumaResponse<typing::Response>> {
    check_own(&sender, &request.user_id)?;
    let room_id = room_id(&request.room_id)?;
    check_joined(&app, &sender, &room_id).await?;
    let time_ms = match request.state {
        typing::Typing::Yes(info) => Some(i64::try_from(info.timeout.as_millis()).unwrap_or(i64::MAX)),
        typing::Typing::No => None,
    };
    app.homeserver.ephemeral.set_typing(&room_id, &sender.user_id, time_ms);
    Ok(RumaResponse(typing::Response::new()))
}

/// The body of a receipt. It may be missing.
#[derive(Default, Deserialize)]
struct ReceiptBody {
    thread_id: Option<String>,
}

/// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/receipt/{receiptType}/{eventId}".
async fn receipt(
    State(app): State<App>,
    sender: Authenticated,
    Path((room, receipt_type, event)): Path<(String, String, String)>,
    body: Option<JsonBody<ReceiptBody>>,
) -> MatrixResult<Json<Value>> {
    let body = body.map(|JsonBody(body)| body).unwrap_or_default();
    let room_id = parse_room_id(&room)?;
    check_joined(&app, &sender, &room_id).await?;
    let event = <&EventId>::try_from(event.as_str());
    let event = event.map_err(|_| MatrixError::invalid_param("the event id is invalid"))?;
    match (&*receipt_type, ReceiptKind::parse(&receipt_type)) {
        (FULLY_READ, _) if body.thread_id.is_none() => fully_read(&app, &sender, &room_id, event).await?,
        (_, Some(kind)) => {
            let is_one =
                |thread: &String| thread == "main" || EventId::parse(thread).is_ok_and(|id| event_id(&id).is_ok());
            if !body.thread_id.as_ref().is_none_or(is_one) {
                return Err(MatrixError::invalid_param("`thread_id` is neither `main` nor an event id"));
            }
            read(&app, &sender, &room_id, kind, event, body.thread_id).await?;
        }
        _ => return Err(MatrixError::invalid_param("there are no receipts of this type")),
    }
    Ok(Json(json!({})))
}

/// Source: client-server API, "POST /_matrix/client/v3/rooms/{roomId}/read_markers".
async fn set_markers(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<read_marker::Request>,
) -> MatrixResult<RumaResponse<read_marker::Response>> {
    let room_id = room_id(&request.room_id)?;
    check_joined(&app, &sender, &room_id).await?;
    if let Some(event) = &request.fully_read {
        fully_read(&app, &sender, &room_id, event).await?;
    }
    let read_up_to =
        [(ReceiptKind::Read, &request.read_receipt), (ReceiptKind::Private, &request.private_read_receipt)];
    for (kind, event) in read_up_to {
        if let Some(event) = event {
            read(&app, &sender, &room_id, kind, event, None).await?;
        }
    }
    Ok(RumaResponse(read_marker::Response::new()))
}

async fn read(
    app: &App,
    sender: &Authenticated,
    room_id: &RoomId,
    kind: ReceiptKind,
    event: &EventId,
    thread: Option<String>,
) -> MatrixResult<()> {
    let receipt = Receipt { kind, event_id: event_id(event)?, thread, ts_ms: app.clock.now_ms() };
    Ok(app.homeserver.ephemeral.receipt(room_id, &sender.user_id, receipt).await?)
}

async fn fully_read(app: &App, sender: &Authenticated, room_id: &RoomId, event: &EventId) -> MatrixResult<()> {
    let content = Map::from_iter([("event_id".to_owned(), Value::from(event.as_str()))]);
    Ok(app.homeserver.account_data.set(&sender.user_id, Some(room_id), FULLY_READ, content).await?)
}

/// Source: client-server API, "PUT /_matrix/client/v3/presence/{userId}/status".
async fn put_presence(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<set_presence::Request>,
) -> MatrixResult<RumaResponse<set_presence::Response>> {
    check_own(&sender, &request.user_id)?;
    let unknown = || MatrixError::invalid_param("there is no such presence");
    let state = PresenceState::parse(request.presence.as_str()).ok_or_else(unknown)?;
    if request.status_msg.as_ref().is_some_and(|text| text.len() > STATUS_BYTES_MAX) {
        return Err(MatrixError::invalid_param("the status message is too long"));
    }
    app.homeserver.ephemeral.set_presence(&sender.user_id, state, request.request.status_msg);
    Ok(RumaResponse(set_presence::Response::new()))
}

/// Source: client-server API, "GET /_matrix/client/v3/presence/{userId}/status": of oneself, and of those in the same rooms.
async fn presence(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<get_presence::Request>,
) -> MatrixResult<Json<Value>> {
    let user = user_id(&request.user_id)?;
    if user != sender.user_id && !app.rooms.share_room(&sender.user_id, &user).await? {
        return Err(MatrixError::forbidden("you are in no room with this user"));
    }
    Ok(Json(app.homeserver.ephemeral.presence_content(&user)))
}

fn check_own(sender: &Authenticated, user: &ruma::UserId) -> MatrixResult<()> {
    if sender.user_id.as_str() == user.as_str() {
        return Ok(());
    }
    Err(MatrixError::forbidden("this is another user's"))
}

async fn check_joined(app: &App, sender: &Authenticated, room_id: &RoomId) -> MatrixResult<()> {
    if app.rooms.membership(room_id, &sender.user_id).await? == Some(Membership::Join) {
        return Ok(());
    }
    Err(MatrixError::forbidden("you are not in this room"))
}

impl From<EphemeralError> for MatrixError {
    fn from(error: EphemeralError) -> Self {
        match error {
            EphemeralError::Rooms(error) => error.into(),
            EphemeralError::Log(_) | EphemeralError::Record(_) => Self::log_internal(&error),
        }
    }
}
