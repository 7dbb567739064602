//! Measuring one resolution, and the rooms that are generated for it.

use std::{hint::black_box, time::Duration};

use cpu_time::ThreadTime;
use ravel_core::{
    graph::EventGraph,
    resolve::{Silent, resolve},
    state::{State, StateMap},
};
use ravel_proptests::{
    plain,
    rooms::Shape,
    ruma::{self, plain_state},
};
use serde_json::{Value, json};

use crate::command::Failure;

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Effort {
    pub(super) warm_up: Duration,
    pub(super) measuring: Duration,
    pub(super) runs_min: usize,
}

/// For a room of its own.
const THOROUGH: Effort =
    Effort { warm_up: Duration::from_millis(100), measuring: Duration::from_millis(500), runs_min: 7 };

/// More runs say nothing new.
const RUNS_MAX: usize = 10_000;

/// CPU times of one resolution, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) min: f64,
    pub(super) q1: f64,
    pub(super) median: f64,
    pub(super) q3: f64,
    pub(super) max: f64,
    pub(super) runs: usize,
}

impl Times {
    /// Measures `run` on what `prepare` makes each time.
    fn of<T>(effort: Effort, mut prepare: impl FnMut() -> T, mut run: impl FnMut(T)) -> Self {
        let mut once = || {
            let input = prepare();
            let started = ThreadTime::now();
            run(input);
            started.elapsed()
        };
        let mut warm_up = Duration::ZERO;
        while warm_up < effort.warm_up {
            warm_up += once();
        }
        let mut times = Vec::new();
        let mut total = Duration::ZERO;
        while times.len() < effort.runs_min || (total < effort.measuring && times.len() < RUNS_MAX) {
            let time = once();
            total += time;
            times.push(time.as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        let last = times.len().saturating_sub(1);
        let at = |quarter: usize| times.get(last * quarter / 4).copied().unwrap_or_default();
        Self { min: at(0), q1: at(1), median: at(2), q3: at(3), max: at(4), runs: times.len() }
    }

    /// Adds the times of another resolution that is done after this one.
    pub(super) fn add(&mut self, other: &Self) {
        self.min += other.min;
        self.q1 += other.q1;
        self.median += other.median;
        self.q3 += other.q3;
        self.max += other.max;
        self.runs += other.runs;
    }

    pub(super) fn spread(&self) -> String {
        let [q1, median, q3, max] = [self.q1, self.median, self.q3, self.max].map(short);
        format!("{median} ({q1}-{q3}, {max})")
    }

    /// Adds the fields of JSON, whose names begin with `name`.
    pub(super) fn put(&self, name: &str, object: &mut Value) {
        let rounded = |time: f64| json!((time * 100.0).round() / 100.0);
        let named = [("", self.median), ("_min", self.min), ("_q1", self.q1), ("_q3", self.q3), ("_max", self.max)];
        for (suffix, time) in named {
            object[format!("{name}_us{suffix}")] = rounded(time);
        }
        object[format!("{name}_runs")] = json!(self.runs);
    }
}

/// Writes a time with as many digits as mean something.
pub(super) fn short(us: f64) -> String {
    if us < 1000.0 { format!("{us:.1}") } else { format!("{us:.0}") }
}

/// Returns how long it takes to read the clock, which is in every measured time.
pub(super) fn clock_us() -> f64 {
    Times::of(THOROUGH, || (), |()| ()).median
}

/// One resolution by Ravel.
#[derive(Debug)]
pub(super) struct ByRavel {
    pub(super) answer: plain::State,
    pub(super) times: Times,
    pub(super) allocations: u64,
}

impl ByRavel {
    pub(super) fn measure(graph: &EventGraph, states: &[&StateMap], effort: Effort) -> Self {
        let once = || resolve(graph, black_box(states), &mut Silent);
        Self {
            answer: State::new(graph, &once()).to_map(),
            times: Times::of(effort, || (), |()| drop(black_box(once()))),
            allocations: allocation_counter::measure(|| drop(black_box(once()))).count_total,
        }
    }
}

/// One resolution by ruma-state-res.
#[derive(Debug)]
pub(super) struct ByRuma {
    pub(super) answer: plain::State,
    pub(super) times: Times,
}

impl ByRuma {
    pub(super) fn measure(
        room: &ruma::Room,
        states: impl IntoIterator<Item = plain::State>,
        effort: Effort,
    ) -> Result<Self, ruma::Error> {
        let input = room.input(states);
        let answer = plain_state(room.run(&input, input.auth_chains())?);
        let run = |auth_chains| drop(black_box(room.run(black_box(&input), auth_chains)));
        Ok(Self { answer, times: Times::of(effort, || input.auth_chains(), run) })
    }
}

/// A row of the table: a generated room.
#[derive(Debug)]
pub(super) struct MeasuredShape {
    pub(super) shape: Shape,
    pub(super) ravel: Times,
    pub(super) ruma: Times,
    pub(super) equal: bool,
    conflicted_events: usize,
    allocations: u64,
    reads: u64,
}

impl MeasuredShape {
    /// The columns of [`line`](Self::line).
    pub(super) fn header() -> String {
        format!(
            "version members forks conflicted users chained | {:<32} {:<40}   ratio allocations reads",
            "ravel", "ruma-state-res"
        )
    }

    pub(super) fn of(shape: &Shape) -> Result<Self, Failure> {
        let room = shape.generate()?;
        let (graph, shared, states) = room.numbered_with_shared()?;
        let ravel = ByRavel::measure(&graph, &states.iter().collect::<Vec<_>>(), THOROUGH);
        let ruma = ByRuma::measure(&ruma::Room::of_generated(&room), room.states(), THOROUGH)?;
        // Last, as what it finds out about the states would make comparing them faster.
        // Where the forks' last events and the states after them are, and the create event, has to be read too.
        let reads = room.resolve_from_records(&graph, &shared, &states).reads + 2 * states.len() as u64 + 1;
        Ok(Self {
            shape: shape.clone(),
            ravel: ravel.times,
            ruma: ruma.times,
            equal: ravel.answer == ruma.answer,
            conflicted_events: room.conflicted_events().len(),
            allocations: ravel.allocations,
            reads,
        })
    }

    fn ratio(&self) -> f64 {
        self.ruma.median / self.ravel.median
    }

    pub(super) fn line(&self) -> String {
        format!(
            "{:>7} {:>7} {:>5} {:>10} {:>5} {:>7} | {:<32} {:<40} {:>7.1} {:>11} {:>5}{}",
            self.shape.room_version.as_str(),
            self.shape.members,
            self.shape.forks,
            self.conflicted_events,
            self.shape.power_users,
            self.shape.chained_power_changes,
            self.ravel.spread(),
            self.ruma.spread(),
            self.ratio(),
            self.allocations,
            self.reads,
            if self.equal { "" } else { "  DIFFERENT ANSWERS" },
        )
    }

    pub(super) fn to_json(&self) -> Value {
        let mut row = json!({
            "room_version": self.shape.room_version.as_str(),
            "members": self.shape.members,
            "forks": self.shape.forks,
            "conflicted_events": self.conflicted_events,
            "power_changes": self.shape.power_changes,
            "power_users": self.shape.power_users,
            "chained_power_changes": self.shape.chained_power_changes,
            "nested": self.shape.nested,
            "disputed": self.shape.disputed,
            "seed": self.shape.seed,
            "ratio": (self.ratio() * 100.0).round() / 100.0,
            "allocations": self.allocations,
            "reads": self.reads,
            "equal": self.equal,
        });
        self.ravel.put("ravel", &mut row);
        self.ruma.put("ruma", &mut row);
        row
    }
}
