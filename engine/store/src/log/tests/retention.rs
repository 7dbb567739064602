//! Rooms' own retention policies.

use super::*;
use crate::log::{Expired, Purged, RetentionLimits, RetentionPolicy};

const RETENTION: &str = "m.room.retention";

/// A room with two members and 40 messages; event 20 is what `policy` makes, if it makes one. Events have their place as their time.
fn room_with(policy: impl FnOnce(&mut TestRoom, &EventId)) -> TestRoom {
    let mut room = TestRoom::new("!r:a");
    let mut last = room.event("@a:a", "m.room.create", Some(""), r#"{"room_version":"11"}"#, &[]);
    last = room.event("@a:a", "m.room.member", Some("@a:a"), r#"{"membership":"join"}"#, &[&last]);
    last = room.event("@a:a", "m.room.power_levels", Some(""), r#"{"users":{"@a:a":100}}"#, &[&last]);
    last = room.event("@a:a", "m.room.join_rules", Some(""), r#"{"join_rule":"public"}"#, &[&last]);
    last = room.event("@b:b", "m.room.member", Some("@b:b"), r#"{"membership":"join"}"#, &[&last]);
    for number in 0..15 {
        last = room.event("@b:b", "m.room.message", None, &format!(r#"{{"body":"{number}"}}"#), &[&last]);
    }
    policy(&mut room, &last);
    last = room.judged.last().unwrap().event.event_id.clone();
    for number in 15..40 {
        last = room.event("@b:b", "m.room.message", None, &format!(r#"{{"body":"{number}"}}"#), &[&last]);
    }
    room
}

fn room_with_policy(content: &str) -> TestRoom {
    room_with(|room, last| {
        room.event("@a:a", RETENTION, Some(""), content, &[last]);
    })
}

fn stored(room: &TestRoom) -> MemoryStore {
    let store = MemoryStore::new();
    room.append_to(&open(&store)).unwrap();
    store
}

fn expire(store: &MemoryStore, now_ms: i64, limits: &RetentionLimits) -> Expired {
    let room_id = RoomId::parse("!r:a").unwrap();
    block_on(open(store).purge_expired(&room_id, now_ms, limits, |_, _| {})).unwrap().unwrap()
}

/// Checks that a room is purged as by the age that it comes to, or not at all.
#[track_caller]
fn check(room: &TestRoom, now_ms: i64, limits: &RetentionLimits, lifetime_ms: Option<u64>) {
    let (store, by_age) = (stored(room), stored(room));
    let expired = expire(&store, now_ms, limits);
    assert_eq!(expired.lifetime_ms, lifetime_ms);
    if let Some(lifetime_ms) = lifetime_ms {
        let time_ms = now_ms - lifetime_ms as i64;
        let log = open(&by_age);
        let purged = block_on(log.purge_older_than(room.room.room_id(), time_ms, |_, _| {})).unwrap().unwrap();
        assert_eq!(expired.purged, purged);
        assert!(purged.events > 0, "nothing was purged, so nothing is shown");
    } else {
        assert_eq!(expired.purged, Purged::default());
    }
    assert!(contents(&store) == contents(&by_age));
    assert_eq!(findings(&store), [""; 0]);
    // What is kept says the same as before, and nothing is left to do.
    let again = expire(&store, now_ms, limits);
    assert_eq!((again.policy, again.lifetime_ms, again.purged), (expired.policy, lifetime_ms, Purged::default()));
}

#[test]
fn what_is_older_than_the_policy_says_is_purged() {
    let none = RetentionLimits::default();
    let limits = RetentionLimits { default_max_ms: Some(25), allowed_min_ms: Some(10), allowed_max_ms: Some(30) };
    for (content, alone, limited) in [
        (r#"{"max_lifetime":20}"#, Some(20), Some(20)),
        (r#"{"max_lifetime":20,"min_lifetime":20}"#, Some(20), Some(20)),
        (r#"{"max_lifetime":2}"#, Some(2), Some(10)),
        (r#"{"max_lifetime":35}"#, Some(35), Some(30)),
        (r#"{"min_lifetime":28}"#, None, Some(28)),
        ("{}", None, Some(25)),
        // Invalid is as if absent, also where the other half is valid.
        (r#"{"max_lifetime":"20"}"#, None, Some(25)),
        (r#"{"max_lifetime":-20}"#, None, Some(25)),
        (r#"{"max_lifetime":[20]}"#, None, Some(25)),
        (r#"{"max_lifetime":20,"min_lifetime":21}"#, None, Some(25)),
        (r#"{"max_lifetime":20,"min_lifetime":"1"}"#, None, Some(25)),
    ] {
        let room = room_with_policy(content);
        check(&room, 45, &none, alone);
        check(&room, 45, &limits, limited);
    }
    let without = room_with(|_, _| {});
    check(&without, 45, &none, None);
    check(&without, 45, &limits, Some(25));
}

#[test]
fn the_newest_event_and_the_policy_stay() {
    let room = room_with_policy(r#"{"max_lifetime":0}"#);
    let store = stored(&room);
    // A year later, again and again.
    for now_ms in [31_536_000_000, i64::MAX] {
        let expired = expire(&store, now_ms, &RetentionLimits::default());
        let policy = RetentionPolicy { min_lifetime_ms: None, max_lifetime_ms: Some(0) };
        assert_eq!((expired.policy, expired.lifetime_ms), (Some(policy), Some(0)));
    }
    let loaded = block_on(open(&store).load_room(room.room.room_id())).unwrap().unwrap();
    let remains: Vec<bool> = room
        .judged
        .iter()
        .map(|event| loaded.remains(&event.event.event_id) > Some(ravel_core::room::Remains::Skeleton))
        .collect();
    // State, policy and the newest; none of the other messages.
    let expected: Vec<bool> = (0..room.judged.len()).map(|place| place < 5 || place == 20 || place == 45).collect();
    assert_eq!((remains, room.judged.len()), (expected, 46));
}

/// Only an accepted state event with the empty state key, and only the current one.
#[test]
fn only_the_current_policy_counts() {
    let none = RetentionLimits::default();
    let ten = r#"{"max_lifetime":10}"#;
    let changed = room_with(|room, last| {
        let first = room.event("@a:a", RETENTION, Some(""), ten, &[last]);
        room.event("@a:a", RETENTION, Some(""), r#"{"max_lifetime":30}"#, &[&first]);
    });
    check(&changed, 45, &none, Some(30));
    let taken_back = room_with(|room, last| {
        let first = room.event("@a:a", RETENTION, Some(""), ten, &[last]);
        room.event("@a:a", RETENTION, Some(""), "{}", &[&first]);
    });
    check(&taken_back, 45, &none, None);
    let other_key = room_with(|room, last| {
        room.event("@a:a", RETENTION, Some("x"), ten, &[last]);
    });
    check(&other_key, 45, &none, None);
    let no_state = room_with(|room, last| {
        room.event("@a:a", RETENTION, None, ten, &[last]);
    });
    check(&no_state, 45, &none, None);
    let rejected = room_with(|room, last| {
        room.event("@b:b", RETENTION, Some(""), ten, &[last]);
        assert_eq!(room.judged.last().unwrap().outcome, Outcome::Rejected);
        room.event("@b:b", "m.room.message", None, r#"{"body":"on"}"#, &[last]);
    });
    check(&rejected, 45, &none, None);
    let soft_failed = room_with(|room, last| {
        let demoted = room.event("@a:a", "m.room.power_levels", Some(""), r#"{"users":{"@a:a":0}}"#, &[last]);
        room.event("@a:a", RETENTION, Some(""), ten, &[last]);
        assert_eq!(room.judged.last().unwrap().outcome, Outcome::SoftFailed);
        room.event("@b:b", "m.room.message", None, r#"{"body":"on"}"#, &[&demoted]);
    });
    check(&soft_failed, 45, &none, None);
}

/// A redacted policy has no content any more, for whoever may redact it.
#[test]
fn a_redacted_policy_is_none() {
    let none = RetentionLimits::default();
    for (sender, lifetime_ms) in [("@a:a", None), ("@b:b", Some(10))] {
        let room = room_with(|room, last| {
            let policy = room.event("@a:a", RETENTION, Some(""), r#"{"max_lifetime":10}"#, &[last]);
            room.event(sender, "m.room.redaction", None, &format!(r#"{{"redacts":"{policy}"}}"#), &[&policy]);
            assert_eq!(room.judged.last().unwrap().outcome, Outcome::Accepted);
        });
        check(&room, 45, &none, lifetime_ms);
        // Also once the redaction itself was purged.
        let store = stored(&room);
        block_on(open(&store).purge_older_than(room.room.room_id(), 40, |_, _| {})).unwrap();
        assert_eq!(expire(&store, 45, &none).lifetime_ms, lifetime_ms);
    }
}

#[test]
fn a_room_that_is_not_there_has_no_policy() {
    let log = open(&MemoryStore::new());
    let room_id = RoomId::parse("!r:a").unwrap();
    assert_eq!(block_on(log.retention_policy(&room_id)).unwrap(), None);
    for default_max_ms in [None, Some(10)] {
        let limits = RetentionLimits { default_max_ms, ..RetentionLimits::default() };
        assert_eq!(block_on(log.purge_expired(&room_id, 45, &limits, |_, _| {})).unwrap(), None);
    }
}
