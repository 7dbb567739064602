//! The records of the log and of its projections.

use bincode::{Decode, Encode};
use bytes::Bytes;
use ravel_core::{
    graph::EventIndex,
    id::{EventId, KeyId, ServerName},
    room::{Arrival, Check, Outcome, PersistEvent, Place, RecordedReason},
    room_version::RoomVersion,
    state::{EntryRecord, LeafChange, NodeContent, NodeIndex, NodeRecord, RootCheck},
};

use super::{LogError, event_facts::EventFactsRecord, packed, purged_event::PurgedEventRecord};
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
        place: PlaceRecord,
    },
    /// What is left of an event whose content was purged; it stands where the event stood.
    PurgedEvent(Box<PurgedEventRecord>),
    /// The content of events of a room was purged, and the states around them: of those before a sequence number, but for what
    /// the room still needs.
    HistoryPurged {
        room: u32,
        before: u64,
        /// The forward extremities of that time that are older, sorted: their states are kept too.
        extremities: Vec<u64>,
    },
    /// A room was purged as a whole.
    RoomPurged { room: u32 },
    /// An entry of a room that was purged as a whole stood here.
    Gone { room: u32 },
    /// Something beside events is so from now on, or is not any more.
    Fact { kind: u8, key: Vec<u8>, value: Option<Vec<u8>> },
}

/// What was known of an event's place in the DAG when it came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) enum PlaceRecord {
    /// Its prev events are there.
    #[default]
    Follows,
    /// Nothing.
    Outlier,
    /// Something else.
    Placed {
        arrival: ArrivalRecord,
        /// Numbers of the events of the state before it that another server gave, sorted.
        given_state: Option<Vec<u32>>,
        /// The entry by which it came as an outlier.
        outlier: Option<u64>,
    },
}

/// How an event came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) enum ArrivalRecord {
    #[default]
    New,
    Entry,
    History,
    Unsigned,
}

impl ArrivalRecord {
    pub(super) fn of(arrival: Arrival) -> Self {
        match arrival {
            Arrival::New => Self::New,
            Arrival::Entry => Self::Entry,
            Arrival::History => Self::History,
            Arrival::Unsigned => Self::Unsigned,
        }
    }

    pub(super) fn into_arrival(self) -> Arrival {
        match self {
            Self::New => Arrival::New,
            Self::Entry => Arrival::Entry,
            Self::History => Arrival::History,
            Self::Unsigned => Arrival::Unsigned,
        }
    }
}

impl PlaceRecord {
    /// Returns the record of a place, given the entry by which the event came as an outlier, if it did.
    pub(super) fn of(place: &Place, outlier: Option<u64>) -> Self {
        match place {
            Place::Outlier => Self::Outlier,
            Place::Placed { arrival: Arrival::New, given_state: None, was_outlier: false } => Self::Follows,
            Place::Placed { arrival, given_state, .. } => Self::Placed {
                arrival: ArrivalRecord::of(*arrival),
                given_state: given_state.as_ref().map(|state| state.iter().map(|index| index.number()).collect()),
                outlier,
            },
        }
    }

    /// Whether the event follows from its prev events alone, and so does what is left of it once its content is purged.
    pub(super) fn follows(&self) -> bool {
        matches!(self, Self::Follows | Self::Placed { given_state: None, outlier: None, .. })
    }
}

impl LogEntry {
    /// Returns the number of the room that it is about, if it is about one.
    pub(super) fn room(&self) -> Option<u32> {
        match self {
            Self::RoomOpened { room, .. }
            | Self::Event { room, .. }
            | Self::HistoryPurged { room, .. }
            | Self::RoomPurged { room }
            | Self::Gone { room } => Some(*room),
            Self::PurgedEvent(event) => Some(event.room),
            Self::Fact { .. } => None,
        }
    }

    /// Whether it says the same as another one but for what was purged, here or there.
    pub(super) fn is_same_but_for_purges(&self, other: &Self) -> bool {
        let event_id = |entry: &Self| match entry {
            Self::Event { event_id, .. } => Some(event_id.clone()),
            Self::PurgedEvent(event) => Some(event.fields.event_id.clone()),
            _ => None,
        };
        let is_gone = |entry: &Self| matches!(entry, Self::Gone { .. });
        let is_same_event = || event_id(self).is_some() && event_id(self) == event_id(other);
        self.room() == other.room() && (self == other || is_gone(self) || is_gone(other) || is_same_event())
    }
}

