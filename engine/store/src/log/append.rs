//! Appending: many rooms at once, in one batch.
//!
//! Appends that come while a batch is being written wait, and the first of them to be woken writes for all: one head, one guard on
//! it, one sync. So rooms share the cost of a durable append, without a task or a thread of the log's own.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use ravel_core::{
    graph::EventIndex,
    id::RoomId,
    room::{PersistEvent, Place},
    room_version::RoomVersionRules,
    state::NodeIndex,
};
use tokio::sync::{Semaphore, oneshot};

use super::{
    BATCH_BYTES, EventLog, LogError,
    event_facts::EventFactsRecord,
    facts::{self, Fact},
    records::{
        EventRecord, ExtremitiesRecord, Head, LogEntry, PlaceRecord, RoomRecord, SnapshotNodeRecord, TimelineRecord,
        key,
    },
    seal::{self, Standing},
};
use crate::{Batch, Committed, Durability, Keyspace, Op, StoreError, StoreExt, codec};

/// How many bytes of appends may wait to be written; who has more waits before it is queued.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// About what a record of a timeline takes.
const TIMELINE_BYTES: usize = 64;

/// Appends are merged into one batch up to this size, the last one of them on top.
const GROUP_BYTES: usize = 16 << 20;

impl EventLog {
    /// Appends judged events of one room with everything that follows from them, in one batch or several of a bounded size.
    ///
    /// The events are those of [`Effect::Persist`](ravel_core::room::Effect::Persist), in their order. When this returns, they are
    /// as durable as `durability` says. Rooms need not wait for each other: appends that wait at the same time share a batch and
    /// its sync. A room is to be appended to by one task at a time.
    ///
    /// Waits while more than 64 MiB of other appends wait. Dropped before it returns, it has appended a beginning of the events,
    /// or none, or all.
    ///
    /// # Errors
    ///
    /// When the store fails, another writer appended meanwhile, the room was purged since it was loaded, or it has one of the
    /// events already. What was appended before the error stays; the caller drops the [`Room`](ravel_core::room::Room) and loads it again.
    pub async fn append(
        &self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        events: &[PersistEvent],
        durability: Durability,
    ) -> Result<(), LogError> {
        self.append_with_facts(room_id, rules, events, &[], durability).await
    }

    /// As [`append`](Self::append), with facts that are so because of the events: after the last one of these, in the same batch.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append), and when a key or value of a fact is too long.
    pub async fn append_with_facts(
        &self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        events: &[PersistEvent],
        facts: &[Fact],
        durability: Durability,
    ) -> Result<(), LogError> {
        facts::check_lengths(facts)?;
        let mut part = self.part(room_id, rules)?;
        for (number, event) in events.iter().enumerate() {
            let outlier = match event.place {
                Place::Placed { was_outlier: true, .. } => {
                    // It may be among those before it.
                    let next = Part::new(room_id, part.room, None);
                    self.write(mem::replace(&mut part, next), durability).await?;
                    let key = key::event(part.room, &event.event.event_id);
                    let place: Option<EventRecord> = self.store.get_record(key).await?;
                    Some(place.ok_or(LogError::NoOutlier { event_id: event.event.event_id.clone() })?.sequence)
                }
                _ => None,
            };
            part.event(event, outlier)?;
            let is_last = number.saturating_add(1) == events.len();
            if part.size_bytes >= BATCH_BYTES && !is_last {
                let next = Part::new(room_id, part.room, None);
                self.write(mem::replace(&mut part, next), durability).await?;
            }
        }
        part.add_facts(facts);
        self.write(part, durability).await
    }

