//! History, and events that others have missed.

use std::collections::{BTreeSet, BinaryHeap};

use ravel_core::{
    id::{EventId, RoomId, ServerName},
    room::{Outcome, Room},
};

use super::{AnsweringError, Homeserver, Pdus, pdus::Chosen};
use crate::rooms::LoadedRoom;

/// How many events an answer has at most.
pub const EVENTS_MAX: usize = 100;

/// How many events may be named to go back from.
pub const NAMED_MAX: usize = 100;

/// How many of the events that somebody has are looked at; it is given more of them again if it names more.
const EARLIEST_MAX: usize = 10_000;

/// How many events are looked at for one answer: rejected ones are passed over.
const LOOKED_AT_MAX: usize = 1_000;

/// What [`Homeserver::answer_missing_events`] is asked.
#[derive(Clone, Debug, Default)]
pub struct MissingEvents {
    /// Whose prev events are wanted, and the prev events of those.
    pub latest: Vec<EventId>,
    /// Where to stop: events that whoever asks has. Servers name all of their forward extremities.
    pub earliest: Vec<EventId>,
    /// How many events.
    pub limit: usize,
    /// Events that are not as deep are left out.
    pub depth_min: i64,
}

impl Homeserver {
    /// Returns events and what they build on, the deepest first: at most `limit` and [`EVENTS_MAX`]. Events that a server may not
    /// see are redacted; of unknown events and those of other rooms there is nothing.
    ///
    /// Source: server-server API, "GET /_matrix/federation/v1/backfill/{roomId}".
    ///
    /// # Errors
    ///
    /// `NotInRoom`, `Denied`, `TooManyEvents`
    pub async fn answer_backfill(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        from: &[EventId],
        limit: usize,
    ) -> Result<Pdus, AnsweringError> {
        check_count(from)?;
        self.may_ask(origin, room_id).await?;
        let walk = |loaded: &LoadedRoom| (loaded.room.rules(), chosen(loaded, deepest(&loaded.room, from, limit)));
        let (rules, mut chosen) = self.rooms.read(room_id, walk).await?;
        self.hide_from(origin, room_id, &mut chosen).await?;
        Ok(Pdus::new(&self.log, room_id, rules, chosen))
    }

    /// Returns what comes before some events and not before others, at most as many events as are wanted and [`EVENTS_MAX`]: the
    /// nearest to the latest ones, by a breadth-first walk, the farthest of them first. What a server may not see is redacted.
    ///
    /// Source: server-server API, "POST /_matrix/federation/v1/get_missing_events/{roomId}".
    ///
    /// # Errors
    ///
    /// `NotInRoom`, `Denied`, `TooManyEvents`
    pub async fn answer_missing_events(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        wanted: &MissingEvents,
    ) -> Result<Pdus, AnsweringError> {
        check_count(&wanted.latest)?;
        self.may_ask(origin, room_id).await?;
        let walk = |loaded: &LoadedRoom| (loaded.room.rules(), chosen(loaded, missing(&loaded.room, wanted)));
        let (rules, mut chosen) = self.rooms.read(room_id, walk).await?;
        self.hide_from(origin, room_id, &mut chosen).await?;
        Ok(Pdus::new(&self.log, room_id, rules, chosen))
    }
}

fn check_count(named: &[EventId]) -> Result<(), AnsweringError> {
    if named.len() > NAMED_MAX { Err(AnsweringError::TooManyEvents { max: NAMED_MAX }) } else { Ok(()) }
}

fn chosen(loaded: &LoadedRoom, events: Vec<EventId>) -> Vec<Chosen> {
    events.into_iter().map(|event_id| Chosen::new(loaded, event_id)).collect()
}

fn is_rejected(room: &Room, event_id: &EventId) -> bool {
    room.outcome(event_id) == Some(Outcome::Rejected)
}

/// Returns the deepest of some events and their ancestors, the deepest first.
fn deepest(room: &Room, from: &[EventId], limit: usize) -> Vec<EventId> {
    let limit = limit.min(EVENTS_MAX);
    let (mut seen, mut waiting, mut found) = (BTreeSet::new(), BinaryHeap::new(), Vec::new());
    let mut add = |waiting: &mut BinaryHeap<_>, events: &[EventId]| {
        for event_id in events.iter().filter(|event_id| room.has_place(event_id)) {
            if seen.insert(event_id.clone()) {
                waiting.extend(room.depth(event_id).map(|depth| (depth, event_id.clone())));
            }
        }
    };
    add(&mut waiting, from);
    for _ in 0..LOOKED_AT_MAX {
        let Some((_, event_id)) = waiting.pop().filter(|_| found.len() < limit) else { break };
        if let Some(event) = room.event(&event_id) {
            add(&mut waiting, &event.prev_events);
        }
        if !is_rejected(room, &event_id) {
            found.push(event_id);
        }
    }
    found
}

/// Walks back, the nearest first, and returns what it finds the other way around.
fn missing(room: &Room, wanted: &MissingEvents) -> Vec<EventId> {
    let limit = wanted.limit.min(EVENTS_MAX);
    let mut seen: BTreeSet<EventId> = wanted.earliest.iter().take(EARLIEST_MAX).cloned().collect();
    let seen_max = seen.len().saturating_add(LOOKED_AT_MAX);
    let latest = wanted.latest.iter().filter(|event_id| !seen.contains(*event_id));
    let mut level: Vec<EventId> = latest.filter(|event_id| room.has_place(event_id)).cloned().collect();
    let mut found = Vec::new();
    while !level.is_empty() && found.len() < limit && seen.len() < seen_max {
        let mut next = Vec::new();
        for event in level.into_iter().filter_map(|event_id| room.event(&event_id)) {
            for prev in event.prev_events.iter().filter(|prev| room.has_place(prev)) {
                let is_deep_enough = room.depth(prev).is_some_and(|depth| depth >= wanted.depth_min);
                if !is_deep_enough || !seen.insert(prev.clone()) {
                    continue;
                }
                next.push(prev.clone());
                if !is_rejected(room, prev) && found.len() < limit {
                    found.push(prev.clone());
                }
            }
        }
        level = next;
    }
    found.reverse();
    found
}
