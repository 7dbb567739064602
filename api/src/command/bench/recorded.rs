//! Measuring the merges of a recorded room.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ravel_core::{
    canonical_json::{JsonMode, parse_object},
    event::{Event, Membership},
    id::EventId,
    room::{Effect, Outcome, Receipt, Room},
    room_version::{RoomVersion, StateResolution},
    state::{State, StateMap},
};
use ravel_proptests::{
    plain,
    ruma::{self, content_of},
};
use ravel_store::{Durability, MemoryStore, block_on, log::EventLog};
use serde_json::{Value, json};

use super::measure::{ByRavel, ByRuma, Effort, Times, short};
use crate::{command::Failure, recorded_room::RecordedRoom};

/// For one merge of many.
const BRIEF: Effort = Effort { warm_up: Duration::from_millis(1), measuring: Duration::from_millis(10), runs_min: 7 };

/// How many merges whose answers differ are named.
const DIFFERING_SHOWN_MAX: usize = 10;

/// A merge whose answers differ.
#[derive(Debug)]
pub(super) struct DifferentAnswer {
    event_id: EventId,
    why: String,
}

/// A row of the table: a recorded room.
#[derive(Debug)]
pub(super) struct MeasuredFile {
    /// Events with several prev events whose states differ.
    pub(super) merges: usize,
    pub(super) different_answers: Vec<DifferentAnswer>,
    file: String,
    room_version: RoomVersion,
    members: usize,
    forks: usize,
    conflicted_events: usize,
    /// Events that Ravel dropped or can't judge.
    pub(super) left_out: usize,
    /// Over all merges.
    ravel: Times,
    ruma: Option<Times>,
    allocations: u64,
    reads: u64,
    ravel_us_per_merge: Vec<f64>,
    ruma_us_per_merge: Vec<f64>,
}

impl MeasuredFile {
    /// The columns of [`lines`](Self::lines).
    pub(super) fn header() -> String {
        format!(
            "{:<25} version members forks conflicted merges | {:<34} {one:>6}  {:<38} {one:>6}   ratio allocations reads",
            "file",
            "ravel: all",
            "ruma-state-res: all",
            one = "one",
        )
    }

    pub(super) fn of(recorded: &RecordedRoom) -> Result<Self, Failure> {
        let mut row = Self {
            merges: 0,
            different_answers: Vec::new(),
            file: recorded.path.file_name().unwrap_or(recorded.path.as_os_str()).to_string_lossy().into_owned(),
            room_version: recorded.room_version,
            members: 0,
            forks: 0,
            conflicted_events: 0,
            left_out: 0,
            ravel: Times::default(),
            ruma: None,
            allocations: 0,
            reads: 0,
            ravel_us_per_merge: Vec::new(),
            ruma_us_per_merge: Vec::new(),
        };
        let (room, events, log) = judged(recorded)?;
        row.left_out = recorded.events.len() - events.len();
        let is_joined =
            |event_id: &EventId| room.event(event_id).is_some_and(|event| event.membership() == Some(Membership::Join));
        row.members = room.current_state().iter().filter(|(_, event_id)| is_joined(event_id)).count();
        let ruma_room = if room.rules().state_resolution == StateResolution::V1 {
            None
        } else {
            row.ruma = Some(Times::default());
            let events = events.iter().map(|(event, content)| {
                let rejected = room.outcome(&event.event_id) == Some(Outcome::Rejected);
                (&**event, content, rejected)
            });
            Some(ruma::Room::new(recorded.room_version, events)?)
        };
        let golden: BTreeMap<&EventId, &plain::State> =
            recorded.merges.iter().map(|merge| (&merge.event_id, &merge.state)).collect();
        for (event, _) in room.events().filter(|(event, _)| event.prev_events.len() > 1) {
            let states = event.prev_events.iter().filter_map(|prev| room.state_after(prev));
            let golden = golden.get(&event.event_id).copied();
            if row.merge(&room, ruma_room.as_ref(), &event, &states.collect::<Vec<_>>(), golden) {
                let stored = block_on(log.resolve_stored(room.room_id(), &event.prev_events))?;
                row.reads += stored.map_or(0, |stored| stored.reads);
            }
        }
        Ok(row)
    }

