//! Handlers that speak in ruma's types: requests in, responses out.

use std::{
    ops::Deref,
    panic::{AssertUnwindSafe, catch_unwind},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, OptionalFromRequest, RawPathParams, Request},
    handler::Handler,
    response::{IntoResponse, Response},
    routing::{MethodFilter, MethodRouter, on},
};
use http::{HeaderMap, Method, Uri, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use ruma::api::{
    IncomingRequest, IncomingRequestExt, OutgoingResponse, OutgoingResponseExt,
    error::{DeserializationError, FromHttpRequestError},
    path_builder::PathBuilder,
};
use serde::de::{DeserializeOwned, IgnoredAny};

use super::{App, error::MatrixError};

/// A request in ruma's type, read from path, query, headers and body.
///
/// As an extractor it goes last. What can't be read is answered with the right error: `M_NOT_JSON`, `M_BAD_JSON`, `M_TOO_LARGE`,
/// `M_MISSING_PARAM`, `M_INVALID_PARAM`.
#[derive(Debug)]
pub struct Ruma<T> {
    /// The request.
    pub request: T,
    /// Its method.
    pub method: Method,
    /// Its path and query as they were sent, which is what other servers sign.
    pub uri: Uri,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body as it was sent.
    pub body: Bytes,
}

impl<T> Deref for Ruma<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.request
    }
}

/// How many bytes a route's body may have; [`Routes::ruma_with_limit`] sets it.
#[derive(Clone, Copy, Debug)]
struct BodyBytesMax(u64);

impl<T: IncomingRequest> FromRequest<App> for Ruma<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &App) -> Result<Self, MatrixError> {
        Received::read(request, app).await?.parse()
    }
}

/// A request that was received and not looked at yet.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) arguments: Vec<String>,
}

impl Received {
    /// Reads a request with its body.
    ///
    /// # Errors
    ///
    /// When the path is not UTF-8, and when the body is too large, too slow or compressed.
    pub(crate) async fn read(request: Request, app: &App) -> Result<Self, MatrixError> {
        let (mut head, body) = request.into_parts();
        let arguments = path_arguments(&mut head, app).await?;
        let body = read_body(&head, body, app).await?;
        let Parts { method, uri, headers, .. } = head;
        Ok(Self { method, uri, headers, body, arguments })
    }

    /// Returns it in ruma's type.
    ///
    /// # Errors
    ///
    /// When it is not of that type.
    pub(crate) fn parse<T: IncomingRequest>(self) -> Result<Ruma<T>, MatrixError> {
        let Self { method, uri, headers, body, arguments } = self;
        let mut typed = http::Request::new(&body[..]);
        *typed.method_mut() = method.clone();
        *typed.uri_mut() = uri.clone();
        typed.headers_mut().clone_from(&headers);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        // Some of ruma's types panic at what they don't expect (`POST /login` without `type`, in ruma-client-api 0.25).
        let read = catch_unwind(AssertUnwindSafe(|| T::try_from_http_request(typed, &arguments)));
        let read = read.map_err(|_| MatrixError::bad_json("the request is not of the expected form"))?;
        let request = read.map_err(|error| unreadable(&error, &body))?;
        Ok(Ruma { request, method, uri, headers, body })
    }
}

/// A body as it was sent. As an extractor it goes last.
#[derive(Debug)]
pub struct RawBody(pub Bytes);

impl FromRequest<App> for RawBody {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &App) -> Result<Self, MatrixError> {
        let (head, body) = request.into_parts();
        read_body(&head, body, app).await.map(Self)
    }
}

/// A body in JSON, of a type that ruma does not have. As an extractor it goes last.
#[derive(Debug)]
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &App) -> Result<Self, MatrixError> {
        let (head, body) = request.into_parts();
        Self::parse(&read_body(&head, body, app).await?)
    }
}

/// None, of requests without body.
impl<T: DeserializeOwned> OptionalFromRequest<App> for JsonBody<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &App) -> Result<Option<Self>, MatrixError> {
        let (head, body) = request.into_parts();
        let body = read_body(&head, body, app).await?;
        if body.is_empty() { Ok(None) } else { Self::parse(&body).map(Some) }
    }
}

impl<T: DeserializeOwned> JsonBody<T> {
    fn parse(body: &[u8]) -> Result<Self, MatrixError> {
        let text = std::str::from_utf8(body).map_err(|_| MatrixError::not_json())?;
        serde_json::from_str(text).map(Self).map_err(|error| {
            if is_json(body) { MatrixError::bad_json(error.to_string()) } else { MatrixError::not_json() }
        })
    }
}

/// What the path has at its placeholders.
#[derive(Debug)]
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = MatrixError;

    async fn from_request_parts(head: &mut Parts, app: &App) -> Result<Self, MatrixError> {
        let read = axum::extract::Path::from_request_parts(head, app).await;
        read.map(|axum::extract::Path(arguments)| Self(arguments)).map_err(|_| not_utf8())
    }
}

/// Returns what the path has at its placeholders, decoded, in order.
async fn path_arguments(head: &mut Parts, app: &App) -> Result<Vec<String>, MatrixError> {
    let parameters = RawPathParams::from_request_parts(head, app).await.map_err(|_| not_utf8())?;
    Ok(parameters.iter().map(|(_, value)| value.to_owned()).collect())
}

fn not_utf8() -> MatrixError {
    MatrixError::invalid_param("the path is not UTF-8")
}

