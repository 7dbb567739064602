//! Errors as Matrix clients and servers read them: a status, an errcode and a sentence.

use std::{borrow::Cow, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use ruma::api::{
    OutgoingResponseExt,
    error::{
        Error, ErrorBody, ErrorKind, LimitExceededErrorData, RetryAfter, StandardErrorBody, UnknownTokenErrorData,
    },
};

/// An error that is answered with.
///
/// The sentence is read by whoever made the request: it says nothing about others, and no secrets.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{} {}: {message}", .status.as_u16(), .kind.errcode())]
pub struct MatrixError {
    /// The status.
    pub status: StatusCode,
    /// The errcode, with what belongs to it.
    pub kind: ErrorKind,
    /// The sentence.
    pub message: Cow<'static, str>,
}

/// What a handler answers.
pub type MatrixResult<T> = Result<T, MatrixError>;

impl MatrixError {
    /// Makes an error of its parts.
    pub fn new(status: StatusCode, kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, kind, message: message.into() }
    }

    /// Makes an error of status 400.
    pub fn bad_request(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, kind, message)
    }

    /// 400 `M_BAD_JSON`: the body is JSON and not what was expected.
    pub fn bad_json(message: impl Into<Cow<'static, str>>) -> Self {
        Self::bad_request(ErrorKind::BadJson, message)
    }

    /// 400 `M_NOT_JSON`: the body is not JSON.
    pub fn not_json() -> Self {
        Self::bad_request(ErrorKind::NotJson, "the body is not JSON")
    }

    /// 400 `M_INVALID_PARAM`: something in path or query, or a value in the body, can't be used.
    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::bad_request(ErrorKind::InvalidParam, message)
    }

    /// 400 `M_MISSING_PARAM`: something is missing in query or body.
    pub fn missing_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::bad_request(ErrorKind::MissingParam, message)
    }

    /// 401 `M_MISSING_TOKEN`: a request without access token that needs one.
    pub fn missing_token() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorKind::MissingToken, "the access token is missing")
    }

    /// 401 `M_UNKNOWN_TOKEN`: an access token that is not, or no longer, valid.
    pub fn unknown_token(soft_logout: bool) -> Self {
        let mut data = UnknownTokenErrorData::new();
        data.soft_logout = soft_logout;
        Self::new(StatusCode::UNAUTHORIZED, ErrorKind::UnknownToken(data), "the access token is not valid")
    }

    /// 401 `M_UNAUTHORIZED`: a request of another server that is not signed as it has to be.
    pub fn unauthorized(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, ErrorKind::Unauthorized, message)
    }

    /// 403 `M_FORBIDDEN`.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::FORBIDDEN, ErrorKind::Forbidden, message)
    }

    /// 404 `M_NOT_FOUND`: the path is right, and there is no such thing.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorKind::NotFound, message)
    }

    /// 404 `M_UNRECOGNIZED`: there is no such path.
    ///
    /// Source: client-server API, "Common error codes": "This is expected to be returned with a 404 HTTP status code if the endpoint is
    /// not implemented or a 405 HTTP status code if the endpoint is implemented, but the incorrect HTTP method is used."
    pub fn unknown_path() -> Self {
        Self::new(StatusCode::NOT_FOUND, ErrorKind::Unrecognized, "there is no such path here")
    }

    /// 405 `M_UNRECOGNIZED`: the path is there for other methods.
    pub fn unknown_method() -> Self {
        let message = "this path is not for this method";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorKind::Unrecognized, message)
    }

    /// 408 `M_UNKNOWN`: the body did not arrive in time.
    pub fn too_slow() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, ErrorKind::Unknown, "the body did not arrive in time")
    }

    /// 413 `M_TOO_LARGE`.
    pub fn too_large(bytes_max: u64) -> Self {
        let message = format!("the body is larger than {bytes_max} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, ErrorKind::TooLarge, message)
    }

    /// 415 `M_UNKNOWN`: the body is compressed, or of a kind that nothing is done with.
    pub fn unsupported_encoding() -> Self {
        let message = "the body is compressed, which is not supported";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorKind::Unknown, message)
    }

    /// 429 `M_LIMIT_EXCEEDED`, with `retry_after_ms` and the header `Retry-After`.
    pub fn limit_exceeded(retry_after: Duration) -> Self {
        let mut data = LimitExceededErrorData::new();
        data.retry_after = Some(RetryAfter::Delay(retry_after));
        let message = "too many requests";
        Self::new(StatusCode::TOO_MANY_REQUESTS, ErrorKind::LimitExceeded(data), message)
    }

    /// 500 `M_UNKNOWN`: something is wrong here. What it is belongs in the log, not in the answer.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, ErrorKind::Unknown, "internal server error")
    }

    /// 502 `M_UNKNOWN`: another server that was asked for this did not answer, or not as it should.
    pub fn bad_gateway(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_GATEWAY, ErrorKind::Unknown, message)
    }

    /// 503 `M_UNKNOWN`: the server is starting, stopping or busy.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, ErrorKind::Unknown, message)
    }

    /// Logs an error of our own and makes one for the answer that does not tell it.
    pub fn log_internal(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        Self::internal()
    }
}

