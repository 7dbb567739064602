//! The keys of our own server, as it publishes them.

use std::collections::BTreeMap;

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    id::{KeyId, ServerName},
    signing::{PublishedKey, SigningError, SigningKey, VerifyKey, encode_base64, sign_json},
};

/// The name and the keys of our server.
#[derive(Clone, Debug)]
pub struct OwnKeys {
    /// The name.
    pub server_name: ServerName,
    /// The key that signs.
    pub signing_key: SigningKey,
    /// Keys that have signed before, with the time of their expiry in milliseconds since 1970.
    pub old_keys: BTreeMap<KeyId, (VerifyKey, i64)>,
}

/// For how long what we publish counts: others ask again after half of it or so.
pub const OWN_KEYS_VALID_MS: i64 = 24 * 60 * 60 * 1000;

impl OwnKeys {
    /// Returns the answer to `/_matrix/key/v2/server`, signed.
    ///
    /// # Errors
    ///
    /// None: the document has no malformed `signatures`.
    pub fn document(&self, now_ms: i64) -> Result<CanonicalJsonObject, SigningError> {
        let object = |fields: Vec<(&str, CanonicalJsonValue)>| -> CanonicalJsonValue {
            fields.into_iter().map(|(name, value)| (name.into(), value)).collect::<CanonicalJsonObject>().into()
        };
        let key = |key: &VerifyKey| ("key", CanonicalJsonValue::from(encode_base64(key.as_bytes())));
        let current = (self.signing_key.key_id().as_str(), object(vec![key(&self.signing_key.verify_key())]));
        let old = self.old_keys.iter().map(|(key_id, (old, expired_ts_ms))| {
            (key_id.as_str(), object(vec![key(old), ("expired_ts", CanonicalJsonValue::Integer(*expired_ts_ms))]))
        });
        let valid_until_ts_ms = now_ms.saturating_add(OWN_KEYS_VALID_MS);
        let mut document = CanonicalJsonObject::from([
            ("server_name".into(), self.server_name.as_str().into()),
            ("valid_until_ts".into(), CanonicalJsonValue::Integer(valid_until_ts_ms)),
            ("verify_keys".into(), object(vec![current])),
            ("old_verify_keys".into(), object(old.collect())),
        ]);
        sign_json(&mut document, &self.server_name, &self.signing_key)?;
        Ok(document)
    }

    /// Returns our keys as those of other servers are kept.
    pub(crate) fn published(&self, now_ms: i64) -> BTreeMap<KeyId, PublishedKey> {
        let valid_until_ts_ms = now_ms.saturating_add(OWN_KEYS_VALID_MS);
        let old = self.old_keys.iter().map(|(key_id, (key, expired_ts_ms))| {
            let expired_ts_ms = Some(*expired_ts_ms);
            (key_id.clone(), PublishedKey { key: *key, valid_until_ts_ms, expired_ts_ms })
        });
        let key = self.signing_key.verify_key();
        let current = PublishedKey { key, valid_until_ts_ms, expired_ts_ms: None };
        old.chain([(self.signing_key.key_id().clone(), current)]).collect()
    }
}
