//! Rooms' own retention policies, `m.room.retention` of MSC1763, and purging what is older than they say.

use ravel_core::{
    canonical_json::{CanonicalJsonObject, CanonicalJsonValue, INTEGER_MAX, JsonMode, get_object, parse_object},
    id::RoomId,
};

use super::{
    EventLog, LogError, Purged,
    event_facts::EventFactsRecord,
    records::{EventRecord, LogEntry, key},
};
use crate::{KeyRange, Keyspace, Scan, StoreError, StoreExt, codec};

/// The type of the state event with a room's policy.
const RETENTION: &str = "m.room.retention";

/// How many records are read at a time.
const PAGE: usize = 512;

/// What a room says about how long its events are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// How long servers should keep an event at least, in milliseconds.
    pub min_lifetime_ms: Option<u64>,
    /// How long servers may keep an event, in milliseconds.
    pub max_lifetime_ms: Option<u64>,
}

impl RetentionPolicy {
    /// Reads the content of an `m.room.retention` event; `None` if it is no valid policy.
    ///
    /// `min_lifetime` and `max_lifetime` are each absent, `null`, or an integer from 0 to 2^53 − 1, and the latter is not less than the
    /// former. Where one is anything else, the other one does not count either.
    ///
    /// Source: MSC1763, "Room Admin-specified per-room retention", with milliseconds and these bounds as deployed servers have them.
    pub fn of_content(content: &CanonicalJsonObject) -> Option<Self> {
        let lifetime = |name| match content.get(name) {
            None | Some(CanonicalJsonValue::Null) => Some(None),
            Some(CanonicalJsonValue::Integer(millis)) if *millis <= INTEGER_MAX => {
                u64::try_from(*millis).ok().map(Some)
            }
            Some(_) => None,
        };
        let policy = Self { min_lifetime_ms: lifetime("min_lifetime")?, max_lifetime_ms: lifetime("max_lifetime")? };
        let is_contradiction = policy.max_lifetime_ms.is_some_and(|max| policy.min_lifetime_ms > Some(max));
        (!is_contradiction).then_some(policy)
    }
}

/// What a server's admin says about rooms' policies, all in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionLimits {
    /// How long events are kept where a room's policy has no `max_lifetime`, or there is no valid one; `None` is for ever.
    pub default_max_ms: Option<u64>,
    /// No event goes earlier than this.
    pub allowed_min_ms: Option<u64>,
    /// No event is kept longer than this, if there is a limit at all. Counts more than `allowed_min_ms`.
    pub allowed_max_ms: Option<u64>,
}

impl RetentionLimits {
    /// Returns for how long the events of a room are kept, in milliseconds; `None` is for ever.
    ///
    /// That is the policy's `max_lifetime`, or else the default; then not less than its `min_lifetime`, then within what is allowed.
    /// Where neither policy nor default has a maximum, what is allowed makes none.
    pub fn lifetime_ms(&self, policy: Option<RetentionPolicy>) -> Option<u64> {
        let RetentionPolicy { min_lifetime_ms, max_lifetime_ms } = policy.unwrap_or_default();
        let wanted = max_lifetime_ms.or(self.default_max_ms)?;
        let at_least = min_lifetime_ms.max(self.allowed_min_ms).unwrap_or(0);
        Some(wanted.max(at_least).min(self.allowed_max_ms.unwrap_or(u64::MAX)))
    }
}

/// What became of a room by its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// The room's policy; `None` if it has no valid one.
    pub policy: Option<RetentionPolicy>,
    /// For how long its events are kept, in milliseconds; `None` is for ever.
    pub lifetime_ms: Option<u64>,
    /// What was purged now.
    pub purged: Purged,
}

impl EventLog {
    /// Purges what is older in a room than its current policy says, within limits; `None` if the room is not there.
    ///
    /// `now_ms` is the time in milliseconds since 1970. What goes and what stays is as in
    /// [`purge_older_than`](Self::purge_older_than): so the newest event stays, and the policy too.
    ///
    /// # Errors
    ///
    /// As [`purge_history`](Self::purge_history).
    pub async fn purge_expired(
        &self,
        room_id: &RoomId,
        now_ms: i64,
        limits: &RetentionLimits,
        progress: impl FnMut(u64, u64),
    ) -> Result<Option<Expired>, LogError> {
        let policy = self.retention_policy(room_id).await?;
        let lifetime_ms = limits.lifetime_ms(policy);
        let purged = match lifetime_ms {
            None => self.room(room_id)?.map(|_| Purged::default()),
            Some(lifetime_ms) => {
                let time_ms = now_ms.saturating_sub(i64::try_from(lifetime_ms).unwrap_or(i64::MAX));
                self.purge_older_than(room_id, time_ms, progress).await?
            }
        };
        Ok(purged.map(|purged| Expired { policy, lifetime_ms, purged }))
    }

