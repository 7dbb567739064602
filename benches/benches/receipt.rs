//! What it costs to receive an event: format, signatures and hash, and the judgment in the room.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ravel_benches::{ROOMS, judged, recorded_room, verified};
use ravel_core::pdu::ParsedPdu;

fn receipt(criterion: &mut Criterion) {
    for name in ROOMS {
        let room = recorded_room(name).expect("the recorded rooms are there");
        let rules = room.room_version.rules();
        let pdus = verified(&room);
        let mut group = criterion.benchmark_group(format!("receipt/{name}"));
        group.throughput(Throughput::Elements(room.events.len() as u64));
        group.bench_function("parse", |bencher| {
            bencher.iter(|| {
                for event in &room.events {
                    let _ = black_box(ParsedPdu::parse(event.pdu.get().as_bytes(), rules));
                }
            });
        });
        group.bench_function("verify", |bencher| {
            let parsed: Vec<_> = room
                .events
                .iter()
                .filter_map(|event| ParsedPdu::parse(event.pdu.get().as_bytes(), rules).ok())
                .collect();
            let verify = |parsed: Vec<ParsedPdu>| {
                parsed.into_iter().filter_map(|pdu| pdu.verify(&room.keys, i64::MAX).ok()).count()
            };
            bencher.iter_batched(|| parsed.clone(), verify, BatchSize::LargeInput);
        });
        group.bench_function("judge", |bencher| bencher.iter(|| judged(&room, &pdus)));
        group.finish();
    }
}

criterion_group!(benches, receipt);
criterion_main!(benches);
