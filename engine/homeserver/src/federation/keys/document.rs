//! What a server has published about its keys: checked, or not believed.

use std::collections::BTreeMap;

use ravel_core::{
    canonical_json::{CanonicalJsonObject, get_i64, get_object, get_str},
    id::{KeyId, ServerName},
    signing::{KEY_LIFETIME_MAX_MS, NotSigned, PublishedKey, VerifyKey, verify_json},
};

/// The keys that a server has published in one document, which it has signed.
#[derive(Clone, Debug)]
pub(crate) struct KeyDocument {
    pub(crate) server: ServerName,
    /// `valid_until_ts` as published, in milliseconds since 1970.
    pub(crate) valid_until_ts_ms: i64,
    /// The keys of now and of the past, with their times bounded.
    pub(crate) keys: BTreeMap<KeyId, PublishedKey>,
    /// The document with all signatures.
    pub(crate) object: CanonicalJsonObject,
}

/// Why a document is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeyDocumentError {
    #[error("{0} is missing or of the wrong type")]
    Field(&'static str),
    #[error("it is about {0:?}")]
    OtherServer(Box<str>),
    #[error("too many keys")]
    TooManyKeys,
    #[error("no key that it publishes has signed it")]
    NotSigned,
    #[error("the signature with {key_id} is wrong")]
    WrongSignature { key_id: KeyId },
}

/// How many keys a document may have.
const KEYS_MAX: usize = 128;

impl KeyDocument {
    /// Checks a document about a server ("Publishing Keys"): it must be signed with at least one of its `verify_keys`, and wrongly
    /// with none of them.
    ///
    /// `valid_until_ts` counts for seven days at most, an `expired_ts` in the future as now. Keys that are no ed25519 keys are left
    /// out.
    pub(crate) fn check(
        object: CanonicalJsonObject,
        server: &ServerName,
        now_ms: i64,
    ) -> Result<Self, KeyDocumentError> {
        let named = get_str(&object, "server_name").ok_or(KeyDocumentError::Field("server_name"))?;
        if named != server.as_str() {
            return Err(KeyDocumentError::OtherServer(named.into()));
        }
        let valid_until_ts_ms = get_i64(&object, "valid_until_ts").ok_or(KeyDocumentError::Field("valid_until_ts"))?;
        let current = get_object(&object, "verify_keys").ok_or(KeyDocumentError::Field("verify_keys"))?;
        let nothing = CanonicalJsonObject::new();
        let old = get_object(&object, "old_verify_keys").unwrap_or(&nothing);
        if current.len() + old.len() > KEYS_MAX {
            return Err(KeyDocumentError::TooManyKeys);
        }

        let bounded_ms = valid_until_ts_ms.min(now_ms.saturating_add(KEY_LIFETIME_MAX_MS));
        let mut keys = BTreeMap::new();
        for (key_id, key, expired_ts_ms) in ed25519_keys(old) {
            // Without a time of expiry an old key is good for nothing.
            let Some(expired_ts_ms) = expired_ts_ms else { continue };
            let expired_ts_ms = Some(expired_ts_ms.min(now_ms));
            keys.insert(key_id, PublishedKey { key, valid_until_ts_ms: bounded_ms, expired_ts_ms });
        }
        let mut is_signed = false;
        for (key_id, key, _) in ed25519_keys(current) {
            match verify_json(&object, server.as_str(), key_id.as_str(), &key) {
                Ok(()) => is_signed = true,
                Err(NotSigned::NoSignature) => {}
                Err(_) => return Err(KeyDocumentError::WrongSignature { key_id }),
            }
            keys.insert(key_id, PublishedKey { key, valid_until_ts_ms: bounded_ms, expired_ts_ms: None });
        }
        if is_signed {
            Ok(Self { server: server.clone(), valid_until_ts_ms, keys, object })
        } else {
            Err(KeyDocumentError::NotSigned)
        }
    }
}

