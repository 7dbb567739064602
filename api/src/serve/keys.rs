//! The server's own keys, as others ask for them.

use axum::{Router, extract::State, response::IntoResponse, routing::get};
use http::header;
use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, object_to_canonical_bytes},
    signing::{encode_base64, sign_json},
};

use super::{App, error::MatrixResult};

/// For how long others may take the keys for valid.
const VALID_MS: i64 = 24 * 60 * 60 * 1000;

pub(super) fn routes() -> Router<App> {
    // "Use of the keyId parameter is deprecated and should be ignored" by servers: all keys are in the answer anyway.
    Router::new()
        .route("/_matrix/key/v2/server", get(own_keys))
        .route("/_matrix/key/v2/server/", get(own_keys))
        .route("/_matrix/key/v2/server/{key_id}", get(own_keys))
}

/// Source: server-server API, "GET /_matrix/key/v2/server".
async fn own_keys(State(app): State<App>) -> MatrixResult<impl IntoResponse> {
    let key = &app.signing_key;
    let object = |entries: Vec<(&str, CanonicalJsonValue)>| -> CanonicalJsonObject {
        entries.into_iter().map(|(name, value)| (name.into(), value)).collect()
    };
    let verify_key = object(vec![("key", encode_base64(key.verify_key().as_bytes()).into())]);
    let mut keys = object(vec![
        ("server_name", app.server_name().as_str().into()),
        ("valid_until_ts", CanonicalJsonValue::Integer(app.clock.now_ms().saturating_add(VALID_MS))),
        ("verify_keys", object(vec![(key.key_id().as_str(), verify_key.into())]).into()),
        ("old_verify_keys", CanonicalJsonObject::new().into()),
    ]);
    sign_json(&mut keys, app.server_name(), key).map_err(|error| super::error::MatrixError::log_internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "application/json")], object_to_canonical_bytes(&keys)))
}
