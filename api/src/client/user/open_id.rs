//! Tokens by which users prove to others who they are.

use axum::{Json, Router, extract::State, routing::post};
use ravel_homeserver::open_id::OPEN_ID_SECONDS;
use serde_json::{Value, json};

use super::own;
use crate::{
    client::Authenticated,
    serve::{
        App,
        error::MatrixResult,
        typed::{Path, Routes},
    },
};

pub(super) fn routes() -> Router<App> {
    Router::new().client("/user/{user_id}/openid/request_token", post(grant))
}

/// Source: client-server API, "POST /_matrix/client/v3/user/{userId}/openid/request_token".
async fn grant(
    State(app): State<App>,
    sender: Authenticated,
    Path(user_id): Path<String>,
) -> MatrixResult<Json<Value>> {
    sender.no_guest()?;
    let user = own(&sender, &user_id)?;
    Ok(Json(json!({
        "access_token": app.homeserver.open_id.grant(&user),
        "expires_in": OPEN_ID_SECONDS,
        "matrix_server_name": app.server_name().as_str(),
        "token_type": "Bearer",
    })))
}
