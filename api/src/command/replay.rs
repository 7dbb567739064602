//! `ravel replay`: recorded rooms through the whole receipt path, and the comparison with what was recorded.

mod compare;
mod report;
mod several;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use ravel_core::{
    id::{EventId, RoomId},
    pdu::{ParsedPdu, VerifiedPdu, verify_batch},
    room::{Effect, Outcome, PersistEvent, Receipt, Room},
    room_version::RoomVersion,
};
use ravel_store::{Durability, block_on, log::EventLog};

use self::report::Report;
pub use self::report::{Disagreement, Dropped, RoomReport, ServerReport, Verdicts};
use super::{Failure, disagreement};
use crate::{
    database::{DatabaseName, InvalidName},
    output::Output,
    recorded_room::{RecordedEvent, RecordedRoom},
};

/// What to do beside storing.
#[derive(Debug, Default)]
pub struct Options {
    /// Compare each merge with the recorded answer.
    pub check: bool,
    /// Replay in this server's order of arrival, and compare with what it recorded.
    pub as_server: Option<String>,
    /// Pass over events that are there already, without looking at their signatures.
    pub skip_known: bool,
}

/// How many events are verified, and how many are stored, at a time.
const CHUNK: usize = 128;

/// Where to replay to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayTarget {
    /// A database.
    Database(DatabaseName),
    /// Memory, and RocksDB and sled in temporary folders.
    All,
}

impl FromStr for ReplayTarget {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        if name == "all" { Ok(Self::All) } else { name.parse().map(Self::Database) }
    }
}

/// Replays files into a database, a room each; or into several, and compares these. The exit code is 1 if anything disagrees or could
/// not be judged.
pub fn run(
    files: &[PathBuf],
    targets: &[ReplayTarget],
    options: &Options,
    output: &mut Output,
) -> Result<ExitCode, Failure> {
    // Every file is read before anything is stored: one that can't be read changes nothing.
    let rooms = files.iter().map(|file| RecordedRoom::read(file)).collect::<Result<Vec<_>, _>>()?;
    if let Some(server) = &options.as_server {
        let servers: BTreeSet<String> = rooms.iter().flat_map(|room| &room.servers).cloned().collect();
        if !servers.contains(server) {
            return Err(Failure::NoSuchServer { server: server.clone(), known: servers.into_iter().collect() });
        }
    }
    check_versions(&rooms, &BTreeMap::new(), "in another file")?;
    let [ReplayTarget::Database(database)] = targets else { return several::run(&rooms, targets, options, output) };
    let log = open(&rooms, database)?;
    let progress = output.progress(rooms.iter().map(|room| room.events.len() as u64).sum(), "", "events");
    let started = Instant::now();
    let mut report = Report::of(rooms.iter().map(|room| room.path.as_path()));
    report.print_header(options, output);
    for recorded in rooms {
        progress.set_message(report::file_name(&recorded.path));
        let replayed = replay_room(&recorded, &log, options, |events| progress.inc(events));
        let room_report = replayed.inspect_err(|_| progress.finish_and_clear())?;
        progress.suspend(|| report.add(room_report, options, output));
    }
    progress.finish_and_clear();
    report.seconds = started.elapsed().as_secs_f64();
    report.print_total(options, output);
    Ok(if report.is_good() { ExitCode::SUCCESS } else { disagreement() })
}

/// Opens a database that takes these rooms.
fn open(rooms: &[RecordedRoom], database: &DatabaseName) -> Result<EventLog, Failure> {
    let log = block_on(EventLog::open(database.open_or_create()?))?;
    log.check_appendable()?;
    check_versions(rooms, &log.rooms().into_iter().collect(), "in the database")?;
    Ok(log)
}

/// Imports files into a database, one after the other: all that [`run`] does but comparing, durable in the end, and what is there
/// already is passed over. The exit code is 1 if anything was dropped or could not be judged.
pub fn import(files: &[PathBuf], database: &DatabaseName, output: &mut Output) -> Result<ExitCode, Failure> {
    // The first file that can't be read leaves no database behind.
    let mut first = files.first().map(|file| RecordedRoom::read_events(file)).transpose()?;
    let log = block_on(EventLog::open(database.open_or_create()?))?;
    let mut known: BTreeMap<RoomId, RoomVersion> = log.rooms().into_iter().collect();
    let options = Options { skip_known: true, ..Options::default() };
    let progress = output.progress(0, "", "events");
    let started = Instant::now();
    let mut report = Report::of(files.iter().map(PathBuf::as_path));
    report.print_header(&options, output);
    for file in files {
        // One at a time in memory.
        let recorded = match first.take() {
            Some(recorded) => recorded,
            None => RecordedRoom::read_events(file)?,
        };
        check_versions(std::slice::from_ref(&recorded), &known, "in the database")?;
        known.insert(recorded.room_id.clone(), recorded.room_version);
        progress.inc_length(recorded.events.len() as u64);
        progress.set_message(report::file_name(&recorded.path));
        let replayed = replay_room(&recorded, &log, &options, |events| progress.inc(events));
        let room_report = replayed.inspect_err(|_| progress.finish_and_clear())?;
        block_on(log.store().flush())?;
        progress.suspend(|| report.add(room_report, &options, output));
    }
    progress.finish_and_clear();
    report.seconds = started.elapsed().as_secs_f64();
    report.print_total(&options, output);
    Ok(if report.is_good() { ExitCode::SUCCESS } else { disagreement() })
}

