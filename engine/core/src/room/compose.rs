//! Events that are made here: what a user wants to say, put where the room stands.

use super::Room;
use crate::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, object_to_canonical_bytes},
    event::event_type,
    event_auth::auth_keys_for_event,
    graph::EventIndex,
    id::{EventId, RoomId, UserId},
    pdu::{PREV_EVENTS_MAX, ParsedPdu, PduError},
    room_version::{EventIdFormat, RoomVersionRules},
    signing::{content_hash, encode_base64},
};

/// What somebody wants to send.
#[derive(Clone, Debug)]
pub struct NewEvent<'a> {
    /// Who.
    pub sender: &'a UserId,
    /// Its type.
    pub event_type: &'a str,
    /// Its state key, if it is a state event.
    pub state_key: Option<&'a str>,
    /// Its content. That of a redaction need not name the event that is redacted.
    pub content: CanonicalJsonObject,
    /// The event that is redacted, of a redaction.
    pub redacts: Option<&'a EventId>,
    /// The time of day in milliseconds since 1970.
    pub origin_server_ts_ms: i64,
    /// The event id that it is to carry, in room versions 1 and 2; not looked at in others.
    pub event_id: &'a str,
}

impl Room {
    /// Returns an event that builds on the forward extremities (the 20 deepest, if there are more), authorized by the current state,
    /// without hashes and signatures: "Adding hashes and signatures to outgoing events" is for
    /// [`hash_and_sign_event`](crate::signing::hash_and_sign_event). Whether it is allowed is found out when it is
    /// [judged](Self::handle_pdu).
    ///
    /// Source: server-server API, "PDUs" and "Auth events selection".
    ///
    /// # Errors
    ///
    /// [`PduError`] when it would be no valid event: too large, an unknown sender's form, and so on.
    pub fn compose(&self, new: &NewEvent<'_>) -> Result<CanonicalJsonObject, PduError> {
        let mut prev_events: Vec<EventIndex> = self.forward_extremities.iter().copied().collect();
        prev_events.sort_by_key(|index| (std::cmp::Reverse(self.position(*index).depth), *index));
        prev_events.truncate(PREV_EVENTS_MAX);
        let depths = prev_events.iter().map(|index| self.position(*index).depth);
        let depth = depths.max().map_or(1, |depth| depth.saturating_add(1).min(DEPTH_MAX));
        let prev_events: Vec<EventId> = prev_events.into_iter().map(|index| self.graph.event_id(index)).collect();
        let mut event = compose(self.rules(), Some(&self.room_id), new, &prev_events, depth);
        let state = self.current_state();
        let decoded = decode(&event, self.rules())?;
        let auth_events: Vec<EventId> = auth_keys_for_event(self.rules(), decoded.event())
            .filter_map(|(event_type, state_key)| state.get(event_type, state_key))
            .collect();
        event.insert("auth_events".into(), references(self.rules(), &auth_events));
        // Its size counts with them.
        decode(&event, self.rules())?;
        Ok(event)
    }
}

/// Returns the create event of a room, without hashes and signatures. From version 12 on the room's id follows from it, and none is
/// to be given.
///
/// # Errors
///
/// [`PduError`] when it would be no valid event.
pub fn compose_create(
    rules: &RoomVersionRules,
    room_id: Option<&RoomId>,
    sender: &UserId,
    content: CanonicalJsonObject,
    origin_server_ts_ms: i64,
    event_id: &str,
) -> Result<CanonicalJsonObject, PduError> {
    let new = NewEvent {
        sender,
        event_type: event_type::CREATE,
        state_key: Some(""),
        content,
        redacts: None,
        origin_server_ts_ms,
        event_id,
    };
    let event = compose(rules, room_id.filter(|_| !rules.room_id_is_create_hash), &new, &[], 1);
    decode(&event, rules)?;
    Ok(event)
}

fn compose(
    rules: &RoomVersionRules,
    room_id: Option<&RoomId>,
    new: &NewEvent<'_>,
    prev_events: &[EventId],
    depth: i64,
) -> CanonicalJsonObject {
    let mut content = new.content.clone();
    let mut event = CanonicalJsonObject::new();
    if let Some(redacts) = new.redacts {
        let target = if rules.redacts_in_content { &mut content } else { &mut event };
        target.insert("redacts".into(), redacts.as_str().into());
    }
    event.insert("type".into(), new.event_type.into());
    event.insert("sender".into(), new.sender.as_str().into());
    event.insert("origin_server_ts".into(), CanonicalJsonValue::Integer(new.origin_server_ts_ms));
    event.insert("depth".into(), CanonicalJsonValue::Integer(depth));
    event.insert("content".into(), content.into());
    event.insert("prev_events".into(), references(rules, prev_events));
    event.insert("auth_events".into(), references(rules, &[]));
    if let Some(state_key) = new.state_key {
        event.insert("state_key".into(), state_key.into());
    }
    if let Some(room_id) = room_id {
        event.insert("room_id".into(), room_id.as_str().into());
    }
    if rules.event_id_format == EventIdFormat::Carried {
        event.insert("event_id".into(), new.event_id.into());
    }
    event
}

/// Event ids as `prev_events` and `auth_events` have them. In room versions 1 and 2 hashes go with them, which nobody checks; other
/// servers leave them empty where they don't know them, and so does Ravel.
fn references(rules: &RoomVersionRules, event_ids: &[EventId]) -> CanonicalJsonValue {
    let reference = |event_id: &EventId| -> CanonicalJsonValue {
        let id = CanonicalJsonValue::from(event_id.as_str());
        match rules.event_id_format {
            EventIdFormat::Carried => vec![id, CanonicalJsonObject::new().into()].into(),
            EventIdFormat::ReferenceHash | EventIdFormat::UrlSafeReferenceHash => id,
        }
    };
    event_ids.iter().map(reference).collect::<Vec<_>>().into()
}

/// Decodes an event that is not signed yet.
fn decode(event: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<ParsedPdu, PduError> {
    let mut event = event.clone();
    let hash = CanonicalJsonValue::from(encode_base64(&content_hash(&event)));
    event.insert("hashes".into(), CanonicalJsonObject::from([("sha256".into(), hash)]).into());
    event.insert("signatures".into(), CanonicalJsonObject::new().into());
    ParsedPdu::parse(&object_to_canonical_bytes(&event), rules)
}

/// The greatest depth that an event may give.
const DEPTH_MAX: i64 = (1 << 53) - 1;
