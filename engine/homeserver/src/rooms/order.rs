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

/// The accepted events of a room that have a place in its DAG, in order. Where they came in that order they take next to nothing, else
/// some twenty bytes at most.
#[derive(Debug)]
pub(super) struct Order {
    depths: Depths,
    /// The events in order, [`RUN_MAX`] at most in one run, each run under a place that is not after its first event and after all events
    /// of the run before. Invariant: there is a run under [`TimelinePosition::START`].
    runs: BTreeMap<TimelinePosition, Run>,
}

/// How many events are in a run.
const RUN_MAX: usize = 512;

impl Default for Order {
    fn default() -> Self {
        Self { depths: Depths::default(), runs: BTreeMap::from([(TimelinePosition::START, Run::default())]) }
    }
}

impl Order {
    /// Takes note of an event that came into the room, or got its place there.
    pub(super) fn add(&mut self, room: &Room, event: &Event) {
        let Some(index) = room.number_of(&event.event_id) else { return };
        let is_placed = !room.is_outlier(&event.event_id);
        let depth = if is_placed { self.depth(room, event, index) } else { event.depth };
        self.depths.set(index, depth);
        if is_placed && room.outcome(&event.event_id) == Some(Outcome::Accepted) {
            self.insert(TimelinePosition { depth, index });
        }
    }

    /// Adds an event whose depth is set.
    fn insert(&mut self, position: TimelinePosition) {
        // No room has more events.
        let Ok(number) = u32::try_from(position.index) else { return };
        let Some((_, run)) = self.runs.range_mut(..=position).next_back() else { return };
        let place = place_in(run, &self.depths, position);
        if run.get(place) == Some(number) {
            return;
        }
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
        if let Some(first) = next.get(0) {
            self.runs.insert(self.depths.position(first), next);
        }
    }

    fn depth(&self, room: &Room, event: &Event, index: usize) -> i64 {
        let parents = event.prev_events.iter().filter(|id| !room.is_outlier(id));
        let parents = parents.filter_map(|id| room.number_of(id));
        // Those that came later were not here when the event got its place.
        let depths = parents.filter(|parent| *parent < index).map(|parent| self.depths.get(parent));
        depths.max().map_or(event.depth, |depth| depth.saturating_add(1))
    }

    /// Returns the place before an event, `None` if it has none.
    pub(super) fn position(&self, room: &Room, event_id: &EventId) -> Option<TimelinePosition> {
        let index = room.number_of(event_id)?;
        let position = TimelinePosition { depth: self.depths.get(index), index };
        self.forward(position).next().filter(|found| *found == position)
    }

    /// Returns the places of events before a place, the nearest first.
    pub(super) fn backward(&self, from: TimelinePosition) -> impl Iterator<Item = TimelinePosition> {
        let runs = self.runs.range(..from).rev();
        runs.flat_map(move |(_, run)| (0..place_in(run, &self.depths, from)).rev().filter_map(|place| run.get(place)))
            .map(|number| self.depths.position(number))
    }

    /// Returns the places of events from a place on.
    pub(super) fn forward(&self, from: TimelinePosition) -> impl Iterator<Item = TimelinePosition> {
        let first = self.runs.range(..=from).next_back().map_or(from, |(first, _)| *first);
        let runs = self.runs.range(first..);
        runs.flat_map(move |(_, run)| (place_in(run, &self.depths, from)..run.len()).filter_map(|place| run.get(place)))
            .map(|number| self.depths.position(number))
    }
}

/// Returns how many events of a run come before a place.
fn place_in(run: &Run, depths: &Depths, at: TimelinePosition) -> usize {
    let (mut start, mut end) = (0, run.len());
    while start < end {
        let middle = start.midpoint(end);
        match run.get(middle) {
            Some(number) if depths.position(number) < at => start = middle + 1,
            _ => end = middle,
        }
    }
    start
}

/// Numbers of events that follow each other in a timeline.
#[derive(Debug)]
enum Run {
    /// Each is one more than the one before it.
    Straight {
        first: u32,
        len: u32,
    },
    Listed(Vec<u32>),
}

impl Default for Run {
    fn default() -> Self {
        Self::Straight { first: 0, len: 0 }
    }
}

impl Run {
    fn len(&self) -> usize {
        match self {
            Self::Straight { len, .. } => *len as usize,
            Self::Listed(numbers) => numbers.len(),
        }
    }

    fn get(&self, place: usize) -> Option<u32> {
        match self {
            Self::Straight { first, len } => {
                let place = u32::try_from(place).ok().filter(|place| place < len)?;
                first.checked_add(place)
            }
            Self::Listed(numbers) => numbers.get(place).copied(),
        }
    }

    fn insert(&mut self, place: usize, number: u32) {
        match self {
            Self::Straight { len: 0, .. } => *self = Self::Straight { first: number, len: 1 },
            Self::Straight { first, len } if place == *len as usize && first.checked_add(*len) == Some(number) => {
                *len = len.saturating_add(1);
            }
            Self::Straight { .. } => {
                let mut numbers: Vec<u32> = (0..self.len()).filter_map(|place| self.get(place)).collect();
                numbers.insert(place.min(numbers.len()), number);
                *self = Self::Listed(numbers);
            }
            Self::Listed(numbers) => numbers.insert(place.min(numbers.len()), number),
        }
    }

