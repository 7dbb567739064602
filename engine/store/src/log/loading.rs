//! Loading a room from its projections.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use ravel_core::{
    event::{Content, Event},
    graph::Missed,
    id::{EventId, RoomId},
    pdu::VerifiedPdu,
    room::{PurgedEvent, Room, RoomError, StoredPosition},
    state::{NodeCache, NodeIndex, StateLoader, StateMap},
};

use super::{
    EventLog, LogError,
    records::{ArrivalRecord, ExtremitiesRecord, LogEntry, RoomRecord, StatesRecord, TimelineRecord, key},
    replay::restore,
    rooms::timeline,
};
use crate::{StoreExt, codec};

/// An event as the log has it.
enum Stored {
    Pdu(VerifiedPdu),
    Purged(PurgedEvent),
}

impl Stored {
    fn event(&self) -> &Arc<Event> {
        match self {
            Self::Pdu(pdu) => pdu.event(),
            Self::Purged(purged) => &purged.event,
        }
    }

    fn event_id(&self) -> &EventId {
        &self.event().event_id
    }
}

/// Looks at a room that is being loaded, and at the event that came last.
pub type Watch<'w> = dyn FnMut(&mut Room, &Event) -> Result<(), RoomError> + Send + 'w;

/// The places that outliers got later, while a room is loaded in the order of its log.
struct Places {
    /// By the entry that gave the place.
    waiting: BTreeMap<u64, (Stored, TimelineRecord)>,
    /// The end of what is loaded.
    position: u64,
    /// Outliers got places after that.
    has_later: bool,
}

impl Places {
    fn until(position: u64) -> Self {
        Self { waiting: BTreeMap::new(), position, has_later: false }
    }

    fn add(&mut self, sequence: u64, stored: Stored, record: TimelineRecord) {
        if sequence < self.position {
            self.waiting.insert(sequence, (stored, record));
        } else {
            self.has_later = true;
        }
    }

    fn take_before(&mut self, sequence: u64) -> Option<(Stored, TimelineRecord)> {
        let first = self.waiting.first_entry().filter(|first| *first.key() < sequence)?;
        Some(first.remove())
    }
}

/// How many events are read at a time.
const TIMELINE_PAGE: usize = 1024;

