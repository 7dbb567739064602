//! What a replay reports, as text and as JSON.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use ravel_core::{
    id::{EventId, RoomId},
    room::{Outcome, Room},
    room_version::RoomVersion,
    state::Fingerprint,
};
use serde_json::{Value, json};

use super::{Options, count_outcomes};
use crate::{
    command::{count, outcome_code, outcome_name},
    output::Output,
    recorded_room::RecordedRoom,
};

/// The report of one room.
#[derive(Debug)]
pub struct RoomReport {
    /// The file.
    pub path: PathBuf,
    /// The room.
    pub room_id: RoomId,
    /// Its version.
    pub room_version: RoomVersion,
    /// Events that were accepted, those known before included; likewise the next two.
    pub accepted: usize,
    /// Events that were rejected.
    pub rejected: usize,
    /// Events that were soft-failed.
    pub soft_failed: usize,
    /// Events whose content hash did not match, so that they were redacted.
    pub redacted: usize,
    /// Events that were in the database already.
    pub known: usize,
    /// Events that did not pass checks 1 to 3.
    pub dropped: Vec<Dropped>,
    /// Events that could not be judged for want of others.
    pub waiting: Vec<EventId>,
    /// How many states before events had to be resolved.
    pub resolutions: usize,
    /// How many recorded merges were compared.
    pub merges: usize,
    /// How many of them agree.
    pub agree: usize,
    /// How many of them do not.
    pub disagree: usize,
    /// The first of those.
    pub first_disagreement: Option<Disagreement>,
    /// The comparison with a server, if that was asked for.
    pub server: Option<ServerReport>,
    /// That of the current state.
    pub fingerprint: Fingerprint,
}

/// An event that did not pass checks 1 to 3.
#[derive(Debug)]
pub struct Dropped {
    /// Where it stands in the file.
    pub line: u64,
    /// The id that was recorded.
    pub event_id: EventId,
    /// What was wrong.
    pub why: String,
}

/// A merge whose recorded answer is another one.
#[derive(Debug)]
pub struct Disagreement {
    /// Where it stands in the file.
    pub line: u64,
    /// The event that merges.
    pub event_id: EventId,
    /// In what the states differ.
    pub what: String,
    /// How ours came about.
    pub explanation: Vec<String>,
}

/// The comparison with one server.
#[derive(Debug, Default)]
pub struct ServerReport {
    /// The server.
    pub server: String,
    /// How many verdicts were compared.
    pub verdicts: usize,
    /// Those that differ.
    pub differing: Vec<Verdicts>,
    /// Whether they are the same; `None` if the server's were not recorded.
    pub forward_extremities: Option<bool>,
    /// Likewise.
    pub current_state: Option<bool>,
    /// In what the current states differ.
    pub state_differences: String,
}

impl ServerReport {
    /// Whether nothing differs.
    pub fn is_good(&self) -> bool {
        self.differing.is_empty() && self.forward_extremities != Some(false) && self.current_state != Some(false)
    }
}

/// Two verdicts on an event.
#[derive(Debug)]
pub struct Verdicts {
    /// Where the event stands in the file.
    pub line: u64,
    /// The event.
    pub event_id: EventId,
    /// Ours; `None` if it was not judged.
    pub ours: Option<Outcome>,
    /// The server's.
    pub theirs: Outcome,
    /// The reason of ours.
    pub reason: Option<String>,
}

impl RoomReport {
    pub(super) fn of(recorded: &RecordedRoom) -> Self {
        Self {
            path: recorded.path.clone(),
            room_id: recorded.room_id.clone(),
            room_version: recorded.room_version,
            accepted: 0,
            rejected: 0,
            soft_failed: 0,
            redacted: 0,
            known: 0,
            dropped: Vec::new(),
            waiting: Vec::new(),
            resolutions: 0,
            merges: 0,
            agree: 0,
            disagree: 0,
            first_disagreement: None,
            server: None,
            fingerprint: Fingerprint::of_empty(),
        }
    }

    pub(super) fn count(&mut self, room: &Room) {
        let counts = count_outcomes(room);
        let of = |outcome| counts.get(&outcome).copied().unwrap_or(0);
        self.accepted = of(Outcome::Accepted);
        self.soft_failed = of(Outcome::SoftFailed);
        self.rejected = of(Outcome::Rejected);
    }

    /// Returns the number of events that were judged.
    pub fn events(&self) -> usize {
        self.accepted + self.soft_failed + self.rejected
    }

    /// Whether every event was judged and nothing disagrees.
    pub fn is_good(&self) -> bool {
        self.disagree == 0
            && self.dropped.is_empty()
            && self.waiting.is_empty()
            && self.server.as_ref().is_none_or(ServerReport::is_good)
    }

