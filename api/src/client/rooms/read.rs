//! Reading rooms.

use axum::{Json, Router, extract::State, routing::get};
use ravel_homeserver::rooms::{Page, TimelineToken};
use ruma::{
    api::{
        Direction,
        client::{
            message::get_message_events::v3 as messages,
            room::get_room_event::v3 as room_event,
            state::{get_state_event_for_key::v3 as state_event, get_state_events::v3 as state},
        },
    },
    serde::Raw,
};

use serde_json::Value;

use super::{event_id, raw, room_id};
use crate::{
    client::Authenticated,
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{Routes, Ruma, RumaResponse},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<messages::Request, _, _>(get_messages)
        .ruma::<room_event::Request, _, _>(get_event)
        .ruma::<state::Request, _, _>(get_state)
        .ruma::<state_event::Request, _, _>(get_state_event)
        // Where the state key is empty, "the trailing slash on this endpoint is optional"; ruma's paths have a state key.
        .route("/_matrix/client/r0/rooms/{room_id}/state/{event_type}", get(get_state_event))
        .route("/_matrix/client/r0/rooms/{room_id}/state/{event_type}/", get(get_state_event))
        .route("/_matrix/client/v3/rooms/{room_id}/state/{event_type}", get(get_state_event))
        .route("/_matrix/client/v3/rooms/{room_id}/state/{event_type}/", get(get_state_event))
}

/// Source: client-server API, "GET /_matrix/client/v3/rooms/{roomId}/messages".
async fn get_messages(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<messages::Request>,
) -> MatrixResult<RumaResponse<messages::Response>> {
    let backward = request.dir == Direction::Backward;
    let bad = || MatrixError::invalid_param("from is no token of this server");
    let from = match &request.from {
        Some(from) => Some(TimelineToken::parse(from).ok_or_else(bad)?),
        None => None,
    };
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX);
    let page = Page { from, backward, limit };
    let found = app.homeserver.messages(&room_id(&request.room_id)?, &sender.user_id, page).await?;
    let mut response = messages::Response::new();
    response.start = found.start.to_string();
    response.end = found.next.map(|next| next.to_string());
    response.chunk = raw(found.events)?;
    Ok(RumaResponse(response))
}

/// Source: client-server API, "GET /_matrix/client/v3/rooms/{roomId}/event/{eventId}".
async fn get_event(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<room_event::Request>,
) -> MatrixResult<RumaResponse<room_event::Response>> {
    let (room_id, event_id) = (room_id(&request.room_id)?, event_id(&request.event_id)?);
    let event = app.rooms.event(&room_id, &sender.user_id, &event_id).await?;
    let event: Option<Raw<_>> = raw(vec![event])?.pop();
    let event = event.ok_or_else(|| MatrixError::not_found("there is no such event"))?;
    Ok(RumaResponse(room_event::Response::new(event)))
}

/// Source: client-server API, "GET /_matrix/client/v3/rooms/{roomId}/state".
async fn get_state(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<state::Request>,
) -> MatrixResult<RumaResponse<state::Response>> {
    let state = app.rooms.state(&room_id(&request.room_id)?, &sender.user_id).await?;
    Ok(RumaResponse(state::Response::new(raw(state)?)))
}

/// Source: client-server API, "GET /_matrix/client/v3/rooms/{roomId}/state/{eventType}/{stateKey}".
async fn get_state_event(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<state_event::Request>,
) -> MatrixResult<Json<Value>> {
    let (room_id, event_type) = (room_id(&request.room_id)?, request.event_type.to_string());
    let event = app.rooms.state_event(&room_id, &sender.user_id, &event_type, &request.state_key).await?;
    let whole = request.format == state_event::StateEventFormat::Event;
    let json = if whole { Value::Object(event.json) } else { event.json.get("content").cloned().unwrap_or_default() };
    Ok(Json(json))
}