    /// Takes out what is from a place on.
    fn split_off(&mut self, place: usize) -> Self {
        let end = (place..self.len()).filter_map(|place| self.get(place)).collect();
        let begin = (0..place).filter_map(|place| self.get(place)).collect();
        *self = Self::of(begin);
        Self::of(end)
    }

    fn of(numbers: Vec<u32>) -> Self {
        let is_straight = numbers.windows(2).all(|pair| matches!(pair, [a, b] if a.checked_add(1) == Some(*b)));
        match (numbers.first().copied(), u32::try_from(numbers.len())) {
            (Some(first), Ok(len)) if is_straight => Self::Straight { first, len },
            (None, _) => Self::default(),
            _ => Self::Listed(numbers),
        }
    }
}

/// Depths by the numbers of events; those of outliers are what they claim.
#[derive(Debug, Default)]
struct Depths {
    /// Where depths do not go on by one from one event to the next: the number of an event, and its depth. Invariant: sorted by number.
    steps: Vec<(usize, i64)>,
    /// How many events have a depth.
    len: usize,
}

impl Depths {
    /// Returns the depth of an event, 0 if it has none.
    fn get(&self, index: usize) -> i64 {
        let after = self.steps.partition_point(|(first, _)| *first <= index);
        let step = after.checked_sub(1).and_then(|step| self.steps.get(step)).filter(|_| index < self.len);
        step.map_or(0, |(first, depth)| gone_on(*depth, index.saturating_sub(*first)))
    }

    fn position(&self, number: u32) -> TimelinePosition {
        let index = number as usize;
        TimelinePosition { depth: self.get(index), index }
    }

    fn set(&mut self, index: usize, depth: i64) {
        if index >= self.len {
            self.len = index.saturating_add(1);
            let last = self.steps.last();
            if last.is_none_or(|(first, last)| gone_on(*last, index.saturating_sub(*first)) != depth) {
                self.steps.push((index, depth));
            }
            return;
        }
        let next = index.saturating_add(1);
        let after = self.get(next);
        self.set_step(index, depth);
        if next < self.len {
            self.set_step(next, after);
        }
    }

    fn set_step(&mut self, index: usize, depth: i64) {
        match self.steps.binary_search_by_key(&index, |(first, _)| *first) {
            Ok(step) => {
                if let Some(step) = self.steps.get_mut(step) {
                    step.1 = depth;
                }
            }
            Err(step) => self.steps.insert(step, (index, depth)),
        }
    }
}

/// Returns the depth of an event that comes so many after one with a depth, if it goes on by one for each.
fn gone_on(depth: i64, count: usize) -> i64 {
    depth.saturating_add(i64::try_from(count).unwrap_or(i64::MAX))
}

/// Returns the event that a place is before.
pub(super) fn event_at(room: &Room, position: TimelinePosition) -> Option<EventId> {
    room.event_id_at(position.index)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{Depths, Order, RUN_MAX, Run, TimelinePosition};

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
                order.depths.set(index, position.depth);
                // One in five is not shown; to add one once more changes nothing.
                if index % 5 > 0 {
                    order.insert(position);
                    order.insert(position);
                    wanted.insert(position);
                }
            }
            assert!(order.runs.values().all(|run| run.len() <= RUN_MAX));
            assert!((0..count).all(|index| order.depths.get(index) == depth(index)));
            let ends = [TimelinePosition::START, TimelinePosition::END];
            let places = (0..count).step_by(97).map(|index| TimelinePosition { depth: depth(index), index });
            for from in places.chain(ends) {
                assert!(order.forward(from).eq(wanted.range(from..).copied()), "from {from} on");
                assert!(order.backward(from).eq(wanted.range(..from).rev().copied()), "before {from}");
            }
        }
    }

    #[test]
    fn runs_of_new_events_are_full_and_take_no_memory_for_each() {
        let mut order = Order::default();
        for index in 0..3 * RUN_MAX {
            order.depths.set(index, index as i64);
            order.insert(TimelinePosition { depth: index as i64, index });
        }
        assert_eq!(order.runs.values().map(Run::len).collect::<Vec<_>>(), [RUN_MAX; 3]);
        assert!(order.runs.values().all(|run| matches!(run, Run::Straight { .. })));
        assert_eq!(order.depths.steps, [(0, 0)]);
    }

    #[test]
    fn depths_are_what_they_were_set_to_last() {
        let (mut depths, mut wanted) = (Depths::default(), Vec::new());
        for index in 0..200_usize {
            let depth = (index * 7919 % 10) as i64 + if index % 50 < 25 { index as i64 } else { 0 };
            depths.set(index, depth);
            wanted.push(depth);
        }
        for index in (0..200).step_by(7).chain([199, 0]) {
            depths.set(index, -5);
            wanted[index] = -5;
            assert!(wanted.iter().enumerate().all(|(index, depth)| depths.get(index) == *depth));
        }
        assert_eq!(depths.get(200), 0);
    }
}
