//! The records of the log and of its projections.

use bincode::{Decode, Encode};
use bytes::Bytes;
use ravel_core::{
    graph::EventIndex,
    id::{EventId, KeyId, ServerName},
    room::{Check, Outcome, PersistEvent, RecordedReason},
    room_version::RoomVersion,
    state::{EntryRecord, Fingerprint, NodeContent, NodeIndex, NodeRecord},
};

use super::{LogError, event_facts::EventFactsRecord};
use crate::{Batch, Keyspace, Record, StoreError, codec};

/// How far the log reaches. Stored under one key, and compared by every append: of two writers one fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct Head {
    /// The sequence number of the next entry.
    pub(super) next_sequence: u64,
    /// The number of the next room.
    pub(super) next_room: u32,
    /// Who may append.
    pub(super) standing: StandingRecord,
}

/// Who may append to a log. Part of the head, so that every append compares it; with whom it has to do is a record of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) enum StandingRecord {
    /// The server of this database.
    #[default]
    Own,
    /// Nobody: it was moved, see [`key::MOVED_TO`].
    Moved,
    /// Nobody but a copy that is not finished, see [`key::COPY_OF`].
    Copy,
}

/// The name of another database.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct OtherDatabase {
    pub(super) name: String,
}

impl Record for OtherDatabase {
    const VERSION: u8 = 1;
    const KEYSPACE: Keyspace = Keyspace::Meta;
}

impl Record for Head {
    const VERSION: u8 = 2;
    const KEYSPACE: Keyspace = Keyspace::Meta;
}

/// An entry of the log: what can't be computed again.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum LogEntry {
    /// The first event of a room follows; its entries carry this number.
    RoomOpened { room: u32, room_id: String, room_version: String },
    /// An event was received, at this place in the order of arrival.
    Event {
        room: u32,
        event_id: String,
        /// Canonical JSON without `unsigned`.
        json: Vec<u8>,
        content_hash_matched: bool,
        /// Depends on keys, which change: so the answer of that day is kept.
        authorising_user_signed: Option<bool>,
    },
}

impl Record for LogEntry {
    const VERSION: u8 = 1;
    const KEYSPACE: Keyspace = Keyspace::Log;
}

impl Head {
    /// Begins a batch that is refused unless this is the head.
    pub(super) fn guarded_batch(&self) -> Result<Batch, StoreError> {
        let mut batch = Batch::new();
        if *self == Self::default() {
            batch.guard_absent(Keyspace::Meta, key::HEAD);
        } else {
            batch.guard_equals(Keyspace::Meta, key::HEAD, codec::encode(self)?);
        }
        Ok(batch)
    }

    /// Counts an entry and returns its sequence number.
    pub(super) fn take_sequence(&mut self) -> Result<u64, LogError> {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.checked_add(1).ok_or(LogError::Full)?;
        Ok(sequence)
    }

    /// Counts a room that is opened with this number.
    pub(super) fn count_room(&mut self, number: u32) -> Result<(), LogError> {
        self.next_room = self.next_room.max(number.checked_add(1).ok_or(LogError::Full)?);
        Ok(())
    }
}

/// How far the projections reach; there only while they are behind the log.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct ProjectedTo {
    /// The first entry that they lack.
    pub(super) sequence: u64,
}

impl Record for ProjectedTo {
    const VERSION: u8 = 1;
    const KEYSPACE: Keyspace = Keyspace::Meta;
}

/// A key that a server has published, by server name and key id.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct ServerKeyRecord {
    pub(super) key: [u8; 32],
    pub(super) valid_until_ts_ms: i64,
    pub(super) expired_ts_ms: Option<i64>,
}

impl Record for ServerKeyRecord {
    const VERSION: u8 = 1;
    const KEYSPACE: Keyspace = Keyspace::ServerKeys;
}

/// A room, by its id.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct RoomRecord {
    pub(super) number: u32,
    pub(super) room_version: String,
    /// The versions of the room's projections, in the order of [`ROOM_PROJECTIONS`].
    projections: Vec<u8>,
}

impl Record for RoomRecord {
    const VERSION: u8 = 2;
    const KEYSPACE: Keyspace = Keyspace::Rooms;
}

/// The versions of what is computed for each room. A version rises when a record looks different, and also when something else
/// is computed than before.
const ROOM_PROJECTIONS: [u8; 5] = [
    TimelineRecord::VERSION,
    EventRecord::VERSION,
    EventFactsRecord::VERSION,
    SnapshotNodeRecord::VERSION,
    ExtremitiesRecord::VERSION,
];

impl RoomRecord {
    pub(super) fn new(number: u32, version: RoomVersion) -> Self {
        Self { number, room_version: version.as_str().to_owned(), projections: ROOM_PROJECTIONS.to_vec() }
    }