/// Checks that no room is of another version than the one known for its id, nor than in an earlier file.
fn check_versions(
    rooms: &[RecordedRoom],
    known: &BTreeMap<RoomId, RoomVersion>,
    place: &'static str,
) -> Result<(), Failure> {
    let mut versions = known.clone();
    for room in rooms {
        let (room_id, found) = (room.room_id.clone(), room.room_version);
        let known = *versions.entry(room_id.clone()).or_insert(found);
        if known != found {
            return Err(Failure::OtherRoomVersion { path: room.path.clone(), room_id, found, known, place });
        }
    }
    Ok(())
}

/// Replays one room into a log, and compares what `options` ask for. Calls `progress` with the numbers of events that are done.
///
/// # Errors
///
/// When the log fails, or the room in it is broken. What disagrees is in the report.
pub fn replay_room(
    recorded: &RecordedRoom,
    log: &EventLog,
    options: &Options,
    mut progress: impl FnMut(u64),
) -> Result<RoomReport, Failure> {
    block_on(log.put_server_keys(&recorded.keys, Durability::Relaxed))?;
    let loaded = block_on(log.load_room(&recorded.room_id))?;
    let room = loaded.unwrap_or_else(|| Room::new(recorded.room_id.clone(), recorded.room_version.rules()));
    let known_before = room.events().map(|(event, _)| event.event_id.clone()).collect();
    let report = RoomReport::of(recorded);
    let mut done = 0;
    let mut advance = || {
        done += 1;
        progress(1);
    };
    let mut replay = Replay { recorded, log, room, known_before, report, pending: Vec::new(), advance: &mut advance };
    let pdus = replay.verify(options.skip_known);
    match &options.as_server {
        None => replay.in_order_of_file(&pdus)?,
        Some(server) => replay.in_order_of_server(&pdus, server)?,
    }
    replay.store()?;
    let Replay { room, mut report, .. } = replay;
    // What a server never had is done, too.
    progress((recorded.events.len() as u64).saturating_sub(done));
    report.count(&room);
    if options.check {
        compare::merges(&room, recorded, options.as_server.as_deref(), &mut report)?;
    }
    if let Some(server) = &options.as_server {
        compare::server(&room, recorded, server, &mut report);
    }
    report.fingerprint = room.current_state().fingerprint();
    Ok(report)
}

/// One room on its way into the database.
struct Replay<'a> {
    recorded: &'a RecordedRoom,
    log: &'a EventLog,
    room: Room,
    /// The events that the database had before.
    known_before: BTreeSet<EventId>,
    report: RoomReport,
    /// Judged, not stored yet.
    pending: Vec<PersistEvent>,
    /// Is called when an event is done.
    advance: &'a mut dyn FnMut(),
}