    /// Begins an append to a room, which gets a number if it is new.
    fn part(&self, room_id: &RoomId, rules: &RoomVersionRules) -> Result<Part, LogError> {
        let mut known = self.known();
        if known.is_lagging {
            return Err(LogError::Lagging);
        }
        known.standing.check()?;
        if let Some(room) = known.rooms.get(room_id) {
            // By other rules the events would have other ids.
            if room.room_version != rules.version.as_str() {
                let (room_id, known) = (room_id.clone(), room.room_version.clone());
                return Err(LogError::OtherRoomVersion { room_id, known, given: rules.version });
            }
            return Ok(Part::new(room_id, room.number, None));
        }
        let number = match known.opening.get(room_id) {
            Some(number) => *number,
            None => {
                let number = known.next_room;
                known.next_room = number.checked_add(1).ok_or(LogError::Full)?;
                known.opening.insert(room_id.clone(), number);
                number
            }
        };
        let opens = Opening {
            entry: codec::encode(&LogEntry::RoomOpened {
                room: number,
                room_id: room_id.to_string(),
                room_version: rules.version.as_str().to_owned(),
            })?
            .into(),
            record: RoomRecord::new(number, rules.version, 0),
            is_first: false,
        };
        Ok(Part::new(room_id, number, Some(opens)))
    }

    /// Writes a part, together with those of others that wait.
    async fn write(&self, part: Part, durability: Durability) -> Result<(), LogError> {
        if part.is_empty() {
            return Ok(());
        }
        let room_id = part.room_id.clone();
        let size = u32::try_from(part.size_bytes.min(WAITING_BYTES_MAX)).map_err(|_| LogError::Full)?;
        // It is never closed.
        let _place = self.appends.places.acquire_many(size).await.map_err(|_| StoreError::Closed)?;
        let (reply, mut fate) = oneshot::channel();
        self.appends.waiting().push_back(Waiting { part, durability, reply });
        let fate = tokio::select! {
            biased;
            fate = &mut fate => fate.map_err(|_| StoreError::Closed)?,
            mut writer = self.appends.writer.lock() => loop {
                match fate.try_recv() {
                    Ok(fate) => break fate,
                    Err(oneshot::error::TryRecvError::Empty) => self.write_group(&mut writer).await?,
                    Err(oneshot::error::TryRecvError::Closed) => return Err(StoreError::Closed.into()),
                }
            },
        };
        match fate {
            Fate::Written => Ok(()),
            Fate::AlreadyThere => Err(LogError::AlreadyThere),
            Fate::Overtaken(by) => Err(by.check().err().unwrap_or(LogError::Overtaken)),
            Fate::Purged => Err(LogError::Purged { room_id }),
            Fate::Failed(error) => Err(error.into()),
        }
    }

    /// Writes what waits, up to a bound, and tells each what became of it.
    async fn write_group(&self, in_flight: &mut Option<Group>) -> Result<(), LogError> {
        self.settle_in_flight(in_flight).await?;
        let mut parts = self.appends.take_group();
        while !parts.is_empty() {
            let (batch, group) = self.merge(parts)?;
            // All were refused: there is nothing to write, not even a head.
            if group.parts.is_empty() {
                break;
            }
            // If this future is dropped meanwhile, whoever writes next finds out what became of the group.
            let group = in_flight.insert(group);
            let committed = self.store.commit(batch).await;
            let owner = match &committed {
                Ok(Committed::Refused(guard)) => group.owner_of(guard.index),
                _ => None,
            };
            let Some(mut group) = in_flight.take() else { break };
            match (committed, owner) {
                (Ok(Committed::Written), _) => self.written(group),
                // The others have nothing to do with it.
                (Ok(Committed::Refused(_)), Some(owner)) => {
                    group.parts.remove(owner).tell(Fate::AlreadyThere);
                    parts = group.parts;
                    continue;
                }
                (Ok(Committed::Refused(guard)), None) => {
                    let found = seal::found_standing(&self.store, guard.found.as_deref()).await;
                    group.tell(&found.map_or_else(Fate::Failed, Fate::Overtaken));
                }
                // Whoever took the store over may have done it to move it.
                (Err(error @ StoreError::Overtaken { .. }), _) => {
                    let found = match self.store.get(Keyspace::Meta, key::HEAD).await {
                        Ok(found) => seal::found_standing(&self.store, found.as_deref()).await,
                        Err(error) => Err(error),
                    };
                    group.tell(&match found {
                        Ok(moved @ Standing::Moved { .. }) => Fate::Overtaken(moved),
                        _ => Fate::Failed(error),
                    });
                }
                (Err(error), _) => group.tell(&Fate::Failed(error)),
            }
            break;
        }
        Ok(())
    }

