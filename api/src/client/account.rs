//! Of what account a token is, and its end.

use axum::{Router, extract::State};
use ravel_homeserver::accounts::Role;
use ruma::api::client::{
    account::whoami,
    session::{logout, logout_all},
};

use super::{Authenticated, ruma_user_id};
use crate::serve::{
    App,
    error::MatrixResult,
    typed::{Routes, RumaResponse},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<whoami::v3::Request, _, _>(whoami)
        .ruma::<logout::v3::Request, _, _>(log_out)
        .ruma::<logout_all::v3::Request, _, _>(log_out_all)
}

/// Source: client-server API, "GET /_matrix/client/v3/account/whoami".
async fn whoami(sender: Authenticated) -> MatrixResult<RumaResponse<whoami::v3::Response>> {
    let mut response = whoami::v3::Response::new(ruma_user_id(&sender.user_id)?, sender.role == Role::Guest);
    response.device_id = Some(sender.0.device_id);
    Ok(RumaResponse(response))
}

/// Source: client-server API, "POST /_matrix/client/v3/logout". The body is not looked at: clients send all kinds.
async fn log_out(State(app): State<App>, sender: Authenticated) -> MatrixResult<RumaResponse<logout::v3::Response>> {
    app.accounts.log_out(&sender).await?;
    Ok(RumaResponse(logout::v3::Response::new()))
}

/// Source: client-server API, "POST /_matrix/client/v3/logout/all".
async fn log_out_all(
    State(app): State<App>,
    sender: Authenticated,
) -> MatrixResult<RumaResponse<logout_all::v3::Response>> {
    app.accounts.log_out_all(&sender.user_id).await?;
    Ok(RumaResponse(logout_all::v3::Response::new()))
}
