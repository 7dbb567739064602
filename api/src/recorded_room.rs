//! Reading files of recorded rooms: one JSON object per line, plain or compressed with gzip.
//!
//! The lines come in this order, each with a `kind`: one `room`, a `key` for each server, an `event` for each event in topological
//! order, a `merge` for each event with several prev events (the golden state before it, as an edit of the golden state before),
//! and a `final` for each distinct final view. `docs/recorded-rooms.md` describes them field by field.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
};

use flate2::bufread::MultiGzDecoder;
use ravel_core::{
    event::StateKey,
    id::{EventId, KeyId, RoomId, ServerName},
    pdu::{ParsedPdu, VerifiedPdu},
    room_version::RoomVersion,
    signing::{KeyRing, PublishedKey, VerifyKey},
    state::{Fingerprint, entries_sha256},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// The longest line that is read: a merge of a very large room.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// A recorded room.
#[derive(Debug)]
pub struct RecordedRoom {
    /// Where it was read from.
    pub path: PathBuf,
    /// The room's id.
    pub room_id: RoomId,
    /// Its version.
    pub room_version: RoomVersion,
    /// The servers that were recorded.
    pub servers: Vec<String>,
    /// Their keys, valid for all events of the file.
    pub keys: KeyRing,
    /// The events in topological order.
    pub events: Vec<RecordedEvent>,
    /// The golden state before each event with several prev events.
    pub merges: Vec<Merge>,
    /// The servers' last views.
    pub finals: Vec<FinalView>,
}

/// An event of a recorded room.
#[derive(Debug)]
pub struct RecordedEvent {
    /// The line it stands on, from 1.
    pub line: u64,
    /// The id the recording server gave it.
    pub event_id: EventId,
    /// The PDU as JSON, byte for byte.
    pub pdu: Box<RawValue>,
    /// By server name, for those that have it.
    pub seen: BTreeMap<String, Seen>,
}

/// How a server has an event.
#[derive(Clone, Debug, Deserialize)]
pub struct Seen {
    /// Its place in the order in which the server stored events; negative for history fetched later.
    pub order: i64,
    /// Why the server rejected it.
    #[serde(default)]
    pub rejected: Option<String>,
    /// Whether the server soft-failed it.
    #[serde(default)]
    pub soft_failed: bool,
    /// Whether the server does not know the state there.
    #[serde(default)]
    pub outlier: bool,
    /// Whether the server did not compute the state before it.
    #[serde(default)]
    pub state_given: bool,
}

/// The state that servers resolved before an event.
#[derive(Debug)]
pub struct Merge {
    /// The line it stands on, from 1.
    pub line: u64,
    /// The event.
    pub event_id: EventId,
    /// The servers that computed it.
    pub servers: Vec<String>,
    /// The state.
    pub state: BTreeMap<StateKey, EventId>,
}

/// What servers saw in the end.
#[derive(Debug)]
pub struct FinalView {
    /// The line it stands on, from 1.
    pub line: u64,
    /// The servers.
    pub servers: Vec<String>,
    /// Their forward extremities, sorted.
    pub forward_extremities: Vec<EventId>,
    /// Their current state.
    pub state: BTreeMap<StateKey, EventId>,
}

/// Why a file can't be used, with file and line.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {problem}", .path.display(), .line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct UnreadableFile {
    /// The file.
    pub path: PathBuf,
    /// The line, from 1, if the trouble is in one.
    pub line: Option<u64>,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum Problem {
    #[error("can't be read: {0}")]
    Io(#[source] io::Error),
    #[error("the compressed data is cut off or damaged: {0}")]
    Damaged(#[source] io::Error),
    #[error("is not text in UTF-8, so not of a recorded room")]
    NotText,
    #[error("is not JSON of a recorded room (plain or gzip): {}", .0.to_string().replace(" at line 1 column ", " at column "))]
    NotJson(serde_json::Error),
    #[error("is longer than {LINE_BYTES_MAX} bytes")]
    LineTooLong,
    #[error("has the unknown kind {0:?}")]
    UnknownKind(String),
    #[error("comes before the line of kind \"room\"")]
    NoRoomYet,
    #[error("is a second line of kind \"room\"; a file has one room")]
    SecondRoom,
    #[error("has no line of kind \"room\"")]
    NoRoom,
    #[error("has the room version {0:?}, and Ravel knows 1 to 12")]
    UnknownRoomVersion(String),
    #[error("has {0:?}, which is not a valid id")]
    InvalidId(String),
    #[error("has a verify key that is not 32 bytes of an ed25519 key in base64")]
    InvalidKey,
    #[error("describes a state with another hash or count than it says: {expected} expected, {found} found")]
    WrongHash { expected: String, found: String },
    #[error("ends too early: {found} lines of kind {kind:?}, and its first line says {expected}")]
    CutOff { kind: &'static str, expected: u64, found: u64 },
    #[error("is one more of kind {kind:?} than the {expected} that the first line says")]
    TooMany { kind: &'static str, expected: u64 },
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

#[derive(Deserialize)]
struct RoomLine {
    room_id: String,
    room_version: String,
    servers: Vec<String>,
    events: u64,
    merges: u64,
}

#[derive(Deserialize)]
struct KeyLine {
    server: String,
    key_id: String,
    verify_key: String,
}

#[derive(Deserialize)]
struct EventLine {
    event_id: String,
    pdu: Box<RawValue>,
    seen: BTreeMap<String, Seen>,
}

#[derive(Deserialize)]
struct StateLine {
    #[serde(default)]
    event_id: String,
    servers: Vec<String>,
    #[serde(default)]
    forward_extremities: Vec<String>,
    count: usize,
    hash: String,
    del: Vec<(String, String)>,
    set: Vec<(String, String, String)>,
}

impl RecordedRoom {
    /// Reads a whole file.
    ///
    /// # Errors
    ///
    /// When the file can't be read, is cut off or damaged, or is not of the format; the error names the line.
    pub fn read(path: &Path) -> Result<Self, UnreadableFile> {
        Self::read_with(path, true)
    }

    /// Reads a file without the states in it: `merges` and `finals` stay empty, whatever memory they would need.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub fn read_events(path: &Path) -> Result<Self, UnreadableFile> {
        Self::read_with(path, false)
    }

    fn read_with(path: &Path, with_states: bool) -> Result<Self, UnreadableFile> {
        let mut reader: Option<Reader> = None;
        for_each_line(path, |number, line| read_line(&mut reader, path, number, line, with_states))?;
        let fail = |problem| UnreadableFile { path: path.to_owned(), line: None, problem };
        reader.ok_or_else(|| fail(Problem::NoRoom))?.finish().map_err(fail)
    }

    /// Returns the events in their order, as they come out of the first checks on receipt (format, signatures, hash), whatever the
    /// time of day is. Those that do not pass are left out; an honestly recorded room has none.
    pub fn verified(&self) -> impl Iterator<Item = VerifiedPdu> {
        let rules = self.room_version.rules();
        let parsed = self.events.iter().filter_map(|event| ParsedPdu::parse(event.pdu.get().as_bytes(), rules).ok());
        parsed.filter_map(|pdu| pdu.verify(&self.keys, i64::MAX).ok())
    }
}

/// Calls a function with the number and the text of each line that is not empty.
fn for_each_line(path: &Path, mut read: impl FnMut(u64, &str) -> Result<(), Problem>) -> Result<(), UnreadableFile> {
    let fail = |line, problem| UnreadableFile { path: path.to_owned(), line, problem };
    let (mut lines, compressed) = open(path).map_err(|error| fail(None, Problem::Io(error)))?;
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let bytes = lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(|error| {
            let problem = if compressed { Problem::Damaged(error) } else { Problem::Io(error) };
            fail(Some(number), problem)
        })?;
        if bytes == 0 {
            break;
        }
        if bytes as u64 == LINE_BYTES_MAX {
            return Err(fail(Some(number), Problem::LineTooLong));
        }
        let line = std::str::from_utf8(&line).map_err(|_| fail(Some(number), Problem::NotText))?;
        if !line.trim().is_empty() {
            read(number, line).map_err(|problem| fail(Some(number), problem))?;
        }
    }
    Ok(())
}

/// Opens a file, looking at its first bytes to see whether it is compressed.
fn open(path: &Path) -> io::Result<(Box<dyn BufRead>, bool)> {
    let mut file = BufReader::new(File::open(path)?);
    let compressed = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if compressed { (Box::new(BufReader::new(MultiGzDecoder::new(file))), true) } else { (Box::new(file), false) })
}

fn read_line(
    reader: &mut Option<Reader>,
    path: &Path,
    number: u64,
    line: &str,
    with_states: bool,
) -> Result<(), Problem> {
    let kind: Kind = parse(line)?;
    match (kind.kind.as_str(), reader) {
        ("room", reader @ None) => *reader = Some(Reader::new(path, parse(line)?)?),
        ("room", Some(_)) => return Err(Problem::SecondRoom),
        ("key" | "event" | "merge" | "final", None) => return Err(Problem::NoRoomYet),
        ("key", Some(reader)) => reader.key(parse(line)?)?,
        ("event", Some(reader)) => reader.event(number, parse(line)?)?,
        ("merge", Some(reader)) if !with_states => reader.count_merge()?,
        ("final", Some(_)) if !with_states => {}
        ("merge", Some(reader)) => reader.merge(number, parse(line)?)?,
        ("final", Some(reader)) => reader.final_view(number, parse(line)?)?,
        _ => return Err(Problem::UnknownKind(kind.kind)),
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(line: &str) -> Result<T, Problem> {
    serde_json::from_str(line).map_err(Problem::NotJson)
}

fn event_id(text: &str) -> Result<EventId, Problem> {
    EventId::parse(text).map_err(|_| Problem::InvalidId(text.to_owned()))
}

/// The room as read so far.
struct Reader {
    room: RecordedRoom,
    expected_events: u64,
    expected_merges: u64,
    found_merges: u64,
    /// What the next difference is relative to.
    last_state: BTreeMap<StateKey, EventId>,
}

impl Reader {
    fn new(path: &Path, line: RoomLine) -> Result<Self, Problem> {
        let room_version =
            RoomVersion::parse(&line.room_version).ok_or(Problem::UnknownRoomVersion(line.room_version))?;
        let room = RecordedRoom {
            path: path.to_owned(),
            room_id: RoomId::parse(&line.room_id).map_err(|_| Problem::InvalidId(line.room_id))?,
            room_version,
            servers: line.servers,
            keys: KeyRing::default(),
            events: Vec::new(),
            merges: Vec::new(),
            finals: Vec::new(),
        };
        let (expected_events, expected_merges) = (line.events, line.merges);
        Ok(Self { room, expected_events, expected_merges, found_merges: 0, last_state: BTreeMap::new() })
    }

    fn key(&mut self, line: KeyLine) -> Result<(), Problem> {
        let key = VerifyKey::from_base64(&line.verify_key).map_err(|_| Problem::InvalidKey)?;
        let key = PublishedKey { key, valid_until_ts_ms: i64::MAX, expired_ts_ms: None };
        let server = ServerName::parse(&line.server).map_err(|_| Problem::InvalidId(line.server))?;
        let key_id = KeyId::parse(&line.key_id).map_err(|_| Problem::InvalidId(line.key_id))?;
        self.room.keys.insert(server, key_id, key);
        Ok(())
    }

    fn event(&mut self, number: u64, line: EventLine) -> Result<(), Problem> {
        let event_id = event_id(&line.event_id)?;
        if self.room.events.len() as u64 == self.expected_events {
            return Err(Problem::TooMany { kind: "event", expected: self.expected_events });
        }
        self.room.events.push(RecordedEvent { line: number, event_id, pdu: line.pdu, seen: line.seen });
        Ok(())
    }

    fn merge(&mut self, number: u64, line: StateLine) -> Result<(), Problem> {
        let event_id = event_id(&line.event_id)?;
        self.count_merge()?;
        let state = self.state(&line)?;
        self.room.merges.push(Merge { line: number, event_id, servers: line.servers, state });
        Ok(())
    }

    fn count_merge(&mut self) -> Result<(), Problem> {
        if self.found_merges == self.expected_merges {
            return Err(Problem::TooMany { kind: "merge", expected: self.expected_merges });
        }
        self.found_merges += 1;
        Ok(())
    }

    fn final_view(&mut self, number: u64, line: StateLine) -> Result<(), Problem> {
        let state = self.state(&line)?;
        let mut forward_extremities =
            line.forward_extremities.iter().map(|id| event_id(id)).collect::<Result<Vec<_>, _>>()?;
        forward_extremities.sort_unstable();
        self.room.finals.push(FinalView { line: number, servers: line.servers, forward_extremities, state });
        Ok(())
    }

    /// Applies the difference that a line gives, and checks the hash.
    fn state(&mut self, line: &StateLine) -> Result<BTreeMap<StateKey, EventId>, Problem> {
        let mut state = self.last_state.clone();
        for (event_type, state_key) in &line.del {
            state.remove(&StateKey::new(event_type.as_str(), state_key.as_str()));
        }
        for (event_type, state_key, id) in &line.set {
            state.insert(StateKey::new(event_type.as_str(), state_key.as_str()), event_id(id)?);
        }
        let found = entries_sha256(&state);
        if Fingerprint::parse(&line.hash) != Some(found) || state.len() != line.count {
            return Err(Problem::WrongHash { expected: line.hash.clone(), found: found.to_string() });
        }
        self.last_state = state.clone();
        Ok(state)
    }

    fn finish(self) -> Result<RecordedRoom, Problem> {
        let found = self.room.events.len() as u64;
        if found < self.expected_events {
            return Err(Problem::CutOff { kind: "event", expected: self.expected_events, found });
        }
        let found = self.found_merges;
        if found < self.expected_merges {
            return Err(Problem::CutOff { kind: "merge", expected: self.expected_merges, found });
        }
        Ok(self.room)
    }
}
