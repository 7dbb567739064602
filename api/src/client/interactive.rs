//! User-interactive authentication: what is answered as long as it has not succeeded.
//!
//! Source: client-server API, "User-Interactive Authentication API".

use axum::response::{IntoResponse, Response};
use ravel_homeserver::accounts::{InteractiveAttempt, InteractiveSessions, Purpose};
use ruma::api::{
    client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo, UiaaResponse},
    error::{ErrorKind, StandardErrorBody},
};

use crate::serve::{error::MatrixError, typed::RumaResponse};

/// What is answered if the authentication has not succeeded, or the request fails for another reason.
#[derive(Debug)]
pub(super) enum NotYet {
    /// 401, with the stages that remain.
    Remaining(Box<UiaaInfo>),
    /// Another error.
    Error(MatrixError),
}

impl<E: Into<MatrixError>> From<E> for NotYet {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl IntoResponse for NotYet {
    fn into_response(self) -> Response {
        match self {
            Self::Remaining(info) => RumaResponse(UiaaResponse::AuthResponse(*info)).into_response(),
            Self::Error(error) => error.into_response(),
        }
    }
}

/// Checks `auth` of a request that needs no more than to be made in two steps: the one stage is `m.login.dummy`.
///
/// The answer is the session, if the client has named one. It is to be finished when the request has succeeded.
pub(super) fn check_dummy(
    sessions: &InteractiveSessions,
    purpose: Purpose,
    auth: Option<&AuthData>,
) -> Result<Option<InteractiveAttempt>, NotYet> {
    let remaining = |session: Option<&str>, error: Option<&str>| {
        let mut info = UiaaInfo::new(vec![AuthFlow::new(vec![AuthType::Dummy])]);
        info.params = serde_json::value::to_raw_value(&serde_json::Map::new()).ok();
        info.session = Some(session.map_or_else(|| sessions.begin(purpose), str::to_owned));
        let body = |error: &str| Box::new(StandardErrorBody::new(ErrorKind::Forbidden, error.to_owned()));
        info.auth_error = error.map(body);
        NotYet::Remaining(Box::new(info))
    };
    let Some(auth) = auth else { return Err(remaining(None, None)) };
    let attempt = match auth.session() {
        Some(name) => match sessions.resume(name, purpose) {
            Some(attempt) => Some(attempt),
            None => return Err(remaining(None, Some("there is no such session, or no longer"))),
        },
        None => None,
    };
    match auth {
        // Whoever knows that this is the only stage may skip the first step.
        AuthData::Dummy(_) => Ok(attempt),
        // It asks what has been done by other means: nothing.
        AuthData::FallbackAcknowledgement(_) => Err(remaining(auth.session(), None)),
        _ => Err(remaining(auth.session(), Some("this stage is in no flow"))),
    }
}
