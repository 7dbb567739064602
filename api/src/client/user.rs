//! What a user keeps at its server: its profile, account data, tags, filters.

mod account_data;
mod filters;
mod open_id;
mod profile;

use axum::Router;
use ravel_core::id::UserId;

use super::Authenticated;
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .merge(account_data::routes())
        .merge(filters::routes())
        .merge(open_id::routes())
        .merge(profile::routes())
}

/// Refuses users that are not the one who asks.
fn own(sender: &Authenticated, user_id: &str) -> MatrixResult<UserId> {
    if sender.user_id.as_str() == user_id {
        return Ok(sender.user_id.clone());
    }
    Err(MatrixError::forbidden("this is another user's"))
}