    /// Whether a projection is of an older version than this program computes.
    pub(super) fn is_stale(&self) -> bool {
        self.projections != ROOM_PROJECTIONS
    }

    /// Whether a projection is of a newer version, or there are more.
    pub(super) fn is_newer(&self) -> bool {
        let newer = self.projections.iter().zip(ROOM_PROJECTIONS).any(|(stored, known)| *stored > known);
        newer || self.projections.len() > ROOM_PROJECTIONS.len()
    }

    #[cfg(test)]
    pub(super) fn with_projections(self, projections: Vec<u8>) -> Self {
        Self { projections, ..self }
    }
}

/// What followed from an event, by room and sequence number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct TimelineRecord {
    pub(super) outcome: u8,
    pub(super) reason: Option<ReasonRecord>,
    /// The root of the state before the event, if that is not empty.
    pub(super) state_before: Option<u32>,
    /// The root of the state after it, if that is not empty.
    pub(super) state_after: Option<u32>,
    /// How many snapshot nodes the room had with this event.
    pub(super) nodes_numbered: u32,
}

impl Record for TimelineRecord {
    const VERSION: u8 = 2;
    const KEYSPACE: Keyspace = Keyspace::Timelines;
}

impl TimelineRecord {
    pub(super) fn of(event: &PersistEvent) -> Self {
        Self {
            outcome: outcome_to_byte(event.outcome),
            reason: event.reason.as_ref().map(ReasonRecord::of),
            state_before: event.state_before.map(NodeIndex::number),
            state_after: event.state_after.map(NodeIndex::number),
            nodes_numbered: event.nodes_numbered,
        }
    }
}

/// The sequence number of an event, by room and event id.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct EventRecord {
    pub(super) sequence: u64,
}

impl Record for EventRecord {
    const VERSION: u8 = 1;
    const KEYSPACE: Keyspace = Keyspace::Events;
}

/// Why an event was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct ReasonRecord {
    check: u8,
    code: String,
    rule: String,
    sentence: String,
}

/// A node of the states' trees, by room and number. Numbers have four bytes each here: what bincode makes of a large one has five.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum SnapshotNodeRecord {
    /// For each entry the number of its event and the first digits of its key's path.
    Leaf { fingerprint: [u8; 32], entries: Vec<[u8; 8]> },
    /// The numbers of the children that are there, in order.
    Branch { fingerprint: [u8; 32], len: u32, bitmap: u16, children: Vec<[u8; 4]> },
}

impl Record for SnapshotNodeRecord {
    const VERSION: u8 = 2;
    const KEYSPACE: Keyspace = Keyspace::SnapshotNodes;
}

/// Where a room stands, by room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct ExtremitiesRecord {
    pub(super) forward_extremities: Vec<String>,
    /// The root of the current state, if that is not empty.
    pub(super) current_state: Option<u32>,
    /// The number of the create event.
    pub(super) create: Option<u32>,
}

impl Record for ExtremitiesRecord {
    const VERSION: u8 = 2;
    const KEYSPACE: Keyspace = Keyspace::Extremities;
}

pub(super) fn outcome_to_byte(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Accepted => 0,
        Outcome::SoftFailed => 1,
        Outcome::Rejected => 2,
    }
}

pub(super) fn outcome_from_byte(byte: u8) -> Option<Outcome> {
    [Outcome::Accepted, Outcome::SoftFailed, Outcome::Rejected].into_iter().find(|o| outcome_to_byte(*o) == byte)
}

fn check_to_byte(check: Check) -> u8 {
    match check {
        Check::AuthEvents => 4,
        Check::StateBefore => 5,
        Check::CurrentState => 6,
    }
}

impl ReasonRecord {
    pub(super) fn of(reason: &RecordedReason) -> Self {
        Self {
            check: check_to_byte(reason.check),
            code: reason.code.to_string(),
            rule: reason.rule.to_string(),
            sentence: reason.sentence.clone(),
        }
    }

    pub(super) fn into_reason(self) -> Option<RecordedReason> {
        let check = [Check::AuthEvents, Check::StateBefore, Check::CurrentState]
            .into_iter()
            .find(|check| check_to_byte(*check) == self.check)?;
        Some(RecordedReason { check, code: self.code.into(), rule: self.rule.into(), sentence: self.sentence })
    }
}

impl SnapshotNodeRecord {
    pub(super) fn of(node: &NodeRecord) -> Self {
        let fingerprint = node.fingerprint.0;
        match &node.content {
            NodeContent::Leaf(entries) => {
                let entries = entries.iter().map(|EntryRecord { event, path_prefix }| {
                    let mut bytes = [0; 8];
                    let (number, path) = bytes.split_at_mut(4);
                    number.copy_from_slice(&event.number().to_be_bytes());
                    path.copy_from_slice(&path_prefix.to_be_bytes());
                    bytes
                });
                Self::Leaf { fingerprint, entries: entries.collect() }
            }
            NodeContent::Branch { len, children } => Self::Branch {
                fingerprint,
                len: *len,
                bitmap: children.iter().rev().fold(0, |bitmap, child| bitmap << 1 | u16::from(child.is_some())),
                children: children.iter().flatten().map(|child| child.number().to_be_bytes()).collect(),
            },
        }
    }

