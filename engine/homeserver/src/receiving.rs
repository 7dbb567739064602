//! What other servers send: their transactions, and what has to be asked for to make sense of them.
//!
//! An event of a transaction goes the same way as any event from outside: it is read and its signatures and hash are checked
//! (`verifying`), its room judges it. If events that it builds on are not here, its sender is asked for them, and where that does
//! not reach back to what is here, for the state before the gap (`missing`). What can't be had now is kept and asked for again
//! (`gaps`). History is asked for when somebody reads that far (`history`).

mod fetching;
mod gaps;
mod history;
mod left_out;
mod missing;
mod sorting;
mod verifying;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use ravel_core::{
    id::{EventId, RoomId, ServerName},
    pdu::{PduError, SignatureError, VerifiedPdu},
};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{sync::OnceCell, task::JoinSet};

use crate::{
    federation::timed_cache::TimedCache,
    homeserver::Homeserver,
    rooms::{Incoming, Received, RoomsError},
    turns::Turns,
};

pub(crate) use self::{fetching::FetchError, sorting::by_auth_events};
use self::{fetching::LargeAnswers, verifying::refused};

/// The most events of a transaction.
///
/// Source: server-server API, "Transactions".
pub const TRANSACTION_PDUS_MAX: usize = 50;

/// The most EDUs of a transaction.
pub const TRANSACTION_EDUS_MAX: usize = 100;

/// What became of the events of a transaction. Those whose id can't be told are not in it.
pub type PduResults = BTreeMap<EventId, Result<(), PduRefusal>>;

/// Why a transaction is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// It has too many events.
    #[error("more than {TRANSACTION_PDUS_MAX} PDUs")]
    TooManyPdus,
    /// It has too many EDUs.
    #[error("more than {TRANSACTION_EDUS_MAX} EDUs")]
    TooManyEdus,
    /// A task of the server failed.
    #[error("a task of the server failed")]
    Panicked,
}

/// Why an event of another server is not taken. A rejected or soft-failed event is: that is a verdict.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum PduRefusal {
    #[error("it is no valid event: {0}")]
    Format(Arc<PduError>),
    #[error("{0}")]
    Signature(Arc<SignatureError>),
    #[error("this server is not in the room")]
    NotInRoom,
    #[error("the server may not take part in the room")]
    NotAllowed,
    #[error("what it builds on can't be had: {0}")]
    Missing(Arc<FetchError>),
    #[error("what it builds on is not here, and its server takes too long to tell")]
    Unfounded,
    #[error("it is of another room")]
    OtherRoom,
    #[error("something is wrong at this server")]
    Internal,
}

impl From<RoomsError> for PduRefusal {
    fn from(error: RoomsError) -> Self {
        match error {
            RoomsError::NoSuchRoom => Self::NotInRoom,
            error => {
                tracing::error!(error = &error as &dyn std::error::Error, "an event could not be taken");
                Self::Internal
            }
        }
    }
}

impl From<FetchError> for PduRefusal {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Rooms(error) => error.into(),
            error => Self::Missing(Arc::new(error)),
        }
    }
}

/// What is remembered of transactions and of rooms with missing events.
pub(crate) struct Receiving {
    transactions: Mutex<TimedCache<TransactionKey, Arc<OnceCell<PduResults>>>>,
    /// Held while events of a server that lack something are looked after, so that they keep their order.
    lacking: Turns<(ServerName, RoomId)>,
    /// Held while a server is asked for what waiting events build on.
    filling: Turns<ServerName>,
    large: LargeAnswers,
}

/// Who sent a transaction, and its id.
type TransactionKey = (ServerName, String);

/// After so long no more is asked for because of the events of one room in one transaction: the rest waits.
const LACKING_MS_MAX: i64 = 60_000;

/// How many transactions are remembered, and for how long.
const TRANSACTIONS_MAX: usize = 10_000;
const TRANSACTION_KEPT_MS: i64 = 60 * 60 * 1000;

impl Receiving {
    pub(crate) fn new() -> Self {
        Self {
            transactions: Mutex::new(TimedCache::new(TRANSACTIONS_MAX)),
            lacking: Turns::default(),
            filling: Turns::default(),
            large: LargeAnswers::default(),
        }
    }