impl Replay<'_> {
    /// Checks 1 to 3 of every event: format, signatures, hash. What does not pass is dropped and reported.
    fn verify(&mut self, skip_known: bool) -> BTreeMap<EventId, VerifiedPdu> {
        let rules = self.recorded.room_version.rules();
        let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let mut verified = BTreeMap::new();
        for chunk in self.recorded.events.chunks(CHUNK) {
            let mut parsed = Vec::with_capacity(chunk.len());
            let mut sources = Vec::with_capacity(chunk.len());
            for event in chunk {
                if skip_known && self.known_before.contains(&event.event_id) {
                    self.report.known += 1;
                    continue;
                }
                match ParsedPdu::parse(event.pdu.get().as_bytes(), rules) {
                    Ok(pdu) => {
                        parsed.push(pdu);
                        sources.push(event);
                    }
                    Err(error) => self.drop_event(event, &error),
                }
            }
            for (event, result) in sources.into_iter().zip(verify_batch(parsed, &self.recorded.keys, now_ms)) {
                match result {
                    Ok(pdu) => self.take(event, pdu, &mut verified),
                    Err(error) => self.drop_event(event, &error),
                }
            }
        }
        verified
    }

    fn take(&mut self, event: &RecordedEvent, pdu: VerifiedPdu, verified: &mut BTreeMap<EventId, VerifiedPdu>) {
        if !pdu.content_hash_matched() {
            self.report.redacted += 1;
        }
        let event_id = &pdu.event().event_id;
        if *event_id == event.event_id {
            verified.insert(event_id.clone(), pdu);
        } else {
            let why = format!("its id is {event_id}");
            self.report.dropped.push(Dropped { line: event.line, event_id: event.event_id.clone(), why });
        }
    }

    fn drop_event(&mut self, event: &RecordedEvent, why: &dyn std::error::Error) {
        let dropped = Dropped { line: event.line, event_id: event.event_id.clone(), why: why.to_string() };
        self.report.dropped.push(dropped);
    }

    /// Judges the events as they stand in the file. What stands before its parents comes last.
    fn in_order_of_file(&mut self, pdus: &BTreeMap<EventId, VerifiedPdu>) -> Result<(), Failure> {
        let mut waiting = Vec::new();
        for event in &self.recorded.events {
            (self.advance)();
            let Some(pdu) = pdus.get(&event.event_id) else { continue };
            let receipt = self.room.handle_pdu(pdu)?;
            if !self.keep(&event.event_id, receipt)? {
                waiting.push(pdu.clone());
            }
        }
        for (event_id, receipt) in self.room.handle_pdus(&waiting)? {
            if !self.keep(&event_id, receipt)? {
                self.report.waiting.push(event_id);
            }
        }
        Ok(())
    }

    /// Judges the events in the order in which a server stored them, each after the history that it builds on.
    fn in_order_of_server(&mut self, pdus: &BTreeMap<EventId, VerifiedPdu>, server: &str) -> Result<(), Failure> {
        for event in compare::arrivals(self.recorded, server) {
            (self.advance)();
            let mut wanted = vec![&event.event_id];
            // Those whose parents are wanted. What is open and wanted once more cites itself in a circle.
            let mut open = BTreeSet::new();
            while let Some(event_id) = wanted.pop() {
                let Some(pdu) = pdus.get(event_id) else { continue };
                let missing = self.room.missing_events(pdu.event());
                let fetchable: Vec<&EventId> =
                    missing.iter().filter_map(|id| pdus.get_key_value(id)).map(|(id, _)| id).collect();
                if missing.is_empty() {
                    let receipt = self.room.handle_pdu(pdu)?;
                    if !self.keep(event_id, receipt)? {
                        // It builds on what was purged here.
                        self.report.waiting.push(event.event_id.clone());
                        break;
                    }
                } else if missing.len() == fetchable.len() && open.insert(event_id) {
                    wanted.push(event_id);
                    wanted.extend(fetchable);
                } else {
                    // The file lacks its parents, or it leads in a circle: it stays out, and so does what builds on it.
                    self.report.waiting.push(event.event_id.clone());
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes a receipt; returns whether the event is in the room now.
    fn keep(&mut self, event_id: &EventId, receipt: Receipt) -> Result<bool, Failure> {
        match receipt {
            Receipt::Judged(judged) => {
                self.report.resolutions += usize::from(judged.resolved);
                self.pending.extend(judged.effects.into_iter().filter_map(|effect| match effect {
                    Effect::Persist(event) => Some(*event),
                    Effect::Publish(_) => None,
                }));
                if self.pending.len() >= CHUNK {
                    self.store()?;
                }
            }
            Receipt::AlreadyKnown(_) => {
                self.report.known += usize::from(self.known_before.contains(event_id));
            }
            Receipt::OtherRoom(other) => {
                let line = self.recorded.events.iter().find(|event| event.event_id == *event_id).map_or(0, |e| e.line);
                let why = format!("it is of the room {other}");
                self.report.dropped.push(Dropped { line, event_id: event_id.clone(), why });
            }
            Receipt::NeedEvents(_) | Receipt::NeedState(_) => return Ok(false),
        }
        Ok(true)
    }

    fn store(&mut self) -> Result<(), Failure> {
        let events = std::mem::take(&mut self.pending);
        block_on(self.log.append(
            &self.recorded.room_id,
            self.recorded.room_version.rules(),
            &events,
            Durability::Relaxed,
        ))?;
        Ok(())
    }
}

/// Counts of outcomes.
fn count_outcomes(room: &Room) -> BTreeMap<Outcome, usize> {
    room.events().fold(BTreeMap::new(), |mut counts, (_, outcome)| {
        *counts.entry(outcome).or_default() += 1;
        counts
    })
}
