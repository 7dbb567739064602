//! The reverse topological power ordering.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use super::{DecidedBy, EventSet, OrderedEvent, Step};
use crate::{
    event_auth::{Levels, PowerLevel},
    graph::{EventGraph, EventIndex},
    work::count,
};

/// An event with what the ordering compares: the sender's power level (greater first), `origin_server_ts`, event id.
#[derive(Clone, Copy)]
pub(super) struct Ranked<'g> {
    graph: &'g EventGraph,
    pub(super) index: EventIndex,
    level: PowerLevel,
    origin_server_ts_ms: i64,
}

impl<'g> Ranked<'g> {
    fn new(graph: &'g EventGraph, index: EventIndex) -> Self {
        let origin_server_ts_ms = graph.origin_server_ts_ms(index);
        Self { graph, index, level: power_level_by_auth_events(graph, index), origin_server_ts_ms }
    }
}

impl Ord for Ranked<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        count(1);
        let key = |ranked: &Self| (Reverse(ranked.level), ranked.origin_server_ts_ms);
        key(self).cmp(&key(other)).then_with(|| self.graph.compare_ids(self.index, other.index))
    }
}

impl PartialOrd for Ranked<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Ranked<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ranked<'_> {}

/// Returns the power events of the full conflicted set, and what they reach along auth edges within it.
///
/// "For each such power event P, enlarge X by adding the events in the auth chain of P which also belong to the full conflicted
/// set." Deployed servers walk only through events of the set; so does this.
pub(super) fn power_events_and_their_auth_chains(graph: &EventGraph, full_conflicted_set: &EventSet) -> EventSet {
    let mut pending: Vec<EventIndex> =
        full_conflicted_set.iter().filter(|index| graph.is_power_event(*index)).collect();
    let mut found = EventSet::default();
    while let Some(index) = pending.pop() {
        if found.insert(index) {
            let auth_events = graph.auth_events(index).iter().copied();
            pending.extend(auth_events.filter(|index| full_conflicted_set.contains(*index)));
        }
    }
    found
}

/// Sorts events by the *reverse topological power ordering*: Kahn's algorithm along auth edges, earliest first, always taking the
/// smallest candidate. O(e log e) for e events and their auth edges.
pub(super) fn reverse_topological_power_order<'g>(graph: &'g EventGraph, events: &EventSet) -> Vec<Ranked<'g>> {
    let ranks = events.ranks();
    let mut waiting = Waiting::for_none(ranks.len());
    let mut ready = Ready::default();
    let mut released = Vec::new();
    for (citing, index) in events.iter().enumerate() {
        for cited in graph.auth_events(index).iter().filter_map(|auth_event| ranks.of(*auth_event)) {
            waiting.add(citing, cited);
        }
        if waiting.is_ready(citing) {
            released.push(Ranked::new(graph, index));
        }
    }
    ready.add(&mut released);
    let numbered: Vec<EventIndex> = events.iter().collect();
    let mut ordered = Vec::with_capacity(numbered.len());
    while let Some(ranked) = ready.pop() {
        ordered.push(ranked);
        let Some(done) = ranks.of(ranked.index) else { continue };
        waiting.release(done, |citing| {
            released.extend(numbered.get(citing).map(|index| Ranked::new(graph, *index)));
        });
        ready.add(&mut released);
    }
    ordered
}

/// The events that are ready. Many become so at once, with the power levels that they cite: those are sorted, which is faster than
/// to put one after the other on a heap.
#[derive(Default)]
struct Ready<'g> {
    /// Sorted, the next one at the end.
    many: Vec<Reverse<Ranked<'g>>>,
    few: BinaryHeap<Reverse<Ranked<'g>>>,
}

impl<'g> Ready<'g> {
    /// Takes all of `released`.
    fn add(&mut self, released: &mut Vec<Ranked<'g>>) {
        let released = released.drain(..).map(Reverse);
        // Seldom enough that sorting costs O(e log e) altogether: each time there are more by an eighth.
        if released.len() > 8 && released.len() >= self.many.len() / 8 {
            self.many.extend(released);
            self.many.sort();
        } else {
            self.few.extend(released);
        }
    }

