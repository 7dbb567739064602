//! Events that could not be judged since what they build on can't be had now. They are kept in the log, and it is asked for again.

use std::time::Duration;

use bytes::Bytes;
use ravel_core::{
    id::{RoomId, ServerName},
    pdu::VerifiedPdu,
    room::Arrival,
};
use ravel_store::{
    Durability,
    log::{Fact, LogError, StoredFact},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{fact_kind::GAP, homeserver::Homeserver};

/// An event that waits.
#[derive(Debug, Serialize, Deserialize)]
struct Gap {
    version: u8,
    /// The server that sent it.
    origin: String,
    /// How often what it builds on was asked for.
    attempts: u32,
    /// When it is asked for again, in milliseconds since 1970.
    next_ms: i64,
    pdu: Box<RawValue>,
}

const VERSION: u8 = 1;

/// How many events of one room wait at most.
const GAPS_OF_ROOM_MAX: usize = 100;

/// How often what an event builds on is asked for again.
const ATTEMPTS_MAX: u32 = 12;

/// How long to wait after the first attempt; twice as long after each further one.
const PAUSE_MS: i64 = 30_000;

/// How often events are looked for whose time has come.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// How many of them are looked at together.
const PAGE: usize = 100;

impl Homeserver {
    /// Keeps an event for later.
    pub(super) async fn keep_for_later(&self, origin: &ServerName, room_id: &RoomId, pdu: &VerifiedPdu) {
        if let Err(error) = self.put_gap(origin, room_id, pdu).await {
            tracing::error!(error = &error as &dyn std::error::Error, "an event can't be kept for later");
        }
    }

    async fn put_gap(&self, origin: &ServerName, room_id: &RoomId, pdu: &VerifiedPdu) -> Result<(), LogError> {
        let prefix = format!("{room_id}\0");
        let waiting = self.log.facts(GAP, prefix.as_bytes(), None, GAPS_OF_ROOM_MAX).await?;
        let key = Bytes::from(format!("{prefix}{}", pdu.event_id()));
        if waiting.len() >= GAPS_OF_ROOM_MAX || waiting.iter().any(|gap| gap.key == key) {
            return Ok(());
        }
        let json = String::from_utf8_lossy(pdu.json()).into_owned();
        let Ok(pdu) = RawValue::from_string(json) else { return Ok(()) };
        let next_ms = self.clock.now_ms().saturating_add(PAUSE_MS);
        let gap = Gap { version: VERSION, origin: origin.to_string(), attempts: 1, next_ms, pdu };
        self.write_gap(key, Some(&gap)).await
    }

    async fn write_gap(&self, key: Bytes, gap: Option<&Gap>) -> Result<(), LogError> {
        let value = gap.and_then(|gap| serde_json::to_vec(gap).ok()).map(Bytes::from);
        // What is lost comes again when somebody builds on it.
        self.log.put_facts(&[Fact { kind: GAP, key, value }], &[], Durability::Relaxed).await?;
        Ok(())
    }

    /// Asks for what waiting events build on when their time has come, for ever.
    pub(crate) async fn fill_gaps(self) {
        loop {
            self.clock.sleep(LOOK_EVERY).await;
            if let Err(error) = self.fill_gaps_once().await {
                tracing::error!(error = &error as &dyn std::error::Error, "waiting events can't be read");
            }
        }
    }

    /// Asks once for what those waiting events build on whose time has come.
    pub(super) async fn fill_gaps_once(&self) -> Result<(), LogError> {
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.log.facts(GAP, &[], after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            for stored in page {
                self.fill_gap(stored).await?;
            }
        }
    }

    async fn fill_gap(&self, stored: StoredFact) -> Result<(), LogError> {
        let room_id = stored.key.split(|byte| *byte == 0).next();
        let room_id = room_id.and_then(|id| RoomId::parse(std::str::from_utf8(id).ok()?).ok());
        let gap = serde_json::from_slice::<Gap>(&stored.value).ok().filter(|gap| gap.version == VERSION);
        let (Some(room_id), Some(mut gap)) = (room_id, gap) else { return self.write_gap(stored.key, None).await };
        if gap.next_ms > self.clock.now_ms() {
            return Ok(());
        }
        let is_done = match self.rooms.rules(&room_id).await {
            Ok(rules) => {
                let pdu = self.verified_of_room(&room_id, rules, vec![gap.pdu.clone()]).await.pop();
                match (pdu, self.server_to_ask(&room_id, &gap).await) {
                    (Some(pdu), Some(server)) => {
                        self.take_with_ancestors(&server, &room_id, &pdu, Arrival::New).await.is_ok()
                    }
                    _ => false,
                }
            }
            Err(_) => true,
        };
        gap.attempts = gap.attempts.saturating_add(1);
        if is_done || gap.attempts > ATTEMPTS_MAX {
            return self.write_gap(stored.key, None).await;
        }
        let doublings = gap.attempts.saturating_sub(1).min(ATTEMPTS_MAX);
        gap.next_ms = self.clock.now_ms().saturating_add(PAUSE_MS << doublings);
        self.write_gap(stored.key, Some(&gap)).await
    }

    /// Returns whom to ask: the server that sent the event, and each other one of the room in its turn.
    async fn server_to_ask(&self, room_id: &RoomId, gap: &Gap) -> Option<ServerName> {
        let servers = self.rooms.servers_in(room_id).await.unwrap_or_default();
        let others = servers.into_iter().filter(|server| *server != self.server_name && server.as_str() != gap.origin);
        let all: Vec<ServerName> = ServerName::parse(&gap.origin).into_iter().chain(others).collect();
        let turn = usize::try_from(gap.attempts).ok()?.checked_rem(all.len())?;
        all.into_iter().nth(turn)
    }
}