    fn print(&self, options: &Options, width: usize, output: &mut Output) {
        if output.is_json() {
            return;
        }
        let merges = [self.merges, self.agree, self.disagree];
        let counts = [self.events(), self.rejected, self.soft_failed];
        let name = file_name(&self.path);
        print_row(&name, width, self.room_version.as_str(), counts, options.check.then_some(merges), output);
        for dropped in &self.dropped {
            let place = format!("{}, line {}", self.path.display(), dropped.line);
            output.line(format_args!("  dropped {} ({place}): {}", dropped.event_id, dropped.why));
        }
        if let Some(first) = self.waiting.first() {
            let events = count(self.waiting.len() as u64, "event");
            let why = "what it builds on is not there, or leads back to it";
            output.line(format_args!("  {events} not judged; the first is {first}: {why}"));
        }
        if self.redacted > 0 {
            output.line(format_args!("  {} redacted for a wrong content hash", count(self.redacted as u64, "event")));
        }
        if self.known > 0 {
            output.line(format_args!("  {} known already", count(self.known as u64, "event")));
        }
        if let Some(disagreement) = &self.first_disagreement {
            let place = format!("{}, line {}", self.path.display(), disagreement.line);
            output.line(format_args!("  first disagreement: before {} ({place})", disagreement.event_id));
            output.line(format_args!("    {}", disagreement.what));
            for line in &disagreement.explanation {
                output.line(format_args!("    {line}"));
            }
        }
        if let Some(server) = &self.server {
            self.print_server(server, output);
        }
    }

    fn print_server(&self, server: &ServerReport, output: &mut Output) {
        let same = |same: Option<bool>| match same {
            Some(true) => "the same",
            Some(false) => "DIFFERENT",
            None => "not recorded",
        };
        output.line(format_args!(
            "  as {}: {} of {} verdicts agree, forward extremities {}, current state {}",
            server.server,
            server.verdicts - server.differing.len(),
            server.verdicts,
            same(server.forward_extremities),
            same(server.current_state),
        ));
        for verdicts in &server.differing {
            let ours = verdicts.ours.map_or("not judged", outcome_name);
            let reason = verdicts.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
            let place = format!("{}, line {}", self.path.display(), verdicts.line);
            let theirs = outcome_name(verdicts.theirs);
            output.line(format_args!("    {} ({place}): {ours} here{reason}, {theirs} there", verdicts.event_id));
        }
        if !server.state_differences.is_empty() {
            output.line(format_args!("    current state: {}", server.state_differences));
        }
    }

    fn to_json(&self, options: &Options) -> Value {
        let mut room = json!({
            "file": self.path.to_string_lossy(),
            "room_id": self.room_id.as_str(),
            "room_version": self.room_version.as_str(),
            "events": self.events(),
            "accepted": self.accepted,
            "rejected": self.rejected,
            "soft_failed": self.soft_failed,
            "redacted": self.redacted,
            "already_known": self.known,
            "resolutions": self.resolutions,
            "current_state_fingerprint": self.fingerprint.to_string(),
            "dropped": self.dropped.iter().map(|dropped| json!({
                "line": dropped.line, "event_id": dropped.event_id.as_str(), "why": dropped.why,
            })).collect::<Vec<_>>(),
            "waiting": self.waiting.iter().map(EventId::as_str).collect::<Vec<_>>(),
        });
        let Some(fields) = room.as_object_mut() else { return room };
        if options.check {
            fields.insert("merges".into(), self.merges.into());
            fields.insert("agree".into(), self.agree.into());
            fields.insert("disagree".into(), self.disagree.into());
        }
        if let Some(first) = &self.first_disagreement {
            let first = json!({
                "line": first.line, "event_id": first.event_id.as_str(), "what": first.what, "explanation": first.explanation,
            });
            fields.insert("first_disagreement".into(), first);
        }
        if let Some(server) = &self.server {
            let differing: Vec<Value> = server
                .differing
                .iter()
                .map(|verdicts| {
                    json!({
                        "line": verdicts.line,
                        "event_id": verdicts.event_id.as_str(),
                        "here": verdicts.ours.map(outcome_code),
                        "there": outcome_code(verdicts.theirs),
                        "reason": verdicts.reason,
                    })
                })
                .collect();
            let server = json!({
                "server": server.server,
                "verdicts": server.verdicts,
                "differing": differing,
                "forward_extremities_agree": server.forward_extremities,
                "current_state_agrees": server.current_state,
            });
            fields.insert("as".into(), server);
        }
        room
    }
}

/// The report of all rooms.
#[derive(Debug)]
pub(super) struct Report {
    rooms: Vec<RoomReport>,
    /// Of the first column, in characters.
    width: usize,
    /// Time for everything but reading the files.
    pub(super) seconds: f64,
}

