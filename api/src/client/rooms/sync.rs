//! What is new.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, Router, extract::State};
use ravel_core::id::RoomId;
use ravel_homeserver::{
    ephemeral::PresenceState,
    rooms::{ClientEvent, JoinedRoom, LeftRoom, MemberCounts, TimelineToken},
    sync::{News, NextBatch, SyncError, SyncRequest},
};
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
        Some(since) => Some(NextBatch::parse(since).ok_or_else(bad)?),
        None => None,
    };
    let filter = match request.request.filter {
        Some(sync_events::Filter::FilterDefinition(filter)) => filter,
        Some(sync_events::Filter::FilterId(filter_id)) => stored_filter(&app, &sender, &filter_id).await?,
        _ => FilterDefinition::default(),
    };
    if let Some(state) = PresenceState::parse(request.request.set_presence.as_str()) {
        app.homeserver.ephemeral.note_sync(&sender.user_id, state);
    }
    let timeout = request.request.timeout.unwrap_or_default();
    let (device_id, full_state) = (Some(sender.device_id.clone()), request.request.full_state);
    let wanted = SyncRequest { since, filter, device_id, full_state, timeout };
    Ok(Json(to_json(wait(&app, &sender, wanted).await?)))
}

/// Waits for something new, not for too long and not when the server stops.
pub(super) async fn wait(app: &App, sender: &Authenticated, mut wanted: SyncRequest) -> MatrixResult<News> {
    wanted.timeout = wanted.timeout.min(TIMEOUT_MAX);
    let at_once = SyncRequest { timeout: Duration::ZERO, ..wanted.clone() };
    let syncs = &app.homeserver.syncs;
    let news = tokio::select! {
        news = syncs.sync(&sender.user_id, wanted) => news?,
        // What there is by now.
        () = app.stopping() => syncs.sync(&sender.user_id, at_once).await?,
    };
    Ok(news)
}

async fn stored_filter(app: &App, sender: &Authenticated, filter_id: &str) -> MatrixResult<FilterDefinition> {
    let filter = app.homeserver.filters.get(&sender.user_id, filter_id).await?;
    let filter = filter.ok_or_else(|| MatrixError::invalid_param("there is no such filter"))?;
    serde_json::from_value(filter).map_err(|error| MatrixError::log_internal(&error))
}

/// `next_batch` is where a later sync goes on from.
fn to_json(news: News) -> Value {
    let News { rooms, account_data, room_account_data, ephemeral, presence, to_device, next } = news;
    let mut join: Map<String, Value> =
        rooms.joined.into_iter().map(|(room_id, room)| (room_id.to_string(), joined(room))).collect();
    for (part, rooms) in [("account_data", room_account_data), ("ephemeral", ephemeral)] {
        for (room_id, events) in rooms {
            let room = join.entry(room_id.as_str()).or_insert_with(|| joined(JoinedRoom::default()));
            if let Some(room) = room.as_object_mut() {
                room.insert(part.to_owned(), json!({ "events": events }));
            }
        }
    }
    let outside = |rooms: BTreeMap<RoomId, Vec<ClientEvent>>, state: &str| -> Map<String, Value> {
        let room =
            |(room_id, events): (RoomId, _)| (room_id.to_string(), json!({ state: { "events": stripped(events) } }));
        rooms.into_iter().map(room).collect()
    };
    let invite = outside(rooms.invited, "invite_state");
    let knock = outside(rooms.knocked, "knock_state");
    let left = |room: LeftRoom| {
        let timeline = timeline(room.timeline, room.limited, room.prev_batch);
        json!({ "timeline": timeline, "state": { "events": in_room(room.state) } })
    };
    let leave: Map<String, Value> =
        rooms.left.into_iter().map(|(room_id, room)| (room_id.to_string(), left(room))).collect();
    json!({
        "next_batch": next.to_string(),
        "rooms": { "join": join, "invite": invite, "knock": knock, "leave": leave },
        "account_data": { "events": account_data },
        "presence": { "events": presence },
        "to_device": { "events": to_device },
    })
}

fn timeline(events: Vec<ClientEvent>, limited: bool, prev_batch: Option<TimelineToken>) -> Value {
    let mut timeline = json!({ "events": in_room(events), "limited": limited });
    if let (Some(prev_batch), Some(timeline)) = (prev_batch, timeline.as_object_mut()) {
        timeline.insert("prev_batch".to_owned(), prev_batch.to_string().into());
    }
    timeline
}

fn joined(room: JoinedRoom) -> Value {
    let timeline = timeline(room.timeline, room.limited, room.prev_batch);
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

impl From<SyncError> for MatrixError {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Rooms(error) => error.into(),
            SyncError::AccountData(error) => error.into(),
            SyncError::ToDevice(error) => error.into(),
            SyncError::Ephemeral(error) => error.into(),
        }
    }
}
