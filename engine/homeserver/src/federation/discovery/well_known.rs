//! What the answer to `/.well-known/matrix/server` says, and for how long. No input or output.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{
    HeaderMap, Response, StatusCode,
    header::{CACHE_CONTROL, DATE, EXPIRES},
};
use ravel_core::id::ServerName;

/// How long an answer may be.
pub(crate) const WELL_KNOWN_BYTES_MAX: usize = 50 << 10;

/// How long an answer counts that does not say it.
const DEFAULT_CACHE_MS: i64 = 24 * HOUR_MS;

/// How long an answer counts at most.
pub(crate) const CACHE_MS_MAX: i64 = 48 * HOUR_MS;

/// How long an answer counts at least: a server must not make us ask before every request.
pub(crate) const CACHE_MS_MIN: i64 = 5 * 60 * 1000;

/// How long a failure counts at most.
pub(crate) const FAILURE_CACHE_MS_MAX: i64 = HOUR_MS;

const HOUR_MS: i64 = 60 * 60 * 1000;

/// Why an answer delegates to nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoDelegation {
    #[error("the status is {0}")]
    Status(StatusCode),
    #[error("it is no JSON object with a string m.server")]
    NotJson,
    #[error("m.server is not a server name")]
    NotAServerName,
}

/// Returns the name that an answer delegates to.
pub(crate) fn delegated_name(answer: &Response<Bytes>) -> Result<ServerName, NoDelegation> {
    if answer.status() != StatusCode::OK {
        return Err(NoDelegation::Status(answer.status()));
    }
    let well_known: serde_json::Value = serde_json::from_slice(answer.body()).map_err(|_| NoDelegation::NotJson)?;
    let server = well_known.get("m.server").and_then(serde_json::Value::as_str).ok_or(NoDelegation::NotJson)?;
    ServerName::parse(server).map_err(|_| NoDelegation::NotAServerName)
}

/// Returns for how many milliseconds an answer counts, as its headers and our bounds say.
pub(crate) fn cache_ms(headers: &HeaderMap, now_ms: i64) -> i64 {
    let wanted_ms = max_age_ms(headers).or_else(|| expires_in_ms(headers, now_ms)).unwrap_or(DEFAULT_CACHE_MS);
    wanted_ms.clamp(CACHE_MS_MIN, CACHE_MS_MAX)
}

/// Returns for how many milliseconds the `failures`-th failure in a row counts: two minutes at first, doubling up to an hour.
pub(crate) fn failure_cache_ms(failures: u32) -> i64 {
    let doublings = failures.saturating_sub(1).min(10);
    ((2 * 60 * 1000) << doublings).min(FAILURE_CACHE_MS_MAX)
}

fn max_age_ms(headers: &HeaderMap) -> Option<i64> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut max_age_ms = None;
    for directive in values.flat_map(|value| value.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-store" | "no-cache" => return Some(0),
            "max-age" => max_age_ms = max_age_ms.or(seconds_to_ms(value.trim().trim_matches('"'))),
            _ => {}
        }
    }
    max_age_ms
}

/// What is too large for us is a very long time (RFC 9111, section 1.2.2).
fn seconds_to_ms(text: &str) -> Option<i64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(1000))
}

