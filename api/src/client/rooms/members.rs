//! Who is in a room, and what was around an event.

use axum::{Json, Router, extract::State};
use ravel_homeserver::rooms::{ClientEvent, SyncToken};
use ruma::api::client::{
    context::get_context::v3 as context,
    membership::{get_member_events::v3 as members, joined_members::v3 as joined_members},
};
use serde_json::{Map, Value, json};

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
        .ruma::<members::Request, _, _>(get_members)
        .ruma::<joined_members::Request, _, _>(get_joined)
        .ruma::<context::Request, _, _>(get_context)
}

/// Source: client-server API, "GET /_matrix/client/v3/rooms/{roomId}/members".
async fn get_members(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<members::Request>,
) -> MatrixResult<RumaResponse<members::Response>> {
    let bad = || MatrixError::invalid_param("at is no token of this server");
    let at = match &request.at {
        Some(at) => Some(SyncToken::parse(at).ok_or_else(bad)?.0),
        None => None,
    };
    let mut events = app.rooms.members(&room_id(&request.room_id)?, &sender.user_id, at).await?;
    let members::Request { membership, not_membership, .. } = &request.request;
    events.retain(|event| {
        let text = in_content(event, "membership").and_then(Value::as_str);
        let is = |wanted: &ruma::events::room::member::MembershipState| Some(wanted.as_str()) == text;
        membership.as_ref().is_none_or(is) && !not_membership.as_ref().is_some_and(is)
    });
    Ok(RumaResponse(members::Response::new(raw(events)?)))
}

/// Source: client-server API, "GET /_matrix/client/v3/rooms/{roomId}/joined_members".
async fn get_joined(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<joined_members::Request>,
) -> MatrixResult<Json<Value>> {
    let events = app.rooms.joined_members(&room_id(&request.room_id)?, &sender.user_id).await?;
    let joined = events.iter().filter_map(|event| {
        // As other servers do it, both are there in any case.
        let text = |field: &str| in_content(event, field).filter(|value| value.is_string());
        let member = json!({ "display_name": text("displayname"), "avatar_url": text("avatar_url") });
        Some((event.json.get("state_key")?.as_str()?.to_owned(), member))
    });
    Ok(Json(json!({ "joined": joined.collect::<Map<String, Value>>() })))
}

/// Source: client-server API, "GET /_matrix/client/v3/rooms/{roomId}/context/{eventId}".
async fn get_context(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<context::Request>,
) -> MatrixResult<RumaResponse<context::Response>> {
    let limit = usize::try_from(u64::from(request.limit)).unwrap_or(usize::MAX).min(LIMIT_MAX);
    let lazy = !request.filter.lazy_load_options.is_disabled();
    let (room_id, event_id) = (room_id(&request.room_id)?, event_id(&request.event_id)?);
    let found = app.rooms.context(&room_id, &sender.user_id, &event_id, limit, lazy).await?;
    let mut response = context::Response::new();
    response.start = Some(found.start.to_string());
    response.end = Some(found.end.to_string());
    response.event = raw(vec![found.event])?.pop();
    response.events_before = raw(found.before.events)?;
    response.events_after = raw(found.after.events)?;
    response.state = raw(found.state)?;
    Ok(RumaResponse(response))
}

fn in_content<'e>(event: &'e ClientEvent, field: &str) -> Option<&'e Value> {
    event.json.get("content")?.get(field)
}

/// The most events around one.
const LIMIT_MAX: usize = 100;
