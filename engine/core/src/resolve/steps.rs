//! What a resolution tells about itself.

use super::EventSet;
use crate::{
    event::StateKey,
    event_auth::{PowerLevel, Refusal},
    graph::{EventGraph, EventIndex, KeyIndex},
    id::EventId,
};

/// Is told each step of a resolution.
pub trait Recorder {
    /// Takes several steps, or never calls `steps`.
    fn record_all(&mut self, steps: impl FnOnce() -> Vec<Step>);

    /// Takes a step, or never calls `step`.
    fn record(&mut self, step: impl FnOnce() -> Step) {
        self.record_all(|| vec![step()]);
    }
}

/// Records nothing, at no cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Recorder for Silent {
    fn record_all(&mut self, _: impl FnOnce() -> Vec<Step>) {}
}

/// Keeps every step, in order.
#[derive(Clone, Debug, Default)]
pub struct Steps(pub Vec<Step>);

impl Recorder for Steps {
    fn record_all(&mut self, steps: impl FnOnce() -> Vec<Step>) {
        self.0.extend(steps());
    }
}

/// One step of a resolution.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The states differ at a key.
    Conflict {
        /// The key.
        key: StateKey,
        /// The events that the states have there, each once.
        candidates: Vec<EventId>,
        /// Some state has no event there.
        absent_from_some: bool,
    },
    /// The auth difference, without the candidates.
    AuthDifference {
        /// Oldest first.
        events: Vec<EventId>,
    },
    /// The conflicted state subgraph (room version 12), the candidates included.
    ConflictedStateSubgraph {
        /// Oldest first.
        events: Vec<EventId>,
    },
    /// The power events in the order in which they are checked.
    PowerOrder {
        /// First to last.
        events: Vec<OrderedEvent>,
    },
    /// The mainline.
    Mainline {
        /// The power levels in force first, then what they are based on.
        events: Vec<EventId>,
    },
    /// The other events in the order in which they are checked.
    MainlineOrder {
        /// First to last.
        events: Vec<OrderedEvent>,
    },
    /// Candidates for a key in the order of room version 1.
    DepthOrder {
        /// The key.
        key: StateKey,
        /// First to last.
        events: Vec<OrderedEvent>,
    },
    /// An event was checked against the state so far.
    Check {
        /// In which list it was.
        phase: Phase,
        /// The event.
        event_id: EventId,
        /// The key that it holds if allowed.
        key: StateKey,
        /// Allowed, or the rule that refused it; `None` for an event that was rejected when it was received.
        result: Option<Result<(), Refusal>>,
    },
    /// What holds a conflicted key in the end.
    Outcome {
        /// The key.
        key: StateKey,
        /// The event, or `None` if none was allowed.
        event_id: Option<EventId>,
    },
}

/// Which list an event is checked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Power events, in reverse topological power ordering.
    PowerEvents,
    /// The others, in mainline ordering.
    OtherEvents,
    /// Room version 1.
    ByDepth,
}

/// An event's place in an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderedEvent {
    /// The event.
    pub event_id: EventId,
    /// What is compared first.
    pub rank: Rank,
    /// What is compared next.
    pub origin_server_ts_ms: i64,
    /// Why it comes after the one before it; `None` for the first.
    pub decided_by: Option<DecidedBy>,
}

/// What an order compares first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rank {
    /// The sender's power level by the event's own auth events; the higher comes first.
    PowerLevel(PowerLevel),
    /// The mainline position, `None` for infinite; the greater comes first.
    MainlinePosition(Option<usize>),
    /// The depth (room version 1).
    Depth(i64),
}

impl From<PowerLevel> for Rank {
    fn from(level: PowerLevel) -> Self {
        Self::PowerLevel(level)
    }
}

/// What put an event after the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecidedBy {
    /// It had to wait for an event that it cites.
    AuthEdges,
    /// Its sender has less power.
    PowerLevel,
    /// It is based on newer power levels.
    MainlinePosition,
    /// It is deeper in the DAG, or less deep, as the order wants (room version 1).
    Depth,
    /// Its `origin_server_ts` is later.
    Timestamp,
    /// Its event id (room version 1: the SHA-1 of it) is greater.
    EventId,
}

pub(super) fn ids(graph: &EventGraph, events: &EventSet) -> Vec<EventId> {
    events.iter().map(|index| graph.event_id(index)).collect()
}

/// Records what holds each of the keys in the end, sorted by key.
pub(super) fn record_outcomes(
    graph: &EventGraph,
    outcomes: &[(KeyIndex, Option<EventIndex>)],
    recorder: &mut impl Recorder,
) {
    recorder.record_all(|| {
        let mut outcomes: Vec<_> = outcomes.iter().map(|(key, held)| (graph.state_key(*key), held)).collect();
        outcomes.sort_unstable();
        let steps = outcomes
            .into_iter()
            .map(|(key, held)| Step::Outcome { key, event_id: held.map(|index| graph.event_id(index)) });
        steps.collect()
    });
}
