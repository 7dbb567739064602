//! How far users have read.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use bytes::Bytes;
use ravel_core::id::{EventId, RoomId, UserId};
use ravel_store::{
    Durability,
    log::{FACT_KEY_BYTES_MAX, Fact},
};
use serde_json::{Map, Value, json};

use super::{Ephemeral, EphemeralError, LocalEdu, changes::Change, event_of, is_before, thread_text};
use crate::{
    fact_kind,
    record::{Record, RecordError, all_facts, decode, encode, key, key_parts},
};

/// In how many threads of a room a user's receipts are kept.
pub const THREADS_MAX: usize = 500;

/// For whom a receipt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReceiptKind {
    /// `m.read`: for everybody in the room.
    Read,
    /// `m.read.private`: for the user alone.
    Private,
}

impl ReceiptKind {
    /// Reads a receipt type.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "m.read" => Some(Self::Read),
            "m.read.private" => Some(Self::Private),
            _ => None,
        }
    }

    /// Returns it as on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "m.read",
            Self::Private => "m.read.private",
        }
    }
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// For whom it is.
    pub kind: ReceiptKind,
    /// The event up to which was read.
    pub event_id: EventId,
    /// The thread that it is of: none, `main`, or the event that a thread began with.
    pub thread: Option<String>,
    /// When, in milliseconds since 1970.
    pub ts_ms: i64,
}

/// Of whom there is one receipt in a room: user, kind, thread.
pub(super) type OfUser = (UserId, ReceiptKind, String);

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct ReceiptRecord {
    event_id: String,
    ts_ms: i64,
}

impl Record for ReceiptRecord {
    const VERSION: u8 = 1;
}

impl Ephemeral {
    /// Takes note of how far a user, who has joined the room, has read; nothing happens if it had read further already. For users of
    /// this server and, in receipts that their servers send, of others.
    ///
    /// What a crash takes away of it was of the last moments.
    ///
    /// # Errors
    ///
    /// When the log can't be read or written.
    pub async fn receipt(&self, room_id: &RoomId, user: &UserId, receipt: Receipt) -> Result<(), EphemeralError> {
        let (kind, thread) = (receipt.kind, receipt.thread.as_deref());
        let fact_key = receipt_key(room_id, user, kind, thread);
        if thread.is_some_and(|thread| thread.is_empty() || thread.contains('\0'))
            || fact_key.len() > FACT_KEY_BYTES_MAX
        {
            return Ok(());
        }
        match self.0.log.fact(fact_kind::RECEIPT, &fact_key).await? {
            Some(stored) => {
                let stored: ReceiptRecord = decode(&stored.value)?;
                let before = EventId::parse(&stored.event_id).map_err(RecordError::from)?;
                if before == receipt.event_id || is_before(&self.0.rooms, room_id, &receipt.event_id, &before).await? {
                    return Ok(());
                }
            }
            None => {
                let prefix = receipt_key(room_id, user, kind, None);
                let of_user = self.0.log.facts(fact_kind::RECEIPT, &prefix, None, THREADS_MAX).await?;
                if of_user.len() >= THREADS_MAX {
                    return Ok(());
                }
            }
        }
        let record = ReceiptRecord { event_id: receipt.event_id.to_string(), ts_ms: receipt.ts_ms };
        let fact = Fact { kind: fact_kind::RECEIPT, key: fact_key, value: Some(encode(&record)?) };
        self.0.log.put_facts(&[fact], &[], Durability::Relaxed).await?;
        {
            let mut state = self.state();
            let of_user = (user.clone(), kind, thread_text(thread).to_owned());
            state.changes.add(Change::Receipt(room_id.clone(), of_user, receipt.clone()));
            self.wake(&state);
        }
        if self.is_ours(user) && kind == ReceiptKind::Read {
            self.tell(LocalEdu::Receipt { room_id: room_id.clone(), user_id: user.clone(), receipt });
        }
        Ok(())
    }

    /// Returns the receipts of a room that were stored at a place in the log or later.
    pub(super) async fn stored_receipts(
        &self,
        room_id: &RoomId,
        from: u64,
    ) -> Result<BTreeMap<OfUser, Receipt>, EphemeralError> {
        let prefix = key(&[room_id.as_str(), ""]);
        let facts = all_facts(&self.0.log, fact_kind::RECEIPT, &prefix).await?;
        let receipts = facts.into_iter().filter(|fact| fact.sequence >= from).map(|fact| {
            let [_, user, kind, thread] = key_parts(&fact.key)?;
            let record: ReceiptRecord = decode(&fact.value)?;
            let kind = ReceiptKind::parse(kind).ok_or(RecordError::Length)?;
            let event_id = EventId::parse(&record.event_id)?;
            let of_user = (UserId::parse(user)?, kind, thread.to_owned());
            let thread = Some(thread.to_owned()).filter(|thread| !thread.is_empty());
            Ok((of_user, Receipt { kind, event_id, thread, ts_ms: record.ts_ms }))
        });
        Ok(receipts.collect::<Result<_, RecordError>>()?)
    }
}

/// Returns receipts as a user gets them, `None` if none are for it.
pub(super) fn event(receipts: &BTreeMap<OfUser, Receipt>, reader: &UserId) -> Option<Map<String, Value>> {
    let mut content = Map::new();
    for ((user, kind, _), receipt) in receipts {
        if *kind == ReceiptKind::Private && user != reader {
            continue;
        }
        let mut data = json!({ "ts": receipt.ts_ms });
        if let (Some(thread), Some(data)) = (&receipt.thread, data.as_object_mut()) {
            data.insert("thread_id".to_owned(), thread.as_str().into());
        }
        let kinds = object_in(&mut content, receipt.event_id.as_str());
        let users = kinds.and_then(|kinds| object_in(kinds, kind.as_str()));
        users.and_then(|users| users.insert(user.to_string(), data));
    }
    (!content.is_empty()).then(|| event_of("m.receipt", content.into()))
}

fn object_in<'m>(map: &'m mut Map<String, Value>, name: &str) -> Option<&'m mut Map<String, Value>> {
    map.entry(name).or_insert_with(|| json!({})).as_object_mut()
}

fn receipt_key(room_id: &RoomId, user: &UserId, kind: ReceiptKind, thread: Option<&str>) -> Bytes {
    key(&[room_id.as_str(), user.as_str(), kind.as_str(), thread_text(thread)])
}
