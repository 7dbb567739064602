//! The keys that servers have published, and for which events they count.

use std::collections::BTreeMap;

use super::VerifyKey;
use crate::{
    id::{KeyId, ServerName},
    room_version::RoomVersionRules,
};

/// How long a published key counts at most, whatever it claims: 7 days ("Signing key validity period" of room version 5).
pub const KEY_LIFETIME_MAX_MS: i64 = 7 * 24 * 60 * 60 * 1000;

/// A key that a server has published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishedKey {
    /// The key.
    pub key: VerifyKey,
    /// `valid_until_ts` of the publication, in milliseconds since 1970.
    pub valid_until_ts_ms: i64,
    /// `expired_ts`, in milliseconds since 1970, for a key among `old_verify_keys`.
    pub expired_ts_ms: Option<i64>,
}

impl PublishedKey {
    /// Whether the key counts for an event of that time.
    ///
    /// An old key counts up to its expiry, in every room version. A current key counts from room version 5 on up to
    /// `valid_until_ts`, and at most 7 days from `now_ms`; before, always.
    pub fn counts_at(&self, origin_server_ts_ms: i64, now_ms: i64, rules: &RoomVersionRules) -> bool {
        match self.expired_ts_ms {
            Some(expired_ts_ms) => expired_ts_ms >= origin_server_ts_ms,
            None if rules.enforce_key_validity => {
                self.valid_until_ts_ms.min(now_ms.saturating_add(KEY_LIFETIME_MAX_MS)) >= origin_server_ts_ms
            }
            None => true,
        }
    }
}

/// Where published keys are found.
pub trait KeySource {
    /// Returns the key that a server has published under a key id, `None` if it is not known.
    fn verify_key(&self, server: &str, key_id: &str) -> Option<&PublishedKey>;
}

/// Keys in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyRing {
    keys: BTreeMap<ServerName, BTreeMap<KeyId, PublishedKey>>,
}

impl KeyRing {
    /// Makes an empty ring.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a key in, and returns the one it replaces.
    pub fn insert(&mut self, server: ServerName, key_id: KeyId, key: PublishedKey) -> Option<PublishedKey> {
        self.keys.entry(server).or_default().insert(key_id, key)
    }

    /// Returns all keys, sorted by server and key id.
    pub fn iter(&self) -> impl Iterator<Item = (&ServerName, &KeyId, &PublishedKey)> {
        self.keys.iter().flat_map(|(server, keys)| keys.iter().map(move |(key_id, key)| (server, key_id, key)))
    }
}

impl KeySource for KeyRing {
    fn verify_key(&self, server: &str, key_id: &str) -> Option<&PublishedKey> {
        self.keys.get(server)?.get(key_id)
    }
}

impl<K: KeySource + ?Sized> KeySource for &K {
    fn verify_key(&self, server: &str, key_id: &str) -> Option<&PublishedKey> {
        (**self).verify_key(server, key_id)
    }
}

#[cfg(test)]
mod tests {
    use super::{KEY_LIFETIME_MAX_MS, PublishedKey};
    use crate::{id::KeyId, room_version::RoomVersion, signing::SigningKey};

    const NOW: i64 = 1_700_000_000_000;

    /// Checks whether a key counts, in room versions before 5 and from 5 on.
    fn check(valid_until_ts_ms: i64, expired_ts_ms: Option<i64>, origin_server_ts_ms: i64, expected: [bool; 2]) {
        let key = SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[1; 32]).verify_key();
        let key = PublishedKey { key, valid_until_ts_ms, expired_ts_ms };
        for version in RoomVersion::ALL {
            let counts = key.counts_at(origin_server_ts_ms, NOW, version.rules());
            assert_eq!(counts, expected[usize::from(version >= RoomVersion::V5)], "{version}: {key:?}");
        }
    }

    #[test]
    fn sc_004_key_must_be_valid_at_the_time_of_the_event() {
        check(NOW, None, NOW, [true, true]);
        check(NOW - 1, None, NOW, [true, false]);
        check(NOW, None, i64::MIN, [true, true]);
        check(NOW, Some(NOW - 10), NOW - 10, [true, true]);
        check(NOW, Some(NOW - 10), NOW - 9, [false, false]);
        check(0, Some(NOW), NOW, [true, true]);
    }

    #[test]
    fn sc_005_key_lifetime_is_capped() {
        let in_ten_years = NOW + 3650 * 86_400_000;
        check(in_ten_years, None, NOW + KEY_LIFETIME_MAX_MS, [true, true]);
        check(in_ten_years, None, NOW + KEY_LIFETIME_MAX_MS + 1, [true, false]);
        check(i64::MAX, None, i64::MAX, [true, false]);
    }
}
