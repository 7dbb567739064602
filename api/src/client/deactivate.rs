//! The end of an account.

use axum::{Router, extract::State};
use ravel_core::canonical_json::CanonicalJsonObject;
use ravel_homeserver::accounts::Purpose;
use ruma::api::client::account::{ThirdPartyIdRemovalStatus, deactivate::v3 as deactivate};

use super::{
    Authenticated,
    interactive::{NotYet, check_password},
};
use crate::serve::{
    App,
    typed::{Routes, Ruma, RumaResponse},
};

pub(super) fn routes() -> Router<App> {
    Router::new().ruma::<deactivate::Request, _, _>(end_account)
}

/// The user leaves the rooms that it is in. There are no third-party ids to be unbound.
///
/// Source: client-server API, "POST /_matrix/client/v3/account/deactivate".
async fn end_account(
    State(app): State<App>,
    sender: Authenticated,
    request: Ruma<deactivate::Request>,
) -> Result<RumaResponse<deactivate::Response>, NotYet> {
    let attempt = check_password(&app.accounts, &sender, Purpose::Deactivate, request.auth.as_ref()).await?;
    app.accounts.deactivate(&sender.user_id, request.erase).await?;
    if let Some(attempt) = attempt {
        attempt.finish();
    }
    for room_id in app.rooms.joined_rooms(&sender.user_id) {
        if let Err(error) = app.homeserver.leave(&sender.user_id, &room_id, CanonicalJsonObject::new()).await {
            tracing::warn!(%room_id, error = &error as &dyn std::error::Error, "a deactivated user stays in a room");
        }
    }
    Ok(RumaResponse(deactivate::Response::new(ThirdPartyIdRemovalStatus::Success)))
}
