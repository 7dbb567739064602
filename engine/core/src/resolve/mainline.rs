//! The mainline ordering.

use hashbrown::HashMap;

use super::{DecidedBy, OrderedEvent, Recorder, Step, index_hash::IndexHashes, steps::Rank};
use crate::{
    graph::{EventGraph, EventIndex},
    id::EventId,
};

/// The comparison relation of the ordering: the mainline position (greater first, so that the distance from the oldest is
/// ascending), `origin_server_ts`, event id.
type MainlineKey<'a> = (usize, i64, &'a EventId);

/// Sorts events by the *mainline ordering* based on a power levels event (`None`: an empty mainline), and records it.
///
/// An event's position is that of the first event on the mainline in its chain of power levels events, infinite if there is none.
/// O(e log e + p) for e events and p power levels events in their chains, each walked once.
pub(super) fn mainline_order(
    graph: &EventGraph,
    events: Vec<EventIndex>,
    power_levels: Option<EventIndex>,
    recorder: &mut impl Recorder,
) -> Vec<EventIndex> {
    let mut positions = Positions::of_mainline(graph, power_levels);
    let length = positions.mainline.len();
    recorder.record(|| Step::Mainline {
        events: positions.mainline.iter().map(|index| graph.event(*index).event_id.clone()).collect(),
    });
    let mut keyed: Vec<(MainlineKey<'_>, EventIndex)> = events
        .into_iter()
        .map(|index| {
            let event = graph.event(index);
            let position = positions.of(graph, index);
            // Infinite comes first.
            let from_oldest = position.map_or(0, |position| length - position);
            ((from_oldest, event.origin_server_ts_ms, &event.event_id), index)
        })
        .collect();
    keyed.sort_unstable();
    recorder.record(|| step(&keyed, length));
    keyed.into_iter().map(|(_, index)| index).collect()
}

fn step(keyed: &[(MainlineKey<'_>, EventIndex)], length: usize) -> Step {
    let mut previous: Option<&MainlineKey<'_>> = None;
    let events = keyed.iter().map(|(key, _)| {
        let decided_by = previous.replace(key).map(|previous| match (previous.0 == key.0, previous.1 == key.1) {
            (false, _) => DecidedBy::MainlinePosition,
            (true, false) => DecidedBy::Timestamp,
            (true, true) => DecidedBy::EventId,
        });
        let (from_oldest, origin_server_ts_ms, event_id) = *key;
        let rank = Rank::MainlinePosition((from_oldest > 0).then(|| length - from_oldest));
        OrderedEvent { event_id: event_id.clone(), rank, origin_server_ts_ms, decided_by }
    });
    Step::MainlineOrder { events: events.collect() }
}

/// Positions on the mainline, of the mainline's events and of those already asked for; `None` is infinite.
struct Positions {
    mainline: Vec<EventIndex>,
    known: HashMap<EventIndex, Option<usize>, IndexHashes>,
}

impl Positions {
    fn of_mainline(graph: &EventGraph, power_levels: Option<EventIndex>) -> Self {
        let mainline: Vec<_> = std::iter::successors(power_levels, |index| graph.power_levels(*index)).collect();
        let known = mainline.iter().copied().zip((0..).map(Some)).collect();
        Self { mainline, known }
    }

    fn of(&mut self, graph: &EventGraph, index: EventIndex) -> Option<usize> {
        let mut walked = Vec::new();
        let mut next = graph.power_levels(index);
        let mut position = None;
        while let Some(index) = next {
            if let Some(known) = self.known.get(&index) {
                position = *known;
                break;
            }
            walked.push(index);
            next = graph.power_levels(index);
        }
        self.known.extend(walked.into_iter().map(|index| (index, position)));
        position
    }
}
