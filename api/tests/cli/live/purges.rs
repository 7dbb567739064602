//! Copies while the process that has the source open purges.

use std::{
    path::Path,
    sync::{Condvar, Mutex, atomic::AtomicBool},
};

use ravel_api::recorded_room::RecordedRoom;
use ravel_backends::Engine;
use ravel_core::{
    id::{EventId, RoomId},
    pdu::VerifiedPdu,
    room::{Effect, Receipt, Room},
    room_version::RoomVersion,
};
use ravel_store::{Bytes, Durability, KeyRange, Keyspace, Scan, Store, StoreExt};

use super::*;

fn verified(file: &Path) -> (RoomId, RoomVersion, Vec<VerifiedPdu>) {
    let recorded = RecordedRoom::read(file).unwrap();
    (recorded.room_id.clone(), recorded.room_version, recorded.verified().collect())
}

/// A server that goes on with a long room, purges its history again and again, and joins and purges another room.
struct Server {
    writer: Writer,
    long: (RoomId, RoomVersion, Vec<VerifiedPdu>),
    other: (RoomId, RoomVersion, Vec<VerifiedPdu>),
    received: usize,
}

impl Server {
    fn new(place: &Place) -> Self {
        let (long, other) = (verified(&long_room(place, 3000)), verified(&corpus(FED)));
        Self { writer: Writer::open(place, "sled"), long, other, received: 0 }
    }

    /// Receives the next events of the long room.
    fn receive(&mut self, count: usize) -> Result<(), LogError> {
        let to = (self.received + count).min(self.long.2.len());
        receive(&self.writer.log, &self.long, self.received, to)?;
        self.received = to;
        Ok(())
    }

    fn event_id(&self, place: usize) -> EventId {
        self.long.2[place].event_id().clone()
    }

    /// Purges the history of the long room but for its last events.
    fn purge(&self, kept: usize, progress: impl FnMut(u64, u64)) -> Result<(), LogError> {
        let event_id = self.event_id(self.received - kept);
        block_on(self.writer.log.purge_history(&self.long.0, &event_id, progress)).map(|purged| {
            assert!(purged.unwrap().events > 0);
        })
    }

    /// Joins the other room, or purges it.
    fn join_or_leave(&self, progress: impl FnMut(u64, u64)) -> Result<(), LogError> {
        match block_on(self.writer.log.purge_room(&self.other.0, progress))? {
            Some(_) => Ok(()),
            None => receive(&self.writer.log, &self.other, 0, 40),
        }
    }

    fn contents(&self) -> Vec<(Keyspace, Bytes, Bytes)> {
        contents(&*self.writer.store)
    }
}

fn receive(
    log: &EventLog,
    (room_id, version, pdus): &(RoomId, RoomVersion, Vec<VerifiedPdu>),
    from: usize,
    to: usize,
) -> Result<(), LogError> {
    let loaded = block_on(log.load_room(room_id))?;
    let mut room = loaded.unwrap_or_else(|| Room::new(room_id.clone(), version.rules()));
    let mut events = Vec::new();
    for pdu in &pdus[from..to] {
        let Receipt::Judged(judged) = room.handle_pdu(pdu).unwrap() else { panic!("not judged") };
        events.extend(judged.effects.into_iter().filter_map(|effect| match effect {
            Effect::Persist(event) => Some(*event),
            Effect::Publish(_) => None,
        }));
    }
    block_on(log.append(room_id, room.rules(), &events, Durability::Sync))
}

/// All that a store has, but for who may append.
fn contents(store: &dyn Store) -> Vec<(Keyspace, Bytes, Bytes)> {
    let keyspaces = Keyspace::ALL.iter().filter(|keyspace| **keyspace != Keyspace::Meta);
    let all = keyspaces.flat_map(|keyspace| {
        let items = block_on(store.scan_all(Scan::new(*keyspace, KeyRange::all()))).unwrap();
        items.into_iter().map(|(key, value)| (*keyspace, key, value))
    });
    all.collect()
}

fn target_of(place: &Place) -> String {
    format!("sled:{}", place.path("copy").display())
}

#[track_caller]
fn check_same(place: &Place, source: &[(Keyspace, Bytes, Bytes)]) {
    assert!(ravel(&["verify", "-d", &target_of(place)]).ok().contains("all is well"));
    let began = Instant::now();
    let target = loop {
        match Engine::Sled.open(&place.path("copy")) {
            Ok(target) => break target,
            Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
        }
    };
    assert!(contents(&*target) == source);
}

