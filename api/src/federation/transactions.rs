//! What other servers send.

use axum::{Json, Router, extract::State};
use ravel_homeserver::receiving::TransactionError;
use ruma::api::federation::transactions::send_transaction_message::v1::Request;
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue};

use super::origin::SignedJson;
use crate::serve::{
    App,
    error::{MatrixError, MatrixResult},
    typed::Routes,
};

pub(super) fn routes(app: &App) -> Router<App> {
    Router::new().ruma_with_limit::<Request, _, _>(u64::from(app.config.limits.federation_body_bytes_max), send)
}

/// A transaction. What is wrong with one of its events or EDUs must not touch the others, so they are read later, each by itself.
#[derive(Deserialize)]
struct Transaction {
    #[serde(default)]
    pdus: Vec<Box<RawValue>>,
    #[serde(default)]
    edus: Vec<Box<RawValue>>,
}

/// Source: server-server API, "PUT /_matrix/federation/v1/send/{txnId}".
async fn send(State(app): State<App>, transaction: SignedJson<Transaction>) -> MatrixResult<Json<Value>> {
    let SignedJson { origin, arguments, body: Transaction { pdus, edus }, .. } = transaction;
    let transaction_id = arguments.first().map_or("", String::as_str);
    let results = app.homeserver.receive_transaction(&origin, transaction_id, pdus, edus).await;
    let results = results.map_err(|error| match error {
        TransactionError::TooManyPdus | TransactionError::TooManyEdus => MatrixError::bad_json(error.to_string()),
        TransactionError::Panicked => MatrixError::log_internal(&error),
    })?;
    let results = results.into_iter().map(|(event_id, result)| {
        let result = result.map_or_else(|refusal| json!({ "error": refusal.to_string() }), |()| json!({}));
        (event_id.to_string(), result)
    });
    Ok(Json(json!({ "pdus": results.collect::<Map<_, _>>() })))
}