/// Returns what is stored after a key was published anew; `None` if that is what is stored already.
///
/// - A key never takes the id of another one that is still valid, or that has been retired properly: what it has signed could not be
///   checked any more (SC-007).
/// - A document that is older than what is known changes nothing, and one that came by way of a notary never revives an expired
///   key: it may be an old one.
pub(crate) fn merged(
    stored: Option<&PublishedKey>,
    published: &PublishedKey,
    is_from_server: bool,
    now_ms: i64,
) -> Option<PublishedKey> {
    let Some(stored) = stored else { return Some(*published) };
    if is_conflict(stored, published, now_ms) {
        return None;
    }
    let is_older = stored.key == published.key && published.valid_until_ts_ms < stored.valid_until_ts_ms;
    let would_revive = stored.expired_ts_ms.is_some() && published.expired_ts_ms.is_none() && !is_from_server;
    let is_retirement_kept = match (stored.expired_ts_ms, published.expired_ts_ms) {
        // The first time that was given counts; a document now says the same with the time of now if that was in the future.
        (Some(first), Some(again)) => first <= again,
        _ => false,
    };
    if is_older || would_revive || is_retirement_kept || stored == published { None } else { Some(*published) }
}

/// Whether a published key would take the id of another one that is to stay.
pub(crate) fn is_conflict(stored: &PublishedKey, published: &PublishedKey, now_ms: i64) -> bool {
    stored.key != published.key && (stored.expired_ts_ms.is_some() || stored.valid_until_ts_ms >= now_ms)
}

/// Returns the ed25519 keys among published ones, each with its `expired_ts`.
fn ed25519_keys(keys: &CanonicalJsonObject) -> impl Iterator<Item = (KeyId, VerifyKey, Option<i64>)> {
    keys.iter().filter_map(|(key_id, key)| {
        let key_id = KeyId::parse(key_id).ok().filter(|key_id| key_id.algorithm() == "ed25519")?;
        let key = key.as_object()?;
        Some((key_id, VerifyKey::from_base64(get_str(key, "key")?).ok()?, get_i64(key, "expired_ts")))
    })
}

#[cfg(test)]
mod tests {
    use ravel_core::{
        canonical_json::{JsonMode, parse_object},
        signing::{SigningKey, encode_base64, sign_json},
    };

    use super::*;

    const NOW: i64 = 1_700_000_000_000;
    const DAY: i64 = 86_400_000;

    fn key(id: &str, seed: u8) -> SigningKey {
        SigningKey::from_seed(KeyId::parse(id).unwrap(), &[seed; 32])
    }