async fn read_body(head: &Parts, body: Body, app: &App) -> Result<Bytes, MatrixError> {
    let bytes_max = head.extensions.get::<BodyBytesMax>();
    let bytes_max = bytes_max.map_or(u64::from(app.config.limits.body_bytes_max), |bytes_max| bytes_max.0);
    check_body_headers(&head.headers, bytes_max)?;
    let limited = Limited::new(body, usize::try_from(bytes_max).unwrap_or(usize::MAX));
    let time = std::time::Duration::from_secs(u64::from(app.config.limits.body_seconds_max));
    match tokio::time::timeout(time, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(MatrixError::too_large(bytes_max)),
        // The connection broke: nobody reads the answer.
        Ok(Err(_)) => Err(MatrixError::bad_request(ruma::api::error::ErrorKind::Unknown, "the body broke off")),
        Err(_) => Err(MatrixError::too_slow()),
    }
}

/// Checks what a request tells of its body: that it is not compressed, and not too large.
///
/// # Errors
///
/// 413 `M_TOO_LARGE`, 415 `M_UNKNOWN`
pub(crate) fn check_body_headers(headers: &HeaderMap, bytes_max: u64) -> Result<(), MatrixError> {
    // A bomb of zeros costs its sender nothing, and the specification has no compressed requests.
    let encoding = headers.get(header::CONTENT_ENCODING);
    if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(MatrixError::unsupported_encoding());
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|announced: u64| announced > bytes_max) {
        return Err(MatrixError::too_large(bytes_max));
    }
    Ok(())
}

/// Tells what is wrong with a request that ruma can't read.
fn unreadable(error: &FromHttpRequestError, body: &[u8]) -> MatrixError {
    let FromHttpRequestError::Deserialization(error) = error else { return MatrixError::unknown_method() };
    match error {
        DeserializationError::Json(_) | DeserializationError::Utf8(_) if !is_json(body) => MatrixError::not_json(),
        // "`M_BAD_JSON`: Request contained valid JSON, but it was malformed in some way, e.g. missing required keys, invalid values for
        // keys" (client-server API, "Common error codes").
        DeserializationError::Json(error) => MatrixError::bad_json(error.to_string()),
        DeserializationError::Query(error) if error.to_string().starts_with("missing field") => {
            MatrixError::missing_param(error.to_string())
        }
        // Headers that say who somebody is are missing or of no known form.
        DeserializationError::Header(error) => MatrixError::missing_param(error.to_string()),
        error => MatrixError::invalid_param(error.to_string()),
    }
}

/// Whether a body is JSON. Skipping values takes no stack, however deep they are.
fn is_json(body: &[u8]) -> bool {
    // Strings that are skipped are not looked at.
    std::str::from_utf8(body).is_ok_and(|body| serde_json::from_str::<IgnoredAny>(body).is_ok())
}

/// A response in ruma's type.
#[derive(Debug)]
pub struct RumaResponse<T>(pub T);

impl<T: OutgoingResponse> IntoResponse for RumaResponse<T> {
    fn into_response(self) -> Response {
        match self.0.try_into_http_response::<Vec<u8>>() {
            Ok(response) => response.map(Body::from),
            Err(error) => MatrixError::log_internal(&error).into_response(),
        }
    }
}

/// Routes by ruma's request types.
pub trait Routes {
    /// Adds a handler at each path that an endpoint has or had.
    ///
    /// `T` is the request type of the handler: `.ruma::<whoami::v3::Request, _, _>(whoami)`.
    fn ruma<T: IncomingRequest, H: Handler<X, App>, X: 'static>(self, handler: H) -> Self;

    /// Adds a route of the client-server API at the paths of its old and its present versions, `r0` and `v3`. For requests that ruma
    /// has no type for, or one that loses what clients want kept.
    fn client(self, path: &str, route: MethodRouter<App>) -> Self;

    /// As [`ruma`](Self::ruma), for bodies of another size than `limits.body_bytes_max`.
    fn ruma_with_limit<T: IncomingRequest, H: Handler<X, App>, X: 'static>(self, bytes_max: u64, handler: H) -> Self;
}

impl Routes for Router<App> {
    fn ruma<T: IncomingRequest, H: Handler<X, App>, X: 'static>(self, handler: H) -> Self {
        add::<T>(self, &on(filter(&T::METHOD), handler))
    }

    fn client(self, path: &str, route: MethodRouter<App>) -> Self {
        let at = |version: &str| format!("/_matrix/client/{version}{path}");
        self.route(&at("r0"), route.clone()).route(&at("v3"), route)
    }

    fn ruma_with_limit<T: IncomingRequest, H: Handler<X, App>, X: 'static>(self, bytes_max: u64, handler: H) -> Self {
        let route: MethodRouter<App> = on(filter(&T::METHOD), handler);
        add::<T>(self, &route.layer(axum::Extension(BodyBytesMax(bytes_max))))
    }
}

fn add<T: IncomingRequest>(router: Router<App>, route: &MethodRouter<App>) -> Router<App> {
    T::PATH_BUILDER.all_paths().fold(router, |router, path| router.route(path, route.clone()))
}

#[allow(clippy::expect_used, reason = "a fact about ruma's endpoints, seen when the server starts")]
fn filter(method: &Method) -> MethodFilter {
    MethodFilter::try_from(method.clone()).expect("the endpoints of Matrix have methods that axum knows")
}
