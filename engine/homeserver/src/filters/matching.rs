//! Which events a filter lets through.

use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::filter::{Filter, RoomEventFilter, UrlFilter},
};
use serde_json::{Map, Value};

/// What the two kinds of filters of events have in common.
struct Parts<'f> {
    types: Option<&'f [String]>,
    not_types: &'f [String],
    senders: Option<&'f [OwnedUserId]>,
    not_senders: &'f [OwnedUserId],
}

/// Whether a filter of events outside of rooms lets one through.
pub(crate) fn passes(filter: &Filter, event: &Map<String, Value>) -> bool {
    let Filter { types, not_types, senders, not_senders, .. } = filter;
    let (types, senders) = (types.as_deref(), senders.as_deref());
    Parts { types, not_types, senders, not_senders }.let_through(event)
}

/// Whether a filter of events in rooms lets one of a room through.
pub(crate) fn passes_in_room(filter: &RoomEventFilter, room_id: &str, event: &Map<String, Value>) -> bool {
    let RoomEventFilter { types, not_types, senders, not_senders, rooms, not_rooms, url_filter, .. } = filter;
    let has_url = || event.get("content").and_then(|content| content.get("url")).is_some_and(Value::is_string);
    let has_right_url = match url_filter {
        Some(UrlFilter::EventsWithUrl) => has_url(),
        Some(UrlFilter::EventsWithoutUrl) => !has_url(),
        None => true,
    };
    let (types, senders) = (types.as_deref(), senders.as_deref());
    let parts = Parts { types, not_types, senders, not_senders };
    has_right_url && allows_room(rooms.as_deref(), not_rooms, room_id) && parts.let_through(event)
}

/// Whether a room is among those that are wanted, and not among those that are not: the latter win.
pub(crate) fn allows_room(rooms: Option<&[OwnedRoomId]>, not_rooms: &[OwnedRoomId], room_id: &str) -> bool {
    let is_it = |room: &OwnedRoomId| room.as_str() == room_id;
    rooms.is_none_or(|rooms| rooms.iter().any(is_it)) && !not_rooms.iter().any(is_it)
}

/// Whether a filter lets everything through.
pub(crate) fn is_open(filter: &RoomEventFilter) -> bool {
    let RoomEventFilter { types, not_types, senders, not_senders, rooms, not_rooms, url_filter, .. } = filter;
    let has_lists = types.is_some() || senders.is_some() || rooms.is_some() || url_filter.is_some();
    !has_lists && not_types.is_empty() && not_senders.is_empty() && not_rooms.is_empty()
}

impl Parts<'_> {
    fn let_through(&self, event: &Map<String, Value>) -> bool {
        let text = |field: &str| event.get(field).and_then(Value::as_str).unwrap_or_default();
        let (kind, sender) = (text("type"), text("sender"));
        let is_type = |pattern: &String| matches(pattern, kind);
        let is_sender = |user: &OwnedUserId| user.as_str() == sender;
        self.types.is_none_or(|types| types.iter().any(is_type))
            && !self.not_types.iter().any(is_type)
            && self.senders.is_none_or(|senders| senders.iter().any(is_sender))
            && !self.not_senders.iter().any(is_sender)
    }
}

/// "A '*' can be used as a wildcard to match any sequence of characters."
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        // The first place that fits leaves the most for the others.
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, expected) in [
            ("m.room.member", "m.room.member", true),
            ("m.room.member", "m.room.members", false),
            ("m.room.*", "m.room.member", true),
            ("m.room.*", "m.rooms", false),
            ("*", "", true),
            ("*.b*d", "a.b.c.d", true),
            ("*.b*d", "a.b.c", false),
            ("a*a", "a", false),
            ("", "a", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_filter_lets_through_what_it_says() {
        let event = json!({ "type": "m.room.message", "sender": "@a:b", "content": { "url": "mxc://a/b" } });
        let event = event.as_object().unwrap();
        for (filter, expected) in [
            (json!({}), true),
            (json!({ "types": [] }), false),
            (json!({ "types": ["m.room.*"] }), true),
            (json!({ "types": ["m.room.*"], "not_types": ["*message"] }), false),
            (json!({ "senders": ["@b:b"] }), false),
            (json!({ "senders": ["@a:b"], "not_senders": ["@a:b"] }), false),
            (json!({ "rooms": ["!r:b"] }), true),
            (json!({ "not_rooms": ["!r:b"] }), false),
            (json!({ "contains_url": true }), true),
            (json!({ "contains_url": false }), false),
        ] {
            let parsed: RoomEventFilter = serde_json::from_value(filter.clone()).unwrap();
            assert_eq!(passes_in_room(&parsed, "!r:b", event), expected, "{filter}");
            assert_eq!(is_open(&parsed), filter == json!({}));
        }
    }
}
