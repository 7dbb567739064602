//! The client-server API.

mod account;
mod authenticated;
mod capabilities;
mod deactivate;
mod directory;
mod interactive;
mod login;
mod media;
mod register;
pub(crate) mod rooms;
mod shared_secret;
mod to_device;
mod user;

use axum::Router;
use ravel_core::id::UserId;
use ravel_homeserver::accounts::{AccountError, DeviceError};
use ruma::{OwnedUserId, api::error::ErrorKind};

pub use self::authenticated::Authenticated;
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
};

/// Returns the routes of the client-server API.
pub(crate) fn routes(app: &App) -> Router<App> {
    let routes = Router::new()
        .merge(account::routes())
        .merge(deactivate::routes())
        .merge(login::routes())
        .merge(register::routes());
    let routes = routes.merge(rooms::routes()).merge(shared_secret::routes(app));
    let routes = routes.merge(capabilities::routes()).merge(directory::routes()).merge(user::routes());
    routes.merge(to_device::routes()).merge(media::routes())
}

/// Returns a user id in ruma's type.
pub(crate) fn ruma_user_id(user_id: &UserId) -> MatrixResult<OwnedUserId> {
    OwnedUserId::try_from(user_id.as_str()).map_err(|error| MatrixError::log_internal(&error))
}

impl From<AccountError> for MatrixError {
    fn from(error: AccountError) -> Self {
        match error {
            AccountError::Contended => Self::unavailable(error.to_string()),
            error => Self::log_internal(&error),
        }
    }
}

impl From<DeviceError> for MatrixError {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::InvalidId | DeviceError::DisplayNameTooLong => Self::invalid_param(error.to_string()),
            DeviceError::TooMany => Self::bad_request(ErrorKind::Forbidden, error.to_string()),
        }
    }
}
