//! What it costs to resolve the forks of generated rooms: those that `ravel bench resolve` measures, and ruma-state-res on the same
//! where that takes milliseconds.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::{cell::LazyCell, hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ravel_core::{
    graph::EventGraph,
    resolve::{Silent, resolve},
    room_version::RoomVersion::{V11, V12},
    state::StateMap,
};
use ravel_proptests::{
    rooms::{GeneratedRoom, Shape},
    ruma,
};

/// ruma-state-res takes longer than a bench should in larger rooms, and with power levels of more users.
fn takes_milliseconds(shape: &Shape) -> bool {
    shape.members <= 10_000 && shape.power_users <= 10
}

/// A room with the states to be resolved.
struct Made {
    room: GeneratedRoom,
    graph: EventGraph,
    states: Vec<StateMap>,
}

impl Made {
    fn of(shape: &Shape) -> Self {
        let room = shape.generate().expect("there are rooms of all these shapes");
        let (graph, states) = room.numbered().expect("the graph takes a generated room");
        Self { room, graph, states }
    }
}

fn generated(criterion: &mut Criterion) {
    for shape in [V11, V12].into_iter().flat_map(Shape::measured) {
        let Shape { room_version, members, forks, conflicted_events, power_users, chained_power_changes, .. } = shape;
        let mut group = criterion.benchmark_group(format!(
            "generated-v{room_version}/{members}-members/{forks}-forks/{conflicted_events}-conflicted/{power_users}-users/\
             {chained_power_changes}-chained"
        ));
        group.sample_size(20).warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
        // Made when a bench runs that the command line did not leave out.
        let made = LazyCell::new(|| Made::of(&shape));
        group.bench_function("ravel", |bencher| {
            let Made { graph, states, .. } = &*made;
            let states: Vec<&StateMap> = states.iter().collect();
            bencher.iter(|| black_box(resolve(graph, black_box(&states), &mut Silent)));
        });
        if takes_milliseconds(&shape) {
            group.bench_function("ruma-state-res", |bencher| {
                let ruma_room = ruma::Room::of_generated(&made.room);
                let input = ruma_room.input(made.room.states());
                let run = |auth_chains| ruma_room.run(black_box(&input), auth_chains);
                bencher.iter_batched(|| input.auth_chains(), run, BatchSize::LargeInput);
            });
        }
        group.finish();
    }
}

criterion_group!(benches, generated);
criterion_main!(benches);
