//! Keys that servers have published: what signatures of events were verified with.

use ravel_core::{
    id::{KeyId, ServerName},
    signing::{KeyRing, PublishedKey, VerifyKey},
};

use super::{
    EventLog, LogError, commit,
    records::{ServerKeyRecord, key},
};
use crate::{Batch, Bytes, Durability, KeyRange, Keyspace, Scan, StoreError, StoreExt, codec};

impl EventLog {
    /// Stores keys that servers have published; a key that is there under the same id is replaced.
    ///
    /// # Errors
    ///
    /// When the store fails.
    pub async fn put_server_keys(&self, keys: &KeyRing, durability: Durability) -> Result<(), LogError> {
        let mut batch = Batch::new();
        batch.durability(durability);
        for (server, key_id, key) in keys.iter() {
            let record = ServerKeyRecord {
                key: *key.key.as_bytes(),
                valid_until_ts_ms: key.valid_until_ts_ms,
                expired_ts_ms: key.expired_ts_ms,
            };
            batch.put_record(key::server_key(server, key_id), &record)?;
        }
        commit(&self.store, batch).await
    }

    /// Returns the keys that one server has published.
    ///
    /// # Errors
    ///
    /// When the store fails, or has a key that is none.
    pub async fn server_keys_of(&self, server: &ServerName) -> Result<KeyRing, LogError> {
        let scan = Scan::prefix(Keyspace::ServerKeys, key::server_keys(server));
        collect(self.store.scan_all(scan).await?)
    }

    /// Returns all keys that servers have published. Costs as much memory as there are keys.
    ///
    /// # Errors
    ///
    /// When the store fails, or has a key that is none.
    pub async fn server_keys(&self) -> Result<KeyRing, LogError> {
        collect(self.store.scan_all(Scan::new(Keyspace::ServerKeys, KeyRange::all())).await?)
    }
}

fn collect(items: Vec<(Bytes, Bytes)>) -> Result<KeyRing, LogError> {
    let mut keys = KeyRing::new();
    for (stored_key, value) in items {
        let (server, key_id, key) = decode(&stored_key, &value)?;
        keys.insert(server, key_id, key);
    }
    Ok(keys)
}

pub(super) fn decode(stored_key: &[u8], value: &[u8]) -> Result<(ServerName, KeyId, PublishedKey), StoreError> {
    let record: ServerKeyRecord = codec::decode(stored_key, value)?;
    let corrupt = || StoreError::corrupt(Keyspace::ServerKeys, stored_key, "a server's key");
    let (server, key_id) = key::server_key_parts(stored_key).ok_or_else(corrupt)?;
    let key = PublishedKey {
        key: VerifyKey::from_bytes(&record.key).map_err(|_| corrupt())?,
        valid_until_ts_ms: record.valid_until_ts_ms,
        expired_ts_ms: record.expired_ts_ms,
    };
    Ok((server, key_id, key))
}
