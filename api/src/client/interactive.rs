//! User-interactive authentication: what is answered as long as it has not succeeded.
//!
//! Source: client-server API, "User-Interactive Authentication API".

use axum::response::{IntoResponse, Response};
use ravel_homeserver::accounts::{Accounts, InteractiveAttempt, InteractiveSessions, Purpose, Session};
use ruma::api::{
    client::uiaa::{AuthData, AuthFlow, AuthType, UiaaInfo, UiaaResponse, UserIdentifier},
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
    let asked = Asked { sessions, purpose, stage: AuthType::Dummy };
    let (auth, attempt) = asked.attempt(auth)?;
    match auth {
        // Whoever knows that this is the only stage may skip the first step.
        AuthData::Dummy(_) => Ok(attempt),
        auth => Err(asked.not_this(auth)),
    }
}

/// Checks `auth` of a request that a user has to show its password for. The answer is as that of [`check_dummy`].
pub(super) async fn check_password(
    accounts: &Accounts,
    sender: &Session,
    purpose: Purpose,
    auth: Option<&AuthData>,
) -> Result<Option<InteractiveAttempt>, NotYet> {
    let asked = Asked { sessions: accounts.interactive(), purpose, stage: AuthType::Password };
    let (auth, attempt) = asked.attempt(auth)?;
    let AuthData::Password(password) = auth else { return Err(asked.not_this(auth)) };
    let UserIdentifier::Matrix(identifier) = &password.identifier else {
        return Err(asked.remaining(auth.session(), Some("users are named by `m.id.user` here")));
    };
    let is_sender = [sender.user_id.as_str(), sender.user_id.localpart()].contains(&identifier.user.as_str());
    if is_sender && accounts.is_password(&sender.user_id, &password.password).await? {
        Ok(attempt)
    } else {
        Err(asked.remaining(auth.session(), Some("the password is wrong")))
    }
}

/// What is asked of a user: one stage.
struct Asked<'a> {
    sessions: &'a InteractiveSessions,
    purpose: Purpose,
    stage: AuthType,
}

impl Asked<'_> {
    /// Returns what the client has given, with the session that it has named.
    fn attempt<'d>(&self, auth: Option<&'d AuthData>) -> Result<(&'d AuthData, Option<InteractiveAttempt>), NotYet> {
        let Some(auth) = auth else { return Err(self.remaining(None, None)) };
        let Some(name) = auth.session() else { return Ok((auth, None)) };
        let attempt = self.sessions.resume(name, self.purpose);
        let none = || self.remaining(None, Some("there is no such session, or no longer"));
        Ok((auth, Some(attempt.ok_or_else(none)?)))
    }

    /// What is answered to another stage.
    fn not_this(&self, auth: &AuthData) -> NotYet {
        match auth {
            // It asks what has been done by other means: nothing.
            AuthData::FallbackAcknowledgement(_) => self.remaining(auth.session(), None),
            _ => self.remaining(auth.session(), Some("this stage is in no flow")),
        }
    }

    fn remaining(&self, session: Option<&str>, error: Option<&str>) -> NotYet {
        let mut info = UiaaInfo::new(vec![AuthFlow::new(vec![self.stage.clone()])]);
        info.params = serde_json::value::to_raw_value(&serde_json::Map::new()).ok();
        info.session = Some(session.map_or_else(|| self.sessions.begin(self.purpose), str::to_owned));
        let body = |error: &str| Box::new(StandardErrorBody::new(ErrorKind::Forbidden, error.to_owned()));
        info.auth_error = error.map(body);
        NotYet::Remaining(Box::new(info))
    }
}
