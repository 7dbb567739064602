//! The server-server API.
//!
//! Requests are authenticated by [`Signed`], read into ruma's types, and answered by methods of the homeserver.

mod directory;
mod invites;
mod joining;
mod keys;
mod media;
mod origin;
mod rooms;
mod third_party;
mod transactions;
mod users;

use axum::Router;

pub use self::origin::Signed;
use crate::serve::App;

/// Returns the routes of the server-server API.
pub(crate) fn routes(app: &App) -> Router<App> {
    Router::new()
        .merge(directory::routes())
        .merge(invites::routes())
        .merge(joining::routes())
        .merge(keys::routes())
        .merge(media::routes())
        .merge(rooms::routes())
        .merge(third_party::routes())
        .merge(transactions::routes(app))
        .merge(users::routes())
}

#[cfg(test)]
mod tests;
