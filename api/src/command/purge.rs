//! `ravel purge` and `ravel collect`: making room.

use std::{
    process::ExitCode,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ravel_core::id::{EventId, RoomId};
use ravel_store::{
    block_on,
    log::{Collected, EventLog, Purged, RetentionLimits},
};
use serde_json::{Value, json};

use super::{Failure, count, no_such_room, room_id_of, rooms_of};
use crate::{database::DatabaseName, output::Output};

/// What is purged.
#[derive(Debug)]
pub enum What {
    /// What a room received before an event.
    Before {
        /// The room.
        room: String,
        /// The event.
        event: String,
    },
    /// What is older in a room, or in all rooms.
    OlderThan {
        /// The room.
        room: Option<String>,
        /// How old.
        age: Age,
    },
    /// What is older than the policy of a room says, or of each room.
    Retention {
        /// The room.
        room: Option<String>,
        /// What the server's admin says about that.
        limits: RetentionLimits,
    },
    /// A whole room.
    WholeRoom {
        /// The room.
        room: String,
    },
    /// What is under way.
    Resume,
}

/// A time span on the command line, such as `90d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(Duration);

/// Not such a time span.
#[derive(Debug, thiserror::Error)]
#[error("expected a number and its unit: s, m, h, d, w (7 days) or y (365 days)")]
pub struct InvalidAge;

impl FromStr for Age {
    type Err = InvalidAge;

    fn from_str(text: &str) -> Result<Self, InvalidAge> {
        let unit = text.chars().last().ok_or(InvalidAge)?;
        let seconds: u64 = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 7 * 86_400,
            'y' => 365 * 86_400,
            _ => return Err(InvalidAge),
        };
        let number = text.strip_suffix(unit).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
        let number: u64 = number.and_then(|number| number.parse().ok()).ok_or(InvalidAge)?;
        Ok(Self(Duration::from_secs(number.checked_mul(seconds).ok_or(InvalidAge)?)))
    }
}

impl Age {
    /// Returns how long it is, in milliseconds.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the point that lies so far before another, in milliseconds since 1970.
    fn before(self, now: SystemTime) -> i64 {
        i64::try_from(since_1970_ms(now).saturating_sub(self.0.as_millis())).unwrap_or(i64::MAX)
    }
}

fn since_1970_ms(time: SystemTime) -> u128 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis())
}

/// What was done in a room, or in all of them.
#[derive(Default)]
struct Done {
    room_id: Option<RoomId>,
    /// How long events are kept there, in milliseconds; `Some(None)` if there is no limit. `None` if it was not asked.
    lifetime_ms: Option<Option<u64>>,
    purged: Purged,
}

impl Done {
    fn of(room_id: RoomId, purged: Purged) -> Self {
        Self { room_id: Some(room_id), lifetime_ms: None, purged }
    }
}

/// Purges, and tells of each room what that did.
pub fn run(database: &DatabaseName, what: &What, compact: bool, output: &mut Output) -> Result<ExitCode, Failure> {
    let log = block_on(EventLog::open(database.open_existing()?))?;
    let progress = output.progress(0, "purging", "events");
    let advance = |done: u64, total: u64| {
        progress.set_length(total);
        progress.set_position(done);
    };
    let mut all: Vec<Done> = Vec::new();
    match what {
        What::Before { room, event } => {
            let room_id = rooms_of(&log, Some(room))?.swap_remove(0).0;
            let event_id = EventId::parse(event).map_err(|_| Failure::NotAnEventId(event.clone()))?;
            let done = block_on(log.purge_history(&room_id, &event_id, advance))?;
            let missing = || Failure::NoSuchEvent { room_id: room_id.clone(), event_id: event_id.clone() };
            let done = done.ok_or_else(missing)?;
            all.push(Done::of(room_id, done));
        }
        What::OlderThan { room, age } => {
            let time_ms = age.before(SystemTime::now());
            for (room_id, _) in rooms_of(&log, room.as_deref())? {
                let done = block_on(log.purge_older_than(&room_id, time_ms, advance))?.unwrap_or_default();
                all.push(Done::of(room_id, done));
            }
        }
        What::Retention { room, limits } => {
            if limits.allowed_min_ms > limits.allowed_max_ms.or(Some(u64::MAX)) {
                return Err(Failure::ImpossibleLifetimes);
            }
            let now_ms = i64::try_from(since_1970_ms(SystemTime::now())).unwrap_or(i64::MAX);
            for (room_id, _) in rooms_of(&log, room.as_deref())? {
                if let Some(expired) = block_on(log.purge_expired(&room_id, now_ms, limits, advance))? {
                    let lifetime_ms = Some(expired.lifetime_ms);
                    all.push(Done { room_id: Some(room_id), lifetime_ms, purged: expired.purged });
                }
            }
        }
        What::WholeRoom { room } => {
            let room_id = room_id_of(room)?;
            let done = block_on(log.purge_room(&room_id, advance))?;
            let done = done.ok_or_else(|| no_such_room(&log, room_id.clone()))?;
            all.push(Done::of(room_id, done));
        }
        What::Resume => all.push(Done { purged: block_on(log.resume_purges(advance))?, ..Done::default() }),
    }
    progress.finish_and_clear();
    compact_if(compact, &log, output)?;
    if output.is_json() {
        let rooms: Vec<Value> = all.iter().map(to_json).collect();
        output.value(&json!({ "rooms": rooms }));
        return Ok(ExitCode::SUCCESS);
    }
    for Done { room_id, lifetime_ms, purged } in &all {
        let room_id = room_id.as_ref().map_or_else(String::new, |room_id| format!("{room_id}: "));
        let lifetime = match lifetime_ms {
            None => String::new(),
            Some(None) => "no lifetime, ".to_owned(),
            Some(Some(lifetime_ms)) => format!("lifetime {}, ", age_in_words(*lifetime_ms)),
        };
        output.line(format_args!("{room_id}{lifetime}{}", in_words(purged)));
    }
    if all.is_empty() {
        output.line("there is no room");
    }
    Ok(ExitCode::SUCCESS)
}