    /// Checks a document in which `KEYn` stands for the key of seed n, signed by keys of seeds (with id `ed25519:n`); the result is
    /// the keys with their times in days from now, or the error.
    fn check(document: &str, signers: &[u8], expected: &str) {
        let mut document = document.replace("NOW", &NOW.to_string());
        for seed in 1..5 {
            document =
                document.replace(&format!("KEY{seed}"), &encode_base64(key("a:b", seed).verify_key().as_bytes()));
        }
        let mut object = parse_object(document.as_bytes(), JsonMode::Lenient).unwrap();
        for seed in signers {
            let key = key(&format!("ed25519:{seed}"), *seed);
            sign_json(&mut object, &ServerName::parse("a").unwrap(), &key).unwrap();
        }
        let found = match KeyDocument::check(object, &ServerName::parse("a").unwrap(), NOW) {
            Ok(document) => {
                let keys = document.keys.iter().map(|(key_id, key)| {
                    let expired = key.expired_ts_ms.map(|ts_ms| format!("-{}", (ts_ms - NOW) / DAY));
                    format!("{key_id} {}{} ", (key.valid_until_ts_ms - NOW) / DAY, expired.unwrap_or_default())
                });
                keys.collect::<String>().trim_end().to_owned()
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(found, expected, "{document}");
    }

    #[test]
    fn keys_are_read() {
        let current = r#""verify_keys": {"ed25519:1": {"key": "KEY1"}}"#;
        let document =
            |more: &str| format!(r#"{{"server_name": "a", "valid_until_ts": 1700086400000, {current}{more}}}"#);
        check(&document(""), &[1], "ed25519:1 1");
        check(
            &document(r#", "old_verify_keys": {"ed25519:2": {"key": "KEY2", "expired_ts": 1699913600000}}"#),
            &[1],
            "ed25519:1 1 ed25519:2 1--1",
        );
        check(
            &document(r#", "old_verify_keys": {"ed25519:2": {"key": "KEY2", "expired_ts": 1800000000000}}"#),
            &[1],
            "ed25519:1 1 ed25519:2 1-0",
        );
        check(&document(r#", "old_verify_keys": {"ed25519:2": {"key": "KEY2"}}"#), &[1], "ed25519:1 1");
        check(
            &document(r#", "old_verify_keys": {"curve:2": {"key": "KEY2", "expired_ts": 5}, "ed25519:3": "x"}"#),
            &[1],
            "ed25519:1 1",
        );
        // Signatures by old or unknown keys are not looked at.
        check(
            &document(r#", "old_verify_keys": {"ed25519:2": {"key": "KEY2", "expired_ts": NOW}}"#),
            &[1, 2, 3],
            "ed25519:1 1 ed25519:2 1-0",
        );
    }

    #[test]
    fn sc_005_sc_006_documents_have_to_be_signed_and_bounded() {
        let ten_years =
            r#"{"server_name": "a", "valid_until_ts": 2015360000000, "verify_keys": {"ed25519:1": {"key": "KEY1"}}}"#;
        check(ten_years, &[1], "ed25519:1 7");
        check(ten_years, &[], "no key that it publishes has signed it");
        check(ten_years, &[2], "no key that it publishes has signed it");
        let wrong = ten_years.replace("KEY1", "KEY2");
        check(&wrong, &[1], "the signature with ed25519:1 is wrong");
        let two = ten_years.replace(r#""KEY1"}"#, r#""KEY1"}, "ed25519:2": {"key": "KEY2"}"#);
        check(&two, &[1], "ed25519:1 7 ed25519:2 7");
        check(&two.replace("KEY2", "KEY3"), &[1, 2], "the signature with ed25519:2 is wrong");
    }

    #[test]
    fn what_is_no_document_is_refused() {
        check(r#"{"server_name": "b", "valid_until_ts": 5, "verify_keys": {}}"#, &[], "it is about \"b\"");
        check(r#"{"valid_until_ts": 5, "verify_keys": {}}"#, &[], "server_name is missing or of the wrong type");
        check(r#"{"server_name": "a", "verify_keys": {}}"#, &[], "valid_until_ts is missing or of the wrong type");
        check(
            r#"{"server_name": "a", "valid_until_ts": "5", "verify_keys": {}}"#,
            &[],
            "valid_until_ts is missing or of the wrong type",
        );
        check(r#"{"server_name": "a", "valid_until_ts": 5}"#, &[], "verify_keys is missing or of the wrong type");
        check(
            r#"{"server_name": "a", "valid_until_ts": 5, "verify_keys": {}}"#,
            &[],
            "no key that it publishes has signed it",
        );
        let many: Vec<_> = (0..129).map(|number| format!(r#""ed25519:{number}": {{"key": "KEY1"}}"#)).collect();
        let many = format!(r#"{{"server_name": "a", "valid_until_ts": 5, "verify_keys": {{{}}}}}"#, many.join(","));
        check(&many, &[1], "too many keys");
    }

    /// Checks what becomes of a stored key: seeds, days of validity and expiry from now.
    fn check_merged(stored: (u8, i64, Option<i64>), published: (u8, i64, Option<i64>), expected: [bool; 2]) {
        let published_key = |(seed, valid, expired): (u8, i64, Option<i64>)| PublishedKey {
            key: key("a:b", seed).verify_key(),
            valid_until_ts_ms: NOW + valid * DAY,
            expired_ts_ms: expired.map(|days| NOW + days * DAY),
        };
        let (stored, published) = (published_key(stored), published_key(published));
        for (is_from_server, expected) in [true, false].into_iter().zip(expected) {
            let merged = merged(Some(&stored), &published, is_from_server, NOW);
            assert_eq!(merged, expected.then_some(published), "{stored:?} {published:?} {is_from_server}");
        }
    }

    #[test]
    fn sc_007_a_valid_key_stays() {
        check_merged((1, 1, None), (2, 7, None), [false; 2]);
        check_merged((1, 0, None), (2, 7, None), [false; 2]);
        check_merged((1, -1, None), (2, 7, None), [true; 2]);
        check_merged((1, -9, Some(-9)), (2, 7, None), [false; 2]);
        check_merged((1, 1, None), (2, 7, Some(0)), [false; 2]);
    }

    #[test]
    fn newer_documents_count() {
        check_merged((1, 1, None), (1, 2, None), [true; 2]);
        check_merged((1, 2, None), (1, 2, None), [false; 2]);
        check_merged((1, 2, None), (1, 1, None), [false; 2]);
        check_merged((1, 1, None), (1, 2, Some(0)), [true; 2]);
        check_merged((1, 1, Some(0)), (1, 2, None), [true, false]);
        check_merged((1, 1, Some(-5)), (1, 2, Some(0)), [false; 2]);
        check_merged((1, 1, Some(-5)), (1, 2, Some(-6)), [true; 2]);
    }
}