    /// Resolves the states after an event's prev events, if they differ; returns whether they do. `golden` is what the recorded
    /// servers found.
    fn merge(
        &mut self,
        room: &Room,
        ruma_room: Option<&ruma::Room>,
        event: &Event,
        states: &[State<'_>],
        golden: Option<&plain::State>,
    ) -> bool {
        let entries: Vec<plain::State> = states.iter().map(State::to_map).collect();
        if entries.iter().all(|state| Some(state) == entries.first()) {
            return false;
        }
        self.merges += 1;
        self.forks = self.forks.max(states.len());
        let is_join =
            |event_id: &EventId| room.event(event_id).is_some_and(|event| event.membership() == Some(Membership::Join));
        let joined = entries.iter().map(|state| state.values().filter(|event_id| is_join(event_id)).count());
        self.members = self.members.max(joined.max().unwrap_or(0));
        self.conflicted_events += plain::split(&entries).1.len();
        let maps: Vec<&StateMap> = states.iter().map(State::map).collect();
        let ravel = ByRavel::measure(room.graph(), &maps, BRIEF);
        self.ravel.add(&ravel.times);
        self.ravel_us_per_merge.push(ravel.times.median);
        self.allocations += ravel.allocations;
        let Some(ruma_room) = ruma_room else { return true };
        let different = match ByRuma::measure(ruma_room, entries, BRIEF) {
            Ok(ruma) => {
                if let Some(sum) = &mut self.ruma {
                    sum.add(&ruma.times);
                }
                self.ruma_us_per_merge.push(ruma.times.median);
                difference(&ravel.answer, &ruma.answer, golden)
            }
            Err(error) => Some(format!("ruma-state-res fails: {error}")),
        };
        self.different_answers.extend(different.map(|why| DifferentAnswer { event_id: event.event_id.clone(), why }));
        true
    }

    fn ratio(&self) -> Option<f64> {
        self.ruma.filter(|_| self.merges > 0).map(|ruma| ruma.median / self.ravel.median)
    }

    pub(super) fn lines(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let one = |times: &[f64]| or_dash(median(times).map(short));
        let mut lines = vec![format!(
            "{:<25} {:>7} {:>7} {:>5} {:>10} {:>6} | {:<34} {:>6}  {:<38} {:>6} {:>7} {:>11} {:>5}",
            self.file,
            self.room_version.as_str(),
            self.members,
            self.forks,
            self.conflicted_events,
            self.merges,
            self.ravel.spread(),
            one(&self.ravel_us_per_merge),
            or_dash(self.ruma.map(|ruma| ruma.spread())),
            one(&self.ruma_us_per_merge),
            or_dash(self.ratio().map(|ratio| format!("{ratio:.1}"))),
            self.allocations,
            self.reads,
        )];
        if self.left_out > 0 {
            lines.push(format!("  {} events were left out: Ravel dropped them or can't judge them", self.left_out));
        }
        for answer in self.different_answers.iter().take(DIFFERING_SHOWN_MAX) {
            lines.push(format!("  DIFFERENT ANSWERS before {}: {}", answer.event_id, answer.why));
        }
        if self.different_answers.len() > DIFFERING_SHOWN_MAX {
            lines.push(format!("  DIFFERENT ANSWERS at {} merges in all", self.different_answers.len()));
        }
        lines
    }

    pub(super) fn to_json(&self) -> Value {
        let different_answers = self.different_answers.iter();
        let different_answers =
            different_answers.map(|answer| json!({ "event_id": answer.event_id.as_str(), "why": answer.why }));
        let mut row = json!({
            "file": self.file,
            "room_version": self.room_version.as_str(),
            "members": self.members,
            "forks": self.forks,
            "conflicted_events": self.conflicted_events,
            "merges": self.merges,
            "ratio": self.ratio().map(|ratio| (ratio * 100.0).round() / 100.0),
            "ravel_us_per_merge": median(&self.ravel_us_per_merge),
            "ruma_us": null,
            "ruma_us_per_merge": median(&self.ruma_us_per_merge),
            "allocations": self.allocations,
            "reads": self.reads,
            "left_out": self.left_out,
            "equal": self.different_answers.is_empty(),
            "different_answers": different_answers.collect::<Vec<_>>(),
        });
        self.ravel.put("ravel", &mut row);
        if let Some(ruma) = &self.ruma {
            ruma.put("ruma", &mut row);
        }
        row
    }
}

/// A room, the events that are in it with their `content` as JSON, and the log that has them.
type Judged = (Room, Vec<(Arc<Event>, String)>, EventLog);

/// Judges the events of a room in their order, and stores them.
fn judged(recorded: &RecordedRoom) -> Result<Judged, Failure> {
    let mut room = Room::new(recorded.room_id.clone(), recorded.room_version.rules());
    let log = block_on(EventLog::open(Arc::new(MemoryStore::new())))?;
    let (mut events, mut stored) = (Vec::new(), Vec::new());
    for pdu in recorded.verified() {
        if let Receipt::Judged(judged) = room.handle_pdu(&pdu)?
            && let Ok(json) = parse_object(pdu.json(), JsonMode::ByteExact)
        {
            events.push((pdu.event().clone(), content_of(&json)));
            stored.extend(judged.effects.into_iter().filter_map(|effect| match effect {
                Effect::Persist(persist) => Some(*persist),
                Effect::Publish(_) => None,
            }));
        }
    }
    block_on(log.append(room.room_id(), room.rules(), &stored, Durability::Relaxed))?;
    Ok((room, events, log))
}

/// Tells where two answers differ, if they do.
fn difference(ravel: &plain::State, ruma: &plain::State, golden: Option<&plain::State>) -> Option<String> {
    let mut keys = ravel.keys().chain(ruma.keys().filter(|key| !ravel.contains_key(key)));
    let key = keys.find(|key| ravel.get(key) != ruma.get(key))?;
    let named = |state: &plain::State| state.get(key).map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let recorded = match golden {
        Some(state) if state == ravel => "the recorded servers agree with Ravel",
        Some(state) if state == ruma => "the recorded servers agree with ruma-state-res",
        Some(_) => "the recorded servers agree with neither",
        None => "it is not recorded what the servers found",
    };
    Some(format!(
        "{} with state key {:?} is {} for Ravel and {} for ruma-state-res; {recorded}",
        key.event_type,
        key.state_key,
        named(ravel),
        named(ruma)
    ))
}

fn median(times: &[f64]) -> Option<f64> {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).map(|time| (time * 100.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use ravel_core::event::StateKey;

    use super::*;

    #[test]
    fn differences_are_told_with_who_is_right() {
        let state = |topic: &str| {
            let event_id = EventId::parse(&format!("${topic:a<43}")).unwrap();
            plain::State::from([(StateKey::new("m.room.topic", ""), event_id)])
        };
        let check = |ruma: &plain::State, golden: Option<&plain::State>, expected: Option<&str>| {
            let found = difference(&state("x"), ruma, golden);
            assert_eq!(found.is_some(), expected.is_some());
            assert!(found.unwrap_or_default().ends_with(expected.unwrap_or_default()), "{expected:?}");
        };
        check(&state("x"), None, None);
        check(&state("x"), Some(&state("y")), None);
        check(&state("y"), None, Some("ruma-state-res; it is not recorded what the servers found"));
        check(&state("y"), Some(&state("x")), Some("ruma-state-res; the recorded servers agree with Ravel"));
        check(&state("y"), Some(&state("y")), Some("ruma-state-res; the recorded servers agree with ruma-state-res"));
        let neither = "nothing for ruma-state-res; the recorded servers agree with neither";
        check(&plain::State::new(), Some(&state("y")), Some(neither));
    }
}
