//! The life of an event on its way in, as types: bytes, [`ParsedPdu`] (format and size checked), [`VerifiedPdu`] (signatures
//! and content hash checked). What makes a judged event of it are the authorization rules.
//!
//! Source: server-server API, "Checks performed on receipt of a PDU", checks 1 to 3; "Event format" of each room version;
//! client-server API, "Size limits".

use std::sync::Arc;

use crate::{
    canonical_json::{self, CanonicalJsonObject, JsonMode, object_to_canonical_bytes},
    event::Event,
    id::EventId,
    redaction::{redact, redacted_signed_bytes},
    room_version::RoomVersionRules,
    signing::KeySource,
};

mod content;
mod error;
mod fields;
mod policy_server;
mod power_levels;
mod verify;

pub use self::{
    error::{PduError, SignatureError},
    policy_server::{POLICY_KEY_ID, PolicyServer},
};

/// The largest event, in bytes of canonical JSON with signatures.
///
/// Ravel counts the event without `unsigned`, which every server may change on the way: what is counted is the same wherever
/// the event is received. (Synapse counts what is left of `unsigned` after taking out most of its keys.)
pub const PDU_BYTES_MAX: usize = 65_536;

/// The most bytes that are looked at for one event: white space, escapes and `unsigned` come on top of [`PDU_BYTES_MAX`].
pub const PDU_INPUT_BYTES_MAX: usize = 1 << 20;

/// The most `prev_events` of an event.
pub const PREV_EVENTS_MAX: usize = 20;

/// The most `auth_events` of an event.
pub const AUTH_EVENTS_MAX: usize = 10;

/// The longest `type`, `state_key`, `sender`, `room_id` and `event_id`: in code points, and, depending on the room version, in
/// bytes.
pub const FIELD_LEN_MAX: usize = 255;

/// An event whose format and size are good; nothing is known yet about who made it.
#[derive(Clone, Debug)]
pub struct ParsedPdu {
    rules: RoomVersionRules,
    event: Event,
    object: CanonicalJsonObject,
    /// The canonical form of `object`.
    json: Vec<u8>,
    /// What was signed, and what the reference hash is made of: the redacted event without `signatures`.
    signed_bytes: Vec<u8>,
}

impl ParsedPdu {
    /// Reads an event in federation format.
    ///
    /// `unsigned` is dropped. A field `event_id` has no meaning from room version 3 on.
    ///
    /// # Errors
    ///
    /// [`PduError`]: the event is to be dropped, as if it had never come. Cost: O(length).
    pub fn parse(bytes: &[u8], rules: &RoomVersionRules) -> Result<Self, PduError> {
        let pdu = Self::parse_history(bytes, rules)?;
        fields::check_counts(&pdu.event)?;
        Ok(pdu)
    }

    /// As [`parse`](Self::parse), for an event of a room's past: some have more `prev_events` and `auth_events` than events may have
    /// today, and servers must not check the history they ask for against these limits.
    ///
    /// Source: server-server API, "GET /_matrix/federation/v1/backfill/{roomId}".
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_history(bytes: &[u8], rules: &RoomVersionRules) -> Result<Self, PduError> {
        if bytes.len() > PDU_INPUT_BYTES_MAX {
            return Err(PduError::TooLarge { bytes: bytes.len() });
        }
        Self::from_object(canonical_json::parse_event(bytes, json_mode(rules))?, rules)
    }