    /// Puts parts into one batch, in their order: here entries get their sequence numbers.
    fn merge(&self, parts: Vec<Waiting>) -> Result<(Batch, Group), LogError> {
        let mut head = self.known().head.clone();
        // First of the guards, so that a writer who was overtaken hears of that and of nothing that follows from it.
        let mut batch = head.guarded_batch()?;
        batch.durability(Durability::Relaxed);
        let mut group = Group { head: Head::default(), parts: Vec::with_capacity(parts.len()) };
        for mut waiting in parts {
            let part = &mut waiting.part;
            // What was purged since it was queued may be what it builds on.
            if !self.known().takes(&part.room_id, part.room, part.purges) {
                waiting.tell(Fate::Purged);
                continue;
            }
            // A guard knows what was there before the batch, not what the batch itself puts there.
            if group.parts.iter().any(|other| other.part.room == part.room && !other.part.keys.is_disjoint(&part.keys))
            {
                waiting.tell(Fate::AlreadyThere);
                continue;
            }
            if let Some(opens) = &mut part.opens {
                opens.is_first = !group.opens(&part.room_id) && !self.known().rooms.contains_key(&part.room_id);
                if opens.is_first {
                    opens.record.opened = head.take_sequence()?;
                    batch.put(Keyspace::Log, key::sequence(opens.record.opened), opens.entry.clone());
                    batch.put_record(part.room_id.as_str().to_owned(), &opens.record)?;
                    head.count_room(part.room)?;
                }
            }
            for event in &part.events {
                event.guard(&mut batch)?;
                let sequence = head.take_sequence()?;
                batch.put(Keyspace::Log, key::sequence(sequence), event.entry.clone());
                event.projected.clone().put(&mut batch, part.room, sequence, event.outlier)?;
            }
            for fact in &part.facts {
                facts::append(&mut batch, &mut head, fact)?;
            }
            if waiting.durability == Durability::Sync {
                batch.durability(Durability::Sync);
            }
            group.parts.push(waiting);
        }
        batch.put_record(key::HEAD, &head)?;
        batch.keep_last_puts(Keyspace::Extremities);
        group.head = head;
        Ok((batch, group))
    }

    fn written(&self, group: Group) {
        let mut known = self.known();
        known.advance(group.head.clone());
        for part in group.parts.iter().map(|waiting| &waiting.part) {
            if let Some(opens) = part.opens.as_ref().filter(|opens| opens.is_first) {
                known.opening.remove(&part.room_id);
                known.rooms.insert(part.room_id.clone(), opens.record.clone());
            }
        }
        drop(known);
        group.tell(&Fate::Written);
    }

    /// Finds out what became of the group that was being written, if nobody waited for the answer.
    pub(super) async fn settle_in_flight(&self, in_flight: &mut Option<Group>) -> Result<(), LogError> {
        match in_flight.take() {
            Some(left_behind) => self.settle(left_behind).await,
            None => Ok(()),
        }
    }

    async fn settle(&self, group: Group) -> Result<(), LogError> {
        // What was handed to the store before this call is written when it returns, and durable.
        let found = match self.store.flush().await {
            Ok(()) => self.store.get_record::<Head>(key::HEAD).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(Some(head)) if head == group.head => self.written(group),
            Ok(head) if head.clone().unwrap_or_default() == self.known().head => {
                let mut waiting = self.appends.waiting();
                group.parts.into_iter().rev().for_each(|part| waiting.push_front(part));
            }
            Ok(head) => {
                let standing = seal::standing(&self.store, head.unwrap_or_default().standing).await;
                group.tell(&standing.map_or_else(Fate::Failed, Fate::Overtaken));
            }
            Err(error) => group.tell(&Fate::Failed(error)),
        }
        Ok(())
    }
}

