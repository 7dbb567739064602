//! Reading `m.room.power_levels`.
//!
//! Source: rules 10.1 to 10.3 of room version 12 and their older forms; "Deprecated event content schemas" of room version 1.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue},
    event::{InvalidPowerLevels, NamedLevel, PowerLevels},
    id::UserId,
    room_version::{PowerLevelFormat, RoomVersionRules},
};

/// Reads the levels that are there.
pub(super) fn read_power_levels(
    content: &CanonicalJsonObject,
    rules: &RoomVersionRules,
) -> Result<PowerLevels, InvalidPowerLevels> {
    let format = rules.power_level_format;
    let mut named = BTreeMap::new();
    for level in NamedLevel::ALL {
        if let Some(value) = content.get(level.as_str()) {
            named.insert(level, read_level(value, format).ok_or(InvalidPowerLevels::NotAnInteger(level))?);
        }
    }
    let users = read_map(content, "users", format)?;
    if let Some(user) = users.keys().find(|user| UserId::parse(user).is_err()) {
        return Err(InvalidPowerLevels::NotAUserId((&**user).into()));
    }
    let notifications = match read_map(content, "notifications", format) {
        Ok(notifications) => notifications,
        // No rule of these versions looks at notifications, so they cannot make the event invalid.
        Err(_) if !rules.limit_notifications_power_levels => BTreeMap::new(),
        Err(invalid) => return Err(invalid),
    };
    Ok(PowerLevels { named, users, events: read_map(content, "events", format)?, notifications })
}

fn read_map(
    content: &CanonicalJsonObject,
    map: &'static str,
    format: PowerLevelFormat,
) -> Result<BTreeMap<Arc<str>, i64>, InvalidPowerLevels> {
    let Some(value) = content.get(map) else { return Ok(BTreeMap::new()) };
    let entries = value.as_object().ok_or(InvalidPowerLevels::NotAnObject(map))?;
    let mut levels = BTreeMap::new();
    for (key, value) in entries {
        let level =
            read_level(value, format).ok_or_else(|| InvalidPowerLevels::EntryNotAnInteger { map, key: key.clone() })?;
        levels.insert(Arc::from(&**key), level);
    }
    Ok(levels)
}

/// Reads one level in a spelling of the room version. What is beyond `i64` becomes the nearest `i64`.
fn read_level(value: &CanonicalJsonValue, format: PowerLevelFormat) -> Option<i64> {
    match (format, value) {
        (PowerLevelFormat::Integer, _) => value.as_i64(),
        (_, CanonicalJsonValue::String(string)) => integer_of_string(string),
        (PowerLevelFormat::IntegerOrString, _) => value.as_i64(),
        (PowerLevelFormat::IntegerStringOrFloat, CanonicalJsonValue::Number(token)) => {
            value.as_i64_saturating().or_else(|| truncated_float(token))
        }
        (PowerLevelFormat::IntegerStringOrFloat, _) => value.as_i64(),
    }
}

/// "a single base 10 integer, no float values or decimal points, optionally with any number of leading zeroes", "optionally
/// prefixed with a single `-` or `+`", "optionally with any number of leading or trailing whitespace characters".
fn integer_of_string(string: &str) -> Option<i64> {
    let trimmed = string.trim();
    let digits = trimmed.strip_prefix(['+', '-']).unwrap_or(trimmed);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Nothing but digits is left, so only the range can make this fail.
    Some(trimmed.parse().unwrap_or(if trimmed.starts_with('-') { i64::MIN } else { i64::MAX }))
}

/// "the value is truncated at the decimal point"; "Values outside the range represented by IEE754 binary64" are refused.
fn truncated_float(token: &str) -> Option<i64> {
    // Reading a decimal is exactly defined (the nearest double), and so is the cast, which truncates and saturates.
    token.parse::<f64>().ok().filter(|float| float.is_finite()).map(|float| float as i64)
}

#[cfg(test)]
mod tests {
    use super::read_power_levels;
    use crate::{
        canonical_json::{JsonMode, parse_object},
        event::{InvalidPowerLevels, NamedLevel},
        room_version::RoomVersion::{self, V1, V5, V6, V9, V10, V12},
    };

    fn read(version: RoomVersion, content: &str) -> Result<crate::event::PowerLevels, InvalidPowerLevels> {
        read_power_levels(&parse_object(content.as_bytes(), JsonMode::ByteExact).unwrap(), version.rules())
    }

    /// Checks how a level is read at the top and in each map.
    fn check(versions: &[RoomVersion], level: &str, expected: Option<i64>) {
        for version in versions {
            let named = read(*version, &format!(r#"{{"events_default":{level}}}"#));
            assert_eq!(named.map(|levels| levels.named(NamedLevel::EventsDefault)).ok(), expected, "{version} {level}");
            let user = read(*version, &format!(r#"{{"users":{{"@a:b":{level}}}}}"#));
            assert_eq!(user.map(|levels| levels.user("@a:b")).ok(), expected, "{version} {level}");
            let event = read(*version, &format!(r#"{{"events":{{"x":{level}}}}}"#));
            assert_eq!(event.map(|levels| levels.events["x"]).ok(), expected, "{version} {level}");
        }
    }

    #[test]
    fn sc_035_spellings_of_a_level_by_room_version() {
        check(&RoomVersion::ALL, "50", Some(50));
        check(&RoomVersion::ALL, "-50", Some(-50));
        check(&[V1, V5, V6, V9], "\"50\"", Some(50));
        check(&[V10, V12], "\"50\"", None);
        check(&[V1, V5], "50.99", Some(50));
        check(&[V1, V5], "-50.99", Some(-50));
        check(&[V1, V5], "-0", Some(0));
        check(&[V1, V5], "1e2", Some(100));
        check(&[V6, V9, V10, V12], "50.0", None);
        check(&[V1, V5], "1e400", None);
        check(&[V1, V5], "-1e400", None);
        check(&[V1, V5], "1e300", Some(i64::MAX));
        check(&[V1, V5], "99999999999999999999", Some(i64::MAX));
        check(&[V1, V9], "\"-99999999999999999999\"", Some(i64::MIN));
        check(&[V1, V9], "\"\u{2003}+7\\n\"", Some(7));
        for bad in
            ["null", "true", "[]", "{}", "\"\"", "\" \"", "\"+\"", "\"1 2\"", "\"0x1\"", "\"1_0\"", "\"\u{664}\""]
        {
            check(&RoomVersion::ALL, bad, None);
        }
    }

    #[test]
    fn sc_051_malformed_maps_are_an_error_with_its_name() {
        for version in RoomVersion::ALL {
            assert_eq!(read(version, r#"{"users":[]}"#), Err(InvalidPowerLevels::NotAnObject("users")));
            assert_eq!(read(version, r#"{"events":null}"#), Err(InvalidPowerLevels::NotAnObject("events")));
            assert_eq!(read(version, r#"{"users":{"a":1}}"#), Err(InvalidPowerLevels::NotAUserId("a".into())));
        }
        let bad = Err(InvalidPowerLevels::EntryNotAnInteger { map: "notifications", key: "room".into() });
        assert_eq!(read(V6, r#"{"notifications":{"room":null}}"#), bad);
        assert!(read(V5, r#"{"notifications":{"room":null}}"#).unwrap().notifications.is_empty());
        assert_eq!(read(V5, r#"{"notifications":{"room":"7"}}"#).unwrap().notifications["room"], 7);
    }
}
