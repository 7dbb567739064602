//! What happens to every request, whatever its route: counting, logging, panics, headers.

use std::{any::Any, panic::AssertUnwindSafe, time::Instant};

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::{App, error::MatrixError, metrics};

/// Source: client-server API, "Web Browser Clients".
const CORS: [(HeaderName, HeaderValue); 3] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*")),
    (header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST, PUT, DELETE, OPTIONS")),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("X-Requested-With, Content-Type, Authorization")),
];

/// Counts and logs a request by the route it came to. Neither has paths or queries in it: there are tokens and users' data in them.
pub(super) async fn observe(request: Request, next: Next) -> Response {
    let method = metrics::method_label(request.method());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    let began = Instant::now();
    let running = metrics::Running::start();
    let response = next.run(request).await;
    drop(running);
    let elapsed = began.elapsed();
    metrics::request(method, route, response.status(), elapsed);
    tracing::debug!(method, route, status = response.status().as_u16(), elapsed_us = elapsed.as_micros(), "request");
    response
}

/// Turns a panic of a handler into an answer, so that other requests of its connection go on.
pub(super) async fn catch_panics(request: Request, next: Next) -> Response {
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        // The hook of `logs` has told what and where.
        Err(_) => MatrixError::internal().into_response(),
    }
}

/// Returns what a panic said.
pub(super) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&'static str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("something that is no text")
}

/// Refuses at once what is larger than any route takes, whether its handler would read the body or not.
pub(super) async fn refuse_huge(State(app): State<App>, request: Request, next: Next) -> Response {
    let limits = &app.config.limits;
    let bodies_max = u64::from(limits.body_bytes_max.max(limits.federation_body_bytes_max));
    let bytes_max = bodies_max.max(app.config.media.max_upload_size);
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|announced: u64| announced > bytes_max) {
        return MatrixError::too_large(bytes_max).into_response();
    }
    next.run(request).await
}

/// Adds the headers of web browsers to what they may ask for, and answers their question whether they may.
///
/// "the server MUST NOT perform any logic defined for the endpoints when approached with an `OPTIONS` request" (client-server API,
/// "Web Browser Clients").
pub(super) async fn cors(request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if !(path.starts_with("/_matrix/") || path.starts_with("/.well-known/")) {
        return next.run(request).await;
    }
    let is_client = path.starts_with("/_matrix/client/") || path.starts_with("/_matrix/media/");
    let is_options = request.method() == Method::OPTIONS;
    let mut response = if is_options { StatusCode::NO_CONTENT.into_response() } else { next.run(request).await };
    let headers = response.headers_mut();
    headers.extend(CORS);
    if is_client && !is_options {
        // Answers depend on who asks: no cache in between may give one to another.
        headers.append(header::VARY, HeaderValue::from_static("Authorization"));
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    }
    headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    response
}
