//! Account data: what clients keep at their users' server, for all rooms or for one.
//!
//! Source: client-server API, "Client Config" and "Room Tagging".

use std::{collections::BTreeMap, sync::Arc};

use ravel_core::id::{RoomId, UserId};
use ravel_store::log::{Condition, EventLog, Fact, LogError, StoredFact};
use serde_json::{Map, Value};

use crate::{
    fact_kind,
    record::{RecordError, all_facts, decode_json, encode_json, key, key_parts},
    rooms::{Rooms, RoomsError},
};

/// The longest name of a type, in bytes.
pub const TYPE_BYTES_MAX: usize = 255;

/// The largest content, in bytes of JSON.
pub const CONTENT_BYTES_MAX: usize = 1 << 18;

/// The most entries of a user.
pub const ENTRIES_MAX: usize = 10_000;

/// The most that a user has, in bytes.
pub const ALL_BYTES_MAX: usize = 1 << 24;

/// How often something is tried again because others changed it.
const TRIES_MAX: usize = 16;

/// Why account data is not set.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum AccountDataError {
    #[error("the type is empty or longer than {TYPE_BYTES_MAX} bytes")]
    InvalidType,
    #[error(
        "the content is larger than {CONTENT_BYTES_MAX} bytes, or all of the user's account data would be larger than {ALL_BYTES_MAX}"
    )]
    TooLarge,
    #[error("others change this all the time")]
    Contended,
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Rooms(#[from] RoomsError),
}

/// What is new of a user's account data: contents by type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AccountDataNews {
    /// Of no room.
    pub global: BTreeMap<String, Value>,
    /// By room.
    pub rooms: BTreeMap<RoomId, BTreeMap<String, Value>>,
}

/// The account data of a server's users. Cheap to clone.
#[derive(Clone)]
pub struct AccountData {
    log: Arc<EventLog>,
    rooms: Rooms,
}

impl AccountData {
    /// Opens the account data that a log has.
    pub fn new(log: Arc<EventLog>, rooms: Rooms) -> Self {
        Self { log, rooms }
    }

    /// Returns the content that a user has set for a type.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn get(
        &self,
        user: &UserId,
        room_id: Option<&RoomId>,
        data_type: &str,
    ) -> Result<Option<Value>, AccountDataError> {
        let stored = self.stored(user, room_id, data_type).await?;
        Ok(stored.map(|stored| decode_json(&stored.value)).transpose()?)
    }

    /// Sets the content for a type.
    ///
    /// # Errors
    ///
    /// [`AccountDataError`]
    pub async fn set(
        &self,
        user: &UserId,
        room_id: Option<&RoomId>,
        data_type: &str,
        content: Map<String, Value>,
    ) -> Result<(), AccountDataError> {
        self.update(user, room_id, data_type, |_| content.clone()).await
    }

    /// Makes new content for a type of what is there. `change` may be called several times.
    ///
    /// # Errors
    ///
    /// [`AccountDataError`]
    pub async fn update(
        &self,
        user: &UserId,
        room_id: Option<&RoomId>,
        data_type: &str,
        change: impl Fn(Map<String, Value>) -> Map<String, Value>,
    ) -> Result<(), AccountDataError> {
        if data_type.is_empty() || data_type.len() > TYPE_BYTES_MAX || data_type.contains('\0') {
            return Err(AccountDataError::InvalidType);
        }
        for _ in 0..TRIES_MAX {
            let stored = self.stored(user, room_id, data_type).await?;
            let before = match &stored {
                Some(stored) => object(decode_json(&stored.value)?),
                None => Map::new(),
            };
            let value = encode_json(&Value::Object(change(before)))?;
            if stored.as_ref().map(|stored| &stored.value) == Some(&value) {
                return Ok(());
            }
            self.check_size(user, stored.as_ref(), value.len()).await?;
            let (kind, fact_key) = (fact_kind::ACCOUNT_DATA, fact_key(user, room_id, data_type));
            let condition = Condition { kind, key: fact_key.clone(), value: stored.map(|stored| stored.value) };
            let fact = Fact { kind, key: fact_key, value: Some(value) };
            if self.rooms.put_facts_for(user.clone(), vec![fact], vec![condition]).await? {
                return Ok(());
            }
        }
        Err(AccountDataError::Contended)
    }

    /// Returns what a user set at a place in the log or later.
    ///
    /// Costs nothing if there is nothing; otherwise it reads all that the user has.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn since(&self, user: &UserId, from: u64) -> Result<AccountDataNews, AccountDataError> {
        let mut news = AccountDataNews::default();
        if from > 0 && !self.rooms.has_facts_from(user, from) {
            return Ok(news);
        }
        for fact in self.all(user).await?.into_iter().filter(|fact| fact.sequence >= from) {
            let [_, room_id, data_type] = key_parts(&fact.key)?;
            let entries = match room_id {
                "" => &mut news.global,
                room_id => news.rooms.entry(RoomId::parse(room_id).map_err(RecordError::from)?).or_default(),
            };
            entries.insert(data_type.to_owned(), decode_json(&fact.value)?);
        }
        Ok(news)
    }

    async fn check_size(
        &self,
        user: &UserId,
        before: Option<&StoredFact>,
        bytes: usize,
    ) -> Result<(), AccountDataError> {
        let bytes_before = before.map_or(0, |before| before.value.len());
        if bytes <= bytes_before {
            return Ok(());
        }
        let all = self.all(user).await?;
        let all_bytes = all.iter().map(|fact| fact.key.len() + fact.value.len()).sum::<usize>();
        let fits = bytes <= CONTENT_BYTES_MAX
            && all_bytes + bytes - bytes_before <= ALL_BYTES_MAX
            && (before.is_some() || all.len() < ENTRIES_MAX);
        if fits { Ok(()) } else { Err(AccountDataError::TooLarge) }
    }

    async fn stored(
        &self,
        user: &UserId,
        room_id: Option<&RoomId>,
        data_type: &str,
    ) -> Result<Option<StoredFact>, LogError> {
        self.log.fact(fact_kind::ACCOUNT_DATA, &fact_key(user, room_id, data_type)).await
    }

    async fn all(&self, user: &UserId) -> Result<Vec<StoredFact>, LogError> {
        all_facts(&self.log, fact_kind::ACCOUNT_DATA, &key(&[user.localpart(), ""])).await
    }
}

fn fact_key(user: &UserId, room_id: Option<&RoomId>, data_type: &str) -> bytes::Bytes {
    key(&[user.localpart(), room_id.map_or("", RoomId::as_str), data_type])
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}
