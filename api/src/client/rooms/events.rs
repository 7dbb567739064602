//! The stream of events that clients had before `/sync`.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    routing::get,
};
use ravel_core::id::RoomId;
use ravel_homeserver::{
    rooms::ClientEvent,
    sync::{News, NextBatch, SyncRequest},
};
use ruma::{api::client::filter::FilterDefinition, uint};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    client::{Authenticated, rooms::sync},
    serve::{
        App,
        error::{MatrixError, MatrixResult},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new().route("/_matrix/client/r0/events", get(events)).route("/_matrix/client/v3/events", get(events))
}

/// Where the stream goes on, now without it, and how many milliseconds to wait. (ruma's request is the one for one room that a user
/// is not in.)
#[derive(Deserialize)]
struct Events {
    from: Option<String>,
    timeout: Option<u64>,
}

/// Tells the events of the user's rooms that are new, with the member events of invites to others, typing, receipts and presence.
///
/// Source: client-server API r0.6.1, "GET /_matrix/client/r0/events" (deprecated).
async fn events(
    State(app): State<App>,
    sender: Authenticated,
    query: Result<Query<Events>, QueryRejection>,
) -> MatrixResult<Json<Value>> {
    let Query(Events { from, timeout }) = query.map_err(|error| MatrixError::invalid_param(error.body_text()))?;
    let bad = || MatrixError::invalid_param("from is no token of this server");
    let from = match from {
        Some(from) => NextBatch::parse(&from).ok_or_else(bad)?,
        None => app.homeserver.syncs.now(),
    };
    let mut filter = FilterDefinition::default();
    filter.room.timeline.limit = Some(uint!(250));
    let timeout = Duration::from_millis(timeout.unwrap_or_default());
    let wanted = SyncRequest { since: Some(from), filter, timeout, ..SyncRequest::default() };
    let news = sync::wait(&app, &sender, wanted).await?;
    let end = news.next.to_string();
    Ok(Json(json!({ "start": from.to_string(), "end": end, "chunk": chunk(news) })))
}

fn chunk(news: News) -> Vec<Value> {
    let rooms = news.rooms;
    let timelines = rooms.joined.into_values().map(|room| room.timeline);
    let timelines = timelines.chain(rooms.left.into_values().map(|room| room.timeline));
    // The member event is the last of those that describe the room.
    let outside = rooms.invited.into_values().chain(rooms.knocked.into_values()).filter_map(|mut events| events.pop());
    let in_rooms = timelines.flatten().chain(outside).map(|event: ClientEvent| event.json);
    let with_room = |(room_id, events): (RoomId, Vec<Map<String, Value>>)| {
        let room_id = Value::from(room_id.as_str());
        events.into_iter().map(move |mut event| {
            event.insert("room_id".to_owned(), room_id.clone());
            event
        })
    };
    let passing = news.ephemeral.into_iter().flat_map(with_room).chain(news.presence);
    in_rooms.chain(passing).map(Value::Object).collect()
}
