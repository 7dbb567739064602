//! The mainline ordering.

use super::{DecidedBy, OrderedEvent, Recorder, Step, number_map::NumberMap, steps::Rank};
use crate::graph::{EventGraph, EventIndex};

/// What the ordering compares: the mainline position (as its distance from the oldest, where infinite comes first),
/// `origin_server_ts`; then the event id.
type MainlineKey = (u32, i64);

/// Sorts events by the *mainline ordering* based on a power levels event (`None`: an empty mainline), and records it.
///
/// An event's position is that of the first event on the mainline in its chain of power levels events, infinite if there is none.
/// O(e log e + q log p) for e events that cite q different power levels events, in chains of p.
pub(super) fn mainline_order(
    graph: &EventGraph,
    events: Vec<EventIndex>,
    power_levels: Option<EventIndex>,
    recorder: &mut impl Recorder,
) -> Vec<EventIndex> {
    let mut mainline = Mainline::new(graph, power_levels, &events);
    recorder.record(|| Step::Mainline {
        events: std::iter::successors(power_levels, |index| graph.power_levels(*index))
            .map(|index| graph.event_id(index))
            .collect(),
    });
    let keyed = events.into_iter().map(|index| {
        let from_oldest = graph.power_levels(index).map_or(0, |cited| mainline.distance_of(cited));
        ((from_oldest, graph.origin_server_ts_ms(index)), index)
    });
    let mut keyed: Vec<(MainlineKey, EventIndex)> = keyed.collect();
    let length = power_levels.map_or(0, |power_levels| graph.power_depth(power_levels));
    keyed.sort_unstable_by(|(key, index), (other_key, other)| {
        crate::work::count(1);
        key.cmp(other_key).then_with(|| graph.compare_ids(*index, *other))
    });
    recorder.record(|| step(graph, &keyed, length));
    keyed.into_iter().map(|(_, index)| index).collect()
}

fn step(graph: &EventGraph, keyed: &[(MainlineKey, EventIndex)], length: u32) -> Step {
    let mut previous: Option<&MainlineKey> = None;
    let events = keyed.iter().map(|(key, index)| {
        let decided_by = previous.replace(key).map(|previous| match (previous.0 == key.0, previous.1 == key.1) {
            (false, _) => DecidedBy::MainlinePosition,
            (true, false) => DecidedBy::Timestamp,
            (true, true) => DecidedBy::EventId,
        });
        let (from_oldest, origin_server_ts_ms) = *key;
        let rank = Rank::MainlinePosition((from_oldest > 0).then(|| (length - from_oldest) as usize));
        OrderedEvent { event_id: graph.event_id(*index), rank, origin_server_ts_ms, decided_by }
    });
    Step::MainlineOrder { events: events.collect() }
}

/// Where chains of power levels events meet a mainline.
struct Mainline<'g> {
    graph: &'g EventGraph,
    /// The power levels that the mainline begins with.
    power_levels: Option<EventIndex>,
    /// What was found out, by the power levels that the chain begins with: the distance from the oldest + 1, 0 is nothing yet.
    known: NumberMap<u32>,
}

impl<'g> Mainline<'g> {
    fn new(graph: &'g EventGraph, power_levels: Option<EventIndex>, events: &[EventIndex]) -> Self {
        // What they cite mostly lies among them or just before.
        Self { graph, power_levels, known: NumberMap::around(events.iter().map(|index| index.as_usize())) }
    }

    /// Returns the distance from the oldest event of the mainline, itself 1, to where the chain of a power levels event meets it; 0 is
    /// nowhere, which is an infinite position.
    fn distance_of(&mut self, cited: EventIndex) -> u32 {
        let known = self.known.entry(cited.as_usize());
        if *known == 0 {
            let depth = self.power_levels.and_then(|newest| self.graph.common_power_depth(newest, cited));
            *known = depth.map_or(1, |depth| depth.saturating_add(1));
        }
        *known - 1
    }
}
