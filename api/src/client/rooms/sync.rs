//! What is new.

use std::time::Duration;

use axum::{Json, Router, extract::State};
use ravel_homeserver::rooms::{ClientEvent, JoinedRoom, MemberCounts, Sync, SyncToken};
use ruma::api::client::{filter::FilterDefinition, sync::sync_events::v3 as sync_events};
use serde_json::{Map, Value, json};

use crate::{
    client::Authenticated,
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{Routes, Ruma},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new().ruma::<sync_events::Request, _, _>(sync)
}

/// How many events of a room are told unless a filter says something else.
const TIMELINE_DEFAULT: u64 = 10;
/// The most events of a room.
const TIMELINE_MAX: u64 = 250;
/// The longest that a request waits.
const TIMEOUT_MAX: Duration = Duration::from_secs(120);

/// Source: client-server API, "GET /_matrix/client/v3/sync".
async fn sync(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<sync_events::Request>,
) -> MatrixResult<Json<Value>> {
    let bad = || MatrixError::invalid_param("since is no token of this server");
    let since = match &request.since {
        Some(since) => Some(SyncToken::parse(since).ok_or_else(bad)?),
        None => None,
    };
    let limit = match &request.filter {
        Some(sync_events::Filter::FilterDefinition(filter)) => timeline_limit(filter),
        _ => TIMELINE_DEFAULT,
    };
    let limit = usize::try_from(limit.min(TIMELINE_MAX)).unwrap_or(usize::MAX);
    let timeout = request.timeout.unwrap_or_default().min(TIMEOUT_MAX);
    let news = app.rooms.sync(&sender.user_id, since, limit, timeout);
    let news = tokio::select! {
        news = news => news?,
        // What there is by now.
        () = app.stopping() => app.rooms.sync(&sender.user_id, since, limit, Duration::ZERO).await?,
    };
    Ok(Json(to_json(news, since)))
}

fn timeline_limit(filter: &FilterDefinition) -> u64 {
    filter.room.timeline.limit.map_or(TIMELINE_DEFAULT, u64::from)
}

/// `next_batch` is a place in the log that a later sync goes on from.
fn to_json(news: Sync, since: Option<SyncToken>) -> Value {
    let next = news.next.or(since).unwrap_or(SyncToken(0)).to_string();
    let join: Map<String, Value> =
        news.joined.into_iter().map(|(room_id, room)| (room_id.to_string(), joined(room))).collect();
    let invite: Map<String, Value> = news
        .invited
        .into_iter()
        .map(|(room_id, events)| (room_id.to_string(), json!({ "invite_state": { "events": stripped(events) } })))
        .collect();
    let knock: Map<String, Value> = news
        .knocked
        .into_iter()
        .map(|(room_id, events)| (room_id.to_string(), json!({ "knock_state": { "events": stripped(events) } })))
        .collect();
    let leave: Map<String, Value> = news
        .left
        .into_iter()
        .map(|(room_id, room)| {
            let timeline = json!({ "events": in_room(room.timeline), "limited": false });
            (room_id.to_string(), json!({ "timeline": timeline, "state": { "events": in_room(room.state) } }))
        })
        .collect();
    json!({ "next_batch": next, "rooms": { "join": join, "invite": invite, "knock": knock, "leave": leave } })
}

fn joined(room: JoinedRoom) -> Value {
    let mut timeline = json!({ "events": in_room(room.timeline), "limited": room.limited });
    if let (Some(prev_batch), Some(timeline)) = (room.prev_batch, timeline.as_object_mut()) {
        timeline.insert("prev_batch".to_owned(), prev_batch.to_string().into());
    }
    let counts = |members: MemberCounts| json!({ "m.joined_member_count": members.joined, "m.invited_member_count": members.invited });
    let summary = room.members.map_or_else(|| json!({}), counts);
    json!({ "timeline": timeline, "state": { "events": in_room(room.state) }, "summary": summary })
}

/// Events below a room say nothing of which one.
fn in_room(events: Vec<ClientEvent>) -> Vec<Value> {
    let without_room = |mut event: ClientEvent| {
        event.json.remove("room_id");
        Value::Object(event.json)
    };
    events.into_iter().map(without_room).collect()
}

/// Source: client-server API, "Stripped state".
fn stripped(events: Vec<ClientEvent>) -> Vec<Value> {
    let strip = |mut event: ClientEvent| {
        event.json.retain(|field, _| ["content", "sender", "state_key", "type"].contains(&field.as_str()));
        Value::Object(event.json)
    };
    events.into_iter().map(strip).collect()
}
