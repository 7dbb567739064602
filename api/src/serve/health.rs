//! What those who run the server ask: does it live, is it ready, what are its figures.

use std::net::SocketAddr;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{ConnectInfo, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, StatusCode, header};
use ravel_store::Keyspace;
use serde_json::json;

use super::{App, error::MatrixError};

const METRICS: &str = "/_ravel/metrics";

/// Headers by which proxies tell that they forward a request.
const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

pub(super) fn routes() -> Router<App> {
    Router::new().route("/_ravel/health/live", get(live)).route("/_ravel/health/ready", get(ready))
}

/// The metrics, for whoever reaches the listener.
pub(super) fn metrics() -> Router<App> {
    Router::new().route(METRICS, get(async |State(app): State<App>| render(&app)))
}

/// The metrics, for this machine only: a proxy may forward everything that comes to the plain HTTP port.
pub(super) fn metrics_for_this_machine() -> Router<App> {
    async fn guarded(State(app): State<App>, peer: ConnectInfo<SocketAddr>, headers: HeaderMap) -> Response {
        let is_forwarded = FORWARDED.iter().any(|name| headers.contains_key(*name));
        if is_forwarded || !peer.ip().to_canonical().is_loopback() {
            return MatrixError::unknown_path().into_response();
        }
        render(&app)
    }
    Router::new().route(METRICS, get(guarded))
}

fn render(app: &App) -> Response {
    match &app.metrics {
        Some(handle) => {
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], handle.render()).into_response()
        }
        None => MatrixError::unknown_path().into_response(),
    }
}

/// The process answers.
async fn live() -> Response {
    Json(json!({ "status": "live" })).into_response()
}

/// The server takes requests: its database answers, and it was not told to stop.
async fn ready(State(app): State<App>) -> Response {
    let (status, state) = if app.is_stopping() {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping")
    } else if let Err(error) = app.store.get_many(Keyspace::ServerKeys, &[Bytes::from_static(b"ready?")]).await {
        tracing::error!(%error, "the database does not answer");
        (StatusCode::SERVICE_UNAVAILABLE, "database")
    } else {
        (StatusCode::OK, "ready")
    };
    (status, Json(json!({ "status": state }))).into_response()
}
