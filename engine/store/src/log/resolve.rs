//! Resolving the states after some events of a stored room, reading no more than the resolution needs.

use std::collections::BTreeSet;

use bytes::Bytes;
use ravel_core::{
    event::StateKey,
    graph::EventIndex,
    id::{EventId, RoomId},
    resolve::{Progress, StoredStates},
    state::NodeIndex,
};

use super::{
    EventLog, LogError,
    event_facts::EventFactsRecord,
    records::{EventRecord, ExtremitiesRecord, SnapshotNodeRecord, StatesRecord, TimelineRecord, key},
};
use crate::{GET_KEYS_MAX, Record, StoreError};

/// What a resolution of a stored room gave, and what it cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResolution {
    /// What the state after the first of the events has to be changed by, sorted by key; `None` is nothing at the key.
    pub edits: Vec<(StateKey, Option<EventId>)>,
    /// How many records were read.
    pub reads: u64,
    /// In how many look-ups, each of many records at once.
    pub rounds: u64,
}

impl EventLog {
    /// Resolves the states after some events of a room, of which nothing need be in memory. `None` if the log has not got the
    /// room or one of the events.
    ///
    /// Reads the conflicted events, what they cite down to where the states agree, and the snapshot nodes on the way to these, in
    /// rounds: as many as the trees are deep, and as the chains of auth events are long.
    ///
    /// # Errors
    ///
    /// When the store fails, or what it has does not fit together.
    pub async fn resolve_stored(
        &self,
        room_id: &RoomId,
        event_ids: &[EventId],
    ) -> Result<Option<StoredResolution>, LogError> {
        let Some(record) = self.fresh_room(room_id).await? else { return Ok(None) };
        let (number, version) = (record.number, self.version_of(room_id, &record)?);
        let mut reader = Reader { log: self, room_id, room: number, reads: 0, rounds: 0 };
        let Some(roots) = reader.states_after(event_ids).await? else { return Ok(None) };
        // Without conflict nothing has to be known of the room, not even that it has a create event.
        if roots.iter().all(|root| Some(root) == roots.first()) {
            return Ok(Some(StoredResolution { edits: Vec::new(), reads: reader.reads, rounds: reader.rounds }));
        }
        let extremities: Option<ExtremitiesRecord> = reader.one(key::room(number)).await?;
        let create = extremities.and_then(|extremities| extremities.create).and_then(EventIndex::from_number);
        let create = create.ok_or_else(|| self.bad_room(room_id))?;
        let mut states = StoredStates::new(version.rules(), create, &roots);
        let edits = loop {
            match states.resolve() {
                Progress::Done(edits) => break edits,
                Progress::Needs(missing) => {
                    reader.nodes(&mut states, missing.nodes).await?;
                    reader.events(&mut states, missing.events).await?;
                }
            }
        };
        Ok(Some(StoredResolution { edits, reads: reader.reads, rounds: reader.rounds }))
    }

    fn bad_room(&self, room_id: &RoomId) -> LogError {
        LogError::BadRoom { room_id: room_id.clone() }
    }
}

struct Reader<'a> {
    log: &'a EventLog,
    room_id: &'a RoomId,
    room: u32,
    reads: u64,
    rounds: u64,
}

impl Reader<'_> {
    /// Returns the roots of the states after events, `None` if one is not there.
    async fn states_after(&mut self, event_ids: &[EventId]) -> Result<Option<Vec<Option<NodeIndex>>>, LogError> {
        let keys = event_ids.iter().map(|event_id| key::event(self.room, event_id)).collect();
        let Some(places) = self.many::<EventRecord>(keys).await?.into_iter().collect::<Option<Vec<_>>>() else {
            return Ok(None);
        };
        let keys: Vec<Bytes> = places.iter().map(|place| key::timeline(self.room, place.sequence)).collect();
        let mut roots = Vec::with_capacity(keys.len());
        let timelines = self.many::<TimelineRecord>(keys.clone()).await?;
        for ((event_id, key), timeline) in event_ids.iter().zip(&keys).zip(timelines) {
            let timeline = timeline.ok_or_else(|| missing::<TimelineRecord>(key))?;
            match timeline.states {
                StatesRecord::Roots { after, .. } => roots.push(after.and_then(NodeIndex::from_number)),
                StatesRecord::Purged => return Err(LogError::NoState { event_id: event_id.clone() }),
            }
        }
        Ok(Some(roots))
    }

    async fn nodes(&mut self, states: &mut StoredStates, numbers: BTreeSet<NodeIndex>) -> Result<(), LogError> {
        let keys: Vec<Bytes> = numbers.iter().map(|number| key::node(self.room, *number)).collect();
        let records = self.many::<SnapshotNodeRecord>(keys.clone()).await?;
        for ((number, key), record) in numbers.into_iter().zip(&keys).zip(records) {
            let node = record.and_then(|record| record.into_node(number));
            let node = node.ok_or_else(|| missing::<SnapshotNodeRecord>(key))?;
            let bad = |source| LogError::BadSnapshot { room_id: self.room_id.clone(), source };
            states.supply_node(number, node).map_err(bad)?;
        }
        Ok(())
    }

    /// Reads events, and what they cite that will be wanted next.
    async fn events(&mut self, states: &mut StoredStates, mut numbers: BTreeSet<EventIndex>) -> Result<(), LogError> {
        while !numbers.is_empty() {
            let keys: Vec<Bytes> = numbers.iter().map(|number| key::event_facts(self.room, *number)).collect();
            let records = self.many::<EventFactsRecord>(keys.clone()).await?;
            let mut next = BTreeSet::new();
            for ((number, key), record) in numbers.iter().zip(&keys).zip(records) {
                let event = record.and_then(|record| record.into_event(self.room_id));
                let event = event.ok_or_else(|| missing::<EventFactsRecord>(key))?;
                let next_of_event = states.supply_event(*number, &event);
                next.extend(next_of_event.map_err(|_| missing::<EventFactsRecord>(key))?);
            }
            next.retain(|number| !numbers.contains(number));
            numbers = next;
        }
        Ok(())
    }

    async fn one<R: Record>(&mut self, key: Bytes) -> Result<Option<R>, LogError> {
        Ok(self.many(vec![key]).await?.pop().flatten())
    }

    async fn many<R: Record>(&mut self, keys: Vec<Bytes>) -> Result<Vec<Option<R>>, LogError> {
        self.rounds += keys.len().div_ceil(GET_KEYS_MAX) as u64;
        self.reads += keys.len() as u64;
        self.log.records(keys).await
    }
}

fn missing<R: Record>(key: &[u8]) -> StoreError {
    StoreError::corrupt(R::KEYSPACE, key, "a record that another one names, and that fits in with it")
}
