//! What other servers answered, told to clients.

use std::time::Duration;

use http::StatusCode;
use ravel_homeserver::{
    federation::{FederationError, RemoteError},
    joining::{JoinFailure, MembershipError},
    rooms::PolicyError,
};
use ruma::{
    RoomVersionId,
    api::error::{ErrorKind, IncompatibleRoomVersionErrorData},
};
use serde_json::{Value, json};

use crate::serve::error::MatrixError;

impl From<MembershipError> for MatrixError {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::NoServer => Self::not_found(error.to_string()),
            MembershipError::Failed(failure) => failure.into(),
            MembershipError::Condition(error) => error.into(),
            MembershipError::Rooms(error) => error.into(),
        }
    }
}

impl From<JoinFailure> for MatrixError {
    fn from(failure: JoinFailure) -> Self {
        let text = failure.to_string();
        match failure {
            JoinFailure::Federation(error) => of_federation(&error),
            JoinFailure::UnknownRoomVersion(version) => match RoomVersionId::try_from(&*version) {
                Ok(version) => {
                    let data = IncompatibleRoomVersionErrorData::new(version);
                    Self::bad_request(ErrorKind::IncompatibleRoomVersion(data), text)
                }
                Err(_) => Self::bad_gateway(text),
            },
            JoinFailure::Event(_) => Self::bad_json(text),
            JoinFailure::Template(_) | JoinFailure::Answer(_) | JoinFailure::NotAccepted => Self::bad_gateway(text),
            JoinFailure::Rooms(error) => error.into(),
        }
    }
}

/// "If the Policy Server returned an error, that error SHOULD be provided to the client verbatim."
impl From<PolicyError> for MatrixError {
    fn from(error: PolicyError) -> Self {
        match error {
            PolicyError::Refused(error) => of_remote(&error),
            PolicyError::Away(FederationError::Remote(error)) if error.status == StatusCode::TOO_MANY_REQUESTS => {
                let body = serde_json::from_slice::<Value>(&error.body).unwrap_or_default();
                let wanted_ms = body.get("retry_after_ms").and_then(Value::as_u64).unwrap_or(RETRY_MS_DEFAULT);
                Self::limit_exceeded(Duration::from_millis(wanted_ms.min(RETRY_MS_MAX)))
            }
            PolicyError::Away(error) => of_federation(&error),
            PolicyError::Unsigned => Self::forbidden(error.to_string()),
            PolicyError::Invalid(_) => Self::bad_json(error.to_string()),
        }
    }
}

/// Tells a client why another server could not be asked, or what it has answered.
pub(crate) fn of_federation(error: &FederationError) -> MatrixError {
    match error {
        FederationError::Remote(error) => of_remote(error),
        FederationError::Denied => MatrixError::forbidden(error.to_string()),
        error => MatrixError::bad_gateway(error.to_string()),
    }
}

/// Errors that would be taken for our own about the client are not passed on: it could take itself for logged out.
const KEPT_BACK: [&str; 5] =
    ["M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_UNAUTHORIZED", "M_INVALID_PARAM", "M_MISSING_PARAM"];

/// How long a client is told to wait if a policy server that wants it to wait does not say how long, and at most.
const RETRY_MS_DEFAULT: u64 = 5_000;
const RETRY_MS_MAX: u64 = 60 * 60 * 1000;

/// How long a message of another server may be that a client gets.
const MESSAGE_CHARS_MAX: usize = 500;

fn of_remote(error: &RemoteError) -> MatrixError {
    let errcode = error.errcode.as_deref().filter(|errcode| !KEPT_BACK.contains(errcode));
    let is_passed_on = matches!(error.status, StatusCode::BAD_REQUEST | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND);
    let Some(errcode) = errcode.filter(|_| is_passed_on) else {
        return MatrixError::bad_gateway(format!("the other server has answered: {error}"));
    };
    // Nothing of the body but what is known to belong to it.
    let body = serde_json::from_slice::<Value>(&error.body).unwrap_or_default();
    let mut kind = json!({ "errcode": errcode });
    if let (Some(version), Some(kind)) = (body.get("room_version"), kind.as_object_mut()) {
        kind.insert("room_version".to_owned(), version.clone());
    }
    match serde_json::from_value::<ErrorKind>(kind) {
        Ok(kind) => {
            let message: String =
                error.message.as_deref().unwrap_or_default().chars().take(MESSAGE_CHARS_MAX).collect();
            MatrixError::new(error.status, kind, message)
        }
        Err(_) => MatrixError::bad_gateway(format!("the other server has answered: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use ruma::api::error::RetryAfter;

    use super::*;

    fn remote(status: u16, body: &'static str) -> RemoteError {
        let field = |field: &str| {
            let body: Value = serde_json::from_str(body).unwrap_or_default();
            body.get(field).and_then(|value| value.as_str().map(Into::into))
        };
        let status = StatusCode::from_u16(status).unwrap();
        let (errcode, message) = (field("errcode"), field("error"));
        RemoteError { status, errcode, message, body: body.as_bytes().into() }
    }

    fn told(status: u16, body: &'static str) -> (u16, String) {
        let error = of_federation(&FederationError::Remote(remote(status, body)));
        (error.status.as_u16(), error.kind.errcode().to_string())
    }

    #[test]
    fn sc_091_errors_of_others_are_not_told_as_our_own() {
        assert_eq!(told(403, r#"{"errcode":"M_FORBIDDEN"}"#), (403, "M_FORBIDDEN".to_owned()));
        assert_eq!(told(400, r#"{"errcode":"M_ODD","error":"no"}"#), (400, "M_ODD".to_owned()));
        let incompatible = r#"{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","room_version":"odd"}"#;
        assert_eq!(told(400, incompatible), (400, "M_INCOMPATIBLE_ROOM_VERSION".to_owned()));
        for (status, body) in [
            (401, r#"{"errcode":"M_UNKNOWN_TOKEN"}"#),
            (403, r#"{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}"#),
            (400, r#"{"errcode":"M_INVALID_PARAM"}"#),
            (400, r#"{"errcode":"M_INCOMPATIBLE_ROOM_VERSION"}"#),
            (500, "<html>"),
            (404, "[]"),
            (302, ""),
        ] {
            assert_eq!(told(status, body), (502, "M_UNKNOWN".to_owned()), "{status} {body}");
        }
    }

    #[test]
    fn sc_145_a_policy_server_s_refusal_is_told_as_it_came() {
        let refused =
            MatrixError::from(PolicyError::Refused(remote(400, r#"{"errcode":"M_FORBIDDEN","error":"spam"}"#)));
        assert_eq!((refused.status.as_u16(), refused.kind, &*refused.message), (400, ErrorKind::Forbidden, "spam"));
        let limited = |body| MatrixError::from(PolicyError::Away(FederationError::Remote(remote(429, body))));
        for (body, wanted_ms) in [
            (r#"{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}"#, 1500),
            (r#"{"retry_after_ms":99999999999999}"#, RETRY_MS_MAX),
            ("<html>", RETRY_MS_DEFAULT),
        ] {
            let ErrorKind::LimitExceeded(data) = limited(body).kind else { panic!("{body}") };
            assert_eq!(data.retry_after, Some(RetryAfter::Delay(Duration::from_millis(wanted_ms))), "{body}");
        }
        assert_eq!(MatrixError::from(PolicyError::Unsigned).kind, ErrorKind::Forbidden);
    }
}
