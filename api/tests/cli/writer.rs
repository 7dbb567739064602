//! A process that writes to a database, which here is the test, and what it writes.

use std::{
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ravel_api::recorded_room::RecordedRoom;
use ravel_backends::{Engine, live};
use ravel_core::{
    room::{Effect, PersistEvent, Receipt, Room},
    room_version::RoomVersion,
};
use ravel_store::{
    Durability, Store, block_on,
    log::{EventLog, LogError},
};
use serde_json::json;

use crate::support::{MadeRoom, Place, command, ravel};

/// A room with so many messages, and the file it is recorded in.
pub(crate) fn long_room(place: &Place, messages: usize) -> PathBuf {
    let mut room = MadeRoom::new(RoomVersion::V10);
    let mut last = room.events[1].0.clone();
    for number in 0..messages {
        last = room.message(&format!("message {number}"), &[&last]);
    }
    place.file("long.jsonl", room.to_text()).into()
}

/// The events of a recorded room as they are stored.
pub(crate) fn judged(file: &Path) -> (Room, Vec<PersistEvent>) {
    let recorded = RecordedRoom::read(file).unwrap();
    let mut room = Room::new(recorded.room_id.clone(), recorded.room_version.rules());
    let mut events = Vec::new();
    for pdu in recorded.verified() {
        let Receipt::Judged(judged) = room.handle_pdu(&pdu).unwrap() else { panic!("not judged") };
        events.extend(judged.effects.into_iter().filter_map(|effect| match effect {
            Effect::Persist(event) => Some(*event),
            Effect::Publish(_) => None,
        }));
    }
    (room, events)
}

/// A database that this process has open, and lets others read.
pub(crate) struct Writer {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) log: EventLog,
}

impl Writer {
    pub(crate) fn open(place: &Place, engine: &str) -> Self {
        let path = place.path(engine);
        // A process that is being started by another test may have our lock for a moment.
        let began = Instant::now();
        let store = loop {
            match engine.parse::<Engine>().unwrap().open(&path) {
                Ok(store) => break store,
                Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        let store: Arc<dyn Store> = Arc::new(live::serve(store, &path).unwrap());
        let log = block_on(EventLog::open(store.clone())).unwrap();
        Self { store, log }
    }

    /// Appends events one by one and counts those that were acknowledged, until there is none left or one is refused. A thousand take
    /// a second at least, so that there is time for others, however fast the disk is.
    pub(crate) fn append(&self, room: &Room, events: &[PersistEvent], acknowledged: &AtomicU64) -> Option<LogError> {
        for event in events {
            let event = std::slice::from_ref(event);
            if let Err(error) = block_on(self.log.append(room.room_id(), room.rules(), event, Durability::Sync)) {
                return Some(error);
            }
            acknowledged.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(1));
        }
        None
    }
}

pub(crate) fn spawn(arguments: &[&str]) -> Child {
    command(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub(crate) fn entries(database: &str) -> u64 {
    let verified = ravel(&["verify", "-d", database, "--json"]).json();
    assert_eq!(verified["findings"], json!([]));
    verified["entries"].as_u64().unwrap()
}