    /// Checks the format of an event that is at hand as an object without `unsigned`.
    fn from_object(object: CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Self, PduError> {
        let json = object_to_canonical_bytes(&object);
        if json.len() > PDU_BYTES_MAX {
            return Err(PduError::TooLarge { bytes: json.len() });
        }
        let signed_bytes = redacted_signed_bytes(&object, &rules.redaction);
        let event = fields::read_event(&object, &signed_bytes, rules)?;
        Ok(Self { rules: *rules, event, object, json, signed_bytes })
    }

    /// Returns the decoded fields.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Returns the event as JSON, without `unsigned`.
    pub fn json(&self) -> &CanonicalJsonObject {
        &self.object
    }

    /// Returns the servers and ids of the keys that [`ParsedPdu::verify`] may ask for, in order: the ed25519 signatures by the
    /// servers whose signature is needed.
    pub fn wanted_keys(&self) -> impl Iterator<Item = (&str, &str)> {
        verify::wanted_keys(self)
    }

    /// Checks signatures and content hash ("Validating hashes and signatures on received events").
    ///
    /// If the content hash does not match, the event goes on in its redacted form, under the same id. `now_ms` is the time of
    /// day in milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// [`SignatureError`]: the event is to be dropped. Cost: one ed25519 check for each signature of the needed servers.
    pub fn verify(self, keys: &impl KeySource, now_ms: i64) -> Result<VerifiedPdu, SignatureError> {
        verify::verify(self, keys, now_ms)
    }
}

/// Verifies many events: the same results, in the same order, as [`ParsedPdu::verify`] for each.
///
/// Signatures are not combined; why is said in [`crate::signing`].
pub fn verify_batch(
    pdus: Vec<ParsedPdu>,
    keys: &impl KeySource,
    now_ms: i64,
) -> Vec<Result<VerifiedPdu, SignatureError>> {
    pdus.into_iter().map(|pdu| pdu.verify(keys, now_ms)).collect()
}

/// An event that is what its server signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedPdu {
    rules: RoomVersionRules,
    event: Arc<Event>,
    json: Arc<[u8]>,
    content_hash_matched: bool,
    authorising_user_signed: Option<bool>,
}

impl VerifiedPdu {
    /// Makes a verified event of bytes of our own log and of what was found out when it was verified.
    ///
    /// `json` is what [`VerifiedPdu::json`] returned, or the redacted form of it. Signatures and content hash are not looked
    /// at; the event id comes out the same.
    ///
    /// # Errors
    ///
    /// [`PduError`]: the bytes are not such an event. Cost: O(length).
    pub fn restore(
        json: &[u8],
        rules: &RoomVersionRules,
        authorising_user_signed: Option<bool>,
        content_hash_matched: bool,
    ) -> Result<Self, PduError> {
        if json.len() > PDU_BYTES_MAX {
            return Err(PduError::TooLarge { bytes: json.len() });
        }
        let object = canonical_json::parse_canonical_event(json, json_mode(rules))?.ok_or(PduError::NotCanonical)?;
        let event = fields::read_event(&object, &redacted_signed_bytes(&object, &rules.redaction), rules)?;
        Ok(Self {
            rules: *rules,
            event: Arc::new(event),
            json: json.into(),
            content_hash_matched,
            authorising_user_signed,
        })
    }

    /// Returns the decoded fields.
    pub fn event(&self) -> &Arc<Event> {
        &self.event
    }

    /// Returns the event's id.
    pub fn event_id(&self) -> &EventId {
        &self.event.event_id
    }

    /// Returns the canonical JSON without `unsigned`; the redacted one if the content hash did not match.
    pub fn json(&self) -> &Arc<[u8]> {
        &self.json
    }

    /// Whether the content hash was the one that the event gives.
    pub fn content_hash_matched(&self) -> bool {
        self.content_hash_matched
    }

    /// Whether the server of `join_authorised_via_users_server` signed the event validly; `None` if a member event does not
    /// have this key, for other events, and for room versions without restricted joins.
    pub fn authorising_user_signed(&self) -> Option<bool> {
        self.authorising_user_signed
    }

    /// Returns the canonical JSON that is left after a redaction.
    ///
    /// # Errors
    ///
    /// None for an event that was parsed; the type system cannot know. Cost: O(length).
    pub fn redacted_json(&self) -> Result<Vec<u8>, PduError> {
        Ok(object_to_canonical_bytes(&self.redacted_object()?))
    }

    /// Returns the decoded fields after a redaction. The id stays the same.
    ///
    /// # Errors
    ///
    /// As [`VerifiedPdu::redacted_json`].
    pub fn redacted_event(&self) -> Result<Event, PduError> {
        Ok(ParsedPdu::from_object(self.redacted_object()?, &self.rules)?.event)
    }

    fn redacted_object(&self) -> Result<CanonicalJsonObject, PduError> {
        Ok(redact(self.object()?, &self.rules.redaction))
    }

    fn object(&self) -> Result<CanonicalJsonObject, PduError> {
        Ok(canonical_json::parse_event(&self.json, json_mode(&self.rules))?)
    }
}

fn json_mode(rules: &RoomVersionRules) -> JsonMode {
    if rules.strict_canonical_json { JsonMode::Strict } else { JsonMode::ByteExact }
}

#[cfg(test)]
mod tests;
