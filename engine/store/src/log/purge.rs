//! Purging: of a room's history before some point, or of a whole room.
//!
//! A purge is decided by an entry of the log, as everything is, and from then on it holds. What it says is carried out by replacing
//! entries that stand before it, in batches of a bounded size. A record in `meta` says what is under way, so that it is gone on with
//! after a crash. What is kept follows from the entries before the one that decides, and from nothing else: so a replica, a restored
//! backup and a rebuilt database come to the same bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use ravel_core::{
    graph::EventIndex,
    id::{EventId, RoomId},
    room::{Outcome, PurgedEvent},
    room_version::RoomVersionRules,
    state::{NodeContent, NodeRecord, UnusableNode},
};

use super::{
    Entries, EventLog, LogError,
    collect::{Collected, Collection},
    commit,
    event_facts::EventFactsRecord,
    nodes::{NodeWalk, Numbers},
    purged_event::PurgedEventRecord,
    records::{EventRecord, ExtremitiesRecord, LogEntry, PurgeRecord, StatesRecord, TimelineRecord, key},
    replay::{Replayed, restore},
};
use crate::{Batch, Durability, KeyRange, Keyspace, Scan, StoreError, StoreExt, codec};

/// How many records are read at a time.
const PAGE: usize = 512;

/// What a purge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// How many events lost their content.
    pub events: u64,
    /// The bytes of the log that are free now.
    pub log_bytes: u64,
    /// Around how many events the states were purged.
    pub states: u64,
    /// What became of the snapshot nodes.
    pub nodes: Collected,
}

impl EventLog {
    /// Purges the history of a room before an event, which stays; `None` if the room or the event is not there.
    ///
    /// Of each event that was received before this one the content is dropped, and the states around it; its id, its edges, its
    /// verdict and what rules read of it stay. Kept with their content are the forward extremities, what is in any state around an
    /// event that stays, and the auth chains of all of these; and the forward extremities' states. An event that comes later and
    /// builds on one whose states are gone can't be judged any more
    /// ([`Receipt::NeedState`](ravel_core::room::Receipt::NeedState)).
    ///
    /// Where nothing is to be purged that is not already, nothing happens. Whoever has the room in memory loads it again: appends
    /// to it are refused until then. Other rooms go on meanwhile. Calls `progress` with the events done and all events before that
    /// one. Costs reading the room's records, and memory for 8 bytes for each event and a bit for each snapshot node.
    ///
    /// # Errors
    ///
    /// When the store fails, another writer appended, or what is stored does not fit together. A purge that was decided is carried
    /// out when the room is next loaded, or by [`resume_purges`](Self::resume_purges).
    pub async fn purge_history(
        &self,
        room_id: &RoomId,
        event_id: &EventId,
        progress: impl FnMut(u64, u64),
    ) -> Result<Option<Purged>, LogError> {
        let Some(room) = self.fresh_room(room_id).await? else { return Ok(None) };
        let place = self.store.get_record::<EventRecord>(key::event(room.number, event_id)).await?;
        match place {
            Some(EventRecord { sequence, .. }) => self.purge_history_before(room_id, sequence, progress).await,
            None => Ok(None),
        }
    }

