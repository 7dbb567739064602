//! The redaction algorithm, for every room version.
//!
//! Source: "Redactions" of each room version. What differs between versions is data ([`RedactionRules`]).

use crate::{
    canonical_json::{self, CanonicalJsonObject, CanonicalJsonValue, get_str},
    event::event_type,
    room_version::RedactionRules,
};

/// Returns the event with everything stripped off that redaction does not keep.
///
/// `unsigned` is gone as well. A `content` that is no object becomes an empty one. Cost: O(number of keys).
pub fn redact(object: CanonicalJsonObject, rules: &RedactionRules) -> CanonicalJsonObject {
    let event_type: Box<str> = get_str(&object, "type").unwrap_or_default().into();
    let mut redacted = object;
    redacted.retain(|key, _| keeps_top_level(key, rules));
    if let Some(content) = redacted.get_mut("content") {
        match content {
            CanonicalJsonValue::Object(content) => redact_content(content, &event_type, rules),
            other => *other = CanonicalJsonValue::Object(CanonicalJsonObject::new()),
        }
    }
    redacted
}

/// Returns the canonical form of the redacted event without `signatures` and `unsigned`: the bytes that are signed, and whose
/// hash is the reference hash.
///
/// The same as [`redact`] and writing what comes out, but nothing is copied. Cost: O(length of what is kept).
pub(crate) fn redacted_signed_bytes(object: &CanonicalJsonObject, rules: &RedactionRules) -> Vec<u8> {
    let event_type = get_str(object, "type").unwrap_or_default();
    let mut out = Vec::with_capacity(1024);
    write_members(&mut out, object, |key, value, out| {
        if key == "signatures" || !keeps_top_level(key, rules) {
            return false;
        }
        start_member(key, out);
        match value {
            CanonicalJsonValue::Object(content) if key == "content" => write_content(content, event_type, rules, out),
            _ if key == "content" => out.extend_from_slice(b"{}"),
            _ => canonical_json::write_value(value, out),
        }
        true
    });
    out
}

/// What becomes of a key of `content`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    No,
    Whole,
    /// Only `signed` of the object; a value that is no object goes. An object without `signed` stays, empty, as deployed servers
    /// have it.
    OnlySigned,
}

fn keeps_top_level(key: &str, rules: &RedactionRules) -> bool {
    match key {
        "event_id" | "type" | "room_id" | "sender" | "state_key" | "content" | "hashes" | "signatures" | "depth"
        | "prev_events" | "auth_events" | "origin_server_ts" => true,
        "prev_state" | "origin" | "membership" => rules.keeps_legacy_top_level,
        _ => false,
    }
}

fn keeps_content(event_type: &str, key: &str, rules: &RedactionRules) -> Kept {
    let whole = match (event_type, key) {
        (event_type::MEMBER, "membership") => true,
        (event_type::MEMBER, "join_authorised_via_users_server") => rules.keeps_authorising_user,
        (event_type::MEMBER, "third_party_invite") if rules.keeps_third_party_invite_signed => return Kept::OnlySigned,
        (event_type::CREATE, "creator") => true,
        (event_type::CREATE, _) => rules.keeps_whole_create,
        (event_type::JOIN_RULES, "join_rule") => true,
        (event_type::JOIN_RULES, "allow") => rules.keeps_join_rule_allow,
        (
            event_type::POWER_LEVELS,
            "ban" | "events" | "events_default" | "kick" | "redact" | "state_default" | "users" | "users_default",
        ) => true,
        (event_type::POWER_LEVELS, "invite") => rules.keeps_invite_level,
        (event_type::ALIASES, "aliases") => rules.keeps_aliases,
        (event_type::HISTORY_VISIBILITY, "history_visibility") => true,
        (event_type::REDACTION, "redacts") => rules.keeps_redacts,
        _ => false,
    };
    if whole { Kept::Whole } else { Kept::No }
}

fn redact_content(content: &mut CanonicalJsonObject, event_type: &str, rules: &RedactionRules) {
    content.retain(|key, value| match (keeps_content(event_type, key, rules), value) {
        (Kept::No, _) => false,
        (Kept::Whole, _) => true,
        (Kept::OnlySigned, CanonicalJsonValue::Object(invite)) => {
            invite.retain(|key, _| **key == *"signed");
            true
        }
        (Kept::OnlySigned, _) => false,
    });
}

