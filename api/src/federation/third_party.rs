//! Invites of third-party identifiers.

use axum::{Json, Router, extract::State, routing::put};
use ravel_core::{
    canonical_json::{CanonicalJsonObject, JsonMode, parse_object},
    id::{RoomId, UserId},
};
use ravel_homeserver::joining::{BOUND_INVITES_MAX, BoundInvite};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{joining::parsed, origin::SignedJson};
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
    typed::JsonBody,
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .route("/_matrix/federation/v1/exchange_third_party_invite/{room_id}", put(exchange))
        .route("/_matrix/federation/v1/3pid/onbind", put(bound))
}

/// Source: server-server API, "PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}".
async fn exchange(State(app): State<App>, request: SignedJson<Box<RawValue>>) -> MatrixResult<Json<Value>> {
    let [room_id] = &*request.arguments else { return Err(MatrixError::unknown_path()) };
    let invite = BoundInvite::of_event(parsed(RoomId::parse(room_id))?, &object(&request.body)?)?;
    app.homeserver.exchange_third_party_invite(&request.origin, &invite).await?;
    Ok(Json(json!({})))
}

/// What an identity server tells.
#[derive(Deserialize)]
struct Bound {
    mxid: String,
    #[serde(default)]
    invites: Vec<Invite>,
}

#[derive(Deserialize)]
struct Invite {
    mxid: String,
    room_id: String,
    sender: String,
    signed: Box<RawValue>,
}

/// Source: server-server API, "PUT /_matrix/federation/v1/3pid/onbind". It is not signed: identity servers are no homeservers.
async fn bound(State(app): State<App>, JsonBody(bound): JsonBody<Bound>) -> MatrixResult<Json<Value>> {
    if bound.invites.len() > BOUND_INVITES_MAX {
        return Err(MatrixError::bad_json("too many invites"));
    }
    let user = parsed(UserId::parse(&bound.mxid))?;
    let read = |invite: Invite| {
        Ok(BoundInvite {
            room_id: parsed(RoomId::parse(&invite.room_id))?,
            sender: parsed(UserId::parse(&invite.sender))?,
            target: parsed(UserId::parse(&invite.mxid))?,
            signed: object(&invite.signed)?,
        })
    };
    let invites: Vec<BoundInvite> = bound.invites.into_iter().map(read).collect::<MatrixResult<_>>()?;
    app.homeserver.third_party_bound(&user, &invites).await?;
    Ok(Json(json!({})))
}

fn object(json: &RawValue) -> MatrixResult<CanonicalJsonObject> {
    let bad = |error| MatrixError::bad_json(format!("it can't be part of an event: {error}"));
    parse_object(json.get().as_bytes(), JsonMode::Strict).map_err(bad)
}
