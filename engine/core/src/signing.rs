//! Hashes and signatures of JSON objects and events.
//!
//! Source: appendices, "Signing JSON"; server-server API, "Signing Events".
//!
//! # Why signatures are never checked in batches
//!
//! The batch equation of ed25519 accepts signatures that the strict check refuses: one whose R is the neutral point always, one
//! whose R has a part of small order with some probability that whoever made it can raise to certainty by trying. Whether an
//! event is valid would then depend on which events came with it, and servers would disagree. So each signature is checked
//! alone, strictly, as libsodium does: canonical encodings, no point of small order, the equation without cofactor.

use sha2::{Digest, Sha256};

use crate::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, write_object_without},
    id::{EventId, InvalidId, RoomId, ServerName},
    redaction::redacted_signed_bytes,
    room_version::{EventIdFormat, RoomVersionRules},
};

mod base64;
mod key;
mod key_ring;

pub(crate) use self::base64::{Base64Alphabet, decode_base64_array};
pub use self::{
    base64::{decode_base64, encode_base64, encode_base64_url_safe},
    key::{InvalidSignature, InvalidVerifyKey, SigningKey, VerifyKey},
    key_ring::{KEY_LIFETIME_MAX_MS, KeyRing, KeySource, PublishedKey},
};

/// Why an object could not be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SigningError {
    /// `signatures`, or the entry of the signing server in it, is not an object.
    #[error("signatures is not an object of objects")]
    MalformedSignatures,
}

/// Why an object is not signed with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSigned {
    /// There is no signature of this server with this key id.
    #[error("no signature of this server with this key id")]
    NoSignature,
    /// The signature is not the base64 of 64 bytes.
    #[error("the signature is not the base64 of 64 bytes")]
    MalformedSignature,
    /// The signature does not belong to the object and the key.
    #[error(transparent)]
    Invalid(#[from] InvalidSignature),
}

/// Signs an object: puts the signature of its canonical form without `signatures` and `unsigned` into `signatures`.
///
/// Signatures of others stay, as does `unsigned`.
///
/// # Errors
///
/// [`SigningError`]; the object is unchanged then.
pub fn sign_json(
    object: &mut CanonicalJsonObject,
    server_name: &ServerName,
    key: &SigningKey,
) -> Result<(), SigningError> {
    let bytes = signed_bytes(object);
    add_signature(object, server_name, key.key_id().as_str(), &key.sign(&bytes))
}

/// Checks the signature of an object by one key of a server ("Checking for a Signature").
///
/// # Errors
///
/// [`NotSigned`] says why not.
pub fn verify_json(
    object: &CanonicalJsonObject,
    server_name: &str,
    key_id: &str,
    key: &VerifyKey,
) -> Result<(), NotSigned> {
    let signature = signature(object, server_name, key_id)?;
    Ok(key.verify(&signed_bytes(object), &signature)?)
}

/// Checks the signature of an event, whole or redacted, by one key of a server ("Validating hashes and signatures on received events").
///
/// # Errors
///
/// [`NotSigned`] says why not.
pub fn verify_event(
    event: &CanonicalJsonObject,
    rules: &RoomVersionRules,
    server_name: &str,
    key_id: &str,
    key: &VerifyKey,
) -> Result<(), NotSigned> {
    let signature = signature(event, server_name, key_id)?;
    Ok(key.verify(&redacted_signed_bytes(event, &rules.redaction), &signature)?)
}

fn signature(object: &CanonicalJsonObject, server_name: &str, key_id: &str) -> Result<[u8; 64], NotSigned> {
    let signature = object
        .get("signatures")
        .and_then(|signatures| signatures.as_object()?.get(server_name)?.as_object()?.get(key_id)?.as_str())
        .ok_or(NotSigned::NoSignature)?;
    decode_base64_array(signature).ok_or(NotSigned::MalformedSignature)
}

