//! Where clients and other servers find this one, if that is configured.

use axum::{Json, Router, extract::State, routing::get};
use serde_json::{Value, json};

use super::{App, error::MatrixError};

pub(super) fn routes(app: &App) -> Router<App> {
    let routes = Router::new();
    if app.config.public_base_url.is_none() {
        return routes;
    }
    let routes = routes.route("/.well-known/matrix/client", get(client));
    if app.config.federation.enabled { routes.route("/.well-known/matrix/server", get(server)) } else { routes }
}

/// Source: client-server API, "GET /.well-known/matrix/client".
async fn client(State(app): State<App>) -> Result<Json<Value>, MatrixError> {
    let url = app.config.public_base_url.as_ref().ok_or_else(MatrixError::unknown_path)?;
    Ok(Json(json!({ "m.homeserver": { "base_url": url.as_str() } })))
}

/// Source: server-server API, "GET /.well-known/matrix/server".
async fn server(State(app): State<App>) -> Result<Json<Value>, MatrixError> {
    let url = app.config.public_base_url.as_ref().ok_or_else(MatrixError::unknown_path)?;
    Ok(Json(json!({ "m.server": url.host_and_port() })))
}
