//! The server-server API.
//!
//! Requests are authenticated by [`Signed`], read into ruma's types, and answered by methods of the homeserver.

mod invites;
mod joining;
mod keys;
mod origin;
mod rooms;
mod transactions;

use axum::Router;

pub use self::origin::Signed;
use crate::serve::App;

/// Returns the routes of the server-server API.
pub(crate) fn routes(app: &App) -> Router<App> {
    Router::new()
        .merge(invites::routes())
        .merge(joining::routes())
        .merge(keys::routes())
        .merge(rooms::routes())
        .merge(transactions::routes(app))
}

#[cfg(test)]
mod tests;
