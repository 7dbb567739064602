//! What clients asked for before there was `/sync`: all of a room, or of all rooms, at once.
//!
//! Source: client-server API r0.6.1, "GET /_matrix/client/r0/initialSync", "GET /_matrix/client/r0/rooms/{roomId}/initialSync"
//! (deprecated).

use std::collections::BTreeSet;

use axum::{
    Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    routing::get,
};
use ravel_core::{
    event::Membership,
    id::{RoomId, UserId},
};
use ravel_homeserver::{
    ephemeral::EphemeralQuery,
    rooms::{ClientEvent, Page, RoomsError, SyncToken, TimelineToken},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::parse_room_id;
use crate::{
    client::Authenticated,
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{Path, Routes},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new().client("/initialSync", get(of_all)).client("/rooms/{room_id}/initialSync", get(of_room))
}

/// How many events of a room are told unless something else is asked for.
const LIMIT_DEFAULT: usize = 20;
/// The most.
const LIMIT_MAX: usize = 100;
/// Of how many members of a room the presence is told.
const PRESENCE_MAX: usize = 1_000;

#[derive(Deserialize)]
struct Wanted {
    limit: Option<usize>,
    archived: Option<bool>,
}

impl Wanted {
    fn read(query: Result<Query<Self>, QueryRejection>) -> MatrixResult<Self> {
        Ok(query.map_err(|error| MatrixError::invalid_param(error.body_text()))?.0)
    }

    fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX)
    }
}

async fn of_all(
    State(app): State<App>,
    sender: Authenticated,
    query: Result<Query<Wanted>, QueryRejection>,
) -> MatrixResult<Json<Value>> {
    sender.no_guest()?;
    let wanted = Wanted::read(query)?;
    let user = &sender.user_id;
    let now = app.homeserver.syncs.now();
    let mut rooms = Vec::new();
    for (room_id, membership) in app.rooms.rooms_of(user) {
        match membership {
            Membership::Join => rooms.push(room(&app, user, &room_id, wanted.limit()).await?),
            Membership::Leave | Membership::Ban if wanted.archived == Some(true) => {
                match room(&app, user, &room_id, wanted.limit()).await {
                    Ok(left) => rooms.push(left),
                    // Who never was there, and turned an invite down, sees nothing.
                    Err(error) if error.status == http::StatusCode::FORBIDDEN => {}
                    Err(error) => return Err(error),
                }
            }
            Membership::Invite => {
                let invite = app.rooms.invite_event(&room_id, user).await?;
                let sender = invite.as_ref().and_then(|event| event.json.get("sender")).cloned();
                let invite = invite.map(|event| event.json);
                rooms.push(json!({
                    "room_id": room_id.as_str(), "membership": "invite", "inviter": sender, "invite": invite,
                }));
            }
            _ => {}
        }
    }
    let joined = app.rooms.joined_rooms(user);
    let (receipts, presence) = passing(&app, user, &joined).await?;
    let account_data = app.homeserver.syncs.account_data(user).await?;
    let end = now.to_string();
    let all = json!({
        "rooms": rooms, "receipts": receipts, "presence": presence, "account_data": account_data, "end": end,
    });
    Ok(Json(all))
}

async fn of_room(
    State(app): State<App>,
    sender: Authenticated,
    Path(room_id): Path<String>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> MatrixResult<Json<Value>> {
    let wanted = Wanted::read(query)?;
    let room_id = parse_room_id(&room_id)?;
    let user = &sender.user_id;
    let mut told = room(&app, user, &room_id, wanted.limit()).await?;
    let is_joined = app.rooms.membership(&room_id, user).await? == Some(Membership::Join);
    let joined: Vec<RoomId> = is_joined.then_some(room_id).into_iter().collect();
    let (receipts, _) = passing(&app, user, &joined).await?;
    // Of all members, also those of whom nothing is known.
    let mut presence = Vec::new();
    for room_id in &joined {
        let members = app.rooms.joined_members(room_id, user).await?;
        let members = members.iter().filter_map(|event| UserId::parse(event.json.get("state_key")?.as_str()?).ok());
        presence
            .extend(members.take(PRESENCE_MAX).map(|user| presence_of(app.homeserver.ephemeral.presence_event(&user))));
    }
    if let Some(told) = told.as_object_mut() {
        told.insert("receipts".to_owned(), receipts.into());
        told.insert("presence".to_owned(), presence.into());
        told.insert("account_data".to_owned(), json!([]));
    }
    Ok(Json(told))
}

async fn room(app: &App, user: &UserId, room_id: &RoomId, limit: usize) -> MatrixResult<Value> {
    let membership = app.rooms.membership(room_id, user).await?;
    let membership = match membership {
        Some(Membership::Join) => Some("join"),
        Some(Membership::Leave) => Some("leave"),
        Some(Membership::Ban) => Some("ban"),
        _ => None,
    };
    let state = app.rooms.state(room_id, user).await?.into_iter().map(with_user).collect::<Vec<_>>();
    let from = Some(TimelineToken::Sync(SyncToken(app.rooms.position())));
    let page = Page { from, backward: true, limit: limit.max(1) };
    let found = match app.rooms.messages(room_id, user, page).await {
        Err(RoomsError::NotInRoom) => None,
        found => Some(found?),
    };
    let end = app.homeserver.syncs.now().to_string();
    let start = found.as_ref().and_then(|found| found.next).map_or_else(|| end.clone(), |next| next.to_string());
    let mut chunk: Vec<ClientEvent> = found.map(|found| found.events).unwrap_or_default();
    chunk.truncate(limit);
    chunk.reverse();
    let chunk: Vec<Value> = chunk.into_iter().map(with_user).collect();
    let visibility = if app.homeserver.directory.is_published(room_id).await? { "public" } else { "private" };
    Ok(json!({
        "room_id": room_id.as_str(),
        "membership": membership,
        "visibility": visibility,
        "state": state,
        "messages": { "chunk": chunk, "start": start, "end": end },
    }))
}

/// Old clients look for `user_id`.
fn with_user(event: ClientEvent) -> Value {
    let mut json = event.json;
    if let Some(sender) = json.get("sender").cloned() {
        json.insert("user_id".to_owned(), sender);
    }
    Value::Object(json)
}

/// Returns the receipts and the presence of rooms that a user has joined.
async fn passing(app: &App, user: &UserId, joined: &[RoomId]) -> MatrixResult<(Vec<Value>, Vec<Value>)> {
    let new = joined.iter().cloned().collect::<BTreeSet<_>>();
    let query = EphemeralQuery { user, since: None, since_log: 0, joined, new: &new };
    let news = app.homeserver.ephemeral.news(query).await?;
    let receipts = news.rooms.into_iter().flat_map(|(room_id, events)| {
        let receipts = events.into_iter().filter(|event| event.get("type").is_some_and(|kind| kind == "m.receipt"));
        receipts.map(move |mut event| {
            event.insert("room_id".to_owned(), room_id.as_str().into());
            Value::Object(event)
        })
    });
    Ok((receipts.collect(), news.presence.into_iter().map(presence_of).collect()))
}

/// Old clients look for `user_id`.
fn presence_of(mut event: Map<String, Value>) -> Value {
    let sender = event.get("sender").cloned().unwrap_or_default();
    if let Some(content) = event.get_mut("content").and_then(Value::as_object_mut) {
        content.insert("user_id".to_owned(), sender);
    }
    Value::Object(event)
}
