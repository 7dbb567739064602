//! The order of a room's timeline as its DAG gives it: what comes in late, history above all, is put where it belongs.
//!
//! Events are ordered by depth, then by the order in which they came. The depth that an event claims counts only where its parents are
//! not here: otherwise it is one more than theirs, so that no server can put events where it likes.

use std::collections::BTreeMap;

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

/// The accepted events of a room that have a place in its DAG, in order: twelve bytes for each.
#[derive(Debug)]
pub(super) struct Order {
    /// By number; those of outliers are what they claim.
    depths: Vec<i64>,
    /// The numbers of the events in order, [`RUN_MAX`] at most in one run, each run under a place that is not after its first event and
    /// after all events of the run before. Invariant: there is a run under [`TimelinePosition::START`].
    runs: BTreeMap<TimelinePosition, Vec<u32>>,
}

/// How many events are in a run.
const RUN_MAX: usize = 512;

impl Default for Order {
    fn default() -> Self {
        Self { depths: Vec::new(), runs: BTreeMap::from([(TimelinePosition::START, Vec::new())]) }
    }
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
        self.set_depth(index, depth);
        if is_placed && room.outcome(&event.event_id) == Some(Outcome::Accepted) {
            self.insert(TimelinePosition { depth, index });
        }
    }

    fn set_depth(&mut self, index: usize, depth: i64) {
        if self.depths.len() <= index {
            self.depths.resize(index.saturating_add(1), 0);
        }
        if let Some(slot) = self.depths.get_mut(index) {
            *slot = depth;
        }
    }

    /// Adds an event whose depth is set.
    fn insert(&mut self, position: TimelinePosition) {
        // No room has more events.
        let Ok(number) = u32::try_from(position.index) else { return };
        let Some((_, run)) = self.runs.range_mut(..=position).next_back() else { return };
        let depths = &self.depths;
        let Err(place) = run.binary_search_by_key(&position, |number| position_of(depths, *number)) else { return };
        if run.len() < RUN_MAX {
            run.insert(place, number);
            return;
        }
        // What comes last begins a run, so that those before it are full.
        let mut next = run.split_off(if place == run.len() { place } else { place.max(RUN_MAX / 2) });
        if place == run.len() {
            next.insert(0, number);
        } else {
            run.insert(place, number);
        }
        if let Some(first) = next.first() {
            self.runs.insert(position_of(depths, *first), next);
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
        self.forward(position).next().filter(|found| *found == position)
    }

    /// Returns the places of events before a place, the nearest first.
    pub(super) fn backward(&self, from: TimelinePosition) -> impl Iterator<Item = TimelinePosition> {
        let runs = self.runs.range(..from).rev();
        runs.flat_map(move |(_, run)| self.split(run, from).0.iter().rev())
            .map(|number| position_of(&self.depths, *number))
    }

    /// Returns the places of events from a place on.
    pub(super) fn forward(&self, from: TimelinePosition) -> impl Iterator<Item = TimelinePosition> {
        let first = self.runs.range(..=from).next_back().map_or(from, |(first, _)| *first);
        let runs = self.runs.range(first..);
        runs.flat_map(move |(_, run)| self.split(run, from).1).map(|number| position_of(&self.depths, *number))
    }

    /// Returns the events of a run before a place, and those from it on.
    fn split<'r>(&self, run: &'r [u32], at: TimelinePosition) -> (&'r [u32], &'r [u32]) {
        run.split_at(run.partition_point(|number| position_of(&self.depths, *number) < at))
    }
}

fn position_of(depths: &[i64], number: u32) -> TimelinePosition {
    let index = number as usize;
    TimelinePosition { depth: depths.get(index).copied().unwrap_or_default(), index }
}

/// Returns the event that a place is before.
pub(super) fn event_at(room: &Room, position: TimelinePosition) -> Option<EventId> {
    room.event_id_at(position.index)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Order, RUN_MAX, TimelinePosition};

    #[test]
    fn events_are_in_order_however_they_came() {
        let count = 4 * RUN_MAX;
        // New ones at the end, history before all others, branches that come late, and all at one depth.
        let depths: [fn(usize) -> i64; 4] =
            [|index| index as i64, |index| -(index as i64), |index| (index * 7919 % 1000) as i64, |_| 5];
        for depth in depths {
            let (mut order, mut wanted) = (Order::default(), BTreeSet::new());
            for index in 0..count {
                let position = TimelinePosition { depth: depth(index), index };
                order.set_depth(index, position.depth);
                // One in five is not shown; to add one once more changes nothing.
                if index % 5 > 0 {
                    order.insert(position);
                    order.insert(position);
                    wanted.insert(position);
                }
            }
            assert!(order.runs.values().all(|run| run.len() <= RUN_MAX));
            let ends = [TimelinePosition::START, TimelinePosition::END];
            let places = (0..count).step_by(97).map(|index| TimelinePosition { depth: depth(index), index });
            for from in places.chain(ends) {
                assert!(order.forward(from).eq(wanted.range(from..).copied()), "from {from} on");
                assert!(order.backward(from).eq(wanted.range(..from).rev().copied()), "before {from}");
            }
        }
    }

    #[test]
    fn runs_of_new_events_are_full() {
        let mut order = Order::default();
        for index in 0..3 * RUN_MAX {
            order.set_depth(index, index as i64);
            order.insert(TimelinePosition { depth: index as i64, index });
        }
        assert_eq!(order.runs.values().map(Vec::len).collect::<Vec<_>>(), [RUN_MAX; 3]);
    }
}
