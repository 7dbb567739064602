//! The mainline ordering.

use super::{DecidedBy, OrderedEvent, Recorder, Step, number_map::NumberMap, steps::Rank};
use crate::graph::{EventGraph, EventIndex};

/// What the ordering compares: the mainline position (as its distance from the oldest, where infinite comes first),
/// `origin_server_ts`; then the event id.
type MainlineKey = (usize, i64);

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
    recorder
        .record(|| Step::Mainline { events: positions.mainline.iter().map(|index| graph.event_id(*index)).collect() });
    let mut keyed: Vec<(MainlineKey, EventIndex)> = events
        .into_iter()
        .map(|index| {
            let position = positions.of(graph, index);
            let from_oldest = position.map_or(0, |position| length - position);
            ((from_oldest, graph.origin_server_ts_ms(index)), index)
        })
        .collect();
    keyed.sort_unstable_by(|(key, index), (other_key, other)| {
        key.cmp(other_key).then_with(|| graph.compare_ids(*index, *other))
    });
    recorder.record(|| step(graph, &keyed, length));
    keyed.into_iter().map(|(_, index)| index).collect()
}

fn step(graph: &EventGraph, keyed: &[(MainlineKey, EventIndex)], length: usize) -> Step {
    let mut previous: Option<&MainlineKey> = None;
    let events = keyed.iter().map(|(key, index)| {
        let decided_by = previous.replace(key).map(|previous| match (previous.0 == key.0, previous.1 == key.1) {
            (false, _) => DecidedBy::MainlinePosition,
            (true, false) => DecidedBy::Timestamp,
            (true, true) => DecidedBy::EventId,
        });
        let (from_oldest, origin_server_ts_ms) = *key;
        let rank = Rank::MainlinePosition((from_oldest > 0).then(|| length - from_oldest));
        OrderedEvent { event_id: graph.event_id(*index), rank, origin_server_ts_ms, decided_by }
    });
    Step::MainlineOrder { events: events.collect() }
}

/// Positions on the mainline, of the mainline's events and of those already asked for.
struct Positions {
    mainline: Vec<EventIndex>,
    known: NumberMap<Position>,
}

#[derive(Clone, Copy, Default)]
enum Position {
    #[default]
    Unknown,
    Infinite,
    At(usize),
}

impl Positions {
    fn of_mainline(graph: &EventGraph, power_levels: Option<EventIndex>) -> Self {
        let mainline: Vec<_> = std::iter::successors(power_levels, |index| graph.power_levels(*index)).collect();
        let mut known = NumberMap::around(mainline.iter().map(|index| index.as_usize()));
        for (position, index) in mainline.iter().enumerate() {
            *known.entry(index.as_usize()) = Position::At(position);
        }
        Self { mainline, known }
    }

    /// Returns the position of an event, `None` if it is infinite.
    fn of(&mut self, graph: &EventGraph, index: EventIndex) -> Option<usize> {
        let mut walked = Vec::new();
        let mut next = graph.power_levels(index);
        let mut position = Position::Infinite;
        while let Some(index) = next {
            match self.known.get(index.as_usize()) {
                Position::Unknown => walked.push(index),
                known => {
                    position = known;
                    break;
                }
            }
            next = graph.power_levels(index);
        }
        for index in walked {
            *self.known.entry(index.as_usize()) = position;
        }
        match position {
            Position::At(position) => Some(position),
            Position::Unknown | Position::Infinite => None,
        }
    }
}
