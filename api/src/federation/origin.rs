//! Which server makes a request.

use std::ops::Deref;

use axum::extract::{FromRequest, Request};
use http::Uri;
use ravel_core::{
    canonical_json::{JsonMode, parse},
    id::ServerName,
};
use ravel_homeserver::federation::{
    keys::AuthenticationError,
    x_matrix::{SignedRequest, XMatrixError},
};
use ruma::api::{IncomingRequest, error::ErrorKind};
use serde::de::DeserializeOwned;

use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
    typed::{Received, Ruma},
};

/// A request in ruma's type that another server has signed.
///
/// As an extractor it goes last. A request that is not signed as it has to be is answered with 401 `M_UNAUTHORIZED` (400 if its header
/// can't be read), one of a server that this one has nothing to do with by 403 `M_FORBIDDEN`, before anything else of it is looked at but whether
/// the body is JSON.
///
/// Source: server-server API, "Request Authentication".
#[derive(Debug)]
pub struct Signed<T> {
    /// The server that has sent it.
    pub origin: ServerName,
    /// The request.
    pub request: Ruma<T>,
}

impl<T> Deref for Signed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.request.request
    }
}

impl<T: IncomingRequest> FromRequest<App> for Signed<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &App) -> MatrixResult<Self> {
        let received = Received::read(request, app).await?;
        let origin = origin_of(&received, app).await?;
        Ok(Self { origin, request: received.parse()? })
    }
}

/// A request that another server has signed, with a body that ruma's type would be too strict about. As an extractor it goes last.
#[derive(Debug)]
pub(super) struct SignedJson<T> {
    /// The server that has sent it.
    pub(super) origin: ServerName,
    /// Its path and query.
    pub(super) uri: Uri,
    /// What the path has at its placeholders.
    pub(super) arguments: Vec<String>,
    /// The body.
    pub(super) body: T,
}

impl<T: DeserializeOwned> FromRequest<App> for SignedJson<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &App) -> MatrixResult<Self> {
        let received = Received::read(request, app).await?;
        let origin = origin_of(&received, app).await?;
        let body = serde_json::from_slice(&received.body).map_err(|error| MatrixError::bad_json(error.to_string()))?;
        let Received { uri, arguments, .. } = received;
        Ok(Self { origin, uri, arguments, body })
    }
}

async fn origin_of(received: &Received, app: &App) -> MatrixResult<ServerName> {
    let content = match received.body.is_empty() {
        true => None,
        false => Some(parse(&received.body, JsonMode::ByteExact).map_err(|_| MatrixError::not_json())?),
    };
    // With HTTP/2 scheme and authority are in the URI, too, and they are not signed.
    let uri = received.uri.path_and_query().map_or("/", |path_and_query| path_and_query.as_str());
    let signed = SignedRequest { method: received.method.as_str(), uri, content: content.as_ref() };
    let authenticated = app.homeserver.keys.authenticate(&received.headers, &signed).await;
    authenticated.map_err(|error| match error {
        AuthenticationError::XMatrix(error @ (XMatrixError::Malformed(_) | XMatrixError::SeveralOrigins)) => {
            MatrixError::bad_request(ErrorKind::Unauthorized, error.to_string())
        }
        AuthenticationError::XMatrix(error) => MatrixError::unauthorized(error.to_string()),
        AuthenticationError::Denied { .. } => MatrixError::forbidden(error.to_string()),
        AuthenticationError::Log(error) => MatrixError::log_internal(&error),
    })
}