    /// Takes the smallest out.
    fn pop(&mut self) -> Option<Ranked<'g>> {
        let next = if self.few.peek() > self.many.last() { self.few.pop() } else { self.many.pop() };
        next.map(|Reverse(ranked)| ranked)
    }
}

/// Which events wait for which, by their places among the events that are sorted.
struct Waiting {
    /// How many events each still waits for.
    count: Vec<u32>,
    /// For each event the first of the entries of `cited_by` that are about it, as its place + 1; 0 is none.
    first: Vec<u32>,
    /// Who cites, and the next entry about the same cited event.
    cited_by: Vec<(u32, u32)>,
}

impl Waiting {
    fn for_none(events: usize) -> Self {
        Self { count: vec![0; events], first: vec![0; events], cited_by: Vec::with_capacity(events) }
    }

    /// Says that an event waits for one that it cites. All that it cites come one after the other.
    fn add(&mut self, citing: usize, cited: usize) {
        let (Some(count), Some(first), Ok(citing)) =
            (self.count.get_mut(citing), self.first.get_mut(cited), u32::try_from(citing))
        else {
            return;
        };
        // An event may cite another twice.
        let last = (*first as usize).checked_sub(1).and_then(|place| self.cited_by.get(place));
        if last.is_some_and(|(last, _)| *last == citing) {
            return;
        }
        *count += 1;
        self.cited_by.push((citing, *first));
        // Edges of events that fit in memory by their numbers of four bytes, ten each.
        *first = u32::try_from(self.cited_by.len()).unwrap_or(u32::MAX);
    }

    fn is_ready(&self, event: usize) -> bool {
        self.count.get(event) == Some(&0)
    }

    /// Says that an event is done; calls `ready` for each that waited for nothing else.
    fn release(&mut self, cited: usize, mut ready: impl FnMut(usize)) {
        let mut next = self.first.get(cited).copied().unwrap_or(0);
        while let Some((citing, after)) =
            (next as usize).checked_sub(1).and_then(|place| self.cited_by.get(place)).copied()
        {
            count(1);
            next = after;
            if let Some(count) = self.count.get_mut(citing as usize) {
                *count -= 1;
                if *count == 0 {
                    ready(citing as usize);
                }
            }
        }
    }
}

/// Returns the sender's power level "when looking at their respective auth events".
fn power_level_by_auth_events(graph: &EventGraph, index: EventIndex) -> PowerLevel {
    let Some(create) = graph.create() else { return PowerLevel::Finite(0) };
    let power_levels = graph.power_levels(index).map(|index| graph.event(index));
    Levels::of_user(graph.event(create), power_levels, graph.event(index).sender())
}

pub(super) fn step(ordered: &[Ranked<'_>]) -> Step {
    let mut previous: Option<&Ranked<'_>> = None;
    let events = ordered.iter().map(|ranked| {
        let decided_by = previous.replace(ranked).map(|previous| decided_by(previous, ranked));
        OrderedEvent {
            event_id: ranked.graph.event_id(ranked.index),
            rank: ranked.level.into(),
            origin_server_ts_ms: ranked.origin_server_ts_ms,
            decided_by,
        }
    });
    Step::PowerOrder { events: events.collect() }
}

fn decided_by(previous: &Ranked<'_>, ranked: &Ranked<'_>) -> DecidedBy {
    if previous > ranked {
        return DecidedBy::AuthEdges;
    }
    let same_level = previous.level == ranked.level;
    match (same_level, previous.origin_server_ts_ms == ranked.origin_server_ts_ms) {
        (false, _) => DecidedBy::PowerLevel,
        (true, false) => DecidedBy::Timestamp,
        (true, true) => DecidedBy::EventId,
    }
}