/// What waits to be appended, and who writes.
pub(super) struct Appends {
    waiting: Mutex<VecDeque<Waiting>>,
    /// A permit for each byte.
    places: Semaphore,
    /// Held by whoever writes; with the group whose outcome nobody waited for, if there is one.
    pub(super) writer: tokio::sync::Mutex<Option<Group>>,
}

impl Default for Appends {
    fn default() -> Self {
        let places = Semaphore::new(WAITING_BYTES_MAX);
        Self { waiting: Mutex::default(), places, writer: tokio::sync::Mutex::default() }
    }
}

impl Appends {
    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what is to be written together; not what nobody waits for any more.
    fn take_group(&self) -> Vec<Waiting> {
        let (mut group, mut size_bytes) = (Vec::new(), 0);
        let mut waiting = self.waiting();
        while size_bytes < GROUP_BYTES
            && let Some(next) = waiting.pop_front()
        {
            if !next.reply.is_closed() {
                size_bytes += next.part.size_bytes;
                group.push(next);
            }
        }
        group
    }
}

struct Waiting {
    part: Part,
    durability: Durability,
    reply: oneshot::Sender<Fate>,
}

impl Waiting {
    fn tell(self, fate: Fate) {
        // Who dropped the future does not want to know.
        let _ = self.reply.send(fate);
    }
}

/// What became of an append.
#[derive(Clone, Debug)]
enum Fate {
    Written,
    AlreadyThere,
    /// By another writer, or by a seal.
    Overtaken(Standing),
    Purged,
    Failed(StoreError),
}

/// Parts that are in one batch.
pub(super) struct Group {
    parts: Vec<Waiting>,
    /// The head that the batch writes.
    head: Head,
}

impl Group {
    /// Returns a group of nothing but a head.
    pub(super) fn of_head(head: Head) -> Self {
        Self { parts: Vec::new(), head }
    }

    fn opens(&self, room_id: &RoomId) -> bool {
        self.parts.iter().any(|waiting| waiting.part.opens.is_some() && waiting.part.room_id == *room_id)
    }

    /// Returns the place of the part that a guard of the batch belongs to, `None` for the guard on the head.
    fn owner_of(&self, guard: usize) -> Option<usize> {
        let mut left = guard.checked_sub(1)?;
        self.parts.iter().position(|waiting| {
            let guards = waiting.part.events.len();
            let is_owner = left < guards;
            left = left.saturating_sub(guards);
            is_owner
        })
    }

    fn tell(self, fate: &Fate) {
        self.parts.into_iter().for_each(|waiting| waiting.tell(fate.clone()));
    }
}

/// Events of a room on their way into the log, encoded but for their places in it.
struct Part {
    room_id: RoomId,
    room: u32,
    /// How often history of the room had been purged when the events were judged.
    purges: u32,
    opens: Option<Opening>,
    events: Vec<PartEvent>,
    keys: BTreeSet<Bytes>,
    /// What comes after the events.
    facts: Vec<Fact>,
    size_bytes: usize,
}

/// What opens a room.
struct Opening {
    record: RoomRecord,
    entry: Bytes,
    /// It is the one of several that is written.
    is_first: bool,
}

struct PartEvent {
    entry: Bytes,
    projected: Projected,
    /// The entry by which it came as an outlier.
    outlier: Option<u64>,
}

impl PartEvent {
    /// Adds the one condition of each event: that it is not there, or is where it came as an outlier.
    fn guard(&self, batch: &mut Batch) -> Result<(), StoreError> {
        let key = self.projected.key.clone();
        match self.outlier {
            Some(sequence) => {
                let place = EventRecord { sequence, number: self.projected.number };
                batch.guard_equals(Keyspace::Events, key, codec::encode(&place)?)
            }
            None => batch.guard_absent(Keyspace::Events, key),
        };
        Ok(())
    }
}

impl Part {
    fn new(room_id: &RoomId, room: u32, opens: Option<Opening>) -> Self {
        let (room_id, events, keys, facts) = (room_id.clone(), Vec::new(), BTreeSet::new(), Vec::new());
        Self { room_id, room, purges: 0, opens, events, keys, facts, size_bytes: 0 }
    }

