//! The order of a room's timeline as its DAG gives it: what comes in late, history above all, is put where it belongs.
//!
//! Events are ordered by depth, then by the order in which they came. The depth that an event claims counts only where its parents are
//! not here: otherwise it is one more than theirs, so that no server can put events where it likes.

use std::collections::BTreeSet;

use ravel_core::{
    event::Event,
    id::EventId,
    room::{Outcome, Room},
};

use super::SyncToken;

/// A place between events of a room's timeline: before the event that has these numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimelinePosition {
    depth: i64,
    /// The event's number in its room.
    index: usize,
}

impl TimelinePosition {
    /// Before all events.
    pub const START: Self = Self { depth: i64::MIN, index: 0 };

    /// After all events.
    pub const END: Self = Self { depth: i64::MAX, index: usize::MAX };

    /// The place after the event that this one is before.
    pub(super) fn after(self) -> Self {
        Self { index: self.index.saturating_add(1), ..self }
    }
}

/// A place in a room's timeline as clients give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimelineToken {
    /// In the order of the DAG.
    Position(TimelinePosition),
    /// In the order of the log: after all that a sync up to there has told.
    Sync(SyncToken),
}

impl TimelineToken {
    /// Reads what [`Display`](std::fmt::Display) wrote, or a token of a sync.
    pub fn parse(text: &str) -> Option<Self> {
        let Some(position) = text.strip_prefix('t') else { return SyncToken::parse(text).map(Self::Sync) };
        let (depth, index) = position.split_once('_')?;
        Some(Self::Position(TimelinePosition { depth: depth.parse().ok()?, index: index.parse().ok()? }))
    }
}

impl std::fmt::Display for TimelinePosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "t{}_{}", self.depth, self.index)
    }
}

impl std::fmt::Display for TimelineToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Position(position) => position.fmt(f),
            Self::Sync(token) => token.fmt(f),
        }
    }
}

/// The accepted events of a room that have a place in its DAG, in order.
#[derive(Debug, Default)]
pub(super) struct Order {
    /// By number; those of outliers are what they claim.
    depths: Vec<i64>,
    events: BTreeSet<TimelinePosition>,
}

impl Order {
    /// Costs O(n log n) for n events.
    pub(super) fn of(room: &Room) -> Self {
        let mut order = Self::default();
        for (event, _) in room.events() {
            order.add(room, &event);
        }
        order
    }

    /// Takes note of an event that came into the room, or got its place there.
    pub(super) fn add(&mut self, room: &Room, event: &Event) {
        let Some(index) = room.number_of(&event.event_id) else { return };
        let is_placed = !room.is_outlier(&event.event_id);
        let depth = if is_placed { self.depth(room, event, index) } else { event.depth };
        if self.depths.len() <= index {
            self.depths.resize(index.saturating_add(1), 0);
        }
        if let Some(slot) = self.depths.get_mut(index) {
            *slot = depth;
        }
        if is_placed && room.outcome(&event.event_id) == Some(Outcome::Accepted) {
            self.events.insert(TimelinePosition { depth, index });
        }
    }

    fn depth(&self, room: &Room, event: &Event, index: usize) -> i64 {
        let parents = event.prev_events.iter().filter(|id| !room.is_outlier(id));
        let parents = parents.filter_map(|id| room.number_of(id));
        // Those that came later were not here when the event got its place.
        let depths = parents.filter(|parent| *parent < index).filter_map(|parent| self.depths.get(parent));
        depths.max().map_or(event.depth, |depth| depth.saturating_add(1))
    }

    /// Returns the place before an event, `None` if it has none.
    pub(super) fn position(&self, room: &Room, event_id: &EventId) -> Option<TimelinePosition> {
        let index = room.number_of(event_id)?;
        let position = TimelinePosition { depth: *self.depths.get(index)?, index };
        self.events.contains(&position).then_some(position)
    }

    /// Returns the places of events before a place, the nearest first.
    pub(super) fn backward(&self, from: TimelinePosition) -> impl Iterator<Item = TimelinePosition> {
        self.events.range(..from).rev().copied()
    }

    /// Returns the places of events from a place on.
    pub(super) fn forward(&self, from: TimelinePosition) -> impl Iterator<Item = TimelinePosition> {
        self.events.range(from..).copied()
    }
}

/// Returns the event that a place is before.
pub(super) fn event_at(room: &Room, position: TimelinePosition) -> Option<EventId> {
    room.event_id_at(position.index)
}