impl EventLog {
    /// Loads a room with all its events and states, `None` if it is not there.
    ///
    /// Reads the room's timeline page by page and each snapshot node once. Costs time and memory in proportion to the room's
    /// events and the nodes of their states.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn load_room(&self, room_id: &RoomId) -> Result<Option<Room>, LogError> {
        self.load_room_watched(room_id, &mut |_, _| Ok(())).await
    }

    /// Loads a room as [`load_room`](Self::load_room) does, and has `watch` look at each event once it is there, and once it got its
    /// place if it was an outlier before. It may put messages aside: what needs them afterwards gets them back.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together; those of `watch`.
    pub async fn load_room_watched(&self, room_id: &RoomId, watch: &mut Watch<'_>) -> Result<Option<Room>, LogError> {
        let Some(record) = self.fresh_room(room_id).await? else { return Ok(None) };
        self.load_at(room_id, &record, self.len(), watch).await.map(Some)
    }

    /// Loads a room as it was when the log had `position` entries, also while others append; `None` if it had no events yet.
    ///
    /// Costs what [`load_room`](Self::load_room) does, and if the room had events since, the resolution of its current state.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn load_room_at(&self, room_id: &RoomId, position: u64) -> Result<Option<Room>, LogError> {
        let Some(record) = self.fresh_room(room_id).await? else { return Ok(None) };
        let room = self.load_at(room_id, &record, position, &mut |_, _| Ok(())).await?;
        Ok(Some(room).filter(|room| !room.is_empty()))
    }

    /// Loads a room with the events that this log knows of: another process may append to it.
    pub(super) async fn load(&self, room_id: &RoomId, record: &RoomRecord) -> Result<Room, LogError> {
        self.load_at(room_id, record, self.len(), &mut |_, _| Ok(())).await
    }

    async fn load_at(
        &self,
        room_id: &RoomId,
        record: &RoomRecord,
        position: u64,
        watch: &mut Watch<'_>,
    ) -> Result<Room, LogError> {
        let (number, version) = (record.number, self.version_of(room_id, record)?);
        let mut room = Room::new(room_id.clone(), version.rules());
        let mut cache = NodeCache::default();
        let mut scan = Some(timeline(number, 0, position).items(TIMELINE_PAGE));
        let mut nodes_numbered = 0;
        let mut places = Places::until(position);
        while let Some(asked) = scan.take() {
            let page = self.store.scan(asked.clone()).await?;
            scan = page.next.as_ref().map(|cursor| asked.after(cursor));
            nodes_numbered = self
                .restore_page(&mut room, number, &mut cache, page.items, &mut places, watch)
                .await?
                .unwrap_or(nodes_numbered);
        }
        let placed = self.restore_places(&mut room, number, &mut cache, &mut places, position, watch).await?;
        nodes_numbered = nodes_numbered.max(placed.unwrap_or(0));
        let extremities = self.store.get_record::<ExtremitiesRecord>(key::room(number)).await?;
        // Looked at after the record was read: if there is nothing later now, the record is that of the position.
        if places.has_later || self.has_events_from(number, position).await? {
            room.restore_current_state_of_extremities(nodes_numbered, record.purge_count())?;
            return Ok(room);
        }
        let current_state = match extremities {
            Some(extremities) => self.load_state(&room, number, extremities.current_state, &mut cache).await?,
            None => StateMap::new(),
        };
        // With a number that is too low, new nodes would be written over those that are there.
        if cache.highest().is_some_and(|highest| highest.number() >= nodes_numbered) {
            return Err(LogError::BadRoom { room_id: room_id.clone() });
        }
        room.restore_current_state(current_state, nodes_numbered, record.purge_count());
        Ok(room)
    }

    /// Restores the events of a page; returns how many snapshot nodes the room had with the last of them.
    async fn restore_page(
        &self,
        room: &mut Room,
        number: u32,
        cache: &mut NodeCache,
        timeline: Vec<(Bytes, Bytes)>,
        places: &mut Places,
        watch: &mut Watch<'_>,
    ) -> Result<Option<u32>, LogError> {
        let mut nodes_numbered = None;
        let mut sequences = Vec::with_capacity(timeline.len());
        for (key, _) in &timeline {
            sequences.push(key::timeline_sequence(key)?);
        }
        let entries = self.entries(&sequences).await?;
        for ((timeline_key, timeline), (sequence, entry)) in timeline.iter().zip(entries) {
            let bad = |problem| LogError::BadEntry { sequence, problem };
            let stored = match entry {
                LogEntry::Event { json, content_hash_matched, authorising_user_signed, .. } => {
                    let pdu = restore(room.rules(), &json, authorising_user_signed, content_hash_matched);
                    Stored::Pdu(pdu.map_err(|source| LogError::BadEvent { sequence, source })?)
                }
                LogEntry::PurgedEvent(record) => {
                    let event = record.into_event(room.room_id());
                    let (event, ..) = event.ok_or_else(|| bad("what is left of its event is invalid"))?;
                    Stored::Purged(event)
                }
                _ => return Err(bad("it is not an event, and a timeline names it")),
            };
            let record: TimelineRecord = codec::decode(timeline_key, timeline)?;
            let placed = self.restore_places(room, number, cache, places, sequence, watch).await?;
            nodes_numbered = nodes_numbered.max(placed);
            let record = match (record.placed, stored) {
                (None, stored) => {
                    self.restore_event(room, number, cache, &stored, &record, watch).await?;
                    record
                }
                (Some(placed), stored) => {
                    let outlier = record.before_it_was_placed();
                    self.restore_event(room, number, cache, &stored, &outlier, watch).await?;
                    places.add(placed, stored, record);
                    outlier
                }
            };
            nodes_numbered = nodes_numbered.max(Some(record.nodes_numbered));
        }
        Ok(nodes_numbered)
    }

    /// Gives outliers the places that they got before some entry; returns how many snapshot nodes the room had with the last of them.
    async fn restore_places(
        &self,
        room: &mut Room,
        number: u32,
        cache: &mut NodeCache,
        places: &mut Places,
        sequence: u64,
        watch: &mut Watch<'_>,
    ) -> Result<Option<u32>, LogError> {
        let mut nodes_numbered = None;
        while let Some((stored, record)) = places.take_before(sequence) {
            self.restore_event(room, number, cache, &stored, &record, watch).await?;
            nodes_numbered = nodes_numbered.max(Some(record.nodes_numbered));
        }
        Ok(nodes_numbered)
    }

    async fn restore_event(
        &self,
        room: &mut Room,
        number: u32,
        cache: &mut NodeCache,
        stored: &Stored,
        record: &TimelineRecord,
        watch: &mut Watch<'_>,
    ) -> Result<(), LogError> {
        self.put_back_for(room, number, stored).await?;
        let bad = |what| LogError::BadProjection { event_id: stored.event_id().clone(), what };
        let (outcome, reason) = record.verdict().ok_or_else(|| bad("unknown verdict"))?;
        let (before, after) = match record.states {
            StatesRecord::Roots { before, after } => (Some(before), Some(after)),
            StatesRecord::Purged => (None, None),
        };
        let state_before = match before {
            Some(root) => Some(self.load_state(room, number, root, cache).await?),
            None => None,
        };
        let arrival = record.arrival.map(ArrivalRecord::into_arrival);
        let (may_redact_any, in_given_state) = (record.may_redact_any, record.in_given_state);
        let position = StoredPosition { outcome, reason, may_redact_any, state_before, arrival, in_given_state };
        match stored {
            // It was an outlier.
            Stored::Pdu(pdu) if room.has(pdu.event_id()) => room.restore_place(pdu, position)?,
            Stored::Pdu(pdu) => room.restore_event(pdu, position)?,
            Stored::Purged(event) => room.restore_purged(event, position)?,
        }
        if let Some(root) = after {
            let state_after = self.load_state(room, number, root, cache).await?;
            if !room.restore_state_after(stored.event_id(), &state_after) {
                return Err(bad("another state after the event"));
            }
        }
        watch(room, stored.event())?;
        Ok(())
    }

    /// Loads a state, reading the nodes that `cache` lacks in one look-up for each level of the tree and one for leaves that others
    /// are changes of.
    async fn load_state(
        &self,
        room: &Room,
        number: u32,
        root: Option<u32>,
        cache: &mut NodeCache,
    ) -> Result<StateMap, LogError> {
        let bad = |source| LogError::BadSnapshot { room_id: room.room_id().clone(), source };
        let mut loader = StateLoader::new(root.and_then(NodeIndex::from_number), cache);
        while !loader.wanted().is_empty() {
            let records = self.nodes(number, loader.wanted()).await?;
            loader.supply(records, cache).map_err(bad)?;
        }
        loader.finish(room.graph(), cache).map_err(bad)
    }

    /// Puts back what an event of a room builds on, and was put aside by who watches.
    async fn put_back_for(&self, room: &mut Room, number: u32, stored: &Stored) -> Result<(), LogError> {
        if room.graph().aside() == 0 {
            return Ok(());
        }
        let mut missed = Missed::default();
        match stored {
            Stored::Pdu(pdu) => missed.event_ids.extend(room.missing_events(pdu.event())),
            Stored::Purged(purged) => missed.numbers.extend(purged.prev_events.iter().chain(&purged.auth_events)),
        }
        // Whether a redaction may matter is seen by what it redacts.
        if let Content::Redaction(Some(target)) = &stored.event().content {
            missed.event_ids.insert(target.clone());
        }
        self.put_back_of(room, number, &missed).await?;
        room.graph().missed(|missed| *missed = Missed::default());
        Ok(())
    }
}
