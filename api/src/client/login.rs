//! Logging in.

use axum::{Router, extract::State, routing::post};
use http::StatusCode;
use ravel_homeserver::accounts::{LoginError, NewDevice, PasswordLogin};
use ruma::{
    OwnedDeviceId, OwnedServerName,
    api::{
        client::{
            session::{
                get_login_types::v3 as types,
                login::v3::{DiscoveryInfo, HomeserverInfo, Response},
            },
            uiaa::UserIdentifier,
        },
        error::ErrorKind,
    },
};
use serde::Deserialize;

use super::ruma_user_id;
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
    typed::{JsonBody, Routes, RumaResponse},
};

pub(super) fn routes() -> Router<App> {
    Router::new()
        .ruma::<types::Request, _, _>(login_types)
        .route("/_matrix/client/r0/login", post(log_in))
        .route("/_matrix/client/v3/login", post(log_in))
}

/// Not ruma's type: that does not know requests of kinds that are not known, and panics without `type` (ruma-client-api 0.25).
#[derive(Deserialize)]
struct Request {
    #[serde(rename = "type")]
    kind: String,
    identifier: Option<UserIdentifier>,
    /// Deprecated, and still sent by clients and bots.
    user: Option<String>,
    password: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
}

/// Source: client-server API, "GET /_matrix/client/v3/login".
async fn login_types() -> RumaResponse<types::Response> {
    RumaResponse(types::Response::new(vec![types::LoginType::Password(types::PasswordLoginType::new())]))
}

/// Source: client-server API, "POST /_matrix/client/v3/login".
async fn log_in(State(app): State<App>, JsonBody(request): JsonBody<Request>) -> MatrixResult<RumaResponse<Response>> {
    if request.kind != "m.login.password" {
        return Err(MatrixError::bad_request(ErrorKind::Unknown, "there is no such type of login here"));
    }
    let user = match (request.identifier, request.user) {
        (Some(UserIdentifier::Matrix(identifier)), _) => identifier.user,
        (Some(_), _) => {
            return Err(MatrixError::bad_request(ErrorKind::Unknown, "users log in by `m.id.user` here"));
        }
        (None, Some(user)) => user,
        (None, None) => return Err(MatrixError::missing_param("`identifier` is missing")),
    };
    let password = request.password.ok_or_else(|| MatrixError::missing_param("`password` is missing"))?;
    let device = NewDevice { device_id: request.device_id, display_name: request.initial_device_display_name };
    let login = app.accounts.log_in(&PasswordLogin { user, password, device }).await.map_err(refused)?;
    let mut response = Response::new(ruma_user_id(&login.user_id)?, login.access_token, login.device_id);
    #[allow(deprecated, reason = "clients may still ask for it")]
    {
        response.home_server = OwnedServerName::try_from(app.server_name().as_str()).ok();
    }
    let base_url = app.config.public_base_url.as_ref().map(|url| url.as_str().to_owned());
    response.well_known = base_url.map(|base_url| DiscoveryInfo::new(HomeserverInfo::new(base_url)));
    Ok(RumaResponse(response))
}

fn refused(error: LoginError) -> MatrixError {
    match error {
        LoginError::Refused => MatrixError::forbidden(error.to_string()),
        LoginError::Deactivated => {
            MatrixError::new(StatusCode::FORBIDDEN, ErrorKind::UserDeactivated, error.to_string())
        }
        LoginError::Device(error) => error.into(),
        LoginError::Account(error) => error.into(),
    }
}