    /// Returns the policy in a room's current state; `None` if there is none, it is invalid or redacted, or the room is not there.
    ///
    /// Costs reading the facts of all events, and loading the room if one of them ever was a policy.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn retention_policy(&self, room_id: &RoomId) -> Result<Option<RetentionPolicy>, LogError> {
        let Some(record) = self.fresh_room(room_id).await? else { return Ok(None) };
        if !self.ever_had_policy(record.number).await? {
            return Ok(None);
        }
        let room = self.load(room_id, &record).await?;
        let Some(event_id) = room.current_state().get(RETENTION, "") else { return Ok(None) };
        if room.is_redacted(&event_id) {
            return Ok(None);
        }
        let key = key::event(record.number, &event_id);
        let place = self.store.get_record::<EventRecord>(key.clone()).await?;
        let missing = || StoreError::corrupt(Keyspace::Events, &key, "the place of an event that is there");
        let EventRecord { sequence, .. } = place.ok_or_else(missing)?;
        let bad = |problem| LogError::BadEntry { sequence, problem };
        let json = match self.entries(&[sequence]).await?.pop() {
            Some((_, LogEntry::Event { json, .. })) => json,
            _ => return Err(bad("it has no content, and its event is in the current state")),
        };
        // Numbers of any form are read, as events of old room versions may have them.
        let event = parse_object(&json, JsonMode::ByteExact).map_err(|_| bad("its event is no JSON"))?;
        Ok(get_object(&event, "content").and_then(RetentionPolicy::of_content))
    }

    /// Whether a room has an event that sets a policy, whatever became of it.
    async fn ever_had_policy(&self, room: u32) -> Result<bool, LogError> {
        let mut scan = Some(Scan::new(Keyspace::EventFacts, KeyRange::prefix(key::room(room))).items(PAGE));
        while let Some(asked) = scan.take() {
            let page = self.store.scan(asked.clone()).await?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            for (key, value) in &page.items {
                if codec::decode::<EventFactsRecord>(key, value)?.fields.is_state_of_room(RETENTION) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_read_or_ignored() {
        let check = |content: &str, expected: Option<(Option<u64>, Option<u64>)>| {
            let object = parse_object(content.as_bytes(), JsonMode::ByteExact).unwrap();
            let policy = RetentionPolicy::of_content(&object);
            let lifetimes = policy.map(|policy| (policy.min_lifetime_ms, policy.max_lifetime_ms));
            assert_eq!(lifetimes, expected, "{content}");
        };
        check("{}", Some((None, None)));
        check(r#"{"max_lifetime":86400000}"#, Some((None, Some(86_400_000))));
        check(r#"{"min_lifetime":5,"max_lifetime":5,"expire_on_clients":true}"#, Some((Some(5), Some(5))));
        check(r#"{"min_lifetime":7}"#, Some((Some(7), None)));
        check(r#"{"min_lifetime":null,"max_lifetime":0}"#, Some((None, Some(0))));
        check(r#"{"max_lifetime":null}"#, Some((None, None)));
        check(r#"{"max_lifetime":9007199254740991}"#, Some((None, Some(9_007_199_254_740_991))));
        for wrong in [
            "9007199254740992",
            "1e3",
            "10.0",
            "1.5",
            "-1",
            "-0",
            "\"10\"",
            "true",
            "[10]",
            "{}",
            "99999999999999999999",
        ] {
            check(&format!(r#"{{"max_lifetime":{wrong}}}"#), None);
            check(&format!(r#"{{"min_lifetime":{wrong},"max_lifetime":1000}}"#), None);
        }
        check(r#"{"min_lifetime":6,"max_lifetime":5}"#, None);
    }

    #[test]
    fn lifetimes_are_within_the_limits() {
        let policy = |min_lifetime_ms, max_lifetime_ms| Some(RetentionPolicy { min_lifetime_ms, max_lifetime_ms });
        let check = |policy: Option<RetentionPolicy>, limits: [Option<u64>; 3], expected: Option<u64>| {
            let [default_max_ms, allowed_min_ms, allowed_max_ms] = limits;
            let limits = RetentionLimits { default_max_ms, allowed_min_ms, allowed_max_ms };
            assert_eq!(limits.lifetime_ms(policy), expected, "{policy:?} {limits:?}");
        };
        // Nobody says anything of a maximum.
        check(None, [None, None, None], None);
        check(None, [None, Some(10), Some(20)], None);
        check(policy(Some(5), None), [None, None, Some(20)], None);
        // The room does, or else the default.
        check(policy(None, Some(15)), [None, None, None], Some(15));
        check(policy(None, Some(0)), [Some(12), None, None], Some(0));
        check(policy(None, Some(15)), [Some(12), Some(10), Some(20)], Some(15));
        check(None, [Some(12), Some(10), Some(20)], Some(12));
        check(policy(None, None), [Some(12), None, None], Some(12));
        // The room's minimum counts against a default.
        check(policy(Some(13), None), [Some(12), None, None], Some(13));
        check(policy(Some(11), None), [Some(12), None, None], Some(12));
        // What is allowed counts more.
        check(policy(None, Some(5)), [None, Some(10), Some(20)], Some(10));
        check(policy(None, Some(25)), [None, Some(10), Some(20)], Some(20));
        check(policy(Some(23), Some(25)), [None, Some(10), Some(20)], Some(20));
        check(None, [Some(5), Some(10), None], Some(10));
        check(None, [Some(25), None, Some(20)], Some(20));
        check(policy(None, Some(5)), [None, Some(10), Some(8)], Some(8));
    }
}
