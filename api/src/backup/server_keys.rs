//! The keys that servers have published, as they are stored in a backup.

use ravel_core::{
    id::{KeyId, ServerName},
    signing::{KeyRing, PublishedKey, VerifyKey, encode_base64},
};
use serde::{Deserialize, Serialize};

use super::Damage;

/// How many keys are in an object.
const KEYS_MAX: usize = 10_000;

#[derive(Serialize, Deserialize)]
struct Key {
    server: String,
    key_id: String,
    verify_key: String,
    valid_until_ts_ms: i64,
    expired_ts_ms: Option<i64>,
}

/// Returns the contents of the objects that all keys make up.
pub(super) fn to_json(keys: &KeyRing) -> Result<Vec<Vec<u8>>, serde_json::Error> {
    let keys: Vec<Key> = keys
        .iter()
        .map(|(server, key_id, key)| Key {
            server: server.to_string(),
            key_id: key_id.to_string(),
            verify_key: encode_base64(key.key.as_bytes()),
            valid_until_ts_ms: key.valid_until_ts_ms,
            expired_ts_ms: key.expired_ts_ms,
        })
        .collect();
    keys.chunks(KEYS_MAX).map(serde_json::to_vec).collect()
}

/// Takes the content of an object apart.
pub(super) fn from_json(json: &[u8]) -> Result<KeyRing, Damage> {
    let keys: Vec<Key> = serde_json::from_slice(json).map_err(Damage::Json)?;
    let mut ring = KeyRing::new();
    for key in keys {
        let invalid = || Damage::Content("it has a key that is none");
        let server = ServerName::parse(&key.server).map_err(|_| invalid())?;
        let key_id = KeyId::parse(&key.key_id).map_err(|_| invalid())?;
        let verify_key = VerifyKey::from_base64(&key.verify_key).map_err(|_| invalid())?;
        let (valid_until_ts_ms, expired_ts_ms) = (key.valid_until_ts_ms, key.expired_ts_ms);
        ring.insert(server, key_id, PublishedKey { key: verify_key, valid_until_ts_ms, expired_ts_ms });
    }
    Ok(ring)
}
