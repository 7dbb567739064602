//! The commands of the command line, a module each, and how they fail.

#[cfg(feature = "backup")]
pub mod backup;
#[cfg(feature = "bench")]
pub mod bench;
pub mod copy;
pub mod dag;
pub mod explain;
pub mod export;
pub mod maintain;
pub mod purge;
pub mod replay;
pub mod serve;
pub mod state;
pub mod stats;

use std::{io, path::PathBuf, process::ExitCode};

use ravel_core::{
    id::{EventId, RoomId},
    room::{Outcome, Room, RoomError},
    room_version::RoomVersion,
};
use ravel_store::{
    StoreError, block_on,
    log::{CopyError, EventLog, LogError},
};

use crate::{
    database::{DatabaseName, OpenError},
    recorded_room::UnreadableFile,
    serve::ServeError,
};

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Failure {
    #[error(transparent)]
    File(#[from] UnreadableFile),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Copy(#[from] CopyError),
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error("{0:?} is not a room id; one looks like !abc:example.org, in room version 12 like !abc")]
    NotARoomId(String),
    #[error("{0:?} is not an event id; one looks like $abc")]
    NotAnEventId(String),
    #[error("the database has no room {room_id}{}", list(.known))]
    NoSuchRoom { room_id: RoomId, known: Vec<RoomId> },
    #[error("{room_id} has no event {event_id}")]
    NoSuchEvent { room_id: RoomId, event_id: EventId },
    #[error("the states before and after {event_id} were purged")]
    StatePurged { event_id: EventId },
    #[error("what {event_id} builds on was purged, so how the state before it came about can't be told any more")]
    HistoryPurged { event_id: EventId },
    #[error("{path}: is of room version {found}, and the same room {room_id} is of version {known} {place}", path = .path.display())]
    OtherRoomVersion {
        path: PathBuf,
        room_id: RoomId,
        found: RoomVersion,
        known: RoomVersion,
        /// Where it is of the other version.
        place: &'static str,
    },
    #[error("the shortest lifetime that is allowed is longer than the longest")]
    ImpossibleLifetimes,
    #[error("{0} was named twice")]
    NamedTwice(DatabaseName),
    #[error("no temporary folder can be made: {0}")]
    NoTemporaryFolder(#[source] io::Error),
    #[error("a database can't be copied to itself")]
    CopyToItself,
    #[error("{server} was not among the servers recorded in any of the files{}", list(.known))]
    NoSuchServer { server: String, known: Vec<String> },
    #[cfg(feature = "bench")]
    #[error(transparent)]
    Shape(#[from] ravel_proptests::rooms::ImpossibleShape),
    #[cfg(feature = "bench")]
    #[error("the generated room is not in order: {0}")]
    Graph(#[from] ravel_core::graph::GraphError),
    #[cfg(feature = "bench")]
    #[error("ruma-state-res fails: {0}")]
    Ruma(#[from] ravel_proptests::ruma::Error),
    #[cfg(feature = "bench")]
    #[error(transparent)]
    Untranslatable(#[from] ravel_proptests::ruma::Untranslatable),
    #[error("{}: can't be written: {source}", .path.display())]
    Unwritable { path: PathBuf, source: io::Error },
    #[cfg(feature = "backup")]
    #[error(transparent)]
    Backup(#[from] crate::backup::BackupError),
    #[cfg(feature = "backup")]
    #[error(transparent)]
    Recipient(#[from] crate::backup::InvalidRecipient),
    #[cfg(feature = "bench")]
    #[error("the bare engine fails: {0}")]
    BareEngine(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error(transparent)]
    Config(#[from] crate::serve::config::ConfigError),
    #[error(transparent)]
    Init(#[from] crate::serve::init::InitError),
    #[error(transparent)]
    Serve(#[from] crate::serve::ServeError),
    #[error("can't write the output: {0}")]
    Output(#[from] io::Error),
}

impl Failure {
    /// Returns the exit code: 3 if the database failed, else 2.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            #[cfg(feature = "backup")]
            Self::Backup(crate::backup::BackupError::Log(_)) => ExitCode::from(3),
            Self::Copy(CopyError::NotACopy { .. } | CopyError::Ahead { .. })
            | Self::Log(LogError::Moved { .. } | LogError::UnfinishedCopy { .. })
            | Self::Copy(CopyError::Source(LogError::UnfinishedCopy { .. })) => ExitCode::from(2),
            Self::Serve(ServeError::Database(error)) if !error.is_wrong_name() => ExitCode::from(3),
            Self::Open(error) if error.is_wrong_name() => ExitCode::from(2),
            Self::Log(_) | Self::Copy(_) | Self::Store(_) | Self::Room(_) | Self::Open(_) => ExitCode::from(3),
            _ => ExitCode::from(2),
        }
    }
}

/// How many of the rooms or servers there are an error names.
const KNOWN_NAMED_MAX: usize = 10;

/// Something is wrong with what was looked at, and the output says what.
fn disagreement() -> ExitCode {
    ExitCode::from(1)
}

fn list(known: &[impl ToString]) -> String {
    if known.is_empty() {
        return String::new();
    }
    let names: Vec<String> = known.iter().take(KNOWN_NAMED_MAX).map(ToString::to_string).collect();
    let more = known.len() - names.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("; there are: {}{more}", names.join(", "))
}

/// Writes a count of things in English.
fn count(count: u64, thing: &str) -> String {
    match (count, thing.strip_suffix('y').filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u']))) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        (_, None) => format!("{count} {thing}s"),
    }
}

/// An outcome for people.
fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::SoftFailed => "soft-failed",
        Outcome::Rejected => "rejected",
    }
}

/// An outcome in JSON.
fn outcome_code(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Accepted => "accepted",
        Outcome::SoftFailed => "soft_failed",
        Outcome::Rejected => "rejected",
    }
}

/// Opens the log of a database that must be there.
fn open_log(database: &DatabaseName) -> Result<EventLog, Failure> {
    Ok(block_on(EventLog::open(database.open_to_read()?))?)
}

/// Loads a room of a database that must be there.
fn open_room(database: &DatabaseName, room: &str) -> Result<Room, Failure> {
    let room_id = room_id_of(room)?;
    let log = open_log(database)?;
    let loaded = block_on(log.load_room(&room_id))?;
    loaded.ok_or_else(|| no_such_room(&log, room_id))
}

fn room_id_of(room: &str) -> Result<RoomId, Failure> {
    RoomId::parse(room).map_err(|_| Failure::NotARoomId(room.to_owned()))
}

fn no_such_room(log: &EventLog, room_id: RoomId) -> Failure {
    Failure::NoSuchRoom { room_id, known: log.rooms().into_iter().map(|(id, _)| id).collect() }
}

/// Returns the room that was named, or all rooms of a log.
fn rooms_of(log: &EventLog, room: Option<&str>) -> Result<Vec<(RoomId, RoomVersion)>, Failure> {
    let rooms = log.rooms();
    let Some(room) = room else { return Ok(rooms) };
    let room_id = room_id_of(room)?;
    match rooms.into_iter().find(|(known, _)| *known == room_id) {
        Some(found) => Ok(vec![found]),
        None => Err(no_such_room(log, room_id)),
    }
}

fn event_of(room: &Room, event: &str) -> Result<EventId, Failure> {
    let event_id = EventId::parse(event).map_err(|_| Failure::NotAnEventId(event.to_owned()))?;
    match room.event(&event_id) {
        Some(_) => Ok(event_id),
        None => Err(Failure::NoSuchEvent { room_id: room.room_id().clone(), event_id }),
    }
}

/// Writes the manual: one page, each command a section.
pub(crate) fn man_page(command: &clap::Command, page: &mut Vec<u8>) -> Result<(), Failure> {
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    for subcommand in command.get_subcommands() {
        use std::io::Write as _;
        writeln!(page, ".SH \"RAVEL {}\"", subcommand.get_name().to_uppercase())?;
        let name = format!("ravel {}", subcommand.get_name());
        let man =
            clap_mangen::Man::new(subcommand.clone().disable_help_flag(true).display_name(name.clone()).bin_name(name));
        let mut section = Vec::new();
        man.render_description_section(&mut section)?;
        man.render_synopsis_section(&mut section)?;
        man.render_options_section(&mut section)?;
        if subcommand.get_after_help().or(subcommand.get_after_long_help()).is_some() {
            man.render_extra_section(&mut section)?;
        }
        let section = String::from_utf8_lossy(&section).replace(".SH EXTRA", ".SH OUTPUT").replace(".SH ", ".SS ");
        page.write_all(section.as_bytes())?;
    }
    let mut section = Vec::new();
    man.render_extra_section(&mut section)?;
    page.extend_from_slice(String::from_utf8_lossy(&section).replace(".SH EXTRA", ".SH \"EXIT STATUS\"").as_bytes());
    Ok(())
}
