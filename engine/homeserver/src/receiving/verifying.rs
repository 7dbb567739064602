//! From what another server sent to verified events.

use std::{sync::Arc, time::Duration};

use ravel_core::{
    id::EventId,
    pdu::{ParsedPdu, PduError, VerifiedPdu},
    room_version::{EventIdFormat, RoomVersionRules},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::PduRefusal;
use crate::{homeserver::Homeserver, parallel};

/// How many events are worth a task of their own: verifying them takes about a millisecond.
const PART_MIN: usize = 16;

/// How long servers are asked for the keys of some events, and of a state.
const KEYS_TIME_MAX: Duration = Duration::from_secs(30);
const KEYS_OF_STATE_TIME_MAX: Duration = Duration::from_secs(120);

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
        self.verify_read(rules, pdus, ParsedPdu::parse, KEYS_TIME_MAX).await
    }

    /// As [`verify_pdus`](Self::verify_pdus), for a state or an auth chain. Those may have events of many servers, which get more time
    /// to give their keys.
    pub(super) async fn verify_state(
        &self,
        rules: &'static RoomVersionRules,
        pdus: Vec<Box<RawValue>>,
    ) -> Vec<Verified> {
        self.verify_read(rules, pdus, ParsedPdu::parse, KEYS_OF_STATE_TIME_MAX).await
    }

    /// As [`verify_pdus`](Self::verify_pdus), for a room's history.
    pub(crate) async fn verify_history(
        &self,
        rules: &'static RoomVersionRules,
        pdus: Vec<Box<RawValue>>,
    ) -> Vec<Verified> {
        self.verify_read(rules, pdus, ParsedPdu::parse_history, KEYS_TIME_MAX).await
    }

    async fn verify_read(
        &self,
        rules: &'static RoomVersionRules,
        pdus: Vec<Box<RawValue>>,
        read: fn(&[u8], &RoomVersionRules) -> Result<ParsedPdu, PduError>,
        keys_time: Duration,
    ) -> Vec<Verified> {
        let read = move |pdu: Box<RawValue>| match read(pdu.get().as_bytes(), rules) {
            Ok(pdu) => Ok(pdu),
            Err(error) => Err((carried_id(&pdu, rules), PduRefusal::Format(Arc::new(error)))),
        };
        let count = pdus.len();
        let internal = || vec![(None, Err(PduRefusal::Internal)); count];
        let Some(parsed) = parallel::for_each(pdus, PART_MIN, read).await else { return internal() };
        let keys = match self.keys.keys_for_pdus_within(parsed.iter().flatten(), keys_time).await {
            Ok(keys) => keys,
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "keys can't be read");
                return internal();
            }
        };
        let now_ms = self.clock.now_ms();
        let keys = Arc::new(keys);
        let verify = move |pdu: Result<ParsedPdu, (Option<EventId>, PduRefusal)>| match pdu {
            Ok(pdu) => {
                let event_id = pdu.event().event_id.clone();
                let pdu = pdu.verify(&*keys, now_ms).map_err(|error| PduRefusal::Signature(Arc::new(error)));
                (Some(event_id), pdu)
            }
            Err((event_id, refusal)) => (event_id, Err(refusal)),
        };
        parallel::for_each(parsed, PART_MIN, verify).await.unwrap_or_else(internal)
    }
}

/// Refuses events whose signatures are not worth checking, by their ids as far as these can be told.
pub(super) fn refused(rules: &RoomVersionRules, pdus: &[Box<RawValue>], refusal: &PduRefusal) -> Vec<Verified> {
    let id = |pdu: &RawValue| match ParsedPdu::parse(pdu.get().as_bytes(), rules) {
        Ok(pdu) => Some(pdu.event().event_id.clone()),
        Err(_) => carried_id(pdu, rules),
    };
    pdus.iter().map(|pdu| (id(pdu), Err(refusal.clone()))).collect()
}

fn carried_id(pdu: &RawValue, rules: &RoomVersionRules) -> Option<EventId> {
    if rules.event_id_format != EventIdFormat::Carried {
        return None;
    }
    EventId::parse(&serde_json::from_str::<CarriedId>(pdu.get()).ok()?.event_id?).ok()
}
