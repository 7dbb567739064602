//! `ravel bench resolve`: how long a resolution takes, beside ruma-state-res on the same input in the same run.

use std::{process::ExitCode, time::Duration};

use cpu_time::ThreadTime;
use ravel_core::{
    graph::EventGraph,
    resolve::Silent,
    room_version::RoomVersion,
    state::{State, StateMap},
};
use ravel_proptests::{
    rooms::Shape,
    ruma::{self, plain_state},
};
use serde_json::{Value, json};

use super::{Failure, disagreement};
use crate::output::Output;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// State resolution: the rooms of a fixed table, or one room of the given shape
    Resolve(ResolveOptions),
    /// What a room takes in memory and on disk, and each further change of its state
    Room(super::bench_room::RoomOptions),
}

/// The shape of the room; without any, a fixed table of rooms.
#[derive(Debug, clap::Args)]
pub struct ResolveOptions {
    /// How many users are joined before the forks
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    members: Option<u32>,
    /// How many times the power levels change before the forks
    #[arg(long, default_value_t = 10)]
    power_changes: u32,
    /// How many forks there are
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(2..=1000))]
    forks: u32,
    /// How many events are in conflict, over all forks
    #[arg(long, default_value_t = 22, value_parser = clap::value_parser!(u32).range(2..=1_000_000))]
    conflict: u32,
    /// How many users the power levels name
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=2000))]
    power_users: u32,
    /// How many times each fork changes the power levels
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    chained_power_changes: u32,
    /// The room's version, 2 to 12; without it 11 and 12
    #[arg(long, value_parser = room_version)]
    room_version: Option<RoomVersion>,
    /// Makes another room of the same shape
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

pub(super) fn room_version(text: &str) -> Result<RoomVersion, String> {
    let version = RoomVersion::parse(text).filter(|version| *version != RoomVersion::V1);
    version.ok_or_else(|| "expected a room version from 2 to 12".to_owned())
}

impl ResolveOptions {
    fn shapes(&self) -> Vec<Shape> {
        let versions =
            self.room_version.map_or_else(|| vec![RoomVersion::V11, RoomVersion::V12], |version| vec![version]);
        let rows = match self.members {
            Some(members) => {
                vec![[members, self.forks, self.conflict, self.power_users, self.chained_power_changes]]
            }
            None => TABLE.to_vec(),
        };
        let shapes = versions.into_iter().flat_map(|room_version| {
            rows.iter().map(move |row| {
                let [members, forks, conflicted_events, power_users, chained_power_changes] =
                    row.map(|number| number as usize);
                let power_changes = self.power_changes as usize;
                let seed = self.seed;
                Shape {
                    room_version,
                    members,
                    power_changes,
                    power_users,
                    forks,
                    chained_power_changes,
                    conflicted_events,
                    nested: false,
                    disputed: false,
                    seed,
                }
            })
        });
        shapes.collect()
    }
}

/// Members, forks, conflicted events, users in the power levels, changes of power levels by each fork.
const TABLE: [[u32; 5]; 9] = [
    [100, 2, 22, 10, 1],
    [1_000, 2, 22, 10, 1],
    [10_000, 2, 22, 10, 1],
    [100_000, 2, 22, 10, 1],
    [100_000, 20, 20, 10, 1],
    [10_000, 2, 2_002, 10, 1],
    [10_000, 2, 10_002, 10, 1],
    [10_000, 2, 2_002, 1_000, 1],
    [10_000, 2, 204, 10, 900],
];

