//! One resolution of a generated room, for counting its instructions: see `benches/callgrind`.
//!
//! The room is resolved once to warm up, as in a server that has resolved something there before, and once in
//! [`measured_resolution`], the function in which instructions are counted. What becomes of the result is not counted.
#![allow(clippy::print_stdout, reason = "a program")]

use std::{env, hint::black_box, process::ExitCode};

use ravel_core::{
    graph::EventGraph,
    resolve::{Silent, resolve},
    room_version::RoomVersion,
    state::StateMap,
};
use ravel_proptests::rooms::Shape;

/// The cases by name: members, conflicted events, changes of power levels by each fork.
const CASES: [(&str, [usize; 3]); 3] = [
    ("1000-members-22-conflicted", [1_000, 22, 1]),
    ("10000-members-2002-conflicted", [10_000, 2_002, 1]),
    ("10000-members-204-conflicted-900-chained", [10_000, 204, 900]),
];

#[inline(never)]
fn measured_resolution(graph: &EventGraph, states: &[&StateMap]) -> StateMap {
    black_box(resolve(graph, states, &mut Silent))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [case, version] = arguments.as_slice() else {
        for (name, _) in CASES {
            println!("{name}");
        }
        return ExitCode::SUCCESS;
    };
    let case = CASES.iter().find(|(name, _)| name == case);
    let (Some((_, [members, conflicted_events, chained_power_changes])), Some(room_version)) =
        (case, RoomVersion::parse(version))
    else {
        println!("usage: callgrind CASE ROOM_VERSION; without arguments, the cases are printed");
        return ExitCode::from(2);
    };
    let shape = Shape {
        room_version,
        members: *members,
        conflicted_events: *conflicted_events,
        chained_power_changes: *chained_power_changes,
        ..Shape::default()
    };
    let room = shape.generate().expect("there are rooms of all these shapes");
    let (graph, states) = room.numbered().expect("the graph takes a generated room");
    let states: Vec<&StateMap> = states.iter().collect();
    drop(black_box(resolve(&graph, black_box(&states), &mut Silent)));
    drop(measured_resolution(&graph, black_box(&states)));
    ExitCode::SUCCESS
}