    pub(super) fn into_node(self) -> Option<NodeRecord> {
        let (fingerprint, content) = match self {
            Self::Leaf { fingerprint, entries } => {
                let entries = entries.into_iter().map(|bytes| {
                    let (number, path) = (bytes.first_chunk()?, bytes.last_chunk()?);
                    let event = EventIndex::from_number(u32::from_be_bytes(*number))?;
                    Some(EntryRecord { event, path_prefix: u32::from_be_bytes(*path) })
                });
                (fingerprint, NodeContent::Leaf(entries.collect::<Option<_>>()?))
            }
            Self::Branch { fingerprint, len, bitmap, children } => {
                let mut numbers = children.into_iter().map(|bytes| NodeIndex::from_number(u32::from_be_bytes(bytes)));
                let mut children = [None; 16];
                for (_, child) in children.iter_mut().enumerate().filter(|(digit, _)| bitmap >> digit & 1 == 1) {
                    *child = Some(numbers.next()??);
                }
                if numbers.next().is_some() {
                    return None;
                }
                (fingerprint, NodeContent::Branch { len, children })
            }
        };
        Some(NodeRecord { fingerprint: Fingerprint(fingerprint), content })
    }
}

/// The keys. Numbers are big endian, so that keys sort as numbers do.
pub(super) mod key {
    use super::{Bytes, EventId, EventIndex, KeyId, NodeIndex, ServerName};
    use crate::{Keyspace, StoreError};

    pub(in crate::log) const PROJECTED_TO: &[u8] = b"projected to";

    /// There while entries of another log are taken over, until all are there.
    pub(in crate::log) const RESTORING: &[u8] = b"restoring";

    pub(in crate::log) const HEAD: &[u8] = b"log head";

    /// There in a log that was moved: where to.
    pub(in crate::log) const MOVED_TO: &[u8] = b"moved to";

    /// There in a copy that is not finished: of what.
    pub(in crate::log) const COPY_OF: &[u8] = b"copy of";

    pub(in crate::log) fn sequence(sequence: u64) -> Bytes {
        Bytes::copy_from_slice(&sequence.to_be_bytes())
    }

    pub(in crate::log) fn room(room: u32) -> Bytes {
        Bytes::copy_from_slice(&room.to_be_bytes())
    }

    pub(in crate::log) fn timeline(room: u32, sequence: u64) -> Bytes {
        [&room.to_be_bytes()[..], &sequence.to_be_bytes()].concat().into()
    }

    /// Returns the sequence number of a key of the log.
    pub(in crate::log) fn sequence_of(key: &[u8]) -> Result<u64, StoreError> {
        let bytes = key.try_into().map_err(|_| StoreError::corrupt(Keyspace::Log, key, "a key of 8 bytes"))?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// Returns the sequence number in a key of a timeline.
    pub(in crate::log) fn timeline_sequence(key: &[u8]) -> Result<u64, StoreError> {
        let corrupt = || StoreError::corrupt(Keyspace::Timelines, key, "a key of 12 bytes");
        let (room, sequence) = key.split_last_chunk().ok_or_else(corrupt)?;
        if room.len() == size_of::<u32>() { Ok(u64::from_be_bytes(*sequence)) } else { Err(corrupt()) }
    }

    pub(in crate::log) fn event(room: u32, event_id: &EventId) -> Bytes {
        [&room.to_be_bytes()[..], event_id.as_str().as_bytes()].concat().into()
    }

    pub(in crate::log) fn event_facts(room: u32, event: EventIndex) -> Bytes {
        [room.to_be_bytes(), event.number().to_be_bytes()].concat().into()
    }

    pub(in crate::log) fn server_key(server: &ServerName, key_id: &KeyId) -> Bytes {
        [server.as_str(), key_id.as_str()].join("\0").into()
    }

    /// Returns what the key of a server's key was made of.
    pub(in crate::log) fn server_key_parts(key: &[u8]) -> Option<(ServerName, KeyId)> {
        let (server, key_id) = std::str::from_utf8(key).ok()?.split_once('\0')?;
        Some((ServerName::parse(server).ok()?, KeyId::parse(key_id).ok()?))
    }

    pub(in crate::log) fn node(room: u32, node: NodeIndex) -> Bytes {
        [room.to_be_bytes(), node.number().to_be_bytes()].concat().into()
    }
}