    fn is_empty(&self) -> bool {
        self.opens.is_none() && self.events.is_empty() && self.facts.is_empty()
    }

    fn add_facts(&mut self, facts: &[Fact]) {
        // Each is written twice, as an entry and as the newest value.
        let size_bytes: usize = facts.iter().map(|fact| 2 * fact.size_bytes()).sum();
        self.size_bytes = self.size_bytes.saturating_add(size_bytes);
        self.facts.extend_from_slice(facts);
    }

    fn event(&mut self, event: &PersistEvent, outlier: Option<u64>) -> Result<(), LogError> {
        if event.json.is_empty() {
            return Err(LogError::NoContent { event_id: event.event.event_id.clone() });
        }
        let begins_room = self.opens.is_some() && self.events.is_empty();
        if begins_room && event.index.number() > 0 {
            // It goes on with a room that is not there any more.
            return Err(LogError::Purged { room_id: self.room_id.clone() });
        }
        self.purges = event.purges;
        let entry = Bytes::from(codec::encode(&LogEntry::Event {
            room: self.room,
            event_id: event.event.event_id.to_string(),
            json: event.json.to_vec(),
            content_hash_matched: event.content_hash_matched,
            authorising_user_signed: event.authorising_user_signed,
            place: PlaceRecord::of(&event.place, outlier),
        })?);
        let projected = Projected::of(self.room, event)?;
        if !self.keys.insert(projected.key.clone()) {
            return Err(LogError::AlreadyThere);
        }
        self.size_bytes = self.size_bytes.saturating_add(entry.len()).saturating_add(projected.size_bytes());
        self.events.push(PartEvent { entry, projected, outlier });
        Ok(())
    }
}

/// What follows from an event, encoded but for its place in the log.
#[derive(Clone)]
pub(super) struct Projected {
    /// The event's key in `events`.
    key: Bytes,
    /// Its number in the room.
    number: u32,
    /// But for the entry by which an outlier got its place.
    timeline: TimelineRecord,
    others: Vec<Op>,
}

impl Projected {
    pub(super) fn of(room: u32, event: &PersistEvent) -> Result<Self, LogError> {
        let mut batch = Batch::new();
        if !matches!(event.place, Place::Placed { was_outlier: true, .. }) {
            batch.put_record(key::event_facts(room, event.index), &EventFactsRecord::of(&event.stored))?;
        }
        for (number, node) in &event.nodes {
            batch.put_record(key::node(room, *number), &SnapshotNodeRecord::of(*number, node))?;
        }
        if let Some(extremities) = &event.forward_extremities {
            let record = ExtremitiesRecord {
                forward_extremities: extremities.iter().map(ToString::to_string).collect(),
                current_state: event.current_state.map(NodeIndex::number),
                fingerprint: event.current_state_fingerprint.0,
                create: event.create.map(EventIndex::number),
            };
            batch.put_record(key::room(room), &record)?;
        }
        Ok(Self {
            key: key::event(room, &event.event.event_id),
            number: event.index.number(),
            timeline: TimelineRecord::of(event, 0),
            others: batch.into_ops(),
        })
    }

    /// Adds all of it to a batch: that of an entry, and if that gives an outlier its place, the entry by which this came.
    pub(super) fn put(self, batch: &mut Batch, room: u32, sequence: u64, outlier: Option<u64>) -> Result<(), LogError> {
        match outlier {
            // The timeline has each event once.
            Some(outlier) => {
                let timeline = TimelineRecord { placed: Some(sequence), ..self.timeline };
                batch.put_record(key::timeline(room, outlier), &timeline)?;
            }
            None => {
                batch.put_record(key::timeline(room, sequence), &self.timeline)?;
                batch.put_record(self.key, &EventRecord { sequence, number: self.number })?;
            }
        }
        for op in self.others {
            batch.push(op);
        }
        Ok(())
    }

    fn size_bytes(&self) -> usize {
        let others = self.others.iter().map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { .. } | Op::DeleteRange { .. } => 0,
        });
        self.key.len() + TIMELINE_BYTES + others.sum::<usize>()
    }
}
