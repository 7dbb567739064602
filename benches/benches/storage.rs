//! What it costs to append a room's events with all that follows from them, durably, and to load the room again, on each engine.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::{path::Path, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ravel_backends::Engine;
use ravel_benches::{judged, recorded_room, verified};
use ravel_core::room::PersistEvent;
use ravel_store::{Durability, MemoryStore, Store, block_on, log::EventLog};

/// How many events go into one durable commit.
const EVENTS_PER_COMMIT: usize = 50;

fn open(engine: Option<Engine>, folder: &Path) -> Arc<dyn Store> {
    match engine {
        Some(engine) => engine.open(&folder.join("db")).expect("an empty folder becomes a database"),
        None => Arc::new(MemoryStore::new()),
    }
}

fn storage(criterion: &mut Criterion) {
    let recorded = recorded_room("forged-20-v12").expect("the recorded rooms are there");
    let (room_id, rules) = (&recorded.room_id, recorded.room_version.rules());
    let (_, events) = judged(&recorded, &verified(&recorded));
    let append = |store: Arc<dyn Store>, events: &[PersistEvent]| {
        let log = block_on(EventLog::open(store)).expect("the log opens");
        for events in events.chunks(EVENTS_PER_COMMIT) {
            block_on(log.append(room_id, rules, events, Durability::Sync)).expect("the log takes events");
        }
        log
    };
    for engine in [None].into_iter().chain(Engine::ALL.iter().copied().map(Some)) {
        let name = engine.map_or("memory", Engine::name);
        let mut group = criterion.benchmark_group(format!("storage/{name}/forged-20-v12"));
        group.throughput(Throughput::Elements(events.len() as u64)).sample_size(20);
        group.bench_function("append", |bencher| {
            let setup = || {
                let folder = tempfile::tempdir().expect("a temporary folder");
                (open(engine, folder.path()), folder)
            };
            let routine = |(store, folder)| (append(store, &events), folder);
            bencher.iter_batched(setup, routine, BatchSize::PerIteration);
        });
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = append(open(engine, folder.path()), &events);
        group.bench_function("load", |bencher| {
            bencher.iter(|| block_on(log.load_room(room_id)).expect("the room loads"));
        });
        group.finish();
    }
}

criterion_group!(benches, storage);
criterion_main!(benches);
