//! The keys of this server and, as a notary, of others. None of these requests is signed.

use axum::{
    Router,
    extract::{Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{Uri, header};
use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, object_to_canonical_bytes},
    id::{KeyId, ServerName},
};
use ravel_homeserver::federation::keys::{NotaryCriteria, NotaryQuery};
use ruma::api::federation::discovery::get_remote_server_keys_batch;
use serde::Deserialize;

use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
    typed::{Path, Routes, Ruma},
};

pub(super) fn routes() -> Router<App> {
    // "Use of the keyId parameter is deprecated and should be ignored" by servers: all keys are in the answer anyway.
    Router::new()
        .route("/_matrix/key/v2/server", get(own_keys))
        .route("/_matrix/key/v2/server/", get(own_keys))
        .route("/_matrix/key/v2/server/{key_id}", get(own_keys))
        .route("/_matrix/key/v2/query/{server_name}", get(keys_of_server))
        .route("/_matrix/key/v2/query/{server_name}/{key_id}", get(key_of_server))
        .ruma::<get_remote_server_keys_batch::v2::Request, _, _>(keys_of_servers)
}

/// Source: server-server API, "GET /_matrix/key/v2/server".
async fn own_keys(State(app): State<App>) -> MatrixResult<Response> {
    let document = app.homeserver.keys.own_document();
    Ok(canonical(&document.map_err(|error| MatrixError::log_internal(&error))?))
}

/// Until when keys should be valid.
#[derive(Deserialize)]
struct Until {
    minimum_valid_until_ts: Option<i64>,
}

/// Source: server-server API, "GET /_matrix/key/v2/query/{serverName}".
async fn keys_of_server(State(app): State<App>, Path(server): Path<String>, uri: Uri) -> MatrixResult<Response> {
    let criteria = NotaryCriteria { until_ms: until_ms(&uri)?, ..NotaryCriteria::default() };
    notary_answer(&app, [(server_name(&server)?, criteria)].into()).await
}

/// The form of 2018, with the id of one key.
async fn key_of_server(
    State(app): State<App>,
    Path((server, key_id)): Path<(String, String)>,
    uri: Uri,
) -> MatrixResult<Response> {
    let until_ms = until_ms(&uri)?;
    let key_id = KeyId::parse(&key_id).map_err(|error| MatrixError::invalid_param(error.to_string()))?;
    let criteria = NotaryCriteria { until_ms, keys: [(key_id, until_ms)].into() };
    notary_answer(&app, [(server_name(&server)?, criteria)].into()).await
}

/// Source: server-server API, "POST /_matrix/key/v2/query".
async fn keys_of_servers(
    State(app): State<App>,
    request: Ruma<get_remote_server_keys_batch::v2::Request>,
) -> MatrixResult<Response> {
    let mut query = NotaryQuery::new();
    for (server, keys) in &request.server_keys {
        let criteria = query.entry(server_name(server.as_str())?).or_default();
        for (key_id, wanted) in keys {
            // Ids that are none of ours are of keys that are not there.
            let Ok(key_id) = KeyId::parse(key_id.as_str()) else { continue };
            criteria.keys.insert(key_id, wanted.minimum_valid_until_ts.map(|until| i64::from(until.get())));
        }
    }
    notary_answer(&app, query).await
}

async fn notary_answer(app: &App, query: NotaryQuery) -> MatrixResult<Response> {
    let documents = app.homeserver.keys.notary_answer(&query).await;
    let documents = documents.map_err(|error| MatrixError::log_internal(&error))?;
    let documents: Vec<CanonicalJsonValue> = documents.into_iter().map(CanonicalJsonValue::from).collect();
    Ok(canonical(&[("server_keys".into(), documents.into())].into()))
}

fn until_ms(uri: &Uri) -> MatrixResult<Option<i64>> {
    let until = Query::<Until>::try_from_uri(uri).map_err(|error| MatrixError::invalid_param(error.body_text()))?;
    Ok(until.0.minimum_valid_until_ts)
}

fn server_name(name: &str) -> MatrixResult<ServerName> {
    ServerName::parse(name).map_err(|error| MatrixError::invalid_param(error.to_string()))
}

/// Returns an answer as it was signed.
fn canonical(object: &CanonicalJsonObject) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], object_to_canonical_bytes(object)).into_response()
}