/// A purge that is under way, by the number of its room: there from the entry that decides it until it is carried out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum PurgeRecord {
    /// Of history. The entry that decides it, and what that says.
    History { decided: u64, before: u64, extremities: Vec<u64> },
    /// Of the whole room. The entries that opened it and that purged history of it.
    Room { opened: u64, purges: Vec<u64> },
}

impl Record for PurgeRecord {
    const VERSION: u8 = 1;
    const KEYSPACE: Keyspace = Keyspace::Meta;
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

    /// Counts an entry that is read where the next one has to be.
    pub(super) fn count_read(&mut self, sequence: u64, entry: &LogEntry) -> Result<(), LogError> {
        if sequence != self.next_sequence {
            return Err(LogError::BadEntry { sequence: self.next_sequence, problem: "it is missing" });
        }
        self.take_sequence()?;
        self.count_room_of(entry)
    }

    /// Counts the room that an entry opens, or that was opened there before it was purged.
    pub(super) fn count_room_of(&mut self, entry: &LogEntry) -> Result<(), LogError> {
        match entry {
            LogEntry::RoomOpened { room, .. } | LogEntry::RoomPurged { room } | LogEntry::Gone { room } => {
                self.count_room(*room)
            }
            LogEntry::Event { .. }
            | LogEntry::PurgedEvent(_)
            | LogEntry::HistoryPurged { .. }
            | LogEntry::Fact { .. } => Ok(()),
        }
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

/// The newest value of a fact, by kind and key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct FactRecord {
    /// The entry that says it.
    pub(super) sequence: u64,
    pub(super) value: Vec<u8>,
}

impl Record for FactRecord {
    const VERSION: u8 = 1;
    const KEYSPACE: Keyspace = Keyspace::Facts;
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
    /// The entry that opens it.
    pub(super) opened: u64,
    /// The entries that purge history of it.
    pub(super) purges: Vec<u64>,
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
    pub(super) fn new(number: u32, version: RoomVersion, opened: u64) -> Self {
        let (room_version, projections) = (version.as_str().to_owned(), ROOM_PROJECTIONS.to_vec());
        Self { number, room_version, opened, purges: Vec::new(), projections }
    }

    /// Returns the record of the room once its projections are as this program computes them.
    pub(super) fn refreshed(&self) -> Self {
        Self { projections: ROOM_PROJECTIONS.to_vec(), ..self.clone() }
    }

    /// Returns how often history of the room was purged.
    pub(super) fn purge_count(&self) -> u32 {
        u32::try_from(self.purges.len()).unwrap_or(u32::MAX)
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

    #[cfg(all(test, feature = "testing"))]
    pub(super) fn with_projections(self, projections: Vec<u8>) -> Self {
        Self { projections, ..self }
    }
}

/// What followed from an event, by room and sequence number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct TimelineRecord {
    pub(super) outcome: u8,
    pub(super) reason: Option<ReasonRecord>,
    /// Whether it is a redaction whose sender may redact any event.
    pub(super) may_redact_any: bool,
    pub(super) states: StatesRecord,
    /// How many snapshot nodes the room had with this event.
    pub(super) nodes_numbered: u32,
    /// How it came; none for an outlier.
    pub(super) arrival: Option<ArrivalRecord>,
    /// Whether another server gave a state before it.
    pub(super) in_given_state: bool,
    /// The entry by which an outlier got its place.
    pub(super) placed: Option<u64>,
}

/// The states around an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum StatesRecord {
    /// The roots of the state before and after it; none is that of an empty state.
    Roots { before: Option<u32>, after: Option<u32> },
    /// They were purged, or it is an outlier.
    Purged,
}

impl StatesRecord {
    /// Returns the roots that there are.
    pub(super) fn roots(self) -> impl Iterator<Item = u32> {
        let (before, after) = match self {
            Self::Roots { before, after } => (before, after),
            Self::Purged => (None, None),
        };
        before.into_iter().chain(after)
    }
}

impl Record for TimelineRecord {
    const VERSION: u8 = 4;
    const KEYSPACE: Keyspace = Keyspace::Timelines;
}

impl TimelineRecord {
    /// Returns the record of an event; `sequence` is that of its entry.
    pub(super) fn of(event: &PersistEvent, sequence: u64) -> Self {
        let (arrival, in_given_state, was_outlier) = match &event.place {
            Place::Outlier => (None, false, false),
            Place::Placed { arrival, given_state, was_outlier } => {
                (Some(ArrivalRecord::of(*arrival)), given_state.is_some(), *was_outlier)
            }
        };
        let states = match arrival {
            None => StatesRecord::Purged,
            Some(_) => StatesRecord::Roots {
                before: event.state_before.map(NodeIndex::number),
                after: event.state_after.map(NodeIndex::number),
            },
        };
        Self {
            outcome: outcome_to_byte(event.outcome),
            reason: event.reason.as_ref().map(ReasonRecord::of),
            may_redact_any: event.may_redact_any,
            states,
            nodes_numbered: event.nodes_numbered,
            arrival,
            in_given_state,
            placed: was_outlier.then_some(sequence),
        }
    }