    /// Purges the history of a room that is older than a time, in milliseconds since 1970: all before the first event that has an
    /// `origin_server_ts` of that time or later. At least the newest event stays. `None` if the room is not there.
    ///
    /// `origin_server_ts` is what the sender's server says. One that lies in the future keeps what came after it.
    ///
    /// # Errors
    ///
    /// As [`purge_history`](Self::purge_history).
    pub async fn purge_older_than(
        &self,
        room_id: &RoomId,
        time_ms: i64,
        progress: impl FnMut(u64, u64),
    ) -> Result<Option<Purged>, LogError> {
        let Some(room) = self.fresh_room(room_id).await? else { return Ok(None) };
        let mut boundary = None;
        let mut scan = Some(Scan::new(Keyspace::EventFacts, KeyRange::prefix(key::room(room.number))).items(PAGE));
        'pages: while let Some(asked) = scan.take() {
            let page = self.store.scan(asked.clone()).await?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            for (key, value) in &page.items {
                let facts: EventFactsRecord = codec::decode(key, value)?;
                let is_young = facts.fields.origin_server_ts_ms >= time_ms;
                boundary = Some(facts.fields.event_id);
                if is_young {
                    break 'pages;
                }
            }
        }
        let Some(boundary) = boundary else { return Ok(Some(Purged::default())) };
        let bad = |_| LogError::BadRoom { room_id: room_id.clone() };
        self.purge_history(room_id, &EventId::parse(&boundary).map_err(bad)?, progress).await
    }

    /// Purges a whole room: every entry and every record of it. `None` if the room is not there. It can be opened again, as a new
    /// one.
    ///
    /// # Errors
    ///
    /// As [`purge_history`](Self::purge_history).
    pub async fn purge_room(
        &self,
        room_id: &RoomId,
        progress: impl FnMut(u64, u64),
    ) -> Result<Option<Purged>, LogError> {
        let _one_at_a_time = self.refreshing.lock().await;
        self.check_appendable()?;
        let Some(room) = self.room(room_id)?.map(|record| record.number) else { return Ok(None) };
        {
            let mut in_flight = self.appends.writer.lock().await;
            self.settle_in_flight(&mut in_flight).await?;
            let replayed = Replayed::RoomPurged { room_id: room_id.clone(), room };
            self.decide(&LogEntry::RoomPurged { room }, replayed).await?;
        }
        self.carry_out_all(progress).await.map(Some)
    }

    /// Goes on with purges that were decided and are not carried out: after a crash. Calls `progress` with the events done and all
    /// events, of each room.
    ///
    /// # Errors
    ///
    /// As [`purge_history`](Self::purge_history).
    pub async fn resume_purges(&self, progress: impl FnMut(u64, u64)) -> Result<Purged, LogError> {
        let _one_at_a_time = self.refreshing.lock().await;
        self.carry_out_all(progress).await
    }

    /// Returns the rooms of which history is being purged, sorted.
    pub fn rooms_being_purged(&self) -> Vec<RoomId> {
        let known = self.known();
        let rooms = known.rooms.iter().filter(|(_, record)| known.purging.contains_key(&record.number));
        rooms.map(|(room_id, _)| room_id.clone()).collect()
    }

    /// Whether an entry from a sequence number on decides to purge history of a room. Not if the room is not there.
    ///
    /// # Errors
    ///
    /// `Lagging` if the projections are not those of the whole log.
    pub fn is_purged_from(&self, room_id: &RoomId, sequence: u64) -> Result<bool, LogError> {
        let record = self.room(room_id)?;
        Ok(record.and_then(|record| record.purges.last().copied()).is_some_and(|last| last >= sequence))
    }

    /// Whether an entry from a sequence number on, as the store has them now, decides a purge: then entries before that number may be
    /// other ones than they were. Costs reading the entries from there on.
    ///
    /// # Errors
    ///
    /// When the store fails, or an entry is damaged.
    pub async fn has_purges_from(&self, sequence: u64) -> Result<bool, LogError> {
        Ok(!self.purges_from(sequence).await?.is_empty())
    }

    /// Returns the last purge of each room, by its number, that an entry from a sequence number on decides, as the store has them now.
    pub(super) async fn purges_from(&self, sequence: u64) -> Result<BTreeMap<u32, u64>, LogError> {
        let mut purges = BTreeMap::new();
        let mut entries = Entries::from(sequence);
        while let Some((sequence, entry)) = entries.next(self).await? {
            if let LogEntry::HistoryPurged { room, .. } | LogEntry::RoomPurged { room } = entry {
                purges.insert(room, sequence);
            }
        }
        Ok(purges)
    }

    async fn purge_history_before(
        &self,
        room_id: &RoomId,
        before: u64,
        progress: impl FnMut(u64, u64),
    ) -> Result<Option<Purged>, LogError> {
        let _one_at_a_time = self.refreshing.lock().await;
        self.check_appendable()?;
        let Some(record) = self.room(room_id)? else { return Ok(None) };
        let room = record.number;
        if let Some(PurgeRecord::History { before: last, .. }) = self.last_purge(&record).await?
            && before <= last
        {
            return Ok(Some(Purged::default()));
        }
        let oldest = self.store.scan(Scan::prefix(Keyspace::Timelines, key::room(room)).items(1)).await?;
        if oldest.items.first().is_none_or(|(key, _)| key::timeline(room, before) <= *key) {
            return Ok(Some(Purged::default()));
        }
        {
            // Nothing is appended from here to the entry that decides, and what is queued is refused after it.
            let mut in_flight = self.appends.writer.lock().await;
            self.settle_in_flight(&mut in_flight).await?;
            let extremities = self.extremities_before(room, before).await?;
            let entry = LogEntry::HistoryPurged { room, before, extremities: extremities.clone() };
            let decided = self.known().head.next_sequence;
            let purge = PurgeRecord::History { decided, before, extremities };
            self.decide(&entry, Replayed::HistoryPurged { room_id: room_id.clone(), room, purge }).await?;
        }
        self.carry_out_all(progress).await.map(Some)
    }

    /// Appends the entry that decides a purge. The caller holds the lock of who writes.
    async fn decide(&self, entry: &LogEntry, replayed: Replayed) -> Result<(), LogError> {
        let mut head = self.known().head.clone();
        let mut batch = head.guarded_batch()?;
        let sequence = head.take_sequence()?;
        batch.put_record(key::sequence(sequence), entry)?.put_record(key::HEAD, &head)?;
        let change = replayed.put(self, &mut batch, sequence)?;
        commit(&self.store, batch).await?;
        let mut known = self.known();
        known.advance(head);
        change.apply(&mut known);
        Ok(())
    }

    /// Returns the places of the forward extremities that were received before some entry, sorted.
    async fn extremities_before(&self, room: u32, before: u64) -> Result<Vec<u64>, LogError> {
        let extremities: Option<ExtremitiesRecord> = self.store.get_record(key::room(room)).await?;
        let ids = extremities.map(|extremities| extremities.forward_extremities).unwrap_or_default();
        let mut places = self.places(room, ids.iter().map(String::as_str)).await?;
        places.retain(|place| *place < before);
        places.sort_unstable();
        Ok(places)
    }

    /// Returns where in the log events of a room are.
    async fn places(&self, room: u32, event_ids: impl Iterator<Item = &str>) -> Result<Vec<u64>, LogError> {
        let keys: Vec<Bytes> = event_ids.map(|id| [&room.to_be_bytes()[..], id.as_bytes()].concat().into()).collect();
        let mut places = Vec::with_capacity(keys.len());
        for keys in keys.chunks(crate::GET_KEYS_MAX) {
            for (key, value) in keys.iter().zip(self.store.get_many(Keyspace::Events, keys).await?) {
                let missing = || StoreError::corrupt(Keyspace::Events, key, "the place of an event that is there");
                places.push(codec::decode::<EventRecord>(key, &value.ok_or_else(missing)?)?.sequence);
            }
        }
        Ok(places)
    }

    /// Returns what the last purge of a room's history says, `None` if there was none.
    pub(super) async fn last_purge(&self, room: &super::RoomRecord) -> Result<Option<PurgeRecord>, LogError> {
        let Some(decided) = room.purges.last().copied() else { return Ok(None) };
        match self.entries(&[decided]).await?.pop() {
            Some((_, LogEntry::HistoryPurged { before, extremities, .. })) => {
                Ok(Some(PurgeRecord::History { decided, before, extremities }))
            }
            _ => Err(LogError::BadEntry { sequence: decided, problem: "it is no purge, and a room names it as one" }),
        }
    }

    /// Reads what is under way.
    pub(super) async fn read_purges(&self) -> Result<BTreeMap<u32, PurgeRecord>, LogError> {
        let items = self.store.scan_all(Scan::prefix(Keyspace::Meta, key::PURGING)).await?;
        items.iter().map(|(key, value)| Ok((key::purging_room(key)?, codec::decode(key, value)?))).collect()
    }

    /// Carries out all that is under way. The caller holds the lock of maintenance.
    async fn carry_out_all(&self, mut progress: impl FnMut(u64, u64)) -> Result<Purged, LogError> {
        let mut sum = Purged::default();
        let purges = self.read_purges().await?;
        self.known().purging.clone_from(&purges);
        for (room, purge) in purges {
            let fence = Fence { key: key::purging(room), value: codec::encode(&purge)?.into() };
            let purged = match &purge {
                PurgeRecord::History { decided, before, extremities } => {
                    let room_id = self.known().room_of(room).map(|(room_id, record)| (room_id.clone(), record.clone()));
                    let Some((room_id, record)) = room_id else {
                        let problem = "its room was not opened";
                        return Err(LogError::BadEntry { sequence: *decided, problem });
                    };
                    let rules = self.version_of(&room_id, &record)?.rules();
                    let history = History {
                        log: self,
                        room_id: &room_id,
                        rules,
                        room,
                        decided: *decided,
                        before: *before,
                        extremities,
                        fence,
                    };
                    history.purge(&mut progress).await?
                }
                PurgeRecord::Room { opened, purges } => {
                    self.purge_entries(room, *opened, purges, &fence, &mut progress).await?
                }
            };
            self.known().purging.remove(&room);
            sum.events += purged.events;
            sum.log_bytes += purged.log_bytes;
            sum.states += purged.states;
            sum.nodes.kept += purged.nodes.kept;
            sum.nodes.deleted += purged.nodes.deleted;
            sum.nodes.deleted_bytes += purged.nodes.deleted_bytes;
        }
        Ok(sum)
    }

    /// Replaces the entries of a room that was purged as a whole.
    ///
    /// The newest come first, so that what is left can be replayed at any time; with each its key in the timeline goes, which tells
    /// where the others are.
    async fn purge_entries(
        &self,
        room: u32,
        opened: u64,
        purges: &[u64],
        fence: &Fence,
        progress: &mut impl FnMut(u64, u64),
    ) -> Result<Purged, LogError> {
        let mut purged = Purged::default();
        let gone = codec::encode(&LogEntry::Gone { room })?;
        let scan = Scan::prefix(Keyspace::Timelines, key::room(room)).backward().items(PAGE);
        loop {
            // Always from the end: what was done is not there any more.
            let page = self.store.scan(scan.clone()).await?;
            let mut batch = fence.batch();
            batch.durability(Durability::Relaxed);
            let mut keys = Vec::with_capacity(page.items.len());
            for (key, value) in &page.items {
                keys.push(key::sequence(key::timeline_sequence(key)?));
                keys.extend(codec::decode::<TimelineRecord>(key, value)?.placed.map(key::sequence));
            }
            let entries = self.store.get_many(Keyspace::Log, &keys).await?;
            for (key, entry) in keys.into_iter().zip(entries) {
                purged.events += 1;
                purged.log_bytes += entry.map_or(0, |entry| entry.len().saturating_sub(gone.len()) as u64);
                batch.put(Keyspace::Log, key, gone.clone());
            }
            let (Some((last, _)), Some((first, _))) = (page.items.first(), page.items.last()) else { break };
            let end = [&last[..], &[0]].concat();
            batch.delete_range(Keyspace::Timelines, KeyRange::new(first.clone(), end));
            commit(&self.store, batch).await?;
            progress(purged.events, purged.events);
        }
        let mut batch = fence.batch();
        for sequence in purges.iter().copied().chain([opened]) {
            batch.put(Keyspace::Log, key::sequence(sequence), gone.clone());
        }
        batch.delete(Keyspace::Meta, fence.key.clone());
        commit(&self.store, batch).await?;
        Ok(purged)
    }
}