impl Report {
    pub(super) fn of<'a>(files: impl Iterator<Item = &'a Path>) -> Self {
        let width = files.map(|path| file_name(path).chars().count()).max().unwrap_or(0).max("total".len());
        Self { rooms: Vec::new(), width, seconds: 0.0 }
    }

    /// Adds the report of a room, and prints it.
    pub(super) fn add(&mut self, room: RoomReport, options: &Options, output: &mut Output) {
        room.print(options, self.width, output);
        self.add_quietly(room);
    }

    /// Adds the report of a room.
    pub(super) fn add_quietly(&mut self, room: RoomReport) {
        self.rooms.push(room);
    }

    /// Prints the rooms that are not as they should be, under a title, if there are any.
    pub(super) fn print_bad_rooms(&self, title: &dyn fmt::Display, options: &Options, output: &mut Output) {
        if self.is_good() || output.is_json() {
            return;
        }
        output.line(format_args!("{title}:"));
        self.print_header(options, output);
        self.rooms.iter().filter(|room| !room.is_good()).for_each(|room| room.print(options, self.width, output));
        output.line("");
    }

    fn sum(&self, field: fn(&RoomReport) -> usize) -> usize {
        self.rooms.iter().map(field).sum()
    }

    /// Returns the numbers of events, of rejected and of soft-failed ones.
    fn counts(&self) -> [usize; 3] {
        [self.sum(RoomReport::events), self.sum(|room| room.rejected), self.sum(|room| room.soft_failed)]
    }

    /// Returns how many recorded merges were compared, how many of them agree, and how many do not.
    pub(super) fn merges(&self) -> [usize; 3] {
        [self.sum(|room| room.merges), self.sum(|room| room.agree), self.sum(|room| room.disagree)]
    }

    fn events_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.sum(RoomReport::events) as f64 / self.seconds } else { 0.0 }
    }

    pub(super) fn to_json(&self, options: &Options) -> Value {
        let [events, rejected, soft_failed] = self.counts();
        let mut total = json!({
            "events": events,
            "rejected": rejected,
            "soft_failed": soft_failed,
            "dropped": self.sum(|room| room.dropped.len()),
            "waiting": self.sum(|room| room.waiting.len()),
            "resolutions": self.sum(|room| room.resolutions),
            "seconds": self.seconds,
            "events_per_second": self.events_per_second(),
        });
        if let (true, Some(fields)) = (options.check, total.as_object_mut()) {
            let [merges, agree, disagree] = self.merges();
            fields.insert("merges".into(), merges.into());
            fields.insert("agree".into(), agree.into());
            fields.insert("disagree".into(), disagree.into());
        }
        let rooms: Vec<Value> = self.rooms.iter().map(|room| room.to_json(options)).collect();
        json!({ "rooms": rooms, "total": total })
    }

    pub(super) fn is_good(&self) -> bool {
        self.rooms.iter().all(RoomReport::is_good)
    }

    pub(super) fn print_header(&self, options: &Options, output: &mut Output) {
        if !output.is_json() {
            let merges = if options.check { "  merges   agree disagree" } else { "" };
            output.line(format_args!(
                "{:<width$} {:>7} {:>8} {:>8} {:>11}{merges}",
                "file",
                "version",
                "events",
                "rejected",
                "soft-failed",
                width = self.width
            ));
        }
    }

    pub(super) fn print_total(&self, options: &Options, output: &mut Output) {
        let (counts, merges, per_second) = (self.counts(), self.merges(), self.events_per_second());
        if output.is_json() {
            output.value(&self.to_json(options));
            return;
        }
        print_row("total", self.width, "", counts, options.check.then_some(merges), output);
        let servers: Vec<&ServerReport> = self.rooms.iter().filter_map(|room| room.server.as_ref()).collect();
        if !servers.is_empty() {
            let agreeing = servers.iter().filter(|server| server.is_good()).count();
            output.line(format_args!("{agreeing} of {} rooms agree with the server in everything", servers.len()));
        }
        output.line(format_args!("{:.2} s, {per_second:.0} events per second", self.seconds));
    }
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn print_row(
    name: &str,
    width: usize,
    version: &str,
    counts: [usize; 3],
    merges: Option<[usize; 3]>,
    output: &mut Output,
) {
    let [events, rejected, soft_failed] = counts;
    let merges =
        merges.map(|[merges, agree, disagree]| format!("{merges:>8}{agree:>8}{disagree:>9}")).unwrap_or_default();
    output.line(format_args!("{name:<width$} {version:>7} {events:>8} {rejected:>8} {soft_failed:>11}{merges}"));
}