    /// Returns the record of an outlier before it got its place. (What was rejected by its auth events is rejected in any place.)
    pub(super) fn before_it_was_placed(&self) -> Self {
        let rejected = outcome_from_byte(self.outcome) == Some(Outcome::Rejected);
        Self {
            outcome: if rejected { self.outcome } else { outcome_to_byte(Outcome::Accepted) },
            reason: self.reason.clone().filter(|_| rejected),
            may_redact_any: false,
            states: StatesRecord::Purged,
            nodes_numbered: 0,
            arrival: None,
            in_given_state: false,
            placed: None,
        }
    }

    /// Returns the outcome and the reason; `None` if one is unknown.
    pub(super) fn verdict(&self) -> Option<(Outcome, Option<RecordedReason>)> {
        recorded_verdict(self.outcome, self.reason.clone())
    }
}

/// Where an event is, by room and event id.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct EventRecord {
    /// The number of its entry.
    pub(super) sequence: u64,
    /// Its number in the room.
    pub(super) number: u32,
}

impl Record for EventRecord {
    const VERSION: u8 = 2;
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

/// A node of the states' trees, by room and number: the beginning of a root's fingerprint, and what is below.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct SnapshotNodeRecord {
    pub(super) root_check: Option<RootCheck>,
    pub(super) content: NodeContentRecord,
}

/// What is below a node. Numbers of events are [packed](super::packed), those of nodes have four bytes each: most of a branch's
/// are those of the branch that it follows, which a compressor finds.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) enum NodeContentRecord {
    /// The events' numbers, each but the first as the difference from the one before it; then the entries' digits.
    Leaf(Vec<u8>),
    /// How far the number of the changed leaf is below this one's; what replaces entries, and entries beside them: each as in a
    /// leaf, with places in place of digits first.
    Change { back: u32, replaced: Vec<u8>, added: Vec<u8> },
    /// The numbers of the children that are there, in order.
    Branch { bitmap: u16, children: Vec<[u8; 4]> },
}

impl Record for SnapshotNodeRecord {
    const VERSION: u8 = 3;
    const KEYSPACE: Keyspace = Keyspace::SnapshotNodes;
}

/// Where a room stands, by room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub(super) struct ExtremitiesRecord {
    pub(super) forward_extremities: Vec<String>,
    /// The root of the current state, if that is not empty.
    pub(super) current_state: Option<u32>,
    /// The fingerprint of the current state.
    pub(super) fingerprint: [u8; 32],
    /// The number of the create event.
    pub(super) create: Option<u32>,
}

impl Record for ExtremitiesRecord {
    const VERSION: u8 = 3;
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

/// Returns an outcome with its reason; `None` if one is unknown.
pub(super) fn recorded_verdict(outcome: u8, reason: Option<ReasonRecord>) -> Option<(Outcome, Option<RecordedReason>)> {
    let outcome = outcome_from_byte(outcome)?;
    match reason {
        Some(reason) => Some((outcome, Some(reason.into_reason()?))),
        None => Some((outcome, None)),
    }
}

fn check_to_byte(check: Check) -> u8 {
    match check {
        Check::AuthEvents => 4,
        Check::StateBefore => 5,
        Check::CurrentState => 6,
        Check::PolicyServer => 7,
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
        let check = [Check::AuthEvents, Check::StateBefore, Check::CurrentState, Check::PolicyServer]
            .into_iter()
            .find(|check| check_to_byte(*check) == self.check)?;
        Some(RecordedReason { check, code: self.code.into(), rule: self.rule.into(), sentence: self.sentence })
    }
}

impl SnapshotNodeRecord {
    pub(super) fn of(number: NodeIndex, node: &NodeRecord) -> Self {
        let content = match &node.content {
            NodeContent::Leaf(entries) => NodeContentRecord::Leaf(pack_entries(entries)),
            NodeContent::Change(LeafChange { of, replaced, added }) => NodeContentRecord::Change {
                // The other one was there before.
                back: number.number().saturating_sub(of.number()),
                replaced: packed::pack(replaced.iter().map(|(event, place)| (event.number(), *place))),
                added: pack_entries(added),
            },
            NodeContent::Branch { children } => NodeContentRecord::Branch {
                bitmap: children.iter().rev().fold(0, |bitmap, child| bitmap << 1 | u16::from(child.is_some())),
                children: children.iter().flatten().map(|child| child.number().to_be_bytes()).collect(),
            },
        };
        Self { root_check: node.root_check, content }
    }