/// Collects unreferenced nodes, and tells of each room how many.
pub fn collect(
    database: &DatabaseName,
    room: Option<&str>,
    compact: bool,
    output: &mut Output,
) -> Result<ExitCode, Failure> {
    let log = block_on(EventLog::open(database.open_existing()?))?;
    let rooms = rooms_of(&log, room)?;
    let progress = output.progress(rooms.len() as u64, "collecting", "rooms");
    let mut collected: Vec<(RoomId, Collected)> = Vec::new();
    for (room_id, _) in rooms {
        if let Some(done) = block_on(log.collect(&room_id))? {
            collected.push((room_id, done));
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    compact_if(compact, &log, output)?;
    if output.is_json() {
        let rooms: Vec<Value> = collected
            .iter()
            .map(|(room_id, Collected { kept, deleted, deleted_bytes })| {
                json!({ "room_id": room_id.as_str(), "kept": kept, "deleted": deleted, "deleted_bytes": deleted_bytes })
            })
            .collect();
        output.value(&json!({ "rooms": rooms }));
        return Ok(ExitCode::SUCCESS);
    }
    for (room_id, Collected { kept, deleted, deleted_bytes }) in &collected {
        let (deleted, bytes) = (count(*deleted, "node"), count(*deleted_bytes, "byte"));
        output.line(format_args!("{room_id}: {deleted} deleted ({bytes}), {kept} kept"));
    }
    Ok(ExitCode::SUCCESS)
}

fn compact_if(compact: bool, log: &EventLog, output: &Output) -> Result<(), Failure> {
    if compact {
        let progress = output.progress(0, "compacting", "");
        let compacted = block_on(log.store().compact());
        progress.finish_and_clear();
        compacted?;
    } else {
        // What was deleted with less than full durability is gone for good when the command says so.
        block_on(log.store().flush())?;
    }
    Ok(())
}

fn to_json(Done { room_id, lifetime_ms, purged }: &Done) -> Value {
    let mut room = json!({
        "room_id": room_id.as_ref().map(RoomId::as_str),
        "events": purged.events,
        "states": purged.states,
        "nodes": purged.nodes.deleted,
        "bytes": bytes(purged),
    });
    if let (Some(lifetime_ms), Some(fields)) = (lifetime_ms, room.as_object_mut()) {
        fields.insert("lifetime_ms".into(), (*lifetime_ms).into());
    }
    room
}

/// Writes a time span as it is written on the command line, in the largest unit of which it is a whole number.
fn age_in_words(millis: u64) -> String {
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let (unit, length) = units.into_iter().find(|(_, length)| millis.is_multiple_of(*length)).unwrap_or(("ms", 1));
    format!("{}{unit}", millis / length)
}

fn in_words(purged: &Purged) -> String {
    if *purged == Purged::default() {
        return "nothing to purge".to_owned();
    }
    format!(
        "purged the content of {}, the states around {}, {}: {}",
        count(purged.events, "event"),
        count(purged.states, "event"),
        count(purged.nodes.deleted, "snapshot node"),
        count(bytes(purged), "byte"),
    )
}

fn bytes(purged: &Purged) -> u64 {
    purged.log_bytes.saturating_add(purged.nodes.deleted_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_a_unit() {
        let check = |text: &str, seconds: Option<u64>| {
            assert_eq!(text.parse::<Age>().ok(), seconds.map(|seconds| Age(Duration::from_secs(seconds))), "{text}");
        };
        check("0s", Some(0));
        check("90d", Some(7_776_000));
        check("8w", Some(4_838_400));
        check("2y", Some(63_072_000));
        check("12h", Some(43_200));
        check("5m", Some(300));
        for wrong in ["", "d", "90", "-1d", "+1d", "1.5d", "1 d", "1д", "99999999999999999999d", "9999999999999999y"] {
            check(wrong, None);
        }
    }

    #[test]
    fn lifetimes_are_written_as_ages() {
        let check = |millis, expected: &str| {
            assert_eq!(age_in_words(millis), expected);
            if let Ok(age) = expected.parse::<Age>() {
                assert_eq!(age.millis(), millis);
            }
        };
        check(0, "0d");
        check(999, "999ms");
        check(90_000, "90s");
        check(120_000, "2m");
        check(7_200_000, "2h");
        check(90 * 86_400_000, "90d");
        check(u64::MAX, "18446744073709551615ms");
    }

    #[test]
    fn ages_reach_back_from_now() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let check = |age: &str, expected| assert_eq!(age.parse::<Age>().unwrap().before(now), expected);
        check("0s", 1_000_000);
        check("10s", 990_000);
        check("1y", 0);
    }
}
