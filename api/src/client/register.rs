//! Making accounts.

use axum::{Json, Router, extract::State};
use ravel_core::id::UserId;
use ravel_homeserver::accounts::{
    LoginError, NewDevice, PasswordLogin, Purpose, RegisterError, Registered, Registration, Role,
};
use ruma::api::{
    client::account::{
        get_username_availability::v3 as available,
        register::{LoginType, RegistrationKind, v3::Request},
    },
    error::ErrorKind,
};
use serde::Serialize;

use super::interactive::{NotYet, check_dummy};
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
    typed::{Routes, Ruma, RumaResponse},
};

pub(super) fn routes() -> Router<App> {
    Router::new().ruma::<Request, _, _>(register).ruma::<available::Request, _, _>(is_available)
}

/// Not ruma's type, which writes `null` for devices that there are not.
#[derive(Serialize)]
pub(super) struct Response {
    user_id: String,
    home_server: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    access_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_id: Option<String>,
}

impl Response {
    pub(super) fn new(app: &App, registered: Registered) -> Json<Self> {
        let (access_token, device_id) =
            registered.login.map(|login| (login.access_token, login.device_id.to_string())).unzip();
        let home_server = app.server_name().to_string();
        Json(Self { user_id: registered.user_id.to_string(), home_server, access_token, device_id })
    }
}

/// Source: client-server API, "POST /_matrix/client/v3/register".
async fn register(State(app): State<App>, request: Ruma<Request>) -> Result<Json<Response>, NotYet> {
    let request = request.request;
    if request.login_type == Some(LoginType::ApplicationService) {
        // There are none yet, so nobody has the token of one.
        return Err(MatrixError::unknown_token(false).into());
    }
    match request.kind {
        RegistrationKind::User => {}
        RegistrationKind::Guest => return Ok(register_guest(&app, request).await?),
        _ => return Err(MatrixError::invalid_param("`kind` is neither `user` nor `guest`").into()),
    }
    check_enabled(&app)?;
    // "Homeservers MUST perform the relevant checks and return these codes before performing User-Interactive Authentication".
    let guest = match &request.guest_access_token {
        Some(token) => Some(guest(&app, token, request.username.as_deref()).await?),
        None => None,
    };
    if let (Some(username), None) = (&request.username, &guest) {
        app.accounts.check_username(username).await?;
    }
    let attempt = check_dummy(app.accounts.interactive(), Purpose::Register, request.auth.as_ref())?;
    // There is no other way to log in again.
    let password = request.password.ok_or_else(|| MatrixError::missing_param("`password` is missing"))?;
    let device = NewDevice { device_id: request.device_id, display_name: request.initial_device_display_name };
    if let Some(guest) = guest {
        return Ok(promote(&app, &guest, password, device, request.inhibit_login).await?);
    }
    let registration = Registration {
        username: request.username,
        password: Some(password),
        role: Role::User,
        device: (!request.inhibit_login).then_some(device),
    };
    let registered = app.accounts.register(registration).await?;
    if let Some(attempt) = attempt {
        attempt.finish();
    }
    Ok(Response::new(&app, registered))
}

/// Returns the guest who becomes a user: "They are also required to specify the `username` parameter to the value of the local part of
/// their username" (client-server API, "Guest Access").
async fn guest(app: &App, token: &str, username: Option<&str>) -> MatrixResult<UserId> {
    let session = app.accounts.authenticate(token).await?;
    let guest = session.filter(|session| session.role == Role::Guest).map(|session| session.user_id);
    let guest = guest.filter(|guest| username == Some(guest.localpart()));
    guest.ok_or_else(|| MatrixError::forbidden("`guest_access_token` is not of a guest of this name"))
}

async fn promote(
    app: &App,
    guest: &UserId,
    password: String,
    device: NewDevice,
    inhibit_login: bool,
) -> MatrixResult<Json<Response>> {
    app.accounts.promote_guest(guest, &password).await?;
    let login = match inhibit_login {
        true => None,
        false => {
            let login = app.accounts.log_in(&PasswordLogin { user: guest.to_string(), password, device }).await;
            Some(login.map_err(|error| match error {
                LoginError::Device(error) => error.into(),
                error => MatrixError::log_internal(&error),
            })?)
        }
    };
    Ok(Response::new(app, Registered { user_id: guest.clone(), login }))
}

/// "all parameters in the request body with the exception of `initial_device_display_name` MUST BE ignored by the server."
async fn register_guest(app: &App, request: Request) -> MatrixResult<Json<Response>> {
    if !app.config.registration.guests {
        return Err(MatrixError::forbidden("there are no guests here"));
    }
    let device = NewDevice { device_id: None, display_name: request.initial_device_display_name };
    let guest = Registration { username: None, password: None, role: Role::Guest, device: Some(device) };
    Ok(Response::new(app, app.accounts.register(guest).await?))
}

/// Source: client-server API, "GET /_matrix/client/v3/register/available".
async fn is_available(
    State(app): State<App>,
    request: Ruma<available::Request>,
) -> MatrixResult<RumaResponse<available::Response>> {
    check_enabled(&app)?;
    app.accounts.check_username(&request.username).await?;
    Ok(RumaResponse(available::Response::new(true)))
}

fn check_enabled(app: &App) -> MatrixResult<()> {
    if app.config.registration.enabled { Ok(()) } else { Err(MatrixError::forbidden("registration is disabled")) }
}

impl From<RegisterError> for MatrixError {
    fn from(error: RegisterError) -> Self {
        let kind = match error {
            RegisterError::InUse => ErrorKind::UserInUse,
            RegisterError::InvalidUsername | RegisterError::UsernameTooLong => ErrorKind::InvalidUsername,
            RegisterError::Exclusive => ErrorKind::Exclusive,
            RegisterError::UnusablePassword => ErrorKind::WeakPassword,
            RegisterError::Device(error) => return error.into(),
            RegisterError::Account(error) => return error.into(),
        };
        Self::bad_request(kind, error.to_string())
    }
}
