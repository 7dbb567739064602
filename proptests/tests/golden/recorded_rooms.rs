//! Recorded rooms replayed on every backend: the states before merges, and the whole view of each server, must be the recorded ones.

use std::{path::PathBuf, sync::Arc};

use ravel_api::{
    command::replay::{Options, RoomReport, replay_room},
    recorded_room::RecordedRoom,
};
use ravel_backends::Engine;
use ravel_core::state::Fingerprint;
use ravel_store::{MemoryStore, Store, block_on, log::EventLog};

/// The files: all of the shared corpus, else the copies that are in the repository.
fn files() -> Vec<PathBuf> {
    let folder = crate::shared("corpus").unwrap_or_else(|| crate::corpus(""));
    let entries = folder.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(".jsonl.gz")).collect();
    files.sort();
    assert!(files.len() >= 12, "{files:?}");
    files
}

/// In whose order of arrival the events come.
#[derive(Clone, Copy, Debug)]
enum Order {
    OfFile,
    /// That of one of the three servers.
    OfServer(usize),
}

/// Replays all rooms into one store; returns for each the fingerprints of its current state and of its history.
fn replay(rooms: &[RecordedRoom], store: Arc<dyn Store>, order: Order) -> Vec<[Fingerprint; 2]> {
    let log = block_on(EventLog::open(store)).unwrap();
    let mut merges = 0;
    for room in rooms {
        let as_server = match order {
            Order::OfFile => None,
            Order::OfServer(number) => Some(room.servers[number].clone()),
        };
        let mut done = 0;
        let report = replay_room(room, &log, &Options { check: true, as_server, ..Options::default() }, |events| {
            done += events;
        })
        .unwrap();
        assert_eq!(done, room.events.len() as u64);
        merges += check_report(room, &report, order);
    }
    assert!(merges > 10 * rooms.len(), "{merges} merges");
    let fingerprints = rooms.iter().map(|recorded| {
        let room = block_on(log.load_room(&recorded.room_id)).unwrap().unwrap();
        let (resolved, _) = crate::stored_resolution::check(&log, &room);
        // A single server may not have seen all of them.
        assert!(!matches!(order, Order::OfFile) || resolved == recorded.merges.len(), "{resolved} from the store");
        [room.current_state().fingerprint(), room.history_fingerprint()]
    });
    fingerprints.collect()
}

/// Returns the number of merges that were compared.
fn check_report(room: &RecordedRoom, report: &RoomReport, order: Order) -> usize {
    assert!(report.is_good(), "{order:?}: {report:#?}");
    assert_eq!((report.disagree, report.agree), (0, report.merges), "{report:#?}");
    match (order, &report.server) {
        (Order::OfFile, None) => {
            assert_eq!((report.merges, report.events()), (room.merges.len(), room.events.len()), "{report:#?}");
        }
        (Order::OfServer(_), Some(server)) => {
            assert!(server.verdicts > 0 && server.differing.is_empty(), "{server:#?}");
            let same = (server.forward_extremities, server.current_state);
            assert_eq!(same, (Some(true), Some(true)), "{} {server:#?}", room.path.display());
        }
        _ => panic!("{report:#?}"),
    }
    report.merges
}

fn check(order: Order) {
    let rooms: Vec<RecordedRoom> = files().iter().map(|file| RecordedRoom::read(file).unwrap()).collect();
    assert!(rooms.iter().all(|room| room.servers.len() == 3));
    let in_memory = replay(&rooms, Arc::new(MemoryStore::new()), order);
    for engine in Engine::ALL {
        let directory = tempfile::tempdir().unwrap();
        let on_disk = replay(&rooms, engine.open(directory.path()).unwrap(), order);
        assert_eq!(on_disk, in_memory, "{engine}");
    }
}

#[test]
fn merges_come_out_as_recorded() {
    check(Order::OfFile);
}

#[test]
fn the_first_server_is_followed_in_everything() {
    check(Order::OfServer(0));
}

#[test]
fn the_second_server_is_followed_in_everything() {
    check(Order::OfServer(1));
}

#[test]
fn the_third_server_is_followed_in_everything() {
    check(Order::OfServer(2));
}
