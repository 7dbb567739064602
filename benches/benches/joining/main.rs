//! How long it takes to join a large room of another server, how much memory that needs, and how long others wait meanwhile.
//!
//!     cargo bench -p ravel-benches --bench joining -- --members 20000
//!
//! The other server is made up: its answer is built and signed beforehand, by as many servers as there are.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "it is made for this, and tells what it found"
)]

mod room;

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Parser;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use ravel_backends::Engine;
use ravel_core::{
    canonical_json::CanonicalJsonObject,
    id::{KeyId, RoomId, ServerName, UserId},
    room_version::RoomVersion,
    signing::{KeyRing, SigningKey},
};
use ravel_homeserver::{
    clock::SystemClock,
    federation::{Pauses, ServerFilter, keys::KeyStoreConfig},
    homeserver::{Homeserver, HomeserverConfig},
    media::MediaConfig,
    network::{Network, NetworkError, RequestLimits},
    random::OsRandom,
    rooms::{CreateRoom, Preset, SendEvent},
    sync::SyncRequest,
};
use ravel_store::{Durability, MemoryStore, Store, log::EventLog};

use crate::room::GivenRoom;

/// What is joined.
#[derive(Debug, Parser)]
struct Options {
    /// How many members the room has.
    #[arg(long, default_value_t = 20_000)]
    members: usize,
    /// Of how many servers.
    #[arg(long, default_value_t = 500)]
    servers: usize,
    /// The engine: rocksdb, sled or memory.
    #[arg(long, default_value = "rocksdb")]
    backend: String,
    /// cargo gives it.
    #[arg(long, hide = true)]
    bench: bool,
}

/// The server that joins.
const NAME: &str = "ravel.test";

/// Answers what a resident of the room answers.
struct Resident(GivenRoom);

impl Network for Resident {
    fn send<'a>(
        &'a self,
        _: &'a ServerName,
        request: Request<Bytes>,
        _: RequestLimits,
    ) -> BoxFuture<'a, Result<Response<Bytes>, NetworkError>> {
        let body = if request.uri().path().contains("/make_join/") {
            self.0.template(request.uri().path().rsplit('/').next().unwrap())
        } else {
            self.0.answer(request.body())
        };
        Box::pin(async { Ok(Response::new(body)) })
    }
}

fn main() {
    let options = Options::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure(&options));
}

async fn measure(options: &Options) {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = match options.backend.as_str() {
        "memory" => Arc::new(MemoryStore::new()),
        "sled" => Engine::Sled.open(folder.path()).unwrap(),
        _ => Engine::RocksDb.open(folder.path()).unwrap(),
    };
    let begun = Instant::now();
    let given = GivenRoom::new(options.members, options.servers);
    let (room_id, resident, bytes) = (given.room_id.clone(), given.resident.clone(), given.bytes());
    println!(
        "{} members of {} servers, {} MB, made in {:.1} s",
        options.members,
        options.servers,
        bytes >> 20,
        seconds(begun)
    );
    let keys = given.keys();
    let homeserver = open(store, given, &keys).await;
    let user = |name: &str| UserId::parse(&format!("@{name}:{NAME}")).unwrap();
    let busy = tokio::spawn(others(homeserver.clone(), user("others")));

    let before = memory_bytes("VmRSS");
    fs::write("/proc/self/clear_refs", "5").ok();
    let begun = Instant::now();
    homeserver.join(&user("alice"), &room_id, &[resident], CanonicalJsonObject::new()).await.unwrap();
    let time = seconds(begun);
    let peak = memory_bytes("VmHWM");
    let mut waits = {
        busy.abort();
        WAITS.lock().unwrap().clone()
    };
    waits.sort_unstable();
    let p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or_default();
    println!(
        "joined in {time:.2} s with {}; memory {} MB before, {} MB at most; {} messages of others meanwhile, sent and shown, p99 {} ms, slowest {} ms",
        options.backend,
        before >> 20,
        peak >> 20,
        waits.len(),
        p99.as_millis(),
        waits.last().copied().unwrap_or_default().as_millis(),
    );
    let state = homeserver.rooms.state(&room_id, &user("alice")).await.unwrap();
    assert_eq!(state.len(), options.members + 4, "the room as it was, and the new member");
    std::process::exit(0);
}

async fn open(store: Arc<dyn Store>, given: GivenRoom, keys: &KeyRing) -> Homeserver {
    let log = Arc::new(EventLog::open(store).await.unwrap());
    log.put_server_keys(keys, Durability::Sync).await.unwrap();
    let config = HomeserverConfig {
        server_name: ServerName::parse(NAME).unwrap(),
        signing_key: SigningKey::from_seed(KeyId::parse("ed25519:1").unwrap(), &[1; 32]),
        cheap_password_hashes: true,
        keys: KeyStoreConfig::default(),
        pauses: Pauses::default(),
        servers: ServerFilter::default(),
        media: MediaConfig::default(),
    };
    let network = Arc::new(Resident(given));
    let opened = Homeserver::open(config, log, Arc::new(SystemClock), Arc::new(OsRandom), network).await;
    // Nothing is sent to anybody.
    let (homeserver, mut to_send) = opened.unwrap();
    tokio::spawn(async move { while to_send.recv().await.is_some() {} });
    homeserver
}

/// How long each message took until its sender's sync showed it.
static WAITS: std::sync::Mutex<Vec<Duration>> = std::sync::Mutex::new(Vec::new());

/// Sends messages into a room of this server and waits until they are shown, one after the other.
async fn others(homeserver: Homeserver, user: UserId) {
    let wanted = CreateRoom {
        room_version: RoomVersion::V11,
        preset: Preset::PublicChat,
        creation_content: CanonicalJsonObject::new(),
        power_level_content_override: CanonicalJsonObject::new(),
        initial_state: Vec::new(),
        name: None,
        topic: None,
        invite: Vec::new(),
        is_direct: false,
        member_content: CanonicalJsonObject::new(),
    };
    let room_id: RoomId = homeserver.rooms.create(&user, wanted).await.unwrap();
    loop {
        let content = CanonicalJsonObject::from([("body".into(), "hi".into())]);
        let event = SendEvent { event_type: "m.room.message".to_owned(), state_key: None, content, redacts: None };
        let begun = Instant::now();
        let since = Some(homeserver.syncs.now());
        homeserver.rooms.send(&room_id, &user, event).await.unwrap();
        let timeout = Duration::from_secs(60);
        let news =
            homeserver.syncs.sync(&user, SyncRequest { since, timeout, ..SyncRequest::default() }).await.unwrap();
        assert!(news.rooms.joined.contains_key(&room_id), "the message is shown");
        WAITS.lock().unwrap().push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

/// Returns what the system says of this program's memory.
fn memory_bytes(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}