/// Measures and prints; exit code 1 if the answers differ.
pub fn resolve(options: &ResolveOptions, output: &mut Output) -> Result<ExitCode, Failure> {
    if !output.is_json() {
        output.line("version members forks conflicted users chained |  ravel us (min-max)          ruma us   ratio  allocations");
    }
    let mut rows = Vec::new();
    let mut all_equal = true;
    for shape in options.shapes() {
        let measured = Measured::of(&shape)?;
        all_equal &= measured.equal;
        if output.is_json() {
            rows.push(measured.to_json(&shape));
        } else {
            output.line(measured.row(&shape));
            output.finish()?;
        }
    }
    if output.is_json() {
        output.value(&Value::Array(rows));
    }
    Ok(if all_equal { ExitCode::SUCCESS } else { disagreement() })
}

/// CPU times of one resolution, in microseconds.
struct Times {
    min: f64,
    median: f64,
    max: f64,
}

impl Times {
    /// Measures until half a second has passed, seven times at least.
    fn of<T>(mut prepare: impl FnMut() -> T, mut run: impl FnMut(T)) -> Self {
        let mut times = Vec::new();
        let mut total = Duration::ZERO;
        while times.len() < 7 || (total < Duration::from_millis(500) && times.len() < 10_000) {
            let input = prepare();
            let started = ThreadTime::now();
            run(input);
            let time = started.elapsed();
            total += time;
            times.push(time.as_secs_f64() * 1e6);
        }
        times.sort_by(f64::total_cmp);
        let at = |place: usize| times.get(place).copied().unwrap_or_default();
        Self { min: at(0), median: at(times.len() / 2), max: at(times.len() - 1) }
    }
}

struct Measured {
    ravel: Times,
    ruma: Times,
    allocations: u64,
    equal: bool,
}

impl Measured {
    /// Measures one room.
    fn of(shape: &Shape) -> Result<Self, Failure> {
        let room = shape.generate()?;
        let (graph, states) = room.numbered()?;
        let states: Vec<&StateMap> = states.iter().collect();
        let ruma_room = ruma::Room::of_generated(&room);
        let input = ruma_room.input(room.states());
        let answer = ruma_room.run(&input, input.auth_chains())?;
        let resolved = resolve_once(&graph, &states);
        let equal = plain_state(answer) == State::new(&graph, &resolved).to_map();
        let ravel = Times::of(|| (), |()| drop(resolve_once(&graph, &states)));
        let allocations = allocation_counter::measure(|| drop(resolve_once(&graph, &states))).count_total;
        let ruma = Times::of(|| input.auth_chains(), |auth_chains| drop(ruma_room.run(&input, auth_chains)));
        Ok(Self { ravel, ruma, allocations, equal })
    }

    fn ratio(&self) -> f64 {
        self.ruma.median / self.ravel.median
    }

    fn row(&self, shape: &Shape) -> String {
        let spread = format!("{:.1} ({:.1}-{:.1})", self.ravel.median, self.ravel.min, self.ravel.max);
        format!(
            "{:>7} {:>7} {:>5} {:>10} {:>5} {:>7} | {spread:<26} {:>10.1} {:>7.0} {:>12}{}",
            shape.room_version.as_str(),
            shape.members,
            shape.forks,
            shape.conflicted_events,
            shape.power_users,
            shape.chained_power_changes,
            self.ruma.median,
            self.ratio(),
            self.allocations,
            if self.equal { "" } else { "  DIFFERENT ANSWERS" },
        )
    }

    fn to_json(&self, shape: &Shape) -> Value {
        json!({
            "room_version": shape.room_version.as_str(),
            "members": shape.members,
            "forks": shape.forks,
            "conflicted_events": shape.conflicted_events,
            "power_users": shape.power_users,
            "chained_power_changes": shape.chained_power_changes,
            "ravel_us": self.ravel.median,
            "ravel_us_min": self.ravel.min,
            "ravel_us_max": self.ravel.max,
            "ruma_us": self.ruma.median,
            "ratio": self.ratio(),
            "allocations": self.allocations,
            "equal": self.equal,
        })
    }
}

fn resolve_once(graph: &EventGraph, states: &[&StateMap]) -> StateMap {
    ravel_core::resolve::resolve(graph, states, &mut Silent)
}
