//! From what another server sent to verified events.

use std::sync::Arc;

use ravel_core::{
    id::EventId,
    pdu::{ParsedPdu, PduError, VerifiedPdu},
    room_version::{EventIdFormat, RoomVersionRules},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::PduRefusal;
use crate::homeserver::Homeserver;

/// How many events are verified before others get their turn: about three milliseconds.
const SLICE: usize = 50;

/// The id of an event, as far as it can be told, and the event or what is wrong with it.
pub(crate) type Verified = (Option<EventId>, Result<VerifiedPdu, PduRefusal>);

/// The id of an event that is not valid, where it carries one.
#[derive(Deserialize)]
struct CarriedId {
    event_id: Option<String>,
}

impl Homeserver {
    /// Reads events of a room version and checks their signatures and hashes; returns, in their order, the id of each, as far as it
    /// can be told, and the event.
    ///
    /// Fetches the keys that are not known yet. Costs one signature check for each event at least.
    pub(crate) async fn verify_pdus(
        &self,
        rules: &'static RoomVersionRules,
        pdus: Vec<Box<RawValue>>,
    ) -> Vec<Verified> {
        self.verify_read(rules, pdus, ParsedPdu::parse).await
    }

    /// As [`verify_pdus`](Self::verify_pdus), for a room's history.
    pub(crate) async fn verify_history(
        &self,
        rules: &'static RoomVersionRules,
        pdus: Vec<Box<RawValue>>,
    ) -> Vec<Verified> {
        self.verify_read(rules, pdus, ParsedPdu::parse_history).await
    }

    async fn verify_read(
        &self,
        rules: &'static RoomVersionRules,
        pdus: Vec<Box<RawValue>>,
        read: fn(&[u8], &RoomVersionRules) -> Result<ParsedPdu, PduError>,
    ) -> Vec<Verified> {
        let parsed: Vec<_> = pdus
            .iter()
            .map(|pdu| match read(pdu.get().as_bytes(), rules) {
                Ok(pdu) => Ok(pdu),
                Err(error) => Err((carried_id(pdu, rules), PduRefusal::Format(Arc::new(error)))),
            })
            .collect();
        drop(pdus);
        let keys = match self.keys.keys_for_pdus(parsed.iter().flatten()).await {
            Ok(keys) => keys,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "keys can't be read");
                return parsed
                    .into_iter()
                    .map(|pdu| match pdu {
                        Ok(pdu) => (Some(pdu.event().event_id.clone()), Err(PduRefusal::Internal)),
                        Err((id, refusal)) => (id, Err(refusal)),
                    })
                    .collect();
            }
        };
        let now_ms = self.clock.now_ms();
        let mut verified = Vec::with_capacity(parsed.len());
        for (number, pdu) in parsed.into_iter().enumerate() {
            if number % SLICE == SLICE - 1 {
                tokio::task::yield_now().await;
            }
            verified.push(match pdu {
                Ok(pdu) => {
                    let event_id = pdu.event().event_id.clone();
                    let pdu = pdu.verify(&keys, now_ms).map_err(|error| PduRefusal::Signature(Arc::new(error)));
                    (Some(event_id), pdu)
                }
                Err((event_id, refusal)) => (event_id, Err(refusal)),
            });
        }
        verified
    }
}

fn carried_id(pdu: &RawValue, rules: &RoomVersionRules) -> Option<EventId> {
    if rules.event_id_format != EventIdFormat::Carried {
        return None;
    }
    EventId::parse(&serde_json::from_str::<CarriedId>(pdu.get()).ok()?.event_id?).ok()
}