fn write_content(content: &CanonicalJsonObject, event_type: &str, rules: &RedactionRules, out: &mut Vec<u8>) {
    write_members(out, content, |key, value, out| match (keeps_content(event_type, key, rules), value) {
        (Kept::Whole, _) => {
            start_member(key, out);
            canonical_json::write_value(value, out);
            true
        }
        (Kept::OnlySigned, CanonicalJsonValue::Object(invite)) => {
            start_member(key, out);
            write_members(out, invite, |key, value, out| {
                let keeps = key == "signed";
                if keeps {
                    start_member(key, out);
                    canonical_json::write_value(value, out);
                }
                keeps
            });
            true
        }
        (Kept::No | Kept::OnlySigned, _) => false,
    });
}

fn start_member(key: &str, out: &mut Vec<u8>) {
    canonical_json::write_string(key, out);
    out.push(b':');
}

/// Writes an object whose members `write` writes, or not and then says so.
fn write_members(
    out: &mut Vec<u8>,
    object: &CanonicalJsonObject,
    mut write: impl FnMut(&str, &CanonicalJsonValue, &mut Vec<u8>) -> bool,
) {
    out.push(b'{');
    for (key, value) in object {
        if write(key, value, out) {
            out.push(b',');
        }
    }
    match out.last_mut() {
        Some(last) if *last == b',' => *last = b'}',
        _ => out.push(b'}'),
    }
}

#[cfg(test)]
mod tests {
    use super::{redact, redacted_signed_bytes};
    use crate::{
        canonical_json::{JsonMode, object_to_canonical_bytes, parse_object},
        room_version::RoomVersion,
    };

    /// Checks the canonical form of the redacted event, both when it is made and when it is only written.
    fn check(version: RoomVersion, event: &str, expected: &str) {
        let object = parse_object(event.as_bytes(), JsonMode::Lenient).unwrap();
        let rules = &version.rules().redaction;
        let mut redacted = redact(object.clone(), rules);
        assert_eq!(String::from_utf8(object_to_canonical_bytes(&redacted)).unwrap(), expected, "{version}: {event}");
        redacted.remove("signatures");
        assert_eq!(redacted_signed_bytes(&object, rules), object_to_canonical_bytes(&redacted), "{version}: {event}");
    }

    #[test]
    fn odd_content_is_stripped_without_trouble() {
        for version in RoomVersion::ALL {
            check(version, "{}", "{}");
            check(version, r#"{"x":1}"#, "{}");
            check(version, r#"{"content":[1],"type":7}"#, r#"{"content":{},"type":7}"#);
            check(version, r#"{"content":{"creator":1}}"#, r#"{"content":{}}"#);
            check(version, r#"{"content":{},"signatures":{},"unsigned":{}}"#, r#"{"content":{},"signatures":{}}"#);
        }
    }

    #[test]
    fn third_party_invite_keeps_only_signed_from_version_11() {
        let event = |invite: &str| {
            format!(r#"{{"content":{{"membership":"invite","third_party_invite":{invite}}},"type":"m.room.member"}}"#)
        };
        let none = r#"{"content":{"membership":"invite"},"type":"m.room.member"}"#;
        check(RoomVersion::V11, &event(r#"{"a":1,"signed":{"b":2},"z":1}"#), &event(r#"{"signed":{"b":2}}"#));
        check(RoomVersion::V11, &event(r#"{"a":1}"#), &event("{}"));
        check(RoomVersion::V11, &event("7"), none);
        check(RoomVersion::V10, &event(r#"{"signed":{}}"#), none);
    }

    #[test]
    fn create_keeps_all_from_version_11() {
        let event = r#"{"content":{"a":{"b":1},"creator":"x"},"type":"m.room.create"}"#;
        check(RoomVersion::V11, event, event);
        check(RoomVersion::V10, event, r#"{"content":{"creator":"x"},"type":"m.room.create"}"#);
    }
}