    fn transaction(&self, origin: &ServerName, id: &str, now_ms: i64) -> Arc<OnceCell<PduResults>> {
        let mut transactions = self.transactions.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (origin.clone(), id.to_owned());
        if let Some(known) = transactions.get(&key, now_ms) {
            return Arc::clone(known);
        }
        let results = Arc::default();
        transactions.insert(key, Arc::clone(&results), now_ms.saturating_add(TRANSACTION_KEPT_MS));
        results
    }
}

/// What of an event tells which room it is of.
#[derive(Deserialize)]
struct RoomOf {
    room_id: Option<String>,
}

impl Homeserver {
    /// Takes a transaction of another server: all of it, or what is wrong with each of its events. One that comes again, even while
    /// the first one is taken, gets the same answer and changes nothing.
    ///
    /// Takes as long as it takes to get what the events build on, a few minutes at most.
    ///
    /// Source: server-server API, "PUT /_matrix/federation/v1/send/{txnId}", "Checks performed on receipt of a PDU".
    ///
    /// # Errors
    ///
    /// [`TransactionError`]
    pub async fn receive_transaction(
        &self,
        origin: &ServerName,
        transaction_id: &str,
        pdus: Vec<Box<RawValue>>,
        edus: Vec<Box<RawValue>>,
    ) -> Result<PduResults, TransactionError> {
        if pdus.len() > TRANSACTION_PDUS_MAX {
            return Err(TransactionError::TooManyPdus);
        }
        if edus.len() > TRANSACTION_EDUS_MAX {
            return Err(TransactionError::TooManyEdus);
        }
        let results = self.receiving.transaction(origin, transaction_id, self.clock.now_ms());
        let (server, origin) = (self.clone(), origin.clone());
        // To its end, even if its sender goes away.
        let taking = tokio::spawn(async move {
            let take = || server.take_transaction(&origin, pdus, edus);
            results.get_or_try_init(take).await.cloned()
        });
        taking.await.map_err(|_| TransactionError::Panicked)?
    }

    async fn take_transaction(
        &self,
        origin: &ServerName,
        pdus: Vec<Box<RawValue>>,
        edus: Vec<Box<RawValue>>,
    ) -> Result<PduResults, TransactionError> {
        self.receive_edus(origin, edus).await;
        let mut rooms: BTreeMap<RoomId, Vec<Box<RawValue>>> = BTreeMap::new();
        for pdu in pdus {
            let room = serde_json::from_str::<RoomOf>(pdu.get()).ok().and_then(|of| RoomId::parse(&of.room_id?).ok());
            if let Some(room_id) = room {
                rooms.entry(room_id).or_default().push(pdu);
            }
        }
        // Each in a task, so that all cores check signatures and what the rooms append shares its syncs.
        let mut taking = JoinSet::new();
        for (room_id, pdus) in rooms {
            let (server, origin) = (self.clone(), origin.clone());
            taking.spawn(async move { server.take_of_room(&origin, &room_id, pdus).await });
        }
        let mut of_rooms = Vec::new();
        // The others are taken to their end even if one has panicked.
        while let Some(of_room) = taking.join_next().await {
            of_rooms.push(of_room.map_err(|_| TransactionError::Panicked));
        }
        let of_rooms: Vec<_> = of_rooms.into_iter().collect::<Result<_, _>>()?;
        Ok(of_rooms.into_iter().flatten().collect())
    }

