//! Which paths there are at which listener.

use axum::{
    Json, Router,
    middleware::{from_fn, from_fn_with_state},
    routing::get,
};
use serde_json::{Value, json};

use super::{App, error::MatrixError, health, layers, well_known};
use crate::{client, federation};

/// The versions of the specification that clients may rely on.
const CLIENT_VERSIONS: [&str; 11] =
    ["r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10"];

/// The routes of the network: clients, other servers, health.
pub(super) fn public(app: &App) -> Router {
    finish(matrix(app).merge(health::routes()), app)
}

/// The routes of plain HTTP: those of the network, and the metrics unless they have a listener of their own.
pub(super) fn plain(app: &App) -> Router {
    let routes = matrix(app).merge(health::routes());
    let has_metrics = app.config.metrics.enabled && app.config.metrics.listen.is_none();
    finish(if has_metrics { routes.merge(health::metrics_for_this_machine()) } else { routes }, app)
}

/// The routes of the listener for metrics.
pub(super) fn metrics(app: &App) -> Router {
    finish(health::routes().merge(health::metrics()), app)
}

/// The routes of Matrix.
fn matrix(app: &App) -> Router<App> {
    let mut routes = Router::new()
        .route("/_matrix/client/versions", get(client_versions))
        .merge(well_known::routes(app))
        .merge(client::routes(app));
    if app.config.federation.enabled {
        routes = routes.route("/_matrix/federation/v1/version", get(server_version)).merge(federation::routes(app));
    }
    routes
}

/// Adds what all routes share; the first layer is the innermost.
pub(super) fn finish(routes: Router<App>, app: &App) -> Router {
    routes
        .fallback(async || MatrixError::unknown_path())
        .method_not_allowed_fallback(async || MatrixError::unknown_method())
        .layer(from_fn(layers::catch_panics))
        .layer(from_fn_with_state(app.clone(), layers::refuse_huge))
        .layer(from_fn(layers::cors))
        .layer(from_fn(layers::observe))
        .with_state(app.clone())
}

/// The feature of v1.11 that clients may rely on: they ask for media with their access token.
const AUTHENTICATED_MEDIA: &str = "org.matrix.msc3916.stable";

/// Source: client-server API, "GET /_matrix/client/versions".
async fn client_versions() -> Json<Value> {
    Json(json!({ "versions": CLIENT_VERSIONS, "unstable_features": { AUTHENTICATED_MEDIA: true } }))
}

/// Source: server-server API, "GET /_matrix/federation/v1/version".
async fn server_version() -> Json<Value> {
    Json(json!({ "server": { "name": "Ravel", "version": env!("CARGO_PKG_VERSION") } }))
}
