//! Sending one transaction.

use bytes::Bytes;
use http::{Method, Request, StatusCode, header::CONTENT_TYPE};
use ravel_core::id::{EventId, RoomId, ServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{collections::BTreeMap, time::Duration};

use super::queue::{Ending, Transaction};
use crate::{
    federation::{FederationError, SendOptions},
    homeserver::Homeserver,
    network::RequestLimits,
    rooms::RoomsError,
};

/// How long a server may take to answer. Before it does, it asks for what the events build on.
const TIME_MAX: Duration = Duration::from_secs(60);

/// How long the answer may be: an error of some length for each event.
const ANSWER_BYTES_MAX: usize = 1 << 20;

#[derive(Serialize)]
struct Body<'a> {
    origin: &'a str,
    origin_server_ts: i64,
    pdus: Vec<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    edus: Vec<EduBody<'a>>,
}

#[derive(Serialize)]
struct EduBody<'a> {
    edu_type: &'a str,
    content: &'a RawValue,
}

/// What of an answer is looked at.
#[derive(Default, Deserialize)]
struct Answer {
    #[serde(default)]
    pdus: BTreeMap<String, PduResult>,
}

#[derive(Default, Deserialize)]
struct PduResult {
    error: Option<String>,
}

impl Homeserver {
    /// Sends a transaction to a server and returns how that ended.
    ///
    /// Source: server-server API, "PUT /_matrix/federation/v1/send/{txnId}".
    pub(super) async fn send_transaction(&self, destination: &ServerName, transaction: &Transaction) -> Ending {
        let body = match transaction.body.get_or_try_init(|| self.body_of(transaction)).await {
            Ok(body) => body.clone(),
            Err(error) => {
                tracing::error!(%destination, error = &error as &dyn std::error::Error, "events to be sent can't be read");
                return Ending::Failed;
            }
        };
        if body.is_empty() {
            return Ending::Delivered;
        }
        let request = Request::builder()
            .method(Method::PUT)
            .uri(format!("/_matrix/federation/v1/send/{}", transaction.id))
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        let Ok(request) = request else { return Ending::Refused };
        let limits = RequestLimits { time: TIME_MAX, answer_bytes: ANSWER_BYTES_MAX };
        let options = SendOptions { limits, ..SendOptions::default() };
        let error = match self.client.send_raw(destination, request, options).await {
            Ok(answer) => {
                log_refused(destination, answer.body());
                return Ending::Delivered;
            }
            Err(error) => error,
        };
        tracing::debug!(%destination, id = transaction.id, %error, "a transaction was not delivered");
        match error {
            FederationError::BackingOff { .. } => Ending::NotSent,
            FederationError::Request => Ending::Refused,
            FederationError::Remote(error) => match error.status {
                StatusCode::BAD_REQUEST => Ending::Refused,
                StatusCode::PAYLOAD_TOO_LARGE => Ending::TooLarge,
                _ => Ending::Failed,
            },
            FederationError::OurselvesAsked
            | FederationError::Denied
            | FederationError::Network(_)
            | FederationError::Answer { .. } => Ending::Failed,
        }
    }

    /// Writes the body of a transaction, nothing if there is nothing to be sent any more. Events are the bytes that are stored.
    async fn body_of(&self, transaction: &Transaction) -> Result<Bytes, RoomsError> {
        let mut of_rooms: BTreeMap<&RoomId, Vec<EventId>> = BTreeMap::new();
        for pdu in &transaction.pdus {
            of_rooms.entry(&pdu.room_id).or_default().push(pdu.event_id.clone());
        }
        let mut json: BTreeMap<(&RoomId, EventId), Box<RawValue>> = BTreeMap::new();
        for (room_id, event_ids) in of_rooms {
            match self.rooms.outgoing_pdus(room_id, &event_ids).await {
                Ok(pdus) => json.extend(pdus.into_iter().filter_map(|(event_id, pdu)| {
                    let pdu = String::from_utf8(pdu).ok().and_then(|pdu| RawValue::from_string(pdu).ok())?;
                    Some(((room_id, event_id), pdu))
                })),
                // It was purged.
                Err(RoomsError::NoSuchRoom) => {}
                Err(error) => return Err(error),
            }
        }
        let pdus = transaction.pdus.iter().filter_map(|pdu| json.get(&(&pdu.room_id, pdu.event_id.clone())));
        let edus = transaction.edus.iter().map(|edu| EduBody { edu_type: edu.edu_type(), content: edu.content() });
        let (origin, origin_server_ts) = (self.server_name.as_str(), self.clock.now_ms());
        let body = Body { origin, origin_server_ts, pdus: pdus.map(|pdu| &**pdu).collect(), edus: edus.collect() };
        if body.pdus.is_empty() && body.edus.is_empty() {
            return Ok(Bytes::new());
        }
        // Strings, numbers and JSON that was read before can always be written.
        Ok(serde_json::to_vec(&body).unwrap_or_default().into())
    }
}

/// Logs which events a server did not take.
fn log_refused(destination: &ServerName, answer: &[u8]) {
    let answer: Answer = serde_json::from_slice(answer).unwrap_or_default();
    for (event_id, result) in answer.pdus {
        if let Some(error) = result.error {
            tracing::debug!(%destination, event_id, error, "an event was not taken");
        }
    }
}