    async fn take_of_room(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        sent: Vec<Box<RawValue>>,
    ) -> Vec<(EventId, Result<(), PduRefusal>)> {
        // What is sent into a room that is being joined comes after the join.
        self.wait_for_join(room_id).await;
        let rules = self.rooms.rules(room_id).await;
        let is_resident = matches!(self.rooms.is_resident(room_id).await, Ok(true));
        let mut pdus = Vec::with_capacity(sent.len());
        for pdu in sent {
            // Nothing else of a room concerns who is not in it.
            let is_withdrawal = !is_resident && self.takes_withdrawal(origin, room_id, &pdu).await;
            if !is_withdrawal && rules.is_ok() {
                pdus.push(pdu);
            }
        }
        let Ok(rules) = rules else { return Vec::new() };
        let verified = match self.may_send(origin, room_id).await {
            Ok(()) => self.verify_pdus(rules, pdus).await,
            Err(refusal) => refused(rules, &pdus, &refusal),
        };
        let mut results = Vec::with_capacity(verified.len());
        let mut pdus = Vec::with_capacity(verified.len());
        for (event_id, verified) in verified {
            let allowed = match verified {
                Ok(pdu) => self.may_be_sent(origin, room_id, &pdu).await.map(|()| pdu),
                Err(refusal) => Err(refusal),
            };
            match (allowed, event_id) {
                (Ok(pdu), _) => pdus.push(pdu),
                (Err(refusal), Some(event_id)) => results.push((event_id, Err(refusal))),
                (Err(refusal), None) => tracing::debug!(%origin, %refusal, "an event was dropped"),
            }
        }
        let ids: Vec<EventId> = pdus.iter().map(|pdu| pdu.event_id().clone()).collect();
        let taken = self.take_events(origin, room_id, pdus).await;
        results.extend(ids.into_iter().zip(taken));
        for (event_id, refusal) in results.iter().filter_map(|(id, result)| Some((id, result.as_ref().err()?))) {
            tracing::info!(%origin, %room_id, %event_id, %refusal, "an event was not taken");
        }
        results
    }

    /// Whether a server may send events into a room.
    async fn may_send(&self, origin: &ServerName, room_id: &RoomId) -> Result<(), PduRefusal> {
        if !self.rooms.is_resident(room_id).await? {
            return Err(PduRefusal::NotInRoom);
        }
        if self.rooms.acl_allows(room_id, origin).await? { Ok(()) } else { Err(PduRefusal::NotAllowed) }
    }

    /// Whether an event may come into a room that its bringer may send into. Whether there is something to do with the server of its
    /// sender makes no difference: it is part of the room at the others.
    async fn may_be_sent(&self, origin: &ServerName, room_id: &RoomId, pdu: &VerifiedPdu) -> Result<(), PduRefusal> {
        let event = pdu.event();
        if event.room_id != *room_id {
            return Err(PduRefusal::OtherRoom);
        }
        if event.sender.server_name() == origin.as_str() {
            return Ok(());
        }
        let Ok(server) = ServerName::parse(event.sender.server_name()) else { return Err(PduRefusal::NotAllowed) };
        if self.rooms.acl_allows(room_id, &server).await? { Ok(()) } else { Err(PduRefusal::NotAllowed) }
    }

    /// Hands verified events to their room, in their order, and gets what they lack.
    async fn take_events(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdus: Vec<VerifiedPdu>,
    ) -> Vec<Result<(), PduRefusal>> {
        let incoming = pdus.iter().cloned().map(Incoming::new).collect();
        let received = match self.rooms.receive(room_id, incoming).await {
            Ok(received) => received,
            Err(error) => {
                let refusal = PduRefusal::from(error);
                return pdus.iter().map(|_| Err(refusal.clone())).collect();
            }
        };
        let mut results = Vec::with_capacity(pdus.len());
        let mut turn = None;
        let until_ms = self.clock.now_ms().saturating_add(LACKING_MS_MAX);
        for (pdu, received) in pdus.into_iter().zip(received) {
            results.push(match received {
                Received::Judged(_) | Received::Known(_) => Ok(()),
                Received::OtherRoom => Err(PduRefusal::OtherRoom),
                Received::NeedEvents(_) | Received::NeedState(_) => {
                    if turn.is_none() {
                        let of_server = self.receiving.lacking.of((origin.clone(), room_id.clone()));
                        turn = Some(of_server.lock_owned().await);
                    }
                    if self.clock.now_ms() < until_ms {
                        self.take_lacking(origin, room_id, pdu).await
                    } else {
                        self.keep_for_later(origin, room_id, &pdu).await;
                        Err(PduRefusal::Unfounded)
                    }
                }
            });
        }
        results
    }
}

#[cfg(test)]
mod tests;
