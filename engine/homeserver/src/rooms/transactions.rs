//! Requests that clients send again.
//!
//! What became of a request is put with its event into the log, in one batch, so the event is there if and only if that is. In memory are the
//! requests that run, and which ones the log has: a new request costs no look-up.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use ravel_core::id::{EventId, RoomId, UserId};
use ravel_store::log::{EventLog, Fact, LogError};
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::{Rooms, RoomsError, SendEvent, Writing};
use crate::{
    fact_kind::TRANSACTION,
    record::{RecordError, all_facts, decode_json, encode_json, key},
};

/// What a client calls a request.
///
/// Source: client-server API, "Transaction identifiers".
#[derive(Clone, Debug)]
pub struct Transaction {
    /// The device that sends it.
    pub device_id: String,
    /// What it is about: requests to other paths have nothing to do with it.
    pub path: String,
    /// What tells it from others of the device to this path.
    pub transaction_id: String,
}

impl Transaction {
    /// Returns the key of what became of it. The part after the device is [as long](crate::to_device::NAME_BYTES) as that of messages to devices.
    fn key(&self, sender: &UserId) -> Bytes {
        let mut hash = Sha256::new();
        hash.update((self.path.len() as u64).to_le_bytes());
        hash.update(&self.path);
        hash.update(&self.transaction_id);
        let name: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        key(&[sender.localpart(), &self.device_id, &name])
    }
}

/// The requests that run, and those of which the log has what became of them.
#[derive(Debug, Default)]
pub(super) struct Transactions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    running: HashMap<Bytes, Arc<OnceCell<EventId>>>,
    /// In the order in which they came.
    order: VecDeque<Bytes>,
    /// Those in `order`, and maybe some that are gone with their device.
    kept: HashSet<Bytes>,
}

/// How many are kept. (Few in this crate's tests.)
pub(super) const TRANSACTIONS_MAX: usize = if cfg!(test) { 20 } else { 20_000 };

/// How many are dropped for each that comes: more than one, should there be too many.
const DROPPED_MAX: usize = 2;

impl Transactions {
    /// Reads which ones a log has.
    pub(super) async fn load(log: &EventLog) -> Result<Self, LogError> {
        let mut facts = all_facts(log, TRANSACTION, b"").await?;
        facts.sort_unstable_by_key(|fact| fact.sequence);
        let order: VecDeque<Bytes> = facts.into_iter().map(|fact| fact.key).collect();
        let kept = order.iter().cloned().collect();
        Ok(Self(Mutex::new(Known { running: HashMap::new(), order, kept })))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the place for what becomes of a request. Who got it [ends](Self::end) it.
    fn begin(&self, key: &Bytes) -> Arc<OnceCell<EventId>> {
        Arc::clone(self.known().running.entry(key.clone()).or_default())
    }

    fn end(&self, key: &Bytes, place: Arc<OnceCell<EventId>>) {
        const MAP_AND_CALLER: usize = 2;
        let mut known = self.known();
        if Arc::strong_count(&place) == MAP_AND_CALLER {
            known.running.remove(key);
        }
        // Not before, so that the last one finds itself to be that.
        drop(place);
    }

    fn may_be_kept(&self, key: &Bytes) -> bool {
        self.known().kept.contains(key)
    }

    /// Takes note of one that is about to be kept; returns the keys of those that are not any more.
    fn keep(&self, key: Bytes) -> Vec<Bytes> {
        let mut known = self.known();
        if known.kept.insert(key.clone()) {
            known.order.push_back(key);
        }
        let too_many = known.order.len().saturating_sub(TRANSACTIONS_MAX).min(DROPPED_MAX);
        let dropped: Vec<Bytes> = known.order.drain(..too_many).collect();
        for key in &dropped {
            known.kept.remove(key);
        }
        dropped
    }
}

impl Rooms {
    /// Sends an event once for each transaction: again, it returns the id of the event that was sent. That is so until the device is gone or
    /// 20,000 others were sent.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send); then the transaction can be tried again.
    pub async fn send_once(
        &self,
        room_id: &RoomId,
        sender: &UserId,
        transaction: &Transaction,
        event: SendEvent,
    ) -> Result<EventId, RoomsError> {
        let key = transaction.key(sender);
        let (rooms, room_id, sender) = (self.clone(), room_id.clone(), sender.clone());
        // To its end, even if nobody waits for it any more.
        let sending = tokio::spawn(async move {
            let place = rooms.0.transactions.begin(&key);
            let send = || async {
                match rooms.sent_before(&key).await? {
                    Some(sent) => Ok(sent),
                    None => rooms.send_as(&room_id, &sender, event, Some(key.clone())).await,
                }
            };
            let sent = place.get_or_try_init(send).await.cloned();
            rooms.0.transactions.end(&key, place);
            sent
        });
        sending.await.map_err(|_| RoomsError::Panicked)?
    }

    async fn sent_before(&self, key: &Bytes) -> Result<Option<EventId>, RoomsError> {
        if !self.0.transactions.may_be_kept(key) {
            return Ok(None);
        }
        let Some(kept) = self.0.log.fact(TRANSACTION, key).await? else { return Ok(None) };
        let sent = decode_json(&kept.value)?;
        Ok(Some(EventId::parse(sent.as_str().unwrap_or_default()).map_err(RecordError::from)?))
    }
}

impl Writing<'_> {
    /// Has it kept that an event is what became of a request, from when it is stored.
    pub(super) fn note_transaction(&mut self, key: Bytes, sent: &EventId) -> Result<(), RoomsError> {
        let value = encode_json(&sent.as_str().into())?;
        let dropped = self.inner.transactions.keep(key.clone());
        self.facts.push(Fact { kind: TRANSACTION, key, value: Some(value) });
        self.facts.extend(dropped.into_iter().map(|key| Fact { kind: TRANSACTION, key, value: None }));
        Ok(())
    }
}
