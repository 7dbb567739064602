//! Filters that clients keep at their users' server.
//!
//! Source: client-server API, "Filtering".

pub(crate) mod matching;

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use ravel_core::id::UserId;
use ravel_store::{
    Durability,
    log::{EventLog, Fact, LogError},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::{
    fact_kind,
    record::{RecordError, all_facts, decode_json, encode_json, key},
};

/// The largest filter, in bytes of JSON.
pub const FILTER_BYTES_MAX: usize = 65_536;

/// The most filters of a user.
pub const FILTERS_MAX: usize = 1_000;

/// The bytes of a filter's hash that its id has.
const ID_BYTES: usize = 12;

/// Why a filter is not kept.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum FilterError {
    #[error("the filter is larger than {FILTER_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the user has {FILTERS_MAX} filters already")]
    TooMany,
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// The filters of a server's users. Cheap to clone.
#[derive(Clone)]
pub struct Filters {
    log: Arc<EventLog>,
}

impl Filters {
    /// Opens the filters that a log has.
    pub fn new(log: Arc<EventLog>) -> Self {
        Self { log }
    }

    /// Keeps a filter and returns its id, which is the same for the same filter.
    ///
    /// # Errors
    ///
    /// [`FilterError`]
    pub async fn add(&self, user: &UserId, filter: &Value) -> Result<String, FilterError> {
        let value = encode_json(filter)?;
        if value.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLarge);
        }
        let hash = Sha256::digest(&value);
        let filter_id = BASE64_URL_SAFE_NO_PAD.encode(hash.get(..ID_BYTES).unwrap_or_default());
        let (kind, fact_key) = (fact_kind::FILTER, key(&[user.localpart(), &filter_id]));
        if self.log.fact(kind, &fact_key).await?.is_some() {
            return Ok(filter_id);
        }
        if all_facts(&self.log, kind, &key(&[user.localpart(), ""])).await?.len() >= FILTERS_MAX {
            return Err(FilterError::TooMany);
        }
        self.log.put_facts(&[Fact { kind, key: fact_key, value: Some(value) }], &[], Durability::Sync).await?;
        Ok(filter_id)
    }

    /// Returns a filter of a user's by its id.
    ///
    /// # Errors
    ///
    /// When the log can't be read.
    pub async fn get(&self, user: &UserId, filter_id: &str) -> Result<Option<Value>, FilterError> {
        if filter_id.contains('\0') || filter_id.len() > FILTER_ID_BYTES_MAX {
            return Ok(None);
        }
        let stored = self.log.fact(fact_kind::FILTER, &key(&[user.localpart(), filter_id])).await?;
        Ok(stored.map(|stored| decode_json(&stored.value)).transpose()?)
    }
}

/// Longer ids are of no filter.
const FILTER_ID_BYTES_MAX: usize = 64;