    /// Returns the node with a number; `None` if it can't be one.
    pub(super) fn into_node(self, number: NodeIndex) -> Option<NodeRecord> {
        let content = match self.content {
            NodeContentRecord::Leaf(entries) => NodeContent::Leaf(unpack_entries(&entries)?),
            NodeContentRecord::Change { back, replaced, added } => NodeContent::Change(LeafChange {
                of: NodeIndex::from_number(number.number().checked_sub(back)?)?,
                replaced: packed::unpack(&replaced, |event, place| Some((EventIndex::from_number(event)?, place)))?,
                added: unpack_entries(&added)?,
            }),
            NodeContentRecord::Branch { bitmap, children } => {
                let mut numbers = children.into_iter().map(|bytes| NodeIndex::from_number(u32::from_be_bytes(bytes)));
                let mut children = [None; 16];
                for (_, child) in children.iter_mut().enumerate().filter(|(digit, _)| bitmap >> digit & 1 == 1) {
                    *child = Some(numbers.next()??);
                }
                if numbers.next().is_some() {
                    return None;
                }
                NodeContent::Branch { children }
            }
        };
        Some(NodeRecord { root_check: self.root_check, content })
    }
}

fn pack_entries(entries: &[EntryRecord]) -> Vec<u8> {
    packed::pack(entries.iter().map(|entry| (entry.event.number(), entry.path)))
}

fn unpack_entries(bytes: &[u8]) -> Option<Vec<EntryRecord>> {
    packed::unpack(bytes, |event, path| Some(EntryRecord { event: EventIndex::from_number(event)?, path }))
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
    /// Before the numbers of rooms of which a purge is under way.
    pub(in crate::log) const PURGING: &[u8] = b"purging ";

    pub(in crate::log) fn purging(room: u32) -> Bytes {
        [PURGING, &room.to_be_bytes()].concat().into()
    }

    /// Returns the room's number in a key of a purge that is under way.
    pub(in crate::log) fn purging_room(key: &[u8]) -> Result<u32, StoreError> {
        let number = key.strip_prefix(PURGING).and_then(|number| number.try_into().ok());
        let corrupt = || StoreError::corrupt(Keyspace::Meta, key, "a room's number in the key");
        Ok(u32::from_be_bytes(number.ok_or_else(corrupt)?))
    }

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

    pub(in crate::log) fn fact(kind: u8, key: &[u8]) -> Bytes {
        [&[kind], key].concat().into()
    }

    pub(in crate::log) fn server_key(server: &ServerName, key_id: &KeyId) -> Bytes {
        [server.as_str(), key_id.as_str()].join("\0").into()
    }

    /// Returns what the keys of a server's keys begin with.
    pub(in crate::log) fn server_keys(server: &ServerName) -> Bytes {
        [server.as_str(), ""].join("\0").into()
    }

    /// Returns what the key of a server's key was made of.
    pub(in crate::log) fn server_key_parts(key: &[u8]) -> Option<(ServerName, KeyId)> {
        let (server, key_id) = std::str::from_utf8(key).ok()?.split_once('\0')?;
        Some((ServerName::parse(server).ok()?, KeyId::parse(key_id).ok()?))
    }

    /// Returns the number in a key of a node.
    pub(in crate::log) fn node_number(key: &[u8]) -> Result<u32, StoreError> {
        numbered(key).ok_or_else(|| StoreError::corrupt(Keyspace::SnapshotNodes, key, "a key of 8 bytes"))
    }

    /// Returns the number in a key of an event's facts.
    pub(in crate::log) fn event_facts_number(key: &[u8]) -> Result<u32, StoreError> {
        numbered(key).ok_or_else(|| StoreError::corrupt(Keyspace::EventFacts, key, "a key of 8 bytes"))
    }

    fn numbered(key: &[u8]) -> Option<u32> {
        let (room, number) = key.split_last_chunk()?;
        (room.len() == size_of::<u32>()).then_some(u32::from_be_bytes(*number))
    }

    pub(in crate::log) fn node(room: u32, node: NodeIndex) -> Bytes {
        [room.to_be_bytes(), node.number().to_be_bytes()].concat().into()
    }
}