/// Whatever is purged meanwhile: copies are equal, and at last one is switched to.
#[test]
fn a_copy_is_equal_and_switched_to_while_the_source_purges() {
    let place = Place::new();
    let mut server = Server::new(&place);
    let (from, to) = (place.database("sled"), target_of(&place));
    server.receive(600).unwrap();
    // How often something is purged while a command runs: a room that is purged all the time, faster than it is read, is never equal.
    let (purges_left, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let server = thread::scope(|scope| {
        let running = scope.spawn(|| {
            let error = loop {
                let is_purging = purges_left.load(Ordering::SeqCst) > 0;
                let round = if is_purging {
                    purges_left.fetch_sub(1, Ordering::SeqCst);
                    let purged = server.receive(3).and_then(|()| server.purge(5, |_, _| {}));
                    purged.and_then(|()| server.join_or_leave(|_, _| {}))
                } else {
                    thread::sleep(Duration::from_millis(50));
                    server.receive(1)
                };
                if let Err(error) = round {
                    break error;
                }
                assert!(server.received < 3000 && !stop.load(Ordering::SeqCst), "it was not stopped by the switch");
            };
            assert!(matches!(error, LogError::Moved { .. }), "{error}");
            server
        });
        for switch in [None, None, None, None, None, Some("--switch")] {
            purges_left.store(25, Ordering::SeqCst);
            let arguments = ["copy", "--from", &from, "--to", &to, "--json"].into_iter().chain(switch);
            let run = ravel(&arguments.collect::<Vec<_>>());
            stop.store(run.code != 0, Ordering::SeqCst);
            assert_eq!(run.code, 0, "{run:?}");
            let result: serde_json::Value = serde_json::from_str(run.stdout.lines().next().unwrap()).unwrap();
            assert_eq!(result["equal"], json!(true));
            assert!(result["copied"].as_u64().unwrap() > 0);
        }
        running.join().unwrap()
    });
    check_same(&place, &server.contents());
}

#[test]
fn a_copy_follows_purges() {
    let place = Place::new();
    let mut server = Server::new(&place);
    let (from, to) = (place.database("sled"), target_of(&place));
    server.receive(100).unwrap();
    server.join_or_leave(|_, _| {}).unwrap();
    let mut following = spawn(&["copy", "--from", &from, "--to", &to, "--follow"]);
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().starts_with("following: "));
    for _ in 0..10 {
        server.receive(15).unwrap();
        server.purge(20, |_, _| {}).unwrap();
        server.join_or_leave(|_, _| {}).unwrap();
    }
    server.purge(3, |_, _| {}).unwrap();
    let replica = || {
        let store = || live::RemoteStore::connect(&place.path("copy")).unwrap().unwrap();
        (block_on(EventLog::open(Arc::new(store()))).unwrap().len(), contents(&store()))
    };
    let began = Instant::now();
    while replica() != (server.writer.log.len(), server.contents()) {
        assert!(began.elapsed() < Duration::from_secs(20), "it does not follow");
        thread::sleep(Duration::from_millis(10));
    }
    following.kill().unwrap();
    following.wait().unwrap();
    server.join_or_leave(|_, _| {}).unwrap();
    ravel(&["copy", "--from", &from, "--to", &to, "--switch"]).ok();
    check_same(&place, &server.contents());
}

/// A purge that goes on for some time while copies are made: they wait for it. A switch does not stop it.
#[test]
fn a_purge_under_way_is_waited_for() {
    for switch in [None, Some("--switch")] {
        for whole_room in [false, true] {
            let place = Place::new();
            let mut server = Server::new(&place);
            let (from, to) = (place.database("sled"), target_of(&place));
            server.receive(700).unwrap();
            server.join_or_leave(|_, _| {}).unwrap();
            // The copy begins when the purge is decided.
            let (decided, changed) = (Mutex::new(false), Condvar::new());
            thread::scope(|scope| {
                scope.spawn(|| {
                    let mut pause = Some(Duration::from_secs(2));
                    let progress = |_, _| {
                        *decided.lock().unwrap() = true;
                        changed.notify_all();
                        if let Some(pause) = pause.take() {
                            thread::sleep(pause);
                        }
                    };
                    if whole_room { server.join_or_leave(progress) } else { server.purge(10, progress) }.unwrap();
                });
                drop(changed.wait_while(decided.lock().unwrap(), |decided| !*decided).unwrap());
                let arguments = ["copy", "--from", &from, "--to", &to].into_iter().chain(switch);
                let copied = ravel(&arguments.collect::<Vec<_>>()).ok();
                assert!(copied.contains("every room's fingerprints are equal"), "{copied}");
            });
            check_same(&place, &server.contents());
        }
    }
}

/// A purge that was interrupted, with nobody there to go on with it: who copies does.
#[test]
fn an_interrupted_purge_is_copied() {
    for whole_room in [false, true] {
        let place = Place::new();
        let mut server = Server::new(&place);
        let (from, to) = (place.database("sled"), target_of(&place));
        server.receive(700).unwrap();
        server.join_or_leave(|_, _| {}).unwrap();
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let progress = |_, _| panic!("killed");
            if whole_room { server.join_or_leave(progress) } else { server.purge(10, progress) }
        }));
        assert!(killed.is_err());
        drop(server);
        ravel(&["copy", "--from", &from, "--to", &to, "--switch"]).ok();
        ravel(&["purge", "-d", &from, "--resume"]).ok();
        let began = Instant::now();
        let source = loop {
            match Engine::Sled.open(&place.path("sled")) {
                Ok(source) => break contents(&*source),
                Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
            }
        };
        check_same(&place, &source);
    }
}
