//! Events that could not be judged since what they build on can't be had now. They are kept in the log, and it is asked for again.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures_util::{TryStreamExt, stream::FuturesUnordered};
use ravel_core::{
    id::{RoomId, ServerName},
    pdu::VerifiedPdu,
    room::Arrival,
    room_version::RoomVersionRules,
};
use ravel_store::{
    Durability,
    log::{Fact, LogError, StoredFact},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{clock::within, fact_kind::GAP, homeserver::Homeserver, record::all_facts};

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

/// Of how many rooms waiting events are looked after at the same time.
const ROOMS_AT_ONCE: usize = 8;

/// How long one attempt may take: as long as two large questions. After that time no further event of the room has its turn.
const GAP_TIME_MAX: Duration = Duration::from_secs(240);
const ROOM_MS_MAX: i64 = 240_000;

/// How long a room waits for a server that is asked for another room.
const SERVER_WAIT_MAX: Duration = Duration::from_secs(10);

impl Homeserver {
    /// Keeps an event for later.
    pub(super) async fn keep_for_later(&self, origin: &ServerName, room_id: &RoomId, pdu: &VerifiedPdu) {
        if let Err(error) = self.put_gap(origin, room_id, pdu).await {
            tracing::error!(error = &error as &dyn std::error::Error, "an event can't be kept for later");
        }
    }

    async fn put_gap(&self, origin: &ServerName, room_id: &RoomId, pdu: &VerifiedPdu) -> Result<(), LogError> {
        let prefix = format!("{room_id}\0");
        let waiting = all_facts(&self.log, GAP, prefix.as_bytes()).await?;
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

    /// Asks once for what those waiting events build on whose time has come: of several rooms at once, of each room one after the
    /// other, and each server for one room at a time.
    pub(super) async fn fill_gaps_once(&self) -> Result<(), LogError> {
        let mut filling = FuturesUnordered::new();
        let mut after = Bytes::new();
        while let Some((prefix, behind)) = self.waiting_room(&after).await? {
            after = behind;
            if filling.len() >= ROOMS_AT_ONCE {
                filling.try_next().await?;
            }
            filling.push(self.fill_gaps_of_room(prefix));
        }
        while filling.try_next().await?.is_some() {}
        Ok(())
    }

    /// Returns what the keys of the next room with waiting events begin with, and what comes after them.
    async fn waiting_room(&self, after: &[u8]) -> Result<Option<(Bytes, Bytes)>, LogError> {
        let first = self.log.facts(GAP, &[], Some(after), 1).await?.pop();
        let of_room = first.and_then(|first| first.key.split_inclusive(|byte| *byte == 0).next().map(<[u8]>::to_vec));
        Ok(of_room.map(|prefix| {
            let behind = [prefix.as_slice(), &[u8::MAX]].concat();
            (prefix.into(), behind.into())
        }))
    }

    async fn fill_gaps_of_room(&self, prefix: Bytes) -> Result<(), LogError> {
        let until_ms = self.clock.now_ms().saturating_add(ROOM_MS_MAX);
        let mut busy = BTreeSet::new();
        let mut after: Option<Bytes> = None;
        loop {
            let page = self.log.facts(GAP, &prefix, after.as_deref(), PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.key.clone());
            for stored in page {
                if self.clock.now_ms() >= until_ms {
                    return Ok(());
                }
                self.fill_gap(stored, &mut busy).await?;
            }
        }
    }

    /// Asks for what an event builds on if its time has come, unless the server that is to be asked is busy with another room: that is
    /// noted then.
    async fn fill_gap(&self, stored: StoredFact, busy: &mut BTreeSet<ServerName>) -> Result<(), LogError> {
        let room_id = stored.key.split(|byte| *byte == 0).next();
        let room_id = room_id.and_then(|id| RoomId::parse(std::str::from_utf8(id).ok()?).ok());
        let gap = serde_json::from_slice::<Gap>(&stored.value).ok().filter(|gap| gap.version == VERSION);
        let (Some(room_id), Some(mut gap)) = (room_id, gap) else { return self.write_gap(stored.key, None).await };
        if gap.next_ms > self.clock.now_ms() {
            return Ok(());
        }
        let Ok(rules) = self.rooms.rules(&room_id).await else { return self.write_gap(stored.key, None).await };
        let mut is_done = false;
        if let Some(server) = self.server_to_ask(&room_id, &gap).await {
            if busy.contains(&server) {
                return Ok(());
            }
            let turn = self.receiving.filling.of(server.clone());
            let Some(_turn) = within(&*self.clock, SERVER_WAIT_MAX, turn.lock()).await else {
                busy.insert(server);
                return Ok(());
            };
            let taking = self.take_waiting(&server, &room_id, rules, &gap.pdu);
            is_done = within(&*self.clock, GAP_TIME_MAX, taking).await.unwrap_or(false);
        }
        gap.attempts = gap.attempts.saturating_add(1);
        if is_done || gap.attempts > ATTEMPTS_MAX {
            return self.write_gap(stored.key, None).await;
        }
        let doublings = gap.attempts.saturating_sub(1).min(ATTEMPTS_MAX);
        gap.next_ms = self.clock.now_ms().saturating_add(PAUSE_MS << doublings);
        self.write_gap(stored.key, Some(&gap)).await
    }

    /// Takes an event after what it builds on, as far as a server can tell; returns whether that has succeeded.
    async fn take_waiting(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        rules: &'static RoomVersionRules,
        pdu: &RawValue,
    ) -> bool {
        match self.verified_of_room(room_id, rules, vec![pdu.to_owned()]).await.pop() {
            Some(pdu) => self.take_with_ancestors(server, room_id, &pdu, Arrival::New).await.is_ok(),
            None => false,
        }
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
