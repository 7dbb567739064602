//! Accounts for whoever knows `registration.shared_secret`, as Synapse's administration interface makes them.

use std::sync::Arc;

use axum::{Extension, Json, Router, extract::State, routing::get};
use ravel_homeserver::{
    accounts::{NewDevice, Registration, Role, SharedSecret, SignedRegistration},
    random::OsRandom,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::register::Response;
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
    typed::JsonBody,
};

const PATH: &str = "/_synapse/admin/v1/register";

/// Without a secret there are none.
pub(super) fn routes(app: &App) -> Router<App> {
    let Some(secret) = &app.config.registration.shared_secret else { return Router::new() };
    let secret = SharedSecret::new(secret.expose().to_owned(), app.clock.clone(), Arc::new(OsRandom));
    Router::new().route(PATH, get(nonce).post(register)).layer(Extension(Arc::new(secret)))
}

#[derive(Deserialize)]
struct Request {
    nonce: String,
    username: String,
    password: String,
    #[serde(default)]
    admin: bool,
    mac: String,
    #[serde(default)]
    inhibit_login: bool,
}

async fn nonce(Extension(secret): Extension<Arc<SharedSecret>>) -> Json<Value> {
    Json(json!({ "nonce": secret.nonce() }))
}

async fn register(
    State(app): State<App>,
    Extension(secret): Extension<Arc<SharedSecret>>,
    JsonBody(request): JsonBody<Request>,
) -> MatrixResult<Json<Response>> {
    let Request { nonce, username, password, admin, mac, inhibit_login } = request;
    let signed = SignedRegistration { nonce: &nonce, username: &username, password: &password, is_admin: admin };
    secret.check(&signed, &mac).map_err(|error| MatrixError::forbidden(error.to_string()))?;
    let registration = Registration {
        username: Some(username),
        password: Some(password),
        role: if admin { Role::Admin } else { Role::User },
        device: (!inhibit_login).then(NewDevice::default),
    };
    Ok(Response::new(&app, app.accounts.register(registration).await?))
}
