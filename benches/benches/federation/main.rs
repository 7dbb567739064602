//! How fast a server takes what other servers send: transactions that were signed beforehand are pushed over HTTP, and an event counts
//! when a local user's `/sync` has shown it.
//!
//!     cargo build --release -p ravel-api --bin ravel
//!     cargo bench -p ravel-benches --bench federation -- --binary $PWD/target/release/ravel --rooms 100 --events 50000
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "what is not as expected ends the measurement"
)]

mod client;
mod ravel;
mod remote;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::Parser;
use ravel_core::room_version::RoomVersion;

use crate::{client::Client, ravel::Ravel, remote::Remote};

/// What is pushed.
#[derive(Debug, Parser)]
struct Options {
    /// Into how many rooms.
    #[arg(long, default_value_t = 1)]
    rooms: usize,
    /// How many events in all.
    #[arg(long, default_value_t = 20_000)]
    events: usize,
    /// How many servers push at once, each into rooms of its own; each sends one transaction after the other.
    #[arg(long, default_value_t = 1)]
    servers: usize,
    /// The engine: rocksdb, sled or memory.
    #[arg(long, default_value = "rocksdb")]
    backend: String,
    /// The server's program.
    #[arg(long, default_value = "target/release/ravel")]
    binary: PathBuf,
    /// cargo gives it.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The most events of a transaction.
const PDUS: usize = 50;

fn main() {
    let options = Options::parse();
    // The HTTP client wants one, though nothing is encrypted here.
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(inbound(&options));
}

async fn inbound(options: &Options) {
    let remotes: Vec<Remote> =
        (0..options.servers.max(1)).map(|number| Remote::new(&format!("remote{number}.test"))).collect();
    let ravel = Ravel::start(&options.binary, &options.backend, &remotes);
    let client = Client::register(&ravel).await;
    let mut queues = Vec::new();
    let mut last = BTreeSet::new();
    let rooms_each = options.rooms.div_ceil(remotes.len());
    let events_each = options.events.div_ceil(options.rooms);
    for remote in &remotes {
        let mut rooms = Vec::new();
        for _ in 0..rooms_each {
            let room_id = client.create_room(RoomVersion::V11).await;
            let member = remote.join(&ravel, &room_id, RoomVersion::V11).await;
            rooms.push(member);
        }
        // Each transaction has events of as many rooms as there are.
        let mut chains: Vec<_> = rooms.iter_mut().map(|room| room.messages(remote, events_each)).collect();
        last.extend(chains.iter().filter_map(|chain| chain.last().map(|(event_id, _)| event_id.clone())));
        let mut events = Vec::with_capacity(rooms_each * events_each);
        for number in 0..events_each {
            events.extend(
                chains.iter_mut().filter_map(|chain| chain.get_mut(number)).map(|(_, json)| std::mem::take(json)),
            );
        }
        queues.push(
            events.chunks(PDUS).enumerate().map(|(number, pdus)| remote.transaction(number, pdus)).collect::<Vec<_>>(),
        );
    }
    let total = events_each * rooms_each * remotes.len();
    let since = client.sync_position().await;
    let (before, cpu_before) = (ravel.memory_bytes(), ravel.cpu_seconds());

    let begin = Instant::now();
    let pushing = async {
        let pushes = queues.into_iter().map(|queue| {
            let ravel = &ravel;
            async move {
                let mut slowest = Duration::ZERO;
                for transaction in queue {
                    let begin = Instant::now();
                    transaction.send(ravel).await;
                    slowest = slowest.max(begin.elapsed());
                }
                slowest
            }
        });
        futures_util::future::join_all(pushes).await.into_iter().max().unwrap_or_default()
    };
    let (slowest, ()) = tokio::join!(pushing, client.wait_for(since, last));
    let time = begin.elapsed();
    let rate = total as f64 / time.as_secs_f64();
    println!(
        "{} events into {} rooms by {} servers, {}: {:.2} s, {rate:.0} events/s, {:.0} microseconds of CPU time each; slowest transaction {} ms; memory {} -> {} MB",
        total,
        rooms_each * remotes.len(),
        remotes.len(),
        options.backend,
        time.as_secs_f64(),
        (ravel.cpu_seconds() - cpu_before) * 1e6 / total as f64,
        slowest.as_millis(),
        before >> 20,
        ravel.memory_bytes() >> 20,
    );
}
