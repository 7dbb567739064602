//! The format of an event: required fields, their types and limits.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::{AUTH_EVENTS_MAX, FIELD_LEN_MAX, PREV_EVENTS_MAX, PduError, content::read_content};
use crate::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, get_array, get_object, get_str},
    event::{Event, event_type},
    id::{EventId, InvalidId, RoomId, UserId},
    room_version::{EventIdFormat, RoomVersionRules},
    signing::{decode_base64, event_id_of_hash, room_id_of_create},
};

/// Reads the fields of an event; `signed_bytes` is its redacted form, of which the reference hash is made.
pub(super) fn read_event(
    object: &CanonicalJsonObject,
    signed_bytes: &[u8],
    rules: &RoomVersionRules,
) -> Result<Event, PduError> {
    let mut fields = Fields { object, rules, oversized: false };

    let event_id = fields.event_id(signed_bytes)?;
    let event_type = fields.string("type")?;
    let (room_id, carries_room_id) = fields.room_id(event_type, &event_id)?;
    let sender = UserId::parse(fields.string("sender")?).map_err(invalid_id("sender"))?;
    let state_key = fields.optional_string("state_key")?;
    let content = get_object(object, "content").ok_or(wrong_type("content", "an object"))?;
    get_object(object, "signatures").ok_or(wrong_type("signatures", "an object"))?;
    get_object(object, "hashes")
        .and_then(|hashes| decode_base64(get_str(hashes, "sha256")?))
        .ok_or(wrong_type("hashes", "an object with the base64 of a sha256"))?;
    let depth = fields.integer("depth")?;
    if depth < 0 {
        return Err(PduError::NegativeDepth);
    }

    Ok(Event {
        room_id,
        carries_room_id,
        sender,
        event_type: Arc::from(event_type),
        state_key: state_key.map(Arc::from),
        origin_server_ts_ms: fields.integer("origin_server_ts")?,
        depth,
        prev_events: fields.event_ids("prev_events")?,
        auth_events: fields.event_ids("auth_events")?,
        content: read_content(object, event_type, content, rules),
        oversized_field: fields.oversized,
        event_id,
    })
}

/// Checks that an event has no more prev and auth events than one that is made today may have.
pub(super) fn check_counts(event: &Event) -> Result<(), PduError> {
    for (field, count, count_max) in [
        ("prev_events", event.prev_events.len(), PREV_EVENTS_MAX),
        ("auth_events", event.auth_events.len(), AUTH_EVENTS_MAX),
    ] {
        if count > count_max {
            return Err(PduError::TooManyEntries { field, count });
        }
    }
    Ok(())
}

struct Fields<'a> {
    object: &'a CanonicalJsonObject,
    rules: &'a RoomVersionRules,
    /// A field is longer than the limit in bytes, in a room version that rejects it for that.
    oversized: bool,
}

impl<'a> Fields<'a> {
    /// Room versions 1 and 2: what the event carries. Later: computed, whatever it carries.
    fn event_id(&mut self, signed_bytes: &[u8]) -> Result<EventId, PduError> {
        if let Some(id) = event_id_of_hash(&Sha256::digest(signed_bytes).into(), self.rules.event_id_format) {
            return Ok(id);
        }
        let id = EventId::parse(self.string("event_id")?).map_err(invalid_id("event_id"))?;
        // The domain says whose signature is needed.
        if id.server_name().is_none() { Err(wrong_type("event_id", "an id with a domain")) } else { Ok(id) }
    }

    /// Returns the room id and whether the event carries it. Only a create event of room version 12 need not.
    fn room_id(&mut self, event_type: &str, event_id: &EventId) -> Result<(RoomId, bool), PduError> {
        let makes_room_id = self.rules.room_id_is_create_hash && event_type == event_type::CREATE;
        if makes_room_id && !self.object.contains_key("room_id") {
            return Ok((room_id_of_create(event_id).map_err(invalid_id("room_id"))?, false));
        }
        Ok((RoomId::parse(self.string("room_id")?).map_err(invalid_id("room_id"))?, true))
    }

    fn optional_string(&mut self, field: &'static str) -> Result<Option<&'a str>, PduError> {
        if self.object.contains_key(field) { self.string(field).map(Some) } else { Ok(None) }
    }

    /// Returns a string within the limits of length.
    ///
    /// Received events over 255 code points are dropped, as are those over 255 bytes from room version 11 on; before, the
    /// latter are rejected, since servers that counted code points took them for events.
    fn string(&mut self, field: &'static str) -> Result<&'a str, PduError> {
        let string = get_str(self.object, field).ok_or(wrong_type(field, "a string"))?;
        if string.len() > FIELD_LEN_MAX {
            if self.rules.strict_byte_limits || string.chars().count() > FIELD_LEN_MAX {
                return Err(PduError::FieldTooLong { field });
            }
            self.oversized = true;
        }
        Ok(string)
    }

    /// Returns an integer. In the room versions that do not bound integers, one beyond `i64` becomes the nearest `i64`.
    fn integer(&self, field: &'static str) -> Result<i64, PduError> {
        self.object.get(field).and_then(CanonicalJsonValue::as_i64_saturating).ok_or(wrong_type(field, "an integer"))
    }

    /// How many there are is bounded by the size of the event alone.
    fn event_ids(&self, field: &'static str) -> Result<Box<[EventId]>, PduError> {
        let entries = get_array(self.object, field).ok_or(wrong_type(field, "an array"))?;
        let carried = self.rules.event_id_format == EventIdFormat::Carried;
        let read = |entry: &CanonicalJsonValue| {
            let id = if carried { id_of_pair(entry) } else { entry.as_str() };
            let expected = if carried { "an array of pairs of event id and hashes" } else { "an array of event ids" };
            EventId::parse(id.ok_or(wrong_type(field, expected))?).map_err(invalid_id(field))
        };
        entries.iter().map(read).collect()
    }
}

/// Room versions 1 and 2 refer to an event by `[id, hashes]`. The hashes say nothing that is not known otherwise.
fn id_of_pair(entry: &CanonicalJsonValue) -> Option<&str> {
    match entry.as_array()? {
        [CanonicalJsonValue::String(id), CanonicalJsonValue::Object(_)] => Some(id),
        _ => None,
    }
}

fn wrong_type(field: &'static str, expected: &'static str) -> PduError {
    PduError::Field { field, expected }
}

fn invalid_id(field: &'static str) -> impl Fn(InvalidId) -> PduError {
    move |source| PduError::Id { field, source }
}
