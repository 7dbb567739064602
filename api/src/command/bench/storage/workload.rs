//! What is stored: judged events, and the batches that the log makes of them.

use std::{
    mem,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use ravel_core::{
    id::RoomId,
    pdu::VerifiedPdu,
    room::{Effect, PersistEvent, Receipt, Room},
    room_version::RoomVersionRules,
};
use ravel_proptests::{growing::GrowingRoom, seed::Choices};
use ravel_store::{
    Batch, Bytes, Committed, Description, Durability, KeyRange, Keyspace, MemoryStore, Op, Page, Scan, Store,
    StoreFuture, Watch, block_on, log::EventLog,
};

use super::BATCH_EVENTS;
use crate::{command::Failure, recorded_room::RecordedRoom};

/// How many rooms are generated.
const ROOMS: usize = 16;

/// One of so many events is stored as a single one.
const SINGLE_SHARE: usize = 4;

/// How many snapshot nodes are read for an entry of a state.
const PATH_NODES: usize = 4;

/// Judged events of a room.
pub(super) struct RoomEvents {
    pub(super) room_id: RoomId,
    pub(super) rules: &'static RoomVersionRules,
    events: Vec<PersistEvent>,
}

/// Judged events, and what the log writes for them.
pub(super) struct Workload {
    pub(super) rooms: Vec<RoomEvents>,
    /// What the log writes for [`in_batches`](Self::in_batches).
    pub(super) batches: Vec<Vec<Op>>,
    /// What it writes for each of [`singles_of`](Self::singles_of), by room; but for the head of the log, which a group of
    /// appends shares.
    pub(super) singles: Vec<Vec<Vec<Op>>>,
    /// What a rebuild writes after [`in_batches`](Self::in_batches).
    pub(super) rebuild: Vec<Vec<Op>>,
    nodes: Vec<Bytes>,
    timelines: Vec<Bytes>,
}

impl Workload {
    /// Returns rooms of all versions that have so many events together.
    pub(super) fn generated(events: usize) -> Result<Self, Failure> {
        let rooms = (0..ROOMS as u64).map(|number| {
            let growing = GrowingRoom::new(1, number);
            let (mut room, mut persisted) = (growing.empty(), Vec::new());
            while persisted.len() < events / ROOMS {
                let pdu = growing.next(&room);
                persisted.extend(judge(&mut room, &pdu)?);
            }
            Ok(RoomEvents { room_id: growing.room_id().clone(), rules: growing.rules(), events: persisted })
        });
        Self::new(rooms.collect::<Result<_, Failure>>()?)
    }

    /// Returns recorded rooms.
    pub(super) fn recorded(files: &[PathBuf]) -> Result<Self, Failure> {
        let rooms = files.iter().map(|file| {
            let recorded = RecordedRoom::read(file)?;
            let mut room = Room::new(recorded.room_id.clone(), recorded.room_version.rules());
            let mut events = Vec::new();
            for pdu in recorded.verified() {
                events.extend(judge(&mut room, &pdu)?);
            }
            Ok(RoomEvents { room_id: recorded.room_id, rules: recorded.room_version.rules(), events })
        });
        Self::new(rooms.collect::<Result<_, Failure>>()?)
    }

    fn new(rooms: Vec<RoomEvents>) -> Result<Self, Failure> {
        let mut workload = Self {
            rooms,
            batches: Vec::new(),
            singles: Vec::new(),
            rebuild: Vec::new(),
            nodes: Vec::new(),
            timelines: Vec::new(),
        };
        let recorder = Recorder::default();
        let log = block_on(EventLog::open(Arc::new(recorder.clone())))?;
        for (room, events) in workload.in_batches() {
            block_on(log.append(&room.room_id, room.rules, events, Durability::Sync))?;
        }
        let batches = recorder.take();
        drop(log);
        block_on(block_on(EventLog::open_to_repair(Arc::new(recorder.clone())))?.rebuild(|_, _| {}))?;
        workload.rebuild = recorder.take();
        let recorder = Recorder::default();
        let log = block_on(EventLog::open(Arc::new(recorder.clone())))?;
        let mut singles = Vec::new();
        for room in &workload.rooms {
            for event in workload.singles_of(room) {
                block_on(log.append(&room.room_id, room.rules, std::slice::from_ref(event), Durability::Sync))?;
            }
            let without_head = |ops: Vec<Op>| ops.into_iter().filter(|op| !is_put(op, Keyspace::Meta)).collect();
            singles.push(recorder.take().into_iter().map(without_head).collect());
        }
        let keys = |keyspace| {
            let ops = batches.iter().flatten().filter(move |op| is_put(op, keyspace));
            ops.filter_map(|op| if let Op::Put { key, .. } = op { Some(key.clone()) } else { None }).collect()
        };
        (workload.nodes, workload.timelines) = (keys(Keyspace::SnapshotNodes), keys(Keyspace::Timelines));
        (workload.batches, workload.singles) = (batches, singles);
        Ok(workload)
    }

    /// Returns how many events there are.
    pub(super) fn events(&self) -> usize {
        self.rooms.iter().map(|room| room.events.len()).sum()
    }

    /// Returns the bytes of keys and values that are written for all events in batches.
    pub(super) fn bytes(&self) -> usize {
        let bytes = |op: &Op| if let Op::Put { key, value, .. } = op { key.len() + value.len() } else { 0 };
        self.batches.iter().flatten().map(bytes).sum()
    }

    /// Returns the batches, rooms in turn.
    pub(super) fn in_batches(&self) -> impl Iterator<Item = (&RoomEvents, &[PersistEvent])> {
        let longest = self.rooms.iter().map(|room| room.events.len()).max().unwrap_or(0);
        (0..longest.div_ceil(BATCH_EVENTS)).flat_map(move |turn| {
            self.rooms.iter().filter_map(move |room| Some((room, room.events.chunks(BATCH_EVENTS).nth(turn)?)))
        })
    }

    /// Returns the events of a room that are stored one by one.
    pub(super) fn singles_of<'a>(&self, room: &'a RoomEvents) -> &'a [PersistEvent] {
        room.events.get(..room.events.len().div_ceil(SINGLE_SHARE)).unwrap_or_default()
    }

    /// Returns for each look-up the snapshot nodes it reads, the same each time.
    pub(super) fn paths(&self, count: usize) -> impl Iterator<Item = impl Iterator<Item = &Bytes>> {
        let mut choices = Choices::new(1);
        (0..count).map(move |_| {
            let places: [usize; PATH_NODES] = std::array::from_fn(|_| choices.below(self.nodes.len()));
            places.into_iter().filter_map(|place| self.nodes.get(place))
        })
    }

    /// Returns parts of timelines before random places, the same each time.
    pub(super) fn timeline_ranges(&self, count: usize) -> impl Iterator<Item = KeyRange> {
        let mut choices = Choices::new(2);
        (0..count).filter_map(move |_| {
            let end = self.timelines.get(choices.below(self.timelines.len()))?;
            let room = end.get(..size_of::<u32>())?;
            Some(KeyRange::new(Bytes::copy_from_slice(room), end.clone()))
        })
    }
}

