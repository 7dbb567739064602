//! `ravel purge` and `ravel collect`: making room.

use std::{
    process::ExitCode,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ravel_core::id::{EventId, RoomId};
use ravel_store::{
    block_on,
    log::{Collected, EventLog, Purged},
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
    /// Returns the point that lies so far before another, in milliseconds since 1970.
    fn before(self, now: SystemTime) -> i64 {
        let since_1970 = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_millis());
        let millis = since_1970(now).saturating_sub(self.0.as_millis());
        i64::try_from(millis).unwrap_or(i64::MAX)
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
    let mut purged: Vec<(Option<RoomId>, Purged)> = Vec::new();
    match what {
        What::Before { room, event } => {
            let room_id = rooms_of(&log, Some(room))?.swap_remove(0).0;
            let event_id = EventId::parse(event).map_err(|_| Failure::NotAnEventId(event.clone()))?;
            let done = block_on(log.purge_history(&room_id, &event_id, advance))?;
            let missing = || Failure::NoSuchEvent { room_id: room_id.clone(), event_id: event_id.clone() };
            purged.push((Some(room_id.clone()), done.ok_or_else(missing)?));
        }
        What::OlderThan { room, age } => {
            let time_ms = age.before(SystemTime::now());
            for (room_id, _) in rooms_of(&log, room.as_deref())? {
                let done = block_on(log.purge_older_than(&room_id, time_ms, advance))?.unwrap_or_default();
                purged.push((Some(room_id), done));
            }
        }
        What::WholeRoom { room } => {
            let room_id = room_id_of(room)?;
            let done = block_on(log.purge_room(&room_id, advance))?;
            let done = done.ok_or_else(|| no_such_room(&log, room_id.clone()))?;
            purged.push((Some(room_id), done));
        }
        What::Resume => purged.push((None, block_on(log.resume_purges(advance))?)),
    }
    progress.finish_and_clear();
    compact_if(compact, &log, output)?;
    if output.is_json() {
        let rooms: Vec<Value> = purged.iter().map(|(room_id, purged)| to_json(room_id.as_ref(), purged)).collect();
        output.value(&json!({ "rooms": rooms }));
        return Ok(ExitCode::SUCCESS);
    }
    for (room_id, purged) in &purged {
        let room_id = room_id.as_ref().map_or_else(String::new, |room_id| format!("{room_id}: "));
        output.line(format_args!("{room_id}{}", in_words(purged)));
    }
    if purged.is_empty() {
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

fn to_json(room_id: Option<&RoomId>, purged: &Purged) -> Value {
    json!({
        "room_id": room_id.map(RoomId::as_str),
        "events": purged.events,
        "states": purged.states,
        "nodes": purged.nodes.deleted,
        "bytes": bytes(purged),
    })
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
    fn ages_reach_back_from_now() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        let check = |age: &str, expected| assert_eq!(age.parse::<Age>().unwrap().before(now), expected);
        check("0s", 1_000_000);
        check("10s", 990_000);
        check("1y", 0);
    }
}
