//! The same rooms into several databases, and the proof that these are equal.

use std::{process::ExitCode, sync::Arc, time::Instant};

use ravel_backends::Engine;
use ravel_core::state::Fingerprint;
use ravel_store::{Store, block_on, log::EventLog};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Options, ReplayTarget, open, replay_room, report::Report};
use crate::{
    command::{Failure, count, disagreement},
    database::DatabaseName,
    output::Output,
    recorded_room::RecordedRoom,
};

/// Replays rooms into databases, reads each back after it was closed, and tells whether the fingerprints of all are equal.
pub(super) fn run(
    rooms: &[RecordedRoom],
    targets: &[ReplayTarget],
    options: &Options,
    output: &mut Output,
) -> Result<ExitCode, Failure> {
    let places = places(targets)?;
    // All are opened before anything is stored: one that can't be opened changes nothing in the others.
    let logs = places.iter().map(|place| open(rooms, &place.database)).collect::<Result<Vec<_>, _>>()?;
    let events = rooms.iter().map(|room| room.events.len() as u64).sum::<u64>();
    let progress = output.progress(events * places.len() as u64, "", "events");
    let mut filled: Vec<Filled> = Vec::new();
    for (place, log) in places.into_iter().zip(logs) {
        progress.set_message(place.name.clone());
        let one = Filled::fill(place, log, rooms, options, |events| progress.inc(events));
        filled.push(one.inspect_err(|_| progress.finish_and_clear())?);
    }
    progress.finish_and_clear();
    let first = filled.first().map(|first| first.stored.fingerprint);
    let are_equal = filled.iter().all(|one| Some(one.stored.fingerprint) == first);
    if output.is_json() {
        let databases: Vec<Value> = filled.iter().map(|one| one.to_json(first, options)).collect();
        output.value(&json!({ "databases": databases, "equal": are_equal }));
    } else {
        print(&filled, first, options, output);
        let databases = count(filled.len() as u64, "database");
        let verdict = if are_equal { "all fingerprints are equal" } else { "the fingerprints are NOT equal" };
        output.line(format_args!("{databases}: {verdict}"));
    }
    let is_good = are_equal && filled.iter().all(|one| one.report.is_good());
    Ok(if is_good { ExitCode::SUCCESS } else { disagreement() })
}

/// A database to be filled.
struct Place {
    /// For people.
    name: String,
    database: DatabaseName,
    /// Goes away with this.
    _folder: Option<TempDir>,
}

fn places(targets: &[ReplayTarget]) -> Result<Vec<Place>, Failure> {
    let mut places: Vec<Place> = Vec::new();
    for target in targets {
        match target {
            ReplayTarget::Database(database) => {
                if places.iter().any(|place| place.database.is_same_as(database)) {
                    return Err(Failure::NamedTwice(database.clone()));
                }
                places.push(Place { name: database.to_string(), database: database.clone(), _folder: None });
            }
            ReplayTarget::All => {
                places.push(Place { name: "memory".to_owned(), database: DatabaseName::Memory, _folder: None });
                for engine in Engine::ALL.iter().copied() {
                    let folder = tempfile::Builder::new().prefix("ravel-").tempdir();
                    let folder = folder.map_err(Failure::NoTemporaryFolder)?;
                    let database = DatabaseName::Directory(engine, folder.path().join("database"));
                    places.push(Place { name: engine.to_string(), database, _folder: Some(folder) });
                }
            }
        }
    }
    Ok(places)
}

/// A database with the rooms in it.
struct Filled {
    name: String,
    report: Report,
    stored: Stored,
}

/// What a database has, read back from it.
struct Stored {
    rooms: usize,
    events: u64,
    /// Different ones, room by room.
    states: u64,
    fingerprint: Fingerprint,
}

impl Filled {
    fn fill(
        place: Place,
        log: EventLog,
        rooms: &[RecordedRoom],
        options: &Options,
        mut progress: impl FnMut(u64),
    ) -> Result<Self, Failure> {
        let started = Instant::now();
        let mut report = Report::of(rooms.iter().map(|room| room.path.as_path()));
        for recorded in rooms {
            report.add_quietly(replay_room(recorded, &log, options, &mut progress)?);
        }
        block_on(log.store().flush())?;
        report.seconds = started.elapsed().as_secs_f64();
        let store: Arc<dyn Store> = match &place.database {
            DatabaseName::Memory => log.store().clone(),
            other => {
                // Closed, so that what is read comes from the engine's files.
                drop(log);
                other.open_to_read()?
            }
        };
        Ok(Self { name: place.name, report, stored: Stored::read(store)? })
    }

    fn to_json(&self, first: Option<Fingerprint>, options: &Options) -> Value {
        let mut database = self.report.to_json(options);
        if let Some(fields) = database.as_object_mut() {
            let Stored { rooms, events, states, fingerprint } = &self.stored;
            fields.insert("database".into(), self.name.as_str().into());
            fields.insert("stored".into(), json!({ "rooms": rooms, "events": events, "states": states }));
            fields.insert("fingerprint".into(), fingerprint.to_string().into());
            fields.insert("equal".into(), (Some(*fingerprint) == first).into());
        }
        database
    }
}

impl Stored {
    fn read(store: Arc<dyn Store>) -> Result<Self, Failure> {
        let log = block_on(EventLog::open(store))?;
        let rooms = log.rooms();
        let (mut events, mut states) = (0, 0);
        for (room_id, _) in &rooms {
            if let Some(stats) = block_on(log.stats(room_id))? {
                events += stats.events.accepted + stats.events.soft_failed + stats.events.rejected;
                states += stats.snapshots;
            }
        }
        Ok(Self { rooms: rooms.len(), events, states, fingerprint: block_on(log.fingerprint(|| {}))? })
    }
}

fn print(filled: &[Filled], first: Option<Fingerprint>, options: &Options, output: &mut Output) {
    filled.iter().for_each(|one| one.report.print_bad_rooms(&one.name, options, output));
    let width = filled.iter().map(|one| one.name.chars().count()).max().unwrap_or(0).max("database".len());
    let merges = if options.check { "  merges   agree" } else { "" };
    let (events, states) = ("events", "states");
    output.line(format_args!("{:<width$} {:>5} {events:>8} {states:>8}{merges}  fingerprint", "database", "rooms"));
    for one in filled {
        let Stored { rooms, events, states, fingerprint } = &one.stored;
        let [merges, agree, _] = one.report.merges();
        let merges = if options.check { format!("{merges:>8}{agree:>8}") } else { String::new() };
        let equal = if Some(*fingerprint) == first { "equal" } else { "DIFFERENT" };
        let name = &one.name;
        output.line(format_args!("{name:<width$} {rooms:>5} {events:>8} {states:>8}{merges}  {fingerprint}  {equal}"));
    }
}
