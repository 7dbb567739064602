//! What other servers read of rooms.

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    response::{IntoResponse, Response},
    routing::post,
};
use futures_util::{Stream, StreamExt, stream};
use http::header;
use ravel_core::id::{EventId, RoomId};
use ravel_homeserver::{
    answering::{AnsweringError, MissingEvents, Pdus},
    rooms::RoomsError,
};
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, UInt,
    api::{
        Direction,
        federation::{
            authorization::get_event_authorization::v1 as event_auth,
            backfill::get_backfill::v1 as backfill,
            event::{
                get_event::v1 as event, get_event_by_timestamp::v1 as timestamp, get_missing_events::v1 as missing,
                get_room_state::v1 as state, get_room_state_ids::v1 as state_ids,
            },
        },
    },
    uint,
};
use serde::Deserialize;

use super::{Signed, origin::SignedJson};
use crate::{
    client::rooms::{event_id, room_id, ruma_event_id},
    serve::{
        App,
        error::{MatrixError, MatrixResult},
        typed::{Routes, RumaResponse},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<event::Request, _, _>(get_event)
        .ruma::<event_auth::Request, _, _>(get_event_auth)
        .ruma::<state::Request, _, _>(get_state)
        .ruma::<state_ids::Request, _, _>(get_state_ids)
        .ruma::<backfill::Request, _, _>(get_backfill)
        .route("/_matrix/federation/v1/get_missing_events/{room_id}", post(get_missing_events))
        .ruma::<timestamp::Request, _, _>(get_timestamp_to_event)
}

impl From<AnsweringError> for MatrixError {
    fn from(error: AnsweringError) -> Self {
        match error {
            AnsweringError::NotInRoom | AnsweringError::Denied => Self::forbidden(error.to_string()),
            // The room went away meanwhile.
            AnsweringError::Rooms(RoomsError::NoSuchRoom) => Self::forbidden(AnsweringError::NotInRoom.to_string()),
            AnsweringError::NoSuchRoom | AnsweringError::NoSuchEvent => Self::not_found(error.to_string()),
            AnsweringError::TooManyEvents { .. } => Self::invalid_param(error.to_string()),
            AnsweringError::Rooms(error) => error.into(),
            AnsweringError::Accounts(error) => error.into(),
        }
    }
}

/// Source: server-server API, "GET /_matrix/federation/v1/event/{eventId}".
async fn get_event(
    State(app): State<App>,
    request: Signed<event::Request>,
) -> MatrixResult<RumaResponse<event::Response>> {
    let pdus = app.homeserver.answer_event(&request.origin, &event_id(&request.event_id)?).await?.all().await?;
    let pdu = pdus.into_iter().next().ok_or(AnsweringError::NoSuchEvent)?;
    let (name, now) = name_and_time(&app)?;
    Ok(RumaResponse(event::Response::new(name, now, pdu)))
}

/// Source: server-server API, "GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}".
async fn get_event_auth(State(app): State<App>, request: Signed<event_auth::Request>) -> MatrixResult<Response> {
    let (room_id, event_id) = (room_id(&request.room_id)?, event_id(&request.event_id)?);
    let chain = app.homeserver.answer_event_auth(&request.origin, &room_id, &event_id).await?;
    Ok(object_of_pdus([("auth_chain", chain)]))
}

/// Source: server-server API, "GET /_matrix/federation/v1/state/{roomId}".
async fn get_state(State(app): State<App>, request: Signed<state::Request>) -> MatrixResult<Response> {
    let (room_id, event_id) = (room_id(&request.room_id)?, event_id(&request.event_id)?);
    let answer = app.homeserver.answer_state(&request.origin, &room_id, &event_id).await?;
    Ok(object_of_pdus([("auth_chain", answer.auth_chain), ("pdus", answer.state)]))
}

/// Source: server-server API, "GET /_matrix/federation/v1/state_ids/{roomId}".
async fn get_state_ids(
    State(app): State<App>,
    request: Signed<state_ids::Request>,
) -> MatrixResult<RumaResponse<state_ids::Response>> {
    let (room_id, event_id) = (room_id(&request.room_id)?, event_id(&request.event_id)?);
    let answer = app.homeserver.answer_state(&request.origin, &room_id, &event_id).await?;
    let ids = |pdus: Pdus| pdus.ids().map(ruma_event_id).collect::<MatrixResult<Vec<_>>>();
    Ok(RumaResponse(state_ids::Response::new(ids(answer.auth_chain)?, ids(answer.state)?)))
}

/// Source: server-server API, "GET /_matrix/federation/v1/backfill/{roomId}".
async fn get_backfill(
    State(app): State<App>,
    request: Signed<backfill::Request>,
) -> MatrixResult<RumaResponse<backfill::Response>> {
    let (room_id, from) = (room_id(&request.room_id)?, event_ids(&request.v)?);
    let pdus = app.homeserver.answer_backfill(&request.origin, &room_id, &from, count(request.limit)).await?;
    let (name, now) = name_and_time(&app)?;
    Ok(RumaResponse(backfill::Response::new(name, now, pdus.all().await?)))
}

/// Between which events others are wanted. What is left out is taken for empty, as other servers do it.
#[derive(Deserialize)]
#[serde(default)]
struct Missing {
    latest_events: Vec<OwnedEventId>,
    earliest_events: Vec<OwnedEventId>,
    limit: UInt,
    min_depth: UInt,
}

impl Default for Missing {
    fn default() -> Self {
        Self { latest_events: Vec::new(), earliest_events: Vec::new(), limit: uint!(10), min_depth: uint!(0) }
    }
}

/// Source: server-server API, "POST /_matrix/federation/v1/get_missing_events/{roomId}".
async fn get_missing_events(
    State(app): State<App>,
    request: SignedJson<Missing>,
) -> MatrixResult<RumaResponse<missing::Response>> {
    let bad = || MatrixError::invalid_param("the room id is invalid");
    let room_id = request.arguments.first().and_then(|id| RoomId::parse(id).ok()).ok_or_else(bad)?;
    let wanted = MissingEvents {
        latest: event_ids(&request.body.latest_events)?,
        earliest: event_ids(&request.body.earliest_events)?,
        limit: count(request.body.limit),
        depth_min: request.body.min_depth.into(),
    };
    let pdus = app.homeserver.answer_missing_events(&request.origin, &room_id, &wanted).await?;
    Ok(RumaResponse(missing::Response::new(pdus.all().await?)))
}

/// Source: server-server API, "GET /_matrix/federation/v1/timestamp_to_event/{roomId}".
async fn get_timestamp_to_event(
    State(app): State<App>,
    request: Signed<timestamp::Request>,
) -> MatrixResult<RumaResponse<timestamp::Response>> {
    let (room_id, ts_ms) = (room_id(&request.room_id)?, i64::from(request.ts.get()));
    let backward = request.dir == Direction::Backward;
    let found = app.homeserver.answer_timestamp_to_event(&request.origin, &room_id, ts_ms, backward).await?;
    let found_ts = UInt::try_from(found.1).unwrap_or_default();
    Ok(RumaResponse(timestamp::Response::new(ruma_event_id(&found.0)?, MilliSecondsSinceUnixEpoch(found_ts))))
}

fn event_ids(ids: &[OwnedEventId]) -> MatrixResult<Vec<EventId>> {
    ids.iter().map(|id| event_id(id)).collect()
}

fn count(limit: UInt) -> usize {
    usize::try_from(u64::from(limit)).unwrap_or(usize::MAX)
}

/// Returns what answers that look like transactions begin with.
fn name_and_time(app: &App) -> MatrixResult<(OwnedServerName, MilliSecondsSinceUnixEpoch)> {
    let name = OwnedServerName::try_from(app.server_name().as_str());
    let name = name.map_err(|error| MatrixError::log_internal(&error))?;
    let now = UInt::try_from(app.clock.now_ms()).unwrap_or_default();
    Ok((name, MilliSecondsSinceUnixEpoch(now)))
}

/// Returns an object whose fields are arrays of events. It is written while they are read, so that a large state takes no memory; if
/// the log fails in between, the answer breaks off.
fn object_of_pdus<const N: usize>(fields: [(&'static str, Pdus); N]) -> Response {
    let fields = fields.into_iter().enumerate().map(|(number, (name, pdus))| {
        let separator = if number == 0 { '{' } else { ',' };
        text(format!("{separator}\"{name}\":[")).chain(elements(pdus)).chain(text("]".to_owned()))
    });
    let body = stream::iter(fields).flatten().chain(text("}".to_owned()));
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
}

fn text(text: String) -> impl Stream<Item = Result<Bytes, RoomsError>> {
    stream::once(async move { Ok(text.into()) })
}

/// Returns the elements of an array, with the commas between them.
fn elements(pdus: Pdus) -> impl Stream<Item = Result<Bytes, RoomsError>> {
    stream::unfold((pdus, true), |(mut pdus, mut is_first)| async move {
        let page = match pdus.next().await {
            Ok(page) => page?,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "an answer breaks off");
                return Some((Err(error), (pdus, is_first)));
            }
        };
        let mut bytes = Vec::with_capacity(page.iter().map(|pdu| pdu.len() + 1).sum());
        for pdu in page {
            if !std::mem::replace(&mut is_first, false) {
                bytes.push(b',');
            }
            bytes.extend_from_slice(&pdu);
        }
        Some((Ok(bytes.into()), (pdus, is_first)))
    })
}