impl IntoResponse for MatrixError {
    fn into_response(self) -> Response {
        let retry_after = match &self.kind {
            // In whole seconds, and not too early.
            ErrorKind::LimitExceeded(data) => match data.retry_after {
                Some(RetryAfter::Delay(delay)) => Some(HeaderValue::from(delay.as_millis().div_ceil(1000) as u64)),
                _ => None,
            },
            _ => None,
        };
        let body = ErrorBody::Standard(StandardErrorBody::new(self.kind, self.message.into_owned()));
        match Error::new(self.status, body).try_into_http_response::<Vec<u8>>() {
            Ok(response) => {
                let mut response = response.map(Body::from);
                if let Some(seconds) = retry_after {
                    response.headers_mut().insert(header::RETRY_AFTER, seconds);
                }
                response
            }
            Err(error) => {
                tracing::error!(%error, "an error can't be written");
                let json = r#"{"errcode":"M_UNKNOWN","error":"internal server error"}"#;
                let content_type = [(header::CONTENT_TYPE, "application/json")];
                (StatusCode::INTERNAL_SERVER_ERROR, content_type, json).into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;

    fn written(error: MatrixError) -> (u16, Option<String>, Value) {
        let response = error.into_response();
        let (head, body) = response.into_parts();
        assert_eq!(head.headers[header::CONTENT_TYPE], "application/json");
        let bytes = ravel_store::block_on(body.collect()).unwrap().to_bytes();
        let retry_after = head.headers.get(header::RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        (head.status.as_u16(), retry_after, serde_json::from_slice(&bytes).unwrap())
    }

    #[test]
    fn errors_are_written_as_the_specification_says() {
        let check = |error, status, json| assert_eq!(written(error), (status, None, json));
        check(MatrixError::forbidden("no"), 403, json!({ "errcode": "M_FORBIDDEN", "error": "no" }));
        check(
            MatrixError::unknown_token(true),
            401,
            json!({ "errcode": "M_UNKNOWN_TOKEN", "error": "the access token is not valid", "soft_logout": true }),
        );
        check(
            MatrixError::unknown_method(),
            405,
            json!({ "errcode": "M_UNRECOGNIZED", "error": "this path is not for this method" }),
        );
        let (status, retry_after, json) = written(MatrixError::limit_exceeded(Duration::from_millis(1500)));
        assert_eq!((status, retry_after.as_deref()), (429, Some("2")));
        assert_eq!((&json["errcode"], &json["retry_after_ms"]), (&json!("M_LIMIT_EXCEEDED"), &json!(1500)));
    }
}