/// `Expires` counts from the other's clock, if it gives its time. What is no date is in the past (RFC 9111, section 5.3).
fn expires_in_ms(headers: &HeaderMap, now_ms: i64) -> Option<i64> {
    let expires = headers.get(EXPIRES)?;
    let ms_of = |value: &http::HeaderValue| {
        let time = httpdate::parse_http_date(value.to_str().ok()?).ok()?;
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        i64::try_from(since.as_millis()).ok()
    };
    let from_ms = headers.get(DATE).and_then(ms_of).unwrap_or(now_ms);
    Some(ms_of(expires).map_or(0, |expires_ms| expires_ms.saturating_sub(from_ms)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2023-11-14 22:13:20 UTC
    const NOW: i64 = 1_700_000_000_000;

    fn check_delegation(status: u16, body: &'static str, expected: Result<&str, NoDelegation>) {
        let answer = Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap();
        let name = delegated_name(&answer);
        assert_eq!(name.as_ref().map(ServerName::as_str).map_err(|error| *error), expected, "{status} {body}");
    }

    #[test]
    fn delegations_are_read() {
        check_delegation(200, r#"{"m.server": "b.c"}"#, Ok("b.c"));
        check_delegation(200, r#"{"m.server": "b.c:443", "other": [1]}"#, Ok("b.c:443"));
        check_delegation(200, r#"{"m.server": "[::1]:1"}"#, Ok("[::1]:1"));
        check_delegation(404, r#"{"m.server": "b.c"}"#, Err(NoDelegation::Status(StatusCode::NOT_FOUND)));
        check_delegation(204, "", Err(NoDelegation::Status(StatusCode::NO_CONTENT)));
        check_delegation(200, "<html>", Err(NoDelegation::NotJson));
        check_delegation(200, r#"["b.c"]"#, Err(NoDelegation::NotJson));
        check_delegation(200, "{}", Err(NoDelegation::NotJson));
        check_delegation(200, r#"{"m.server": 5}"#, Err(NoDelegation::NotJson));
        check_delegation(200, r#"{"m.server": null}"#, Err(NoDelegation::NotJson));
    }

    #[test]
    fn sc_022_delegation_to_no_server_name_is_none() {
        for body in [
            r#"{"m.server": ""}"#,
            r#"{"m.server": "https://b.c"}"#,
            r#"{"m.server": "b.c/x"}"#,
            r#"{"m.server": "b.c:99999"}"#,
            r#"{"m.server": "b.c:"}"#,
            r#"{"m.server": " b.c"}"#,
            r#"{"m.server": "b..c"}"#,
            r#"{"m.server": "u@b.c"}"#,
        ] {
            check_delegation(200, body, Err(NoDelegation::NotAServerName));
        }
    }

    #[test]
    fn sc_199_time_of_an_answer_is_bounded() {
        for (headers, expected_s) in [
            (&[][..], 24 * 3600),
            (&[("cache-control", "max-age=7200")], 7200),
            (&[("cache-control", "public, Max-Age=7200")], 7200),
            (&[("cache-control", "max-age=\"7200\"")], 7200),
            (&[("cache-control", "max-age=1")], 300),
            (&[("cache-control", "max-age=9223372036854775808")], 48 * 3600),
            (&[("cache-control", "max-age=99999999999999999999999999")], 48 * 3600),
            (&[("cache-control", "max-age=-5")], 24 * 3600),
            (&[("cache-control", "no-store")], 300),
            (&[("cache-control", "max-age=7200, no-cache")], 300),
            (&[("cache-control", "public"), ("cache-control", "max-age=7200")], 7200),
            (&[("expires", "Wed, 15 Nov 2023 00:13:20 GMT")], 7200),
            (&[("expires", "Wed, 15 Nov 2023 00:13:20 GMT"), ("date", "Tue, 14 Nov 2023 23:13:20 GMT")], 3600),
            (&[("expires", "Wed, 15 Nov 2023 00:13:20 GMT"), ("cache-control", "max-age=600")], 600),
            (&[("expires", "0")], 300),
            (&[("expires", "Sun, 06 Nov 1994 08:49:37 GMT")], 300),
            (&[("expires", "Fri, 31 Dec 9999 23:59:59 GMT")], 48 * 3600),
        ] {
            let map = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
            assert_eq!(cache_ms(&map.collect(), NOW), expected_s * 1000, "{headers:?}");
        }
    }

    #[test]
    fn failures_count_longer_and_longer() {
        let minutes = |failures| failure_cache_ms(failures) / 60_000;
        assert_eq!([0, 1, 2, 3, 5, 6, u32::MAX].map(minutes), [2, 2, 4, 8, 32, 60, 60]);
    }
}