/// What makes sure that a purge is still to be carried out.
struct Fence {
    key: Bytes,
    value: Bytes,
}

impl Fence {
    fn batch(&self) -> Batch {
        let mut batch = Batch::new();
        batch.guard_equals(Keyspace::Meta, self.key.clone(), self.value.clone());
        batch
    }
}

/// A purge of history that is being carried out.
struct History<'a> {
    log: &'a EventLog,
    room_id: &'a RoomId,
    rules: &'static RoomVersionRules,
    room: u32,
    decided: u64,
    before: u64,
    /// Sorted.
    extremities: &'a [u64],
    fence: Fence,
}

impl History<'_> {
    async fn purge(&self, progress: &mut impl FnMut(u64, u64)) -> Result<Purged, LogError> {
        let places = self.places().await?;
        let kept = self.kept(&places).await?;
        let mut purged = Purged::default();
        let total = places.partition_point(|place| *place < self.before) as u64;
        let (mut number, mut scan) = (0_u64, Some(self.timeline(self.before)));
        while let Some(asked) = scan.take() {
            let page = self.log.store.scan(asked.clone()).await?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            let mut batch = self.fence.batch();
            batch.durability(Durability::Relaxed);
            let mut to_purge = Vec::new();
            for (key, value) in &page.items {
                let sequence = key::timeline_sequence(key)?;
                let timeline: TimelineRecord = codec::decode(key, value)?;
                let index = u32::try_from(number).map_err(|_| LogError::Full)?;
                number += 1;
                if self.extremities.binary_search(&sequence).is_ok() {
                    continue;
                }
                let without = TimelineRecord { states: StatesRecord::Purged, ..timeline };
                if timeline.states != without.states {
                    purged.states += 1;
                    batch.put_record(key.clone(), &without)?;
                }
                // It may have kept its content when its states were purged.
                if !kept.contains(index) {
                    to_purge.push((index, sequence, without));
                }
            }
            self.purge_contents(to_purge, &places, &mut batch, &mut purged).await?;
            if !batch.is_empty() {
                commit(&self.log.store, batch).await?;
            }
            progress(number, total);
        }
        let mut collection = Collection::new(self.log, self.room_id, self.room);
        while collection.step().await? {}
        purged.nodes = collection.collected();
        let mut batch = self.fence.batch();
        batch.delete(Keyspace::Meta, self.fence.key.clone());
        commit(&self.log.store, batch).await?;
        Ok(purged)
    }

    /// The room's timeline up to an entry, excluded.
    fn timeline(&self, end: u64) -> Scan {
        let range = KeyRange::new(key::room(self.room), key::timeline(self.room, end));
        Scan::new(Keyspace::Timelines, range).items(PAGE)
    }

    /// Returns where the events are that were there when the purge was decided, by their numbers.
    async fn places(&self) -> Result<Vec<u64>, LogError> {
        let mut places = Vec::new();
        let mut scan = Some(self.timeline(self.decided));
        while let Some(asked) = scan.take() {
            let page = self.log.store.scan(asked.clone()).await?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            for (key, _) in &page.items {
                places.push(key::timeline_sequence(key)?);
            }
        }
        Ok(places)
    }

    /// Returns the numbers of the events that keep their content: those that keep their states, what is in these states, and the
    /// auth chains of all.
    async fn kept(&self, places: &[u64]) -> Result<Numbers, LogError> {
        let mut kept = Numbers::default();
        let mut walk = NodeWalk::new(self.room, u32::MAX);
        let mut missing = None;
        let (mut number, mut scan) = (0_usize, Some(self.timeline(self.decided)));
        while let Some(asked) = scan.take() {
            let page = self.log.store.scan(asked.clone()).await?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            let mut roots = Vec::new();
            for (key, value) in &page.items {
                let sequence = key::timeline_sequence(key)?;
                if sequence >= self.before || self.extremities.binary_search(&sequence).is_ok() {
                    kept.insert(u32::try_from(number).map_err(|_| LogError::Full)?);
                    roots.extend(codec::decode::<TimelineRecord>(key, value)?.states.roots());
                }
                number += 1;
            }
            let on_node = |number, node: Option<&NodeRecord>| match node.map(|node| &node.content) {
                Some(NodeContent::Leaf(entries)) => entries.iter().for_each(|entry| {
                    kept.insert(entry.event.number());
                }),
                // The walk gives leaves whole.
                Some(NodeContent::Change(_) | NodeContent::Branch { .. }) => {}
                None => missing = Some(number),
            };
            walk.visit(self.log, roots, on_node).await?;
        }
        if let Some(number) = missing {
            let source = UnusableNode::Missing(number);
            return Err(LogError::BadSnapshot { room_id: self.room_id.clone(), source });
        }
        // What an event cites has a smaller number, so one pass from the highest down finds the whole chains.
        let end = u32::try_from(places.len()).ok().and_then(EventIndex::from_number).ok_or(LogError::Full)?;
        let facts = KeyRange::new(key::room(self.room), key::event_facts(self.room, end));
        let mut scan = Some(Scan::new(Keyspace::EventFacts, facts).backward().items(PAGE));
        while let Some(asked) = scan.take() {
            let page = self.log.store.scan(asked.clone()).await?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            for (key, value) in &page.items {
                if kept.contains(key::event_facts_number(key)?) {
                    for cited in codec::decode::<EventFactsRecord>(key, value)?.auth_events {
                        kept.insert(cited);
                    }
                }
            }
        }
        Ok(kept)
    }

    /// Replaces the entries of events by what is left of them. Given are number, place and verdict of each.
    async fn purge_contents(
        &self,
        events: Vec<(u32, u64, TimelineRecord)>,
        places: &[u64],
        batch: &mut Batch,
        purged: &mut Purged,
    ) -> Result<(), LogError> {
        let sequences: Vec<u64> = events.iter().map(|(_, sequence, _)| *sequence).collect();
        let mut pdus = Vec::new();
        for ((number, _, verdict), (sequence, entry)) in events.into_iter().zip(self.log.entries(&sequences).await?) {
            match entry {
                // What is left of an event could not tell a state that another server gave.
                LogEntry::Event { place, .. } if !place.follows() => {}
                LogEntry::Event { json, content_hash_matched, authorising_user_signed, .. } => {
                    let pdu = restore(self.rules, &json, authorising_user_signed, content_hash_matched)
                        .map_err(|source| LogError::BadEvent { sequence, source })?;
                    pdus.push((number, sequence, verdict, pdu));
                }
                // It was purged before.
                LogEntry::PurgedEvent(_) => {}
                _ => {
                    let problem = "it is not an event, and a timeline names it";
                    return Err(LogError::BadEntry { sequence, problem });
                }
            }
        }
        let cited = pdus.iter().flat_map(|(_, _, _, pdu)| pdu.event().prev_events.iter().map(EventId::as_str));
        let mut cited = self.log.places(self.room, cited).await?.into_iter();
        let keys: Vec<Bytes> = pdus
            .iter()
            .filter_map(|(number, ..)| Some(key::event_facts(self.room, EventIndex::from_number(*number)?)))
            .collect();
        let facts = self.log.store.get_many(Keyspace::EventFacts, &keys).await?;
        for (((_, sequence, verdict, pdu), key), facts) in pdus.into_iter().zip(&keys).zip(facts) {
            let bad = || LogError::BadProjection { event_id: pdu.event_id().clone(), what: "other edges" };
            let number_of = |place: u64| {
                let number = u32::try_from(places.binary_search(&place).ok()?).ok()?;
                EventIndex::from_number(number)
            };
            let prev_events = cited.by_ref().take(pdu.event().prev_events.len()).map(number_of);
            let prev_events = prev_events.collect::<Option<Vec<_>>>().ok_or_else(bad)?;
            let facts: EventFactsRecord = codec::decode(key, &facts.ok_or_else(bad)?)?;
            if facts.fields.event_id != pdu.event_id().as_str() {
                return Err(bad());
            }
            let auth_events = super::event_facts::indices(facts.auth_events).ok_or_else(bad)?;
            let outcome = verdict.verdict().map(|(outcome, _): (Outcome, _)| outcome).ok_or_else(bad)?;
            let arrival = verdict.arrival.unwrap_or_default().into_arrival();
            let left = PurgedEvent::of(&pdu, outcome, arrival, prev_events, auth_events)
                .map_err(|source| LogError::BadEvent { sequence, source })?;
            let entry = LogEntry::PurgedEvent(Box::new(PurgedEventRecord::of(self.room, &left, &verdict)));
            let entry = codec::encode(&entry)?;
            purged.events += 1;
            purged.log_bytes += pdu.json().len().saturating_sub(entry.len()) as u64;
            batch.put(Keyspace::Log, key::sequence(sequence), entry);
        }
        Ok(())
    }
}