/// Returns the bytes of an object that [`sign_json`] signs.
pub fn signed_bytes(object: &CanonicalJsonObject) -> Vec<u8> {
    write_object_without(object, &["signatures", "unsigned"])
}

/// Returns the content hash of an event ("Calculating the content hash for an event").
pub fn content_hash(event: &CanonicalJsonObject) -> [u8; 32] {
    Sha256::digest(write_object_without(event, &["hashes", "signatures", "unsigned"])).into()
}

/// Returns the reference hash of an event ("Calculating the reference hash for an event").
pub fn reference_hash(event: &CanonicalJsonObject, rules: &RoomVersionRules) -> [u8; 32] {
    Sha256::digest(redacted_signed_bytes(event, &rules.redaction)).into()
}

/// Returns the event id that a reference hash makes, `None` for the room versions whose events carry their id.
pub fn event_id_of_hash(reference_hash: &[u8; 32], format: EventIdFormat) -> Option<EventId> {
    let hash = match format {
        EventIdFormat::Carried => return None,
        EventIdFormat::ReferenceHash => encode_base64(reference_hash),
        EventIdFormat::UrlSafeReferenceHash => encode_base64_url_safe(reference_hash),
    };
    EventId::parse(&format!("${hash}")).ok()
}

/// Returns the id of the room of version 12 that a create event makes: its event id with `!` instead of `$`.
///
/// # Errors
///
/// None for an event id that was computed.
pub fn room_id_of_create(create_event_id: &EventId) -> Result<RoomId, InvalidId> {
    RoomId::parse(&format!("!{}", create_event_id.as_str().get(1..).unwrap_or_default()))
}

/// Returns the event with its content hash and the signature of a server ("Adding hashes and signatures to outgoing events").
///
/// An existing `hashes` is replaced. Signatures of others stay: they are valid as long as the hash did not change.
///
/// # Errors
///
/// [`SigningError`]
pub fn hash_and_sign_event(
    mut event: CanonicalJsonObject,
    rules: &RoomVersionRules,
    server_name: &ServerName,
    key: &SigningKey,
) -> Result<CanonicalJsonObject, SigningError> {
    let hash = CanonicalJsonValue::from(encode_base64(&content_hash(&event)));
    event.insert("hashes".into(), CanonicalJsonObject::from([("sha256".into(), hash)]).into());
    sign_event(&mut event, rules, server_name, key)?;
    Ok(event)
}

/// Adds the signature of a server to an event that has its hashes already, as a resident server does for a restricted join.
///
/// # Errors
///
/// [`SigningError`]; the event is unchanged then.
pub fn sign_event(
    event: &mut CanonicalJsonObject,
    rules: &RoomVersionRules,
    server_name: &ServerName,
    key: &SigningKey,
) -> Result<(), SigningError> {
    let signature = key.sign(&redacted_signed_bytes(event, &rules.redaction));
    add_signature(event, server_name, key.key_id().as_str(), &signature)
}

/// Puts a signature into `signatures`.
pub(crate) fn add_signature(
    object: &mut CanonicalJsonObject,
    server_name: &ServerName,
    key_id: &str,
    signature: &[u8; 64],
) -> Result<(), SigningError> {
    if let Some(signatures) = object.get("signatures") {
        let signatures = signatures.as_object().ok_or(SigningError::MalformedSignatures)?;
        if signatures.get(server_name.as_str()).is_some_and(|of_server| of_server.as_object().is_none()) {
            return Err(SigningError::MalformedSignatures);
        }
    }
    let empty = || CanonicalJsonValue::Object(CanonicalJsonObject::new());
    if let CanonicalJsonValue::Object(signatures) = object.entry("signatures".into()).or_insert_with(empty)
        && let CanonicalJsonValue::Object(of_server) =
            signatures.entry(server_name.as_str().into()).or_insert_with(empty)
    {
        of_server.insert(key_id.into(), encode_base64(signature).into());
    }
    Ok(())
}