/// Returns the key of the log entry that a timeline's key names: its sequence number is at the end.
pub(super) fn log_key(timeline_key: &Bytes) -> Bytes {
    timeline_key.slice(timeline_key.len().saturating_sub(size_of::<u64>())..)
}

fn is_put(op: &Op, wanted: Keyspace) -> bool {
    matches!(op, Op::Put { keyspace, .. } if *keyspace == wanted)
}

fn judge(room: &mut Room, pdu: &VerifiedPdu) -> Result<Option<PersistEvent>, Failure> {
    let Receipt::Judged(judged) = room.handle_pdu(pdu)? else { return Ok(None) };
    Ok(judged.effects.into_iter().find_map(|effect| match effect {
        Effect::Persist(persist) => Some(*persist),
        Effect::Publish(_) => None,
    }))
}

/// A store in memory that keeps what it was given to write.
#[derive(Clone, Default)]
struct Recorder(Arc<(MemoryStore, Mutex<Vec<Batch>>)>);

impl Recorder {
    fn take(&self) -> Vec<Vec<Op>> {
        let batches = mem::take(&mut *self.0.1.lock().unwrap_or_else(PoisonError::into_inner));
        batches.into_iter().map(|batch| batch.ops().to_vec()).collect()
    }
}

impl Store for Recorder {
    fn commit(&self, batch: Batch) -> StoreFuture<'_, Committed> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner).push(batch.clone());
        self.0.0.commit(batch)
    }

    fn flush(&self) -> StoreFuture<'_, ()> {
        self.0.0.flush()
    }

    fn get_many<'a>(&'a self, keyspace: Keyspace, keys: &'a [Bytes]) -> StoreFuture<'a, Vec<Option<Bytes>>> {
        self.0.0.get_many(keyspace, keys)
    }

    fn scan(&self, scan: Scan) -> StoreFuture<'_, Page> {
        self.0.0.scan(scan)
    }

    fn watch(&self, keyspace: Keyspace, prefix: &[u8]) -> Watch {
        self.0.0.watch(keyspace, prefix)
    }

    fn describe(&self) -> StoreFuture<'_, Description> {
        self.0.0.describe()
    }
}
