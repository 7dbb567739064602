//! What it costs to resolve every merge of a recorded room, and to edit and compare its states.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ravel_benches::{ROOMS, judged, recorded_room, verified};
use ravel_core::{
    id::EventId,
    resolve::{Silent, resolve},
    room::Room,
    state::StateMap,
};

/// The states after the prev events of every event that has several.
fn merges(room: &Room) -> Vec<Vec<&StateMap>> {
    let with_several = room.events().filter(|(event, _)| event.prev_events.len() > 1);
    let states_after = |prev_events: &[EventId]| {
        let states = prev_events.iter().filter_map(|prev| room.state_after(prev));
        states.map(|state| state.map()).collect()
    };
    with_several.map(|(event, _)| states_after(&event.prev_events)).collect()
}

fn resolution(criterion: &mut Criterion) {
    for name in ROOMS {
        let recorded = recorded_room(name).expect("the recorded rooms are there");
        let (room, _) = judged(&recorded, &verified(&recorded));
        let (graph, merges) = (room.graph(), merges(&room));
        let mut group = criterion.benchmark_group(format!("resolution/{name}"));
        group.throughput(Throughput::Elements(merges.len() as u64));
        group.bench_function("resolve", |bencher| {
            bencher.iter(|| {
                for states in &merges {
                    black_box(resolve(graph, states, &mut Silent));
                }
            });
        });
        group.bench_function("differences", |bencher| {
            bencher.iter(|| {
                for states in &merges {
                    if let [first, second, ..] = states.as_slice() {
                        black_box(first.differences(graph, second));
                    }
                }
            });
        });
        group.finish();
    }
}

criterion_group!(benches, resolution);
criterion_main!(benches);
